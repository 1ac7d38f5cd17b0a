"""Token buckets, in simulated time: how fast, how smooth, how fair."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gtapp.relay import bucket as bucket_module
from gtapp.relay.bucket import BEHIND_S, BURST_BYTES, MAX_SERVED_BYTES, Bucket, Shaper


class Simulated:
    """The clock and the hub's loop. `late` says by how much a timer comes too late."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.late: Callable[[], float] = lambda: 0.0
        self.timers: list[Timer] = []
        self.loop = self

    def timer(self, after: float) -> Timer:
        return Timer(self, self.now + after + self.late())

    def run(self, seconds: float, each: Callable[[], Any] = lambda: None) -> None:
        """Let so much time pass; after everything that happens `each` is called."""
        end = self.now + seconds
        while True:
            due = min((timer for timer in self.timers if timer.at <= end), key=lambda t: t.at, default=None)
            if due is None:
                break
            self.now = max(self.now, due.at) + 1e-6
            self.timers.remove(due)
            due.callback()
            each()
        self.now = max(self.now, end)


class Timer:
    def __init__(self, simulated: Simulated, at: float) -> None:
        self.simulated = simulated
        self.at = at
        self.callback: Callable[[], None]

    def start(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.simulated.timers.append(self)

    def stop(self) -> None:
        if self in self.simulated.timers:
            self.simulated.timers.remove(self)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    made = Simulated()
    monkeypatch.setattr(bucket_module, "monotonic", lambda: made.now)
    monkeypatch.setattr(bucket_module, "get_hub", lambda: SimpleNamespace(loop=made))
    return made


class Greedy:
    """Always has `most` bytes to move; waits whenever it may not."""

    def __init__(self, simulated: Simulated, bucket: Bucket, most: int = 65536) -> None:
        self.simulated = simulated
        self.bucket = bucket
        self.most = most
        self.moved = 0
        self.waiting = False
        self.times: list[float] = []

    def go(self) -> Greedy:
        self._move()
        self.go_on()
        return self

    def go_on(self) -> None:
        """Its socket is ready, again."""
        while not self.waiting:
            if not self._move():
                self.waiting = True
                self.bucket.wait(self)

    def bucket_has_tokens(self) -> None:
        self.waiting = False
        assert self._move() > 0

    def _move(self) -> int:
        size = self.bucket.allowed(self, self.most)
        if size:
            self.bucket.spend(size)
            self.moved += size
            self.times.append(self.simulated.now)
        return size

    @property
    def longest_gap(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times))


def all_go_on(*streams: Greedy) -> Callable[[], None]:
    def go_on() -> None:
        for stream in streams:
            stream.go_on()

    return go_on


SPEEDS = [1_000, 20_000, 100_000, 1_000_000, 12_500_000, 125_000_000]


@pytest.mark.parametrize("count", [1, 2, 20])
@pytest.mark.parametrize("speed", SPEEDS)
def test_the_speed_is_kept_within_five_percent(simulated: Simulated, speed: int, count: int) -> None:
    randomly = random.Random(speed)
    simulated.late = lambda: randomly.uniform(0, 0.01)
    bucket = Bucket(speed)
    streams = [Greedy(simulated, bucket).go() for _ in range(count)]
    simulated.run(30, all_go_on(*streams))
    assert sum(stream.moved for stream in streams) == pytest.approx(30 * speed, rel=0.05)


@pytest.mark.parametrize("speed", SPEEDS[2:])
def test_it_is_smooth(simulated: Simulated, speed: int) -> None:
    bucket = Bucket(speed)
    streams = [Greedy(simulated, bucket).go() for _ in range(5)]
    simulated.run(5, all_go_on(*streams))
    assert max(stream.longest_gap for stream in streams) < 0.1
    alone = Greedy(simulated, Bucket(speed)).go()
    simulated.run(5, alone.go_on)
    assert alone.longest_gap < 0.025


def test_a_very_low_speed_has_no_long_stalls(simulated: Simulated) -> None:
    stream = Greedy(simulated, Bucket(500)).go()
    simulated.run(30, stream.go_on)
    assert stream.longest_gap < 0.11


