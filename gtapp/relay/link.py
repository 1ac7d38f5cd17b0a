"""A link: the connection under a tunnel, which writes frames to it and is called with the bytes that come.

What is written in one turn of the hub's loop leaves in one system call. TCP here; TLS and QUIC
links keep this contract (a QUIC lane is one Link).
"""

import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from gevent import get_hub

from gtapp.relay.sockets import EV_READ, EV_WRITE, Socket, reset_on_close, send_some

log = logging.getLogger("gt.link")

READ_BYTES = 256 * 1024  # one read of a tunnel: hundreds of small frames for one system call
HIGH_WATER = 1024 * 1024  # unsent bytes at which those who feed a link stop; they go on at half of it
READ_STOP = 4 * HIGH_WATER  # unsent bytes at which the link stops reading: a peer that asks but never reads
FINISH_S = 30.0  # how long a finished link may take to send what is queued
LINGER_S = 2.0  # and then waits for the other end's close
UNSENT_BYTES = 256 * 1024  # in the kernel: what lies there can't be overtaken by another stream's frames
TCP_NOTSENT_LOWAT = 25  # Linux's number; the socket module does not know it
USER_TIMEOUT_MS = 20_000  # unacknowledged data that old means that the path is gone

# One read buffer for all links of the process: a callback uses it up before it returns; callbacks don't nest.
_read_buffer = memoryview(bytearray(READ_BYTES))


class Feeder(Protocol):
    """Whoever had to stop because a link was full."""

    def link_has_room(self) -> None: ...


class Link:
    """A TCP or TLS connection to the other end of a tunnel.

    `on_data(view)` gets what was read; the view is only good until it returns. `on_lost(reason)` is called
    once, when the connection ends in a way that nobody here asked for. `queued` is the number of bytes
    written and not yet taken by the socket.
    """

    __slots__ = (
        "_feeders", "_finishing", "_loop", "_out", "_paused", "_reader", "_scheduled", "_timer", "_writer",
        "bytes_in", "bytes_out", "closed", "on_data", "on_lost", "peer", "queued", "sock",
    )  # fmt: skip

    def __init__(self, sock: Socket, peer: str) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self.sock = sock
        self.peer = peer
        self.queued = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.closed = False
        self.on_data: Callable[[memoryview], None] | None = None
        self.on_lost: Callable[[str], None] | None = None
        self._loop = get_hub().loop
        self._out: list[bytes | memoryview] = []
        self._scheduled = False
        self._finishing = False
        self._paused = False
        self._feeders: deque[Feeder] = deque()
        self._reader = sock.watch(EV_READ)
        self._writer = sock.watch(EV_WRITE)
        self._timer: Any = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "finishing" if self._finishing else "open"
        return f"<Link {self.peer} {state} queued={self.queued}>"

    def bound_silence(self) -> None:
        """End the connection when what was sent stays unacknowledged for USER_TIMEOUT_MS. Only for a protocol whose
        ends always read: the system counts the time during which the other end takes nothing as well."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start(self._readable)

    def write(self, data: bytes) -> None:
        """Queue `data`; it leaves with everything else written in this turn of the loop."""
        if self.closed or self._finishing:
            return
        self._out.append(data)
        self.queued += len(data)
        if not self._scheduled:
            self._scheduled = True
            self._loop.run_callback(self._flush)

    def wait_for_room(self, feeder: Feeder) -> None:
        """Call `feeder.link_has_room()` when `queued` has come down to half of HIGH_WATER; in order of asking."""
        self._feeders.append(feeder)

    def pause_reading(self) -> None:
        """Stop reading: protocol 1's only way to hold the other end back."""
        self._paused = True
        self._reader.stop()

    def resume_reading(self) -> None:
        self._paused = False
        if not self.closed and self.queued <= READ_STOP:
            self._reader.start(self._readable)

    def finish(self) -> None:
        """Send what is queued, then close; whatever still arrives is dropped."""
        if self.closed or self._finishing:
            return
        self._finishing = True
        self.on_data = None
        self.on_lost = None
        self._feeders.clear()
        self._timer = self._loop.timer(FINISH_S)
        self._timer.start(self.abort)
        self.resume_reading()
        if not self.queued:
            self._shut()

    def abort(self) -> None:
        """Close at once; queued bytes are lost and the other end sees a reset."""
        self._close(reset=True)

    def _close(self, reset: bool) -> None:
        if self.closed:
            return
        self.closed = True
        self._reader.stop()
        self._writer.stop()
        if self._timer is not None:
            self._timer.stop()
        self._out.clear()
        self._feeders.clear()
        self.queued = 0
        if reset:
            reset_on_close(self.sock)
        self.sock.close()

    def _lost(self, reason: str) -> None:
        on_lost = self.on_lost
        self.on_lost = None
        self.abort()
        if on_lost is not None:
            on_lost(reason)

    def _readable(self) -> None:
        try:
            count = self.sock.recv_into(_read_buffer)
            if not count:
                if self._finishing and not self.queued:
                    self._close(reset=False)
                else:
                    self._lost("closed by the other end")
                return
            self.bytes_in += count
            if self.on_data is not None:
                self.on_data(_read_buffer[:count])
            if self.queued > READ_STOP:  # a full socket does not call `_flush`
                self._reader.stop()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
        except Exception:
            log.exception("%r: unexpected error, closing it", self)
            self._lost("internal error")

    def _flush(self) -> None:
        """The turn's one write. While the socket is full `_scheduled` stays set, and the write watcher comes here."""
        if self.closed:
            return
        try:
            sent = send_some(self.sock, self._out, self.queued)
            self.bytes_out += sent
            self.queued -= sent
            if not self.queued:
                self._scheduled = False
                self._writer.stop()
                if self._finishing:
                    self._shut()
            elif not self._writer.active:
                self._writer.start(self._flush)
            if self.queued > READ_STOP:
                self._reader.stop()
            elif self.queued <= HIGH_WATER // 2:
                if not self._paused and not self._reader.active:
                    self._reader.start(self._readable)
                for _ in range(len(self._feeders)):
                    self._feeders.popleft().link_has_room()
        except OSError as error:
            self._lost(error.strerror or str(error))
        except Exception:
            log.exception("%r: unexpected error, closing it", self)
            self._lost("internal error")

    def _shut(self) -> None:
        """Everything is out: say so. No reset after that, it would throw away what the kernel has not sent yet."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        self._timer.stop()
        self._timer = self._loop.timer(LINGER_S)
        self._timer.start(self._close, False)
