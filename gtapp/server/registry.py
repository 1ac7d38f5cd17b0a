"""Who serves what: host prefixes and the tunnels that publish them. Admission writes, the router reads."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic

from gtapp.errors import RemoteRefused
from gtapp.relay.link import READ_STOP
from gtapp.relay.tunnel import Tunnel

REMEMBER_S = 600.0  # how long a host that has gone counts as "away" rather than "not found"
MAX_REMEMBERED = 10_000  # hosts that have gone, at most


class Host:
    """A host prefix: its user, and for each tunnel that publishes it the service's index there."""

    __slots__ = ("name", "tunnels", "user_id", "waiting")

    def __init__(self, name: str, user_id: str) -> None:
        self.name = name
        self.user_id = user_id
        self.tunnels: dict[Tunnel, int] = {}
        self.waiting: dict[Callable[[], None], None] = {}  # called, in order, when a tunnel comes

    def choose(self) -> tuple[Tunnel, int] | None:
        """The tunnel for a new visitor, the least busy of those that answer; None when the host is away."""
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
    """All hosts, and the tunnels of each user."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()  # name -> when, oldest first
        self._tunnels: dict[str, list[Tunnel]] = {}
        self._published: dict[Tunnel, list[Host]] = {}

    def find(self, name: str) -> Host | None:
        """The host, if somebody publishes it or did in the last ten minutes."""
        host = self._hosts.get(name)
        if host is not None and not host.tunnels and monotonic() - self._gone.get(name, 0.0) > REMEMBER_S:
            self._drop(host)
            return None
        return host

    def tunnels_of(self, user_id: str) -> list[Tunnel]:
        """The user's tunnels that are open, oldest first."""
        return self._tunnels.get(user_id, [])

    def tunnels(self) -> list[Tunnel]:
        return [tunnel for tunnels in self._tunnels.values() for tunnel in tunnels]

    @property
    def clients(self) -> int:
        """Users with at least one tunnel."""
        return len(self._tunnels)

    def publish(self, tunnel: Tunnel, user_id: str, hosts: Iterable[tuple[str, int]]) -> None:
        """Route `hosts`, pairs of host prefix and service index, to `tunnel`, in place of what it had.

        Raises RemoteRefused("host_conflict") when another user has one of them; then nothing has changed.
        """
        wanted = dict(hosts)
        for name in wanted:
            host = self.find(name)
            if host is not None and host.user_id != user_id:
                raise RemoteRefused("host_conflict", f"host prefix {name!r} is another user's")
        self._withdraw_hosts(tunnel)
        tunnels = self._tunnels.setdefault(user_id, [])
        if tunnel not in tunnels:
            tunnels.append(tunnel)
        for name, index in wanted.items():
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = Host(name, user_id)
            self._gone.pop(name, None)
            host.tunnels[tunnel] = index
            self._published.setdefault(tunnel, []).append(host)
            waiting, host.waiting = host.waiting, {}
            for wake in waiting:
                wake()

    def withdraw(self, tunnel: Tunnel, user_id: str) -> None:
        """`tunnel` is closed."""
        self._withdraw_hosts(tunnel)
        tunnels = self._tunnels.get(user_id, [])
        if tunnel in tunnels:
            tunnels.remove(tunnel)
            if not tunnels:
                del self._tunnels[user_id]

    def _withdraw_hosts(self, tunnel: Tunnel) -> None:
        for host in self._published.pop(tunnel, ()):
            del host.tunnels[tunnel]
            if not host.tunnels:
                self._gone[host.name] = monotonic()
                if len(self._gone) > MAX_REMEMBERED:
                    self._drop(self._hosts[next(iter(self._gone))])

    def _drop(self, host: Host) -> None:
        """Forget a host that has gone; who still waits for it is told by finding nothing."""
        self._gone.pop(host.name, None)
        if self._hosts.pop(host.name, None) is not None:
            for wake in host.waiting:
                wake()
