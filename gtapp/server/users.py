"""Who may open tunnels. Credentials are checked in the same way and time whether the id exists or not."""

import hmac
import logging
import secrets
from collections.abc import Mapping

import gevent

from gtapp.config.load import User
from gtapp.relay.threads import Threads
from gtapp.wire import credentials
from gtapp.wire.credentials import Verifier

log = logging.getLogger("gt.server")

DERIVING_THREADS = 2  # a flood of logins may keep this many cores busy, never the hub


class Users:
    """Users by id. Deriving a key takes about 30 ms, in a thread; the result is kept per user and process.

    `start` derives all keys in the background: a login must not wait, and an id that does not exist, whose keys
    need no deriving, must not be the faster one.
    """

    def __init__(self, users: Mapping[str, User]) -> None:
        self._users = dict(users)
        self._prefixes = {user_id.lower() for user_id in users}
        self._threads = Threads(DERIVING_THREADS)
        self._verifiers: dict[str, Verifier] = {}
        self._proved: dict[str, bytes] = {}
        # Random, never made from the secrets: anybody is told salts. (A stored verifier keeps its salt when the
        # server starts again and made-up ones change: who watches across a restart can tell that such an id exists.)
        self._salt_key = secrets.token_bytes(32)
        self._proof_key = secrets.token_bytes(32)

    def start(self) -> None:
        gevent.spawn(self._derive_all)

    def stop(self) -> None:
        self._threads.kill()

    def get(self, user_id: str) -> User | None:
        return self._users.get(user_id)

    def reserved_for_others(self, host_prefix: str, user_id: str) -> bool:
        """Whether `host_prefix` is the id of another user: it waits for that one, connected or not."""
        return host_prefix in self._prefixes and user_id.lower() != host_prefix

    def verifier(self, user_id: str) -> Verifier:
        """What SCRAM checks the proof of `user_id` against; for an unknown id, what nothing can match."""
        verifier = self._verifiers.get(user_id)
        if verifier is None:
            user = self._users.get(user_id)
            if user is None:
                return credentials.decoy(user_id, self._salt_key)
            verifier = self._verifiers[user_id] = self._verifier_of(user)
        return verifier

    def check(self, user_id: str, secret: str) -> bool:
        """Whether `secret` is the one of `user_id`: for the protocols that send it."""
        proof = hmac.digest(self._proof_key, f"{len(user_id)}:{user_id}{secret}".encode(), "sha256")
        if hmac.compare_digest(self._proved.get(user_id, b""), proof):
            return True
        if not self._threads.call(credentials.matches, self.verifier(user_id), secret):
            return False
        self._proved[user_id] = proof
        return True

    def _derive_all(self) -> None:
        for user_id in self._users:
            self.verifier(user_id)

    def _verifier_of(self, user: User) -> Verifier:
        try:
            if user.verifier is not None:
                return credentials.parse_verifier(user.verifier)
            assert user.secret is not None
            salt = credentials.salt_for(user.id, self._salt_key)
            return self._threads.call(credentials.derive, user.secret, salt)
        except ValueError as error:
            log.error("user %s cannot log in: %s", user.id, error)
            return credentials.decoy(user.id, self._salt_key)
