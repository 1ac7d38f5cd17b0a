"""What the workers of one configuration have counted, added up so that no count ever goes back: of a worker that has
ended it keeps the last that was heard. The unit owns it; `facts` reads it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from gtapp.observe import metrics

MOST_ENDED = 10  # workers whose last log lines are kept
MOST = 10_000  # users, hosts or services; of those beyond, the ones that have relayed least are forgotten
GROUPS = ("users", "hosts", "services")
COUNTED = ("opened", "bytes_in", "bytes_out")  # of them; these only grow
PRESENT = ("tunnels", "streams")  # these tell of now

Numbers = dict[str, Any]


class Ledger:
    """`heard` is told what a worker has counted up to now, `gone` that it has ended."""

    def __init__(self) -> None:
        self._last: dict[int, Numbers] = {}  # by worker, each as `_parts` gives it
        self._past: Numbers = _parts({})
        self._groups: tuple[frozenset[int], Numbers, int, bool] | None = (
            None  # added up, as long as that holds
        )
        self._ended: set[int] = set()  # they have said their last, and are about to be gone
        self.last_words: dict[int, list[dict[str, Any]]] = {}  # log lines, by worker

    def ended(self, worker: int, answer: Mapping[str, Any]) -> None:
        """It says all it has counted, and its last log lines."""
        self.heard(worker, answer["counted"])
        self._ended.add(worker)
        if answer["log"]:
            self.last_words[worker] = answer["log"]
        while len(self.last_words) > MOST_ENDED:
            del self.last_words[next(iter(self.last_words))]

    def heard(self, worker: int, answer: Mapping[str, Any]) -> None:
        if worker in self._ended:  # it has been said before that
            return
        now, before = _parts(answer), self._last.get(worker)
        if not any(group in answer for group in GROUPS):
            if before is not None:
                now |= {group: before[group] for group in GROUPS}
        else:
            self._groups = None
            if before is not None:
                self._keep_dropped(before, now)
        self._last[worker] = now

    def knows(self, worker: int) -> bool:
        """Whether the worker has said for whom it has relayed."""
        return worker in self._last

    def _keep_dropped(self, before: Numbers, now: Numbers) -> None:
        """A worker knows as many as there may be: what had to make room, and has perhaps come back, counts on."""
        for group in GROUPS:
            for key, values in before[group].items():
                current = now[group].get(key)
                if current is None or current["opened"] < values["opened"]:
                    _add(self._past[group], key, values, COUNTED)

    def gone(self, worker: int) -> None:
        self._ended.discard(worker)
        self._groups = None
        last = self._last.pop(worker, None)
        if last is not None:
            _merge(self._past, last)
            _merge_groups(self._past, last, COUNTED)
            for group in GROUPS:
                _shorten(self._past[group])

    def total(self, present: Iterable[int]) -> tuple[Numbers, bool]:
        """All of it, not to be changed; `present` are the workers whose last answer tells of now. And whether something
        was left out."""
        alive = frozenset(present)
        if self._groups is None or self._groups[0] != alive:
            self._groups = (alive, *self._add_up(alive))
        _, groups, clients, cut = self._groups
        total = _parts({}) | groups
        _merge(total, self._past)
        for last in self._last.values():
            _merge(total, last)
        total["gauges"] = metrics.summed(
            last["gauges"] for worker, last in self._last.items() if worker in alive
        )
        if clients:
            total["gauges"]["clients"] = clients
        return total, cut

    def _add_up(self, alive: frozenset[int]) -> tuple[Numbers, int, bool]:
        """For whom was relayed how much; the number of users with tunnels; whether there are more than MOST."""
        groups: Numbers = {group: {} for group in GROUPS}
        _merge_groups(groups, self._past, COUNTED)
        for worker, last in self._last.items():
            _merge_groups(groups, last, (*COUNTED, *PRESENT) if worker in alive else COUNTED)
        clients = sum(bool(each.get("tunnels")) for each in groups["users"].values())
        cut = [_shorten(groups[group]) for group in GROUPS]
        return groups, clients, any(cut)

    # for the master that takes the place of this one

    def state(self) -> Numbers:
        return {"last": {str(number): last for number, last in self._last.items()}, "past": self._past}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Ledger":
        ledger = cls()
        ledger._past |= state.get("past", {})
        ledger._last = {int(number): _parts({}) | last for number, last in state.get("last", {}).items()}
        return ledger


def _parts(answer: Mapping[str, Any]) -> Numbers:
    """A worker's answer, its numbers sorted by what they are."""
    numbers = answer.get("numbers", {})
    parts: Numbers = {
        "counters": {name: value for name, value in numbers.items() if name in metrics.COUNTERS},
        "gauges": {name: value for name, value in numbers.items() if name not in metrics.COUNTERS},
        "histograms": answer.get("histograms", {}),
        "users": answer.get("users", {}),
        "hosts": {},
        "services": {},
    }
    for group in ("hosts", "services"):
        for each in answer.get(group, ()):  # a host may have been another user's before
            _add(parts[group], _key(each), each, (*COUNTED, *PRESENT))
    return parts


def _key(each: Numbers) -> str:
    """What it is called among all. A client may publish one name for HTTP and for TLS that is passed through, and
    somebody's may look like a port."""
    name = str(each["name"])
    kind = each["kind"]
    return f"{name} ({kind})" if kind == "tls" or (kind == "http" and name.isdecimal()) else name


def _merge(total: Numbers, part: Numbers) -> None:
    """Add counters and histograms."""
    for name, value in part["counters"].items():
        total["counters"][name] = total["counters"].get(name, 0) + value
    for name, histogram in part["histograms"].items():
        total["histograms"][name] = _both(total["histograms"].get(name), histogram)


def _merge_groups(total: Numbers, part: Numbers, names: Iterable[str]) -> None:
    for group in GROUPS:
        for key, values in part[group].items():
            _add(total[group], key, values, names)


def _add(group: dict[str, Numbers], key: str, values: Numbers, names: Iterable[str]) -> None:
    known = group.get(key)
    if known is None:
        group[key] = {name: 0 if name in (*COUNTED, *PRESENT) else value for name, value in values.items()}
        known = group[key]
    for name, value in values.items():
        if name in names:
            known[name] = known.get(name, 0) + value
        elif name not in (*COUNTED, *PRESENT):
            known[name] = value


def _both(one: Numbers | None, other: Numbers) -> Numbers:
    """Two histograms in one; after an upgrade they may have other bounds, and then the newer one counts."""
    if one is None or [each[0] for each in one["buckets"]] != [each[0] for each in other["buckets"]]:
        return other
    buckets = [
        [bound, count + more]
        for (bound, count), (_, more) in zip(one["buckets"], other["buckets"], strict=True)
    ]
    return {
        "buckets": buckets,
        "sum": round(one["sum"] + other["sum"], 6),
        "count": one["count"] + other["count"],
    }


def _shorten(group: dict[str, Numbers]) -> bool:
    """Whether there were more than MOST."""
    too_many = len(group) - MOST
    if too_many <= 0:
        return False
    by_bytes = sorted(group, key=lambda key: int(group[key]["bytes_in"] + group[key]["bytes_out"]))
    for key in by_bytes[:too_many]:
        del group[key]
    return True
