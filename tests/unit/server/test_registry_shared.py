"""Endpoints between workers: who serves what, who is away, and whose they are when two have them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gtapp.errors import RemoteRefused
from gtapp.server import registry as registry_module
from gtapp.server.registry import MAX_REMEMBERED, REMEMBER_S, Kind, Registry
from gtapp.server.siblings import Siblings
from tests.support.relay import turn, until
from tests.unit.server.scene import introduce
from tests.unit.server.test_registry import Time

A: list[tuple[Kind, str, int]] = [("http", "a", 0)]
B: list[tuple[Kind, str, int]] = [("http", "b", 0)]


class Tunnel(SimpleNamespace):
    """As much of a tunnel as the registry looks at."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def __init__(self, worker: Worker, user_id: str) -> None:
        super().__init__(
            streams=(), link=SimpleNamespace(queued=0), suspect=False, draining=False, aborted=None
        )
        self._worker = worker
        self._user_id = user_id

    def drain(self) -> None:
        self.draining = True
        self.on_drain()

    def abort(self, reason: str) -> None:
        self.aborted = reason
        self._worker.registry.withdraw(self, self._user_id)  # type: ignore[arg-type]


class Worker:
    def __init__(self, number: int) -> None:
        self.siblings = Siblings(number)
        self.registry = Registry(self.siblings)
        self.siblings.start()

    def publish(self, user_id: str, *names: str, tunnel: Any = None) -> Any:
        """`names` are "kind:name", or names of HTTP hosts. A new tunnel, or the given one."""
        tunnel = tunnel or Tunnel(self, user_id)
        wanted = [_endpoint(name) for name in names]
        self.registry.publish(tunnel, user_id, [(kind, name, 0) for kind, name in wanted])
        return tunnel

    def refused(self, user_id: str, *names: str) -> bool:
        try:
            self.publish(user_id, *names)
        except RemoteRefused as error:
            return error.code == "host_conflict"
        return False

    def knows(self, name: str) -> Any:
        """None, or whose it is and which siblings serve it."""
        endpoint = self.registry.find(*_endpoint(name))
        return None if endpoint is None else (endpoint.user_id, sorted(endpoint.siblings))

    def waiting(self, name: str) -> list[int]:
        """Grows when a visitor who waits for it is woken."""
        woken: list[int] = []
        endpoint = self.registry.find(*_endpoint(name))
        assert endpoint is not None
        endpoint.waiting[lambda: woken.append(1)] = None
        return woken

    def crash(self) -> None:
        self.siblings.stop()


def _endpoint(name: str) -> tuple[Kind, str]:
    kind, _, rest = name.rpartition(":")
    return kind or "http", rest  # type: ignore[return-value]


