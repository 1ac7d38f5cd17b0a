"""System pages in a real browser: the log as it grows, actions with what is told meanwhile, downloads, and the end."""

from __future__ import annotations

import csv
import io
import zipfile

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.site import PASSWORD, Site
from tests.support.http import fetch
from tests.support.nginx import Nginx
from tests.support.processes import PATIENCE_S
from tests.support.world import World

pytestmark = pytest.mark.timeout(400)

PATIENCE_MS = PATIENCE_S * 1000


@pytest.fixture
def site(world: World, nginx: Nginx) -> Site:
    world.allow("console")
    return Site(world, nginx)


def lines(page: Page) -> list[str]:
    return page.locator("#log > span").all_inner_texts()


def test_the_log_grows_and_can_be_searched_and_stopped(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "server")
    page.goto(f"{site.consoles['server']}/system/log")
    log = page.locator("#log")
    expect(log).to_contain_text("listening on")
    expect(page.locator("[data-log-state]")).to_have_text("Live")

    second = open_page()
    site.log_in(second, "server")  # somebody else, whose login is a new line
    expect(log.locator("> span", has_text="logged in")).to_have_count(2, timeout=PATIENCE_MS)
    at_end = "log => log.scrollHeight - log.scrollTop - log.clientHeight < 2"
    assert log.evaluate(at_end)

    page.get_by_role("button", name="Pause").click()
    expect(page.locator("[data-log-state]")).to_have_text("Paused")
    before = len(lines(page))
    with page.expect_request(
        "**/api/v1/log?**", timeout=PATIENCE_MS
    ) as asked:  # a filter is applied all the same
        page.get_by_label("With the text").fill("LOGGED IN")
    assert "after" not in asked.value.url
    expect(log.locator("> span")).to_have_count(2, timeout=PATIENCE_MS)
    assert before > 2
    assert page.url.endswith("?search=LOGGED+IN")
    page.get_by_label("With the text").fill("")
    page.get_by_label("At least").select_option("error")
    expect(page.locator("[data-log-empty]")).to_be_visible(timeout=PATIENCE_MS)
    with page.expect_download() as file:
        page.get_by_role("link", name="Download").click()
    assert file.value.suggested_filename == "gt.log"
    page.reload()
    expect(page.get_by_label("At least")).to_have_value("error")


def test_the_log_without_scripts(site: Site, open_page: OpenPage) -> None:
    page = open_page(script=False)
    site.log_in(page, "server")
    page.goto(f"{site.consoles['server']}/system/log")
    page.get_by_label("With the text").fill("listening on")
    page.get_by_role("button", name="Show").click()
    found = lines(page)
    assert found
    assert all("listening on" in line for line in found)


@pytest.mark.parametrize("script", [True, False])
def test_a_restart_tells_what_it_does_and_cuts_nobody(site: Site, open_page: OpenPage, script: bool) -> None:
    page = open_page(script=script)
    site.log_in(page, "server")
    page.goto(f"{site.consoles['server']}/system")
    expect(page.locator("#processes")).to_contain_text("generation 1")
    page.get_by_role("button", name="Restart", exact=True).click()
    if script:
        expect(page.get_by_role("dialog")).to_contain_text("no visitor is cut")
        page.get_by_role("button", name="Go on").click()
    expect(page.locator(".outcome")).to_contain_text("New workers have taken over.", timeout=PATIENCE_MS)
    expect(page.locator(".told")).to_contain_text("new worker")
    expect(page.get_by_text("At work…")).to_be_hidden()
    site.visit()
    page.get_by_role("link", name="Back to the overview").click()
    expect(page.locator("#processes")).to_contain_text("generation 2")
    page.goto(f"{site.consoles['server']}/audit")
    expect(page.locator("#audit")).to_contain_text("restarted")


def test_a_reload_of_a_file_that_is_broken(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "server")
    site.server_file.write_text(site.server_file.read_text().replace("office:", "office"))
    site.world.allow("server.yml", "not reloaded")
    page.goto(f"{site.consoles['server']}/system")
    page.get_by_role("button", name="Reload").click()
    expect(page.get_by_role("alert")).to_contain_text("not reloaded, everything stays as it was")
    site.visit()


def test_the_end(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "client")
    page.goto(f"{site.consoles['client']}/system")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("dialog")).to_contain_text("this console ends as well")
    page.get_by_role("button", name="Cancel").click()
    assert site.client.process.poll() is None
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".outcome")).to_contain_text("this console with it", timeout=PATIENCE_MS)
    assert site.client.process.wait(PATIENCE_S) == 0
    assert fetch(site.addr.address, "home.localhost").status in (404, 503)


def test_downloads(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "server")
    page.goto(f"{site.consoles['server']}/system")
    with page.expect_download() as file:
        page.get_by_role("link", name="Download").click()
    with zipfile.ZipFile(file.value.path()) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert "gt-diagnostics/metrics.json" in texts
    for text in texts.values():
        assert site.secret not in text
        assert PASSWORD not in text
    page.goto(f"{site.consoles['server']}/audit")
    with page.expect_download() as file:
        page.get_by_role("link", name="Download as CSV").click()
    rows = list(csv.reader(io.StringIO(file.value.path().read_text("utf-8-sig"))))
    assert [row[4] for row in rows[1:]] == ["diagnostics downloaded", "logged in"]
