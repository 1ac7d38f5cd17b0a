"""Tunnels that come in at several workers of one server: how many a user may have, dead ones, lockout, ports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gevent
import pytest

from gtapp.config.load import User
from gtapp.server import headcount
from gtapp.server.port_office import PortOffice
from gtapp.server.siblings import Siblings
from gtapp.wire import compat
from gtapp.wire.handshake import ServiceSpec
from tests.support.ports import Port
from tests.support.relay import FarEnd, turn, until
from tests.unit.server.scene import introduce
from tests.unit.server.test_admission import (
    OPTIONS,
    OWN,
    Door,
    _quick,
    live,
    message,
    ports,
    refused,
    refused_compat,
    with_ports,
)

__all__ = ["_quick", "ports"]

TWO = User(id="id2", secret="secret2", connections=2)
MakeDoor = Callable[..., Door]


@pytest.fixture
def new_door() -> Iterator[MakeDoor]:
    """new_door(user, …, options): the next worker, which knows those before."""
    made: list[Door] = []
    office = PortOffice()

    def make(*users: User, **options: Any) -> Door:
        siblings = Siblings(len(made) + 1)
        door = Door(replace(OPTIONS, **options), *users or (TWO,), siblings=siblings, office=office)
        for each in made:
            introduce(each.siblings, siblings)
        made.append(door)
        turn(5)
        return door

    yield make
    for door in made:
        door.close()


@pytest.fixture
def doors(new_door: MakeDoor) -> list[Door]:
    return [new_door() for _ in range(3)]


def come(door: Door) -> FarEnd:
    """A tunnel of id2, whose client answers PINGs as long as there is one."""
    client = door.log_in("id2", "secret2")
    assert message(client)["type"] == "ready"
    gevent.spawn(answer_pings, client)
    turn(5)
    return client


def answer_pings(client: FarEnd) -> None:
    with contextlib.suppress(OSError, EOFError):
        live(client)


def count(*doors: Door) -> list[int]:
    return [len(door.tunnels()) for door in doors]


# how many


def test_tunnels_count_in_all_workers(doors: list[Door]) -> None:
    one, two, three = doors
    for door in (one, two):
        come(door)
    refused(three.log_in("id2", "secret2"), "too_many_connections")
    refused(one.log_in("id2", "secret2"), "too_many_connections")
    refused_compat(two.compat("id2", "secret2"), compat.TOO_MANY_CONNECTIONS)
    assert count(*doors) == [1, 1, 0]
    one.clients[0].close()
    until(lambda: not one.tunnels())
    turn(5)
    come(three)
    assert count(*doors) == [0, 1, 1]


def test_a_newcomer_knows_how_many_there_are(doors: list[Door], new_door: MakeDoor) -> None:
    come(doors[0])
    come(doors[1])
    refused(new_door().log_in("id2", "secret2"), "too_many_connections")


def test_those_of_workers_that_are_replaced_do_not_count(doors: list[Door], new_door: MakeDoor) -> None:
    """They are about to go. New ones come in while the old ones are still up."""
    old = doors[:2]
    for door in old:
        come(door)
        door.siblings.retire()
    turn(5)
    new = [doors[2], new_door()]
    for door in new:
        come(door)
    assert count(*old, *new) == [1, 1, 1, 1]
    refused(new[0].log_in("id2", "secret2"), "too_many_connections")
    assert count(*old, *new) == [1, 1, 1, 1]


def test_those_of_a_worker_that_has_died_do_not_count(doors: list[Door]) -> None:
    come(doors[0])
    come(doors[0])
    doors[0].siblings.stop()
    turn(5)
    come(doors[1])
    come(doors[2])


def test_others_do_not_count(new_door: MakeDoor) -> None:
    users = TWO, User(id="id1", secret="secret1", connections=1)
    one, two = new_door(*users), new_door(*users)
    come(one)
    assert message(two.log_in("id1", "secret1", prefixes=(None,)))["type"] == "ready"
    come(two)


@pytest.mark.parametrize("limit", [2, 5])
def test_openings_in_parallel_do_not_exceed_the_limit(new_door: MakeDoor, limit: int) -> None:
    user = replace(TWO, connections=limit)
    doors = [new_door(user) for _ in range(3)]
    logins = [gevent.spawn(door.log_in, "id2", "secret2") for door in doors * 4]
    answers = [message(login.get(timeout=10)) for login in logins]
    assert {answer["type"] for answer in answers} <= {"ready", "error"}
    turn(10)
    assert 1 <= sum(count(*doors)) <= limit
    assert all(door.admission._headcount._count("id2") == sum(count(*doors)) for door in doors)


def test_the_last_one_in_two_workers_in_the_same_moment(doors: list[Door]) -> None:
    """The higher number gives way; who has come in before stays."""
    one, two, three = doors
    come(two)
    held: list[Any] = []
    real = [door.siblings.tell for door in (one, two)]
    for door in (one, two):
        door.siblings.tell = lambda *told, tell=door.siblings.tell: held.append((tell, told))  # type: ignore[method-assign]
    for door in (two, one):
        assert message(door.log_in("id2", "secret2"))["type"] == "ready"
    assert count(*doors) == [1, 2, 0]
    stays = two.tunnels()[0]
    for door, tell in zip((one, two), real, strict=True):
        door.siblings.tell = tell  # type: ignore[method-assign]
    for tell, told in held:
        tell(*told)
    until(lambda: count(*doors) == [1, 1, 0])
    turn(5)
    assert two.tunnels() == [stays]
    assert three.admission._headcount._count("id2") == 2


def test_a_lower_limit_ends_no_tunnels(doors: list[Door]) -> None:
    """Only those that came in in the same moment are one too many."""
    one, two, _ = doors
    come(two)
    until(lambda: two.tunnels()[0].age > headcount.RACE_S, "it is old enough")
    two.users.replace({"id2": replace(TWO, connections=1)}, OPTIONS)
    come(one)
    turn(5)
    assert count(one, two) == [1, 1]


# dead tunnels


def test_dead_tunnels_of_another_worker_make_room(doors: list[Door]) -> None:
    one, two, three = doors
    for door in (one, two):
        assert message(door.log_in("id2", "secret2"))["type"] == "ready"
    turn(5)
    dead = one.tunnels() + two.tunnels()
    come(three)
    until(lambda: all(tunnel.closed for tunnel in dead))
    assert count(*doors) == [0, 0, 1]


def test_only_the_dead_ones_make_room(doors: list[Door]) -> None:
    one, two, three = doors
    come(one)
    assert message(two.log_in("id2", "secret2"))["type"] == "ready"
    turn(5)
    come(three)
    assert count(*doors) == [1, 0, 1]


def test_tunnels_of_other_workers_are_doubted_when_there_is_room(doors: list[Door]) -> None:
    """New visitors do not go there until it has answered."""
    one, two, _ = doors
    silent = one.log_in("id2", "secret2")
    assert message(silent)["type"] == "ready"
    until(lambda: one.tunnels())
    (tunnel,) = one.tunnels()
    silent.answer_ping()
    until(lambda: tunnel.rtt)
    come(two)
    until(lambda: tunnel.suspect)
    silent.answer_ping()
    until(lambda: not tunnel.suspect)


def test_several_that_want_room_at_once_ask_once(doors: list[Door], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headcount, "PROBE_S", 0.3)
    one, two, three = doors
    come(one)
    come(one)
    tries = [gevent.spawn(door.log_in, "id2", "secret2") for door in (two, three, two, three)]
    for each in tries:
        refused(each.get(timeout=10), "too_many_connections")
    assert not one.admission._headcount._burying
    assert count(*doors) == [2, 0, 0]


# the rest


def test_failed_logins_lock_out_everywhere(doors: list[Door]) -> None:
    for door in doors:
        refused(door.log_in("id2", "wrong"), "invalid_credentials")
        turn(5)
    for door in doors:
        refused(door.log_in("id2", "secret2"), "locked_out")
    assert OWN.secret is not None
    assert message(doors[0].log_in(OWN.id, OWN.secret, prefixes=(None,)))["type"] == "ready"


def test_guests_of_all_workers(new_door: MakeDoor) -> None:
    one, two = new_door(allow_any_client=True), new_door(allow_any_client=True)
    assert message(one.log_in("new", "apple", enroll=True))["type"] == "ready"
    turn(5)
    refused(two.log_in("new", "pear", enroll=True), "invalid_credentials")
    refused_compat(two.compat("new", "pear"), compat.INVALID_CREDENTIALS)
    assert message(two.log_in("new", "apple", enroll=True))["type"] == "ready"


def test_a_guest_that_came_in_the_same_moment(new_door: MakeDoor) -> None:
    """The tunnels of the worker with the higher number are closed, and the id stays the other's."""
    one, two = new_door(allow_any_client=True), new_door(allow_any_client=True)
    assert message(two.compat("new", "pear")) == compat.Ready()
    (tunnel,) = two.tunnels()
    told = {"id": "new", "verifier": str(one.users._keys.decoy("x"))}
    one.siblings.tell("guest", told)
    until(lambda: tunnel.closed)
    assert two.users.get("new") is None
    assert two.clients[-1].rest() == []