MakeWorker = Callable[..., Worker]


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(registry_module, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def make_worker(time: Time) -> Iterator[MakeWorker]:
    """make_worker(number): a worker that knows all there are."""
    workers: list[Worker] = []

    def make(number: int, knows: list[Worker] | None = None) -> Worker:
        worker = Worker(number)
        for each in workers if knows is None else knows:
            introduce(each.siblings, worker.siblings)
        workers.append(worker)
        return worker

    yield make
    for each in workers:
        each.crash()


@pytest.fixture
def three(make_worker: MakeWorker) -> list[Worker]:
    return [make_worker(number) for number in (1, 2, 3)]


def settled(*workers: Worker) -> None:
    """All that has been told has been heard."""
    turn(4)
    until(lambda: not any(each.siblings.queued(n) for each in workers for n in each.siblings.numbers))
    turn(4)


# who serves what


def test_siblings_know_what_is_published(three: list[Worker]) -> None:
    one, two, other = three
    tunnel = one.publish("id1", "a", "tls:a", "tcp:2222")
    settled(*three)
    for name in ("a", "tls:a", "tcp:2222"):
        assert (one.knows(name), two.knows(name)) == (("id1", []), ("id1", [1]))
    two.publish("id1", "a")
    settled(*three)
    assert (one.knows("a"), two.knows("a"), other.knows("a")) == (
        ("id1", [2]), ("id1", [1]), ("id1", [1, 2]),
    )  # fmt: skip
    two_more = one.publish("id1", "a")
    one.registry.withdraw(tunnel, "id1")
    settled(*three)
    assert other.knows("a") == ("id1", [1, 2]), "another tunnel serves it"
    one.registry.withdraw(two_more, "id1")
    settled(*three)
    assert other.knows("a") == ("id1", [2])
    assert other.knows("tls:a") == ("id1", [])


def test_only_changes_are_told(three: list[Worker]) -> None:
    one, two, _ = three
    told: list[Any] = []
    two.siblings.on("endpoints", lambda sibling, message: told.append(message.values["changes"]))
    tunnels = [one.publish("id1", "a", "b") for _ in range(3)]
    one.publish("id1", "a", "b", tunnel=tunnels[0])
    tunnels[1].drain()
    one.registry.withdraw(tunnels[0], "id1")
    settled(*three)
    assert told == [[["serves", "http", "a", "id1", 0.0], ["serves", "http", "b", "id1", 0.0]]]
    one.publish("id1", "b", "c", tunnel=tunnels[2])
    settled(*three)
    assert told[1:] == [[["away", "http", "a", "id1", 0.0], ["serves", "http", "c", "id1", 0.0]]]


def test_a_tunnel_that_drains_serves_nothing(three: list[Worker]) -> None:
    one, two, _ = three
    tunnel, more = one.publish("id1", "a"), one.publish("id1", "b", "a")
    tunnel.drain()
    settled(*three)
    assert two.knows("a") == ("id1", [1])
    more.drain()
    settled(*three)
    assert two.knows("a") == two.knows("b") == ("id1", [])
    one.publish("id1", "a")
    settled(*three)
    assert two.knows("a") == ("id1", [1])
    assert two.knows("b") == ("id1", [])


def test_what_is_published_no_more_is_free_at_once_everywhere(three: list[Worker]) -> None:
    one, two, other = three
    mine, its = one.publish("id1", "a", "b"), two.publish("id1", "a", "b")
    settled(*three)
    one.publish("id1", "b", tunnel=mine)
    settled(*three)
    assert (one.knows("a"), other.knows("a")) == (("id1", [2]), ("id1", [2]))
    assert other.refused("id2", "a")
    woken = one.waiting("a")
    two.publish("id1", "b", tunnel=its)
    settled(*three)
    assert one.knows("a") is two.knows("a") is other.knows("a") is None
    assert woken == [1], "who waits is told"
    other.publish("id2", "a")


def test_a_newcomer_is_told_all(make_worker: MakeWorker, time: Time) -> None:
    one, two = make_worker(1), make_worker(2)
    one.publish("id1", "a")
    two.publish("id1", "a", "tls:b")
    gone = one.publish("id2", "gone", "tcp:80")
    two.publish("id3", "drains").drain()
    one.registry.withdraw(gone, "id2")
    settled(one, two)
    time.now += 100
    three = make_worker(3)
    settled(one, two, three)
    assert three.knows("a") == ("id1", [1, 2])
    assert three.knows("tls:b") == ("id1", [2])
    assert three.knows("gone") == three.knows("tcp:80") == ("id2", [])
    assert three.knows("drains") == ("id3", [])
    assert three.refused("id1", "gone")
    time.now += REMEMBER_S - 100 + 1
    assert one.knows("gone") is two.knows("gone") is three.knows("gone") is None


def test_much_at_once(three: list[Worker]) -> None:
    names = [f"h{number}" for number in range(3000)]
    one, two, _ = three
    tunnel = one.publish("id1", *names)
    until(lambda: two.knows(names[-1]))
    assert all(two.knows(name) == ("id1", [1]) for name in names)
    one.registry.withdraw(tunnel, "id1")
    until(lambda: two.knows(names[-1]) == ("id1", []))


def test_what_is_remembered_has_a_bound(three: list[Worker]) -> None:
    one, two, _ = three
    for part in range(3):
        names = [f"h{part}-{number}" for number in range(MAX_REMEMBERED // 2)]
        one.registry.withdraw(one.publish("id1", *names), "id1")
    settled(*three)
    assert len(two.registry._gone) == len(two.registry._endpoints) == MAX_REMEMBERED
    assert two.knows("h0-1") is one.knows("h0-1") is None
    assert two.knows("h2-1") == ("id1", [])


# away


def test_what_a_sibling_has_lost_is_away(three: list[Worker], time: Time) -> None:
    one, two, _ = three
    tunnel = one.publish("id1", "a")
    settled(*three)
    one.registry.withdraw(tunnel, "id1")
    settled(*three)
    time.now += REMEMBER_S
    assert two.knows("a") == ("id1", [])
    assert two.refused("id2", "a")
    time.now += 1
    assert two.knows("a") is None
    two.publish("id2", "a")


def test_a_sibling_that_crashes(three: list[Worker], time: Time) -> None:
    one, two, other = three
    one.publish("id1", "a", "b")
    two.publish("id1", "b")
    settled(*three)
    one.crash()
    until(lambda: len(two.siblings.numbers) == len(other.siblings.numbers) == 1)
    assert (two.knows("a"), two.knows("b"), other.knows("b")) == (("id1", []), ("id1", []), ("id1", [2]))
    assert two.refused("id2", "a")
    time.now += REMEMBER_S + 1
    assert two.knows("a") is None
    assert other.knows("b") == ("id1", [2])


def test_whoever_waits_is_woken_by_a_sibling(three: list[Worker]) -> None:
    one, two, _ = three
    two.registry.withdraw(two.publish("id1", "a"), "id1")
    settled(*three)
    woken = two.waiting("a")
    one.publish("id1", "a")
    settled(*three)
    assert woken == [1]
    one.publish("id1", "a")
    settled(*three)
    assert woken == [1], "once"


def test_what_siblings_serve_is_not_dropped(three: list[Worker]) -> None:
    """A port is closed in one worker while others have it."""
    one, two, _ = three
    one.publish("id1", "tcp:2222")
    two.registry.withdraw(two.publish("id1", "tcp:2222"), "id1")
    settled(*three)
    endpoint = two.registry.find("tcp", "2222")
    assert endpoint is not None
    two.registry.drop(endpoint)
    two.registry.forget("id1")
    settled(*three)
    assert two.knows("tcp:2222") == ("id1", [1])


def test_drop_and_forget_are_told(three: list[Worker]) -> None:
    one, two, _ = three
    tunnel = one.publish("id1", "tcp:2222", "a")
    one.registry.withdraw(tunnel, "id1")
    settled(*three)
    endpoint = one.registry.find("tcp", "2222")
    assert endpoint is not None
    one.registry.drop(endpoint)
    settled(*three)
    assert two.knows("tcp:2222") is None
    assert two.knows("a") == ("id1", [])
    one.registry.forget("id1")
    settled(*three)
    assert two.knows("a") is None


# whose


@pytest.mark.parametrize("name", ["a", "tls:a"])
def test_another_users_host_in_a_sibling_is_refused(three: list[Worker], name: str) -> None:
    one, two, _ = three
    one.publish("id1", "a")
    settled(*three)
    assert two.refused("id2", name, "b")
    assert two.knows("b") is None
    two.publish("id1", name)


def test_a_port_is_whose_the_office_says(three: list[Worker]) -> None:
    """What is remembered or told of it may be older than what has been decided there."""
    one, two, other = three
    one.registry.withdraw(one.publish("id1", "tcp:2222"), "id1")
    other.publish("id1", "tcp:80")
    settled(*three)
    two.publish("id2", "tcp:2222", "tcp:80")
    assert (two.knows("tcp:2222"), two.knows("tcp:80")) == (("id2", []), ("id2", []))
    settled(*three)
    assert one.knows("tcp:2222") == ("id2", [2])


@pytest.mark.parametrize("pair", list(itertools.permutations((1, 2, 3), 2)))
@pytest.mark.parametrize("names", [("a", "a"), ("a", "tls:a"), ("tls:a", "a"), ("tcp:80", "tcp:80")])
def test_a_race_is_won_by_the_lower_number(
    three: list[Worker], pair: tuple[int, int], names: tuple[str, str]
) -> None:
    """And in all workers it is the same user's then. What else the loser had has gone with its tunnel."""
    first, second = (three[number - 1] for number in pair)
    tunnels = {
        pair[0]: first.publish("id1", names[0], "x"),
        pair[1]: second.publish("id2", names[1], "y"),
    }
    others = second.publish("id2", "z")
    winner, loser = min(pair), max(pair)
    settled(*three)
    assert tunnels[winner].aborted is None
    assert "went to another user" in tunnels[loser].aborted
    assert others.aborted is None
    user, name = ("id1", names[0]) if winner == pair[0] else ("id2", names[1])
    for each in three:
        serving = [] if each is three[winner - 1] else [winner]
        assert each.knows(name) == (user, serving)
        assert each.knows("z") == ("id2", [] if each is second else [pair[1]])
        assert each.refused("id3", name) or name.startswith("tcp")
    lost = ("id2", "y") if loser == pair[1] else ("id1", "x")
    assert three[0].knows(lost[1]) == (lost[0], [])


def test_all_three_at_once(three: list[Worker]) -> None:
    tunnels = [each.publish(f"id{each.siblings.number}", "a") for each in reversed(three)]
    settled(*three)
    assert [bool(each.aborted) for each in tunnels] == [True, True, False]
    assert [each.knows("a") for each in three] == [("id1", []), ("id1", [1]), ("id1", [1])]


def test_one_that_is_only_remembered_gives_way(make_worker: MakeWorker) -> None:
    """A tunnel that is up counts more than one that is gone, or drains, in a worker with a lower number."""
    one = make_worker(1)
    one.publish("id1", "a").drain()
    one.registry.withdraw(one.publish("id1", "b"), "id1")
    two = make_worker(2, knows=[])
    tunnel = two.publish("id2", "a", "b")
    introduce(one.siblings, two.siblings)
    settled(one, two)
    assert tunnel.aborted is None
    assert one.knows("a") == one.knows("b") == ("id2", [2])
    assert two.knows("a") == two.knows("b") == ("id2", [])
    for each in one.registry.tunnels():
        one.registry.withdraw(each, "id1")
    assert one.knows("a") == ("id2", [2])
    assert not one.registry._gone


def test_a_newcomer_does_not_take_what_others_have(make_worker: MakeWorker) -> None:
    """It did not know yet."""
    one = make_worker(1)
    tunnel = one.publish("id1", "a")
    two = make_worker(2, knows=[])
    late = two.publish("id2", "tls:a")
    introduce(one.siblings, two.siblings)
    settled(one, two)
    assert (tunnel.aborted, bool(late.aborted)) == (None, True)
    assert one.knows("a") == ("id1", [])
    assert two.knows("a") == ("id1", [1])
    assert one.knows("tls:a") is two.knows("tls:a") is None


def test_the_same_user_in_several_workers_is_no_race(three: list[Worker]) -> None:
    tunnels = [each.publish("id1", "a", "tls:a") for each in three]
    settled(*three)
    assert not any(each.aborted for each in tunnels)
    assert [each.knows("a") for each in three] == [("id1", [2, 3]), ("id1", [1, 3]), ("id1", [1, 2])]
