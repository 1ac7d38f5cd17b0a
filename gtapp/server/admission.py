"""How a tunnel gets in: the server's side of the opening, protocol 3 or 1, in a greenlet until it is up."""

import logging
import socket
from collections.abc import Sequence
from typing import Any, cast

import gevent
from gevent.event import AsyncResult

from gtapp import __version__
from gtapp.config.load import User
from gtapp.config.options import ServerOptions
from gtapp.config.values import is_host_prefix
from gtapp.errors import GTError, LinkError, RemoteRefused, WireError
from gtapp.observe.metrics import counters
from gtapp.relay.clock import Clock
from gtapp.relay.link import Link
from gtapp.relay.opening import OPENING_S, Opening
from gtapp.relay.stream import INITIAL_WINDOW
from gtapp.relay.tunnel import Tunnel
from gtapp.server.registry import Registry
from gtapp.server.users import Users
from gtapp.wire import compat, frames
from gtapp.wire.handshake import HandshakeError, ServerHandshake, ServiceSpec, error_message

log = logging.getLogger("gt.server")

MAX_OPENINGS = 1000  # tunnels that are being opened at a time; beyond that the oldest makes room
MAX_HELLO_BYTES = 8192  # of the first message, which anybody may send
PROBE_S = 2.0  # how long the tunnels of a user who is at the limit have to show that they live
COMPAT_SILENT_S = 30.0  # the same for protocol 1, whose clients can't be asked and ping every 22.5 s

AnyService = ServiceSpec | compat.CompatService

# What protocol 1 can say of a refusal, by the word of protocol 3.
_COMPAT_CODES = {
    "invalid_credentials": compat.INVALID_CREDENTIALS,
    "too_many_connections": compat.TOO_MANY_CONNECTIONS,
    "host_conflict": compat.HOST_CONFLICT,
    "host_not_allowed": compat.HOST_NOT_ALLOWED,
    "too_many_hosts": compat.TOO_MANY_HOSTS,
    "too_many_services": compat.TOO_MANY_OPTIONS,
    "port_unavailable": compat.TCP_PORT_FAILED,
    "too_many_ports": compat.TOO_MANY_TCP_PORTS,
}


class Refused(RemoteRefused):
    """We refuse. `service`: the index of the service it is about."""

    def __init__(self, code: str, message: str, service: int | None = None) -> None:
        super().__init__(code, message)
        self.service = service


