"""Connections that have just come in: their first bytes tell what they are and where they go. Made by the router."""

import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import get_hub

from gtapp.errors import WireError
from gtapp.observe.logs import Limited
from gtapp.observe.metrics import counters
from gtapp.relay.sockets import EV_READ, PlainSocket, Socket, Watcher, reset_on_close
from gtapp.relay.tls import Handshake, ServerContext, TLSSocket
from gtapp.server.pages import Farewell, refuse
from gtapp.server.registry import Kind
from gtapp.wire import client_hello, frames, http_head, proxy_header

if TYPE_CHECKING:
    from gtapp.server.router import Router

log = logging.getLogger("gt.server")
strangers = Limited("gt.server")  # for lines that anybody can cause

READ_BYTES = max(http_head.LIMIT_BYTES, client_hello.LIMIT_BYTES)
AWAY_S = 3.0  # how long a visitor waits for a client that has just gone

Next = Callable[[Socket, str, bytes], None]
"""What comes after the first layer of a connection: gets socket, address and the bytes already read."""

_read_buffer = memoryview(bytearray(READ_BYTES))  # used up before a callback returns


class Arrival:
    """A connection whose first bytes are being read; `data` is what was read so far.

    The router closes it when it takes too long. Subclasses look at the bytes, and know how to say no.
    """

    __slots__ = ("_reader", "data", "peer", "router", "sock")

    def __init__(self, router: "Router", sock: Socket, peer: str, data: bytes = b"") -> None:
        self.router = router
        self.sock = sock
        self.peer = peer
        self.data = data
        self._reader: Watcher | None = None

    def start(self) -> None:
        """Look at what there is already, then read on."""
        self.router.expect(self)
        if not self.data or not self._guarded(self._look, 0):
            self._readable()

    def _look(self, known: int) -> bool:
        """Whether the bytes were enough to let this connection go; those before `known` have been looked at."""
        raise NotImplementedError

    def _readable(self) -> None:
        self._guarded(self._read)

    def _guarded(self, step: Callable[..., bool], *args: Any) -> bool:
        try:
            return step(*args)
        except (BlockingIOError, InterruptedError):
            if self._reader is None:
                self._reader = self.sock.watch(EV_READ)
                self._reader.start(self._readable)
        except OSError:
            self.close()
        except Exception:
            strangers.exception("unexpected error with the first bytes of %s", self.peer)
            self.close()
        return True

    def _read(self) -> bool:
        while True:
            count = self.sock.recv_into(_read_buffer)
            if not count:
                self.close()
                return True
            known = len(self.data)
            self.data += _read_buffer[:count]
            if self._look(known):
                return True

    def let_go(self) -> Socket:
        """Somebody else takes the socket."""
        if self._reader is not None:
            self._reader.stop()
        self.router.forget(self)
        return self.sock

    def close(self) -> None:
        self.let_go().close()


