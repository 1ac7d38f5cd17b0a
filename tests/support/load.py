"""Busy visitors, as a process of its own: keep-alive connections that each ask again as soon as they were answered.

python -m tests.support.load ADDRESS HOST PATH CONNECTIONS SECONDS [PAUSE]

prints one JSON object: requests, errors, seconds, p50_ms, p99_ms, max_ms. The first answer on each connection is
not counted (it opens a stream). PAUSE is what a visitor waits between an answer and its next request, seconds.
"""

from __future__ import annotations

import heapq
import json
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import Address

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    """What busy visitors saw."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float


class Load:
    """Busy visitors that run until they are asked for their result."""

    def __init__(
        self, address: Address, host: str, path: str, connections: int, seconds: float, pause: float = 0.0
    ) -> None:
        target = f"{address[0]}:{address[1]}"
        argv = [sys.executable, "-m", "tests.support.load", target, host, path]
        argv += [str(connections), str(seconds), str(pause)]
        self.seconds = seconds
        self._process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "running\n"

    def result(self) -> Result:
        output, _ = self._process.communicate(timeout=self.seconds + 60)
        assert self._process.returncode == 0, output
        return Result(**json.loads(output))


def busy(
    address: Address, host: str, path: str, connections: int, seconds: float, pause: float = 0.0
) -> Result:
    """Runs busy visitors for so long; what they saw."""
    return Load(address, host, path, connections, seconds, pause).result()


def _open(target: Address, deadline: float) -> socket.socket:
    while True:
        try:
            return socket.create_connection(target, timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise


def _run(target: Address, request: bytes, connections: int, seconds: float, pause: float) -> Result:
    selector = selectors.DefaultSelector()
    sockets: dict[int, socket.socket] = {}
    sent: dict[int, float] = {}
    length: dict[int, int] = {}
    latencies: list[float] = []
    errors = 0
    for _ in range(connections):
        sock = _open(target, time.monotonic() + seconds)
        sock.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = sock.recv(65536)
            assert more, "closed before the first answer"
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        size = int(fields[b"content-length"])
        while len(body) < size:
            body += sock.recv(65536)
        fileno = sock.fileno()
        sockets[fileno], length[fileno] = sock, len(head) + 4 + size
        sock.setblocking(False)
        selector.register(fileno, selectors.EVENT_READ)
    print("running", flush=True)
    start = now = time.monotonic()
    left: dict[int, int] = {}
    # A visitor's requests are spread over its pause, so that a pause does not make them march in step.
    due = [(start + pause * number / connections, fileno) for number, fileno in enumerate(sockets)]
    heapq.heapify(due)
    while now < start + seconds and sockets:
        while due and due[0][0] <= now:
            _, fileno = heapq.heappop(due)
            if fileno in sockets:
                sent[fileno], left[fileno] = time.monotonic(), length[fileno]
                sockets[fileno].send(request)
        wait = min(max(due[0][0] - time.monotonic(), 0) if due else 0.5, 0.5)
        for key, _ in selector.select(wait):
            fileno = key.fd
            try:
                data = sockets[fileno].recv(65536)
            except ConnectionError:
                data = b""
            now = time.monotonic()
            if not data:
                errors += 1
                selector.unregister(fileno)
                sockets.pop(fileno).close()
                continue
            left[fileno] -= len(data)
            if left[fileno] <= 0:
                latencies.append(now - sent[fileno])
                if pause:
                    heapq.heappush(due, (now + pause, fileno))
                else:
                    sent[fileno], left[fileno] = now, length[fileno]
                    sockets[fileno].send(request)
        now = time.monotonic()
    # A visitor that still waits has waited at least so long: leaving it out would flatter a path that stalls.
    latencies += [
        now - sent[fileno] for fileno in sockets if left.get(fileno, 0) > 0 and now - sent[fileno] > 0.1
    ]
    latencies.sort()
    count = len(latencies)

    def percentile(part: float) -> float:
        return round(latencies[min(int(count * part), count - 1)] * 1000, 3) if count else float("inf")

    return Result(count, errors, now - start, percentile(0.50), percentile(0.99), percentile(1.0))


def main() -> None:
    target, host, path, connections, seconds, pause = sys.argv[1:]
    name, _, port = target.rpartition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    result = _run((name, int(port)), request, int(connections), float(seconds), float(pause))
    print(json.dumps(vars(result)))


if __name__ == "__main__":
    main()
