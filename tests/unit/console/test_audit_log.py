"""The audit page: entries by page and search, and as CSV that a spreadsheet opens without harm."""

from __future__ import annotations

import csv
import io
import re

import pytest
from flask.testing import FlaskClient

from gtapp.console.audit_log import PER_PAGE
from gtapp.console.context import Console
from tests.unit.console.conftest import Auth


@pytest.fixture
def browser(client: FlaskClient, auth: Auth, console: Console) -> FlaskClient:
    """Somebody who is logged in; what that has left in the log is gone."""
    assert auth.login().status_code == 302
    console.db.execute("DELETE FROM audit")
    return client


def note(console: Console, what: str, detail: str = "", **more: str) -> None:
    values = {"name": "admin", "via": "browser", "address": "192.0.2.1", **more}
    console.db.add_audit(console.clock(), values["name"], values["via"], values["address"], what, detail)


def shown(page: str) -> list[str]:
    return re.findall(r"<td>(user \S+ added)", page)


def test_who_has_done_what_when_and_from_where(browser: FlaskClient, console: Console) -> None:
    note(console, "user alice changed", "speed, hostNumber", via="token <ci>", address="2001:db8::1")
    page = browser.get("/audit").text
    for text in ("user alice changed", "speed, hostNumber", "admin", "token &lt;ci&gt;", "2001:db8::1"):
        assert text in page
    assert '<time datetime="2023-11-14T' in page


def test_nothing_yet(browser: FlaskClient) -> None:
    page = browser.get("/audit").text
    assert "Nothing has been changed yet" in page
    assert "/audit/download" not in page


def test_entries_by_the_page(browser: FlaskClient, console: Console) -> None:
    for number in range(PER_PAGE + 3):
        note(console, f"user u{number} added")
    page = browser.get("/audit").text
    assert shown(page) == [f"user u{number} added" for number in range(PER_PAGE + 2, 2, -1)]
    older = re.search(r'href="(/audit\?before=\d+)"', page)
    assert older
    last = browser.get(older[1]).text
    assert shown(last) == [f"user u{number} added" for number in range(2, -1, -1)]
    assert "Newest" in last
    assert "Older" not in last


def test_entries_by_text(browser: FlaskClient, console: Console) -> None:
    for number in range(PER_PAGE + 3):
        note(console, f"user u{number} added", address=f"192.0.2.{number % 2}")
    assert len(shown(browser.get("/audit?q=192.0.2.1").text)) == 26
    page = browser.get("/audit?q=u7").text
    assert shown(page) == ["user u7 added"]
    assert "/audit/download?q=u7" in page
    nothing = browser.get("/audit?q=%25<nothing>").text
    assert "No entry contains “%&lt;nothing&gt;”." in nothing
    for odd in ("before=x", "before=-1", "before=" + "9" * 30):
        assert browser.get(f"/audit?{odd}").status_code == 200


def test_as_csv(browser: FlaskClient, console: Console) -> None:
    for number in range(1203):
        note(console, f"user u{number} added", 'speed, "hosts"\nand more')
    answer = browser.get("/audit/download")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="gt-audit.csv"'
    rows = list(csv.reader(io.StringIO(answer.data.decode("utf-8-sig"), newline="")))
    assert rows[0] == ["time", "who", "via", "from", "what", "detail"]
    first = [
        "2023-11-14T22:13:20+00:00",
        "admin",
        "browser",
        "192.0.2.1",
        "user u1202 added",
        'speed, "hosts"\nand more',
    ]
    assert rows[1] == first
    assert [row[4] for row in rows[1:]] == [f"user u{number} added" for number in range(1202, -1, -1)]
    few = browser.get("/audit/download?q=u77").data.decode("utf-8-sig")
    assert len(few.splitlines()) == 1 + 2 * 11  # u77 and u770 to u779, whose details have two lines


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_formula_for_a_spreadsheet(browser: FlaskClient, console: Console, text: str) -> None:
    """A user's id can be any text, and comes from elsewhere."""
    note(console, text, name=text)
    (_, row) = list(
        csv.reader(io.StringIO(browser.get("/audit/download").data.decode("utf-8-sig"), newline=""))
    )
    assert row[1] == row[4] == f"'{text}"


def test_nobody_sees_it_without_a_login(client: FlaskClient) -> None:
    for path in ("/audit", "/audit/download"):
        assert client.get(path).status_code == 302
