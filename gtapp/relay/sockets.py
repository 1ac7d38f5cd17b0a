"""Plain non-blocking sockets for the data path: gevent's would switch greenlets, which a callback must not."""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub, monkey

EV_READ, EV_WRITE = 1, 2  # libev's
JOIN_BYTES = 32 * 1024  # up to here one copy is cheaper than a scatter list
IOV_MAX = 1024  # Linux's limit for one sendmsg
_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_TCP_INFO = struct.Struct("=100xI32xI")  # of struct tcp_info, up to the second of the two that we want
_EPOLL_CTL_DEL = 2
_epoll_ctl = ctypes.PyDLL(None).epoll_ctl

if TYPE_CHECKING:
    _System = socket.socket
else:
    _System = monkey.get_original("socket", "socket")


class Watcher(Protocol):
    """Calls back, from the hub, whenever its socket is ready; `loop.io` is one."""

    @property
    def active(self) -> bool: ...
    def start(self, callback: Callable[..., Any], *args: Any) -> None: ...
    def stop(self) -> None: ...


class Socket(Protocol):
    """A connection for the data path: what it says is that of `socket.socket`, and nothing waits.

    Whoever wants to know when it is ready asks it for a watcher: bytes may also wait in the socket object.
    """

    def fileno(self) -> int: ...
    def recv_into(self, buffer: memoryview, nbytes: int = 0, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def sendmsg(self, buffers: list[bytes | memoryview], /) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def getpeername(self) -> Any: ...
    def watch(self, events: int) -> Watcher: ...


class PlainSocket(_System):
    """A TCP socket whose calls are the system's."""

    __slots__ = ()

    def watch(self, events: int) -> Watcher:
        """A watcher of EV_READ or EV_WRITE, not started."""
        return get_hub().loop.io(self.fileno(), events)  # type: ignore[return-value]  # it has `active`


def plain_socket(family: int, fd: int | None = None) -> PlainSocket:
    """A non-blocking TCP socket, new or around `fd`."""
    if fd is None:
        return PlainSocket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    sock = PlainSocket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)
    sock.setblocking(False)
    return sock


def system_socket(family: int, kind: int, fd: int) -> socket.socket:
    """The system's non-blocking socket around `fd`, for whoever watches it in callbacks."""
    sock = _System(family, kind, 0, fd)
    sock.setblocking(False)
    return sock


def take_over(sock: socket.socket) -> PlainSocket:
    """The plain socket for the connection of gevent's `sock`, which is used up."""
    return plain_socket(int(sock.family), sock.detach())


def give_away(sock: PlainSocket) -> int:
    """The descriptor of `sock`, which is used up, to be passed to another process and closed here.

    No watcher of it may be active. A connection that lives on elsewhere stays in this process's epoll set, and with
    each event on it libev, which expects that a close takes it out, would build the set anew.
    """
    fd = sock.detach()
    _epoll_ctl(get_hub().loop.fileno(), _EPOLL_CTL_DEL, fd, None)  # ENOENT: it has never been watched
    return fd


def show_address(name: Any) -> str:
    """ "203.0.113.9:51234" or "[2001:db8::1]:51234" of what getpeername() and accept() give."""
    host: str = name[0].partition("%")[0]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]  # an IPv4 visitor on a listener for both
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


def reset_on_close(sock: Socket) -> None:
    """Make the coming close() a TCP reset, so that nobody takes an aborted transfer for a complete one."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)


def sent_again(sock: Socket) -> float:
    """What share of the segments sent on a TCP connection had to be sent again, 0.0 to 1.0: what the way loses, as far
    as the sender knows (tcpi_total_retrans and tcpi_segs_out of Linux). 0.0 when that can't be asked."""
    try:
        with _System(fileno=os.dup(sock.fileno())) as same:
            info = same.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        again, segments = _TCP_INFO.unpack(info)
    except (OSError, struct.error):
        return 0.0
    return min(1.0, again / segments) if segments else 0.0


def send_some(sock: Socket, chunks: list[bytes | memoryview], total: int) -> int:
    """Send what one system call takes of `chunks` (`total` bytes together) and remove that from the list.

    Returns the bytes sent, 0 when the socket is full. Raises OSError when the connection is gone.
    """
    try:
        if len(chunks) == 1:
            sent = sock.send(chunks[0])
        elif total <= JOIN_BYTES:
            chunks[:] = [b"".join(chunks)]
            sent = sock.send(chunks[0])
        else:
            sent = sock.sendmsg(chunks[:IOV_MAX])
    except (BlockingIOError, InterruptedError):
        return 0
    if sent == total:
        chunks.clear()
        return sent
    left = sent
    whole = 0
    for chunk in chunks:
        if left < len(chunk):
            break
        left -= len(chunk)
        whole += 1
    del chunks[:whole]
    if left:
        chunks[0] = memoryview(chunks[0])[left:]
    return sent
