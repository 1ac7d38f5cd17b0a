"""Join codes: what goes in comes out, however the code was sent on; what was not sent whole is known for it."""

import base64
import hashlib
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.errors import WireError
from gtapp.wire.join_code import MAX_FIELD_BYTES, MAX_PASTE_CHARACTERS, MAX_REMOTES, JoinCode

CODE = JoinCode(
    "id1", "correct-horse-1", ("tls://example.com:443", "tcp://[2001:db8::1]:8080"), "ab" * 32, "Büro 办公室"
)
ENCODED = CODE.encode()
FIELD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


def test_a_code_as_it_is():
    """Codes that people have kept must be read by later versions."""
    code = JoinCode("a", "b", ("tcp://c:80",))
    assert code.encode() == "gt://aeabqalbafraaaakorrxaorpf5rtuobqijcugmy"
    assert JoinCode.parse("gt://aeabqalbafraaaakorrxaorpf5rtuobqijcugmy") == code


@given(
    id=FIELD,
    secret=FIELD,
    name=FIELD | st.just(""),
    remotes=st.lists(
        st.sampled_from(("tcp://a:1", "tls://example.com:443", "quic://b:2")), min_size=1, max_size=5
    ),
    fingerprint=st.binary(min_size=32, max_size=32).map(bytes.hex) | st.just(""),
)
def test_what_goes_in_comes_out(id, secret, name, remotes, fingerprint):
    code = JoinCode(id, secret, tuple(remotes), fingerprint, name)
    assert JoinCode.parse(code.encode()) == code


@pytest.mark.parametrize(
    "sent",
    [
        f"  {ENCODED}\n",
        ENCODED.upper(),
        ENCODED.replace("gt://", "Gt://"),
        f"{ENCODED}.",
        f"<{ENCODED}>",
        f"“{ENCODED}”,",
        f"*{ENCODED}*",
        f"[{ENCODED}]({ENCODED})",
        f"Here it is: {ENCODED} please keep it to yourself",
        f"这是连接码：{ENCODED}。请保密",
        "\n".join(textwrap.wrap(ENCODED, 40)),
        "\r\n> ".join(textwrap.wrap(ENCODED, 70)),
        " ".join(textwrap.wrap(ENCODED, 5)),
        "\u200b".join(textwrap.wrap(ENCODED, 30)),
        "\u00ad".join(textwrap.wrap(ENCODED, 30)),
        f"{ENCODED}{ENCODED}",
    ],
)
def test_a_code_survives_how_people_send_it(sent):
    assert JoinCode.parse(sent) == CODE


def test_a_code_is_one_word_of_letters_and_digits():
    letters = ENCODED.removeprefix("gt://")
    assert letters.isalnum()
    assert letters == letters.lower()
    assert set(ENCODED.upper()) <= set(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
    )  # the small form of QR codes


@pytest.mark.parametrize("length", range(len("gt://") + 1, len(ENCODED)))
def test_a_code_that_is_cut_off_is_known_for_one(length):
    with pytest.raises(WireError, match="cut off"):
        JoinCode.parse(ENCODED[:length])


@pytest.mark.parametrize("at", range(len("gt://"), len(ENCODED) - 1))
def test_a_letter_that_is_wrong_is_noticed(at):
    wrong = "b" if ENCODED[at] != "b" else "c"
    with pytest.raises(WireError, match=r"cut off|damaged"):
        JoinCode.parse(ENCODED[:at] + wrong + ENCODED[at + 1 :])


@pytest.mark.parametrize("text", ["", "gt", "gt://", "gt://!", "http://example.com", "aeabqalb", "gt:/abc"])
def test_what_is_no_code(text):
    with pytest.raises(WireError) as caught:
        JoinCode.parse(text)
    assert str(caught.value) == "this is no join code: one begins with gt://"


