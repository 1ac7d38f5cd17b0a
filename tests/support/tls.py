"""Visitors and services over TLS: the handshake by hand where its bytes matter, else by the standard library. Used by
e2e tests and the bench."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.certificates import Files
from tests.support.http import Visitor
from tests.support.services import Connection, Handler

Cut = Callable[[bytes], Iterator[bytes]]


def trusting(authority: Path, *alpn: str) -> ssl.SSLContext:
    """The context of a visitor who trusts this authority and offers these protocols."""
    context = ssl.create_default_context(cafile=str(authority))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def over_tls(visitor: Visitor, context: ssl.SSLContext, name: str | None) -> ssl.SSLSocket:
    """From now on the visitor speaks TLS; ssl.SSLError where the handshake fails. `name` None: it sends none."""
    context.check_hostname = name is not None
    if name is None:
        context.verify_mode = ssl.CERT_NONE
    wrapped = context.wrap_socket(visitor.socket, server_hostname=name)
    visitor.socket = wrapped
    return wrapped


def speaking_tls(handler: Handler, files: Files) -> Handler:
    """The handler of a service whose connections are TLS with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)

    def handle(connection: Connection) -> None:
        connection.socket = context.wrap_socket(connection.socket, server_side=True)
        handler(connection)

    return handle


class Handshake:
    """A handshake whose first message the test has in hand: `hello`, the bytes of the ClientHello in its record."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        self.hello = self._outgoing.read()

    def finish(self, visitor: Visitor) -> None:
        """The rest of it, once the hello has been sent."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                visitor.send(self._outgoing.read())
                self._incoming.write(visitor.receive())
            else:
                visitor.send(self._outgoing.read())
                return

    def fetch(self, visitor: Visitor, host: str, path: str) -> bytes:
        """The response, with its head, to a request that ends the connection."""
        self._tls.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        visitor.send(self._outgoing.read())
        answer = b""
        while True:
            try:
                data = self._tls.read(65536)
            except ssl.SSLWantReadError:
                self._incoming.write(visitor.receive())
            else:
                if not data:
                    return answer
                answer += data


def bytewise(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


def in_records(hello: bytes, size: int) -> bytes:
    """The same message in records of `size` bytes (RFC 8446 section 5.1)."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2) + piece for piece in pieces)
