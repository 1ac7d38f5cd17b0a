"""The keys of the configuration's users: derived in threads, about 30 ms each, and kept. For the server's users.

Workers tell each other what they have derived, so that each key is derived once, and a worker that takes over from
another has all of them at once.
"""

import hmac
import logging
import random
from collections.abc import Iterable, Mapping

import gevent
from gevent.event import Event

from gtapp.config.load import User
from gtapp.relay.channel import Message
from gtapp.relay.threads import Threads
from gtapp.server.siblings import Siblings
from gtapp.wire import credentials
from gtapp.wire.credentials import Verifier

log = logging.getLogger("gt.server")

DERIVING_THREADS = 2  # a flood of logins may keep this many cores busy, never the hub
PATIENCE_S = 1.0  # how long what is derived in advance makes way for logins

_Credentials = tuple[str | None, str | None]


class Keys:
    """Verifiers by user. The salts, and what made-up ids have in their place, follow from `key`, a secret of the
    server: they are the same in all its workers.

    They are not made from the secrets: anybody is told salts. (A stored verifier keeps its salt when the server starts
    again and the others change: who watches across a restart can tell that such an id exists.)
    """

    def __init__(self, key: bytes, siblings: Siblings) -> None:
        self._salt_key = hmac.digest(key, b"salts", "sha256")
        self._told_key = hmac.digest(key, b"told", "sha256")
        self._threads = Threads(DERIVING_THREADS)
        self._known: dict[str, tuple[_Credentials, Verifier]] = {}
        self._derived: set[str] = set()  # those of them that took time
        self._deriving: dict[str, Event] = {}
        self._users: Mapping[str, User] = {}
        self._urgent = 0  # derivations that a login waits for
        self._calm = Event()
        self._calm.set()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._siblings = siblings
        siblings.on("keys", self._told)
        siblings.joined.append(self._tell_all)

    def set_users(self, users: Mapping[str, User]) -> None:
        """These are the configuration's from now on. Keys of others, and of changed credentials, are forgotten."""
        self._users = users
        for user_id, (used, _) in list(self._known.items()):
            user = users.get(user_id)
            if user is None or user.disabled or _credentials(user) != used:
                del self._known[user_id]
                self._derived.discard(user_id)

    def start(self) -> None:
        """Derive all that are missing, in the background."""
        self.stop_deriving()
        self._greenlet = gevent.spawn(self._derive_all)

    def stop_deriving(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def stop(self) -> None:
        self.stop_deriving()
        self._threads.kill()

    def known(self, user: User) -> Verifier | None:
        """The user's verifier, if it is there."""
        used, verifier = self._known.get(user.id, (None, None))
        return verifier if used == _credentials(user) else None

    def verifier(self, user: User, urgent: bool = True) -> Verifier:
        """The same; waits until it is derived. Who cannot log in has one that nothing matches."""
        while True:
            verifier = self.known(user)
            if verifier is not None:
                return verifier
            other = self._deriving.get(user.id)
            if other is None:
                return self._derive_once(user, urgent)
            with _Urgent(self, urgent):
                other.wait()

    def decoy(self, user_id: str) -> Verifier:
        """What stands for the verifier of an id that may not log in."""
        return credentials.decoy(user_id, self._salt_key)

    def derive(self, secret: str, salt: bytes, iterations: int) -> Verifier:
        """The verifier of a secret that a login has shown. Waits. Raises ValueError where it cannot be used."""
        with _Urgent(self, True):
            return self._threads.call(credentials.derive, secret, salt, iterations)

    def _derive_once(self, user: User, urgent: bool) -> Verifier:
        """While others who want the same wait."""
        event = self._deriving[user.id] = Event()
        try:
            with _Urgent(self, urgent):
                verifier = self._derive(user)
        finally:
            del self._deriving[user.id]
            event.set()
        known = self.known(user)  # from a sibling meanwhile
        if known is not None:
            return known
        current = self._users.get(user.id)
        if current is None or _credentials(current) == _credentials(user):
            self._known[user.id] = _credentials(user), verifier
            if current is not None and user.verifier is None:
                self._derived.add(user.id)
                self._siblings.tell("keys", self._news([user.id]))
        return verifier

    def _derive(self, user: User) -> Verifier:
        try:
            if user.verifier is not None:
                return credentials.parse_verifier(user.verifier)
            assert user.secret is not None
            salt = credentials.salt_for(user.id, self._salt_key)
            return self._threads.call(credentials.derive, user.secret, salt)
        except ValueError as error:
            log.error("user %s cannot log in: %s", user.id, error)
            return self.decoy(user.id)

    def _derive_all(self) -> None:
        users = [user for user in self._users.values() if not user.disabled]
        random.shuffle(users)  # siblings begin elsewhere
        for user in users:
            if self.known(user) is None:
                self._calm.wait(PATIENCE_S)
                self.verifier(user, urgent=False)

    # siblings

    def _news(self, user_ids: Iterable[str]) -> dict[str, dict[str, tuple[str, str]]]:
        keys = {}
        for user_id in user_ids:
            used, verifier = self._known[user_id]
            keys[user_id] = self._digest(user_id, used), str(verifier)
        return {"keys": keys}

    def _tell_all(self, sibling: int) -> None:
        if self._derived:
            self._siblings.tell_one(sibling, "keys", self._news(self._derived))

    def _told(self, sibling: int, message: Message) -> None:
        for user_id, (digest, text) in message.values["keys"].items():
            user = self._users.get(user_id)
            if user is None or user.disabled or user.secret is None or self.known(user) is not None:
                continue
            if hmac.compare_digest(self._digest(user_id, _credentials(user)), digest):
                self._known[user_id] = _credentials(user), credentials.parse_verifier(text)
                self._derived.add(user_id)

    def _digest(self, user_id: str, used: _Credentials) -> str:
        """Tells whether two workers mean the same secret."""
        return hmac.digest(self._told_key, f"{len(user_id)}:{user_id}{used[0]}".encode(), "sha256").hex()


class _Urgent:
    """While a login waits, what is derived in advance does not begin."""

    def __init__(self, keys: Keys, urgent: bool) -> None:
        self._keys = keys
        self._urgent = urgent

    def __enter__(self) -> None:
        if self._urgent:
            self._keys._urgent += 1
            self._keys._calm.clear()

    def __exit__(self, *exc: object) -> None:
        if self._urgent:
            self._keys._urgent -= 1
            if not self._keys._urgent:
                self._keys._calm.set()


def _credentials(user: User) -> _Credentials:
    return user.secret, user.verifier
