"""Token buckets: they keep what passes to a speed and share it fairly. For `shaped_pump`; made by the users."""

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from gevent import get_hub

log = logging.getLogger("gt.bucket")

BURST_S = 0.05  # what may pass at once after a pause, in seconds of the speed …
BURST_BYTES = 16 * 1024  # … but at least an ordinary page …
LONGEST_BURST_S = 0.5  # … as long as it is not more than this
BEHIND_S = 0.5  # what a busy hub made us miss is made up for, up to this
TURN_S = 0.02  # who waits gets so much of the speed at a time …
ROUND_S = 0.08  # … or less, so that all who wait get something within this …
TURN_BYTES = 512  # … but not less than this, as long as it does not take longer than …
LONGEST_TURN_S = 0.1  # … this
MAX_TURN_BYTES = 64 * 1024  # what one callback moves
MAX_SERVED_BYTES = 16 * MAX_TURN_BYTES  # what one turn of the hub's loop moves


class Waiter(Protocol):
    """Whoever wants to pass."""

    def bucket_has_tokens(self) -> None:
        """It is its turn: what `allowed` says now it may take before this returns. May wait again."""


class Bucket:
    """Lets `speed` bytes per second pass, 0: any number. In hub callbacks: ask `allowed`, move bytes, `spend` them.

    Where other processes let the same user's bytes pass as well, `share` makes this one know who is active here, and
    `set_part` gives it its part of the speed.
    """

    def __init__(self, speed: int) -> None:
        self._whole = speed
        self._part = 1.0
        self._speed: float = speed
        self._burst = _burst(speed)
        self._tokens = self._burst
        self._filled_at = monotonic()
        self._waiters: deque[Waiter] = deque()
        self._turn: Waiter | None = None
        self._share = 0
        self._timer: Any = None
        self._active: dict[object, float] | None = (
            None  # when they were last seen to be; None: nobody wants to know
        )
        self._on_active: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"<Bucket speed={self._speed:.0f} tokens={self._tokens:.0f} waiting={len(self._waiters)}>"

    def allowed(self, waiter: Waiter, wanted: int) -> int:
        """How many of `wanted` bytes may pass now. 0: `wait`. While others wait, only who has the turn may pass."""
        if not self._speed:
            return wanted
        if waiter is self._turn:
            return min(wanted, self._share)
        if self._waiters:
            return 0
        self._fill()
        if self._tokens < min(wanted, self._turn_bytes()):
            return 0  # crumbs are not worth a system call
        return min(wanted, int(self._tokens))

    def spend(self, size: int) -> None:
        """So many bytes have passed. It may be more than was allowed: that is saved later."""
        if self._speed:
            # Not without end: new connections may bring more first bytes than the speed allows, for hours.
            self._tokens = max(self._tokens - size, -self._speed)
            self._share -= size

    def wait(self, waiter: Waiter) -> None:
        """Give `waiter` a turn after those who wait already."""
        self.note(waiter)
        self._waiters.append(waiter)
        if self._timer is None and self._turn is None:
            self._expect()

    def leave(self, waiter: Waiter) -> None:
        """`waiter` waits no more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if not self._waiters and self._timer is not None:
            self._timer.stop()
            self._timer = None

    def set_speed(self, speed: int) -> None:
        """From now on."""
        self._set(speed, self._part)

    def set_part(self, part: float) -> None:
        """How much of the speed is for this process from now on, more than 0 and at most 1."""
        if part != self._part:
            self._set(self._whole, part)

    def _set(self, whole: int, part: float) -> None:
        self._fill()
        self._whole, self._part = whole, part
        self._speed = whole * part
        self._burst = _burst(whole) * part
        self._tokens = max(min(self._tokens, self._burst), -self._speed)
        if self._timer is not None:
            self._timer.stop()
            self._expect()

    # who is active

    def share(self, on_active: Callable[[], None] | None) -> None:
        """Keep in mind who is active from now on, and call `on_active` when the first one is; None: no more."""
        self._active = None if on_active is None else {}
        self._on_active = on_active or _nothing

    def note(self, one: object) -> None:
        """`one` has moved bytes, or waits."""
        if self._active is not None:
            first = not self._active
            self._active[one] = monotonic()
            if first:
                self._on_active()

    def forget(self, one: object) -> None:
        """`one` has come to its end."""
        if self._active:
            self._active.pop(one, None)

    def active(self, seconds: float) -> int:
        """How many have been active within so many seconds; the others are forgotten."""
        if not self._active:
            return 0
        since = monotonic() - seconds
        self._active = {one: when for one, when in self._active.items() if when >= since}
        return len(self._active)

    def _turn_bytes(self) -> int:
        """What a waiter gets at a time."""
        speed = self._speed
        size = min(speed * TURN_S, speed * ROUND_S / max(1, len(self._waiters)), MAX_TURN_BYTES)
        return int(max(1, size, min(TURN_BYTES, speed * LONGEST_TURN_S)))

    def _fill(self) -> None:
        now = monotonic()
        most = self._burst
        if self._waiters or self._turn is not None:
            most += self._speed * BEHIND_S
        # What is there beyond a burst stays: somebody has waited for it, and takes it in several reads.
        self._tokens = max(self._tokens, min(self._tokens + (now - self._filled_at) * self._speed, most))
        self._filled_at = now

    def _expect(self) -> None:
        """Come back when there is enough for the first who waits."""
        self._fill()
        missing = self._turn_bytes() - self._tokens
        self._timer = get_hub().loop.timer(missing / self._speed if self._speed and missing > 0 else 0.0)
        self._timer.start(self._serve)

    def _serve(self) -> None:
        """Give each who waits a turn, as long as there are tokens."""
        self._timer = None
        self._fill()
        served = 0
        for count in range(len(self._waiters), 0, -1):
            if not self._waiters:
                break  # a turn has made others leave
            share = self._turn_bytes()
            if self._speed and (self._tokens < share or served >= MAX_SERVED_BYTES):
                break
            share = max(share, min(int(self._tokens) // count, MAX_TURN_BYTES))  # more when we are behind
            self._share = share
            self._turn = self._waiters.popleft()
            try:
                self._turn.bucket_has_tokens()
            except Exception:
                log.exception("unexpected error while %r has its turn", self._turn)
            served += share - self._share
        self._turn = None
        if self._waiters:
            self._expect()


def _burst(speed: int) -> float:
    return min(max(speed * BURST_S, BURST_BYTES), speed * LONGEST_BURST_S)


def _nothing() -> None:
    """Nobody wants to know."""


class Shaper:
    """The two directions of a user: `up` from visitors to services, `down` the other way."""

    def __init__(self, speed: int) -> None:
        self.up = Bucket(speed)
        self.down = Bucket(speed)

    def set_speed(self, speed: int) -> None:
        """From now on, for what runs already as well."""
        self.up.set_speed(speed)
        self.down.set_speed(speed)
