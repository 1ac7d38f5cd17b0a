"""The keys of users: derived once for all workers, logins first, and nothing taken over that is another secret's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import monkey

from gtapp.config.load import User
from gtapp.server import keys as keys_module
from gtapp.server.keys import DERIVING_THREADS, Keys
from gtapp.server.siblings import Siblings
from gtapp.wire import credentials
from gtapp.wire.credentials import MIN_ITERATIONS, Verifier, derive
from tests.support.relay import turn, until
from tests.unit.server.scene import introduce

KEY = b"the key of the server".ljust(32)
MakeKeys = Callable[..., Keys]
_sleep = monkey.get_original("time", "sleep")


class Deriving:
    """Stands before the derivation of keys, in its threads: counts, and takes `seconds` longer."""

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.seconds = 0.0
        self._lock = threading.Lock()

    def __call__(self, secret: str, salt: bytes, iterations: int = 0) -> Verifier:
        with self._lock:
            self.secrets.append(secret)
        _sleep(self.seconds)
        return derive(secret, salt, MIN_ITERATIONS)


@pytest.fixture
def deriving(monkeypatch: pytest.MonkeyPatch) -> Deriving:
    made = Deriving()
    monkeypatch.setattr(credentials, "derive", made)
    return made


@pytest.fixture
def make_keys(deriving: Deriving) -> Iterator[MakeKeys]:
    """make_keys(user, …): of the next worker, which knows those before."""
    made: list[Keys] = []
    met: list[Siblings] = []

    def make(*users: User, key: bytes = KEY) -> Keys:
        siblings = Siblings(len(met) + 1)
        made.append(Keys(key, siblings))
        made[-1].set_users({user.id: user for user in users})
        siblings.start()
        for each in met:
            introduce(each, siblings)
        met.append(siblings)
        turn(5)
        return made[-1]

    yield make
    for keys in made:
        keys.stop()
    for each in met:
        each.stop()


def some(count: int) -> list[User]:
    return [User(id=f"id{number}", secret=f"secret{number}") for number in range(count)]


def all_known(keys: Keys, users: list[User]) -> bool:
    return all(keys.known(user) is not None for user in users)


def test_all_workers_have_the_same_salts(make_keys: MakeKeys) -> None:
    (user,) = some(1)
    one, two, stranger = make_keys(user), make_keys(user), make_keys(user, key=bytes(32))
    assert one.verifier(user) == two.verifier(user)
    assert one.decoy("x") == two.decoy("x")
    assert one.verifier(user).salt != stranger.verifier(user).salt
    assert one.decoy("x").salt != stranger.decoy("x").salt


def test_a_key_is_derived_once(make_keys: MakeKeys, deriving: Deriving) -> None:
    """However many tunnels of a client come in at once."""
    (user,) = some(1)
    keys = make_keys(user)
    deriving.seconds = 0.02
    tries = [gevent.spawn(keys.verifier, user) for _ in range(5)]
    gevent.joinall(tries, timeout=10, raise_error=True)
    assert len({id(each.value) for each in tries}) == 1
    assert deriving.secrets == ["secret0"]


def test_who_derives_and_is_killed_does_not_hold_up_others(make_keys: MakeKeys, deriving: Deriving) -> None:
    (user,) = some(1)
    keys = make_keys(user)
    deriving.seconds = 0.05
    first, second = gevent.spawn(keys.verifier, user), gevent.spawn(keys.verifier, user)
    until(lambda: deriving.secrets)
    first.kill()
    second.join(10)
    assert second.value == keys.known(user)
    assert keys._urgent == 0
    assert keys._calm.is_set()


def test_a_newcomer_has_to_derive_nothing(make_keys: MakeKeys, deriving: Deriving) -> None:
    """A worker that takes over from another lets all clients in at once."""
    users = some(300)
    one = make_keys(*users)
    one.start()
    until(lambda: all_known(one, users))
    assert len(deriving.secrets) == 300
    two = make_keys(*users)
    until(lambda: all_known(two, users))
    two.start()
    gevent.sleep(0.05)
    assert len(deriving.secrets) == 300
    assert [one.known(user) for user in users] == [two.known(user) for user in users]
    three = make_keys(*users)
    until(lambda: all_known(three, users))


def test_workers_that_start_together_share_the_work(make_keys: MakeKeys, deriving: Deriving) -> None:
    users = some(40)
    one, two = make_keys(*users), make_keys(*users)
    deriving.seconds = 0.005
    one.start()
    two.start()
    until(lambda: all_known(one, users) and all_known(two, users))
    assert len(deriving.secrets) < 60


def test_a_login_does_not_wait_for_what_is_derived_in_advance(
    make_keys: MakeKeys, deriving: Deriving
) -> None:
    """One of these at most is on its way; the next begins when no login waits any more."""
    users = some(50)
    keys = make_keys(*users)
    deriving.seconds = 0.02
    keys.start()
    until(lambda: deriving.secrets)
    late = [user for user in users if user.secret not in deriving.secrets][-10:]
    begun = len(deriving.secrets)
    logins = [gevent.spawn(keys.verifier, user) for user in late]
    gevent.joinall(logins, timeout=10, raise_error=True)
    of_logins = {user.secret for user in late}
    last = max(place for place, secret in enumerate(deriving.secrets) if secret in of_logins)
    in_between = [secret for secret in deriving.secrets[begun:last] if secret not in of_logins]
    assert len(in_between) <= 1
    until(lambda: all_known(keys, users))


def test_logins_without_end_do_not_keep_it_from_going_on(
    make_keys: MakeKeys, deriving: Deriving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "PATIENCE_S", 0.05)
    users = some(3)
    keys = make_keys(*users)
    deriving.seconds = 0.01

    def guess() -> None:
        while True:
            keys.derive("a guess", bytes(16), MIN_ITERATIONS)

    guessing = [gevent.spawn(guess) for _ in range(2 * DERIVING_THREADS)]
    until(lambda: deriving.secrets)
    keys.start()
    until(lambda: all_known(keys, users))
    gevent.killall(guessing)


@pytest.mark.parametrize("change", ["secret", "verifier", "disabled", "unknown"])
def test_nothing_is_taken_over_for_other_credentials(
    make_keys: MakeKeys, deriving: Deriving, change: str
) -> None:
    """Workers read a changed configuration one after the other."""
    (user,) = some(1)
    one = make_keys(user)
    stored = str(derive("other", bytes(16), MIN_ITERATIONS))
    other = {
        "secret": User(id="id0", secret="other"),
        "verifier": User(id="id0", verifier=stored),
        "disabled": User(id="id0", secret="secret0", disabled=True),
        "unknown": User(id="id1", secret="secret0"),
    }[change]
    two = make_keys(other)
    theirs = one.verifier(user)
    turn(5)
    assert two._known == {}
    if not other.disabled:
        assert two.verifier(other) != theirs
    two.set_users({"id0": user})
    assert two.known(user) is None
    assert two.verifier(user) == theirs


def test_what_a_sibling_tells_while_it_is_derived_here(make_keys: MakeKeys, deriving: Deriving) -> None:
    (user,) = some(1)
    one, two = make_keys(user), make_keys(user)
    deriving.seconds = 0.05
    ours, theirs = gevent.spawn(one.verifier, user), gevent.spawn(two.verifier, user)
    gevent.joinall([ours, theirs], timeout=10, raise_error=True)
    turn(5)
    assert ours.value == theirs.value == one.known(user) == two.known(user)


def test_changed_and_removed_credentials_are_forgotten(make_keys: MakeKeys, deriving: Deriving) -> None:
    users = some(3)
    keys = make_keys(*users)
    kept = [keys.verifier(user) for user in users][2]
    changed = User(id="id0", secret="changed")
    keys.set_users({"id0": changed, "id2": User(id="id2", secret="secret2", connections=3)})
    assert keys.known(changed) is keys.known(users[1]) is None
    assert keys.known(users[2]) is kept
    assert set(keys._known) == {"id2"}
    assert make_keys(*users)._known.keys() == {"id2"}


def test_credentials_that_change_while_they_are_derived(make_keys: MakeKeys, deriving: Deriving) -> None:
    (user,) = some(1)
    keys = make_keys(user)
    deriving.seconds = 0.05
    login = gevent.spawn(keys.verifier, user)
    until(lambda: deriving.secrets)
    keys.set_users({"id0": User(id="id0", secret="changed")})
    login.join(10)
    assert keys._known == {}
