"""Protocol 1 against ends written by hand: an old GT client with our server, an old GT server with our client."""

from __future__ import annotations

import socket
import threading

import psutil
import pytest

from tests.support.gt1 import (
    CLOSE,
    DATA,
    ENDED,
    ERROR,
    FIRST,
    PING,
    READY,
    RECONNECT,
    SERVICES,
    Frame,
    OldClient,
    OldServer,
    Wire,
    credentials,
    data,
    ended,
    first,
    opening,
    publish,
    signal,
)
from tests.support.http import Visitor, fetch
from tests.support.nginx import Nginx
from tests.support.ports import Port
from tests.support.services import Connection, Service, answering, silent
from tests.support.world import World

REQUEST = b"GET / HTTP/1.1\r\nHost: id1.example.com\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


# An old client and our server


def test_old_client_serves_a_visitor(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    tunnel = world.keep(OldClient(server.address, "id1", secret)).ready()
    server.process.wait_for(r"tunnel of id1 from 127\.0\.0\.1:\d+ is up")
    visitor = world.visitor(server.address)
    visitor.send(REQUEST)
    task = tunnel.skip_pings()
    assert (task.number, task.service, task.payload) == (FIRST, 0, REQUEST)
    assert task.task is not None
    tunnel.send(data(task.task, ANSWER[:10]), data(task.task, ANSWER[10:]))
    assert visitor.response().body == b"ok"
    visitor.send(b"more")
    assert tunnel.skip_pings() == Frame(DATA, task.task, payload=b"more")
    tunnel.send(ended(task.task))
    assert visitor.ending(10) == "closed"


def test_old_client_is_told_when_the_visitor_goes(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    tunnel = world.keep(OldClient(server.address, "id1", secret)).ready()
    for leave in (Visitor.close, Visitor.reset):
        visitor = world.visitor(server.address)
        visitor.send(REQUEST)
        task = tunnel.skip_pings()
        leave(visitor)
        assert tunnel.skip_pings() == Frame(ENDED, task.task)
        assert task.task is not None
        tunnel.send(
            data(task.task, b"late"), ended(task.task)
        )  # for a task that is gone: skipped, not an error
    server.process.settle(streams=0)


def test_old_client_with_several_services(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    tunnel = world.keep(OldClient(server.address, "id1", secret, publish("blog", "shop", ""))).ready()
    for index, host in enumerate(("blog", "shop", "id1")):
        visitor = world.visitor(server.address)
        visitor.request(f"{host}.example.com")
        assert tunnel.skip_pings().service == index


def test_old_client_opening_in_single_bytes(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    whole = opening("id1", secret, publish("blog", "shop"))
    with Wire(socket.create_connection(server.address), from_server=True) as tunnel:
        for byte in whole:
            tunnel.send(bytes([byte]))
        assert tunnel.frame() == Frame(READY)


def test_old_clients_ping_is_answered(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    tunnel = world.keep(OldClient(server.address, "id1", secret)).ready()
    for _ in range(3):
        tunnel.send(signal(PING))
        assert tunnel.frame() == Frame(PING)


def test_old_client_closes(world: World) -> None:
    """One CLOSE: nothing new on this tunnel, what runs is finished."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    first_tunnel = world.keep(OldClient(server.address, "id1", secret)).ready()
    visitor = world.visitor(server.address)
    visitor.send(REQUEST)
    task = first_tunnel.skip_pings()
    assert task.task is not None
    first_tunnel.send(signal(CLOSE))
    second = world.keep(OldClient(server.address, "id1", secret)).ready()
    for _ in range(5):
        later = world.visitor(server.address)
        later.send(REQUEST)
        assert second.skip_pings().number == FIRST
    first_tunnel.send(data(task.task, ANSWER))
    assert visitor.response().body == b"ok"


def test_old_client_changes_its_services(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    tunnel = world.keep(OldClient(server.address, "id1", secret, publish("blog"))).ready()
    tunnel.send(signal(SERVICES, credentials("id1", secret) + publish("blog", "shop")))
    assert tunnel.skip_pings() == Frame(SERVICES)
    visitor = world.visitor(server.address)
    visitor.request("shop.example.com")
    assert tunnel.skip_pings().service == 1


@pytest.mark.parametrize(
    ("options", "code"), [(publish(*(f"s{number}" for number in range(6))), 8), (b"\x00\x00", None)]
)
def test_old_client_is_refused(world: World, options: bytes, code: int | None) -> None:
    """Too many options; and a byte after the last option, which is no signal and no task."""
    secret = world.secret()
    server = world.server("--maxHandShakeOptions", "10", users={"id1": secret})
    with OldClient(server.address, "id1", secret, options) as tunnel:
        if code:
            assert tunnel.frame() == Frame(ERROR, payload=bytes([0, code]))
        else:
            tunnel.ready()
            tunnel.send(b"\x00\x00\x07\x00\x09")
        tunnel.until_end()


def test_old_client_host_conflict(world: World) -> None:
    users = {name: world.secret() for name in ("one", "two")}
    server = world.server(users=users)
    world.keep(OldClient(server.address, "one", users["one"], publish("blog"))).ready()
    with OldClient(server.address, "two", users["two"], publish("blog")) as second:
        assert second.frame() == Frame(ERROR, payload=b"\x00\x05")


def test_old_client_of_a_server_that_goes(world: World) -> None:
    """SIGTERM: an old client is told too, with RECONNECT or CLOSE, and then the tunnel ends."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    tunnel = world.keep(OldClient(server.address, "id1", secret)).ready()
    server.process.signal(15)
    assert {CLOSE, RECONNECT} & {frame.number for frame in tunnel.until_end()}
    assert server.process.wait() == 0


def test_protocol_1_can_be_turned_off(world: World) -> None:
    secret = world.secret()
    server = world.server("--protocols", "3", users={"id1": secret})
    with OldClient(server.address, "id1", secret) as tunnel:
        assert tunnel.until_end() == []


def test_slow_visitor_of_an_old_client_does_not_fill_memory(world: World) -> None:
    """There is no window: the tunnel itself is not read further, so the old client is held back."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    tunnel = world.keep(OldClient(server.address, "id1", secret)).ready()
    visitor = world.visitor(server.address, receive_buffer=4096)
    visitor.send(REQUEST)
    task = tunnel.skip_pings()
    assert task.task is not None
    tunnel.socket.settimeout(2)
    with pytest.raises(TimeoutError):
        tunnel.send(data(task.task, b"x" * 65536) * (512 * 16))
    assert server.process.rss < 150 * 1024 * 1024
    visitor.reset()


# Our client and an old server


@pytest.fixture
def old_server(world: World) -> OldServer:
    server: OldServer = world.keep(OldServer())
    return server


def test_pinned_client_sends_the_exact_opening(world: World, old_server: OldServer, nginx: Nginx) -> None:
    secret = world.secret()
    local = {"blog": nginx.url, "shop": nginx.url}
    client = world.client(old_server.address, "id1", secret, local=local, protocol="1")
    assert old_server.openings[0] == opening("id1", secret, publish("blog", "shop"))
    assert old_server.others == []
    assert client.process.find(r"tunnel 1 to .* is up")


def test_client_with_one_service_publishes_its_id(world: World, old_server: OldServer, nginx: Nginx) -> None:
    secret = world.secret()
    world.client(old_server.address, "id1", secret, local=nginx.url, protocol="1")
    old_server.tunnel()
    assert old_server.openings[0] in (opening("id1", secret, b"\x00"), opening("id1", secret, publish("id1")))


def test_client_serves_tasks_of_an_old_server(world: World, old_server: OldServer) -> None:
    secret = world.secret()
    local = {name: world.service(answering(name.encode())).url for name in ("blog", "shop")}
    world.client(old_server.address, "id1", secret, local=local, protocol="1")
    tunnel = old_server.tunnel()
    for task, (index, name) in enumerate([(0, b"blog"), (1, b"shop"), (0, b"blog")], 1):
        tunnel.send(first(task, index, REQUEST[:20]), data(task, REQUEST[20:]))
        got = b""
        while not got.endswith(name):
            frame = tunnel.skip_pings()
            assert (frame.number, frame.task) == (DATA, task)
            got += frame.payload
        tunnel.send(ended(task))
    tunnel.send(data(77, b"for nobody"), ended(77), first(9, 0, REQUEST))
    assert tunnel.skip_pings().task == 9


def test_client_ends_a_task_when_its_service_does(world: World, old_server: OldServer) -> None:
    secret = world.secret()
    service = world.service(lambda connection: connection.send(b"bye"))
    world.client(old_server.address, "id1", secret, local=service.url, protocol="1")
    tunnel = old_server.tunnel()
    tunnel.send(first(5, 0, REQUEST))
    assert tunnel.skip_pings() == Frame(DATA, 5, payload=b"bye")
    assert tunnel.skip_pings() == Frame(ENDED, 5)


def test_client_of_an_old_server_whose_visitor_goes(world: World, old_server: OldServer) -> None:
    secret = world.secret()
    service = world.service(silent)
    world.client(old_server.address, "id1", secret, local=service.url, protocol="1")
    tunnel = old_server.tunnel()
    tunnel.send(first(5, 0, REQUEST))
    connection = service.wait_connections(1)[0]
    tunnel.send(ended(5))
    assert connection.gone.wait(20)


def test_client_pings_a_silent_old_server_and_gives_up(
    world: World, old_server: OldServer, nginx: Nginx
) -> None:
    secret = world.secret()
    client = world.client(
        old_server.address, "id1", secret, "--remoteTimeout", "2s", local=nginx.url, protocol="1"
    )
    tunnel = old_server.tunnel()
    assert tunnel.frame() == Frame(PING)  # and no answer
    old_server.tunnel(1)  # a new one instead
    assert client.process.running


def test_client_comes_back_when_an_old_server_says_reconnect(
    world: World, old_server: OldServer, nginx: Nginx
) -> None:
    secret = world.secret()
    world.client(old_server.address, "id1", secret, "--remoteConnections", "1", local=nginx.url, protocol="1")
    tunnel = old_server.tunnel()
    tunnel.send(first(1, 0, REQUEST[:-2]))  # one that runs
    tunnel.send(signal(RECONNECT))
    second = old_server.tunnel(1)
    tunnel.send(data(1, b"\r\n"))  # and is still served by the old tunnel
    assert tunnel.skip_pings().task == 1
    second.send(first(1, 0, REQUEST))
    assert second.skip_pings().task == 1


@pytest.mark.parametrize(("code", "words"), [(1, "credentials|secret|invalid"), (3, "many"), (8, "services")])
def test_client_says_what_an_old_server_refused(world: World, nginx: Nginx, code: int, words: str) -> None:
    old = world.keep(OldServer(ready=signal(ERROR, bytes([0, code]))), until_last=True)
    world.allow(r".")
    client = world.client(old.address, "id1", world.secret(), local=nginx.url, protocol="1", ready=False)
    client.process.wait_for(f"(?i){words}")
    assert client.process.running
    assert not client.process.find(r"is up")


# Stepping down


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"],
    ids=["close", "http"],
)
def test_client_steps_down_to_protocol_1(world: World, nginx: Nginx, answer: bytes) -> None:
    old = world.keep(OldServer(answer))
    secret = world.secret()
    world.client(old.address, "id1", secret, "--allowPlainSecret", local=nginx.url)
    assert old.others[0] == b"\xf0\x03"
    assert old.openings[0][:2] == b"\xf0\x01"
    tunnel = old.tunnel()
    tunnel.send(first(1, 0, REQUEST))
    frame = tunnel.skip_pings()
    assert frame.task == 1
    assert frame.payload.startswith(b"HTTP/1.1 200")


def _own_address() -> str | None:
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == 2 and not address.address.startswith("127."):
                return str(address.address)
    return None


def test_client_does_not_show_its_secret_unasked(world: World, nginx: Nginx) -> None:
    """Protocol 1 shows the secret: over an unverified link the client says what to set instead."""
    host = _own_address()
    if host is None:
        pytest.skip("this machine has no address but loopback")
    got: list[bytes] = []

    def old(connection: Connection) -> None:
        got.append(connection.socket.recv(1000))

    port: Port = world.keep(Port(host), until_last=True)
    service: Service = world.keep(Service(old, port), until_last=True)
    secret = world.secret()
    world.allow(r"allowPlainSecret")
    client = world.client(service.address, "id1", secret, local=nginx.url, ready=False)
    client.process.wait_for(r"allowPlainSecret")
    service.wait_connections(2, 60)  # it tries again, with protocol 3
    assert all(start.startswith(b"\xf0\x03") for start in got)
    assert not any(secret.encode() in start for start in got)


def test_client_never_steps_down_for_a_server_that_spoke_3(world: World, nginx: Nginx) -> None:
    """Somebody in the middle who breaks protocol 3 must not get the secret that way."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    port = server.port
    client = world.client(
        server, "id1", secret, "--allowPlainSecret", "--reconnectDelay", "300ms", local=nginx.url
    )
    server.process.end()
    listener = port.listen()
    starts: list[bytes] = []

    def take() -> None:
        for _ in range(6):
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(10)
                starts.append(sock.recv(1000))

    world.allow(r"client.*")
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(60)
    listener.close()
    assert len(starts) == 6
    assert all(start.startswith(b"\xf0\x03") for start in starts)
    assert client.process.running
    world.allow(r".")


def test_pages_through_our_two_ends_on_protocol_1(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server("--protocols", "1", users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url, protocol="1")
    assert fetch(server.address, "id1.example.com").status == 200
