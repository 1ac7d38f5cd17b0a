"""Pumps with a speed, over real sockets: nothing is lost, nobody is cut for waiting, and the other end is held back.

How exact and how fair the speed is shows test_bucket.py, in simulated time; here only bounds that hold on any machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from gtapp.relay.bucket import Shaper
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.shaped_pump import Shaped, ShapedSocket
from gtapp.relay.sockets import EV_READ, EV_WRITE
from gtapp.relay.stream import HOLD_BYTES, INITIAL_WINDOW
from gtapp.relay.tunnel import HELD_PING_S, HOLD_S
from gtapp.wire import frames
from tests.support.relay import (
    DATA,
    EOF,
    PING,
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
)

MakeTunnel = Callable[..., Made]
BOTH = pytest.mark.parametrize("version", [3, 1])


class Scene:
    """Streams of one tunnel, each with a visitor; `far` is the tunnel's other end."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.tunnel, self.far = made.tunnel, made.far
        self.visitors: list[Visitor] = []

    def visitor(
        self, shaper: Shaper | None = None, first: bytes = b"", idle: int = 1000, buffer_bytes: int = 0
    ) -> Visitor:
        self.visitors.append(Visitor(self, shaper, first, idle, buffer_bytes))
        return self.visitors[-1]

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.tunnel.tick(1.0)

    def close(self) -> None:
        for each in self.visitors:
            each.close()


class Visitor:
    def __init__(
        self, scene: Scene, shaper: Shaper | None, first: bytes, idle: int, buffer_bytes: int
    ) -> None:
        self.scene = scene
        self.stream = scene.tunnel.open(0, "192.0.2.1:5", first)
        scene.far.next_of(frames.OPEN)
        self.sock, self.local = tcp_pair(buffer_bytes)
        self.pump = (
            Shaped(self.stream, Idle(idle), shaper) if shaper is not None else Pump(self.stream, Idle(idle))
        )
        self.pump.attach(self.sock)

    @property
    def closed(self) -> bool:
        return self.sock.fileno() < 0

    def answer(self, data: bytes, eof: bool = False) -> None:
        """The service sends this, whatever the window."""
        far = self.scene.far
        for at in range(0, len(data), 65536):
            far.send(far.data(self.stream.id, data[at : at + 65536]))
        if eof:
            far.send(far.frames.eof(self.stream.id))

    def close(self) -> None:
        if not self.stream.over:
            self.stream.reset()
        if not self.closed:
            self.pump._close(reset=False)
        self.local.close()


@pytest.fixture
def make_scene(make_tunnel: MakeTunnel) -> Iterator[Callable[..., Scene]]:
    made: list[Scene] = []

    def make(version: int = 3, **more: Any) -> Scene:
        made.append(Scene(make_tunnel(version=version, **more).up()))
        return made[-1]

    yield make
    for each in made:
        each.close()


MakeScene = Callable[..., Scene]


@BOTH
def test_down(make_scene: MakeScene, version: int) -> None:
    scene = make_scene(version)
    visitor = scene.visitor(Shaper(400_000))
    data = random_bytes(200_000)
    start = monotonic()
    visitor.answer(data, eof=True)
    assert read_all(visitor.local) == data
    assert monotonic() - start > (200_000 - 20_000) / 400_000, "all but a burst takes its time"


@BOTH
def test_up(make_scene: MakeScene, version: int) -> None:
    scene = make_scene(version)
    visitor = scene.visitor(Shaper(400_000))
    data = random_bytes(200_000)
    start = monotonic()
    sending = gevent.spawn(visitor.local.sendall, data)
    got = b""
    while len(got) < len(data):
        got += scene.far.next_of(DATA)[2]
    assert got == data
    assert monotonic() - start > (200_000 - 20_000) / 400_000
    sending.get(timeout=10)
    visitor.local.close()
    assert scene.far.next(DATA, PING)[0] in (EOF, frames.CLOSED)


def test_what_the_stream_was_opened_with_counts(make_scene: MakeScene) -> None:
    for version in (3, 1):
        shaper = Shaper(100_000)
        make_scene(version).visitor(shaper, first=bytes(16_000))
        assert shaper.up._tokens < 1_000


@BOTH
def test_a_small_answer_comes_at_once(make_scene: MakeScene, version: int) -> None:
    """Without a turn of any timer: the tokens of a burst are there."""
    scene = make_scene(version)
    shaper = Shaper(100_000)
    visitor = scene.visitor(shaper)
    visitor.local.sendall(b"question")
    assert scene.far.next_of(DATA)[2] == b"question"
    visitor.answer(b"x" * 5000)
    assert read_exactly(visitor.local, 5000) == b"x" * 5000
    assert shaper.up._timer is None
    assert shaper.down._timer is None


