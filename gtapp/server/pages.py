"""The small pages a visitor gets when GT cannot pass the request on, and a close that lets them arrive."""

import html
import socket
from http import HTTPStatus

from gevent import get_hub

from gtapp.relay.sockets import EV_READ

LINGER_S = 2.0  # how long a visitor may go on sending what nobody reads
LINGER_BYTES = 1024 * 1024  # and how much of it is taken

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 34em; margin: 18vh auto; padding: 0 1em }}
h1 {{ font-size: 1.3em }}
</style>
<h1>{title}</h1><p>{text}</p>
"""


def page(status: int, text: str) -> bytes:
    """A complete HTTP response that says `text`. `status` is a code of http.HTTPStatus."""
    title = f"{status} {HTTPStatus(status).phrase}"
    body = _PAGE.format(title=title, text=html.escape(text)).encode()
    head = (
        f"HTTP/1.1 {title}\r\nServer: GT\r\nContent-Type: text/html; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class Farewell:
    """Sends `data` on `sock` and closes it once the visitor has: a close with bytes unread would be a reset,
    and could overtake the page."""

    __slots__ = ("_left", "_reader", "_sock", "_timer")

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        loop = get_hub().loop
        self._sock = sock
        self._left = LINGER_BYTES
        self._reader = loop.io(sock.fileno(), EV_READ)
        self._timer = loop.timer(LINGER_S)
        try:
            sock.send(data)  # far smaller than an empty send buffer
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        self._reader.start(self._readable)
        self._timer.start(self._close)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._left -= len(data)
        if not data or self._left < 0:
            self._close()

    def _close(self) -> None:
        self._reader.stop()
        self._timer.stop()
        self._sock.close()
