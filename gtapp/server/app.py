"""The server: wires listeners, router, admission and registry together. Started by `gtapp.process.worker`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent.event import Event

from gtapp.config.load import ServerConfig
from gtapp.config.options import ServerOptions
from gtapp.errors import ConfigError, GTError
from gtapp.observe import metrics
from gtapp.observe.accounts import Accounts
from gtapp.relay import facts, tunnel
from gtapp.relay.clock import Clock
from gtapp.relay.ending import end_tunnels
from gtapp.relay.pump import Idle
from gtapp.relay.sockets import PlainSocket
from gtapp.relay.tls import Handshakes
from gtapp.relay.tls_socket import TLSSocket, wait_for_rests
from gtapp.relay.tunnel import Tunnel
from gtapp.server.admission import Admission
from gtapp.server.listeners import Listener, OnAccept
from gtapp.server.lockout import Lockout
from gtapp.server.port_office import Opener
from gtapp.server.ports import Ports
from gtapp.server.registry import Registry
from gtapp.server.retirement import Retirement
from gtapp.server.router import FIRST_BYTES_S, Router
from gtapp.server.self_check import CheckFailed, SelfCheck, status_user
from gtapp.server.siblings import Siblings
from gtapp.server.users import Users

if TYPE_CHECKING:
    from gtapp.server.certificates import Certificate
    from gtapp.server.status_api import StatusAPI

log = logging.getLogger("gt.server")

MEET_S = 2.0  # how long a new worker waits to be told what its siblings serve, before it accepts visitors


@dataclass
class Shared:
    """What a worker has got from its master: `sockets` listen, by option; `ports` opens those of clients; `key` is 32
    random bytes of this server."""

    sockets: dict[str, PlainSocket]
    siblings: Siblings
    ports: Opener
    key: bytes


class ServerApp:
    """One relay process of the server: a worker, with or without siblings. It is `ready` when it listens.

    The constructor raises GTError where the configuration cannot be used.
    """

    def __init__(self, config: ServerConfig, shared: Shared) -> None:
        options = config.options
        address = options.addr or options.tls_addr
        if address is None:
            raise ConfigError("there is no address to listen on: set `addr`, for example addr: 8080")
        self.ready = Event()
        self._options = options
        self._shared = shared
        self._siblings = shared.siblings
        self._clock = Clock([options.timeout, FIRST_BYTES_S])
        self._listeners: dict[str, Listener] = {}
        self._retirement: Retirement | None = None
        self._handshakes = Handshakes()
        self._certificate = _certificate(config)
        own = status_user(shared.key)
        self._check = SelfCheck(options, self._handshakes, own, shared.siblings.number)
        self._status = _status_api(config, self._handshakes, self._check)
        self._users = Users(config.users, options, own=own, key=shared.key, siblings=self._siblings)
        self._accounts = Accounts()
        self._lockout = Lockout(options.reconnect_times, options.reconnect_duration, self._siblings)
        self._registry = Registry(self._siblings)
        self._ports = Ports(
            address.host,
            self._registry,
            lambda *visitor: self._router.accept_port(*visitor),
            shared.ports,
            shared.siblings,
        )
        self._admission = Admission(
            options,
            self._users,
            self._lockout,
            self._registry,
            self._ports,
            self._clock,
            self._siblings,
        )
        self._router = Router(
            options,
            self._idle(options),
            self._registry,
            self._users,
            self._handshakes,
            self._admission.admit,
            self._siblings,
            self._accounts,
        )

    def start(self) -> None:
        router = self._router
        self._users.start()
        self._clock.add(router)
        self._clock.add(router.handover)
        self._clock.add(self._ports)
        self._clock.start()
        tunnel.watch(self._registry.tunnels)
        metrics.watch("clients", lambda: self._registry.clients)
        metrics.watch("visitors_waiting", lambda: router.waiting)
        self._siblings.start()
        self._siblings.wait(MEET_S)
        self._listen(self._shared.sockets)
        self.ready.set()

    def reload(self, config: ServerConfig, sockets: Mapping[str, PlainSocket]) -> None:
        """Take over what may change while tunnels run: users, their limits, the rules for who comes next, and where to
        listen: `sockets` are used up, and may be other descriptors of those that there are. Raises GTError."""
        try:
            if "tlsAddr" in sockets and self._certificate is None:
                self._certificate = _certificate(config)
            if "apiAddr" in sockets and self._status is None:
                self._status = _status_api(config, self._handshakes, self._check)
        except GTError:
            for sock in sockets.values():
                sock.close()
            raise
        options = self._options = self._admission.options = config.options
        self._router.set_options(options, self._idle(options))
        self._lockout.set(options.reconnect_times, options.reconnect_duration)
        address = options.addr or options.tls_addr
        if address is not None:
            self._ports.host = address.host
        for user_id in self._users.replace(config.users, options):
            for each in list(self._registry.tunnels_of(user_id)):
                each.abort(f"{user_id} may no longer log in like this")
            if self._users.get(user_id) is None:
                self._registry.forget(user_id)
        if self._retirement is not None:
            for sock in sockets.values():
                sock.close()
            return
        self._check.options = options
        self._listen(sockets)

    def retire(self) -> None:
        """Others take over: accept nothing more, have the clients come over to them. What runs goes on until it is
        `over`."""
        if self._retirement is None:
            self._stop_listening()
            self._ports.retire()
            self._retirement = Retirement(
                self._registry, self._siblings, self._router, self._admission, self._clock
            )
            self._retirement.start()

    @property
    def over(self) -> bool:
        """Whether it has retired, and nothing is left."""
        answers = self._status is not None and self._status.is_answering
        return self._retirement is not None and self._retirement.over and not answers

    def stop(self, grace: float) -> int:
        """End, waiting up to `grace` seconds for what runs. The number of streams that were cut then."""
        deadline = monotonic() + grace
        if self._retirement is not None:
            self._retirement.stop()
        self._stop_listening()
        if self._status is not None:
            self._status.stop()
        self._check.stop()
        self._ports.stop()
        if self._certificate is not None:
            self._certificate.over = True
        self._admission.stop()
        self._router.stop()
        for each in self._registry.tunnels():
            each.drain()
        cut = end_tunnels(self._clock, grace, "the server ends")
        cut += self._router.handover.cut()
        self._clock.stop()
        self._users.stop()
        wait_for_rests(max(0.5, deadline - monotonic()))
        return cut

    # what is so, as JSON; without the server's own user

    def status(self) -> dict[str, Any]:
        """The tunnels, and what they publish."""
        users = self._clients()
        return {
            "tunnels": [
                self._tunnel(user_id, each)
                for user_id in users
                for each in self._registry.tunnels_of(user_id)
            ],
            "hosts": [
                {"kind": each.kind, "name": each.name, "user": each.user_id}
                for each in self._registry.endpoints()
                if not self._users.is_own(each.user_id)
            ],
            "clients": len(users),
            "waiting": self._router.waiting,
        }

    def _tunnel(self, user_id: str, tunnel: Tunnel) -> dict[str, Any]:
        bytes_in, bytes_out = tunnel.relayed
        return {
            "id": facts.tunnel_id(self._siblings.number, tunnel),
            "user": user_id,
            "peer": tunnel.link.peer,
            "agent": tunnel.agent,
            "protocol": tunnel.frames.version,
            "transport": "tls" if isinstance(tunnel.link.sock, TLSSocket) else "tcp",
            "age_s": round(tunnel.age, 1),
            "rtt_ms": round(tunnel.rtt * 1000, 1),
            "loss": round(tunnel.loss, 4),
            "streams": len(tunnel.streams),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "state": tunnel.state,
        }

    def count(self) -> None:
        """Bring the process's counters up to date."""
        for each in facts.tunnels_of(self._clock):
            each.count()

    def metrics(self) -> dict[str, Any]:
        """What was relayed for whom."""
        tunnels = facts.tunnels_of(self._clock)
        found = facts.numbers(self._accounts.all(), tunnels)
        users = facts.by_user([*found, *facts.numbers(self._accounts.dropped(), ())])
        for user_id in self._clients():
            users.setdefault(user_id, dict(facts.NOTHING))
        is_own = self._users.is_own
        return {
            "users": {
                user_id: {"tunnels": len(self._registry.tunnels_of(user_id)), **values}
                for user_id, values in users.items()
                if not is_own(user_id)
            },
            "hosts": [
                {"kind": account.kind, "name": account.name, "user": account.user, **values}
                for account, values in found
                if not is_own(account.user)
            ],
        }

    def connections(self, limit: int, user: str | None) -> dict[str, Any]:
        """The newest connections of visitors."""
        is_own = self._users.is_own

        def wanted(user_id: str) -> bool:
            return user_id == user if user is not None else not is_own(user_id)

        return facts.connections(self._siblings.number, facts.tunnels_of(self._clock), limit, wanted)

    def disconnect(self, request: Mapping[str, Any], why: str) -> int:
        """Cut a connection, close a tunnel, or all of a user; how many these were."""
        number = self._siblings.number
        if "connection" in request:
            return facts.cut_connection(number, facts.tunnels_of(self._clock), request["connection"])
        if "user" in request:
            return facts.close_tunnels(number, list(self._registry.tunnels_of(request["user"])), None, why)
        tunnels = [each for user_id in self._clients() for each in self._registry.tunnels_of(user_id)]
        return facts.close_tunnels(number, tunnels, request["tunnel"], why)

    def check(self) -> dict[str, Any]:
        """Whether a request gets through a tunnel of our own."""
        began = monotonic()
        found: dict[str, Any] = {"works": True, "text": "a request came in and back through a tunnel"}
        try:
            self._check.run()
        except CheckFailed as error:
            found = {"works": False, "text": f"{error.step}: {error}", "step": error.step}
        return found | {"ms": round((monotonic() - began) * 1000, 1)}

    def _clients(self) -> list[str]:
        """Users with tunnels."""
        return [user_id for user_id in self._registry.users() if not self._users.is_own(user_id)]

    def _idle(self, options: ServerOptions) -> Idle:
        return Idle(self._clock.ticks(options.timeout), options.timeout_on_unidirectional_traffic)

    def _listen(self, sockets: Mapping[str, PlainSocket]) -> None:
        """Listen on these alone, and go on where that is so already."""
        accepts: dict[str, OnAccept] = {
            "addr": self._router.accept_http,
            "sniAddr": self._router.accept_sni,
        }
        if self._certificate is not None:
            accepts["tlsAddr"] = self._router.accept_tls(self._certificate)
            self._clock.add(self._certificate)
        if self._status is not None:
            accepts["apiAddr"] = self._status.accept
            self._clock.add(self._status)
        for key, listener in list(self._listeners.items()):
            if key not in sockets or not listener.take_over(sockets[key]):
                listener.stop()
                del self._listeners[key]
        for key, sock in sockets.items():
            if key in accepts and key not in self._listeners:
                self._listeners[key] = Listener(sock, accepts[key])
                self._listeners[key].start()
        self._tell_check()

    def _tell_check(self) -> None:
        addr, tls_addr = (self._listeners.get(key) for key in ("addr", "tlsAddr"))
        self._check.set_listeners(
            addr.address if addr else None, tls_addr.address if tls_addr else None, self._certificate
        )

    def _stop_listening(self) -> None:
        for listener in self._listeners.values():
            listener.stop()
        self._listeners.clear()
        self._tell_check()


def _certificate(config: ServerConfig) -> "Certificate | None":
    """That of `tlsAddr`. Raises GTError where it cannot be used."""
    options = config.options
    if options.tls_addr is None:
        return None
    from gtapp.server.certificates import Certificate  # brings 11 MB with it

    names = [options.tls_addr.host] if options.tls_addr.host else []
    beside = config.path.parent if config.path else Path()
    return Certificate(options.cert_file, options.key_file, names, beside, options.tls_version)


def _status_api(config: ServerConfig, handshakes: Handshakes, check: SelfCheck) -> "StatusAPI | None":
    """Raises GTError where its certificate cannot be used."""
    if config.options.api_addr is None:
        return None
    from gtapp.server.status_api import StatusAPI

    return StatusAPI(config.options, handshakes, check)
