"""The client put together, with a real server in the same process: what a visitor asks for is what the service says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtapp.client.app import ClientApp
from gtapp.config.load import ClientConfig, ServerConfig, Service, User
from gtapp.config.options import ClientOptions, ServerOptions
from gtapp.config.values import URL, Address
from gtapp.errors import ConfigError
from gtapp.observe import metrics
from gtapp.server.app import ServerApp
from tests.support.ports import Port
from tests.support.relay import ours, random_bytes, read_all, read_exactly, sha, until


class Both:
    """A server and a client with one service, which the test plays."""

    def __init__(self, protocol: str) -> None:
        user = User(id="id1", secret="secret1")
        self.server = ServerApp(
            ServerConfig(None, ServerOptions(addr=Address("127.0.0.1", 0)), {"id1": user})
        )
        self.server.start()
        host, _, port = self.server._listeners[0].address.rpartition(":")
        self.address = host, int(port)
        self.port = Port()
        self.listener = ours(self.port.listen())
        options = ClientOptions(
            id="id1",
            secret="secret1",
            remote=(URL("tcp", host, int(port)),),
            protocol=protocol,
            remote_idle_connections=1,
        )
        service = Service(local=URL("http", *self.port.address), host_prefix="id1")
        self.config = ClientConfig(None, options, (service,))
        self.client = ClientApp(self.config)
        self.client.start()
        until(lambda: self.server._registry.tunnels())
        self.sockets: list[Any] = []

    def visit(self, data: bytes = b"", host: str = "id1") -> tuple[Any, Any]:
        request = b"GET / HTTP/1.1\r\nHost: %s.example.com\r\n\r\n" % host.encode() + data
        visitor = ours(socket.create_connection(self.address))
        self.sockets.append(visitor)
        visitor.sendall(request)
        service, _ = self.listener.accept()
        self.sockets.append(service)
        assert read_exactly(service, len(request)) == request
        return visitor, service

    def has_tunnels(self, count: int) -> bool:
        return len(self.server._registry.tunnels()) == count

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        ends = [gevent.spawn(self.client.stop, 2), gevent.spawn(self.server.stop, 2)]
        gevent.joinall(ends, timeout=10, raise_error=True)
        self.listener.close()
        self.port.close()
        until(lambda: len(self.server._users._verifiers) == 1)
        self.server._users._threads.kill()
        for pool in self.client._pools:
            pool._dialer._threads.kill()


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
