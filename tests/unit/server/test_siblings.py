"""What workers tell each other, when they come and when they go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import monotonic

import gevent
import pytest

from gtapp.relay.channel import Message
from gtapp.server.siblings import Siblings
from tests.support.relay import turn, until
from tests.unit.server.scene import introduce, siblings


@pytest.fixture
def three() -> Iterator[list[Siblings]]:
    """All of them have started."""
    made = siblings(3)
    for each in made:
        each.start()
    yield made
    for each in made:
        each.stop()


class Heard(list[tuple[int, int]]):
    """What all of them hear about "topic": who from, and what."""

    def __init__(self, *by: Siblings) -> None:
        for each in by:
            each.on("topic", lambda sibling, message: self.append((sibling, message.values["n"])))


def test_tell_all_and_tell_one(three: list[Siblings]) -> None:
    one, two, _ = three
    heard = Heard(*three)
    one.tell("topic", {"n": 1})
    until(lambda: len(heard) == 2)
    assert heard == [(1, 1), (1, 1)]
    two.tell_one(3, "topic", {"n": 2})
    until(lambda: len(heard) == 3)
    assert heard[2] == (2, 2)
    assert set(one.numbers) == {2, 3}
    assert one.queued(2) == 0


def test_a_message_with_descriptors(three: list[Siblings]) -> None:
    one, two, _ = three
    messages: list[Message] = []
    two.on("file", lambda sibling, message: messages.append(message))
    one.tell_one(2, "file", {"a": 1}, b"data", [os.dup(0)])
    one.tell_one(2, "nobody knows", {}, b"", [os.dup(0)])
    until(lambda: messages)
    ((_, values, data, (fd,), _),) = messages
    assert (values, data) == ({"a": 1}, b"data")
    os.close(fd)
    turn(5)


def test_a_newcomer_and_one_that_leaves(three: list[Siblings]) -> None:
    """Each of the others is told once; nobody tells before he has been introduced."""
    heard = Heard(*three)
    four = Siblings(4)
    Heard(four)
    told: list[tuple[int, str, int]] = []
    for each in (*three, four):
        each.joined.append(lambda number, each=each: each.tell_one(number, "topic", {"n": each.number}))  # type: ignore[misc]
        each.joined.append(lambda number, each=each: told.append((each.number, "joined", number)))  # type: ignore[misc]
        each.left.append(lambda number, each=each: told.append((each.number, "left", number)))  # type: ignore[misc]
    for each in three:
        introduce(each, four)
    assert told == [(number, "joined", 4) for number in (1, 2, 3)]
    four.start()
    assert told[3:] == [(4, "joined", number) for number in (1, 2, 3)]
    until(lambda: len(heard) == 3)
    assert heard == [(4, 4)] * 3
    del told[:]
    four.stop()
    until(lambda: len(told) == 3)
    assert sorted(told) == [(number, "left", 4) for number in (1, 2, 3)]
    assert set(three[0].numbers) == {2, 3}


def test_nothing_is_lost_before_the_start() -> None:
    """Whoever is told before all its parts are there would not know what to do."""
    one, two = siblings(2)
    one.start()
    one.tell("topic", {"n": 1})
    assert not two.numbers
    turn(5)
    heard = Heard(two)
    two.start()
    until(lambda: heard)
    assert heard == [(1, 1)]
    one.stop()
    two.stop()


def test_one_that_is_gone_before_the_start() -> None:
    one, two = siblings(2)
    one.stop()
    two.start()
    two.wait(10)
    until(lambda: not two.numbers)
    two.stop()


# meeting


def test_wait_until_all_have_told() -> None:
    one, two, three = siblings(3)
    heard = Heard(one)
    for each in (two, three):
        each.joined.append(lambda number, each=each: each.tell_one(number, "topic", {"n": each.number}))  # type: ignore[misc]
    one.start()
    two.start()
    waiting = gevent.spawn(one.wait, 10)
    turn(10)
    assert not waiting.ready()
    three.start()
    waiting.get(timeout=10)
    assert sorted(heard) == [(2, 2), (3, 3)]
    for each in (one, two, three):
        each.stop()


def test_whoever_leaves_is_not_waited_for() -> None:
    one, two = siblings(2)
    one.start()
    waiting = gevent.spawn(one.wait, 10)
    turn(5)
    two.stop()
    waiting.get(timeout=10)
    one.stop()


def test_whoever_says_nothing_is_not_waited_for_long() -> None:
    one, two = siblings(2)
    one.start()
    began = monotonic()
    one.wait(0.1)
    assert monotonic() - began < 5
    one.stop()
    two.stop()


def test_nobody_to_wait_for() -> None:
    alone = Siblings(1)
    alone.start()
    began = monotonic()
    alone.wait(10)
    assert monotonic() - began < 5
    alone.leave()
    assert alone.parted


# leaving


def test_who_retires(three: list[Siblings]) -> None:
    one, two, three_ = three
    one.retire()
    until(lambda: two.retiring == three_.retiring == {1})
    four = Siblings(4)
    four.start()
    introduce(one, four)
    until(lambda: four.retiring == {1})
    four.stop()
    one.stop()
    until(lambda: not two.retiring)


def test_parting(three: list[Siblings]) -> None:
    """What the others have sent by then has arrived."""
    one, two, other = three
    heard = Heard(one)
    assert not one.parted
    two.tell_one(1, "topic", {"n": 1})
    one.leave()
    one.leave()
    other.tell_one(1, "topic", {"n": 2})
    assert not one.parted
    until(lambda: one.parted)
    assert sorted(heard) == [(2, 1), (3, 2)]
    assert not two.parted


def test_parting_from_a_newcomer(three: list[Siblings]) -> None:
    one = three[0]
    one.leave()
    until(lambda: one.parted)
    four = Siblings(4)
    introduce(one, four)
    assert not one.parted
    four.start()
    until(lambda: one.parted)
    four.stop()
    until(lambda: len(one.numbers) == 2)
    assert one.parted


def test_parting_from_one_that_has_left(three: list[Siblings]) -> None:
    one, two, other = three
    two._channels[1]._reader.stop()
    one.leave()
    turn(10)
    assert not one.parted
    two.stop()
    until(lambda: one.parted)
    other.stop()
