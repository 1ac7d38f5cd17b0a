"""The link: one write per turn, room for feeders, an end in order and an end at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gtapp.relay import link as link_module
from gtapp.relay.link import HIGH_WATER, READ_STOP, Link
from gtapp.relay.sockets import Socket
from tests.support.relay import random_bytes, read_all, read_exactly, reset, tcp_pair, turn, until

SMALL = 16 * 1024


class Pair:
    """A link, gevent's socket at its other end, and what the link has called back with."""

    def __init__(self, buffer_bytes: int = 0) -> None:
        sock, self.far = tcp_pair(buffer_bytes)
        self.link = Link(sock, "far end")
        self.data = b""
        self.lost: list[str] = []
        self.link.on_data = self.take
        self.link.on_lost = self.lost.append

    def take(self, view: memoryview) -> None:
        self.data += view


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.link.abort()
    made.far.close()


@pytest.fixture
def narrow() -> Iterator[Pair]:
    """Its kernel buffers are small: whoever does not read holds the other up."""
    made = Pair(SMALL)
    yield made
    made.link.abort()
    made.far.close()


class Counting:
    """A plain socket that notes the system calls made with it."""

    def __init__(self, sock: Socket) -> None:
        self._sock = sock
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("send", "sendmsg"):
            self.calls.append(name)
        return getattr(self._sock, name)


class Feeder:
    def __init__(self, called: list[Feeder]) -> None:
        self.called = called

    def link_has_room(self) -> None:
        self.called.append(self)


def test_what_arrives_is_handed_out(pair: Pair) -> None:
    pair.far.sendall(b"before the start")
    turn()
    assert pair.data == b""
    pair.link.start()
    until(lambda: pair.data == b"before the start")
    assert pair.link.bytes_in == len(pair.data)


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_one_system_call_for_all_writes_of_a_turn(pair: Pair, size: int) -> None:
    counting = Counting(pair.link.sock)
    pair.link.sock = counting
    for number in range(10):
        pair.link.write(bytes([number]) * size)
    assert pair.link.queued == 10 * size
    assert counting.calls == []
    turn()
    assert len(counting.calls) == 1
    assert pair.link.queued == 0
    assert read_exactly(pair.far, 10 * size) == b"".join(bytes([number]) * size for number in range(10))
    assert pair.link.bytes_out == 10 * size


def test_many_pieces_through_a_narrow_socket_keep_their_order(narrow: Pair) -> None:
    data = random_bytes(3_000_000)
    pieces = [data[at : at + 1237] for at in range(0, len(data), 1237)]
    for piece in pieces:
        narrow.link.write(piece)
    assert read_exactly(narrow.far, len(data)) == data
    assert narrow.link.queued == 0


def test_feeders_go_on_at_half_in_the_order_of_asking(narrow: Pair) -> None:
    narrow.link.write(bytes(HIGH_WATER + 1))
    called: list[Feeder] = []
    feeders = [Feeder(called) for _ in range(3)]
    for feeder in feeders:
        narrow.link.wait_for_room(feeder)
    turn(10)
    assert called == []
    taken = 0
    while not called:
        taken += len(narrow.far.recv(4096))
        assert taken <= HIGH_WATER
    assert called == feeders
    assert 0 < narrow.link.queued <= HIGH_WATER // 2
    called.clear()
    read_exactly(narrow.far, HIGH_WATER + 1 - taken)
    turn()
    assert called == []


def test_a_feeder_may_ask_again_while_it_is_called(narrow: Pair) -> None:
    called: list[int] = []

    class Again:
        def link_has_room(self) -> None:
            called.append(1)
            if len(called) == 1:
                narrow.link.wait_for_room(self)

    narrow.link.write(bytes(HIGH_WATER))
    narrow.link.wait_for_room(Again())
    read_exactly(narrow.far, HIGH_WATER)
    until(lambda: narrow.link.queued == 0)
    assert len(called) in (1, 2)


def test_reading_stops_while_too_much_is_unsent(narrow: Pair) -> None:
    narrow.link.start()
    narrow.link.write(bytes(READ_STOP + 400_000))
    turn()
    narrow.far.sendall(b"a question")
    turn(20)
    assert narrow.data == b""
    read_exactly(narrow.far, READ_STOP + 400_000)
    until(lambda: narrow.data == b"a question")


def test_paused_reading_stays_paused_when_there_is_room_again(narrow: Pair) -> None:
    narrow.link.start()
    narrow.link.write(bytes(READ_STOP + 400_000))
    turn()
    narrow.link.pause_reading()
    narrow.far.sendall(b"a question")
    read_exactly(narrow.far, READ_STOP + 400_000)
    until(lambda: narrow.link.queued == 0)
    turn(10)
    assert narrow.data == b""
    narrow.link.resume_reading()
    until(lambda: narrow.data == b"a question")


