"""How many tunnels, when, and for how long: the decisions by table, the pool with a dialer of the test's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gevent
import pytest
from gevent.queue import Queue

from gtapp.client import pool as pool_module
from gtapp.client.dialer import Opened
from gtapp.client.pool import (
    CALLED_OVER_S,
    FIRST_DELAY_S,
    LEAVING_S,
    REFUSED_DELAY_S,
    SHORT_LIFE_S,
    SOON_ATTEMPTS,
    SPARE_S,
    Failure,
    Pool,
    delay_before,
    more_wanted,
)
from gtapp.client.services import Services
from gtapp.config.load import Service
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import GTError, LinkError, RemoteRefused
from gtapp.observe.metrics import counters
from gtapp.relay.clock import Clock
from gtapp.relay.opening import Opening
from gtapp.relay.stream import Stream
from gtapp.wire import compat, frames
from gtapp.wire.frames import Frames
from tests.support.relay import CONTROL, PING, PONG, Made, turn, until

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
    ("failure", "reconnect_delay", "delays"),
    [
        ("lost", 5.0, [0.25, *[0.5] * 10, 1.0, 2.0, 4.0, 5.0, 5.0]),
        ("lost", 0.1, [0.1, 0.1, 0.1]),
        ("lost", 100.0, [0.25, 0.5, 0.5]),
        ("refused", 5.0, [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]),
        ("refused", 0.1, [0.1, 0.2, 0.4]),
        ("refused", 90.0, [90.0, 90.0]),
        ("full", 5.0, [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]),
        ("full", 90.0, [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 90.0]),
    ],
)
def test_delay_before(failure: Failure, reconnect_delay: float, delays: list[float]) -> None:
    assert [delay_before(n + 1, failure, reconnect_delay) for n in range(len(delays))] == delays


@pytest.mark.parametrize("failure", ["lost", "full", "refused"])
def test_a_delay_after_years(failure: Failure) -> None:
    assert delay_before(10_000_000, failure, 5.0) == (5.0 if failure == "lost" else REFUSED_DELAY_S)


class Attempt:
    """A call of the dialer: the test decides what it gives."""

    def __init__(self, remote: URL, services: Services) -> None:
        self.remote = remote
        self.services = services
        self.result: Queue[Any] = Queue()


class Table(Services):
    """Services whose streams go to the test."""

    def __init__(self, scene: Scene, *services: Service) -> None:
        super().__init__(services, scene.clock)
        self.opened: list[frames.Open] = []
        self._scene = scene

    def open(self, stream: Stream, opened: frames.Open) -> None:
        self.opened.append(opened)
        next(made for made in self._scene.made if made.tunnel is stream.tunnel)._opened(stream, opened)


def http(port: int, prefix: str = "id1") -> Service:
    return Service(local=URL("http", "127.0.0.1", port), host_prefix=prefix)


class Scene:
    def __init__(
        self, make_tunnel: Callable[..., Made], find: Callable[[], URL] | None, options: ClientOptions
    ) -> None:
        self.make_tunnel = make_tunnel
        self.attempts: Queue[Attempt] = Queue()
        self.clock = Clock([60])
        self.delays: list[float] = []
        self.table = Table(self, http(80))
        remotes = [] if find else REMOTES
        self.pool = Pool(remotes, find, options, self, self.clock, self.table)  # type: ignore[arg-type]
        self.version = 3
        self.made: list[Made] = []
        self.granted: list[Any] = []

    def open(self, remote: URL, services: Services) -> Opened:
        """As the dialer's."""
        attempt = Attempt(remote, services)
        self.attempts.put(attempt)
        result = attempt.result.get()
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    def attempt(self) -> Attempt:
        attempt: Attempt = self.attempts.get(timeout=5)
        return attempt

    def succeed(self, *messages: bytes, attempt: Attempt | None = None) -> Made:
        """The next attempt gives a tunnel; `messages` have come right behind the opening."""
        attempt = attempt or self.attempt()
        made = self.make_tunnel(version=self.version, is_server=False)
        self.made.append(made)
        opening = Opening(made.tunnel)
        made.tunnel.start()
        if messages:
            made.far.send(*messages)
            until(lambda: len(opening._messages) == len(messages))
        attempt.result.put(Opened(made.tunnel, opening, self.granted))
        until(lambda: made.tunnel in self.pool.tunnels or made.tunnel.closed)
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
    """scene(remote_connections=3, ...): a pool that has started. It does not really wait between attempts, unless
    `real_delays` says so."""
    scenes: list[Scene] = []

    def make(find: Callable[[], URL] | None = None, real_delays: bool = False, **options: Any) -> Scene:
        made = Scene(make_tunnel, find, replace(ClientOptions(id="id1", secret="secret1"), **options))
        scenes.append(made)

        def pause(seconds: float) -> None:
            made.delays.append(seconds)
            gevent.sleep(0)

        if not real_delays:
            monkeypatch.setattr(made.pool, "_pause", pause)
        made.pool.start()
        return made

    yield make
    for each in scenes:
        each.pool.stop()


