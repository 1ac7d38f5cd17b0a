"""The case of the console: what it costs visitors that people look at it. Used by cases.py."""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil
import yaml

from tests.bench import loads
from tests.bench.parts import ROOT, Route
from tests.bench.report import Row, Table
from tests.support.processes import Relay

if TYPE_CHECKING:
    from tests.bench.cases import Bench

COUNT = 50  # dashboards
PAIRS = 4  # for each round: a difference of 2% is smaller than that between two measurements of the same
PAGE = "/page.html"


class Dashboards:
    """That many are open between `open` and `close`."""

    def __init__(self, address: str, name: str, password: str) -> None:
        argv = [sys.executable, "-m", "tests.bench.dashboards", address, str(COUNT)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self._say(f"{name}\n{password}") == "logged in"

    def open(self) -> None:
        assert self._say("open") == "open"

    def close(self) -> int:
        """How many messages came."""
        return int(self._say("close"))

    def end(self) -> None:
        self._process.communicate(timeout=60)  # it ends with its standard input

    def _say(self, text: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@dataclass
class Taken:
    """One measurement: what visitors saw, what the server's processes used meanwhile, what the dashboards got."""

    seen: loads.Seen
    workers_us: float  # CPU time for each request
    console: float  # shares of a core
    master: float
    messages: float  # each second, all dashboards together


def dashboards(bench: Bench) -> None:
    """50 dashboards open at once, none, and no console at all: requests/s, and who uses the CPU"""
    with bench.parts.subset() as parts:
        port, login = parts.port(), ("bench", secrets.token_hex(8))
        options = {"webAddr": str(port), "admin": login[0], "password": login[1]}
        config = parts.directory / f"console-{port.number}.yml"
        config.write_text(yaml.safe_dump({"type": "server", "options": options}))
        config.chmod(0o600)
        watched = parts.gt(bench.nginx, name="GT with a console", server=["-c", str(config)])
        alone = parts.gt(bench.nginx, name="GT without")
        viewers = Dashboards(str(port), *login)
        try:
            none, some, off = _measured(bench, watched, alone, viewers)
        finally:
            viewers.end()
    header = [
        "state", "requests/s", "p99 ms", "CPU us in the workers", "console", "master", "messages/s",
    ]  # fmt: skip
    table = Table("dashboards", dashboards.__doc__ or "", header)
    for state, taken in ((f"{COUNT} dashboards", some), ("no dashboard", none), ("console off", off)):
        rate = statistics.median(each.seen.rate for each in taken)
        p99 = statistics.median(each.seen.p99_ms for each in taken)
        rest = [_mean(taken, name) for name in ("workers_us", "console", "master", "messages")]
        table.rows.append([state, rate, p99, rest[0], f"{rest[1]:.1%}", f"{rest[2]:.1%}", rest[3]])
    table.title += "\n  (console and master: share of a core, in the server)"
    bench.report.tables.append(table)
    for other, wanted, name in ((none, 0.98, "none"), (off, None, "no console")):
        shares = [each.seen.rate / beside.seen.rate for each, beside in zip(some, other, strict=True)]
        errors = sum(each.seen.errors for each in some)
        load = f"{COUNT} dashboards against {name}, page, 100 connections"
        bench.report.rows.append(Row("dashboards", load, "x", shares, at_least=wanted, errors=errors))
    # The same wish where the machine is too busy for the rows above: what is not used cannot be missing elsewhere.
    added = sum(_mean(some, name) - _mean(none, name) for name in ("console", "master"))
    share = 100 * added / len(os.sched_getaffinity(0))
    load = f"CPU that {COUNT} dashboards take in the server, of all cores"
    bench.report.rows.append(Row("dashboards", load, "%", [share], at_most=2))


def _mean(taken: Sequence[Taken], name: str) -> float:
    """Not the median: the kernel counts CPU time in hundredths of a second."""
    return statistics.fmean(getattr(each, name) for each in taken)


def _measured(bench: Bench, watched: Route, alone: Route, viewers: Dashboards) -> list[list[Taken]]:
    """Without dashboards, with them, and without a console; in turn, and every other time the other way round."""
    none, some = replace(watched, name="no dashboard"), replace(watched, name=f"{COUNT} dashboards")
    routes = [none, some, replace(alone, name="console off")]

    def measure(route: Route) -> Taken:
        viewers.open()
        if route is not some:
            viewers.close()  # the same pause and the same work before each: machines are faster after a rest
        taken = _measure(route, bench.seconds)
        if route is some:
            taken.messages = viewers.close() / taken.seen.seconds
            assert taken.messages > COUNT / 2, f"the dashboards got {taken.messages:.0f} messages a second"
        return taken

    for route in (watched, alone):
        loads.wrk(route, PAGE, 100, 1)
    found: list[list[Taken]] = [[], [], []]
    for number in range(PAIRS):
        way = slice(None, None, -1 if number % 2 else 1)
        samples = bench.interleaved(f"dashboards, {number + 1} of {PAIRS}", routes[way], measure)
        for kept, taken in zip(found[way], samples, strict=True):
            kept += taken
    return found


def _measure(route: Route, seconds: float) -> Taken:
    server = route.relays["GT server"]
    assert isinstance(server, Relay)
    master, consoles = psutil.Process(server.pid), server.consoles
    before = server.cpu_s, sum(map(_cpu_s, consoles)), _cpu_s(master)
    began = time.monotonic()
    seen = loads.wrk(route, PAGE, 100, seconds)
    took = time.monotonic() - began
    after = server.cpu_s, sum(map(_cpu_s, consoles)), _cpu_s(master)
    workers, console, own = (now - then for now, then in zip(after, before, strict=True))
    return Taken(seen, workers / max(1, seen.requests) * 1e6, console / took, own / took, 0.0)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
