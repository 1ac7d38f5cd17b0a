"""Who may open tunnels: the configuration's users, then whom an authAPI or `allowAnyClient` lets in. For admission.

Credentials are checked in the same way and time whether the id exists or not.
"""

import hmac
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from time import monotonic

from gevent.lock import BoundedSemaphore

from gtapp.config.load import User
from gtapp.config.options import Limits, ServerOptions
from gtapp.errors import GTError, RemoteRefused
from gtapp.relay.bucket import Shaper
from gtapp.server.auth_api import AuthAPI
from gtapp.server.guests import Guest, Guests
from gtapp.server.keys import Keys
from gtapp.server.siblings import Siblings
from gtapp.server.speeds import Speeds
from gtapp.wire.credentials import DEFAULT_ITERATIONS, Verifier

log = logging.getLogger("gt.server")

ASKING_S = 8.0  # how long a login may wait for the authAPI; the whole opening has 10 s
MAX_ENROLLED_ITERATIONS = 2 * DEFAULT_ITERATIONS  # a verifier that strangers bring must not cost us more


def invalid_credentials() -> RemoteRefused:
    """The same words for every protocol and every reason: nobody learns which ids exist."""
    return RemoteRefused("invalid_credentials", "unknown id or wrong secret")


class Users:
    """Users by id, of one worker of the server. `key` is the same in all of them.

    `start` derives all keys in the background: a login must not wait, and an id that does not exist, whose keys
    need no deriving, must not be the faster one. `own` is the server's own user, for its status API.
    `rivalled(id, reason)` is called when a guest has to go at once.
    """

    def __init__(
        self,
        users: Mapping[str, User],
        options: ServerOptions,
        own: User | None = None,
        key: bytes | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        key = key or secrets.token_bytes(32)
        siblings = siblings or Siblings()
        self._own = own
        self.rivalled: Callable[[str, str], None] = lambda user_id, reason: None
        self._keys = Keys(key, siblings)
        self._guests = Guests(siblings, self._has_rival)
        self._speeds = Speeds(siblings)
        self._proved: dict[
            str, tuple[Verifier, bytes]
        ] = {}  # what it was checked against, and a digest of it
        self._proof_key = secrets.token_bytes(32)
        self._logins: dict[str, set[Login]] = {}  # those that are in, by id
        self._api: AuthAPI | None = None
        self._api_url = ""
        self._running = False
        self._take(users, options)

    def start(self) -> None:
        self._running = True
        self._keys.start()

    def stop(self) -> None:
        self._keys.stop()
        self._speeds.stop()
        if self._api is not None:
            self._api.close()

    def get(self, user_id: str) -> User | None:
        """The user, if it may have tunnels: one of the configuration, or a guest that has come in."""
        user = self._users.get(user_id)
        if user is not None:
            return None if user.disabled else user
        guest = self._guests.here.get(user_id)
        return None if guest is None else guest.user

    def is_own(self, user_id: str) -> bool:
        return self._own is not None and user_id == self._own.id

    def reserved_for_others(self, host_prefix: str, user_id: str) -> bool:
        """Whether `host_prefix` is the id of another user of the configuration: it waits for that one, connected or
        not. (Ids that differ in upper and lower case alone share theirs.)"""
        owners = self._owners.get(host_prefix)
        return owners is not None and user_id not in owners

    def shaper(self, user_id: str) -> Shaper | None:
        """What keeps the streams of this user to its speed, if it has one."""
        user = self.get(user_id)
        return self._speeds.shaper(user_id, user.speed) if user is not None and user.speed else None

    def begin(self, user_id: str) -> "Login":
        """An opening names this id. The caller closes the login when the opening fails or its tunnel has gone."""
        user = self._users.get(user_id)
        if user is not None and user.disabled:
            log.info("user %s is disabled and tries to log in", user_id)
        return Login(self, user_id)

    def replace(self, users: Mapping[str, User], options: ServerOptions) -> set[str]:
        """From now on these are the users. Returns the ids that have to log in again, if they still can.

        Limits change for running tunnels too; streams that began without a speed go on without one.
        """
        before, enrolled = self._users, self._any
        self._take(users, options)
        gone = {
            user_id for user_id, user in before.items() if _credentials(user) != self._credentials_of(user_id)
        }
        for user_id, guest in self._guests.here.items():
            by_api = guest.verifier is None
            if user_id in self._users or not (self._api is not None if by_api else enrolled and self._any):
                gone.add(user_id)
            guest.user = self._guest(user_id, None).user
        for user_id in gone:
            self._forget(user_id)
            self._proved.pop(user_id, None)
        for user_id in self._speeds.users():
            known = self.get(user_id)
            self._speeds.set_speed(user_id, known.speed if known is not None else 0)
        if self._running:
            self._keys.start()
        return gone

    def _take(self, users: Mapping[str, User], options: ServerOptions) -> None:
        self._users = dict(users)
        if self._own is not None:
            self._users[self._own.id] = self._own
        self._keys.set_users(self._users)
        self._owners: dict[str, set[str]] = {}
        for user_id in self._users:
            self._owners.setdefault(user_id.lower(), set()).add(user_id)
        self._limits = {field.name: getattr(options, field.name) for field in fields(Limits)}
        self._any = options.allow_any_client and not options.auth_api
        if options.allow_any_client and options.auth_api:
            log.warning("allowAnyClient has no effect while authAPI decides about unknown ids")
        if options.auth_api != self._api_url:
            if self._api is not None:
                self._api.close()
            self._api_url = options.auth_api
            self._api = AuthAPI(options.auth_api) if options.auth_api else None

    def _credentials_of(self, user_id: str) -> tuple[str | None, str | None] | None:
        user = self._users.get(user_id)
        return None if user is None else _credentials(user)

    # guests

    def _guest(self, user_id: str, verifier: Verifier | None) -> Guest:
        return Guest(User(id=user_id, **self._limits), verifier)

    def _enrolls(self, user_id: str) -> bool:
        """Whether this id is free for the first who comes."""
        return self._any and user_id not in self._users and self._guests.is_free(user_id)

    def _guest_elsewhere(self, user_id: str) -> Guest | None:
        """One that is in at a sibling's and not here, where it may be: to come in here as well."""
        if not self._any or user_id in self._users or user_id in self._guests.here:
            return None
        verifier = self._guests.verifier_elsewhere(user_id)
        return None if verifier is None else self._guest(user_id, verifier)

    def _has_rival(self, user_id: str) -> None:
        self._forget(user_id)
        self.rivalled(user_id, f"{user_id} has come in with another secret in the same moment")

    def _forget(self, user_id: str) -> None:
        """The id's logins are over, and with them what was kept of a guest."""
        for login in self._logins.pop(user_id, ()):
            login.over = True
        if self._guests.go(user_id):
            self._proved.pop(user_id, None)
            self._speeds.forget(user_id)

    # keys

    def _verifier(self, user_id: str) -> Verifier:
        """What a proof of `user_id` is checked against; for an id that may not log in, what nothing can match."""
        while (user := self._users.get(user_id)) is not None and not user.disabled:
            verifier = self._keys.verifier(user)
            now = self._users.get(user_id)  # may have been replaced meanwhile
            if now is not None and _credentials(now) == _credentials(user):
                return verifier
        guest = self._guests.verifier(user_id) if user is None and self._any else None
        return guest or self._keys.decoy(user_id)

    def _check(self, user_id: str, secret: str) -> tuple[bool, Verifier | None]:
        """Whether `secret` is the one of `user_id`, and the keys that belong to it, unless it cannot be used."""
        against, proof = self._proved.get(user_id, (None, b""))
        if hmac.compare_digest(proof, self._proof(user_id, secret)) and against == self._verifier(user_id):
            return True, against
        if self._api is not None and len(self._users) == (self._own is not None) and not self.is_own(user_id):
            return False, None  # all ids are the authAPI's: there is none whose existence this could tell
        while True:
            verifier = self._verifier(user_id)
            try:
                keys = self._keys.derive(secret, verifier.salt, verifier.iterations)
            except ValueError:
                return False, None
            if verifier == self._verifier(user_id):
                break
        is_right = hmac.compare_digest(keys.stored_key, verifier.stored_key)
        return is_right, verifier if is_right else keys

    def _proof(self, user_id: str, secret: str) -> bytes:
        return hmac.digest(self._proof_key, f"{len(user_id)}:{user_id}{secret}".encode(), "sha256")


class Login:
    """One opening, and then its tunnel, of one id.

    What lets it in is one of `proved` (after `verifier`), `enrolled` (after `verifier` has given None) and `check`.
    Each raises RemoteRefused: invalid_credentials, or auth_unavailable where the authAPI does not answer.
    """

    def __init__(self, users: Users, user_id: str) -> None:
        self.id = user_id
        self.hosts: frozenset[str] | None = None  # the host prefixes the authAPI allows; None: any
        self.over = False
        self._users = users
        self._until = monotonic() + ASKING_S
        self._challenged: Verifier | None = None
        self._enrolling = False
        self._secret = ""  # for the authAPI, when the services change
        self.changing = BoundedSemaphore(1)  # held while they do: what was asked for last has to win

    @property
    def user(self) -> User:
        """Whose login it is. Raises RemoteRefused when it is not in, or no more."""
        user = self._users.get(self.id)
        if user is None or self not in self._users._logins.get(self.id, ()):
            raise invalid_credentials()
        return user

    def verifier(self) -> Verifier | None:
        """What SCRAM checks the proof against. None: the id is free, the client is to enrol with a verifier.

        Waits while another opening enrols the same id.
        """
        users = self._users
        while users._enrolls(self.id):
            other = users._guests.enrolling(self.id)
            if other is None:
                users._guests.enroll(self.id)
                self._enrolling = True
                return None
            other.wait()
        self._challenged = users._verifier(self.id)
        return self._challenged

    def proved(self) -> None:
        """The client has proved the secret to the verifier."""
        users = self._users
        if users._enrolls(self.id):  # the tunnel that this secret came with has gone meanwhile
            self._come_in(users._guest(self.id, self._challenged))
        elif users._verifier(self.id) == self._challenged:
            self._come_in()
        else:
            raise invalid_credentials()

    def enrolled(self, verifier: Verifier) -> None:
        """The client has sent the verifier that its id is to have while it has tunnels."""
        if verifier.iterations > MAX_ENROLLED_ITERATIONS:
            raise RemoteRefused(
                "protocol_error", f"at most {MAX_ENROLLED_ITERATIONS} iterations to enrol with"
            )
        if self._enrolling and self._users._guests.gives_way(self.id):
            raise GTError(
                f"{self.id} comes in at another worker in this moment"
            )  # its next attempt will tell
        if not (self._enrolling and self._users._enrolls(self.id)):
            raise invalid_credentials()
        self._come_in(self._users._guest(self.id, verifier))

    def check(self, secret: str, prefixes: Sequence[str]) -> None:
        """The client has shown a secret, and asks for these host prefixes. Waits."""
        users = self._users
        right, keys = users._check(self.id, secret)
        while not right and users._enrolls(self.id) and (other := users._guests.enrolling(self.id)):
            other.wait()
            right, keys = users._check(self.id, secret)
        if right:
            self._come_in()
            assert keys is not None
            users._proved[self.id] = keys, users._proof(self.id, secret)
        elif users._api is not None:
            # It is asked about local ids as well, and its answer not used: nobody sees which ones these are.
            self._ask(users._api, secret, prefixes)
        elif keys is not None and users._enrolls(self.id):
            self._come_in(users._guest(self.id, keys))
        else:
            raise invalid_credentials()

    def ask_again(self, prefixes: Sequence[str]) -> None:
        """A tunnel that the authAPI has let in asks for other host prefixes. Waits."""
        if self._secret and self._users._api is not None:
            self._ask(self._users._api, self._secret, prefixes)

    def close(self) -> None:
        """The opening has failed, or the tunnel has gone."""
        self._end_enrolling()
        self.over = True
        logins = self._users._logins.get(self.id)
        if logins is not None and self in logins:
            logins.remove(self)
            if not logins:
                self._users._forget(self.id)

    def _ask(self, api: AuthAPI, secret: str, prefixes: Sequence[str]) -> None:
        users = self._users
        is_in = self in users._logins.get(self.id, ())
        hosts = api.ask(self.id, secret, prefixes, monotonic() + ASKING_S if is_in else self._until)
        if hosts is None or self.id in users._users:
            raise invalid_credentials()
        self._come_in(None if self.id in users._guests.here else users._guest(self.id, None))
        self.hosts = hosts | {self.id.lower()}
        self._secret = secret

    def _come_in(self, guest: Guest | None = None) -> None:
        """Let in; with `guest` as a new one."""
        users = self._users
        guest = guest or users._guest_elsewhere(self.id)
        if self.over or (guest is None and users.get(self.id) is None):
            raise invalid_credentials()
        if guest is not None:
            users._guests.come(self.id, guest)
        users._logins.setdefault(self.id, set()).add(self)
        self._end_enrolling()

    def _end_enrolling(self) -> None:
        if self._enrolling:
            self._enrolling = False
            self._users._guests.enrolled(self.id)


def _credentials(user: User) -> tuple[str | None, str | None] | None:
    """What a login needs; None where there can be none."""
    return None if user.disabled else (user.secret, user.verifier)
