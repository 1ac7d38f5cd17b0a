"""The processes of the running GT as the system page shows them: from what the relay tells of status and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import psutil
from flask import current_app
from flask_babel import lazy_gettext

from gtapp.console.context import console
from gtapp.console.running import Running
from gtapp.console.words import _
from gtapp.errors import GTError

APART_S = 0.5  # two readings of CPU time have to be, to say how busy a process is
_EXTENSION = "gt-busy"

MASTER, CONSOLE = "master", "console"
STATES = {  # of workers, as the master names them: words and colour
    "starting": (lazy_gettext("starting"), "info"),
    "ready": (lazy_gettext("running"), "ok"),
    "retiring": (lazy_gettext("finishing its connections"), "warn"),
    "stopping": (lazy_gettext("ending"), "warn"),
}
_RUNNING = STATES["ready"]
_NAMES = {MASTER: lazy_gettext("Master"), CONSOLE: lazy_gettext("Console")}
_LISTENERS = {
    "addr": lazy_gettext("Visitors and tunnels"),
    "tlsAddr": lazy_gettext("Visitors and tunnels, over TLS"),
    "sniAddr": lazy_gettext("TLS that is passed through"),
    "apiAddr": lazy_gettext("Status API"),
    "webAddr": lazy_gettext("This console"),
}


@dataclass(frozen=True)
class Process:
    """One of them; None where something is not known. `cpu` is a share of one core."""

    name: str
    pid: int
    state: tuple[Any, str] = _RUNNING
    generation: int | None = None
    age_s: float | None = None
    rss: int | None = None
    cpu: float | None = None
    fds: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class Listener:
    """An address that something comes in at."""

    option: str
    what: Any
    address: str


@dataclass(frozen=True)
class Facts:
    """All of it; `problem` is why there is nothing."""

    version: str = ""
    age_s: float | None = None
    processes: tuple[Process, ...] = ()
    listeners: tuple[Listener, ...] = ()
    problem: str = ""


def facts() -> Facts:
    """How it is now."""
    running = console().running
    try:
        status = running.status()
        counted = running.metrics()
    except GTError as error:
        return Facts(problem=str(error))
    unit: Mapping[str, Any] = next(iter(status.get("units", ())), {})
    used = {int(each["pid"]): each for part in counted.get("units", ()) for each in part.get("processes", ())}
    busy = _busy().shares(used.values())
    started = status.get("started")
    age_s = time() - float(started) if started else None
    master = int(status.get("pid", 0))
    found = [_process(_name(MASTER), master, used, busy, age_s=age_s)]
    for worker in unit.get("workers", ()):
        found.append(_worker(worker, used, busy))
    found += [
        _process(_name(CONSOLE), pid, used, busy, age_s=_age_of(pid))
        for pid, each in sorted(used.items())
        if each.get("kind") == CONSOLE
    ]
    listeners = tuple(
        Listener(each["option"], _LISTENERS.get(each["option"], each["option"]), each["address"])
        for each in unit.get("listeners", ())
    )
    return Facts(str(status.get("version", "")), age_s, tuple(found), listeners)


def _name(kind: str) -> str:
    """Of a process, as the relay calls it: master, console, worker 3."""
    known = _NAMES.get(kind)
    return str(known) if known else _("Worker %(number)s", number=kind.rpartition(" ")[2])


def _worker(worker: Mapping[str, Any], used: Mapping[int, Any], busy: Mapping[int, float]) -> Process:
    more = {
        "state": STATES.get(worker["state"], (worker["state"], "muted")),
        "generation": worker.get("generation"),
        "age_s": worker.get("age_s"),
        "problem": str(worker.get("problem", "")),
    }
    name = _name(f"worker {worker['number']}")
    return _process(name, int(worker["pid"]), used, busy, **more)


def _process(
    name: str, pid: int, used: Mapping[int, Mapping[str, Any]], busy: Mapping[int, float], **more: Any
) -> Process:
    told = used.get(pid, {})
    return Process(name=name, pid=pid, rss=told.get("rss"), fds=told.get("fds"), cpu=busy.get(pid), **more)


def _age_of(pid: int) -> float | None:
    """Of a process that the master says nothing about."""
    try:
        return time() - psutil.Process(pid).create_time()
    except psutil.Error:
        return None


class Comings:
    """Tells which processes come and go while something is done to them. (Not by `status`: that waits for workers
    which are still starting.)"""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._known = self._ask() or {}

    def news(self) -> list[str]:
        """What has happened since it was asked last, in words."""
        now = self._ask()
        if now is None:
            return []
        before, self._known = self._known, now
        found = [_("%(process)s starts", process=name) for pid, name in now.items() if pid not in before]
        return found + [
            _("%(process)s has ended", process=name) for pid, name in before.items() if pid not in now
        ]

    def _ask(self) -> dict[int, str] | None:
        """The names of all by process id, None when nobody says them."""
        try:
            units = self._running.metrics().get("units", ())
        except GTError:
            return None
        return {each["pid"]: _name(each["kind"]) for unit in units for each in unit.get("processes", ())}


class Busy:
    """How busy each process is: from its CPU time now and when it was asked for before."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}  # CPU time of each
        self._shares: dict[int, float] = {}
        self._asked = 0.0

    def shares(self, processes: Iterable[Mapping[str, Any]], now: float | None = None) -> dict[int, float]:
        """By process id; one that is seen for the first time is missing."""
        now = monotonic() if now is None else now
        if now - self._asked < APART_S:
            return self._shares
        seconds, self._asked = now - self._asked, now
        cpu = {int(each["pid"]): float(each["cpu_s"]) for each in processes if "cpu_s" in each}
        self._shares = {
            pid: max(0.0, used - self._before[pid]) / seconds
            for pid, used in cpu.items()
            if pid in self._before
        }
        self._before = cpu
        return self._shares


def _busy() -> Busy:
    found = current_app.extensions.setdefault(_EXTENSION, Busy())
    assert isinstance(found, Busy)
    return found
