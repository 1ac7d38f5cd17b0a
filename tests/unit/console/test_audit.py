"""Who changed what."""

import logging
import sqlite3

import pytest
from flask_login import login_user

from gtapp.console import database
from gtapp.console.audit import MAX_DETAIL, audit
from gtapp.console.auth import Somebody
from gtapp.console.tokens import Token


@pytest.fixture
def inside(app):
    """A request of the administrator's, in a browser."""
    with app.test_request_context("/", environ_base={"REMOTE_ADDR": "192.0.2.1"}):
        login_user(Somebody("admin"))
        yield


def entries(console):
    return [
        (row["name"], row["via"], row["address"], row["what"], row["detail"]) for row in console.db.audit(10)
    ]


def test_it_is_noted_and_logged(console, clock, inside, caplog):
    with caplog.at_level(logging.INFO):
        audit("user alice changed", "speed 1M")
    assert entries(console) == [("admin", "browser", "192.0.2.1", "user alice changed", "speed 1M")]
    assert console.db.audit(1)[0]["time"] == clock.now
    assert "user alice changed (by admin from 192.0.2.1)" in caplog.text
    assert "speed 1M" not in caplog.text


def test_by_a_program(app, console):
    token = Token("id", "backup", frozenset({"users"}), 0.0, None, None, "")
    with app.test_request_context("/", environ_base={"REMOTE_ADDR": "192.0.2.1"}):
        login_user(Somebody("admin", token=token))
        audit("user alice changed")
    assert entries(console)[0][:2] == ("admin", "token backup")


def test_by_nobody_yet(app, console):
    with app.test_request_context("/", environ_base={"REMOTE_ADDR": "192.0.2.1"}):
        audit("logged in", name="admin")
    assert entries(console) == [("admin", "", "192.0.2.1", "logged in", "")]


def test_what_is_long_is_cut(console, inside):
    audit("configuration saved", "x" * 2 * MAX_DETAIL)
    assert len(entries(console)[0][4]) == MAX_DETAIL


def test_what_cannot_be_noted_is_done_all_the_same(console, inside, caplog, monkeypatch):
    monkeypatch.setattr(database, "BUSY_S", 0.01)
    audit("first")
    console.db.close()
    other = sqlite3.connect(console.db.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    audit("user alice changed")
    other.execute("ROLLBACK")
    other.close()
    assert "the audit log lacks this: user alice changed (by admin from 192.0.2.1)" in caplog.text
    audit("last")
    assert [entry[3] for entry in entries(console)] == ["last", "first"]
