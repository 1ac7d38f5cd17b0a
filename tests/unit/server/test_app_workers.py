"""Servers of several workers: they take over from each other, listen elsewhere after a reload, and say what they do."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtapp.config.load import ServerConfig, User
from gtapp.config.options import ServerOptions
from gtapp.config.values import PortRange
from gtapp.errors import GTError
from gtapp.observe import metrics
from gtapp.relay.sockets import PlainSocket, plain_socket
from gtapp.server import retirement
from gtapp.server.app import ServerApp, Shared
from gtapp.server.listeners import listen
from gtapp.server.port_office import PortOffice
from gtapp.server.siblings import Siblings
from gtapp.wire import compat, credentials
from gtapp.wire.credentials import MIN_ITERATIONS, derive
from gtapp.wire.handshake import ServiceSpec
from tests.support.ports import Port
from tests.support.relay import CONTROL, OPEN, FarEnd, ours, read_all, read_exactly, reset, turn, until
from tests.unit.server.scene import introduce, listening
from tests.unit.server.test_app import HERE, KEY, REQUEST, USER, Running

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Worker(Running):
    """One of several workers of a server. It accepts what the server's listeners get while it is asked to."""

    def __init__(self, server: Server, number: int) -> None:
        self.server = server
        self.path, self.options, self.users = server.path, server.options, server.users
        self.siblings = Siblings(number)
        shared = Shared(server.given(), self.siblings, server.office.opener(number), KEY)
        self.app = ServerApp(ServerConfig(self.path, self.options, self.users), shared)
        self.sockets: list[Any] = []
        self.office = PortOffice()  # Running closes it

    def accepting(self, on: bool) -> None:
        """Whether what comes next may come to this one."""
        for listener in self.app._listeners.values():
            (listener.start if on else listener._reader.stop)()

    def retire(self) -> None:
        self.app.retire()
        turn(4)

    def state(self) -> list[str]:
        return [each["state"] for each in self.app.status()["tunnels"]]


