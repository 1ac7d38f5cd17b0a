"""A user's speed in several workers: never more than that in all of them together, and where it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic

import gevent
import pytest
from gevent import get_hub

from gtapp.relay.bucket import BURST_S, Bucket
from gtapp.server.siblings import Siblings
from gtapp.server.speeds import IDLE, LOOK_S, Speeds
from tests.support.relay import turn, until
from tests.unit.server.scene import introduce

SPEED = 1_000_000
BURST = BURST_S * SPEED  # what may pass at once


class Stream:
    """Takes what it may of a bucket, as much as there is of it, or `most` bytes each time."""

    def __init__(self, bucket: Bucket, most: int = 65536) -> None:
        self.bucket = bucket
        self.most = most
        self.moved = 0
        self._waits = False
        self._timer = get_hub().loop.timer(0.001, 0.001)
        self._timer.start(self._ready)

    def _ready(self) -> None:
        """Its socket is."""
        while not self._waits:
            if not self._move():
                self._waits = True
                self.bucket.wait(self)

    def bucket_has_tokens(self) -> None:
        self._waits = False
        self._move()

    def _move(self) -> int:
        size = self.bucket.allowed(self, self.most)
        self.bucket.spend(size)
        self.moved += size
        return size

    def rest(self) -> None:
        """It has nothing to move any more, but is not over."""
        self._timer.stop()
        self.bucket.leave(self)

    def end(self) -> None:
        self.rest()
        self.bucket.forget(self)


class Worker:
    def __init__(self, number: int) -> None:
        self.siblings = Siblings(number)
        self.speeds = Speeds(self.siblings)
        self.siblings.start()
        self.streams: list[Stream] = []

    def bucket(self, user_id: str = "id1", speed: int = SPEED) -> Bucket:
        return self.speeds.shaper(user_id, speed).down

    def stream(self, count: int = 1) -> list[Stream]:
        made = [Stream(self.bucket()) for _ in range(count)]
        self.streams += made
        return made

    @property
    def part(self) -> float:
        return self.bucket()._part

    @property
    def moved(self) -> int:
        return sum(stream.moved for stream in self.streams)


@pytest.fixture
def new_worker() -> Iterator[Callable[[], Worker]]:
    """new_worker(): the next one, which knows those before."""
    made: list[Worker] = []

    def make() -> Worker:
        worker = Worker(len(made) + 1)
        for each in made:
            introduce(each.siblings, worker.siblings)
        made.append(worker)
        turn(5)
        return worker

    yield make
    for each in made:
        for stream in each.streams:
            stream.end()
        each.siblings.stop()
        each.speeds.stop()


@pytest.fixture
def workers(new_worker: Callable[[], Worker]) -> list[Worker]:
    return [new_worker() for _ in range(3)]


class Measured:
    """What passes in all of these workers while it lasts."""

    def __init__(self, *workers: Worker) -> None:
        self._workers = workers
        self._start = monotonic()
        self._before = [worker.moved for worker in workers]

    def over(self, seconds: float) -> list[float]:
        """How much of the speed each worker has used in so many seconds."""
        gevent.sleep(seconds)
        passed = monotonic() - self._start
        moved = [worker.moved - before for worker, before in zip(self._workers, self._before, strict=True)]
        return [each / passed / SPEED for each in moved]


def test_alone_it_has_the_whole_speed_and_nobody_counts(new_worker: Callable[[], Worker]) -> None:
    worker = new_worker()
    bucket = worker.bucket()
    worker.stream()
    assert bucket._part == 1
    assert bucket._active is None
    assert not worker.speeds._timer.active
    assert 0.6 < Measured(worker).over(0.5)[0] < 1.05 + BURST_S / 0.5


def test_the_busy_worker_has_all_of_it(workers: list[Worker]) -> None:
    one, two, three = workers
    one.stream()
    turn(10)
    assert one.part == 1
    assert two.part == three.part == pytest.approx(IDLE, rel=0.1)
    assert 0.6 < Measured(one).over(1)[0] < 1.07


def test_it_is_shared_by_the_streams(workers: list[Worker]) -> None:
    one, two, three = workers
    one.stream(3)
    two.stream()
    until(lambda: (one.part, two.part) == (0.75, 0.25))
    first, second, none = Measured(one, two, three).over(2)
    assert first + second < 1.05
    assert first == pytest.approx(3 * second, rel=0.2)
    assert none == 0


def test_the_sum_stays_within_the_speed_while_streams_come_and_go(workers: list[Worker]) -> None:
    measured = Measured(*workers)
    passed = 0.0
    for turns in range(12):
        worker = workers[turns % 3]
        (stream,) = worker.stream()
        if turns % 2:
            workers[(turns + 1) % 3].stream()
        passed += 0.3
        used = measured.over(0.3)
        assert sum(used) < 1.05 + BURST_S / passed
        stream.end()
    assert sum(measured.over(0.1)) > 0.5


def test_who_begins_while_others_are_busy_has_its_part_at_once(workers: list[Worker]) -> None:
    one, two, _ = workers
    one.stream()
    gevent.sleep(0.2)
    measured = Measured(one, two)
    two.stream()
    until(lambda: one.part == two.part == 0.5)
    first, second = measured.over(1)
    assert first + second < 1.06
    assert second > 0.25


@pytest.mark.parametrize("how", ["end", "rest"])
def test_the_part_of_one_that_is_idle_goes_to_the_others(workers: list[Worker], how: str) -> None:
    one, two, _ = workers
    one.stream()
    (stream,) = two.stream()
    until(lambda: one.part == 0.5)
    getattr(stream, how)()
    until(lambda: one.part == 1)
    assert 0.6 < Measured(one).over(0.5)[0] < 1.1


def test_one_that_is_idle_may_begin_again(workers: list[Worker]) -> None:
    one, two, _ = workers
    one.stream()
    (stream,) = two.stream()
    stream.rest()
    until(lambda: one.part == 1)
    again = Stream(two.bucket())
    two.streams.append(again)
    until(lambda: one.part == two.part == 0.5)


def test_where_nobody_is_active_everybody_may_begin(workers: list[Worker]) -> None:
    """And all their bursts together are not more than one."""
    bursts = 0
    for worker in workers:
        bucket = worker.bucket()
        stream = Stream(bucket)
        stream.end()
        bursts += bucket.allowed(stream, 1 << 30)
    assert 0.9 * BURST < bursts < 1.05 * BURST


def test_the_directions_have_nothing_to_do_with_each_other(workers: list[Worker]) -> None:
    one, two, _ = workers
    one.stream()
    two.streams.append(Stream(two.speeds.shaper("id1", SPEED).up))
    gevent.sleep(0.05)
    assert one.bucket()._part == 1
    assert two.speeds.shaper("id1", SPEED).up._part == 1


def test_users_have_nothing_to_do_with_each_other(workers: list[Worker]) -> None:
    one, two, _ = workers
    one.stream()
    two.streams.append(Stream(two.bucket("id2")))
    gevent.sleep(0.05)
    assert one.part == two.bucket("id2")._part == 1


def test_a_newcomer_is_told(workers: list[Worker], new_worker: Callable[[], Worker]) -> None:
    workers[0].stream(2)
    gevent.sleep(LOOK_S + 0.1)
    four = new_worker()
    assert four.part < 0.05
    four.stream(2)
    until(lambda: workers[0].part == four.part == 0.5)


def test_the_part_of_a_worker_that_dies_goes_to_the_others(workers: list[Worker]) -> None:
    one, two, three = workers
    one.stream()
    two.stream()
    until(lambda: one.part == 0.5)
    two.siblings.stop()
    until(lambda: one.part == 1)
    three.siblings.stop()
    until(lambda: one.bucket()._active is None)
    assert one.part == 1
    assert not one.speeds._timer.active
    assert one.speeds._here == {}


def test_another_speed(workers: list[Worker]) -> None:
    one, two, _ = workers
    one.stream()
    two.stream()
    until(lambda: one.part == two.part == 0.5)
    for each in (one, two):
        each.speeds.set_speed("id1", SPEED // 2)
    gevent.sleep(0.2)
    assert 0.3 < sum(Measured(one, two).over(1)) < 0.58
    for each in (one, two):
        for stream in each.streams:
            stream.end()
        each.speeds.set_speed("id1", 0)
        assert each.bucket().allowed(each.streams[0], 1 << 30) == 1 << 30


def test_a_user_that_is_gone(workers: list[Worker]) -> None:
    one, two, _ = workers
    (stream,) = one.stream()
    two.stream()
    until(lambda: two.part == 0.5)
    stream.end()
    one.speeds.forget("id1")
    until(lambda: two.part == 1)
    assert one.speeds.users() == []
    assert one.speeds._here == {}
    until(lambda: not one.speeds._timer.active)
