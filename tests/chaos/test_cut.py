"""The network between client and server breaks, stalls, lies; ends die and come back."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.http import Ended, Response, Visitor, fetch
from tests.support.nginx import Nginx
from tests.support.ports import Address
from tests.support.processes import Child, eventually
from tests.support.services import Service, answering, endless
from tests.support.world import World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
SEEN_WITHIN_S = 1.0
BACK_WITHIN_S = 5.0


def answered(address: Address, host: str, within: float, text: str = "") -> float:
    """Asks until there is a 200, each time anew when the connection breaks or a page of ours says why not; how long
    that took. AssertionError when it takes longer."""
    start = time.monotonic()

    def attempt() -> bool:
        left = max(start + within - time.monotonic(), 0.1)
        try:
            response = fetch(address, host, timeout=left)
        except (Ended, TimeoutError):
            return False
        return response.status == 200 and response.whole and text in response.text

    eventually(attempt, f"{host} answers", within)
    return time.monotonic() - start


class Reading:
    """A visitor that reads a response in a thread of its own, and notes when and how it ended."""

    def __init__(self, visitor: Visitor, host: str) -> None:
        visitor.request(host)
        self.visitor = visitor
        self.response: Response = visitor.head()
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        self.visitor.body(self.response, keep=False)
        self.ended_at = time.monotonic()

    def end(self, timeout: float) -> Response:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the visitor still waits after {timeout:g} s"
        return self.response


@BOTH
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("rounds", "flags"), [(20, ("--reconnectDelay", "1s")), (4, ())], ids=["20", "default"]
)
def test_tunnel_cut_in_the_middle_of_a_response(
    world: World, protocol: str, rounds: int, flags: tuple[str, ...]
) -> None:
    """Time and again: the visitor sees it within 1 s, never as a clean end, the next request works within 5 s of the
    network being back, and nothing is leaked. Tunnels that live so short make the client wait up to reconnectDelay."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    proxy = world.proxy(server.address)
    local = {framing: world.service(endless(framing)).url for framing in ("length", "chunked", "close")}
    local["page"] = world.service(answering(b"page")).url
    client = world.client(proxy, "id1", secret, *flags, local=local, protocol=protocol)
    ends = (server.process, client.process)
    before: list[dict[str, int]] = []
    for number in range(-2, rounds):  # two rounds to warm up: what is made once and kept is no leak
        if number == 0:
            answered(server.address, "page.example.com", BACK_WITHIN_S)
            before = [end.settle(streams=0) for end in ends]
        framing = ("length", "chunked", "close")[number % 3]
        away = number % 2 == 1  # every other time the network stays away for a moment
        readers = [Reading(world.visitor(server.address), f"{framing}.example.com") for _ in range(2)]
        carried = proxy.carried
        eventually(lambda carried=carried: proxy.carried > carried + 200_000, "some of the body")
        cut_at = time.monotonic()
        if away:
            proxy.refuse()
        proxy.cut()
        for reader in readers:
            response = reader.end(10)
            assert not response.whole, f"round {number}: {framing} ended like a whole response"
            assert reader.ended_at - cut_at < SEEN_WITHIN_S
            reader.visitor.close()
        if away:
            attempts = client.process.mark()
            client.process.wait_for(r"(?i)refused|no tunnel|cannot", after=attempts)
            proxy.heal()
        answered(server.address, "page.example.com", BACK_WITHIN_S, "page")
    for end, first in zip(ends, before, strict=True):
        end.settle(
            streams=0,
            spare_fds=first["spare_fds"],
            greenlets=first["greenlets"],
            pumps=first["pumps"],
            tunnels=3,
        )


@BOTH
def test_cut_during_an_upload(world: World, nginx: Nginx, protocol: str) -> None:
    site = world.publish(nginx.url, protocol, cuttable=True)
    for _ in range(3):
        visitor = world.visitor(site.address)
        visitor.request(
            site.host, f"/upload/cut-{protocol}.bin", method="PUT", headers={"Content-Length": "1000000000"}
        )
        carried = site.proxy.carried
        piece = b"x" * 65536
        while site.proxy.carried < carried + 1_000_000:
            visitor.send(piece)
        start = time.monotonic()
        site.proxy.cut()
        try:
            while True:
                visitor.send(piece)
        except ConnectionError:
            pass
        assert time.monotonic() - start < SEEN_WITHIN_S
        visitor.close()
        answered(site.address, site.host, BACK_WITHIN_S)
    assert not (nginx.www / f"upload/cut-{protocol}.bin").exists()


