"""From an accepted connection to a tunnel: reads the first bytes, finds the host, opens the stream or says why not."""

import logging
import socket
from collections.abc import Callable
from typing import Any

from gevent import get_hub

from gtapp.observe.metrics import counters
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.sockets import EV_READ
from gtapp.server.pages import Farewell, page
from gtapp.server.registry import Host, Registry
from gtapp.wire import frames, http_head

log = logging.getLogger("gt.server")

HEAD_TIMEOUT_S = 10.0  # for a visitor's first request head, or a client's first two bytes
AWAY_S = 3.0  # how long a request waits for a client that has just gone

_NO_ANSWER = {
    frames.REFUSED: (502, "The service behind this address refused the connection."),
    frames.TIMED_OUT: (504, "The service behind this address does not answer."),
    frames.LIMIT: (503, "The client behind this address has reached a limit."),
}
_NOTHING = (502, "The service behind this address closed the connection without an answer.")
_LOST = (502, "The connection to the service behind this address was lost before it answered.")

_read_buffer = memoryview(bytearray(http_head.LIMIT_BYTES))  # used up before a callback returns


class Router:
    """Takes accepted connections. `admit(sock, peer, data)` gets tunnels; `data` is what was read of them."""

    def __init__(
        self,
        registry: Registry,
        admit: Callable[[socket.socket, str, bytes], None],
        mux_header: str,
        idle: Idle,
    ) -> None:
        self.registry = registry
        self.admit = admit
        self.mux_header = mux_header
        self.by_host = mux_header.lower() == "host"  # then the first label is the prefix, else all of it
        self.idle = idle
        self.away: set[Arrival] = set()  # they wait for a client that has just gone
        self._arrivals: dict[Arrival, float] = {}  # not yet routed, oldest first; value: when to give up
        self.over = False
        self._now = 0.0  # seconds, in ticks

    def accept(self, sock: socket.socket, peer: str) -> None:
        arrival = Arrival(self, sock, peer)
        self._arrivals[arrival] = self._now + HEAD_TIMEOUT_S
        arrival.readable()

    @property
    def waiting(self) -> int:
        """Connections that have not been routed yet."""
        return len(self._arrivals) + len(self.away)

    def forget(self, arrival: "Arrival") -> None:
        self._arrivals.pop(arrival, None)
        self.away.discard(arrival)

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
        for arrival in [*self._arrivals, *self.away]:
            arrival.close()


def refuse(sock: socket.socket, status: int, text: str) -> None:
    """Answer the visitor with a page, close the connection, count it."""
    name = f"visitors_refused_{status}"
    setattr(counters, name, getattr(counters, name) + 1)
    Farewell(sock, page(status, text))


class Arrival:
    """A connection whose host is not known yet."""

    __slots__ = ("_data", "_host", "_peer", "_reader", "_router", "_sock", "_timer")

    def __init__(self, router: Router, sock: socket.socket, peer: str) -> None:
        self._router = router
        self._sock = sock
        self._peer = peer
        self._data = b""
        self._host = ""
        self._reader: Any = None
        self._timer: Any = None

    def readable(self) -> None:
        try:
            self._read()
        except (BlockingIOError, InterruptedError):
            if self._reader is None:
                self._reader = get_hub().loop.io(self._sock.fileno(), EV_READ)
                self._reader.start(self.readable)
        except OSError:
            self.close()
        except Exception:
            log.exception("unexpected error with the first bytes of %s", self._peer)
            self.close()

    def _read(self) -> None:
        router = self._router
        while True:
            count = self._sock.recv_into(_read_buffer)
            if not count:
                self.close()
                return
            known = len(self._data)
            self._data += _read_buffer[:count]
            if self._data[0] == frames.MAGIC:
                if len(self._data) >= 2:
                    router.admit(self._let_go(), self._peer, self._data)
                    return
                continue
            if known and b"\n" not in self._data[known:] and len(self._data) < http_head.LIMIT_BYTES:
                continue  # a head that dribbles in is not read again for each byte
            try:
                head = http_head.parse(self._data, router.mux_header)
            except http_head.BadHead as error:
                self._answer(error.status, f"{error}.")
                return
            except http_head.NotHTTP:
                counters.visitors_not_http += 1
                self.close()
                return
            if head is not None:
                counters.visitors_accepted += 1
                self._host = head.host.partition(".")[0] if router.by_host else head.host
                self._route()
                return

    def _route(self) -> None:
        router = self._router
        host = router.registry.find(self._host)
        if host is None:
            self._answer(404, "Nobody publishes a service under this host name here.")
        elif not self._open(host):
            self._wait(host)

    def _open(self, host: Host) -> bool:
        choice = host.choose()
        if choice is None:
            return False
        tunnel, service = choice
        router = self._router
        counters.streams_opened += 1
        stream = tunnel.open(service, self._peer, self._data)
        VisitorPump(stream, router.idle).attach(self._let_go())
        return True

    def _wait(self, host: Host) -> None:
        """The client has just gone: give it a moment to come back."""
        if self._reader is not None:
            self._reader.stop()
        self._router.forget(self)
        self._router.away.add(self)
        self._timer = get_hub().loop.timer(AWAY_S)
        self._timer.start(self._give_up)
        host.waiting[self._wake] = None

    def _wake(self) -> None:
        get_hub().loop.run_callback(self._try_again)  # after the client has been told that it is accepted

    def _try_again(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
            try:
                self._route()
            except Exception:
                log.exception("unexpected error while routing %s", self._peer)
                self.close()

    def _give_up(self) -> None:
        self._timer = None
        host = self._router.registry.find(self._host)
        if host is not None:
            host.waiting.pop(self._wake, None)
        self._answer(503, "The client that publishes this service is not connected at the moment.")

    def _answer(self, status: int, text: str) -> None:
        refuse(self._let_go(), status, text)

    def _let_go(self) -> socket.socket:
        for watcher in (self._reader, self._timer):
            if watcher is not None:
                watcher.stop()
        self._timer = None
        self._router.forget(self)
        return self._sock

    def close(self) -> None:
        self._let_go().close()


class VisitorPump(Pump):
    """A visitor's pump: where the service gave no byte of an answer, it gives a page that says why."""

    __slots__ = ()

    def _end_of_output(self) -> None:
        if self.delivered_any or self.stream.eof_sent:  # answered, or the visitor has left
            super()._end_of_output()
        else:
            self.stream.reset(frames.CANCELLED)
            refuse(self.detach(), *_NOTHING)

    def finished(self, reason: int | None) -> None:
        if self.delivered_any or (reason is None and self.stream.eof_sent):
            super().finished(reason)
            return
        status, text = _NOTHING if reason is None else _NO_ANSWER.get(reason, _LOST)
        refuse(self.detach(), status, text)
