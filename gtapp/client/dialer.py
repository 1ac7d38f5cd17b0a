"""Opens a tunnel: connects, proves who we are, steps down to protocol 1 where it may. Called by the pool."""

import ipaddress
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gevent
from gevent.event import Event

from gtapp import __version__
from gtapp.client.answers import Granted, advised, compat_granted, compat_refusal
from gtapp.client.connect import Connected, client_context, connect
from gtapp.client.services import Services
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import ConfigError, GTError, LinkError, RemoteRefused, WireError
from gtapp.relay.link import Link
from gtapp.relay.opening import MAX_WAITING, OPENING_S, Opening
from gtapp.relay.stream import INITIAL_WINDOW
from gtapp.relay.threads import Threads
from gtapp.relay.tls import Handshakes
from gtapp.relay.tunnel import Frames, Tunnel
from gtapp.wire import compat, frames
from gtapp.wire.handshake import PLAIN, ClientHandshake

log = logging.getLogger("gt.client")

_AGENT = f"gt/{__version__}"

# How a client of protocol 3 proves itself, best first. It starts with the first one, and remembers for each remote
# what works there.
_BOUND = "bound"  # SCRAM; over TLS with channel binding
_UNBOUND = "unbound"  # SCRAM without: something that the authorities vouch for takes the TLS off in between
_PLAIN = "plain"  # the secret itself, for a server that has to show it to an authAPI


class Opened(NamedTuple):
    """A tunnel whose server has proved itself, to be taken over with `opening.hand_over` and `tunnel.opened`.

    `granted` tells what was opened for each service.
    """

    tunnel: Tunnel
    opening: Opening
    granted: list[Granted]


class _Line(NamedTuple):
    """A connection to a server. `private`: what is written to it only that server reads, or the user does not mind."""

    link: Link
    connected: Connected
    private: bool


Converse = Callable[[URL, _Line, Services], Opened]


class _OldServer(GTError):
    """The server does not speak protocol 3."""


class _OtherWay(Exception):
    """This server is to be shown another proof, on a new connection."""

    def __init__(self, way: str) -> None:
        self.way = way


