"""The relay's clock: one timer per process drives all idle times. A timer per connection would cost more than
the connection."""

import logging
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

import gevent
from gevent import get_hub

log = logging.getLogger("gt.clock")

LONGEST_PERIOD_S = 1.0
TICKS_PER_TIMEOUT = 8  # idle times are kept to within an eighth


class Ticking(Protocol):
    """Something with idle times. Once it is `over` it gets no more ticks."""

    @property
    def over(self) -> bool: ...

    def tick(self, period: float) -> None: ...


class Clock:
    """Calls `tick(period)` of everything added every `period` seconds, a part of the shortest of `timeouts`."""

    def __init__(self, timeouts: Iterable[float]) -> None:
        self.period = min([LONGEST_PERIOD_S, *(timeout / TICKS_PER_TIMEOUT for timeout in timeouts)])
        self._ticking: set[Ticking] = set()
        self._timer = get_hub().loop.timer(self.period, self.period)

    def ticks(self, timeout: float) -> int:
        """The number of ticks in `timeout` seconds."""
        return round(timeout / self.period)

    def start(self) -> None:
        self._timer.start(self._tick)

    def quicken(self, period: float) -> None:
        """Tick at least as often from now on. What is counted in ticks is over sooner: for a process that ends."""
        if period < self.period:
            self.period = period
            self._timer.stop()
            self._timer = get_hub().loop.timer(period, period)
            self._timer.start(self._tick)

    def stop(self) -> None:
        self._timer.stop()

    def add(self, ticking: Ticking) -> None:
        self._ticking.add(ticking)

    @property
    def ticking(self) -> list[Ticking]:
        """What is not over."""
        return [each for each in self._ticking if not each.over]

    @property
    def over(self) -> bool:
        """Whether everything added is over."""
        return all(each.over for each in self._ticking)

    def wait(self, seconds: float) -> None:
        """Wait until everything added is over, at most so long."""
        deadline = monotonic() + seconds
        while monotonic() < deadline and not self.over:
            gevent.sleep(0.02)

    def _tick(self) -> None:
        self._ticking = {ticking for ticking in self._ticking if not ticking.over}
        for ticking in tuple(self._ticking):
            try:
                ticking.tick(self.period)
            except Exception:
                log.exception("unexpected error in the tick of %r", ticking)
