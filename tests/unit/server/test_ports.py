"""TCP ports of clients: which they get, which they share, and when one is closed."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gtapp.config.load import User
from gtapp.config.values import PortRange
from gtapp.errors import RemoteRefused
from gtapp.server import port_office
from gtapp.server.port_office import KEEP_S, PortOffice
from gtapp.server.ports import Ports
from gtapp.server.registry import Registry
from tests.support.ports import Port
from tests.support.relay import turn, until

ANY = (0, True)  # a service that takes any port


class Tunnel:
    """A tunnel is only told from another here."""

    draining = False


class Scene:
    """Five free ports, of which users may open the first four unless the test says so."""

    def __init__(self) -> None:
        self.free = [Port() for _ in range(5)]
        self.numbers = [port.number for port in self.free]
        self.registry = Registry()
        self.accepted: list[tuple[int, str]] = []
        self.office = PortOffice()
        self.ports = Ports("127.0.0.1", self.registry, self._accept, self.office.opener(1))

    def _accept(self, port: int, sock: Any, peer: str) -> None:
        self.accepted.append((port, peer))
        sock.close()

    def user(self, id: str = "id1", *numbers: int, tcp_number: int = 0) -> User:
        ranges = tuple(PortRange(number, number) for number in numbers or self.numbers[:4])
        return User(id=id, tcp_range=ranges, tcp_number=tcp_number)

    def get(self, user: User, *wanted: tuple[int, bool], tunnel: Any = None) -> list[int]:
        """What a tunnel gets for its services; it publishes them."""
        return list(self.take(user, dict(enumerate(wanted)), tunnel or Tunnel()).values())

    def take(self, user: User, wanted: dict[int, tuple[int, bool]], tunnel: Any) -> dict[int, int]:
        given = self.ports.assign(user, wanted, tunnel)
        self.registry.publish(tunnel, user.id, [("tcp", str(port), index) for index, port in given.items()])
        return given

    def refused(self, user: User, *wanted: tuple[int, bool], code: str = "port_unavailable") -> RemoteRefused:
        with pytest.raises(RemoteRefused) as refused:
            self.get(user, *wanted)
        assert refused.value.code == code
        return refused.value

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.ports.tick(1.0)
            self.office.tick(1.0)

    def listens(self, number: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", number)).close()
        except ConnectionRefusedError:
            return False
        return True

    def close(self) -> None:
        turn()
        self.ports.stop()
        self.office.close()
        for port in self.free:
            port.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


# which port


def test_a_port_that_is_asked_for(scene: Scene) -> None:
    number = scene.numbers[1]
    assert scene.get(scene.user(), (number, False)) == [number]
    with socket.create_connection(("127.0.0.1", number)) as visitor:
        until(lambda: scene.accepted)
        assert scene.accepted == [(number, f"127.0.0.1:{visitor.getsockname()[1]}")]


def test_any_port(scene: Scene) -> None:
    user = scene.user()
    got = scene.get(user, ANY, ANY, (0, False), ANY)
    assert sorted(got) == sorted(scene.numbers[:4])
    assert all(scene.listens(number) for number in got)
    assert "no port that id2 may open is free" in str(scene.refused(scene.user("id2"), ANY))


def test_the_ports_are_drawn_by_lot(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who counts up from the first could guess a port, and two users would always want the same."""
    monkeypatch.setattr(random, "sample", lambda places, count: [*reversed(places)][:count])
    assert scene.get(scene.user(), ANY) == [scene.numbers[3]]


@pytest.mark.parametrize("count", [1, 5, 2000])
def test_what_is_drawn_is_in_the_ranges(count: int) -> None:
    ranges = (PortRange(1000, 1000), PortRange(2000, 2000 + count - 1), PortRange(9000, 9001))
    drawn = port_office._draw(ranges)
    allowed = {1000, 9000, 9001, *range(2000, 2000 + count)}
    assert len(set(drawn)) == len(drawn) == min(len(allowed), port_office.TRIES)
    assert set(drawn) <= allowed
    if count < port_office.TRIES:
        assert set(drawn) == allowed


def test_a_port_that_will_do_but_need_not_be(scene: Scene) -> None:
    one, two, *_ = scene.numbers
    user = scene.user("id1", one, two)
    assert scene.get(user, (one, True)) == [one]
    assert scene.get(scene.user("id2", one, two), (one, True)) == [two]
    outside = scene.numbers[4]
    assert scene.get(scene.user("id3", scene.numbers[2]), (outside, True)) == [scene.numbers[2]]


def test_a_port_outside_the_ranges(scene: Scene) -> None:
    number = scene.numbers[4]
    refused = scene.refused(scene.user(), ANY, (number, False))
    assert refused.service == 1
    assert f"port {number} is not among those that id1 may open" in str(refused)
    assert not scene.listens(number)


def test_without_ranges_there_are_no_ports(scene: Scene) -> None:
    refused = scene.refused(User(id="id1"), (scene.numbers[0], True))
    assert refused.service == 0
    assert "tcpRange" in str(refused)


