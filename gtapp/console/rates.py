"""What the relay's counters say about the last second: from two of its answers, without a clock or I/O. Used by the
sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gtapp.console.series import PART_FIELDS, Part, busiest

MOST_PARTS = 50  # users, and hosts, with numbers of their own; what all others have is one more
_FADE = 0.99  # what counts for who is busiest, from one second to the next: five minutes and it is forgotten
_FORGET = 1.0  # bytes a second below which nobody counts as busy

# Why visitors were not served, in the order in which pages show them.
REFUSED = (
    "visitors_refused_404",
    "visitors_refused_503",
    "visitors_refused_502",
    "visitors_refused_504",
    "visitors_refused_403",
    "streams_forbidden",
    "visitors_refused_400",
    "visitors_refused_431",
    "visitors_refused_505",
    "visitors_refused_alert",
    "visitors_refused_reset",
    "visitors_not_http",
    "visitors_not_tls",
    "visitors_head_timeout",
)
FAILED = ("visitors_tls_failed", "handshakes_failed", "dials_failed", "tunnels_lost", "accept_paused")
PROBLEMS = (*REFUSED, *FAILED)

_GAUGES = {"streams": "streams", "tunnels": "tunnels", "clients": "clients", "visitors_waiting": "waiting"}
_COUNTERS = {"streams_opened": "opened", "bytes_in": "bytes_in", "bytes_out": "bytes_out"}
_PART_COUNTERS = PART_FIELDS[1:]


@dataclass
class Now:
    """How it is: `total` by the names of `series.FIELDS`, parts by kind and name, problems since the relay started."""

    total: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, Part]] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # the user of each host
    processes: list[dict[str, Any]] = field(default_factory=list)


class Rates:
    """Told each answer to the command `metrics`, it tells what happened a second since the one before."""

    def __init__(self, most: int = MOST_PARTS) -> None:
        self._most = most
        self._before: dict[str, Any] | None = None
        self._busy: dict[str, dict[str, float]] = {}

    def forget(self) -> None:
        """The next answer has none before it: the relay was away, and counts anew perhaps."""
        self._before = None

    def next(self, unit: dict[str, Any], seconds: float) -> Now:
        """`unit` is the relay's part of the answer, `seconds` have gone by since the one before."""
        before, self._before = self._before, unit
        total = unit.get("total", {})
        now = Now(processes=unit.get("processes", []))
        now.problems = {name: int(total[name]) for name in PROBLEMS if name in total}
        now.total = {field: float(total.get(name, 0)) for name, field in _GAUGES.items()}
        now.total["gt_memory"] = float(sum(each.get("rss", 0) for each in now.processes))
        now.total["fds"] = float(sum(each.get("fds", 0) for each in now.processes))
        if before is None or seconds <= 0 or _counts_anew(before.get("total", {}), total):
            before = unit
            seconds = 1.0
        old = before.get("total", {})
        for name, known in _COUNTERS.items():
            now.total[known] = _grown(old, total, name) / seconds
        now.total["refused"] = sum(_grown(old, total, name) for name in REFUSED) / seconds
        now.total["failed"] = sum(_grown(old, total, name) for name in FAILED) / seconds
        now.total["gt_cpu"] = _cpu(before.get("processes", []), now.processes) / seconds
        for kind in ("users", "hosts", "services"):
            if kind in unit:
                now.parts[kind] = self._parts(kind, before.get(kind, {}), unit[kind], seconds)
        now.owners = {name: str(each.get("user", "")) for name, each in unit.get("hosts", {}).items()}
        return now

    def _parts(
        self, kind: str, before: Mapping[str, Any], after: Mapping[str, Any], seconds: float
    ) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        busy = {name: weight * _FADE for name, weight in self._busy.get(kind, {}).items()}
        for name, numbers in after.items():
            old = before.get(name, numbers)
            grown = [_grown(old, numbers, key) / seconds for key in _PART_COUNTERS]
            streams = float(numbers.get("streams", 0))
            parts[name] = (streams, *grown)
            weight = busy.get(name, 0.0) + grown[1] + grown[2] + streams
            if weight >= _FORGET and name in parts:
                busy[name] = weight
        self._busy[kind] = {
            name: weight for name, weight in busy.items() if weight >= _FORGET and name in parts
        }
        active = {name: part for name, part in parts.items() if any(part)}
        order = sorted(active, key=lambda name: (-self._busy[kind].get(name, 0.0), name))
        return busiest(active, order, self._most)


def _grown(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> float:
    """By how much a counter has; one that went back was begun anew with another worker's account."""
    return max(0.0, float(new.get(name, 0)) - float(old.get(name, 0)))


def _counts_anew(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the master is another one."""
    return any(float(new.get(name, 0)) < float(old.get(name, 0)) for name in _COUNTERS)


def _cpu(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> float:
    """Seconds of CPU that the processes have used; of one that is new, none."""
    before = {each.get("pid"): float(each.get("cpu_s", 0.0)) for each in old}
    return sum(
        max(0.0, float(each.get("cpu_s", 0.0)) - before[each.get("pid")])
        for each in new
        if each.get("pid") in before
    )