class Visitor(Arrival):
    """An arrival that wants to an endpoint, and may have to wait for it."""

    __slots__ = ("_timer", "flags", "hops", "name")

    kind: Kind

    def __init__(
        self, router: "Router", sock: Socket, peer: str, data: bytes = b"", name: str = "", flags: int = 0
    ) -> None:
        super().__init__(router, sock, peer, data)
        self.flags = flags  # of OPEN
        self.name = name
        self.hops = 0  # how often a worker has passed it to another
        self._timer: Any = None

    def refuse(self, status: int, text: str) -> None:
        """Close the connection and say why, as far as its protocol has words for that."""
        raise NotImplementedError

    def route(self, name: str) -> None:
        """Go to the endpoint of this name."""
        self.name = name
        endpoint = self.router.registry.find(self.kind, name)
        if endpoint is None:
            self.refuse(404, "Nobody publishes a service under this host name here.")
        elif not self.router.may_come(endpoint, self.peer):
            self.refuse(403, "This address may not use the service.")
        elif not self.router.connect(self, endpoint):
            self._wait(endpoint.waiting)

    def go_on(self) -> None:
        """Go there, from a callback."""
        try:
            self.route(self.name)
        except Exception:
            log.exception("unexpected error while routing %s", self.peer)
            self.close()

    def hold(self) -> None:
        """Read nothing more: it is on its way."""
        if self._reader is not None:
            self._reader.stop()
        self.router.forget(self)
        self.router.expect(self)

    def _wait(self, waiting: dict[Callable[[], None], None]) -> None:
        """The client has just gone: give it a moment to come back."""
        if self._reader is not None:
            self._reader.stop()
        self.router.forget(self)
        self.router.away.add(self)
        self._timer = get_hub().loop.timer(AWAY_S)
        self._timer.start(self._give_up)
        waiting[self._wake] = None

    def _wake(self) -> None:
        get_hub().loop.run_callback(self._try_again)  # after the client has been told that it is accepted

    def _try_again(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
            self.go_on()

    def _give_up(self) -> None:
        self._timer = None
        endpoint = self.router.registry.find(self.kind, self.name)
        if endpoint is not None:
            endpoint.waiting.pop(self._wake, None)
        self.refuse(503, "The client that publishes this service is not connected at the moment.")

    def let_go(self) -> Socket:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        return super().let_go()


class HTTPArrival(Visitor):
    """A visitor's request, in the clear or out of TLS; or a tunnel."""

    __slots__ = ()

    kind = "http"

    def _look(self, known: int) -> bool:
        router, data = self.router, self.data
        if data[0] == frames.MAGIC:
            if len(data) >= 2:
                router.admit(self.let_go(), self.peer, data)
                return True
            return False
        if router.per_request:
            router.split(self)
            return True
        if not http_head.is_worth_a_look(data, known):
            return False
        try:
            head = http_head.parse(data, router.mux_header)
        except http_head.BadHead as error:
            self.refuse(error.status, f"{error}.")
            return True
        except http_head.NotHTTP:
            counters.visitors_not_http += 1
            self.close()
            return True
        if head is None:
            return False
        counters.visitors_accepted += 1
        self.route(router.name_of(head.host))
        return True

    def refuse(self, status: int, text: str) -> None:
        refuse(self.let_go(), status, text)


class SNIArrival(Visitor):
    """A visitor whose TLS is passed through: the name is in its ClientHello."""

    __slots__ = ("_hello",)

    kind = "tls"

    def __init__(
        self, router: "Router", sock: Socket, peer: str, data: bytes = b"", name: str = "", flags: int = 0
    ) -> None:
        super().__init__(router, sock, peer, data, name, flags)
        self._hello = client_hello.HelloReader()

    def _look(self, known: int) -> bool:
        try:
            hello = self._hello.read(self.data)
        except client_hello.BadHello:
            self._alert(client_hello.ALERT_DECODE_ERROR)
            return True
        except client_hello.NotTLS:
            counters.visitors_not_tls += 1
            self.close()
            return True
        if hello is None:
            return False
        counters.visitors_accepted += 1
        if hello.server_name is None:
            self.refuse(404, "")
        else:
            self.route(hello.server_name.partition(".")[0])
        return True

    def refuse(self, status: int, text: str) -> None:
        self._alert(client_hello.ALERT_UNRECOGNIZED_NAME)

    def _alert(self, alert: bytes) -> None:
        counters.visitors_refused_alert += 1
        Farewell(self.let_go(), alert)


class PortArrival(Visitor):
    """A visitor of a TCP port, who need not say a word before the service does."""

    __slots__ = ()

    kind = "tcp"

    def start(self) -> None:
        self._guarded(self._look, 0)

    def _look(self, known: int) -> bool:
        counters.visitors_accepted += 1
        self.route(self.name)
        return True

    def refuse(self, status: int, text: str) -> None:
        counters.visitors_refused_reset += 1
        reset_on_close(self.sock)
        self.close()


class ProxyArrival(Arrival):
    """A connection from a load balancer: the PROXY header that must come first says who is behind it."""

    __slots__ = ("_next",)

    def __init__(self, router: "Router", sock: Socket, peer: str, next_: Next) -> None:
        super().__init__(router, sock, peer)
        self._next = next_

    def _look(self, known: int) -> bool:
        try:
            header = proxy_header.parse(self.data)
        except WireError as error:
            strangers.warning("%s is one of trustedProxies and sends no PROXY header: %s", self.peer, error)
            self.close()
            return True
        if header is None:
            return False
        self._next(self.let_go(), header.visitor or self.peer, self.data[header.size :])
        return True


VISITORS: dict[Kind, type[Visitor]] = {"http": HTTPArrival, "tls": SNIArrival, "tcp": PortArrival}


class HelloArrival(Arrival):
    """A connection that begins TLS, while there are siblings: its ClientHello is read before the handshake, which is
    best done where the tunnel is. What is no good hello is OpenSSL's to answer."""

    __slots__ = ("_hello",)

    def __init__(self, router: "Router", sock: Socket, peer: str, data: bytes) -> None:
        super().__init__(router, sock, peer, data)
        self._hello = client_hello.HelloReader()

    def _look(self, known: int) -> bool:
        name = None
        try:
            hello = self._hello.read(self.data)
        except WireError:
            pass
        else:
            if hello is None:
                return False
            name = hello.server_name
        sock = self.let_go()
        assert isinstance(sock, PlainSocket)
        self.router.shake_hands(sock, self.peer, self.data, name)
        return True


class TLSArrival:
    """A connection in its TLS handshake."""

    __slots__ = ("_handshake", "_next", "_peer", "_router", "_sock")

    def __init__(self, router: "Router", sock: PlainSocket, peer: str, next_: Next) -> None:
        self._router = router
        self._sock = sock
        self._peer = peer
        self._next = next_
        self._handshake: Handshake

    def start(self, context: ServerContext, first: bytes) -> None:
        """`first` has been read of the connection already."""
        self._router.expect(self)
        start = self._router.handshakes.start
        self._handshake = start(self._sock, context, self._done, server_side=True, first=first)

    def _done(self, result: TLSSocket | OSError) -> None:
        self._router.forget(self)
        if isinstance(result, TLSSocket):
            self._next(result, self._peer, b"")
        else:
            counters.visitors_tls_failed += 1
            if isinstance(result, ssl.SSLError) and result.reason == "HTTP_REQUEST":
                refuse(self._sock, 400, "This port speaks HTTPS: the address has to begin with https://.")
            else:
                self._sock.close()

    def close(self) -> None:
        self._router.forget(self)
        self._handshake.close()
        self._sock.close()
