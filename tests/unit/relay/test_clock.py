"""One timer for all idle times."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import gevent
import pytest

from gtapp.relay.clock import LONGEST_PERIOD_S, Clock
from tests.support.relay import until


class Thing:
    def __init__(self, lives: int = 1_000_000, fails: bool = False) -> None:
        self.lives = lives
        self.fails = fails
        self.periods: list[float] = []

    @property
    def over(self) -> bool:
        return self.lives <= 0

    def tick(self, period: float) -> None:
        self.periods.append(period)
        self.lives -= 1
        if self.fails:
            raise ZeroDivisionError


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock([0.08])
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("timeouts", "period"), [([90.0, 10.0], LONGEST_PERIOD_S), ([90.0, 4.0], 0.5), ([0.1], 0.0125), ([], 1.0)]
)
def test_the_period_follows_the_shortest_timeout(timeouts: list[float], period: float) -> None:
    clock = Clock(timeouts)
    assert clock.period == period
    for timeout in timeouts:
        assert clock.ticks(timeout) == round(timeout / period) >= 8


def test_ticks_go_on_until_it_is_over(clock: Clock) -> None:
    short, long = Thing(3), Thing()
    clock.add(short)
    clock.add(long)
    clock.start()
    until(lambda: len(long.periods) > 5)
    assert short.periods == [clock.period] * 3


def test_one_that_fails_does_not_stop_the_others(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for thing in (things := [Thing(fails=True), Thing(), Thing(fails=True)]):
        clock.add(thing)
    clock.start()
    until(lambda: all(len(thing.periods) > 2 for thing in things))
    assert "unexpected error in the tick" in caplog.text


def test_things_may_be_added_in_a_tick(clock: Clock) -> None:
    later = Thing()

    class Adding(Thing):
        def tick(self, period: float) -> None:
            clock.add(later)

    clock.add(Adding())
    clock.start()
    until(lambda: later.periods)


def test_wait_ends_with_the_last_one(clock: Clock) -> None:
    thing = Thing()
    clock.add(thing)
    gevent.spawn_later(0.03, setattr, thing, "lives", 0)
    began = monotonic()
    clock.wait(5)
    assert 0.02 < monotonic() - began < 2


def test_wait_ends_after_its_time(clock: Clock) -> None:
    clock.add(Thing())
    began = monotonic()
    clock.wait(0.05)
    assert 0.04 < monotonic() - began < 2


def test_over_with_everything(clock: Clock) -> None:
    things = [Thing(), Thing()]
    for thing in things:
        clock.add(thing)
    states = []
    for thing in things:
        states.append((clock.over, len(clock.ticking)))
        thing.lives = 0
    assert states == [(False, 2), (False, 1)]
    assert clock.over
    assert clock.ticking == []


def test_quicken(clock: Clock) -> None:
    slow = Clock([])
    thing = Thing()
    slow.add(thing)
    slow.start()
    slow.quicken(2.0)
    assert slow.period == LONGEST_PERIOD_S
    slow.quicken(0.01)
    assert slow.ticks(1.0) == 100
    until(lambda: len(thing.periods) > 3, seconds=0.9)
    assert set(thing.periods) == {0.01}
    slow.stop()


def test_stop(clock: Clock) -> None:
    thing = Thing()
    clock.add(thing)
    clock.start()
    until(lambda: thing.periods)
    clock.stop()
    count = len(thing.periods)
    gevent.sleep(clock.period * 3)  # nothing is to happen in it
    assert len(thing.periods) == count
