"""A browser without JavaScript: pages are those of the moment when they were loaded, and everything can be done."""

from __future__ import annotations

import contextlib

import yaml
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.site import HOST, Site
from tests.support.http import Visitor
from tests.support.processes import eventually


def test_log_in_add_a_user_and_look(site: Site, open_page: OpenPage) -> None:
    page = open_page(script=False)
    site.log_in(page, "server")
    expect(page.locator("noscript p")).to_be_visible()
    connections = page.locator("dl.stats > div", has=page.get_by_text("Connections now", exact=True)).locator(
        "dd"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            visitor = stack.enter_context(Visitor(site.addr.address))
            visitor.request(HOST)
            assert visitor.response().status == 200

        def shown() -> bool:
            page.reload()
            return connections.inner_text() == "4"

        eventually(shown, "the dashboard shows the visitors when it is loaded again")
        expect(page.locator("tr[data-name=home]").first).to_contain_text("home")

    page.get_by_role("link", name="Users").click()
    page.get_by_role("link", name="Add user").click()
    page.get_by_label("Id", exact=True).fill("plain")
    page.get_by_text("Set limits of its own").click()
    page.locator("[name=speed]").fill("2MiB")
    page.get_by_role("main").get_by_role("button", name="Add user").click()
    page.wait_for_url("**/users/plain/join")
    secret = site.world.hidden(page.get_by_role("region", name="Secret").inner_text())
    saved = yaml.safe_load(site.server_file.read_text())["users"]["plain"]
    assert saved["secret"] == secret
    expect(page.get_by_role("img", name="QR code of the join code")).to_be_visible()

    page.goto(site.consoles["server"] + "/settings/relaying")
    page.locator("[name=timeout]").fill("soon")
    page.get_by_role("button", name="Review changes").click()
    expect(page.locator(".field.wrong .error")).to_be_visible()
    page.locator("[name=timeout]").fill("3m")
    page.get_by_role("button", name="Review changes").click()
    page.get_by_role("button", name="Save and apply").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Saved and in force")
