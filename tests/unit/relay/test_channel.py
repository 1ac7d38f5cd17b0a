"""Messages with descriptors between two processes, both of them this one here."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence

import gevent
import pytest

from gtapp.errors import GTError
from gtapp.relay.channel import AT_ONCE, INLINE_BYTES, Channel, ChannelClosed, Message, pair
from tests.support.relay import random_bytes, turn, until


class End:
    """One end, and what has come to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.channel = Channel(sock)
        self.messages: list[Message] = []
        self.closed = 0
        self.channel.on_message = self.messages.append
        self.channel.on_closed = self._closed

    def _closed(self) -> None:
        self.closed += 1

    def next(self) -> Message:
        message: Message = until(lambda: self.messages and self.messages.pop(0), "a message")
        return message

    def close(self) -> None:
        self.channel.close()
        for message in self.messages:
            for fd in message.fds:
                os.close(fd)


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    one, other = (End(sock) for sock in pair())
    one.channel.start()
    other.channel.start()
    yield one, other
    one.close()
    other.close()


def a_file(text: bytes) -> int:
    """A descriptor that `text` can be read from."""
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    return reading


def content(fd: int) -> bytes:
    data = os.read(fd, 100)
    os.close(fd)
    return data


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_message(ends: tuple[End, End]) -> None:
    one, other = ends
    one.channel.send("kind", {"a": [1, None, "é"]}, b"\0\xff data")
    assert other.next() == ("kind", {"a": [1, None, "é"]}, b"\0\xff data", [], 0)
    other.channel.send("back")
    assert one.next() == ("back", {}, b"", [], 0)


def test_messages_keep_their_order(ends: tuple[End, End]) -> None:
    one, other = ends
    for number in range(3 * AT_ONCE):
        one.channel.send("n", {"n": number})
    until(lambda: len(other.messages) == 3 * AT_ONCE)
    assert [message.values["n"] for message in other.messages] == list(range(3 * AT_ONCE))


def test_descriptors(ends: tuple[End, End]) -> None:
    one, other = ends
    before = fds()
    one.channel.send("files", {}, b"x", [a_file(b"one"), a_file(b"two")])
    assert fds() == before, "they are used up"
    message = other.next()
    assert [content(fd) for fd in message.fds] == [b"one", b"two"]
    assert fds() == before


def test_descriptors_are_not_for_children(ends: tuple[End, End]) -> None:
    one, other = ends
    one.channel.send("file", {}, b"", [a_file(b"")])
    (fd,) = other.next().fds
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize("size", [INLINE_BYTES - 20, INLINE_BYTES, INLINE_BYTES + 1, 3_000_000])
@pytest.mark.parametrize("with_file", [False, True])
def test_a_message_of_any_size(ends: tuple[End, End], size: int, with_file: bool) -> None:
    one, other = ends
    data = random_bytes(size)
    before = fds()
    one.channel.send("large", {"v": 1}, data, [a_file(b"file")] if with_file else [])
    message = other.next()
    assert (message.values, message.data == data) == ({"v": 1}, True)
    assert [content(fd) for fd in message.fds] == [b"file"] * with_file
    assert fds() == before


def test_large_values(ends: tuple[End, End]) -> None:
    one, other = ends
    values = {"names": [f"name-{number}" for number in range(50_000)]}
    one.channel.send("values", values)
    assert other.next().values == values


def test_nobody_waits_for_a_slow_reader() -> None:
    """What does not fit is kept, and comes in its order."""
    ours, theirs = pair()
    one, other = End(ours), End(theirs)
    before = fds()
    data = random_bytes(10_000)
    for number in range(500):
        one.channel.send("n", {"n": number}, data, [a_file(b"%d" % number)])
    assert one.channel.queued > 100
    assert fds() == before + one.channel.queued, "those that are on their way are closed here"
    other.channel.start()
    until(lambda: len(other.messages) == 500)
    assert one.channel.queued == 0
    assert [content(message.fds[0]) for message in other.messages] == [b"%d" % n for n in range(500)]
    other.messages.clear()
    one.close()
    other.close()


def test_the_end_is_told_once(ends: tuple[End, End]) -> None:
    one, other = ends
    one.channel.send("last")
    one.channel.close()
    assert other.next().kind == "last", "what was sent before arrives"
    until(lambda: other.closed)
    turn()
    assert (one.closed, other.closed) == (0, 1)
    assert other.channel.closed


def test_a_message_to_one_that_is_gone(ends: tuple[End, End]) -> None:
    one, other = ends
    before = fds()
    other.channel.close()
    back: list[int] = []
    one.channel.send("lost", {}, b"", [a_file(b"")])
    one.channel.send("lost", {}, b"", [a_file(b"back")], back.extend)
    one.channel.send("lost", {}, random_bytes(INLINE_BYTES), [a_file(b"large")], back.extend)
    assert not back, "not before this is known to all"
    until(lambda: one.closed)
    assert [content(fd) for fd in back] == [b"back", b"large"]
    one.channel.send("late", {}, b"", [a_file(b"late")], back.extend)
    assert content(back[2]) == b"late"
    one.channel.send("late", {}, b"", [a_file(b"late")])
    assert fds() == before - 2