class Server:
    """What a master does: `start` a worker, which knows all others."""

    def __init__(self, beside: Path, user: User = USER, **options: Any) -> None:
        self.path = beside / "gt.yaml"
        self.options = ServerOptions(**{"addr": HERE, **options})
        self.users = {user.id: user}
        self.office = PortOffice()
        self.listening = listening(self.options)
        self.workers: list[Worker] = []
        self.numbers = itertools.count(1)

    def given(self) -> dict[str, PlainSocket]:
        """The listening sockets, as they are sent to a worker."""
        return {
            key: plain_socket(int(sock.family), os.dup(sock.fileno())) for key, sock in self.listening.items()
        }

    def start(self) -> Worker:
        worker = Worker(self, next(self.numbers))
        for each in self.workers:
            introduce(each.siblings, worker.siblings)
        self.workers.append(worker)
        worker.app.start()
        return worker

    def only(self, worker: Worker) -> Worker:
        """The next connection comes to this one."""
        for each in self.workers:
            each.accepting(each is worker)
        return worker

    def end(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.close()
        worker.siblings.stop()

    def close(self) -> None:
        for worker in list(self.workers):
            self.end(worker)
        for sock in self.listening.values():
            sock.close()
        self.office.close()
        turn(5)


@pytest.fixture
def make_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr(metrics, "_gauges", {})
    monkeypatch.setattr(credentials, "DEFAULT_ITERATIONS", MIN_ITERATIONS)
    monkeypatch.setattr(credentials, "derive", lambda secret, salt, _=0: derive(secret, salt, MIN_ITERATIONS))
    made: list[Server] = []

    def make(**options: Any) -> Server:
        made.append(Server(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()


def compat_client(worker: Worker) -> Any:
    """A tunnel of protocol 1 that publishes "id1"."""
    far = FarEnd(worker.connect(), compat.CompatFrames(server=False))
    far.send(compat.opening(compat.Opening("id1", "secret1", (compat.CompatService("http", None),))))
    assert far.next_of(CONTROL)[2] == compat.Ready()
    return far


def client(worker: Worker, version: int = 3) -> Any:
    return worker.client() if version == 3 else compat_client(worker)


def opened(far: Any) -> tuple[int, bytes]:
    _, stream, value = far.next_of(OPEN)
    data: bytes = value.data or far.next()[2]
    return stream, data


def reconnects(far: Any) -> bool:
    """It is told to."""
    return far.next_of(CONTROL)[2] in ({"type": "reconnect"}, compat.Reconnect())


def drains(far: Any) -> bool:
    return far.next_of(CONTROL)[2] in ({"type": "drain"}, compat.Close())


BOTH = pytest.mark.parametrize("version", [3, 1])


# several at a time


@BOTH
def test_a_visitor_is_served_wherever_he_comes_in(server: Server, version: int) -> None:
    one, two = server.start(), server.start()
    far = client(server.only(one), version)
    visitor = server.only(two).visit()
    stream, data = opened(far)
    assert data == REQUEST
    far.send(far.data(stream, OK))
    assert read_exactly(visitor, len(OK)) == OK


def test_a_new_worker_knows_all_when_it_listens(server: Server) -> None:
    one = server.start()
    far = one.client()
    for _ in range(3):
        new = server.only(server.start())
        assert new.app.ready.is_set()
        new.visit()
        opened(far)


def test_hosts_are_one_users_in_all_workers(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.users["id2"] = User(id="id2", secret="secret2")
    one, two = server.start(), server.start()
    asked = ServiceSpec("http", "a")
    server.only(one).client(asked)
    refused = server.only(two).log_in("secret2", None, asked, id="id2")
    assert refused.answer["code"] == "host_conflict"


def test_the_status_check_of_each_worker(make_server: Callable[..., Server]) -> None:
    """It may go through any of them, and several at a time do not disturb each other."""
    server = make_server(api_addr=HERE, tls_addr=HERE)
    workers = [server.start() for _ in range(3)]
    checks = [worker.app._status._check for worker in workers if worker.app._status is not None]
    for _ in range(3):
        running = [gevent.spawn(check.run) for check in checks]
        gevent.joinall(running, timeout=20, raise_error=True)
    assert len(checks) == 3
    assert all(not worker.app.status()["tunnels"] for worker in workers)


# taking over


@BOTH
def test_make_before_break(server: Server, version: int) -> None:
    """The old one serves until the new one does, then finishes what it has, then it is over."""
    old = server.start()
    far = client(old, version)
    running = old.visit()
    stream, _ = opened(far)
    new = server.start()
    assert not old.app.over
    old.retire()
    assert reconnects(far)
    new.visit()
    assert opened(far)[1] == REQUEST, "through the tunnel that there is"
    again = client(new, version)
    assert drains(far)
    until(lambda: old.state() == ["draining"])
    new.visit()
    assert opened(again)[1] == REQUEST
    assert not old.app.over
    far.send(far.data(stream, OK))
    assert read_exactly(running, len(OK)) == OK
    for sock in (running, *new.sockets[:1]):
        sock.close()
    far.close()
    until(lambda: old.app.over)
    assert old.app.stop(0) == 0


def test_a_tunnel_is_drained_when_one_sibling_has_all_of_it(server: Server) -> None:
    old = server.start()
    services = [ServiceSpec("http", "a"), ServiceSpec("http", "b")]
    far = old.client(*services)
    one, two = server.start(), server.start()
    old.retire()
    assert reconnects(far)
    server.only(one).client(services[0])
    server.only(two).client(services[1])
    gevent.sleep(3 * retirement.LOOK_EVERY_S)
    assert old.state() != ["draining"]
    server.only(one).client(*services)
    assert drains(far)


def test_siblings_that_retire_as_well_do_not_count(server: Server) -> None:
    one, two = server.start(), server.start()
    tunnels = [server.only(worker).client() for worker in (one, two)]
    new = server.start()
    one.retire()
    two.retire()
    for far in tunnels:
        assert reconnects(far)
    gevent.sleep(3 * retirement.LOOK_EVERY_S)
    assert "draining" not in one.state() + two.state()
    new.client()
    for far in tunnels:
        assert drains(far)


@BOTH
def test_a_client_that_does_not_come_over(
    server: Server, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """An old one does not know how to: it comes back when its tunnel is drained."""
    monkeypatch.setattr(retirement, "CALLED_S", 0.3)
    old = server.start()
    far = client(old, version)
    new = server.start()
    old.retire()
    assert reconnects(far)
    assert drains(far)
    visitor = new.visit()
    until(lambda: new.app._router.away)
    far.close()
    again = client(new, version)
    stream, _ = opened(again)
    again.send(again.data(stream, OK))
    assert read_exactly(visitor, len(OK)) == OK
    until(lambda: old.app.over)


def test_nothing_is_accepted_any_more(server: Server) -> None:
    old = server.start()
    far = old.client()
    old.retire()
    visitor = ours(socket.create_connection(server.listening["addr"].getsockname()))
    visitor.sendall(REQUEST)
    turn(5)
    assert not old.app._registry.tunnels()[0].streams
    server.start()
    stream, _ = opened(far)
    far.send(far.data(stream, OK))
    assert read_exactly(visitor, len(OK)) == OK, "it has waited for the new one"
    visitor.close()


def test_what_has_been_accepted_before_is_served(server: Server) -> None:
    """A visitor whose head is half there, one who waits, one in his handshake; a tunnel that is being opened."""
    old = server.start()
    far = old.client()
    half = old.visit(REQUEST[:10])
    late = old.connect()
    tunnel = old.connect()
    turn(4)
    new = server.start()
    old.retire()
    again = new.client()
    assert reconnects(far)
    assert drains(far)
    half.sendall(REQUEST[10:])
    assert opened(again)[1] == REQUEST
    far.close()
    gevent.sleep(3 * retirement.LOOK_EVERY_S)
    assert not old.app.over
    opening = old.log_in("secret1", tunnel)
    assert opening.answer["type"] == "ready"
    assert reconnects(opening)
    assert drains(opening), "there are others of its client"
    opening.close()
    gevent.sleep(3 * retirement.LOOK_EVERY_S)
    assert not old.app.over
    late.sendall(REQUEST)
    assert opened(again)[1] == REQUEST
    until(lambda: old.app.over)


def test_visitors_that_siblings_pass_to_one_that_retires(server: Server) -> None:
    """They thought that it had the tunnel: it knows where that is now."""
    old = server.start()
    far = old.client()
    other, new = server.start(), server.start()
    old.retire()
    for channel in other.siblings._channels.values():
        channel._reader.stop()  # it hears late
    again = server.only(new).client()
    assert reconnects(far)
    assert drains(far)
    far.close()
    server.only(other).visit()
    assert opened(again)[1] == REQUEST
    gevent.sleep(3 * retirement.LOOK_EVERY_S)
    assert not old.app.over, "it may be passed more"
    for channel in other.siblings._channels.values():
        channel.start()
    until(lambda: old.app.over)


def test_a_bridge_goes_on(make_server: Callable[..., Server]) -> None:
    server = make_server(route_per_request=True)
    old, new = server.start(), server.start()
    far = server.only(new).client()
    visitor = server.only(old).visit()
    stream, _ = opened(far)
    old.retire()
    gevent.sleep(3 * retirement.LOOK_EVERY_S)
    assert not old.app.over
    far.send(far.data(stream, OK))
    assert read_exactly(visitor, len(OK)) == OK
    assert not old.app.over
    visitor.close()
    until(lambda: far.next()[1] == stream)
    far.send(far.frames.eof(stream))
    until(lambda: old.app.over)


def test_a_page_is_sent_to_its_end(server: Server) -> None:
    old = server.start()
    visitor = old.visit(REQUEST.replace(b"id1", b"nobody"))
    assert visitor.recv(12) == b"HTTP/1.1 404"
    server.start()
    old.retire()
    gevent.sleep(3 * retirement.LOOK_EVERY_S)
    assert not old.app.over
    visitor.close()
    until(lambda: old.app.over)


def test_an_idle_worker_is_over_soon(server: Server) -> None:
    old = server.start()
    assert not old.app.over
    old.retire()
    until(lambda: old.app.over)
    old.retire()
    assert old.app.stop(0) == 0


def test_one_after_the_other(server: Server) -> None:
    """Ten generations, and visitors all the time."""
    worker = server.start()
    far = worker.client()
    for _ in range(10):
        new = server.start()
        worker.retire()
        assert reconnects(far)
        visitor = new.visit()
        stream, _ = opened(far)
        far.send(far.data(stream, OK))
        assert read_exactly(visitor, len(OK)) == OK
        visitor.close()
        before, far = far, new.client()
        assert drains(before)
        before.send(before.frames.eof(stream))
        before.rest()
        before.close()
        until(lambda worker=worker: worker.app.over)  # type: ignore[misc]
        server.end(worker)
        worker = new


def test_ports_pass_over(make_server: Callable[..., Server]) -> None:
    with Port() as port:
        user = replace(USER, tcp_range=(PortRange(port.number, port.number),))
        server = make_server(user=user, timeout=0.8)
        old = server.start()
        far = old.client(ServiceSpec("tcp", None, port.number))
        visitor = old.connect(port=port.number)
        _, stream, _ = far.next_of(OPEN)
        new = server.start()
        old.retire()
        again = new.client(ServiceSpec("tcp", None, port.number))
        assert again.answer["services"] == [{"port": port.number}]
        assert reconnects(far)
        assert drains(far)
        until(lambda: not old.app._ports._ports)
        new.connect(port=port.number)
        again.next_of(OPEN)
        far.send(far.data(stream, b"still"))
        assert read_exactly(visitor, 5) == b"still"


def test_a_visitor_of_a_port_wherever_he_comes_in(make_server: Callable[..., Server]) -> None:
    with Port() as port:
        user = replace(USER, tcp_range=(PortRange(port.number, port.number),))
        server = make_server(user=user)
        one, two = server.start(), server.start()
        service = ServiceSpec("tcp", None, port.number)
        first, second = (server.only(worker).client(service) for worker in (one, two))
        first.send(first.frames.control({"type": "services", "services": []}))
        assert first.next_of(CONTROL)[2]["type"] == "ready"
        for _ in range(5):
            one.connect(port=port.number)
            second.next_of(OPEN)


# the end


def test_streams_that_are_cut_are_counted(server: Server) -> None:
    one, two = server.start(), server.start()
    far = server.only(one).client()
    visitors = [server.only(worker).visit() for worker in (one, two, two)]
    for _ in visitors:
        stream, _ = opened(far)
        far.send(far.data(stream, b"half"))
    for each in visitors:
        assert read_exactly(each, 4) == b"half"
    assert two.app.stop(0) == 0
    assert one.app.stop(0) == 3
    for each in visitors:
        with pytest.raises(ConnectionResetError):
            read_all(each)


def test_bridges_that_are_cut_are_counted(make_server: Callable[..., Server]) -> None:
    server = make_server(route_per_request=True)
    one, two = server.start(), server.start()
    far = server.only(one).client()
    visitor = server.only(two).visit()
    stream, _ = opened(far)
    far.send(far.data(stream, OK[:-1]))
    assert read_exactly(visitor, len(OK) - 1)
    assert two.app.stop(0) == 1
    with pytest.raises(ConnectionResetError):
        read_all(visitor)


def test_a_bridge_is_waited_for(make_server: Callable[..., Server]) -> None:
    server = make_server(route_per_request=True)
    one, two = server.start(), server.start()
    far = server.only(one).client()
    visitor = server.only(two).visit(REQUEST[:-2] + b"Connection: close\r\n\r\n")
    stream, _ = opened(far)
    stopping = gevent.spawn(two.app.stop, 10)
    turn(5)
    assert not stopping.ready()
    far.send(far.data(stream, OK), far.frames.eof(stream))
    assert read_all(visitor) == OK
    visitor.close()
    assert stopping.get(timeout=10) == 0


# reload


class Addresses:
    """Those of a server that is told to listen elsewhere, with descriptors of their own each time."""

    def __init__(self, worker: Worker, server: Server) -> None:
        self.worker = worker
        self.server = server

    def reload(self, **listening: PlainSocket | None) -> None:
        """With these listeners changed; None: without that one."""
        for key, sock in listening.items():
            old = self.server.listening.pop(key, None)
            if old is not None:
                old.close()
            if sock is not None:
                self.server.listening[key] = sock
        there = dict.fromkeys(self.server.listening, HERE)
        options = replace(
            self.server.options,
            addr=there.get("addr"),
            tls_addr=there.get("tlsAddr"),
            sni_addr=there.get("sniAddr"),
            api_addr=there.get("apiAddr"),
        )
        config = ServerConfig(self.server.path, options, self.server.users)
        self.worker.app.reload(config, self.server.given())

    def connect(self, key: str) -> Any:
        self.worker.sockets.append(ours(socket.create_connection(self.server.listening[key].getsockname())))
        return self.worker.sockets[-1]


@pytest.fixture
def addresses(server: Server) -> Addresses:
    return Addresses(server.start(), server)


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_listeners_that_stay(addresses: Addresses) -> None:
    before = fds()
    listener = addresses.worker.app._listeners["addr"]
    for _ in range(5):
        addresses.reload()
    assert addresses.worker.app._listeners["addr"] is listener
    assert fds() == before


def test_listeners_that_come_and_go(addresses: Addresses) -> None:
    app = addresses.worker.app
    far = addresses.worker.client(ServiceSpec("http"), ServiceSpec("tls", "a"))
    old = app._listeners["addr"].address
    addresses.reload(addr=listen(HERE), sniAddr=listen(HERE))
    new = app._listeners["addr"].address
    assert new != old
    visitor = addresses.connect("addr")
    visitor.sendall(REQUEST)
    assert opened(far)[1] == REQUEST, "tunnels stay"
    host, _, port = old.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    addresses.reload(sniAddr=None)
    assert list(app._listeners) == ["addr"]


def test_tls_and_status_come_with_a_reload(addresses: Addresses, tmp_path: Path) -> None:
    addresses.reload(tlsAddr=listen(HERE), apiAddr=listen(HERE))
    app = addresses.worker.app
    assert set(app._listeners) == {"addr", "tlsAddr", "apiAddr"}
    assert app._status is not None
    app._status._check.run()
    asked = addresses.connect("apiAddr")
    asked.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_all(asked).startswith(b"HTTP/1.1 200")
    addresses.reload(apiAddr=None, tlsAddr=None)
    assert set(app._listeners) == {"addr"}
    addresses.reload(apiAddr=listen(HERE))
    app._status._check.run()


def test_a_reload_that_cannot_be(addresses: Addresses) -> None:
    before = fds()
    options = replace(addresses.server.options, tls_addr=HERE, cert_file="/no/such", key_file="/no/such")
    sockets = {**addresses.server.given(), "tlsAddr": listen(HERE)}
    with pytest.raises(GTError, match="/no/such"):
        addresses.worker.app.reload(ServerConfig(None, options, {}), sockets)
    assert fds() == before
    assert addresses.worker.app._users.get("id1"), "as it was"


def test_a_worker_that_retires_listens_no_more(addresses: Addresses) -> None:
    addresses.worker.client()
    addresses.worker.retire()
    before = fds()
    addresses.reload(addr=listen(HERE))
    assert not addresses.worker.app._listeners
    assert fds() == before


# what is so


def test_status(make_server: Callable[..., Server]) -> None:
    with Port() as port:
        user = replace(USER, tcp_range=(PortRange(port.number, port.number),))
        server = make_server(user=user, tls_addr=HERE, sni_addr=HERE, api_addr=HERE)
        one, two = server.start(), server.start()
        server.only(one)
        far = one.client(
            ServiceSpec("http", "a"), ServiceSpec("tls", "b"), ServiceSpec("tcp", None, port.number)
        )
        over_tls = one.client(ServiceSpec("http", "a"), sock=one.connect_tls())
        compat_client(one)
        one.visit(REQUEST.replace(b"id1", b"b"))  # nobody
        visitor = one.visit(REQUEST[:9])
        until(lambda: one.app._router.waiting == 1)
        now = json.loads(json.dumps(one.app.status()))
        assert set(one.app._listeners) == {"addr", "tlsAddr", "sniAddr", "apiAddr"}
        assert [(each["user"], each["protocol"], each["transport"]) for each in now["tunnels"]] == [
            ("id1", 3, "tcp"), ("id1", 3, "tls"), ("id1", 1, "tcp"),
        ]  # fmt: skip
        for each in now["tunnels"]:
            assert each["peer"].startswith("127.0.0.1:")
            assert each["streams"] == 0
            assert each["state"] in ("up", "suspect"), "each new tunnel makes the server ask the others"
            assert each["age_s"] >= 0
        assert now["tunnels"][0]["rtt_ms"] > 0
        assert sorted((each["kind"], each["name"], each["user"]) for each in now["hosts"]) == [
            ("http", "a", "id1"), ("http", "id1", "id1"), ("tcp", str(port.number), "id1"), ("tls", "b", "id1"),
        ]  # fmt: skip
        assert (now["clients"], now["waiting"]) == (1, 1)
        other = two.app.status()
        assert (other["tunnels"], other["hosts"], other["clients"]) == ([], [], 0)
        reset(visitor)
        far.close()
        over_tls.close()


def test_the_status_check_is_nobodys_client(make_server: Callable[..., Server]) -> None:
    server = make_server(api_addr=HERE)
    one = server.start()
    check = one.app._status._check  # type: ignore[union-attr]
    seen: list[Any] = []
    running = gevent.spawn(check.run)
    while not running.ready():
        seen.append(one.app.status())
        gevent.sleep(0.0005)
    running.get()
    assert all(not each["tunnels"] and not each["hosts"] and not each["clients"] for each in seen)
    assert any(each for each in seen)
