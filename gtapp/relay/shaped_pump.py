"""Pumps that keep to a user's speed: the visitor's socket is read and written as fast as the buckets allow.

What is not delivered yet stays in the stream, whose window (or, on protocol 1, hold) makes the other end wait.
"""

from collections.abc import Callable, Sequence
from typing import Any

from gtapp.relay.bucket import Bucket, Shaper
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.sockets import EV_READ, Socket, Watcher
from gtapp.relay.stream import INITIAL_WINDOW, NO_WINDOW, Stream


class Shaped(Pump):
    """Comes before another pump among the bases of a class: `class ShapedPump(Shaped, Pump)`."""

    def __init__(self, stream: Stream, idle: Idle, shaper: Shaper) -> None:
        super().__init__(stream, idle)
        self._shaper = shaper
        whole = INITIAL_WINDOW if stream.tunnel.has_windows else NO_WINDOW
        shaper.up.spend(whole - stream.send_window)  # what the stream was opened with

    def attach(self, sock: Socket, first: Sequence[bytes] = ()) -> None:
        super().attach(ShapedSocket(sock, self._shaper), first)

    def detach(self) -> Socket:
        """The socket itself: what it is sent from now on is not the service's."""
        shaped = super().detach()
        assert isinstance(shaped, ShapedSocket)
        return shaped.plain

    def tick(self) -> None:
        """Who waits for tokens is not idle, and is not what holds up its tunnel."""
        assert isinstance(self.sock, ShapedSocket)
        if self.sock.up.look():
            self._quiet_in = 0
        if self.sock.down.look():
            self._quiet_out = 0
            self.stream.held_by_us()
        super().tick()

    def _stop(self) -> None:
        super()._stop()
        assert isinstance(self.sock, ShapedSocket)
        for gate in (self.sock.up, self.sock.down):
            gate.bucket.forget(gate)


class ShapedSocket:
    """A socket whose reads and writes take tokens; where there are none they would block."""

    __slots__ = ("down", "plain", "up")

    def __init__(self, sock: Socket, shaper: Shaper) -> None:
        self.plain = sock
        self.up = _Gate(shaper.up)
        self.down = _Gate(shaper.down)

    def recv_into(self, buffer: memoryview, nbytes: int = 0, /) -> int:
        size = self.plain.recv_into(buffer, self.up.take(nbytes or len(buffer)))
        self.up.bucket.spend(size)
        self.up.moved = True
        return size

    def send(self, data: bytes | memoryview, /) -> int:
        allowed = self.down.take(len(data))
        whole = allowed == len(data)
        sent = self.plain.send(data if whole else memoryview(data)[:allowed])
        self.down.bucket.spend(sent)
        self.down.moved = True
        self.down.refused = sent == allowed and not whole
        return sent

    def sendmsg(self, buffers: list[bytes | memoryview], /) -> int:
        wanted = sum(map(len, buffers))
        allowed = left = self.down.take(wanted)
        some: list[bytes | memoryview] = []
        for each in buffers:
            some.append(each if len(each) <= left else memoryview(each)[:left])
            left -= len(some[-1])
            if not left:
                break
        sent = self.plain.sendmsg(some)
        self.down.bucket.spend(sent)
        self.down.moved = True
        self.down.refused = sent == allowed < wanted
        return sent

    def watch(self, events: int) -> Watcher:
        return _GatedWatcher(self.plain.watch(events), self.up if events == EV_READ else self.down)

    def fileno(self) -> int:
        return self.plain.fileno()

    def shutdown(self, how: int, /) -> None:
        self.plain.shutdown(how)

    def close(self) -> None:
        self.plain.close()

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        self.plain.setsockopt(level, option, value)

    def getpeername(self) -> Any:
        return self.plain.getpeername()


class _Gate:
    """One direction of a socket, where it waits for tokens."""

    __slots__ = ("_waited", "_watcher", "bucket", "moved", "refused")

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.refused = False  # the last read or write was, all or a part of it, for want of tokens
        self.moved = False  # bytes, since the last look
        self._waited = False
        self._watcher: _GatedWatcher | None = None  # it waits

    def take(self, wanted: int) -> int:
        """How much of `wanted` may pass now, more than 0. Raises BlockingIOError."""
        allowed = self.bucket.allowed(self, wanted)
        self.refused = not allowed
        if self.refused:
            raise BlockingIOError
        return allowed

    def wait(self, watcher: "_GatedWatcher") -> None:
        self._watcher = watcher
        self._waited = True
        self.bucket.wait(self)

    def leave(self, watcher: "_GatedWatcher") -> None:
        if self._watcher is watcher:
            self._watcher = None
            self.bucket.leave(self)

    def bucket_has_tokens(self) -> None:
        watcher, self._watcher = self._watcher, None
        assert watcher is not None
        watcher.call()

    @property
    def is_waiting(self) -> bool:
        return self._watcher is not None

    def look(self) -> bool:
        """Whether it has waited for tokens since the last look."""
        waited, self._waited = self._waited, self.is_waiting
        if waited or self.moved:
            self.moved = False
            self.bucket.note(self)
        return waited


class _GatedWatcher:
    """Calls back when the socket is ready or, where tokens were wanting, when there are some again."""

    __slots__ = ("_args", "_callback", "_gate", "_inner", "active")

    def __init__(self, inner: Watcher, gate: _Gate) -> None:
        self.active = False
        self._inner = inner
        self._gate = gate
        self._callback: Callable[..., Any] = _nothing
        self._args: tuple[Any, ...] = ()

    def start(self, callback: Callable[..., Any], *args: Any) -> None:
        self._callback = callback
        self._args = args
        if not self.active:
            self.active = True
            self._wait()

    def stop(self) -> None:
        self.active = False
        self._callback = _nothing  # keeps nobody
        self._args = ()
        self._inner.stop()
        self._gate.leave(self)

    def call(self) -> None:
        """The socket is ready, or it is its turn at the bucket."""
        self._callback(*self._args)
        if self.active:
            self._wait()

    def _wait(self) -> None:
        if not self._gate.refused:
            self._inner.start(self.call)
        elif not self._gate.is_waiting:
            self._inner.stop()
            self._gate.wait(self)


def _nothing() -> None:
    """The callback of a watcher that is stopped."""
