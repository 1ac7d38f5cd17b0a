"""The server put together: it listens, serves, takes new options over, and ends in order."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import gevent.ssl
import pytest

from gtapp.config.load import ServerConfig, User
from gtapp.config.options import ServerOptions
from gtapp.config.values import Address, PortRange
from gtapp.errors import ConfigError, GTError
from gtapp.observe import metrics
from gtapp.server import router
from gtapp.server.app import ServerApp, Shared
from gtapp.server.port_office import PortOffice
from gtapp.server.self_check import status_user
from gtapp.server.siblings import Siblings
from gtapp.wire import credentials, frames
from gtapp.wire.credentials import MIN_ITERATIONS, derive
from gtapp.wire.handshake import ClientHandshake, ServiceSpec
from tests.support.ports import Port
from tests.support.relay import CONTROL, OPEN, FarEnd, ours, read_all, read_exactly, turn, until
from tests.unit.server.scene import client_hello, listening

REQUEST = b"GET / HTTP/1.1\r\nHost: id1.example.com\r\n\r\n"
HERE = Address("127.0.0.1", 0)
USER = User(id="id1", secret="secret1")
KEY = bytes(32)


class Running:
    """A server; its listeners are those of `addr`, `tlsAddr` and `sniAddr`, as far as there are any, in this order."""

    def __init__(self, beside: Path, user: User = USER, **options: Any) -> None:
        self.path = beside / "gt.yaml"
        self.options = ServerOptions(**{"addr": HERE, **options})
        self.users = {user.id: user}
        self.office = PortOffice()
        shared = Shared(listening(self.options), Siblings(), self.office.opener(0), KEY)
        self.app = ServerApp(ServerConfig(self.path, self.options, self.users), shared)
        self.app.start()
        self.sockets: list[Any] = []

    def address(self, listener: int = 0) -> tuple[str, int]:
        host, _, port = list(self.app._listeners.values())[listener].address.rpartition(":")
        return host, int(port)

    def connect(self, listener: int = 0, port: int = 0) -> Any:
        address = ("127.0.0.1", port) if port else self.address(listener)
        self.sockets.append(ours(socket.create_connection(address)))
        return self.sockets[-1]

    def connect_tls(self, listener: int = 1) -> Any:
        context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.path.parent / "gt-cert.pem")
        self.sockets.append(context.wrap_socket(self.connect(listener), server_hostname="localhost"))
        return self.sockets[-1]

    def log_in(
        self, secret: str = "secret1", sock: Any = None, *services: ServiceSpec, id: str = "id1"
    ) -> Any:
        """A client up to the answer to its `auth`, which stands in `answer`."""
        far: Any = FarEnd(sock or self.connect(), frames.Frames())
        handshake = ClientHandshake(id, secret, "test", "instance", [*services] or [ServiceSpec("http")])
        far.send(frames.OPENING, far.frames.control(handshake.hello()))
        challenge = far.next_of(CONTROL)[2]
        if challenge["type"] != "error":
            far.send(far.frames.control(handshake.auth(challenge)))
            challenge = far.next_of(CONTROL)[2]
        far.answer = challenge
        return far

    def client(self, *services: ServiceSpec, sock: Any = None) -> Any:
        """A client that publishes "id1", or these services."""
        far = self.log_in("secret1", sock, *services)
        assert far.answer["type"] == "ready", far.answer
        far.answer_ping()
        return far

    def visit(self, data: bytes = REQUEST) -> Any:
        visitor = self.connect()
        visitor.sendall(data)
        return visitor

    def reload(self, *users: User, **options: Any) -> None:
        """New options, and these users in place of all."""
        chosen = {user.id: user for user in users} or self.users
        sockets = {key: listener._sock for key, listener in self.app._listeners.items()}
        self.app.reload(ServerConfig(self.path, replace(self.options, **options), chosen), sockets)

    def stop(self, grace: float) -> gevent.Greenlet[..., int]:
        return gevent.spawn(self.app.stop, grace)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.app.stop(0)
        self.office.close()
        turn(5)


MakeRunning = Callable[..., Running]


@pytest.fixture
def make_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MakeRunning]:
    monkeypatch.setattr(metrics, "_gauges", {})
    monkeypatch.setattr(credentials, "DEFAULT_ITERATIONS", MIN_ITERATIONS)
    monkeypatch.setattr(credentials, "derive", lambda secret, salt, _=0: derive(secret, salt, MIN_ITERATIONS))
    made: list[Running] = []

    def make(**options: Any) -> Running:
        made.append(Running(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def running(make_running: MakeRunning) -> Running:
    return make_running()


def test_visitors_and_tunnels_on_one_address(running: Running) -> None:
    client = running.client()
    visitor = running.visit()
    kind, stream, opened = client.next()
    assert (kind, opened.data) == (OPEN, REQUEST)
    client.send(client.data(stream, b"answer"))
    assert read_exactly(visitor, 6) == b"answer"
    now = metrics.snapshot()
    assert (now["tunnels"], now["streams"], now["clients"], now["queued_bytes"]) == (1, 1, 1, 0)
    assert read_all(running.visit(REQUEST.replace(b"id1", b"id2"))).startswith(b"HTTP/1.1 404")


# everything that can be published


def test_tls(make_running: MakeRunning) -> None:
    """With a certificate that is made beside the configuration, and which clients can take for the CA."""
    running = make_running(tls_addr=HERE)
    client = running.client(sock=running.connect_tls())
    visitor = running.connect_tls()
    visitor.sendall(REQUEST)
    _, stream, opened = client.next_of(OPEN)
    assert (opened.data, opened.flags) == (REQUEST, frames.OVER_TLS)
    client.send(client.data(stream, b"answer"))
    assert read_exactly(visitor, 6) == b"answer"
    running.visit()
    assert client.next_of(OPEN)[2].flags == 0, "the same service without TLS"


def test_tls_alone(make_running: MakeRunning) -> None:
    running = make_running(addr=None, tls_addr=HERE)
    assert len(running.app._listeners) == 1
    assert running.log_in("secret1", running.connect_tls(0)).answer["type"] == "ready"


def test_tls_to_pass_through(make_running: MakeRunning) -> None:
    running = make_running(sni_addr=HERE)
    client = running.client(ServiceSpec("tls", "a"))
    visitor = running.connect(1)
    hello = client_hello("a.example.com")
    visitor.sendall(hello)
    _, stream, opened = client.next_of(OPEN)
    assert opened.data == hello
    client.send(client.data(stream, b"answer"))
    assert read_exactly(visitor, 6) == b"answer"


def test_a_tcp_port(make_running: MakeRunning) -> None:
    with Port() as port:
        running = make_running(user=replace(USER, tcp_range=(PortRange(port.number, port.number),)))
        client = running.client(ServiceSpec("tcp", None, 0, True))
        assert client.answer["services"] == [{"port": port.number}]
        visitor = running.connect(port=port.number)
        _, stream, opened = client.next_of(OPEN)
        assert opened.data == b""
        client.send(client.data(stream, b"SSH-2.0"))
        assert read_exactly(visitor, 7) == b"SSH-2.0"


def test_ports_are_opened_where_the_server_listens(make_running: MakeRunning) -> None:
    """And on no other address of the machine."""
    with Port("127.0.0.2") as port:
        addr = Address("127.0.0.2", 0)
        running = make_running(
            addr=addr, user=replace(USER, tcp_range=(PortRange(port.number, port.number),))
        )
        running.client(ServiceSpec("tcp", None, port.number))
        assert listens(port)
        (opened,) = running.app._ports._ports.values()
        assert opened.listener.address == str(port)


def test_a_port_that_is_given_up_is_closed(make_running: MakeRunning) -> None:
    with Port() as port:
        user = replace(USER, tcp_range=(PortRange(port.number, port.number),))
        running = make_running(user=user, timeout=0.8)  # for quick ticks
        client = running.client(ServiceSpec("tcp", None, port.number))
        client.send(client.frames.control({"type": "services", "services": [{"kind": "http"}]}))
        assert client.next_of(CONTROL)[2]["type"] == "ready"
        until(lambda: not listens(port))


def listens(port: Port) -> bool:
    try:
        socket.create_connection(port.address).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_visitor_who_says_nothing_is_closed(
    make_running: MakeRunning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "FIRST_BYTES_S", 0.2)
    running = make_running(timeout=0.8, tls_addr=HERE, sni_addr=HERE)
    for listener in range(3):
        assert read_all(running.connect(listener)) == b""


def test_stop_closes_the_ports(make_running: MakeRunning) -> None:
    with Port() as port:
        running = make_running(user=replace(USER, tcp_range=(PortRange(port.number, port.number),)))
        running.client(ServiceSpec("tcp", None, port.number))
        running.stop(0.05).get(timeout=3)
        assert not listens(port)


def test_the_status_api_has_a_user_of_its_own(make_running: MakeRunning) -> None:
    """Its tunnel does not count as a client's login."""
    running = make_running(api_addr=HERE)
    user = status_user(KEY)
    assert user.id not in running.users
    assert running.app._users.is_own(user.id)
    assert running.log_in(user.secret or "", id=user.id).answer["type"] == "ready"


