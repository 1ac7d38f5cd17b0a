"""The client: services and a pool of tunnels to each server. Started by `gtapp.process.worker`."""

import logging
import secrets

from gtapp.client.dialer import Dialer
from gtapp.client.pool import Pool
from gtapp.client.services import Services
from gtapp.config.load import ClientConfig
from gtapp.config.values import URL
from gtapp.relay import tunnel
from gtapp.relay.clock import Clock
from gtapp.relay.stream import Stream
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import frames

log = logging.getLogger("gt.client")


class ClientApp:
    """One client process. `stop(grace)` waits up to `grace` seconds for what is running."""

    def __init__(self, config: ClientConfig) -> None:
        options = config.options
        self._clock = Clock([options.remote_timeout, *(service.local_timeout for service in config.services)])
        self._services = Services(config.services, self._clock)
        self._dialer = dialer = Dialer(config, secrets.token_hex(16), self._open)
        by_host: dict[str, list[URL]] = {}  # several URLs for one host are ways to one server
        for remote in options.remote:
            by_host.setdefault(remote.host, []).append(remote)
        self._pools = [Pool(remotes, options, dialer, self._clock) for remotes in by_host.values()]

    def start(self) -> None:
        self._clock.start()
        for pool in self._pools:
            pool.start()
        tunnel.watch(self._tunnels)

    def stop(self, grace: float) -> None:
        for pool in self._pools:
            pool.stop()
        self._clock.wait(grace)
        for each in self._tunnels():
            each.abort("the client ends")
        self._clock.stop()
        self._dialer.stop()

    def _tunnels(self) -> list[Tunnel]:
        return [each for pool in self._pools for each in pool.tunnels]

    def _open(self, stream: Stream, opened: frames.Open) -> None:
        self._services.open(stream, opened)
        for pool in self._pools:
            pool.wake()
