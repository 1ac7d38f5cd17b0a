"""Protocol 3 against ends written by hand: what the frames on the wire are, and what a peer may not do."""

from __future__ import annotations

import contextlib
import struct

import pytest

from tests.support.http import Visitor, fetch
from tests.support.native import (
    CONTROL,
    DATA,
    EOF,
    OPEN,
    RESET,
    WINDOW,
    NativeClient,
    NativeServer,
    control,
    frame,
    opened,
    window,
)
from tests.support.processes import eventually
from tests.support.services import Connection, Service, answering, silent
from tests.support.world import World

REQUEST = b"GET / HTTP/1.1\r\nHost: id1.example.com\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
INITIAL_WINDOW = 256 * 1024


def _tunnel(world: World, *prefixes: str) -> tuple[NativeClient, tuple[str, int]]:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    return world.keep(NativeClient(server.address, "id1", secret)).ready(*prefixes), server.address


def test_visitors_stream_on_the_wire(world: World) -> None:
    tunnel, address = _tunnel(world)
    visitor = world.visitor(address)
    near = visitor.socket.getsockname()
    visitor.send(REQUEST)
    stream, kind, payload = tunnel.stream_frame()
    assert (stream, kind) == (2, OPEN)  # server-opened: even, from 2
    service, flags, length = struct.unpack(">HBB", payload[:4])
    assert (service, flags) == (0, 0)
    assert payload[4 : 4 + length] == f"{near[0]}:{near[1]}".encode()
    assert payload[4 + length :] == REQUEST
    tunnel.send(frame(stream, DATA, ANSWER))
    assert visitor.response().body == b"ok"
    visitor.socket.shutdown(1)
    assert tunnel.stream_frame() == (stream, EOF, b"")
    tunnel.send(frame(stream, DATA, b"after the half close"), frame(stream, EOF))
    assert visitor.exactly(20) == b"after the half close"
    assert visitor.ending(10) == "closed"


def test_reset_of_a_stream_resets_the_visitor(world: World) -> None:
    tunnel, address = _tunnel(world)
    visitor = world.visitor(address)
    visitor.send(REQUEST)
    stream, _, _ = tunnel.stream_frame()
    tunnel.send(frame(stream, DATA, b"HTTP/1.1 200 OK\r\n\r\nhalf"), frame(stream, RESET, b"\x00"))
    assert visitor.ending(10) == "reset"


@pytest.mark.parametrize(("reason", "status"), [(1, 502), (2, 504)])
def test_reset_before_any_answer_gives_a_page(world: World, reason: int, status: int) -> None:
    tunnel, address = _tunnel(world)
    visitor = world.visitor(address)
    visitor.send(REQUEST)
    stream, _, _ = tunnel.stream_frame()
    tunnel.send(frame(stream, RESET, bytes([reason])))
    assert visitor.response().status == status


def _fill(tunnel: NativeClient, visitor: Visitor, stream: int) -> int:
    """Sends what the visitor's connection takes, until nothing more comes out of the tunnel; how much came."""
    received = 0
    tunnel.socket.settimeout(1)
    while True:
        with contextlib.suppress(BlockingIOError):
            visitor.socket.send(b"x" * 65536)
        try:
            number, kind, data = tunnel.frame()
        except TimeoutError:
            return received
        if number:
            assert (number, kind) == (stream, DATA)
            received += len(data)


def test_server_keeps_to_the_window(world: World) -> None:
    """It sends no more than 256 KiB before a WINDOW, counts the bytes of OPEN, and goes on after one."""
    tunnel, address = _tunnel(world)
    visitor = world.visitor(address)
    visitor.request("id1.example.com", method="POST", headers={"Content-Length": "10000000"})
    visitor.socket.setblocking(False)
    stream, _, payload = tunnel.stream_frame()
    already = len(payload) - 4 - payload[3]
    assert _fill(tunnel, visitor, stream) == INITIAL_WINDOW - already
    for grant in (1, 100_000, 300_000):
        tunnel.send(window(stream, grant))
        assert _fill(tunnel, visitor, stream) == grant
    visitor.reset()


