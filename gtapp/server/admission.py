"""How a tunnel gets in: the server's side of the opening, protocol 3 or 1, in a greenlet until it is up."""

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, cast

import gevent
from gevent.event import AsyncResult

from gtapp import __version__
from gtapp.config.options import ServerOptions
from gtapp.errors import GTError, LinkError, RemoteRefused, WireError
from gtapp.observe.logs import Limited
from gtapp.observe.metrics import counters, tunnel_opening
from gtapp.relay.clock import Clock
from gtapp.relay.link import Link
from gtapp.relay.opening import OPENING_S, Opening
from gtapp.relay.sockets import Socket
from gtapp.relay.stream import INITIAL_WINDOW
from gtapp.relay.tls import TLSSocket
from gtapp.relay.tunnel import Tunnel
from gtapp.server.headcount import Headcount
from gtapp.server.lockout import Lockout
from gtapp.server.offers import AnyService, Offer, offer, prefixes
from gtapp.server.ports import Ports
from gtapp.server.registry import Registry
from gtapp.server.siblings import Siblings
from gtapp.server.users import Login, Users, invalid_credentials
from gtapp.wire import compat, frames
from gtapp.wire.handshake import HandshakeError, ServerHandshake, ServiceSpec, error_message

log = logging.getLogger("gt.server")
strangers = Limited("gt.server")  # for lines that anybody can cause

MAX_OPENINGS = 1000  # tunnels that are being opened at a time; beyond that the oldest makes room
MAX_HELLO_BYTES = 8192  # of the first message, which anybody may send
MAX_CHANGES = 16  # of a tunnel's services that wait for the one before

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


