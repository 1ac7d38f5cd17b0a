"""The status API: `GET /status` on an address of its own says whether the whole path works. Wired by `server.app`.

Its answers are those of the original GT, with the step that failed added. Every connection has one request.
"""

import json
import logging
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore

from gtapp import __version__
from gtapp.config.options import ServerOptions
from gtapp.observe.logs import Limited
from gtapp.relay.sockets import PlainSocket, Socket
from gtapp.relay.tls import Handshakes
from gtapp.server.certificates import Certificate
from gtapp.server.pages import Farewell, http_response
from gtapp.server.self_check import CheckFailed, SelfCheck, receive
from gtapp.wire import http_head

log = logging.getLogger("gt.status")
strangers = Limited("gt.status")

GOOD_S = 15.0  # how long a good result is good
BAD_S = 2.0  # and a bad one: whoever waits for the path to come back is told soon
REQUEST_S = 5.0  # for a TLS handshake and a request's head
MAX_CALLERS = 100  # connections at a time; beyond that the oldest makes room

Result = tuple[int, dict[str, str]]


class StatusAPI:
    """Answers whoever `accept` gets; over TLS when it has a certificate of its own. Raises GTError where that is bad.

    `handshakes` are those of `tlsAddr`.
    """

    def __init__(self, options: ServerOptions, handshakes: Handshakes, check: SelfCheck) -> None:
        self._handshakes = handshakes
        self._check = check
        self._certificate: Certificate | None = None
        if options.api_cert_file:
            files = (options.api_cert_file, options.api_key_file)
            self._certificate = Certificate(*files, (), Path(), options.api_tls_version)
        self._one_at_a_time = BoundedSemaphore()
        self._result: Result = (503, {})
        self._good_until = 0.0
        self._problem = ""  # of the last check
        self._callers: dict[Any, Socket] = {}  # oldest first
        self.over = False

    @property
    def is_answering(self) -> bool:
        return bool(self._callers)

    def stop(self) -> None:
        """Take no more requests and give up those that wait."""
        self.over = True
        gevent.killall(list(self._callers))

    def tick(self, period: float) -> None:
        if self._certificate is not None:
            self._certificate.tick(period)

    # connections

    def accept(self, sock: PlainSocket, peer: str) -> None:
        if len(self._callers) >= MAX_CALLERS:
            oldest = next(iter(self._callers))
            self._callers.pop(oldest).close()  # here: a greenlet that has not begun yet never will
            oldest.kill(block=False)
        self._callers[gevent.spawn(self._serve, sock, peer)] = sock

    def _serve(self, plain: PlainSocket, peer: str) -> None:
        sock: Socket = plain
        try:
            with gevent.Timeout(REQUEST_S):
                if self._certificate is not None:
                    sock = self._handshakes.wait(plain, self._certificate.context, server_side=True)
                head = _read_head(sock)
            response = self._answer(head)
        except http_head.BadHead as error:
            response = _response(error.status, {"error": str(error)})
        except (gevent.Timeout, gevent.GreenletExit, OSError, http_head.NotHTTP) as error:
            strangers.debug("status API: nothing for %s: %s", peer, error)
            sock.close()
            return
        except Exception:
            strangers.exception("unexpected error in the status API")
            sock.close()
            return
        finally:
            self._callers.pop(gevent.getcurrent(), None)
        Farewell(sock, response)

    def _answer(self, head: http_head.Head) -> bytes:
        if head.target.partition("?")[0] != "/status":
            return _response(404, {"error": "there is only /status"})
        if head.method not in ("GET", "HEAD"):
            return _response(405, {"error": "GET it"}, "Allow: GET, HEAD\r\n")
        status, result = self._current()
        return _response(status, result, body=head.method == "GET")

    # checks

    def _current(self) -> Result:
        """The result of a check that is not too old; those who ask meanwhile wait for the one that runs."""
        with self._one_at_a_time:
            if monotonic() >= self._good_until:
                self._result = self._run()
                self._good_until = monotonic() + (GOOD_S if self._result[0] == 200 else BAD_S)
            return self._result

    def _run(self) -> Result:
        version = f"gt {__version__}"
        try:
            self._check.run()
        except CheckFailed as error:
            problem = f"{error.step}: {error}"
            if problem != self._problem:  # say it once, not at every check
                log.warning("the status check fails at the step %s", problem)
            self._problem = problem
            return 503, {"status": "failed", "version": version, "step": error.step, "error": str(error)}
        if self._problem:
            log.info("the status check succeeds again")
        self._problem = ""
        return 200, {"status": "ok", "version": version}


def _read_head(sock: Socket) -> http_head.Head:
    """The head of a request. Raises NotHTTP, BadHead, OSError."""
    data = b""
    buffer = memoryview(bytearray(http_head.LIMIT_BYTES))
    while True:
        count = receive(sock, buffer)
        if not count:
            raise ConnectionResetError("closed before its request was complete")
        data += buffer[:count]
        head = http_head.parse(data)
        if head is not None:
            return head


def _response(status: int, result: dict[str, Any], more: str = "", body: bool = True) -> bytes:
    return http_response(status, "application/json", json.dumps(result).encode(), more, has_body=body)
