"""Visitors: HTTP/1 over a raw socket, exact in what is sent and strict about how a response ends."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Self

from tests.support.ports import Address
from tests.support.processes import PATIENCE_S


class Ended(Exception):
    """The connection ended before what was asked for: `how` is "closed" (FIN) or "reset" (RST)."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


@dataclass
class Response:
    """One response. `end` says what ended its body: length, chunked, close; or short, reset when it is not whole."""

    status: int
    version: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    sha256: str = ""
    size: int = 0
    end: str = ""

    @property
    def whole(self) -> bool:
        return self.end in ("length", "chunked", "close")

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Visitor:
    """One visitor's connection."""

    def __init__(
        self, address: Address, timeout: float = PATIENCE_S, receive_buffer: int = 0, source: str = ""
    ) -> None:
        """`source` is the address that it comes from, such as 127.0.0.3."""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if source:
            self.socket.bind((source, 0))
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Goes away with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        version: str = "1.1",
    ) -> None:
        """Sends one request; Content-Length is added for a body unless the headers say how it is framed."""
        fields = {"Host": host} | (headers or {})
        if body and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items())]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def receive(self, limit: int = 1 << 16) -> bytes:
        """The next bytes; Ended when there are none, TimeoutError after the visitor's timeout."""
        if self.pending:
            data, self.pending = self.pending[:limit], self.pending[limit:]
            return data
        try:
            data = self.socket.recv(limit)
        except ConnectionError:
            raise Ended("reset") from None
        if not data:
            raise Ended("closed")
        return data

    def until(self, mark: bytes, limit: int = 1 << 20) -> bytes:
        """Everything up to and with the mark."""
        data = b""
        while mark not in data:
            assert len(data) < limit, f"{mark!r} not in {limit} bytes"
            data += self.receive()
        end = data.index(mark) + len(mark)
        self.pending = data[end:] + self.pending
        return data[:end]

    def exactly(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            parts.append(self.receive(min(left, 1 << 18)))
            left -= len(parts[-1])
        return b"".join(parts)

    def head(self) -> Response:
        """Status line and headers of the next response."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        fields = (line.split(":", 1) for line in lines[1:] if line)
        return Response(int(status), version, {name.strip().lower(): value.strip() for name, value in fields})

    def response(self, *, method: str = "GET", keep: bool = True) -> Response:
        """The next response with its body (kept, or only counted and hashed). Never raises for a body cut short."""
        response = self.head()
        self.body(response, method=method, keep=keep)
        return response

    def body(self, response: Response, *, method: str = "GET", keep: bool = True) -> None:
        """Reads the body of a response whose head was read, and how it ended, into it."""
        digest, parts = hashlib.sha256(), []

        def take(data: bytes) -> None:
            digest.update(data)
            response.size += len(data)
            if keep:
                parts.append(data)

        try:
            if method == "HEAD" or response.status in (204, 304) or 100 <= response.status < 200:
                response.end = "length"
            elif "chunked" in response.headers.get("transfer-encoding", ""):
                while size := int(self.until(b"\r\n").split(b";")[0], 16):
                    self._some(size, take)
                    assert self.exactly(2) == b"\r\n"
                while self.until(b"\r\n") != b"\r\n":
                    pass
                response.end = "chunked"
            elif "content-length" in response.headers:
                self._some(int(response.headers["content-length"]), take)
                response.end = "length"
            else:
                while True:
                    take(self.receive(1 << 18))
        except Ended as ended:
            if ended.how == "reset":
                response.end = "reset"
            else:
                framed = {"content-length", "transfer-encoding"} & response.headers.keys()
                response.end = "short" if framed else "close"
        response.body, response.sha256 = b"".join(parts), digest.hexdigest()

    def _some(self, size: int, take: object) -> None:
        assert callable(take)
        while size:
            data = self.receive(min(size, 1 << 18))
            take(data)
            size -= len(data)

    def ending(self, within: float) -> str:
        """How the connection ends, "closed" or "reset", whatever else arrives before; AssertionError if it does not."""
        deadline = time.monotonic() + within
        before = self.socket.gettimeout()
        try:
            while True:
                self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    self.receive()
                except Ended as ended:
                    return ended.how
                except TimeoutError:
                    raise AssertionError(f"still open after {within:g} s") from None
        finally:
            with contextlib.suppress(OSError):
                self.socket.settimeout(before)


def fetch(
    address: Address, host: str, path: str = "/", *, timeout: float = PATIENCE_S, keep: bool = True
) -> Response:
    """One GET on its own connection."""
    with Visitor(address, timeout) as visitor:
        visitor.request(host, path, headers={"Connection": "close"})
        return visitor.response(keep=keep)


def chunked(*parts: bytes) -> bytes:
    """The parts in chunked transfer coding, with the last chunk."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))
