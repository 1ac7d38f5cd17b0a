"""A man in the middle: takes the TLS off between a client and its server, and puts his own on. Used by e2e tests."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

from tests.support.ports import Address, Port


class Middleman:
    """Shows `cert` to whoever connects, believes anything of the server, and passes the bytes on, which he reads.

    `heard` is what clients have said in the tunnel, in the clear.
    """

    def __init__(self, target: Address, cert: Path, key: Path) -> None:
        self.port = Port()
        self.address: Address = self.port.address
        self.heard = bytearray()
        self.refused = 0  # by clients who do not like the certificate
        self._target = target
        self._own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._own.load_cert_chain(cert, key)
        self._any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._any.check_hostname, self._any.verify_mode = False, ssl.CERT_NONE
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = self.port.listen()
        self._start(self._accept)

    def _start(self, target: object, *args: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._between, self._listener.accept()[0])

    def _between(self, near: socket.socket) -> None:
        try:
            client = self._own.wrap_socket(near, server_side=True)
        except OSError:
            self.refused += 1
            near.close()
            return
        server = self._any.wrap_socket(socket.create_connection(self._target))
        self._sockets += [client, server]
        self._start(self._carry, server, client, bytearray())
        self._carry(client, server, self.heard)

    def _carry(self, source: ssl.SSLSocket, sink: ssl.SSLSocket, heard: bytearray) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                heard += data
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in self._sockets:
            sock.close()
        self.port.close()
