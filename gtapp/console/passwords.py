"""Whether a password is right, and how it is kept. The password of the configuration is plain text or a hash of it.

A hash takes tens of milliseconds and 19 MiB on purpose, so it is computed off the hub's thread and one at a time.
Every answer costs exactly one, whether there is such a name or not.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TypeVar

import argon2
import gevent
from gevent.lock import Semaphore

from gtapp.config.passwords import hasher
from gtapp.console.words import _
from gtapp.errors import GTError

T = TypeVar("T")

log = logging.getLogger("gt.console")

HASH = "$argon2id$"
MAX_PASSWORD = 1000  # characters; more are not hashed, they are wrong
MIN_PASSWORD = 10  # characters of a new one
DIFFERENT = 4  # characters of a new one, at least
MAX_WAITING = 20  # verifications; whoever comes when that many wait is told to come later

_one_at_a_time = Semaphore(1)
_NOBODYS = secrets.token_urlsafe(32)  # what nobody can know is verified where there is no password
_hashed: dict[str, str] = {}  # of the configuration's password, when that is plain text; and of nothing
_waiting = 0


class Busy(GTError):
    """Too many passwords are being verified."""

    def __init__(self) -> None:
        super().__init__(_("GT is busy. Try again in a moment."))


def is_hash(password: str) -> bool:
    """Whether an option's value is a hash rather than the password itself."""
    return password.startswith(HASH)


def problem_of(password: str, name: str) -> str:
    """Why a new password of `name` is no good, "" when it will do. Length is what counts (NIST SP 800-63B section
    5.1.1)."""
    if len(password) < MIN_PASSWORD:
        return _("Use at least %(n)s characters. Several words are easy to remember.", n=MIN_PASSWORD)
    if len(password) > MAX_PASSWORD:
        return _("Use at most %(n)s characters.", n=MAX_PASSWORD)
    if password.lower() == name.lower() or len(set(password)) < DIFFERENT:
        return _("This one is guessed at once. Choose another.")
    return ""


def hash_password(password: str) -> str:
    """The hash of a new password. Waits. Raises Busy."""
    return _in_turn(_hash, password)


def matches(expected: str, given: str) -> bool:
    """Whether `given` is the password that `expected`, an option's value, stands for; never when that is "".

    Waits. Raises Busy.
    """
    return _in_turn(_verify, expected, given)


def _in_turn(function: Callable[..., T], *args: str) -> T:
    global _waiting
    if _waiting >= MAX_WAITING:
        raise Busy
    _waiting += 1
    try:
        with _one_at_a_time:
            result, error = gevent.get_hub().threadpool.apply(_caught, (function, args))
    finally:
        _waiting -= 1
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _caught(function: Callable[..., T], args: tuple[str, ...]) -> tuple[T | None, Exception | None]:
    """In a thread gevent would print what is raised as well."""
    try:
        return function(*args), None
    except Exception as error:
        return None, error


def _hash(password: str) -> str:
    return hasher.hash(password)


def _verify(expected: str, given: str) -> bool:
    usable = bool(expected) and len(given) <= MAX_PASSWORD
    if not is_hash(expected):
        plain = expected or _NOBODYS
        if plain not in _hashed:
            _hashed.clear()
            _hashed[plain] = hasher.hash(plain)
        expected = _hashed[plain]
    try:
        hasher.verify(expected, given[:MAX_PASSWORD].encode(errors="surrogatepass"))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError) as error:
        log.error(
            "the hash in the option password cannot be used, gt.py reset-admin makes a new one: %s", error
        )
        return False
    return usable
