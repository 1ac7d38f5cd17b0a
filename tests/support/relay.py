"""For the tests that run callbacks of the relay in this process: connected sockets, a tunnel's other end by hand,
waiting with a deadline, and a look for leaks after each test.

Nothing is monkey-patched here: the data path uses plain sockets and the hub, and what a test holds itself are
gevent's sockets, so that waiting for them runs the hub.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent import get_hub

from gtapp.relay.link import Link
from gtapp.relay.sockets import PlainSocket, plain_socket
from gtapp.relay.stream import Stream
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import compat, frames

DEADLINE_S = 10.0
DATA, OPEN, EOF, RESET, WINDOW, PING, PONG, CONTROL = range(8)
CLOSED = frames.CLOSED


def until(condition: Callable[[], Any], what: str = "", seconds: float = DEADLINE_S) -> Any:
    """Run the hub until `condition()` is true, and return that; fail after `seconds`."""
    with gevent.Timeout(seconds, AssertionError(f"not within {seconds} s: {what or 'the condition'}")):
        while True:
            result = condition()
            if result:
                return result
            gevent.sleep(0.001)


def turn(times: int = 3) -> None:
    """Let the hub's loop go round: whatever is ready has been handled after it.

    With `sleep(0)` it would not look at the sockets each time.
    """
    for _ in range(times):
        gevent.sleep(0.0002)


# leaks


def _held() -> dict[str, int]:
    return {"descriptors": len(os.listdir("/proc/self/fd")), "watchers": get_hub().loop.activecnt}


def _alive() -> dict[str, int]:
    """What is found among all objects, which takes time: once a test. It is not to be there at all."""
    counts = {"greenlets": 0, "streams": 0}
    for each in gc.get_objects():
        kind = type(each)
        if kind is Stream:
            counts["streams"] += not each.over
        elif kind is gevent.Greenlet:
            counts["greenlets"] += not each.dead
    return counts


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """A test leaves no descriptor, greenlet, stream or active watcher behind. Conftests import this."""
    turn()  # the hub itself is there
    before = _held()
    yield
    deadline = monotonic() + 3
    while more := {
        name: count for name, count in (_held() | _alive()).items() if count > before.get(name, 0)
    }:  # fmt: skip
        if monotonic() > deadline:
            pytest.fail(f"left behind by the test: {more}")
        gevent.sleep(0.001)
        gc.collect()


# sockets


def tcp_pair(buffer_bytes: int = 0) -> tuple[PlainSocket, Any]:
    """A loopback connection: a plain socket as the relay uses it, and gevent's socket for the test.

    `buffer_bytes`: of each socket's kernel buffers, where the test wants them to fill up.
    """
    listener = socket.socket()
    far = socket.socket()
    with listener:
        if buffer_bytes:
            for each in (listener, far):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    return plain_socket(near.family, near.detach()), ours(far)


def ours(sock: socket.socket) -> Any:
    """gevent's socket for `sock`, which is used up. Whatever waits for it waits at most DEADLINE_S."""
    made = gevent.socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    made.settimeout(DEADLINE_S)
    return made


def read_all(sock: Any, limit: int = 1 << 30) -> bytes:
    """Everything up to the end of `sock`, or `limit` bytes. Raises ConnectionResetError where it is cut."""
    parts = []
    while limit:
        part = sock.recv(min(limit, 65536))
        if not part:
            break
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def read_exactly(sock: Any, count: int) -> bytes:
    data = read_all(sock, count)
    assert len(data) == count, f"the connection ended after {len(data)} bytes of {count}"
    return data


