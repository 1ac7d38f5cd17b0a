"""The TCP ports that clients have in this worker: who publishes them, and the listeners there.

Called by admission; visitors go to the router. Which port a service gets is decided in the office, for all workers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from gevent import get_hub
from gevent.lock import BoundedSemaphore

from gtapp.config.load import User
from gtapp.errors import RemoteRefused
from gtapp.relay.channel import Message
from gtapp.relay.sockets import Socket
from gtapp.relay.tunnel import Tunnel
from gtapp.server.listeners import Listener
from gtapp.server.port_office import KEEP_S, Opener, Request, Slot
from gtapp.server.registry import Endpoint, Registry
from gtapp.server.siblings import Siblings

log = logging.getLogger("gt.server")

LOOK_S = 0.05  # how often a worker that is being replaced looks which ports it can leave to others


class _Port:
    """`held`: the office knows that tunnels of this worker publish it. `expected`: openings that are about to."""

    __slots__ = ("expected", "held", "listener", "number", "unused_s", "user_id")

    def __init__(self, number: int, user_id: str, listener: Listener) -> None:
        self.number = number
        self.user_id = user_id
        self.listener = listener
        self.held = True
        self.expected = 0
        self.unused_s = 0.0


class _Asked:
    """What one caller of `assign` gets; `over`: he has gone away meanwhile."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.ports: list[_Port] = []
        self.problem: RemoteRefused | None = None
        self.over = False

    def end(self) -> None:
        self.over = True
        for port in self.ports:
            port.expected -= 1


