"""Asks an API which server to use (option `remoteAPI`). Called by the pool, each time it has to connect anew."""

import json
import ssl
import uuid
from urllib.parse import unquote, urlencode, urlsplit

import gevent
import urllib3
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as NoAnswerInTime
from urllib3.util import Retry, make_headers, parse_url

from gtapp.config.options import REMOTE
from gtapp.config.values import URL
from gtapp.errors import LinkError

API_S = 10.0  # how long an answer may take, all of it
MAX_ANSWER_BYTES = 65536  # it holds two addresses
MAX_REDIRECTS = 5


class RemoteAPI:
    """`ask` is a GET of `url` for the client `id`; it waits at most `timeout_s` seconds, and never over API_S."""

    def __init__(self, url: str, id: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        query = (parts.query + "&" if parts.query else "") + urlencode({"network_client_id": id})
        self._url = parts._replace(query=query, fragment="").geturl()
        self._shown = (
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # no password, no token
        )
        self._timeout_s = min(timeout_s, API_S)
        auth = parse_url(url).auth
        self._headers = make_headers(basic_auth=unquote(auth)) if auth else {}
        self._context = ssl.create_default_context() if parts.scheme == "https" else None

    def ask(self) -> URL:
        """The server's address. Raises LinkError, whose text is the same for the same trouble."""
        try:
            with gevent.Timeout(self._timeout_s):
                return self._read(self._get())
        except gevent.Timeout:
            problem = self._too_slow()
        except HTTPError as error:
            problem = self._explain(error)
        except ValueError as error:
            problem = str(error)
        raise LinkError(f"the remoteAPI {self._shown} does not tell the server's address: {problem}")

    def _get(self) -> bytes:
        """The body of the answer. Raises HTTPError (urllib3's), ValueError."""
        retries = Retry(None, connect=0, read=0, status=0, other=0, redirect=MAX_REDIRECTS)
        headers = {**self._headers, "Request-Id": str(uuid.uuid4()), "Connection": "close"}
        with urllib3.PoolManager(1, retries=retries, ssl_context=self._context) as manager:
            response = manager.request(
                "GET", self._url, headers=headers, timeout=self._timeout_s, preload_content=False
            )
            try:
                if response.status != 200:
                    raise ValueError(f"it answers {response.status}")
                body: bytes = response.read(MAX_ANSWER_BYTES + 1)
            finally:
                response.close()
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
        return body

    def _read(self, body: bytes) -> URL:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("its answer is no JSON") from None
        address = answer.get("serverAddress") if isinstance(answer, dict) else None
        if not isinstance(address, str):
            raise ValueError("its answer has no text serverAddress")
        try:
            remote = REMOTE.parse(address)
        except ValueError:
            raise ValueError(f"its serverAddress is {address[:200]!r}, not {REMOTE.allowed}") from None
        if remote.scheme == "quic":
            raise ValueError("it names a quic:// server, which is not available yet")
        return remote

    def _explain(self, error: HTTPError) -> str:
        reason = error.reason if isinstance(error, MaxRetryError) else error
        if isinstance(reason, LocationValueError):
            return "that is no URL"
        if isinstance(reason, NameResolutionError):
            return "its host name has no address"
        if isinstance(reason, NewConnectionError):
            cause = reason.__cause__
            return (cause.strerror if isinstance(cause, OSError) else None) or "cannot connect"
        if isinstance(reason, NoAnswerInTime):
            return self._too_slow()
        if isinstance(reason, SSLError):
            return f"TLS: {reason}"
        return f"no proper HTTP answer ({type(reason).__name__})"

    def _too_slow(self) -> str:
        return f"no answer within {self._timeout_s:g} s"
