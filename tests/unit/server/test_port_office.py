"""The TCP ports of clients in several workers: who holds them, what outlives a worker, and the way to the master."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gtapp.config.load import User
from gtapp.config.values import PortRange
from gtapp.errors import RemoteRefused
from gtapp.relay.channel import Channel, Message, pair
from gtapp.server import port_office
from gtapp.server.port_office import AT_ONCE, KEEP_S, Opener, PortClerk, PortOffice, Request, answer
from gtapp.server.ports import Ports
from gtapp.server.registry import Registry
from gtapp.server.siblings import Siblings
from tests.support.ports import Port
from tests.support.relay import turn, until
from tests.unit.server.scene import introduce

ANY = (0, True)  # a service that takes any port


class Tunnel:
    """A tunnel is only told from another here."""

    draining = False

    def __init__(self, worker: Worker, user_id: str) -> None:
        self._worker = worker
        self._user_id = user_id

    def end(self) -> None:
        self._worker.registry.withdraw(self, self._user_id)  # type: ignore[arg-type]


class Worker:
    def __init__(self, number: int, opener: Opener) -> None:
        self.siblings = Siblings(number)
        self.registry = Registry(self.siblings)
        self.accepted: list[int] = []
        self.ports = Ports("127.0.0.1", self.registry, self._accept, opener, self.siblings)
        self.siblings.start()

    def _accept(self, port: int, sock: Any, peer: str) -> None:
        self.accepted.append(port)
        sock.close()

    @property
    def listens(self) -> list[int]:
        """The ports where this worker accepts."""
        return sorted(self.ports._ports)


class Server:
    """A master with an office, and workers that reach it through real channels; five free ports."""

    def __init__(self) -> None:
        self.free = [Port() for _ in range(5)]
        self.numbers = sorted(port.number for port in self.free)
        self.office = PortOffice()
        self.channels: dict[int, Channel] = {}
        self.workers: dict[int, Worker] = {}
        self.asked: list[Message] = []
        self.answering = True

    def worker(self, number: int) -> Worker:
        ours, theirs = (Channel(sock) for sock in pair())
        self.channels[number] = ours
        ours.on_message = lambda message: self._asked(number, message)
        ours.on_closed = lambda: self.office.gone(number)
        made = Worker(number, PortClerk(theirs))
        made.master = theirs  # type: ignore[attr-defined]
        for each in self.workers.values():
            introduce(each.siblings, made.siblings)
        self.workers[number] = made
        ours.start()
        theirs.start()
        turn()
        return made

    def _asked(self, number: int, message: Message) -> None:
        self.asked.append(message)
        if self.answering:
            answer(self.office, number, message, self.channels[number])

    def end(self, worker: Worker) -> None:
        """It dies."""
        for number in worker.listens:
            worker.ports._close(worker.ports._ports[number])
        worker.siblings.stop()
        worker.master.close()  # type: ignore[attr-defined]
        del self.workers[worker.siblings.number]
        turn(5)

    def user(self, id: str = "id1", *numbers: int, tcp_number: int = 0) -> User:
        ranges = tuple(PortRange(number, number) for number in numbers or self.numbers[:4])
        return User(id=id, tcp_range=ranges, tcp_number=tcp_number)

    def get(
        self, worker: Worker, user: User, *wanted: tuple[int, bool], tunnel: Any = None
    ) -> tuple[list[int], Any]:
        """The ports that a tunnel gets, and publishes; and that tunnel."""
        given = worker.ports.assign(user, dict(enumerate(wanted)), tunnel)
        tunnel = tunnel or Tunnel(worker, user.id)
        worker.registry.publish(tunnel, user.id, [("tcp", str(port), index) for index, port in given.items()])
        turn(5)
        return list(given.values()), tunnel

    def refused(
        self, worker: Worker, user: User, *wanted: tuple[int, bool], code: str = "port_unavailable"
    ) -> str:
        with pytest.raises(RemoteRefused) as refused:
            self.get(worker, user, *wanted)
        assert refused.value.code == code
        return str(refused.value)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            for each in self.workers.values():
                each.ports.tick(1.0)
            turn(5)
            self.office.tick(1.0)

    def is_open(self, number: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", number)).close()
        except ConnectionRefusedError:
            return False
        turn(5)
        return True

    def close(self) -> None:
        for each in list(self.workers.values()):
            each.ports.stop()
            self.end(each)
        self.office.close()
        for channel in self.channels.values():
            channel.close()
        for port in self.free:
            port.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def two(server: Server) -> tuple[Worker, Worker]:
    return server.worker(1), server.worker(2)


# several workers


def test_tunnels_in_two_workers_share_a_port(server: Server, two: tuple[Worker, Worker]) -> None:
    user, wanted = server.user(), [(server.numbers[0], False), ANY, ANY]
    first, _ = server.get(two[0], user, *wanted)
    second, _ = server.get(two[1], user, *wanted)
    assert first == second
    assert len(set(first)) == 3
    for worker in two:
        assert worker.listens == sorted(first)
    for _ in range(20):
        assert server.is_open(first[1])
    until(lambda: len(two[0].accepted) + len(two[1].accepted) == 20)


def test_a_worker_that_takes_over_gets_the_same_socket(server: Server) -> None:
    """Nobody is refused meanwhile, and who has come stays in the backlog."""
    old = server.worker(1)
    (number,), _ = server.get(old, server.user(), ANY)
    server.end(old)
    with socket.create_connection(("127.0.0.1", number)):
        new = server.worker(2)
        assert server.get(new, server.user(), ANY)[0] == [number]
        until(lambda: new.accepted == [number])


def test_a_port_outlives_its_last_worker_for_a_while(server: Server) -> None:
    old = server.worker(1)
    (number,), _ = server.get(old, server.user(), ANY)
    server.end(old)
    server.pass_time(KEEP_S)
    assert server.is_open(number)
    assert f"port {number} is open for another client" in server.refused(
        server.worker(2), server.user("id2"), (number, False)
    )
    server.pass_time(1)
    assert not server.is_open(number)
    assert server.get(server.workers[2], server.user("id2"), (number, False))[0] == [number]


def test_a_client_gets_the_port_it_had_from_another_worker(server: Server) -> None:
    old = server.worker(1)
    (number,), _ = server.get(old, server.user(), ANY)
    server.end(old)
    server.pass_time(KEEP_S + 1)
    for _ in range(5):
        new = server.worker(2)
        assert server.get(new, server.user(), ANY)[0] == [number]
        server.end(new)
        server.pass_time(KEEP_S + 1)


def test_a_port_of_another_client_in_another_worker(server: Server, two: tuple[Worker, Worker]) -> None:
    (number,), tunnel = server.get(two[0], server.user(), (server.numbers[0], False))
    assert f"port {number} is open for another client" in server.refused(
        two[1], server.user("id2"), (number, False)
    )
    tunnel.end()
    server.pass_time(1)
    assert "is open for another client" in server.refused(two[1], server.user("id2"), (number, False))
    assert server.is_open(number)


def test_the_number_of_ports_counts_in_all_workers(server: Server, two: tuple[Worker, Worker]) -> None:
    one, other, third, *_ = server.numbers
    user = server.user(tcp_number=2)
    server.get(two[0], user, (one, False))
    server.get(two[1], user, (one, False), (other, False))
    server.refused(two[0], user, (third, False), code="too_many_ports")
    server.refused(two[1], user, (one, False), ANY, code="too_many_ports")
    server.pass_time(1)
    assert [server.is_open(number) for number in (one, other, third)] == [True, True, False]


def test_what_is_kept_for_a_client_makes_room_in_all_workers(
    server: Server, two: tuple[Worker, Worker]
) -> None:
    one, other, *_ = server.numbers
    user = server.user(tcp_number=1)
    _, tunnel = server.get(two[0], user, (one, False))
    tunnel.end()
    server.pass_time(1)
    assert server.is_open(one)
    server.get(two[1], user, (other, False))
    assert not server.is_open(one)
    assert two[0].listens == []
    assert server.get(two[0], server.user("id2"), (one, False))[0] == [one]


def test_a_port_that_is_given_up_live_is_free_at_once(server: Server, two: tuple[Worker, Worker]) -> None:
    """One worker has a tunnel, the other keeps the port for a client that was there before."""
    one, other, *_ = server.numbers
    user = server.user()
    _, here = server.get(two[0], user, (one, False), (other, False))
    _, there = server.get(two[1], user, (one, False), (other, False))
    there.end()
    server.get(two[0], user, (other, False), tunnel=here)
    server.pass_time(1)
    assert [server.is_open(number) for number in (one, other)] == [False, True]
    assert server.get(two[1], server.user("id2"), (one, False))[0] == [one]


def test_a_port_that_one_of_two_tunnels_gives_up(server: Server, two: tuple[Worker, Worker]) -> None:
    one, other, *_ = server.numbers
    user = server.user()
    _, here = server.get(two[0], user, (one, False), (other, False))
    _, there = server.get(two[1], user, (one, False), (other, False))
    server.get(two[0], user, (other, False), tunnel=here)
    server.pass_time(2)
    assert server.is_open(one), "the other publishes it"
    assert two[0].listens == [other]
    server.get(two[1], user, (other, False), tunnel=there)
    server.pass_time(1)
    assert [server.is_open(number) for number in (one, other)] == [False, True]


def test_only_who_has_tunnels_accepts(server: Server, two: tuple[Worker, Worker]) -> None:
    (number,), here = server.get(two[0], server.user(), ANY)
    server.get(two[1], server.user(), ANY)
    here.end()
    turn(5)
    server.pass_time(1)
    assert two[0].listens == []
    for _ in range(5):
        assert server.is_open(number)
    until(lambda: len(two[1].accepted) == 5)


def test_a_client_away_from_all_workers_is_given_up_by_all(
    server: Server, two: tuple[Worker, Worker]
) -> None:
    (number,), here = server.get(two[0], server.user(), ANY)
    _, there = server.get(two[1], server.user(), ANY)
    here.end()
    there.end()
    turn(5)
    server.pass_time(KEEP_S)
    assert server.is_open(number)
    server.pass_time(2)
    assert not server.is_open(number)
    assert two[0].registry.find("tcp", str(number)) is two[1].registry.find("tcp", str(number)) is None


@pytest.mark.parametrize("live", [False, True])
def test_a_port_asked_for_in_another_way_in_another_worker(
    server: Server, two: tuple[Worker, Worker], live: bool
) -> None:
    """Only when no tunnel anywhere needs it as it was."""
    user = server.user("id1", server.numbers[0])
    (number,), tunnel = server.get(two[0], user, ANY)
    if live:
        server.refused(two[1], user, (number, False))
        assert server.get(two[1], user, ANY)[0] == [number]
        return
    tunnel.end()
    server.pass_time(1)
    assert server.get(two[1], user, (number, False))[0] == [number]
    server.refused(two[0], user, ANY)
    assert server.get(two[0], user, (number, False))[0] == [number]


def test_a_worker_that_is_replaced_leaves_its_ports(server: Server, two: tuple[Worker, Worker]) -> None:
    old, new = two
    (number,), tunnel = server.get(old, server.user(), ANY)
    old.ports.retire()
    server.pass_time(1)
    assert old.listens == [number], "its client has not come over yet"
    server.get(new, server.user(), ANY)
    tunnel.draining = True
    until(lambda: old.listens == [], "it does not wait for a tick")
    old.ports.stop()
    server.end(old)
    server.pass_time(2 * KEEP_S)
    assert server.is_open(number)


def test_a_worker_that_is_replaced_before_its_client_has_come_over(
    server: Server, two: tuple[Worker, Worker]
) -> None:
    old, new = two
    (number,), tunnel = server.get(old, server.user(), ANY)
    old.ports.retire()
    tunnel.draining = True
    server.pass_time(1)
    tunnel.end()
    old.ports.stop()
    server.end(old)
    assert server.is_open(number), "visitors wait in the backlog"
    assert server.get(new, server.user(), ANY)[0] == [number]
    until(lambda: new.accepted == [number])


def test_stop_closes_the_ports_at_once(server: Server, two: tuple[Worker, Worker]) -> None:
    (number,), _ = server.get(two[0], server.user(), ANY)
    server.get(two[1], server.user(), ANY)
    two[0].ports.stop()
    turn(5)
    assert server.is_open(number)
    two[1].ports.stop()
    turn(5)
    assert not server.is_open(number)


# asking takes time


def test_more_sockets_than_one_message_has_room_for(server: Server, two: tuple[Worker, Worker]) -> None:
    free = [Port() for _ in range(AT_ONCE + 5)]
    numbers = [port.number for port in free]
    wanted = [(number, False) for number in numbers]
    assert server.get(two[0], server.user("id1", *numbers), *wanted)[0] == numbers
    assert server.get(two[1], server.user("id1", *numbers), *wanted)[0] == numbers
    assert two[0].listens == two[1].listens == sorted(numbers)
    for port in free:
        port.close()


def test_parallel_openings_get_the_same(server: Server, two: tuple[Worker, Worker]) -> None:
    """And none of them makes the office forget what another has just got."""
    user = server.user()
    asking = [gevent.spawn(server.get, worker, user, ANY, (0, False)) for worker in two * 5]
    gevent.joinall(asking, timeout=10, raise_error=True)
    assert len({tuple(each.get()[0]) for each in asking}) == 1
    server.pass_time(2)
    assert two[0].listens == two[1].listens == sorted(asking[0].get()[0])
    assert {port.number for port in server.office._ports.values() if port.holders == {1, 2}} == {
        *two[0].listens
    }


def test_time_passes_between_asking_and_publishing(
    server: Server, two: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = two[0]
    lease = worker.ports._lease

    def slow(*args: Any) -> None:
        lease(*args)
        for _ in range(3):
            worker.ports.tick(1.0)

    monkeypatch.setattr(worker.ports, "_lease", slow)
    (number,), _ = server.get(worker, server.user(), ANY)
    assert worker.listens == [number]
    assert server.is_open(number)


def test_an_opening_that_ends_while_the_office_is_asked(server: Server, two: tuple[Worker, Worker]) -> None:
    """What the office has given meanwhile is given back."""
    server.answering = False
    asking = gevent.spawn(server.get, two[0], server.user(), ANY)
    until(lambda: server.asked)
    asking.kill()
    server.answering = True
    answer(server.office, 1, server.asked[0], server.channels[1])
    until(lambda: two[0].listens)
    (number,) = two[0].listens
    server.pass_time(1)
    assert two[0].listens == []
    assert not server.is_open(number)


def test_an_office_that_does_not_answer(
    server: Server, two: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has given all the same is given back with the next request."""
    monkeypatch.setattr(port_office, "ANSWER_S", 0.05)
    server.answering = False
    text = server.refused(two[0], server.user(), ANY)
    assert "the server cannot open ports at the moment" in text
    assert "try again later" in text
    server.answering = True
    answer(server.office, 1, server.asked[0], server.channels[1])
    turn(5)
    (lost,) = server.office._ports
    monkeypatch.undo()
    other = next(number for number in server.numbers if number != lost)
    assert server.get(two[0], server.user(), (other, False))[0] == [other]
    assert server.office._ports[lost].holders == set()


