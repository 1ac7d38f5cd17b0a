"""The windows of protocol 3, and protocol 1's only way of holding the other end back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gtapp.relay import stream as stream_module
from gtapp.relay.stream import HOLD_BYTES, INITIAL_WINDOW, MAX_WINDOW, NO_WINDOW, RELEASE_BYTES
from gtapp.relay.tunnel import SPARE_WINDOW
from gtapp.wire import frames
from tests.support.relay import CLOSED, EOF, PING, RESET, WINDOW, Made, turn, until

MakeTunnel = Callable[..., Made]
CHUNK = 65536


def fill(made: Made, stream: int, count: int) -> None:
    """The far end sends `count` bytes on `stream`."""
    while count:
        size = min(count, CHUNK)
        made.far.send(made.far.data(stream, bytes(size)))
        count -= size


class Time:
    """What `monotonic` says in the modules that ask."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(stream_module, "monotonic", lambda: self.now)


def test_the_first_bytes_count_against_the_window(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open(b"x" * 1000)
    assert sink.stream.send_window == INITIAL_WINDOW - 1000


def test_the_first_bytes_count_at_the_other_end_too(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(is_server=False).up()
    made.takes = False
    made.far.send(made.far.frames.open(2, 0, "", bytes(CHUNK)))
    fill(made, 2, INITIAL_WINDOW - CHUNK)
    until(lambda: made.sinks and len(made.sinks[0].data) == INITIAL_WINDOW)
    turn()
    assert not made.tunnel.closed
    made.far.send(made.far.data(2, b"x"))
    until(lambda: made.closed)
    assert "more data than it may send" in made.closed[0]


def test_data_beyond_the_window_is_a_protocol_error(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open(takes=False)
    other = made.open()
    fill(made, sink.stream.id, INITIAL_WINDOW)
    until(lambda: len(sink.data) == INITIAL_WINDOW)
    assert not made.tunnel.closed
    made.far.send(made.far.data(sink.stream.id, b"x"))
    until(lambda: made.closed)
    assert made.closed == [f"protocol error: stream {sink.stream.id}: more data than it may send"]
    assert sink.notes == other.notes == [("reset", frames.CANCELLED)]
    assert len(sink.data) == INITIAL_WINDOW


def test_what_was_delivered_and_not_granted_back_counts_as_well(make_tunnel: MakeTunnel) -> None:
    """A window is a promise of memory, whether the credit has been told or not."""
    made = make_tunnel().up()
    sink = made.open(takes=False)
    fill(made, sink.stream.id, INITIAL_WINDOW)
    until(lambda: len(sink.data) == INITIAL_WINDOW)
    sink.stream.delivered(INITIAL_WINDOW // 2 - 1)
    made.far.send(made.far.data(sink.stream.id, b"x"))
    until(lambda: made.closed)


def test_a_window_is_granted_at_half(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    fill(made, sink.stream.id, INITIAL_WINDOW // 2 - 1)
    until(lambda: len(sink.data) == INITIAL_WINDOW // 2 - 1)
    made.tunnel.send_control({"type": "mark"})
    assert made.far.next()[0] == frames.CONTROL, "no WINDOW before half is used"
    made.far.send(made.far.data(sink.stream.id, b"x"))
    assert made.far.next() == (WINDOW, sink.stream.id, INITIAL_WINDOW // 2)


def test_no_window_is_granted_for_a_slow_reader(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open(takes=False)
    fill(made, sink.stream.id, INITIAL_WINDOW)
    until(lambda: len(sink.data) == INITIAL_WINDOW)
    turn()
    made.tunnel.send_control({"type": "mark"})
    assert made.far.next()[0] == frames.CONTROL


def test_no_window_after_the_end(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open(takes=False)
    fill(made, sink.stream.id, INITIAL_WINDOW)
    made.far.send(made.far.frames.eof(sink.stream.id))
    until(lambda: sink.notes == ["eof"])
    sink.stream.delivered(INITIAL_WINDOW)
    made.tunnel.send_control({"type": "mark"})
    assert made.far.next()[0] == frames.CONTROL


def test_growth_is_for_streams_that_empty_their_window_within_a_round_trip(
    make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time(monkeypatch)
    made = make_tunnel().up()
    made.tunnel.rtt = 0.1
    sink = made.open()
    granted = []
    window = INITIAL_WINDOW
    for pause in (5.0, 0.2, 0.1):  # the first grant, and two that come slowly
        time.now += pause
        fill(made, sink.stream.id, window // 2)
        granted.append(made.far.next_of(WINDOW)[2])
    assert granted == [INITIAL_WINDOW // 2] * 3
    while window < MAX_WINDOW:
        time.now += 0.09
        fill(made, sink.stream.id, window // 2)
        assert made.far.next_of(WINDOW)[2] == window // 2 + window
        window *= 2
    time.now += 0.01
    fill(made, sink.stream.id, window // 2)
    assert made.far.next_of(WINDOW)[2] == window // 2, "it has its full size"
    assert not made.tunnel.closed


def test_the_other_end_may_use_a_window_that_has_grown(
    make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    Time(monkeypatch)
    made = make_tunnel().up()
    made.tunnel.rtt = 0.1
    sink = made.open()
    for _ in range(2):
        fill(made, sink.stream.id, INITIAL_WINDOW // 2)
        granted = made.far.next_of(WINDOW)[2]
    assert granted == INITIAL_WINDOW // 2 + INITIAL_WINDOW
    sink.takes = False
    fill(made, sink.stream.id, 2 * INITIAL_WINDOW)
    until(lambda: len(sink.data) == 3 * INITIAL_WINDOW)
    assert not made.tunnel.closed
    made.far.send(made.far.data(sink.stream.id, b"x"))
    until(lambda: made.closed)


def test_without_a_measured_round_trip_no_window_grows(
    make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    Time(monkeypatch)
    made = make_tunnel().up()
    made.tunnel.rtt = 0.0
    sink = made.open()
    for _ in range(3):
        fill(made, sink.stream.id, INITIAL_WINDOW // 2)
        assert made.far.next_of(WINDOW)[2] == INITIAL_WINDOW // 2


@pytest.mark.parametrize("end", ["reset", "eof", "tunnel"])
def test_growth_is_given_back(make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    Time(monkeypatch)
    made = make_tunnel().up()
    made.tunnel.rtt = 0.1
    made.tunnel._spare_window = 100_000
    sink = made.open()
    for grant in (INITIAL_WINDOW // 2, INITIAL_WINDOW // 2 + 100_000):
        fill(made, sink.stream.id, INITIAL_WINDOW // 2)
        assert made.far.next_of(WINDOW)[2] == grant, "no more than the tunnel has to spare"
    assert made.tunnel._spare_window == 0
    if end == "reset":
        sink.stream.reset()
        sink.stream.reset()
    elif end == "eof":
        sink.stream.send_eof()
        sink.stream.forget()
    else:
        made.far.close()
        until(lambda: made.tunnel.over)
    assert made.tunnel._spare_window == 100_000


def test_all_windows_of_a_tunnel_have_a_bound(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    assert made.tunnel.take_window(SPARE_WINDOW - 5) == SPARE_WINDOW - 5
    assert made.tunnel.take_window(10) == 5
    assert made.tunnel.take_window(10) == 0
    made.tunnel.give_window(7)
    assert made.tunnel.take_window(10) == 7


def test_a_window_that_opens_is_told_to_the_sink_once(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    sink.stream.send_window = 0
    made.far.send(made.far.frames.window(sink.stream.id, 0))
    turn(5)
    assert sink.windows == 0
    made.far.send(made.far.frames.window(sink.stream.id, 10), made.far.frames.window(sink.stream.id, 5))
    until(lambda: sink.stream.send_window == 15)
    assert sink.windows == 1


def test_a_window_beyond_4_gib_is_a_protocol_error(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    made.far.send(made.far.frames.window(sink.stream.id, 0xFFFFFFFF - INITIAL_WINDOW))
    until(lambda: sink.stream.send_window == 0xFFFFFFFF)
    made.far.send(made.far.frames.window(sink.stream.id, 1))
    until(lambda: made.closed)
    assert "window beyond 4 GiB" in made.closed[0]


def test_half_close_once_in_each_direction(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    sink.stream.send_eof()
    sink.stream.send_eof()
    made.tunnel.send_control({"type": "mark"})
    assert [made.far.next()[0] for _ in range(2)] == [EOF, frames.CONTROL]
    made.far.send(made.far.frames.eof(sink.stream.id) * 2)
    until(lambda: sink.notes)
    turn()
    assert sink.notes == ["eof"]
    assert sink.stream.eof_received


def test_data_after_the_end_is_a_protocol_error(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    made.far.send(made.far.frames.eof(sink.stream.id), made.far.data(sink.stream.id, b"x"))
    until(lambda: made.closed)
    assert sink.data == b""


def test_a_reset_of_ours_is_told_once(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    assert made.tunnel.streams == {sink.stream.id: sink.stream}
    sink.stream.reset(frames.LIMIT)
    assert sink.stream.over
    sink.stream.reset(frames.CANCELLED)
    made.tunnel.send_control({"type": "mark"})
    assert made.far.next() == (RESET, sink.stream.id, frames.LIMIT)
    assert made.far.next()[0] == frames.CONTROL
    assert sink.notes == []


def test_a_reset_of_theirs_is_not_answered(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    made.far.send(made.far.frames.reset(sink.stream.id, frames.TIMED_OUT))
    until(lambda: sink.notes)
    assert sink.notes == [("reset", frames.TIMED_OUT)]
    made.tunnel.send_control({"type": "mark"})
    assert made.far.next()[0] == frames.CONTROL


def test_what_has_arrived_whole_outlives_its_tunnel(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    whole, part = made.open(), made.open()
    made.far.send(made.far.data(whole.stream.id, b"all"), made.far.frames.eof(whole.stream.id))
    made.far.send(made.far.data(part.stream.id, b"some"))
    made.far.close()
    until(lambda: made.closed)
    assert (whole.data, whole.notes) == (b"all", ["eof", "rest"])
    assert (part.data, part.notes) == (b"some", [("reset", frames.CANCELLED)])


# protocol 1


def test_protocol_1_may_always_send(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1).up()
    sink = made.open(b"x" * 1000)
    assert sink.stream.send_window > NO_WINDOW - 2000


def test_protocol_1_stops_reading_for_a_slow_reader(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1, buffer_bytes=CHUNK).up()
    slow, quick = made.open(takes=False), made.open()
    fill(made, slow.stream.id, HOLD_BYTES + 1)
    until(lambda: len(slow.data) == HOLD_BYTES + 1)
    made.far.send(made.far.data(quick.stream.id, b"later"))
    turn(10)
    assert quick.data == b""
    slow.stream.delivered(RELEASE_BYTES)
    turn(10)
    assert quick.data == b""
    slow.stream.delivered(1)
    until(lambda: quick.data == b"later")


def test_protocol_1_reads_again_only_when_all_slow_ones_have_room(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1).up()
    sinks = [made.open(takes=False) for _ in range(3)]
    for sink in sinks:
        sink.stream.undelivered = HOLD_BYTES
    made.far.send(*(made.far.data(sink.stream.id, b"x") for sink in sinks))
    until(lambda: all(sink.data for sink in sinks))
    made.far.send(made.far.data(sinks[0].stream.id, b"y"))
    sinks[0].stream.delivered(HOLD_BYTES)
    sinks[1].stream.reset()  # one of them is gone, and one has been read
    turn(10)
    assert sinks[0].data == b"x"
    sinks[2].stream.delivered(HOLD_BYTES)
    until(lambda: sinks[0].data == b"xy")


def test_protocol_1_data_after_the_end_is_skipped(make_tunnel: MakeTunnel) -> None:
    """GT's two directions of a task end on their own: what still comes is no reason to end the tunnel."""
    made = make_tunnel(version=1).up()
    sink, other = made.open(takes=False), made.open()
    made.far.send(made.far.data(sink.stream.id, b"last"), made.far.frames.eof(sink.stream.id))
    until(lambda: sink.notes == ["eof"])
    made.far.send(made.far.data(sink.stream.id, b"late"), made.far.data(other.stream.id, b"fine"))
    until(lambda: other.data == b"fine" or made.closed)
    assert made.closed == []
    assert sink.data == b"last"
    assert sink.stream.undelivered == 4
    sink.stream.forget()


def test_protocol_1_ends_a_stream_with_one_frame(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1).up()
    sink = made.open()
    sink.stream.send_eof()
    sink.stream.reset()
    made.tunnel.link.write(made.tunnel.frames.pong(bytes(8)))
    assert [made.far.next()[0] for _ in range(2)] == [CLOSED, PING]


def test_repr_tells_the_state(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open(b"123", takes=False)
    made.far.send(made.far.data(sink.stream.id, b"12345"))
    until(lambda: sink.data)
    assert repr(sink.stream).startswith(f"<Stream 2 send_window={INITIAL_WINDOW - 3} undelivered=5 <Tunnel ")
