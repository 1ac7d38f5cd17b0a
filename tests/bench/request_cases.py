"""The case of per-request mode: what it costs to read every request. Used by cases.py."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from tests.bench import loads
from tests.bench.parts import Route
from tests.bench.report import Row

if TYPE_CHECKING:
    from tests.bench.cases import Bench

FORWARDED = {"forwardedFor": True}


def requests(bench: Bench) -> None:
    """every request read on the way, as a share of the requests/s of the plain path in the same rounds"""
    load = "612-byte page, 100 connections"
    with bench.parts.subset() as parts:
        by_request = ["--routePerRequest"]
        routes = [
            bench.gt,
            parts.gt(bench.nginx, name="forwardedFor", service=FORWARDED),
            parts.gt(bench.nginx, name="routePerRequest", server=by_request),
            parts.gt(
                bench.nginx, name="forwardedFor and routePerRequest", server=by_request, service=FORWARDED
            ),
        ]

        def measure(route: Route) -> loads.Seen:
            return loads.wrk(route, "/page.html", 100, bench.seconds)

        for route in routes:
            loads.wrk(route, "/page.html", 100, 1)
        plain, *others = bench.interleaved(load, routes, measure)
    for route, seen in zip(routes[1:], others, strict=True):
        shares = [each.rate / beside.rate for each, beside in zip(seen, plain, strict=True)]
        rate = statistics.median(each.rate for each in seen)
        errors = sum(each.errors for each in seen)
        wanted = 0.5 if route is not routes[-1] else None
        name = f"{load}, {route.name}: {rate:,.0f}/s"
        bench.report.rows.append(Row("requests", name, "x plain", shares, at_least=wanted, errors=errors))
