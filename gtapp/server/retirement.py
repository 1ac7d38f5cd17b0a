"""A worker that others replace: its clients are called over to them, and what runs goes on here. Made by the app."""

from time import monotonic
from typing import Any

from gevent import get_hub

from gtapp.relay.clock import Clock
from gtapp.relay.tunnel import Tunnel
from gtapp.server.admission import Admission
from gtapp.server.pages import farewells
from gtapp.server.registry import Registry
from gtapp.server.router import Router
from gtapp.server.siblings import Siblings

CALLED_S = 10.0  # how long a client may take to come over; then its tunnel is drained anyway
LOOK_EVERY_S = 0.1


class Retirement:
    """Drains each tunnel as soon as a sibling that stays serves all that it publishes. Nothing comes in meanwhile but
    what was accepted before, and what siblings pass."""

    def __init__(
        self, registry: Registry, siblings: Siblings, router: Router, admission: Admission, clock: Clock
    ) -> None:
        self._registry = registry
        self._siblings = siblings
        self._router = router
        self._admission = admission
        self._clock = clock
        self._called: dict[Tunnel, float] = {}
        self._timer: Any = get_hub().loop.timer(LOOK_EVERY_S, LOOK_EVERY_S)

    def start(self) -> None:
        self._siblings.retire()
        self._call_over()
        self._timer.start(self._look)  # not before others have said that they retire, too

    def stop(self) -> None:
        self._timer.stop()

    @property
    def over(self) -> bool:
        """Whether nothing is left, and nothing is on its way here."""
        return self._siblings.parted and not self._is_busy

    @property
    def _is_busy(self) -> bool:
        return (
            self._router.has_visitors
            or self._admission.is_opening
            or bool(self._registry.tunnels())
            or any(isinstance(each, Tunnel) for each in self._clock.ticking)
            or bool(farewells)
        )

    def _look(self) -> None:
        now = monotonic()
        for tunnel, called in self._call_over().items():
            if now - called > CALLED_S or self._is_served_elsewhere(tunnel):
                tunnel.drain()
        if not self._is_busy:
            self._siblings.leave()

    def _call_over(self) -> dict[Tunnel, float]:
        """All tunnels that do not drain yet, and when they were called."""
        tunnels = [each for each in self._registry.tunnels() if not each.draining]
        for tunnel in tunnels:
            if tunnel not in self._called:
                tunnel.call_over()
        now = monotonic()
        self._called = {tunnel: self._called.get(tunnel, now) for tunnel in tunnels}
        return self._called

    def _is_served_elsewhere(self, tunnel: Tunnel) -> bool:
        """By one sibling: there the client has a tunnel."""
        staying = set(self._siblings.numbers) - self._siblings.retiring
        return bool(staying.intersection(*(each.siblings for each in self._registry.published(tunnel))))
