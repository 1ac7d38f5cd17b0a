"""Who serves what: endpoints, the tunnels that publish them here, and the siblings that serve them. Admission and the
siblings write, the router reads.

What this worker serves is told to its siblings, as a list of changes in their order, each of them
[what, kind, name, user, age]: "serves", "away" (its client has gone, `age` seconds ago) or "dropped" (for good).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Literal

from gtapp.errors import RemoteRefused
from gtapp.relay.channel import Message
from gtapp.relay.link import READ_STOP
from gtapp.relay.tunnel import Tunnel
from gtapp.server.siblings import Siblings

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

    It has one user, and for each tunnel that publishes it the service's index there. It is `served` here when one of
    them opens new streams.
    """

    __slots__ = ("kind", "name", "served", "siblings", "tunnels", "user_id", "waiting")

    def __init__(self, kind: Kind, name: str, user_id: str) -> None:
        self.kind = kind
        self.name = name
        self.user_id = user_id
        self.tunnels: dict[Tunnel, int] = {}
        self.served = False
        self.siblings: dict[int, None] = {}  # those that serve it
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

    def __init__(self, siblings: Siblings | None = None) -> None:
        self._endpoints: dict[tuple[Kind, str], Endpoint] = {}
        self._gone: OrderedDict[tuple[Kind, str], float] = OrderedDict()  # value: since when, oldest first
        self._tunnels: dict[str, list[Tunnel]] = {}
        self._published: dict[Tunnel, list[Endpoint]] = {}
        self._siblings = siblings or Siblings()
        self._changes: list[list[Any]] = []  # for the siblings
        self._siblings.on("endpoints", self._told)
        self._siblings.joined.append(self._tell_all)
        self._siblings.left.append(self._sibling_left)

    def find(self, kind: Kind, name: str) -> Endpoint | None:
        """The endpoint, if somebody publishes it or did in the last ten minutes."""
        key = (kind, name)
        endpoint = self._endpoints.get(key)
        if (
            endpoint is not None
            and not endpoint.tunnels
            and not endpoint.siblings
            and monotonic() - self._gone.get(key, 0.0) > REMEMBER_S
        ):
            self._remove(endpoint)
            return None
        return endpoint

    def tunnels_of(self, user_id: str) -> list[Tunnel]:
        """The user's tunnels that are open, oldest first."""
        return self._tunnels.get(user_id, [])

    def tunnels(self) -> list[Tunnel]:
        return [tunnel for tunnels in self._tunnels.values() for tunnel in tunnels]

    def users(self) -> list[str]:
        """Those with at least one tunnel."""
        return list(self._tunnels)

    @property
    def clients(self) -> int:
        """Users with at least one tunnel."""
        return len(self._tunnels)

    def published(self, tunnel: Tunnel) -> list[Endpoint]:
        """What `tunnel` publishes."""
        return self._published.get(tunnel, [])

    def endpoints(self) -> list[Endpoint]:
        """Those with tunnels here."""
        return [endpoint for endpoint in self._endpoints.values() if endpoint.tunnels]

    def publish(self, tunnel: Tunnel, user_id: str, wanted: Iterable[tuple[Kind, str, int]]) -> None:
        """Route to `tunnel` what it publishes, (kind, name, service index), in place of what it had.

        What its user publishes no more is free for others at once: that was no accident. Raises
        RemoteRefused("host_conflict") when another user has one of them; then nothing has changed.
        """
        wanted = list(wanted)
        for kind, name, _ in wanted:
            if self._taken(kind, name, user_id):
                raise RemoteRefused("host_conflict", f"{_WORDS[kind]} {name!r} is another user's")
        before = self.published(tunnel)
        self._withdraw_endpoints(tunnel)
        tunnels = self._tunnels.setdefault(user_id, [])
        if tunnel not in tunnels:
            tunnels.append(tunnel)
        tunnel.on_drain = partial(self._drains, tunnel)
        for kind, name, index in wanted:
            endpoint = self._get(kind, name, user_id)
            endpoint.tunnels[tunnel] = index
            self._published.setdefault(tunnel, []).append(endpoint)
            self._wake(endpoint)
        for endpoint in [*before, *self.published(tunnel)]:
            self._update(endpoint)
        for endpoint in before:
            if not endpoint.tunnels:
                self._drop(endpoint)
        self._tell()

    def withdraw(self, tunnel: Tunnel, user_id: str) -> None:
        """`tunnel` is closed."""
        published = self.published(tunnel)
        self._withdraw_endpoints(tunnel)
        for endpoint in published:
            self._update(endpoint)
        tunnels = self._tunnels.get(user_id, [])
        if tunnel in tunnels:
            tunnels.remove(tunnel)
            if not tunnels:
                del self._tunnels[user_id]
        self._tell()

    def forget(self, user_id: str) -> None:
        """The user is gone for good: what it has published is free for others."""
        for endpoint in list(self._endpoints.values()):
            if endpoint.user_id == user_id and not endpoint.tunnels:
                self._drop(endpoint)
        self._tell()

    def drop(self, endpoint: Endpoint) -> None:
        """Forget one that has gone; who still waits for it is told by finding nothing."""
        self._drop(endpoint)
        self._tell()

    # endpoints

    def _taken(self, kind: Kind, name: str, user_id: str) -> bool:
        """Whether it is another user's. Whose a port is has been decided where ports are opened: what is remembered
        and what siblings have told may only be older."""
        if kind == "tcp":
            endpoint = self._endpoints.get((kind, name))
            return endpoint is not None and endpoint.user_id != user_id and bool(endpoint.tunnels)
        found = [self.find(one, name) for one in HOSTS]
        return any(endpoint is not None and endpoint.user_id != user_id for endpoint in found)

    def _get(self, kind: Kind, name: str, user_id: str) -> Endpoint:
        """The user's endpoint, which is not gone."""
        key = (kind, name)
        endpoint = self._endpoints.get(key)
        if endpoint is not None and endpoint.user_id != user_id:
            self._remove(endpoint)
            endpoint = None
        if endpoint is None:
            endpoint = self._endpoints[key] = Endpoint(kind, name, user_id)
        self._gone.pop(key, None)
        return endpoint

    def _wake(self, endpoint: Endpoint) -> None:
        waiting, endpoint.waiting = endpoint.waiting, {}
        for wake in waiting:
            wake()

    def _withdraw_endpoints(self, tunnel: Tunnel) -> None:
        for endpoint in self._published.pop(tunnel, ()):
            del endpoint.tunnels[tunnel]
            self._check_gone(endpoint)

    def _check_gone(self, endpoint: Endpoint, age: float = 0.0) -> None:
        """Remember one that nobody serves any more."""
        key = (endpoint.kind, endpoint.name)
        if not endpoint.tunnels and not endpoint.siblings and self._endpoints.get(key) is endpoint:
            self._gone[key] = monotonic() - age
            if len(self._gone) > MAX_REMEMBERED:
                self._drop(self._endpoints[next(iter(self._gone))])

    def _drop(self, endpoint: Endpoint) -> None:
        if not endpoint.siblings and self._remove(endpoint):
            self._change("dropped", endpoint)

    def _remove(self, endpoint: Endpoint) -> bool:
        """Whether it was there, and not one that has taken its place."""
        key = (endpoint.kind, endpoint.name)
        if self._endpoints.get(key) is not endpoint:
            return False
        del self._endpoints[key]
        self._gone.pop(key, None)
        self._wake(endpoint)
        return True

    # what siblings are told

    def _drains(self, tunnel: Tunnel) -> None:
        for endpoint in self.published(tunnel):
            self._update(endpoint)
        self._tell()

    def _update(self, endpoint: Endpoint) -> None:
        served = any(not tunnel.draining for tunnel in endpoint.tunnels)
        if served != endpoint.served:
            endpoint.served = served
            self._change("serves" if served else "away", endpoint)

    def _change(self, what: str, endpoint: Endpoint) -> None:
        self._changes.append([what, endpoint.kind, endpoint.name, endpoint.user_id, 0.0])

    def _tell(self) -> None:
        changes, self._changes = self._changes, []
        if changes:
            self._siblings.tell("endpoints", {"changes": changes})

    def _tell_all(self, sibling: int) -> None:
        """There is a new one."""
        now = monotonic()
        changes: list[list[Any]] = [
            ["serves", each.kind, each.name, each.user_id, 0.0]
            for each in self._endpoints.values()
            if each.served
        ]
        for (kind, name), since in self._gone.items():
            user_id = self._endpoints[kind, name].user_id
            changes.append(["away", kind, name, user_id, round(now - since, 3)])
        if changes:
            self._siblings.tell_one(sibling, "endpoints", {"changes": changes})

    # what they tell

    def _told(self, sibling: int, message: Message) -> None:
        for what, kind, name, user_id, age in message.values["changes"]:
            if what == "serves":
                self._serves(sibling, kind, name, user_id)
            else:
                self._serves_not(sibling, kind, name, user_id, None if what == "dropped" else age)
        self._tell()

    def _serves(self, sibling: int, kind: Kind, name: str, user_id: str) -> None:
        """A sibling serves it. Where another user has it as well, published in the same moment, the lowest number of
        a worker counts."""
        rivals = [self._endpoints.get((one, name)) for one in (HOSTS if kind in HOSTS else (kind,))]
        others = [each for each in rivals if each is not None and each.user_id != user_id]
        for endpoint in others:
            own = self._siblings.number if endpoint.served else inf
            if min([own, *endpoint.siblings]) < sibling:
                return
        for endpoint in others:
            for tunnel in [each for each in endpoint.tunnels if not each.draining]:
                tunnel.abort(f"{_WORDS[kind]} {name!r} went to another user in the same moment")
            self._remove(endpoint)
        endpoint = self._get(kind, name, user_id)
        endpoint.siblings[sibling] = None
        self._wake(endpoint)

    def _serves_not(self, sibling: int, kind: Kind, name: str, user_id: str, age: float | None) -> None:
        """A sibling serves it no more; `age` None: for good."""
        endpoint = self._endpoints.get((kind, name))
        if endpoint is None and age is not None and age < REMEMBER_S and not self._taken(kind, name, user_id):
            endpoint = self._get(kind, name, user_id)
        if endpoint is None or endpoint.user_id != user_id:
            return
        endpoint.siblings.pop(sibling, None)
        if endpoint.tunnels or endpoint.siblings:
            return
        if age is None:
            self._remove(endpoint)
        elif (kind, name) not in self._gone:
            self._check_gone(endpoint, age)

    def _sibling_left(self, sibling: int) -> None:
        for endpoint in [each for each in self._endpoints.values() if sibling in each.siblings]:
            del endpoint.siblings[sibling]
            self._check_gone(endpoint)
        self._tell()
