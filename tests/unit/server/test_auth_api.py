"""The authAPI over real HTTP: what is asked, which answers count, and what happens when there is none."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event
from gevent.pywsgi import WSGIServer

from gtapp.errors import RemoteRefused
from gtapp.observe import logs
from gtapp.server import auth_api as auth_api_module
from gtapp.server.auth_api import MAX_ANSWER_BYTES, MAX_ASKING, AuthAPI
from tests.support.certificates import make_pair
from tests.support.ports import Port
from tests.support.relay import until

SECRET = "the client's secret"


class API:
    """An operator's service. `answer` says how it answers: status and body, or raises; `asked` is what came."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.environs: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], tuple[str, bytes]] = lambda question: (
            "200 OK",
            b'{"result":true}',
        )
        self.at_once = self.most_at_once = 0
        self._server: WSGIServer | None = None

    def start(self, port: Port) -> API:
        self._server = WSGIServer(listening(port), self._serve, log=None, error_log=None)
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(timeout=0)
            self._server = None

    def _serve(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.environs.append(environ)
            self.asked.append(json.loads(environ["wsgi.input"].read()))
            status, body = self.answer(self.asked[-1])
        finally:
            self.at_once -= 1
        start_response(status, [("Content-Length", str(len(body)))])
        return [body]


def listening(port: Port) -> Any:
    """gevent's socket that listens on the port."""
    made = port.listen()
    return gevent.socket.socket(made.family, made.type, made.proto, fileno=made.detach())


@pytest.fixture(autouse=True)
def cooperative(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a server, where everything is patched: urllib3 waits in gevent's way."""
    monkeypatch.setattr("urllib3.util.connection.socket", gevent.socket)


@pytest.fixture
def port() -> Iterator[Port]:
    with Port() as made:
        yield made


@pytest.fixture
def api(port: Port) -> Iterator[API]:
    made = API().start(port)
    yield made
    made.stop()


@pytest.fixture
def auth(port: Port) -> Iterator[AuthAPI]:
    made = AuthAPI(f"http://{port}/check?key=hush")
    yield made
    made.close()


def ask(auth: AuthAPI, *prefixes: str, id: str = "apple", secret: str = SECRET, seconds: float = 8.0) -> Any:
    return auth.ask(id, secret, prefixes, monotonic() + seconds)


def body(value: Any) -> Callable[[Any], tuple[str, bytes]]:
    return lambda question: ("200 OK", json.dumps(value).encode())


def unavailable(auth: AuthAPI, seconds: float = 0.6) -> None:
    with pytest.raises(RemoteRefused, match="authAPI gives no answer") as caught:
        ask(auth, seconds=seconds)
    assert caught.value.code == "auth_unavailable"
    assert SECRET not in str(caught.value)


def test_the_question(api: API, auth: AuthAPI) -> None:
    assert ask(auth, "apple", "tart") == frozenset()
    assert api.asked == [
        {"networkClientId": "apple", "networkSecretKey": SECRET, "appletTokens": ["apple", "tart"]}
    ]
    (environ,) = api.environs
    assert environ["REQUEST_METHOD"] == "POST"
    assert environ["PATH_INFO"] == "/check"
    assert environ["QUERY_STRING"] == "key=hush"
    assert environ["CONTENT_TYPE"] == "application/json"
    assert environ["HTTP_REQUEST_ID"]
    assert "HTTP_AUTHORIZATION" not in environ


def test_each_question_has_an_id_of_its_own(api: API, auth: AuthAPI) -> None:
    for name in "abc":
        ask(auth, id=name)
    assert len({environ["HTTP_REQUEST_ID"] for environ in api.environs}) == 3


def test_a_name_and_password_in_the_url(api: API, port: Port) -> None:
    auth = AuthAPI(f"http://user:pass%40word@{port}/")
    ask(auth)
    assert api.environs[0]["HTTP_AUTHORIZATION"] == "Basic dXNlcjpwYXNzQHdvcmQ="
    auth.close()


@pytest.mark.parametrize(
    ("answer", "hosts"),
    [
        ({"result": True}, set()),
        ({"result": True, "appletTokens": None}, set()),
        ({"result": True, "appletTokens": []}, set()),
        ({"result": True, "appletTokens": ["Tart", "cake", 7, None], "more": {}}, {"tart", "cake"}),
        ({"result": False, "appletTokens": ["tart"]}, None),
    ],
)
def test_answers(api: API, auth: AuthAPI, answer: Any, hosts: set[str] | None) -> None:
    api.answer = body(answer)
    assert ask(auth) == hosts


@pytest.mark.parametrize(
    "answer",
    [
        ("200 OK", b""),
        ("200 OK", b"<html>"),
        ("200 OK", b"\xff"),
        ("200 OK", b"[" * 20000),
        ("200 OK", b"[true]"),
        ("200 OK", b"{}"),
        ("200 OK", b'{"result": "true"}'),
        ("200 OK", b'{"result": 1}'),
        ("200 OK", b'{"result": true, "appletTokens": "tart"}'),
        ("200 OK", b'{"result": true}' + b" " * MAX_ANSWER_BYTES),
        ("201 Created", b'{"result": true}'),
        ("302 Found", b'{"result": true}'),
        ("401 Unauthorized", b'{"result": false}'),
        ("404 Not Found", b""),
        ("500 Internal Server Error", b'{"result": true}'),
    ],
    ids=lambda answer: f"{answer[0]} {answer[1][:30].decode('latin-1')}",
)
def test_what_is_no_answer(api: API, auth: AuthAPI, answer: tuple[str, bytes]) -> None:
    api.answer = lambda question: answer
    unavailable(auth)
    assert len(api.asked) >= 2, "it is asked again"


def test_nobody_listens(auth: AuthAPI) -> None:
    unavailable(auth)


def test_one_that_closes_without_an_answer(port: Port, auth: AuthAPI) -> None:
    listener = listening(port)

    def serve() -> None:
        while True:
            listener.accept()[0].close()

    serving = gevent.spawn(serve)
    unavailable(auth)
    serving.kill()
    listener.close()


@pytest.mark.parametrize("dribbles", [False, True])
def test_one_that_is_silent_or_sends_a_byte_now_and_then(port: Port, auth: AuthAPI, dribbles: bool) -> None:
    """Each byte comes in time, the answer never: the whole attempt has a limit."""
    listener = listening(port)
    connections: list[Any] = []

    def serve() -> None:
        while True:
            connections.append(listener.accept()[0])
            connections[-1].sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while dribbles:
                gevent.sleep(0.02)
                connections[-1].sendall(b"x")

    serving = gevent.spawn(serve)
    started = monotonic()
    unavailable(auth, seconds=0.5)
    assert monotonic() - started < 5
    serving.kill()
    for each in (*connections, listener):
        each.close()


def test_it_waits_for_one_that_comes_back(
    port: Port, auth: AuthAPI, caplog: pytest.LogCaptureFixture
) -> None:
    asking = gevent.spawn(ask, auth, seconds=60)
    until(lambda: "cannot come in" in caplog.text)
    api = API().start(port)
    assert asking.get(timeout=60) == frozenset()
    api.stop()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.messages[1] == f"authAPI http://{port} answers again"
    for text in (SECRET, "hush"):
        assert text not in caplog.text


def test_trouble_is_logged_once(auth: AuthAPI, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        unavailable(auth, seconds=0.3)
    assert len(caplog.records) == 1


def test_a_pool_of_tunnels_asks_once(api: API, auth: AuthAPI) -> None:
    let_go = Event()

    def answer(question: dict[str, Any]) -> tuple[str, bytes]:
        let_go.wait()
        return "200 OK", b'{"result": true, "appletTokens": ["tart"]}'

    api.answer = answer
    asking = [gevent.spawn(ask, auth, "tart") for _ in range(5)]
    until(lambda: api.asked)
    let_go.set()
    gevent.joinall(asking, timeout=10, raise_error=True)
    assert [each.value for each in asking] == [{"tart"}] * 5
    assert ask(auth, "tart") == {"tart"}
    assert len(api.asked) == 1


def test_only_the_very_same_question_is_answered_from_memory(api: API, auth: AuthAPI) -> None:
    ask(auth, "tart")
    ask(auth, "cake")
    ask(auth, "tart", secret="another")
    ask(auth, "tart", id="pear")
    assert len(api.asked) == 4


def test_a_yes_is_kept_for_a_short_time_only(
    api: API, auth: AuthAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_api_module, "KEEP_S", 0.0)
    ask(auth)
    ask(auth)
    assert len(api.asked) == 2


def test_a_no_is_not_kept(api: API, auth: AuthAPI) -> None:
    api.answer = body({"result": False})
    assert ask(auth) is None
    api.answer = body({"result": True})
    assert ask(auth) == frozenset()


def test_what_is_kept_is_bounded(api: API, auth: AuthAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_api_module, "MAX_KEPT", 5)
    for number in range(20):
        ask(auth, id=f"id{number}")
    assert len(auth._kept) == 5


def test_one_that_waited_asks_itself_when_the_first_was_given_up(api: API, auth: AuthAPI) -> None:
    let_go = Event()

    def answer(question: dict[str, Any]) -> tuple[str, bytes]:
        let_go.wait()
        return "200 OK", b'{"result": true}'

    api.answer = answer
    first, second = gevent.spawn(ask, auth), gevent.spawn(ask, auth)
    until(lambda: api.asked)
    first.kill()
    until(lambda: len(api.asked) == 2)
    let_go.set()
    assert second.get(timeout=10) == frozenset()
    assert auth._asking == {}


def test_one_that_waits_for_another_has_its_own_time(api: API, auth: AuthAPI) -> None:
    let_go = Event()
    api.answer = lambda question: (let_go.wait() and "200 OK", b'{"result": true}')
    first = gevent.spawn(ask, auth, seconds=60)
    until(lambda: api.asked)
    unavailable(auth, seconds=0.05)
    let_go.set()
    assert first.get(timeout=10) == frozenset()


def test_not_too_many_questions_at_a_time(api: API, auth: AuthAPI) -> None:
    def answer(question: dict[str, Any]) -> tuple[str, bytes]:
        gevent.sleep(0.01)
        return "200 OK", b'{"result": true}'

    api.answer = answer
    asking = [gevent.spawn(ask, auth, id=f"id{number}", seconds=60) for number in range(3 * MAX_ASKING)]
    gevent.joinall(asking, timeout=60, raise_error=True)
    assert 1 < api.most_at_once <= MAX_ASKING


def test_connections_are_used_again(api: API, auth: AuthAPI) -> None:
    for number in range(5):
        ask(auth, id=f"id{number}")
    assert len({environ["REMOTE_PORT"] for environ in api.environs}) == 1


def test_the_secret_is_hidden_from_logs_once_it_is_right(api: API, auth: AuthAPI) -> None:
    """Not before: strangers could crowd out the secrets that are worth hiding."""
    api.answer = body({"result": False})
    ask(auth, secret="wrong secret of a stranger")
    api.answer = body({"result": True})
    ask(auth, secret="right secret of a client")
    assert logs._secrets.redact("wrong secret of a stranger") == "wrong secret of a stranger"
    assert logs._secrets.redact("right secret of a client") == "***"


@pytest.mark.parametrize("trusted", [True, False])
def test_the_certificate_of_the_api_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trusted: bool
) -> None:
    monkeypatch.undo()  # this one blocks: TLS over gevent's sockets needs all of it patched

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"result": true}')

        def log_message(self, *args: Any) -> None:
            """Not on standard error."""

    files = make_pair().write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(files.cert))
    auth = AuthAPI(f"https://localhost:{server.server_port}/")
    try:
        if trusted:
            assert ask(auth) == frozenset()
        else:
            unavailable(auth)
            assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    finally:
        auth.close()
        server.shutdown()
        server.server_close()
        thread.join()
