"""Who serves what: conflicts, what is away, and which tunnel a visitor gets."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gtapp.errors import RemoteRefused
from gtapp.server import registry as registry_module
from gtapp.server.registry import MAX_REMEMBERED, REMEMBER_S, Registry


class Time:
    now = 5000.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(registry_module, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def registry(time: Time) -> Registry:
    return Registry()


def tunnel(streams: int = 0, queued: int = 0, suspect: bool = False, draining: bool = False) -> Any:
    """As much of a tunnel as the registry looks at; a real one needs a connection."""

    class Tunnel(SimpleNamespace):
        __hash__ = object.__hash__  # type: ignore[assignment]
        __eq__ = object.__eq__

    return Tunnel(
        streams=range(streams),
        link=SimpleNamespace(queued=queued),
        suspect=suspect,
        draining=draining,
        closed=False,
    )


def test_publish_and_withdraw(registry: Registry) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("a", 0), ("b", 1)])
    registry.publish(two, "id1", [("b", 0)])
    host_a, host_b = registry.find("a"), registry.find("b")
    assert host_a is not None
    assert host_b is not None
    assert host_a.tunnels == {one: 0}
    assert host_b.tunnels == {one: 1, two: 0}
    assert registry.tunnels_of("id1") == registry.tunnels() == [one, two]
    assert registry.clients == 1
    registry.withdraw(one, "id1")
    assert host_a.choose() is None
    assert host_b.choose() == (two, 0)
    registry.withdraw(one, "id1")
    registry.withdraw(two, "id1")
    assert registry.tunnels() == []
    assert registry.clients == 0


def test_find_tells_away_from_unknown(registry: Registry, time: Time) -> None:
    one = tunnel()
    registry.publish(one, "id1", [("a", 0)])
    time.now += 10 * REMEMBER_S
    assert registry.find("a"), "published for long"
    registry.withdraw(one, "id1")
    time.now += REMEMBER_S
    host = registry.find("a")
    assert host is not None
    assert host.choose() is None
    time.now += 1
    assert registry.find("a") is None
    assert registry.find("b") is None
    assert registry._hosts == {}
    assert not registry._gone


def test_one_that_comes_back_is_no_longer_gone(registry: Registry, time: Time) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("a", 0)])
    registry.withdraw(one, "id1")
    registry.publish(two, "id1", [("a", 3)])
    assert not registry._gone
    registry.withdraw(two, "id1")
    time.now += REMEMBER_S - 1
    assert registry.find("a")


def test_another_user_cannot_have_a_host_in_use(registry: Registry) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("a", 0)])
    registry.publish(two, "id2", [("b", 0)])
    with pytest.raises(RemoteRefused) as error:
        registry.publish(two, "id2", [("c", 0), ("a", 1)])
    assert error.value.code == "host_conflict"
    assert "id1" not in str(error.value), "whose it is, is nobody's business"
    assert registry.find("c") is None
    host = registry.find("b")
    assert host is not None
    assert host.tunnels == {two: 0}, "nothing has changed"


def test_a_new_tunnel_that_is_refused_leaves_nothing(registry: Registry) -> None:
    registry.publish(tunnel(), "id1", [("a", 0)])
    with pytest.raises(RemoteRefused):
        registry.publish(tunnel(), "id2", [("a", 0)])
    assert registry.tunnels_of("id2") == []
    assert registry.clients == 1


def test_another_user_may_take_a_host_when_it_is_forgotten(registry: Registry, time: Time) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("a", 0)])
    registry.withdraw(one, "id1")
    with pytest.raises(RemoteRefused):
        registry.publish(two, "id2", [("a", 0)])
    time.now += REMEMBER_S + 1
    registry.publish(two, "id2", [("a", 0)])
    with pytest.raises(RemoteRefused):
        registry.publish(tunnel(), "id1", [("a", 0)])


def test_new_services_replace_the_old_ones_of_that_tunnel(registry: Registry) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("a", 0), ("b", 1)])
    registry.publish(two, "id1", [("a", 0), ("b", 1)])
    registry.publish(one, "id1", [("b", 0), ("c", 1)])
    hosts = {name: registry.find(name) for name in "abc"}
    assert {name: host.tunnels for name, host in hosts.items() if host} == {
        "a": {two: 0}, "b": {two: 1, one: 0}, "c": {one: 1},
    }  # fmt: skip
    assert registry.tunnels_of("id1") == [one, two]
    registry.publish(one, "id1", [])
    assert registry.tunnels_of("id1") == [one, two], "a tunnel without services is still there"


@pytest.mark.parametrize(
    ("tunnels", "best"),
    [
        ([], None),
        ([tunnel()], 0),
        ([tunnel(3), tunnel(2), tunnel(2)], 1),
        ([tunnel(2, queued=10), tunnel(2, queued=9)], 1),
        ([tunnel(0, suspect=True), tunnel(50, queued=9)], 1),
        ([tunnel(9, suspect=True), tunnel(5, suspect=True)], 1),
        ([tunnel(draining=True), tunnel(9, suspect=True)], 1),
        ([tunnel(draining=True)], None),
    ],
)
def test_choose(registry: Registry, tunnels: list[Any], best: int | None) -> None:
    for number, each in enumerate(tunnels):
        registry.publish(each, "id1", [("a", number)])
    host = registry.find("a")
    assert (host.choose() if host else None) == (None if best is None else (tunnels[best], best))


def test_whoever_waits_is_called_once_in_order(registry: Registry) -> None:
    one = tunnel()
    registry.publish(one, "id1", [("a", 0)])
    registry.withdraw(one, "id1")
    host = registry.find("a")
    assert host is not None
    called: list[int] = []
    wakers: list[Callable[[], None]] = [lambda n=n: called.append(n) for n in range(3)]  # type: ignore[misc]
    for waker in wakers:
        host.waiting[waker] = None
    registry.publish(tunnel(), "id1", [("a", 0)])
    registry.publish(tunnel(), "id1", [("a", 0)])
    assert called == [0, 1, 2]


def test_what_is_remembered_has_a_bound(registry: Registry, time: Time) -> None:
    """The oldest is forgotten first, and whoever waits for it is told."""
    called: list[int] = []
    for number in range(MAX_REMEMBERED + 5):
        one = tunnel()
        registry.publish(one, "id1", [(f"h{number}", 0)])
        registry.withdraw(one, "id1")
        time.now += 0.001
        if number == 0:
            host = registry.find("h0")
            assert host is not None
            host.waiting[lambda: called.append(1)] = None
    assert len(registry._gone) == len(registry._hosts) == MAX_REMEMBERED
    assert registry.find("h4") is None
    assert registry.find("h5")
    assert called == [1]


def test_a_tunnel_with_more_hosts_than_are_remembered(registry: Registry) -> None:
    one = tunnel()
    registry.publish(one, "id1", [(f"h{number}", 0) for number in range(MAX_REMEMBERED + 5)])
    registry.withdraw(one, "id1")
    assert len(registry._gone) == len(registry._hosts) == MAX_REMEMBERED
    registry.publish(one, "id1", [(f"h{number}", 0) for number in range(MAX_REMEMBERED + 5)])
    registry.publish(one, "id1", [("x", 0)])
    assert len(registry._hosts) == MAX_REMEMBERED + 1
