"""What a client gets of the services it asks for: host prefixes and ports that its user may have. For admission."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gtapp.config.load import User
from gtapp.config.values import is_host_prefix
from gtapp.errors import RemoteRefused
from gtapp.relay.tunnel import Tunnel
from gtapp.server.ports import Ports
from gtapp.server.registry import Kind
from gtapp.wire.compat import CompatService
from gtapp.wire.handshake import ServiceSpec

AnyService = ServiceSpec | CompatService


@dataclass(frozen=True, slots=True)
class Offer:
    """`endpoints` (kind, name, service index) are to be published; `ready` says of each service what it got."""

    endpoints: list[tuple[Kind, str, int]]
    ready: list[dict[str, Any]]

    @property
    def ports(self) -> list[tuple[int, int]]:
        """Service index and port of the TCP services."""
        return [(index, int(name)) for kind, name, index in self.endpoints if kind == "tcp"]


def prefix_of(service: AnyService, user_id: str) -> str:
    """The host prefix that a service asks for, in lower case: the id where it names none."""
    prefix = service.host_prefix if isinstance(service, ServiceSpec) else service.prefix
    return (prefix or user_id).lower()


def prefixes(services: Sequence[AnyService], user_id: str, with_id: bool = False) -> list[str]:
    """The public ones of all services that have one, in order, before any rule is asked."""
    return [public(prefix_of(each, user_id), user_id, with_id) for each in services if each.kind != "tcp"]


def public(prefix: str, user_id: str, with_id: bool) -> str:
    """The name that visitors use; `with_id` is the option hostWithID, which leaves the id itself as it is."""
    user_id = user_id.lower()
    return f"{user_id}-{prefix}" if with_id and prefix != user_id else prefix


def offer(
    user: User,
    services: Sequence[AnyService],
    tunnel: Tunnel | None,
    ports: Ports,
    reserved: Callable[[str, str], bool],
    only: Collection[str] | None = None,
) -> Offer:
    """Check the services against what `user` may have, and open the ports, which may take a moment. Raises
    RemoteRefused.

    `tunnel` is the one that publishes them instead of what it has now, None for a new one. `reserved(name, id)` tells
    host prefixes that wait for other users; of those that are not among `only` the service is left out.
    """
    endpoints: list[tuple[Kind, str, int]] = []
    ready: list[dict[str, Any]] = []
    wanted: dict[int, tuple[int, bool]] = {}
    seen: set[tuple[Kind, str]] = set()
    for index, service in enumerate(services):
        if service.kind == "tcp":
            wanted[index] = (service.port, service.random)
            ready.append({})
            continue
        name = _name(user, prefix_of(service, user.id), index)
        if only is not None and name not in only:
            ready.append({"error": "host_not_allowed"})
            continue
        if reserved(name, user.id):
            raise RemoteRefused("host_conflict", f"host prefix {name!r} is another user's", index)
        if (service.kind, name) in seen:
            raise RemoteRefused("host_conflict", f"host prefix {name!r} appears twice", index)
        seen.add((service.kind, name))
        endpoints.append((service.kind, name, index))
        ready.append({"hostPrefix": name})
    names = {name for _, name in seen}
    if user.host_number and len(names) > user.host_number:
        text = f"{user.id} may publish {user.host_number} host prefixes, not {len(names)}"
        raise RemoteRefused("too_many_hosts", text)
    for index, port in ports.assign(user, wanted, tunnel).items():
        endpoints.append(("tcp", str(port), index))
        ready[index] = {"port": port}
    return Offer(endpoints, ready)


def _name(user: User, prefix: str, index: int) -> str:
    """The public host prefix for one that is asked for. The id itself is always the user's. Raises RemoteRefused."""
    name = public(prefix, user.id, user.host_with_id)
    if not is_host_prefix(name):  # before the rules, which may take long with a long text
        raise RemoteRefused("host_not_allowed", f"{name!r} cannot be a host prefix", index)
    rules = () if prefix == user.id.lower() else user.host_regex
    if rules and not any(re.search(pattern, prefix) for pattern in rules):
        text = f"host prefix {prefix!r} matches none of {user.id}'s rules: {', '.join(rules)}"
        raise RemoteRefused("host_not_allowed", text, index)
    return name
