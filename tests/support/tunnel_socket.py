"""A tunnel's connection as the hand-written ends see it: whole pieces, with a deadline. Base of `gt1` and `native`."""

import socket
from typing import Self

from tests.support.processes import PATIENCE_S


class TunnelSocket:
    """Sends and reads bytes; EOFError when the other end closes in the middle."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            more = self.socket.recv(size - len(got))
            if not more:
                raise EOFError(f"tunnel ended after {len(got)} of {size} bytes")
            got += more
        return got
