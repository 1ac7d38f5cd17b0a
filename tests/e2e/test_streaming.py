"""What must arrive as it is sent: Server-Sent Events, WebSocket messages, single bytes."""

from __future__ import annotations

import os
import statistics
import threading
import time

import pytest

from tests.support.http import Visitor
from tests.support.services import events
from tests.support.websocket import connect
from tests.support.world import World

ADDED_S = 0.050


def _delays(visitor: Visitor, host: str, count: int, into: list[float]) -> None:
    visitor.request(host)
    visitor.head()
    for _ in range(count):
        sent_ns = int(visitor.until(b"\n\n").removeprefix(b"data: "))
        into.append((time.monotonic_ns() - sent_ns) / 1e9)


def test_server_sent_events_arrive_as_they_are_sent(world: World, path: str) -> None:
    """Read directly and through the relay at the same time, so that both see the same noise."""
    count = 60
    service = world.service(events(count, 0.02))
    site = world.publish(service.url, path)
    delays: dict[str, list[float]] = {"direct": [], "relayed": []}
    readers = [
        threading.Thread(target=_delays, args=(world.visitor(address), site.host, count, delays[name]))
        for name, address in (("direct", service.address), ("relayed", site.address))
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert len(delays["relayed"]) == len(delays["direct"]) == count
    assert statistics.median(delays["relayed"]) - statistics.median(delays["direct"]) < ADDED_S
    # And not in bunches: nine of ten come before the next but one was sent.
    assert (
        statistics.quantiles(delays["relayed"], n=10)[-1] - statistics.quantiles(delays["direct"], n=10)[-1]
        < ADDED_S
    )


@pytest.mark.parametrize("size", [1, 125, 126, 65_535, 65_536, 1_000_000, 4 * 1024 * 1024])
def test_websocket_echo(world: World, path: str, size: int) -> None:
    site = world.publish(world.echo_service().url, path)
    socket = world.keep(connect(site.address, site.host))
    message = os.urandom(size)
    for _ in range(3):
        socket.send_binary(message)
        assert socket.recv() == message


def test_websocket_many_small_messages_in_order(world: World, path: str) -> None:
    site = world.publish(world.echo_service().url, path)
    socket = world.keep(connect(site.address, site.host))
    for start in range(0, 2000, 100):
        for number in range(start, start + 100):
            socket.send(f"message {number}")
        assert [socket.recv() for _ in range(100)] == [
            f"message {number}" for number in range(start, start + 100)
        ]


def test_websocket_ping_and_close(world: World, path: str) -> None:
    site = world.publish(world.echo_service().url, path)
    socket = world.keep(connect(site.address, site.host))
    for payload in (b"", b"are you there", os.urandom(125)):
        socket.ping(payload)
        opcode, data = socket.recv_data(control_frame=True)
        assert (opcode, data) == (0xA, payload)
    socket.send_close(1000, b"bye")
    opcode, data = socket.recv_data(control_frame=True)
    assert (opcode, data[:2]) == (0x8, b"\x03\xe8")


def test_websocket_is_quick(world: World, path: str) -> None:
    """Small messages there and back: Nagle's delay (40 ms) anywhere on the way would show here."""
    site = world.publish(world.echo_service().url, path)
    socket = world.keep(connect(site.address, site.host))
    took = []
    for _ in range(100):
        start = time.monotonic()
        socket.send("x")
        socket.recv()
        took.append(time.monotonic() - start)
    assert statistics.median(took) < 0.030