class Admission:
    def __init__(
        self,
        options: ServerOptions,
        users: Users,
        lockout: Lockout,
        registry: Registry,
        ports: Ports,
        clock: Clock,
        siblings: Siblings | None = None,
    ) -> None:
        self.options = options  # may be replaced while tunnels run
        self._users = users
        self._lockout = lockout
        self._registry = registry
        self._ports = ports
        self._clock = clock
        self._openings: dict[Any, Link] = {}  # oldest first
        self._changes: dict[Tunnel, int] = {}  # of services, that are not done yet
        self._headcount = Headcount(registry, siblings or Siblings(), users.get)
        self._stopping = False
        users.rivalled = self._abort_all

    def admit(self, sock: Socket, peer: str, data: bytes) -> None:
        """Begin the opening on a connection whose first bytes `data` are `F0` and a protocol number."""
        number = data[1]
        if number not in self.options.protocols or self._stopping:
            strangers.info("tunnel from %s closed: protocol %d is not accepted here now", peer, number)
            sock.close()
            return
        if len(self._openings) >= MAX_OPENINGS:
            oldest = next(iter(self._openings))
            counters.handshakes_failed += 1
            self._openings.pop(oldest).abort()  # here: a greenlet that has not begun yet never will
            oldest.kill(block=False)
        link = Link(sock, peer)
        self._openings[gevent.spawn(self._open, link, number, data[2:])] = link

    @property
    def is_opening(self) -> bool:
        """Whether there are tunnels that are not up yet."""
        return bool(self._openings)

    def stop(self) -> None:
        self._stopping = True

    def _open(self, link: Link, number: int, data: bytes) -> None:
        problem, level = "", logging.WARNING
        began = monotonic()
        try:
            with gevent.Timeout(OPENING_S):
                if number == 1:
                    self._open_compat(link, data)
                else:
                    self._open_native(link, data)
            tunnel_opening.observe(monotonic() - began)
        except gevent.GreenletExit:
            strangers.info("tunnel from %s gives way: too many are being opened", link.peer)
        except gevent.Timeout:
            problem = f"the opening took longer than {OPENING_S:.0f} s"
        except LinkError as error:
            problem, level = str(error), logging.INFO
        except GTError as error:
            problem = str(error)
            if isinstance(error, RemoteRefused) and error.code == "locked_out":
                level = logging.INFO
        except Exception:
            strangers.exception("unexpected error in the opening of a tunnel from %s", link.peer)
            problem = "internal error"
        finally:
            self._openings.pop(gevent.getcurrent(), None)
        if problem:
            counters.handshakes_failed += 1
            strangers.log(level, "tunnel from %s refused: %s", link.peer, problem)
            link.finish()

    # protocol 3

    def _open_native(self, link: Link, data: bytes) -> None:
        wire = frames.Frames()
        wire.max_control_bytes = MAX_HELLO_BYTES
        tunnel = Tunnel(link, wire, self.options.timeout, is_server=True)
        opening = Opening(tunnel)
        tunnel.start()
        tunnel.receive(memoryview(data))
        login = None
        try:
            binding = link.sock.channel_binding if isinstance(link.sock, TLSSocket) else None
            agent = f"gt/{__version__}"
            handshake = ServerHandshake(agent, binding, plain=bool(self.options.auth_api))
            hello = handshake.hello(opening.receive_message())
            tunnel.agent = hello.agent
            self._check_lockout(link.peer, hello.id)
            login = self._users.begin(hello.id)
            verifier = login.verifier() if hello.secret is None else None
            enroll = verifier is None and hello.secret is None
            tunnel.send_control(handshake.enroll() if enroll else handshake.challenge(verifier))
            wire.max_control_bytes = frames.MAX_CONTROL_BYTES
            proof = opening.receive_message()
            self._check_lockout(link.peer, hello.id)  # others may have failed since the hello
            auth = handshake.auth(proof)
            self._check_number(auth.services)
            if hello.secret is not None:
                self._check_secret(login, hello.secret, auth.services, link.peer)
            elif auth.verifier is not None:
                login.enrolled(auth.verifier)
            else:
                login.proved()
            self._headcount.make_room(login.user)
            offered = self._publish(tunnel, login, auth.services, is_new=True)
            tunnel.send_control(handshake.ready(offered.ready, INITIAL_WINDOW, self.options.timeout, 1))
            self._up(tunnel, opening, login)
        except BaseException as error:
            if login is not None:
                login.close()
            if isinstance(error, HandshakeError | RemoteRefused):
                self._count_failure(link.peer, error.code)
                tunnel.send_control(_refusal(error))
            raise

    def _native_control(self, tunnel: Tunnel, login: Login, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "drain":
            tunnel.drained_by_peer()
        elif kind == "services":
            self._replace_soon(self._replace_native, tunnel, login, message)
        elif kind == "notice":
            log.info("%s says: %s", tunnel.name, message.get("text"))

    def _replace_native(self, tunnel: Tunnel, login: Login, message: dict[str, Any]) -> None:
        try:
            services = message.get("services")
            if not isinstance(services, list):
                raise HandshakeError("protocol_error", "services is no list")
            specs = [ServiceSpec.from_dict(service) for service in services]
            self._check_number(specs)
            with login.changing:
                login.ask_again(self._prefixes(specs, login.user.id))
                offered = self._publish(tunnel, login, specs)
        except RemoteRefused as error:
            tunnel.send_control(_refusal(error))
        except WireError as error:
            tunnel.send_control(error_message("protocol_error", str(error)))
        else:
            tunnel.send_control({"type": "ready", "services": offered.ready})

    # protocol 1

    def _open_compat(self, link: Link, data: bytes) -> None:
        reader = compat.OpeningReader(self.options.max_hand_shake_options)
        login = None
        try:
            try:
                asked = self._read_opening(link, reader, data)
            except compat.TooManyOptions as error:
                raise RemoteRefused("too_many_services", str(error)) from error
            self._check_lockout(link.peer, asked.id)
            login = self._users.begin(asked.id)
            self._check_secret(login, asked.secret, asked.services, link.peer)
            self._headcount.make_room(login.user)
            wire = compat.CompatFrames(server=True, max_options=self.options.max_hand_shake_options)
            tunnel = Tunnel(link, wire, self.options.timeout, is_server=True)
            opening = Opening(tunnel)
            offered = self._publish(tunnel, login, asked.services, is_new=True)
            _tell_ports(tunnel, offered)
            tunnel.send_signal(compat.Ready())
            tunnel.receive(memoryview(reader.rest))
            self._up(tunnel, opening, login)
        except BaseException as error:
            if login is not None:
                login.close()
            if isinstance(error, RemoteRefused):
                self._count_failure(link.peer, error.code)
                _refuse_compat(link, error)
            raise

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

    def _compat_control(self, tunnel: Tunnel, login: Login, signal: compat.Signal) -> None:
        if isinstance(signal, compat.Close):
            if tunnel.peer_drains:
                tunnel.abort("closed by the client")
            else:
                tunnel.drain()  # GT answers the first CLOSE with its own
                tunnel.drained_by_peer()
        elif isinstance(signal, compat.Services):
            self._replace_soon(self._replace_compat, tunnel, login, signal.opening)

    def _replace_compat(self, tunnel: Tunnel, login: Login, asked: compat.Opening) -> None:
        try:
            if asked.id != login.user.id:
                raise invalid_credentials()
            with login.changing:
                login.check(asked.secret, self._prefixes(asked.services, asked.id))
                offered = self._publish(tunnel, login, asked.services)
        except RemoteRefused as error:
            _refuse_compat(tunnel.link, error)
        else:
            _tell_ports(tunnel, offered)
            tunnel.send_signal(compat.ServicesDone())

    # both

    def _replace_soon(
        self, replace: Callable[[Tunnel, Login, Any], None], tunnel: Tunnel, login: Login, asked: Any
    ) -> None:
        waiting = self._changes.get(tunnel, 0)
        if waiting < MAX_CHANGES:
            self._changes[tunnel] = waiting + 1
            gevent.spawn(replace, tunnel, login, asked).rawlink(lambda _: self._changed(tunnel))
        else:
            tunnel.broken("it changes its services faster than that can be checked")

    def _changed(self, tunnel: Tunnel) -> None:
        self._changes[tunnel] -= 1
        if not self._changes[tunnel]:
            del self._changes[tunnel]

    def _check_lockout(self, peer: str, user_id: str) -> None:
        left = self._lockout.locked(peer)
        if left and not self._users.is_own(user_id):
            raise RemoteRefused("locked_out", f"too many failed logins from this address, wait {left:.0f} s")

    def _check_secret(self, login: Login, secret: str, services: Sequence[AnyService], peer: str) -> None:
        try:
            login.check(secret, self._prefixes(services, login.id))
        except RemoteRefused:
            self._check_lockout(peer, login.id)
            raise
        self._check_lockout(peer, login.id)  # a guess that began before is told nothing, right or wrong

    def _prefixes(self, services: Sequence[AnyService], user_id: str) -> list[str]:
        """What an authAPI is asked about."""
        return prefixes(services, user_id, self.options.host_with_id)

    def _count_failure(self, peer: str, code: str) -> None:
        if code == "invalid_credentials":
            self._lockout.failed(peer)

    def _check_number(self, services: Sequence[AnyService]) -> None:
        most = self.options.max_hand_shake_options
        if len(services) > most:
            raise RemoteRefused("too_many_services", f"more than {most} services")

    def _publish(
        self, tunnel: Tunnel, login: Login, services: Sequence[AnyService], is_new: bool = False
    ) -> Offer:
        """Give the services what they ask for, in place of what the tunnel had. Waits. Raises RemoteRefused."""
        reserved = self._users.reserved_for_others
        offered = offer(login.user, services, tunnel, self._ports, reserved, login.hosts)
        user = login.user  # it may have lost its right meanwhile, or a running tunnel may have ended
        if is_new:
            self._headcount.check(user)
        self._registry.publish(tunnel, user.id, offered.endpoints)
        if is_new:
            self._headcount.changed(user.id)
        return offered

    def _abort_all(self, user_id: str, reason: str) -> None:
        for tunnel in list(self._registry.tunnels_of(user_id)):
            tunnel.abort(reason)

    def _up(self, tunnel: Tunnel, opening: Opening, login: Login) -> None:
        user_id = login.user.id
        own = self._users.is_own(user_id)
        tunnel.name = f"tunnel of {'the status check' if own else user_id} from {tunnel.link.peer}"
        level = logging.DEBUG if own else logging.INFO  # a check comes every few seconds

        def withdraw() -> None:
            self._registry.withdraw(tunnel, user_id)
            self._headcount.changed(user_id)

        def closed(reason: str) -> None:
            withdraw()
            login.close()
            if not tunnel.draining:
                counters.tunnels_lost += 1
            log.log(level, "%s is down: %s", tunnel.name, reason)

        control: Callable[[Tunnel, Login, Any], None]
        control = self._native_control if tunnel.has_windows else self._compat_control
        try:
            if tunnel.link.closed:  # `admit` tells nobody
                raise LinkError("it gives way: too many are being opened")
            opening.hand_over(lambda message: control(tunnel, login, message), closed)
        except LinkError:
            withdraw()
            raise
        self._clock.add(tunnel)
        counters.tunnels_opened += 1
        log.log(level, "%s is up", tunnel.name)
        tunnel.opened()
        if self._stopping:
            tunnel.drain()


def _refusal(error: HandshakeError | RemoteRefused) -> dict[str, Any]:
    return error_message(error.code, str(error), getattr(error, "service", None))


def _tell_ports(tunnel: Tunnel, offered: Offer) -> None:
    for index, port in offered.ports:
        tunnel.send_signal(compat.Info(compat.TCP_PORT_OPENED, index, port))


def _refuse_compat(link: Link, error: RemoteRefused) -> None:
    """Protocol 1's signal for a refusal. For some it has none: there a close has to do."""
    code = _COMPAT_CODES.get(error.code)
    if code is None:
        return
    index = error.service if code == compat.TCP_PORT_FAILED else None
    link.write(compat.signal(compat.Error(code, index)))
