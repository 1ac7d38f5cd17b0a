"""The tunnel: which frames are obeyed, how it ends, and when it doubts that the other end is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gtapp.observe import metrics
from gtapp.observe.logs import LIMIT_LINES, Limited
from gtapp.relay import tunnel as tunnel_module
from gtapp.relay.link import READ_STOP
from gtapp.relay.tunnel import DOUBTED_S, HOLD_S, LAST_STREAM_ID, PROBE_AFTER_S, RTT_EVERY_S, SUSPECT_AFTER_S
from gtapp.wire import compat, frames
from tests.support.relay import CLOSED, CONTROL, OPEN, PING, PONG, RESET, Made, Recorder, turn, until

MakeTunnel = Callable[..., Made]


# before it is open


def test_nothing_is_relayed_for_one_who_has_not_proved_who_he_is(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(is_server=True)
    made.tunnel.start()
    made.far.send(made.far.data(2, b"x"))
    until(lambda: made.closed)
    assert made.closed == ["protocol error: frames before the opening is done"]


def test_streams_that_come_with_the_last_message_of_the_opening_wait(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(is_server=False)
    far = made.far
    made.tunnel.start()
    far.send(
        far.frames.control({"type": "ready"}),
        far.frames.open(2, 7, "192.0.2.1:5", b"first"),
        far.data(2, b" second"),
        far.frames.eof(2),
        far.frames.control({"type": "notice"}),
    )
    until(lambda: made.control)
    turn(5)
    assert [message["type"] for message in made.control] == ["ready"]
    assert made.opened == []
    far.send(far.frames.open(4, 7, "", b"later"))
    turn(5)
    assert made.tunnel.link.bytes_in < 200
    made.tunnel.opened()
    until(lambda: len(made.opened) == 2)
    assert made.opened[0][1] == frames.Open(7, 0, "192.0.2.1:5", b"first")
    assert (made.sinks[0].data, made.sinks[0].notes) == (b"first second", ["eof"])
    assert made.sinks[1].data == b"later"
    assert [message["type"] for message in made.control] == ["ready", "notice"]


def test_what_waits_for_the_opening_is_bounded(make_tunnel: MakeTunnel) -> None:
    """A server may send a client streams before it has looked at `ready`; not without end."""
    made = make_tunnel(is_server=False)
    made.tunnel.start()
    made.far.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        made.far.send(*(made.far.frames.open(2 + 2 * number, 0, "", bytes(60_000)) for number in range(500)))
    assert made.tunnel.link.bytes_in <= 256 * 1024
    assert made.opened == []


def test_pings_are_not_answered_in_the_opening(make_tunnel: MakeTunnel) -> None:
    """Nothing is done for one who has not proved who he is."""
    made = make_tunnel()
    made.tunnel.start()
    made.far.send(made.far.frames.ping(b"12345678"))
    assert made.far.rest() == []
    assert made.closed == ["protocol error: frames before the opening is done"]


def test_pings_of_a_server_wait_for_the_end_of_the_opening(make_tunnel: MakeTunnel) -> None:
    """The server is through with it before the client is."""
    made = make_tunnel(is_server=False)
    made.tunnel.start()
    made.far.send(made.far.frames.ping(b"12345678"))
    until(lambda: made.tunnel._held)
    made.tunnel.opened()
    assert made.far.next_of(PONG) == (PONG, 0, b"12345678")


def test_opened_when_it_is_closed_already(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    made.tunnel.start()
    made.far.close()
    until(lambda: made.closed)
    made.tunnel.opened()
    assert made.closed == ["closed by the other end"]


def test_bad_bytes_are_a_protocol_error(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    made.tunnel.start()
    made.far.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    until(lambda: made.closed)
    assert made.closed[0].startswith("protocol error: ")
    assert made.tunnel.link.closed


# streams


def test_ids_of_a_server_are_even(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sinks = [Recorder(made.tunnel.open(number, "192.0.2.1:5", b"x")) for number in range(3)]
    assert [made.far.next() for _ in range(3)] == [
        (OPEN, 2 + 2 * number, frames.Open(number, 0, "192.0.2.1:5", b"x")) for number in range(3)
    ]
    assert list(made.tunnel.streams.values()) == [sink.stream for sink in sinks]


@pytest.mark.parametrize("version", [3, 1])
def test_flags_of_an_open(make_tunnel: MakeTunnel, version: int) -> None:
    """Protocol 1 has no room for them."""
    made = make_tunnel(version).up()
    Recorder(made.tunnel.open(0, "192.0.2.1:5", b"xy", frames.OVER_TLS))
    _, _, opened = made.far.next_of(OPEN)
    assert opened.flags == (frames.OVER_TLS if version == 3 else 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [(2, 2), (4, 2), (2, 3), (2, 1)],
    ids=["again", "lower", "client's", "client's first"],
)
def test_an_id_that_is_not_theirs_or_was_used(make_tunnel: MakeTunnel, first: int, second: int) -> None:
    made = make_tunnel(is_server=False).up()
    made.far.send(made.far.frames.open(first, 0, "", b""))
    until(lambda: made.opened)
    made.opened[0][0].reset()  # it being over makes no difference
    made.far.send(made.far.frames.open(second, 0, "", b""))
    until(lambda: made.closed)
    assert "not its to use, or used before" in made.closed[0]
    assert len(made.opened) == 1


def test_ids_may_be_left_out(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(is_server=False).up()
    made.far.send(*(made.far.frames.open(number, 0, "", b"") for number in (2, 10, 12, 0xFFFFFFFE)))
    until(lambda: len(made.opened) == 4)
    assert not made.closed


def test_protocol_1_takes_any_id_that_is_not_in_use(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1, is_server=False).up()
    made.far.send(*(made.far.frames.open(number, 0, "", b"hello") for number in (77, 2, 1)))
    until(lambda: len(made.opened) == 3)
    assert [sink.data for sink in made.sinks] == [b"hello"] * 3
    made.opened[0][0].reset()
    made.far.send(made.far.frames.open(77, 0, "", b"again"))
    until(lambda: len(made.opened) == 4)
    made.far.send(made.far.frames.open(2, 0, "", b""))
    until(lambda: made.closed)
    assert made.closed == ["protocol error: task 2 exists"]


def test_a_client_may_not_open_streams_at_a_server(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    made.far.send(made.far.frames.open(1, 0, "", b""))
    until(lambda: made.closed)
    assert made.closed == ["protocol error: it may not open streams"]


@pytest.mark.parametrize("version", [3, 1])
def test_frames_of_streams_that_are_over_are_skipped(make_tunnel: MakeTunnel, version: int) -> None:
    made = make_tunnel(version=version).up()
    gone, there = made.open(), made.open()
    gone.stream.reset()
    far, number = made.far, gone.stream.id
    far.send(
        far.data(number, b"late"),
        far.frames.window(number, 5),
        far.frames.eof(number),
        far.frames.reset(number, 0),
    )
    far.send(far.data(1000, b"never opened"), far.data(there.stream.id, b"fine"))
    until(lambda: there.data == b"fine")
    assert (gone.data, gone.notes) == (b"", [])
    assert made.tunnel.bytes_to_local == 4


def test_a_stream_refused_in_on_open_takes_no_data(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(is_server=False).up()
    made.tunnel.on_open = lambda stream, opened: stream.reset(frames.REFUSED)
    made.far.send(made.far.frames.open(2, 0, "", b"data"), made.far.data(2, b"more"))
    assert made.far.next() == (RESET, 2, frames.REFUSED)
    turn()
    assert made.tunnel.streams == {}
    assert not made.closed


def test_the_last_id_of_a_tunnel(make_tunnel: MakeTunnel) -> None:
    """It is drained then, and the stream with that id still is served."""
    made = make_tunnel().up()
    made.tunnel._next_id = LAST_STREAM_ID
    sink = Recorder(made.tunnel.open(0, "", b"last"))
    assert made.tunnel.draining
    assert not made.tunnel.closed
    assert made.far.next() == (OPEN, LAST_STREAM_ID, frames.Open(0, 0, "", b"last"))
    assert made.far.next() == (CONTROL, 0, {"type": "drain"}), (
        "after it: the client closes when it has no stream"
    )
    made.far.send(made.far.data(LAST_STREAM_ID, b"answer"))
    until(lambda: sink.data == b"answer")
    sink.stream.send_eof()
    sink.stream.forget()
    until(lambda: made.closed)
    assert made.closed == ["drained"]


# draining


@pytest.mark.parametrize("version", [3, 1])
def test_a_server_drains(make_tunnel: MakeTunnel, version: int) -> None:
    made = make_tunnel(version=version).up()
    sink = made.open()
    made.tunnel.drain()
    made.tunnel.drain()
    kind, _, value = made.far.next()
    assert (kind, value) == (CONTROL, {"type": "drain"} if version == 3 else compat.Close())
    assert "draining" in repr(made.tunnel)
    made.far.send(made.far.data(sink.stream.id, b"running"))
    until(lambda: sink.data == b"running")
    assert not made.closed
    sink.stream.reset()
    until(lambda: made.closed)
    assert made.closed == ["drained"]
    assert [event[0] for event in made.far.rest()] == [RESET if version == 3 else CLOSED]


def test_a_server_without_streams_closes_at_once(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    made.tunnel.drain()
    assert made.closed == ["drained"]
    assert made.far.rest() == [(CONTROL, 0, {"type": "drain"})]


def test_a_draining_tunnel_that_is_closed_is_over_when_its_link_is(make_tunnel: MakeTunnel) -> None:
    """Whoever waits for it before the process ends must not lose what is queued: the `drain`, the last data."""
    made = make_tunnel().up()
    made.tunnel.drain()
    assert made.tunnel.closed
    assert not made.tunnel.over
    assert made.far.rest() == [(CONTROL, 0, {"type": "drain"})]
    made.far.close()
    until(lambda: made.tunnel.over)


@pytest.mark.parametrize("version", [3, 1])
def test_a_client_that_drains_leaves_the_close_to_the_server(make_tunnel: MakeTunnel, version: int) -> None:
    """A stream may be on its way to it."""
    made = make_tunnel(version=version, is_server=False).up()
    made.tunnel.drain()
    turn(5)
    assert not made.closed
    made.far.send(made.far.frames.open(2, 0, "", b"on its way"))
    until(lambda: made.sinks and made.sinks[0].data == b"on its way")
    made.tunnel.drained_by_peer()
    assert not made.closed
    made.sinks[0].stream.reset()
    until(lambda: made.closed)
    assert made.closed == ["drained"]


@pytest.mark.parametrize("by_peer_first", [False, True])
def test_who_drains_tells_its_owner_once(make_tunnel: MakeTunnel, by_peer_first: bool) -> None:
    made = make_tunnel().up()
    made.open()
    told: list[bool] = []
    made.tunnel.on_drain = lambda: told.append(made.tunnel.draining)
    ends = [made.tunnel.drain, made.tunnel.drained_by_peer]
    for end in reversed(ends) if by_peer_first else ends:
        end()
    assert told == [True]


def test_drained_by_the_other_end(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    made.tunnel.drained_by_peer()
    assert made.tunnel.draining
    assert not made.closed
    sink.stream.reset()
    until(lambda: made.closed)
    assert made.far.next_of(RESET)
    assert made.far.rest() == [], "it knows that nothing comes here any more"


def test_calling_over(make_tunnel: MakeTunnel) -> None:
    """The tunnel goes on; what is drained has been told enough."""
    made = make_tunnel().up()
    made.tunnel.call_over()
    assert made.far.next() == (CONTROL, 0, {"type": "reconnect"})
    made.open()
    made.tunnel.drain()
    made.tunnel.call_over()
    assert made.far.next() == (CONTROL, 0, {"type": "drain"})
    made.tunnel.abort("enough")
    made.tunnel.call_over()
    assert made.far.rest() == []


def test_calling_over_in_protocol_1(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1).up()
    made.tunnel.call_over()
    assert made.far.next() == (CONTROL, 0, compat.Reconnect())
    assert made.far.next()[0] == CLOSED, "of a task that does not exist: see wire.compat"
    made.open()


def test_states(make_tunnel: MakeTunnel) -> None:
    tunnel = make_tunnel().up().tunnel
    assert tunnel.state == "up"
    tunnel.suspect = True
    assert tunnel.state == "suspect"
    tunnel.draining = True
    assert tunnel.state == "draining"
    tunnel.abort("enough")
    assert tunnel.state == "closed"


# the end


@pytest.mark.parametrize("how", ["abort", "far close", "broken", "finish"])
def test_on_closed_is_called_once_and_streams_are_reset(make_tunnel: MakeTunnel, how: str) -> None:
    made = make_tunnel().up()
    sinks = [made.open() for _ in range(3)]
    if how == "abort":
        made.tunnel.abort("a reason")
    elif how == "far close":
        made.far.close()
    elif how == "broken":
        made.far.send(b"\xff" * 8)
    else:
        made.tunnel.finish("a reason")
    until(lambda: made.closed)
    for _ in range(2):
        made.tunnel.abort("another reason")
        made.tunnel.finish("another reason")
        made.tunnel.drain()
    turn()
    assert len(made.closed) == 1
    assert [sink.notes for sink in sinks] == [[("reset", frames.CANCELLED)]] * 3
    assert made.tunnel.over or how == "finish"


def test_nothing_is_handed_out_after_the_end(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    made.tunnel.on_control = lambda message: made.tunnel.abort("enough")
    made.far.send(made.far.frames.control({"type": "x"}), made.far.data(sink.stream.id, b"more"))
    until(lambda: made.closed)
    turn()
    assert sink.data == b""


# PING


def test_ping_and_round_trip(make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(tunnel_module, "monotonic", lambda: now[0])
    made = make_tunnel()
    made.tunnel.start()
    made.tunnel.opened()
    for sample, rtt in ((0.1, 0.1), (0.1, 0.1), (0.9, 0.2)):
        made.tunnel.ping()
        made.tunnel.ping()  # one at a time
        now[0] += sample
        made.far.answer_ping()
        until(lambda: not made.tunnel._ping_sent_at)
        assert made.tunnel.rtt == pytest.approx(rtt)
    made.far.send(made.far.frames.pong(bytes(8)))
    turn(5)
    assert made.tunnel.rtt == pytest.approx(0.2), "nobody asked"


@pytest.mark.parametrize(("version", "answer"), [(3, PONG), (1, PING)])
def test_a_server_answers_pings(make_tunnel: MakeTunnel, version: int, answer: int) -> None:
    made = make_tunnel(version=version).up()
    made.far.send(made.far.frames.ping(b"12345678"))
    assert made.far.next() == (answer, 0, b"12345678" if version == 3 else None)


def test_a_client_of_protocol_1_takes_a_ping_as_the_answer(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1, is_server=False).up()
    made.far.send(made.far.frames.ping(bytes(8)))
    turn(5)
    made.tunnel.ping()
    assert made.far.next()[0] == PING
    turn(5)
    assert made.tunnel._ping_sent_at, "the one from before is no answer"


def test_a_flood_of_pings_by_one_who_does_not_read_is_bounded(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(buffer_bytes=65536).up()
    flood = gevent.spawn(made.far.send, made.far.frames.ping(bytes(8)) * 4_000_000)
    until(lambda: made.tunnel.link.queued > READ_STOP)
    turn(50)
    assert made.tunnel.link.queued <= READ_STOP + 512 * 1024
    assert made.tunnel.link.bytes_in < 2 * READ_STOP
    flood.kill()


# time


def ticks(made: Made, seconds: float, period: float = 0.5) -> None:
    """That much time in which nothing comes from the other end."""
    for _ in range(round(seconds / period)):
        made.tunnel.tick(period)


def heard(made: Made) -> None:
    """Something comes from the other end."""
    before = made.tunnel.link.bytes_in
    made.far.send(made.far.data(1000, b"x"))
    until(lambda: made.tunnel.link.bytes_in > before)


def is_pinging(made: Made) -> bool:
    return bool(made.tunnel._ping_sent_at)


def test_a_quiet_tunnel_is_asked_after_half_its_time_and_closed_after_all_of_it(
    make_tunnel: MakeTunnel,
) -> None:
    made = make_tunnel(idle_timeout=60.0).up()
    ticks(made, 30)
    assert not is_pinging(made)
    ticks(made, 1.5)
    assert made.far.next()[0] == PING
    ticks(made, 28.5)
    assert not made.closed
    ticks(made, 1)
    assert made.closed == ["nothing heard for 60 s"]


def test_an_answer_starts_the_time_anew(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(idle_timeout=60.0).up()
    for _ in range(3):
        ticks(made, 59)
        made.far.answer_ping()
        until(lambda: not is_pinging(made))
    assert not made.closed
    assert not made.tunnel.suspect


def test_a_server_of_protocol_1_asks_nothing(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1, idle_timeout=60.0).up()
    made.open()
    ticks(made, 59)
    assert not is_pinging(made)
    ticks(made, 2)
    assert made.closed


def test_a_client_of_protocol_1_asks(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1, is_server=False, idle_timeout=60.0).up()
    ticks(made, 31.5)
    assert made.far.next()[0] == PING


def test_one_that_is_written_to_and_silent_is_asked_soon_and_suspect(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    suspects: list[int] = []
    made.tunnel.on_suspect = lambda: suspects.append(1)
    ticks(made, 1)
    made.open(b"a request")
    ticks(made, PROBE_AFTER_S + 0.5)
    assert is_pinging(made)
    assert "suspect" not in repr(made.tunnel)
    ticks(made, SUSPECT_AFTER_S + 1)
    assert "suspect" in repr(made.tunnel)
    ticks(made, 2)
    assert suspects == [1]
    made.far.answer_ping()
    until(lambda: not made.tunnel.suspect)
    assert not made.closed


def test_one_that_speaks_is_not_suspect(make_tunnel: MakeTunnel) -> None:
    """Its PONG may stand behind a megabyte of data."""
    made = make_tunnel().up()
    made.open(b"a request")
    made.tunnel.ping()
    for _ in range(30):
        heard(made)
        ticks(made, 1)
    assert not made.tunnel.suspect


def test_a_tunnel_in_use_measures_its_round_trip(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    for _ in range(round(RTT_EVERY_S) + 1):
        heard(made)
        ticks(made, 1)
    made.far.answer_ping()
    until(lambda: not is_pinging(made))
    sink.stream.reset()
    for _ in range(2 * round(RTT_EVERY_S)):
        heard(made)
        ticks(made, 1)
    assert not is_pinging(made), "nobody uses it"


def test_one_that_is_doubted_and_does_not_answer_is_closed(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    ticks(made, 1)
    made.tunnel.doubt()
    assert made.tunnel.suspect
    ticks(made, DOUBTED_S)
    assert not made.closed
    ticks(made, 1)
    assert made.closed == ["its client has come back without it"]


def test_one_that_was_idle_when_it_is_doubted_has_the_time_to_answer(make_tunnel: MakeTunnel) -> None:
    """Its silence until then is no sign: nobody had asked."""
    made = make_tunnel(idle_timeout=90.0).up()
    ticks(made, 30)
    made.tunnel.doubt()
    ticks(made, 1)
    assert made.closed == []
    made.far.answer_ping()
    until(lambda: not made.tunnel.suspect)


def test_one_that_is_doubted_and_answers_goes_on(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    made.tunnel.doubt()
    made.far.answer_ping()
    until(lambda: not made.tunnel.suspect)
    ticks(made, 2 * DOUBTED_S)
    assert not made.closed


def test_a_doubted_tunnel_of_protocol_1_is_not_asked(make_tunnel: MakeTunnel) -> None:
    """There a server can't; it listens."""
    made = make_tunnel(version=1).up()
    made.tunnel.doubt()
    assert not is_pinging(made)
    ticks(made, 2 * DOUBTED_S)
    assert made.closed == []
    assert not made.tunnel.suspect, "an idle one says nothing for long, and still is as good as any"


