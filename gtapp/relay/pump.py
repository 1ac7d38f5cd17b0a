"""A pump moves the bytes between a local socket and a stream, in callbacks of the hub and without a greenlet.

The server has one per visitor, the client one per connection to a local service.
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Sequence

from gtapp.observe.metrics import counters
from gtapp.relay.link import HIGH_WATER
from gtapp.relay.sockets import EV_READ, EV_WRITE, Socket, Watcher, reset_on_close, send_some
from gtapp.relay.stream import Stream
from gtapp.wire import frames

log = logging.getLogger("gt.pump")

JOIN_BYTES = 4096
READ_BYTES = frames.MAX_DATA_BYTES  # one read of a local socket, and what one callback may hold the hub for

# Frames are built in place: the header is written in front of what recv put behind it. One buffer per process
# will do, because a callback is through with it before it returns.
_buffer = memoryview(bytearray(16 + READ_BYTES))


class Idle:
    """After how many quiet ticks a connection is idle; with `one_way` even if only one direction is quiet."""

    __slots__ = ("one_way", "ticks")

    def __init__(self, ticks: int, one_way: bool = False) -> None:
        self.ticks = ticks
        self.one_way = one_way


class Pump:
    """Connects `stream` with the socket given to `attach`."""

    __slots__ = (
        "_body",
        "_closed",
        "_deaf",
        "_pending",
        "_pending_bytes",
        "_quiet_in",
        "_quiet_out",
        "_read_end",
        "_read_last",
        "_reader",
        "_waiting",
        "_writer",
        "delivered_any",
        "idle",
        "sock",
        "stream",
    )  # fmt: skip

    def __init__(self, stream: Stream, idle: Idle) -> None:
        stream.sink = self
        self.stream = stream
        self.idle = idle
        self.sock: Socket  # from `attach` on
        self.delivered_any = False  # whether the local socket has been sent anything
        self._body = _buffer[stream.tunnel.frames.data_header_bytes :]
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        self._quiet_in = 0
        self._quiet_out = 0
        self._read_end = False
        self._waiting = False  # for room on the link
        self._deaf = False  # a write has failed
        self._read_last = False  # something has been read since the last write, or since it failed
        self._closed = False
        self._reader: Watcher  # from `attach` on
        self._writer: Watcher | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "waiting" if self._waiting else "open"
        return f"<Pump {state} pending={self._pending_bytes} {self.stream!r}>"

    def attach(self, sock: Socket, first: Sequence[bytes] = ()) -> None:
        """Take over `sock`, a connected socket, and begin to relay.

        `first` is what the stream has received before.
        """
        self.sock = sock
        self._reader = sock.watch(EV_READ)
        if self.stream.eof_received and not self.stream.tunnel.has_windows:
            self._read_end = True  # protocol 1: that ended both directions
        elif self.stream.send_window > 0:
            self._reader.start(self._readable)
        self._pending.extend(first)
        self._pending_bytes = sum(map(len, first))
        if first or self.stream.eof_received:
            self._writable()

    # local socket -> stream

    def _readable(self) -> None:
        stream = self.stream
        try:
            link = stream.tunnel.link
            if link.queued >= HIGH_WATER:
                self._waiting = True
                self._reader.stop()
                link.wait_for_room(self)
                return
            window = stream.send_window
            size = self.sock.recv_into(self._body, window if window < READ_BYTES else READ_BYTES)
            if size:
                tunnel = stream.tunnel
                header = tunnel.frames.data_header_bytes
                stream.bytes_from_local += size  # before the link, which may end the stream
                tunnel.frames.write_data_header(_buffer, stream.id, size)
                link.write(bytes(_buffer[: header + size]))
                stream.send_window = window - size
                self._quiet_in = 0
                self._read_last = True
                if window == size:
                    self._reader.stop()
            else:
                self._end_of_input()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            if self._deaf and self._read_last and not stream.tunnel.is_server:
                self._end_of_input()
            else:
                self._fail(frames.CANCELLED)
        except Exception:
            log.exception("%r: unexpected error, closing it", self)
            self._fail(frames.CANCELLED)

    def link_has_room(self) -> None:
        self._waiting = False
        self._read_on()

    def window_opened(self) -> None:
        self._read_on()

    def _read_on(self) -> None:
        if not (self._closed or self._read_end or self._waiting) and self.stream.send_window > 0:
            self._reader.start(self._readable)

    def _end_of_input(self) -> None:
        if self._deaf and not self._read_last:  # the failed write has taken the error that belongs here
            self._fail(frames.CANCELLED)
            return
        self._read_end = True
        self._reader.stop()
        self.stream.send_eof()
        if not self.stream.tunnel.has_windows:  # protocol 1: that ended both directions
            self.stream.eof_received = True
        self._end_if_done()

    # stream -> local socket

    def deliver(self, data: memoryview) -> None:
        if self._closed:
            return
        size = len(data)
        if self._deaf:
            self.stream.delivered(size)
            return
        self._quiet_out = 0
        self._read_last = False
        sent = 0
        if not self._pending:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                if self._write_failed(error):
                    self.stream.delivered(size)
                return
            self.delivered_any = True
            if sent == size:
                self.stream.delivered(size)
                return
        self._keep(bytes(data[sent:]))
        self._write_later()
        if sent:
            self.stream.delivered(sent)

    def _keep(self, data: bytes) -> None:
        """Add to what waits to be written; small pieces are joined, lest their objects outweigh them."""
        last = self._pending[-1] if self._pending else None
        if isinstance(last, bytes) and len(last) + len(data) <= JOIN_BYTES:
            self._pending[-1] = last + data
        else:
            self._pending.append(data)
        self._pending_bytes += len(data)

    def _write_failed(self, error: OSError) -> bool:
        """The local side takes no more, but an answer may have come before it closed (an early 413): read on,
        and drop what still arrives for it. False when that is no use and the pump is closed.

        A service that answers and closes at once may reset the connection, and means its end. What a visitor sends
        before a reset is cut off somewhere; only EPIPE says that its end has come before."""
        is_cut = self.stream.tunnel.is_server and error.errno != errno.EPIPE
        if is_cut or self._read_end or self._waiting or self.stream.send_window <= 0:
            self._fail(frames.CANCELLED)
            return False
        self._deaf = True
        self._read_last = False
        if self._writer is not None:
            self._writer.stop()
        dropped, self._pending_bytes = self._pending_bytes, 0
        self._pending.clear()
        self.stream.delivered(dropped)
        return True

    def deliver_rest(self) -> None:
        self._read_end = True
        self._reader.stop()
        self._end_if_done()

    def deliver_eof(self) -> None:
        if not self.stream.tunnel.has_windows:  # protocol 1: nobody listens to the local socket any more
            self.deliver_rest()
        elif not self._pending:
            self._end_of_output()

    def deliver_reset(self, reason: int) -> None:
        if not self._closed:
            self.stream.forget()
            self.finished(reason)

    def _write_later(self) -> None:
        if self._writer is None:
            self._writer = self.sock.watch(EV_WRITE)
        if not self._writer.active:
            self._writer.start(self._writable)

    def _writable(self) -> None:
        try:
            if self._pending:
                sent = send_some(self.sock, self._pending, self._pending_bytes)
                self._pending_bytes -= sent
                if sent:
                    self._quiet_out = 0
                    self._read_last = False
                    self.delivered_any = True
                    self.stream.delivered(sent)
            if self._pending:
                self._write_later()
                return
            if self._writer is not None:
                self._writer.stop()
            if self.stream.eof_received:
                self._end_of_output()
        except OSError as error:
            self._write_failed(error)
        except Exception:
            log.exception("%r: unexpected error, closing it", self)
            self._fail(frames.CANCELLED)

    def _end_of_output(self) -> None:
        """All of the other end's bytes are out: pass its half close on."""
        if not self._read_end:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        else:
            self._end_if_done()

    def _end_if_done(self) -> None:
        stream = self.stream
        if self._read_end and stream.eof_received and not self._pending:
            stream.forget()
            self.finished(None)

    # the end

    def finished(self, reason: int | None) -> None:
        """The stream is over, the local socket still open. `reason` is RESET's, None when it ended well."""
        if reason is not None:
            counters.streams_reset += 1
        self._close(reset=reason is not None)

    def detach(self) -> Socket:
        """Give the local socket away; the pump is done."""
        self._stop()
        return self.sock

    def tick(self) -> None:
        held_back = self._waiting or self.stream.send_window <= 0  # it is not the local socket that is quiet
        self._quiet_in = 0 if held_back else self._quiet_in + 1
        self._quiet_out += 1
        idle = self.idle
        quiet = (max if idle.one_way else min)(self._quiet_in, self._quiet_out)
        if quiet > idle.ticks:
            self.stream.cut(frames.TIMED_OUT)

    def end_if_quiet(self, ticks: int) -> None:
        """Where the service has had the last word and nobody has said anything for so many ticks, tell it that the
        visitor sends nothing more. It closes if it was waiting for a request, and finishes what it is at otherwise."""
        from_service = not self._read_last and self.delivered_any
        if not self.stream.tunnel.is_server:
            from_service = self._read_last
        if not from_service or min(self._quiet_in, self._quiet_out) < ticks:
            return
        if self._closed or self._read_end or self._deaf or self._pending:
            return
        if self.stream.tunnel.is_server:
            self._end_of_input()
        else:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    def _fail(self, reason: int) -> None:
        """The local socket is gone."""
        counters.streams_reset += 1
        self.stream.reset(reason)
        self._close(reset=True)

    def _close(self, reset: bool) -> None:
        if not self._closed:
            self._stop()
            if reset:
                reset_on_close(self.sock)
            self.sock.close()

    def _stop(self) -> None:
        self._closed = True
        self._reader.stop()
        if self._writer is not None:
            self._writer.stop()
        self._pending.clear()