def test_the_master_is_gone(server: Server, two: tuple[Worker, Worker]) -> None:
    server.channels[1].close()
    turn(5)
    assert "cannot open ports" in server.refused(two[0], server.user(), ANY)
    assert two[0].listens == []


@pytest.mark.parametrize("code", ["port_unavailable", "too_many_ports"])
def test_refusals_come_as_they_are(server: Server, two: tuple[Worker, Worker], code: str) -> None:
    user = server.user(tcp_number=1 if code == "too_many_ports" else 0)
    with pytest.raises(RemoteRefused) as refused:
        two[0].ports.assign(user, {3: (server.numbers[0], False), 7: (server.numbers[4], False)}, None)
    assert refused.value.code == code
    assert refused.value.service == (7 if code == "port_unavailable" else None)
    assert server.office._ports == {}
    assert server.office._users == {}
    assert server.office._slots == {}


def test_a_server_that_ends_while_it_opens_a_port(server: Server, two: tuple[Worker, Worker]) -> None:
    server.answering = False
    asking = gevent.spawn(server.refused, two[0], server.user(), ANY)
    until(lambda: server.asked)
    two[0].ports.stop()
    server.answering = True
    answer(server.office, 1, server.asked[0], server.channels[1])
    assert "the server ends" in asking.get(timeout=10)
    assert two[0].listens == []


