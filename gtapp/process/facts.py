"""The commands that tell what the relay does: metrics, connections, log; and those that try: disconnect, check, probe.

The master hands them over; each asks the workers and puts their answers together. In a worker a `Witness` answers.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import gevent

from gtapp.errors import GTError
from gtapp.observe import logs, metrics
from gtapp.process import probe
from gtapp.relay.facts import MOST_CONNECTIONS

if TYPE_CHECKING:
    from gtapp.process.unit import Running, Unit

log = logging.getLogger("gt.process")

ANSWER_S = 1.0  # for a worker to say what it has: who asks, asks every second
ACT_S = 5.0  # for it to do something
CHECK_S = 15.0  # for a check, which takes 10 s at most
CHEAP_S = 0.01  # what takes less to tell is told each time: about 2,000 users or hosts
SENDING = 2.5  # times as long as it takes to collect it takes to collect and send it
DETAILS_SHARE = 0.02
DEFAULT_LINES = 500
MOST_LINES = 2000  # of the log, in one answer
LAST_WORDS = 200  # lines that a worker leaves behind
MASTER = "master"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Values = Mapping[str, Any]
Answer = dict[str, Any]
Tell = Callable[[str], None]


class Facts:
    """`units` gives the configurations that run."""

    def __init__(self, units: Callable[[], Sequence["Unit"]]) -> None:
        self._units = units
        self.commands: dict[str, Callable[[dict[str, Any], Tell], Answer]] = {
            "metrics": lambda request, tell: self.metrics(request),
            "connections": lambda request, tell: self.connections(request),
            "disconnect": lambda request, tell: self.disconnect(request),
            "log": lambda request, tell: self.log(request),
            "check": lambda request, tell: self.check(request),
            "probe": lambda request, tell: self.probe(request),
        }

    def metrics(self, request: Values) -> Answer:
        """What has been counted since the master has started, in all and for whom."""
        return {"units": _together(self._metrics, self._asked(request))}

    def _metrics(self, unit: "Unit") -> Answer:
        # Each in the moment in which it comes: of two who ask at once, one may wait longer for another worker.
        asked = {worker: {"known": unit.ledger.knows(worker)} for worker in unit.running}
        answers = _ask_each(unit, "metrics", asked, ANSWER_S, unit.ledger.heard)
        total, truncated = unit.ledger.total(answers)
        found = {
            "role": unit.source.role,
            "config": str(unit.config.path or ""),
            "total": total["counters"] | total["gauges"],
            "processes": _processes(unit),
            "histograms": total["histograms"],
            "truncated": truncated,
        }
        if unit.source.role == "client":
            return found | {"services": total["services"]}
        return found | {"users": total["users"], "hosts": total["hosts"]}

    def connections(self, request: Values) -> Answer:
        """The newest connections of visitors, of one user or of all."""
        limit = _number(request, "limit", MOST_CONNECTIONS, MOST_CONNECTIONS)
        user = None if request.get("user") is None else str(request["user"])

        def of_unit(unit: "Unit") -> Answer:
            answers = _ask(unit, "connections", {"limit": limit, "user": user}, ANSWER_S)
            found = [each for answer in answers.values() for each in answer["connections"]]
            found.sort(key=lambda each: float(each["age_s"]))
            total = sum(int(answer["total"]) for answer in answers.values())
            return {
                "role": unit.source.role,
                "config": str(unit.config.path or ""),
                "total": total,
                "truncated": total > len(found[:limit]),
                "connections": found[:limit],
            }

        return {"units": _together(of_unit, self._asked(request))}

    def disconnect(self, request: Values) -> Answer:
        """Cut one connection, close one tunnel, or all of a user, whose client may come back at once."""
        named = {key: str(request[key]) for key in ("connection", "tunnel", "user") if request.get(key)}
        if len(named) != 1:
            raise GTError("disconnect: say which connection, tunnel or user, one of them")
        ((what, name),) = named.items()
        by = str(request.get("by") or "")[:100]
        who = f" by {by}" if by else ""
        values = named | {"why": f"it was disconnected{who}"}

        def of_unit(unit: "Unit") -> int:
            return sum(int(each["count"]) for each in _ask(unit, "disconnect", values, ACT_S).values())

        count = sum(_together(of_unit, self._asked(request)))
        log.info("disconnected%s: %s %s, %d closed", who, what, name[:200], count)
        plural = "s" * (count != 1)
        if what == "connection":
            text = "the connection was cut" if count else "that connection is not there any more"
        elif what == "tunnel":
            text = "the tunnel was closed" if count else "that tunnel is not there any more"
        else:
            text = f"{count} tunnel{plural} closed" if count else f"{name} has no tunnel at the moment"
        return {"count": count, "text": text}

    def log(self, request: Values) -> Answer:
        """The newest lines of all processes, in the order of their time; what has been read before is left out."""
        limit = _number(request, "limit", DEFAULT_LINES, MOST_LINES)
        level = str(request.get("level") or "trace")
        if level not in logs.LEVELS:
            raise GTError(f"log: the level is one of {', '.join(logs.LEVELS)}")
        given = request.get("after")
        after = {str(source): int(seq) for source, seq in given.items()} if isinstance(given, dict) else {}
        units = self._asked(request)
        found = {MASTER: logs.recent.lines(after.get(MASTER, 0), logs.LEVELS[level], limit)}

        def of_unit(unit: "Unit") -> dict[str, Answer]:
            place = f" of {unit.name}" if len(units) > 1 else ""
            values = {"level": level, "limit": limit}
            asked = {
                worker: values | {"after": after.get(f"worker {worker}{place}", 0)} for worker in unit.running
            }
            parts = _ask_each(unit, "log", asked, ANSWER_S)
            for worker, lines in unit.ledger.last_words.items():
                seen = after.get(f"worker {worker}{place}", 0)
                parts[worker] = _of_ended(lines, seen, logs.LEVELS[level])
            return {f"worker {worker}{place}": part for worker, part in parts.items()}

        for each in _together(of_unit, units):
            found |= each
        lines = [line | {"source": source} for source, part in found.items() for line in part["lines"]]
        lines.sort(key=lambda line: float(line["time"]))
        return {
            "lines": lines[-limit:],
            "after": {source: part["seq"] for source, part in found.items()},
            "truncated": len(lines) > limit or any(part["more"] for part in found.values()),
        }

    def check(self, request: Values) -> Answer:
        """Whether a visitor would get through: a server brings a request through a tunnel of its own."""
        answers = _together(_check, self._asked(request))
        if not answers:
            raise GTError("check: there is no configuration that runs")
        bad = [each for each in answers if not each["works"]]
        chosen = bad or answers
        return {
            "ok": not bad,
            "text": "; ".join(each["text"] for each in chosen),
            "ms": max(each["ms"] for each in chosen),
        }

    def probe(self, request: Values) -> Answer:
        """Whether a client with these options could open a tunnel. No configuration has to run for that."""
        options = request.get("options")
        if not isinstance(options, dict):
            raise GTError("probe: needs options")
        secret = options.get("secret")
        if isinstance(secret, str) and secret:
            logs.hide(secret)
        found = probe.probe(options)
        return found | {"ok": found["works"]}

    def _asked(self, request: Values) -> list["Unit"]:
        """The units that a request is about: that with its configuration, or all. Raises GTError."""
        units = list(self._units())
        config = request.get("config")
        if not config:
            return units
        path = os.path.realpath(str(config))
        found = [each for each in units if each.config.path and os.path.realpath(each.config.path) == path]
        if not found:
            raise GTError(f"{config}: that configuration does not run here")
        return found


def _check(unit: "Unit") -> Answer:
    ready = unit.ready
    if not ready:
        return {"works": False, "text": f"{unit.name}: no worker is ready", "ms": 0.0}
    answer = _ask_each(unit, "check", {ready[0]: {}}, CHECK_S).get(ready[0])
    if answer is None:
        return {"works": False, "text": f"{unit.name}: worker {ready[0]} does not answer", "ms": 0.0}
    return answer


Heard = Callable[[int, Answer], None]


def _ask(unit: "Unit", question: str, values: dict[str, Any], timeout: float) -> dict[int, Answer]:
    """What each worker answers, by its number; those that don't are missing."""
    return _ask_each(unit, question, dict.fromkeys(unit.running, values), timeout)


