"""How many tunnels, when, and for how long: the decisions by table, the pool with a dialer of the test's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.queue import Queue

from gtapp.client import pool as pool_module
from gtapp.client.pool import REFUSED_DELAY_S, SHORT_LIFE_S, SPARE_S, Pool, delay_before, more_wanted
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import GTError, LinkError, RemoteRefused
from gtapp.relay.clock import Clock
from gtapp.relay.opening import Opening
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import compat
from gtapp.wire.frames import Frames
from tests.support.relay import CONTROL, Made, turn, until

REMOTES = [URL("tcp", "192.0.2.1", 80), URL("tcp", "192.0.2.1", 81)]


@pytest.mark.parametrize(
    ("streams", "idle", "most", "more"),
    [
        ([], 1, 3, 1),
        ([], 2, 3, 2),
        ([], 3, 3, 3),
        ([0], 1, 3, 0),
        ([5], 1, 3, 1),
        ([5, 0], 1, 3, 0),
        ([5, 1], 1, 3, 1),
        ([5, 1, 9], 1, 3, 0),
        ([5, 1, 9], 3, 3, 0),
        ([0, 0, 0], 1, 3, 0),
        ([1, 0], 3, 3, 1),
        ([1], 1, 1, 0),
        ([0, 0, 0, 0], 1, 3, 0),
        ([7, 7, 7, 7], 1, 3, 0),
    ],
)
def test_more_wanted(streams: list[int], idle: int, most: int, more: int) -> None:
    assert more_wanted(streams, idle, most) == more


@pytest.mark.parametrize(
    ("refused", "reconnect_delay", "delays"),
    [
        (False, 5.0, [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]),
        (False, 0.1, [0.1, 0.1, 0.1]),
        (False, 100.0, [0.25, 0.5, 1.0]),
        (True, 5.0, [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]),
        (True, 0.1, [0.1, 0.2, 0.4]),
        (True, 90.0, [90.0, 90.0]),
    ],
)
def test_delay_before(refused: bool, reconnect_delay: float, delays: list[float]) -> None:
    assert [delay_before(n + 1, refused, reconnect_delay) for n in range(len(delays))] == delays


@pytest.mark.parametrize("refused", [False, True])
def test_a_delay_after_years(refused: bool) -> None:
    assert delay_before(10_000_000, refused, 5.0) == (REFUSED_DELAY_S if refused else 5.0)


class Attempt:
    """A call of the dialer: the test decides what it gives."""

    def __init__(self, remote: URL) -> None:
        self.remote = remote
        self.result: Queue[Any] = Queue()


class Scene:
    def __init__(self, make_tunnel: Callable[..., Made], options: ClientOptions) -> None:
        self.make_tunnel = make_tunnel
        self.attempts: Queue[Attempt] = Queue()
        self.clock = Clock([60])
        self.delays: list[float] = []
        self.pool = Pool(REMOTES, options, self, self.clock)  # type: ignore[arg-type]
        self.version = 3
        self.made: list[Made] = []

    def open(self, remote: URL) -> tuple[Tunnel, Opening]:
        """As the dialer's."""
        attempt = Attempt(remote)
        self.attempts.put(attempt)
        result = attempt.result.get()
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    def attempt(self) -> Attempt:
        attempt: Attempt = self.attempts.get(timeout=5)
        return attempt

    def succeed(self, *messages: bytes) -> Made:
        """The next attempt gives a tunnel; `messages` have come right behind the opening."""
        attempt = self.attempt()
        made = self.make_tunnel(version=self.version, is_server=False)
        self.made.append(made)
        opening = Opening(made.tunnel)
        made.tunnel.start()
        if messages:
            made.far.send(*messages)
            until(lambda: len(opening._messages) == len(messages))
        attempt.result.put((made.tunnel, opening))
        until(lambda: made.tunnel in self.pool._tunnels or made.tunnel.closed)
        turn()
        return made

    def fail(self, error: Exception) -> URL:
        attempt = self.attempt()
        attempt.result.put(error)
        return attempt.remote

    def quiet(self) -> None:
        """Nothing is tried now."""
        turn(5)
        assert self.attempts.empty()


