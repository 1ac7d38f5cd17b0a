"""The client: services and a pool of tunnels to each server. Started by `gtapp.process.worker`."""

import secrets
from dataclasses import replace
from time import monotonic

from gtapp.client.dialer import Dialer
from gtapp.client.pool import Pool
from gtapp.client.remote_api import RemoteAPI
from gtapp.client.services import Services
from gtapp.config.load import ClientConfig
from gtapp.config.options import OPTIONS
from gtapp.config.values import URL
from gtapp.relay import tunnel
from gtapp.relay.clock import Clock
from gtapp.relay.tls_socket import wait_for_rests
from gtapp.relay.tunnel import Tunnel

_OPTIONS = OPTIONS["client"].values()


class ClientApp:
    """One client process. `stop(grace)` waits up to `grace` seconds for what is running."""

    def __init__(self, config: ClientConfig) -> None:
        self._options = options = config.options
        self._clock = Clock([options.remote_timeout, *(service.local_timeout for service in config.services)])
        services = Services(config.services, self._clock)
        self._dialer = Dialer(options, secrets.token_hex(16))
        find = None
        if options.remote_api:
            find = RemoteAPI(options.remote_api, options.id, options.remote_timeout).ask
        by_host: dict[str, list[URL]] = {}  # several URLs for one host are ways to one server
        for remote in options.remote:
            by_host.setdefault(remote.host, []).append(remote)
        self._pools = [
            Pool(remotes, find, options, self._dialer, self._clock, services)
            for remotes in list(by_host.values()) or [[]]
        ]

    def start(self) -> None:
        self._clock.start()
        for pool in self._pools:
            pool.start()
        tunnel.watch(self._tunnels)

    def reload(self, config: ClientConfig) -> None:
        """Take over the services of `config`, without touching running connections, and those of its options that
        apply live."""
        live = {each.name: getattr(config.options, each.name) for each in _OPTIONS if each.applies == "live"}
        self._options = replace(self._options, **live)
        self._dialer.set_options(self._options)
        services = Services(config.services, self._clock)
        for pool in self._pools:
            pool.set_options(self._options)
            pool.replace(services)

    def stop(self, grace: float) -> None:
        for pool in self._pools:
            pool.stop()
        deadline = monotonic() + grace
        self._clock.wait(grace)
        for each in self._tunnels():
            each.abort("the client ends")
        self._clock.stop()
        self._dialer.stop()
        wait_for_rests(max(0.5, deadline - monotonic()))

    def _tunnels(self) -> list[Tunnel]:
        return [each for pool in self._pools for each in pool.tunnels]
