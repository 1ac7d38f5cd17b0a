"""The connection to a local service in per-request mode: reads along, and changes requests. Made by request_pump.

It is a socket like any other for the pump, as TLSSocket is one; the plain path knows nothing of it.
"""

import logging
import socket
from typing import Any

import gevent

from gtapp.client.basic_auth import BasicAuth, Verdict
from gtapp.client.request_rules import Rules, answer
from gtapp.relay.sockets import EV_READ, EV_WRITE, Socket, Watcher, reset_on_close, send_some
from gtapp.relay.watch import Watch
from gtapp.wire import http_head
from gtapp.wire.http_requests import BadRequest, Request, RequestReader
from gtapp.wire.http_responses import BadResponse, ResponseReader

log = logging.getLogger("gt.client")

DROPPED_BYTES = 1024 * 1024  # of what is not for the service: read and dropped before the connection is cut

_DENIALS = {
    Verdict.WRONG: (
        'WWW-Authenticate: Basic realm="GT", charset="UTF-8"\r\n',
        "This takes a user and a password.",
    ),
    Verdict.LATER: ("Retry-After: 10\r\n", "Too many wrong passwords. Try again in a while."),
}
_NOT_HTTP = "The service behind this address gives an answer that is not HTTP."


class RequestSocket:
    """What the pump of one visitor sees of the service: `send` takes the visitor's bytes, `recv_into` gives what
    the visitor is to get.

    Only one exchange is under way. Until its response is complete `send` takes nothing of the next request: those
    bytes wait in the pump, and the visitor is held back by the stream's window.
    """

    __slots__ = (
        "_answer", "_broken", "_busy", "_checking", "_drain", "_dropped", "_dropping", "_ended", "_forwarded",
        "_head", "_out", "_out_bytes", "_plain", "_reader", "_request", "_requests", "_responses", "_rules", "_shut",
        "_sock", "_visitor", "_writer",
    )  # fmt: skip

    def __init__(self, sock: Socket, rules: Rules, visitor: str, flags: int) -> None:
        self._sock: Socket | None = sock  # None once it has been given up
        self._rules = rules
        self._visitor = visitor
        self._forwarded = rules.forwarded(visitor, flags)
        self._requests = RequestReader()
        self._responses = ResponseReader()
        self._request: Request | None = None  # the last one
        self._head = b""  # the beginning of the next one
        self._busy = False  # an exchange with the service is under way
        self._checking = False  # the last request waits until its password has been checked
        self._dropping = False  # the body of the last request is not for the service
        self._dropped = 0  # bytes, since `_dropping` or `_ended` or `_broken` is set
        self._out: list[bytes | memoryview] = []  # for the service, from one call of `send`
        self._out_bytes = 0
        self._answer = b""  # for the visitor, from us
        self._ended = False  # nothing follows that: the visitor gets an EOF, what it still sends is dropped
        self._broken = False  # or rather a reset
        self._shut = False  # the visitor has sent its EOF
        self._plain = False  # a WebSocket: bytes are bytes
        self._drain: Watcher | None = None  # of `_out`
        self._reader = Watch(sock.watch(EV_READ))
        self._writer = Watch()

    def __repr__(self) -> str:
        states = (
            (self._broken, "broken"), (self._ended, "ended"), (self._plain, "WebSocket"), (self._checking, "checking"),
            (self._busy, "busy"), (True, "idle"),
        )  # fmt: skip
        return f"<RequestSocket {next(name for holds, name in states if holds)}>"

    # visitor -> service

    def send(self, data: bytes | memoryview) -> int:
        if self._plain and not self._out and self._sock is not None:
            return self._sock.send(data)
        taken = 0
        if not self._out:
            taken = self._take(data)
            self._flush()
        if not taken:
            self._writer.ready = False
            raise BlockingIOError
        return taken

    def sendmsg(self, buffers: list[bytes | memoryview]) -> int:
        if self._plain and not self._out and self._sock is not None:
            return self._sock.sendmsg(buffers)
        sent = 0
        for data in buffers:
            try:
                taken = self.send(data)
            except BlockingIOError:
                if not sent:
                    raise
                return sent
            sent += taken
            if taken < len(data):
                return sent
        self._writer.ready = True  # there may be more than fits into one call
        return sent

    def _take(self, data: bytes | memoryview) -> int:
        """Take what may be taken of the visitor's bytes; how many that is."""
        size = len(data)
        at = 0
        try:
            while at < size:
                if self._ended or self._broken:
                    self._drop(size - at)
                    at = size
                elif not self._requests.complete:
                    if self._checking:
                        break
                    body, taken = self._requests.body(data[at:])
                    at += taken
                    if self._dropping:
                        self._drop(taken)
                    elif body:
                        self._put(body)
                    self._end_exchange_if_done()
                elif self._busy or self._checking or self._answer:
                    break
                else:
                    at += self._take_head(data[at:])
        except BadRequest as error:
            self._refuse_malformed(error)
            return size
        return at

    def _take_head(self, data: bytes | memoryview) -> int:
        known = len(self._head)
        more = bytes(data[: http_head.LIMIT_BYTES - known])
        self._head += more
        if not http_head.is_worth_a_look(self._head, known):
            return len(more)
        found = self._requests.head(self._head)
        if found is None:
            return len(more)
        self._request, end = found
        self._head = b""
        if self._rules.auth is None:
            self._pass_on(self._request)
        else:
            self._authorize(self._rules.auth, self._request)
        return end - known

    def _pass_on(self, request: Request) -> None:
        self._busy = True
        self._dropping = False
        self._responses.expect(request.method, request.websocket)
        self._put(self._rules.head(request, self._forwarded))

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)

    def _drop(self, size: int) -> None:
        """Count what the visitor sends in vain. Raises OSError when that has been enough."""
        self._dropped += size
        if self._dropped > DROPPED_BYTES:
            self._break()
            raise ConnectionResetError("the visitor does not stop sending")

    def _flush(self) -> None:
        """Send what waits for the service. Raises OSError."""
        if self._sock is None:
            return
        if self._out:
            self._out_bytes -= send_some(self._sock, self._out, self._out_bytes)
            if self._out:
                if self._drain is None:
                    self._drain = self._sock.watch(EV_WRITE)
                self._drain.start(self._drained)
                return
        if self._shut and not self._checking:
            self._shut = False
            self._sock.shutdown(socket.SHUT_WR)

    def _drained(self) -> None:
        try:
            self._flush()
        except OSError:
            self._out.clear()  # the pump finds out by itself, when it writes or reads
            self._out_bytes = 0
        except Exception:
            log.exception("%r: unexpected error, closing it", self)
            self._break()
        if not self._out:
            if self._drain is not None:
                self._drain.stop()
            self._writer.soon()

    # the password

    def _authorize(self, auth: BasicAuth, request: Request) -> None:
        credentials = request.value(b"authorization")
        right = False if credentials is None else auth.known(credentials)
        if right:
            self._pass_on(request)
        elif right is None and credentials is not None:
            self._checking = True
            gevent.spawn(self._check, auth, credentials, request)
        else:
            self._deny(request, Verdict.WRONG)

    def _check(self, auth: BasicAuth, credentials: bytes, request: Request) -> None:
        try:
            verdict = auth.check(credentials, self._visitor)
            if not self._checking:
                return  # closed meanwhile
            self._checking = False
            if verdict is Verdict.RIGHT:
                self._pass_on(request)
            else:
                self._deny(request, verdict)
            self._flush()
        except OSError:
            self._break()
        except Exception:
            log.exception("%r: unexpected error, closing it", self)
            self._break()
        self._writer.soon()

    def _deny(self, request: Request, verdict: Verdict) -> None:
        """Answer a request that does not reach the service; its body is read and dropped, if that is little."""
        self._dropping = True
        self._dropped = 0
        close = not request.keep_alive or request.expects_continue or request.length > DROPPED_BYTES
        added, text = _DENIALS[verdict]
        self._say(answer(verdict.value, text, added, close=close, has_body=request.method != "HEAD"))
        if close:
            self._end()

    # service -> visitor

    def recv_into(self, buffer: memoryview, nbytes: int = 0) -> int:
        if self._answer or self._ended or self._broken or self._sock is None:
            return self._give_answer(buffer, nbytes)
        size = self._sock.recv_into(buffer, nbytes)
        if self._plain:
            return size
        if not self._busy:
            if size:  # nobody has asked: a 408 to an idle connection, for example
                self._end()
            return 0
        begun = self._responses.begun
        try:
            if not size:
                if begun:
                    self._responses.end()
                return 0
            used = self._responses.receive(buffer[:size])
        except BadResponse as error:
            log.info("the answer of a service cannot be passed on: %s", error)
            if begun:
                self._break()
            else:
                self._answer_instead(502, _NOT_HTTP)
            return self._give_answer(buffer, nbytes)
        self._end_exchange_if_done()
        if self._responses.upgraded:
            return size
        if used < size:
            self._end()
        return used

    def _give_answer(self, buffer: memoryview, nbytes: int) -> int:
        if self._broken:
            raise ConnectionResetError
        part = self._answer[: nbytes or len(buffer)]
        buffer[: len(part)] = part
        self._answer = self._answer[len(part) :]
        if not self._answer and not self._ended:
            self._reader.ready = False
            self._writer.soon()
        return len(part)

    def _end_exchange_if_done(self) -> None:
        """When request and response are both complete, the next request may come."""
        if self._busy and self._requests.complete and self._responses.complete:
            assert self._request is not None
            self._busy = False
            if self._responses.upgraded and self._sock is not None:
                self._plain = True
                self._writer.ready = False
                self._writer.put_above(self._sock.watch(EV_WRITE))
            elif not (self._request.keep_alive and self._responses.keep_alive):
                self._end()
            self._writer.soon()

    # the end

    def _refuse_malformed(self, error: BadRequest) -> None:
        if not self._busy:
            self._say(answer(error.status, f"{error}.", close=True))
            self._end()
        elif self._responses.begun:
            self._break()
        else:
            self._answer_instead(error.status, f"{error}.")

    def _answer_instead(self, status: int, text: str) -> None:
        """Give the service up, which has part of a request or gives no answer, and say so to the visitor."""
        self._break()
        self._broken = False
        self._say(answer(status, text, close=True))
        self._end()

    def _say(self, answer: bytes) -> None:
        self._answer += answer
        self._reader.ready = True

    def _end(self) -> None:
        """The visitor gets an EOF after what it has got; what it sends from now on is dropped."""
        self._ended = True
        self._dropped = 0
        self._reader.ready = True
        self._writer.soon()

    def _break(self) -> None:
        """Give the service up at once, and let the visitor have a reset."""
        self._broken = True
        self._dropped = 0
        self._reader.ready = True
        self._writer.soon()
        if self._sock is not None:
            reset_on_close(self._sock)
            self._close_socket(self._sock)

    def _close_socket(self, sock: Socket) -> None:
        self._sock = None
        self._out.clear()
        self._out_bytes = 0
        self._reader.put_above(None)
        self._writer.put_above(None)
        if self._drain is not None:
            self._drain.stop()
        sock.close()

    # as a socket

    def watch(self, events: int) -> Watcher:
        return self._reader if events == EV_READ else self._writer

    def shutdown(self, how: int) -> None:
        self._shut = True
        if not self._out:
            self._flush()

    def close(self) -> None:
        self._checking = False
        self._reader.stop()
        self._writer.stop()
        if self._sock is not None:
            self._close_socket(self._sock)

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        if self._sock is not None:
            self._sock.setsockopt(level, option, value)

    def getpeername(self) -> Any:
        return self._sock.getpeername() if self._sock is not None else None

    def fileno(self) -> int:
        return self._sock.fileno() if self._sock is not None else -1
