"""The pool of tunnels to one server: keeps as many as are needed, replaces those that are lost, never gives up."""

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Literal

import gevent
from gevent.event import Event

from gtapp.client.answers import (
    Granted,
    address,
    advised,
    compat_granted,
    compat_refusal,
    published,
    refusal,
)
from gtapp.client.dialer import Dialer, Opened, compat_opening
from gtapp.client.services import Services
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import GTError, LinkError, RemoteRefused
from gtapp.observe.metrics import counters, tunnel_opening
from gtapp.relay.clock import Clock
from gtapp.relay.facts import tunnel_id
from gtapp.relay.stream import Stream
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import compat, frames

log = logging.getLogger("gt.client")

FIRST_DELAY_S = 0.25  # after the first failure; doubled up to `reconnectDelay`
SOON_ATTEMPTS = 10  # so many come after twice that at most: a server that restarts listens again in 1 to 3 s
REFUSED_DELAY_S = 60.0  # what the delay grows to while the server answers, but with a refusal
SHORT_LIFE_S = 5.0  # a tunnel that is lost sooner counts as a failed attempt
SPARE_S = 30.0  # how long a tunnel must have been unused before one too many is closed
CALLED_OVER_S = (
    0.2  # a server's clients, called over all at once, come within this time: the old tunnels still serve
)
LEAVING_S = (
    60.0  # a tunnel that is called over, and has been replaced, is given up when its server does not do so
)

Failure = Literal["lost", "full", "refused"]
"""Of an attempt: no server; as many tunnels as there may be, which may change soon; another refusal."""


def more_wanted(streams: Sequence[int], idle: int, most: int) -> int:
    """How many tunnels to open, given each one's number of streams: `idle` shall be unused, `most` exist."""
    unused = sum(not count for count in streams)
    return max(0, min(idle - unused, most - len(streams)))


def delay_before(attempt: int, failure: Failure, reconnect_delay: float) -> float:
    """Seconds to wait before `attempt` (the first after a failure is 1), before it is jittered.

    There are too many tunnels when a process takes over from another one: those of that end in a moment.
    """
    longest = reconnect_delay if failure == "lost" else max(REFUSED_DELAY_S, reconnect_delay)
    first = reconnect_delay if failure == "refused" else min(FIRST_DELAY_S, reconnect_delay)
    doublings = attempt - 1
    if failure == "lost" and doublings:
        doublings = max(1, attempt - SOON_ATTEMPTS)
    return float(min(longest, first * 2 ** min(doublings, 16)))


