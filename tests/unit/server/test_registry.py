"""Who serves what: conflicts, what is away, and which tunnel a visitor gets."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gtapp.errors import RemoteRefused
from gtapp.server import registry as registry_module
from gtapp.server.registry import MAX_REMEMBERED, REMEMBER_S, Kind, Registry


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


def routes(registry: Registry, *names: str) -> list[Any]:
    """The tunnels of each endpoint, named as "kind:name", with the service's index; None where there is none."""
    found = [registry.find(*name.split(":", 1)) for name in names]  # type: ignore[arg-type]
    return [None if endpoint is None else endpoint.tunnels for endpoint in found]


def test_publish_and_withdraw(registry: Registry) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("http", "a", 0), ("http", "b", 1)])
    registry.publish(two, "id1", [("http", "b", 0)])
    host_a, host_b = registry.find("http", "a"), registry.find("http", "b")
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


def test_forget_frees_what_a_user_has_published(registry: Registry) -> None:
    gone, stays, other = tunnel(), tunnel(), tunnel()
    registry.publish(gone, "id1", [("http", "a", 0), ("tls", "a", 1), ("tcp", "2222", 2)])
    registry.publish(stays, "id1", [("http", "b", 0)])
    registry.publish(other, "id2", [("http", "c", 0)])
    registry.withdraw(gone, "id1")
    registry.withdraw(other, "id2")
    woken: list[bool] = []
    host = registry.find("http", "a")
    assert host is not None
    host.waiting[lambda: woken.append(True)] = None
    registry.forget("id1")
    assert woken == [True], "who waits for it is told"
    assert routes(registry, "http:a", "tls:a", "tcp:2222", "http:b", "http:c") == [None] * 3 + [
        {stays: 0},
        {},
    ]
    registry.publish(tunnel(), "id2", [("http", "a", 0), ("tcp", "2222", 1)])
    registry.forget("nobody")


def test_find_tells_away_from_unknown(registry: Registry, time: Time) -> None:
    one = tunnel()
    registry.publish(one, "id1", [("http", "a", 0)])
    time.now += 10 * REMEMBER_S
    assert registry.find("http", "a"), "published for long"
    registry.withdraw(one, "id1")
    time.now += REMEMBER_S
    host = registry.find("http", "a")
    assert host is not None
    assert host.choose() is None
    time.now += 1
    assert registry.find("http", "a") is None
    assert registry.find("http", "b") is None
    assert registry._endpoints == {}
    assert not registry._gone


def test_one_that_comes_back_is_no_longer_gone(registry: Registry, time: Time) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("http", "a", 0)])
    registry.withdraw(one, "id1")
    registry.publish(two, "id1", [("http", "a", 3)])
    assert not registry._gone
    registry.withdraw(two, "id1")
    time.now += REMEMBER_S - 1
    assert registry.find("http", "a")


def test_another_user_cannot_have_a_host_in_use(registry: Registry) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("http", "a", 0)])
    registry.publish(two, "id2", [("http", "b", 0)])
    with pytest.raises(RemoteRefused) as error:
        registry.publish(two, "id2", [("http", "c", 0), ("http", "a", 1)])
    assert error.value.code == "host_conflict"
    assert "id1" not in str(error.value), "whose it is, is nobody's business"
    assert registry.find("http", "c") is None
    host = registry.find("http", "b")
    assert host is not None
    assert host.tunnels == {two: 0}, "nothing has changed"


def test_a_new_tunnel_that_is_refused_leaves_nothing(registry: Registry) -> None:
    registry.publish(tunnel(), "id1", [("http", "a", 0)])
    with pytest.raises(RemoteRefused):
        registry.publish(tunnel(), "id2", [("http", "a", 0)])
    assert registry.tunnels_of("id2") == []
    assert registry.clients == 1


def test_another_user_may_take_a_host_when_it_is_forgotten(registry: Registry, time: Time) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("http", "a", 0)])
    registry.withdraw(one, "id1")
    with pytest.raises(RemoteRefused):
        registry.publish(two, "id2", [("http", "a", 0)])
    time.now += REMEMBER_S + 1
    registry.publish(two, "id2", [("http", "a", 0)])
    with pytest.raises(RemoteRefused):
        registry.publish(tunnel(), "id1", [("http", "a", 0)])


def test_new_services_replace_the_old_ones_of_that_tunnel(registry: Registry) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("http", "a", 0), ("http", "b", 1)])
    registry.publish(two, "id1", [("http", "a", 0), ("http", "b", 1)])
    registry.publish(one, "id1", [("http", "b", 0), ("http", "c", 1)])
    assert routes(registry, "http:a", "http:b", "http:c") == [{two: 0}, {two: 1, one: 0}, {one: 1}]
    assert registry.tunnels_of("id1") == [one, two]
    registry.publish(one, "id1", [])
    assert registry.tunnels_of("id1") == [one, two], "a tunnel without services is still there"


def test_what_new_services_leave_out_is_free_at_once(registry: Registry) -> None:
    """It was no accident: nobody is to wait for it, and other users may have it."""
    one, two = tunnel(), tunnel()
    called: list[int] = []
    registry.publish(one, "id1", [("http", "a", 0), ("http", "b", 1), ("tls", "a", 2), ("tcp", "2222", 3)])
    gone = registry.find("http", "a")
    assert gone is not None
    gone.waiting[lambda: called.append(1)] = None  # its tunnel was draining
    registry.publish(one, "id1", [("http", "b", 0)])
    assert called == [1]
    assert routes(registry, "http:a", "tls:a", "tcp:2222", "http:b") == [None, None, None, {one: 0}]
    assert not registry._gone
    registry.publish(two, "id2", [("tls", "a", 0), ("tcp", "2222", 1)])
    assert routes(registry, "http:a", "tls:a", "tcp:2222") == [None, {two: 0}, {two: 1}]


