"""The client's services: for each stream the server opens, a connection to the local service and a pump.

Tunnels of the pool call `Services.open`.
"""

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import gevent

from gtapp.client import request_pump
from gtapp.client.health import Health, Healths
from gtapp.config.load import Service
from gtapp.config.values import URL
from gtapp.observe.metrics import counters, dial_seconds
from gtapp.relay.clock import Clock
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.sockets import EV_WRITE, PlainSocket, Watcher, plain_socket, show_address
from gtapp.relay.stream import Stream
from gtapp.wire import frames
from gtapp.wire.handshake import ServiceSpec
from gtapp.wire.proxy_header import build_v1, build_v2

log = logging.getLogger("gt.client")

DIAL_S = 10.0  # how long a local service may take to accept
NAMES_S = 5.0  # how long the addresses of a local host name are good
SAY_EVERY_S = 60.0  # how often a log tells of visitors who are kept out of a service: strangers cause that
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}
IN_PROGRESS = {errno.EINPROGRESS, errno.EALREADY, errno.EINTR}  # what connect() says when it is called again
CONNECTED = {0, errno.EISCONN}

_PROXY_HEADERS: dict[str, Callable[[str, str], bytes] | None] = {"off": None, "v1": build_v1, "v2": build_v2}

SocketAddress = tuple[int, tuple[Any, ...]]  # family, and what connect() takes


class Services:
    """What the client publishes, at one time: a tunnel's OPENs carry indices into it.

    `open(stream, opened)` answers such an OPEN. `specs` is what the server is told.
    """

    def __init__(self, services: Sequence[Service], clock: Clock, healths: Healths | None = None) -> None:
        healths = healths or Healths()
        self.entries = tuple(services)
        self.specs = [_spec(service) for service in services]
        self._targets = [
            _Target(service, clock, healths.find(spec.kind, str(service.local)))
            for service, spec in zip(services, self.specs, strict=True)
        ]

    def open(self, stream: Stream, opened: frames.Open) -> None:
        if opened.service >= len(self._targets):
            log.warning("%s asks for service %d, which is not there", stream.tunnel.name, opened.service)
            stream.reset(frames.PROTOCOL)
            return
        target = self._targets[opened.service]
        if target.admits(opened.visitor):
            counters.streams_opened += 1
            stream.charge(target.health.account)
            Dial(stream, target, opened).start()
        else:
            counters.streams_forbidden += 1
            stream.reset(frames.FORBIDDEN)


def _spec(service: Service) -> ServiceSpec:
    if service.local.scheme == "tcp":
        return ServiceSpec("tcp", None, service.remote_tcp_port, bool(service.remote_tcp_random))
    return ServiceSpec("tls" if service.local.scheme == "https" else "http", service.host_prefix)


PumpFactory = Callable[[Stream, Idle, str, int], Pump]
"""Makes a stream's pump, from its idle time, the visitor's address ("" if not known) and the flags of its OPEN."""


def pump_factory(service: Service) -> PumpFactory:
    """Plain pumps, unless the service wants something done to every request."""
    if service.use_local_as_http_host or service.forwarded_for or service.basic_auth:
        return request_pump.factory(service)
    return lambda stream, idle, visitor, flags: Pump(stream, idle)


class _Target:
    """One service: where it is, who may use it, and how it is spoken to."""

    def __init__(self, service: Service, clock: Clock, health: Health) -> None:
        self.health = health
        self.addresses = _Addresses(service.local)
        self.idle = Idle(clock.ticks(service.local_timeout))
        self.dial_ticks = clock.ticks(DIAL_S)
        self.make_pump = pump_factory(service)
        self.proxy_header = _PROXY_HEADERS[service.proxy_protocol]
        self._service = service
        self._guarded = bool(service.allow_ips or service.deny_ips)
        self._refused = 0  # visitors since the last line about them
        self._quiet_until = 0.0

    def admits(self, visitor: str) -> bool:
        """Whether a visitor with this address may come in. Where protocol 1 hides it, nobody is on a list."""
        if not self._guarded:
            return True
        if self._service.lets_in(visitor):
            if not visitor:
                self._say("denyIPs keeps nobody out over protocol 1, which does not tell visitors' addresses")
            return True
        self._refused += 1
        who = visitor or "a visitor whose address protocol 1 does not tell"
        self._say(f"{who} may not come in (allowIPs, denyIPs); {self._refused} since the last such line")
        return False

    def _say(self, what: str) -> None:
        now = monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + SAY_EVERY_S
            self._refused = 0
            log.info("service %s: %s", self._service.local, what)


