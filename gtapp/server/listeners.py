"""Listening sockets: accepting in a hub callback, with a pause when file descriptors run out."""

import errno
import logging
import os
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from gevent import get_hub, monkey

from gtapp.config.values import Address
from gtapp.errors import GTError
from gtapp.observe.metrics import counters
from gtapp.relay.sockets import EV_READ, PlainSocket, give_away, plain_socket, show_address

log = logging.getLogger("gt.server")

BACKLOG = 4096
ACCEPT_AT_ONCE = 64  # connections per callback: a burst must not hold the hub
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


OnAccept = Callable[[PlainSocket, str], None]


def listen(address: Address) -> PlainSocket:
    """A non-blocking listening socket. An empty host means every address of the machine, IPv6 and IPv4.

    Raises GTError that says why not and what to do.
    """
    try:
        if not address.host:
            return _bind("::", address.port, dual=True)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise _cannot_listen(address, error) from error
    try:
        return _bind(address.host or "0.0.0.0", address.port)
    except OSError as error:
        raise _cannot_listen(address, error) from error


def _cannot_listen(address: Address, error: OSError) -> GTError:
    hint = {
        errno.EADDRINUSE: "; another process listens there: stop it or choose another port",
        errno.EACCES: "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "; this machine does not have that address",
    }.get(error.errno or 0, "")
    return GTError(f"cannot listen on {address}: {error.strerror or error}{hint}")


@lru_cache
def _resolve(host: str) -> tuple[int, tuple[Any, ...]]:
    """Family and address of a host of ours. Not gevent's: who opens a port must not be interrupted by others."""
    look_up = monkey.get_original("socket", "getaddrinfo")
    family, _, _, _, name = look_up(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return int(family), name


def _bind(host: str, port: int, dual: bool = False) -> PlainSocket:
    family, name = _resolve(host)
    sock = plain_socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.bind((name[0], port, *name[2:]))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """Accepts on `sock`, a listening plain socket, and calls `on_accept(connection, its address as text)`."""

    def __init__(self, sock: PlainSocket, on_accept: OnAccept) -> None:
        self._sock = sock
        self._family = int(sock.family)
        self._on_accept = on_accept
        self._reader = sock.watch(EV_READ)
        self._timer: Any = None
        self._pause_s = 0.0
        self.address = show_address(sock.getsockname())

    def start(self) -> None:
        self._reader.start(self._readable)

    def stop(self) -> None:
        """Accept nothing more; what waits in the backlog is left to other processes that listen on the same socket, or
        refused by the system."""
        self._reader.stop()
        if self._timer is not None:
            self._timer.stop()
        if self._sock.fileno() >= 0:
            os.close(give_away(self._sock))

    def take_over(self, sock: PlainSocket) -> bool:
        """Whether `sock` is the socket that it listens on; another descriptor of that is closed."""
        same = os.path.sameopenfile(sock.fileno(), self._sock.fileno())
        if same and sock is not self._sock:
            sock.close()
        return same

    def _readable(self) -> None:
        accept = self._sock._accept  # type: ignore[attr-defined]  # accept() is slower
        try:
            for _ in range(ACCEPT_AT_ONCE):
                fd, peer = accept()
                self._pause_s = 0.0
                self._on_accept(plain_socket(self._family, fd), show_address(peer))
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                self._pause(error)
            else:
                log.warning("accept on %s: %s", self.address, error.strerror)
        except Exception:
            log.exception("unexpected error while accepting on %s", self.address)

    def _pause(self, error: OSError) -> None:
        """Out of file descriptors or memory: leave visitors in the backlog, and try again by and by."""
        if not self._pause_s:
            hint = "raise the limit of open files (ulimit -n)"
            log.warning("accepting on %s pauses: %s; %s", self.address, error.strerror, hint)
        self._pause_s = min(self._pause_s * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        counters.accept_paused += 1
        self._reader.stop()
        self._timer = get_hub().loop.timer(self._pause_s)
        self._timer.start(self.start)
