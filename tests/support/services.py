"""Local services that nginx cannot play: one function per connection, each connection a thread. Used by tests."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.support.ports import Address, Port
from tests.support.processes import PATIENCE_S, eventually

Handler = Callable[["Connection"], None]


class Connection:
    """A connection that a service accepted. `gone` tells how it ended for the service, when it did."""

    def __init__(self, sock: socket.socket, service: Service) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.service = service
        self.pending = b""
        self.gone = threading.Event()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self) -> bytes:
        """The next request head, b"" at the end of the connection. What follows it stays in `pending`."""
        while b"\r\n\r\n" not in self.pending:
            data = self.socket.recv(65536)
            if not data:
                return b""
            self.pending += data
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def wait_end(self) -> None:
        """Reads and drops until the other side ends the connection."""
        with contextlib.suppress(OSError):
            while self.socket.recv(65536):
                pass


class Service:
    """Listens on a port of its own; closed with its connections by the test's world."""

    def __init__(self, handler: Handler, port: Port | None = None) -> None:
        self.port = port or Port()
        self.address: Address = self.port.address
        self.url = f"http://{self.port}"
        self.connections: list[Connection] = []
        self.stopping = threading.Event()
        self.notes: list[Any] = []  # what handlers want the test to see
        self._handler = handler
        self._listener = self.port.listen()
        self._threads = [threading.Thread(target=self._accept, name=f"service {self.port}", daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(sock, self)
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            self._handler(connection)
        except OSError as error:
            self.notes.append(error)
        finally:
            connection.gone.set()
            connection.socket.close()

    def wait_connections(self, count: int, timeout: float = PATIENCE_S) -> list[Connection]:
        eventually(lambda: len(self.connections) >= count, f"{count} connections to the service", timeout)
        return self.connections

    def stop_listening(self) -> None:
        """From now on connecting is refused; what is open stays."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        self.stopping.set()
        self.stop_listening()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), f"a handler of {self.url} hangs"
        self.port.close()


def silent(connection: Connection) -> None:
    """Takes the connection and never says a word."""
    connection.wait_end()


def answering(body: bytes) -> Handler:
    """Answers every request on the connection with this body."""

    def handler(connection: Connection) -> None:
        while connection.head():
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    return handler


def counting(connection: Connection) -> None:
    """Counts and hashes what follows the head until the visitor's half close, then answers with both."""
    connection.head()
    digest, size = hashlib.sha256(connection.pending), len(connection.pending)
    while data := connection.socket.recv(1 << 18):
        digest.update(data)
        size += len(data)
    text = f"{size} {digest.hexdigest()}".encode()
    connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + text)


def events(count: int, every_s: float) -> Handler:
    """Server-Sent Events whose data is the monotonic clock (ns) of the moment they were sent."""

    def handler(connection: Connection) -> None:
        connection.head()
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n"
        )
        for _ in range(count):
            if connection.service.stopping.wait(every_s):
                return
            connection.send(b"data: %d\n\n" % time.monotonic_ns())

    return handler


def endless(framing: str) -> Handler:
    """A response that goes on until the connection ends: framed by "length" (1 TB), "chunked" or "close"."""
    field = {
        "length": b"Content-Length: 1099511627776\r\n",
        "chunked": b"Transfer-Encoding: chunked\r\n",
        "close": b"",
    }
    piece = b"x" * 16384
    if framing == "chunked":
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)

    def handler(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\n" + field[framing] + b"Connection: close\r\n\r\n")
        while not connection.service.stopping.wait(0.005):
            connection.send(piece)

    return handler


class Unanswered:
    """An address where connecting neither succeeds nor fails: a listener whose backlog is full."""

    def __init__(self) -> None:
        self.port = Port()
        self.url = f"http://{self.port}"
        self._listener = self.port.listen(0)
        self._filling: list[socket.socket] = []
        while True:
            filler = socket.socket()
            filler.settimeout(0.3)
            self._filling.append(filler)
            try:
                filler.connect(self.port.address)
            except TimeoutError:
                break

    def close(self) -> None:
        for sock in (*self._filling, self._listener):
            sock.close()
        self.port.close()


def echoing(connection: Connection) -> None:
    """Sends back what comes, until the visitor has finished."""
    while data := connection.socket.recv(1 << 18):
        connection.send(data)


def greeting(banner: bytes) -> Handler:
    """Speaks first, then sends back what comes."""

    def handler(connection: Connection) -> None:
        connection.send(banner)
        echoing(connection)

    return handler
