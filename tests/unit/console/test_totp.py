"""The second factor. The codes are those that pyotp, and every app, makes of the secret."""

import pyotp
import pytest

from gtapp.console import totp
from gtapp.console.database import Database
from gtapp.console.totp import RECOVERY_CODES, Factor


@pytest.fixture
def factor(tmp_path, clock):
    db = Database(tmp_path / "console.db")
    yield Factor(db, clock)
    db.close()


@pytest.fixture
def phone(factor, clock):
    """The code that the phone shows: `phone()` now, `phone(30)` in 30 seconds."""
    secret = factor.begin()
    assert factor.confirm(code(secret, clock)) is not None
    clock.forward(30)
    return lambda later=0: pyotp.TOTP(secret).at(int(clock()) + later)


def code(secret, clock):
    return pyotp.TOTP(secret).at(int(clock()))


def test_it_is_asked_for_once_a_code_has_been_seen(factor, clock):
    assert not factor.active()
    assert factor.confirm("000000") is None, "there is nothing to confirm"
    first, secret = factor.begin(), factor.begin()
    assert first != secret
    assert not factor.active()
    assert not factor.check(code(secret, clock))
    assert factor.confirm(code(first, clock)) is None
    assert len(set(factor.confirm(code(secret, clock)))) == RECOVERY_CODES
    assert factor.active()
    assert factor.pending() == ""


def test_a_code_counts_once(factor, phone):
    assert factor.check(phone())
    assert not factor.check(phone())
    assert not factor.check(phone(-30)), "nor does one from before it"
    assert factor.check(phone(30))


def test_the_code_that_confirmed_is_used_up(factor, clock):
    secret = factor.begin()
    factor.confirm(code(secret, clock))
    assert not factor.check(code(secret, clock))


@pytest.mark.parametrize(("later", "right"), [(-60, False), (-30, True), (0, True), (30, True), (60, False)])
def test_clocks_may_be_half_a_minute_off(factor, phone, clock, later, right):
    clock.forward(60)
    assert factor.check(phone(later)) is right


def test_a_clock_that_is_half_a_minute_slow_can_confirm(factor, clock):
    secret = factor.begin()
    assert factor.confirm(pyotp.TOTP(secret).at(int(clock()) - 30)) is not None


def test_as_people_type_it(factor, phone):
    now = phone()
    assert factor.check(f" {now[:3]} {now[3:]} ")


@pytest.mark.parametrize("typed", ["", "0", "abcdef", "１２３４５６", "\udcff", "9" * 100_000])
def test_something_else(factor, phone, typed):
    assert not factor.check(typed)


def test_a_recovery_code_counts_once(factor, phone):
    codes = factor.new_recovery_codes()
    assert factor.check(codes[0])
    assert not factor.check(codes[0])
    assert factor.check(codes[1].upper().replace("-", " "))
    assert factor.recovery_codes_left() == RECOVERY_CODES - 2


def test_new_recovery_codes_replace_the_old_ones(factor, phone):
    old, new = factor.new_recovery_codes(), factor.new_recovery_codes()
    assert not factor.check(old[0])
    assert factor.check(new[0])


def test_removed(factor, phone):
    (recovery, *_) = factor.new_recovery_codes()
    factor.remove()
    assert not factor.active()
    assert not factor.check(phone())
    assert not factor.check(recovery)
    assert factor.recovery_codes_left() == 0


def test_set_up_again_while_it_is_on(factor, phone, clock):
    """Until the new one is confirmed, the old one is what counts."""
    secret = factor.begin()
    assert factor.check(phone())
    clock.forward(60)
    assert factor.confirm(code(secret, clock)) is not None
    clock.forward(30)
    assert not factor.check(phone())
    assert factor.check(code(secret, clock))


def test_what_the_app_reads():
    secret = pyotp.random_base32()
    text = totp.address_of(secret, "admin", "console.example.com:8000")
    parsed = pyotp.parse_uri(text)
    assert (parsed.secret, parsed.issuer, parsed.name) == (secret, "GT", "admin@console.example.com:8000")
    assert totp.picture_of(text).startswith("data:image/svg+xml")
