"""Opens a tunnel: connects, proves who we are, steps down to protocol 1 where it may. Called by the pool."""

import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any

import gevent

from gtapp import __version__
from gtapp.config.load import ClientConfig
from gtapp.config.values import URL
from gtapp.errors import ConfigError, GTError, LinkError, RemoteRefused, WireError
from gtapp.relay.link import Link
from gtapp.relay.opening import OPENING_S, Opening
from gtapp.relay.sockets import take_over
from gtapp.relay.stream import INITIAL_WINDOW, Stream
from gtapp.relay.threads import Threads
from gtapp.relay.tunnel import Frames, Tunnel
from gtapp.wire import compat, frames
from gtapp.wire.handshake import ClientHandshake, ServiceSpec

log = logging.getLogger("gt.client")

CONNECT_S = 5.0  # a new attempt gets through sooner than the late repetitions of a lost SYN

_COMPAT_CODES = {
    compat.INVALID_CREDENTIALS: ("invalid_credentials", "invalid id or secret"),
    compat.TCP_PORT_FAILED: ("port_unavailable", "the server cannot open the TCP port"),
    compat.TOO_MANY_CONNECTIONS: ("too_many_connections", "this id has as many tunnels as it may"),
    compat.TOO_MANY_HOSTS: ("too_many_hosts", "more host prefixes than the server allows"),
    compat.HOST_CONFLICT: ("host_conflict", "another client publishes a host prefix of ours"),
    compat.HOST_NOT_ALLOWED: ("host_not_allowed", "the server does not allow a host prefix of ours"),
    compat.OTHER_CONFIG_CONNECTED: ("host_conflict", "a client with this id and other services is connected"),
    compat.TOO_MANY_OPTIONS: ("too_many_services", "more services than the server allows"),
    compat.TOO_MANY_TCP_PORTS: ("too_many_ports", "more TCP ports than the server allows"),
}


OnOpen = Callable[[Stream, frames.Open], None]


class _OldServer(GTError):
    """The server does not speak protocol 3."""


class Dialer:
    """`open` makes a tunnel and gives it `on_open`. `instance` is the random id of the client process.

    Raises ConfigError on an id or secret that protocol 3 cannot carry.
    """

    def __init__(self, config: ClientConfig, instance: str, on_open: OnOpen) -> None:
        self._options = config.options
        self._specs = [ServiceSpec("http", service.host_prefix, 0, False) for service in config.services]
        self._instance = instance
        self._on_open = on_open
        self._spoke_native: set[str] = set()
        self._threads = Threads(1)  # for the key derivation of SCRAM
        if self._options.protocol != "1":
            self._handshake()

    def open(self, remote: URL) -> tuple[Tunnel, Opening]:
        """A tunnel to a server that has proved itself; to be taken over with `opening.hand_over` and `tunnel.opened`.

        Waits, at most CONNECT_S and OPENING_S. Raises LinkError, WireError or RemoteRefused, which say what is wrong.
        """
        protocol = self._options.protocol
        if protocol == "1":
            return self._open(remote, self._compat)
        try:
            return self._open(remote, self._native)
        except _OldServer as error:
            if protocol == "3" or str(remote) in self._spoke_native:
                raise LinkError(str(error)) from error
        log.info("%s does not speak protocol 3, trying protocol 1", remote)
        return self._open(remote, self._compat)

    def stop(self) -> None:
        self._threads.kill()

    def _open(
        self, remote: URL, converse: Callable[[URL, Link], tuple[Tunnel, Opening]]
    ) -> tuple[Tunnel, Opening]:
        link = self._connect(remote)
        try:
            with gevent.Timeout(OPENING_S):
                return converse(remote, link)
        except gevent.Timeout:
            link.abort()
            raise LinkError(f"{remote} accepts the connection but does not answer") from None
        except BaseException:
            link.abort()
            raise

    def _connect(self, remote: URL) -> Link:
        try:
            with gevent.Timeout(CONNECT_S):
                sock = socket.create_connection((remote.host, remote.port))
        except gevent.Timeout:
            raise LinkError(f"cannot connect to {remote}: no answer within {CONNECT_S:.0f} s") from None
        except OSError as error:
            raise LinkError(f"cannot connect to {remote}: {error.strerror or error}") from error
        return Link(take_over(sock), str(remote))

    def _native(self, remote: URL, link: Link) -> tuple[Tunnel, Opening]:
        tunnel, opening = self._tunnel(link, frames.Frames())
        spoke_http = False
        begun = b""

        def first(view: memoryview) -> None:
            nonlocal spoke_http, begun
            begun += view
            if begun.startswith(b"HTTP"):
                spoke_http = True
                tunnel.abort("the server answers with HTTP")
            elif not b"HTTP".startswith(begun):
                link.on_data = tunnel.receive
                tunnel.receive(memoryview(begun))

        link.on_data = first
        handshake = self._handshake()
        link.write(frames.OPENING)
        tunnel.send_control(handshake.hello())
        tunnel.start()
        try:
            challenge = opening.receive_message()
        except LinkError as error:
            if spoke_http or not link.bytes_in:
                raise _OldServer(f"{remote} does not speak protocol 3: {error}") from error
            raise
        self._spoke_native.add(str(remote))
        tunnel.send_control(self._threads.call(handshake.auth, challenge))
        ready = handshake.ready(opening.receive_message())
        if ready.window < INITIAL_WINDOW:
            raise WireError(
                f"{remote} grants windows of {ready.window} bytes, less than protocol 3 begins with"
            )
        return tunnel, opening

    def _compat(self, remote: URL, link: Link) -> tuple[Tunnel, Opening]:
        options = self._options
        if options.protocol != "1" and not (options.allow_plain_secret or _is_loopback(link)):
            raise LinkError(
                f"{remote} speaks only the older protocol 1, which shows the secret to whoever listens on the "
                "way: set `protocol: 1` or `allowPlainSecret: true` if that is all right",
            )
        tunnel, opening = self._tunnel(link, compat.CompatFrames(server=False))
        services = tuple(compat.CompatService("http", spec.host_prefix) for spec in self._specs)
        link.write(compat.opening(compat.Opening(options.id, options.secret, services)))
        tunnel.start()
        while True:
            message = opening.receive()
            if isinstance(message, compat.Ready):
                return tunnel, opening
            if isinstance(message, compat.Error):
                unknown = ("protocol_error", f"error {message.code}")
                raise RemoteRefused(*_COMPAT_CODES.get(message.code, unknown))
            if not isinstance(message, compat.Info):
                raise WireError(f"{remote} sends {type(message).__name__} before it has accepted the tunnel")

    def _handshake(self) -> ClientHandshake:
        options = self._options
        agent = f"gt/{__version__}"
        try:
            return ClientHandshake(options.id, options.secret, agent, self._instance, self._specs)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _tunnel(self, link: Link, wire: Frames) -> tuple[Tunnel, Opening]:
        tunnel = Tunnel(link, wire, self._options.remote_timeout, is_server=False)
        tunnel.on_open = self._on_open
        return tunnel, Opening(tunnel)


def _is_loopback(link: Link) -> bool:
    try:
        address: Any = link.sock.getpeername()[0]
    except OSError as error:
        raise LinkError(f"{link.peer}: {error.strerror}") from error
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
