"""Who serves what: endpoints and the tunnels that publish them. Admission writes, the router reads."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Literal

from gtapp.errors import RemoteRefused
from gtapp.relay.link import READ_STOP
from gtapp.relay.tunnel import Tunnel

REMEMBER_S = 600.0  # how long an endpoint that has gone counts as "away" rather than "not found"
MAX_REMEMBERED = 10_000  # endpoints that have gone, at most

Kind = Literal["http", "tls", "tcp"]
HOSTS: tuple[Kind, Kind] = (
    "http",
    "tls",
)  # a host prefix belongs to one user, whichever of them they publish
_WORDS = {"http": "host prefix", "tls": "host prefix", "tcp": "port"}


class Endpoint:
    """What visitors come to: a host prefix (of HTTP, or of TLS that is passed through), or a TCP port.

    It has one user, and for each tunnel that publishes it the service's index there.
    """

    __slots__ = ("kind", "name", "tunnels", "user_id", "waiting")

    def __init__(self, kind: Kind, name: str, user_id: str) -> None:
        self.kind = kind
        self.name = name
        self.user_id = user_id
        self.tunnels: dict[Tunnel, int] = {}
        self.waiting: dict[Callable[[], None], None] = {}  # called, in order, when a tunnel comes

    def choose(self) -> tuple[Tunnel, int] | None:
        """The tunnel for a new visitor, the least busy of those that answer; None when its client is away."""
        best: Tunnel | None = None
        load = (False, 0, 0)
        for tunnel in self.tunnels:
            if tunnel.draining or tunnel.link.queued > READ_STOP:  # that one is stuck
                continue
            its_load = (tunnel.suspect, len(tunnel.streams), tunnel.link.queued)
            if best is None or its_load < load:
                best, load = tunnel, its_load
        return None if best is None else (best, self.tunnels[best])


class Registry:
    """All endpoints, and the tunnels of each user."""

    def __init__(self) -> None:
        self._endpoints: dict[tuple[Kind, str], Endpoint] = {}
        self._gone: OrderedDict[tuple[Kind, str], float] = OrderedDict()  # value: since when, oldest first
        self._tunnels: dict[str, list[Tunnel]] = {}
        self._published: dict[Tunnel, list[Endpoint]] = {}

    def find(self, kind: Kind, name: str) -> Endpoint | None:
        """The endpoint, if somebody publishes it or did in the last ten minutes."""
        key = (kind, name)
        endpoint = self._endpoints.get(key)
        if (
            endpoint is not None
            and not endpoint.tunnels
            and monotonic() - self._gone.get(key, 0.0) > REMEMBER_S
        ):
            self.drop(endpoint)
            return None
        return endpoint

    def tunnels_of(self, user_id: str) -> list[Tunnel]:
        """The user's tunnels that are open, oldest first."""
        return self._tunnels.get(user_id, [])

    def tunnels(self) -> list[Tunnel]:
        return [tunnel for tunnels in self._tunnels.values() for tunnel in tunnels]

    @property
    def clients(self) -> int:
        """Users with at least one tunnel."""
        return len(self._tunnels)

    def published(self, tunnel: Tunnel) -> list[Endpoint]:
        """What `tunnel` publishes."""
        return self._published.get(tunnel, [])

    def publish(self, tunnel: Tunnel, user_id: str, wanted: Iterable[tuple[Kind, str, int]]) -> None:
        """Route to `tunnel` what it publishes, (kind, name, service index), in place of what it had.

        What its user publishes no more is free for others at once: that was no accident. Raises
        RemoteRefused("host_conflict") when another user has one of them; then nothing has changed.
        """
        wanted = list(wanted)
        for kind, name, _ in wanted:
            for one in HOSTS if kind in HOSTS else (kind,):
                endpoint = self.find(one, name)
                if endpoint is not None and endpoint.user_id != user_id:
                    raise RemoteRefused("host_conflict", f"{_WORDS[kind]} {name!r} is another user's")
        before = self.published(tunnel)
        self._withdraw_endpoints(tunnel)
        tunnels = self._tunnels.setdefault(user_id, [])
        if tunnel not in tunnels:
            tunnels.append(tunnel)
        for kind, name, index in wanted:
            key = (kind, name)
            endpoint = self._endpoints.get(key)
            if endpoint is None:
                endpoint = self._endpoints[key] = Endpoint(kind, name, user_id)
            self._gone.pop(key, None)
            endpoint.tunnels[tunnel] = index
            self._published.setdefault(tunnel, []).append(endpoint)
            waiting, endpoint.waiting = endpoint.waiting, {}
            for wake in waiting:
                wake()
        for endpoint in before:
            if not endpoint.tunnels:
                self.drop(endpoint)

    def withdraw(self, tunnel: Tunnel, user_id: str) -> None:
        """`tunnel` is closed."""
        self._withdraw_endpoints(tunnel)
        tunnels = self._tunnels.get(user_id, [])
        if tunnel in tunnels:
            tunnels.remove(tunnel)
            if not tunnels:
                del self._tunnels[user_id]

    def forget(self, user_id: str) -> None:
        """The user is gone for good: what it has published is free for others."""
        for endpoint in list(self._endpoints.values()):
            if endpoint.user_id == user_id and not endpoint.tunnels:
                self.drop(endpoint)

    def drop(self, endpoint: Endpoint) -> None:
        """Forget one that has gone; who still waits for it is told by finding nothing."""
        key = (endpoint.kind, endpoint.name)
        if self._endpoints.get(key) is endpoint:  # and not one that has taken its place
            del self._endpoints[key]
            self._gone.pop(key, None)
            for wake in endpoint.waiting:
                wake()

    def _withdraw_endpoints(self, tunnel: Tunnel) -> None:
        for endpoint in self._published.pop(tunnel, ()):
            del endpoint.tunnels[tunnel]
            if not endpoint.tunnels:
                self._gone[endpoint.kind, endpoint.name] = monotonic()
                if len(self._gone) > MAX_REMEMBERED:
                    self.drop(self._endpoints[next(iter(self._gone))])
