"""What the running relay says of its tunnels and connections, for pages that many may look at: asked once a second at
most however many ask, and with the speeds that two answers give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from flask import current_app
from gevent.lock import BoundedSemaphore

from gtapp.console.context import console
from gtapp.errors import GTError

FRESH_S = 1.0  # an answer is good for so long
SPEED_S = 30.0  # two answers that are further apart tell no speed that somebody would call the present one
MOST_MOMENTS = 50  # questions whose answers are kept: one for each user that somebody looks at
_EXTENSION = "gt-moments"

Speed = tuple[float, float]  # bytes a second, in and out


class Moment:
    """The newest answer to one question. `items` finds in an answer what has an id, bytes_in and bytes_out."""

    def __init__(
        self, ask: Callable[[], dict[str, Any]], items: Callable[[Mapping[str, Any]], list[dict[str, Any]]]
    ) -> None:
        self._ask = ask
        self._items = items
        self._one_at_a_time = BoundedSemaphore()
        self._asked = -SPEED_S
        self._bytes: dict[str, Speed] = {}
        self.answer: dict[str, Any] = {}
        self.items: list[dict[str, Any]] = []
        self.speeds: dict[str, Speed] = {}
        self.problem = ""

    def refresh(self) -> Moment:
        """The same, not older than FRESH_S."""
        with self._one_at_a_time:
            now = monotonic()
            if now - self._asked >= FRESH_S:
                self._take(now)
        return self

    def expire(self) -> None:
        """Something was changed: ask again."""
        self._asked = min(self._asked, monotonic() - FRESH_S)

    def _take(self, now: float) -> None:
        try:
            self.answer = self._ask()
            self.problem = ""
        except GTError as error:
            self.answer, self.problem = {}, str(error)
        seconds, self._asked = now - self._asked, now
        self.items = self._items(self.answer)
        bytes_now = {
            str(each["id"]): (float(each.get("bytes_in", 0)), float(each.get("bytes_out", 0)))
            for each in self.items
            if "id" in each
        }
        self.speeds = {}
        if seconds <= SPEED_S:
            for name, (in_now, out_now) in bytes_now.items():
                if name in self._bytes:
                    in_before, out_before = self._bytes[name]
                    self.speeds[name] = (
                        max(0.0, in_now - in_before) / seconds,
                        max(0.0, out_now - out_before) / seconds,
                    )
        self._bytes = bytes_now


def tunnels() -> Moment:
    """Of the answer to `status`: `items` are the tunnels of all workers."""
    return _moment("tunnels", console().running.status, _tunnels)


def connections(user: str | None = None) -> Moment:
    """Of the answer to `connections`, of one user or of all."""
    running = console().running
    return _moment(f"connections {user or ''}", lambda: running.connections(user), _connections)


def _moment(
    name: str, ask: Callable[[], dict[str, Any]], items: Callable[[Mapping[str, Any]], list[dict[str, Any]]]
) -> Moment:
    known: dict[str, Moment] = current_app.extensions.setdefault(_EXTENSION, {})
    found = known.pop(name, None)
    if found is None:
        while len(known) >= MOST_MOMENTS:
            del known[next(iter(known))]  # the one that nobody has asked for the longest
        found = Moment(ask, items)
    known[name] = found
    return found.refresh()


def workers_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of all units of a status."""
    return [worker for unit in answer.get("units", ()) for worker in unit.get("workers", ())]


def _tunnels(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [tunnel for worker in workers_of(answer) for tunnel in worker.get("tunnels", ())]


def _connections(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for unit in answer.get("units", ()) for each in unit.get("connections", ())]