def test_server_grants_as_the_visitor_reads(world: World) -> None:
    """10 MB to a visitor that reads: never more in flight than was granted, and it all arrives."""
    tunnel, address = _tunnel(world)
    visitor = world.visitor(address)
    visitor.send(REQUEST)
    stream, _, _ = tunnel.stream_frame()
    budget, left = INITIAL_WINDOW, 10_000_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"
    tunnel.send(frame(stream, DATA, head))
    budget -= len(head)
    assert visitor.until(b"\r\n\r\n") == head
    while left:
        size = min(budget, left, 65536)
        if size:
            tunnel.send(frame(stream, DATA, b"y" * size))
            budget -= size
            left -= size
            assert visitor.exactly(size) == b"y" * size
        else:
            _, kind, payload = tunnel.stream_frame()
            assert kind == WINDOW
            budget += struct.unpack(">I", payload)[0]


@pytest.mark.parametrize(
    "rude",
    [
        frame(2, 99),
        frame(0, DATA, b"x"),
        frame(2, OPEN, b"\x00\x00\x00\x00"),
        frame(0, CONTROL, b"not json"),
        frame(0, CONTROL, b"[]"),
        struct.pack(">II", 2, DATA << 24 | 0xFFFFFF),
    ],
    ids=["unknown type", "data on stream 0", "client opens", "not json", "not an object", "too long"],
)
def test_a_rude_client_loses_its_tunnel_and_nothing_else(world: World, rude: bytes) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret, "id2": world.secret()})
    service = world.service(answering(b"fine"))
    other = server.argv[-1]
    world.client(server, "id2", other, local=service.url)
    with NativeClient(server.address, "id1", secret).ready() as tunnel:
        tunnel.send(rude)
        tunnel.until_end()
    assert fetch(server.address, "id2.example.com").text == "fine"


def test_more_than_the_window_ends_the_tunnel(world: World) -> None:
    tunnel, address = _tunnel(world)
    visitor = world.visitor(address, receive_buffer=4096)
    visitor.send(REQUEST)
    stream, _, _ = tunnel.stream_frame()
    with contextlib.suppress(ConnectionError):
        tunnel.send(frame(stream, DATA, b"z" * 65536) * 200)
    tunnel.until_end()


def test_unknown_control_and_keys_are_ignored(world: World) -> None:
    tunnel, address = _tunnel(world)
    tunnel.send(
        control({"type": "of the future", "x": [1]}), control({"type": "notice", "text": "hello", "more": 1})
    )
    visitor = world.visitor(address)
    visitor.send(REQUEST)
    assert tunnel.stream_frame()[1] == OPEN


def test_services_can_be_replaced(world: World) -> None:
    tunnel, address = _tunnel(world, "blog")
    services = [
        {"kind": "http", "hostPrefix": prefix, "port": 0, "random": False} for prefix in ("shop", "wiki")
    ]
    tunnel.send(control({"type": "services", "services": services}))
    answer = tunnel.control()
    assert answer["type"] == "ready", answer
    visitor = world.visitor(address)
    visitor.request("wiki.example.com")
    _, kind, payload = tunnel.stream_frame()
    assert (kind, payload[:2]) == (OPEN, b"\x00\x01")