def test_what_another_tunnel_still_publishes_is_not_freed(registry: Registry) -> None:
    one, two = tunnel(), tunnel()
    registry.publish(one, "id1", [("http", "a", 0)])
    registry.publish(two, "id1", [("http", "a", 0)])
    registry.publish(one, "id1", [])
    assert routes(registry, "http:a") == [{two: 0}]
    with pytest.raises(RemoteRefused):
        registry.publish(tunnel(), "id2", [("http", "a", 0)])


def test_kinds_do_not_mix(registry: Registry) -> None:
    one = tunnel()
    wanted: list[tuple[Kind, str, int]] = [
        ("http", "a", 0),
        ("tls", "a", 1),
        ("tcp", "80", 2),
        ("http", "80", 3),
    ]
    registry.publish(one, "id1", wanted)
    assert routes(registry, "http:a", "tls:a", "tcp:80", "http:80") == [{one: n} for n in range(4)]
    assert routes(registry, "tcp:a", "tls:80") == [None, None]
    assert [(each.kind, each.name) for each in registry.published(one)] == [each[:2] for each in wanted]
    registry.withdraw(one, "id1")
    assert registry.published(one) == []


@pytest.mark.parametrize(("first", "second"), [("http", "tls"), ("tls", "http")])
def test_a_host_prefix_has_one_user_whatever_is_published_under_it(
    registry: Registry, first: Kind, second: Kind
) -> None:
    """Who could put a certificate-less page, or a login over TLS, beside another's service could pose as them."""
    one = tunnel()
    registry.publish(one, "id1", [(first, "a", 0)])
    with pytest.raises(RemoteRefused, match="another user's") as error:
        registry.publish(tunnel(), "id2", [(second, "a", 0)])
    assert error.value.code == "host_conflict"
    registry.withdraw(one, "id1")
    with pytest.raises(RemoteRefused):
        registry.publish(tunnel(), "id2", [(second, "a", 0)])
    registry.publish(one, "id1", [(second, "a", 0)])
    assert routes(registry, f"{first}:a", f"{second}:a") == [{}, {one: 0}]


def test_a_port_is_no_host_prefix(registry: Registry) -> None:
    registry.publish(tunnel(), "id1", [("tcp", "2222", 0)])
    registry.publish(tunnel(), "id2", [("http", "2222", 0), ("tls", "2222", 1)])
    with pytest.raises(RemoteRefused, match="port '2222'"):
        registry.publish(tunnel(), "id2", [("tcp", "2222", 0)])


def test_drop_of_one_that_has_been_replaced(registry: Registry) -> None:
    one = tunnel()
    registry.publish(one, "id1", [("http", "a", 0)])
    old = registry.find("http", "a")
    assert old is not None
    registry.withdraw(one, "id1")
    registry.drop(old)
    registry.publish(one, "id1", [("http", "a", 0)])
    registry.drop(old)
    assert routes(registry, "http:a") == [{one: 0}]


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
        registry.publish(each, "id1", [("http", "a", number)])
    host = registry.find("http", "a")
    assert (host.choose() if host else None) == (None if best is None else (tunnels[best], best))


def test_whoever_waits_is_called_once_in_order(registry: Registry) -> None:
    one = tunnel()
    registry.publish(one, "id1", [("http", "a", 0)])
    registry.withdraw(one, "id1")
    host = registry.find("http", "a")
    assert host is not None
    called: list[int] = []
    wakers: list[Callable[[], None]] = [lambda n=n: called.append(n) for n in range(3)]  # type: ignore[misc]
    for waker in wakers:
        host.waiting[waker] = None
    registry.publish(tunnel(), "id1", [("http", "a", 0)])
    registry.publish(tunnel(), "id1", [("http", "a", 0)])
    assert called == [0, 1, 2]


def test_what_is_remembered_has_a_bound(registry: Registry, time: Time) -> None:
    """The oldest is forgotten first, and whoever waits for it is told."""
    called: list[int] = []
    for number in range(MAX_REMEMBERED + 5):
        one = tunnel()
        registry.publish(one, "id1", [("http", f"h{number}", 0)])
        registry.withdraw(one, "id1")
        time.now += 0.001
        if number == 0:
            host = registry.find("http", "h0")
            assert host is not None
            host.waiting[lambda: called.append(1)] = None
    assert len(registry._gone) == len(registry._endpoints) == MAX_REMEMBERED
    assert registry.find("http", "h4") is None
    assert registry.find("http", "h5")
    assert called == [1]


def test_a_tunnel_with_more_hosts_than_are_remembered(registry: Registry) -> None:
    one = tunnel()
    many: list[tuple[Kind, str, int]] = [("http", f"h{number}", 0) for number in range(MAX_REMEMBERED + 5)]
    registry.publish(one, "id1", many)
    registry.publish(one, "id1", many)
    assert {name for _, name in registry._endpoints} == {name for _, name, _ in many}
    registry.withdraw(one, "id1")
    assert len(registry._gone) == len(registry._endpoints) == MAX_REMEMBERED
    registry.publish(one, "id1", many)
    assert len(registry._endpoints) == MAX_REMEMBERED + 5
    assert all(endpoint.tunnels == {one: 0} for endpoint in registry._endpoints.values())
