import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.wire import credentials
from gtapp.wire.credentials import Verifier, decoy, derive, parse_verifier, salt_for

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
# Secret "pencil", as PostgreSQL and the example of RFC 7677 have it.
PENCIL = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
    "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_derive() -> None:
    assert str(derive("pencil", SALT, 4096)) == PENCIL
    assert parse_verifier(PENCIL) == derive("pencil", SALT, 4096)


@pytest.mark.parametrize("secret", ["pen\x00cil", "a\nb", "\ud800", "😀"])
def test_a_secret_that_cannot_be_used(secret: str) -> None:
    with pytest.raises(ValueError, match="this secret cannot be used"):
        derive(secret, SALT, 4096)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a verifier reads"),
        ("pencil", "a verifier reads"),
        (PENCIL + "\n", "a verifier reads"),
        (PENCIL.replace("256", "1"), "a verifier reads"),
        (PENCIL.replace("4096", "4095"), "4096 to 1000000 iterations, not 4095"),
        (PENCIL.replace("4096", "1000001"), "4096 to 1000000 iterations, not 1000001"),
        (PENCIL.replace("4096", "٤٠٩٦"), "a verifier reads"),
        (PENCIL.replace("gQ==", "gQ"), "the salt of this verifier is no base64"),
        (PENCIL.replace("W22Z", ""), "the salt of a verifier has 16 bytes, not 13"),
        (PENCIL.replace("WG5d", ""), "the stored key of a verifier has 32 bytes, not 29"),
        (PENCIL.replace("wfPL", ""), "the server key of a verifier has 32 bytes, not 29"),
    ],
)
def test_text_that_is_no_verifier(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("$", r"\$")):
        parse_verifier(text)


def test_salt_depends_on_id_and_key_alone() -> None:
    assert salt_for("id1", b"k") == salt_for("id1", b"k")
    assert len({salt_for("id1", b"k"), salt_for("id2", b"k"), salt_for("id1", b"l")}) == 3


def test_an_unknown_id_looks_like_a_known_one() -> None:
    known, unknown = derive("pencil", salt_for("id1", b"k")), decoy("id1", b"k")
    assert (known.salt, known.iterations) == (unknown.salt, unknown.iterations)
    assert len(unknown.stored_key) == len(unknown.server_key) == 32
    assert derive("pencil", unknown.salt, unknown.iterations).stored_key != unknown.stored_key
    assert parse_verifier(str(unknown)) == unknown


def test_no_key_in_a_repr() -> None:
    assert "stored_key" not in repr(parse_verifier(PENCIL))


keys = st.binary(min_size=32, max_size=32)


@given(
    st.builds(
        Verifier,
        st.binary(min_size=16, max_size=16),
        keys,
        keys,
        st.integers(credentials.MIN_ITERATIONS, credentials.MAX_ITERATIONS),
    )
)
def test_what_was_written_is_read(verifier: Verifier) -> None:
    assert parse_verifier(str(verifier)) == verifier


parts = st.sampled_from(("SCRAM-SHA-256", "$", ":", "4096", "=", "W22ZaJ0SNY7soEsUEjb6gQ==", "A" * 43))


@given(st.text() | st.lists(parts | st.text(max_size=3), max_size=9).map("".join))
def test_any_text_gives_a_verifier_or_the_error(text: str) -> None:
    reason = ""
    try:
        assert isinstance(parse_verifier(text), Verifier)
    except ValueError as error:
        reason = str(error)
    assert "verifier" in reason or not reason
