"""Encrypted connections for the tests that run the relay in this process."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent

from gtapp.relay.sockets import PlainSocket, take_over
from gtapp.relay.tls import Handshakes, ServerContext, TLSSocket
from gtapp.server.certificates import server_context
from tests.support.certificates import Pair
from tests.support.relay import tcp_pair


class Contexts:
    """A server's context and that of a client who trusts it, and speaks no TLS newer than `version`."""

    def __init__(self, directory: Path, pair: Pair, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.pair = pair
        self.server: ServerContext = server_context(*pair.write(directory), "tls1.2")
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.load_verify_locations(cadata=pair.pem.decode())
        self.client.maximum_version = version


class TLSEnd:
    """The test's end of an encrypted connection, over one of gevent's sockets and used like one."""

    def __init__(
        self,
        sock: Any,
        context: ssl.SSLContext,
        server_side: bool = False,
        server_name: str | None = "localhost",
    ) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else server_name
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)
        self._resets = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._resets = self._resets or option == socket.SO_LINGER
        self.sock.setsockopt(level, option, value)

    def do_handshake(self) -> None:
        self._do(self.tls.do_handshake)

    def recv(self, size: int) -> bytes:
        """b"" at their close_notify. Raises ConnectionResetError when they end without one."""
        try:
            return bytes(self._do(self.tls.read, size))
        except ssl.SSLZeroReturnError:
            return b""

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        for at in range(0, len(data), 16384):
            self.tls.write(view[at : at + 16384])
            self.flush()

    def shutdown(self, how: int) -> None:
        """SHUT_WR: close_notify, then FIN."""
        assert how == socket.SHUT_WR
        self.say_end()
        self.sock.shutdown(how)

    def say_end(self) -> None:
        received = self.incoming.read()
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.incoming.write(received)
        self.flush()

    def close(self) -> None:
        if self.sock.fileno() >= 0 and not self._resets:
            with contextlib.suppress(OSError):
                self.say_end()
                self.sock.setblocking(False)
                self.sock.recv(65536)  # session tickets: the kernel resets what is closed with bytes unread
        self.sock.close()

    def cut(self) -> None:
        """A FIN and no close_notify."""
        self.sock.close()

    def flush(self) -> None:
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def _do(self, call: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                result = call(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                if not data:
                    raise ConnectionResetError("the end was not announced") from None
                self.incoming.write(data)
            else:
                self.flush()
                return result


def secure(sock: PlainSocket, end: TLSEnd, context: ssl.SSLContext, name: str | None = None) -> TLSSocket:
    """Shake hands: `sock` with `context`, which is a server's or a client's, and the test's end."""
    server_side = isinstance(context, ServerContext)
    other = gevent.spawn(end.do_handshake)
    made = Handshakes().wait(sock, context, server_side=server_side, server_hostname=name)
    other.get(timeout=10)
    return made


def encrypted_pair(contexts: Contexts, buffer_bytes: int = 0) -> tuple[TLSSocket, TLSEnd]:
    """`tcp_pair` with TLS: the relay's end is the server."""
    near, far = tcp_pair(buffer_bytes)
    end = TLSEnd(far, contexts.client)
    return secure(near, end, contexts.server), end


def both_ends(sock: PlainSocket, far: Any, contexts: Contexts) -> tuple[TLSSocket, TLSSocket]:
    """Encrypt a connection of which both ends are the relay's: `sock` is the server's, gevent's `far` is used up."""
    handshakes = Handshakes()
    server = gevent.spawn(handshakes.wait, sock, contexts.server, server_side=True)
    client = handshakes.wait(take_over(far), contexts.client, server_side=False, server_hostname="localhost")
    return server.get(timeout=10), client
