"""What moves by itself: dashboard, connections and log; and what is shown when the relay or the console is gone."""

from __future__ import annotations

import contextlib
import re
import statistics
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import OpenPage
from tests.browser.site import HOST, Site
from tests.support.http import Ended, Visitor, fetch
from tests.support.nginx import Nginx
from tests.support.processes import PATIENCE_S, eventually
from tests.support.world import World

LOG_S = 2.0  # from a line to its place on the page
CHINESE = re.compile(r"[\u4e00-\u9fff]")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

# The page keeps its charts to itself: whoever draws the next time is remembered.
KEEP_BOARD = """() => {
    const draw = charts.Board.prototype.draw;
    charts.Board.prototype.draw = function () {
        window.board = this;
        return draw.call(this);
    };
}"""
KEEP_STATES = """() => {
    const place = document.querySelector("[data-connection]");
    window.states = [];
    new MutationObserver(() => states.push(place.textContent)).observe(place, {childList: true});
}"""
CHARTS = """() => Object.fromEntries((window.board?.charts ?? []).map(chart => [
    chart.fields[0],
    {
        times: chart.uplot.data[0],
        values: chart.uplot.data.slice(1),
        span: chart.uplot.scales.x.max - chart.uplot.scales.x.min,
    },
]))"""


def tile(page: Page, title: str) -> str:
    """The number of a tile of the dashboard."""
    return page.locator("dl.stats > div", has=page.get_by_text(title, exact=True)).locator("dd").inner_text()


def bytes_of(words: str) -> float:
    """Of "1.5 MiB", or "1.5 MiB/s"."""
    found = re.match(r"([\d.,]+) ([KMG]?i?B)", words)
    assert found, words
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def charts(page: Page) -> dict[str, Any]:
    """What the charts of the dashboard show, each by its first field."""
    drawn: dict[str, Any] = eventually(lambda: page.evaluate(CHARTS), "the charts are drawn")
    return drawn


