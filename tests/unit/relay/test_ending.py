"""The end of a process: who is waited for, for how long, and what is cut then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic

import gevent
import pytest

from gtapp.relay.clock import Clock
from gtapp.relay.ending import end_tunnels
from gtapp.relay.pump import Idle, Pump
from tests.support.relay import DATA, EOF, OPEN, RESET, Made, read_all, read_exactly, tcp_pair, until

MakeTunnel = Callable[..., Made]


class Scene:
    """A server's tunnel on a clock; visitors come in with `visit`."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.far = made.far
        self.clock = Clock([90.0])
        self.clock.add(made.tunnel)
        self.clock.start()
        self.visitors: list[object] = []

    def visit(self) -> tuple[object, int]:
        """The visitor's socket and the stream's number. It has asked something."""
        stream = self.made.tunnel.open(0, "192.0.2.1:5", b"")
        self.far.next_of(OPEN)
        sock, local = tcp_pair()
        Pump(stream, Idle(10_000)).attach(sock)
        local.sendall(b"question")
        assert self.far.next_of(DATA)[1] == stream.id
        self.visitors.append(local)
        return local, stream.id

    def answer(self, visitor: object, stream: int) -> None:
        self.far.send(self.far.data(stream, b"answer"))
        assert read_exactly(visitor, 6) == b"answer"

    def end(self, grace: float) -> gevent.Greenlet[[Clock, float, str], int]:
        self.made.tunnel.drain()
        return gevent.spawn(end_tunnels, self.clock, grace, "the end")


@pytest.fixture
def scene(make_tunnel: MakeTunnel) -> Iterator[Scene]:
    made = Scene(make_tunnel().up())
    yield made
    made.clock.stop()
    for visitor in made.visitors:
        visitor.close()  # type: ignore[attr-defined]


def test_nothing_to_wait_for(scene: Scene) -> None:
    ending = scene.end(60)
    scene.far.close()
    assert ending.get(timeout=5) == 0


def test_what_is_between_requests_is_ended_soon(scene: Scene) -> None:
    visitors = [scene.visit() for _ in range(3)]
    for visitor, stream in visitors:
        scene.answer(visitor, stream)
    ending = scene.end(60)
    began = monotonic()
    for _ in visitors:
        _, stream, _ = scene.far.next_of(EOF)
        scene.far.send(scene.far.frames.eof(stream))
    for visitor, _ in visitors:
        assert read_all(visitor) == b""
    assert monotonic() - began < 5
    scene.far.close()
    assert ending.get(timeout=5) == 0


def test_what_runs_may_end_by_itself(scene: Scene) -> None:
    visitor, stream = scene.visit()
    ending = scene.end(60)
    gevent.sleep(2)
    scene.answer(visitor, stream)
    assert scene.far.next_of(EOF)[1] == stream
    scene.far.send(scene.far.frames.eof(stream))
    assert read_all(visitor) == b""
    scene.far.close()
    assert ending.get(timeout=5) == 0


def test_what_takes_too_long_is_cut_and_counted(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        visitor, _ = scene.visit()
    ending = scene.end(0.3)
    assert ending.get(timeout=5) == 2
    assert "2 connections were still running after 0.3 s and are cut" in caplog.text
    with pytest.raises(ConnectionResetError):
        read_all(visitor)
    assert scene.made.closed == ["the end"]


def test_the_rest_for_a_slow_visitor_does_not_look_whole_when_it_is_cut(scene: Scene) -> None:
    """The tunnel is gone, all has arrived here, but the visitor has not taken it yet."""
    tunnel = scene.made.tunnel
    stream = tunnel.open(0, "192.0.2.1:5", b"")
    sock, visitor = tcp_pair(4096)
    scene.visitors.append(visitor)
    Pump(stream, Idle(10_000)).attach(sock)
    scene.far.next_of(OPEN)
    for _ in range(4):
        scene.far.send(scene.far.data(stream.id, bytes(60_000)))
    scene.far.send(scene.far.frames.eof(stream.id))
    until(lambda: stream.eof_received)
    scene.far.close()
    until(lambda: tunnel.closed)
    assert not tunnel.over
    assert scene.end(0.3).get(timeout=5) == 1
    with pytest.raises(ConnectionResetError):
        read_all(visitor)


def test_no_time_at_all(scene: Scene) -> None:
    _, stream = scene.visit()
    assert scene.end(0).get(timeout=5) == 1
    assert (RESET, stream) not in [event[:2] for event in scene.far.rest()], "the tunnel itself is cut"
