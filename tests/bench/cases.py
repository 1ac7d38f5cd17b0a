"""The cases of the bench: each measures one thing on some routes and puts what it saw into the report."""

from __future__ import annotations

import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from tests.bench import loads
from tests.bench.console_cases import dashboards
from tests.bench.parts import Parts, Route
from tests.bench.report import Report, Row, Table
from tests.bench.request_cases import requests
from tests.bench.tcp_cases import sni, tcp_bulk, tcp_small
from tests.bench.tls_cases import handshakes, https100
from tests.bench.worker_cases import workers
from tests.support.processes import Child, Relay, eventually

T = TypeVar("T")

KB = 1024


class Bench:
    """A run: the parts that all cases share, how long and how often to measure, and the report."""

    def __init__(self, parts: Parts, report: Report) -> None:
        self.parts = parts
        self.report = report
        self.seconds = report.seconds
        self.rounds = report.rounds
        self.nginx = parts.services()
        self.haproxy = parts.haproxy(self.nginx)
        self.gt = parts.gt(self.nginx)

    def interleaved(self, what: str, routes: Sequence[Route], measure: Callable[[Route], T]) -> list[list[T]]:
        """What `measure` returns for each route, one sample for each round; whatever drifts, drifts for all."""
        samples: list[list[T]] = [[] for _ in routes]
        for number in range(self.rounds):
            for route, taken in zip(routes, samples, strict=True):
                _say(f"{what}: round {number + 1} of {self.rounds}, {route.name}")
                taken.append(measure(route))
        return samples

    def requests(
        self, case: str, load: str, at_least: float, path: str, connections: int, *, close: bool = False
    ) -> list[list[loads.Seen]]:
        """A row of requests/s on the three routes; what wrk saw on GT, haproxy and nginx."""
        routes = (self.gt, self.haproxy, self.nginx)
        for route in routes:
            loads.wrk(route, path, connections, 1, close=close)
        seen = self.interleaved(
            load, routes, lambda route: loads.wrk(route, path, connections, self.seconds, close=close)
        )
        rates = [[each.rate for each in samples] for samples in seen]
        errors = sum(each.errors for each in seen[0])
        self.report.rows.append(Row(case, load, "/s", *rates, at_least=at_least, errors=errors))
        return seen


def page100(bench: Bench) -> None:
    """612-byte page, 100 connections: requests/s and p99 latency"""
    seen = bench.requests("page100", "612-byte page, 100 connections", 1.3, "/page.html", 100)
    slow = [[each.p99_ms for each in samples] for samples in seen]
    bench.report.rows.append(Row("page100", "p99 latency at 100 connections", "ms", *slow, at_most=1.0))


def small100(bench: Bench) -> None:
    """2-byte reply, 100 connections"""
    bench.requests("small100", "2-byte reply, 100 connections", 1.4, "/two", 100)


def page1000(bench: Bench) -> None:
    """612-byte page, 1,000 connections"""
    bench.requests("page1000", "612-byte page, 1,000 connections", 1.8, "/page.html", 1000)


def connect100(bench: Bench) -> None:
    """one request per connection, 100 at a time"""
    load = "one request per connection, 100 at a time"
    bench.requests("connect100", load, 1.0, "/page.html", 100, close=True)


def bulk(bench: Bench) -> None:
    """one download and one upload of 1 GB"""
    for load, transfer in (("one 1 GB download", loads.download), ("one 1 GB upload", loads.upload)):
        samples = bench.interleaved(load, (bench.gt, bench.haproxy, bench.nginx), transfer)
        rates = [[each / 1e6 for each in taken] for taken in samples]
        bench.report.rows.append(Row("bulk", load, "MB/s", *rates, at_least=0.5))


def idle(bench: Bench, count: int = 10_000) -> None:
    """resident memory of the server for each of 10,000 idle visitors"""
    samples = []
    for number in range(bench.rounds):
        _say(f"{count:,} idle visitors: round {number + 1} of {bench.rounds}")
        with bench.parts.subset() as parts:
            route = parts.gt(bench.nginx)
            server = route.relays["GT server"]
            loads.wrk(route, "/page.html", 100, 1)
            before = server.rss
            with closing(loads.Idle(route, count)):
                samples.append((server.rss - before) / count / KB)
    bench.report.rows.append(
        Row("idle", f"{count:,} idle visitors, in the server", "KB each", samples, at_most=6)
    )


def cost(bench: Bench) -> None:
    """CPU time and system calls per request of each end, 612-byte page, 100 connections"""
    table = Table("cost", cost.__doc__ or "", ["process", "CPU us", "system calls", "most of them"])
    for route in (bench.gt, bench.haproxy):
        _say(f"CPU time of {route.name}")
        before = {name: relay.cpu_s for name, relay in route.relays.items()}
        requests = loads.wrk(route, "/page.html", 100, bench.seconds).requests
        cpu = {name: (relay.cpu_s - before[name]) / requests * 1e6 for name, relay in route.relays.items()}
        for name, relay in route.relays.items():
            _say(f"system calls of {name}")
            calls, most = _system_calls(bench, route, relay)
            table.rows.append([name, cpu[name], calls, most])
    bench.report.tables.append(table)
    if any(row[2] == "-" for row in table.rows):
        table.title += "\n  (system calls are not counted where strace may not attach: it wants root)"


