"""Samples of the charts: numbers of the whole and of its busiest parts at a moment, and rows of them. The sampler fills
them, pages read them.

A sample's `total` has FIELDS, gauges and what happened a second; its parts, users and hosts (services, at a client),
have PART_FIELDS. Parts stay JSON as the database has them: who looks at a chart of one of them is rare, and a hundred
of them each second would be many objects.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GAUGES = ("streams", "tunnels", "clients", "waiting", "cpu", "memory", "gt_memory", "fds")
RATES = ("opened", "bytes_in", "bytes_out", "refused", "failed", "gt_cpu")
FIELDS = (*GAUGES, *RATES)
PART_FIELDS = ("streams", "opened", "bytes_in", "bytes_out")
REST = ""  # the name of all parts that are not among the busiest

Part = Sequence[float]  # in the order of PART_FIELDS
Parts = Mapping[str, Mapping[str, Part]]  # by "users", "hosts" or "services", then by name


@dataclass(frozen=True, slots=True)
class Sample:
    """How it was in the second, or minute, before `time` (seconds since 1970)."""

    time: int
    total: tuple[float, ...]  # in the order of FIELDS
    parts: str  # JSON of Parts, without those at rest
    problems: Mapping[str, int] = field(default_factory=dict)  # of a minute: how many there had been, ever

    def encode(self) -> str:
        """As the database keeps it."""
        more = f',"problems":{_json(dict(self.problems))}' if self.problems else ""
        return f'{{"total":{_json(self.total)},"parts":{self.parts}{more}}}'

    def part(self, kind: str, name: str) -> Part:
        found: Part = self.all_parts().get(kind, {}).get(name, _NOTHING)
        return found

    def all_parts(self) -> dict[str, dict[str, list[float]]]:
        found: dict[str, dict[str, list[float]]] = json.loads(self.parts)
        return found

    def __getitem__(self, field: str) -> float:
        return self.total[FIELDS.index(field)]


_NOTHING = (0.0,) * len(PART_FIELDS)


def make(
    time: int, total: Mapping[str, float], parts: Parts, problems: Mapping[str, int] | None = None
) -> Sample:
    """A sample, of what is not known with 0, and without parts that rest."""
    busy = {
        kind: {name: [_short(value) for value in part] for name, part in named.items() if any(part)}
        for kind, named in parts.items()
    }
    return Sample(time, tuple(_short(total.get(name, 0.0)) for name in FIELDS), _json(busy), problems or {})


def decode(time: int, text: str) -> Sample | None:
    """A sample from the database; None where another version of GT had other fields."""
    try:
        found = json.loads(text)
        total = tuple(float(value) for value in found["total"])
        parts = found["parts"]
        problems = {str(name): int(count) for name, count in found.get("problems", {}).items()}
        whole = all(
            len(part) == len(PART_FIELDS) for named in parts.values() for part in named.values()
        ) and len(total) == len(FIELDS)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Sample(time, total, _json(parts), problems) if whole else None


class Mean:
    """Makes one sample of many."""

    def __init__(self) -> None:
        self._count = 0
        self._total = [0.0] * len(FIELDS)
        self._parts: dict[str, dict[str, list[float]]] = {}

    def add(self, total: Sequence[float], parts: Parts) -> None:
        self._count += 1
        for index, value in enumerate(total):
            self._total[index] += value
        for kind, named in parts.items():
            known = self._parts.setdefault(kind, {})
            for name, part in named.items():
                sums = known.setdefault(name, [0.0] * len(PART_FIELDS))
                for index, value in enumerate(part):
                    sums[index] += value

    def take(self, time: int, most: int, problems: Mapping[str, int] | None = None) -> Sample | None:
        """The mean of what was added since the last time, with `most` parts of a kind; None when that was nothing."""
        count, self._count = self._count, 0
        if not count:
            return None
        total = dict(zip(FIELDS, (value / count for value in self._total), strict=True))
        parts = {
            kind: busiest(
                {name: [value / count for value in part] for name, part in named.items()}, list(named), most
            )
            for kind, named in self._parts.items()
        }
        self._total, self._parts = [0.0] * len(FIELDS), {}
        return make(time, total, parts, problems)


def busiest(parts: Mapping[str, Part], order: Iterable[str], most: int) -> dict[str, Part]:
    """The first `most` in this order, and the rest as one. A rest among the parts stays in the rest."""
    chosen: dict[str, Part] = {}
    rest = [0.0] * len(PART_FIELDS)
    for name in order:
        if name != REST and len(chosen) < most:
            chosen[name] = parts[name]
        else:
            rest = [have + more for have, more in zip(rest, parts[name], strict=True)]
    if any(rest):
        chosen[REST] = rest
    return chosen


class Series:
    """The last `length` samples, one for every `step` seconds; there may be gaps."""

    def __init__(self, step: int, length: int) -> None:
        self.step = step
        self.length = length
        self._samples: deque[Sample] = deque(maxlen=length)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        """The oldest first."""
        return iter(self._samples)

    @property
    def last(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    @property
    def span_s(self) -> int:
        return self.step * self.length

    def add(self, sample: Sample) -> bool:
        """Whether it was later than all before; otherwise it is left out."""
        if self._samples and sample.time <= self._samples[-1].time:
            return False
        self._samples.append(sample)
        return True

    def forget_after(self, time: int) -> None:
        """The clock was set back: what it showed after `time` has not been yet."""
        while self._samples and self._samples[-1].time > time:
            self._samples.pop()

    def columns(self, now: int, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        """For the charts: times, and for each field a row of numbers, the last `span_s` up to `now`, None in gaps."""
        indexes = [FIELDS.index(name) for name in fields]
        rows = self._rows(now)
        return {
            "step": self.step,
            "times": [time for time, _ in rows],
            "columns": {
                name: [None if each is None else each.total[index] for _, each in rows]
                for name, index in zip(fields, indexes, strict=True)
            },
        }

    def part_columns(self, now: int, kind: str, name: str) -> dict[str, Any]:
        """The same for one user, host or service."""
        rows = self._rows(now)
        parts = [None if each is None else each.part(kind, name) for _, each in rows]
        return {
            "step": self.step,
            "times": [time for time, _ in rows],
            "columns": {
                field: [None if each is None else each[index] for each in parts]
                for index, field in enumerate(PART_FIELDS)
            },
        }

    def lines(self, now: int, kind: str, names: Sequence[str], points: int) -> dict[str, list[float]]:
        """For small charts: the bytes a second of each, both ways together, as so many means."""
        lines = {name: [0.0] * points for name in names}
        counts = [0] * points
        start = now - self.span_s
        for sample in self._samples:
            place = (sample.time - start - 1) * points // self.span_s
            if not 0 <= place < points:
                continue
            counts[place] += 1
            parts = sample.all_parts().get(kind, {})
            for name in lines.keys() & parts.keys():
                lines[name][place] += parts[name][2] + parts[name][3]
        return {
            name: [value / max(1, count) for value, count in zip(line, counts, strict=True)]
            for name, line in lines.items()
        }

    def _rows(self, now: int) -> list[tuple[int, Sample | None]]:
        """A moment for each step, with its sample; a sample is at most half a step off."""
        start = now - self.span_s
        rows: list[tuple[int, Sample | None]] = []
        for sample in self._samples:
            if not start < sample.time <= now:
                continue
            while rows and sample.time - rows[-1][0] > 1.5 * self.step:
                rows.append((rows[-1][0] + self.step, None))
            rows.append((sample.time, sample))
        return rows


def _short(value: float) -> float:
    """Three digits are enough after the point, and none takes the least room."""
    rounded = round(value, 3)
    return int(rounded) if rounded == int(rounded) else rounded


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
