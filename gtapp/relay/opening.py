"""The opening of a tunnel as a conversation, message by message, for the greenlets of admission and dialer."""

from collections import deque
from collections.abc import Callable
from typing import Any

from gevent.event import Event

from gtapp.errors import LinkError, WireError
from gtapp.relay.tunnel import Tunnel

OPENING_S = 10.0  # the whole opening takes at most this long
MAX_WAITING = 4  # messages that nobody has looked at: the server's last one and what may follow it closely


class Opening:
    """Takes over a tunnel's `on_control` and `on_closed` until the owner sets its own.

    More than `max_waiting` messages that nobody has looked at are a protocol error.

    Use it inside `gevent.Timeout`; `receive` raises LinkError when the tunnel ends first.
    """

    def __init__(self, tunnel: Tunnel, max_waiting: int = MAX_WAITING) -> None:
        self._tunnel = tunnel
        self._max_waiting = max_waiting
        self._messages: deque[Any] = deque()
        self._ended: str | None = None
        self._event = Event()
        tunnel.on_control = self._arrived
        tunnel.on_closed = self._closed

    def receive(self) -> Any:
        """The next control message or signal."""
        while not self._messages:
            if self._ended is not None:
                raise LinkError(self._ended)
            self._event.wait()
            self._event.clear()
        return self._messages.popleft()

    def receive_message(self) -> dict[str, Any]:
        """The next control message of protocol 3."""
        message = self.receive()
        if not isinstance(message, dict):
            raise WireError("expected a control message")
        return message

    def hand_over(self, on_control: Callable[[Any], None], on_closed: Callable[[str], None]) -> None:
        """Put the owner's callbacks in its place. Raises LinkError when the tunnel has ended meanwhile."""
        if self._ended is not None:
            raise LinkError(self._ended)
        self._tunnel.on_control = on_control
        self._tunnel.on_closed = on_closed
        while self._messages:
            on_control(self._messages.popleft())

    def _arrived(self, message: Any) -> None:
        if len(self._messages) >= self._max_waiting:
            self._tunnel.broken("too many messages in the opening")
            return
        self._messages.append(message)
        self._event.set()

    def _closed(self, reason: str) -> None:
        self._ended = reason
        self._event.set()