@pytest.mark.parametrize("count", [2, 10, 50])
def test_streams_share_it_equally(simulated: Simulated, count: int) -> None:
    bucket = Bucket(1_000_000)
    streams = [Greedy(simulated, bucket, most=(65536, 3000)[number % 2]) for number in range(count)]
    for stream in streams:
        stream.go()
    simulated.run(1, all_go_on(*streams))
    before = [stream.moved for stream in streams]
    simulated.run(30, all_go_on(*streams))
    moved = [stream.moved - start for stream, start in zip(streams, before, strict=True)]
    big, small = moved[::2], moved[1::2]
    assert max(big) < 1.02 * min(big)
    assert max(small) < 1.02 * min(small)
    assert sum(moved) == pytest.approx(30_000_000, rel=0.05)


def test_one_that_asks_for_little_gets_it_between_two_turns_of_the_others(simulated: Simulated) -> None:
    bucket = Bucket(1_000_000)
    bulk = [Greedy(simulated, bucket).go() for _ in range(3)]
    simulated.run(2, all_go_on(*bulk))
    small = Greedy(simulated, bucket, most=300)
    asked = simulated.now
    small.waiting = True
    bucket.wait(small)
    simulated.run(1, all_go_on(*bulk))
    assert small.times[0] - asked < 0.1


def test_who_stays_below_the_speed_never_waits(simulated: Simulated) -> None:
    bucket = Bucket(1_000_000)
    stream = Greedy(simulated, bucket)
    for _ in range(100):
        assert bucket.allowed(stream, 10_000) == 10_000
        bucket.spend(10_000)
        simulated.run(0.011)
    assert simulated.timers == []


def test_a_burst_is_bounded(simulated: Simulated) -> None:
    for speed in SPEEDS:
        bucket = Bucket(speed)
        simulated.run(3600)
        stream = Greedy(simulated, bucket, most=1 << 40).go()
        assert stream.moved <= max(BURST_BYTES, speed * 0.05)
        assert stream.moved <= speed * 0.5
        bucket.leave(stream)


def test_what_a_busy_hub_missed_is_made_up_for(simulated: Simulated) -> None:
    stream = Greedy(simulated, Bucket(1_000_000)).go()
    simulated.run(1, stream.go_on)
    before = stream.moved
    stalls = itertools.cycle([0.9 * BEHIND_S, *[0.0] * 30])
    simulated.late = lambda: next(stalls)
    simulated.run(30, stream.go_on)
    assert stream.moved - before == pytest.approx(30_000_000, rel=0.05)


def test_one_turn_of_the_loop_moves_a_bounded_number_of_bytes(simulated: Simulated) -> None:
    bucket = Bucket(1_000_000_000)
    streams = [Greedy(simulated, bucket) for _ in range(100)]
    for stream in streams:
        stream.waiting = True
        bucket.wait(stream)
    most = 0

    def look() -> None:
        nonlocal most
        most, before = max(most, sum(stream.moved for stream in streams)), most
        assert most - before <= MAX_SERVED_BYTES + 65536

    simulated.run(0.05, look)
    assert all(stream.moved for stream in streams)


def test_what_was_spent_without_asking_is_saved_later_but_not_for_ever(simulated: Simulated) -> None:
    bucket = Bucket(10_000)
    bucket.spend(1_000_000)
    stream = Greedy(simulated, bucket).go()
    simulated.run(10, stream.go_on)
    assert stream.moved == pytest.approx(90_000, rel=0.05)


@pytest.mark.parametrize("speed", [2_000_000, 10_000])
def test_the_speed_changes_while_streams_wait(simulated: Simulated, speed: int) -> None:
    bucket = Bucket(100_000)
    stream = Greedy(simulated, bucket).go()
    simulated.run(5, stream.go_on)
    bucket.set_speed(speed)
    before = stream.moved
    simulated.run(30, stream.go_on)
    assert stream.moved - before == pytest.approx(30 * speed, rel=0.05)


def test_no_limit_any_more_lets_all_go(simulated: Simulated) -> None:
    bucket = Bucket(10)
    streams = [Greedy(simulated, bucket, most=5000).go() for _ in range(3)]
    bucket.set_speed(0)
    before = [stream.moved for stream in streams]
    simulated.run(0.01)
    assert [stream.moved for stream in streams] == [moved + 5000 for moved in before]
    assert bucket.allowed(streams[0], 1 << 30) == 1 << 30
    assert simulated.timers == []
    bucket.set_speed(10)
    assert bucket.allowed(streams[0], 1 << 30) == 0


