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

    def stop(self) -> None:
        self._timer.stop()

    def add(self, ticking: Ticking) -> None:
        self._ticking.add(ticking)

    def wait(self, seconds: float) -> None:
        """Wait until everything added is over, at most so long."""
        deadline = monotonic() + seconds
        while monotonic() < deadline and not all(ticking.over for ticking in self._ticking):
            gevent.sleep(0.02)

    def _tick(self) -> None:
        self._ticking = {ticking for ticking in self._ticking if not ticking.over}
        for ticking in tuple(self._ticking):
            try:
                ticking.tick(self.period)
            except Exception:
                log.exception("unexpected error in the tick of %r", ticking)
