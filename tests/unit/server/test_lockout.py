"""Failed logins per address, in simulated time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gtapp.server import lockout as lockout_module
from gtapp.server.lockout import MAX_ADDRESSES, Lockout
from gtapp.server.siblings import Siblings
from tests.support.relay import turn
from tests.unit.server.scene import introduce, siblings

HERE, THERE = "192.0.2.1:5000", "192.0.2.2:5000"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=5000.0)
    monkeypatch.setattr(lockout_module, "monotonic", lambda: made.now)
    return made


def fail(lockout: Lockout, peer: str, times: int) -> None:
    for _ in range(times):
        lockout.failed(peer)


def test_an_address_is_locked_out_for_a_while(clock: SimpleNamespace) -> None:
    lockout = Lockout(3, 300.0)
    fail(lockout, HERE, 2)
    assert lockout.locked(HERE) == 0
    fail(lockout, HERE, 1)
    assert lockout.locked(HERE) == 300
    assert lockout.locked(THERE) == 0
    clock.now += 299
    assert lockout.locked("192.0.2.1:777") == pytest.approx(1), "the port does not matter"
    clock.now += 1
    assert lockout.locked(HERE) == 0


def test_afterwards_the_count_begins_anew(clock: SimpleNamespace) -> None:
    lockout = Lockout(3, 300.0)
    fail(lockout, HERE, 3)
    clock.now += 301
    assert lockout.locked(HERE) == 0
    fail(lockout, HERE, 2)
    assert lockout.locked(HERE) == 0
    fail(lockout, HERE, 1)
    assert lockout.locked(HERE) == 300


def test_failures_while_it_is_locked_out_do_not_make_it_longer(clock: SimpleNamespace) -> None:
    """They come from openings that had begun before."""
    lockout = Lockout(3, 300.0)
    fail(lockout, HERE, 3)
    clock.now += 200
    fail(lockout, HERE, 10)
    assert lockout.locked(HERE) == pytest.approx(100)


def test_failures_far_apart_do_not_add_up(clock: SimpleNamespace) -> None:
    lockout = Lockout(3, 300.0)
    for _ in range(100):
        lockout.failed(HERE)
        clock.now += 300
    assert lockout.locked(HERE) == 0


def test_zero_times_is_off(clock: SimpleNamespace) -> None:
    lockout = Lockout(0, 300.0)
    fail(lockout, HERE, 1000)
    assert lockout.locked(HERE) == 0


def test_a_duration_of_zero_is_for_ever(clock: SimpleNamespace) -> None:
    lockout = Lockout(1, 0.0)
    lockout.failed(HERE)
    clock.now += 1e9
    assert lockout.locked(HERE) > 0


def test_other_settings_count_at_once(clock: SimpleNamespace) -> None:
    lockout = Lockout(3, 300.0)
    fail(lockout, HERE, 3)
    lockout.set(3, 60.0)
    assert lockout.locked(HERE) == 60
    lockout.set(4, 60.0)
    assert lockout.locked(HERE) == 0
    lockout.set(0, 60.0)
    assert lockout.locked(HERE) == 0


def test_of_an_ipv6_address_the_network_counts(clock: SimpleNamespace) -> None:
    lockout = Lockout(3, 300.0)
    for number in range(3):
        lockout.failed(f"[2001:db8:1:2:{number}:ff::1]:4000")
    assert lockout.locked("[2001:db8:1:2::9]:1") == 300
    assert lockout.locked("[2001:db8:1:3::9]:1") == 0
    assert lockout.locked("[fe80::1%eth0]:1") == 0


def test_a_flood_of_addresses_is_kept_in_bounds(clock: SimpleNamespace) -> None:
    lockout = Lockout(1, 300.0)
    for number in range(100_000):
        lockout.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1")
    kept = lockout._failures
    assert len(kept) == MAX_ADDRESSES
    assert sys.getsizeof(kept) + sum(sys.getsizeof(each) for each in kept) < 4_000_000
    assert lockout.locked("10.1.134.159:1"), "the last one"
    assert not lockout.locked("10.0.0.0:1"), "the first one has been forgotten"


def test_the_lock_is_logged_once(clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fail(Lockout(3, 300.0), HERE, 20)
    assert caplog.messages == ["192.0.2.1 is locked out for 300 s after 3 failed logins"]


# several workers


@pytest.fixture
def two(clock: SimpleNamespace) -> Iterator[list[Lockout]]:
    met = siblings(2)
    made = [Lockout(3, 300.0, each) for each in met]
    for each in met:
        each.start()
    yield made
    for each in met:
        each.stop()


def test_failures_count_over_all_workers(two: list[Lockout]) -> None:
    one, other = two
    for each in (one, other, one):
        assert each.locked(HERE) == 0
        each.failed(HERE)
        turn(5)
    assert one.locked(HERE) == other.locked(HERE) == 300
    assert one.locked(THERE) == other.locked(THERE) == 0


def test_failures_during_the_lockout_do_not_make_it_longer(
    two: list[Lockout], clock: SimpleNamespace
) -> None:
    one, other = two
    fail(one, HERE, 3)
    turn(5)
    clock.now += 100
    fail(other, HERE, 3)
    turn(5)
    assert one.locked(HERE) == other.locked(HERE) == 200
    clock.now += 200
    assert one.locked(HERE) == other.locked(HERE) == 0
    fail(other, HERE, 2)
    turn(5)
    assert one.locked(HERE) == 0


def test_a_worker_that_comes_later_knows_of_them(clock: SimpleNamespace) -> None:
    """From several siblings, who all have counted the same."""
    met = [*siblings(2), Siblings(3)]
    one, two, three = (Lockout(3, 300.0, each) for each in met)
    for each in met:
        each.start()
    fail(one, HERE, 3)
    fail(two, THERE, 2)
    turn(5)
    clock.now += 60
    introduce(met[0], met[2])
    introduce(met[1], met[2])
    turn(5)
    assert three.locked(HERE) == 240
    assert three.locked(THERE) == 0
    fail(three, THERE, 1)
    turn(5)
    assert [each.locked(THERE) for each in (one, two, three)] == [300] * 3
    for each in met:
        each.stop()


def test_what_siblings_tell_has_a_bound_as_well(two: list[Lockout], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockout_module, "MAX_ADDRESSES", 10)
    for number in range(30):
        two[number % 2].failed(f"192.0.2.{number}:1")
        turn(1)
    turn(5)
    for each in two:
        assert list(each._failures) == [f"192.0.2.{number}" for number in range(20, 30)]


def test_where_nobody_is_locked_out_nothing_is_counted(two: list[Lockout]) -> None:
    two[1].set(0, 300.0)
    fail(two[0], HERE, 3)
    turn(5)
    assert two[1]._failures == {}
