"""What the relay's counters say about the last second: from two of its answers, without a clock or I/O. Used by the
sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any

from gtapp.console.series import PART_FIELDS, REST, Part, Parts, busiest

MOST_PARTS = 50  # users, and hosts, with numbers of their own; what all others have is one more
MOST_BUSIEST = 10
_FADE = 0.99  # what counts for who is busiest, from one second to the next: five minutes and it is forgotten
_FORGET = 1.0  # bytes a second below which nobody counts as busy
_SMOOTH = 0.75  # what a number that people read keeps of itself from one second to the next

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
_NOTHING = (0.0,) * len(PART_FIELDS)


@dataclass
class Now:
    """How it is: `total` by the names of `series.FIELDS`, parts by kind and name, problems since the relay started."""

    total: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, Part]] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    busiest: dict[str, list[tuple[str, Part]]] = field(
        default_factory=dict
    )  # of each kind, smoothed, to be shown
    processes: list[dict[str, Any]] = field(default_factory=list)


class Rates:
    """Told each answer to the command `metrics`, it tells what happened a second since the one before."""

    def __init__(self, most: int = MOST_PARTS) -> None:
        self._most = most
        self._before: dict[str, Any] | None = None
        self._busy: dict[str, dict[str, float]] = {}  # how busy, by kind and name
        self._smooth: dict[str, dict[str, Part]] = {}

    def forget(self) -> None:
        """The next answer has none before it: the relay was away, and counts anew perhaps."""
        self._before = None

    def remember(self, parts: Parts) -> None:
        """Of a sample from before: who was busy then counts as if it had been seen."""
        for kind, named in parts.items():
            busy = {name: weight * _FADE for name, weight in self._busy.get(kind, {}).items()}
            for name, part in named.items():
                if name != REST:
                    busy[name] = busy.get(name, 0.0) + part[0] + part[2] + part[3]
            self._busy[kind] = busy

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
                now.busiest[kind] = self._busiest(kind, now.parts[kind], unit[kind])
        return now

    def _parts(
        self, kind: str, before: Mapping[str, Any], after: Mapping[str, Any], seconds: float
    ) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        busy = {name: weight * _FADE for name, weight in self._busy.get(kind, {}).items() if weight > _FORGET}
        for name, numbers in after.items():
            old = before.get(name, numbers)
            streams = float(numbers.get("streams", 0))
            if old == numbers and not streams:  # nearly all, where there are thousands
                continue
            grown = [_grown(old, numbers, key) / seconds for key in _PART_COUNTERS]
            parts[name] = (streams, *grown)
            busy[name] = busy.get(name, 0.0) + grown[1] + grown[2] + streams
        self._busy[kind] = busy
        order = sorted(parts, key=lambda name: (-busy.get(name, 0.0), name))
        return busiest(parts, order, self._most)

    def _busiest(
        self, kind: str, parts: Mapping[str, Part], known: Mapping[str, Any]
    ) -> list[tuple[str, Part]]:
        """Those who were busy in the last minutes, though perhaps not this second: a table that stands still."""
        busy = self._busy[kind]
        names = nsmallest(
            MOST_BUSIEST, (name for name in busy if name in known), key=lambda name: (-busy[name], name)
        )
        before = self._smooth.get(kind, {})
        after: dict[str, Part] = {}
        for name in names:
            part = parts.get(name, _NOTHING)
            old = before.get(name, part)
            after[name] = (part[0], *(_smooth(*pair) for pair in zip(old[1:], part[1:], strict=True)))
        self._smooth[kind] = after
        return list(after.items())


def _smooth(before: float, now: float) -> float:
    value = _SMOOTH * before + (1 - _SMOOTH) * now
    return value if value >= 0.05 else 0.0


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
