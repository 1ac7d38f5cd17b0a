"""The small pages a visitor gets when GT cannot pass the request on, and a close that lets them arrive."""

import contextlib
import html
import socket
from http import HTTPStatus

from gevent import get_hub

from gtapp.observe.metrics import counters
from gtapp.relay.sockets import EV_READ, Socket

LINGER_S = 2.0  # how long a visitor may go on sending what nobody reads
LINGER_BYTES = 1024 * 1024  # and how much of it is taken

farewells: "set[Farewell]" = set()  # those that are not over

_nowhere = memoryview(bytearray(65536))  # what comes after the answer

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
    return http_response(status, "text/html; charset=utf-8", body)


def http_response(status: int, kind: str, body: bytes, added: str = "", has_body: bool = True) -> bytes:
    """A complete HTTP response after which the connection closes; `kind` is the body's media type, `added` are header
    lines. Without body it answers a HEAD."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: GT\r\nContent-Type: {kind}\r\n{added}"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")


def refuse(sock: Socket, status: int, text: str) -> None:
    """Answer the visitor with a page, close the connection, count it."""
    name = f"visitors_refused_{status}"
    setattr(counters, name, getattr(counters, name) + 1)
    Farewell(sock, page(status, text))


class Farewell:
    """Sends `data` on `sock` and closes it once the visitor has: a close with bytes unread would be a reset,
    and could overtake the page."""

    __slots__ = ("_left", "_reader", "_sock", "_timer")

    def __init__(self, sock: Socket, data: bytes) -> None:
        loop = get_hub().loop
        self._sock = sock
        self._left = LINGER_BYTES
        self._reader = sock.watch(EV_READ)
        self._timer = loop.timer(LINGER_S)
        try:
            if data:
                with contextlib.suppress(BlockingIOError):  # an answer before this one still fills the socket
                    sock.send(data)  # far smaller than an empty send buffer
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        self._reader.start(self._readable)
        self._timer.start(self._close)
        farewells.add(self)

    def _readable(self) -> None:
        try:
            count = self._sock.recv_into(_nowhere)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        self._left -= count
        if not count or self._left < 0:
            self._close()

    def _close(self) -> None:
        self._reader.stop()
        self._timer.stop()
        self._sock.close()
        farewells.discard(self)
