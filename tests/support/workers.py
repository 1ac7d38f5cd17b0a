"""Servers with two workers and all tunnels in one of them: which one accepts a visitor is luck, so tests choose."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.ports import Address
from tests.support.processes import Relay, eventually

LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp


def having_tunnel(server: Relay, has: bool) -> psutil.Process:
    """The worker that has it, or the other one."""
    (pid,) = (each["pid"] for each in server.status() if bool(each["tunnels"]) is has)
    return psutil.Process(pid)


@contextlib.contextmanager
def accepted_without_tunnel(server: Relay, address: Address) -> Iterator[None]:
    """Who connects to this IPv4 address in here is accepted by the worker without the tunnel; the other is stopped."""
    other = having_tunnel(server, True)
    other.suspend()
    try:
        yield
        eventually(lambda: not waiting(address[1]), "the visitor is accepted")
    finally:
        other.resume()


def waiting(port: int) -> int:
    """How many connections to this port nobody has accepted yet."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    (queue,) = (row[4] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port)
    return int(queue.rpartition(":")[2], 16)
