"""Asks an operator's HTTP service whether a client may come in (`authAPI`), with the original GT's JSON. For users.

POST {"networkClientId": id, "networkSecretKey": secret, "appletTokens": [host prefixes]}
200  {"result": true, "appletTokens": [host prefixes it may publish besides its id]}
"""

import hmac
import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic
from urllib.parse import unquote
from uuid import uuid4

import gevent
import urllib3
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from gtapp.errors import RemoteRefused
from gtapp.observe.logs import hide

log = logging.getLogger("gt.server")

CONNECT_S = READ_S = 5.0  # for a connection, and for each piece of an answer
ATTEMPT_S = 5.0  # for all of one answer
RETRY_S = 0.25  # before the second attempt, then twice as long each time
MAX_ASKING = 20  # questions at a time: an API that has just come back must not drown
MAX_ANSWER_BYTES = 64 * 1024
KEEP_S = 10.0  # how long a yes is good for: a client opens several tunnels, one soon after the other
MAX_KEPT = 10_000  # answers; the oldest goes


class _NoAnswer(Exception):
    """The API does not answer, or not with what can be understood; the text is for the operator."""


class AuthAPI:
    """The authAPI at `url` (http or https, whose certificate is verified; user:password@ becomes Basic)."""

    def __init__(self, url: str) -> None:
        parsed = urllib3.util.parse_url(url)
        self._path = parsed.request_uri
        self._name = f"{parsed.scheme}://{parsed.netloc}"  # what may be logged: path and query may hold a key
        self._headers = {"Content-Type": "application/json"}
        if parsed.auth:
            self._headers |= urllib3.util.make_headers(basic_auth=unquote(parsed.auth))
        self._http = urllib3.connection_from_url(url, maxsize=MAX_ASKING, retries=False)
        self._places = BoundedSemaphore(MAX_ASKING)
        self._asking: dict[bytes, Event] = {}
        self._kept: OrderedDict[bytes, tuple[float, frozenset[str]]] = OrderedDict()  # good until when
        self._key = secrets.token_bytes(32)
        self._answers = True

    def close(self) -> None:
        self._http.close()

    def ask(self, user_id: str, secret: str, prefixes: Sequence[str], until: float) -> frozenset[str] | None:
        """The host prefixes that the client may publish besides its id, in lower case; None: it may not come in.

        Waits, and tries again, until `until` (of `monotonic`); then raises RemoteRefused("auth_unavailable").
        """
        question = {
            "networkClientId": user_id,
            "networkSecretKey": secret,
            "appletTokens": list(prefixes),
        }
        body = json.dumps(question).encode()
        key = hmac.digest(self._key, body, "sha256")
        while (hosts := self._remembered(key)) is None:
            other = self._asking.get(key)
            if other is None:
                return self._ask_once(key, body, secret, until)
            if not other.wait(max(0.0, until - monotonic())):
                raise _unavailable()
        return hosts

    def _ask_once(self, key: bytes, body: bytes, secret: str, until: float) -> frozenset[str] | None:
        """Ask while others with the same question wait."""
        event = self._asking[key] = Event()
        try:
            hosts = self._ask_on(body, until)
        finally:
            del self._asking[key]
            event.set()
        if hosts is not None:
            hide(secret)
            self._kept.pop(key, None)
            self._kept[key] = (monotonic() + KEEP_S, hosts)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return hosts

    def _remembered(self, key: bytes) -> frozenset[str] | None:
        good_until, hosts = self._kept.get(key, (0.0, None))
        return hosts if good_until > monotonic() else None

    def _ask_on(self, body: bytes, until: float) -> frozenset[str] | None:
        delay = RETRY_S
        while True:
            try:
                hosts = self._attempt(body, until)
            except _NoAnswer as error:
                if self._answers:
                    self._answers = False
                    log.warning(
                        "authAPI %s: %s; clients that it has to know cannot come in", self._name, error
                    )
                if monotonic() + delay >= until:
                    raise _unavailable() from None
                gevent.sleep(delay)
                delay *= 2
                continue
            if not self._answers:
                self._answers = True
                log.warning("authAPI %s answers again", self._name)
            return hosts

    def _attempt(self, body: bytes, until: float) -> frozenset[str] | None:
        """One question. Raises _NoAnswer."""
        left = min(ATTEMPT_S, until - monotonic())
        with gevent.Timeout(max(0.0, left), _NoAnswer("no answer in time")), self._places:
            try:
                response = self._http.request(
                    "POST",
                    self._path,
                    body=body,
                    headers={**self._headers, "Request-Id": uuid4().hex},
                    timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
                    redirect=False,
                    preload_content=False,
                )
                try:
                    answer = response.read(MAX_ANSWER_BYTES + 1)
                finally:
                    response.close()
            except urllib3.exceptions.HTTPError as error:
                raise _NoAnswer(str(error)) from error
        if len(answer) > MAX_ANSWER_BYTES:
            raise _NoAnswer("its answer is too long")
        if response.status != 200:
            raise _NoAnswer(f"it answers with the status {response.status}")
        return _read(answer)


def _read(answer: bytes) -> frozenset[str] | None:
    """The host prefixes of a yes, None for a no. Raises _NoAnswer."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        raise _NoAnswer("its answer is no JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("result"), bool):
        raise _NoAnswer("its answer has no result that is true or false")
    tokens = value.get("appletTokens")
    if tokens is not None and not isinstance(tokens, list):
        raise _NoAnswer("appletTokens in its answer is no list")
    if not value["result"]:
        return None
    return frozenset(token.lower() for token in tokens or () if isinstance(token, str))


def _unavailable() -> RemoteRefused:
    text = "the server cannot check id and secret now: its authAPI gives no answer; try again later"
    return RemoteRefused("auth_unavailable", text)