@given(st.text(max_size=100) | st.text("gt:/abcdefgh234567 \n", max_size=100).map("gt://".__add__))
def test_any_text_is_a_code_or_a_wire_error(text):
    assert reads_or_refuses(text)


@given(st.binary(max_size=80))
def test_any_bytes_with_the_right_checksum_are_a_code_or_a_wire_error(body):
    assert reads_or_refuses(made_of(body))


def reads_or_refuses(text: str) -> bool:
    """Whether a text is a code, or refused in words that can be shown."""
    try:
        return bool(JoinCode.parse(text))
    except WireError as error:
        return str(error).isprintable()


def made_of(body: bytes, version: int = 1) -> str:
    data = bytes((version,)) + (7 + len(body)).to_bytes(2, "big") + body
    data += hashlib.sha256(data).digest()[:4]
    return "gt://" + base64.b32encode(data).decode().rstrip("=")


def field(text: bytes) -> bytes:
    return bytes((len(text),)) + text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "the join code is damaged, copy it again"),
        (b"\xff", "the join code is damaged, copy it again"),
        (field(b"\xff") + field(b"b") + field(b"") * 2, "the join code is damaged, copy it again"),
        (field(b"") + field(b"b") + field(b"") * 2 + field(b"tcp://a:1"), "it needs an id and a secret"),
        (field(b"a") + field(b"b") + field(b"") * 2, f"it needs 1 to {MAX_REMOTES} remotes"),
        (
            field(b"a") + field(b"b") + field(b"") + field(b"x") + field(b"tcp://a:1"),
            "the fingerprint has to be",
        ),
        (
            field(b"a") + field(b"b") + field(b"") * 2 + field(b"file:///etc/passwd"),
            "a remote has to be such as tls://example.com:443, not 'file:///etc/passwd'",
        ),
    ],
)
def test_a_code_that_somebody_made_up(body, expected):
    with pytest.raises(WireError, match=expected):
        JoinCode.parse(made_of(body))


def test_a_code_of_a_newer_version():
    with pytest.raises(WireError, match="of a newer GT than this one"):
        JoinCode.parse(made_of(b"\x01a", version=2))


def test_a_text_without_end_is_not_read_to_the_end():
    with pytest.raises(WireError):
        JoinCode.parse("gt://" + "a" * 50_000_000)
    assert JoinCode.parse(ENCODED + " " * 50_000_000) == CODE


def test_the_longest_code_can_be_pasted():
    longest = "x" * MAX_FIELD_BYTES
    remote = "tls://" + "h" * (MAX_FIELD_BYTES - 6)
    code = JoinCode(longest, longest, (remote,) * MAX_REMOTES, "00" * 32, longest)
    assert len(code.encode()) < MAX_PASTE_CHARACTERS / 2
    assert JoinCode.parse(code.encode()) == code


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (JoinCode("", "b", ("tcp://a:1",)), "it needs an id and a secret"),
        (JoinCode("a", "", ("tcp://a:1",)), "it needs an id and a secret"),
        (JoinCode("a", "b", ()), "it needs 1 to 16 remotes"),
        (JoinCode("a", "b", ("tcp://a:1",) * 17), "it needs 1 to 16 remotes"),
        (JoinCode("a", "b", ("example.com",)), "a remote has to be such as tls://example.com:443"),
        (JoinCode("a", "b", ("tcp://a:1",), "AB" * 32), "the fingerprint has to be a SHA-256 in hex"),
        (JoinCode("a" * 256, "b", ("tcp://a:1",)), "nothing in it may be longer than 255 bytes"),
        (JoinCode("a", "b", ("tcp://a:1",), "", "é" * 128), "nothing in it may be longer than 255 bytes"),
        (JoinCode("a", "\udcff", ("tcp://a:1",)), "can't encode character"),
    ],
)
def test_what_cannot_be_a_code(code, expected):
    with pytest.raises(ValueError, match=expected):
        code.encode()


def test_the_secret_is_not_shown():
    assert "correct-horse-1" not in repr(CODE)
