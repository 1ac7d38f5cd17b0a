"""HTTP and WebSocket for the console: gevent.pywsgi with bounds, and a word beforehand about every upgrade.

What strangers can do wrong is logged at debug, without query strings. Nothing here knows pages.
"""

from __future__ import annotations

import base64
import logging
import socket as plain_socket
from collections import Counter
from typing import Any

import gevent
import gevent.ssl
from flask import Flask
from gevent.pool import Pool
from gevent.pywsgi import Input, WSGIServer
from gevent.socket import socket
from geventwebsocket.exceptions import FrameTooLargeException, ProtocolError, WebSocketError
from geventwebsocket.handler import WebSocketHandler
from geventwebsocket.websocket import Header, Stream, WebSocket
from werkzeug.wrappers import Response

from gtapp.config.values import network_of

log = logging.getLogger("gt.console")
_silent = logging.getLogger("gt.console.websocket")  # geventwebsocket's, several lines for each request
_silent.setLevel(logging.CRITICAL)

MAX_CONNECTIONS = 500
MAX_OF_ONE = 250  # from one address: no single one takes all of them
KEPT_S = 60.0  # between two requests of a connection
HEAD_S = 15.0  # for a request's head to arrive, from its first byte on
BODY_S = 60.0  # for its body
DISCARD_S = 5.0  # for what is left of a body that nobody wants, so that the answer is read
MAX_DISCARD = 16 * 1024 * 1024
WRITE_S = 30.0  # for a visitor to take a part of an answer
HANDSHAKE_S = 10.0
STALE_MS = 30_000  # a WebSocket whose other end has been silent that long is given up by the system
MAX_FRAME = 64 * 1024  # of a WebSocket; ours have next to nothing to say
MAX_MESSAGE = 64 * 1024

_TLS_RECORD = b"\x16"
_NEEDS_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 41\r\n\r\n"
    b"This console speaks TLS: open https://...\n"
)


class TooSlow(OSError):
    """A visitor has not kept to one of the times above."""


class Server(WSGIServer):
    """Serves `app` with a socket that listens, over TLS when there is a `context`."""

    def __init__(self, listener: socket, app: Flask, context: gevent.ssl.SSLContext | None = None) -> None:
        self.app = app
        self._context: Any = context
        self.busy: set[Any] = set()  # those whose requests are being answered
        self.clients: dict[Any, Any] = {}  # of geventwebsocket
        self._from: Counter[str] = Counter()
        more: dict[str, Any] = {"log": None, "error_log": _Quiet(), "handler_class": _Handler}
        more["environ"] = {"SERVER_NAME": "localhost"}  # it would be asked of the DNS
        if context is not None:
            more["ssl_context"] = context
        super().__init__(listener, app, spawn=Pool(MAX_CONNECTIONS), **more)

    def end(self, grace_s: float) -> None:
        """Accept no more, drop who asks nothing now, and let the others have their answers for so long."""
        self.stop_accepting()
        idle = [each for each in list(self.pool or ()) if each not in self.busy]
        gevent.killall(idle, block=False)
        self.stop(grace_s)

    def handle(self, sock: socket, address: Any) -> None:
        """Called in a greenlet of its own for every connection."""
        place = network_of(str(address[0]))
        if self._from[place] >= MAX_OF_ONE:
            log.debug("console: more than %d connections from %s", MAX_OF_ONE, place)
            return
        self._from[place] += 1
        try:
            sock.settimeout(WRITE_S)
            sock.setsockopt(plain_socket.IPPROTO_TCP, plain_socket.TCP_NODELAY, 1)
            self.handler_class(sock, address, self).handle()
        except OSError as error:
            log.debug("console: connection from %s: %s", address[0], error)
        finally:
            self._from[place] -= 1
            if not self._from[place]:
                del self._from[place]

    def wrap_socket_and_handle(self, client_socket: socket, address: Any) -> None:
        try:
            with gevent.Timeout(HANDSHAKE_S, TooSlow("no TLS handshake")):
                if client_socket.recv(1, plain_socket.MSG_PEEK) not in (_TLS_RECORD, b""):
                    client_socket.sendall(_NEEDS_TLS)
                    return
                wrapped = self._context.wrap_socket(client_socket, server_side=True)
        except OSError as error:
            log.debug("console: TLS handshake with %s: %s", address[0], error)
            return
        try:
            self.handle(wrapped, address)
        finally:
            wrapped.close()


