"""A lane, between a pump and the connection that was split."""

from __future__ import annotations

import pytest

from gtapp.relay.sockets import EV_READ, EV_WRITE, reset_on_close
from gtapp.server.lanes import FULL_BYTES, Lane
from tests.support.relay import tcp_pair, turn


class Owner:
    """Notes what its lane tells it."""

    def __init__(self) -> None:
        self.notes: list[object] = []

    def lane_sends(self, lane: Lane, data: bytes | memoryview) -> int:
        self.notes.append(bytes(data))
        return len(data)

    def lane_has_room(self, lane: Lane) -> None:
        self.notes.append("room")

    def lane_ended(self, lane: Lane, clean: bool) -> None:
        self.notes.append("ended" if clean else "cut")

    def lane_closed(self, lane: Lane) -> None:
        self.notes.append("closed")


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def lane(owner: Owner):
    sock, visitor = tcp_pair()
    yield Lane(owner, "a", sock)
    sock.close()
    visitor.close()


def read(lane: Lane, size: int = 100) -> bytes:
    buffer = memoryview(bytearray(size))
    return bytes(buffer[: lane.recv_into(buffer)])


def test_what_is_put_in_is_read_in_pieces(lane: Lane) -> None:
    with pytest.raises(BlockingIOError):
        read(lane)
    lane.put(b"abc")
    lane.put(b"de")
    buffer = memoryview(bytearray(100))
    assert lane.recv_into(buffer, 1) == 1
    assert bytes(buffer[:1]) == b"a"
    assert read(lane, 2) == b"bc"
    assert read(lane) == b"de"
    with pytest.raises(BlockingIOError):
        read(lane)


def test_the_end_comes_after_the_rest(lane: Lane) -> None:
    lane.put(b"abc")
    lane.finish()
    assert read(lane) == b"abc"
    assert read(lane) == b""


def test_a_cut_comes_before_it(lane: Lane) -> None:
    lane.put(b"abc")
    lane.cut()
    with pytest.raises(ConnectionResetError):
        read(lane)


def test_who_reads_is_told(lane: Lane) -> None:
    got: list[bytes] = []
    watch = lane.watch(EV_READ)
    watch.start(lambda: got.append(read(lane)))
    turn()
    assert got == []
    lane.put(b"abc")
    turn()
    assert got == [b"abc"]
    watch.stop()


def test_more_than_one_call_takes(lane: Lane, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has more is called until it has not, or somebody is in the way."""
    left: list[bytes | memoryview] = [b"a", b"b", b"c", b"d"]
    watch = lane.watch(EV_WRITE)

    def write() -> None:
        try:
            del left[: lane.sendmsg(left[:2])]
        except BlockingIOError:
            return
        if not left:
            watch.stop()

    watch.start(write)
    write()
    turn()
    assert owner.notes == [b"a", b"b", b"c", b"d"]
    left += [b"e", b"f"]

    def blocks(lane: Lane, data: bytes | memoryview) -> int:
        owner.notes.append("blocked")
        raise BlockingIOError

    monkeypatch.setattr(owner, "lane_sends", blocks)
    watch.start(write)
    turn()
    assert owner.notes[4:] == ["blocked"]
    watch.stop()


def test_who_waits_to_write_is_told(lane: Lane, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks(lane: Lane, data: bytes | memoryview) -> int:
        raise BlockingIOError

    monkeypatch.setattr(owner, "lane_sends", blocks)
    for send in (lambda: lane.send(b"x"), lambda: lane.sendmsg([b"x", b"y"])):
        with pytest.raises(BlockingIOError):
            send()
    calls: list[int] = []
    watch = lane.watch(EV_WRITE)
    watch.start(calls.append, 1)
    turn()
    assert calls == []
    lane.has_room()
    turn()
    assert calls
    watch.stop()


def test_a_full_lane_says_when_it_is_not(lane: Lane, owner: Owner) -> None:
    lane.put(bytes(FULL_BYTES))
    assert lane.is_full
    for _ in range(2):
        read(lane, 1)
        assert owner.notes == ["room"]


def test_what_the_service_does_is_told(lane: Lane, owner: Owner) -> None:
    assert lane.send(b"abc") == 3
    assert lane.sendmsg([b"de", b"f"]) == 3
    lane.shutdown(1)
    assert lane.over
    lane.close()
    assert owner.notes == [b"abc", b"de", b"f", "ended", "closed"]


def test_a_close_that_is_a_reset(lane: Lane, owner: Owner) -> None:
    reset_on_close(lane)
    lane.close()
    assert owner.notes == ["cut", "closed"]


def test_nobody_waits_for_a_service_that_is_over(lane: Lane) -> None:
    lane.put(bytes(FULL_BYTES))
    lane.shutdown(1)
    assert not lane.is_full


def test_it_has_the_visitor_s_address(lane: Lane) -> None:
    assert lane.getpeername() == lane._visitor.getpeername()
    assert lane.fileno() == lane._visitor.fileno()
