"""How soon somebody may try again."""

import pytest

from gtapp.console import throttle
from gtapp.console.database import Database
from gtapp.console.throttle import FORGOTTEN_S, RULES, Throttle, key

HOME, AWAY = key("address", "192.0.2.1"), key("address", "198.51.100.1")
ACCOUNT = key("account", "admin")


@pytest.fixture
def db(tmp_path):
    made = Database(tmp_path / "console.db")
    yield made
    made.close()


@pytest.fixture
def throttled(db, clock):
    return Throttle(db, clock)


def waits(throttled, clock, keys, count):
    """What each of `count` attempts has to wait, made as soon as it may be."""
    found = []
    for _ in range(count):
        assert throttled.take(keys) == 0.0
        wait = throttled.take(keys)
        if wait == 0.0:
            throttled.forget(keys)
            raise AssertionError("the second of two at once was let through where the first was to delay it")
        clock.forward(wait)
        found.append(wait)
    return found


def test_delays_grow(throttled, clock):
    free = RULES["address"].free
    assert [throttled.take([HOME]) for _ in range(free)] == [0.0] * free
    assert waits(throttled, clock, [HOME], 10) == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900]
    assert throttled.take([AWAY]) == 0.0


def test_a_refused_attempt_changes_nothing(throttled, clock):
    for _ in range(RULES["address"].free + 1):
        throttled.take([HOME])
    clock.forward(1.5)
    assert [throttled.take([HOME]) for _ in range(100)] == [0.5] * 100
    clock.forward(0.5)
    assert throttled.take([HOME]) == 0.0


def test_many_places_with_one_name_are_slowed_down_together(throttled, clock):
    free = RULES["account"].free
    for number in range(free + 1):
        assert throttled.take([key("address", f"192.0.2.{number}"), ACCOUNT]) == 0.0
    assert throttled.take([key("address", "192.0.2.99"), ACCOUNT]) == 2.0


def test_one_place_with_many_names_too(throttled):
    for number in range(RULES["address"].free + 1):
        assert throttled.take([HOME, key("account", f"name{number}")]) == 0.0
    assert throttled.take([HOME, ACCOUNT]) == 2.0


def test_whoever_is_refused_by_one_key_is_not_counted_by_the_other(throttled, db):
    for _ in range(RULES["address"].free + 1):
        throttled.take([HOME])
    for _ in range(50):
        assert throttled.take([HOME, ACCOUNT]) > 0
    assert throttled.take([AWAY, ACCOUNT]) == 0.0
    assert db.row("SELECT failures FROM throttle WHERE key = ?", (ACCOUNT,))["failures"] == 1


def test_the_owner_is_not_locked_out_for_good(throttled, clock):
    """However long others have tried with that name: the longest delay is minutes."""
    for _ in range(RULES["account"].free):
        throttled.take([ACCOUNT])
    assert max(waits(throttled, clock, [ACCOUNT], 50)) == RULES["account"].longest_s <= 300


def test_the_right_one_is_forgotten_and_so_is_what_was_long_ago(throttled, clock):
    for _ in range(RULES["address"].free + 1):
        throttled.take([HOME, ACCOUNT])
    throttled.forget([HOME, ACCOUNT])
    assert throttled.take([HOME, ACCOUNT]) == 0.0
    for _ in range(RULES["address"].free):
        throttled.take([HOME])
    assert throttled.take([HOME]) > 0
    clock.forward(FORGOTTEN_S)
    assert [throttled.take([HOME]) for _ in range(RULES["address"].free)] == [0.0] * RULES["address"].free


def test_one_that_was_not_made_does_not_count_and_those_before_it_do(throttled, clock):
    free = RULES["account"].free
    for _ in range(free):
        throttled.take([ACCOUNT])
    for _ in range(3):
        assert throttled.take([HOME, ACCOUNT]) == 0.0
        throttled.give_back([HOME, ACCOUNT])
    assert waits(throttled, clock, [ACCOUNT], 2) == [2, 4]
    throttled.give_back([AWAY])
    assert throttled.take([AWAY]) == 0.0


def test_all_may_be_forgotten(throttled):
    for _ in range(RULES["address"].free + 1):
        throttled.take([HOME])
    throttled.forget_all()
    assert throttled.take([HOME]) == 0.0


def test_it_does_not_grow_without_end(throttled, db, clock, monkeypatch):
    monkeypatch.setattr(throttle, "MAX_THROTTLED", 10)
    for number in range(30):
        clock.forward(1)
        throttled.take([key("address", f"192.0.2.{number}")])
    assert db.row("SELECT count(*) AS n FROM throttle")["n"] == 10


def test_it_outlives_the_process(throttled, db, clock):
    for _ in range(RULES["address"].free + 1):
        throttled.take([HOME])
    db.close()
    again = Database(db.path)
    assert Throttle(again, clock).take([HOME]) == 2.0
    again.close()


def test_a_clock_that_is_set_back_locks_nobody_out(throttled, clock):
    for _ in range(RULES["address"].free + 8):
        throttled.take([HOME])
        clock.forward(1000)
    clock.forward(-1_000_000)
    assert throttled.take([HOME]) == 0.0
    assert 0 < throttled.take([HOME]) <= RULES["address"].longest_s


def test_keys_tell_nothing():
    assert "admin" not in ACCOUNT
    assert (
        len({ACCOUNT, key("account", "Admin"), key("device", "admin"), key("account", "admin" * 10**6)}) == 4
    )