def test_resumed_reading_waits_for_the_unsent_bytes(narrow: Pair) -> None:
    narrow.link.start()
    narrow.link.pause_reading()
    narrow.link.write(bytes(READ_STOP + 400_000))
    narrow.link.resume_reading()
    narrow.far.sendall(b"a question")
    turn(20)
    assert narrow.data == b""
    read_exactly(narrow.far, READ_STOP + 400_000)
    until(lambda: narrow.data == b"a question")


def test_lost_by_a_close_of_the_other_end(pair: Pair) -> None:
    pair.link.start()
    pair.far.close()
    until(lambda: pair.lost)
    assert pair.lost == ["closed by the other end"]
    assert pair.link.closed


def test_lost_by_a_reset(pair: Pair) -> None:
    pair.link.start()
    reset(pair.far)
    until(lambda: pair.lost)
    assert pair.lost == ["Connection reset by peer"]


def test_lost_while_writing(pair: Pair) -> None:
    """Nobody reads here: only the write tells that the other end is gone."""
    pair.far.close()
    while not pair.lost:
        pair.link.write(b"x")
        turn(1)
    assert len(pair.lost) == 1
    pair.link.write(b"into the void")
    assert pair.link.queued == 0


def test_an_abort_calls_nobody_back_and_resets(pair: Pair) -> None:
    pair.link.start()
    pair.link.write(b"lost")
    pair.link.abort()
    with pytest.raises(ConnectionResetError):
        read_all(pair.far)
    turn()
    assert pair.lost == []
    pair.link.abort()
    pair.link.finish()
    pair.link.resume_reading()
    assert "closed" in repr(pair.link)


def test_a_callback_that_raises_ends_the_link(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    def fail(view: memoryview) -> None:
        raise ZeroDivisionError

    pair.link.on_data = fail
    pair.link.start()
    pair.far.sendall(b"x")
    until(lambda: pair.lost)
    assert pair.lost == ["internal error"]
    assert pair.link.closed
    assert "unexpected error" in caplog.text


def test_a_feeder_that_raises_ends_the_link(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def link_has_room(self) -> None:
            raise ZeroDivisionError

    pair.link.wait_for_room(Broken())
    pair.link.write(b"x")
    until(lambda: pair.lost)
    assert "unexpected error" in caplog.text


def test_finish_sends_what_is_queued(narrow: Pair) -> None:
    data = random_bytes(500_000)
    narrow.link.start()
    narrow.link.write(data)
    narrow.link.finish()
    narrow.link.write(b"too late")
    assert read_all(narrow.far) == data
    assert not narrow.link.closed, "it waits for the other end"
    narrow.far.close()
    until(lambda: narrow.link.closed)
    assert narrow.lost == []


def test_finish_of_a_link_that_has_nothing_to_send(pair: Pair) -> None:
    pair.link.start()
    pair.link.finish()
    assert read_all(pair.far) == b""
    pair.far.sendall(b"dropped")
    turn()
    assert pair.data == b""
    pair.far.close()
    until(lambda: pair.link.closed)


def test_finish_calls_no_feeder(narrow: Pair) -> None:
    called: list[Feeder] = []
    narrow.link.write(bytes(HIGH_WATER))
    narrow.link.wait_for_room(Feeder(called))
    narrow.link.finish()
    read_exactly(narrow.far, HIGH_WATER)
    assert called == []


def test_a_finished_link_does_not_wait_for_ever(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "LINGER_S", 0.05)
    pair.link.start()
    pair.link.finish()
    until(lambda: pair.link.closed)


def test_a_finished_link_that_sends_slowly_is_not_cut(narrow: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lingering begins when everything is out: a tunnel that is drained ends with the last bytes of a response."""
    monkeypatch.setattr(link_module, "LINGER_S", 0.05)
    narrow.link.start()
    narrow.link.write(bytes(800_000))
    narrow.link.finish()
    taken = 0
    with contextlib.suppress(ConnectionResetError):
        while part := narrow.far.recv(10_000):
            taken += len(part)
            gevent.sleep(0.002)  # the other end is slow
    assert taken == 800_000


def test_the_end_of_the_lingering_leaves_the_kernel_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset would throw away what the kernel has not sent yet, or the other end not read."""
    monkeypatch.setattr(link_module, "LINGER_S", 0.05)
    wide = Pair()
    try:
        wide.link.start()
        wide.link.write(bytes(200_000))
        wide.link.finish()
        until(lambda: wide.link.closed)
        assert len(read_all(wide.far)) == 200_000
    finally:
        wide.link.abort()
        wide.far.close()
