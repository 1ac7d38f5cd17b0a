"""The pump between a local socket and a stream: windows, room on the link, and every way to end."""

from __future__ import annotations

import gc
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gtapp.observe import metrics
from gtapp.relay import pump as pump_module
from gtapp.relay.link import HIGH_WATER
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.stream import INITIAL_WINDOW
from gtapp.wire import frames
from tests.support.relay import (
    CLOSED,
    CONTROL,
    DATA,
    EOF,
    RESET,
    WINDOW,
    Made,
    random_bytes,
    read_all,
    read_exactly,
    reset,
    tcp_pair,
    turn,
    until,
)  # fmt: skip

MakeTunnel = Callable[..., Made]


class Scene:
    """A stream with a pump: `local` is the visitor (or service) at the pump's socket, `far` the tunnel's other end."""

    def __init__(self, made: Made, buffer_bytes: int = 0, idle: Idle | None = None) -> None:
        self.made = made
        self.tunnel, self.far = made.tunnel, made.far
        if self.tunnel.is_server:
            self.stream = self.tunnel.open(0, "192.0.2.1:5", b"")
            self.far.next_of(frames.OPEN)
        else:
            self.far.send(self.far.frames.open(2, 0, "", b""))
            until(lambda: made.opened)
            self.stream = made.opened[0][0]
        self.id = self.stream.id
        self.sock, self.local = tcp_pair(buffer_bytes)
        self.pump = Pump(self.stream, idle or Idle(1000))

    def attach(self, *first: bytes) -> Scene:
        self.pump.attach(self.sock, first)
        return self

    def send(self, data: bytes) -> None:
        """The far end sends data on the stream, in frames, whatever the window."""
        for at in range(0, len(data), 65536):
            self.far.send(self.far.data(self.id, data[at : at + 65536]))

    def send_eof(self) -> None:
        self.far.send(self.far.frames.eof(self.id))

    def mark(self) -> None:
        """The far end gets a CONTROL now: what has not come before it was not sent."""
        self.tunnel.send_control({"type": "mark"})

    @property
    def closed(self) -> bool:
        return self.sock.fileno() < 0

    def close(self) -> None:
        if not self.stream.over:
            self.stream.reset()
        if not self.closed:
            self.pump._close(reset=False)
        self.local.close()


@pytest.fixture
def make_scene(make_tunnel: MakeTunnel) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(
        version: int = 3,
        buffer_bytes: int = 0,
        link_buffer_bytes: int = 0,
        idle: Idle | None = None,
        is_server: bool = True,
    ) -> Scene:
        made = make_tunnel(version=version, is_server=is_server, buffer_bytes=link_buffer_bytes).up()
        scenes.append(Scene(made, buffer_bytes, idle))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


MakeScene = Callable[..., Scene]


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    fresh = metrics.Counters()
    monkeypatch.setattr(pump_module, "counters", fresh)
    return fresh


# both ways


@pytest.mark.parametrize("version", [3, 1])
def test_bytes_go_both_ways(make_scene: MakeScene, version: int) -> None:
    scene = make_scene(version).attach()
    scene.local.sendall(b"question")
    assert scene.far.next() == (DATA, scene.id, b"question")
    scene.send(b"answer")
    assert read_exactly(scene.local, 6) == b"answer"
    assert (scene.tunnel.bytes_from_local, scene.tunnel.bytes_to_local) == (8, 6)
    assert scene.stream.send_window == (INITIAL_WINDOW if version == 3 else 1 << 62) - 8
    assert scene.pump.delivered_any