@BOTH
def test_client_killed_and_a_new_one_takes_over(world: World, protocol: str) -> None:
    """kill -9; the visitors in the middle of something see it, and the new client serves as soon as it is up."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    url = world.service(endless("close")).url
    page = world.service(answering(b"page")).url
    local = {"endless": url, "page": page}
    client = world.client(server, "id1", secret, local=local, protocol=protocol)
    for number in range(3):
        reader = Reading(world.visitor(server.address), "endless.example.com")
        killed_at = time.monotonic()
        client.process.kill()
        assert reader.end(10).end == "reset"
        assert reader.ended_at - killed_at < SEEN_WITHIN_S
        client = world.client(
            server, "id1", secret, local=local, protocol=protocol, name=f"client {number + 2}"
        )
        for _ in range(20):
            assert fetch(server.address, "page.example.com").text == "page"


# A server cannot ask a tunnel of protocol 1 whether it lives: it takes silence of `timeout` for its end, so clients
# must ask more often than that. On protocol 3 it asks at once.
SERVER_FLAGS = {"3": (), "1": ("--timeout", "6s")}
CLIENT_FLAGS = {"3": (), "1": ("--remoteTimeout", "4s")}


def lost(address: Address, host: str, text: str, count: int) -> int:
    """How many of so many requests, one after the other, are not answered soon. Each answer must have this text."""
    late = 0
    for _ in range(count):
        try:
            assert text in fetch(address, host, timeout=3).text
        except TimeoutError:
            late += 1
    return late


@BOTH
def test_new_client_takes_over_from_a_half_dead_one(world: World, protocol: str) -> None:
    """The old client vanished without a FIN (pulled plug). A new one comes by another way: visitors go to it."""
    secret = world.secret()
    server = world.server(*SERVER_FLAGS[protocol], users={"id1": secret})
    proxy = world.proxy(server.address)
    flags = ("--remoteIdleConnections", "3", *CLIENT_FLAGS[protocol])
    old = world.client(
        proxy,
        "id1",
        secret,
        *flags,
        local=world.service(answering(b"old")).url,
        protocol=protocol,
        name="old client",
    )
    old.process.wait_for(r"is up", count=3)
    assert fetch(server.address, "id1.example.com").text == "old"
    mark = server.process.mark()
    proxy.freeze()
    old.process.kill()
    new = world.service(answering(b"new"))
    world.client(server, "id1", secret, *flags, local=new.url, protocol=protocol, name="new client")
    if protocol == "1":
        server.process.wait_for(r"is down", after=mark, count=3)
    late = lost(server.address, "id1.example.com", "new", 30)
    proxy.cut()
    assert late <= 1, f"{late} of 30 requests went to tunnels that are dead"


@BOTH
def test_same_client_comes_back_beside_its_half_dead_tunnels(world: World, protocol: str) -> None:
    """Its address changed, say: what it opens anew is used, its old tunnels are not counted on. On protocol 3 they
    don't count against its limit either."""
    secret = world.secret()
    user = {"secret": secret, "connections": 3 if protocol == "3" else 10}
    server = world.server(*SERVER_FLAGS[protocol], config={"type": "server", "users": {"id1": user}})
    proxy = world.proxy(server.address)
    flags = ("--remoteTimeout", "4s", "--reconnectDelay", "500ms", "--remoteIdleConnections", "3")
    service = world.service(answering(b"page"))
    client = world.client(proxy, "id1", secret, *flags, local=service.url, protocol=protocol)
    client.process.wait_for(r"is up", count=3)
    assert fetch(server.address, "id1.example.com").text == "page"
    marks = client.process.mark(), server.process.mark()
    proxy.freeze()
    client.process.wait_for(r"is up", after=marks[0], timeout=40)
    if protocol == "1":
        server.process.wait_for(r"is down", after=marks[1], count=3)
    late = lost(server.address, "id1.example.com", "page", 20)
    proxy.cut()
    assert late <= 1, f"{late} of 20 requests went to tunnels that are dead"