def test_what_waits_for_one_that_goes_comes_back() -> None:
    """And what it has been sent does not."""
    ours, theirs = pair()
    one = End(ours)
    back: list[int] = []
    events: list[str] = []
    one.channel.on_closed = lambda: events.append("closed")
    one.channel.start()

    def undelivered(fds: Sequence[int]) -> None:
        back.extend(fds)
        events.append("back")

    for number in range(400):
        one.channel.send("n", {}, bytes(10_000), [a_file(b"%d" % number)], undelivered)
    waiting = one.channel.queued
    theirs.close()
    until(lambda: len(back) == waiting)
    assert [content(fd) for fd in back] == [b"%d" % number for number in range(400 - waiting, 400)]
    assert events == ["closed"] + ["back"] * waiting


def test_what_waits_is_closed_with_the_channel() -> None:
    ours, theirs = pair()
    one = End(ours)
    before = fds()
    for _ in range(400):
        one.channel.send("n", {}, bytes(10_000), [a_file(b"")])
    one.close()
    assert fds() == before - 1
    theirs.close()


# calls


def test_a_call_and_its_answer(ends: tuple[End, End]) -> None:
    one, other = ends
    asked = gevent.spawn(one.channel.call, "ask", {"n": 1}, b"data", timeout=10)
    later = gevent.spawn(one.channel.call, "ask", {"n": 2}, timeout=10)
    first, second = other.next(), other.next()
    assert first[:3] == ("ask", {"n": 1}, b"data")
    other.channel.reply(second, {"answer": 2}, b"two", [a_file(b"file")])
    other.channel.send("else")
    other.channel.reply(first, {"answer": 1})
    assert asked.get(timeout=10).values == {"answer": 1}
    message = later.get(timeout=10)
    assert (message.values, message.data, content(message.fds[0])) == ({"answer": 2}, b"two", b"file")
    assert one.next().kind == "else", "no answer"
    assert not one.messages


def test_a_call_without_answer(ends: tuple[End, End]) -> None:
    one, other = ends
    with pytest.raises(GTError, match="no answer within"):
        one.channel.call("ask", timeout=0.05)
    before = fds()
    other.channel.reply(other.next(), {}, b"", [a_file(b"")])
    one.channel.send("mark")
    other.next()
    turn()
    assert fds() == before, "an answer that comes too late is dropped"


def test_a_call_to_one_that_goes(ends: tuple[End, End]) -> None:
    one, other = ends
    asked = gevent.spawn(one.channel.call, "ask", timeout=10)
    other.next()
    other.channel.close()
    with pytest.raises(ChannelClosed):
        asked.get(timeout=10)
    with pytest.raises(ChannelClosed):
        one.channel.call("ask", timeout=10)


# whatever else may happen


def test_an_error_in_a_handler_is_not_the_end(
    ends: tuple[End, End], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = ends
    other.channel.on_message = lambda message: print(message.values["missing"])
    one.channel.send("bad")
    until(lambda: "unexpected error with the message 'bad'" in caplog.text)
    other.channel.on_message = other.messages.append
    one.channel.send("good")
    assert other.next().kind == "good"


def test_a_handler_may_close(ends: tuple[End, End]) -> None:
    one, other = ends
    other.channel.on_message = lambda message: other.channel.close()
    one.channel.send("one")
    one.channel.send("two")
    until(lambda: one.closed)
    assert not other.closed


def test_detach(ends: tuple[End, End]) -> None:
    one, other = ends
    again = End(socket.socket(fileno=one.channel.detach()))
    again.channel.start()
    other.channel.send("still there")
    assert again.next().kind == "still there"
    assert not other.closed
    again.close()


def test_too_many_descriptors_on_their_way(ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel limits them; they follow when there are less."""
    one, other = ends
    refused: list[int] = []

    class Refusing:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def sendmsg(self, *args: object) -> int:
            if len(refused) < 3:
                refused.append(1)
                raise OSError(109, "Too many references: cannot splice")
            return self._sock.sendmsg(*args)  # type: ignore[arg-type]

        def close(self) -> None:
            self._sock.close()

    monkeypatch.setattr(one.channel, "_sock", Refusing(one.channel._sock))
    one.channel.send("n", {}, b"", [a_file(b"one")])
    one.channel.send("n", {}, b"", [a_file(b"two")])
    assert [content(other.next().fds[0]) for _ in range(2)] == [b"one", b"two"]
    assert len(refused) == 3