def test_what_came_before_the_socket_is_delivered_first(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.stream.undelivered = 11
    scene.attach(b"first ", b"then ")
    scene.send(b"later")
    assert read_exactly(scene.local, 16) == b"first then later"
    assert scene.stream.undelivered == 0


def test_what_came_before_the_socket_does_not_fit(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192)
    data = random_bytes(250_000)
    scene.stream.undelivered = len(data)
    scene.stream.eof_received = True
    scene.attach(data[:100_000], data[100_000:])
    assert read_all(scene.local) == data
    assert scene.stream.undelivered == 0


def test_order_is_kept_when_the_local_socket_is_slow(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192).attach()
    data = random_bytes(INITIAL_WINDOW)
    scene.send(data)
    until(lambda: scene.stream.undelivered > 0)
    assert read_exactly(scene.local, len(data)) == data
    until(lambda: scene.stream.undelivered == 0)


# windows and room


def test_sending_stops_when_the_window_is_used_up(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    data = random_bytes(INITIAL_WINDOW + 100_000)
    sender = gevent.spawn(scene.local.sendall, data)
    got = b""
    while len(got) < INITIAL_WINDOW:
        got += scene.far.next()[2]
    turn(10)
    scene.mark()
    assert scene.far.next()[0] == CONTROL
    assert scene.stream.send_window == 0
    scene.far.send(scene.far.frames.window(scene.id, 1))
    got += scene.far.next()[2]
    assert len(got) == INITIAL_WINDOW + 1
    scene.far.send(scene.far.frames.window(scene.id, 1_000_000))
    while len(got) < len(data):
        got += scene.far.next()[2]
    assert got == data
    sender.join()


def test_a_window_that_was_used_up_before_the_socket_came(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.stream.send_window = 0
    scene.attach()
    scene.local.sendall(b"question")
    turn(5)
    scene.far.send(scene.far.frames.window(scene.id, 4))
    assert scene.far.next() == (DATA, scene.id, b"ques")
    scene.far.send(scene.far.frames.window(scene.id, 100))
    assert scene.far.next() == (DATA, scene.id, b"tion")


def test_a_window_that_opens_after_the_end_of_the_input(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    scene.stream.send_window = 3
    scene.local.sendall(b"abc")
    scene.local.shutdown(socket.SHUT_WR)
    assert scene.far.next()[2] == b"abc"
    turn(5)
    scene.mark()
    assert scene.far.next()[0] == CONTROL, "the end is seen when there is a window again"
    scene.far.send(scene.far.frames.window(scene.id, 5))
    assert scene.far.next()[0] == EOF
    scene.far.send(scene.far.frames.window(scene.id, 5))
    scene.send(b"x")
    assert read_exactly(scene.local, 1) == b"x"


def fill_link(scene: Scene) -> None:
    """The far end does not read, and more than HIGH_WATER is waiting for it."""
    scene.tunnel.link.write(scene.far.data(1000, bytes(65536)) * (4 * HIGH_WATER // 65536))
    turn()
    assert scene.tunnel.link.queued >= HIGH_WATER


def test_sending_stops_while_the_link_is_full(make_scene: MakeScene) -> None:
    scene = make_scene(link_buffer_bytes=65536).attach()
    fill_link(scene)
    before = scene.tunnel.link.queued
    scene.local.sendall(b"question")
    until(lambda: "waiting" in repr(scene.pump))
    turn(5)
    assert scene.tunnel.link.queued <= before
    while (event := scene.far.next())[1] != scene.id:
        pass
    assert event == (DATA, scene.id, b"question")
    assert "open" in repr(scene.pump)


@pytest.mark.parametrize("how", ["reset by far", "tunnel", "idle"])
def test_the_end_of_one_that_waits_for_the_link(make_scene: MakeScene, how: str) -> None:
    scene = make_scene(link_buffer_bytes=65536, idle=Idle(3)).attach()
    fill_link(scene)
    scene.local.sendall(b"question")
    until(lambda: "waiting" in repr(scene.pump))
    if how == "reset by far":
        scene.far.send(scene.far.frames.reset(scene.id, 0))
    elif how == "tunnel":
        scene.tunnel.abort("over")
    else:
        for _ in range(5):
            scene.pump.tick()
        assert not scene.closed, "it is the tunnel that is slow"
        scene.stream.reset()
        scene.pump._close(reset=False)
    until(lambda: scene.closed)
    if how != "tunnel":  # the link has room one day, and calls the pump that asked
        gevent.spawn(scene.far.rest)
        until(lambda: scene.tunnel.link.queued == 0)
    assert not scene.tunnel.closed or how == "tunnel"
    scene.tunnel.abort("over")
    turn(5)


def test_the_local_socket_that_leaves_while_its_pump_waits_for_the_link(make_scene: MakeScene) -> None:
    scene = make_scene(link_buffer_bytes=65536).attach()
    fill_link(scene)
    scene.local.sendall(b"question")
    until(lambda: "waiting" in repr(scene.pump))
    reset(scene.local)
    while scene.far.next()[:2] != (RESET, scene.id):
        pass
    until(lambda: scene.closed)
    assert scene.stream.over


# half close, in every order


def test_input_ends_first(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    scene.local.sendall(b"question")
    scene.local.shutdown(socket.SHUT_WR)
    assert scene.far.next() == (DATA, scene.id, b"question")
    assert scene.far.next()[0] == EOF
    scene.send(b"answer")
    assert read_exactly(scene.local, 6) == b"answer"
    scene.send_eof()
    assert read_all(scene.local) == b""
    until(lambda: scene.closed)
    assert scene.stream.over
    scene.mark()
    assert scene.far.next()[0] == CONTROL, "both ends know: no RESET"


def test_output_ends_first(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    scene.send(b"answer")
    scene.send_eof()
    assert read_all(scene.local) == b"answer"
    scene.local.sendall(b"still talking")
    assert scene.far.next() == (DATA, scene.id, b"still talking")
    assert not scene.closed
    scene.local.shutdown(socket.SHUT_WR)
    assert scene.far.next()[0] == EOF
    until(lambda: scene.closed)
    assert scene.stream.over


def test_input_ends_with_output_pending(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192).attach()
    data = random_bytes(INITIAL_WINDOW)
    scene.send(data[:-1])
    until(lambda: scene.stream.undelivered > 0)
    scene.local.shutdown(socket.SHUT_WR)
    assert scene.far.next_of(EOF)
    scene.send(data[-1:])
    scene.send_eof()
    assert read_all(scene.local) == data
    until(lambda: scene.closed)
    assert scene.stream.over


def test_output_ends_with_bytes_pending(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192).attach()
    data = random_bytes(INITIAL_WINDOW)
    scene.send(data)
    scene.send_eof()
    until(lambda: scene.stream.eof_received)
    assert scene.stream.undelivered > 0
    assert read_all(scene.local) == data
    assert not scene.closed
    scene.local.close()
    assert scene.far.next_of(EOF)
    until(lambda: scene.closed)


def test_an_end_that_came_before_the_socket(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.stream.eof_received = True
    scene.attach()
    assert read_all(scene.local) == b""
    scene.local.sendall(b"answer")
    assert scene.far.next() == (DATA, scene.id, b"answer")
    scene.local.close()
    assert scene.far.next()[0] == EOF
    until(lambda: scene.closed)


def test_a_local_socket_that_is_gone_when_the_half_close_comes(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    reset(scene.local)
    scene.send_eof()
    assert scene.far.next()[:2] == (RESET, scene.id)
    until(lambda: scene.closed)
    assert not scene.tunnel.closed


# resets


def test_a_reset_of_the_far_end_is_passed_on(make_scene: MakeScene, counters: metrics.Counters) -> None:
    scene = make_scene().attach()
    scene.far.send(scene.far.frames.reset(scene.id, frames.CANCELLED))
    with pytest.raises(ConnectionResetError):
        read_all(scene.local)
    assert scene.stream.over
    assert counters.streams_reset == 1
    scene.mark()
    assert scene.far.next()[0] == CONTROL


def test_a_reset_with_bytes_pending(make_scene: MakeScene) -> None:
    """Nobody may take the part that has come for the whole."""
    scene = make_scene(buffer_bytes=8192).attach()
    scene.send(bytes(INITIAL_WINDOW))
    until(lambda: scene.stream.undelivered > 0)
    scene.far.send(scene.far.frames.reset(scene.id, frames.CANCELLED))
    until(lambda: scene.closed)
    with pytest.raises(ConnectionResetError):
        read_all(scene.local)


def test_a_reset_of_the_local_socket_is_passed_on(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    reset(scene.local)
    assert scene.far.next() == (RESET, scene.id, frames.CANCELLED)
    until(lambda: scene.closed)
    assert scene.stream.over


def test_a_reset_of_the_local_socket_with_bytes_pending(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192).attach()
    scene.send(bytes(INITIAL_WINDOW))
    until(lambda: scene.stream.undelivered > 0)
    reset(scene.local)
    assert scene.far.next_of(RESET) == (RESET, scene.id, frames.CANCELLED)
    until(lambda: scene.closed)
    scene.far.send(scene.far.data(1000, b"x"))
    turn(5)
    assert not scene.tunnel.closed


def test_a_write_to_a_local_socket_that_is_gone(make_scene: MakeScene, counters: metrics.Counters) -> None:
    """The pump does not read (no window): only the write can tell."""
    scene = make_scene()
    scene.stream.send_window = 0
    scene.attach()
    reset(scene.local)
    scene.send(b"x")
    assert scene.far.next() == (RESET, scene.id, frames.CANCELLED)
    until(lambda: scene.closed)
    assert counters.streams_reset == 1


def wait_for_error(sock: Any) -> None:
    """Until the system knows that the connection is gone; the hub, and so the pump, stands still meanwhile."""
    poll = select.poll()
    poll.register(sock.fileno(), 0)  # POLLERR and POLLHUP are always told
    assert poll.poll(10_000)


def test_an_upload_that_is_reset_is_not_taken_for_a_whole_one(
    make_scene: MakeScene, counters: metrics.Counters, over: str
) -> None:
    """The write that fails takes the error away: what is left to read ends like a file that is complete."""
    if over == "tls":
        pytest.skip("a connection without close_notify is never taken for a whole one there")
    scene = make_scene().attach()
    scene.local.sendall(b"half of it")
    reset(scene.local)
    wait_for_error(scene.sock)
    scene.pump.deliver(memoryview(b"x"))
    assert scene.far.next_of(RESET) == (RESET, scene.id, frames.CANCELLED)
    until(lambda: scene.closed)
    assert counters.streams_reset == 1


def test_a_whole_upload_of_a_visitor_that_does_not_read(make_scene: MakeScene, over: str) -> None:
    """Its end has come before the reset: the system says EPIPE then."""
    if over == "tls":
        pytest.skip("what TLS has sent is read before the write can fail")
    scene = make_scene().attach()
    scene.local.sendall(b"all of it")
    scene.local.close()
    scene.sock.send(b"x")  # is answered with a reset
    wait_for_error(scene.sock)
    scene.pump.deliver(memoryview(b"x"))
    assert scene.far.next() == (DATA, scene.id, b"all of it")
    assert scene.far.next() == (EOF, scene.id, None)


def test_the_end_of_the_tunnel_is_a_reset(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    scene.send(b"half of it")
    assert read_exactly(scene.local, 10)
    scene.far.close()
    with pytest.raises(ConnectionResetError):
        read_all(scene.local)


def test_the_end_of_the_tunnel_when_all_had_come(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192).attach()
    data = random_bytes(INITIAL_WINDOW)
    scene.send(data)
    scene.send_eof()
    scene.far.close()
    until(lambda: scene.tunnel.closed)
    assert not scene.tunnel.over
    assert read_all(scene.local) == data
    until(lambda: scene.tunnel.over)
    assert scene.closed


def test_a_local_socket_that_leaves_after_the_tunnel(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192).attach()
    scene.send(bytes(INITIAL_WINDOW))
    scene.send_eof()
    scene.far.close()
    until(lambda: scene.tunnel.closed)
    reset(scene.local)
    until(lambda: scene.tunnel.over)
    assert scene.closed


# protocol 1


def test_protocol_1_input_that_ends_ends_both(make_scene: MakeScene) -> None:
    scene = make_scene(version=1).attach()
    scene.local.sendall(b"question")
    scene.local.shutdown(socket.SHUT_WR)
    assert scene.far.next() == (DATA, scene.id, b"question")
    assert scene.far.next() == (CLOSED, scene.id, None)
    assert read_all(scene.local) == b""
    until(lambda: scene.closed)
    scene.send(b"late")
    turn(5)
    assert not scene.tunnel.closed


def test_protocol_1_input_ends_with_output_pending(make_scene: MakeScene) -> None:
    """What still comes then must not end the tunnel, and with it everybody else's connections."""
    scene = make_scene(version=1, buffer_bytes=8192).attach()
    data = random_bytes(500_000)
    scene.send(data)
    until(lambda: scene.stream.undelivered > 400_000)
    scene.local.shutdown(socket.SHUT_WR)
    assert scene.far.next() == (CLOSED, scene.id, None)
    scene.send(b"late")
    turn(5)
    assert not scene.tunnel.closed
    assert read_all(scene.local) == data
    until(lambda: scene.closed)
    assert scene.stream.over


def test_protocol_1_output_that_ends_ends_both(make_scene: MakeScene) -> None:
    scene = make_scene(version=1, buffer_bytes=8192).attach()
    data = random_bytes(500_000)
    scene.send(data)
    scene.send_eof()
    assert read_all(scene.local) == data
    until(lambda: scene.closed)
    assert scene.stream.over


def test_protocol_1_an_end_that_came_before_the_socket(make_scene: MakeScene) -> None:
    """The visitor left while the service was dialled: nobody listens to what it would say."""
    scene = make_scene(version=1)
    scene.stream.undelivered = 8
    scene.stream.eof_received = True
    scene.attach(b"question")
    assert read_all(scene.local) == b"question"
    until(lambda: scene.closed)
    assert scene.stream.over


# idle


def ticks(scene: Scene, count: int) -> None:
    for _ in range(count):
        if not scene.closed:
            scene.pump.tick()


def test_an_idle_connection_is_reset_at_both_ends(make_scene: MakeScene, counters: metrics.Counters) -> None:
    scene = make_scene(idle=Idle(10)).attach()
    ticks(scene, 10)
    assert scene.sock.fileno() >= 0
    ticks(scene, 1)
    assert scene.closed
    assert scene.far.next() == (RESET, scene.id, frames.TIMED_OUT)
    with pytest.raises(ConnectionResetError):
        read_all(scene.local)
    assert counters.streams_reset == 1


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("one_way", [False, True])
def test_traffic_in_one_direction(make_scene: MakeScene, direction: str, one_way: bool) -> None:
    scene = make_scene(idle=Idle(10, one_way)).attach()
    for _ in range(3):
        if scene.closed:
            break
        if direction == "in":
            scene.local.sendall(b"x")
            assert scene.far.next()[0] == DATA
        else:
            scene.send(b"x")
            read_exactly(scene.local, 1)
        ticks(scene, 8)
    assert scene.closed == one_way


def test_a_connection_without_a_window_is_not_idle(make_scene: MakeScene) -> None:
    """It is held back: the other end's local side is to decide."""
    scene = make_scene(idle=Idle(10, one_way=False)).attach()
    scene.stream.send_window = 0
    scene.pump._reader.stop()
    ticks(scene, 50)
    assert not scene.closed
    scene.far.send(scene.far.frames.window(scene.id, 10))
    turn(5)
    ticks(scene, 11)
    assert scene.closed


def test_pending_bytes_that_move_are_traffic(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192, idle=Idle(10)).attach()
    scene.send(bytes(INITIAL_WINDOW))
    until(lambda: scene.stream.undelivered > 0)
    for _ in range(2):
        ticks(scene, 9)
        before = scene.stream.undelivered
        while scene.stream.undelivered == before:
            scene.local.recv(16384)
            turn(1)
    assert scene.sock.fileno() >= 0
    ticks(scene, 12)
    assert scene.closed


# the end of the pump


def test_detach_gives_the_socket_away(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    sock = scene.pump.detach()
    assert sock is scene.sock
    scene.local.sendall(b"not for the pump")
    turn(5)
    buffer = bytearray(100)
    assert sock.recv_into(memoryview(buffer)) == 16
    assert buffer[:16] == b"not for the pump"
    scene.pump.link_has_room()
    scene.pump.window_opened()
    scene.pump.deliver(memoryview(b"x"))
    turn(5)
    sock.close()


def test_an_unexpected_error_ends_the_one_connection(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene().attach()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scene.tunnel.frames, "write_data_header", fail)
    scene.local.sendall(b"x")
    assert scene.far.next() == (RESET, scene.id, frames.CANCELLED)
    until(lambda: scene.closed)
    assert "unexpected error" in caplog.text
    assert not scene.tunnel.closed


def test_nothing_keeps_a_pump_that_is_done(make_scene: MakeScene) -> None:
    scene = make_scene().attach()
    scene.local.close()
    scene.send_eof()
    until(lambda: scene.closed)
    stream, sock = scene.stream, scene.sock
    del scene.pump, scene.stream, scene.sock
    assert gc.get_referrers(stream.sink) == [stream]
    scene.stream, scene.sock = stream, sock  # what its close() looks at


def test_window_frames_go_out_as_the_local_socket_drains(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=8192).attach()
    scene.send(bytes(INITIAL_WINDOW))
    until(lambda: scene.stream.undelivered > 0)
    scene.mark()
    assert scene.far.next()[0] == CONTROL
    read_exactly(scene.local, INITIAL_WINDOW)
    assert scene.far.next()[0] == WINDOW


# between two requests


def exchange(scene: Scene) -> None:
    """A question of the visitor and an answer of the service, either way round."""

    def ask() -> None:
        scene.local.sendall(b"from here")
        assert scene.far.next()[2] == b"from here"

    def answer() -> None:
        scene.send(b"from there")
        assert read_exactly(scene.local, 10) == b"from there"

    for step in (ask, answer) if scene.tunnel.is_server else (answer, ask):
        step()


@pytest.mark.parametrize("version", [3, 1])
@pytest.mark.parametrize("is_server", [True, False])
def test_what_waits_for_a_request_is_ended(make_scene: MakeScene, is_server: bool, version: int) -> None:
    """The service is told that the visitor has no more to say, and closes."""
    scene = make_scene(version, is_server=is_server).attach()
    exchange(scene)
    exchange(scene)
    ticks(scene, 2)
    scene.pump.end_if_quiet(3)
    turn(5)
    assert not scene.stream.eof_sent
    ticks(scene, 1)
    scene.pump.end_if_quiet(3)
    if is_server:
        assert scene.far.next()[0] == (EOF if version == 3 else CLOSED)
        if version == 3:
            scene.send(b"bye")
            scene.send_eof()
        assert read_all(scene.local) == (b"bye" if version == 3 else b"")
    else:
        assert read_all(scene.local) == b""
        scene.pump.end_if_quiet(3)
        scene.local.sendall(b"bye")
        scene.local.close()
        assert scene.far.next()[2] == b"bye"
        assert scene.far.next()[0] == (EOF if version == 3 else CLOSED)
        if version == 3:
            scene.send_eof()
    until(lambda: scene.closed)
    assert scene.stream.over


@pytest.mark.parametrize("is_server", [True, False])
def test_what_waits_for_an_answer_is_not_ended(make_scene: MakeScene, is_server: bool) -> None:
    """Also where the last answer and the next question have come between the same two ticks."""
    scene = make_scene(is_server=is_server).attach()
    ticks(scene, 5)
    scene.pump.end_if_quiet(3)
    exchange(scene)
    if is_server:
        scene.local.sendall(b"?")
        assert scene.far.next()[2] == b"?"
    else:
        scene.send(b"?")
        read_exactly(scene.local, 1)
    ticks(scene, 5)
    scene.pump.end_if_quiet(3)
    turn(5)
    assert not scene.stream.eof_sent
    assert not scene.closed
    scene.local.settimeout(0.05)
    with pytest.raises(TimeoutError):
        scene.local.recv(1)


def test_what_is_still_being_sent_is_not_ended(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=4096).attach()
    scene.local.sendall(b"?")
    scene.far.next()
    scene.send(bytes(200_000))
    until(lambda: scene.pump._pending)
    ticks(scene, 5)
    scene.pump.end_if_quiet(3)
    assert not scene.stream.eof_sent
    assert read_exactly(scene.local, 200_000) == bytes(200_000)
