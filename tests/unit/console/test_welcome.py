"""The page after the first run: the live test, the way in for the first client, and where visitors find services."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from gtapp.console import welcome
from gtapp.console.welcome import visit
from gtapp.errors import GTError
from gtapp.wire.join_code import JoinCode
from tests.support.certificates import make_pair
from tests.unit.console.conftest import Auth, Relay

SERVER = """\
type: server
options:
  domain: gt.example.com
  addr: 8080
  webAddr: 127.0.0.1:18000
  admin: admin
  password: correct horse
users:
  off: {secret: secret-of-off, disabled: true}
  home: {secret: secret-of-home}
  other: {secret: secret-of-other}
"""


def status(**worker: Any) -> dict[str, Any]:
    listeners = [
        {"option": "addr", "address": "[::]:8080"},
        {"option": "webAddr", "address": "127.0.0.1:18000"},
    ]
    return {"units": [{"role": "server", "listeners": listeners, "workers": [{"number": 1, **worker}]}]}


@pytest.fixture
def server(make_app: Callable[..., Flask], relay: Relay, no_names: None) -> FlaskClient:
    """Logged in to the console of a server that works."""
    relay.answers["status"] = status()
    relay.answers["metrics"] = {"units": []}
    relay.answers["check"] = {"text": "", "ms": 12.4}
    return logged_in(make_app(text=SERVER))


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """gt.example.com leads nowhere; addresses stay what they are."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **others: Any) -> Any:
        if str(host).endswith("example.com"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def logged_in(app: Flask) -> FlaskClient:
    client = app.test_client()
    assert Auth(app, client).login().status_code in (302, 303)
    return client


def test_nobody_sees_it_without_a_login(make_app: Callable[..., Flask]) -> None:
    for role in ("server", "client"):
        client = make_app(role).test_client()
        for path in ("/welcome", "/welcome/check", "/welcome/arrival"):
            answer = client.get(path)
            assert answer.status_code in (302, 303)
            assert "/login" in answer.headers["Location"]


# a server


def test_how_the_first_client_comes_in(server: FlaskClient) -> None:
    page = server.get("/welcome").text
    code = "gt://" + page.partition("<code>gt://")[2].partition("</code>")[0]
    assert JoinCode.parse(code) == JoinCode(
        "home", "secret-of-home", ("tcp://gt.example.com:8080",), "", "gt.example.com"
    )
    assert "docker run" in page
    assert "python gt.py client --id home --secret secret-of-home --remote tcp://gt.example.com:8080" in page
    assert "<svg" in page
    assert "secret-of-off" not in page
    assert "Waiting for home to connect" in page
    assert "Waiting for other to connect" in server.get("/welcome?user=other").text
    assert "There is no user with a secret yet" in server.get("/welcome?user=off").text


def test_without_a_user(make_app: Callable[..., Flask], relay: Relay) -> None:
    relay.answers["status"] = status()
    text = SERVER.partition("users:")[0] + "users:\n  off: {secret: x, disabled: true}\n"
    page = logged_in(make_app(text=text)).get("/welcome").text
    assert "There is no user with a secret yet" in page
    assert "/users/new" in page


def test_the_live_test_of_a_server(server: FlaskClient, relay: Relay) -> None:
    assert "Trying it out" in server.get("/welcome").text
    part = server.get("/welcome/check").text
    assert "runs, and listens on [::]:8080 (HTTP)." in part
    assert "works: a request went in, through a tunnel and back, in 12 ms." in part
    assert "*.gt.example.com" in part
    assert "has no record yet" in part
    assert 'hx-trigger="load delay' in part  # it is tried again
    assert "works: a request went in" in server.get("/welcome?check=1").text  # without scripts


def test_what_works_is_not_tried_again(make_app: Callable[..., Flask], relay: Relay) -> None:
    relay.answers["status"] = status()
    relay.answers["check"] = {"text": "", "ms": 1}
    client = logged_in(make_app(text=SERVER.replace("gt.example.com", "localhost")))
    part = client.get("/welcome/check").text
    assert "hx-trigger" not in part
    assert "record" not in part


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (GTError("connect: refused"), "where connections come in: refused"),
        (GTError("tls: bad"), "at TLS: bad"),
        (GTError("tunnel: no"), "where the tunnel is opened: no"),
        (GTError("request: no"), "where the request is sent: no"),
        (GTError("answer: 100% lost"), "on the way back: 100% lost"),
        (GTError("server.yml: no worker is ready"), "server.yml: no worker is ready"),
        (GTError("the process does not answer"), "the process does not answer"),
    ],
)
def test_where_the_path_is_broken(server: FlaskClient, relay: Relay, answer: Any, words: str) -> None:
    relay.answers["check"] = answer
    part = server.get("/welcome/check").text
    assert words in part
    assert "works:" not in part


