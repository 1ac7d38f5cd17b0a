"""Plain non-blocking sockets for the data path: gevent's would switch greenlets, which a callback must not."""

import contextlib
import socket
import struct
from typing import Any

from gevent import monkey

EV_READ, EV_WRITE = 1, 2  # libev's
JOIN_BYTES = 32 * 1024  # up to here one copy is cheaper than a scatter list
IOV_MAX = 1024  # Linux's limit for one sendmsg
_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_socket_class: type[socket.socket] = monkey.get_original("socket", "socket")


def plain_socket(family: int, fd: int | None = None) -> socket.socket:
    """A non-blocking TCP socket, new or around `fd`, whose calls are the system's."""
    sock = _socket_class(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)
    sock.setblocking(False)
    return sock


def take_over(sock: socket.socket) -> socket.socket:
    """The plain socket for the connection of gevent's `sock`, which is used up."""
    return plain_socket(int(sock.family), sock.detach())


def show_address(name: Any) -> str:
    """ "203.0.113.9:51234" or "[2001:db8::1]:51234" of what getpeername() and accept() give."""
    host: str = name[0].partition("%")[0]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]  # an IPv4 visitor on a listener for both
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


def reset_on_close(sock: socket.socket) -> None:
    """Make the coming close() a TCP reset, so that nobody takes an aborted transfer for a complete one."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)


def send_some(sock: socket.socket, chunks: list[bytes | memoryview], total: int) -> int:
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
