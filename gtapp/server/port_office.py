"""The TCP ports of clients, for all workers of a server: who has which one, and the sockets that listen there.

The office is the master's, so that a port outlives the workers that accept there. A worker's `Ports` reach it through
a `PortClerk`: the master hands its messages to `answer`.
"""

import logging
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from gtapp.config.values import Address, PortRange
from gtapp.errors import GTError, RemoteRefused
from gtapp.relay.channel import Channel, Message, close_all
from gtapp.relay.sockets import PlainSocket, plain_socket
from gtapp.server.listeners import listen

log = logging.getLogger("gt.server")

KEEP_S = 60.0  # how long a port stays its client's while that is away; visitors wait meanwhile
TRIES = 1000  # ports tried for a service that takes any
MAX_REMEMBERED = 10_000  # ports that services had, to be given to them again
ANSWER_S = 5.0  # for the office to answer a worker
AT_ONCE = 50  # sockets in one message

Slot = tuple[int, bool, int]
"""A service's place among its user's: port asked for, whether another will do, how many before asked for the same."""


@dataclass(frozen=True)
class Request:
    """What a worker wants for the services of a tunnel, and what it knows about the user's ports."""

    user_id: str
    host: str  # to listen on, "" is every address
    ranges: Sequence[PortRange]  # the ports that the user may open …
    limit: int  # … and how many, 0: any number
    slots: Mapping[int, Slot]  # by the service's index
    uses: Iterable[int] = ()  # the user's ports that tunnels of this worker publish
    frees: Iterable[
        int
    ] = ()  # those of them that only this tunnel publishes, which will have `slots` instead


class Lease(NamedTuple):
    """What it gets."""

    numbers: dict[int, int]  # by the service's index
    closed: list[int]  # ports of the user that had to make room; nobody used them


class Opener(Protocol):
    """The office as a worker's `Ports` see it. May wait, but for `release`."""

    def lease(self, request: Request) -> Lease: ...
    def sockets(self, numbers: Sequence[int]) -> dict[int, PlainSocket]: ...
    def release(self, number: int, keep: bool) -> None: ...


@dataclass(eq=False)
class _Port:
    number: int
    user_id: str
    slot: Slot
    host: str
    sock: PlainSocket
    holders: set[int] = field(default_factory=set)  # workers with tunnels that publish it
    unused_s: float = 0.0  # since there are none

    def is_needed(self, holder: int, frees: set[int]) -> bool:
        """Whether a tunnel goes on publishing it."""
        return bool(self.holders - {holder}) or (holder in self.holders and self.number not in frees)