def _ask_each(
    unit: "Unit",
    question: str,
    values: Mapping[int, dict[str, Any]],
    timeout: float,
    heard: Heard = lambda worker, answer: None,
) -> dict[int, Answer]:
    """The same of some workers, each with its own values; `heard` is called for each answer."""
    answers: dict[int, Answer] = {}

    def ask(running: "Running") -> None:
        try:
            answer = running.channel.call(question, values[running.number], timeout=timeout).values
        except GTError as error:
            answer = {"problem": str(error)}
        if "problem" in answer:
            log.debug("worker %d does not answer %s: %s", running.number, question, answer["problem"])
        else:
            answers[running.number] = answer
            if running.number in unit.running:
                heard(running.number, answer)

    gevent.joinall([gevent.spawn(ask, unit.running[number]) for number in values])
    return answers


def _together(ask: Callable[["Unit"], Any], units: Sequence["Unit"]) -> list[Any]:
    """Ask about several units at once."""
    asked = [gevent.spawn(ask, unit) for unit in units]
    gevent.joinall(asked)
    return [each.value for each in asked if each.successful()]


def _number(request: Values, key: str, default: int, most: int) -> int:
    """Raises GTError."""
    value = request.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GTError(f"{key}: found {str(value)[:20]!r}, allowed: a whole number from 0")
    return min(value, most)