def test_a_silent_tunnel_of_protocol_1_is_doubted_until_it_is_heard(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1).up()
    ticks(made, 5)
    made.tunnel.doubt()
    assert made.tunnel.suspect, "its client has opened another: perhaps because this one is dead"
    assert not is_pinging(made)
    heard(made)
    ticks(made, 1)
    assert not made.tunnel.suspect


@pytest.mark.parametrize("version", [3, 1])
def test_is_dead(make_tunnel: MakeTunnel, version: int) -> None:
    made = make_tunnel(version=version).up()
    ticks(made, 1)
    assert not made.tunnel.is_dead(0), "nobody doubts it"
    made.tunnel.doubt()
    ticks(made, 1)
    assert made.tunnel.is_dead(1.0)
    heard(made)
    assert not made.tunnel.is_dead(1.0)
    ticks(made, 1)
    assert not made.tunnel.is_dead(1.0)


def test_a_stream_that_holds_the_tunnel_too_long_is_cut(make_tunnel: MakeTunnel) -> None:
    """Protocol 1: until then nobody else's data is read either."""
    made = make_tunnel(version=1).up()
    slow, other = made.open(takes=False), made.open()
    slow.stream.undelivered = 10_000_000
    made.far.send(made.far.data(slow.stream.id, b"x"))
    until(lambda: slow.data)
    made.far.send(made.far.data(other.stream.id, b"waits"))
    ticks(made, HOLD_S)
    assert other.data == b""
    ticks(made, 2)
    assert slow.notes == [("reset", frames.LIMIT)]
    assert made.far.next() == (CLOSED, slow.stream.id, None)
    until(lambda: other.data == b"waits")