def test_who_leaves_gets_no_turn(simulated: Simulated) -> None:
    bucket = Bucket(1000)
    first, second = Greedy(simulated, bucket).go(), Greedy(simulated, bucket).go()
    moved = first.moved
    bucket.leave(first)
    simulated.run(1, second.go_on)
    assert first.moved == moved
    bucket.leave(second)
    assert simulated.timers == []


def test_an_error_of_one_does_not_stop_the_others(
    simulated: Simulated, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def bucket_has_tokens(self) -> None:
            raise RuntimeError("on purpose")

    bucket = Bucket(1000)
    good = Greedy(simulated, bucket).go()
    bucket.leave(good)
    bucket.wait(Broken())
    bucket.wait(good)
    simulated.run(1, good.go_on)
    assert "on purpose" in caplog.text
    assert good.moved >= 1000


def test_a_shaper_has_a_bucket_for_each_direction(simulated: Simulated) -> None:
    shaper = Shaper(1000)
    up, down = Greedy(simulated, shaper.up).go(), Greedy(simulated, shaper.down).go()
    shaper.set_speed(100_000)
    before = up.moved, down.moved
    simulated.run(10, all_go_on(up, down))
    for stream, start in ((up, before[0]), (down, before[1])):
        assert stream.moved - start == pytest.approx(1_000_000, rel=0.05)


# a part of the speed


@pytest.mark.parametrize("part", [0.05, 0.5, 0.75])
@pytest.mark.parametrize("speed", SPEEDS[2:5])
def test_a_part_of_the_speed(simulated: Simulated, speed: int, part: float) -> None:
    """Also of what may pass at once."""
    bucket = Bucket(speed)
    whole = bucket._burst
    bucket.set_part(part)
    assert bucket._burst == whole * part
    stream = Greedy(simulated, bucket).go()
    simulated.run(30, stream.go_on)
    assert stream.moved == pytest.approx(30 * speed * part, rel=0.05)
    bucket.set_speed(speed * 2)
    before = stream.moved
    simulated.run(30, stream.go_on)
    assert stream.moved - before == pytest.approx(60 * speed * part, rel=0.05)
    bucket.set_speed(0)
    assert bucket.allowed(stream, 1 << 30) == 1 << 30


def test_the_part_changes_while_streams_wait(simulated: Simulated) -> None:
    bucket = Bucket(100_000)
    stream = Greedy(simulated, bucket).go()
    moved = []
    for part in (1.0, 0.1, 0.5, 0.02, 1.0):
        bucket.set_part(part)
        before = stream.moved
        simulated.run(10, stream.go_on)
        moved.append((stream.moved - before) / 1_000_000)
    assert moved == pytest.approx([1.0, 0.1, 0.5, 0.02, 1.0], rel=0.05, abs=0.01)


def test_a_debt_is_not_longer_for_a_small_part(simulated: Simulated) -> None:
    """What new connections have brought would hold up all for many seconds."""
    bucket = Bucket(100_000)
    bucket.spend(1_000_000)
    bucket.set_part(0.01)
    stream = Greedy(simulated, bucket).go()
    simulated.run(1.7, stream.go_on)
    assert stream.moved > 0


def test_who_is_active(simulated: Simulated) -> None:
    bucket = Bucket(1000)
    first = Greedy(simulated, bucket).go()
    assert bucket.active(1.0) == 0, "nobody wants to know"
    bucket.leave(first)
    woken: list[float] = []
    bucket.share(lambda: woken.append(simulated.now))
    second, third = Greedy(simulated, bucket), object()
    bucket.wait(second)
    bucket.note(third)
    assert (woken, bucket.active(1.0)) == ([1000.0], 2)
    bucket.leave(second)
    simulated.now += 0.9
    bucket.note(third)
    simulated.now += 0.9
    assert bucket.active(1.0) == 1
    bucket.forget(third)
    bucket.forget(third)
    assert bucket.active(1.0) == 0
    bucket.note(third)
    assert len(woken) == 2
    bucket.share(None)
    bucket.note(third)
    assert (len(woken), bucket.active(1.0)) == (2, 0)


def test_a_part_that_begins_while_one_begins_to_wait(simulated: Simulated) -> None:
    """It is taken into account for how long that one waits."""
    bucket = Bucket(100_000)
    bucket.set_part(0.01)
    bucket.share(lambda: bucket.set_part(1.0))
    stream = Greedy(simulated, bucket).go()
    simulated.run(1, stream.go_on)
    assert stream.moved == pytest.approx(100_000, rel=0.05)