class Ports:
    """Listens on `host` ("" is every address) and calls `on_accept(port, connection, visitor's address)`.

    Tunnels of one user that ask for the same get the same port: they are its client's, or serve it together. While a
    sibling has tunnels for a port and this worker has none, only that one accepts there.
    """

    def __init__(
        self,
        host: str,
        registry: Registry,
        on_accept: Callable[[int, Socket, str], None],
        opener: Opener,
        siblings: Siblings | None = None,
    ) -> None:
        self.host = host  # may be changed: for ports that are opened then
        self._registry = registry
        self._on_accept = on_accept
        self._opener = opener
        self._siblings = siblings or Siblings()
        self._siblings.on("ports_closed", self._closed_elsewhere)
        self._ports: dict[int, _Port] = {}
        self._lock = BoundedSemaphore(1)  # who asks the office has to know what the one before has got
        self._retiring = False
        self._timer: Any = get_hub().loop.timer(LOOK_S, LOOK_S)
        self.over = False

    def assign(
        self, user: User, wanted: Mapping[int, tuple[int, bool]], tunnel: Tunnel | None
    ) -> dict[int, int]:
        """The ports of the services `wanted` (index: port asked for, whether any other will do), by index. Waits.

        They listen when this returns, and are closed again unless they are published at once. `tunnel` is the one
        whose services these replace. Raises RemoteRefused, and then nothing has changed.
        """
        if not wanted:
            return {}
        before: Counter[tuple[int, bool]] = Counter()
        slots: dict[int, Slot] = {}
        for index, (port, other) in wanted.items():
            asked = (port, other or not port)
            slots[index] = (*asked, before[asked])
            before[asked] += 1
        asked_for = _Asked()
        try:
            # In a greenlet of its own, which nobody interrupts: what the office gives has to be taken.
            gevent.spawn(self._ask, asked_for, user, slots, tunnel).join()
        finally:
            asked_for.end()
        if asked_for.problem is not None:
            raise asked_for.problem
        return asked_for.numbers

    def tick(self, period: float) -> None:
        """Close the ports that are published no more, or whose clients have been away for long."""
        for port in list(self._ports.values()):
            endpoint = self._endpoint(port)
            if self._is_used(endpoint) or port.expected:
                port.unused_s = 0.0
                continue
            port.unused_s += period
            if endpoint is None:
                self._give_up(port)
                continue
            if port.held:
                port.held = False
                self._opener.release(port.number, keep=True)
            if endpoint.siblings or self._retiring:
                self._close(port)
            elif port.unused_s > KEEP_S:
                self._close(port)
                self._registry.drop(endpoint)

    def retire(self) -> None:
        """This worker is being replaced: it accepts nothing more at a port as soon as all its tunnels there drain."""
        self._retiring = True
        self._timer.start(self.tick, 0.0)

    def stop(self) -> None:
        """Close all; those that a worker has left which was replaced are others' by now, or kept in the office."""
        self.over = True
        self._timer.stop()
        for port in list(self._ports.values()):
            if self._retiring:
                self._close(port)
            else:
                self._give_up(port)

    # opening

    def _ask(self, asked: _Asked, user: User, slots: Mapping[int, Slot], tunnel: Tunnel | None) -> None:
        with self._lock:
            try:
                if not asked.over:
                    self._lease(asked, user, slots, tunnel)
            except RemoteRefused as error:
                asked.problem = error
            except Exception:
                log.exception("unexpected error while opening ports of %s", user.id)
                asked.problem = RemoteRefused("port_unavailable", "internal error")

    def _lease(self, asked: _Asked, user: User, slots: Mapping[int, Slot], tunnel: Tunnel | None) -> None:
        own = [port for port in self._ports.values() if port.user_id == user.id]
        uses = [port for port in own if port.expected or self._is_used(self._endpoint(port))]
        frees = [port.number for port in uses if not port.expected and self._is_only(port, tunnel)]
        request = Request(
            user_id=user.id,
            host=self.host,
            ranges=user.tcp_range,
            limit=user.tcp_number,
            slots=slots,
            uses=[port.number for port in uses],
            frees=frees,
        )
        numbers, closed = self._opener.lease(request)
        self._made_room(user.id, closed)
        self._listen(user.id, list(numbers.values()))
        for number in numbers.values():
            port = self._ports[number]
            port.held = True
            port.unused_s = 0.0
            if not asked.over:
                port.expected += 1
                asked.ports.append(port)
        asked.numbers = numbers

    def _listen(self, user_id: str, numbers: list[int]) -> None:
        """Listen on these, which are the user's, as far as nobody does yet. Raises RemoteRefused."""
        for number in numbers:
            known = self._ports.get(number)
            if known is not None and known.user_id != user_id:  # its former owner's
                self._close(known)
        missing = [number for number in numbers if number not in self._ports]
        try:
            found = self._opener.sockets(missing) if missing else {}
            if self.over or len(found) < len(missing):
                for sock in found.values():
                    sock.close()
                raise RemoteRefused("port_unavailable", "the server ends")
        except RemoteRefused:
            for number in missing:
                self._opener.release(number, keep=True)
            raise
        for number, sock in found.items():
            self._start(number, user_id, Listener(sock, self._accepted(number)))

    def _start(self, number: int, user_id: str, listener: Listener) -> None:
        self._ports[number] = _Port(number, user_id, listener)
        listener.start()
        log.info("listening on %s for %s", listener.address, user_id)

    def _accepted(self, number: int) -> Callable[[Socket, str], None]:
        return lambda connection, peer: self._on_accept(number, connection, peer)

    # who uses them

    def _endpoint(self, port: _Port) -> Endpoint | None:
        endpoint = self._registry.find("tcp", str(port.number))
        return endpoint if endpoint is not None and endpoint.user_id == port.user_id else None

    def _is_used(self, endpoint: Endpoint | None) -> bool:
        """Whether tunnels of this worker publish it. Of one that is being replaced, those that drain are no more."""
        if endpoint is None:
            return False
        return any(not (self._retiring and tunnel.draining) for tunnel in endpoint.tunnels)

    def _is_only(self, port: _Port, tunnel: Tunnel | None) -> bool:
        endpoint = self._endpoint(port)
        return endpoint is not None and endpoint.tunnels.keys() == {tunnel}

    # closing

    def _give_up(self, port: _Port) -> None:
        """Nobody is to have it any more, unless tunnels of others publish it."""
        self._close(port)
        self._opener.release(port.number, keep=False)
        self._siblings.tell("ports_closed", {"numbers": [port.number]})

    def _close(self, port: _Port) -> None:
        """Accept nothing more there, in this worker."""
        del self._ports[port.number]
        port.listener.stop()
        log.info("port %d of %s is closed", port.number, port.user_id)

    def _made_room(self, user_id: str, numbers: list[int]) -> None:
        """The office has closed these, which were kept for the user."""
        for number in numbers:
            if number in self._ports:
                self._close(self._ports[number])
            endpoint = self._registry.find("tcp", str(number))
            if endpoint is not None and endpoint.user_id == user_id and not endpoint.tunnels:
                self._registry.drop(endpoint)
        if numbers:
            self._siblings.tell("ports_closed", {"numbers": numbers})

    def _closed_elsewhere(self, sibling: int, message: Message) -> None:
        for number in message.values["numbers"]:
            port = self._ports.get(number)
            if port is not None and not (port.expected or self._is_used(self._endpoint(port))):
                self._close(port)
                if port.held:
                    self._opener.release(number, keep=False)
