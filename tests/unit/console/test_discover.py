"""Services of this machine: what answers is tried out for real, and told in words."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from flask import Flask

from gtapp.config.options import LOCAL
from gtapp.console import WEB, dial, i18n
from gtapp.console.dial import Speech, Tried, try_service
from gtapp.console.discover import discover
from tests.support.certificates import make_pair
from tests.support.processes import eventually
from tests.support.services import Connection, Handler, Service
from tests.support.tls import speaking_tls


@pytest.fixture(autouse=True)
def in_english() -> Iterator[None]:
    app = Flask("speaking")
    i18n.init_app(app, WEB / "translations")
    with app.test_request_context("/"):
        yield


@contextlib.contextmanager
def serving(handler: Handler) -> Iterator[int]:
    """The port of a service that does this with each connection."""
    with contextlib.closing(Service(handler)) as service:
        yield service.address[1]


def http(connection: Connection) -> None:
    if connection.head().startswith(b"HEAD / HTTP/1.1\r\n"):
        connection.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")


def banner(connection: Connection) -> None:
    connection.send(b"SSH-2.0-OpenSSH_9.2\r\n")
    connection.head()


def silent(connection: Connection) -> None:
    connection.wait_end()


def gone(connection: Connection) -> None:
    """It ends at once."""


def attempt(scheme: str, port: int, host: str = "127.0.0.1") -> Tried:
    return try_service(LOCAL.parse(f"{scheme}://{host}:{port}"))


def test_what_is_as_it_should_be():
    with serving(http) as port:
        assert attempt("http", port).text == "It answers, with HTTP status 401."
        tried = attempt("tcp", port)
        assert tried == Tried(True, "It takes connections.", tried.ms)
        assert attempt("http", port, "localhost").ok


def test_the_wrong_scheme_is_told():
    with serving(banner) as port:
        assert attempt("http", port).text == (
            f"Something answers at 127.0.0.1:{port}, but not in HTTP: choose tcp:// for it."
        )
        assert attempt("https", port).text == f"No TLS is spoken at 127.0.0.1:{port}: choose http:// for it."
    with serving(gone) as port:
        assert "closes it without an answer" in attempt("http", port).text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_silent_is_told(monkeypatch, scheme):
    monkeypatch.setattr(dial, "DIAL_S", 0.3)
    with serving(silent) as port:
        tried = attempt(scheme, port)
    assert not tried.ok
    assert "does not answer within 0 s" in tried.text


def test_what_cannot_be_reached_is_told(monkeypatch):
    with serving(http) as port:
        pass
    monkeypatch.setattr(dial, "container", lambda: "")
    nothing = f"Nothing listens at 127.0.0.1:{port}: start the service, or correct the address."
    assert attempt("http", port).text == nothing
    monkeypatch.setattr(dial, "container", lambda: "docker")
    assert attempt("tcp", port).text.startswith(f"{nothing} In a container")
    assert attempt("http", port, "no-such-name.invalid").text.startswith(
        "The name no-such-name.invalid is not known"
    )


def test_tls(tmp_path):
    with serving(speaking_tls(http, make_pair().write(tmp_path))) as port:
        assert attempt("https", port).text == "It answers, and speaks TLS."
        assert attempt("http", port).text == f"TLS is spoken at 127.0.0.1:{port}: choose https:// for it."
        usual: Speech
        for usual in ("http", "https"):
            assert discover(ports={port: ("Web", usual)})[0].scheme == "https"


def test_what_listens_is_found_with_what_it_speaks():
    with serving(http) as web, serving(banner) as ssh, serving(gone) as other:
        ports: dict[int, tuple[str, Speech]] = {
            web: ("Web", "http"),
            ssh: ("SSH", "http"),
            other: ("?", "https"),
            1: ("?", "tcp"),
        }
        found = {each.port: each for each in discover(ports=ports)}
        assert found.keys() == {web, ssh, other}
        assert (found[web].scheme, found[ssh].scheme) == ("http", "tcp")
        assert found[web].url == f"http://127.0.0.1:{web}"
        assert found[web].name == psutil.Process().name()
        assert discover({web, ssh, other}, ports) == []
    assert discover(ports=ports) == []


def test_what_listens_on_an_address_is_found_there():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        found = discover(ports={port: ("Web", "http")})
    assert [each.url for each in found] == [f"tcp://[::1]:{port}"]


def test_gt_itself_is_never_found(tmp_path):
    script = tmp_path / "gt.py"
    script.write_text(
        "import socket, sys\nlistener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\nsys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdin is not None
        port = int(child.stdout.readline())
        assert discover(ports={port: ("Web", "tcp")}) == []
        child.stdin.close()
    assert eventually(lambda: child.poll() == 0, "it has ended")
