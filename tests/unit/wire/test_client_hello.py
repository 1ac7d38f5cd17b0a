import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.errors import WireError
from gtapp.wire import client_hello
from gtapp.wire.client_hello import LIMIT_BYTES, BadHello, ClientHello, HelloReader, NotTLS, parse

from . import corpus

Verdict = ClientHello | str | None
NOT_TLS = "not TLS"


def verdict(data: bytes, read: Callable[[bytes], ClientHello | None] = parse) -> Verdict:
    try:
        return read(data)
    except NotTLS:
        return NOT_TLS
    except BadHello as error:
        return str(error)


def expected(case: corpus.Case) -> Verdict:
    if "hello" in case:
        alpn = tuple(name.encode() for name in case["hello"]["alpn"])
        return ClientHello(case["hello"]["server_name"], alpn)
    return NOT_TLS if "not_tls" in case else case.get("bad")


def lengths(most: int) -> list[int]:
    """Every length of what is short; of what is long those near its ends and near the limit."""
    near = [*range(2500), *range(most - 200, most + 1), *range(LIMIT_BYTES - 50, LIMIT_BYTES + 50)]
    return sorted({size for size in near if 0 <= size <= most})


@pytest.mark.parametrize("case", corpus.cases("client_hello/*.yaml"))
def test_corpus(case: corpus.Case) -> None:
    """At every length: nothing, up to the byte that decides, and from there on the same."""
    data = corpus.data_of(case)
    found = [(size, verdict(data[:size])) for size in lengths(len(data))]
    decided = [(size, value) for size, value in found if value is not None]
    if expected(case) is None:
        assert decided == []
        return
    at = decided[0][0]
    assert {value for _, value in decided} == {expected(case)}
    assert [size for size, _ in found if size >= at] == [size for size, _ in decided]
    assert at == case.get("decided_at", at)


@pytest.mark.parametrize("case", corpus.cases("client_hello/*.yaml"))
def test_corpus_in_pieces(case: corpus.Case) -> None:
    data = corpus.data_of(case)
    for pieces in corpus.cuts(data):
        in_pieces(pieces)


def in_pieces(pieces: list[bytes]) -> None:
    """Until it is decided, a reader of the pieces says what it would say of the whole."""
    reader, data = HelloReader(), b""
    for piece in pieces:
        data += piece
        found = verdict(data, reader.read)
        assert found == verdict(data)
        if found is not None:
            break


def test_many_records_in_many_pieces_are_read_once() -> None:
    """A visitor who sends each byte in a record of its own, and each byte by itself, is no great burden."""
    data = recorded(hello(extension(21, bytes(2500))), [1])
    assert len(data) > 15_000
    reader = HelloReader()
    lines = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        for size in range(len(data)):
            reader.read(data[:size])
    finally:
        sys.settrace(before)
    assert lines < 50 * len(data)
    assert reader.read(data) == ClientHello(None)


@pytest.mark.parametrize("case", corpus.cases("client_hello/real.yaml"))
def test_in_records_of_any_size(case: corpus.Case) -> None:
    message = corpus.data_of(case)[5:]
    for sizes in ([1], [2], [3, 1], [100], [512], [1, 4000]):
        data = recorded(message, sizes)
        assert parse(data) == expected(case)
        assert parse(data[:-1]) is None
    for pieces in corpus.cuts(message):
        assert parse(b"".join(recorded(piece, [16384]) for piece in pieces)) == expected(case)


@pytest.mark.parametrize("alert", [client_hello.ALERT_UNRECOGNIZED_NAME, client_hello.ALERT_DECODE_ERROR])
def test_an_alert_is_a_whole_record(alert: bytes) -> None:
    """RFC 8446 section 5.1; that clients understand them is seen in tests/e2e/test_sni.py."""
    assert alert[:3] == b"\x15\x03\x03"
    assert int.from_bytes(alert[3:5]) == len(alert) - 5 == 2


def test_both_errors_are_the_declared_one() -> None:
    assert issubclass(NotTLS, WireError)
    assert issubclass(BadHello, WireError)


# Made hellos


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2) + vector(2, data)


def server_name(name: bytes) -> bytes:
    return extension(0, vector(2, b"\0" + vector(2, name)))


def hello(extensions: bytes, session: bytes = b"", suites: bytes = b"\x13\x01") -> bytes:
    """A whole message."""
    body = b"\3\3" + bytes(32) + vector(1, session) + vector(2, suites) + b"\1\0" + vector(2, extensions)
    return b"\1" + vector(3, body)


def recorded(message: bytes, sizes: list[int]) -> bytes:
    """The message in records of these sizes, in turn."""
    data, number = b"", 0
    while message:
        size = sizes[number % len(sizes)]
        data += b"\x16\3\1" + vector(2, message[:size])
        message = message[size:]
        number += 1
    return data


labels = st.text(st.sampled_from("abcXYZ019-_"), min_size=1, max_size=20)
names = st.lists(labels, min_size=2, max_size=5).map(".".join).map(lambda name: "n" + name)
others = st.dictionaries(st.integers(17, 65535), st.binary(max_size=40), max_size=5)


@given(
    name=names,
    dot=st.sampled_from(("", ".")),
    before=others,
    after=others,
    protocols=st.lists(st.binary(min_size=1, max_size=10), max_size=3),
    session=st.binary(max_size=32),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5),
    rest=st.binary(max_size=20),
)
def test_the_name_is_found(name, dot, before, after, protocols, session, sizes, rest) -> None:
    parts = [extension(kind, data) for kind, data in before.items()]
    parts.append(server_name((name + dot).encode()))
    if protocols:
        parts.append(extension(16, vector(2, b"".join(vector(1, each) for each in protocols))))
    parts += [extension(kind, data) for kind, data in after.items() if kind not in before]
    data = recorded(hello(b"".join(parts), session), sizes)
    assert parse(data + rest) == ClientHello(name.lower(), tuple(protocols))
    assert parse(data[:-1]) is None


real = st.sampled_from([corpus.data_of(case.values[0]) for case in corpus.cases("client_hello/real.yaml")])


@given(real, st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=4), st.integers(0, 4)), max_size=4))
def test_a_damaged_hello_gives_a_hello_or_the_errors_and_more_bytes_change_nothing(data, damages) -> None:
    for at, put, cut in damages:
        data = data[:at] + put + data[at + cut :]
    unchanged(data)


starts = st.sampled_from((b"", b"\x16", b"\x16\3\1", b"\x16\3\1\0\x10\1", recorded(hello(b"")[:-2], [9])))
bits = st.sampled_from((b"\x16\3\1\0", b"\0\0", b"\3\3", b"\1", b"\0\x01", b"\xff", b"\x16\3\1\0\1"))


@given(starts, st.lists(bits | st.binary(max_size=4), max_size=25).map(b"".join))
def test_any_bytes_give_a_hello_or_the_errors_and_more_bytes_change_nothing(start, data) -> None:
    unchanged(start + data)


def unchanged(data: bytes) -> None:
    decided: Verdict = None
    reader = HelloReader()
    for size in range(len(data) + 1):
        found = verdict(data[:size])
        if decided is None:
            assert verdict(data[:size], reader.read) == found
        else:
            assert found == decided
        decided = found
