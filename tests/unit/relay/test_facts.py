"""What is relayed just now, added up from streams that run and from those that are over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gtapp.observe import metrics
from gtapp.observe.accounts import Account, Accounts
from gtapp.relay import facts
from gtapp.relay import tunnel as tunnel_module
from gtapp.relay.clock import Clock
from gtapp.relay.stream import Stream
from gtapp.wire import frames
from tests.support.relay import CLOSED, RESET, Made, Recorder, until

MakeTunnel = Callable[..., Made]
BOTH = pytest.mark.parametrize("version", [3, 1])


def charged(made: Made, account: Account, data: bytes = b"") -> Recorder:
    sink = made.open(data)
    sink.stream.charge(account)
    return sink


def answered(made: Made, sink: Recorder, data: bytes) -> None:
    before = len(sink.data)
    made.far.send(made.far.data(sink.stream.id, data))
    until(lambda: len(sink.data) == before + len(data))


def numbers(account: Account, *tunnels: Made) -> dict[str, int]:
    ((found, values),) = facts.numbers([account], [each.tunnel for each in tunnels])
    assert found is account
    return values


@BOTH
def test_streams_that_run_and_streams_that_are_over(make_tunnel: MakeTunnel, version: int) -> None:
    made = make_tunnel(version=version).up()
    account, other = Account("http", "a", "id1"), Account("http", "b", "id1")
    one, two = charged(made, account, b"12345"), charged(made, account, b"123")
    charged(made, other, b"1")
    answered(made, one, b"the answer")
    assert numbers(account, made) == {"streams": 2, "opened": 2, "bytes_in": 8, "bytes_out": 10}
    one.stream.reset()
    assert numbers(account, made) == {"streams": 1, "opened": 2, "bytes_in": 8, "bytes_out": 10}
    answered(made, two, b"more")
    assert numbers(account, made) == {"streams": 1, "opened": 2, "bytes_in": 8, "bytes_out": 14}
    made.tunnel.abort("the end")
    assert numbers(account, made) == {"streams": 0, "opened": 2, "bytes_in": 8, "bytes_out": 14}
    assert numbers(other, made)["bytes_in"] == 1
    assert made.tunnel.relayed == (9, 14)


def test_the_client_sees_the_same_from_the_other_side(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(is_server=False).up()
    account = Account("http", "http://127.0.0.1:80")

    def opened(stream: Stream, opened: frames.Open) -> None:
        stream.charge(account)
        made._opened(stream, opened)

    made.tunnel.on_open = opened
    made.far.send(made.far.frames.open(2, 0, "203.0.113.9:1", b"question"))
    until(lambda: made.sinks and made.sinks[0].data)
    stream = made.sinks[0].stream
    stream.bytes_from_local += 6  # as a pump does
    assert stream.visitor == "203.0.113.9:1"
    assert numbers(account, made) == {"streams": 1, "opened": 1, "bytes_in": 8, "bytes_out": 6}
    stream.reset()
    assert numbers(account, made) == {"streams": 0, "opened": 1, "bytes_in": 8, "bytes_out": 6}


@BOTH
def test_a_tunnel_that_is_closed_counts_until_it_has_delivered(make_tunnel: MakeTunnel, version: int) -> None:
    made = make_tunnel(version=version).up()
    clock = Clock([60])
    clock.add(made.tunnel)
    account = Account("http", "a", "id1")
    sink = charged(made, account, b"question")
    answered(made, sink, b"the answer")
    made.far.send(made.far.frames.eof(sink.stream.id))
    until(lambda: sink.stream.eof_received)
    made.tunnel.abort("the end")
    there = facts.tunnels_of(clock)
    ((_, values),) = facts.numbers([account], there)
    assert (values["bytes_in"], values["bytes_out"]) == (8, 10)
    sink.stream.forget()
    assert numbers(account) == {"streams": 0, "opened": 1, "bytes_in": 8, "bytes_out": 10}
    assert facts.tunnels_of(clock) == []


def test_users_are_the_sum_of_their_accounts(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    accounts = Accounts()
    charged(made, accounts.find("http", "a", "id1"), b"12345")
    charged(made, accounts.find("tcp", "22", "id1"), b"123")
    charged(made, accounts.find("http", "b", "id2"), b"1")
    found = facts.numbers(accounts.all(), [made.tunnel])
    assert facts.by_user(found) == {
        "id1": {"streams": 2, "opened": 2, "bytes_in": 8, "bytes_out": 0},
        "id2": {"streams": 1, "opened": 1, "bytes_in": 1, "bytes_out": 0},
    }


def test_how_long_streams_last(make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    histogram = metrics.Histogram("stream_seconds", "", (1.0, 5.0, 60.0))
    monkeypatch.setattr(tunnel_module, "stream_seconds", histogram)
    made = make_tunnel().up()
    account = Account("http", "a", "id1")
    charged(made, account).stream.reset()
    long = charged(made, account)
    unknown = made.open()  # nobody's: a check of our own
    for _ in range(3):
        made.tunnel.tick(1.0)
    long.stream.reset()
    unknown.stream.reset()
    assert histogram.snapshot() == {"buckets": [[1.0, 1], [5.0, 2], [60.0, 2]], "sum": 3.0, "count": 2}


def test_connections_are_listed_newest_first(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    one, two = Account("http", "a", "id1"), Account("tcp", "22", "id2")
    charged(made, one, b"old")
    made.tunnel.tick(1.0)
    new = charged(made, two, b"newer")
    charged(made, one, b"newest")
    made.open()  # nobody's
    listed = facts.connections(7, [made.tunnel], 2, lambda user: True)
    assert listed["total"] == 3
    assert [each["bytes_in"] for each in listed["connections"]] == [6, 5]
    assert listed["connections"][1] == {
        "id": f"7.{made.tunnel.number}.{new.stream.id}",
        "user": "id2",
        "kind": "tcp",
        "name": "22",
        "visitor": "192.0.2.1:5",
        "tunnel": f"7.{made.tunnel.number}",
        "bytes_in": 5,
        "bytes_out": 0,
        "age_s": 0.0,
    }
    (mine,) = facts.connections(7, [made.tunnel], 9, lambda user: user == "id2")["connections"]
    assert mine["user"] == "id2"
    assert (
        facts.connections(7, [made.tunnel], 9, lambda user: user == "id1")["connections"][-1]["age_s"] == 1.0
    )


@BOTH
def test_one_connection_is_cut_at_both_ends(make_tunnel: MakeTunnel, version: int) -> None:
    made = make_tunnel(version=version).up()
    account = Account("http", "a", "id1")
    cut, kept = charged(made, account), charged(made, account)
    name = f"1.{made.tunnel.number}.{cut.stream.id}"
    assert facts.cut_connection(1, [made.tunnel], name) == 1
    assert made.far.next()[:2] == (RESET if version == 3 else CLOSED, cut.stream.id)
    assert cut.notes[-1] == ("reset", frames.CANCELLED)
    assert kept.stream.id in made.tunnel.streams
    for wrong in (
        name,
        "",
        "x",
        f"2.{made.tunnel.number}.{kept.stream.id}",
        f"1.{made.tunnel.number}.-2",
        "1.2.x",
    ):
        assert facts.cut_connection(1, [made.tunnel], wrong) == 0


def test_what_is_nobodys_cannot_be_cut(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel().up()
    sink = made.open()
    assert facts.cut_connection(1, [made.tunnel], f"1.{made.tunnel.number}.{sink.stream.id}") == 0


def test_tunnels_are_closed(make_tunnel: MakeTunnel) -> None:
    one, two, three = (make_tunnel().up() for _ in range(3))
    tunnels = [each.tunnel for each in (one, two, three)]
    assert facts.close_tunnels(4, tunnels, f"4.{two.tunnel.number}", "it was disconnected") == 1
    assert (one.closed, two.closed, three.closed) == ([], ["it was disconnected"], [])
    assert two.tunnel.draining, "it is not lost"
    assert facts.close_tunnels(4, tunnels[:1], None, "all go") == 1
    assert one.closed == ["all go"]
    assert facts.close_tunnels(5, tunnels, f"4.{three.tunnel.number}", "another worker's") == 0


def test_numbers_of_tunnels_are_given_to_those_that_come_up(make_tunnel: MakeTunnel) -> None:
    one, never, two = (make_tunnel() for _ in range(3))
    first = one.tunnel.number
    assert (two.tunnel.number, one.tunnel.number) == (first + 1, first)
    assert never.tunnel.number == first + 2