class _Addresses:
    """The socket addresses of a local service; a name is looked up again every few seconds."""

    def __init__(self, local: URL) -> None:
        self.local = local
        self.problem = ""  # of the last connect, "" when it went well: logged once, not for each visitor
        self._known: list[SocketAddress] = []
        self._known_until = 0.0
        try:
            version = ipaddress.ip_address(local.host).version
        except ValueError:
            return
        self._known = [(socket.AF_INET if version == 4 else socket.AF_INET6, (local.host, local.port))]
        self._known_until = float("inf")

    def known(self) -> list[SocketAddress]:
        """The addresses if no look-up is needed, else an empty list."""
        return list(self._known) if self._known_until > monotonic() else []

    def look_up(self) -> list[SocketAddress]:
        """Resolve the name, waiting for it. Raises OSError."""
        found = socket.getaddrinfo(self.local.host, self.local.port, type=socket.SOCK_STREAM)
        self._known = [(int(family), address) for family, _, _, _, address in found]
        self._known_until = monotonic() + NAMES_S
        return list(self._known)


class Dial:
    """A stream's sink while the service is being connected to; a pump takes its place."""

    __slots__ = (
        "_addresses", "_began", "_flags", "_kept", "_name", "_sock", "_stream", "_target", "_ticks_left", "_to_try",
        "_visitor", "_watcher",
    )  # fmt: skip

    def __init__(self, stream: Stream, target: _Target, opened: frames.Open) -> None:
        stream.sink = self
        self._stream = stream
        self._target = target
        self._addresses = target.addresses
        self._visitor = opened.visitor
        self._flags = opened.flags
        self._ticks_left = target.dial_ticks
        self._kept: list[bytes] = []  # what the visitor sent meanwhile: at most a window
        self._to_try: list[SocketAddress] = []
        self._began = 0.0  # monotonic, where it takes longer than a call
        self._sock: PlainSocket | None = None
        self._name: Any = None
        self._watcher: Watcher | None = None

    def start(self) -> None:
        self._to_try = self._addresses.known()
        if self._to_try:
            self._try_next("")
        else:
            self._began = monotonic()
            gevent.spawn(self._look_up)

    def _look_up(self) -> None:
        try:
            self._to_try = self._addresses.look_up()
        except (OSError, UnicodeError) as error:
            self._try_next(f"cannot resolve {self._addresses.local.host}: {error}")
        else:
            self._try_next("")

    def _try_next(self, problem: str) -> None:
        reason = frames.REFUSED
        while self._stream.sink is self and not self._stream.over:
            if not self._to_try:
                self._give_up(reason, problem)
                return
            family, self._name = self._to_try.pop(0)
            try:
                self._sock = plain_socket(family)
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                problem = error.strerror or str(error)
                reason = frames.LIMIT if error.errno in OUT_OF_FILES else reason
                continue
            code = self._sock.connect_ex(self._name)
            if code == errno.EINPROGRESS:
                code = self._sock.connect_ex(self._name)  # on loopback it is through by now
            if code in IN_PROGRESS:
                self._began = self._began or monotonic()
                self._watcher = self._sock.watch(EV_WRITE)
                self._watcher.start(self._writable)
                return
            if code in CONNECTED:
                self._connected()
                return
            self._drop_socket()
            problem = os.strerror(code)

    def _writable(self) -> None:
        assert self._sock is not None
        try:
            code = self._sock.connect_ex(self._name)
            if code in IN_PROGRESS:
                return
            if code in CONNECTED:
                self._connected()
            else:
                self._drop_socket()
                self._try_next(os.strerror(code))
        except Exception:
            log.exception("unexpected error while connecting to %s", self._addresses.local)
            self._give_up(frames.CANCELLED, "internal error")

    def _connected(self) -> None:
        sock, self._sock = self._sock, None
        assert sock is not None
        if self._watcher is not None:
            self._watcher.stop()
        self._addresses.problem = ""
        target = self._target
        target.health.connected()
        if self._began:
            dial_seconds.observe(monotonic() - self._began)
        else:
            dial_seconds.counts[0] += 1
        pump = target.make_pump(self._stream, target.idle, self._visitor, self._flags)
        if target.proxy_header is not None:
            try:
                # The send buffer is empty: such a short header goes into it whole.
                sock.send(target.proxy_header(self._visitor, show_address(sock.getpeername())))
            except OSError:
                pass  # the pump will see that the service is gone
        pump.attach(sock, self._kept)

    def _give_up(self, reason: int, problem: str) -> None:
        counters.dials_failed += 1
        self._target.health.refused(problem)
        if problem != self._addresses.problem:
            self._addresses.problem = problem
            log.warning("service %s: %s", self._addresses.local, problem)
        self._drop_socket()
        self._stream.reset(reason)

    def _drop_socket(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    # as a sink

    def deliver(self, data: memoryview) -> None:
        self._kept.append(bytes(data))

    def deliver_eof(self) -> None:
        """The pump will find it in the stream."""

    def deliver_rest(self) -> None:
        """Visitor and tunnel are gone before the service has answered the dial."""
        self.deliver_reset(frames.CANCELLED)

    def deliver_reset(self, reason: int) -> None:
        self._drop_socket()
        self._stream.forget()

    def window_opened(self) -> None:
        """Nothing has been sent yet."""

    def tick(self) -> None:
        self._ticks_left -= 1
        if self._ticks_left < 0:
            self._give_up(frames.TIMED_OUT, f"does not answer within {DIAL_S:.0f} s")
