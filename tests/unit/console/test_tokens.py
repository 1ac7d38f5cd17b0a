"""API tokens: what they are worth, and for how long."""

import pytest

from gtapp.console import tokens
from gtapp.console.database import Database
from gtapp.console.tokens import USED_EVERY_S, Tokens
from gtapp.errors import GTError

HOME, AWAY = "192.0.2.1", "198.51.100.1"


@pytest.fixture
def db(tmp_path):
    made = Database(tmp_path / "console.db")
    yield made
    made.close()


@pytest.fixture
def all(db, clock):
    return Tokens(db, clock)


def test_only_the_token_finds_it(all, db):
    token = all.new("monitoring", ["metrics", "read"], None)
    assert token.startswith("gt_")
    assert len(token) > 40
    found = all.find(token, HOME)
    assert (found.label, found.scopes, found.expires) == ("monitoring", {"metrics", "read"}, None)
    for other in (token[:-1], token + "a", found.id, "", "gt_", "gt_\udcff"[:-1]):
        assert all.find(other, HOME) is None
    assert token not in str([tuple(row) for row in db.rows("SELECT * FROM tokens")])


def test_scopes_that_there_are_not_are_not_given(all):
    assert all.find(all.new("all", ["account", "read", "x", "read"], None), HOME).scopes == {"read"}


def test_it_expires(all, clock):
    token = all.new("short", ["read"], 60.0)
    clock.forward(59)
    assert all.find(token, HOME)
    clock.forward(1)
    assert all.find(token, HOME) is None
    assert [each.label for each in all.all()] == ["short"], "it is shown as expired"


def test_it_is_revoked(all):
    token, other = all.new("one", ["read"], None), all.new("other", ["read"], None)
    assert all.revoke(all.find(token, HOME).id).label == "one"
    assert all.find(token, HOME) is None
    assert all.find(other, HOME)
    assert all.revoke("no such id") is None


def test_where_and_when_it_was_used_last(all, clock):
    token = all.new("one", ["read"], None)
    assert all.all()[0].used is None
    all.find(token, HOME)
    first = clock.now
    clock.forward(USED_EVERY_S - 1)
    all.find(token, HOME)
    assert all.all()[0].used == first, "not every request writes"
    clock.forward(1)
    all.find(token, HOME)
    assert (all.all()[0].used, all.all()[0].address) == (clock.now, HOME)
    all.find(token, AWAY)
    assert all.all()[0].address == AWAY


def test_there_are_not_more_than_so_many(all, monkeypatch):
    monkeypatch.setattr(tokens, "MAX_TOKENS", 2)
    all.new("one", ["read"], None)
    all.new("two", ["read"], None)
    with pytest.raises(GTError, match="2 tokens already: revoke one"):
        all.new("three", ["read"], None)
