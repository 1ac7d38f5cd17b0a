"""The server: wires listeners, router, admission and registry together. Started by `gtapp.process.worker`."""

import logging
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from gtapp.config.load import ServerConfig
from gtapp.config.options import ServerOptions
from gtapp.config.values import Address
from gtapp.errors import ConfigError
from gtapp.observe import metrics
from gtapp.relay import tunnel
from gtapp.relay.clock import Clock
from gtapp.relay.pump import Idle
from gtapp.relay.tls import Handshakes
from gtapp.relay.tls_socket import wait_for_rests
from gtapp.server.admission import Admission
from gtapp.server.listeners import Listener, OnAccept, listen
from gtapp.server.lockout import Lockout
from gtapp.server.ports import Ports
from gtapp.server.registry import Registry
from gtapp.server.router import FIRST_BYTES_S, Router
from gtapp.server.users import Users

if TYPE_CHECKING:
    from gtapp.server.certificates import Certificate
    from gtapp.server.status_api import StatusAPI

log = logging.getLogger("gt.server")


class ServerApp:
    """One relay process of the server.

    `start` raises GTError when it cannot listen. `stop(grace)` waits up to `grace` seconds for what runs.
    """

    def __init__(self, config: ServerConfig) -> None:
        options = config.options
        address = options.addr or options.tls_addr
        if address is None:
            raise ConfigError("there is no address to listen on: set `addr`, for example addr: 8080")
        self._options = options
        self._clock = Clock([options.timeout, FIRST_BYTES_S])
        self._listeners: list[Listener] = []
        handshakes = Handshakes()
        self._certificate = _certificate(config)
        self._status = _status_api(options, handshakes, self._certificate)
        self._users = Users(config.users, options, own=self._status.user if self._status else None)
        self._lockout = Lockout(options.reconnect_times, options.reconnect_duration)
        self._registry = Registry()
        self._ports = Ports(address.host, self._registry, lambda *visitor: self._router.accept_port(*visitor))
        self._admission = Admission(
            options, self._users, self._lockout, self._registry, self._ports, self._clock
        )
        self._router = Router(
            options, self._idle(options), self._registry, self._users, handshakes, self._admission.admit
        )

    def start(self) -> None:
        options, router = self._options, self._router
        addr = self._listen(options.addr, router.accept_http, "visitors and tunnels")
        tls_addr = None
        if self._certificate is not None:
            accept = router.accept_tls(self._certificate)
            tls_addr = self._listen(options.tls_addr, accept, "visitors and tunnels, over TLS")
            self._clock.add(self._certificate)
        self._listen(options.sni_addr, router.accept_sni, "TLS to pass through")
        self._users.start()
        if self._status is not None:
            self._status.start(addr, tls_addr)
            self._clock.add(self._status)
        self._clock.add(router)
        self._clock.add(self._ports)
        self._clock.start()
        tunnel.watch(self._registry.tunnels)
        metrics.watch("clients", lambda: self._registry.clients)
        metrics.watch("visitors_waiting", lambda: router.waiting)

    def reload(self, config: ServerConfig) -> None:
        """Take over what may change while tunnels run: users, their limits, and the rules for who comes next."""
        options = self._options = self._admission.options = config.options
        self._router.set_options(options, self._idle(options))
        self._lockout.set(options.reconnect_times, options.reconnect_duration)
        if self._status is not None:
            self._status.set_options(options)
        for user_id in self._users.replace(config.users, options):
            for each in list(self._registry.tunnels_of(user_id)):
                each.abort(f"{user_id} may no longer log in like this")
            if self._users.get(user_id) is None:
                self._registry.forget(user_id)

    def stop(self, grace: float) -> None:
        if self._status is not None:
            self._status.stop()
        if self._certificate is not None:
            self._certificate.over = True
        for listener in self._listeners:
            listener.stop()
        self._admission.stop()
        self._ports.stop()
        self._router.stop()
        for each in self._registry.tunnels():
            each.drain()
        deadline = monotonic() + grace
        self._clock.wait(grace)
        cut = sum(len(each.streams) for each in self._registry.tunnels())
        if cut:
            log.warning("%d connections were still running after %.0f s and are cut", cut, grace)
        for each in self._registry.tunnels():
            each.abort("the server ends")
        self._clock.stop()
        self._users.stop()
        wait_for_rests(max(0.5, deadline - monotonic()))

    def _idle(self, options: ServerOptions) -> Idle:
        return Idle(self._clock.ticks(options.timeout), options.timeout_on_unidirectional_traffic)

    def _listen(self, address: Address | None, on_accept: OnAccept, what: str) -> str | None:
        """The address that is listened on, as text."""
        if address is None:
            return None
        listener = Listener(listen(address), on_accept)
        self._listeners.append(listener)
        listener.start()
        log.info("listening on %s (%s)", listener.address, what)
        return listener.address


def _certificate(config: ServerConfig) -> "Certificate | None":
    """That of `tlsAddr`. Raises GTError where it cannot be used."""
    options = config.options
    if options.tls_addr is None:
        return None
    from gtapp.server.certificates import Certificate  # brings 11 MB with it

    names = [options.tls_addr.host] if options.tls_addr.host else []
    beside = config.path.parent if config.path else Path()
    return Certificate(options.cert_file, options.key_file, names, beside, options.tls_version)


def _status_api(
    options: ServerOptions, handshakes: Handshakes, certificate: "Certificate | None"
) -> "StatusAPI | None":
    """Raises GTError where its certificate cannot be used."""
    if options.api_addr is None:
        return None
    from gtapp.server.status_api import StatusAPI

    return StatusAPI(options, handshakes, certificate)
