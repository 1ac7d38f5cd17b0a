"""TLS handshakes in slices, so that they never hold the hub. Used by the server's listeners and the client's dialer."""

import contextlib
import errno
import hashlib
import logging
import ssl
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from gevent import get_hub
from gevent.event import AsyncResult

from gtapp.relay.sockets import EV_READ, PlainSocket
from gtapp.relay.tls_socket import RECORD_BYTES, TLSSocket, error_text

__all__ = ["Handshake", "Handshakes", "ServerContext", "TLSSocket", "channel_binding", "error_text"]

log = logging.getLogger("gt.tls")

SLICE_S = 0.002  # of handshakes, per turn of the hub's loop; the last step begun in it may take 5 ms more

Done = Callable[[TLSSocket | OSError], None]

_received = memoryview(bytearray(RECORD_BYTES))  # used up before a step returns


class ServerContext(ssl.SSLContext):
    """A server's TLS settings; `binding` is `channel_binding` of its certificate."""

    binding: bytes


def channel_binding(certificate: bytes) -> bytes:
    """`tls-server-end-point` of a certificate in DER (RFC 5929 section 4).

    Where the RFC has none, because the signature has no hash of its own (Ed25519), it is SHA-256.
    """
    from cryptography import x509  # 11 MB, which a process without TLS does not need
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        algorithm = None
    name = "sha256" if algorithm is None or algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name, certificate).digest()


class Handshakes:
    """The handshakes of a process. One costs up to 5 ms of the processor (RSA with 4096 bits), so they queue up: in
    each turn of the hub's loop some get on, for SLICE_S together, and then whoever relays bytes has its turn."""

    def __init__(self) -> None:
        self._ready: deque[Handshake] = deque()
        self._running = False
        self._turn: Any = get_hub().loop.timer(0.0)

    def start(
        self,
        sock: PlainSocket,
        context: ssl.SSLContext,
        done: Done,
        *,
        server_side: bool,
        first: bytes = b"",
        server_hostname: str | None = None,
    ) -> "Handshake":
        """Begin one on `sock`, of which `first` has been read already.

        `done` is called later, once: with the encrypted socket; or with what went wrong (ssl.SSLError included), and
        then `sock` is the caller's again, who closes it. There is no limit of time. A server's context is a
        ServerContext. Raises ValueError on a `server_hostname` that cannot be one.
        """
        encrypted = TLSSocket(sock, context, server_side, server_hostname)
        return Handshake(self, encrypted, context, done, first)

    def wait(
        self,
        sock: PlainSocket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> TLSSocket:
        """The same for a greenlet, which waits. Raises the OSError; `sock` is the caller's until this returns."""
        result: AsyncResult[TLSSocket | OSError] = AsyncResult()
        handshake = self.start(
            sock, context, result.set, server_side=server_side, server_hostname=server_hostname
        )
        try:
            made = result.get()
        finally:
            handshake.close()
        if not isinstance(made, TLSSocket):
            raise made or AssertionError
        return made

    def add(self, handshake: "Handshake") -> None:
        """It can get on."""
        self._ready.append(handshake)
        if not self._running:
            self._running = True
            get_hub().loop.run_callback(self._slice)

    def _slice(self) -> None:
        end = perf_counter() + SLICE_S
        while self._ready:
            self._ready.popleft().step()
            if perf_counter() > end:
                break
        if self._ready:
            self._turn.start(self._slice)  # run_callback might do it before the loop looks at its sockets
        else:
            self._running = False


class Handshake:
    """One that is under way. `close` gives it up; the plain socket is the caller's again."""

    __slots__ = ("_context", "_done", "_handshakes", "_reader", "_receives", "_sock")

    def __init__(
        self, handshakes: Handshakes, sock: TLSSocket, context: ssl.SSLContext, done: Done, first: bytes
    ) -> None:
        self._handshakes = handshakes
        self._sock = sock
        self._context = context
        self._done: Done | None = done
        self._reader = sock.plain.watch(EV_READ)
        self._receives = isinstance(context, ServerContext) and not first  # before it can do anything
        sock._incoming.write(first)
        if self._receives:
            self._reader.start(self._readable)
        else:
            handshakes.add(self)

    def close(self) -> None:
        if self._done is not None:
            self._done = None
            self._reader.stop()
            self._sock._writer.stop()

    def _readable(self) -> None:
        self._reader.stop()  # until it has had its turn
        self._handshakes.add(self)

    def step(self) -> None:
        """Do what can be done now. `Handshakes` calls it."""
        if self._done is None:
            return
        try:
            done = self._advance()
        except (BlockingIOError, InterruptedError):
            self._reader.start(self._readable)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._sock._flush()  # the alert
            self._end(error)
        except Exception:
            log.exception("unexpected error in a TLS handshake")
            self._end(ConnectionAbortedError(errno.ECONNABORTED, "internal error"))
        else:
            if done:
                self._end(self._sock)
            else:
                self._reader.start(self._readable)

    def _advance(self) -> bool:
        """Whether it is complete."""
        sock = self._sock
        if self._receives:
            received = sock.plain.recv_into(_received)
            if not received:
                raise ConnectionResetError(errno.ECONNRESET, "closed in the middle of the TLS handshake")
            sock._incoming.write(_received[:received])
        self._receives = True
        try:
            sock._tls.do_handshake()
        except ssl.SSLWantReadError:
            sock._flush()
            return False
        sock._flush()
        if isinstance(self._context, ServerContext):
            sock.channel_binding = self._context.binding
        else:
            sock.channel_binding = channel_binding(sock._tls.getpeercert(binary_form=True))
        sock._more = sock._incoming.pending > 0
        return True

    def _end(self, result: TLSSocket | OSError) -> None:
        done = self._done
        assert done is not None
        if isinstance(result, OSError):
            log.debug("TLS handshake: %s", error_text(result))
            self.close()
        self._done = None
        try:
            done(result)
        except Exception:
            log.exception("unexpected error after a TLS handshake")
