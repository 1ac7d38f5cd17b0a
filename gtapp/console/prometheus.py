"""GET /metrics for Prometheus: what the running relay counts, as families named `gt_…`.

Who may read it: whoever shows a token with the scope `metrics` (`authorization: {credentials: gt_…}` in Prometheus), or
is logged in. While the console listens on loopback alone, programs on this machine need no token; a request that
came by a proxy, or by a service that GT itself publishes, is none of them.

Counters never go back while the master lives. Labels are bounded: the MOST_LABELS users with most bytes each have
their own, all others together are user="other"; hosts, which clients can choose at will, have none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, abort, current_app, request
from flask_login import current_user
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gtapp import __version__
from gtapp.console.auth import bearer, public
from gtapp.console.context import console
from gtapp.errors import GTError
from gtapp.observe import metrics

MOST_LABELS = (
    100  # users with numbers of their own; a series for each of 100,000 would be a burden for Prometheus
)
OTHER = "other"
_EXTENSION = "gt-prometheus"

_BY_NAME = {each.name: each for each in metrics.METRICS}
_HELP = {each.name: each.help for each in metrics.HISTOGRAMS}
_REFUSED = "visitors_refused_"  # one family, with the answer as its label
_PARTS = {  # of a user or a service: name, kind and help
    "tunnels": ("tunnels", GaugeMetricFamily, "Tunnels that are up"),
    "streams": ("streams", GaugeMetricFamily, "Relayed connections that are open"),
    "opened": ("streams_opened", CounterMetricFamily, "Relayed connections opened"),
    "bytes_in": ("relayed_in_bytes", CounterMetricFamily, "Bytes relayed from visitors to services"),
    "bytes_out": ("relayed_out_bytes", CounterMetricFamily, "Bytes relayed from services to visitors"),
}
_PROCESS = {
    "rss": ("resident_memory_bytes", GaugeMetricFamily, "Resident memory"),
    "cpu_s": ("cpu_seconds", CounterMetricFamily, "CPU time used"),
    "fds": ("open_fds", GaugeMetricFamily, "Open file descriptors"),
}
_FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

blueprint = Blueprint("prometheus", __name__)


@blueprint.get("/metrics")
@public
def index() -> Response:
    """Everything at once. 503 while the relay does not answer, so that Prometheus sees it as down."""
    _check_access()
    try:
        answer = console().running.metrics()
    except GTError as error:
        return Response(f"{error}\n", 503, mimetype="text/plain")
    rest: Rest = current_app.extensions.setdefault(_EXTENSION, Rest())
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(answer, rest))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type, headers={"Cache-Control": "no-store"})


def _check_access() -> None:
    """Anybody else is told 401, or 403 when logged in with a token that is for something else."""
    if current_user.is_authenticated:
        if "metrics" not in current_user.scopes:
            abort(403)
    elif bearer() is not None or not (console().on_loopback and _is_local()):
        abort(401)


def _is_local() -> bool:
    """Whether a program of this machine asks, and not somebody else through a proxy of this machine."""
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return False
    name = request.host.rpartition(":")[0] if not request.host.endswith("]") else request.host
    name = (name or request.host).strip("[]").lower()
    return address.is_loopback and name in _LOCAL_NAMES and not any(map(request.headers.get, _FORWARDING))


class Rest:
    """What the users without a label of their own have in all. Who has one changes: their counters alone would go
    back then, so what each adds from one scrape to the next is summed up here."""

    def __init__(self) -> None:
        self._before: dict[str, dict[str, float]] = {}
        self._sums = dict.fromkeys(_PARTS, 0.0)

    def split(
        self, users: Mapping[str, Mapping[str, float]], most: int = MOST_LABELS
    ) -> dict[str, Mapping[str, float]]:
        """The numbers by label: `most` users with most bytes, and OTHER where there are more users or have been."""
        by_bytes = sorted(users.items(), key=lambda each: (-_bytes(each[1]), each[0]))
        shown: dict[str, Mapping[str, float]] = {
            id: numbers for id, numbers in by_bytes[:most] if id != OTHER
        }
        now: dict[str, dict[str, float]] = {}
        gauges = {"tunnels": 0.0, "streams": 0.0}
        for id, numbers in users.items():
            now[id] = {part: numbers.get(part, 0) for part in _PARTS}
            if id in shown:
                continue
            before = self._before.get(id, {})
            for part, (_, family, _) in _PARTS.items():
                if family is CounterMetricFamily:
                    more = now[id][part] - before.get(part, 0.0)
                    self._sums[part] += more if more >= 0 else now[id][part]  # the master has begun anew
                else:
                    gauges[part] += now[id][part]
        self._before = now
        if len(shown) < len(users) or any(self._sums.values()):
            shown[OTHER] = {**self._sums, **gauges}
        return shown


class _Collector(Collector):
    """One answer of the relay, as families."""

    def __init__(self, answer: Mapping[str, Any], rest: Rest) -> None:
        units: list[Mapping[str, Any]] = answer.get("units", [])
        self._unit = units[0] if units else {}  # the one that this console is of
        self._rest = rest

    def collect(self) -> Iterator[Metric]:
        unit = self._unit
        info = GaugeMetricFamily("gt_build_info", "The program.", labels=["version", "role"])
        info.add_metric([__version__, console().role], 1)
        yield info
        yield from _totals(unit.get("total", {}))
        yield from _histograms(unit.get("histograms", {}))
        yield from _processes(unit.get("processes", []))
        yield from _parts("user", self._rest.split(unit.get("users", {})))
        services: Mapping[str, Mapping[str, float]] = unit.get("services", {})
        yield from _parts("service", dict(sorted(services.items())[:MOST_LABELS]))


def _totals(total: Mapping[str, float]) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "gt_visitors_refused", "Visitors refused, by the answer.", labels=["answer"]
    )
    for name, value in total.items():
        known = _BY_NAME.get(name)
        if known is None:
            continue
        if name.startswith(_REFUSED):
            refused.add_metric([name.removeprefix(_REFUSED)], value)
            continue
        family = CounterMetricFamily if known.kind == "counter" else GaugeMetricFamily
        yield family(f"gt_{_PARTS[name][0] if name in _PARTS else name}", known.help, value)
    if refused.samples:
        yield refused


def _histograms(histograms: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    for name, numbers in histograms.items():
        buckets = [(str(float(le)), float(count)) for le, count in numbers["buckets"]]
        buckets.append(("+Inf", float(numbers["count"])))
        yield HistogramMetricFamily(f"gt_{name}", _HELP.get(name, name), buckets, numbers["sum"])


def _processes(processes: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    for part, (name, family, help) in _PROCESS.items():
        made = family(f"gt_process_{name}", f"{help}.", labels=["kind", "pid"])
        for each in processes:
            if each.get(part) is not None:
                made.add_metric([str(each["kind"]).partition(" ")[0], str(each["pid"])], each[part])
        yield made


def _parts(label: str, numbers: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    """Families with one sample for each user or service."""
    for part, (name, family, help) in _PARTS.items():
        made = family(f"gt_{label}_{name}", f"{help}, by {label}.", labels=[label])
        for value, each in numbers.items():
            if part in each:
                made.add_metric([value], each[part])
        if made.samples:
            yield made


def _bytes(numbers: Mapping[str, float]) -> float:
    return numbers.get("bytes_in", 0) + numbers.get("bytes_out", 0)
