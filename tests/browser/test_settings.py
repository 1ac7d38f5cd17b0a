"""Settings in the browser: reviewed before they are saved, refused beside their field, never over somebody else's."""

from __future__ import annotations

import contextlib
import hashlib
import re

import pytest
import yaml
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.site import Site


@pytest.fixture
def page(site: Site, open_page: OpenPage) -> Page:
    """One that is logged in to the server's console."""
    page = open_page()
    site.log_in(page, "server")
    return page


def open_section(page: Page, site: Site, section: str) -> None:
    page.goto(f"{site.consoles['server']}/settings/{section}")


def press(page: Page, button: str) -> int:
    """The status of the page that comes then."""
    with page.expect_response(lambda answer: answer.request.is_navigation_request()) as found:
        page.get_by_role("main").get_by_role("button", name=button, exact=True).click()
    page.wait_for_load_state()
    return int(found.value.status)


def apply(page: Page) -> None:
    assert press(page, "Review changes") == 200
    assert press(page, "Save and apply") == 200
    expect(page.get_by_role("heading", level=1)).to_have_text("Saved and in force")


def field(page: Page, name: str) -> Locator:
    return page.locator(".field", has=page.locator(f"[name={name}]"))


def options(site: Site) -> dict[str, object]:
    found = yaml.safe_load(site.server_file.read_text())["options"]
    assert isinstance(found, dict)
    return found


def edit_by_hand(site: Site, **values: object) -> str:
    """As somebody with an editor does; what the file says then."""
    said = yaml.safe_load(site.server_file.read_text())
    said["options"] |= values
    text = "# edited by hand\n" + yaml.safe_dump(said, sort_keys=False)
    site.server_file.write_text(text)
    return text


def runs_with_the_file(site: Site) -> bool:
    """Whether the running server has taken over what the file says now."""
    digest = hashlib.sha256(site.server_file.read_bytes()).hexdigest()
    return bool(site.server.ask("status")["units"][0]["digest"] == digest)


def test_a_change_is_reviewed_applied_and_told(site: Site, page: Page) -> None:
    open_section(page, site, "tunnels")
    expect(page.locator("[data-changed]")).to_have_text("Nothing changed yet")
    page.locator("[name=maxHandShakeOptions]").fill("700")
    expect(page.locator("[data-changed]")).to_have_text("1 change")
    before = site.server_file.read_text()
    assert press(page, "Review changes") == 200
    assert site.server_file.read_text() == before, "saved before anybody has agreed"
    added, removed = page.locator(".diff ins"), page.locator(".diff del")
    expect(added).to_have_text(re.compile(r"\+ +maxHandShakeOptions: 700"))
    expect(removed).to_have_count(0)
    expect(page.locator(".takes")).to_contain_text("at once")
    expect(page.locator(".takes")).to_contain_text("600 → 700")
    assert press(page, "Save and apply") == 200
    expect(page.get_by_role("heading", level=1)).to_have_text("Saved and in force")
    expect(page.locator(".happened")).to_contain_text(f"{site.server_file}: maxHandShakeOptions: live")
    assert options(site)["maxHandShakeOptions"] == 700
    assert runs_with_the_file(site)


def test_what_is_wrong_is_said_as_one_types(site: Site, page: Page) -> None:
    open_section(page, site, "relaying")
    place = field(page, "timeout")
    place.locator("input").press_sequentially("x")
    expect(place.locator(".error")).to_contain_text("30s")  # how it is written
    expect(place.locator("input")).to_have_attribute("aria-invalid", "true")
    assert page.url.endswith("/settings/relaying")
    place.locator("input").fill("3m")
    expect(place.locator(".error")).to_have_count(0)
    expect(place.locator("input")).not_to_have_attribute("aria-invalid", "true")

    # Whoever sends it all the same gets it back with all that was typed.
    page.locator("[name=timeout]").fill("soon")
    before = site.server_file.read_text()
    assert press(page, "Review changes") == 422
    expect(field(page, "timeout").locator(".error")).to_be_visible()
    expect(page.locator("[name=timeout]")).to_have_value("soon")
    assert site.server_file.read_text() == before


