"""The client put together, with a real server in the same process: what a visitor asks for is what the service says."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtapp.client.app import ClientApp, _shared_out
from gtapp.config.load import ClientConfig, ServerConfig, Service, User
from gtapp.config.options import ClientOptions, ServerOptions
from gtapp.config.values import URL, Address
from gtapp.errors import ConfigError
from gtapp.observe import metrics
from gtapp.server.app import ServerApp, Shared
from gtapp.server.port_office import PortOffice
from gtapp.server.siblings import Siblings
from tests.support.ports import Port
from tests.support.relay import ours, random_bytes, read_all, read_exactly, sha, until
from tests.unit.server.scene import listening


class Both:
    """A server and a client with one service, which the test plays."""

    def __init__(self, protocol: str) -> None:
        user = User(id="id1", secret="secret1")
        options = ServerOptions(addr=Address("127.0.0.1", 0))
        self.office = PortOffice()
        shared = Shared(listening(options), Siblings(), self.office.opener(0), bytes(32))
        self.server = ServerApp(ServerConfig(None, options, {"id1": user}), shared)
        self.server.start()
        assert self.server.ready.wait(10)
        host, _, port = self.server._listeners["addr"].address.rpartition(":")
        self.address = host, int(port)
        self.port = Port()
        self.listener = ours(self.port.listen())
        asked = ClientOptions(
            id="id1",
            secret="secret1",
            remote=(URL("tcp", host, int(port)),),
            protocol=protocol,
            remote_idle_connections=1,
        )
        service = Service(local=URL("http", *self.port.address), host_prefix="id1")
        self.config = ClientConfig(None, asked, (service,))
        self.clients: list[ClientApp] = []
        self.client = self.another()
        until(lambda: self.server._registry.tunnels())
        self.sockets: list[Any] = []
        self.greenlets: list[gevent.Greenlet[..., None]] = []  # of visitors, if the test has left any

    def another(self) -> ClientApp:
        """A client that takes over: it has its tunnels, or knows why not."""
        client = ClientApp(self.config)
        self.clients.append(client)
        client.start()
        assert client.ready.wait(10)
        return client

    def visit(self, data: bytes = b"", host: str = "id1") -> tuple[Any, Any]:
        request = b"GET / HTTP/1.1\r\nHost: %s.example.com\r\n\r\n" % host.encode() + data
        visitor = ours(socket.create_connection(self.address))
        self.sockets.append(visitor)
        visitor.sendall(request)
        service, _ = self.listener.accept()
        self.sockets.append(service)
        assert read_exactly(service, len(request)) == request
        return visitor, service

    def limit(self, connections: int) -> None:
        """How many tunnels the user may have from now on."""
        user = User(id="id1", secret="secret1", connections=connections)
        sockets = {key: listener._sock for key, listener in self.server._listeners.items()}
        self.server.reload(ServerConfig(None, self.server._options, {"id1": user}), sockets)

    def has_tunnels(self, count: int) -> bool:
        return len(self.server._registry.tunnels()) == count

    def close(self) -> None:
        gevent.killall(self.greenlets)
        for sock in self.sockets:
            sock.close()
        ends = [gevent.spawn(stop, 2) for stop in (*(each.stop for each in self.clients), self.server.stop)]
        gevent.joinall(ends, timeout=10, raise_error=True)
        self.office.close()
        self.listener.close()
        self.port.close()
        until(lambda: self.server._users._keys.known(User(id="id1", secret="secret1")))
        self.server._users._keys._threads.kill()
        for client in self.clients:
            client._dialer._threads.kill()


@pytest.fixture(params=["3", "1"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Both]:
    monkeypatch.setattr(metrics, "_gauges", {})
    made = Both(request.param)
    yield made
    made.close()


def test_a_visitor_and_a_service(both: Both) -> None:
    visitor, service = both.visit()
    up, down = random_bytes(1_000_000, 1), random_bytes(1_000_000, 2)
    for sock, data in ((visitor, up), (service, down)):
        gevent.spawn(sock.sendall, data)
    received = gevent.spawn(read_exactly, service, len(up))
    assert sha(read_exactly(visitor, len(down))) == sha(down)
    assert sha(received.get(timeout=10)) == sha(up)


def test_the_pool_grows_with_its_visitors(both: Both) -> None:
    for number in range(5):
        both.visit()
        until(partial(both.has_tunnels, min(number + 2, 3)))
    assert len(both.client._tunnels()) == 3
    assert sorted(len(tunnel.streams) for tunnel in both.server._registry.tunnels()) == [1, 2, 2]


def test_a_client_that_ends_lets_what_runs_run(both: Both) -> None:
    visitor, service = both.visit()
    stopping = gevent.spawn(both.client.stop, 5)
    until(lambda: all(tunnel.draining for tunnel in both.server._registry.tunnels()))
    service.sendall(b"answer")
    service.close()
    assert read_all(visitor) == b"answer"
    visitor.close()
    stopping.get(timeout=4)
    until(lambda: not both.server._registry.tunnels())


def test_a_tunnel_that_is_cut_comes_back(both: Both) -> None:
    visitor, _ = both.visit()
    for tunnel in both.server._registry.tunnels():
        tunnel.link.sock.shutdown(socket.SHUT_RDWR)
    assert read_all(visitor).startswith(b"HTTP/1.1 502 ")
    until(lambda: both.server._registry.tunnels())
    _, service = both.visit(b"again")
    service.sendall(b"x")


def test_other_services_and_options(both: Both) -> None:
    """What runs goes on; what is new is there, what is gone is not."""
    running, service = both.visit()
    until(partial(both.has_tunnels, 2))
    local = both.config.services[0].local
    services = tuple(Service(local=local, host_prefix=prefix) for prefix in ("b", "c"))
    options = replace(both.config.options, remote_idle_connections=2, secret="not live")
    both.client.reload(ClientConfig(None, options, services))
    until(lambda: all(both.server._registry.find("http", name) for name in ("b", "c")))
    until(lambda: not both.server._registry.find("http", "id1"))
    until(partial(both.has_tunnels, 3))
    both.visit(host="b")
    both.visit(host="c")
    service.sendall(b"answer")
    service.close()
    assert read_all(running) == b"answer"


# a server, or this client, is replaced


class Visitors:
    """They come one after another, several at a time, each with a request of its own, until `stop`."""

    def __init__(self, both: Both, count: int = 4) -> None:
        self.served = 0
        self.failed: list[str] = []
        self._both = both
        self._serving = gevent.spawn(self._serve)
        self._stopped = False
        self._visiting = [gevent.spawn(self._visit, number) for number in range(count)]
        both.greenlets += [self._serving, *self._visiting]

    def _serve(self) -> None:
        while True:
            sock, _ = self._both.listener.accept()
            gevent.spawn(self._answer, sock)

    def _answer(self, sock: Any) -> None:
        with sock:
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                data += sock.recv(65536)
            body = data.split()[1]
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def _visit(self, visitor: int) -> None:
        number = 0
        while not self._stopped:
            number += 1
            path = b"/%d/%d" % (visitor, number)
            try:
                with ours(socket.create_connection(self._both.address)) as sock:
                    sock.sendall(b"GET %s HTTP/1.1\r\nHost: id1.example.com\r\n\r\n" % path)
                    answer = read_all(sock)
            except OSError as error:
                self.failed.append(str(error))
                return
            if answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(path):
                self.served += 1
            else:
                self.failed.append(repr(answer))
                return

    def some(self) -> None:
        """Wait until a few more have been served."""
        wanted = self.served + 20
        until(lambda: self.served >= wanted or self.failed)

    def stop(self) -> None:
        self._stopped = True
        gevent.joinall(self._visiting, timeout=10, raise_error=True)
        self._serving.kill()


def test_a_server_that_is_replaced_ten_times(both: Both) -> None:
    """Each time the old tunnels are called over, and drained when there are new ones: no visitor notices."""
    visitors = Visitors(both)
    for _ in range(10):
        old = both.server._registry.tunnels()
        for tunnel in old:
            tunnel.call_over()
        until(lambda: set(both.server._registry.tunnels()) - set(old))  # noqa: B023
        visitors.some()
        for tunnel in old:
            tunnel.drain()
        visitors.some()
        until(lambda: not set(both.server._registry.tunnels()) & set(old))  # noqa: B023
    visitors.stop()
    assert visitors.failed == []
    assert len(both.client._tunnels()) <= 3


def test_a_client_that_is_replaced(both: Both) -> None:
    """The old process opens nothing more, and is over when the last stream is."""
    running, service = both.visit()
    visitors = Visitors(both)
    new = both.another()
    assert new.problems == []
    visitors.some()
    both.client.retire()
    visitors.some()
    until(lambda: sum(len(tunnel.streams) for tunnel in both.client._tunnels()) == 1)
    assert not both.client.over
    service.sendall(b"answer")
    service.close()
    assert read_all(running) == b"answer"
    running.close()
    until(lambda: both.client.over)
    assert both.client.stop(0) == 0
    visitors.stop()
    assert visitors.failed == []
    assert new.stop(10) == 0


def test_where_there_is_no_room_for_both(both: Both) -> None:
    """The new process says so, the old one goes, and then the new one gets in soon."""
    both.limit(1)
    new = both.another()
    assert new.problems
    assert "end the other client with this id" in new.problems[0]
    both.client.retire()
    until(lambda: not new.problems)
    both.client.stop(0)
    both.visit()
    assert new.stop(0) == 1


def test_what_is_between_two_requests_does_not_hold_up_the_end(both: Both) -> None:
    visitor, service = both.visit()
    service.sendall(b"answer")
    assert read_exactly(visitor, 6) == b"answer"
    stopping = gevent.spawn(both.client.stop, 60)
    assert service.recv(1) == b""
    service.close()
    assert visitor.recv(1) == b""
    visitor.close()
    assert stopping.get(timeout=10) == 0


def test_what_has_been_asked_is_waited_for(both: Both) -> None:
    visitor, service = both.visit()
    other, silent = both.visit()
    stopping = gevent.spawn(both.client.stop, 4)
    gevent.sleep(3)
    service.sendall(b"answer")
    service.close()
    assert read_all(visitor) == b"answer"
    visitor.close()
    assert stopping.get(timeout=10) == 1
    silent.settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        assert silent.recv(1) == b""
    assert read_all(other).startswith(b"HTTP/1.1 502 ")


def test_a_server_that_nobody_reaches() -> None:
    with closing(Port()) as port:
        options = ClientOptions(id="id1", secret="s", remote=(URL("tcp", *port.address),))
        client = ClientApp(ClientConfig(None, options, ()))
        client.start()
        assert client.ready.wait(10)
        assert client.problems == client.status()["problems"]
        assert "cannot connect" in client.problems[0]
        assert client.stop(10) == 0


def test_status(both: Both) -> None:
    both.visit()
    status = json.loads(json.dumps(both.client.status()))
    assert [tunnel["state"] for tunnel in status["tunnels"]] == ["up"] * len(both.client._tunnels())
    assert sum(tunnel["streams"] for tunnel in status["tunnels"]) == 1
    host, port = both.address
    assert {tunnel["remote"] for tunnel in status["tunnels"]} == {f"tcp://{host}:{port}"}
    (service,) = status["services"]
    assert service.pop("last_dial") > 0
    assert service == {
        "local": str(both.config.services[0].local),
        "public": ["id1"],
        "works": True,
        "dials": 1,
        "failed": 0,
        "problem": "",
        "failed_at": 0.0,
    }
    assert status["problems"] == []


def test_both_ends_tell_the_same_of_what_was_relayed(both: Both) -> None:
    visitor, service = both.visit()
    service.sendall(b"answer")
    assert read_exactly(visitor, 6) == b"answer"
    local = str(both.config.services[0].local)
    (here,) = both.client.metrics()["services"]
    (there,) = both.server.metrics()["hosts"]
    assert here.pop("name") == local
    assert (there.pop("name"), there.pop("user")) == ("id1", "id1")
    assert here == there
    assert (here["streams"], here["bytes_out"]) == (1, 6)
    (mine,) = both.client.connections(10, None)["connections"]
    (theirs,) = both.server.connections(10, None)["connections"]
    assert (mine["user"], mine["name"], mine["kind"]) == ("id1", local, "http")
    assert {name: mine[name] for name in ("bytes_in", "bytes_out")} == {
        name: theirs[name] for name in ("bytes_in", "bytes_out")
    }
    assert both.client.connections(10, "id1")["total"] == 1
    assert both.client.connections(10, "another")["total"] == 0


def test_what_was_counted_outlives_a_reload(both: Both) -> None:
    both.visit()
    both.client.reload(ClientConfig(None, both.config.options, both.config.services))
    until(lambda: all(member.services is both.client._pools[0]._services for member in _members(both)))
    both.visit()
    (service,) = both.client.metrics()["services"]
    assert (service["opened"], service["streams"]) == (2, 2)
    (status,) = both.client.status()["services"]
    assert (status["dials"], status["works"]) == (2, True)


def _members(both: Both) -> list[Any]:
    return list(both.client._pools[0]._members.values())


def test_connections_and_tunnels_are_closed(both: Both) -> None:
    visitor, _ = both.visit()
    (found,) = both.client.connections(10, None)["connections"]
    assert both.client.disconnect({"connection": found["id"]}, "cut") == 1
    assert both.client.disconnect({"connection": found["id"]}, "cut") == 0
    assert read_all(visitor).startswith(b"HTTP/1.1 502")
    before = both.client._tunnels()
    (chosen,) = (each for each in both.client.status()["tunnels"] if each["id"] == found["tunnel"])
    assert both.client.disconnect({"tunnel": chosen["id"]}, "it was disconnected") == 1
    until(lambda: both.client._tunnels() and not set(before) <= set(both.client._tunnels()), "another one")
    assert both.client.disconnect({"user": "another"}, "x") == 0
    count = len(both.client._tunnels())
    assert both.client.disconnect({"user": "id1"}, "x") == count
    until(lambda: both.client._tunnels(), "it comes back")
    assert both.client.problems == []


def test_check(both: Both) -> None:
    until(lambda: both.client.check()["ms"], "the round trip is known")
    answer = both.client.check()
    count = len(both.client._tunnels())
    assert (answer["works"], answer["text"]) == (True, f"{count} tunnel{'s' * (count != 1)} up")
    both.client.stop(0)
    assert both.client.check() == {"works": False, "text": "no tunnel: no answer yet", "ms": 0.0}


@pytest.mark.parametrize(
    ("most", "idle", "count", "shares"),
    [
        (3, 1, 1, [(3, 1)]),
        (3, 1, 2, [(2, 1), (1, 1)]),
        (10, 3, 4, [(3, 1), (3, 1), (2, 1), (2, 1)]),
        (1, 1, 3, [(1, 1)] * 3),
    ],
)
def test_workers_share_the_tunnels(most: int, idle: int, count: int, shares: list[tuple[int, int]]) -> None:
    options = ClientOptions(remote_connections=most, remote_idle_connections=idle)
    parts = [_shared_out(options, (index, count)) for index in range(count)]
    assert [(part.remote_connections, part.remote_idle_connections) for part in parts] == shares


def test_a_certificate_file_that_cannot_be_read(tmp_path: Path) -> None:
    options = ClientOptions(
        id="id1", secret="s", remote=(URL("tls", "127.0.0.1", 1),), remote_cert=str(tmp_path / "none.pem")
    )
    with pytest.raises(ConfigError, match=r"none\.pem"):
        ClientApp(ClientConfig(None, options, ()))


def test_pools() -> None:
    """One for each host name, whichever ways lead to it; one that has to ask where no host name is known."""

    def remotes(*urls: URL, api: str = "") -> list[list[URL]]:
        options = ClientOptions(id="id1", secret="s", remote=urls, remote_api=api, protocol="1")
        client = ClientApp(ClientConfig(None, options, ()))
        client.stop(0)
        assert all((pool._find is not None) == bool(api) for pool in client._pools)
        return [pool._remotes for pool in client._pools]

    one, two = URL("tcp", "a.example", 1), URL("tls", "a.example", 2)
    other = URL("tcp", "b.example", 1)
    assert remotes(one, other, two) == [[one, two], [other]]
    assert remotes(one, other, api="http://api.example/") == [[one], [other]]
    assert remotes(api="http://api.example/") == [[]]
