"""Free TCP ports that stay ours until the test is over. Used by world.py, nginx.py and proxy.py."""

from __future__ import annotations

import socket
from typing import Self

Address = tuple[str, int]


class Port:
    """A port number held by a socket that is bound and never listens.

    A process that sets SO_REUSEADDR may bind and listen on it, again and again, on `host` or on every address of
    the machine; connecting to it while nobody listens is refused; and the kernel gives it to nobody else, not even as
    the near end of a connection from another address of the machine.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._holder = _hold_everywhere()
        self.number: int = self._holder.getsockname()[1]
        self.address: Address = (host, self.number)

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


def _hold_everywhere() -> socket.socket:
    """A socket bound to a free port of all addresses, IPv6 and IPv4. On one address alone it would not keep a
    connection from 127.0.0.2, say, from having the same port, and a server for all addresses would be refused it."""
    dual = socket.has_dualstack_ipv6()
    holder = socket.socket(socket.AF_INET6 if dual else socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if dual:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    holder.bind(("", 0))
    return holder
