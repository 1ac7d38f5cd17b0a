"""Counters, gauges and histograms of this process. Counted all over the data path; read by `gt.py status`, console and
Prometheus.

The fields of `Counters` and `Gauges`, and HISTOGRAMS, are the table: name, help and unit stand nowhere else.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple


def _metric(help: str, unit: str) -> int:
    return field(default=0, metadata={"help": help, "unit": unit})


@dataclass(slots=True)
class Counters:
    """What happened since the process started. Incremented where it happens: `counters.streams_opened += 1`."""

    visitors_accepted: int = _metric("Visitors who said where they want to go.", "connections")
    visitors_passed: int = _metric("Visitors passed to another worker, which has the tunnel.", "connections")
    visitors_not_http: int = _metric("Visitors whose first bytes were not HTTP: closed.", "connections")
    visitors_not_tls: int = _metric(
        "Visitors of sniAddr whose first bytes were not TLS: closed.", "connections"
    )
    visitors_tls_failed: int = _metric("Visitors and tunnels whose TLS handshake failed.", "connections")
    visitors_head_timeout: int = _metric("Visitors that sent no head in time: closed.", "connections")
    visitors_refused_400: int = _metric("Visitors answered 400: a malformed head.", "connections")
    visitors_refused_403: int = _metric(
        "Visitors answered 403: their address may not come in.", "connections"
    )
    visitors_refused_404: int = _metric("Visitors answered 404: nobody publishes that host.", "connections")
    visitors_refused_431: int = _metric("Visitors answered 431: a head beyond the limit.", "connections")
    visitors_refused_502: int = _metric("Visitors answered 502: the local service refused.", "connections")
    visitors_refused_503: int = _metric("Visitors answered 503: that host's client is away.", "connections")
    visitors_refused_504: int = _metric("Visitors answered 504: the local service was silent.", "connections")
    visitors_refused_505: int = _metric("Visitors answered 505: not HTTP/1.", "connections")
    visitors_refused_alert: int = _metric(
        "Visitors of sniAddr who got an alert: nobody publishes that.", "connections"
    )
    visitors_refused_reset: int = _metric(
        "Visitors of a TCP port whose client is away: reset.", "connections"
    )
    accept_paused: int = _metric("Times that accepting paused for want of descriptors.", "times")
    tunnels_opened: int = _metric("Tunnels that came up.", "tunnels")
    tunnels_lost: int = _metric("Tunnels that ended without having been asked to.", "tunnels")
    handshakes_failed: int = _metric("Tunnels refused: credentials, limits, errors.", "tunnels")
    streams_opened: int = _metric("Relayed connections opened inside tunnels.", "streams")
    streams_reset: int = _metric("Relayed connections that were cut, or idle too long.", "streams")
    streams_forbidden: int = _metric("Visitors kept out by allowIPs or denyIPs of a service.", "streams")
    dials_failed: int = _metric("Local services that refused or did not answer.", "connections")
    bytes_in: int = _metric("Bytes relayed from visitors to services.", "bytes")
    bytes_out: int = _metric("Bytes relayed from services to visitors.", "bytes")


@dataclass(slots=True)
class Gauges:
    """What is so at present. Never stored: `watch` names a function that tells."""

    clients: int = _metric("Clients with at least one tunnel.", "clients")
    tunnels: int = _metric("Tunnels that are up.", "tunnels")
    streams: int = _metric("Relayed connections that are open.", "streams")
    visitors_waiting: int = _metric("Visitors accepted, not relayed yet.", "connections")
    queued_bytes: int = _metric("Bytes waiting to be sent on tunnels.", "bytes")


class Metric(NamedTuple):
    """A line of the table. A counter only grows."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    unit: str


METRICS = (
    *(Metric(f.name, "counter", f.metadata["help"], f.metadata["unit"]) for f in fields(Counters)),
    *(Metric(f.name, "gauge", f.metadata["help"], f.metadata["unit"]) for f in fields(Gauges)),
)

counters = Counters()  # of this process

_gauges: dict[str, Callable[[], int]] = {}


def watch(name: str, read: Callable[[], int]) -> None:
    """From now on the gauge `name`, a field of Gauges, is what `read` returns. Raises KeyError for an unknown name."""
    if name not in Gauges.__slots__:
        raise KeyError(name)
    _gauges[name] = read


def snapshot() -> dict[str, int]:
    """All counters, and the gauges that are watched in this process, by name."""
    now = {metric.name: getattr(counters, metric.name) for metric in METRICS if metric.kind == "counter"}
    now.update((name, read()) for name, read in _gauges.items())
    return now


def summed(snapshots: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Those of several processes in one, in the order of the table; what only one of them knows is there as well.

    A client with tunnels in two processes counts twice among `clients`.
    """
    total: Counter[str] = Counter()
    for each in snapshots:
        total.update(each)
    known = [metric.name for metric in METRICS if metric.name in total]
    return {name: total[name] for name in dict.fromkeys((*known, *total))}


COUNTERS = frozenset(field.name for field in fields(Counters))


class Histogram:
    """How often something took how long. A value counts for the first of `bounds` that it does not exceed.

    What took no time worth measuring may be counted in `counts[0]` right away.
    """

    __slots__ = ("_bounds", "_sum", "counts", "help", "name")

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help
        self._bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def snapshot(self) -> dict[str, Any]:
        """For each bound how many did not exceed it (what Prometheus calls le), then their sum and number."""
        buckets, reached = [], 0
        for bound, count in zip(self._bounds, self.counts, strict=False):
            reached += count
            buckets.append([bound, reached])
        return {"buckets": buckets, "sum": round(self._sum, 6), "count": sum(self.counts)}


_WAITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

tunnel_rtt = Histogram(
    "tunnel_rtt_seconds",
    "Round trips of tunnels.",
    (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
tunnel_opening = Histogram("tunnel_opening_seconds", "Openings of tunnels that came up.", _WAITS)
dial_seconds = Histogram("dial_seconds", "Connecting to local services, where that went well.", _WAITS)
stream_seconds = Histogram(
    "stream_seconds",
    "How long relayed connections lasted, to the second.",
    (1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0),
)

HISTOGRAMS = (tunnel_rtt, tunnel_opening, dial_seconds, stream_seconds)


def histograms() -> dict[str, dict[str, Any]]:
    """All of this process, by name."""
    return {each.name: each.snapshot() for each in HISTOGRAMS}
