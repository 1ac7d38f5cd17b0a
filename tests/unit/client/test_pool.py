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
from gtapp.client.dialer import Opened
from gtapp.client.pool import REFUSED_DELAY_S, SHORT_LIFE_S, SPARE_S, Pool, delay_before, more_wanted
from gtapp.client.services import Services
from gtapp.config.load import Service
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import GTError, LinkError, RemoteRefused
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
        until(lambda: made.tunnel in self.pool._members or made.tunnel.closed)
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

    def make(find: Callable[[], URL] | None = None, **options: Any) -> Scene:
        made = Scene(make_tunnel, find, replace(ClientOptions(id="id1", secret="secret1"), **options))
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
    assert [made.tunnel.name for made in one.made] == [f"tunnel {n} to tcp://192.0.2.1:80" for n in (1, 2)]


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
    for _ in range(8):
        answers.put(LinkError("the API is down"))
    until(lambda: answers.empty() and len(one.delays) >= 8)
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


BOTH = pytest.mark.parametrize("version", [3, 1])


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
