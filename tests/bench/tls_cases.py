"""The cases of visitors over HTTPS whose TLS ends at the server. Used by cases.py."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING

from tests.bench import loads
from tests.bench.parts import PAGE, PAGE_HOST, SINK_HOST, Parts, Route
from tests.bench.report import Row
from tests.support.certificates import Files, make_pair
from tests.support.http import Visitor
from tests.support.processes import eventually
from tests.support.tls import over_tls, trusting

if TYPE_CHECKING:
    from tests.bench.cases import Bench

AT_ONCE = 16  # visitors who come one after the other, each a process: `openssl s_time` knows no other way

HAPROXY = """
global
    nbthread 1
    maxconn {connections}
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen pages
    bind {here} {tls} backlog 4096
    server next {there}
"""


def https100(bench: Bench) -> None:
    """612-byte page over HTTPS, 100 connections; haproxy takes the TLS off in front of its second hop"""
    load = "612-byte page over HTTPS, 100 connections"
    with bench.parts.subset() as parts:
        routes = _routes(bench, parts)

        def measure(route: Route, seconds: float = bench.seconds) -> loads.Seen:
            return loads.wrk(route, "/page.html", 100, seconds, origin=f"https://{_text(route)}")

        for route in routes:
            measure(route, 1)
        seen = bench.interleaved(load, routes, measure)
    rates = [[each.rate for each in samples] for samples in seen]
    errors = sum(each.errors for each in seen[0])
    bench.report.rows.append(Row("https100", load, "/s", *rates, at_least=0.8, errors=errors))


def handshakes(bench: Bench) -> None:
    """new TLS connections (none resumes a session), each with one 612-byte page"""
    load = f"new TLS connections with a page each, {AT_ONCE} at a time"
    with bench.parts.subset() as parts:
        routes = _routes(bench, parts)
        for route in routes:
            _connections(route, 1)
        samples = bench.interleaved(load, routes, lambda route: _connections(route, bench.seconds))
    rates = [[rate for rate, _ in taken] for taken in samples]
    bench.report.rows.append(Row("handshakes", load, "/s", *rates, at_least=0.5))
    # The visitors take more of the processor than the relays do: so this says more.
    costs = [[1 / cpu_s for _, cpu_s in taken] for taken in samples]
    bench.report.rows.append(Row("handshakes", "the same per second of CPU time", "", *costs, at_least=0.5))


def _routes(bench: Bench, parts: Parts) -> list[Route]:
    """GT with a certificate, and haproxy with the same."""
    files = make_pair(["127.0.0.1", PAGE_HOST, SINK_HOST]).write(parts.directory, "https")
    routes = [_gt(bench, parts, files), _haproxy(bench, parts, files)]
    for route in routes:
        eventually(lambda route=route: _answers(route, files), f"{route.name} leads to the page")
    return routes


def _gt(bench: Bench, parts: Parts, files: Files) -> Route:
    port = parts.port()
    flags = ["--tlsAddr", str(port), "--certFile", str(files.cert), "--keyFile", str(files.key)]
    relays = parts.gt(bench.nginx, server=flags).relays
    return Route("GT", port.address, port.address, relays)


def _haproxy(bench: Bench, parts: Parts, files: Files) -> Route:
    both = parts.directory / "https.pem"
    both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    target, relays = bench.nginx, {}
    for name, tls in (("haproxy back", ""), ("haproxy front", f"ssl crt {both} alpn http/1.1")):
        port = parts.port()
        config = parts.directory / f"haproxy-{port.number}.cfg"
        values = {"here": port, "there": _text(target), "tls": tls}
        config.write_text(HAPROXY.format(connections=parts.files // 2 - 100, **values))
        relays[name] = parts.start(name, ["haproxy", "-db", "-f", str(config)])
        target = Route("haproxy", port.address, port.address, relays)
    return target


def _answers(route: Route, files: Files) -> bool:
    with Visitor(route.pages) as visitor:
        over_tls(visitor, trusting(files.cert), PAGE_HOST)
        visitor.request(PAGE_HOST, "/page.html")
        return visitor.response().body == PAGE


def _connections(route: Route, seconds: float) -> tuple[float, float]:
    """Connections/s, and seconds of CPU time of the relays for each. Full handshakes: wrk would resume its sessions."""
    page = f"/page.html HTTP/1.0\r\nHost: {PAGE_HOST}\r\nX-Rest:"  # s_time writes the rest of a request line after it
    argv = ["openssl", "s_time", "-connect", _text(route), "-new", "-www", page, "-time", str(round(seconds))]
    started, used = time.monotonic(), sum(relay.cpu_s for relay in route.relays.values())
    visitors = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(AT_ONCE)
    ]
    count = 0
    for visitor in visitors:
        output, _ = visitor.communicate(timeout=seconds + 60)
        found = re.search(r"(\d+) connections in \d+ real seconds, (\d+) bytes read per connection", output)
        assert found, f"{route.name}: {output}"
        assert int(found[2]) > len(PAGE), f"{route.name} does not send the page: {output}"
        count += int(found[1])
    used = sum(relay.cpu_s for relay in route.relays.values()) - used
    return count / (time.monotonic() - started), used / count


def _text(route: Route) -> str:
    return f"{route.pages[0]}:{route.pages[1]}"
