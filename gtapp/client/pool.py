"""The pool of tunnels to one server: keeps as many as are needed, replaces those that are lost, never gives up."""

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from gtapp.client.answers import Granted, advised, compat_granted, compat_refusal, published, refusal
from gtapp.client.dialer import Dialer, Opened, compat_opening
from gtapp.client.services import Services
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import GTError, LinkError, RemoteRefused
from gtapp.observe.metrics import counters
from gtapp.relay.clock import Clock
from gtapp.relay.stream import Stream
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import compat, frames

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


class _Member:
    """A tunnel of the pool, and what it publishes."""

    __slots__ = ("asked", "granted", "ports", "remote", "services", "tunnel", "unused_s")

    def __init__(self, tunnel: Tunnel, remote: URL, services: Services, granted: list[Granted]) -> None:
        self.tunnel = tunnel
        self.remote = remote
        self.services = services  # what its OPENs mean
        self.granted = granted
        self.asked: deque[Services] = deque()  # the server has not answered yet; it does so in order
        self.ports: dict[int, int] = {}  # protocol 1: what INFO has told about the next answer
        self.unused_s = 0.0  # without a stream, in ticks


class Pool:
    """Tunnels to `remotes`, which are ways to the same server: where one fails, the next is tried.

    `find` tells, waiting, the server to use when there are no remotes, and instead of them after anything has failed.
    """

    def __init__(
        self,
        remotes: Sequence[URL],
        find: Callable[[], URL] | None,
        options: ClientOptions,
        dialer: Dialer,
        clock: Clock,
        services: Services,
    ) -> None:
        self._remotes = list(remotes)
        self._find = find
        self._lost = not remotes  # whether that has to be asked
        self._options = options
        self._dialer = dialer
        self._clock = clock
        self._services = services
        self._wake = Event()
        self._members: dict[Tunnel, _Member] = {}
        self._numbers = 0
        self._failures = 0  # in a row
        self._refused = False  # whether those were refusals
        self._delay = 0.0  # seconds to wait before the next attempt
        self._last_problem = ""
        self._published: list[tuple[int, str]] = []  # what the log has told last
        self.over = False
        self._greenlet: gevent.Greenlet[[], None] | None = None

    @property
    def tunnels(self) -> list[Tunnel]:
        return list(self._members)

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

    def set_options(self, options: ClientOptions) -> None:
        """From now on these are in force."""
        self._options = options
        self._wake.set()

    def replace(self, services: Services) -> None:
        """Publish these from now on.

        A tunnel that is open goes on with what it has until its server has agreed. Running streams stay.
        """
        self._services = services
        for member in self._members.values():
            self._ask(member, services)

    def tick(self, period: float) -> None:
        """Close tunnels that have not been needed for a while."""
        spare = []
        for tunnel, member in self._members.items():
            if tunnel.age > SHORT_LIFE_S:
                self._failures = 0
            unused = not tunnel.streams and not tunnel.draining
            member.unused_s = member.unused_s + period if unused else 0.0
            if member.unused_s > SPARE_S:
                spare.append(tunnel)
        for tunnel in spare[self._options.remote_idle_connections :]:
            tunnel.drain()

    def _run(self) -> None:
        while True:
            options = self._options
            if self._delay:
                # Jittered: a thousand clients must not come at once. Never the whole delay, so that with the
                # default of 5 s a tunnel is up, not just begun, 5 s after the network is back.
                gevent.sleep(self._delay * random.uniform(0.5, 0.8))
                self._delay = 0.0
            usable = [len(t.streams) for t in self._members if not (t.draining or t.suspect)]
            if not more_wanted(usable, options.remote_idle_connections, options.remote_connections):
                self._wake.wait()
                self._wake.clear()
                continue
            services = self._services
            try:
                remote = self._next_remote()
                self._take(remote, services, self._dialer.open(remote, services))
            except GTError as error:
                self._failed(refused=isinstance(error, RemoteRefused))
                if str(error) != self._last_problem:  # say it once, not at every attempt
                    self._last_problem = str(error)
                    log.warning("no tunnel: %s; trying again until there is one", error)
            except Exception:
                log.exception("unexpected error while opening a tunnel")
                self._failed(refused=True)

    def _next_remote(self) -> URL:
        if self._find is not None and self._lost:
            self._remotes = [self._find()]
            self._lost = False
        return self._remotes[self._failures % len(self._remotes)]

    def _failed(self, refused: bool) -> None:
        self._lost = True
        self._failures = self._failures + 1 if refused == self._refused else 1
        self._refused = refused
        self._delay = delay_before(self._failures, refused, self._options.reconnect_delay)

    def _take(self, remote: URL, services: Services, opened: Opened) -> None:
        tunnel = opened.tunnel
        self._numbers += 1
        number = self._numbers
        tunnel.name = f"tunnel {number} to {remote}"
        opened_at = monotonic()
        member = _Member(tunnel, remote, services, opened.granted)

        def closed(reason: str) -> None:
            self._members.pop(tunnel, None)
            if not tunnel.draining:
                counters.tunnels_lost += 1
                self._lost = True
                if monotonic() - opened_at < SHORT_LIFE_S:
                    self._failed(refused=False)
            log.info("%s is down: %s", tunnel.name, reason)
            self._wake.set()

        def on_open(stream: Stream, opened: frames.Open) -> None:
            member.services.open(stream, opened)
            if len(self._members) < self._options.remote_connections:
                self._wake.set()  # perhaps there should be one more now

        self._members[tunnel] = member  # before a message that waits is handed over: it may say to drain
        tunnel.on_open = on_open
        try:
            opened.opening.hand_over(lambda message: self._control(member, message), closed)
        except LinkError:
            del self._members[tunnel]
            raise
        tunnel.on_suspect = self._wake.set
        self._clock.add(tunnel)
        self._last_problem = ""
        counters.tunnels_opened += 1
        log.info("%s is up", tunnel.name)
        self._tell(member)
        tunnel.opened()
        self._ask(member, self._services)  # they may have been replaced during the opening

    def _control(self, member: _Member, message: Any) -> None:
        if isinstance(message, dict):
            self._native_control(member, message)
        else:
            self._compat_control(member, message)

    def _native_control(self, member: _Member, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "notice":
            log.info("%s says: %s", member.tunnel.name, message.get("text"))
        elif kind == "drain":
            self._drained(member.tunnel)
        elif kind == "ready" and member.asked:
            granted = message.get("services")
            known = granted if isinstance(granted, list) else []
            self._agreed(member, [each if isinstance(each, dict) else {} for each in known])
        elif kind == "error" and member.asked:
            self._disagreed(member, refusal(message))

    def _compat_control(self, member: _Member, message: compat.Signal) -> None:
        tunnel = member.tunnel
        if isinstance(message, compat.Close):
            if tunnel.peer_drains:
                tunnel.abort("closed by the server")
            self._drained(tunnel)
        elif isinstance(message, compat.Reconnect):
            tunnel.draining = True  # its CLOSE is to come
            self._lost = True
            self._wake.set()
        elif isinstance(message, compat.Info):
            member.ports[message.index] = message.port
        elif isinstance(message, compat.ServicesDone) and member.asked:
            ports, member.ports = member.ports, {}
            self._agreed(member, compat_granted(member.asked[0].entries, ports))
        elif isinstance(message, compat.Error) and member.asked:
            member.ports.clear()
            self._disagreed(member, compat_refusal(message))

    def _drained(self, tunnel: Tunnel) -> None:
        """The server opens nothing new there."""
        if not tunnel.closed:
            self._lost = self._lost or not tunnel.draining  # unless that answers our own
            self._wake.set()
            tunnel.drained_by_peer()

    # services of tunnels that are up

    def _ask(self, member: _Member, services: Services) -> None:
        """Let the tunnel publish these, if the server agrees; where it sees no difference, at once."""
        tunnel, asked = member.tunnel, member.asked
        last = asked[-1] if asked else member.services
        if last is services or tunnel.draining or tunnel.closed:
            return
        if last.specs != services.specs:
            asked.append(services)
            if isinstance(tunnel.frames, frames.Frames):
                tunnel.send_control(
                    {"type": "services", "services": [each.to_dict() for each in services.specs]}
                )
            else:
                tunnel.send_signal(compat.Services(compat_opening(self._options, services)))
        elif asked:
            asked[-1] = services
        else:
            member.services = services
            self._tell(member)

    def _agreed(self, member: _Member, granted: list[Granted]) -> None:
        member.services = member.asked.popleft()
        member.granted = granted
        self._tell(member)

    def _disagreed(self, member: _Member, error: RemoteRefused) -> None:
        """The tunnel stays with what it has, and so do, from now on, the new ones: they would be refused."""
        refused = member.asked.popleft()
        if refused is self._services:
            self._services = member.services
            reason = advised(error, refused.entries)
            log.warning("the server refuses the new services, those before stay: %s", reason)

    def _tell(self, member: _Member) -> None:
        """Log where visitors find the services, as far as that is news."""
        if member.services is not self._services:
            return  # about to be replaced
        now = published(member.services.entries, member.granted, member.remote)
        for level, text in now:
            if (level, text) not in self._published:
                log.log(level, "%s", text)
        self._published = now
