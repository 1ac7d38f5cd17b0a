"""The other workers of this server, as one worker sees them. What all have to agree on is told here, by topic.

Each part of a worker keeps what it is told by sibling, drops it when that one leaves, and tells a newcomer all it has.
Who was first in a race of milliseconds is not asked: the lower number wins, and the other gives way.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from typing import Any

from gevent.event import Event

from gtapp.relay.channel import Channel, Message, Undelivered, close_all

Handler = Callable[[int, Message], None]


class Siblings:
    """`joined` and `left` are called with a sibling's number; descriptors in a message are its handler's to close.

    Nothing is told and heard before `start`, when all parts of the worker are there.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.retiring: set[int] = set()  # they are being replaced: what they have goes soon
        self.joined: list[Callable[[int], None]] = []
        self.left: list[Callable[[int], None]] = []
        self._channels: dict[int, Channel] = {}
        self._early: dict[int, Channel] = {}  # they have come before `start`
        self._started = False
        self._leaving = False
        self._met: set[int] = set()  # they have told all they have
        self._all_met = Event()
        self._parted: set[int] = set()  # they know that this one leaves
        self._handlers: dict[str, list[Handler]] = defaultdict(list)
        self.on("met", lambda sibling, _: self._has_met(sibling))
        self.on("retiring", lambda sibling, _: self.retiring.add(sibling))
        self.on("leaving", lambda sibling, _: self.tell_one(sibling, "parted"))
        self.on("parted", lambda sibling, _: self._parted.add(sibling))

    @property
    def numbers(self) -> Set[int]:
        return self._channels.keys()

    def start(self) -> None:
        """Tell and hear from now on."""
        self._started = True
        early, self._early = self._early, {}
        for number, channel in early.items():
            self.add(number, channel)

    def wait(self, seconds: float) -> None:
        """Wait until all that are there have told what they have, in a greenlet and at most so long."""
        self._all_met.clear()
        self._has_met()
        self._all_met.wait(seconds)

    def add(self, number: int, channel: Channel) -> None:
        """There is a new one."""
        if not self._started:
            self._early[number] = channel
            return
        self._channels[number] = channel
        channel.on_message = lambda message: self._received(number, message)
        channel.on_closed = lambda: self._left(number)
        if self.number in self.retiring:
            self.tell_one(number, "retiring")
        for each in self.joined:
            each(number)
        self.tell_one(number, "met")
        if self._leaving:
            self.tell_one(number, "leaving")
        channel.start()

    def on(self, topic: str, handler: Handler) -> None:
        """Call `handler(number, message)` for what siblings tell about `topic`."""
        self._handlers[topic].append(handler)

    def tell(self, topic: str, values: dict[str, Any] | None = None) -> None:
        """Tell all."""
        for channel in self._channels.values():
            channel.send(topic, values)

    def tell_one(
        self,
        number: int,
        topic: str,
        values: dict[str, Any] | None = None,
        data: bytes = b"",
        fds: Sequence[int] = (),
        undelivered: Undelivered | None = None,
    ) -> None:
        """Tell one of `numbers`; `fds` are used up, but for those that `undelivered` gets: see `Channel.send`."""
        self._channels[number].send(topic, values, data, fds, undelivered)

    def queued(self, number: int) -> int:
        """Messages that this one has not taken yet."""
        return self._channels[number].queued

    def retire(self) -> None:
        """This worker is being replaced."""
        self.retiring.add(self.number)
        self.tell("retiring")

    def leave(self) -> None:
        """This worker has nothing left and ends as soon as it has `parted`: what is on its way to it arrives before."""
        if not self._leaving:
            self._leaving = True
            self.tell("leaving")

    @property
    def parted(self) -> bool:
        """Whether all know that it leaves."""
        return self._leaving and self._parted >= self._channels.keys()

    def stop(self) -> None:
        for channel in [*self._channels.values(), *self._early.values()]:
            channel.close()
        self._channels.clear()
        self._early.clear()

    def _received(self, number: int, message: Message) -> None:
        handlers = self._handlers.get(message.kind)
        if handlers is None:  # it is of a newer version
            close_all(message.fds)
            return
        for handler in handlers:
            handler(number, message)

    def _has_met(self, *siblings: int) -> None:
        self._met.update(siblings)
        if self._met >= self._channels.keys():
            self._all_met.set()

    def _left(self, number: int) -> None:
        del self._channels[number]
        self.retiring.discard(number)
        self._parted.discard(number)
        for each in self.left:
            each(number)
        self._has_met()