def reset(sock: Any) -> None:
    """Close `sock` so that the other end sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def random_bytes(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# tunnels


class Recorder:
    """A sink that notes what it gets. `takes` False: it keeps all as undelivered, like a visitor that does not read."""

    def __init__(self, stream: Stream, takes: bool = True) -> None:
        stream.sink = self
        self.stream = stream
        self.takes = takes
        self.data = b""
        self.notes: list[str | tuple[str, int]] = []
        self.windows = 0
        self.ticks = 0

    def deliver(self, data: memoryview) -> None:
        self.data += data
        if self.takes:
            self.stream.delivered(len(data))

    def deliver_eof(self) -> None:
        self.notes.append("eof")

    def deliver_rest(self) -> None:
        self.notes.append("rest")
        self.stream.forget()

    def deliver_reset(self, reason: int) -> None:
        self.notes.append(("reset", reason))
        self.stream.forget()

    def window_opened(self) -> None:
        self.windows += 1

    def tick(self) -> None:
        self.ticks += 1


class FarEnd:
    """The other end of a tunnel, by hand: what the test writes goes out as it is; what comes is a list of events."""

    def __init__(self, sock: Any, wire: frames.Frames | compat.CompatFrames) -> None:
        self.sock = sock
        self.frames: Any = wire
        self.ended = False
        self._events: list[tuple[int, int, Any]] = []

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def data(self, stream: int, data: bytes) -> bytes:
        """The bytes of a DATA frame."""
        header = bytearray(self.frames.data_header_bytes)
        self.frames.write_data_header(header, stream, len(data))
        return bytes(header) + data

    def _read(self) -> bool:
        data = self.sock.recv(65536)
        for kind, stream, value in self.frames.receive(data):
            self._events.append((kind, stream, bytes(value) if kind == DATA else value))
        return bool(data)

    def next(self, *but: int) -> tuple[int, int, Any]:
        """The next event that is none of the kinds `but`. Raises EOFError at the end, ConnectionResetError."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if event[0] not in but:
                    return event
            if not self._read():
                raise EOFError

    def next_of(self, kind: int) -> tuple[int, int, Any]:
        """The next event of that kind; those before it are dropped."""
        while True:
            event = self.next()
            if event[0] == kind:
                return event

    def rest(self) -> list[tuple[int, int, Any]]:
        """All events up to the end of the connection; a reset counts as an end."""
        try:
            while self._read():
                pass
        except ConnectionResetError:
            self.ended = True
        events, self._events = self._events, []
        return events

    def answer_ping(self) -> None:
        """Wait for a PING and answer it."""
        _, _, payload = self.next_of(PING)
        self.send(self.frames.pong(payload))

    def close(self) -> None:
        self.sock.close()


class Made:
    """A tunnel with a hand-driven other end."""

    def __init__(self, version: int, is_server: bool, buffer_bytes: int, idle_timeout: float) -> None:
        wire: frames.Frames | compat.CompatFrames
        theirs: frames.Frames | compat.CompatFrames
        if version == 3:
            wire, theirs = frames.Frames(), frames.Frames()
        else:
            wire, theirs = compat.CompatFrames(server=is_server), compat.CompatFrames(server=not is_server)
        sock, far = tcp_pair(buffer_bytes)
        self.tunnel = Tunnel(Link(sock, "far end"), wire, idle_timeout, is_server)
        self.far = FarEnd(far, theirs)
        self.closed: list[str] = []
        self.control: list[Any] = []
        self.opened: list[tuple[Stream, frames.Open]] = []
        self.sinks: list[Recorder] = []
        self.takes = True
        self.tunnel.on_closed = self.closed.append
        self.tunnel.on_control = self.control.append
        if not is_server:
            self.tunnel.on_open = self._opened

    def _opened(self, stream: Stream, opened: frames.Open) -> None:
        self.opened.append((stream, opened))
        self.sinks.append(Recorder(stream, self.takes))

    def up(self) -> Made:
        """The opening is done, and the first PING is answered where there is one."""
        self.tunnel.start()
        self.tunnel.opened()
        if self.tunnel.has_windows:
            self.far.answer_ping()
            until(lambda: self.tunnel.rtt)
        elif not self.tunnel.is_server:
            self.far.next_of(PING)
            self.far.send(self.far.frames.ping(bytes(8)))
            until(lambda: self.tunnel.rtt)
        return self

    def open(self, data: bytes = b"", takes: bool = True) -> Recorder:
        """Open a stream from this end; the far end has read its OPEN."""
        sink = Recorder(self.tunnel.open(0, "192.0.2.1:5", data), takes)
        self.far.next_of(OPEN)
        return sink

    def close(self) -> None:
        self.tunnel.abort("the test is over")
        self.far.close()


@pytest.fixture
def make_tunnel() -> Iterator[Callable[..., Made]]:
    """make_tunnel(version=3, is_server=True, buffer_bytes=0, idle_timeout=60.0): a tunnel and its far end, closed
    after the test. Conftests import this."""
    made: list[Made] = []

    def make(
        version: int = 3, is_server: bool = True, buffer_bytes: int = 0, idle_timeout: float = 60.0
    ) -> Made:
        made.append(Made(version, is_server, buffer_bytes, idle_timeout))
        return made[-1]

    yield make
    for each in made:
        each.close()
