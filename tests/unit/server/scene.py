"""A router with a client's tunnel behind it, for the tests of everything that a visitor passes on its way."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable
from typing import Any

import gevent.ssl
import pytest

from gtapp.config.load import User
from gtapp.config.options import ServerOptions
from gtapp.observe import metrics
from gtapp.observe.logs import Limited
from gtapp.relay.channel import Channel, pair
from gtapp.relay.pump import Idle
from gtapp.relay.sockets import PlainSocket, Socket, show_address
from gtapp.relay.tls import Handshakes
from gtapp.server import arrivals, handover, pages, router
from gtapp.server.listeners import listen
from gtapp.server.registry import Kind, Registry
from gtapp.server.router import Router
from gtapp.server.siblings import Siblings
from gtapp.server.users import Users
from tests.support.relay import Made, read_all, tcp_pair, turn, until

MakeTunnel = Callable[..., Made]

REQUEST = b"GET /page HTTP/1.1\r\nHost: a.example.com\r\n\r\n"
SERVICES: list[tuple[Kind, str, int]] = [("http", "a", 7), ("tls", "a", 8), ("tcp", "2222", 9)]


class Scene:
    """User id1 publishes SERVICES over the tunnel `made`; `visit` gives a visitor's socket.

    `user` are the limits of id1, the rest are options of the server.
    """

    def __init__(
        self,
        make_tunnel: MakeTunnel,
        user: dict[str, Any] | None = None,
        siblings: Siblings | None = None,
        **options: Any,
    ) -> None:
        self._make_tunnel = make_tunnel
        self.options = ServerOptions(**options)
        self.siblings = siblings or Siblings()
        self.registry = Registry(self.siblings)
        self.users = Users({"id1": User(id="id1", secret="secret1", **(user or {}))}, self.options)
        self.admitted: list[tuple[Socket, str, bytes]] = []
        self.handshakes = Handshakes()
        self.router = Router(
            self.options, Idle(8), self.registry, self.users, self.handshakes,
            lambda *args: self.admitted.append(args), self.siblings,
        )  # fmt: skip
        self.certificate: Any = None
        self.visitors: list[Any] = []
        self.made: Made
        if siblings is None:
            self.made = self.tunnel_comes()

    def new_tunnel(self, version: int = 3) -> Made:
        """One that publishes nothing yet."""
        return self._make_tunnel(version).up()

    def tunnel_comes(self, version: int = 3) -> Made:
        made = self.new_tunnel(version)
        self.registry.publish(made.tunnel, "id1", SERVICES)
        made.tunnel.on_closed = lambda reason: self.registry.withdraw(made.tunnel, "id1")
        return made

    def away(self) -> None:
        self.made.tunnel.abort("gone")

    def visit(self, data: bytes = b"", to: str = "http", peer: str = "") -> Any:
        """A connection to that listener, from its real address unless the test says another."""
        sock, visitor = tcp_pair()
        self.visitors.append(visitor)
        if data:
            visitor.sendall(data)
        self._accept(to)(sock, peer or show_address(visitor.getsockname()))
        return visitor

    def visit_tls(
        self, data: bytes = b"", to: str = "tls", name: str = "a.example.com", first: bytes = b""
    ) -> Any:
        """A visitor in TLS, who has sent `first` before it; returns when the handshake is done."""
        visitor = self.visit(first, to)
        context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        encrypted = context.wrap_socket(visitor, server_hostname=name, do_handshake_on_connect=False)
        self.visitors.append(encrypted)
        encrypted.do_handshake()
        if data:
            encrypted.sendall(data)
        return encrypted

    def _accept(self, to: str) -> Callable[[PlainSocket, str], None]:
        if to == "tls":
            return self.router.accept_tls(self.certificate)
        if to == "port":
            return lambda sock, peer: self.router.accept_port(2222, sock, peer)
        return {"http": self.router.accept_http, "sni": self.router.accept_sni}[to]

    def close(self) -> None:
        self.router.stop()
        for visitor in self.visitors:
            visitor.close()
        for tunnel in self.registry.tunnels():
            tunnel.abort("the test is over")
        for sock, _, _ in self.admitted:
            sock.close()
        self.users.stop()
        turn(5)  # farewells end with their visitors


def introduce(one: Siblings, other: Siblings) -> None:
    """What the master does when there is a new worker."""
    ours, theirs = pair()
    one.add(other.number, Channel(ours))
    other.add(one.number, Channel(theirs))


def siblings(count: int) -> list[Siblings]:
    """So many that know each other, with the numbers 1, 2, 3, …; nobody has started."""
    made = [Siblings(number) for number in range(1, count + 1)]
    for one, other in itertools.combinations(made, 2):
        introduce(one, other)
    return made


def listening(options: ServerOptions) -> dict[str, PlainSocket]:
    """The sockets that the master of a worker with these options gives it."""
    wanted = {
        "addr": options.addr,
        "tlsAddr": options.tls_addr,
        "sniAddr": options.sni_addr,
        "apiAddr": options.api_addr,
    }
    return {key: listen(address) for key, address in wanted.items() if address is not None}


def fresh_counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    """Those that everything here counts with, at zero, and no lines of the log left out yet."""
    fresh = metrics.Counters()
    for module in (router, arrivals, handover, pages):
        monkeypatch.setattr(module, "counters", fresh)
    monkeypatch.setattr(arrivals, "strangers", Limited("gt.server"))
    return fresh


def status(visitor: Any) -> int:
    """The status of the page that the visitor reads, to its end."""
    page = read_all(visitor)
    assert page.startswith(b"HTTP/1.1 "), page
    return int(page[9:12])


def is_closed(visitor: Any) -> bool:
    """Whether the visitor has been closed without a word, with or without bytes that nobody had read."""
    try:
        return read_all(visitor) == b""
    except ConnectionResetError:
        return True


def is_reset(visitor: Any) -> bool:
    try:
        read_all(visitor)
    except ConnectionResetError:
        return True
    return False


def client_hello(name: str | None) -> bytes:
    """The first bytes of a TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def received(sock: Socket) -> bytes:
    """What the other end of an admitted connection has sent and nobody has read; waits for something."""
    buffer = memoryview(bytearray(65536))

    def read() -> int | None:
        try:
            return sock.recv_into(buffer)
        except BlockingIOError:
            return None

    count = until(read)
    return bytes(buffer[:count])
