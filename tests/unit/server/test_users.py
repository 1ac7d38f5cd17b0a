"""Credentials: the same way and the same work, whether the id exists or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gtapp.config.load import User
from gtapp.server.users import Users
from gtapp.wire import credentials
from gtapp.wire.credentials import MIN_ITERATIONS, derive
from tests.support.relay import until

SALT = bytes(range(16))


class Counted:
    """How often a key was derived: what takes time in a login."""

    def __init__(self) -> None:
        self.count = 0

    def derive(self, secret: str, salt: bytes, iterations: int = 0) -> credentials.Verifier:
        self.count += 1
        return derive(secret, salt, MIN_ITERATIONS)

    def of(self, what: Callable[[], Any]) -> int:
        before = self.count
        what()
        return self.count - before


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    monkeypatch.setattr(credentials, "derive", made.derive)
    return made


@pytest.fixture
def make_users(counted: Counted) -> Iterator[Callable[..., Users]]:
    """make_users(user, ...): with all keys derived, as they are soon after the start."""
    made: list[Users] = []

    def make(*users: User) -> Users:
        made.append(Users({user.id: user for user in users}))
        made[-1].start()
        until(lambda: len(made[-1]._verifiers) == len(users))
        return made[-1]

    yield make
    for each in made:
        each._threads.kill()


ONE = User(id="id1", secret="secret1")
STORED = User(id="id2", verifier=str(derive("secret2", SALT, MIN_ITERATIONS)))
MakeUsers = Callable[..., Users]


def test_check(make_users: MakeUsers) -> None:
    users = make_users(ONE, STORED)
    for _ in range(2):
        assert users.check("id1", "secret1")
        assert users.check("id2", "secret2")
        assert not users.check("id1", "secret2")
        assert not users.check("id1", "")
        assert not users.check("id3", "secret1")
    assert users.get("id1") is ONE
    assert users.get("id3") is None


def test_a_key_is_derived_once(make_users: MakeUsers, counted: Counted) -> None:
    users = make_users(ONE)
    first = users.verifier("id1")
    assert counted.count == 1
    assert users.verifier("id1") is first
    users.check("id1", "secret1")
    assert counted.of(lambda: users.check("id1", "secret1")) == 0, "it has been proved"


def test_a_stored_verifier_is_used_as_it_is(make_users: MakeUsers, counted: Counted) -> None:
    users = make_users(STORED)
    assert str(users.verifier("id2")) == STORED.verifier
    assert counted.count == 0


def test_salts_look_alike(make_users: MakeUsers) -> None:
    users = make_users(ONE, STORED)
    salts = [users.verifier(user_id).salt for user_id in ("id1", "id2", "unknown", "unknown2")]
    assert len(set(salts)) == 4
    assert {len(salt) for salt in salts} == {16}
    assert salts == [users.verifier(user_id).salt for user_id in ("id1", "id2", "unknown", "unknown2")]


def test_the_id_of_a_user_is_his_host_prefix(make_users: MakeUsers) -> None:
    users = make_users(User(id="Id1", secret="x"), STORED)
    assert users.reserved_for_others("id1", "id2")
    assert not users.reserved_for_others("id1", "Id1")
    assert not users.reserved_for_others("free", "id2")


def test_an_unknown_id_matches_nothing(make_users: MakeUsers) -> None:
    users = make_users(ONE)
    assert users.verifier("unknown").stored_key != users.verifier("id1").stored_key
    assert users.verifier("unknown") == users.verifier("unknown")


@pytest.mark.parametrize("login", ["verifier", "check"])
@pytest.mark.parametrize("known", ["used", "new", "stored"])
def test_the_work_does_not_tell_an_unknown_id(
    make_users: MakeUsers, counted: Counted, login: str, known: str
) -> None:
    """Most ids that exist have logged in before; one that is asked for the first time must not stand out."""
    users = make_users(ONE, STORED)
    if known == "used":
        assert users.check("id1", "secret1")
    known_id = "id2" if known == "stored" else "id1"

    def try_it(user_id: str) -> int:
        if login == "verifier":
            return counted.of(lambda: users.verifier(user_id))
        return counted.of(lambda: users.check(user_id, "wrong"))

    assert [try_it("unknown"), try_it("unknown")] == [try_it(known_id), try_it(known_id)]


@pytest.mark.parametrize("secret", ["\x00", "a\x07b", "͸", "\ue000"])
@pytest.mark.parametrize("user_id", ["id1", "unknown", "\x00"])
def test_a_secret_that_cannot_be_used_is_wrong(make_users: MakeUsers, secret: str, user_id: str) -> None:
    """It comes from outside: nothing but False, and no traceback in the log."""
    assert make_users(ONE).check(user_id, secret) is False


def test_a_user_whose_secret_cannot_be_used(make_users: MakeUsers, caplog: pytest.LogCaptureFixture) -> None:
    users = make_users(
        User(id="id1", secret="\x00"), User(id="id2", verifier="SCRAM-SHA-256$4096:AA==$AA==:AA==")
    )
    assert "user id1 cannot log in" in caplog.text
    assert "user id2 cannot log in" in caplog.text
    assert not users.check("id1", "\x00")
    assert users.verifier("id2").salt == users.verifier("id2").salt


def test_ids_and_secrets_are_not_run_together(make_users: MakeUsers) -> None:
    users = make_users(User(id="a", secret="bc"), User(id="ab", secret="xy"))
    assert users.check("a", "bc")
    assert not users.check("ab", "c")