def test_ports_in_two_workers(new_door: MakeDoor, ports: list[Port]) -> None:
    user = with_ports(ports, tcp_number=1)
    one, two = new_door(user), new_door(user)
    services = [ServiceSpec("tcp", random=True)]
    first = message(one.log_in(services=services))["services"]
    assert message(two.log_in(services=services))["services"] == first
    number = first[0]["port"]
    other = next(port.number for port in ports if port.number != number)
    refused(two.log_in(services=[ServiceSpec("tcp", None, other)]), "too_many_ports")
    assert one.routes(f"tcp:{number}") == two.routes(f"tcp:{number}") == [[0]]


def test_a_tunnel_that_ends_while_its_ports_are_opened(
    new_door: MakeDoor, ports: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the new services of a running one nor those of a new one are published then."""
    door = new_door(with_ports(ports))
    assign = door.ports.assign
    gate = gevent.event.Event()
    asked: list[int] = []

    def slow(*args: Any) -> dict[int, int]:
        asked.append(1)
        gate.wait()
        return assign(*args)

    running = door.log_in()
    message(running)
    monkeypatch.setattr(door.ports, "assign", slow)
    services = [ServiceSpec("tcp", random=True)]
    running.send(
        running.frames.control({"type": "services", "services": [each.to_dict() for each in services]})
    )
    new = door.log_in(services=services)
    until(lambda: len(asked) == 2)
    running.close()
    new.close()
    until(lambda: not door.tunnels())
    gate.set()
    until(lambda: not door.admission._openings and not door.admission._changes)
    turn(5)
    assert door.tunnels() == []
    assert door.users._logins == {}
    door.ports.tick(1.0)
    assert [port.holders for port in door.office._ports.values()] == [set()]


def test_the_room_is_gone_while_its_ports_are_opened(
    new_door: MakeDoor, ports: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = new_door(with_ports(ports, connections=1))
    gate = gevent.event.Event()
    assign = door.ports.assign
    asked: list[int] = []

    def slow(*args: Any) -> dict[int, int]:
        asked.append(1)
        gate.wait()
        return assign(*args)

    monkeypatch.setattr(door.ports, "assign", slow)
    clients = [door.log_in(services=[ServiceSpec("tcp", random=True)]) for _ in range(2)]
    until(lambda: len(asked) == 2)
    gate.set()
    answers = [message(client) for client in clients]
    assert sorted(answer["type"] for answer in answers) == ["error", "ready"]
    assert len(door.tunnels()) == 1


def test_a_user_that_is_removed_while_its_ports_are_opened(
    new_door: MakeDoor, ports: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = new_door(with_ports(ports))
    assign = door.ports.assign

    def slow(*args: Any) -> dict[int, int]:
        door.users.replace({}, OPTIONS)
        return assign(*args)

    monkeypatch.setattr(door.ports, "assign", slow)
    refused(door.log_in(services=[ServiceSpec("tcp", random=True)]), "invalid_credentials")
    assert door.tunnels() == []