class PortOffice:
    """Ports by number. A service that asks for the same gets the same: in another worker, or when it comes back.

    Holders are the numbers of workers. What a worker has not released when it is `gone` is kept for KEEP_S.
    """

    def __init__(self) -> None:
        self._ports: dict[int, _Port] = {}
        self._users: dict[str, dict[int, _Port]] = {}  # the same, by user
        self._slots: dict[tuple[str, Slot], _Port] = {}
        self._had: OrderedDict[tuple[str, Slot], int] = OrderedDict()
        self._closed = False

    def opener(self, holder: int) -> Opener:
        """The office for a holder in this process."""
        return _Counter(self, holder)

    def lease(self, holder: int, request: Request) -> Lease:
        """Ports for the slots of the request. Raises RemoteRefused, and then nothing has changed.

        They are the holder's until it releases them, or leaves them out of the `uses` of its next request.
        """
        if self._closed:
            raise RemoteRefused("port_unavailable", "the server ends")
        user_id, slots = request.user_id, request.slots.values()
        uses, frees = set(request.uses), set(request.frees)
        for port in self._of(user_id):
            if port.number not in uses:
                self._let_go(port, holder)
        needed = {*slots, *(port.slot for port in self._of(user_id) if port.is_needed(holder, frees))}
        if request.limit and len(needed) > request.limit:
            raise RemoteRefused(
                "too_many_ports", f"{user_id} may open {request.limit} TCP ports, not {len(needed)}"
            )
        closed = [port for port in self._of(user_id) if not port.holders and port.host != request.host]
        for port in closed:
            self._close(port)
        undo: list[Callable[[], None]] = []
        given: dict[int, _Port] = {}
        try:
            for index, slot in request.slots.items():
                found = self._find(request, slot, needed)
                port = found or self._open(request, slot, index)
                if found is None:
                    undo.append(partial(self._close, port))
                undo.append(self._put(port, slot))
                given[index] = port
        except RemoteRefused:
            for each in reversed(undo):
                each()
            raise
        for port in given.values():
            port.holders.add(holder)
            port.unused_s = 0.0
            self._remember(port)
        closed += self._close_surplus(request, needed)
        return Lease({index: port.number for index, port in given.items()}, [port.number for port in closed])

    def sockets(self, numbers: Sequence[int]) -> dict[int, PlainSocket]:
        """Sockets that listen there, for a holder, who closes them."""
        return {
            number: plain_socket(int(port.sock.family), os.dup(port.sock.fileno()))
            for number in numbers
            if (port := self._ports.get(number)) is not None
        }

    def release(self, holder: int, number: int, keep: bool) -> None:
        """The holder has no tunnel any more that publishes it: `keep` it for its client, who has just gone, or close
        it unless others hold it."""
        port = self._ports.get(number)
        if port is not None:
            self._let_go(port, holder)
            if not keep and not port.holders:
                self._close(port)

    def gone(self, holder: int) -> None:
        """The worker has ended."""
        for port in self._ports.values():
            self._let_go(port, holder)

    def tick(self, period: float) -> None:
        """So many seconds have passed."""
        for port in list(self._ports.values()):
            if not port.holders:
                port.unused_s += period
                if port.unused_s > KEEP_S:
                    self._close(port)

    def close(self) -> None:
        """Close them all, and open none any more."""
        self._closed = True
        for port in list(self._ports.values()):
            self._close(port)

    # another process takes over

    def state(self) -> list[dict[str, Any]]:
        """All that `restored` needs, as JSON, with the descriptors, which stay open. The office is used up then."""
        had = [[user_id, slot, number] for (user_id, slot), number in self._had.items()]
        ports = [
            {
                "number": port.number,
                "user": port.user_id,
                "slot": port.slot,
                "current": self._slots.get((port.user_id, port.slot)) is port,
                "host": port.host,
                "family": int(port.sock.family),
                "fd": port.sock.detach(),
                "holders": sorted(port.holders),
                "unused_s": port.unused_s,
            }
            for port in self._ports.values()
        ]
        return [{"had": had}, *ports]

    @classmethod
    def restored(cls, state: list[dict[str, Any]]) -> "PortOffice":
        office = cls()
        for each in state:
            if "had" in each:
                office._had.update({(user_id, _slot(slot)): number for user_id, slot, number in each["had"]})
                continue
            sock = plain_socket(each["family"], each["fd"])
            sock.set_inheritable(False)  # it had to be, to get here
            port = _Port(each["number"], each["user"], _slot(each["slot"]), each["host"], sock)
            port.holders, port.unused_s = set(each["holders"]), each["unused_s"]
            office._add(port)
            if each["current"]:
                office._slots[port.user_id, port.slot] = port
        return office

    # ports

    def _of(self, user_id: str) -> list[_Port]:
        return list(self._users.get(user_id, {}).values())

    def _add(self, port: _Port) -> None:
        self._ports[port.number] = port
        self._users.setdefault(port.user_id, {})[port.number] = port

    def _find(self, request: Request, slot: Slot, needed: set[Slot]) -> _Port | None:
        """The port that the slot has, or one that the user has asked for in another way before and needs no more."""
        for port in (self._slots.get((request.user_id, slot)), self._ports.get(slot[0])):
            if port is None or port.user_id != request.user_id or not _allowed(request.ranges, port.number):
                continue
            if port.slot == slot or port.slot not in needed:
                return port
        return None

    def _put(self, port: _Port, slot: Slot) -> Callable[[], None]:
        """Make it the slot's; what undoes that. One that the user may have no more is without a slot from now on."""
        key, before = (port.user_id, slot), port.slot
        instead, was_its = self._slots.get(key), self._slots.get((port.user_id, before)) is port

        def undo() -> None:
            if instead is None:
                self._slots.pop(key, None)
            else:
                self._slots[key] = instead
            port.slot = before
            if was_its:
                self._slots[port.user_id, before] = port

        if was_its and before != slot:
            del self._slots[port.user_id, before]
        port.slot = slot
        self._slots[key] = port
        return undo

    def _open(self, request: Request, slot: Slot, index: int) -> _Port:
        wanted, other, _ = slot
        user_id, ranges = request.user_id, request.ranges
        if not ranges:
            raise RemoteRefused(
                "port_unavailable", "this server opens no TCP ports (tcpRange is not set there)", index
            )
        problem = ""
        candidates = [wanted] if wanted else []
        if other:
            last = self._had.get((user_id, slot))
            candidates += ([last] if last else []) + _draw(ranges)
        for number in candidates:
            if not _allowed(ranges, number):
                problem = problem or f"port {number} is not among those that {user_id} may open"
            elif number in self._ports:
                problem = problem or f"port {number} is open for another client"
            else:
                try:
                    sock = listen(Address(request.host, number))
                except GTError as error:
                    problem = problem or str(error)
                else:
                    port = _Port(number, user_id, slot, request.host, sock)
                    self._add(port)
                    return port
        if not wanted:
            problem = f"no port that {user_id} may open is free"
        raise RemoteRefused("port_unavailable", problem, index)

    def _remember(self, port: _Port) -> None:
        key = (port.user_id, port.slot)
        self._had[key] = port.number
        self._had.move_to_end(key)
        if len(self._had) > MAX_REMEMBERED:
            self._had.popitem(last=False)

    def _let_go(self, port: _Port, holder: int) -> None:
        if holder in port.holders:
            port.holders.remove(holder)
            port.unused_s = 0.0

    def _close_surplus(self, request: Request, needed: set[Slot]) -> list[_Port]:
        """What is kept for a client that is away counts as well: the oldest ports go first."""
        if not request.limit:
            return []
        own = self._of(request.user_id)
        spare = [port for port in own if not port.holders and port.slot not in needed]
        closed = spare[: max(0, len(own) - request.limit)]
        for port in closed:
            self._close(port)
        return closed

    def _close(self, port: _Port) -> None:
        del self._ports[port.number]
        own = self._users[port.user_id]
        del own[port.number]
        if not own:
            del self._users[port.user_id]
        if self._slots.get((port.user_id, port.slot)) is port:
            del self._slots[port.user_id, port.slot]
        port.sock.close()


