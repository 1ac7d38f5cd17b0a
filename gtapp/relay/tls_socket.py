"""TLS for the data path: a Socket whose bytes are encrypted. Made by `relay.tls`, used like a plain one.

`SSLObject` over memory BIOs, driven by callbacks of the hub: nothing waits, and it is twice as fast here as
`SSLSocket`. OpenSSL is fed and emptied a record at a time, because its BIOs never give memory back.
"""

import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub

from gtapp.relay.sockets import EV_READ, EV_WRITE, PlainSocket, Watcher, plain_socket, send_some

RECORD_BYTES = 16 * 1024  # of plaintext, at most, in one TLS record
READ_BYTES = 64 * 1024  # at most decrypted in one call: what one callback may hold the hub for
SEND_BYTES = 128 * 1024  # at most encrypted in one call, and so the most that waits here for the kernel
ANSWERS_BYTES = 64 * 1024  # what TLS has to say itself, to an end that asks (for new keys) and never reads
REST_S = 30.0  # how long a closed socket may take to send what it had accepted

# Ciphertext as it comes from the kernel, of all connections: a call is through with it before it returns.
_received = memoryview(bytearray(READ_BYTES))

_rests: set["_Rest"] = set()


def error_text(error: OSError) -> str:
    """One line without the names of Python's source files."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    return error.strerror or str(error)


class TLSSocket:
    """An encrypted connection, after its handshake.

    The end of the other side's bytes is its close_notify; a bare FIN, which anybody on the way can send, is a
    ConnectionResetError. `shutdown(SHUT_WR)` and `close` say close_notify. What `send` has taken is sent even after
    `close`, but for `reset_on_close`. What fails in TLS is a ConnectionError.

    `channel_binding` is that of the server's certificate.
    """

    __slots__ = (
        "_ended", "_error", "_fires", "_half_closed", "_incoming", "_more", "_on_writable", "_out",
        "_out_bytes", "_outgoing", "_reader", "_reset", "_stash", "_tls", "_write_error", "_writer",
        "channel_binding", "plain",
    )  # fmt: skip

    def __init__(
        self, plain: PlainSocket, context: ssl.SSLContext, server_side: bool, server_name: str | None
    ) -> None:
        self.plain = plain
        self.channel_binding = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: Any = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)
        self._out: list[bytes | memoryview] = []  # ciphertext that the kernel has not taken yet
        self._out_bytes = 0
        self._more = False  # there may be something to read of which the kernel does not know
        self._stash = b""  # decrypted ahead
        self._ended = False  # their close_notify has come
        self._half_closed = False  # ours has gone
        self._error: ConnectionError | None = None  # for whoever reads
        self._write_error: OSError | None = None  # for whoever writes
        self._reset = False
        self._fires = False  # `_fire` is on its way
        self._reader: Any = None  # the loop's watcher of the read watcher that is active
        self._writer: Any = plain.watch(EV_WRITE)  # active while it has work, or a write watcher waits
        self._on_writable: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else "half closed" if self._half_closed else "open"
        return f"<TLSSocket {state} unsent={self._out_bytes}>"

    # what is the plain socket's

    def fileno(self) -> int:
        return self.plain.fileno()

    def getpeername(self) -> Any:
        return self.plain.getpeername()

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        if level == socket.SOL_SOCKET and option == socket.SO_LINGER:
            self._reset = True  # see reset_on_close
        self.plain.setsockopt(level, option, value)

    def watch(self, events: int) -> Watcher:
        return _ReadWatcher(self) if events == EV_READ else _WriteWatcher(self)

    # reading

    def recv_into(self, buffer: memoryview, nbytes: int = 0, /) -> int:
        """The plaintext of at most one read of the plain socket, and at most READ_BYTES."""
        size = min(nbytes or len(buffer), READ_BYTES)
        count = 0
        if self._stash:
            count = self._read_stash(buffer, size)
        elif self._ended:
            return 0
        elif self._error is not None:
            raise self._error
        elif self._more:
            count = self._decrypt(buffer, size, 0)
        else:
            received = self.plain.recv_into(_received)
            if not received:
                raise ConnectionResetError(errno.ECONNRESET, "cut: the end was not announced by TLS")
            if received <= RECORD_BYTES:
                self._incoming.write(_received[:received])
                count = self._decrypt(buffer, size, 0)
            else:
                count = self._decrypt_many(buffer, size, received)
        if self._more and not self._fires:
            self._fire_later()
        if count or self._ended:
            return count
        if self._error is not None:
            raise self._error
        raise BlockingIOError(errno.EAGAIN, "no whole record yet")

    def _decrypt(self, buffer: memoryview, size: int, count: int) -> int:
        """Fill `buffer`, of which `count` bytes are filled, as far as `size`; the number of bytes then filled."""
        read, incoming = self._tls.read, self._incoming
        try:
            while True:
                wanted = size - count
                got = read(wanted, buffer[count:] if count else buffer)
                count += got
                if got == wanted:
                    self._more = True
                    break
                if not got or not incoming.pending:
                    self._more = self._ended = not got
                    break
        except ssl.SSLWantReadError:
            self._more = False
        except ssl.SSLZeroReturnError:
            self._more = self._ended = True
        except OSError as error:
            self._more = True
            self._error = ConnectionResetError(errno.ECONNRESET, error_text(error))
        if self._outgoing.pending:  # new keys, or an alert
            self._answer()
        return count

    def _decrypt_many(self, buffer: memoryview, size: int, received: int) -> int:
        """Decrypt what was received, a record at a time."""
        count = 0
        for at in range(0, received, RECORD_BYTES):
            self._incoming.write(_received[at : min(at + RECORD_BYTES, received)])
            if count < size and self._error is None:
                count = self._decrypt(buffer, size, count)
        return count

    def _read_stash(self, buffer: memoryview, size: int) -> int:
        part, self._stash = self._stash[:size], self._stash[size:]
        buffer[: len(part)] = part
        return len(part)

    def _answer(self) -> None:
        """Send what reading has made TLS say."""
        try:
            self._flush()
        except OSError as error:
            self._write_failed(error)
        if self._out_bytes > SEND_BYTES + ANSWERS_BYTES:
            self._more = True
            self._error = ConnectionResetError(errno.ECONNRESET, "TLS: it asks and does not read the answers")

    def _fire_later(self) -> None:
        """Call the reader though the kernel may have nothing for it."""
        if not self._fires and self._reader is not None:
            self._fires = True
            get_hub().loop.run_callback(self._fire)

    def _fire(self) -> None:
        self._fires = False
        if self._more and self._reader is not None:
            self._reader.callback(*self._reader.args)
            if self._more:
                self._fire_later()

    # writing

    def send(self, data: bytes | memoryview, /) -> int:
        """Take at most SEND_BYTES. Raises BlockingIOError while not all is out that was taken before."""
        if self._out:
            raise BlockingIOError(errno.EAGAIN, "there is ciphertext to be sent")
        if self._write_error is not None:
            raise self._write_error
        size = min(len(data), SEND_BYTES)
        try:
            if size <= RECORD_BYTES:
                self._tls.write(data)
                self._send_one(self._outgoing.read())
            else:
                view = memoryview(data)
                for at in range(0, size, RECORD_BYTES):
                    self._tls.write(view[at : min(at + RECORD_BYTES, size)])
                    self._keep(self._outgoing.read())
                self._flush()
        except ssl.SSLError as error:
            raise BrokenPipeError(errno.EPIPE, error_text(error)) from None
        return size

    def _send_one(self, ciphertext: bytes) -> None:
        try:
            sent = self.plain.send(ciphertext)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(ciphertext):
            self._keep(memoryview(ciphertext)[sent:])
            self._writer.start(self._writable)

    def sendmsg(self, buffers: list[bytes | memoryview], /) -> int:
        """`send` of as many of `buffers` as it takes."""
        room = SEND_BYTES
        taken = []
        for each in buffers:
            taken.append(each)
            room -= len(each)
            if room <= 0:
                break
        return self.send(b"".join(taken))

    def _keep(self, ciphertext: bytes | memoryview) -> None:
        self._out.append(ciphertext)
        self._out_bytes += len(ciphertext)

    def _flush(self) -> None:
        """Send the ciphertext there is; what does not fit leaves when the kernel has room. Raises OSError."""
        if self._outgoing.pending:
            self._keep(self._outgoing.read())
        if self._out:
            self._out_bytes -= send_some(self.plain, self._out, self._out_bytes)
        if self._out:
            self._writer.start(self._writable)
        elif self._half_closed:
            self.plain.shutdown(socket.SHUT_WR)

    def _writable(self) -> None:
        if self._out:
            try:
                self._flush()
            except OSError as error:
                self._write_failed(error)
            if self._out:
                return
        if self._on_writable is None:
            self._writer.stop()
        else:
            callback, args = self._on_writable
            callback(*args)

    def _write_failed(self, error: OSError) -> None:
        """The next who writes is to know. Whoever reads may find that an answer has come before."""
        self._write_error = error
        self._out.clear()
        self._out_bytes = 0

    # the end

    def shutdown(self, how: int, /) -> None:
        """SHUT_WR: nothing more will be sent, which a close_notify and then a FIN tell the other end.

        Anything else is the plain socket's and looks like a cut, at both ends.
        """
        if how != socket.SHUT_WR:
            self.plain.shutdown(how)
        elif not self._half_closed:
            self._say_end()
            self._half_closed = True
            self._flush()

    def _say_end(self) -> None:
        """Write close_notify. `unwrap` also looks for theirs, and fails for good on data before it: put that aside."""
        with contextlib.suppress(OSError):
            while waiting := self._tls.pending():
                self._stash += self._tls.read(waiting)
        received = self._incoming.read()
        with contextlib.suppress(OSError):  # SSLWantReadError: theirs has not come yet
            self._tls.unwrap()
        self._incoming.write(received)

    def close(self) -> None:
        """Say close_notify and close; what was taken and is not out follows, for REST_S at most."""
        plain = self.plain
        if plain.fileno() < 0:
            return
        if not self._reset:
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_WR)
        self._writer.stop()
        if self._out and not self._reset:
            _rests.add(_Rest(plain_socket(int(plain.family), plain.detach()), self._out, self._out_bytes))
        else:
            plain.close()


class _ReadWatcher:
    """Calls back when the kernel has bytes, or the socket itself has. One at a time is active."""

    __slots__ = ("_io", "_sock")

    def __init__(self, sock: TLSSocket) -> None:
        self._sock = sock
        self._io: Any = sock.plain.watch(EV_READ)

    @property
    def active(self) -> bool:
        return bool(self._io.active)

    def start(self, callback: Callable[..., Any], *args: Any) -> None:
        sock = self._sock
        self._io.start(callback, *args)
        sock._reader = self._io
        if sock._more:
            sock._fire_later()

    def stop(self) -> None:
        self._io.stop()
        if self._sock._reader is self._io:
            self._sock._reader = None


class _WriteWatcher:
    """Calls back when all ciphertext is out and the kernel would take more. One at a time is active."""

    __slots__ = ("_sock", "active")

    def __init__(self, sock: TLSSocket) -> None:
        self._sock = sock
        self.active = False

    def start(self, callback: Callable[..., Any], *args: Any) -> None:
        self.active = True
        self._sock._on_writable = callback, args
        self._sock._writer.start(self._sock._writable)

    def stop(self) -> None:
        if self.active:
            self.active = False
            self._sock._on_writable = None
            if not self._sock._out:
                self._sock._writer.stop()


class _Rest:
    """What a closed socket still has to send."""

    def __init__(self, plain: PlainSocket, out: list[bytes | memoryview], size: int) -> None:
        self._plain = plain
        self._out = out
        self._bytes = size
        self._writer = plain.watch(EV_WRITE)
        self._writer.start(self._writable)
        self._timer: Any = get_hub().loop.timer(REST_S)
        self._timer.start(self._close)

    def _writable(self) -> None:
        try:
            self._bytes -= send_some(self._plain, self._out, self._bytes)
        except OSError:
            self._out.clear()
        if not self._out:
            self._close()

    def _close(self) -> None:
        self._writer.stop()
        self._timer.stop()
        self._plain.close()
        _rests.discard(self)


def wait_for_rests(seconds: float) -> None:
    """Wait until all is out that closed sockets had taken, at most so long: the last thing a process does."""
    deadline = monotonic() + seconds
    while _rests and monotonic() < deadline:
        gevent.sleep(0.02)
