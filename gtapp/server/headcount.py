"""How many tunnels each user has, in all workers of the server, and room for one more. Asked and told by admission."""

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event

from gtapp.config.load import User
from gtapp.errors import RemoteRefused
from gtapp.relay.channel import Message
from gtapp.relay.tunnel import Tunnel
from gtapp.server.registry import Registry
from gtapp.server.siblings import Siblings

PROBE_S = 2.0  # how long the tunnels of a user who is at the limit have to show that they live
COMPAT_SILENT_S = 30.0  # the same for protocol 1, whose clients can't be asked and ping every 22.5 s
SIBLINGS_S = 0.5  # how much longer siblings may take to say what has become of theirs
RACE_S = 2.0  # a tunnel this young may have come in in the same moment as one too many at a sibling's


class Headcount:
    """Each worker tells its siblings how many it has. `find` gives a user by its id.

    Those of workers that are being replaced are about to go, and don't count.
    """

    def __init__(self, registry: Registry, siblings: Siblings, find: Callable[[str], User | None]) -> None:
        self._registry = registry
        self._siblings = siblings
        self._find = find
        self._elsewhere: dict[int, dict[str, int]] = {}
        self._burying: set[str] = set()  # users whose dead tunnels are to make room at a sibling's
        self._news = Event()
        siblings.on("tunnels", self._told)
        siblings.on("doubt", self._doubted)
        siblings.joined.append(self._joined)
        siblings.left.append(self._left)

    def make_room(self, user: User) -> None:
        """See that the user may have one more tunnel: those of a client that has vanished make room for new ones.

        Raises RemoteRefused("too_many_connections").
        """
        tunnels = list(self._registry.tunnels_of(user.id))
        for tunnel in tunnels:
            tunnel.doubt()
        is_full = self._count(user.id) >= user.connections
        for number, counts in self._elsewhere.items():
            if user.id in counts:
                self._siblings.tell_one(number, "doubt", {"user": user.id, "room": is_full})
        if is_full:
            gevent.sleep(PROBE_S)
            _bury(tunnels)
            self._wait_for_room(user)
            self.check(user)

    def check(self, user: User) -> None:
        """Raises RemoteRefused where the user may have no more."""
        if self._count(user.id) >= user.connections:
            raise RemoteRefused(
                "too_many_connections", f"{user.id} has its {user.connections} tunnels already"
            )

    def changed(self, user_id: str) -> None:
        """The user has one more here, or one less."""
        count = len(self._registry.tunnels_of(user_id))
        self._siblings.tell("tunnels", {"counts": {user_id: count}})

    def _count(self, user_id: str) -> int:
        return len(self._registry.tunnels_of(user_id)) + self._count_elsewhere(user_id)

    def _count_elsewhere(self, user_id: str) -> int:
        retiring = self._siblings.retiring
        return sum(
            counts.get(user_id, 0) for number, counts in self._elsewhere.items() if number not in retiring
        )

    def _wait_for_room(self, user: User) -> None:
        """Siblings say what has become of theirs."""
        deadline = monotonic() + SIBLINGS_S
        while self._count_elsewhere(user.id) and self._count(user.id) >= user.connections:
            if not self._news.wait(max(0.0, deadline - monotonic())):
                return

    # siblings

    def _joined(self, sibling: int) -> None:
        counts = {user_id: len(self._registry.tunnels_of(user_id)) for user_id in self._registry.users()}
        if counts:
            self._siblings.tell_one(sibling, "tunnels", {"counts": counts})

    def _left(self, sibling: int) -> None:
        self._elsewhere.pop(sibling, None)
        self._wake()

    def _told(self, sibling: int, message: Message) -> None:
        counts = self._elsewhere.setdefault(sibling, {})
        for user_id, count in message.values["counts"].items():
            has_more = count > counts.get(user_id, 0)
            counts[user_id] = count
            if not count:
                del counts[user_id]
            if has_more and sibling < self._siblings.number:
                self._settle(user_id)
        self._wake()

    def _settle(self, user_id: str) -> None:
        """A sibling with a lower number has let one in. Where both have let in the last one there may be, ours goes."""
        user = self._find(user_id)
        tunnels = self._registry.tunnels_of(user_id)
        if (
            user is not None
            and tunnels
            and tunnels[-1].age < RACE_S
            and self._count(user_id) > user.connections
        ):
            tunnels[-1].abort(f"{user_id} has its {user.connections} tunnels already")

    def _doubted(self, sibling: int, message: Message) -> None:
        """A tunnel of this user comes in at a sibling's."""
        user_id = message.values["user"]
        tunnels = list(self._registry.tunnels_of(user_id))
        for tunnel in tunnels:
            tunnel.doubt()
        if message.values["room"] and user_id not in self._burying:
            self._burying.add(user_id)
            timer = get_hub().loop.timer(PROBE_S)
            timer.start(self._bury_of, user_id, tunnels, timer)

    def _bury_of(self, user_id: str, tunnels: list[Tunnel], timer: Any) -> None:
        timer.stop()
        self._burying.discard(user_id)
        _bury(tunnels)

    def _wake(self) -> None:
        self._news.set()
        self._news = Event()


def _bury(tunnels: list[Tunnel]) -> None:
    """Abort those whose clients are gone, after they have been doubted for PROBE_S."""
    for tunnel in tunnels:
        if tunnel.is_dead(PROBE_S / 2 if tunnel.has_windows else COMPAT_SILENT_S):
            tunnel.abort("its client is gone and has come back with a new tunnel")
