"""The server: wires listeners, router, admission and registry together. Started by `gtapp.process.worker`."""

import logging

from gtapp.config.load import ServerConfig
from gtapp.errors import ConfigError
from gtapp.observe import metrics
from gtapp.relay import tunnel
from gtapp.relay.clock import Clock
from gtapp.relay.pump import Idle
from gtapp.server.admission import Admission
from gtapp.server.listeners import Listener, listen
from gtapp.server.registry import Registry
from gtapp.server.router import HEAD_TIMEOUT_S, Router
from gtapp.server.users import Users

log = logging.getLogger("gt.server")


class ServerApp:
    """One relay process of the server.

    `start` raises GTError when it cannot listen. `stop(grace)` waits up to `grace` seconds for what runs.
    """

    def __init__(self, config: ServerConfig) -> None:
        options = config.options
        if options.addr is None:
            raise ConfigError("there is no address to listen on: set `addr`, for example addr: 8080")
        self._address = options.addr
        self._clock = Clock([options.timeout, HEAD_TIMEOUT_S])
        self._registry = Registry()
        self._users = Users(config.users)
        self._admission = Admission(options, self._users, self._registry, self._clock)
        idle = Idle(self._clock.ticks(options.timeout), options.timeout_on_unidirectional_traffic)
        self._router = Router(self._registry, self._admission.admit, options.http_mux_header, idle)
        self._listeners: list[Listener] = []

    def start(self) -> None:
        listener = Listener(listen(self._address), self._router.accept)
        self._listeners.append(listener)
        self._users.start()
        self._clock.add(self._router)
        self._clock.start()
        listener.start()
        log.info("listening on %s (visitors and tunnels)", listener.address)
        tunnel.watch(self._registry.tunnels)
        metrics.watch("clients", lambda: self._registry.clients)
        metrics.watch("visitors_waiting", lambda: self._router.waiting)

    def stop(self, grace: float) -> None:
        for listener in self._listeners:
            listener.stop()
        self._admission.stop()
        self._router.stop()
        for each in self._registry.tunnels():
            each.drain()
        self._clock.wait(grace)
        cut = sum(len(each.streams) for each in self._registry.tunnels())
        if cut:
            log.warning("%d connections were still running after %.0f s and are cut", cut, grace)
        for each in self._registry.tunnels():
            each.abort("the server ends")
        self._clock.stop()
        self._users.stop()
