"""User and password in front of a service, by HTTP Basic (RFC 7617). Called by request_pump.

A hash takes some 25 ms and 19 MiB on purpose. So each is computed once, off the hub's thread and one at a time, what
came of it is remembered, and how often somebody may try is limited.
"""

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
from collections import OrderedDict
from enum import Enum
from time import monotonic

import argon2
from gevent.lock import Semaphore

from gtapp.config.passwords import hasher
from gtapp.config.values import network_of
from gtapp.relay.threads import Threads

log = logging.getLogger("gt.client")

MAX_REMEMBERED = 1000  # wrong credentials, and right ones in other spellings
TRIES = 10  # that one address may make in a row
TRY_EVERY_S = 6.0  # and how soon it may make one more
TRIES_OF_ALL = 30  # the same over all addresses: this many may wait for their hash,
TRY_OF_ALL_EVERY_S = 0.2  # and hashes take at most an eighth of one core
MAX_ADDRESSES = 10_000  # the oldest is forgotten then


class Verdict(Enum):
    """What came of some credentials."""

    RIGHT = 200
    WRONG = 401
    LATER = 429  # too many have been tried


class BasicAuth:
    """Checks the credentials of one service; `expected` is the option basicAuth, "user:hash"."""

    _threads: Threads | None = None  # one thread for all services, made when it is needed first
    _one_at_a_time = Semaphore(1)

    def __init__(self, expected: str) -> None:
        user, _, self._hash = expected.partition(":")
        self._user = user.encode()
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, bool] = OrderedDict()  # by keyed digest, oldest first
        self._tries = _Tries(TRIES, TRY_EVERY_S)
        self._tries_of_all = _Tries(TRIES_OF_ALL, TRY_OF_ALL_EVERY_S)

    def known(self, authorization: bytes) -> bool | None:
        """Whether this value of Authorization is right, if that is known without `check`."""
        return self._known.get(self._digest(authorization))

    def check(self, authorization: bytes, address: str) -> Verdict:
        """Find out whether it is right, for a visitor from `address` ("" where that is not known). Waits."""
        digest = self._digest(authorization)
        user, password = _credentials(authorization)
        if user is None:
            return Verdict.WRONG
        key = network_of(address)
        if not self._tries_of_all.take(""):
            return Verdict.LATER
        if not self._tries.take(key):
            self._tries_of_all.give_back("")
            return Verdict.LATER
        with self._one_at_a_time:
            right = self._known.get(digest)  # a browser sends the same on several connections at once
            if right is None:
                right = self._verify(password) & hmac.compare_digest(user, self._user)
                self._remember(digest, right)
        if right:
            self._tries.give_back(key)
            self._tries_of_all.give_back("")
        return Verdict.RIGHT if right else Verdict.WRONG

    def _digest(self, authorization: bytes) -> bytes:
        return hashlib.blake2b(authorization, key=self._key, digest_size=16).digest()

    def _verify(self, password: bytes) -> bool:
        if BasicAuth._threads is None:
            BasicAuth._threads = Threads(1)
        try:
            return BasicAuth._threads.call(hasher.verify, self._hash, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError) as error:
            log.error("the hash in basicAuth cannot be used, make one with gt.py hash-password: %s", error)
            return False

    def _remember(self, digest: bytes, right: bool) -> None:
        self._known[digest] = right
        if len(self._known) > MAX_REMEMBERED:
            # A guess may drop a guess, but not what a visitor comes with every day.
            wrong = next((each for each, right in self._known.items() if not right), None)
            del self._known[next(iter(self._known)) if wrong is None else wrong]


def _credentials(authorization: bytes) -> tuple[bytes | None, bytes]:
    """User and password; (None, b"") when there are none in it."""
    scheme, _, rest = authorization.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            user, colon, password = base64.b64decode(rest.strip(b" "), validate=True).partition(b":")
        except binascii.Error:
            colon = b""
        if colon:
            return user, password
    return None, b""


class _Tries:
    """At most `burst` in a row for each key, and one more `every` seconds."""

    def __init__(self, burst: int, every: float) -> None:
        self._span = (burst + 0.01) * every  # sums of floats are not exact
        self._every = every
        self._free_at: OrderedDict[str, float] = OrderedDict()  # when all of the burst is there again

    def take(self, key: str) -> bool:
        now = monotonic()
        free_at = max(self._free_at.get(key, 0.0), now) + self._every
        if free_at - now > self._span:
            return False
        self._free_at[key] = free_at
        self._free_at.move_to_end(key)
        if len(self._free_at) > MAX_ADDRESSES:
            self._free_at.popitem(last=False)
        return True

    def give_back(self, key: str) -> None:
        if key in self._free_at:
            self._free_at[key] -= self._every