# new options while it runs


def test_reload_of_users(running: Running) -> None:
    other = User(id="id2", secret="secret2")
    assert running.log_in("secret2", id="id2").answer["code"] == "invalid_credentials"
    client = running.client()
    running.reload(USER, other)
    assert running.log_in("secret2", id="id2").answer["type"] == "ready"
    running.visit()
    assert client.next_of(OPEN)[2].data == REQUEST, "nobody else has noticed"


@pytest.mark.parametrize(
    "users",
    [
        [User(id="id2", secret="x")],
        [replace(USER, secret="other")],
        [replace(USER, disabled=True)],
    ],
    ids=["removed", "another secret", "disabled"],
)
def test_reload_ends_the_tunnels_of_who_may_not_log_in(
    running: Running, users: list[User], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client = running.client()
    visitor = running.visit()
    client.next_of(OPEN)
    running.reload(*users)
    client.rest()
    assert client.ended, "at once"
    assert read_all(visitor).startswith(b"HTTP/1.1 502")
    assert "id1 may no longer log in like this" in caplog.text
    assert running.log_in().answer["code"] == "invalid_credentials"


def test_reload_frees_the_host_prefixes_of_a_removed_user(running: Running) -> None:
    """At once: it will not come back for them."""
    other, asked = User(id="id2", secret="secret2"), ServiceSpec("http", "a")
    running.reload(USER, other)
    client = running.client(asked)
    assert running.log_in("secret2", None, asked, id="id2").answer["code"] == "host_conflict"
    running.reload(other)
    client.rest()
    assert running.log_in("secret2", None, asked, id="id2").answer["type"] == "ready"


def test_reload_of_limits_leaves_tunnels_alone(running: Running) -> None:
    client = running.client()
    running.reload(replace(USER, speed=10_000_000, connections=1, host_number=1))
    visitor = running.visit()
    _, stream, _ = client.next_of(OPEN)
    client.send(client.data(stream, b"answer"))
    assert read_exactly(visitor, 6) == b"answer"
    services = [ServiceSpec("http", name).to_dict() for name in ("a", "b")]
    client.send(client.frames.control({"type": "services", "services": services}))
    assert client.next_of(CONTROL)[2]["code"] == "too_many_hosts"


def test_reload_of_options_of_the_server(running: Running) -> None:
    running.reload(protocols=(1,), http_mux_header="X-Service", timeout=30.0)
    assert (
        running.visit(b"GET / HTTP/1.1\r\nHost: id1\r\nX-Service: nobody\r\n\r\n").recv(12) == b"HTTP/1.1 404"
    )
    closed = running.connect()
    closed.sendall(frames.OPENING)
    assert read_all(closed) == b""
    assert running.app._router._idle.ticks == running.app._clock.ticks(30.0)


def test_reload_of_the_lockout(running: Running) -> None:
    running.reload(reconnect_times=1)
    assert running.log_in("wrong").answer["code"] == "invalid_credentials"
    assert running.log_in().answer["code"] == "locked_out"
    running.reload(reconnect_times=0)
    assert running.log_in().answer["type"] == "ready"


def test_reload_tells_the_status_api(make_running: MakeRunning) -> None:
    running = make_running(api_addr=HERE)
    running.reload(http_mux_header="X-Service")
    assert running.app._status is not None
    assert running.app._status._check.options.http_mux_header == "X-Service"


# what it tells


def test_what_was_relayed_and_for_whom(running: Running) -> None:
    client = running.client()
    visitor = running.visit()
    _, stream, opened = client.next()
    client.send(client.data(stream, b"answer"))
    assert read_exactly(visitor, 6) == b"answer"
    numbers = {"streams": 1, "opened": 1, "bytes_in": len(opened.data), "bytes_out": 6}
    assert running.app.metrics() == {
        "users": {"id1": {"tunnels": 1, **numbers}},
        "hosts": [{"kind": "http", "name": "id1", "user": "id1", **numbers}],
    }
    assert metrics.snapshot()["bytes_in"] >= len(opened.data), "counted now, not at the next tick"
    visitor.close()
    client.send(client.frames.eof(stream))
    until(lambda: not metrics.snapshot()["streams"])
    now = running.app.metrics()
    assert now["hosts"][0] == {"kind": "http", "name": "id1", "user": "id1", **numbers, "streams": 0}


def test_a_user_that_nobody_has_visited(running: Running) -> None:
    running.client()
    nothing = {"streams": 0, "opened": 0, "bytes_in": 0, "bytes_out": 0}
    assert running.app.metrics() == {"users": {"id1": {"tunnels": 1, **nothing}}, "hosts": []}


def test_connections_and_how_they_are_cut(running: Running) -> None:
    client = running.client()
    visitor, other = running.visit(), running.visit()
    first, _ = client.next(), client.next()
    listed = running.app.connections(10, None)
    assert listed["total"] == 2
    (found,) = (each for each in listed["connections"] if each["id"].endswith(f".{first[1]}"))
    host, port = visitor.getsockname()
    assert (found["user"], found["name"], found["visitor"]) == ("id1", "id1", f"{host}:{port}")
    assert running.app.connections(1, "id1")["total"] == 2
    assert running.app.connections(1, "id2")["total"] == 0
    assert running.app.disconnect({"connection": found["id"]}, "cut") == 1
    assert read_all(visitor).startswith(b"HTTP/1.1 502")
    assert running.app.connections(10, None)["total"] == 1
    (tunnel,) = running.app.status()["tunnels"]
    assert tunnel["id"] == found["tunnel"]
    assert tunnel["agent"] == "test"
    assert running.app.disconnect({"tunnel": tunnel["id"]}, "it was disconnected") == 1
    assert read_all(other).startswith(b"HTTP/1.1 502")
    assert running.app.status()["tunnels"] == []
    running.client()
    assert running.app.disconnect({"user": "id2"}, "x") == 0
    assert running.app.disconnect({"user": "id1"}, "x") == 1


@pytest.mark.parametrize("options", [{}, {"addr": None, "tls_addr": HERE}, {"api_addr": HERE}])
def test_it_checks_itself(make_running: MakeRunning, options: dict[str, Any]) -> None:
    running = make_running(**options)
    answer = running.app.check()
    assert answer["works"], answer
    assert answer["ms"] > 0
    assert running.app.metrics() == {"users": {}, "hosts": []}
    assert running.app.connections(10, None) == {"total": 0, "connections": []}


def test_several_checks_at_once_take_turns(running: Running) -> None:
    answers = [gevent.spawn(running.app.check) for _ in range(4)]
    assert all(each.get(timeout=20)["works"] for each in answers)


def test_one_that_listens_no_more_says_so(running: Running) -> None:
    running.app.retire()
    answer = running.app.check()
    assert (answer["works"], answer["step"]) == (False, "connect")
    assert answer["text"] == "connect: this worker does not listen any more"


# what cannot be, and the end


def nothing_shared() -> Shared:
    return Shared({}, Siblings(), PortOffice().opener(0), KEY)


def test_no_address() -> None:
    with pytest.raises(ConfigError, match="no address to listen on"):
        ServerApp(ServerConfig(None, ServerOptions(), {}), nothing_shared())


def test_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    options = ServerOptions(tls_addr=HERE, cert_file="/no/such.pem", key_file="/no/such.pem")
    with pytest.raises(GTError, match=r"such\.pem"):
        ServerApp(ServerConfig(tmp_path / "gt.yaml", options, {}), nothing_shared())


def test_stop_waits_for_what_runs(running: Running) -> None:
    client = running.client()
    visitor = running.visit()
    _, stream, _ = client.next()
    late, half = running.connect(), running.visit(b"GET /")
    address = running.address()
    turn(5)
    stopping = running.stop(5)
    assert client.next_of(CONTROL)[2] == {"type": "drain"}
    assert read_all(late) == read_all(half) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    client.send(client.data(stream, b"answer"), client.frames.eof(stream))
    assert read_all(visitor) == b"answer"
    assert not stopping.ready()
    visitor.close()
    client.rest()
    client.close()
    stopping.get(timeout=3)


def test_stop_of_an_idle_server_tells_its_clients(running: Running) -> None:
    """They are to know that it was no accident, and the process ends right after `stop`."""
    client = running.client()
    began = monotonic()
    stopping = running.stop(5)
    assert client.next_of(CONTROL)[2] == {"type": "drain"}
    client.rest()
    client.close()
    stopping.get(timeout=3)
    assert monotonic() - began < 3


def test_stop_of_an_idle_server_with_everything(make_running: MakeRunning) -> None:
    """None of its parts is waited for when there is nothing left to do."""
    running = make_running(tls_addr=HERE, sni_addr=HERE, api_addr=HERE)
    began = monotonic()
    running.stop(5).get(timeout=10)
    assert monotonic() - began < 3


def test_stop_cuts_what_takes_too_long(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    client = running.client()
    visitor = running.visit()
    _, stream, _ = client.next()
    client.send(client.data(stream, b"half of"))
    read_exactly(visitor, 7)
    running.stop(0.05).get(timeout=3)
    with pytest.raises(ConnectionResetError):
        read_all(visitor)
    assert "1 connections were still running" in caplog.text