def test_a_relay_that_does_not_run(server: FlaskClient, relay: Relay) -> None:
    relay.answers["status"] = GTError("the process cannot be asked")
    part = server.get("/welcome/check").text
    assert "the process cannot be asked" in part
    assert "The whole path" not in part
    relay.answers["status"] = {"units": []}
    assert "does not run" in server.get("/welcome/check").text
    assert server.get("/welcome").status_code == 200


def test_the_arrival_of_the_client_is_seen(server: FlaskClient, relay: Relay) -> None:
    part = server.get("/welcome/arrival?user=home").text
    assert "Waiting for home" in part
    assert "hx-trigger" in part
    tunnel = {"user": "home", "peer": "192.0.2.9:1234"}
    relay.answers["status"] = status(tunnels=[tunnel])
    part = server.get("/welcome/arrival?user=home").text
    assert "home is connected." in part
    assert "publishes nothing yet" in part
    assert "hx-trigger" in part
    hosts = [{"kind": "http", "name": "shop", "user": "home"}, {"kind": "tcp", "name": "20000", "user": "home"},
             {"kind": "http", "name": "mail", "user": "other"}]  # fmt: skip
    relay.answers["status"] = status(tunnels=[tunnel], hosts=hosts)
    part = server.get("/welcome/arrival?user=home").text
    assert 'href="http://shop.gt.example.com:8080/"' in part
    assert "tcp://gt.example.com:20000" in part
    assert "mail" not in part
    assert "hx-trigger" not in part
    assert "Waiting for other" in server.get("/welcome/arrival?user=other").text
    assert "A client is connected." in server.get("/welcome").text


# a client


class Web:
    """A web server that answers `head` to everybody, over TLS when it has a context."""

    def __init__(self, head: bytes, context: ssl.SSLContext | None = None) -> None:
        self.heads: list[bytes] = []
        self._answer = head
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                if self._context is None:
                    self._answer_one(connection)
                else:
                    with self._context.wrap_socket(connection, server_side=True) as secured:
                        self._answer_one(secured)

    def _answer_one(self, sock: socket.socket) -> None:
        self.heads.append(sock.recv(4096))
        sock.sendall(self._answer)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def web() -> Iterator[Callable[..., Web]]:
    made: list[Web] = []

    def make(head: bytes, context: ssl.SSLContext | None = None) -> Web:
        made.append(Web(head, context))
        return made[-1]

    yield make
    for each in made:
        each.close()


WORKS = b"HTTP/1.1 302 Found\r\nServer: nginx\r\nLocation: /\r\n\r\n"
REFUSED = b"HTTP/1.1 502 Bad Gateway\r\nServer: GT\r\nContent-Length: 0\r\n\r\n"


def test_a_visit_goes_the_way_of_visitors(web: Callable[..., Web]) -> None:
    service = web(WORKS)
    assert visit(f"http://shop.localhost:{service.port}/")
    assert service.heads[0].startswith(b"HEAD / HTTP/1.1\r\nHost: shop.localhost:")
    assert not visit(f"http://shop.localhost:{web(REFUSED).port}/")
    assert not visit(f"http://shop.localhost:{web(b'220 mail.example.com ESMTP').port}/")


def test_a_visit_over_tls_takes_any_certificate(web: Callable[..., Web], tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_pair().write(tmp_path))
    assert visit(f"https://shop.localhost:{web(WORKS, context).port}/")