@BOTH
def test_tunnel_that_stalls_is_not_chosen(world: World, nginx: Nginx, protocol: str) -> None:
    """One tunnel of two stands still, with the other one all is well: after a moment nobody waits."""
    secret = world.secret()
    server = world.server(*SERVER_FLAGS[protocol], users={"id1": secret})
    proxy = world.proxy(server.address)
    flags = CLIENT_FLAGS[protocol]
    world.client(proxy, "id1", secret, *flags, local=nginx.url, protocol=protocol, name="stalling client")
    world.client(server, "id1", secret, *flags, local=nginx.url, protocol=protocol, name="other client")
    proxy.freeze()
    visitors = [world.visitor(server.address) for _ in range(8)]
    for visitor in visitors:
        visitor.request("id1.example.com")
    server.process.wait_for(r"does not answer|is down")
    for _ in range(20):
        assert fetch(server.address, "id1.example.com", timeout=5).status == 200
    proxy.cut()


@pytest.mark.parametrize("away_s", [8, pytest.param(60, marks=pytest.mark.long)])
@BOTH
def test_server_away_for_a_while(world: World, nginx: Nginx, protocol: str, away_s: int) -> None:
    """The client goes on trying, quietly, and serves soon after the server is back."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url, protocol=protocol)
    server.process.kill()
    cpu, mark = client.process.cpu_s, client.process.mark()
    threading.Event().wait(away_s)
    assert client.process.running
    assert client.process.cpu_s - cpu < 0.1 * away_s
    assert client.process.mark() - mark < 10 + away_s
    mark = client.process.mark()
    again = world.server(users={"id1": secret}, port=server.port)
    started = time.monotonic()
    client.process.wait_for(r"is up", after=mark)
    assert (
        time.monotonic() - started < BACK_WITHIN_S + 2
    )  # reconnectDelay is 5 s, and an opening takes a moment
    assert fetch(again.address, "id1.example.com").status == 200


def test_server_killed_while_many_are_connected(world: World, nginx: Nginx) -> None:
    """Five clients come back to the server that replaces it, each with all it publishes."""
    users = {f"id{number}": world.secret() for number in range(5)}
    server = world.server(users=users)
    clients = [
        world.client(server, name, secret, local=nginx.url, name=f"client {name}")
        for name, secret in users.items()
    ]
    server.process.kill()
    marks = [client.process.mark() for client in clients]
    again = world.server(users=users, port=server.port)
    for client, mark in zip(clients, marks, strict=True):
        client.process.wait_for(r"is up", after=mark)
    for name in users:
        assert fetch(again.address, f"{name}.example.com").status == 200


@BOTH
def test_many_visitors_of_a_silent_service_leave_others_alone(
    world: World, nginx: Nginx, protocol: str
) -> None:
    """Accepting and silent: 300 visitors wait, pages of another service on the same tunnel come at once."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    service = world.service(lambda connection: connection.wait_end())
    local = {"silent": service.url, "page": nginx.url}
    client = world.client(server, "id1", secret, "--remoteConnections", "1", local=local, protocol=protocol)
    waiting = [world.visitor(server.address) for _ in range(300)]
    for visitor in waiting:
        visitor.request("silent.example.com")
    service.wait_connections(300)
    took = []
    for _ in range(20):
        start = time.monotonic()
        assert fetch(server.address, "page.example.com").status == 200
        took.append(time.monotonic() - start)
    assert sorted(took)[len(took) // 2] < 0.5
    for visitor in waiting:
        visitor.close()
    for process in (server.process, client.process):
        process.settle(streams=0)


@BOTH
def test_service_that_goes_away_and_comes_back(world: World, protocol: str) -> None:
    port = world.port()
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=f"http://{port}", protocol=protocol)
    processes: list[Child] = [server.process, client.process]
    for _ in range(5):
        assert fetch(server.address, "id1.example.com").status == 502
        service = Service(answering(b"here"), port)
        assert fetch(server.address, "id1.example.com").text == "here"
        service.stop_listening()
        for connection in service.connections:
            connection.gone.wait(10)
    assert all(process.running for process in processes)
    service.close()