def _system_calls(bench: Bench, route: Route, relay: Child) -> tuple[float | str, str]:
    """System calls per request, and the most frequent ones. Counting slows the process down, so it may join more."""
    output = bench.parts.directory / "strace"
    strace = Child("strace", ["strace", "-f", "-c", "-S", "calls", "-o", str(output), *_attached(relay)])
    try:
        eventually(lambda: strace.find("attached") or not strace.running, "strace attaches")
        if not strace.running:
            return "-", ""
        requests = loads.wrk(route, "/page.html", 100, 2).requests
    finally:
        if strace.running:
            strace.signal(signal.SIGINT)  # it writes its summary and lets go
        strace.wait()
    counts = _summary(output)
    most = ", ".join(f"{name} {count / requests:.2f}" for name, count in list(counts.items())[:4])
    return sum(counts.values()) / requests, most


def _attached(relay: Child) -> list[str]:
    pids = [worker.pid for worker in relay.workers] if isinstance(relay, Relay) else [relay.pid]
    return [word for pid in pids for word in ("-p", str(pid))]


def _summary(file: Path) -> dict[str, int]:
    """Calls by name from the output of strace -c: share, seconds, us/call, calls, perhaps errors, name."""
    counts = {}
    for line in file.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            counts[words[-1]] = int(words[3])
    return counts


def protocols(bench: Bench) -> None:
    """protocol 1 beside protocol 3"""
    table = Table("protocols", protocols.__doc__ or "", ["load", "unit", "protocol 3", "protocol 1", "1 : 3"])
    with bench.parts.subset() as parts:
        old = parts.gt(bench.nginx, name="GT, protocol 1", client=["--protocol", "1"])
        measures: list[tuple[str, str, Callable[[Route], float]]] = [
            ("612-byte page, 100 connections", "/s", lambda r: loads.wrk(r, "/page.html", 100, bench.seconds).rate),
            ("612-byte page, 1,000 connections", "/s", lambda r: loads.wrk(r, "/page.html", 1000, bench.seconds).rate),
            (
                "one request per connection, 100 at a time", "/s",
                lambda r: loads.wrk(r, "/page.html", 100, bench.seconds, close=True).rate,
            ),
            ("one 1 GB download", "MB/s", lambda r: loads.download(r) / 1e6),
            ("one 1 GB upload", "MB/s", lambda r: loads.upload(r) / 1e6),
        ]  # fmt: skip
        for load, unit, measure in measures:
            three, one = map(statistics.median, bench.interleaved(load, (bench.gt, old), measure))
            table.rows.append([load, unit, three, one, one / three])
    bench.report.tables.append(table)


def tunnels(bench: Bench) -> None:
    """requests/s over 1, 3 and 10 tunnels, 612-byte page, 100 connections"""
    table = Table("tunnels", tunnels.__doc__ or "", ["tunnels", "requests/s", "p99 ms"])
    with bench.parts.subset() as parts:
        counts = ("1", "3", "10")
        routes = []
        for count in counts:
            pool = ["--remoteConnections", count, "--remoteIdleConnections", count]
            routes.append(parts.gt(bench.nginx, name=f"{count} tunnels", client=pool))
            routes[-1].relays["GT client"].wait_for(r"tunnel \d+ to .* is up", count=int(count))
        seen = bench.interleaved("tunnels", routes, lambda r: loads.wrk(r, "/page.html", 100, bench.seconds))
        table.rows += [[count, *_medians(samples)] for count, samples in zip(counts, seen, strict=True)]
    bench.report.tables.append(table)


def connections(bench: Bench) -> None:
    """growth with connections, 612-byte page"""
    header = [
        "connections",
        "GT requests/s",
        "p99 ms",
        "haproxy requests/s",
        "p99 ms of haproxy",
        "GT : haproxy",
    ]
    table = Table("connections", connections.__doc__ or "", header)
    for count in (1, 10, 100, 1000, 5000):

        def measure(route: Route, count: int = count) -> loads.Seen:
            return loads.wrk(route, "/page.html", count, bench.seconds)

        ours, theirs = map(
            _medians, bench.interleaved(f"{count:,} connections", (bench.gt, bench.haproxy), measure)
        )
        table.rows.append([f"{count:,}", *ours, *theirs, ours[0] / theirs[0]])
    bench.report.tables.append(table)


def services(bench: Bench) -> None:
    """growth with services of one client, each with its host prefix: one request per connection, hosts in turn"""
    header = ["services", "requests/s", "p99 ms", "ready after s", "server MB", "client MB"]
    table = Table("services", services.__doc__ or "", header)
    for count in (1, 10, 100, 1000):
        hosts = [f"service-{number}.localhost" for number in range(count)]
        with bench.parts.subset() as parts:
            started = time.monotonic()
            route = parts.gt(
                bench.nginx,
                name=f"{count:,} services",
                server=["--maxHandShakeOptions", "3000"],
                more_hosts=hosts,
            )
            ready = time.monotonic() - started

            def measure(route: Route, hosts: Sequence[str] = hosts) -> loads.Seen:
                return loads.wrk(route, "/page.html", 100, bench.seconds, close=True, hosts=hosts)

            (seen,) = bench.interleaved("services", (route,), measure)
            memory = [relay.rss / KB / KB for relay in route.relays.values()]
            table.rows.append([f"{count:,}", *_medians(seen), ready, *memory])
    bench.report.tables.append(table)


def _medians(seen: Sequence[loads.Seen]) -> tuple[float, float]:
    """Of requests/s and p99."""
    return statistics.median(each.rate for each in seen), statistics.median(each.p99_ms for each in seen)


def _say(text: str) -> None:
    print(
        f"\r\033[K{text}" if sys.stderr.isatty() else text,
        end="" if sys.stderr.isatty() else "\n",
        file=sys.stderr,
    )


CASES: dict[str, Callable[[Bench], None]] = {
    each.__name__: each
    for each in (
        page100, small100, page1000, connect100, bulk, https100, handshakes, sni, tcp_bulk, tcp_small, requests,
        workers, dashboards, idle, cost, protocols, tunnels, connections, services,
    )
}  # fmt: skip
