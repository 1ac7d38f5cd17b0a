import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.errors import WireError
from gtapp.wire import compat, frames
from gtapp.wire.compat import CompatFrames, CompatService, Opening

from . import corpus
from .test_compat_opening import openings
from .test_frames import join, marks, split


@pytest.mark.parametrize("case", corpus.cases("compat/*.yaml"))
def test_corpus(case: corpus.Case) -> None:
    def reader() -> CompatFrames:
        return CompatFrames(case["role"] == "server", case.get("max_options", 600))

    data = corpus.data_of(case)
    for pieces in corpus.cuts(data):
        if "error" in case:
            with pytest.raises(WireError) as error:
                corpus.receive_all(reader(), pieces)
            assert case["error"] in str(error.value)
        else:
            events = corpus.receive_all(reader(), pieces)
            assert [corpus.plain(event) for event in events] == case["events"]
            if case.get("encode", True):
                assert b"".join(corpus.encode(reader(), event) for event in events) == data


def test_too_many_options_is_an_error_of_its_own() -> None:
    with pytest.raises(compat.TooManyOptions):
        CompatFrames(server=True, max_options=1).receive(b"\xff\xff\xff\xfa\x01a\x01b\x02\x00")


def test_open_with_what_was_read() -> None:
    codec = CompatFrames(server=True)
    assert codec.open(7, 3, "203.0.113.9:5", b"GET ").hex() == "00000007000200030000000447455420"


def test_one_byte_does_not_travel_in_the_open() -> None:
    """GT's client waits for a second byte there, with all other tasks of the tunnel."""
    codec = CompatFrames(server=True)
    first = bytes.fromhex("00000007 0002 0003 00000000")
    assert codec.open(7, 3, "", b"x") == first + bytes.fromhex("00000007 0000 00000001 78")


def test_what_protocol_1_has_no_place_for() -> None:
    codec = CompatFrames(server=True)
    assert codec.window(1, 5) == b""
    assert codec.reset(1, frames.LIMIT) == codec.eof(1) == bytes.fromhex("00000001 0001")
    assert codec.pong(None) == codec.ping(b"12345678") == codec.ping() == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("error", [compat.Error(compat.TCP_PORT_FAILED), compat.Error(1, 2)])
def test_an_error_names_a_service_or_not(error: compat.Error) -> None:
    with pytest.raises(ValueError, match="names a service"):
        compat.signal(error)


def test_no_secret_in_a_repr() -> None:
    opening = Opening("id1", "s3cr3t", (CompatService("http"),))
    assert "s3cr3t" not in repr(compat.Services(opening))


tasks = st.integers(0, compat.FIRST_SIGNAL - 1)
u16 = st.integers(0, 0xFFFF)
from_both = (
    st.tuples(st.just(frames.DATA), tasks, st.binary(min_size=1, max_size=300)),
    st.tuples(st.just(frames.CLOSED), tasks, st.none()),
    st.just((frames.PING, 0, None)),
    st.just((frames.CONTROL, 0, compat.Close())),
)
from_client = st.one_of(
    *from_both, st.tuples(st.just(frames.CONTROL), st.just(0), st.builds(compat.Services, openings))
)
from_server = st.one_of(
    *from_both,
    st.tuples(
        st.just(frames.OPEN),
        tasks,
        st.builds(frames.Open, u16, st.just(0), st.just(""), st.binary(max_size=50)),
    ),
    st.tuples(
        st.just(frames.CONTROL),
        st.just(0),
        st.one_of(
            st.just(compat.Ready()),
            st.just(compat.Reconnect()),
            st.just(compat.ServicesDone()),
            st.builds(compat.Info, st.just(compat.TCP_PORT_OPENED), u16, u16),
            st.builds(compat.Error, st.just(compat.TCP_PORT_FAILED), u16),
            st.builds(compat.Error, u16.filter(lambda code: code != compat.TCP_PORT_FAILED)),
        ),
    ),
)


def as_read(written: list[frames.Event]) -> list[frames.Event]:
    """The data of an OPEN comes after it."""
    events: list[frames.Event] = []
    for kind, stream, value in written:
        if kind == frames.OPEN:
            events.append((kind, stream, value._replace(data=b"")))
            if value.data:
                events.append((frames.DATA, stream, value.data))
        else:
            events.append((kind, stream, value))
    return join(events)


@given(st.lists(from_client, max_size=12), marks)
def test_a_server_reads_what_a_client_wrote(written: list[frames.Event], at: list[int]) -> None:
    data = b"".join(corpus.encode(CompatFrames(server=False), event) for event in written)
    assert corpus.receive_all(CompatFrames(server=True), split(data, at)) == as_read(written)


@given(st.lists(from_server, max_size=12), marks)
def test_a_client_reads_what_a_server_wrote(written: list[frames.Event], at: list[int]) -> None:
    data = b"".join(corpus.encode(CompatFrames(server=True), event) for event in written)
    assert corpus.receive_all(CompatFrames(server=False), split(data, at)) == as_read(written)


words = st.one_of(
    st.sampled_from((1, 2, compat.FIRST_SIGNAL - 1, compat.FIRST_SIGNAL)), st.integers(0xFFFFFFF8, 0xFFFFFFFF)
).map(lambda word: word.to_bytes(4, "big"))
shorts = st.sampled_from((0, 1, 2, 3, 9, 0x0161)).map(lambda short: short.to_bytes(2, "big"))
noise = st.lists(words | shorts | st.binary(max_size=12), max_size=20).map(b"".join)


@pytest.mark.parametrize("server", [False, True])
@given(data=noise, at=marks)
def test_any_bytes_give_events_or_the_error(server: bool, data: bytes, at: list[int]) -> None:
    """And the cuts change nothing."""
    outcomes = []
    for pieces in ([data], split(data, at)):
        try:
            outcomes.append(repr(corpus.receive_all(CompatFrames(server, 5), pieces)))
        except WireError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def as_gt_reads(data: bytes) -> list[tuple[int, int, bytes]]:
    """(task, operation, data) as the loop of GT's client has it, which after RECONNECT goes on as after a task's
    number. Raises IndexError where it would wait for more."""
    found = []
    while data:
        number, data = int.from_bytes(data[:4], "big"), data[4:]
        if number in (0xFFFFFFFF, 0xFFFFFFFE):
            found.append((number, -1, b""))
            continue
        if len(data) < 2:
            raise IndexError
        operation, data = int.from_bytes(data[:2], "big"), data[2:]
        payload = b""
        if operation == 0:
            size = int.from_bytes(data[:4], "big")
            payload, data = data[4 : 4 + size], data[4 + size :]
            assert len(payload) == size
        found.append((number, operation, payload))
    return found


def test_reconnect_does_not_lead_gts_clients_astray() -> None:
    with pytest.raises(IndexError):
        as_gt_reads(compat.signal(compat.Reconnect()))
    wire = CompatFrames(server=True)
    header = bytearray(wire.data_header_bytes)
    wire.write_data_header(header, 2, 5)
    data = compat.reconnect() + header + b"hello" + compat.signal(compat.Close())
    assert as_gt_reads(data) == [
        (0xFFFFFFF9, 1, b""),
        (0xFFFF0000, 0, b"\0\1\0\1"),
        (2, 0, b"hello"),
        (0xFFFFFFFE, -1, b""),
    ]
    events = corpus.receive_all(CompatFrames(server=False), [data])
    assert events == [
        (frames.CONTROL, 0, compat.Reconnect()),
        (frames.CLOSED, 0x00040001, None),
        (frames.DATA, 2, b"hello"),
        (frames.CONTROL, 0, compat.Close()),
    ]
