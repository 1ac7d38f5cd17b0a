"""Two sockets of one process that are passed on to each other, and TCP pairs inside it. For a visitor who has to go to
another process, but whose bytes only this one can read and write: his TLS is ours, or he shares a connection.
"""

import errno
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any

from gtapp.relay.sockets import EV_READ, EV_WRITE, PlainSocket, Socket, Watcher, reset_on_close, send_some

log = logging.getLogger("gt.splice")

READ_BYTES = 64 * 1024  # at once, and the most that waits in either direction
PAIR_S = 5.0  # how long the two ends of a pair may take to find each other
BACKLOG = 1024

_LOOPBACK = "127.0.0.1"
_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_FIN_ON_CLOSE = struct.pack("ii", 0, 0)

_read_buffer = memoryview(bytearray(READ_BYTES))  # used up before a callback returns


class HeldSocket(PlainSocket):
    """One end of a pair. Unless it is closed in order its connection is reset, also by the end of the process that has
    it: nobody takes for complete what was only cut."""

    __slots__ = ("_reset",)

    def __init__(self, fd: int | None = None) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)
        self.setblocking(False)
        super().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self._reset = False

    def setsockopt(self, level: int, option: int, value: Any, /) -> None:  # type: ignore[override]
        if level == socket.SOL_SOCKET and option == socket.SO_LINGER:
            self._reset = True  # see reset_on_close
        super().setsockopt(level, option, value)

    def close(self) -> None:
        if self.fileno() >= 0 and not self._reset:
            super().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FIN_ON_CLOSE)
        super().close()

    @property
    def was_reset(self) -> bool:
        """Whether the other end has reset it, and not closed it before."""
        return self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


Paired = Callable[[HeldSocket, HeldSocket], None]
Failed = Callable[[], None]


class Pairs:
    """Makes TCP connections over loopback, and has both ends of them. (Of the other pairs a system has, none can be
    reset.) It listens from the first one on until `close`."""

    def __init__(self) -> None:
        self._listener: PlainSocket | None = None
        self._reader: Watcher
        self._address: tuple[str, int]
        self._expected: dict[
            Any, tuple[HeldSocket, Paired, Failed, float]
        ] = {}  # by the connecting end's address
        self._now = 0.0  # seconds, in ticks

    def make(self, done: Paired, failed: Failed) -> None:
        """Call `done(one end, other end)` later, or `failed()`, at most PAIR_S later. Raises OSError."""
        if self._listener is None:
            self._listen()
        near = HeldSocket()
        try:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = near.connect_ex(self._address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, "connect")
            self._expected[near.getsockname()] = near, done, failed, self._now + PAIR_S
        except OSError:
            near.close()
            raise

    def _listen(self) -> None:
        listener = PlainSocket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            listener.bind((_LOOPBACK, 0))
            listener.listen(BACKLOG)
            self._address = listener.getsockname()
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._reader = listener.watch(EV_READ)
        self._reader.start(self._readable)

    def _readable(self) -> None:
        assert self._listener is not None
        try:
            fd, address = self._listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("cannot connect to this process itself: %s", error.strerror)
            for each in list(self._expected):
                self._give_up(each)
            return
        far = HeldSocket(fd)
        expected = self._expected.pop(address, None)
        if expected is None:  # somebody else's
            far.close()
            return
        near, done, _, _ = expected
        try:
            done(near, far)
        except Exception:
            log.exception("unexpected error with a pair of sockets")
            near.close()
            far.close()

    def _give_up(self, address: Any) -> None:
        near, _, failed, _ = self._expected.pop(address)
        near.close()
        failed()

    def tick(self, period: float) -> None:
        self._now += period
        for address, (_, _, _, deadline) in list(self._expected.items()):
            if deadline > self._now:
                break
            self._give_up(address)

    def close(self) -> None:
        """Those that are being made are not made any more."""
        if self._listener is not None:
            self._reader.stop()
            self._listener.close()
            self._listener = None
        for address in list(self._expected):
            self._give_up(address)


