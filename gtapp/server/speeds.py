"""The speed of each user that has one, shared between the workers by where its streams are active. For the users.

A stream is active when it has moved bytes or waited for tokens lately. Each worker tells how many of a user's streams
are active there, by direction, and takes its part of the speed. One that becomes active somewhere new is told at once.
"""

from typing import Any

from gevent import get_hub

from gtapp.relay.bucket import Bucket, Shaper
from gtapp.relay.channel import Message
from gtapp.server.siblings import Siblings

LOOK_S = 0.5  # how often each worker counts
LATELY_S = 1.2  # a little more than the longest tick of streams, which say then whether they have been active
IDLE = 0.05  # what a worker without active streams counts for, in streams, so that one can begin there

Counts = tuple[int, int]
"""Active streams from visitors to services, and the other way."""

_NONE: Counts = (0, 0)


class Speeds:
    """The shapers of users, while they have any. Without siblings each has the whole speed, and nobody counts."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings
        self._shapers: dict[str, Shaper] = {}
        self._here: dict[str, Counts] = {}  # as the siblings have been told
        self._elsewhere: dict[int, dict[str, Counts]] = {}
        self._timer: Any = get_hub().loop.timer(LOOK_S, LOOK_S)
        siblings.on("streams", self._told)
        siblings.joined.append(self._joined)
        siblings.left.append(self._left)

    def shaper(self, user_id: str, speed: int) -> Shaper:
        """What keeps the streams of this user to `speed` bytes per second."""
        shaper = self._shapers.get(user_id)
        if shaper is None:
            shaper = self._shapers[user_id] = Shaper(speed)
            if self._siblings.numbers:
                self._share(user_id, shaper)
        return shaper

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._shapers

    def set_speed(self, user_id: str, speed: int) -> None:
        """For what runs already as well; 0: no limit."""
        self._shapers[user_id].set_speed(speed)

    def users(self) -> list[str]:
        """Those with a shaper."""
        return list(self._shapers)

    def forget(self, user_id: str) -> None:
        """The user is gone."""
        self._shapers.pop(user_id, None)
        if self._here.pop(user_id, None) is not None:
            self._siblings.tell("streams", {"counts": {user_id: _NONE}})

    def stop(self) -> None:
        self._timer.stop()

    # counting

    def _share(self, user_id: str, shaper: Shaper) -> None:
        """Find out from now on whether it is active."""
        for bucket in (shaper.up, shaper.down):
            bucket.share(lambda: self._look([user_id]))
        self._apply(user_id)
        if not self._timer.active:
            self._timer.start(self._look_at_all)

    def _look_at_all(self) -> None:
        self._look(self.users())
        if not self._shapers:
            self._timer.stop()

    def _look(self, user_ids: list[str]) -> None:
        """Count, and tell and do what has changed."""
        news = {}
        for user_id in user_ids:
            shaper = self._shapers.get(user_id)
            if shaper is None:
                continue
            counts = shaper.up.active(LATELY_S), shaper.down.active(LATELY_S)
            if counts != self._here.get(user_id, _NONE):
                news[user_id] = counts
        if not news:
            return
        for user_id, counts in news.items():
            self._here[user_id] = counts
            if counts == _NONE:
                del self._here[user_id]
            self._apply(user_id)
        self._siblings.tell("streams", {"counts": news})

    def _apply(self, user_id: str) -> None:
        shaper = self._shapers.get(user_id)
        if shaper is None:
            return
        here = self._here.get(user_id, _NONE)
        others = [counts.get(user_id, _NONE) for counts in self._elsewhere.values()]
        workers = 1 + len(self._siblings.numbers - self._siblings.retiring)
        for direction, bucket in enumerate((shaper.up, shaper.down)):
            _set_part(bucket, here[direction], sum(each[direction] for each in others), workers)

    # siblings

    def _joined(self, sibling: int) -> None:
        if self._here:
            self._siblings.tell_one(sibling, "streams", {"counts": self._here})
        for user_id, shaper in self._shapers.items():
            if len(self._siblings.numbers) == 1:
                self._share(user_id, shaper)
            else:
                self._apply(user_id)

    def _left(self, sibling: int) -> None:
        self._elsewhere.pop(sibling, None)
        if not self._siblings.numbers:
            self._here.clear()
            self._timer.stop()
            for shaper in self._shapers.values():
                for bucket in (shaper.up, shaper.down):
                    bucket.share(None)
        for user_id in self._shapers:
            self._apply(user_id)

    def _told(self, sibling: int, message: Message) -> None:
        theirs = self._elsewhere.setdefault(sibling, {})
        for user_id, (up, down) in message.values["counts"].items():
            theirs[user_id] = (up, down)
            if theirs[user_id] == _NONE:
                del theirs[user_id]
            self._apply(user_id)


def _set_part(bucket: Bucket, here: int, elsewhere: int, workers: int) -> None:
    if elsewhere:
        own = here or IDLE
        bucket.set_part(own / (own + elsewhere))
    else:
        bucket.set_part(1.0 if here else 1 / workers)