def test_holding_the_other_end_back_is_not_its_silence(
    make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol 1: a visitor that reads slowly stops the reading of the whole tunnel, perhaps for a while."""
    monkeypatch.setattr(tunnel_module, "HOLD_S", 1000.0)
    made = make_tunnel(version=1, idle_timeout=60.0).up()
    sink = made.open(takes=False)
    sink.stream.undelivered = 10_000_000
    made.far.send(made.far.data(sink.stream.id, b"x"))
    until(lambda: sink.data)
    ticks(made, 2)
    made.far.send(made.far.frames.ping(bytes(8)))
    ticks(made, 70)
    assert made.closed == []
    sink.stream.delivered(10_000_000)
    assert made.far.next()[0] == PING


def test_streams_get_their_ticks(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sinks = [made.open() for _ in range(2)]
    ticks(made, 5, period=1)
    assert [sink.ticks for sink in sinks] == [5, 5]


def test_streams_that_outlive_their_tunnel_still_get_ticks(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open(takes=False)
    sink.deliver_rest = lambda: sink.notes.append("rest")  # type: ignore[method-assign]
    made.far.send(made.far.data(sink.stream.id, b"all"), made.far.frames.eof(sink.stream.id))
    made.far.close()
    until(lambda: made.closed)
    assert not made.tunnel.over
    ticks(made, 2, period=1)
    assert sink.ticks == 2
    sink.stream.forget()
    assert made.tunnel.over


@pytest.mark.parametrize("is_server", [True, False])
def test_bytes_are_counted_as_visitors_see_them(
    make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch, is_server: bool
) -> None:
    counters = metrics.Counters()
    monkeypatch.setattr(tunnel_module, "counters", counters)
    made = make_tunnel(is_server=is_server).up()
    if is_server:
        sink = made.open(b"from the visitor")
        made.far.send(made.far.data(sink.stream.id, b"from the service"))
        until(lambda: sink.data)
    else:
        made.far.send(made.far.frames.open(2, 0, "", b"from the visitor"))
        until(lambda: made.sinks and made.sinks[0].data)
        made.sinks[0].stream.bytes_from_local += len(b"from the service")
    ticks(made, 1)
    assert (counters.bytes_in, counters.bytes_out) == (16, 16)
    ticks(made, 1)
    made.tunnel.abort("the end")
    assert (counters.bytes_in, counters.bytes_out) == (16, 16)


def test_repr(make_tunnel: MakeTunnel) -> None:
    made: Any = make_tunnel().up()
    made.open()
    assert repr(made.tunnel) == "<Tunnel far end up protocol=3 streams=1>"
    made.tunnel.abort("x")
    assert repr(made.tunnel) == "<Tunnel far end closed protocol=3 streams=0>"


def test_a_flood_of_protocol_errors_does_not_flood_the_log(
    make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tunnel_module, "strangers", Limited("gt.tunnel"))
    made = make_tunnel()
    for _ in range(LIMIT_LINES + 5):
        made.tunnel.broken("nonsense")
    assert caplog.text.count("protocol error, closing the tunnel: nonsense") == LIMIT_LINES
    assert made.closed == ["protocol error: nonsense"]