class Admission:
    def __init__(self, options: ServerOptions, users: Users, registry: Registry, clock: Clock) -> None:
        self._options = options
        self._users = users
        self._registry = registry
        self._clock = clock
        self._openings: dict[Any, Link] = {}  # oldest first
        self._stopping = False

    def admit(self, sock: socket.socket, peer: str, data: bytes) -> None:
        """Begin the opening on a connection whose first bytes `data` are `F0` and a protocol number."""
        number = data[1]
        if number not in self._options.protocols or self._stopping:
            log.info("tunnel from %s closed: protocol %d is not accepted here now", peer, number)
            sock.close()
            return
        if len(self._openings) >= MAX_OPENINGS:
            oldest = next(iter(self._openings))
            counters.handshakes_failed += 1
            self._openings.pop(oldest).abort()  # here: a greenlet that has not begun yet never will
            oldest.kill(block=False)
        link = Link(sock, peer)
        self._openings[gevent.spawn(self._open, link, number, data[2:])] = link

    def stop(self) -> None:
        self._stopping = True

    def _open(self, link: Link, number: int, data: bytes) -> None:
        problem = ""
        try:
            with gevent.Timeout(OPENING_S):
                if number == 1:
                    self._open_compat(link, data)
                else:
                    self._open_native(link, data)
        except gevent.GreenletExit:
            log.info("tunnel from %s gives way: too many are being opened", link.peer)
        except gevent.Timeout:
            problem = f"the opening took longer than {OPENING_S:.0f} s"
        except GTError as error:
            problem = str(error)
        except Exception:
            log.exception("unexpected error in the opening of a tunnel from %s", link.peer)
            problem = "internal error"
        finally:
            self._openings.pop(gevent.getcurrent(), None)
        if problem:
            counters.handshakes_failed += 1
            log.warning("tunnel from %s refused: %s", link.peer, problem)
            link.finish()

    # protocol 3

    def _open_native(self, link: Link, data: bytes) -> None:
        wire = frames.Frames()
        wire.max_control_bytes = MAX_HELLO_BYTES
        tunnel = Tunnel(link, wire, self._options.timeout, is_server=True)
        opening = Opening(tunnel)
        tunnel.start()
        tunnel.receive(memoryview(data))
        try:
            handshake = ServerHandshake(agent=f"gt/{__version__}")
            hello = handshake.hello(opening.receive_message())
            if hello.secret is not None:
                if not self._users.check(hello.id, hello.secret):
                    raise _invalid_credentials()
                tunnel.send_control(handshake.challenge(None))
            else:
                tunnel.send_control(handshake.challenge(self._users.verifier(hello.id)))
            wire.max_control_bytes = frames.MAX_CONTROL_BYTES
            auth = handshake.auth(opening.receive_message())
            user = self._known(hello.id)
            hosts = self._hosts(user, auth.services)
            self._make_room(user)
            self._registry.publish(tunnel, user.id, hosts)
        except (HandshakeError, RemoteRefused) as error:
            service = error.service if isinstance(error, Refused) else None
            tunnel.send_control(error_message(error.code, str(error), service))
            raise
        tunnel.send_control(handshake.ready(_published(hosts), INITIAL_WINDOW, self._options.timeout, 1))
        self._up(tunnel, opening, user)

    def _native_control(self, tunnel: Tunnel, user: User, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "drain":
            tunnel.drained_by_peer()
        elif kind == "services":
            self._replace_native(tunnel, user, message)
        elif kind == "notice":
            log.info("%s says: %s", tunnel.name, message.get("text"))

    def _replace_native(self, tunnel: Tunnel, user: User, message: dict[str, Any]) -> None:
        try:
            services = message.get("services")
            if not isinstance(services, list):
                raise HandshakeError("protocol_error", "services is no list")
            hosts = self._hosts(user, [ServiceSpec.from_dict(service) for service in services])
            self._registry.publish(tunnel, user.id, hosts)
        except RemoteRefused as error:
            tunnel.send_control(error_message(error.code, str(error)))
        except WireError as error:
            tunnel.send_control(error_message("protocol_error", str(error)))
        else:
            tunnel.send_control({"type": "ready", "services": _published(hosts)})

    # protocol 1

    def _open_compat(self, link: Link, data: bytes) -> None:
        reader = compat.OpeningReader(self._options.max_hand_shake_options)
        try:
            try:
                asked = self._read_opening(link, reader, data)
            except compat.TooManyOptions as error:
                raise RemoteRefused("too_many_services", str(error)) from error
            if not self._users.check(asked.id, asked.secret):
                raise _invalid_credentials()
            user = self._known(asked.id)
            hosts = self._hosts(user, asked.services)
            self._make_room(user)
            wire = compat.CompatFrames(server=True, max_options=self._options.max_hand_shake_options)
            tunnel = Tunnel(link, wire, self._options.timeout, is_server=True)
            opening = Opening(tunnel)
            self._registry.publish(tunnel, user.id, hosts)
        except RemoteRefused as error:
            link.write(compat.signal(_compat_error(error)))
            raise
        tunnel.send_signal(compat.Ready())
        tunnel.receive(memoryview(reader.rest))
        self._up(tunnel, opening, user)

    def _read_opening(self, link: Link, reader: compat.OpeningReader, data: bytes) -> compat.Opening:
        """Wait for the whole opening; the link is not read any further then. Raises WireError, LinkError."""
        result: AsyncResult[Any] = AsyncResult()

        def take(view: bytes | memoryview) -> None:
            try:
                asked = reader.receive(view)
            except WireError as error:
                link.on_data = None
                result.set_exception(error)
            else:
                if asked is not None:
                    link.pause_reading()
                    result.set(asked)

        link.on_data = take
        link.on_lost = lambda reason: result.set_exception(LinkError(reason))
        link.start()
        take(data)
        return cast(compat.Opening, result.get())

    def _compat_control(self, tunnel: Tunnel, user: User, signal: compat.Signal) -> None:
        if isinstance(signal, compat.Close):
            if tunnel.peer_drains:
                tunnel.abort("closed by the client")
            else:
                tunnel.drain()  # GT answers the first CLOSE with its own
                tunnel.drained_by_peer()
        elif isinstance(signal, compat.Services):
            gevent.spawn(self._replace_compat, tunnel, user, signal.opening)

    def _replace_compat(self, tunnel: Tunnel, user: User, asked: compat.Opening) -> None:
        try:
            if asked.id != user.id or not self._users.check(asked.id, asked.secret):
                raise _invalid_credentials()
            if not tunnel.closed:
                self._registry.publish(tunnel, user.id, self._hosts(user, asked.services))
        except RemoteRefused as error:
            tunnel.send_signal(_compat_error(error))
        else:
            tunnel.send_signal(compat.ServicesDone())

    # both

    def _known(self, user_id: str) -> User:
        user = self._users.get(user_id)
        if user is None:  # it has just proved its secret
            raise _invalid_credentials()
        return user

    def _hosts(self, user: User, services: Sequence[AnyService]) -> list[tuple[str, int]]:
        """The host prefixes that `services` ask for, each with the service's index. Raises Refused."""
        if len(services) > self._options.max_hand_shake_options:
            raise Refused("too_many_services", f"more than {self._options.max_hand_shake_options} services")
        hosts: dict[str, int] = {}
        for index, service in enumerate(services):
            if service.kind == "tcp":
                raise Refused("port_unavailable", "this server does not open TCP ports yet", index)
            if service.kind != "http":
                raise Refused("host_not_allowed", "this server does not pass TLS through yet", index)
            name = (_prefix(service) or user.id).lower()
            if not is_host_prefix(name):
                raise Refused("host_not_allowed", f"{name!r} cannot be a host prefix", index)
            if self._users.reserved_for_others(name, user.id):
                raise Refused("host_conflict", f"host prefix {name!r} is another user's", index)
            if name in hosts:
                raise Refused("host_conflict", f"host prefix {name!r} appears twice", index)
            hosts[name] = index
        return list(hosts.items())

    def _make_room(self, user: User) -> None:
        """See that the user may have one more tunnel: those of a client that has vanished make room for new ones.

        Raises Refused("too_many_connections").
        """
        tunnels = list(self._registry.tunnels_of(user.id))
        for tunnel in tunnels:
            tunnel.doubt()
        if len(tunnels) < user.connections:
            return
        gevent.sleep(PROBE_S)
        for tunnel in tunnels:
            if tunnel.is_dead(PROBE_S / 2 if tunnel.has_windows else COMPAT_SILENT_S):
                tunnel.abort("its client is gone and has come back with a new tunnel")
        if len(self._registry.tunnels_of(user.id)) >= user.connections:
            raise Refused("too_many_connections", f"{user.id} has its {user.connections} tunnels already")

    def _up(self, tunnel: Tunnel, opening: Opening, user: User) -> None:
        tunnel.name = f"tunnel of {user.id} from {tunnel.link.peer}"

        def closed(reason: str) -> None:
            self._registry.withdraw(tunnel, user.id)
            if not tunnel.draining:
                counters.tunnels_lost += 1
            log.info("%s is down: %s", tunnel.name, reason)

        control = self._native_control if tunnel.has_windows else self._compat_control
        try:
            opening.hand_over(lambda message: control(tunnel, user, message), closed)
        except LinkError:
            self._registry.withdraw(tunnel, user.id)
            raise
        self._clock.add(tunnel)
        counters.tunnels_opened += 1
        log.info("%s is up", tunnel.name)
        tunnel.opened()
        if self._stopping:
            tunnel.drain()


def _published(hosts: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """What `ready` says of the services, in their order."""
    return [{"hostPrefix": name} for name, _ in hosts]


def _invalid_credentials() -> RemoteRefused:
    """The same words for every protocol and for both reasons: nobody learns which ids exist."""
    return RemoteRefused("invalid_credentials", "unknown id or wrong secret")


def _compat_error(error: RemoteRefused) -> compat.Error:
    code = _COMPAT_CODES[error.code]
    index = error.service if isinstance(error, Refused) and code == compat.TCP_PORT_FAILED else None
    return compat.Error(code, index)


def _prefix(service: AnyService) -> str | None:
    return service.host_prefix if isinstance(service, ServiceSpec) else service.prefix