class Dialer:
    """`open` makes a tunnel. `instance` is the random id of the client process.

    Raises ConfigError on an id or secret that protocol 3 cannot carry, and on a file of `remoteCert` that is of no use.
    """

    def __init__(self, options: ClientOptions, instance: str) -> None:
        self._options = options
        self._instance = instance
        self._spoke_native: set[str] = set()
        self._ways: dict[str, str] = {}  # by remote; those that begin with the first have none
        self._threads = Threads(1)  # for the key derivation of SCRAM
        self._handshakes = Handshakes()
        if options.remote_cert:
            client_context(options)
        if options.protocol != "1":
            try:
                ClientHandshake(options.id, options.secret, _AGENT, instance, [])
            except ValueError as error:
                raise ConfigError(str(error)) from error

    def open(self, remote: URL, services: Services) -> Opened:
        """A tunnel that publishes `services`.

        Waits as long as `connect` does, and OPENING_S. Raises LinkError, WireError or RemoteRefused, which say what
        is wrong.
        """
        protocol = self._options.protocol
        if protocol == "1":
            return self._open(remote, services, self._compat)
        try:
            return self._open_native(remote, services)
        except _OldServer as error:
            if protocol == "3" or str(remote) in self._spoke_native:
                raise LinkError(str(error), "old_server") from error
        log.info("%s does not speak protocol 3, trying protocol 1", remote)
        return self._open(remote, services, self._compat)

    def set_options(self, options: ClientOptions) -> None:
        """These hold for the tunnels opened from now on. Id, secret and protocol do not change."""
        self._options = options

    def stop(self) -> None:
        self._threads.kill()

    def _open_native(self, remote: URL, services: Services) -> Opened:
        name = str(remote)
        while True:
            way = self._ways.get(name, _BOUND)
            try:
                return self._open(remote, services, partial(self._native, way=way))
            except _OtherWay as other:  # each step goes further down the list of ways
                self._ways[name] = other.way
            except RemoteRefused:
                self._ways.pop(name, None)
                raise

    def _open(self, remote: URL, services: Services, converse: Converse) -> Opened:
        connected = connect(remote, self._options, self._handshakes)
        link = Link(connected.sock, str(remote))
        try:
            private = self._options.allow_plain_secret or connected.verified or _is_loopback(link)
            with gevent.Timeout(OPENING_S):
                return converse(remote, _Line(link, connected, private), services)
        except gevent.Timeout:
            link.abort()
            raise LinkError(f"{remote} accepts the connection but does not answer", "silent") from None
        except RemoteRefused as error:
            link.abort()
            raise advised(error, services.entries) from error
        except BaseException:
            link.abort()
            raise

    # protocol 3

    def _native(self, remote: URL, line: _Line, services: Services, way: str) -> Opened:
        link = line.link
        if not line.private:  # a name may lead elsewhere than when `way` was found
            way = _BOUND
        tunnel, opening = self._tunnel(link, frames.Frames(), services)
        http = _watch_for_http(tunnel)
        handshake = self._handshake(line, services, way)
        link.write(frames.OPENING)
        tunnel.send_control(handshake.hello())
        tunnel.start()
        try:
            challenge = opening.receive_message()
        except LinkError as error:
            if http.is_set() or not link.bytes_in:
                raise _OldServer(f"{remote} does not speak protocol 3: {error}") from error
            raise LinkError(str(error), "no_gt") from error
        self._spoke_native.add(str(remote))
        may_unbind = way == _BOUND and line.connected.verified
        if may_unbind and challenge.get("code") == "protocol_error":
            raise _OtherWay(_UNBOUND)  # the server itself sees no TLS, and knows no binding
        if way != _PLAIN and line.private and _lists_plain(challenge):
            raise _OtherWay(_PLAIN)  # now: a SCRAM proof that fails would count as a wrong secret
        if challenge.get("enroll") is True and not line.private:
            raise GTError(
                f"{remote} lets any client in and wants a verifier of the secret to keep, which is not safe on a "
                "connection that nobody vouches for: set `remoteCert`, or `allowPlainSecret: true` if that is all right"
            )
        tunnel.send_control(self._threads.call(handshake.auth, challenge))
        tunnel.agent = handshake.server_agent
        try:
            ready = handshake.ready(opening.receive_message())
        except RemoteRefused as error:
            if may_unbind and error.code == "other_certificate":
                raise _OtherWay(_UNBOUND) from error
            if error.code == "invalid_credentials" and way != _PLAIN and _lists_plain(challenge):
                text = "its authAPI has to be shown the secret: set a tls:// `remote`, or `allowPlainSecret: true`"
                raise RemoteRefused(error.code, f"{error}; or {text} if that is all right") from error
            raise
        if ready.window < INITIAL_WINDOW:
            raise WireError(
                f"{remote} grants windows of {ready.window} bytes, less than protocol 3 begins with"
            )
        return Opened(tunnel, opening, ready.services)

    def _handshake(self, line: _Line, services: Services, way: str) -> ClientHandshake:
        options = self._options
        return ClientHandshake(
            options.id,
            options.secret,
            _AGENT,
            self._instance,
            services.specs,
            channel_binding=line.connected.channel_binding if way == _BOUND else None,
            require_binding=line.connected.channel_binding is not None and not line.private,
            plain=way == _PLAIN,
            enroll=line.private,
        )

    # protocol 1

    def _compat(self, remote: URL, line: _Line, services: Services) -> Opened:
        options = self._options
        if options.protocol != "1" and not line.private:
            raise LinkError(
                f"{remote} does not speak protocol 3; the older protocol 1 shows the secret to whoever listens on the "
                "way: set `protocol: 1` or `allowPlainSecret: true` if that is all right",
                "old_server",
            )
        tunnel, opening = self._tunnel(line.link, compat.CompatFrames(server=False), services)
        http = _watch_for_http(tunnel)
        line.link.write(compat.opening(compat_opening(options, services)))
        tunnel.start()
        ports: dict[int, int] = {}
        while True:
            try:
                message = opening.receive()
            except LinkError as error:
                if http.is_set():
                    raise LinkError(f"{remote} is no GT server: {error}", "no_gt") from error
                raise LinkError(str(error), "" if ports else "no_gt") from error
            if isinstance(message, compat.Ready):
                return Opened(tunnel, opening, compat_granted(services.entries, ports))
            if isinstance(message, compat.Error):
                raise compat_refusal(message)
            if not isinstance(message, compat.Info):
                raise WireError(f"{remote} sends {type(message).__name__} before it has accepted the tunnel")
            ports[message.index] = message.port

    # both

    def _tunnel(self, link: Link, wire: Frames, services: Services) -> tuple[Tunnel, Opening]:
        tunnel = Tunnel(link, wire, self._options.remote_timeout, is_server=False)
        tunnel.on_open = services.open  # for the streams that come right behind the opening
        return tunnel, Opening(
            tunnel, MAX_WAITING + len(services.entries)
        )  # INFO is one message for each port


def _watch_for_http(tunnel: Tunnel) -> Event:
    """Set when the first thing that the other end says is HTTP; then the tunnel is over."""
    link, spoken = tunnel.link, Event()
    begun = b""

    def first(view: memoryview) -> None:
        nonlocal begun
        begun += view
        if begun.startswith(b"HTTP"):
            spoken.set()
            tunnel.abort("it answers with HTTP")
        elif not b"HTTP".startswith(begun):
            link.on_data = tunnel.receive
            tunnel.receive(memoryview(begun))

    link.on_data = first
    return spoken


def compat_opening(options: ClientOptions, services: Services) -> compat.Opening:
    """What protocol 1 tells of a client, at first and when its services are replaced."""
    asked = (
        compat.CompatService(each.kind, each.host_prefix, each.port, each.random) for each in services.specs
    )
    return compat.Opening(options.id, options.secret, tuple(asked))


def _lists_plain(challenge: dict[str, Any]) -> bool:
    mechanisms = challenge.get("mechanisms")
    return isinstance(mechanisms, list) and PLAIN in mechanisms


def _is_loopback(link: Link) -> bool:
    try:
        address: Any = link.sock.getpeername()[0]
    except OSError as error:
        raise LinkError(f"{link.peer}: {error.strerror}") from error
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
