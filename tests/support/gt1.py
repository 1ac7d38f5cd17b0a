"""Protocol 1 by hand: an old GT client and an old GT server, bytes written straight from docs/PROTOCOL.md.

Nothing here comes from gtapp, so that a mistake in its codec cannot hide in a test that uses the same one.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Self

from tests.support.ports import Address, Port
from tests.support.processes import PATIENCE_S, eventually
from tests.support.tunnel_socket import TunnelSocket

PING, CLOSE, READY, ERROR, INFO, SERVICES, RECONNECT = range(0xFFFFFFFF, 0xFFFFFFF8, -1)
FIRST_SIGNAL = 0xFFFFFFFF - 3000
DATA, ENDED, FIRST = 0, 1, 2


def opening(id: str, secret: str, options: bytes) -> bytes:
    """F0 01, id, secret, options."""
    return b"\xf0\x01" + credentials(id, secret) + options


def credentials(id: str, secret: str) -> bytes:
    return bytes([len(id)]) + id.encode() + bytes([len(secret)]) + secret.encode()


def publish(*prefixes: str) -> bytes:
    """Options that publish HTTP under these prefixes; "" is the id. 02 stands before each but the last."""
    options = [b"\x03" + bytes([len(prefix)]) + prefix.encode() if prefix else b"\x00" for prefix in prefixes]
    return b"".join(b"\x02" + option for option in options[:-1]) + options[-1]


def signal(number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", number) + payload


def data(task: int, payload: bytes) -> bytes:
    return struct.pack(">IHI", task, DATA, len(payload)) + payload


def ended(task: int) -> bytes:
    return struct.pack(">IH", task, ENDED)


def first(task: int, service: int, payload: bytes) -> bytes:
    return struct.pack(">IHHI", task, FIRST, service, len(payload)) + payload


@dataclass(frozen=True)
class Frame:
    """A signal (task None) or a frame of a task, as received."""

    number: int
    task: int | None = None
    service: int = 0
    payload: bytes = b""


class Wire(TunnelSocket):
    """Reads and writes one tunnel connection."""

    def __init__(self, sock: socket.socket, from_server: bool) -> None:
        super().__init__(sock)
        self._from_server = from_server

    def _number(self, size: int) -> int:
        return int.from_bytes(self.exactly(size), "big")

    def frame(self) -> Frame:
        """The next frame or signal; AssertionError for what no GT end sends in this direction."""
        number = self._number(4)
        if number < FIRST_SIGNAL:
            op = self._number(2)
            if op == DATA:
                return Frame(DATA, number, payload=self.exactly(self._number(4)))
            if op == ENDED:
                return Frame(ENDED, number)
            assert op == FIRST, f"unknown op {op}"
            assert self._from_server, "op 2 comes from servers only"
            return Frame(FIRST, number, self._number(2), self.exactly(self._number(4)))
        if number in (PING, CLOSE):
            return Frame(number)
        if number == SERVICES:
            return Frame(SERVICES, payload=b"" if self._from_server else self.credentials_and_options())
        assert self._from_server, f"signal {number:x} comes from servers only"
        if number in (READY, RECONNECT):
            return Frame(number)
        assert number in (ERROR, INFO), f"unknown signal {number:x}"
        code = self.exactly(2)
        more = {(ERROR, 2): 2, (INFO, 1): 4}.get((number, code[1]), 0)
        return Frame(number, payload=code + self.exactly(more))

    def skip_pings(self) -> Frame:
        while (frame := self.frame()).number == PING and frame.task is None:
            pass
        return frame

    def until_end(self) -> list[Frame]:
        """The frames until the other side ends the tunnel; TimeoutError when it does not."""
        frames = []
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                frames.append(self.frame())
        return frames

    def credentials_and_options(self) -> bytes:
        """id, secret and HTTP options, exactly as they came."""
        got = self._text() + self._text()
        more = True
        while more:
            option = self.exactly(1)
            more = option == b"\x02"
            if more:
                got += option
                option = self.exactly(1)
            assert option in (b"\x00", b"\x03"), f"option {option.hex()}"
            got += option + (self._text() if option == b"\x03" else b"")
        return got

    def _text(self) -> bytes:
        size = self.exactly(1)
        return size + self.exactly(size[0])


class OldClient(Wire):
    """A GT client's end of one tunnel to a server under test."""

    def __init__(
        self, address: Address, id: str, secret: str, options: bytes = b"\x00", source: str = ""
    ) -> None:
        """`source` is the address that it comes from, such as 127.0.0.2."""
        sock = socket.create_connection(address, PATIENCE_S, (source, 0) if source else None)
        super().__init__(sock, from_server=True)
        self.send(opening(id, secret, options))

    def ready(self) -> Self:
        assert self.frame() == Frame(READY)
        return self


class OldServer:
    """A GT server that speaks protocol 1 only. What it says to anything else is `answer`, and then it closes.

    Each tunnel that opens properly appears in `tunnels`, READY already sent, and what it opened with in `openings`.
    """

    def __init__(self, answer: bytes = b"", ready: bytes = signal(READY)) -> None:
        self.port = Port()
        self.address = self.port.address
        self.openings: list[bytes] = []
        self.others: list[bytes] = []
        self.tunnels: list[Wire] = []
        self._answer = answer
        self._ready = ready
        self._sockets: list[socket.socket] = []
        self._listener = self.port.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            with contextlib.suppress(OSError, EOFError):
                self._open(Wire(sock, from_server=False))

    def _open(self, wire: Wire) -> None:
        start = wire.exactly(2)
        if start != b"\xf0\x01":
            self.others.append(start)
            if self._answer:
                wire.send(self._answer)
            wire.close()
            return
        self.openings.append(start + wire.credentials_and_options())
        wire.send(self._ready)
        self.tunnels.append(wire)

    def tunnel(self, number: int = 0) -> Wire:
        """The tunnel that came as this number, once it is there."""
        eventually(
            lambda: len(self.tunnels) > number,
            f"tunnel {number + 1} at the old server, others: {self.others}",
        )
        return self.tunnels[number]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            sock.close()
        self._thread.join(PATIENCE_S)
        self.port.close()
