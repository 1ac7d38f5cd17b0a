"""Bytes that make no sense, from strangers and from peers that proved who they are, to the server and to the client."""

from __future__ import annotations

import contextlib
import random
import threading

import pytest

from tests.support.gt1 import READY, opening, publish, signal
from tests.support.http import Visitor, fetch
from tests.support.native import NativeClient, NativeServer, control, frame
from tests.support.nginx import Nginx
from tests.support.processes import eventually
from tests.support.services import Connection, Service, answering
from tests.support.world import World

MEMORY_BYTES = 150 * 1024 * 1024

# What garbage begins with, so that it gets past the first check.
STARTS = {
    "nothing": b"",
    "tunnel": b"\xf0",
    "protocol 3": b"\xf0\x03",
    "control frame": b"\xf0\x03\x00\x00\x00\x00\x07\x00\x01\x00",
    "huge control frame": b"\xf0\x03\x00\x00\x00\x00\x07\x04\x00\x00",
    "hello": b"\xf0\x03"
    + control({"type": "hello", "protocol": 3, "id": "id1", "mechanism": "SCRAM-SHA-256"}),
    "strange hello": b"\xf0\x03" + control({"type": "hello", "protocol": [], "id": {"a": 1}, "scram": 7}),
    "protocol 1": b"\xf0\x01",
    "opening of protocol 1": opening("id1", "no", publish("a", "b")),
    "request": b"GET /",
    "head": b"GET / HTTP/1.1\r\nHost: id1.example.com\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01",
}


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_garbage_to_the_server(world: World, start: bytes) -> None:
    """40 connections of each kind: the server goes on, keeps nothing, and calls none of it an error of its own."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=world.service(answering(b"fine")).url)
    assert fetch(server.address, "id1.example.com").text == "fine"
    before = server.process.settle(streams=0)
    for seed in range(40):
        with Visitor(server.address, timeout=5) as visitor:
            with contextlib.suppress(ConnectionError):
                visitor.send(start + _noise(seed, (1, 10, 100, 5000, 70_000)[seed % 5]))
            if seed % 3 == 0:
                visitor.reset()
            elif seed % 3 == 1:
                with contextlib.suppress(OSError):
                    visitor.socket.shutdown(1)
                assert visitor.ending(15)
    assert fetch(server.address, "id1.example.com").text == "fine"
    server.process.settle(streams=0, spare_fds=before["spare_fds"] + 2, greenlets=before["greenlets"] + 2)
    assert server.process.rss < MEMORY_BYTES


def test_garbage_from_a_client_that_proved_itself(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret, "id2": world.secret()})
    world.client(server, "id2", server.argv[-1], local=world.service(answering(b"fine")).url)
    for seed in range(60):
        rng = random.Random(seed)
        with NativeClient(server.address, "id1", secret).ready() as tunnel:
            visitors = [Visitor(server.address) for _ in range(3)]
            for visitor in visitors:
                visitor.request("id1.example.com")
            streams = [tunnel.stream_frame()[0] for _ in visitors]
            junk = b"".join(
                frame(
                    rng.choice([0, *streams, 999]),
                    rng.randrange(12),
                    rng.randbytes(rng.choice([0, 1, 4, 8, 3000])),
                )
                for _ in range(20)
            )
            with contextlib.suppress(OSError):
                tunnel.send(junk if seed % 2 else rng.randbytes(10_000))
                tunnel.socket.shutdown(1)
            tunnel.until_end()
        for visitor in visitors:
            assert visitor.ending(20)
            visitor.close()
    assert fetch(server.address, "id2.example.com").text == "fine"
    server.process.settle(streams=0)
    assert server.process.rss < MEMORY_BYTES


ANSWERS = {
    "noise": lambda seed: _noise(seed, 20_000),
    "http": lambda seed: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n",
    "endless header": lambda seed: b"\x00\x00\x00\x00\x07\xff\xff\xff" + b"x" * 100_000,
    "frames of nobody": lambda seed: b"".join(frame(seed, kind, b"12345678") for kind in range(8)),
    "strange challenge": lambda seed: control({"type": "challenge", "scram": "r=,s=,i=", "mechanisms": None}),
    "slow challenge": lambda seed: control(
        {
            "type": "challenge",
            "scram": "r=x,s=AAAA,i=4294967295",
            "mechanisms": ["SCRAM-SHA-256"],
            "agent": "x",
        }
    ),
    "ready at once": lambda seed: control({"type": "ready", "scram": "v=AAAA", "services": []}),
    "strange error": lambda seed: control({"type": "error", "code": [], "message": {}}),
    "bomb": lambda seed: frame(0, 7, b"[" * 200_000),
    "ready of protocol 1": lambda seed: signal(READY),
}


@pytest.mark.parametrize("protocol", ["", "1"], ids=["auto", "protocol1"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_garbage_to_the_client(world: World, nginx: Nginx, answer: object, protocol: str) -> None:
    """Whatever a remote says, the client says what is wrong, and tries again, without haste."""
    assert callable(answer)

    def talk(connection: Connection) -> None:
        connection.socket.recv(1000)
        with contextlib.suppress(OSError):
            connection.send(answer(len(connection.service.connections)))
            connection.socket.settimeout(5)
            connection.wait_end()

    remote = world.keep(Service(talk))
    flags = ("--reconnectDelay", "200ms", "--allowPlainSecret")
    client = world.client(
        remote.address, "id1", world.secret(), *flags, local=nginx.url, protocol=protocol, ready=False
    )
    remote.wait_connections(3 if protocol == "" else 1, 40)
    cpu = client.process.cpu_s
    threading.Event().wait(1)
    assert client.process.running
    assert client.process.cpu_s - cpu < 0.9
    assert client.process.rss < MEMORY_BYTES


def test_garbage_from_a_server_that_proved_itself(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    sent = 0

    def talk(connection: Connection) -> None:
        nonlocal sent
        rng = random.Random(len(connection.service.connections))
        tunnel = NativeServer(connection.socket, secret).ready()
        junk = b"".join(
            frame(
                rng.choice([0, 1, 2, 4, 999]),
                rng.randrange(12),
                rng.randbytes(rng.choice([0, 1, 4, 8, 3000])),
            )
            for _ in range(20)
        )
        tunnel.send(junk)
        sent += 1
        with contextlib.suppress(OSError):
            tunnel.until_end()

    remote = world.keep(Service(talk))
    client = world.client(
        remote.address, "id1", secret, "--reconnectDelay", "100ms", local=nginx.url, ready=False
    )
    eventually(lambda: sent >= 15, "fifteen tunnels with garbage", 60)
    assert client.process.running
    assert client.process.rss < MEMORY_BYTES
    eventually(lambda: client.process.stats()["streams"] <= 10, "streams of tunnels that are gone")
