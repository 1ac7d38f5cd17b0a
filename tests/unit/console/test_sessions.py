"""Sessions: how they begin, how long they last, and what ends them."""

import pytest

from gtapp.console import sessions
from gtapp.console.database import Database
from gtapp.console.sessions import ABSOLUTE_S, CODE_S, IDLE_S, SEEN_EVERY_S, WAITS_FOR_CODE, Sessions

HOME, AWAY = "192.0.2.1", "198.51.100.1"


@pytest.fixture
def db(tmp_path):
    made = Database(tmp_path / "console.db")
    yield made
    made.close()


@pytest.fixture
def all(db, clock):
    return Sessions(db, clock)


def test_only_the_cookie_finds_it(all, db, clock):
    cookie = all.begin("admin", "stamp", HOME, "Firefox")
    found = all.find(cookie, "stamp", HOME)
    assert (found.name, found.stage, found.created, found.address) == ("admin", "", clock.now, HOME)
    for other in (cookie + "a", cookie[:-1], found.id, ""):
        assert all.find(other, "stamp", HOME) is None
    assert cookie not in str([tuple(row) for row in db.rows("SELECT * FROM sessions")])


def test_it_ends_when_it_is_idle(all, clock):
    cookie = all.begin("admin", "stamp", HOME, "")
    for _ in range(4):
        clock.forward(IDLE_S - 1)
        assert all.find(cookie, "stamp", HOME)
    clock.forward(IDLE_S)
    assert all.all("stamp") == []
    assert all.find(cookie, "stamp", HOME) is None


def test_it_ends_when_it_is_old_however_much_it_is_used(all, clock):
    cookie, began = all.begin("admin", "stamp", HOME, ""), clock.now
    while clock.now < began + ABSOLUTE_S - IDLE_S:
        clock.forward(IDLE_S / 2)
        assert all.find(cookie, "stamp", HOME)
    clock.now = began + ABSOLUTE_S - 1
    assert all.find(cookie, "stamp", HOME)
    clock.forward(1)
    assert all.find(cookie, "stamp", HOME) is None
    assert all.all("stamp") == []


def test_it_ends_with_the_password_it_began_with(all):
    cookie = all.begin("admin", "stamp", HOME, "")
    assert all.find(cookie, "another stamp", HOME) is None
    assert all.find(cookie, "stamp", HOME) is None, "and does not come back with the old one"


def test_one_that_waits_for_its_code_does_not_wait_long(all, clock):
    cookie = all.begin("admin", "stamp", HOME, "", WAITS_FOR_CODE)
    assert all.find(cookie, "stamp", HOME).stage == WAITS_FOR_CODE
    assert all.all("stamp") == [], "it lets nobody in yet"
    clock.forward(CODE_S)
    assert all.find(cookie, "stamp", HOME) is None


def test_where_and_when_it_was_used_last(all, clock):
    cookie = all.begin("admin", "stamp", HOME, "")
    clock.forward(SEEN_EVERY_S - 1)
    all.find(cookie, "stamp", HOME)
    assert all.all("stamp")[0].seen == clock.now - SEEN_EVERY_S + 1, "not every request writes"
    all.find(cookie, "stamp", AWAY)
    assert [(each.seen, each.address) for each in all.all("stamp")] == [(clock.now, AWAY)]


def test_ending_one_and_all_others(all):
    cookies = [all.begin("admin", "stamp", HOME, str(number)) for number in range(4)]
    ids = [all.find(cookie, "stamp", HOME).id for cookie in cookies]
    assert all.end(ids[0])
    assert not all.end(ids[0])
    assert all.end_others(ids[1]) == 2
    assert [bool(all.find(cookie, "stamp", HOME)) for cookie in cookies] == [False, True, False, False]
    assert all.end_others() == 1


def test_there_are_not_more_than_so_many(all, clock, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    cookies = []
    for _ in range(5):
        clock.forward(1)
        cookies.append(all.begin("admin", "stamp", HOME, ""))
    assert [bool(all.find(cookie, "stamp", HOME)) for cookie in cookies] == [False, False, True, True, True]


def test_old_rows_are_forgotten(all, db, clock):
    all.begin("admin", "stamp", HOME, "x" * 10_000)
    assert len(db.row("SELECT agent FROM sessions")["agent"]) == sessions.MAX_AGENT
    clock.forward(IDLE_S + 1)
    all.begin("admin", "stamp", HOME, "")
    assert db.row("SELECT count(*) AS n FROM sessions")["n"] == 1


def test_looking_is_no_use(all, clock):
    """A page that brings itself up to date does not keep its session."""
    cookie = all.begin("admin", "stamp", HOME, "")
    for _ in range(3):
        clock.forward(IDLE_S / 3 - 1)
        assert all.find(cookie, "stamp", HOME, used=False)
    clock.forward(3)
    assert all.find(cookie, "stamp", HOME, used=False) is None


@pytest.mark.parametrize(
    ("idle_s", "lasts_s"), [(60.0, 60.0), (0.0, ABSOLUTE_S), (10 * ABSOLUTE_S, ABSOLUTE_S)]
)
def test_how_long_it_may_be_idle_is_chosen(db, clock, idle_s, lasts_s):
    all = Sessions(db, clock, idle_s)
    cookie = all.begin("admin", "stamp", HOME, "")
    clock.forward(lasts_s - 1)
    assert all.find(cookie, "stamp", HOME, used=False)
    assert len(all.all("stamp")) == 1
    clock.forward(1)
    assert all.all("stamp") == []
    assert all.find(cookie, "stamp", HOME) is None