def _of_ended(lines: Sequence[Answer], after: int, level: int) -> Answer:
    """What of a worker's last words is asked for."""
    chosen = [each for each in lines if each["seq"] > after and logs.LEVELS[each["level"]] >= level]
    return {"lines": chosen, "seq": lines[-1]["seq"], "more": False}


def _processes(unit: "Unit") -> list[Answer]:
    """What the system says of each process."""
    found = []
    workers = [(f"worker {each.number}", each.pid) for each in unit.running.values()]
    consoles = [("console", pid) for pid in unit.console.pids]
    for kind, pid in ((MASTER, os.getpid()), *workers, *consoles):
        usage = _usage(pid)
        if usage is not None:
            found.append({"pid": pid, "kind": kind, **usage})
    return found


def _usage(pid: int) -> Answer | None:
    """Resident memory in bytes, seconds of CPU time, open descriptors; None for one that has gone."""
    place = Path("/proc", str(pid))
    try:
        pages = int((place / "statm").read_text().split()[1])
        times = (place / "stat").read_text().rpartition(")")[2].split()  # from the state on
        fds = len(os.listdir(place / "fd"))
    except (OSError, IndexError, ValueError):
        return None
    seconds = (int(times[11]) + int(times[12])) / _TICKS_PER_S
    return {"rss": pages * _PAGE, "cpu_s": round(seconds, 2), "fds": fds}


# in a worker


class Relay(Protocol):
    """A server or a client, as far as it is asked."""

    def count(self) -> None: ...
    def metrics(self) -> Answer: ...
    def connections(self, limit: int, user: str | None) -> Answer: ...
    def disconnect(self, request: Values, why: str) -> int: ...
    def check(self) -> Answer: ...


class Witness:
    """What a worker answers to the master's questions."""

    QUESTIONS = ("metrics", "log", "connections", "disconnect", "check")

    def __init__(self) -> None:
        self._details_at = 0.0  # monotonic, when they may be told again

    def answer(self, app: Relay | None, question: str, values: Values) -> Answer:
        """Raises GTError while the worker is still starting."""
        if question == "metrics":
            return self._counted(app, bool(values.get("known")))
        if question == "log":
            return logs.recent.lines(values["after"], logs.LEVELS[values["level"]], values["limit"])
        if app is None:
            raise GTError("it is still starting")
        if question == "connections":
            return app.connections(values["limit"], values["user"])
        if question == "disconnect":
            return {"count": app.disconnect(values, values["why"])}
        return app.check()

    def last_words(self, app: Relay) -> Answer:
        """What a worker that ends leaves to the master."""
        lines = logs.recent.lines(0, logs.TRACE, LAST_WORDS)["lines"]
        return {"counted": self._counted(app, known=False), "log": lines}

    def _counted(self, app: Relay | None, known: bool) -> Answer:
        """All that this process has counted. For whom, is left out where the master knows what was so a moment ago, and
        there are so many that to tell it each time would cost more than DETAILS_SHARE of this process' time."""
        began = monotonic()
        details: Answer = {}
        if app is not None:
            app.count()
            if began >= self._details_at or not known:
                details = app.metrics()
                took = monotonic() - began
                if took > CHEAP_S:
                    self._details_at = began + took * SENDING / DETAILS_SHARE
        return {"numbers": metrics.snapshot(), "histograms": metrics.histograms(), **details}
