"""Free TCP ports that stay ours until the test is over. Used by world.py, nginx.py and proxy.py."""

from __future__ import annotations

import socket
from typing import Self

Address = tuple[str, int]


class Port:
    """A port number held by a socket that is bound and never listens.

    A process that sets SO_REUSEADDR may bind and listen on it, again and again; connecting to it while nobody
    listens is refused; and the kernel gives it to nobody else, not even as the near end of a connection.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind((host, 0))
        self.address: Address = self._holder.getsockname()
        self.number = self.address[1]

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.number}"

    def listen(self, backlog: int = 512) -> socket.socket:
        """A listening socket of this process on the port."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self.address)
        listener.listen(backlog)
        return listener

    def close(self) -> None:
        self._holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