@pytest.fixture
def scene(
    make_tunnel: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Scene]]:
    """scene(remote_connections=3, ...): a pool that has started. It does not really sleep between attempts."""
    scenes: list[Scene] = []

    def make(**options: Any) -> Scene:
        made = Scene(make_tunnel, replace(ClientOptions(), **options))
        scenes.append(made)

        def sleep(seconds: float) -> None:
            made.delays.append(seconds)
            gevent.sleep(0)

        monkeypatch.setattr(pool_module, "gevent", SimpleNamespace(spawn=gevent.spawn, sleep=sleep))
        made.pool.start()
        return made

    yield make
    for each in scenes:
        each.pool.stop()


MakeScene = Callable[..., Scene]


def busy(made: Made, stream: int = 2) -> None:
    """The server opens a stream."""
    made.far.send(made.far.frames.open(stream, 0, "", b""))
    until(lambda: stream in made.tunnel.streams)


def test_as_many_as_are_to_be_idle(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=2, remote_connections=3)
    one.succeed()
    one.succeed()
    one.quiet()
    assert one.pool.tunnels == [made.tunnel for made in one.made]
    assert one.delays == []
    assert [made.tunnel.name for made in one.made] == [f"tunnel {n} to tcp://192.0.2.1:80" for n in (1, 2)]


def test_one_more_when_the_idle_one_gets_a_stream(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=1, remote_connections=3)
    for _ in range(3):
        made = one.succeed()
        one.quiet()
        busy(made)
        one.pool.wake()
    one.quiet()