@contextlib.contextmanager
def visitors(site: Site, count: int) -> Iterator[None]:
    """So many connections that stay open."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            visitor = stack.enter_context(Visitor(site.addr.address))
            visitor.request(HOST)
            assert visitor.response().status == 200
        yield


@contextlib.contextmanager
def coming(site: Site) -> Iterator[None]:
    """Visitors who come, look and go, one after the other."""
    over = threading.Event()

    def come() -> None:
        while not over.wait(0.05):
            fetch(site.addr.address, HOST)

    thread = threading.Thread(target=come)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE_S)


# the dashboard


def test_numbers_and_charts_move_while_visitors_come(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "server")
    expect(page.locator("[data-connection]")).to_have_text("Live")
    page.evaluate(KEEP_BOARD)
    began = charts(page)["streams"]["times"][-1]
    eventually(
        lambda: tile(page, "Clients") == "1" and int(tile(page, "Tunnels")) >= 1, "the client is counted"
    )
    with visitors(site, 7):
        eventually(lambda: tile(page, "Connections now") == "7", "the tile shows the visitors")
        now = eventually(
            lambda: charts(page)["streams"]["values"][0][-1] == 7 and charts(page), "the chart, too"
        )
        expect(page.locator("tr[data-name=home]").first).to_contain_text("7")
    assert now["streams"]["times"][-1] > began
    eventually(lambda: tile(page, "Connections now") == "0", "they have gone")

    with coming(site):
        eventually(lambda: bytes_of(tile(page, "Bytes out")) > 1024, "the tile shows what goes out")
        eventually(lambda: float(tile(page, "New connections").removesuffix("/s")) >= 1, "and who comes")
        busy = eventually(
            lambda: charts(page)["bytes_in"]["values"][1][-1] and charts(page), "and so does the chart"
        )
        expect(page.locator("[data-some=users] tr[data-name=home]")).to_be_visible()
    assert busy["bytes_in"]["span"] == 900
    assert busy["bytes_in"]["times"] == sorted(set(busy["bytes_in"]["times"]))
    assert 7 in busy["streams"]["values"][0], "what was is kept"

    site.visit(1)  # one of them is for a service that refuses
    refused = page.locator("[data-problem=visitors_refused_502]")
    expect(refused).to_be_visible()
    before = int(refused.locator("td").last.inner_text())
    site.visit(3)
    eventually(
        lambda: int(refused.locator("td").last.inner_text()) >= before + 3, "what went wrong is counted"
    )

    page.get_by_role("button", name="24 hours").click()
    eventually(lambda: charts(page)["streams"]["span"] == 86400, "the charts show a day")


def test_pause_holds_the_numbers(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "server")
    expect(page.locator("[data-connection]")).to_have_text("Live")
    page.evaluate(KEEP_BOARD)
    charts(page)
    page.get_by_role("button", name="Pause").click()
    began = charts(page)["streams"]["times"][-1]
    other = open_page()
    site.log_in(other, "server")
    with visitors(site, 3):
        eventually(lambda: tile(other, "Connections now") == "3", "another page shows them")
        assert tile(page, "Connections now") == "0"
    assert charts(page)["streams"]["times"][-1] == began
    page.get_by_role("button", name="Pause").click()
    eventually(lambda: charts(page)["streams"]["times"][-1] > began, "it goes on")


def test_it_comes_back_when_the_console_was_killed(site: Site, open_page: OpenPage) -> None:
    open_page.allow("/live", "/live/now")  # which cannot be reached for a moment
    page = open_page()
    site.log_in(page, "server")
    expect(page.locator("[data-connection]")).to_have_text("Live")
    page.evaluate(KEEP_BOARD)
    page.evaluate(KEEP_STATES)
    before = charts(page)["streams"]["times"][-1]
    (console,) = site.server.consoles
    site.world.allow(rf"the console \(process {console.pid}\) has ended by SIGKILL")
    console.kill()
    states = eventually(
        lambda: "Live" in page.evaluate("states") and page.evaluate("states"), "it is live again"
    )
    assert states[0] == "Connecting…"
    with visitors(site, 2):
        eventually(lambda: tile(page, "Connections now") == "2", "numbers come again")
    times = charts(page)["streams"]["times"]
    assert times[-1] > before
    assert times == sorted(set(times))
    assert [each.pid for each in site.server.consoles] != [console.pid]


# connections


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_download_is_shown_and_can_be_cut(site: Site, nginx: Nginx, open_page: OpenPage, role: str) -> None:
    nginx.file("trickle/long", 300 << 20, random=False)
    page = open_page()
    site.log_in(page, role)
    page.get_by_role("link", name="Connections").click()
    expect(page.get_by_text("No visitor is connected")).to_be_visible()
    with Visitor(site.addr.address, source="127.0.0.3") as visitor:
        address = "{}:{}".format(*visitor.socket.getsockname())
        visitor.request(HOST, "/trickle/long")
        ended: list[str] = []
        reader = threading.Thread(target=lambda: ended.append(read_on(visitor)))
        reader.start()
        row = page.locator("#connections tbody tr", has_text=address)
        expect(row).to_contain_text("home" if role == "server" else nginx.url.partition("//")[2])
        number = 5 if role == "server" else 4
        out = row.locator("td").nth(number)
        first = bytes_of(out.inner_text())
        eventually(lambda: bytes_of(out.inner_text()) > first + (1 << 20), "its bytes grow")
        row.get_by_role("button", name=f"Cut the connection of {address}").click()
        expect(page.get_by_role("dialog")).to_contain_text(address)
        page.get_by_role("button", name="Cancel").click()
        assert reader.is_alive()
        row.get_by_role("button", name=f"Cut the connection of {address}").click()
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_text("The connection is cut.")).to_be_visible()
        reader.join(PATIENCE_S)
        assert ended in (["reset"], ["closed"])
    expect(row).to_have_count(0)


def read_on(visitor: Visitor) -> str:
    """Until it ends: how."""
    try:
        while True:
            visitor.receive(1 << 18)
    except Ended as end:
        return end.how
    except TimeoutError:
        return "silence"


# what has stopped


def test_a_client_that_has_gone(site: Site, nginx: Nginx, open_page: OpenPage) -> None:
    page, dashboard = open_page(), open_page()
    for each in (page, dashboard):
        site.log_in(each, "server")
    page.goto(site.consoles["server"] + "/clients/office")
    state = page.locator("dl.stats .status")
    expect(state).to_have_text("away")
    client = site.world.gt(
        "office",
        ["client", "--id", "office", "--secret", site.office_secret, "--remote", f"tcp://{site.addr}",
         "--local", nginx.url],
    )  # fmt: skip
    client.wait_for("is up")
    expect(state).to_have_text("connected")
    expect(page.get_by_role("main")).to_contain_text(f"http://office.localhost:{site.addr.number}/")
    eventually(lambda: tile(dashboard, "Clients") == "2", "the dashboard counts it")
    client.end()
    expect(state).to_have_text("away")
    expect(page.get_by_role("main")).to_contain_text("Not connected")
    eventually(lambda: tile(dashboard, "Clients") == "1", "the dashboard counts it no more")


def test_a_relay_that_stands_still(world: World, nginx: Nginx, open_page: OpenPage) -> None:
    site = Site(world, nginx)
    pages = [open_page() for _ in range(2)]
    for page in pages:
        site.log_in(page, "server")
    dashboard, clients = pages
    clients.goto(site.consoles["server"] + "/clients")
    expect(clients.get_by_role("main")).to_contain_text(re.compile(r"\d tunnel"))
    (worker,) = site.server.workers
    world.allow(
        rf"worker 1 \(process {worker.pid}\) has"
    )  # not been heard of, ended: should this take so long
    worker.suspend()
    try:
        told = dashboard.locator("[data-warning=relay]")
        expect(told).to_be_visible()
        expect(told).to_contain_text("The relay does not answer. no worker of it answers")
        assert tile(dashboard, "Connections now") == "–"
        expect(dashboard.locator("[data-connection]")).to_have_text("Live")  # the console is there
        expect(clients.get_by_role("alert")).to_contain_text("The relay does not answer.")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.resume()
    expect(told).to_be_hidden()
    eventually(lambda: tile(dashboard, "Connections now") == "0", "numbers come again")
    expect(clients.get_by_role("alert")).to_have_count(0)
    eventually(lambda: fetch(site.addr.address, HOST).status == 200, "visitors are served again")

    # It has ended: the client says that its server is gone.
    near = open_page()
    site.log_in(near, "client")
    near.goto(site.consoles["client"] + "/tunnels")
    state = near.locator("dl.stats .status")
    expect(state).to_have_text("connected")
    for page in pages:
        page.goto("about:blank")
    site.server.end()
    expect(state).to_have_text("not connected")
    expect(near.get_by_role("alert")).to_contain_text("No tunnel: ")


# system and log


def test_reload_tells_what_it_does_and_what_came_of_it(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "server")
    page.get_by_role("link", name="System").click()
    expect(page.locator("#processes")).to_contain_text(f"process {site.server.workers[0].pid}")
    page.get_by_role("main").get_by_role("button", name="Reload").click()
    expect(page.locator(".told li")).to_have_text(f"{site.server_file}: nothing has changed")
    expect(page.locator(".outcome")).to_contain_text(
        "GT runs with the configuration as it is in the file now."
    )
    expect(page.locator(".working")).to_be_hidden()


def test_a_new_line_is_on_the_page_of_the_log_at_once(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "client")
    page.goto(site.consoles["client"] + "/system/log")
    log = page.get_by_role("region", name="Log")
    expect(log).to_contain_text("tunnel 1 to")
    page.evaluate(
        """() => {
        window.late = [];
        new MutationObserver(changes => changes.forEach(change => change.addedNodes.forEach(line => {
            if (/ reloaded$/.test(line.textContent))
                window.late.push(Date.now() - new Date(line.querySelector("time").dateTime));
        }))).observe(document.getElementById("log"), {childList: true});
    }"""
    )
    for count in range(1, 6):
        assert site.client.ask("reload")["ok"]
        late = eventually(
            lambda count=count: len(page.evaluate("late")) >= count and page.evaluate("late"), "it is there"
        )
    assert statistics.median(late) < LOG_S * 1000, late

    levels = log.locator("b")
    page.get_by_label("At least").select_option("warn")
    expect(log.locator("> *").first).to_contain_text("Connection refused")
    assert {each.strip() for each in levels.all_inner_texts()} == {"WARN"}
    assert page.url.endswith("?level=warn")
    assert site.client.ask("reload")["ok"]
    page.get_by_label("At least").select_option("")
    expect(log).to_contain_text("reloaded")
    page.get_by_label("With the text").fill("is published as host prefix away")
    expect(log.locator("> *")).to_have_count(1)
    expect(log).to_contain_text("http://127.0.0.1:9")
    page.get_by_label("With the text").fill("nobody has ever said this")
    expect(page.get_by_text("No line yet that fits.")).to_be_visible()


def test_a_filter_is_applied_however_slow_the_console_is(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "client")
    page.goto(site.consoles["client"] + "/system/log")
    lines = page.get_by_role("region", name="Log").locator("> *")
    late: list[Route] = []

    def hold(route: Route) -> None:
        """The first question with that filter is not answered before the next one is."""
        if "search=" in route.request.url and not late:
            late.append(route)
        else:
            route.continue_()

    page.route("**/api/v1/log?*", hold)
    with page.expect_response(lambda answer: "search=" in answer.url):
        page.get_by_label("With the text").fill("is published as host prefix away")
    expect(lines).to_have_count(1)
    late[0].continue_()
    with page.expect_response(lambda answer: "search=" in answer.url and "after=" in answer.url):
        pass
    expect(lines).to_have_count(1)


# languages, and the keyboard alone


def test_languages(site: Site, open_page: OpenPage) -> None:
    page = open_page()
    site.log_in(page, "server")
    expect(page.get_by_role("heading", level=1)).to_have_text("Dashboard")
    page.get_by_role("link", name="中文").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(CHINESE)
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    page.goto(site.consoles["server"] + "/users")
    expect(page.get_by_role("heading", level=1)).to_have_text(CHINESE)
    page.get_by_role("link", name="English").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Users")
    assert page.url == site.consoles["server"] + "/users"


@pytest.mark.parametrize("width", [1440, 375])
def test_the_keyboard_alone(site: Site, open_page: OpenPage, width: int) -> None:
    page = open_page(width)
    page.goto(site.consoles["server"] + "/login")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("root")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type("correct horse battery")
    page.keyboard.press("Enter")
    page.wait_for_url(site.consoles["server"] + "/")
    if width < 800:
        expect(page.get_by_role("link", name="Users")).to_be_hidden()
        tab_to(page, "Menu")
        page.keyboard.press("Enter")
    tab_to(page, "Users")
    page.keyboard.press("Enter")
    page.wait_for_url("**/users")

    tab_to(page, "Skip to the content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    tab_to(page, "Add user")
    page.keyboard.press("Enter")
    page.wait_for_url("**/users/new")
    expect(page.get_by_label("Id", exact=True)).to_be_focused()

    # A question can be answered, and Escape is no.
    page.goto(site.consoles["server"] + "/system")
    tab_to(page, "Skip to the content")
    page.keyboard.press("Enter")
    tab_to(page, "Stop")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Stop GT?")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("main").get_by_role("button", name="Stop")).to_be_focused()
    assert site.server.running


FOCUSED = """() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    return {text: one.textContent.trim(), seen: one.checkVisibility() && style.outlineStyle !== "none"};
}"""


def tab_to(page: Page, text: str, most: int = 60) -> None:
    """Presses Tab until what says this is focused; whatever is on the way shows that it is."""
    for _ in range(most):
        page.keyboard.press("Tab")
        now = page.evaluate(FOCUSED)
        assert now["seen"], f"nobody sees that “{now['text'][:80]}” is focused"
        if now["text"] == text:
            return
    raise AssertionError(f"“{text}” is not reached in {most} steps")