# the office


def request(user_id: str = "id1", *slots: Any, host: str = "127.0.0.1", **more: Any) -> Request:
    wanted = {index: (*slot, 0) for index, slot in enumerate(slots)}
    return Request(user_id, host, more.pop("ranges", [PortRange(1, 65535)]), 0, wanted, **more)


def test_an_office_that_has_closed_opens_nothing() -> None:
    office = PortOffice()
    office.close()
    with pytest.raises(RemoteRefused, match="the server ends"):
        office.lease(1, request("id1", (0, True)))


def test_another_address_to_listen_on() -> None:
    """It counts for a port that nobody uses; in use it stays where it is."""
    office = PortOffice()
    with Port("127.0.0.2") as port:
        wanted = (port.number, False)
        office.lease(1, request("id1", wanted, host="127.0.0.2"))
        office.lease(2, request("id1", wanted, host="127.0.0.1"))
        assert office._ports[port.number].sock.getsockname()[0] == "127.0.0.2"
        office.gone(1)
        office.gone(2)
        lease = office.lease(2, request("id1", wanted, host="127.0.0.1"))
        assert lease == ({0: port.number}, [port.number])
        assert office._ports[port.number].sock.getsockname()[0] == "127.0.0.1"
        office.close()


def test_ports_that_the_user_may_have_no_more() -> None:
    """Another worker's tunnel goes on with it; the service gets another one."""
    office = PortOffice()
    with Port() as one, Port() as two:
        first = [PortRange(one.number, one.number)]
        now = [PortRange(two.number, two.number)]
        assert office.lease(1, request("id1", (0, True), ranges=first)).numbers == {0: one.number}
        assert office.lease(2, request("id1", (0, True), ranges=now)).numbers == {0: two.number}
        assert set(office._ports) == {one.number, two.number}
        office.release(1, one.number, keep=False)
        assert set(office._ports) == {two.number}
        assert office.lease(1, request("id1", (0, True), ranges=now)).numbers == {0: two.number}
        office.close()


