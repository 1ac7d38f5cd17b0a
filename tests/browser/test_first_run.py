"""The first run of a server and then of a client, as a new user clicks through it, until a page comes through."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.support.http import fetch
from tests.support.nginx import Nginx
from tests.support.ports import Port
from tests.support.processes import Relay
from tests.support.world import World

PASSWORD = "correct horse battery"
MINUTES_2 = 120.0  # for the wizard, as people are told


def start(world: World, role: str, console: Port) -> tuple[Relay, str]:
    """The appliance, not set up; and the URL that it shows."""
    data = world.directory / role
    relay = world.gt(role, [role], env={"GT_DATA_DIR": str(data), "GT_WEB_ADDR": str(console)})
    return relay, relay.wait_for(r"(http://\S+/setup#\S+)").group(1)


def go_on(page: Page) -> None:
    page.get_by_role("main").get_by_role("button", name=re.compile("Continue|Connect|start")).last.click()


def begin(page: Page, url: str) -> None:
    """Language, token and the administrator's account."""
    page.goto(url)
    page.get_by_role("button", name="English").click()
    page.get_by_label("User name").fill("root")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    go_on(page)


def at(page: Page, step: str) -> None:
    page.wait_for_url(f"**/setup/step/{step}")


@pytest.mark.timeout(240)
def test_server_and_then_client(world: World, nginx: Nginx, open_page: OpenPage) -> None:
    consoles, addr = (world.port(), world.port()), world.port()
    server, url = start(world, "server", consoles[0])
    page = open_page()
    began = time.monotonic()
    begin(page, url)
    at(page, "domain")
    page.locator("#kind-try").check()
    go_on(page)
    at(page, "listen")
    page.locator("[name=addr]").fill(str(addr))
    page.locator("[name=tls]").fill("")
    go_on(page)
    if "certificate" in page.url:
        go_on(page)
    at(page, "client")
    page.locator("[name=id]").fill("home")
    world.hidden(page.locator("[name=secret]").input_value())
    go_on(page)
    at(page, "summary")
    page.get_by_text("The file that will be written").click()
    expect(page.get_by_role("main")).to_contain_text("users:")
    go_on(page)
    page.wait_for_url("**/welcome*")
    assert time.monotonic() - began < MINUTES_2
    expect(page.get_by_role("main")).to_contain_text("gt.py client")
    code = page.get_by_role("main").locator("text=/gt:\\/\\/\\S+/").first.inner_text().strip()
    assert page.get_by_role("main").locator("img, svg").count()
    assert fetch(consoles[0].address, str(consoles[0]), "/setup").status == 404
    file = world.directory / "server" / "server.yml"
    options = yaml.safe_load(file.read_text())["options"]
    assert options["password"].startswith("$argon2id$")
    assert file.stat().st_mode & 0o777 == 0o600

    client, url = start(world, "client", consoles[1])
    other = open_page()
    began = time.monotonic()
    begin(other, url)
    at(other, "server")
    other.locator("[name=code]").fill(code)
    go_on(other)
    at(other, "services")
    for box in other.locator("input[type=checkbox][name^=use-]").all():
        box.uncheck()
    if not other.locator("input[name^=local-]:visible").count():
        other.get_by_role("button", name=re.compile("Add|another", re.I)).click()
    other.locator("input[name^=local-]:visible").last.fill(nginx.url)
    go_on(other)
    at(other, "summary")
    go_on(other)
    other.wait_for_url("**/welcome*")
    assert time.monotonic() - began < MINUTES_2
    link = other.get_by_role("main").locator("a[href*='.localhost:']").first
    expect(link).to_be_visible()
    address = link.get_attribute("href")
    assert address
    visit = open_page()
    answer = visit.goto(address)
    assert answer is not None
    assert answer.status == 200

    expect(page.get_by_role("main")).to_contain_text("home")  # the server has seen its first client
    for each in (client, server):
        each.end()


def test_a_wrong_token_and_what_is_wrong_in_a_step(world: World, open_page: OpenPage) -> None:
    console = world.port()
    _, url = start(world, "server", console)
    page = open_page()
    page.goto(url.partition("#")[0])
    page.get_by_role("button", name="English").click()
    page.get_by_label("Setup token").fill("aaaa-bbbb")
    go_on(page)
    expect(page.get_by_text("This is not the token")).to_be_visible()
    kept = Path(world.directory, "server", "server.state", "setup-token")
    page.get_by_label("Setup token").fill(kept.read_text())
    go_on(page)
    page.get_by_label("Password", exact=True).fill("short")
    page.get_by_label("Password again").fill("other")
    go_on(page)
    assert page.locator("[aria-invalid=true]").count() >= 1
    # Another browser does not get in with the same token.
    second = open_page()
    second.goto(url)
    second.get_by_role("button", name="English").click()
    expect(second.get_by_label("Setup token")).to_be_visible()