@pytest.mark.parametrize("other", [False, True])
def test_a_port_of_another_process(scene: Scene, other: bool) -> None:
    one, two, *_ = scene.numbers
    with scene.free[0].listen():
        user = scene.user("id1", one, two)
        if other:
            assert scene.get(user, (one, True)) == [two]
        else:
            assert "in use" in str(scene.refused(user, (one, False)))
    assert scene.get(scene.user("id1", one, two), (one, False)) == [one]


def test_what_is_refused_leaves_nothing_open(scene: Scene) -> None:
    one, two, *_ = scene.numbers
    scene.refused(scene.user(), (one, False), (two, False), (scene.numbers[4], False))
    assert not scene.listens(one)
    assert not scene.listens(two)
    assert scene.get(scene.user("id2"), (one, False)) == [one]


def test_new_services_that_are_refused_leave_the_old(scene: Scene) -> None:
    one, two, *_ = scene.numbers
    user, tunnel = scene.user(), Tunnel()
    scene.get(user, (one, False), tunnel=tunnel)
    with pytest.raises(RemoteRefused):
        scene.get(user, (two, False), (scene.numbers[4], False), tunnel=tunnel)
    scene.pass_time(1)
    assert scene.listens(one)
    assert not scene.listens(two)


# who else


def test_tunnels_of_a_client_share_their_ports(scene: Scene) -> None:
    user = scene.user()
    wanted = (scene.numbers[0], False), ANY, ANY
    first = scene.get(user, *wanted)
    assert len(set(first)) == 3
    assert scene.get(user, *wanted) == first
    endpoint = scene.registry.find("tcp", str(first[1]))
    assert endpoint is not None
    assert len(endpoint.tunnels) == 2


def test_the_order_of_other_services_does_not_matter(scene: Scene) -> None:
    user, fixed = scene.user(), (scene.numbers[0], False)
    one, any_one = scene.get(user, fixed, ANY)
    assert scene.get(user, ANY, fixed) == [any_one, one]


@pytest.mark.parametrize("away", [False, True])
def test_a_port_of_another_user(scene: Scene, away: bool) -> None:
    tunnel: Any = Tunnel()
    (number,) = scene.get(scene.user(), (scene.numbers[0], False), tunnel=tunnel)
    if away:
        scene.registry.withdraw(tunnel, "id1")
    refused = scene.refused(scene.user("id2"), (number, False))
    assert f"port {number} is open for another client" in str(refused)
    assert scene.listens(number)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("before", ["any", "this or any", "this"])
@pytest.mark.parametrize("other", [True, False])
def test_a_port_that_it_asks_for_in_another_way(scene: Scene, live: bool, before: str, other: bool) -> None:
    """Who was given a port at random, and asks for just that one from now on, must not be in its own way."""
    number = scene.numbers[0]
    user = scene.user("id1", number)
    tunnel: Any = Tunnel()
    asked = {"any": ANY, "this or any": (number, True), "this": (number, False)}[before]
    assert scene.get(user, asked, tunnel=tunnel) == [number]
    if not live:
        scene.registry.withdraw(tunnel, "id1")
        tunnel = Tunnel()
    assert scene.get(user, (number, other), tunnel=tunnel) == [number]
    scene.pass_time(2)
    assert scene.listens(number)


def test_a_port_asked_for_in_another_way_while_another_tunnel_has_it(scene: Scene) -> None:
    user = scene.user("id1", scene.numbers[0])
    (number,) = scene.get(user, ANY)
    scene.refused(user, (number, False))
    assert scene.get(user, ANY) == [number]


def test_a_refusal_after_asking_in_another_way(scene: Scene) -> None:
    number = scene.numbers[0]
    user, tunnel = scene.user(), Tunnel()
    scene.get(user, (number, True), tunnel=tunnel)
    with pytest.raises(RemoteRefused):
        scene.get(user, (number, False), (scene.numbers[4], False), tunnel=tunnel)
    scene.pass_time(1)
    assert scene.listens(number)
    assert scene.get(user, (number, True)) == [number]


# how many


def test_no_more_ports_than_allowed(scene: Scene) -> None:
    user = scene.user(tcp_number=2)
    refused = scene.refused(user, ANY, ANY, ANY, code="too_many_ports")
    assert refused.service is None
    assert "may open 2 TCP ports, not 3" in str(refused)
    assert not any(scene.listens(number) for number in scene.numbers)
    assert len(scene.get(user, ANY, ANY)) == 2
    assert len(scene.get(user, ANY, ANY)) == 2, "they are the same ports"


def test_the_ports_of_all_tunnels_count(scene: Scene) -> None:
    one, two, three, _, _ = scene.numbers
    user, tunnel = scene.user(tcp_number=2), Tunnel()
    scene.get(user, (one, False), tunnel=tunnel)
    scene.get(user, (two, False))
    scene.refused(user, (three, False), code="too_many_ports")
    assert scene.get(user, (three, False), tunnel=tunnel) == [three], "in place of the one it had"


def test_others_do_not_count(scene: Scene) -> None:
    for id in ("id1", "id2", "id3"):
        assert len(scene.get(scene.user(id, tcp_number=1), ANY)) == 1