def test_a_visit_that_fails(web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch) -> None:
    service = web(WORKS)
    service.close()
    with pytest.raises(OSError, match="refused"):
        visit(f"http://shop.localhost:{service.port}/")
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(welcome, "VISIT_S", 0.05)
    with silent, pytest.raises(TimeoutError):
        visit(f"http://shop.localhost:{silent.getsockname()[1]}/")


def client_text(port: int, *services: str) -> str:
    return (
        "type: client\noptions: {id: home, secret: secret-of-home, webAddr: 127.0.0.1:18000, admin: admin,"
        f" password: correct horse, remote: tcp://localhost:{port}}}\nservices:\n"
        + "".join(f"  - {each}\n" for each in services)
    )


def test_the_live_test_of_a_client(
    make_app: Callable[..., Flask], relay: Relay, web: Callable[..., Web]
) -> None:
    server = web(WORKS)
    relay.answers["status"] = status(
        tunnels=[{"remote": f"tcp://localhost:{server.port}", "rtt_ms": 3.4}],
        services=[
            {"local": "http://127.0.0.1:80", "public": ["shop"]},
            {"local": "tcp://127.0.0.1:22", "public": ["tcp://localhost:20022"]},
            {"local": "http://127.0.0.1:81", "public": []},
        ],
    )
    relay.answers["metrics"] = {"units": []}
    text = client_text(
        server.port, "{local: http://127.0.0.1:80, hostPrefix: shop}", "local: tcp://127.0.0.1:22",
        "{local: http://127.0.0.1:81, hostPrefix: wiki}",
    )  # fmt: skip
    client = logged_in(make_app("client", text))
    assert "Trying it out" in client.get("/welcome").text
    part = client.get("/welcome/check").text
    assert f"to tcp://localhost:{server.port} is up, 3 ms there and back." in part
    assert f'href="http://shop.localhost:{server.port}/"' in part
    assert "is reached there." in part
    assert "is published: tcp://localhost:20022" in part
    assert "is not published." in part
    assert len(server.heads) == 1
    assert "is reached there." in client.get("/welcome?check=1").text
    assert client.get("/welcome/arrival").status_code == 404


def test_a_service_that_does_not_run(
    make_app: Callable[..., Flask], relay: Relay, web: Callable[..., Web]
) -> None:
    server = web(REFUSED)
    relay.answers["status"] = status(
        tunnels=[{"remote": "tcp://localhost", "rtt_ms": 3.4}],
        services=[{"local": "http://127.0.0.1:80", "public": ["shop"]}],
    )
    relay.answers["metrics"] = {"units": []}
    client = logged_in(
        make_app("client", client_text(server.port, "{local: http://127.0.0.1:80, hostPrefix: shop}"))
    )
    part = client.get("/welcome/check").text
    assert "the service does not answer" in part
    assert 'hx-trigger="load delay' in part
    server.close()
    assert "from here" in client.get("/welcome/check").text


def test_a_client_without_a_tunnel(make_app: Callable[..., Flask], relay: Relay) -> None:
    relay.answers["metrics"] = {"units": []}
    relay.answers["status"] = status(tunnels=[], problems=["cannot connect to tcp://localhost:1: refused"])
    client = logged_in(make_app("client", client_text(1, "local: http://127.0.0.1:80")))
    part = client.get("/welcome/check").text
    assert "is not there yet: cannot connect to tcp://localhost:1: refused" in part
    relay.answers["status"] = status(tunnels=[])
    assert "is not there yet." in client.get("/welcome/check").text


def test_a_server_with_no_name_has_no_links(make_app: Callable[..., Flask], relay: Relay) -> None:
    relay.answers["metrics"] = {"units": []}
    relay.answers["status"] = status(
        tunnels=[{"remote": "tcp://127.0.0.1:1", "rtt_ms": 1}],
        services=[{"local": "http://127.0.0.1:80", "public": ["home"]}],
    )
    text = client_text(1, "local: http://127.0.0.1:80").replace("localhost:1", "127.0.0.1:1")
    part = logged_in(make_app("client", text)).get("/welcome/check").text
    assert "is published as host prefix home." in part
