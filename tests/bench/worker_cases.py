"""The case of several workers: what it costs that a visitor is accepted by one and relayed by another."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.bench import loads
from tests.bench.parts import Route
from tests.bench.report import Row, Table

if TYPE_CHECKING:
    from tests.bench.cases import Bench

COUNTS = (1, 2, 4)


def workers(bench: Bench) -> None:
    """1, 2 and 4 workers of the server, tunnels all in one: requests/s and CPU per request"""
    header = ["workers", "load", "requests/s", "p99 ms", "CPU us in the server"]
    table = Table("workers", workers.__doc__ or "", header)
    rates: dict[tuple[int, bool], list[float]] = {}
    with ExitStack() as stack:
        routes = []
        for count in COUNTS:
            parts = stack.enter_context(bench.parts.subset())
            name = f"{count} worker{'s' * (count > 1)}"
            flags = (["--workers", str(count)], ["--remoteConnections", "1"])
            routes.append(parts.gt(bench.nginx, name=name, server=flags[0], client=flags[1]))
        for close in (False, True):
            load = "one request per connection" if close else "keep-alive"

            def measure(route: Route, close: bool = close) -> tuple[loads.Seen, float]:
                server = route.relays["GT server"]
                before = server.cpu_s
                seen = loads.wrk(route, "/page.html", 100, bench.seconds, close=close)
                return seen, (server.cpu_s - before) / max(1, seen.requests) * 1e6

            for count, route in zip(COUNTS, routes, strict=True):
                loads.wrk(route, "/page.html", 100, 1, close=close)
                rates[count, close] = []
            for count, samples in zip(COUNTS, bench.interleaved(load, routes, measure), strict=True):
                rates[count, close] = [seen.rate for seen, _ in samples]
                p99 = statistics.median(seen.p99_ms for seen, _ in samples)
                cpu = statistics.median(used for _, used in samples)
                table.rows.append([str(count), load, statistics.median(rates[count, close]), p99, cpu])
            one, two = rates[1, close], rates[2, close]
            bench.report.rows.append(
                Row("workers", f"2 workers against one, {load}", "/s", two, one, at_least=0.9)
            )
    bench.report.tables.append(table)