def test_the_file_was_edited_by_hand_meanwhile(site: Site, page: Page) -> None:
    edit_by_hand(site, timeout="2m")
    open_section(page, site, "relaying")
    page.locator("[name=timeout]").fill("3m")
    edit_by_hand(site, timeout="4m", timeoutOnUnidirectionalTraffic=True)
    assert press(page, "Review changes") == 409
    expect(page.get_by_role("heading", level=1)).to_have_text("The file has changed meanwhile")
    both = page.locator(".three", has=page.get_by_role("heading", name="timeout changed by both"))
    assert [each.inner_text() for each in both.locator("pre").all()] == ["2m", "3m", "4m"]
    theirs = page.locator(".three", has=page.get_by_role("heading", name="timeoutOnUnidirectionalTraffic"))
    expect(theirs).to_contain_text("changed in the file")
    assert options(site)["timeout"] == "4m"

    # Mine over theirs: what they have changed besides stays.
    assert press(page, "Make my changes in the new file") == 200
    expect(page.locator(".diff del")).to_have_text(re.compile(r"timeout: 4m"))
    expect(page.locator(".diff ins")).to_have_text(re.compile(r"timeout: 3m"))
    assert press(page, "Save and apply") == 200
    expect(page.get_by_role("heading", level=1)).to_have_text("Saved and in force")
    assert options(site)["timeout"] == "3m"
    assert options(site)["timeoutOnUnidirectionalTraffic"] is True
    assert site.server_file.read_text().startswith("# edited by hand\n")
    assert runs_with_the_file(site)

    # Theirs, after the review already.
    open_section(page, site, "relaying")
    page.locator("[name=timeout]").fill("5m")
    assert press(page, "Review changes") == 200
    text = edit_by_hand(site, timeout="6m")
    assert press(page, "Save and apply") == 409
    page.get_by_role("link", name="Start again from the file").click()
    expect(page.locator("[name=timeout]")).to_have_value("6m")
    assert site.server_file.read_text() == text
    assert not runs_with_the_file(site)
    expect(page.get_by_text("The file has been edited by hand")).to_be_visible()
    assert press(page, "Put it in force") == 200
    assert runs_with_the_file(site)


def test_the_editor_marks_the_line_of_a_mistake(site: Site, page: Page) -> None:
    page.goto(site.consoles["server"] + "/yaml")
    text, problems = page.locator("textarea[name=text]"), page.locator("#problems")
    right = text.input_value()
    assert right == site.server_file.read_text()
    lines = right.splitlines()
    at = next(number for number, line in enumerate(lines) if "connections: 5" in line)
    wrong = "\n".join([*lines[:at], lines[at].replace("5", "five"), *lines[at + 1 :], ""])
    text.fill(wrong)
    marked = page.locator(".editor-numbers .wrong")
    expect(marked).to_have_text(str(at + 1))
    expect(problems).to_contain_text("1 problem")
    expect(problems.locator("li")).to_contain_text("connections")
    problems.get_by_role("link", name=f"Line {at + 1}").click()
    selected = "e => e.value.slice(e.selectionStart, e.selectionEnd)"
    assert "connections: five" in text.evaluate(selected)

    assert press(page, "Review changes") == 422
    expect(marked).to_have_text(str(at + 1))
    expect(text).to_have_value(wrong)
    assert site.server_file.read_text() == right

    text.fill(right.replace("connections: 5", "connections: 6  # one more"))
    expect(problems).to_contain_text("Nothing is wrong with it")
    expect(marked).to_have_count(0)
    apply(page)
    assert "connections: 6  # one more" in site.server_file.read_text()
    assert runs_with_the_file(site)


def test_an_older_version_comes_back(site: Site, page: Page) -> None:
    for timeout in ("11m", "12m"):
        open_section(page, site, "relaying")
        page.locator("[name=timeout]").fill(timeout)
        apply(page)
    now = site.server_file.read_text()
    page.get_by_role("link", name="History").last.click()
    rows = page.get_by_role("region", name="History").locator("tbody tr")
    expect(rows.first).to_contain_text("in the file now")
    expect(rows.first).to_contain_text("root")
    rows.nth(1).get_by_role("link", name="Restore").click()
    expect(page.locator(".diff ins")).to_have_text(re.compile("timeout: 11m"))
    expect(page.locator(".diff del")).to_have_text(re.compile("timeout: 12m"))
    assert site.server_file.read_text() == now
    assert press(page, "Restore and apply") == 200
    expect(page.get_by_role("heading", level=1)).to_have_text("Saved and in force")
    assert site.server_file.read_text() == now.replace("timeout: 12m", "timeout: 11m")
    assert runs_with_the_file(site)


def test_an_address_that_is_taken_is_not_saved(site: Site, page: Page) -> None:
    before = site.server_file.read_text()
    port = site.world.port()
    with contextlib.closing(port.listen()):
        site.world.allow(rf"{port}: Address already in use")
        open_section(page, site, "listening")
        page.locator("[name=sniAddr]").fill(str(port))
        assert press(page, "Review changes") == 200
        assert press(page, "Save and apply") == 200
        expect(page.get_by_role("heading", level=1)).to_have_text("Not saved")
        expect(page.get_by_role("alert")).to_contain_text("The file is again what it was")
        expect(page.locator(".said")).to_contain_text(str(port))
        expect(page.locator(".said")).to_contain_text("in use")
        assert site.server_file.read_text() == before
        assert runs_with_the_file(site)
        site.visit(1)
    # Nothing is lost: once the address is free it is tried again.
    assert press(page, "Go on editing") == 200
    expect(page.locator("[name=sniAddr]")).to_have_value(str(port))
    apply(page)
    assert options(site)["sniAddr"] == str(port)
    listeners = site.server.ask("status")["units"][0]["listeners"]
    assert {"option": "sniAddr", "address": str(port)} in listeners