MakeScene = Callable[..., Scene]


def busy(made: Made, stream: int = 2, service: int = 0) -> None:
    """The server opens a stream."""
    made.far.send(made.far.frames.open(stream, service, "", b""))
    until(lambda: stream in made.tunnel.streams)


def test_as_many_as_are_to_be_idle(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=2, remote_connections=3)
    one.succeed()
    one.succeed()
    one.quiet()
    assert one.pool.tunnels == [made.tunnel for made in one.made]
    assert one.delays == []
    numbers = [made.tunnel.number for made in one.made]
    assert [made.tunnel.name for made in one.made] == [f"tunnel {n} to tcp://192.0.2.1:80" for n in numbers]
    assert numbers[1] == numbers[0] + 1


def test_one_more_when_the_idle_one_gets_a_stream(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=1, remote_connections=3)
    for _ in range(3):
        made = one.succeed()
        one.quiet()
        busy(made)
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
    for _ in range(SOON_ATTEMPTS + 3):
        one.succeed().far.close()
    one.succeed()
    for delay, longest in zip(one.delays, [0.25, *[0.5] * SOON_ATTEMPTS, 1.0, 2.0], strict=True):
        assert longest / 2 <= delay <= longest


def test_tunnels_that_are_lost_together_count_as_one_failure(scene: MakeScene) -> None:
    one = scene(reconnect_delay=5.0, remote_connections=3, remote_idle_connections=3)
    for _ in range(4):
        for made in [one.succeed() for _ in range(3)]:
            made.far.close()
    one.succeed()
    assert len(one.delays) == 4
    for delay, longest in zip(one.delays, [0.25, 0.5, 0.5, 0.5], strict=True):
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
    assert all(2.5 <= delay <= 5.0 for delay in one.delays[SOON_ATTEMPTS + 4 :])
    assert len(set(one.delays[SOON_ATTEMPTS + 4 :])) > 15, "a thousand clients must not come at once"


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
    one.fail(RemoteRefused("locked_out", "wait"))
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


# tunnels that are called over


def called_over(made: Made) -> bytes:
    if isinstance(made.far.frames, Frames):
        return made.far.frames.control({"type": "reconnect"})
    return compat.signal(compat.Reconnect())


def drained(made: Made) -> bytes:
    if isinstance(made.far.frames, Frames):
        return made.far.frames.control({"type": "drain"})
    return compat.signal(compat.Close())


def states(one: Scene) -> list[str]:
    return [each["state"] for each in one.pool.status()]


BOTH = pytest.mark.parametrize("version", [3, 1])


@BOTH
def test_a_tunnel_that_is_called_over_serves_until_it_is_drained(scene: MakeScene, version: int) -> None:
    one = scene()
    one.version = version
    lost = counters.tunnels_lost
    made = one.succeed()
    made.tunnel.age = SHORT_LIFE_S
    made.far.send(called_over(made))
    attempt = one.attempt()
    busy(made, 2)
    new = one.succeed(attempt=attempt)
    one.quiet()
    busy(made, 4)
    assert states(one) == ["up", "leaving"]
    assert sum(one.delays) <= CALLED_OVER_S
    made.far.send(drained(made), made.far.data(2, b"running"))
    until(lambda: made.sinks[0].data == b"running")
    assert states(one) == ["up", "draining"]
    for sink in made.sinks:
        sink.stream.reset()
    until(lambda: made.closed or made.tunnel.closed)
    until(lambda: one.pool.tunnels == [new.tunnel])
    one.quiet()
    assert counters.tunnels_lost == lost


