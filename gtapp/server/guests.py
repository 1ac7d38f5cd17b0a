"""Ids that are in no configuration, while they have tunnels: the first secret of such an id counts for all workers.

Of guests that come by a secret of their own (`allowAnyClient`) siblings are told the verifier, and before, while one is
about to come in, the id: others who come with it wait for the outcome.
"""

from collections.abc import Callable

from gevent.event import Event

from gtapp.config.load import User
from gtapp.relay.channel import Message
from gtapp.server.siblings import Siblings
from gtapp.wire.credentials import Verifier, parse_verifier


class Guest:
    """`verifier` is the one it came with first, None where the authAPI decides at each login."""

    __slots__ = ("user", "verifier")

    def __init__(self, user: User, verifier: Verifier | None) -> None:
        self.user = user
        self.verifier = verifier


class Guests:
    """`here` are those with a login in this worker. `rivalled(id)` is called when a sibling with a lower number has let
    the same id in with another secret in the same moment: ours have to go."""

    def __init__(self, siblings: Siblings, rivalled: Callable[[str], None]) -> None:
        self.here: dict[str, Guest] = {}
        self._rivalled = rivalled
        self._siblings = siblings
        self._enrolling: dict[str, Event] = {}
        self._elsewhere: dict[int, dict[str, Verifier]] = {}
        self._enrolling_elsewhere: dict[int, dict[str, Event]] = {}
        siblings.on("guest", self._told_guest)
        siblings.on("enrolling", self._told_enrolling)
        siblings.joined.append(self._joined)
        siblings.left.append(self._left)

    def verifier(self, user_id: str) -> Verifier | None:
        """What the secret of this guest is checked against; None: there is none, or the authAPI decides."""
        guest = self.here.get(user_id)
        return self.verifier_elsewhere(user_id) if guest is None else guest.verifier

    def verifier_elsewhere(self, user_id: str) -> Verifier | None:
        """The same of one who is in at a sibling's."""
        for number in sorted(self._elsewhere):
            verifier = self._elsewhere[number].get(user_id)
            if verifier is not None:
                return verifier
        return None

    def is_free(self, user_id: str) -> bool:
        """Whether there is no guest of this id."""
        return user_id not in self.here and self.verifier_elsewhere(user_id) is None

    def come(self, user_id: str, guest: Guest) -> None:
        """This one has a login here from now on."""
        self.here[user_id] = guest
        if guest.verifier is not None:
            self._siblings.tell("guest", {"id": user_id, "verifier": str(guest.verifier)})

    def go(self, user_id: str) -> bool:
        """It has none any more. Whether there was such a guest."""
        guest = self.here.pop(user_id, None)
        if guest is not None and guest.verifier is not None:
            self._siblings.tell("guest", {"id": user_id, "verifier": None})
        return guest is not None

    # who is about to come in

    def enroll(self, user_id: str) -> None:
        """Others with this id wait until `enrolled`."""
        self._enrolling[user_id] = Event()
        self._siblings.tell("enrolling", {"id": user_id, "on": True})

    def enrolled(self, user_id: str) -> None:
        """It has come in, or has not."""
        self._enrolling.pop(user_id).set()
        self._siblings.tell("enrolling", {"id": user_id, "on": False})

    def enrolling(self, user_id: str) -> Event | None:
        """What to wait for, where another opening decides about this id, here or at a sibling's."""
        event = self._enrolling.get(user_id)
        if event is not None:
            return event
        return next((each[user_id] for each in self._enrolling_elsewhere.values() if user_id in each), None)

    def gives_way(self, user_id: str) -> bool:
        """Whether an opening here, which began in the same moment as one of a sibling, is the one to go."""
        others = (n for n, ids in self._enrolling_elsewhere.items() if user_id in ids)
        return self.verifier_elsewhere(user_id) is not None or any(n < self._siblings.number for n in others)

    # siblings

    def _joined(self, sibling: int) -> None:
        for user_id, guest in self.here.items():
            if guest.verifier is not None:
                values = {"id": user_id, "verifier": str(guest.verifier)}
                self._siblings.tell_one(sibling, "guest", values)
        for user_id in self._enrolling:
            self._siblings.tell_one(sibling, "enrolling", {"id": user_id, "on": True})

    def _left(self, sibling: int) -> None:
        self._elsewhere.pop(sibling, None)
        for event in self._enrolling_elsewhere.pop(sibling, {}).values():
            event.set()

    def _told_guest(self, sibling: int, message: Message) -> None:
        user_id, text = message.values["id"], message.values["verifier"]
        theirs = self._elsewhere.setdefault(sibling, {})
        if text is None:
            theirs.pop(user_id, None)
            return
        verifier = theirs[user_id] = parse_verifier(text)
        guest = self.here.get(user_id)
        rivals = guest is not None and guest.verifier is not None and guest.verifier != verifier
        if rivals and sibling < self._siblings.number:
            self._rivalled(user_id)

    def _told_enrolling(self, sibling: int, message: Message) -> None:
        user_id = message.values["id"]
        theirs = self._enrolling_elsewhere.setdefault(sibling, {})
        if message.values["on"]:
            theirs[user_id] = Event()
        elif user_id in theirs:
            theirs.pop(user_id).set()