def test_a_refusal_undoes_all() -> None:
    office = PortOffice()
    with Port() as one, Port() as two, Port() as three:
        every = [PortRange(port.number, port.number) for port in (one, two)]
        only = [PortRange(one.number, one.number)]
        office.lease(1, request("id1", (0, True), ranges=only))
        before = dict(office._slots), dict(office._ports)
        wanted = (one.number, False), (two.number, False), (three.number, False)
        with pytest.raises(RemoteRefused):
            office.lease(1, request("id1", *wanted, ranges=every, uses=[one.number], frees=[one.number]))
        assert (office._slots, office._ports) == before
        assert office._ports[one.number].slot == (0, True, 0)
        assert office.lease(2, request("id1", (0, True), ranges=every)).numbers == {0: one.number}
        office.close()


def test_the_next_master_goes_on(server: Server, two: tuple[Worker, Worker]) -> None:
    """Sockets, who holds them, and what services had before; those in between are not lost."""
    user = server.user()
    (one, other), tunnel = server.get(two[0], user, ANY, (server.numbers[0], True))
    server.get(two[1], user, ANY, (server.numbers[0], True))
    (kept,), gone = server.get(two[0], server.user("id2"), ANY)
    gone.end()
    server.pass_time(1)
    before = server.office
    state = json.loads(json.dumps(before.state()))
    for each in state[1:]:
        os.set_inheritable(each["fd"], True)
    after = server.office = PortOffice.restored(state)
    assert {number: port.holders for number, port in after._ports.items()} == {
        one: {1, 2},
        other: {1, 2},
        kept: set(),
    }
    assert not any(port.sock.get_inheritable() for port in after._ports.values())
    server.pass_time(KEEP_S - 2)
    assert server.is_open(kept)
    server.pass_time(3)
    assert not server.is_open(kept)
    tunnel.end()
    assert server.get(two[0], user, ANY, (server.numbers[0], True))[0] == [one, other]
    assert server.get(two[0], server.user("id2"), ANY)[0] == [kept]
    server.end(two[0])
    server.end(two[1])
    server.pass_time(KEEP_S + 1)
    assert not any((after._ports, after._slots, after._users))


def test_a_made_up_release_does_no_harm(server: Server, two: tuple[Worker, Worker]) -> None:
    (number,), _ = server.get(two[0], server.user(), ANY)
    for each in (number, 1):
        two[1].ports._opener.release(each, keep=False)
    turn(5)
    assert server.is_open(number)
