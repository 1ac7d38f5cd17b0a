"""Addresses with too many failed logins, which have to wait. Asked by admission."""

import logging
from collections import OrderedDict
from math import inf
from time import monotonic

from gtapp.relay.sockets import network_of

log = logging.getLogger("gt.server")

MAX_ADDRESSES = 10_000  # beyond that the one whose last failure is the oldest is forgotten


class Lockout:
    """Locks an address out for `duration_s` seconds when `times` logins from it have failed; 0 times: never.

    Failures that are `duration_s` apart don't add up. With a duration of 0 an address stays locked out, as in the
    original GT. Peers are texts like "203.0.113.9:51234"; what counts of them is `network_of`.
    """

    def __init__(self, times: int, duration_s: float) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, the last one's time
        self.set(times, duration_s)

    def set(self, times: int, duration_s: float) -> None:
        """From now on these are in force."""
        self._times = times
        self._duration_s = duration_s or inf

    def failed(self, peer: str) -> None:
        """A login from there has failed for its credentials."""
        if not self._times or self.locked(peer):
            return
        address = network_of(peer)
        now = monotonic()
        count, last = self._failures.pop(address, (0, now))
        count = count + 1 if now - last < self._duration_s else 1
        self._failures[address] = (count, now)
        if count >= self._times:
            log.info("%s is locked out for %.0f s after %d failed logins", address, self._duration_s, count)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def locked(self, peer: str) -> float:
        """For how many seconds yet; 0.0: it may try."""
        count, last = self._failures.get(network_of(peer), (0, 0.0))
        if not self._times or count < self._times:
            return 0.0
        left = last + self._duration_s - monotonic()
        if left > 0:
            return left
        del self._failures[network_of(peer)]
        return 0.0