@BOTH
def test_as_many_as_were_in_use_come_over(scene: MakeScene, version: int) -> None:
    """A full pool is there twice for a while."""
    one = scene(remote_idle_connections=1, remote_connections=3)
    one.version = version
    old = []
    for _ in range(3):
        old.append(one.succeed())
        busy(old[-1])
    one.quiet()
    for made in old:
        made.far.send(called_over(made))
    for _ in range(3):
        one.succeed()
    one.quiet()
    assert states(one) == ["up"] * 3 + ["leaving"] * 3
    for made in old:
        made.sinks[0].stream.reset()
        made.far.send(drained(made))
    until(lambda: states(one) == ["up"] * 3)
    one.quiet()


def test_idle_tunnels_come_over_as_far_as_they_are_wanted(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=2, remote_connections=5)
    old = []
    for number in range(4):
        old.append(one.succeed())
        if number < 2:
            busy(old[-1])
    one.quiet()
    for made in old:
        made.far.send(called_over(made))
    until(lambda: states(one) == ["leaving"] * 4)
    one.succeed()
    one.succeed()
    one.quiet()
    for made in old[:2]:
        made.sinks[0].stream.reset()


def test_gt_calls_a_client_over_through_any_of_its_tunnels(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=2)
    one.version = 1
    old = [one.succeed(), one.succeed()]
    old[0].far.send(called_over(old[0]))
    until(lambda: states(one) == ["leaving"] * 2)
    one.succeed()
    one.succeed()
    old[1].far.send(called_over(old[1]))
    one.quiet()
    assert states(one) == ["up"] * 2 + ["leaving"] * 2


def test_one_that_leaves_is_not_spare(scene: MakeScene) -> None:
    """Nor is it kept for ever by a server that never says that it may go."""
    one = scene(reconnect_delay=5.0)
    made = one.succeed()
    made.far.send(called_over(made))
    attempt = one.attempt()
    for _ in range(round(2 * LEAVING_S)):
        one.pool.tick(1.0)
    assert states(one) == ["leaving"], "there is no other one"
    one.succeed(attempt=attempt)
    one.pool.tick(1.0)
    assert states(one) == ["up", "draining"]
    assert made.far.next_of(CONTROL)[2] == {"type": "drain"}


def test_as_long_as_no_new_one_can_be_had_the_old_one_serves(scene: MakeScene) -> None:
    one = scene(reconnect_delay=5.0)
    made = one.succeed()
    made.far.send(called_over(made))
    for _ in range(6):
        one.fail(LinkError("cannot connect"))
    one.fail(RemoteRefused("too_many_connections", "full"))
    attempt = one.attempt()
    assert one.delays[-1] <= FIRST_DELAY_S
    busy(made)
    assert states(one) == ["leaving"]
    assert one.pool.problem == ""
    one.succeed(attempt=attempt)
    one.quiet()
    made.sinks[0].stream.reset()


def test_a_loss_while_leaving_is_none(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=1, remote_connections=3)
    lost = counters.tunnels_lost
    made = one.succeed()
    busy(made)
    second = one.succeed()
    made.far.send(called_over(made))
    attempt = one.attempt()
    made.far.close()
    until(lambda: one.pool.tunnels == [second.tunnel])
    attempt.result.put(LinkError("x"))
    one.quiet()
    assert counters.tunnels_lost == lost


@BOTH
def test_ten_calls_in_a_row(scene: MakeScene, version: int) -> None:
    one = scene(remote_idle_connections=1, remote_connections=3)
    one.version = version
    made = one.succeed()
    for _ in range(10):
        made.far.send(called_over(made), called_over(made))
        new = one.succeed()
        assert states(one) == ["up", "leaving"]
        made.far.send(drained(made))
        until(lambda: states(one) == ["up"])
        made = new
    one.quiet()
    assert len(one.delays) == 10
    assert all(FIRST_DELAY_S <= delay <= FIRST_DELAY_S + CALLED_OVER_S for delay in one.delays)
    assert one.pool.tunnels == [made.tunnel]


