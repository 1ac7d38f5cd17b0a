"""Asks the relay each second how it is, and remembers it: 15 minutes by the second, a day by the minute.

Made and started with the console's process; pages read it, and `live` sends each sample to those who look. What it
knows is in the database as well, so that charts go on after a restart.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import gevent

from gtapp.console import machine, series
from gtapp.console.database import Database, StorageError
from gtapp.console.machine import Machine
from gtapp.console.rates import MOST_PARTS, Now, Rates
from gtapp.console.running import Running
from gtapp.console.series import Mean, Sample, Series
from gtapp.errors import GTError

log = logging.getLogger("gt.console")

SECONDS = 15 * 60  # so many samples by the second
MINUTES = 24 * 60  # and by the minute
WRITE_S = 10  # how long samples wait to be written together
MAX_WAIT_S = 15.0  # between questions to a relay that does not answer
HOUR_MINUTES = 60
SILENT = 3  # seconds without any worker's answer are a problem; less is a busy machine
DISK_FULL = 0.95  # shares beyond which somebody should see to it
DISK_FREE = 256 * 1024 * 1024  # and bytes below which
MEMORY_FULL = 0.95
FDS_FULL = 0.8

Listener = Callable[[], None]


class Sampler:
    """`state` is a directory on the disk whose space is watched. `clock` tells seconds since 1970."""

    def __init__(
        self, running: Running, db: Database, state: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._running = running
        self._db = db
        self._state = state
        self._clock = clock
        self.seconds = Series(1, SECONDS)
        self.minutes = Series(60, MINUTES)
        self.now = Now()
        self.machine = Machine()
        self.processes: list[dict[str, Any]] = []
        self.problem = ""  # why the relay does not answer; "" when it does
        self._rates = Rates()
        self._answered = 0.0  # monotonic
        self._silent = 0  # answers in a row that no worker was part of
        self._mean = Mean()
        self._minute = 0
        self._to_write: list[Sample] = []
        # problems that there had been at the end of each minute
        self._hour: deque[tuple[int, Mapping[str, int]]] = deque(maxlen=HOUR_MINUTES)
        self._listeners: list[Listener] = []
        self._greenlet: gevent.Greenlet[[], None] | None = None

    # for the process

    def start(self) -> None:
        machine.look(self._state)  # the CPU's use is that since the look before
        self.load()
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Ask no more, and write what is known."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        self._write()

    def load(self) -> None:
        """Go on with what the database has."""
        now = int(self._clock())
        for each in (self.seconds, self.minutes):
            try:
                rows = self._db.samples(each.step, now - each.span_s)
            except StorageError:
                continue  # its log says why; the charts begin anew
            for when, text in rows:
                sample = series.decode(when, text)
                if sample is not None and when <= now and each.add(sample) and sample.problems:
                    self._hour.append((when, sample.problems))
        for sample in self.seconds:
            self._rates.remember(sample.all_parts())

    # for pages

    def listen(self, listener: Listener) -> None:
        """Call it after each sample. It must not wait."""
        self._listeners.append(listener)

    @property
    def last(self) -> Sample | None:
        """The newest sample, None when the relay has not answered just now."""
        return None if self.problem else self.seconds.last

    def problems(self) -> dict[str, tuple[int, int]]:
        """How often visitors were refused, handshakes failed and so on: in the last hour, and ever."""
        known = self.now.problems
        past = next((then for when, then in self._hour if when >= self.time - 3600), known)
        return {name: (_since(past.get(name, 0), count), count) for name, count in known.items()}

    @property
    def time(self) -> int:
        """The second it is now."""
        return int(self._clock())

    @property
    def descriptors(self) -> tuple[int, int]:
        """How many files are open in the process that is nearest to its limit, and that limit, 0 if not known."""
        return max(
            ((int(each.get("fds", 0)), int(each["fds_limit"])) for each in self.processes),
            key=lambda pair: pair[0] / pair[1] if pair[1] else 0.0,
            default=(0, 0),
        )

    def warnings(self) -> list[str]:
        """What somebody should see to: relay (does not answer), disk, memory, fds (about to be used up)."""
        fds, limit = self.descriptors
        found = {
            "relay": bool(self.problem),
            "disk": self.machine.disk > DISK_FULL or 0 < self.machine.disk_free < DISK_FREE,
            "memory": self.machine.memory > MEMORY_FULL,
            "fds": limit > 0 and fds / limit > FDS_FULL,
        }
        return [name for name, is_so in found.items() if is_so]

    # samples

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                failures = 0 if self.sample() else failures + 1
            except Exception:
                log.exception("unexpected error while asking how the relay is")
                failures += 1
            wait = 1.0 - self._clock() % 1.0  # at the full second
            if failures > 1:
                wait += min(2.0 ** (failures - 2), MAX_WAIT_S - 1.0)
            gevent.sleep(wait)

    def sample(self) -> bool:
        """Ask once; whether there was an answer."""
        try:
            units = [each for each in self._running.metrics().get("units", []) if _is_present(each)]
            self._silent = 0 if units else self._silent + 1
            problem = "" if self._silent < SILENT else "no worker of it answers; its log may say why"
        except GTError as error:
            units, problem = [], str(error)
        if problem != self.problem:
            log.log(logging.WARNING if problem else logging.INFO, "relay: %s", problem or "answers again")
        self.problem = problem
        self.machine = machine.look(self._state)
        if problem:
            self._rates.forget()
            self.processes = machine.processes([])
        elif units:
            self._take(units[0])
        for listener in list(self._listeners):
            listener()
        return not problem

    def _take(self, unit: dict[str, Any]) -> None:
        answered = monotonic()
        now = self.now = self._rates.next(unit, answered - self._answered)
        self._answered = answered
        self.processes = machine.processes(now.processes)
        now.total["cpu"] = self.machine.cpu
        now.total["memory"] = self.machine.memory
        when = int(self._clock())
        last = self.seconds.last
        if last is not None and when < last.time - 5:
            log.warning("the clock was set back by %d s: the charts forget what was to be", last.time - when)
            self._forget_after(when)
        sample = series.make(when, now.total, now.parts)
        if not self.seconds.add(sample):
            return
        self._to_write.append(sample)
        minute = when // 60
        if minute != self._minute:
            self._end_minute()
            self._minute = minute
        self._mean.add(sample.total, now.parts)
        if len(self._to_write) >= WRITE_S:
            self._write()

    def _end_minute(self) -> None:
        sample = self._mean.take(self._minute * 60 + 60, MOST_PARTS, self.now.problems)
        self._hour.append((self.time, self.now.problems))
        if sample is None or not self.minutes.add(sample):
            return
        now = int(self._clock())
        try:
            self._db.add_samples(60, [(sample.time, sample.encode())])
            for each in (self.seconds, self.minutes):
                self._db.forget_samples(each.step, now - each.span_s)
        except StorageError:
            pass  # its log says so, once in a while

    def _write(self) -> None:
        """What cannot be written is not worth to be kept for later: the next samples will be."""
        samples, self._to_write = self._to_write, []
        if not samples:
            return
        try:
            self._db.add_samples(1, [(each.time, each.encode()) for each in samples])
        except StorageError:
            pass

    def _forget_after(self, when: int) -> None:
        self._write()
        for each in (self.seconds, self.minutes):
            each.forget_after(when)
        self._mean = Mean()
        try:
            for each in (self.seconds, self.minutes):
                self._db.execute("DELETE FROM samples WHERE step = ? AND time > ?", (each.step, when))
        except StorageError:
            pass


def _is_present(unit: Mapping[str, Any]) -> bool:
    """Whether a worker has said how it is. Otherwise the master tells what it heard last, which may be long ago."""
    return "streams" in unit.get("total", {})


def _since(before: int, now: int) -> int:
    """By how much a number has grown; the relay, begun anew, counts from nothing."""
    return now - before if now >= before else now
