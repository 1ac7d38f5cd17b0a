"""The page of connections: what is open now, and cutting one."""

from gtapp.errors import GTError
from tests.unit.console.conftest import CLIENT, SERVER
from tests.unit.console.lively import CONNECTION, lively, make_lively

__all__ = ["lively", "make_lively"]

NONE = {"units": [{"total": 0, "connections": []}]}


def asked(lively, command):
    return [each for each in lively.relay.asked if each["command"] == command]


def test_what_is_open(lively):
    page = lively.browser.get("/connections")
    for text in ("203.0.113.5:4711", "shop", "1 min", "100 B", "4.9 KiB", "1 connection"):
        assert text in page
    assert 'href="/clients/alice"' in page


def test_speeds_come_with_the_second_answer(lively, monkeypatch):
    from gtapp.console import moment

    monkeypatch.setattr(moment, "FRESH_S", 0.0)
    relayed = iter(range(0, 10 << 20, 1 << 20))
    lively.relay.answers["connections"] = lambda request, tell: {
        "units": [{"total": 1, "connections": [{**CONNECTION, "bytes_in": next(relayed)}]}]
    }
    assert "B/s" not in lively.browser.get("/connections")
    assert "iB/s" in lively.browser.get("/connections")


def test_of_one_user(make_lively):
    lively = make_lively(text=SERVER + "  bob:\n    secret: x\n")
    lively.browser.get("/connections?user=bob")
    assert asked(lively, "connections")[-1]["user"] == "bob"
    assert '<option value="bob" selected>' in lively.browser.text
    assert 'hx-get="/connections?user=bob"' in lively.browser.text


def test_more_than_are_shown(lively):
    lively.relay.answers["connections"] = {"units": [{"total": 1234, "connections": [CONNECTION]}]}
    page = lively.browser.get("/connections")
    assert "1234 connections" in page
    assert "The newest 1 of them are shown." in page


def test_none(lively):
    lively.relay.answers["connections"] = NONE
    page = lively.browser.get("/connections")
    assert "No visitor is connected" in page
    assert 'href="/clients"' in page


def test_of_a_client(make_lively):
    lively = make_lively("client", text=CLIENT)
    page = lively.browser.get("/connections?user=somebody")
    assert "203.0.113.5:4711" in page
    assert "user" not in asked(lively, "connections")[-1]


def test_a_relay_that_does_not_answer(lively):
    lively.relay.answers["connections"] = GTError("the process does not answer")
    assert "the process does not answer" in lively.browser.get("/connections")


def test_cutting_one(lively):
    lively.browser.get("/connections")
    assert "The connection is cut" in lively.browser.send("/connections/cut")
    assert asked(lively, "disconnect")[-1]["connection"] == "1.1.7"


def test_cutting_one_that_has_ended(lively):
    lively.relay.answers["disconnect"] = {"count": 0}
    lively.browser.get("/connections")
    assert "had ended already" in lively.browser.send("/connections/cut")


def test_a_list_alone_for_scripts(lively):
    answer = lively.browser.client.get("/connections", headers={"HX-Request": "true"})
    assert "203.0.113.5" in answer.text
    assert "<html" not in answer.text
