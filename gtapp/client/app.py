"""The client: services and a pool of tunnels to each server. Started by `gtapp.process.worker`."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from gtapp.client.dialer import Dialer
from gtapp.client.health import Healths
from gtapp.client.pool import Pool
from gtapp.client.remote_api import RemoteAPI
from gtapp.client.services import Services
from gtapp.config.load import ClientConfig
from gtapp.config.options import OPTIONS, ClientOptions
from gtapp.config.values import URL
from gtapp.relay import facts, tunnel
from gtapp.relay.clock import Clock
from gtapp.relay.ending import end_tunnels
from gtapp.relay.tls_socket import wait_for_rests
from gtapp.relay.tunnel import Tunnel

_OPTIONS = OPTIONS["client"].values()

READY_S = 20.0  # `ready` is set by then, whatever the servers are doing

Share = tuple[int, int]
"""Which one of a client's workers this is, counted from 0, and how many they are."""


class ClientApp:
    """One client process; with several, each has its `share` of the tunnels.

    `ready` is set when every pool has, or has had, a tunnel, or could not get one for the reason in `problems`.
    """

    def __init__(self, config: ClientConfig, number: int = 0, share: Share = (0, 1)) -> None:
        self.number = number
        self.ready = Event()
        self._share = share
        self._retired = False
        self._options = options = _shared_out(config.options, share)
        self._clock = Clock([options.remote_timeout, *(service.local_timeout for service in config.services)])
        self._healths = Healths()
        services = Services(config.services, self._clock, self._healths)
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
        self._waiting: gevent.Greenlet[[], None] | None = None  # for `ready`

    def start(self) -> None:
        self._clock.start()
        for pool in self._pools:
            pool.start()
        tunnel.watch(self._tunnels)
        self._waiting = gevent.spawn(self._wait_until_ready)

    def _wait_until_ready(self) -> None:
        gevent.wait([pool.ready for pool in self._pools], timeout=READY_S)
        self.ready.set()

    @property
    def problems(self) -> list[str]:
        """Why there is no tunnel, for each pool without one."""
        return [pool.problem or "no answer yet" for pool in self._pools if not pool.tunnels]

    def reload(self, config: ClientConfig, sockets: Mapping[str, Any] | None = None) -> None:
        """Take over the services of `config`, without touching running connections, and those of its options that
        apply live. A client listens nowhere: there are no `sockets`."""
        new = _shared_out(config.options, self._share)
        live = {each.name: getattr(new, each.name) for each in _OPTIONS if each.applies == "live"}
        self._options = replace(self._options, **live)
        self._dialer.set_options(self._options)
        services = Services(config.services, self._clock, self._healths)
        for pool in self._pools:
            pool.set_options(self._options)
            pool.replace(services)

    def retire(self) -> None:
        """Another process is taking over: open nothing more. What runs goes on, until it is `over`."""
        self._retired = True
        for pool in self._pools:
            pool.stop()

    @property
    def over(self) -> bool:
        """Whether it has been retired, and nothing is left."""
        return self._retired and self._clock.over

    def stop(self, grace: float) -> int:
        """End, waiting up to `grace` seconds for what runs. The number of streams that were cut then."""
        deadline = monotonic() + grace
        self.retire()
        if self._waiting is not None:
            self._waiting.kill()
        cut = end_tunnels(self._clock, grace, "the client ends")
        self._clock.stop()
        self._dialer.stop()
        wait_for_rests(max(0.5, deadline - monotonic()))
        return cut

    # what is so, as JSON

    def status(self) -> dict[str, Any]:
        """The tunnels, the services with how they do, and why tunnels are missing."""
        services: dict[tuple[int, str], dict[str, None]] = {}
        for pool in self._pools:
            for index, (local, public) in enumerate(pool.public()):
                services.setdefault((index, local), {}).update(dict.fromkeys(public))
        healths = {each.account.name: each.status() for each in self._healths.all()}
        return {
            "tunnels": [each for pool in self._pools for each in pool.status(self.number)],
            "services": [
                {"local": local, "public": list(public), **healths.get(local, {})}
                for (_, local), public in services.items()
            ],
            "problems": self.problems,
        }

    def count(self) -> None:
        """Bring the process's counters up to date."""
        for each in facts.tunnels_of(self._clock):
            each.count()

    def metrics(self) -> dict[str, Any]:
        """What was relayed for which service."""
        tunnels = facts.tunnels_of(self._clock)
        accounts = [each.account for each in self._healths.all()]
        services = [
            {"kind": account.kind, "name": account.name, **values}
            for account, values in facts.numbers(accounts, tunnels)
        ]
        return {"services": services}

    def connections(self, limit: int, user: str | None) -> dict[str, Any]:
        """The newest connections of visitors; all are this client's."""
        is_mine = user in (None, self._options.id)
        tunnels = facts.tunnels_of(self._clock)
        found = facts.connections(self.number, tunnels, limit, lambda nobody: is_mine)
        for each in found["connections"]:
            each["user"] = self._options.id
        return found

    def disconnect(self, request: Mapping[str, Any], why: str) -> int:
        """Cut a connection, close a tunnel, or all of them where the user is this client; how many these were."""
        if "connection" in request:
            return facts.cut_connection(self.number, facts.tunnels_of(self._clock), request["connection"])
        if "user" in request:
            mine = self._tunnels() if request["user"] == self._options.id else []
            return facts.close_tunnels(self.number, mine, None, why)
        return facts.close_tunnels(self.number, self._tunnels(), request["tunnel"], why)

    def check(self) -> dict[str, Any]:
        """Whether there is a tunnel to each server, and the shortest round trip."""
        problems, tunnels = self.problems, self._tunnels()
        text = f"{len(tunnels)} tunnel{'s' * (len(tunnels) != 1)} up"
        if problems:
            text = "no tunnel: " + "; ".join(problems)
        rtt = min((each.rtt for each in tunnels if each.rtt), default=0.0)
        return {"works": not problems, "text": text, "ms": round(rtt * 1000, 1)}

    def _tunnels(self) -> list[Tunnel]:
        return [each for pool in self._pools for each in pool.tunnels]


def _shared_out(options: ClientOptions, share: Share) -> ClientOptions:
    """These with a worker's part of the tunnels, one at least."""
    index, count = share
    part = {
        name: max(1, (getattr(options, name) + count - 1 - index) // count)
        for name in ("remote_connections", "remote_idle_connections")
    }
    return replace(options, **part)
