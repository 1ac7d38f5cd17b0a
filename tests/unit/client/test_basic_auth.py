"""User and password: what is right, what is remembered, and what guessing may cost."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import argon2
import gevent
import pytest

from gtapp.client import basic_auth
from gtapp.client.basic_auth import TRIES, TRIES_OF_ALL, TRY_EVERY_S, BasicAuth, Verdict
from gtapp.config.passwords import hash_password, hasher

HASH = hash_password("hush:hush")
HERE = "192.0.2.1:5"


def basic(text: str | bytes) -> bytes:
    return b"Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text)


RIGHT = basic("anne:hush:hush")


@pytest.fixture
def auth() -> Iterator[BasicAuth]:
    yield BasicAuth(f"anne:{HASH}")
    if BasicAuth._threads is not None:
        BasicAuth._threads.kill()
        BasicAuth._threads = None


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords that were hashed; only the right one is right."""
    passwords: list[bytes] = []

    def verify(self: BasicAuth, password: bytes) -> bool:
        passwords.append(password)
        gevent.sleep(0)
        return password == b"hush:hush"

    monkeypatch.setattr(BasicAuth, "_verify", verify)
    return passwords


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [1000.0]
    monkeypatch.setattr(basic_auth, "monotonic", lambda: time[0])
    return time


def test_the_right_one_is_remembered(auth: BasicAuth) -> None:
    assert auth.known(RIGHT) is None
    assert auth.check(RIGHT, HERE) is Verdict.RIGHT
    assert auth.known(RIGHT) is True


@pytest.mark.parametrize("text", ["anne:hush", "anne:", "bob:hush:hush", ":hush:hush", b"anne:\xff"])
def test_wrong_ones_are_remembered_too(auth: BasicAuth, text: str | bytes) -> None:
    assert auth.check(basic(text), HERE) is Verdict.WRONG
    assert auth.known(basic(text)) is False


def test_user_and_password_may_be_any_text(auth: BasicAuth) -> None:
    auth = BasicAuth("änne:" + hash_password("pässword"))
    assert auth.check(basic("änne:pässword"), HERE) is Verdict.RIGHT


@pytest.mark.parametrize(
    "value",
    [b"", b"Basic", b"Basic ", b"Basic !!", b"Basic " + base64.b64encode(b"anne"), b"Bearer x", RIGHT[:-1]],
)
def test_no_credentials_cost_no_hash(auth: BasicAuth, verified: list[bytes], value: bytes) -> None:
    for _ in range(TRIES_OF_ALL + 1):
        assert auth.check(value, HERE) is Verdict.WRONG
    assert not verified


def test_the_scheme_in_any_case(auth: BasicAuth, verified: list[bytes]) -> None:
    assert auth.check(b"bAsIc  " + RIGHT[6:] + b" ", HERE) is Verdict.RIGHT


def test_the_same_at_once_is_hashed_once(auth: BasicAuth, verified: list[bytes]) -> None:
    checks = [gevent.spawn(auth.check, RIGHT, HERE) for _ in range(6)]
    gevent.joinall(checks)
    assert {check.value for check in checks} == {Verdict.RIGHT}
    assert len(verified) == 1


def test_one_address_may_not_guess_on(auth: BasicAuth, verified: list[bytes], now: list[float]) -> None:
    for guess in range(TRIES):
        assert auth.check(basic(f"anne:{guess}"), HERE) is Verdict.WRONG
    assert auth.check(RIGHT, "192.0.2.1:6") is Verdict.LATER
    assert auth.check(RIGHT, "192.0.2.2:5") is Verdict.RIGHT, "others may"
    assert auth.known(RIGHT), "and who has been in before is not even asked"
    now[0] += TRY_EVERY_S
    assert auth.check(basic("anne:x"), HERE) is Verdict.WRONG
    assert auth.check(basic("anne:y"), HERE) is Verdict.LATER
    assert len(verified) == TRIES + 2


def test_what_was_right_counts_for_nothing(auth: BasicAuth, verified: list[bytes], now: list[float]) -> None:
    for spaces in range(TRIES_OF_ALL * 2):
        assert auth.check(b"Basic" + b" " * (1 + spaces) + RIGHT[6:], HERE) is Verdict.RIGHT


def test_addresses_of_one_ipv6_network_count_as_one(
    auth: BasicAuth, verified: list[bytes], now: list[float]
) -> None:
    for guess in range(TRIES):
        auth.check(basic(f"anne:{guess}"), f"[2001:db8::{guess}]:5")
    assert auth.check(RIGHT, "[2001:db8::ffff:0:0:1]:5") is Verdict.LATER
    assert auth.check(RIGHT, "[2001:db8:0:1::1]:5") is Verdict.RIGHT


def test_an_address_that_is_none_counts_as_it_is(
    auth: BasicAuth, verified: list[bytes], now: list[float]
) -> None:
    for guess in range(TRIES):
        assert auth.check(basic(f"anne:{guess}"), "[x::y::z]:5") is Verdict.WRONG
    assert auth.check(RIGHT, "[x::y::z]:5") is Verdict.LATER


def test_all_together_may_not_guess_on(auth: BasicAuth, verified: list[bytes], now: list[float]) -> None:
    for guess in range(TRIES_OF_ALL):
        assert auth.check(basic(f"anne:{guess}"), f"192.0.2.{guess}:5") is Verdict.WRONG
    assert auth.check(RIGHT, "198.51.100.1:5") is Verdict.LATER
    now[0] += 1
    assert auth.check(RIGHT, "198.51.100.1:5") is Verdict.RIGHT


def test_without_addresses_all_count_as_one(auth: BasicAuth, verified: list[bytes], now: list[float]) -> None:
    for guess in range(TRIES):
        assert auth.check(basic(f"anne:{guess}"), "") is Verdict.WRONG
    assert auth.check(RIGHT, "") is Verdict.LATER


def test_what_is_remembered_is_bounded(
    auth: BasicAuth, verified: list[bytes], now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(basic_auth, "MAX_REMEMBERED", 10)
    monkeypatch.setattr(basic_auth, "MAX_ADDRESSES", 10)
    auth.check(RIGHT, HERE)
    for guess in range(100):
        now[0] += 10
        auth.check(basic(f"anne:{guess}"), f"192.0.2.{guess}:5")
    assert len(auth._known) == 10
    assert len(auth._tries._free_at) == 10
    assert auth.known(RIGHT) is True, "guesses do not drop what is right"
    assert auth.known(basic("anne:0")) is None
    for spaces in range(20):
        auth.check(b"Basic" + b" " * (2 + spaces) + RIGHT[6:], HERE)
    assert len(auth._known) == 10
    assert auth.known(RIGHT) is None


@pytest.mark.parametrize(
    "error", [argon2.exceptions.InvalidHashError(), argon2.exceptions.VerificationError("x")]
)
def test_a_hash_that_cannot_be_used(
    auth: BasicAuth, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def verify(*args: object) -> bool:
        raise error

    monkeypatch.setattr(hasher.__class__, "verify", verify)
    assert auth.check(RIGHT, HERE) is Verdict.WRONG
    assert "gt.py hash-password" in caplog.text
    assert HASH not in caplog.text
