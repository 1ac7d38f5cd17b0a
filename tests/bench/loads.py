"""Visitors of the bench: wrk, one big transfer over a raw socket, and thousands who stay and do nothing."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.parts import GIGABYTE, PAGE, PAGE_HOST, SINK_HOST, Route
from tests.support.http import Visitor

SCRIPT = Path(__file__).with_name("wrk.lua")
CHUNK = 1 << 20


@dataclass
class Seen:
    """What wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk(
    route: Route,
    path: str,
    connections: int,
    seconds: float,
    *,
    close: bool = False,
    hosts: Sequence[str] = (),
    origin: str = "",
) -> Seen:
    """Runs `wrk -t1`. Close: one request for each connection. With hosts, they are asked in turn. `origin` is what the
    URL begins with, plain HTTP to the route's pages by default."""
    url = (origin or f"http://{route.pages[0]}:{route.pages[1]}") + path
    argv = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(round(seconds), 1)}s",
        "--timeout",
        "10s",
        "-s",
        str(SCRIPT),
    ]
    argv += ["-H", f"Host: {PAGE_HOST}"] + (["-H", "Connection: close"] if close else [])
    done = subprocess.run(
        [*argv, url, "--", *hosts], capture_output=True, text=True, timeout=seconds + 60, check=True
    )
    return Seen(**json.loads(done.stdout.splitlines()[-1]))


def pings(route: Route, connections: int, count: int) -> float:
    """redis-benchmark with that many PINGs, each when the PONG before it has come; how many a second."""
    host, port = route.pages
    argv = ["redis-benchmark", "-h", host, "-p", str(port), "-c", str(connections), "-n", str(count)]
    done = subprocess.run(
        [*argv, "-t", "ping_inline", "--csv"], capture_output=True, text=True, timeout=300, check=True
    )
    return float(next(csv.DictReader(done.stdout.splitlines()))["rps"])


def download(route: Route) -> float:
    """One visitor reads a gigabyte; bytes/s from its request to the last byte."""
    with Visitor(route.pages, timeout=60) as visitor:
        started = time.monotonic()
        visitor.request(PAGE_HOST, "/gigabyte")
        assert visitor.head().status == 200
        left = GIGABYTE - len(visitor.pending)
        buffer = bytearray(CHUNK)
        while left:
            count = visitor.socket.recv_into(buffer, min(left, CHUNK))
            assert count, f"{route.name}: {left} bytes are missing"
            left -= count
        return GIGABYTE / (time.monotonic() - started)


def upload(route: Route) -> float:
    """One visitor sends a gigabyte; bytes/s from its request to the answer, which comes after the last byte."""
    chunk = bytes(CHUNK)
    with Visitor(route.uploads, timeout=60) as visitor:
        started = time.monotonic()
        visitor.request(SINK_HOST, "/", method="PUT", headers={"Content-Length": str(GIGABYTE)})
        for _ in range(GIGABYTE // CHUNK):
            visitor.send(chunk)
        assert visitor.response().status == 200
        return GIGABYTE / (time.monotonic() - started)


class Idle:
    """Visitors who each made a request and stay connected."""

    def __init__(self, route: Route, count: int) -> None:
        self._sockets: list[socket.socket] = []
        try:
            for _ in range(count):
                visitor = Visitor(route.pages)
                self._sockets.append(visitor.socket)
                visitor.request(PAGE_HOST, "/page.html")
                assert visitor.response().body == PAGE
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for each in self._sockets:
            each.close()
