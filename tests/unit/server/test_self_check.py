"""The check of the server's own path, against a server in this process: however it is set up, and what can be wrong."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtapp.config.load import ServerConfig, User
from gtapp.config.options import ServerOptions
from gtapp.config.values import Address
from gtapp.observe import metrics
from gtapp.relay.tls import Handshakes
from gtapp.server import self_check
from gtapp.server.app import ServerApp, Shared
from gtapp.server.certificates import Certificate
from gtapp.server.port_office import PortOffice
from gtapp.server.self_check import CheckFailed, SelfCheck, status_user
from gtapp.server.siblings import Siblings
from tests.support.certificates import make_pair
from tests.support.relay import ours, until
from tests.unit.server.scene import listening

ANY_PORT = Address("127.0.0.1", 0)
LOOPBACK = (ip_network("127.0.0.0/8"),)

Start = Callable[..., tuple[ServerApp, SelfCheck]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """start(options…): a running server and the check it has."""
    monkeypatch.setattr(metrics, "_gauges", {})
    files = make_pair().write(tmp_path)
    apps: list[ServerApp] = []

    def start(users: dict[str, User] | None = None, **given: Any) -> tuple[ServerApp, SelfCheck]:
        given = {"addr": ANY_PORT, "api_addr": ANY_PORT} | given
        if given.get("tls_addr"):
            given |= {"cert_file": str(files.cert), "key_file": str(files.key)}
        options = ServerOptions(**given)
        shared = Shared(listening(options), Siblings(), PortOffice().opener(0), secrets.token_bytes(32))
        app = ServerApp(ServerConfig(None, options, users or {}), shared)
        apps.append(app)
        app.start()
        assert app._status is not None
        return app, app._status._check

    yield start
    for app in apps:
        app.stop(0)
    gevent.sleep(0)


@pytest.fixture
def alone() -> Iterator[SelfCheck]:
    """A check without a server of its own."""
    made = SelfCheck(ServerOptions(addr=ANY_PORT), Handshakes(), status_user(bytes(32)))
    yield made
    made.stop()


def failure(check: SelfCheck) -> CheckFailed:
    with pytest.raises(CheckFailed) as raised:
        check.run()
    return raised.value


@pytest.mark.parametrize("protocols", [(1, 3), (3,), (1,)], ids=["any", "3", "1"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"addr": None, "tls_addr": ANY_PORT},
        {"tls_addr": ANY_PORT},
        {"trusted_proxies": LOOPBACK},
        {"tls_addr": ANY_PORT, "trusted_proxies": LOOPBACK},
        {"trusted_proxies": (ip_network("192.0.2.0/24"),)},
        {"http_mux_header": "EID"},
        {"route_per_request": True},
        {"addr": Address("", 0)},
        {"addr": Address("0.0.0.0", 0)},
        {"host_number": 1, "host_regex": ("^never$",), "host_with_id": True, "connections": 1},
        {"reconnect_times": 1},
        {"allow_any_client": True},
        {"auth_api": "http://127.0.0.1:9/"},
    ],
    ids=str,
)
def test_it_works(options: dict[str, Any], protocols: tuple[int, ...], start: Start) -> None:
    _, check = start(protocols=protocols, **options)
    for _ in range(3):
        check.run()


def test_nothing_is_left_of_it(start: Start) -> None:
    app, check = start()
    check.run()
    until(lambda: not app._registry.tunnels(), "the tunnel is gone")
    assert metrics.snapshot()["clients"] == 0


def test_its_user_is_nobody_elses(start: Start) -> None:
    (_, one), (_, other) = start(), start()
    assert one.user.id != other.user.id
    assert one.user.secret != other.user.secret
    assert len(one.user.id) == 32
    assert one.user.secret is not None
    assert len(one.user.secret) >= 32


def test_a_locked_out_address_is_no_obstacle(start: Start) -> None:
    """Behind a balancer, or on one machine, visitors, clients and the check have one address."""
    app, check = start(reconnect_times=1)
    app._lockout.failed("127.0.0.1:5")
    assert app._lockout.locked("127.0.0.1:6")
    check.run()


# What can be wrong


def test_nobody_listens(alone: SelfCheck) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        alone.addr = f"127.0.0.1:{holder.getsockname()[1]}"
        error = failure(alone)
    assert error.step == "connect"
    assert str(error) == f"cannot connect to {alone.addr}: Connection refused"


@pytest.fixture
def stranger() -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A listener that is no GT server: its address, and what sets the bytes it answers with, then closes."""
    listener = ours(socket.create_server(("127.0.0.1", 0)))
    answers: list[bytes] = []
    taken: list[Any] = []

    def serve() -> None:
        while True:
            sock, _ = listener.accept()
            taken.append(sock)
            if answers:
                sock.recv(1000)
                sock.sendall(answers[0])
                sock.close()

    listener.settimeout(None)
    serving = gevent.spawn(serve)
    yield f"127.0.0.1:{listener.getsockname()[1]}", answers.append
    serving.kill()
    for sock in (listener, *taken):
        sock.close()


def test_who_listens_says_nothing(
    alone: SelfCheck, stranger: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "CHECK_S", 0.2)
    alone.addr = stranger[0]
    assert failure(alone).step == "tunnel"


@pytest.mark.parametrize("protocols", [(3,), (1,)])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 50])
def test_who_listens_is_no_gt(
    answer: bytes, protocols: tuple[int, ...], alone: SelfCheck, stranger: tuple[str, Any]
) -> None:
    alone.options = replace(alone.options, protocols=protocols)
    alone.addr, say = stranger
    say(answer)
    assert failure(alone).step == "tunnel"


def test_it_is_not_let_in(start: Start, alone: SelfCheck) -> None:
    """Here because another server has the address."""
    _, check = start()
    alone.addr = check.addr
    error = failure(alone)
    assert (error.step, str(error)) == ("tunnel", "unknown id or wrong secret")
    alone.options = replace(alone.options, protocols=(1,))
    assert failure(alone).step == "tunnel"


def test_visitors_are_answered_otherwise(start: Start) -> None:
    _, check = start()
    check.options = replace(check.options, http_mux_header="EID")
    error = failure(check)
    assert error.step == "answer"
    assert str(error) == f"a visitor of {check.addr} is answered 'HTTP/1.1 404 Not Found'"


def test_the_certificate_is_not_ours(start: Start, tmp_path: Path) -> None:
    _, check = start(addr=None, tls_addr=ANY_PORT)
    other = make_pair().write(tmp_path, "other")
    check.certificate = Certificate(str(other.cert), str(other.key), (), tmp_path, "tls1.2")
    error = failure(check)
    assert (error.step, str(error)) == ("tls", "what answers shows a certificate that is not ours")


def test_no_tls_where_it_should_be(start: Start, tmp_path: Path) -> None:
    _, check = start(tls_addr=ANY_PORT)
    check.tls_addr = check.addr
    assert failure(check).step == "tls"


def test_one_of_two_listeners_is_gone(start: Start) -> None:
    """The tunnel is over TLS then; but visitors of the other address count, too."""
    app, check = start(tls_addr=ANY_PORT)
    check.run()
    app._listeners.pop("addr").stop()
    assert failure(check).step == "connect"
