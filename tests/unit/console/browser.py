"""A browser's connection to the console's HTTP server, by gevent's sockets: both ends run in one process."""

from __future__ import annotations

import base64
import http.client
import os
import struct
from typing import Any, NamedTuple

import gevent.ssl
from gevent import socket

DEADLINE_S = 10.0


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str


class Connection:
    """One connection to `address`; with `context`, over TLS."""

    def __init__(self, address: tuple[str, int], context: gevent.ssl.SSLContext | None = None) -> None:
        self.socket: Any = socket.create_connection(address, DEADLINE_S)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def get(self, path: str, **headers: str) -> Answer:
        self.send(request("GET", path, **headers))
        return self.answer()

    def answer(self) -> Answer:
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        text = response.read().decode()
        found = Answer(response.status, response.headers, text)
        response.close()
        return found

    def ended(self) -> bytes:
        """What comes until the other end closes, which it has to do in time."""
        received = b""
        try:
            while data := self.socket.recv(65536):
                received += data
        except ConnectionResetError:
            pass
        return received

    def upgrade(self, path: str, **headers: str) -> Answer:
        """Ask for a WebSocket; the answer's text is left unread when there is one."""
        key = base64.b64encode(os.urandom(16)).decode()
        wanted = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
        self.send(request("GET", path, **{**wanted, "Sec_WebSocket_Key": key, **headers}))
        return self.answer()


def request(method: str, path: str, **headers: str) -> bytes:
    """The head of a request; `Sec_WebSocket_Key` stands for Sec-WebSocket-Key."""
    lines = [f"{method} {path} HTTP/1.1", *(() if "Host" in headers else ("Host: 127.0.0.1",))]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(
    payload: bytes, opcode: int = 1, final: bool = True, masked: bool = True, length: int | None = None
) -> bytes:
    """A frame of a WebSocket (RFC 6455 section 5.2), as a browser sends it; `length` is what it claims."""
    said = len(payload) if length is None else length
    head = struct.pack("!B", (0x80 if final else 0) | opcode)
    bit = 0x80 if masked else 0
    if said < 126:
        head += struct.pack("!B", bit | said)
    elif said < 65536:
        head += struct.pack("!BH", bit | 126, said)
    else:
        head += struct.pack("!BQ", bit | 127, said)
    return head + (b"\0\0\0\0" if masked else b"") + payload
