"""Certificates as the wizard sees them, real ones."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gtapp.console.setup_certificate import LIMIT_BYTES, check_certificate, covers
from tests.support.certificates import make_pair


def test_a_pair_that_is_for_the_domain(tmp_path: Path) -> None:
    pair = make_pair(["example.com", "*.Example.com"])
    files = pair.write(tmp_path)
    check = check_certificate(files.cert, files.key, "example.com")
    assert check.ok
    assert check.names == ("example.com", "*.example.com")
    assert check.uncovered == ()
    assert check.until is not None
    assert check.until > datetime.now(UTC)
    assert len(check.fingerprint) == 64


def test_names_that_are_missing_are_named(tmp_path: Path) -> None:
    files = make_pair(["example.com"]).write(tmp_path)
    check = check_certificate(files.cert, files.key, "example.com")
    assert check.ok
    assert check.uncovered == ("*.example.com",)
    assert check_certificate(files.cert, files.key, "example.org").uncovered == (
        "example.org",
        "*.example.org",
    )


def test_a_certificate_without_names(tmp_path: Path) -> None:
    files = make_pair([]).write(tmp_path)
    check = check_certificate(files.cert, files.key, "example.com")
    assert (check.ok, check.names, check.uncovered) == (True, (), ("example.com", "*.example.com"))


@pytest.mark.parametrize("key", ["ec", "ed25519", "rsa2048"])
def test_kinds_of_keys(tmp_path: Path, key: str) -> None:
    files = make_pair(["example.com"], key=key).write(tmp_path)
    assert check_certificate(files.cert, files.key, "example.com").ok


def test_a_chain_is_read_by_its_first(tmp_path: Path) -> None:
    authority = make_pair([], subject="Test CA", ca=True)
    pair = make_pair(["*.example.com"], issuer=authority)
    files = pair.write(tmp_path)
    files.cert.write_bytes(pair.pem + authority.pem)
    assert check_certificate(files.cert, files.key, "example.com").names == ("*.example.com",)


def test_what_is_wrong_is_told_with_its_field(tmp_path: Path) -> None:
    good = make_pair(["example.com"])
    files = good.write(tmp_path)
    other = make_pair(["example.com"]).write(tmp_path, "other")
    old = make_pair(["example.com"], days=(-30, -1)).write(tmp_path, "old")
    new = make_pair(["example.com"], days=(2, 30)).write(tmp_path, "new")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(good.key_pem(b"password"))
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"\xff\x00-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    large = tmp_path / "large.pem"
    large.write_bytes(b"x" * (LIMIT_BYTES + 1))
    nowhere = tmp_path / "nowhere.pem"

    def problem(cert: Path, key: Path) -> tuple[str | None, str]:
        check = check_certificate(cert, key, "example.com")
        assert not check.ok
        return check.problem, check.field

    assert problem(files.cert, other.key) == ("no pair", "key")
    assert problem(files.key, files.key) == ("is a key", "cert")
    assert problem(files.cert, files.cert) == ("is a certificate", "key")
    assert problem(garbage, files.key) == ("no certificate", "cert")
    assert problem(files.cert, large) == ("too large", "key")
    assert problem(nowhere, files.key) == ("missing", "cert")
    assert problem(files.cert, nowhere) == ("missing", "key")
    assert problem(tmp_path, files.key) == ("unreadable", "cert")
    assert problem(Path("a\0b"), files.key) == ("unreadable", "cert")
    assert problem(files.cert, locked) == ("encrypted", "key")
    assert problem(old.cert, old.key) == ("expired", "cert")
    assert problem(new.cert, new.key) == ("not yet", "cert")


def test_a_key_that_is_none(tmp_path: Path) -> None:
    files = make_pair(["example.com"]).write(tmp_path)
    files.key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    check = check_certificate(files.cert, files.key, "example.com")
    assert (check.problem, check.field) == ("no key", "key")


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["*.example.com"], "*.example.com", True),
        (["*.example.com"], "example.com", False),
        (["example.com"], "*.example.com", False),
        (["*.com"], "example.com", True),
        (["*.com"], "*.example.com", False),
        (["*.b.example.com", "*.example.com"], "b.example.com", True),
    ],
)
def test_which_names_a_certificate_is_for(names: list[str], wanted: str, expected: bool) -> None:
    assert covers(names, wanted) is expected