def test_the_sender_is_held_back_by_the_window(make_scene: MakeScene) -> None:
    scene = make_scene(3)
    visitor = scene.visitor(Shaper(1000))
    visitor.answer(bytes(INITIAL_WINDOW))
    until(lambda: visitor.stream.undelivered > INITIAL_WINDOW - 10_000)
    scene.tunnel.send_control({"type": "mark"})
    assert scene.far.next(PING)[0] != WINDOW


def test_the_sender_is_held_back_by_not_reading(make_scene: MakeScene) -> None:
    scene = make_scene(1)
    visitor = scene.visitor(Shaper(1000))
    sending = gevent.spawn(visitor.answer, bytes(16_000_000))
    until(lambda: visitor.stream in scene.tunnel._holders)
    assert visitor.stream.undelivered < HOLD_BYTES + 300_000
    sending.kill()


def test_who_waits_for_tokens_does_not_hold_up_the_tunnel(make_scene: MakeScene) -> None:
    """Protocol 1: neither is it cut, nor does its client come to think that nobody is here."""
    scene = make_scene(1)
    visitor = scene.visitor(Shaper(1000))
    sending = gevent.spawn(visitor.answer, bytes(16_000_000))
    until(lambda: visitor.stream in scene.tunnel._holders)
    scene.ticks(round(3 * HOLD_S))
    assert not visitor.closed
    assert not scene.tunnel.closed
    pings = [scene.far.next()[0] for _ in range(int(3 * HOLD_S / HELD_PING_S))]
    assert pings == [PING, PING]
    sending.kill()


def test_a_visitor_that_does_not_read_is_cut_all_the_same(make_scene: MakeScene) -> None:
    """Protocol 1: it is not the speed that it waits for."""
    scene = make_scene(1)
    visitor = scene.visitor(Shaper(100_000_000), buffer_bytes=8192)
    sending = gevent.spawn(visitor.answer, bytes(16_000_000))
    until(lambda: visitor.stream in scene.tunnel._holders)
    scene.ticks(1)
    turn()
    scene.ticks(round(HOLD_S) + 1)
    assert visitor.closed
    sending.kill()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_who_waits_for_tokens_is_not_idle(make_scene: MakeScene, direction: str) -> None:
    scene = make_scene(3)
    shaper = Shaper(1)
    visitor = scene.visitor(shaper, idle=8)
    if direction == "up":
        visitor.local.sendall(bytes(1000))
        until(lambda: shaper.up._waiters)
    else:
        visitor.answer(bytes(1000))
        until(lambda: shaper.down._waiters)
    scene.ticks(50)
    assert not visitor.closed
    shaper.set_speed(0)
    if direction == "up":
        got = b""
        while len(got) < 1000:
            got += scene.far.next_of(DATA)[2]
    else:
        read_exactly(visitor.local, 1000)
    scene.ticks(1)
    scene.ticks(9)
    assert visitor.closed, "now it is"


def test_other_users_and_other_directions_do_not_wait(make_scene: MakeScene) -> None:
    scene = make_scene(3)
    slow = scene.visitor(Shaper(1000))
    slow.answer(bytes(100_000))
    plain, fast = scene.visitor(), scene.visitor(Shaper(0))
    for other in (plain, fast):
        other.answer(bytes(200_000))
        assert read_exactly(other.local, 200_000) == bytes(200_000)
    slow.local.sendall(b"up")
    assert scene.far.next_of(DATA)[2] == b"up"


def test_a_small_answer_beside_a_large_one(make_scene: MakeScene) -> None:
    """It gets its turn long before the other is done."""
    scene = make_scene(3)
    shaper = Shaper(100_000)
    bulk, small = scene.visitor(shaper), scene.visitor(shaper)
    bulk.answer(bytes(INITIAL_WINDOW))
    until(lambda: shaper.down._waiters)
    small.answer(b"small")
    assert read_exactly(small.local, 5) == b"small"
    assert bulk.stream.undelivered > INITIAL_WINDOW / 2


def test_the_end_waits_for_what_is_undelivered(make_scene: MakeScene) -> None:
    scene = make_scene(3)
    visitor = scene.visitor(Shaper(200_000))
    data = random_bytes(60_000)
    visitor.answer(data, eof=True)
    assert read_all(visitor.local) == data
    visitor.local.close()
    until(lambda: visitor.closed)


def test_the_tunnel_ends_while_the_rest_waits(make_scene: MakeScene) -> None:
    scene = make_scene(3)
    visitor = scene.visitor(Shaper(200_000))
    data = random_bytes(60_000)
    visitor.answer(data, eof=True)
    until(lambda: visitor.stream.eof_received)
    scene.tunnel.abort("gone")
    assert read_all(visitor.local) == data