class Splice:
    """Passes on what `sock` sends to `near`, one end of a pair, and the other way round. Each direction ends by itself;
    a reset of one is a reset of the other. `on_end(self)` is called once, when both are closed.

    Idle times are those of whoever has the other end of the pair; `idle_s` is for what `sock` does not take, which may
    be all that is left.
    """

    def __init__(
        self, sock: Socket, near: HeldSocket, idle_s: float, on_end: Callable[["Splice"], None]
    ) -> None:
        self._sock = sock
        self._near = near
        self._idle_s = idle_s
        self._on_end = on_end
        self._in_doubt = False  # a reset has hit a write: an end that is read after it is not one
        self.quiet_s = 0.0  # in ticks
        self.closed = False
        self._out = _Way(self, sock, near)
        self._back = _Way(self, near, sock)
        self._out.other, self._back.other = self._back, self._out
        self._out.start()
        self._back.start()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Splice {state} pending={self._out.pending_bytes}/{self._back.pending_bytes}>"

    def tick(self, period: float) -> None:
        """Notice what no event tells while nothing is read of the pair."""
        self.quiet_s += period
        if self._back.is_reading:
            return
        if self.quiet_s > self._idle_s or (not self._out.is_writing and self._near.was_reset):
            self.cut()

    def cut(self) -> None:
        """Reset both."""
        reset_on_close(self._sock)
        reset_on_close(self._near)
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._out.stop()
            self._back.stop()
            self._sock.close()
            self._near.close()
            self._on_end(self)

    # what the ways tell

    def way_failed(self, way: "_Way", error: OSError) -> None:
        """Its target takes no more, though what that has sent may still be on its way. Only EPIPE says that its end
        has come before."""
        if way.other.is_cut:
            self.cut()
        elif way.other.over:
            self.close()
        elif not way.other.ended:
            self._in_doubt = error.errno != errno.EPIPE

    def way_ended(self) -> None:
        if self._in_doubt:
            self.cut()

    def way_over(self) -> None:
        if self._out.over and self._back.over:
            self.close()


class _Way:
    """One direction."""

    other: "_Way"

    def __init__(self, splice: Splice, source: Socket, target: Socket) -> None:
        self._splice = splice
        self._source = source
        self._target = target
        self._pending: list[bytes | memoryview] = []  # read, and not taken by the target yet
        self.pending_bytes = 0
        self.ended = False  # the source sends no more
        self.over = False  # and the target has been told; or it takes nothing any more
        self.is_cut = False  # that
        self._reader = source.watch(EV_READ)
        self._writer = target.watch(EV_WRITE)

    @property
    def is_reading(self) -> bool:
        return self._reader.active

    @property
    def is_writing(self) -> bool:
        return self._writer.active

    def start(self) -> None:
        self._reader.start(self._guarded, self._read)

    def stop(self) -> None:
        self._reader.stop()
        self._writer.stop()
        self._pending.clear()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._splice.cut()
        except Exception:
            log.exception("%r: unexpected error, closing it", self._splice)
            self._splice.cut()

    def _read(self) -> None:
        count = self._source.recv_into(_read_buffer)
        self._splice.quiet_s = 0.0
        if not count:
            self.ended = True
            self._reader.stop()
            self._splice.way_ended()
            if not (self.pending_bytes or self._splice.closed):
                self._end()
            return
        try:
            sent = self._target.send(_read_buffer[:count])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        if sent < count:
            self._pending.append(bytes(_read_buffer[sent:count]))
            self.pending_bytes = count - sent
            self._reader.stop()
            self._writer.start(self._guarded, self._write)

    def _write(self) -> None:
        try:
            sent = send_some(self._target, self._pending, self.pending_bytes)
        except OSError as error:
            self._fail(error)
            return
        if sent:
            self.pending_bytes -= sent
            self._splice.quiet_s = 0.0
        if self.pending_bytes or self._splice.closed:
            return
        self._writer.stop()
        if self.ended:
            self._end()
        else:
            self._reader.start(self._guarded, self._read)

    def _end(self) -> None:
        """Pass the end on."""
        try:
            self._target.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(error)
            return
        self.over = True
        self._splice.way_over()

    def _fail(self, error: OSError) -> None:
        self.stop()
        self.pending_bytes = 0
        self.over = self.is_cut = True
        self._splice.way_failed(self, error)
