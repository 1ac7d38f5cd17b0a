"""Passwords: right or wrong, at the same price."""

import gevent
import pytest

from gtapp.config.passwords import hasher
from gtapp.console import passwords
from gtapp.console.passwords import hash_password, is_hash, matches

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def hashed():
    return hash_password(PASSWORD)


@pytest.fixture
def verified(monkeypatch):
    """The hashes that were verified."""
    found = []

    class Counting:
        hash = staticmethod(hasher.hash)

        @staticmethod
        def verify(expected, given):
            found.append(expected)
            return hasher.verify(expected, given)

    monkeypatch.setattr(passwords, "hasher", Counting)
    return found


def test_hashes(hashed):
    assert is_hash(hashed)
    assert hashed.startswith("$argon2id$")
    assert hashed != hash_password(PASSWORD), "each has its own salt"


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "hash"])
def test_right_and_wrong(hashed, plain):
    expected = PASSWORD if plain else hashed
    assert matches(expected, PASSWORD)
    for wrong in ("", "wrong", PASSWORD + " ", PASSWORD.upper(), PASSWORD * 1000, hashed):
        assert not matches(expected, wrong)


def test_without_a_password_nothing_is_right():
    for given in ("", "x", passwords._NOBODYS):
        assert not matches("", given)


def test_whatever_is_asked_it_costs_one_verification(hashed, verified):
    for expected in (hashed, PASSWORD, "", "$argon2id$nonsense"):
        matches(expected, "warm up")
        for given in (PASSWORD, "wrong", "", "x" * 100_000):
            verified.clear()
            matches(expected, given)
            assert len(verified) == 1


def test_what_is_longer_than_a_password_can_be_is_wrong():
    longest = "x" * passwords.MAX_PASSWORD
    assert matches(longest, longest)
    assert not matches(longest, longest + "x")


def test_a_hash_that_cannot_be_used_is_said_so(caplog):
    assert not matches("$argon2id$v=19$m=1,t=1,p=1$broken", PASSWORD)
    assert "gt.py reset-admin makes a new one" in caplog.text


@pytest.mark.parametrize(
    ("password", "name", "words"),
    [
        ("correct horse", "admin", ""),
        ("Administrator", "admin", ""),
        ("Administrator", "administrator", "guessed at once"),
        ("abababababab", "admin", "guessed at once"),
        ("123456789", "admin", "at least 10"),
        ("abcdefghij" * 101, "admin", "at most 1000"),
    ],
)
def test_what_a_new_password_has_to_be(password, name, words):
    problem = passwords.problem_of(password, name)
    assert words in problem
    assert bool(words) == bool(problem)


def test_unicode_that_is_none():
    assert not matches(PASSWORD, "\udcff")


def test_the_hub_goes_on_meanwhile(hashed):
    """Other greenlets run while a password is verified."""
    turns = []

    def count():
        while True:
            turns.append(1)
            gevent.sleep(0)

    counting = gevent.spawn(count)
    matches(hashed, PASSWORD)
    counting.kill()
    assert len(turns) > 1


def test_too_many_at_once_are_told_to_come_later(hashed, monkeypatch):
    monkeypatch.setattr(passwords, "MAX_WAITING", 3)
    tries = [gevent.spawn(matches, hashed, PASSWORD) for _ in range(3)]
    gevent.sleep(0)
    with pytest.raises(passwords.Busy):
        matches(hashed, PASSWORD)
    gevent.joinall(tries, timeout=30)
    assert [each.value for each in tries] == [True] * 3
    assert matches(hashed, PASSWORD)
