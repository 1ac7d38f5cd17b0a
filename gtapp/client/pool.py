"""The pool of tunnels to one server: keeps as many as are needed, replaces those that are lost, never gives up."""

import logging
import random
from collections.abc import Sequence
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from gtapp.client.dialer import Dialer
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import GTError, LinkError, RemoteRefused
from gtapp.observe.metrics import counters
from gtapp.relay.clock import Clock
from gtapp.relay.opening import Opening
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import compat

log = logging.getLogger("gt.client")

FIRST_DELAY_S = 0.25  # after the first failure; doubled up to `reconnectDelay`
REFUSED_DELAY_S = 60.0  # what the delay grows to while the server answers, but with a refusal
SHORT_LIFE_S = 5.0  # a tunnel that is lost sooner counts as a failed attempt
SPARE_S = 30.0  # how long a tunnel must have been unused before one too many is closed


def more_wanted(streams: Sequence[int], idle: int, most: int) -> int:
    """How many tunnels to open, given each one's number of streams: `idle` shall be unused, `most` exist."""
    unused = sum(not count for count in streams)
    return max(0, min(idle - unused, most - len(streams)))


def delay_before(attempt: int, refused: bool, reconnect_delay: float) -> float:
    """Seconds to wait before `attempt` (the first after a failure is 1), before it is jittered."""
    longest = max(REFUSED_DELAY_S, reconnect_delay) if refused else reconnect_delay
    first = reconnect_delay if refused else min(FIRST_DELAY_S, reconnect_delay)
    return float(min(longest, first * 2 ** min(attempt - 1, 16)))


class Pool:
    """Tunnels to `remotes`, which are ways to the same server: where one fails, the next is tried."""

    def __init__(self, remotes: Sequence[URL], options: ClientOptions, dialer: Dialer, clock: Clock) -> None:
        self._remotes = list(remotes)
        self._options = options
        self._dialer = dialer
        self._clock = clock
        self._wake = Event()
        self._tunnels: dict[Tunnel, float] = {}  # value: seconds without a stream, in ticks
        self._numbers = 0
        self._failures = 0  # in a row
        self._refused = False  # whether those were refusals
        self._delay = 0.0  # seconds to wait before the next attempt
        self._last_problem = ""
        self.over = False
        self._greenlet: gevent.Greenlet[[], None] | None = None

    @property
    def tunnels(self) -> list[Tunnel]:
        return list(self._tunnels)

    def start(self) -> None:
        self._clock.add(self)
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Open nothing more; the tunnels end with their last stream."""
        self.over = True
        if self._greenlet is not None:
            self._greenlet.kill()
        for tunnel in self.tunnels:
            tunnel.drain()

    def wake(self) -> None:
        """A tunnel got a stream: perhaps there should be one more."""
        if len(self._tunnels) < self._options.remote_connections:
            self._wake.set()

    def tick(self, period: float) -> None:
        """Close tunnels that have not been needed for a while."""
        spare = []
        for tunnel in self._tunnels:
            if tunnel.age > SHORT_LIFE_S:
                self._failures = 0
            unused = not tunnel.streams and not tunnel.draining
            self._tunnels[tunnel] = self._tunnels[tunnel] + period if unused else 0.0
            if self._tunnels[tunnel] > SPARE_S:
                spare.append(tunnel)
        for tunnel in spare[self._options.remote_idle_connections :]:
            tunnel.drain()

    def _run(self) -> None:
        options = self._options
        while True:
            if self._delay:
                # Jittered: a thousand clients must not come at once. Never the whole delay, so that with the
                # default of 5 s a tunnel is up, not just begun, 5 s after the network is back.
                gevent.sleep(self._delay * random.uniform(0.5, 0.8))
                self._delay = 0.0
            usable = [len(t.streams) for t in self._tunnels if not (t.draining or t.suspect)]
            if not more_wanted(usable, options.remote_idle_connections, options.remote_connections):
                self._wake.wait()
                self._wake.clear()
                continue
            remote = self._remotes[self._failures % len(self._remotes)]
            try:
                self._take(remote, *self._dialer.open(remote))
            except GTError as error:
                self._failed(refused=isinstance(error, RemoteRefused))
                if str(error) != self._last_problem:  # say it once, not at every attempt
                    self._last_problem = str(error)
                    log.warning("no tunnel: %s; trying again until there is one", error)
            except Exception:
                log.exception("unexpected error while opening a tunnel")
                self._failed(refused=True)

    def _failed(self, refused: bool) -> None:
        self._failures = self._failures + 1 if refused == self._refused else 1
        self._refused = refused
        self._delay = delay_before(self._failures, refused, self._options.reconnect_delay)

    def _take(self, remote: URL, tunnel: Tunnel, opening: Opening) -> None:
        self._numbers += 1
        number = self._numbers
        tunnel.name = f"tunnel {number} to {remote}"
        opened_at = monotonic()

        def closed(reason: str) -> None:
            self._tunnels.pop(tunnel, None)
            if not tunnel.draining:
                counters.tunnels_lost += 1
                if monotonic() - opened_at < SHORT_LIFE_S:
                    self._failed(refused=False)
            log.info("%s is down: %s", tunnel.name, reason)
            self._wake.set()

        self._tunnels[tunnel] = 0.0  # before a message that waits is handed over: it may say to drain
        try:
            opening.hand_over(lambda message: self._control(tunnel, message), closed)
        except LinkError:
            del self._tunnels[tunnel]
            raise
        tunnel.on_suspect = self._wake.set
        self._clock.add(tunnel)
        self._last_problem = ""
        counters.tunnels_opened += 1
        log.info("%s is up", tunnel.name)
        tunnel.opened()

    def _control(self, tunnel: Tunnel, message: Any) -> None:
        if isinstance(message, dict):
            kind, text = message["type"], message.get("text")
            if kind == "notice":
                log.info("%s says: %s", tunnel.name, text)
            drain = kind == "drain"
        else:
            drain = isinstance(message, compat.Close)
            if drain and tunnel.peer_drains:
                tunnel.abort("closed by the server")
            if isinstance(message, compat.Reconnect):
                tunnel.draining = True  # its CLOSE is to come
                self._wake.set()
        if drain and not tunnel.closed:
            self._wake.set()
            tunnel.drained_by_peer()
