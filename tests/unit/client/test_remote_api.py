"""Asking an API for the server, against a real HTTP server in threads."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gtapp.client import remote_api as remote_api_module
from gtapp.client.remote_api import MAX_ANSWER_BYTES, RemoteAPI
from gtapp.config.values import URL
from gtapp.errors import LinkError
from tests.support.ports import Port

Answer = Callable[[BaseHTTPRequestHandler], None]


class API:
    """`answer` handles each request; the requests are noted as (path, headers)."""

    def __init__(self) -> None:
        self.answer: Answer = json_answer('{"serverAddress": "tcp://192.0.2.1:80"}')
        self.requests: list[tuple[str, Any]] = []
        self.release = threading.Event()  # for answers that hang
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.requests.append((self.path, self.headers))
                with contextlib.suppress(ConnectionError):
                    api.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # closing waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def raw(data: bytes) -> Answer:
    return lambda request: (request.wfile.write(data), None)[1]


def json_answer(body: str | bytes, status: str = "200 OK") -> Answer:
    data = body.encode() if isinstance(body, str) else body
    return raw(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(data), data))


@pytest.fixture
def api() -> Iterator[API]:
    with contextlib.closing(API()) as made:
        yield made


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        ("tcp://192.0.2.1:80", URL("tcp", "192.0.2.1", 80)),
        ("tls://gt.example.com", URL("tls", "gt.example.com", 443)),
        ("gt.example.com:8080", URL("tcp", "gt.example.com", 8080)),
    ],
)
def test_the_server_that_it_names(api: API, address: str, remote: URL) -> None:
    api.answer = json_answer(json.dumps({"serverAddress": address, "stunAddress": "192.0.2.1:3478"}))
    assert RemoteAPI(api.url, "id1", 5).ask() == remote


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", "/?network_client_id=id+1%26"),
        ("/where", "/where?network_client_id=id+1%26"),
        ("/where?token=a%20b&x", "/where?token=a%20b&x&network_client_id=id+1%26"),
        ("/where#there", "/where?network_client_id=id+1%26"),
    ],
)
def test_what_is_asked(api: API, path: str, asked: str) -> None:
    ask = RemoteAPI(api.url + path, "id 1&", 5).ask
    ask()
    ask()
    assert [path for path, _ in api.requests] == [asked, asked]
    ids = [uuid.UUID(headers["Request-Id"]) for _, headers in api.requests]
    assert ids[0] != ids[1]


def test_a_password_in_the_url(api: API) -> None:
    url = api.url.replace("//", "//user:pass%20word@")
    RemoteAPI(url, "id1", 5).ask()
    sent = api.requests[0][1]["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent) == b"user:pass word"
    api.answer = json_answer("x")
    with pytest.raises(LinkError) as error:
        RemoteAPI(url + "/a?token=secret", "id1", 5).ask()
    assert "pass" not in str(error.value)
    assert "secret" not in str(error.value)


def test_elsewhere(api: API) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/new"):
            json_answer('{"serverAddress": "192.0.2.1"}')(request)
        else:
            raw(
                b"HTTP/1.1 307 Elsewhere\r\nConnection: close\r\nLocation: /new?a=b\r\nContent-Length: 0\r\n\r\n"
            )(request)

    api.answer = answer
    assert RemoteAPI(api.url, "id1", 5).ask() == URL("tcp", "192.0.2.1", 80)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (json_answer("<html>"), "is no JSON"),
        (json_answer(b"\xff\xfe"), "is no JSON"),
        (json_answer("[" * 60_000), "is no JSON"),
        (json_answer("[]"), "no text serverAddress"),
        (json_answer("{}"), "no text serverAddress"),
        (json_answer('{"serverAddress": 80}'), "no text serverAddress"),
        (json_answer('{"serverAddress": ""}'), "its serverAddress is ''"),
        (json_answer('{"serverAddress": "ftp://x\\n"}'), r"its serverAddress is 'ftp://x\\n', not one of"),
        (json_answer('{"serverAddress": "quic://x"}'), "quic:// server"),
        (json_answer('{"serverAddress": "x"}', "404 Not Found"), "it answers 404"),
        (json_answer('{"serverAddress": "x"}', "500 Oops"), "it answers 500"),
        (json_answer('{"serverAddress": "x"}', "204 Nothing"), "it answers 204"),
        (json_answer(b" " * (MAX_ANSWER_BYTES + 1)), "longer than"),
        (raw(b""), "no proper HTTP answer"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "no proper HTTP answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "no proper HTTP answer"),
        (
            raw(b"HTTP/1.1 307 Round\r\nConnection: close\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
            "no proper HTTP answer",
        ),
    ],
)
def test_answers_that_are_of_no_use(api: API, answer: Answer, problem: str) -> None:
    api.answer = answer
    asking = RemoteAPI(api.url, "id1", 5)
    texts = []
    for _ in range(2):
        with pytest.raises(LinkError, match=problem) as error:
            asking.ask()
        texts.append(str(error.value))
    assert texts[0] == texts[1], "the log says it once"
    assert api.url in texts[0]


def test_no_answer(api: API) -> None:
    api.answer = lambda request: (api.release.wait(20), None)[1]
    with pytest.raises(LinkError, match=r"no answer within 0\.1 s"):
        RemoteAPI(api.url, "id1", 0.1).ask()


def test_nobody_listens() -> None:
    with Port() as port, pytest.raises(LinkError, match="Connection refused"):
        RemoteAPI(f"http://{port}/", "id1", 5).ask()


def test_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*args: Any, **kwargs: Any) -> Any:  # the network is not asked
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(LinkError, match="its host name has no address"):
        RemoteAPI("http://no-such-name.invalid/", "id1", 5).ask()


def test_a_name_that_none_can_have() -> None:
    with pytest.raises(LinkError, match="that is no URL"):
        RemoteAPI(f"http://{'x' * 64}.example/", "id1", 5).ask()


def test_no_tls(api: API) -> None:
    with pytest.raises(LinkError, match="TLS: "):
        RemoteAPI(api.url.replace("http", "https"), "id1", 5).ask()


def test_it_never_takes_long(api: API, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_api_module, "API_S", 0.1)
    api.answer = lambda request: (api.release.wait(20), None)[1]
    with pytest.raises(LinkError, match=r"no answer within 0\.1 s"):
        RemoteAPI(api.url, "id1", 45.0).ask()
