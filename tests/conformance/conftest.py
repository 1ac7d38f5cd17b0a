"""What the suite runs over: two tunnels connected by TCP or TLS, with a pump for each stream at both ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gtapp.relay.clock import Clock
from gtapp.relay.link import Link
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.sockets import Socket, take_over
from gtapp.relay.stream import Stream
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import compat, frames
from tests.support.certificates import make_pair
from tests.support.encrypted import Contexts, both_ends, encrypted_pair
from tests.support.relay import no_leaks, tcp_pair, turn, until

__all__ = ["no_leaks"]

NEVER = Idle(1_000_000)


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"), make_pair())


class Way:
    """Visitors at a server, a tunnel, a client, and services: `visit` gives both outer ends of a new connection.

    `link_buffer_bytes` and `local_buffer_bytes` are of the kernel's buffers, which make the way long. `over`: "tcp",
    "tls" for a link that is encrypted, "https" for visitors who are.
    """

    def __init__(
        self,
        version: int,
        link_buffer_bytes: int = 0,
        local_buffer_bytes: int = 0,
        *,
        over: str,
        contexts: Contexts,
    ) -> None:
        self.version = version
        self.local_buffer_bytes = local_buffer_bytes
        self._over = over
        self._contexts = contexts
        links = self._link_pair(link_buffer_bytes)
        wires: tuple[Any, Any]
        if version == 3:
            wires = frames.Frames(), frames.Frames()
        else:
            wires = compat.CompatFrames(server=True), compat.CompatFrames(server=False)
        self.server = Tunnel(links[0], wires[0], 60, is_server=True)
        self.client = Tunnel(links[1], wires[1], 60, is_server=False)
        self.client.on_open = self._opened
        self.ended: list[str] = []
        for tunnel, name in ((self.server, "server"), (self.client, "client")):
            self._watch(tunnel, name)
        self._services: list[Any] = []
        self._outer: list[Any] = []
        self.opened: list[frames.Open] = []
        self.visitor_pumps: list[Pump] = []
        self.service_pumps: list[Pump] = []

    def _link_pair(self, buffer_bytes: int) -> tuple[Link, Link]:
        near, far = tcp_pair(buffer_bytes)
        ends: tuple[Socket, Socket]
        ends = both_ends(near, far, self._contexts) if self._over == "tls" else (near, take_over(far))
        return Link(ends[0], "client"), Link(ends[1], "server")

    def _watch(self, tunnel: Tunnel, name: str) -> None:
        tunnel.on_closed = lambda reason: self.ended.append(name)
        tunnel.on_control = lambda message: tunnel.drained_by_peer()

    def up(self) -> Way:
        for tunnel in (self.server, self.client):
            tunnel.start()
            tunnel.opened()
        until(lambda: self.client.rtt and (self.server.rtt or self.version == 1))
        return self

    def _opened(self, stream: Stream, opened: frames.Open) -> None:
        self.opened.append(opened)
        sock, outer = tcp_pair(self.local_buffer_bytes)
        pump = Pump(stream, NEVER)
        pump.attach(sock)
        self.service_pumps.append(pump)
        self._services.append(outer)
        self._outer.append(outer)

    def visit(self, data: bytes = b"", service: int = 0) -> tuple[Any, Any]:
        """A visitor comes, of whom `data` has been read: his socket, and the service's."""
        sock: Socket
        if self._over == "https":
            sock, visitor = encrypted_pair(self._contexts, self.local_buffer_bytes)
        else:
            sock, visitor = tcp_pair(self.local_buffer_bytes)
        self._outer.append(visitor)
        pump = Pump(self.server.open(service, "192.0.2.1:5", data), NEVER)
        pump.attach(sock)
        self.visitor_pumps.append(pump)
        until(lambda: self._services, "a stream at the client")
        return visitor, self._services.pop(0)

    def clock(self) -> Clock:
        """A clock for tunnels, not started: for its `wait`."""
        clock = Clock([60])
        clock.add(self.server)
        clock.add(self.client)
        return clock

    def streams(self) -> int:
        return len(self.server.streams) + len(self.client.streams)

    def close(self) -> None:
        for tunnel in (self.server, self.client):
            tunnel.abort("the test is over")
            tunnel.link.abort()
        for sock in self._outer:
            sock.close()
        turn(5)
        for pump in (*self.visitor_pumps, *self.service_pumps):
            if pump.sock.fileno() >= 0:
                pump.deliver_reset(frames.CANCELLED)


@pytest.fixture(params=["tcp", "tls", "https"])
def ways(request: pytest.FixtureRequest, contexts: Contexts) -> Iterator[Callable[..., Way]]:
    """ways(version, ...) makes a `Way`, which is closed after the test."""
    made: list[Way] = []

    def make(*args: Any, **kwargs: Any) -> Way:
        made.append(Way(*args, **kwargs, over=request.param, contexts=contexts))
        return made[-1]

    yield make
    for way in made:
        way.close()


@pytest.fixture(params=[3, 1], ids=["protocol-3", "protocol-1"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def way(ways: Callable[..., Way], version: int) -> Way:
    return ways(version).up()
