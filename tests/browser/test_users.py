"""Users in the browser: one that was added can connect at once, one that was deleted is cut, nothing typed is lost."""

from __future__ import annotations

import re
from datetime import datetime

import yaml
from playwright.sync_api import Page, expect

from gtapp.console.join import qr_svg
from gtapp.wire.join_code import JoinCode
from tests.browser.conftest import OpenPage
from tests.browser.site import Site
from tests.support.http import fetch
from tests.support.nginx import Nginx
from tests.support.processes import Relay

AT_ONCE_S = 1.0
TIME = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d) .*"


def logged_at(relay: Relay, pattern: str, after: int = 0) -> float:
    """When a process has logged such a line, as the line says: however late this process gets to read it."""
    found = relay.wait_for(TIME + pattern, after=after)
    return datetime.fromisoformat(found.group(1)).timestamp()


def test_one_that_is_added_connects_at_once_and_one_that_is_deleted_is_cut(
    site: Site, nginx: Nginx, open_page: OpenPage
) -> None:
    page = open_page()
    site.log_in(page, "server")
    page.get_by_role("link", name="Users").first.click()
    page.get_by_role("link", name="Add user").click()
    page.get_by_label("Id", exact=True).fill("phone")
    before = site.server.mark()
    page.get_by_role("button", name="Add user").click()
    page.wait_for_url("**/users/phone/join")
    expect(page.get_by_text("User phone can connect now.")).to_be_visible()

    secret = page.get_by_role("region", name="Secret").inner_text()
    site.world.hidden(secret)
    code = page.get_by_role("region", name="Join code").inner_text()
    made = JoinCode.parse(code)
    assert (made.id, made.secret, made.remotes) == ("phone", secret, (f"tcp://localhost:{site.addr.number}",))
    check_picture(page, code)

    client = site.world.gt(
        "phone",
        [
            "client",
            "--id",
            "phone",
            "--secret",
            secret,
            "--remote",
            f"tcp://{site.addr}",
            "--local",
            nginx.url,
        ],
    )
    up = logged_at(client, "tunnel 1 to .* is up")
    # What Python takes to start is none of the server's doing.
    ready = max(logged_at(site.server, "reloaded", before), logged_at(client, "runs as process"))
    assert up - ready < AT_ONCE_S
    assert not client.find("no tunnel"), "the first attempt was refused"
    assert fetch(site.addr.address, "phone.localhost").status == 200

    for path in ("/users", "/users/phone"):  # shown where somebody asks for it, and nowhere else
        page.goto(site.consoles["server"] + path)
        assert secret not in page.content()
        assert code not in page.content()
    expect(page.locator("dl.kv").first).to_contain_text("Tunnels")

    before = client.mark()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("Delete user phone? This cuts its tunnels (")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("User phone is deleted: its tunnels are cut.")).to_be_visible()
    client.wait_for("tunnel 1 to .* is down", after=before)
    client.wait_for("no tunnel: unknown id or wrong secret", after=before)
    assert fetch(site.addr.address, "phone.localhost").status == 404
    expect(page.get_by_role("main").get_by_role("link", name="phone", exact=True)).to_have_count(0)
    assert "phone" not in yaml.safe_load(site.server_file.read_text())["users"]
    client.end()


def check_picture(page: Page, code: str) -> None:
    """The QR code is that of the join code, square, and large enough for a telephone."""
    picture = page.get_by_role("img", name="QR code of the join code").locator("svg")
    expect(picture).to_be_visible()
    box = picture.bounding_box()
    assert box is not None
    assert box["width"] == box["height"] >= 150
    drawn = [path.get_attribute("d") for path in picture.locator("path").all()]
    assert drawn == re.findall(r' d="([^"]+)"', qr_svg(code.upper()))


def test_a_bad_value_is_refused_beside_its_field_and_nothing_typed_is_lost(
    site: Site, open_page: OpenPage
) -> None:
    page = open_page()
    site.log_in(page, "server")
    page.goto(site.consoles["server"] + "/users/new")
    page.get_by_text("Set limits of its own").click()
    typed = {
        "id": "tablet",
        "secret": site.world.secret(),
        "speed": "fast",
        "connections": "3",
        "tcpRange": "41010-41019\n41030",
        "hostRegex": "tab(",
        "allowIPs": "127.0.0.0/8\n10.0.0.0/8",
    }
    for name, text in typed.items():
        page.locator(f"[name={name}]").fill(text)
    page.get_by_role("button", name="Add user").click()

    expect(page.locator("[aria-invalid=true]")).to_have_count(2)
    for name in ("speed", "hostRegex"):
        field = page.locator(".field.wrong", has=page.locator(f"[name={name}]"))
        expect(field.locator(".error")).to_be_visible()
        said = field.locator(".error").get_attribute("id")
        assert said
        assert said in str(page.locator(f"[name={name}]").get_attribute("aria-describedby"))
    assert {name: page.locator(f"[name={name}]").input_value() for name in typed} == typed
    assert "tablet" not in yaml.safe_load(site.server_file.read_text())["users"]

    page.locator("[name=speed]").fill("2MiB")
    page.locator("[name=hostRegex]").fill("tab.*")
    page.get_by_role("button", name="Add user").click()
    page.wait_for_url("**/users/tablet/join")
    saved = yaml.safe_load(site.server_file.read_text())["users"]["tablet"]
    assert saved["secret"] == typed["secret"]
    assert saved["connections"] == 3
    assert saved["host"]["regex"] == "tab.*"
    assert len(saved["allowIPs"]) == 2

    # The same of one that is there: what it had stays, and what was typed stays in the form.
    page.goto(site.consoles["server"] + "/users/tablet")
    page.locator("[name=connections]").fill("4")
    page.locator("[name=denyIPs]").fill("192.0.2.7/99")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("[aria-invalid=true]")).to_have_attribute("name", "denyIPs")
    expect(page.locator("[name=denyIPs]")).to_have_value("192.0.2.7/99")
    expect(page.locator("[name=connections]")).to_have_value("4")
    assert yaml.safe_load(site.server_file.read_text())["users"]["tablet"] == saved


def test_an_id_that_is_taken(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "server")
    page.goto(site.consoles["server"] + "/users/new")
    page.get_by_label("Id", exact=True).fill("home")
    page.get_by_role("button", name="Add user").click()
    field = page.locator(".field.wrong")
    expect(field).to_contain_text("There is a user with this id already")
    expect(field.locator("input")).to_have_value("home")