def test_one_who_comes_back_again_and_again_holds_no_more_than_allowed(scene: Scene) -> None:
    """What is kept for a client that has gone counts, or each reconnection could add a port for a minute."""
    user = scene.user(tcp_number=2)
    for number in scene.numbers[:4]:
        tunnel: Any = Tunnel()
        scene.get(user, (number, False), tunnel=tunnel)
        scene.registry.withdraw(tunnel, "id1")
        scene.pass_time(1)
    assert [scene.listens(number) for number in scene.numbers[:4]] == [False, False, True, True]


# for how long


def test_a_port_is_kept_for_a_client_that_comes_back(scene: Scene) -> None:
    tunnel: Any = Tunnel()
    (number,) = scene.get(scene.user(), ANY, tunnel=tunnel)
    scene.pass_time(2 * KEEP_S)
    assert scene.listens(number), "it is used"
    scene.registry.withdraw(tunnel, "id1")
    scene.pass_time(KEEP_S)
    assert scene.listens(number)
    assert scene.get(scene.user(), ANY) == [number]
    scene.pass_time(2)
    assert scene.listens(number), "the minute begins anew"


def test_a_port_is_closed_when_its_client_stays_away(scene: Scene) -> None:
    tunnel: Any = Tunnel()
    (number,) = scene.get(scene.user(), ANY, tunnel=tunnel)
    endpoint = scene.registry.find("tcp", str(number))
    assert endpoint is not None
    woken: list[int] = []
    scene.registry.withdraw(tunnel, "id1")
    endpoint.waiting[lambda: woken.append(1)] = None
    scene.pass_time(KEEP_S + 1)
    assert not scene.listens(number)
    assert scene.registry.find("tcp", str(number)) is None, "another user may have it"
    assert woken == [1]
    assert scene.get(scene.user("id2"), (number, False)) == [number]


def test_a_client_gets_the_port_it_had_before(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnel: Any = Tunnel()
    had = scene.get(scene.user(), ANY, ANY, tunnel=tunnel)
    scene.registry.withdraw(tunnel, "id1")
    scene.pass_time(KEEP_S + 1)
    others = [number for number in scene.numbers[:4] if number not in had]
    monkeypatch.setattr(port_office, "_draw", lambda ranges: others)
    assert scene.get(scene.user(), ANY, ANY) == had


def test_a_port_that_it_had_before_and_may_have_no_more(scene: Scene) -> None:
    tunnel: Any = Tunnel()
    (had,) = scene.get(scene.user(), ANY, tunnel=tunnel)
    scene.registry.withdraw(tunnel, "id1")
    scene.pass_time(KEEP_S + 1)
    last = scene.numbers[4]
    assert scene.get(scene.user("id1", last), ANY) == [last]
    assert not scene.listens(had)


def test_a_port_that_is_held_and_no_longer_allowed(scene: Scene) -> None:
    """The ranges may change while tunnels run."""
    one, two, *_ = scene.numbers
    tunnel: Any = Tunnel()
    assert scene.get(scene.user("id1", one), ANY, tunnel=tunnel) == [one]
    assert scene.get(scene.user("id1", two), ANY, tunnel=tunnel) == [two]
    scene.pass_time(1)
    assert not scene.listens(one)
    assert scene.registry.find("tcp", str(one)) is None


def test_what_is_remembered_has_a_bound(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_office, "MAX_REMEMBERED", 2)
    for number in scene.numbers[:4]:
        scene.get(scene.user(f"id{number}"), (number, False))
    assert list(scene.office._had.values()) == scene.numbers[2:4]


def test_new_services_free_a_port_at_the_next_tick(scene: Scene) -> None:
    one, two, *_ = scene.numbers
    user, tunnel = scene.user(), Tunnel()
    scene.get(user, (one, False), (two, False), tunnel=tunnel)
    scene.get(user, (two, False), tunnel=tunnel)
    scene.pass_time(1)
    assert not scene.listens(one)
    assert scene.listens(two)
    assert scene.get(scene.user("id2"), (one, False)) == [one]


def test_ports_that_are_never_published_are_closed(scene: Scene) -> None:
    """Where a host prefix is refused after the ports have been given."""
    (number,) = scene.ports.assign(scene.user(), {3: ANY}, None).values()
    assert scene.listens(number)
    scene.pass_time(1)
    assert not scene.listens(number)
    scene.pass_time(1)
    assert scene.ports._ports == {}


def test_no_services_need_no_ports(scene: Scene) -> None:
    assert scene.get(User(id="id1")) == []
    scene.pass_time(1)
    assert scene.ports._ports == {}


def test_stop_closes_all(scene: Scene) -> None:
    numbers = scene.get(scene.user(), ANY, ANY)
    scene.ports.stop()
    assert scene.ports.over
    assert not any(scene.listens(number) for number in numbers)


def test_a_refusal_tells_the_service(scene: Scene) -> None:
    refused = scene.refused(scene.user(), ANY, (scene.numbers[4], False))
    assert isinstance(refused, RemoteRefused)
    assert (refused.code, refused.service) == ("port_unavailable", 1)