class _Member:
    """A tunnel of the pool, and what it publishes."""

    __slots__ = ("asked", "granted", "leaving_s", "ports", "remote", "services", "tunnel", "unused_s")

    def __init__(self, tunnel: Tunnel, remote: URL, services: Services, granted: list[Granted]) -> None:
        self.tunnel = tunnel
        self.remote = remote
        self.services = services  # what its OPENs mean
        self.granted = granted
        self.asked: deque[Services] = deque()  # the server has not answered yet; it does so in order
        self.ports: dict[int, int] = {}  # protocol 1: what INFO has told about the next answer
        self.unused_s = 0.0  # without a stream, in ticks
        self.leaving_s = 0.0  # since it has been called over, in ticks

    def status(self, worker: int, leaving: bool) -> dict[str, Any]:
        tunnel = self.tunnel
        bytes_in, bytes_out = tunnel.relayed
        return {
            "id": tunnel_id(worker, tunnel),
            "remote": str(self.remote),
            "agent": tunnel.agent,
            "protocol": tunnel.frames.version,
            "transport": self.remote.scheme,
            "age_s": round(tunnel.age, 1),
            "rtt_ms": round(tunnel.rtt * 1000, 2),
            "loss": round(tunnel.loss, 4),
            "streams": len(tunnel.streams),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "state": "leaving" if leaving and not tunnel.draining else tunnel.state,
        }


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
        self._leaving: dict[Tunnel, _Member] = {}  # called over: they serve on, and count no more
        self._to_replace = 0  # tunnels in use among those that have been called over
        self._failures = 0  # in a row
        self._failure: Failure = "lost"  # what those were
        self._failed_at = 0.0  # monotonic, the last time
        self._tries = 0
        self._delay = 0.0  # seconds to wait before the next attempt
        self._hurry = Event()  # that delay is another one now
        self._last_problem = ""
        self._published: list[tuple[int, str]] = []  # what the log has told last
        self.ready = Event()  # there has been a tunnel, or every way has been tried
        self.over = False
        self._greenlet: gevent.Greenlet[[], None] | None = None

    @property
    def tunnels(self) -> list[Tunnel]:
        return [*self._members, *self._leaving]

    @property
    def problem(self) -> str:
        """Why there is no tunnel, as far as that is known; "" when there is one."""
        return "" if self.tunnels else self._last_problem

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
        for member in (*self._members.values(), *self._leaving.values()):
            self._ask(member, services)

    def status(self, worker: int = 0) -> list[dict[str, Any]]:
        """For people and programs: a JSON object for each tunnel of this worker."""
        members = (*self._members.values(), *self._leaving.values())
        return [each.status(worker, leaving=each.tunnel in self._leaving) for each in members]

    def public(self) -> list[tuple[str, list[str]]]:
        """Each service's local URL, and where visitors find it."""
        services = self._services.entries
        found: list[dict[str, None]] = [{} for _ in services]
        for member in (*self._members.values(), *self._leaving.values()):
            if member.services is self._services:
                for known, service, granted in zip(found, services, member.granted, strict=False):
                    if where := address(service, granted, member.remote):
                        known[where] = None
        return [(str(service.local), list(known)) for service, known in zip(services, found, strict=True)]

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
        for tunnel, member in self._leaving.items():
            member.leaving_s += period
            if member.leaving_s > LEAVING_S and self._usable():
                tunnel.drain()

    def _usable(self) -> list[int]:
        """The number of streams of each tunnel that can be counted on."""
        return [len(t.streams) for t in self._members if not (t.draining or t.suspect)]

    def _run(self) -> None:
        while True:
            while self._delay:
                delay, self._delay = self._delay, 0.0
                self._pause(delay)
            if not self._wanted():
                self._wake.wait()
                self._wake.clear()
                continue
            services = self._services
            began = monotonic()
            try:
                remote = self._next_remote()
                opened = self._dialer.open(remote, services)
                tunnel_opening.observe(monotonic() - began)
                self._take(remote, services, opened)
            except GTError as error:
                problem = str(error)
                if problem != self._last_problem:  # say it once, not at every attempt
                    self._last_problem = problem
                    log.warning("no tunnel: %s; trying again until there is one", error)
                self._failed(_kind(error), began)
            except Exception as error:
                self._last_problem = f"unexpected {type(error).__name__}"
                log.exception("unexpected error while opening a tunnel")
                self._failed("refused", began)

    def _pause(self, seconds: float) -> None:
        self._hurry.clear()
        self._hurry.wait(seconds)

    def _wanted(self) -> int:
        """How many tunnels to open."""
        options, usable = self._options, self._usable()
        more = more_wanted(usable, options.remote_idle_connections, options.remote_connections)
        return max(more, min(self._to_replace, options.remote_connections - len(usable)))

    def _next_remote(self) -> URL:
        if self._find is not None and self._lost:
            self._remotes = [self._find()]
            self._lost = False
        return self._remotes[self._failures % len(self._remotes)]

    def _failed(self, failure: Failure, began: float) -> None:
        """What began at `began` has. All that was under way at a failure has failed with it, and counts once."""
        self._lost = True
        if began < self._failed_at:
            return
        self._failed_at = monotonic()
        self._failures = self._failures + 1 if failure == self._failure else 1
        self._failure = failure
        # Jittered: a thousand clients must not come at once. Never the whole delay, so that with the default of 5 s a
        # tunnel is up, not just begun, 5 s after the network is back.
        longest = delay_before(self._failures, failure, self._options.reconnect_delay)
        self._delay = longest * random.uniform(0.5, 0.8)
        self._tries += 1
        if self._tries >= len(self._remotes):
            self.ready.set()

    def _take(self, remote: URL, services: Services, opened: Opened) -> None:
        tunnel = opened.tunnel
        tunnel.name = f"tunnel {tunnel.number} to {remote}"
        opened_at = monotonic()
        member = _Member(tunnel, remote, services, opened.granted)

        def closed(reason: str) -> None:
            was_leaving = self._leaving.pop(tunnel, None) is not None
            self._members.pop(tunnel, None)
            if not self._leaving:
                self._to_replace = 0
            if not (tunnel.draining or was_leaving):
                counters.tunnels_lost += 1
                self._lost = True
                if monotonic() - opened_at < SHORT_LIFE_S:
                    self._failed("lost", opened_at)
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
        self._to_replace = max(0, self._to_replace - 1)
        counters.tunnels_opened += 1
        log.info("%s is up", tunnel.name)
        self._tell(member)
        tunnel.opened()
        self._ask(member, self._services)  # they may have been replaced during the opening
        self.ready.set()

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
        elif kind == "reconnect":
            self._call_over(member)
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
            if tunnel in self._members:
                self._lost = True
                for each in list(self._members.values()):  # GT says it on one tunnel, and means all
                    self._call_over(each)
        elif isinstance(message, compat.Info):
            member.ports[message.index] = message.port
        elif isinstance(message, compat.ServicesDone) and member.asked:
            ports, member.ports = member.ports, {}
            self._agreed(member, compat_granted(member.asked[0].entries, ports))
        elif isinstance(message, compat.Error) and member.asked:
            member.ports.clear()
            self._disagreed(member, compat_refusal(message))

    def _call_over(self, member: _Member) -> None:
        """The server is being replaced: open new tunnels in place of this one, which serves until it is drained."""
        tunnel = member.tunnel
        if tunnel.draining or self._members.pop(tunnel, None) is None:
            return
        log.info("%s: the server is being replaced, new tunnels take its place", tunnel.name)
        self._leaving[tunnel] = member
        if tunnel.streams:
            self._to_replace += 1
        self._failures = 0
        self._delay = random.uniform(0.0, CALLED_OVER_S)
        if tunnel.age < SHORT_LIFE_S:  # should a server say this to each new one
            self._delay += FIRST_DELAY_S
        self._hurry.set()
        self._wake.set()

    def _drained(self, tunnel: Tunnel) -> None:
        """The server opens nothing new there."""
        if not tunnel.closed:
            # Unless that answers our own, or was to be expected.
            self._lost = self._lost or not (tunnel.draining or tunnel in self._leaving)
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
        if refused is self._services and member.tunnel not in self._leaving:
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


def _kind(error: GTError) -> Failure:
    if not isinstance(error, RemoteRefused):
        return "lost"
    return "full" if error.code == "too_many_connections" else "refused"