def test_who_waits_for_long_comes_at_once_when_called(scene: MakeScene) -> None:
    one = scene(real_delays=True, remote_idle_connections=1, remote_connections=3)
    made = one.succeed()
    busy(made)
    one.fail(RemoteRefused("locked_out", "for a minute"))
    turn(5)
    made.far.send(called_over(made))
    one.succeed()
    made.sinks[0].stream.reset()


def test_a_call_that_comes_behind_the_opening(scene: MakeScene) -> None:
    one = scene()
    made = one.succeed(Frames().control({"type": "reconnect"}))
    busy(made)
    one.succeed()
    assert states(one) == ["up", "leaving"]
    made.sinks[0].stream.reset()


def test_what_one_says_no_to_that_leaves_is_asked_of_the_new_ones(scene: MakeScene) -> None:
    one = scene()
    made = one.succeed()
    made.far.send(called_over(made))
    attempt = one.attempt()
    new = Table(one, http(81, "a"))
    one.pool.replace(new)
    services_asked(made)
    made.far.send(disagree(made))
    other = one.succeed(attempt=attempt)
    services_asked(other)
    other.far.send(agree(other))
    busy(other)
    assert len(new.opened) == 1
    other.sinks[0].stream.reset()


# what is told about it


def test_ready_with_a_tunnel(scene: MakeScene) -> None:
    one = scene()
    assert not one.pool.ready.is_set()
    one.succeed()
    assert one.pool.ready.wait(5)
    assert one.pool.problem == ""


def test_ready_without_one(scene: MakeScene) -> None:
    """When every way has been tried."""
    one = scene()
    one.fail(LinkError("the first way is closed"))
    attempt = one.attempt()
    assert not one.pool.ready.is_set()
    attempt.result.put(RemoteRefused("too_many_connections", "so is the second"))
    assert one.pool.ready.wait(5)
    assert one.pool.problem == "so is the second"
    one.succeed()
    assert one.pool.problem == ""


def test_ready_when_nobody_knows_the_server(scene: MakeScene) -> None:
    def find() -> URL:
        gevent.sleep(0)
        raise LinkError("the API is down")

    one = scene(find=find, real_delays=True)
    assert one.pool.ready.wait(5)
    assert one.pool.problem == "the API is down"


def test_status(scene: MakeScene) -> None:
    one = scene()
    one.granted = [{"hostPrefix": "id1"}]
    made = one.succeed()
    busy(made)
    (tunnel,) = json.loads(json.dumps(one.pool.status(3)))
    assert tunnel.pop("rtt_ms") >= 0
    assert tunnel.pop("loss") == 0
    assert tunnel == {
        "id": f"3.{made.tunnel.number}",
        "agent": "",
        "bytes_in": 0,
        "bytes_out": 0,
        "remote": "tcp://192.0.2.1:80",
        "protocol": 3,
        "transport": "tcp",
        "age_s": 0.0,
        "streams": 1,
        "state": "up",
    }
    assert one.pool.public() == [("http://127.0.0.1:80", ["id1"])]
    made.sinks[0].stream.reset()


# where the server is


def test_the_server_is_asked_for_again_after_a_loss(scene: MakeScene) -> None:
    """Not for one more tunnel beside those that are up, which would lead to two servers."""
    found = [URL("tcp", "192.0.2.9", port) for port in (1, 2, 3, 4)]
    asked = iter(found)
    one = scene(find=lambda: next(asked), remote_connections=3)
    first = one.attempt()
    assert first.remote == found[0]
    first.result.put(LinkError("x"))
    made = one.succeed()
    busy(made)
    attempt = one.attempt()
    assert attempt.remote == found[1]
    attempt.result.put(LinkError("x"))
    attempt = one.attempt()
    assert attempt.remote == found[2]
    one.succeed(attempt=attempt).far.close()
    assert one.attempt().remote == found[3]


@pytest.mark.parametrize("version", [3, 1])
def test_the_server_is_asked_for_again_when_it_goes(scene: MakeScene, version: int) -> None:
    asked = iter(URL("tcp", "192.0.2.9", port) for port in (1, 2))
    one = scene(find=lambda: next(asked))
    one.version = version
    made = one.succeed()
    made.far.send(
        made.far.frames.control({"type": "drain"}) if version == 3 else compat.signal(compat.Reconnect())
    )
    assert one.attempt().remote.port == 2


