"""From an accepted connection to a tunnel: finds the endpoint that its first bytes ask for, and opens the stream."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gtapp.config.options import ServerOptions
from gtapp.config.values import ip_of
from gtapp.observe.accounts import Accounts
from gtapp.observe.metrics import counters
from gtapp.relay.pump import Idle
from gtapp.relay.sockets import PlainSocket, Socket
from gtapp.relay.tls import Handshakes
from gtapp.server.arrivals import (
    VISITORS,
    HelloArrival,
    HTTPArrival,
    Next,
    PortArrival,
    ProxyArrival,
    SNIArrival,
    TLSArrival,
    Visitor,
)
from gtapp.server.handover import HELLO, Handover, Passed
from gtapp.server.registry import Endpoint, Kind, Registry
from gtapp.server.request_router import split
from gtapp.server.siblings import Siblings
from gtapp.server.users import Users
from gtapp.server.visitor_pumps import visitor_pump
from gtapp.wire import frames

if TYPE_CHECKING:
    from gtapp.server.certificates import Certificate

MAX_HOPS = 3  # from one worker to another; then a visitor stays where he is
FIRST_BYTES_S = 10.0  # for a TLS handshake, a visitor's first request head, a client's first two bytes


class Closable(Protocol):
    """What the router keeps an eye on."""

    def close(self) -> None: ...


class Router:
    """Takes accepted connections. `admit(sock, peer, data)` gets tunnels; `data` is what was read of them."""

    def __init__(
        self,
        options: ServerOptions,
        idle: Idle,
        registry: Registry,
        users: Users,
        handshakes: Handshakes,
        admit: Callable[[Socket, str, bytes], None],
        siblings: Siblings | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self.registry = registry
        self.handshakes = handshakes
        self.admit = admit
        self.away: set[Closable] = set()  # they wait for a client that has just gone
        self.splits: set[Closable] = set()  # `routePerRequest`: their requests go their ways one by one
        self.over = False
        self._users = users
        self._accounts = accounts or Accounts()
        self._arrivals: dict[Closable, float] = {}  # oldest first; value: when to give up
        self._certificate: Certificate | None = None
        self._siblings = siblings or Siblings()
        self.handover = Handover(
            self._siblings, self.receive, self._arrivals.__contains__, lambda: self.idle_s
        )
        self._now = 0.0  # seconds, in ticks
        self.set_options(options, idle)

    def set_options(self, options: ServerOptions, idle: Idle) -> None:
        """From now on these are in force; `idle` goes for connections that are still to come."""
        self._idle = idle
        self.idle_s = options.timeout
        self.mux_header = options.http_mux_header
        self._by_host = self.mux_header.lower() == "host"
        self.per_request = options.route_per_request
        self._trusted = options.trusted_proxies

    # where connections come in

    def accept_http(self, sock: PlainSocket, peer: str) -> None:
        """`addr`: visitors and tunnels."""
        self._behind_proxy(sock, peer, self._http)

    def accept_tls(self, certificate: "Certificate") -> Callable[[PlainSocket, str], None]:
        """`tlsAddr`: the same over TLS with this certificate."""
        self._certificate = certificate

        def begin(sock: Socket, peer: str, first: bytes) -> None:
            assert isinstance(sock, PlainSocket)
            if self._siblings.numbers and self._by_host:
                HelloArrival(self, sock, peer, first).start()
            else:
                TLSArrival(self, sock, peer, self._https).start(certificate.context, first)

        return lambda sock, peer: self._behind_proxy(sock, peer, begin)

    def accept_sni(self, sock: PlainSocket, peer: str) -> None:
        """`sniAddr`: TLS that is passed through."""
        self._behind_proxy(sock, peer, self._sni)

    def accept_port(self, port: int, sock: PlainSocket, peer: str) -> None:
        """A TCP port that a client has opened."""

        def arrive(sock: Socket, peer: str, data: bytes) -> None:
            PortArrival(self, sock, peer, data, str(port)).start()

        self._behind_proxy(sock, peer, arrive)

    def _behind_proxy(self, sock: Socket, peer: str, next_: Next) -> None:
        if self._trusted and self._is_trusted(peer):
            ProxyArrival(self, sock, peer, next_).start()
        else:
            next_(sock, peer, b"")

    def _is_trusted(self, peer: str) -> bool:
        address = ip_of(peer)
        return address is not None and any(address in network for network in self._trusted)

    def _http(self, sock: Socket, peer: str, data: bytes) -> None:
        HTTPArrival(self, sock, peer, data).start()

    def _https(self, sock: Socket, peer: str, data: bytes) -> None:
        HTTPArrival(self, sock, peer, data, flags=frames.OVER_TLS).start()

    def _sni(self, sock: Socket, peer: str, data: bytes) -> None:
        SNIArrival(self, sock, peer, data).start()

    # where siblings pass them on

    def receive(self, sock: PlainSocket, passed: Passed, data: bytes) -> None:
        """A visitor whom a worker has passed, after `data`: go on as if he had come in here."""
        if self.over:
            sock.close()
        elif passed.kind == HELLO:
            self._secure(sock, passed.peer, data, passed.hops)
        else:
            kind: Kind = passed.kind  # type: ignore[assignment]  # from JSON
            visitor = VISITORS[kind](self, sock, passed.peer, data, passed.name, passed.flags)
            visitor.hops = passed.hops
            visitor.go_on()

    def shake_hands(self, sock: PlainSocket, peer: str, data: bytes, server_name: str | None) -> None:
        """Begin TLS with the visitor whose ClientHello is in `data`, or let the sibling do that that has his tunnel."""
        endpoint = self.registry.find("http", self.name_of(server_name)) if server_name else None
        if endpoint is not None and endpoint.siblings:
            choice = endpoint.choose()
            if (choice is None or choice[0].suspect) and self.handover.passes_hello(
                sock, peer, data, endpoint
            ):
                return
        self._secure(sock, peer, data, 0)

    def _secure(self, sock: PlainSocket, peer: str, data: bytes, hops: int) -> None:
        if self._certificate is None:  # `tlsAddr` has just been given up
            sock.close()
            return

        def arrive(sock: Socket, peer: str, data: bytes) -> None:
            arrival = HTTPArrival(self, sock, peer, data, flags=frames.OVER_TLS)
            arrival.hops = hops
            arrival.start()

        TLSArrival(self, sock, peer, arrive).start(self._certificate.context, data)

    # what arrivals ask

    def name_of(self, host: str) -> str:
        """The host prefix in the value of the mux header: of Host the first label, of any other all of it."""
        return host.partition(".")[0] if self._by_host else host

    def may_come(self, endpoint: Endpoint, peer: str) -> bool:
        """Whether its user lets visitors from this address in."""
        user = self._users.get(endpoint.user_id)
        return user is None or not (user.allow_ips or user.deny_ips) or user.lets_in(peer)

    def connect(self, visitor: Visitor, endpoint: Endpoint) -> bool:
        """Open a stream for him and pump, or pass him to a sibling; False when the endpoint's client is away."""
        choice = endpoint.choose()
        if (
            endpoint.siblings
            and (choice is None or choice[0].suspect)
            and visitor.hops < MAX_HOPS
            and self.handover.passes(visitor, endpoint)
        ):
            return True
        if choice is None:
            return False
        tunnel, service = choice
        counters.streams_opened += 1
        stream = tunnel.open(service, visitor.peer, visitor.data, visitor.flags)
        stream.charge(self._accounts.find(endpoint.kind, endpoint.name, endpoint.user_id))
        pump = visitor_pump(visitor.kind, stream, self._idle, self._users.shaper(endpoint.user_id))
        pump.attach(visitor.let_go())
        return True

    def split(self, arrival: HTTPArrival) -> None:
        """`routePerRequest`: each request of this connection has its own way."""
        split(self, arrival.let_go(), arrival.peer, arrival.data, arrival.flags)

    def expect(self, arrival: Closable) -> None:
        """It closes unless it is forgotten within FIRST_BYTES_S."""
        self._arrivals[arrival] = self._now + FIRST_BYTES_S

    def forget(self, arrival: Closable) -> None:
        self._arrivals.pop(arrival, None)
        self.away.discard(arrival)

    # time

    @property
    def has_visitors(self) -> bool:
        """Whether there are any who are no stream of a tunnel here."""
        return bool(self._arrivals or self.away or self.splits or self.handover.splices)

    @property
    def waiting(self) -> int:
        """Connections that have not been routed yet."""
        return len(self._arrivals) + len(self.away)

    def tick(self, period: float) -> None:
        self._now += period
        while self._arrivals:
            arrival, deadline = next(iter(self._arrivals.items()))
            if deadline > self._now:
                break
            counters.visitors_head_timeout += 1
            arrival.close()

    def stop(self) -> None:
        """Close whoever has not been routed yet."""
        self.over = True
        self.handover.stop()
        for arrival in [*self._arrivals, *self.away]:
            arrival.close()