def test_a_lost_tunnel_is_replaced_at_once(scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SHORT_LIFE_S", 0.0)
    one = scene()
    one.succeed().far.close()
    one.succeed()
    assert one.delays == []
    one.quiet()
    assert len(one.pool.tunnels) == 1


def test_a_tunnel_that_is_lost_soon_counts_as_a_failure(scene: MakeScene) -> None:
    one = scene(reconnect_delay=5.0)
    for _ in range(4):
        one.succeed().far.close()
    one.succeed()
    for delay, longest in zip(one.delays, [0.25, 0.5, 1.0, 2.0], strict=True):
        assert longest / 2 <= delay <= longest


def test_a_tunnel_that_lives_ends_the_failures(scene: MakeScene) -> None:
    one = scene()
    for _ in range(5):
        one.fail(LinkError("no"))
    made = one.succeed()
    made.tunnel.age = SHORT_LIFE_S + 1
    one.pool.tick(1.0)
    one.delays.clear()
    busy(made)
    one.pool.wake()
    one.fail(LinkError("no"))
    one.succeed()
    assert one.delays[0] <= 0.25


def test_it_never_gives_up_and_says_it_once(scene: MakeScene, caplog: pytest.LogCaptureFixture) -> None:
    one = scene(reconnect_delay=5.0)
    for _ in range(30):
        one.fail(LinkError("cannot connect"))
    one.fail(LinkError("something else"))
    one.succeed()
    assert caplog.text.count("cannot connect") == 1
    assert caplog.text.count("something else") == 1
    assert all(2.5 <= delay <= 5.0 for delay in one.delays[5:])
    assert len(set(one.delays[5:])) > 20, "a thousand clients must not come at once"


def test_refusals_take_longer(scene: MakeScene) -> None:
    one = scene(reconnect_delay=5.0)
    for _ in range(6):
        one.fail(RemoteRefused("invalid_credentials", "no"))
    one.attempt().result.put(LinkError("x"))
    for delay, longest in zip(one.delays, [5, 10, 20, 40, 60, 60], strict=False):
        assert longest / 2 <= delay <= longest


def test_the_first_refusal_after_an_outage_is_the_first(scene: MakeScene) -> None:
    one = scene(reconnect_delay=5.0)
    for _ in range(10):
        one.fail(LinkError("no network"))
    one.fail(RemoteRefused("too_many_connections", "the old ones are not gone yet"))
    one.attempt().result.put(LinkError("x"))
    assert 2.5 <= one.delays[-1] <= 5.0


def test_an_unexpected_error_is_not_the_end(scene: MakeScene, caplog: pytest.LogCaptureFixture) -> None:
    one = scene()
    one.fail(ZeroDivisionError())
    one.succeed()
    assert "unexpected error" in caplog.text


def test_where_one_way_fails_the_next_is_tried(scene: MakeScene) -> None:
    one = scene()
    assert [one.fail(GTError("no")) for _ in range(4)] == [*REMOTES, *REMOTES]


def test_a_suspect_tunnel_is_replaced_and_kept(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=1, remote_connections=3)
    made = one.succeed()
    made.tunnel.suspect = True
    made.tunnel.on_suspect()
    one.succeed()
    assert len(one.pool.tunnels) == 2
    made.tunnel.suspect = False
    one.quiet()


@pytest.mark.parametrize("version", [3, 1])
def test_a_server_that_drains(scene: MakeScene, version: int) -> None:
    """Its tunnel is replaced while what runs goes on."""
    one = scene()
    one.version = version
    made = one.succeed()
    busy(made)
    drain = made.far.frames.control({"type": "drain"}) if version == 3 else compat.signal(compat.Close())
    made.far.send(drain)
    other = one.succeed()
    assert not made.tunnel.closed
    made.sinks[0].stream.reset()
    until(lambda: made.tunnel.closed)
    until(lambda: one.pool.tunnels == [other.tunnel])
    one.quiet()


def test_a_drain_right_behind_the_opening(scene: MakeScene) -> None:
    """Such a tunnel is gone at once; the pool must not count on it for ever."""
    one = scene()
    made = one.succeed(Frames().control({"type": "drain"}))
    assert made.tunnel.closed
    assert one.pool.tunnels == []
    one.succeed()


def test_protocol_1_closes_at_the_second_close(scene: MakeScene) -> None:
    one = scene()
    one.version = 1
    made = one.succeed()
    busy(made)
    made.far.send(compat.signal(compat.Close()))
    one.succeed()
    assert not made.tunnel.closed
    made.far.send(compat.signal(compat.Close()))
    until(lambda: made.tunnel.closed)
    assert made.sinks[0].notes == [("reset", 0)]


def test_protocol_1_reconnect_is_no_close(scene: MakeScene) -> None:
    """RECONNECT, and the CLOSE of the old process behind it: what runs goes on."""
    one = scene()
    one.version = 1
    made = one.succeed()
    busy(made)
    made.far.send(compat.signal(compat.Reconnect()))
    one.succeed()
    made.far.send(compat.signal(compat.Close()), made.far.data(2, b"running"))
    until(lambda: made.sinks[0].data or made.tunnel.closed)
    assert not made.tunnel.closed
    made.sinks[0].stream.reset()


def test_protocol_1_close_in_answer_to_ours(scene: MakeScene) -> None:
    """We have said that we want nothing new; that the server says so too does not end what runs."""
    one = scene()
    one.version = 1
    made = one.succeed()
    busy(made)
    made.tunnel.drain()
    made.far.send(compat.signal(compat.Close()), made.far.data(2, b"running"))
    until(lambda: made.sinks[0].data or made.tunnel.closed)
    assert not made.tunnel.closed
    made.sinks[0].stream.reset()


def test_tunnels_that_are_not_needed_for_long_are_drained(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=1, remote_connections=3)
    first = one.succeed()
    busy(first)
    one.pool.wake()
    second = one.succeed()
    first.sinks[0].stream.reset()
    for _ in range(round(SPARE_S)):
        one.pool.tick(1.0)
    assert "draining" not in repr(second.tunnel)
    one.pool.tick(1.0)
    assert not first.tunnel.draining
    assert second.tunnel.draining
    assert second.far.next_of(CONTROL)[2] == {"type": "drain"}
    second.far.close()
    until(lambda: one.pool.tunnels == [first.tunnel])
    one.quiet()


def test_stop_in_the_middle_of_an_attempt(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=2, remote_connections=3)
    made = one.succeed()
    one.attempt()
    one.pool.stop()
    assert one.pool.over
    assert made.tunnel.draining
    made.far.close()
    until(lambda: made.tunnel.closed)
    one.quiet()
