"""The TCP ports that clients have opened: which ones they may have, and the sockets that listen there.

Called by admission; visitors go to the router.
"""

import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

from gtapp.config.load import User
from gtapp.config.values import Address, PortRange
from gtapp.errors import GTError, RemoteRefused
from gtapp.relay.sockets import Socket
from gtapp.relay.tunnel import Tunnel
from gtapp.server.listeners import Listener, listen
from gtapp.server.registry import Registry

log = logging.getLogger("gt.server")

KEEP_S = 60.0  # how long a port stays its client's while that is away; visitors wait a moment there
TRIES = 1000  # ports tried for a service that takes any
MAX_REMEMBERED = 10_000  # ports that services had, to be given to them again

Slot = tuple[int, bool, int]
"""A service's place among its user's: port asked for, whether another will do, how many before asked for the same."""


class _Port:
    def __init__(self, number: int, user_id: str, listener: Listener) -> None:
        self.number = number
        self.user_id = user_id
        self.listener = listener
        self.unused_s = 0.0


class Ports:
    """Listens on `host` ("" is every address) and calls `on_accept(port, connection, visitor's address)`.

    Tunnels of one user that ask for the same get the same port: they are its client's, or serve it together.
    """

    def __init__(self, host: str, registry: Registry, on_accept: Callable[[int, Socket, str], None]) -> None:
        self._host = host
        self._registry = registry
        self._on_accept = on_accept
        self._ports: dict[str, dict[Slot, _Port]] = {}  # by user
        self._had: OrderedDict[tuple[str, Slot], int] = OrderedDict()
        self.over = False

    def assign(
        self, user: User, wanted: Mapping[int, tuple[int, bool]], tunnel: Tunnel | None
    ) -> dict[int, int]:
        """The ports of the services `wanted` (index: port asked for, whether any other will do), by index.

        They listen when this returns, and are closed again unless they are published at once. `tunnel` is the one
        whose services these replace. Raises RemoteRefused, and then nothing has changed.
        """
        before: Counter[tuple[int, bool]] = Counter()
        slots: dict[int, Slot] = {}
        for index, (port, other) in wanted.items():
            asked = (port, other or not port)
            slots[index] = (*asked, before[asked])
            before[asked] += 1
        held = self._ports.setdefault(user.id, {})
        needed = self._needed(user, held, slots, tunnel)
        spare = {port.number: slot for slot, port in held.items() if slot not in needed}
        opened: list[Slot] = []
        moved: dict[Slot, Slot] = {}  # ports that it asks for in another way than before
        try:
            for index, slot in slots.items():
                if slot not in held and slot[0] in spare:
                    moved[slot] = spare.pop(slot[0])
                    held[slot] = held.pop(moved[slot])
                if slot in held and not _allowed(user.tcp_range, held[slot].number):
                    self._close(user.id, slot)
                if slot not in held:
                    held[slot] = self._open(user, slot, index)
                    opened.append(slot)
        except RemoteRefused:
            for slot in opened:
                self._close(user.id, slot)
            for slot in moved.keys() & held.keys():
                held[moved[slot]] = held.pop(slot)
            raise
        for slot in slots.values():
            held[slot].unused_s = 0.0
        if user.tcp_number:  # what is kept for a client that is away counts as well
            for slot in [slot for slot in held if slot not in needed][: max(0, len(held) - user.tcp_number)]:
                self._close(user.id, slot)
        return {index: held[slot].number for index, slot in slots.items()}

    def tick(self, period: float) -> None:
        """Close the ports that are published no more, or whose clients have been away for long."""
        for user_id, held in list(self._ports.items()):
            if not held:
                del self._ports[user_id]
            for slot, port in list(held.items()):
                endpoint = self._registry.find("tcp", str(port.number))
                if endpoint is not None and endpoint.tunnels:
                    port.unused_s = 0.0
                    continue
                port.unused_s += period
                if endpoint is None or port.unused_s > KEEP_S:
                    self._close(user_id, slot)

    def stop(self) -> None:
        self.over = True
        for user_id, held in list(self._ports.items()):
            for slot in list(held):
                self._close(user_id, slot)

    def _needed(
        self, user: User, held: Mapping[Slot, _Port], slots: Mapping[int, Slot], tunnel: Tunnel | None
    ) -> set[Slot]:
        """These, and what the user's other tunnels have. Raises RemoteRefused where that is more than he may have."""
        needed = set(slots.values())
        for slot, port in held.items():
            endpoint = self._registry.find("tcp", str(port.number))
            if endpoint is not None and endpoint.tunnels.keys() - {tunnel}:
                needed.add(slot)
        if user.tcp_number and len(needed) > user.tcp_number:
            raise RemoteRefused(
                "too_many_ports", f"{user.id} may open {user.tcp_number} TCP ports, not {len(needed)}"
            )
        return needed

    def _open(self, user: User, slot: Slot, index: int) -> _Port:
        wanted, other, _ = slot
        ranges = user.tcp_range
        if not ranges:
            raise RemoteRefused(
                "port_unavailable", "this server opens no TCP ports (tcpRange is not set there)", index
            )
        problem = ""
        candidates = [wanted] if wanted else []
        if other:
            last = self._had.get((user.id, slot))
            candidates += ([last] if last else []) + _draw(ranges)
        for number in candidates:
            if not _allowed(ranges, number):
                problem = problem or f"port {number} is not among those that {user.id} may open"
                continue
            try:
                return self._listen(user.id, slot, number)
            except GTError as error:
                taken = self._registry.find("tcp", str(number))
                problem = problem or (f"port {number} is open for another client" if taken else str(error))
        if not wanted:
            problem = f"no port that {user.id} may open is free"
        raise RemoteRefused("port_unavailable", problem, index)

    def _listen(self, user_id: str, slot: Slot, number: int) -> _Port:
        sock = listen(Address(self._host, number))
        listener = Listener(sock, lambda connection, peer: self._on_accept(number, connection, peer))
        listener.start()
        self._had[user_id, slot] = number
        self._had.move_to_end((user_id, slot))
        if len(self._had) > MAX_REMEMBERED:
            self._had.popitem(last=False)
        log.info("listening on %s for %s", listener.address, user_id)
        return _Port(number, user_id, listener)

    def _close(self, user_id: str, slot: Slot) -> None:
        port = self._ports[user_id].pop(slot)
        port.listener.stop()
        endpoint = self._registry.find("tcp", str(port.number))
        if endpoint is not None and not endpoint.tunnels:
            self._registry.drop(endpoint)
        log.info("port %d of %s is closed", port.number, user_id)


def _allowed(ranges: tuple[PortRange, ...], number: int) -> bool:
    return any(each.first <= number <= each.last for each in ranges)


def _draw(ranges: tuple[PortRange, ...]) -> list[int]:
    """Ports of `ranges` in random order, at most TRIES."""
    sizes = [each.last - each.first + 1 for each in ranges]
    total = sum(sizes)
    drawn = []
    for place in random.sample(range(total), min(total, TRIES)):
        for each, size in zip(ranges, sizes, strict=True):
            if place < size:
                drawn.append(each.first + place)
                break
            place -= size
    return drawn
