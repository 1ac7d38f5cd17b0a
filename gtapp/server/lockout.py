"""Addresses with too many failed logins, which have to wait. Asked by admission."""

import logging
from collections import OrderedDict
from math import inf
from time import monotonic

from gtapp.config.values import network_of
from gtapp.relay.channel import Message
from gtapp.server.siblings import Siblings

log = logging.getLogger("gt.server")

MAX_ADDRESSES = 10_000  # beyond that the one whose last failure is the oldest is forgotten


class Lockout:
    """Locks an address out for `duration_s` seconds when `times` logins from it have failed; 0 times: never.

    Failures that are `duration_s` apart don't add up. With a duration of 0 an address stays locked out, as in the
    original GT. Peers are texts like "203.0.113.9:51234"; what counts of them is `network_of`. Failures at siblings
    count as well.
    """

    def __init__(self, times: int, duration_s: float, siblings: Siblings | None = None) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, the last one's time
        self._siblings = siblings or Siblings()
        self._siblings.on("failed_logins", self._told)
        self._siblings.joined.append(self._joined)
        self.set(times, duration_s)

    def set(self, times: int, duration_s: float) -> None:
        """From now on these are in force."""
        self._times = times
        self._duration_s = duration_s or inf

    def failed(self, peer: str) -> None:
        """A login from there has failed for its credentials."""
        address = network_of(peer)
        if self._count(address):
            self._siblings.tell("failed_logins", {"address": address})

    def locked(self, peer: str) -> float:
        """For how many seconds yet; 0.0: it may try."""
        return self._left(network_of(peer))

    def _left(self, address: str) -> float:
        count, last = self._failures.get(address, (0, 0.0))
        if not self._times or count < self._times:
            return 0.0
        left = last + self._duration_s - monotonic()
        if left > 0:
            return left
        del self._failures[address]
        return 0.0

    def _count(self, address: str) -> bool:
        """One more. False where they are not counted: it is locked out already."""
        if not self._times or self._left(address):
            return False
        now = monotonic()
        count, last = self._failures.get(address, (0, now))
        count = count + 1 if now - last < self._duration_s else 1
        self._keep(address, count, now)
        if count >= self._times:
            log.info("%s is locked out for %.0f s after %d failed logins", address, self._duration_s, count)
        return True

    def _keep(self, address: str, count: int, last: float) -> None:
        self._failures[address] = (count, last)
        self._failures.move_to_end(address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    # siblings

    def _joined(self, sibling: int) -> None:
        now = monotonic()
        known = [[address, count, now - last] for address, (count, last) in self._failures.items()]
        if known:
            self._siblings.tell_one(sibling, "failed_logins", {"known": known})

    def _told(self, sibling: int, message: Message) -> None:
        now = monotonic()
        for address, theirs, age in message.values.get("known", ()):  # each of them has counted all
            count, last = self._failures.get(address, (0, 0.0))
            self._keep(address, max(count, theirs), max(last, now - age))
        if "address" in message.values:
            self._count(message.values["address"])