@pytest.mark.parametrize("who", ["visitor", "service", "tunnel"])
def test_the_end_of_one_that_waits(make_scene: MakeScene, who: str) -> None:
    scene = make_scene(3)
    shaper = Shaper(1)
    visitor = scene.visitor(shaper)
    visitor.answer(bytes(1000))
    visitor.local.sendall(bytes(1000))
    until(lambda: shaper.up._waiters and shaper.down._waiters)
    if who == "visitor":
        visitor.pump.deliver_reset(frames.CANCELLED)
    elif who == "service":
        scene.far.send(scene.far.frames.reset(visitor.stream.id, frames.CANCELLED))
    else:
        scene.tunnel.abort("gone")
    until(lambda: visitor.closed)
    assert not shaper.up._waiters
    assert not shaper.down._waiters
    assert shaper.up._timer is shaper.down._timer is None


def test_a_link_that_is_full_and_a_speed(make_scene: MakeScene) -> None:
    """Both hold it back; it goes on when neither does."""
    scene = make_scene(3)
    shaper = Shaper(1_000_000)
    visitor = scene.visitor(shaper)
    scene.tunnel.link.queued += 10_000_000
    visitor.local.sendall(b"waits")
    until(lambda: visitor.pump._waiting)
    scene.tunnel.link.queued -= 10_000_000
    scene.tunnel.link.write(scene.tunnel.frames.ping(bytes(8)))
    assert scene.far.next_of(DATA)[2] == b"waits"


def test_a_window_that_is_used_up_and_a_speed(make_scene: MakeScene) -> None:
    scene = make_scene(3)
    visitor = scene.visitor(Shaper(10_000_000))
    sending = gevent.spawn(visitor.local.sendall, bytes(INITIAL_WINDOW + 1000))
    got = 0
    while got < INITIAL_WINDOW:
        got += len(scene.far.next_of(DATA)[2])
    assert got == INITIAL_WINDOW
    scene.far.send(scene.far.frames.window(visitor.stream.id, 5000))
    while got < INITIAL_WINDOW + 1000:
        got += len(scene.far.next_of(DATA)[2])
    sending.get(timeout=10)


def test_detach_gives_the_plain_socket_away(make_scene: MakeScene) -> None:
    visitor = make_scene(3).visitor(Shaper(1000))
    assert visitor.pump.detach() is visitor.sock
    visitor.sock.close()


def test_a_reset_reaches_the_visitor(make_scene: MakeScene) -> None:
    scene = make_scene(3)
    visitor = scene.visitor(Shaper(1000))
    scene.far.send(scene.far.frames.reset(visitor.stream.id, frames.CANCELLED))
    with pytest.raises(ConnectionResetError):
        visitor.local.recv(1)


def test_a_visitor_that_resets(make_scene: MakeScene) -> None:
    scene = make_scene(3)
    visitor = scene.visitor(Shaper(100_000))
    reset(visitor.local)
    assert scene.far.next(PING) == (RESET, visitor.stream.id, frames.CANCELLED)


