"""The client's services: for each stream the server opens, a connection to the local service and a pump."""

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub

from gtapp.config.load import Service
from gtapp.config.values import URL
from gtapp.observe.metrics import counters
from gtapp.relay.clock import Clock
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.sockets import EV_WRITE, plain_socket
from gtapp.relay.stream import Stream
from gtapp.wire import frames

log = logging.getLogger("gt.client")

DIAL_S = 10.0  # how long a local service may take to accept
NAMES_S = 5.0  # how long the addresses of a local host name are good
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}
IN_PROGRESS = {errno.EINPROGRESS, errno.EALREADY, errno.EINTR}  # what connect() says when it is called again
CONNECTED = {0, errno.EISCONN}

SocketAddress = tuple[int, tuple[Any, ...]]  # family, and what connect() takes


class Services:
    """Answers the server's OPEN: `open(stream, opened)` is a tunnel's `on_open`."""

    def __init__(self, services: Sequence[Service], clock: Clock) -> None:
        dial_ticks = clock.ticks(DIAL_S)
        self._services = [
            (_Addresses(service.local), Idle(clock.ticks(service.local_timeout)), dial_ticks)
            for service in services
        ]

    def open(self, stream: Stream, opened: frames.Open) -> None:
        if opened.service >= len(self._services):
            log.warning("%s asks for service %d, which is not there", stream.tunnel.name, opened.service)
            stream.reset(frames.PROTOCOL)
            return
        counters.streams_opened += 1
        addresses, idle, dial_ticks = self._services[opened.service]
        Dial(stream, idle, addresses, dial_ticks).start()


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
        "_addresses", "_idle", "_kept", "_name", "_sock", "_stream", "_ticks_left", "_to_try", "_watcher",
    )  # fmt: skip

    def __init__(self, stream: Stream, idle: Idle, addresses: _Addresses, ticks: int) -> None:
        stream.sink = self
        self._stream = stream
        self._idle = idle
        self._addresses = addresses
        self._ticks_left = ticks
        self._kept: list[bytes] = []  # what the visitor sent meanwhile: at most a window
        self._to_try: list[SocketAddress] = []
        self._sock: socket.socket | None = None
        self._name: Any = None
        self._watcher: Any = None

    def start(self) -> None:
        self._to_try = self._addresses.known()
        if self._to_try:
            self._try_next("")
        else:
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
                self._watcher = get_hub().loop.io(self._sock.fileno(), EV_WRITE)
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
        Pump(self._stream, self._idle).attach(sock, self._kept)

    def _give_up(self, reason: int, problem: str) -> None:
        counters.dials_failed += 1
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
