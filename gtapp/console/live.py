"""Live numbers: a WebSocket that gets each sample as it is taken, and the same for whoever asks once.

What is sent is made and encoded once a second however many look on, and not at all when nobody does. Nothing is kept
for a reader that is slow: it misses samples, and is cut when one takes it too long.
"""

from __future__ import annotations

import json
import logging
import socket as plain_socket
from typing import Any

import gevent
from flask import Blueprint, abort, current_app, request
from flask.blueprints import BlueprintSetupState
from gevent.event import Event
from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.websocket import Header, WebSocket
from werkzeug.exceptions import BadRequest

from gtapp.console.auth import needs
from gtapp.console.context import EXTENSION, console
from gtapp.console.sampler import Sampler
from gtapp.console.series import FIELDS

log = logging.getLogger("gt.console")

MOST_READERS = 500  # sockets; who comes beyond them asks once in a while instead
SLOW_S = 10.0  # that one message may take
LIFE_S = 300.0  # then the reader comes again, and has to be logged in still
CLOSE_S = 1.0  # for the last words
_TRY_AGAIN, _AWAY = 1013, 1001  # RFC 6455 section 7.4.1
_EXTENSION = "gt-live"

blueprint = Blueprint("live", __name__)


@blueprint.get("/live", websocket=True)
@needs("read")
def socket() -> str:
    """The samples, one message each."""
    web_socket = request.environ.get("wsgi.websocket")
    if web_socket is None:
        raise BadRequest("a WebSocket comes here")
    _audience().serve(web_socket)
    return ""


@blueprint.get("/live/now")
@needs("read")
def now() -> dict[str, Any]:
    """The last message, for those whose network lets no WebSocket through."""
    return message(_sampler())


@blueprint.get("/live/series")
@needs("read")
def series() -> dict[str, Any]:
    """What the charts show: span=15m or 24h, of everything or of one user, host or service (kind, name)."""
    sampler = _sampler()
    rows = sampler.minutes if request.args.get("span") == "24h" else sampler.seconds
    kind, name = request.args.get("kind", ""), request.args.get("name", "")
    if kind:
        return rows.part_columns(sampler.time, kind, name)
    return rows.columns(sampler.time)


def message(sampler: Sampler) -> dict[str, Any]:
    """How it is now, for the pages: numbers alone, so that it is the same in all languages."""
    sample, machine = sampler.last, sampler.machine
    newest_minute = sampler.minutes.last
    fds, fds_limit = sampler.descriptors
    return {
        "time": sampler.time,
        "problem": sampler.problem,
        "total": None if sample is None else dict(zip(FIELDS, sample.total, strict=True)),
        "minute": None
        if newest_minute is None
        else {"time": newest_minute.time, **dict(zip(FIELDS, newest_minute.total, strict=True))},
        "machine": {
            "cpu": machine.cpu,
            "memory_used": machine.memory_used,
            "memory": machine.memory,
            "disk_free": machine.disk_free,
            "disk": machine.disk,
            "fds": fds,
            "fds_share": fds / fds_limit if fds_limit else 0.0,
        },
        "warnings": sampler.warnings(),
        "parts": {
            kind: [[name, *(round(value, 1) for value in part)] for name, part in named]
            for kind, named in (sampler.now.busiest if sample else {}).items()
        },
        "problems": sampler.problems(),
    }


class Audience:
    """The sockets that are open."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._readers: set[_Reader] = set()
        sampler.listen(self._tell)

    def __len__(self) -> int:
        return len(self._readers)

    def serve(self, web_socket: WebSocket) -> None:
        """Send what comes until the reader goes."""
        if len(self._readers) >= MOST_READERS:
            _close(web_socket, _TRY_AGAIN)
            return
        reader = _Reader(web_socket)
        self._readers.add(reader)
        writer = gevent.spawn(reader.write)
        reader.tell(frame(message(self._sampler)))
        try:
            with gevent.Timeout(LIFE_S):
                while web_socket.receive() is not None:
                    pass  # what it says is of no interest
        except (WebSocketError, gevent.Timeout):
            pass
        finally:
            self._readers.discard(reader)
            writer.kill()
            _close(web_socket, _AWAY)

    def _tell(self) -> None:
        if self._readers:
            data = frame(message(self._sampler))
            for each in self._readers:
                each.tell(data)


class _Reader:
    """One socket; at most one message waits for it, the newest."""

    def __init__(self, web_socket: WebSocket) -> None:
        self._socket = web_socket
        self._plain = web_socket.handler.socket
        self._next = b""
        self._there = Event()

    def tell(self, data: bytes) -> None:
        self._next = data
        self._there.set()

    def write(self) -> None:
        try:
            while not self._socket.closed:
                self._there.wait()
                self._there.clear()
                with gevent.Timeout(SLOW_S):
                    self._plain.sendall(self._next)
        except (OSError, gevent.Timeout) as error:
            log.debug("live: cut: %s", error)
            self._cut()

    def _cut(self) -> None:
        """Whoever reads from the socket wakes up with that."""
        try:
            self._plain.shutdown(plain_socket.SHUT_RDWR)
        except OSError:
            pass


def frame(content: dict[str, Any]) -> bytes:
    """A whole text frame (RFC 6455 section 5.2), the same for all sockets."""
    data = json.dumps(content, separators=(",", ":")).encode()
    return bytes(Header.encode_header(True, WebSocket.OPCODE_TEXT, b"", len(data), 0)) + data


def _close(web_socket: WebSocket, code: int) -> None:
    if web_socket.closed:
        return
    try:
        with gevent.Timeout(CLOSE_S):
            web_socket.close(code)
    except (OSError, WebSocketError, gevent.Timeout):
        pass


def _sampler() -> Sampler:
    sampler = console().sampler
    if sampler is None:
        abort(404)
    return sampler


def _audience() -> Audience:
    found = current_app.extensions.get(_EXTENSION)
    if not isinstance(found, Audience):
        abort(404)
    return found


@blueprint.record_once
def _listen(state: BlueprintSetupState) -> None:
    sampler = state.app.extensions[EXTENSION].sampler
    if sampler is not None:
        state.app.extensions[_EXTENSION] = Audience(sampler)
