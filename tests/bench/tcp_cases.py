"""The cases of what is no HTTP to GT: TLS that is passed through by its name, and TCP ports. Used by cases.py."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml

from tests.bench import loads
from tests.bench.parts import NGINX, PAGE, ROOT, Parts, Route
from tests.bench.report import Row
from tests.support.certificates import make_pair
from tests.support.http import Visitor
from tests.support.ports import Address, Port
from tests.support.processes import Child, eventually
from tests.support.tls import over_tls, trusting

if TYPE_CHECKING:
    from tests.bench.cases import Bench

NAME = "localhost"  # wrk sends the host of the URL as server name, and has to find it
PINGS_PER_S = 15_000  # about what comes through: so a round takes the time that it should

HAPROXY = """
global
    nbthread 1
    maxconn {connections}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
"""

HAPROXY_SNI = """
frontend in
    bind {here} backlog 4096
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend next if {{ req.ssl_sni -i {name} }}
backend next
    server next {there}
"""

HAPROXY_TCP = """
listen in
    bind {here} backlog 4096
    server next {there}
"""


def sni(bench: Bench) -> None:
    """TLS passed through by its server name: 612-byte page over HTTPS, 100 connections"""
    load = "HTTPS page passed through by SNI, 100 connections"
    with bench.parts.subset() as parts:
        nginx = _tls_nginx(parts)
        port = parts.port()
        relays = _published(
            parts, ["--sniAddr", str(port)], {"local": f"https://{_text(nginx)}", "hostPrefix": NAME}
        )
        routes = [
            Route("GT", port.address, port.address, relays),
            _haproxy_twice(parts, HAPROXY_SNI, nginx),
            Route("nginx", nginx, nginx),
        ]

        def measure(route: Route, seconds: float = bench.seconds) -> loads.Seen:
            origin = f"https://{NAME}:{route.pages[1]}"
            return loads.wrk(route, "/page.html", 100, seconds, origin=origin)

        for route in routes:
            _wait_for(parts, route)
            measure(route, 1)
        seen = bench.interleaved(load, routes, measure)
    rates = [[each.rate for each in samples] for samples in seen]
    errors = sum(each.errors for each in seen[0])
    bench.report.rows.append(Row("sni", load, "/s", *rates, at_least=0.8, errors=errors))


def tcp_bulk(bench: Bench) -> None:
    """a TCP port: one download and one upload of 1 GB"""
    with bench.parts.subset() as parts:
        ports = [parts.port(), parts.port()]
        targets = (bench.nginx.pages, bench.nginx.uploads)
        relays = _published(parts, _ranges(ports), *map(_tcp_service, targets, ports))
        gt = Route("GT", ports[0].address, ports[1].address, relays)
        for load, transfer in (
            ("TCP port: 1 GB to the visitor", loads.download),
            ("TCP port: 1 GB to the service", loads.upload),
        ):
            samples = bench.interleaved(load, (gt, bench.haproxy, bench.nginx), transfer)
            rates = [[each / 1e6 for each in taken] for taken in samples]
            bench.report.rows.append(Row("tcp_bulk", load, "MB/s", *rates, at_least=0.8))


def tcp_small(bench: Bench) -> None:
    """a TCP port: redis, 100 connections, each with one small message under way"""
    load = "TCP port: PING and PONG of redis, 100 connections"
    with bench.parts.subset() as parts:
        redis, port = parts.port(), parts.port()
        words = ["redis-server", "--bind", redis.address[0], "--port", str(redis.number), "--save", ""]
        parts.start("redis", [*words, "--dir", str(parts.directory)]).wait_for("eady to accept")
        relays = _published(parts, _ranges([port]), _tcp_service(redis.address, port))
        routes = [
            Route("GT", port.address, port.address, relays),
            _haproxy_twice(parts, HAPROXY_TCP, redis.address),
            Route("redis", redis.address, redis.address),
        ]

        def measure(route: Route, seconds: float = bench.seconds) -> float:
            return loads.pings(route, 100, round(PINGS_PER_S * seconds))

        for route in routes:
            eventually(lambda route=route: measure(route, 0.1), f"{route.name} leads to redis")
        samples = bench.interleaved(load, routes, measure)
    bench.report.rows.append(Row("tcp_small", load, "/s", *samples, at_least=0.8))


def _tls_nginx(parts: Parts) -> Address:
    """The page of the other cases, over TLS."""
    root = parts.directory / "tls-nginx"
    (root / "www").mkdir(parents=True)
    (root / "www" / "page.html").write_bytes(PAGE)
    files = make_pair([NAME]).write(root)
    port = parts.port()
    listen = f"{port} ssl"
    tls = f"ssl_certificate {files.cert}; ssl_certificate_key {files.key}; ssl_protocols TLSv1.2 TLSv1.3;"
    text = NGINX.format(root=root, address=listen, files=parts.files)
    config = root / "nginx.conf"
    config.write_text(text.replace("location = /two", f"{tls}\n        location = /two"))
    parts.start("nginx with TLS", ["nginx", "-p", str(root), "-c", str(config), "-e", "stderr"])
    return port.address


def _haproxy_twice(parts: Parts, listen: str, target: Address) -> Route:
    """Two haproxy processes of one thread in a row."""
    relays: dict[str, Child] = {}
    for name in ("haproxy back", "haproxy front"):
        port = parts.port()
        config = parts.directory / f"haproxy-{port.number}.cfg"
        text = HAPROXY.format(connections=parts.files // 2 - 100)
        config.write_text(text + listen.format(here=port, there=_text(target), name=NAME))
        relays[name] = parts.start(name, ["haproxy", "-db", "-f", str(config)])
        target = port.address
    return Route("haproxy", target, target, relays)


def _published(parts: Parts, server: Sequence[str], *services: dict[str, object]) -> dict[str, Child]:
    """A GT server with these flags and a client with these services."""
    port, id, secret = parts.port(), "bench", secrets.token_hex(16)
    gt = [sys.executable, str(ROOT / "gt.py")]
    who = ["--id", id, "--secret", secret]
    far = parts.start("GT server", [*gt, "server", "--addr", str(port), *who, *server])
    far.wait_for("listening on", count=2 if "--sniAddr" in server else 1)
    config = parts.directory / f"client-{port.number}.yml"
    config.write_text(yaml.safe_dump({"type": "client", "services": list(services)}))
    near = parts.start("GT client", [*gt, "client", "-c", str(config), *who, "--remote", f"tcp://{port}"])
    near.wait_for("tunnel .* is up")
    return {"GT server": far, "GT client": near}


def _tcp_service(target: Address, port: Port) -> dict[str, object]:
    return {"local": f"tcp://{_text(target)}", "remoteTCPPort": port.number}


def _ranges(ports: Sequence[Port]) -> list[str]:
    return [word for port in ports for word in ("--tcpRange", f"{port.number}-{port.number}")]


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _wait_for(parts: Parts, route: Route) -> None:
    def answers() -> bool:
        with Visitor(route.pages) as visitor:
            over_tls(visitor, trusting(parts.directory / "tls-nginx" / "server-cert.pem"), NAME)
            visitor.request(NAME, "/page.html")
            return visitor.response().body == PAGE

    eventually(answers, f"{route.name} leads to the page")