class _Counter:
    """See `PortOffice.opener`."""

    def __init__(self, office: PortOffice, holder: int) -> None:
        self._office = office
        self._holder = holder

    def lease(self, request: Request) -> Lease:
        return self._office.lease(self._holder, request)

    def sockets(self, numbers: Sequence[int]) -> dict[int, PlainSocket]:
        return self._office.sockets(numbers)

    def release(self, number: int, keep: bool) -> None:
        self._office.release(self._holder, number, keep)


# between worker and master


class PortClerk:
    """A worker's way to the office, through its channel to the master."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def lease(self, request: Request) -> Lease:
        """Where no answer comes, and the office has opened ports all the same, the next request gives them back."""
        values = self._call(
            {
                "user": request.user_id,
                "host": request.host,
                "ranges": [[each.first, each.last] for each in request.ranges],
                "limit": request.limit,
                "slots": list(request.slots.items()),
                "uses": list(request.uses),
                "frees": list(request.frees),
            }
        ).values
        if "problem" in values:
            raise RemoteRefused(values["code"], values["problem"], values["service"])
        return Lease(dict(values["numbers"]), values["closed"])

    def sockets(self, numbers: Sequence[int]) -> dict[int, PlainSocket]:
        found: dict[int, PlainSocket] = {}
        for first in range(0, len(numbers), AT_ONCE):
            message = self._call({"sockets": numbers[first : first + AT_ONCE]})
            for (number, family), fd in zip(message.values["sockets"], message.fds, strict=True):
                found[number] = plain_socket(family, fd)
        return found

    def release(self, number: int, keep: bool) -> None:
        self._channel.send("release_port", {"number": number, "keep": keep})

    def _call(self, values: dict[str, Any]) -> Message:
        try:
            return self._channel.call("port", values, timeout=ANSWER_S)
        except GTError as error:
            text = f"the server cannot open ports at the moment ({error}); try again later"
            raise RemoteRefused("port_unavailable", text) from error


def answer(office: PortOffice, holder: int, message: Message, channel: Channel) -> None:
    """Do what the worker `holder` asks for in a message, "port" or "release_port", that has come through `channel`."""
    close_all(message.fds)
    values = message.values
    if message.kind == "release_port":
        office.release(holder, values["number"], values["keep"])
    elif "sockets" in values:
        found = office.sockets(values["sockets"])
        families = [[number, int(sock.family)] for number, sock in found.items()]
        channel.reply(message, {"sockets": families}, fds=[sock.detach() for sock in found.values()])
    else:
        request = Request(
            user_id=values["user"],
            host=values["host"],
            ranges=[PortRange(first, last) for first, last in values["ranges"]],
            limit=values["limit"],
            slots={index: _slot(slot) for index, slot in values["slots"]},
            uses=values["uses"],
            frees=values["frees"],
        )
        try:
            lease = office.lease(holder, request)
        except RemoteRefused as error:
            channel.reply(message, {"problem": str(error), "code": error.code, "service": error.service})
        else:
            channel.reply(message, {"numbers": list(lease.numbers.items()), "closed": lease.closed})


def _slot(values: Sequence[Any]) -> Slot:
    """One that has been JSON."""
    port, other, before = values
    return port, other, before


def _allowed(ranges: Sequence[PortRange], number: int) -> bool:
    return any(each.first <= number <= each.last for each in ranges)


def _draw(ranges: Sequence[PortRange]) -> list[int]:
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
