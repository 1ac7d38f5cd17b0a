"""Visitors of endpoints that a sibling serves: passed to it with what has been read of them, or received from one.

A connection whose bytes only this process can read, because its TLS is here or others share it, stays: it is spliced to
one end of a TCP pair, and the other end goes.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gtapp.observe.logs import Limited
from gtapp.observe.metrics import counters
from gtapp.relay.channel import Message, close_all
from gtapp.relay.sockets import PlainSocket, give_away, plain_socket
from gtapp.relay.splice import HeldSocket, Pairs, Splice
from gtapp.server.arrivals import Visitor
from gtapp.server.registry import Endpoint
from gtapp.server.siblings import Siblings

log = logging.getLogger("gt.server")
strangers = Limited("gt.server")  # for lines that anybody can cause

MAX_QUEUED = 1000  # messages that a sibling has not taken: it is stuck

HELLO = "hello"  # instead of an endpoint's kind: a visitor of tlsAddr before his handshake


class Passed(NamedTuple):
    """A visitor on his way; `kind` and `name` are those of the endpoint, `flags` those of OPEN."""

    kind: str
    name: str
    peer: str
    flags: int
    hops: int  # how often he has been passed


Receive = Callable[[PlainSocket, Passed, bytes], None]


class Handover:
    """`receive` gets visitors that siblings have passed, with the bytes read of them, and those that none could take.

    `is_waiting` tells whether a visitor is still the router's, `idle_s` is the idle time of visitors.
    """

    def __init__(
        self,
        siblings: Siblings,
        receive: Receive,
        is_waiting: Callable[[Visitor], bool],
        idle_s: Callable[[], float],
    ) -> None:
        self._siblings = siblings
        self._receive = receive
        self._is_waiting = is_waiting
        self._idle_s = idle_s
        self._pairs = Pairs()
        self._splices: set[Splice] = set()
        self._stopping = False
        siblings.on("visitor", self._received)

    @property
    def splices(self) -> int:
        """Connections that go on through this process though a sibling has them."""
        return len(self._splices)

    def passes(self, visitor: Visitor, endpoint: Endpoint) -> bool:
        """Pass a visitor to a sibling that serves the endpoint; False when none can take him."""
        number = self._choose(endpoint)
        if number is None:
            return False
        sock = visitor.sock
        if not isinstance(sock, PlainSocket):
            return self._bridge(visitor, endpoint)
        visitor.let_go()
        self._pass(number, sock, _passed(visitor), visitor.data)
        return True

    def passes_hello(self, sock: PlainSocket, peer: str, data: bytes, endpoint: Endpoint) -> bool:
        """The same for one who has just come in and begun a TLS handshake with `data`."""
        number = self._choose(endpoint)
        if number is None:
            return False
        self._pass(number, sock, Passed(HELLO, "", peer, 0, 1), data)
        return True

    def _choose(self, endpoint: Endpoint) -> int | None:
        """The sibling for a new visitor, in turn; one that retires only where there is no other."""
        chosen = None
        for number in endpoint.siblings:
            if self._siblings.queued(number) > MAX_QUEUED:
                continue
            if number not in self._siblings.retiring:
                chosen = number
                break
            if chosen is None:
                chosen = number
        if chosen is not None:
            endpoint.siblings[chosen] = endpoint.siblings.pop(chosen)
        return chosen

    def _pass(self, number: int, sock: PlainSocket, passed: Passed, data: bytes) -> None:
        counters.visitors_passed += 1
        family, held = int(sock.family), isinstance(sock, HeldSocket)

        def undelivered(fds: Sequence[int]) -> None:
            self._receive(_socket(family, fds[0], held), passed, data)

        values = {"passed": passed, "family": family, "held": held}
        self._siblings.tell_one(number, "visitor", values, data, [give_away(sock)], undelivered)

    def _received(self, sibling: int, message: Message) -> None:
        values, fds = message.values, message.fds
        if len(fds) != 1:
            log.warning("a visitor from worker %d is lost: no descriptors are left; raise ulimit -n", sibling)
            close_all(fds)
            return
        sock = _socket(values["family"], fds[0], values["held"])
        self._receive(sock, Passed(*values["passed"]), message.data)

    # those that stay

    def _bridge(self, visitor: Visitor, endpoint: Endpoint) -> bool:
        try:
            self._pairs.make(
                lambda near, far: self._paired(visitor, endpoint, near, far), lambda: self._unpaired(visitor)
            )
        except OSError as error:
            strangers.warning("%s cannot go to another worker: %s", visitor.peer, error.strerror)
            return False
        visitor.hold()
        return True

    def _paired(self, visitor: Visitor, endpoint: Endpoint, near: HeldSocket, far: HeldSocket) -> None:
        number = self._choose(endpoint) if self._is_waiting(visitor) else None
        if number is None:
            near.close()
            far.close()
            if self._is_waiting(visitor):
                visitor.go_on()
            return
        self._pass(number, far, _passed(visitor), visitor.data)
        self._splices.add(Splice(visitor.let_go(), near, self._idle_s(), self._splices.discard))

    def _unpaired(self, visitor: Visitor) -> None:
        if self._is_waiting(visitor):
            visitor.refuse(503, "The server cannot take more visitors at the moment.")

    # time

    def tick(self, period: float) -> None:
        self._pairs.tick(period)
        for splice in list(self._splices):
            splice.tick(period)

    @property
    def over(self) -> bool:
        return self._stopping and not self._splices

    def stop(self) -> None:
        """Take no more."""
        self._stopping = True
        self._pairs.close()

    def cut(self) -> int:
        """Cut the connections that still go on; how many these were."""
        cut = list(self._splices)
        for splice in cut:
            splice.cut()
        return len(cut)


def _passed(visitor: Visitor) -> Passed:
    return Passed(visitor.kind, visitor.name, visitor.peer, visitor.flags, visitor.hops + 1)


def _socket(family: int, fd: int, held: bool) -> PlainSocket:
    return HeldSocket(fd) if held else plain_socket(family, fd)
