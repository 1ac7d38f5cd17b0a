"""HTTPS with two workers and one tunnel: by the name in the hello, and where only the request says where it goes."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
from typing import Any

import pytest

from tests.support.certificates import make_pair
from tests.support.http import Ended, Visitor
from tests.support.nginx import Nginx
from tests.support.services import Connection
from tests.support.workers import accepted_without_tunnel, having_tunnel
from tests.support.world import World

HOST = "site.example.com"
VISITORS = 6
BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
NAMES = pytest.mark.parametrize("name", [HOST, None], ids=["name", "no-name"])


class Site:
    """Two workers, and a client with one tunnel."""

    def __init__(self, world: World, local: str, protocol: str, *flags: str) -> None:
        self.world = world
        self.pair = make_pair([HOST])
        cert, key = self.pair.write(world.directory)
        self.port, secret = world.port(), world.secret()
        words = ("--tlsAddr", str(self.port), "--certFile", str(cert), "--keyFile", str(key), *flags)
        self.server = world.server("--workers", "2", *words, users={"site": secret})
        world.client(self.server, "site", secret, "--remoteConnections", "1", local=local, protocol=protocol)

    def visit(self, name: str | None) -> Visitor:
        """A visitor who comes to the worker without the tunnel."""
        context = ssl.create_default_context(cadata=self.pair.pem.decode())
        if name is None:
            context.check_hostname = False
        with accepted_without_tunnel(self.server.process, self.port.address):
            visitor: Visitor = self.world.visitor(self.port.address)
        visitor.socket = context.wrap_socket(visitor.socket, server_hostname=name, suppress_ragged_eofs=False)
        return visitor

    def passed(self) -> int:
        return int(self.server.process.stats()["visitors_passed"])


@BOTH
@NAMES
@pytest.mark.parametrize("flags", [(), ("--routePerRequest",)], ids=["", "per-request"])
def test_pages(world: World, nginx: Nginx, protocol: str, name: str | None, flags: tuple[str, ...]) -> None:
    site = Site(world, nginx.url, protocol, *flags)
    for _ in range(VISITORS):
        visitor = site.visit(name)
        for _ in range(2):
            visitor.request(HOST)
            response = visitor.response()
            assert (response.status, response.end) == (200, "length")
        visitor.close()
    assert site.passed() == VISITORS
    site.server.process.settle(streams=0)


@BOTH
def test_large_files(world: World, nginx: Nginx, protocol: str) -> None:
    digest = nginx.file("big-bridge", 5_000_000)
    site = Site(world, nginx.url, protocol)
    for number in range(VISITORS):
        visitor = site.visit(None)
        visitor.request(HOST, "/big-bridge")
        assert visitor.response().sha256 == digest
        name = f"upload/bridge-{protocol}-{number}"
        body = os.urandom(1_000_000)
        visitor.request(HOST, f"/{name}", method="PUT", body=body)
        assert visitor.response().status == 201
        assert nginx.sha256(name) == hashlib.sha256(body).hexdigest()
        visitor.close()
    assert site.passed() == VISITORS


@pytest.mark.parametrize("killed", ["with the tunnel", "with the visitor"])
def test_a_killed_worker_makes_no_whole_answer(world: World, killed: str) -> None:
    """The end of its process closes its sockets: what it had begun to pass on must not look complete."""

    def endless(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000)
        waits.append(connection)
        connection.socket.recv(1)

    waits: list[Any] = []
    site = Site(world, world.service(endless).url, "3")
    world.allow(".*")
    visitor = site.visit(None)
    visitor.request(HOST)
    assert visitor.until(b"x" * 1000)
    having_tunnel(site.server.process, killed == "with the tunnel").send_signal(signal.SIGKILL)
    assert how_it_ends(visitor) == "reset"


def how_it_ends(visitor: Visitor) -> str:
    try:
        while True:
            visitor.receive()
    except ssl.SSLEOFError:  # no close_notify: anybody could have ended it
        return "reset"
    except Ended as error:
        return str(error)
