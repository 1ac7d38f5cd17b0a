import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.errors import WireError
from gtapp.wire import frames
from gtapp.wire.frames import Frames, Open

from . import corpus


@pytest.mark.parametrize("case", corpus.cases("frames/*.yaml"))
def test_corpus(case: corpus.Case) -> None:
    data = corpus.data_of(case)
    for pieces in corpus.cuts(data):
        if "error" in case:
            with pytest.raises(WireError) as error:
                corpus.receive_all(Frames(), pieces)
            assert case["error"] in str(error.value)
        else:
            events = corpus.receive_all(Frames(), pieces)
            assert [corpus.plain(event) for event in events] == case["events"]
            if case.get("encode", True):
                assert b"".join(corpus.encode(Frames(), event) for event in events) == data


def test_data_is_not_copied() -> None:
    buffer = bytearray(b"\0\0\0\x02\0\0\0\x03abc\0\0\0\x02\0\0\0\x03d")
    (_, _, whole), (_, _, part) = Frames().receive(memoryview(buffer))
    buffer[8], buffer[-1] = ord("x"), ord("y")
    assert (bytes(whole), bytes(part)) == (b"xbc", b"y")


def test_data_is_not_held_back() -> None:
    """A reader keeps nothing of a DATA frame, so a slow sender costs no memory."""
    codec = Frames()
    codec.receive(b"\0\0\0\x02\0\x01\0\0")
    for _ in range(65536):
        assert codec.receive(b"x") == [(frames.DATA, 2, b"x")]
    assert codec.receive(b"\0\0\0\x02\x02\0\0\0") == [(frames.EOF, 2, None)]


@pytest.mark.parametrize(
    "write",
    [
        lambda: Frames().open(2, 0, "1" * 256, b""),
        lambda: Frames().open(2, 0, "é", b""),
        lambda: Frames().open(2, 0, "", bytes(frames._MAX_OPEN_BYTES)),
        lambda: Frames().ping(b"1234567"),
        lambda: Frames().reset(2, 256),
        lambda: Frames().control({"type": "x" * frames.MAX_CONTROL_BYTES}),
        lambda: Frames().control({"type": "x", "a": float("nan")}),
        lambda: Frames().control({"type": "\ud800"}),
    ],
)
def test_what_no_frame_can_carry(write) -> None:
    with pytest.raises((ValueError, struct.error)):
        write()


streams = st.integers(1, 0xFFFFFFFF)
addresses = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=255)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
events = st.one_of(
    st.tuples(st.just(frames.DATA), streams, st.binary(min_size=1, max_size=300)),
    st.tuples(
        st.just(frames.OPEN),
        streams,
        st.builds(Open, st.integers(0, 0xFFFF), st.just(0), addresses, st.binary(max_size=300)),
    ),
    st.tuples(st.just(frames.EOF), streams, st.none()),
    st.tuples(st.just(frames.RESET), streams, st.integers(0, 255)),
    st.tuples(st.just(frames.WINDOW), streams, st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.sampled_from((frames.PING, frames.PONG)), st.just(0), st.binary(min_size=8, max_size=8)),
    st.tuples(
        st.just(frames.CONTROL),
        st.just(0),
        st.builds(
            lambda value, kind: value | {"type": kind}, st.dictionaries(st.text(), json_values), st.text()
        ),
    ),
)


def join(found: list[frames.Event]) -> list[frames.Event]:
    """Neighbouring DATA of one stream as one event, as `corpus.receive_all` has it."""
    joined: list[frames.Event] = []
    for kind, stream, value in found:
        if kind == frames.DATA and joined and joined[-1][:2] == (kind, stream):
            value = joined.pop()[2] + value
        joined.append((kind, stream, value))
    return joined


def split(data: bytes, at: list[int]) -> list[bytes]:
    marks = sorted(mark % (len(data) + 1) for mark in at)
    return [data[begin:end] for begin, end in zip([0, *marks], [*marks, len(data)], strict=True)]


marks = st.lists(st.integers(0, 1 << 20), max_size=12)


@given(st.lists(events, max_size=12), marks)
def test_what_was_written_is_read(written: list[frames.Event], at: list[int]) -> None:
    data = b"".join(corpus.encode(Frames(), event) for event in written)
    assert corpus.receive_all(Frames(), split(data, at)) == join(written)


headers = st.tuples(
    st.sampled_from((0, 1, 2, 0xFFFFFFFF)),
    st.integers(0, 10),
    st.sampled_from((0, 1, 2, 4, 8, 9, 65536, 65537)),
).map(lambda header: header[0].to_bytes(4, "big") + bytes((header[1],)) + header[2].to_bytes(3, "big"))
noise = st.lists(st.binary(max_size=20) | headers, max_size=20).map(b"".join)


@given(noise, marks)
def test_any_bytes_give_events_or_the_error(data: bytes, at: list[int]) -> None:
    """And the cuts change nothing."""
    outcomes = []
    for pieces in ([data], split(data, at)):
        try:
            outcomes.append(repr(corpus.receive_all(Frames(), pieces)))
        except WireError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@given(st.binary(max_size=100), st.booleans())
def test_any_control_payload_gives_an_object_or_the_error(payload: bytes, as_object: bool) -> None:
    if as_object:
        payload = b'{"type":"x","y":' + payload + b"}"
    try:
        [(_, _, message)] = Frames().receive(frames._HEADER.pack(0, 7 << 24 | len(payload)) + payload)
    except WireError:
        return
    Frames().control(message)