def test_as_long_as_nobody_tells_where_the_server_is(
    scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    """That is a failure as others, said once; what is up stays."""
    answers: Queue[URL | Exception] = Queue()

    def find() -> URL:
        answer = answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    one = scene(find=find, reconnect_delay=5.0)
    answers.put(REMOTES[0])
    made = one.succeed()
    busy(made)
    one.succeed().far.close()
    for _ in range(SOON_ATTEMPTS + 5):
        answers.put(LinkError("the API is down"))
    until(lambda: answers.empty() and len(one.delays) >= SOON_ATTEMPTS + 5)
    assert caplog.text.count("the API is down") == 1
    assert one.delays[-1] > 2
    assert not made.tunnel.closed
    answers.put(REMOTES[1])
    attempt = one.attempt()
    assert attempt.remote == REMOTES[1]
    made.sinks[0].stream.reset()


# other services


def services_asked(made: Made) -> Any:
    """What the far end reads as the new services."""
    if isinstance(made.far.frames, Frames):
        while (message := made.far.next_of(CONTROL)[2])["type"] != "services":
            pass
        return message["services"]
    message = made.far.next_of(CONTROL)[2]
    assert isinstance(message, compat.Services)
    return [each.prefix for each in message.opening.services]


def agree(made: Made, *granted: Any) -> bytes:
    if isinstance(made.far.frames, Frames):
        return made.far.frames.control({"type": "ready", "services": list(granted)})
    return compat.signal(compat.ServicesDone())


def disagree(made: Made) -> bytes:
    if isinstance(made.far.frames, Frames):
        return made.far.frames.control(
            {"type": "error", "code": "host_conflict", "message": "taken", "service": 0}
        )
    return compat.signal(compat.Error(compat.HOST_CONFLICT))


@BOTH
def test_other_services(scene: MakeScene, version: int) -> None:
    """The old ones until the server has agreed: streams that it opened before have their indices."""
    one = scene(remote_idle_connections=1, remote_connections=3)
    one.version = version
    made = one.succeed()
    busy(made, 2)
    second = one.succeed()
    new = Table(one, http(81, "a"), http(82, "b"))
    one.pool.replace(new)
    asked = services_asked(made)
    assert asked == services_asked(second)
    if version == 3:
        assert asked == [{"kind": "http", "hostPrefix": "a"}, {"kind": "http", "hostPrefix": "b"}]
    else:
        assert asked == ["a", "b"]
    busy(made, 4)
    assert len(one.table.opened) == 2
    made.far.send(made.far.data(2, b"running"), agree(made, {"hostPrefix": "a"}, {"hostPrefix": "b"}))
    busy(made, 6, 1)
    assert [len(one.table.opened), len(new.opened)] == [2, 1]
    until(lambda: made.sinks[0].data == b"running")
    busy(second, 2)
    assert len(one.table.opened) == 3, "each tunnel on its own"
    assert one.attempt().services is new
    for each in (*made.sinks, *second.sinks):
        each.stream.reset()


@BOTH
def test_services_that_the_server_refuses(
    scene: MakeScene, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    one = scene(remote_idle_connections=2, remote_connections=3)
    one.version = version
    tunnels = [one.succeed(), one.succeed()]
    new = Table(one, http(81, "taken"))
    one.pool.replace(new)
    for made in tunnels:
        services_asked(made)
        made.far.send(disagree(made))
    for made in tunnels:
        busy(made)
    assert (len(one.table.opened), len(new.opened)) == (2, 0)
    assert one.attempt().services is one.table, "new tunnels would be refused as well"
    lines = [line for line in caplog.messages if "refuses the new services" in line]
    assert len(lines) == 1
    assert "set another hostPrefix" in lines[0]
    one.pool.replace(new)
    assert services_asked(tunnels[0]), "once more, when the user asks for it once more"
    for made in tunnels:
        made.sinks[0].stream.reset()


@BOTH
def test_services_replaced_twice_before_the_answer(scene: MakeScene, version: int) -> None:
    one = scene()
    one.version = version
    made = one.succeed()
    first, second = Table(one, http(81, "a")), Table(one, http(82, "b"))
    one.pool.replace(first)
    one.pool.replace(second)
    services_asked(made)
    services_asked(made)
    made.far.send(agree(made))
    busy(made, 2)
    made.far.send(disagree(made))
    busy(made, 4)
    assert (len(first.opened), len(second.opened)) == (2, 0)
    assert one.pool._services is first
    for each in made.sinks:
        each.stream.reset()


def test_what_the_server_does_not_see_changes_at_once(scene: MakeScene) -> None:
    """Another local address: the server is not asked, GT's would end what runs."""
    one = scene()
    made = one.succeed()
    new = Table(one, http(81))
    one.pool.replace(new)
    busy(made)
    assert len(new.opened) == 1
    made.far.send(made.far.frames.ping(bytes(8)))
    assert made.far.next(PING)[0] == PONG, "nothing before it"
    made.sinks[0].stream.reset()


def test_services_replaced_while_a_tunnel_opens(scene: MakeScene) -> None:
    one = scene()
    new = Table(one, http(81, "a"))
    until(lambda: one.attempts.qsize())
    one.pool.replace(new)
    made = one.succeed()
    services_asked(made)
    made.far.send(agree(made))
    busy(made)
    assert len(new.opened) == 1
    made.sinks[0].stream.reset()


def test_the_log_tells_where_visitors_find_the_services(
    scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    one = scene(remote_idle_connections=2)
    one.granted = [{"hostPrefix": "id1"}]
    made = one.succeed()
    one.succeed()
    ssh = Service(local=URL("tcp", "127.0.0.1", 22), remote_tcp_random=True)
    one.pool.replace(Table(one, http(80), ssh))
    made.far.send(agree(made, {"hostPrefix": "id1"}, {"port": 2222}))
    until(lambda: "2222" in caplog.text)
    assert [line for line in caplog.messages if "127.0.0.1" in line] == [
        "http://127.0.0.1:80 is published as host prefix id1",
        "tcp://127.0.0.1:22 is reached at tcp://192.0.2.1:2222",
    ]


def test_ports_of_protocol_1(scene: MakeScene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    one = scene()
    one.version = 1
    made = one.succeed()
    ssh = Service(local=URL("tcp", "127.0.0.1", 22), remote_tcp_random=True)
    one.pool.replace(Table(one, http(80), ssh))
    made.far.send(compat.signal(compat.Info(1, 1, 2222)), agree(made))
    until(lambda: "tcp://127.0.0.1:22 is reached at tcp://192.0.2.1:2222" in caplog.messages)


def test_an_answer_that_nobody_has_asked_for(scene: MakeScene) -> None:
    one = scene()
    made = one.succeed()
    made.far.send(agree(made), disagree(made), made.far.frames.control({"type": "news"}))
    busy(made)
    assert len(one.table.opened) == 1
    made.sinks[0].stream.reset()


def test_other_options(scene: MakeScene) -> None:
    one = scene(remote_idle_connections=1)
    one.succeed()
    one.quiet()
    one.pool.set_options(ClientOptions(remote_idle_connections=2))
    one.succeed()
    one.quiet()


def test_another_local_address_while_the_server_thinks(scene: MakeScene) -> None:
    """Its answer is about both."""
    one = scene()
    made = one.succeed()
    first, second = Table(one, http(81, "a")), Table(one, http(82, "a"))
    one.pool.replace(first)
    one.pool.replace(second)
    services_asked(made)
    made.far.send(agree(made))
    busy(made)
    assert (len(first.opened), len(second.opened)) == (0, 1)
    made.sinks[0].stream.reset()


def test_the_answer_to_our_own_drain_is_no_loss(scene: MakeScene) -> None:
    asked = iter([URL("tcp", "192.0.2.9", 1)])
    one = scene(find=lambda: next(asked))
    made = one.succeed()
    busy(made)
    made.tunnel.drain()
    made.far.send(made.far.frames.control({"type": "drain"}))
    assert one.attempt().remote.port == 1
    made.sinks[0].stream.reset()