def test_drain_by_the_client(world: World) -> None:
    """Nothing new comes, what runs is finished."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    old = world.keep(NativeClient(server.address, "id1", secret)).ready()
    visitor = world.visitor(server.address)
    visitor.send(REQUEST)
    stream, _, _ = old.stream_frame()
    old.send(control({"type": "drain"}))
    new = world.keep(NativeClient(server.address, "id1", secret)).ready()
    for _ in range(5):
        world.visitor(server.address).send(REQUEST)
        assert new.stream_frame()[1] == OPEN
    old.send(frame(stream, DATA, ANSWER), frame(stream, EOF))
    assert visitor.response().body == b"ok"
    visitor.close()
    old.until_end()


def test_an_opening_that_stops_is_closed(world: World) -> None:
    """The whole opening has 10 s, however far it got."""
    server = world.server(users={"id1": world.secret()})
    hello = b"\xf0\x03" + control({"type": "hello", "protocol": 3, "id": "id1"})
    stopped = [world.visitor(server.address) for _ in range(3)]
    for visitor, size in zip(stopped, (2, 9, 20), strict=True):
        visitor.send(hello[:size])
    challenged = world.keep(NativeClient(server.address, "id1", "x"))
    assert challenged.hello()["type"] == "challenge"
    for visitor in stopped:
        assert visitor.ending(25) in ("closed", "reset")
    challenged.until_end()


def test_nothing_is_relayed_before_ready(world: World) -> None:
    """A client that skips the opening and sends frames of streams is thrown out."""
    server = world.server(users={"id1": world.secret()})
    for early in (
        frame(2, DATA, b"x"),
        opened(1, 0, "", b"GET / HTTP/1.1\r\n\r\n"),
        control({"type": "auth"}),
    ):
        visitor = world.visitor(server.address)
        visitor.send(b"\xf0\x03" + early)
        assert visitor.ending(25) in ("closed", "reset")


# Our client and a hand-written server


def _serve(world: World, local: str, *flags: str) -> tuple[NativeServer, Connection]:
    secret = world.secret()
    tunnels: list[tuple[NativeServer, Connection]] = []

    def accept(connection: Connection) -> None:
        tunnels.append((NativeServer(connection.socket, secret).ready(), connection))
        connection.service.stopping.wait()

    # Closed before the client is: a client waits for a server that does not answer its drain.
    remote = world.keep(Service(accept))
    world.client(remote.address, "id1", secret, "--remoteConnections", "1", *flags, local=local)
    eventually(lambda: tunnels, "a tunnel")
    return tunnels[0]


def test_client_serves_streams(world: World) -> None:
    tunnel, _ = _serve(world, world.service(answering(b"found")).url)
    for stream in (2, 4, 6):
        tunnel.send(opened(stream, 0, "203.0.113.9:51234", REQUEST))
        got = b""
        while not got.endswith(b"found"):
            number, kind, payload = tunnel.stream_frame()
            if number == stream:
                got += payload if kind == DATA else b""
            else:
                assert kind == EOF  # of the one before
        tunnel.send(frame(stream, EOF))


def test_client_tells_refused(world: World) -> None:
    tunnel, _ = _serve(world, f"http://{world.port()}")
    tunnel.send(opened(2, 0, "203.0.113.9:51234", REQUEST))
    assert tunnel.stream_frame() == (2, RESET, b"\x01")


def test_client_ends_its_connection_on_reset(world: World) -> None:
    service = world.service(silent)
    tunnel, _ = _serve(world, service.url)
    tunnel.send(opened(2, 0, "203.0.113.9:51234", REQUEST))
    connection = service.wait_connections(1)[0]
    tunnel.send(frame(2, RESET, b"\x00"))
    assert connection.gone.wait(20)


@pytest.mark.parametrize(
    "rude", [frame(2, 99), frame(0, DATA, b"x"), opened(1, 0, "", b""), opened(3, 0, "", b"")]
)
def test_client_leaves_a_rude_server(world: World, rude: bytes) -> None:
    tunnel, _ = _serve(world, world.service(answering(b"found")).url)
    tunnel.send(rude)
    tunnel.until_end()


def test_client_with_an_unknown_service_index(world: World) -> None:
    tunnel, _ = _serve(world, world.service(answering(b"found")).url)
    tunnel.send(opened(2, 7, "203.0.113.9:51234", REQUEST))
    stream, kind, _ = tunnel.stream_frame()
    assert (stream, kind) == (2, RESET)