class _Handler(WebSocketHandler):  # type: ignore[misc]
    """One connection."""

    server: Server
    wsgi_input: Any

    # requests

    def read_requestline(self) -> str:
        """The first line; "" when none comes in time, which ends the connection."""
        try:
            with gevent.Timeout(KEPT_S, TooSlow("no request")):
                if not self.rfile.peek(1):
                    return ""
            with gevent.Timeout(HEAD_S, TooSlow("no request line")):
                return str(super().read_requestline())
        finally:
            self._work()

    def read_request(self, raw_requestline: str) -> bool:
        with gevent.Timeout(HEAD_S, TooSlow("no request head")):
            if not super().read_request(raw_requestline):
                return False
        # With two of them a proxy before us may take another place for the end of the request (RFC 9112 section 6.3).
        return len(self.headers.get_all("Content-Length", [])) < 2

    def handle_one_request(self) -> Any:
        self.server.busy.discard(gevent.getcurrent())
        try:
            return super().handle_one_request()
        finally:
            self.server.busy.discard(gevent.getcurrent())

    def _work(self) -> None:
        self.server.busy.add(gevent.getcurrent())

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        before = self.wsgi_input
        if environ["wsgi.input"] is before:
            reader = _Reader(self.rfile)
            self.wsgi_input = environ["wsgi.input"] = _Body(
                reader, before.content_length, before.socket, before.chunked_input
            )
        return environ

    def handle_one_response(self) -> None:
        super().handle_one_response()
        if isinstance(self.wsgi_input, _Body) and self.wsgi_input.is_left:
            self.close_connection = True  # what follows of the body would be taken for a request

    # WebSockets

    def upgrade_websocket(self) -> Any:
        """Whoever may not see the page is answered before anything is upgraded."""
        if self.environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            response = refusal(self.server.app, self.environ)
            if response is None and not _is_handshake(self.environ):
                response = Response("No WebSocket: version 13 and a key of 16 bytes are needed.\n", 400)
            if response is not None:
                return response(self.environ, self.start_response)
        return super().upgrade_websocket()

    def upgrade_connection(self) -> Any:
        result = super().upgrade_connection()
        plain = getattr(self, "websocket", None)
        if plain is not None:
            plain.closed = True  # it sends nothing when it is thrown away
            self.websocket = self.environ["wsgi.websocket"] = _WebSocket(self.environ, Stream(self), self)
            self.socket.settimeout(None)  # silence is no error; TCP finds out who has gone
            self.socket.setsockopt(plain_socket.SOL_SOCKET, plain_socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_USER_TIMEOUT", STALE_MS)):
                if hasattr(plain_socket, option):
                    self.socket.setsockopt(plain_socket.IPPROTO_TCP, getattr(plain_socket, option), value)
            self.server.busy.discard(gevent.getcurrent())  # it would go on for ever
        return result

    # what is logged

    logger = _silent

    def log_request(self) -> None:
        if log.isEnabledFor(logging.DEBUG):
            path = (self.path or "").partition("?")[0]
            log.debug("%s %s %s: %s", self.client_address[0], self.command, path, self.code)

    def log_error(self, msg: str, *args: Any) -> None:
        del args
        log.debug("console: a request from %s cannot be read", self.client_address[0])

    def _handle_client_error(self, ex: BaseException) -> Any:
        if isinstance(ex, OSError) and not isinstance(ex, ValueError):
            log.debug("console: request from %s: %s", self.client_address[0], ex)
            return None
        self.log_error("")
        return "400", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    def _log_error(self, t: Any, v: Any, tb: Any) -> None:
        if issubclass(t, OSError | WebSocketError):
            log.debug("console: answer to %s: %s", self.client_address[0], v)
        elif not issubclass(t, gevent.GreenletExit):
            log.error("unexpected error in the console's HTTP server", exc_info=(t, v, tb))


def _is_handshake(environ: dict[str, Any]) -> bool:
    """Whether geventwebsocket can answer it (RFC 6455 section 4.2.1): on some that it can't it fails."""
    try:
        key = base64.b64decode(environ.get("HTTP_SEC_WEBSOCKET_KEY", ""), validate=True)
    except ValueError:
        return False
    return environ.get("HTTP_SEC_WEBSOCKET_VERSION") == "13" and len(key) == 16


def refusal(app: Flask, environ: dict[str, Any]) -> Response | None:
    """The answer to a request that may not go on, None when it may: all that is looked at before a view is called."""
    with app.request_context(environ) as context:
        try:
            if context.request.routing_exception is not None:
                raise context.request.routing_exception
            answer = app.preprocess_request()
        except Exception as error:
            answer = app.handle_user_exception(error)
        if answer is None:
            return None
        return app.process_response(app.make_response(answer))


class _Reader:
    """A connection's input while a body is read: all of it together has BODY_S."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._until = gevent.get_hub().loop.now() + BODY_S

    def hurry(self, seconds: float) -> None:
        self._until = min(self._until, gevent.get_hub().loop.now() + seconds)

    def read(self, size: int) -> bytes:
        with self._in_time():
            return bytes(self._file.read(size))

    def readline(self, size: int) -> bytes:
        with self._in_time():
            return bytes(self._file.readline(size))

    def _in_time(self) -> gevent.Timeout:
        left = self._until - gevent.get_hub().loop.now()
        return gevent.Timeout(max(left, 0.001), TooSlow("the body of a request comes too slowly"))


class _Body(Input):
    """The body of a request. What nobody has read of it is thrown away, within bounds."""

    __slots__ = ("is_left",)

    _chunked_input_error: bool
    rfile: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.is_left = False

    def _discard(self) -> None:
        self.is_left = True
        self.send_100_continue_enabled = False
        if self._chunked_input_error or (self.content_length or 0) - self.position > MAX_DISCARD:
            return
        self.rfile.hurry(DISCARD_S)
        read = 0
        while data := self.read(16384):
            read += len(data)
            if read > MAX_DISCARD:
                return
        self.is_left = False


class _WebSocket(WebSocket):  # type: ignore[misc]
    """One whose other end can't make us keep much in memory."""

    __slots__ = ("_length",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._length = 0

    def read_frame(self) -> tuple[Header, bytes]:
        header = Header.decode_header(self.stream)
        if header.flags or not header.mask:
            raise ProtocolError
        is_control = header.opcode >= self.OPCODE_CLOSE
        if not is_control:
            self._length += header.length
        if header.length > MAX_FRAME or self._length > MAX_MESSAGE:
            raise FrameTooLargeException
        if not is_control and header.fin:
            self._length = 0
        if not header.length:
            return header, b""
        payload = self.raw_read(header.length)
        if len(payload) != header.length:
            raise WebSocketError("the connection ended within a frame")
        return header, header.unmask_payload(payload)


class _Quiet:
    """Where pywsgi writes what it thinks is an error: what visitors do wrong."""

    def write(self, text: str) -> None:
        log.debug("console: %s", text.rstrip())

    def flush(self) -> None:
        pass