class TestShapedSocket:
    """The socket alone: where there are no tokens it would block."""

    @pytest.fixture
    def pair(self) -> Iterator[Any]:
        near, far = tcp_pair()
        yield near, far
        near.close()
        far.close()

    def test_reads_are_cut_to_what_is_allowed(self, pair: Any) -> None:
        near, far = pair
        shaped = ShapedSocket(near, Shaper(1000))
        far.sendall(bytes(2000))
        turn()
        buffer = memoryview(bytearray(4096))
        assert shaped.recv_into(buffer) == 500
        with pytest.raises(BlockingIOError):
            shaped.recv_into(buffer)

    def test_writes_are_cut_to_what_is_allowed(self, pair: Any) -> None:
        near, far = pair
        shaped = ShapedSocket(near, Shaper(1000))
        assert shaped.send(b"a" * 200) == 200
        assert shaped.sendmsg([b"b" * 100, b"c" * 100, memoryview(b"d" * 500)]) == 300
        with pytest.raises(BlockingIOError):
            shaped.send(b"e" * 500)
        with pytest.raises(BlockingIOError):
            shaped.sendmsg([b"e" * 500])
        assert read_exactly(far, 500) == b"a" * 200 + b"b" * 100 + b"c" * 100 + b"d" * 100

    def test_it_is_its_socket_in_everything_else(self, pair: Any) -> None:
        near, far = pair
        shaped = ShapedSocket(near, Shaper(1000))
        assert shaped.fileno() == near.fileno()
        assert shaped.getpeername() == far.getsockname()
        shaped.setsockopt(6, 1, 1)
        shaped.shutdown(1)
        assert far.recv(1) == b""
        shaped.close()
        assert near.fileno() < 0

    def test_a_watcher_waits_for_socket_and_tokens(self, pair: Any) -> None:
        near, far = pair
        shaper = Shaper(1000)
        shaped = ShapedSocket(near, shaper)
        buffer = memoryview(bytearray(4096))
        got: list[int] = []

        def read() -> None:
            try:
                got.append(shaped.recv_into(buffer))
            except BlockingIOError:
                got.append(0)

        watcher = shaped.watch(EV_READ)
        watcher.start(read)
        assert watcher.active
        turn()
        assert got == []
        far.sendall(bytes(700))
        until(lambda: sum(got) == 700)
        assert got[0] == 500
        assert got.count(0) <= len(got) / 2 + 1
        watcher.stop()
        assert not watcher.active

    def test_a_watcher_stopped_while_it_waits(self, pair: Any) -> None:
        near, _ = pair
        shaper = Shaper(1)
        shaped = ShapedSocket(near, shaper)

        def write() -> None:
            with pytest.raises(BlockingIOError):
                shaped.send(bytes(100_000))

        shaper.down.spend(1000)
        watcher = shaped.watch(EV_WRITE)
        watcher.start(write)
        until(lambda: shaper.down._waiters)
        watcher.stop()
        assert not shaper.down._waiters

    def test_a_watcher_of_a_socket_that_tells_only_once_that_it_can_be_written(self) -> None:
        """As those in memory do: it is only when they refuse something that they call back later."""
        shaper = Shaper(1000)
        inner = InMemory()
        shaped = ShapedSocket(inner, shaper)  # type: ignore[arg-type]
        left = [bytes(700)]

        def write() -> None:
            with contextlib.suppress(BlockingIOError):
                left[0] = left[0][shaped.send(left[0]) :]
            if not left[0]:
                watcher.stop()

        watcher = shaped.watch(EV_WRITE)
        write()
        assert len(inner.taken) == 500
        watcher.start(write)
        until(lambda: len(inner.taken) == 700)
        inner.is_full = True
        left = [bytes(10)]
        write()
        watcher.start(write)
        until(lambda: inner.callback is not None and not shaper.down._waiters)
        inner.is_full = False
        assert inner.callback is not None
        inner.callback()
        assert len(inner.taken) == 710
        assert not watcher.active


class InMemory:
    """A socket and its write watcher."""

    def __init__(self) -> None:
        self.taken = b""
        self.is_full = False
        self.callback: Callable[[], None] | None = None

    def send(self, data: bytes) -> int:
        if self.is_full:
            raise BlockingIOError
        self.taken += data
        return len(data)

    def watch(self, events: int) -> InMemory:
        return self

    def start(self, callback: Callable[[], None]) -> None:
        self.callback = callback

    def stop(self) -> None:
        self.callback = None


@BOTH
def test_active_streams_are_counted(make_scene: MakeScene, version: int) -> None:
    """Those that have moved bytes since the last tick, or wait for tokens, until they end."""
    scene = make_scene(version)
    shaper = Shaper(1_000_000)
    woken: list[str] = []
    shaper.up.share(lambda: woken.append("up"))
    shaper.down.share(lambda: woken.append("down"))
    sends, gets, _idle = (scene.visitor(shaper) for _ in range(3))

    def active() -> tuple[int, int]:
        scene.ticks(1)
        return shaper.up.active(60), shaper.down.active(60)

    assert active() == (0, 0)
    sends.local.sendall(b"x")
    gets.answer(b"y")
    assert read_exactly(gets.local, 1) == b"y"
    until(lambda: active() == (1, 1))
    assert sorted(woken) == ["down", "up"]
    gets.answer(bytes(200_000))
    until(lambda: shaper.down._waiters)
    sends.local.close()
    gets.local.close()
    until(lambda: sends.stream.eof_sent)
    for each in (sends, gets):
        each.stream.reset()
        each.pump._close(reset=False)
    assert (shaper.up.active(60), shaper.down.active(60)) == (0, 0)


def test_one_that_waits_for_tokens_stays_active(make_scene: MakeScene) -> None:
    scene = make_scene(3)
    shaper = Shaper(1)
    shaper.down.share(lambda: None)
    visitor = scene.visitor(shaper)
    visitor.answer(bytes(1000))
    until(lambda: shaper.down._waiters)
    shaper.down.active(0)
    assert shaper.down.active(0.01) == 0
    scene.ticks(1)
    assert shaper.down.active(60) == 1
