"""A stream: one relayed connection inside a tunnel. It keeps the windows of protocol 3; a pump moves the bytes.

Protocol 1 has no windows: there a stream may always send, and a tunnel that must hold the other end
back stops reading altogether (see `Stream.hold`).
"""

from time import monotonic
from typing import TYPE_CHECKING, Protocol

from gtapp.observe.accounts import Account
from gtapp.wire import frames

if TYPE_CHECKING:
    from gtapp.relay.tunnel import Tunnel

INITIAL_WINDOW = 256 * 1024  # bytes either end may send on a new stream
MAX_WINDOW = 8 * 1024 * 1024  # a window grows to this for a stream that keeps emptying it
NO_WINDOW = 1 << 62  # protocol 1: never used up
HOLD_BYTES = 1024 * 1024  # protocol 1: undelivered bytes of one stream at which its tunnel stops reading
RELEASE_BYTES = 64 * 1024  # so much of it delivered, and the tunnel is read again: its other streams wait


class Sink(Protocol):
    """The local side of a stream, which gets what the other end sends: a `Pump`."""

    def deliver(self, data: memoryview) -> None:
        """Take `data`, good until this returns only; report with `stream.delivered` what has gone out."""

    def deliver_eof(self) -> None:
        """Nothing follows what was delivered."""

    def deliver_rest(self) -> None:
        """Everything has arrived and nothing can be sent any more: deliver what is kept, then close."""

    def deliver_reset(self, reason: int) -> None:
        """The stream is over, now; `reason` is one of RESET's in `wire.frames`."""

    def window_opened(self) -> None:
        """`stream.send_window` was 0 and no longer is."""

    def tick(self) -> None:
        """A clock tick of the tunnel has passed."""


class Stream:
    """One stream. `send_window`: bytes that may still be sent; `undelivered`: received, not yet passed on.

    `account` is whose it is, once `charge` has been called; `visitor` his address, "" where that is not known.
    """

    __slots__ = (
        "_credit", "_granted_at", "_holding", "_window", "account", "began", "bytes_from_local", "bytes_to_local",
        "eof_received", "eof_sent", "id", "send_window", "sink", "tunnel", "undelivered", "visitor",
    )  # fmt: skip

    def __init__(self, tunnel: "Tunnel", stream_id: int, visitor: str = "") -> None:
        self.tunnel = tunnel
        self.id = stream_id
        self.sink: Sink | None = None
        self.send_window = INITIAL_WINDOW if tunnel.has_windows else NO_WINDOW
        self.undelivered = 0
        self.eof_sent = False
        self.eof_received = False
        self.bytes_from_local = 0
        self.bytes_to_local = 0
        self.began = tunnel.age  # in ticks: the time of day would cost more than the rest of this
        self.visitor = visitor
        self.account: Account | None = None
        self._window = INITIAL_WINDOW
        self._credit = 0  # delivered bytes not yet granted back
        self._granted_at = 0.0
        self._holding = False

    def __repr__(self) -> str:
        return f"<Stream {self.id} send_window={self.send_window} undelivered={self.undelivered} {self.tunnel!r}>"

    @property
    def over(self) -> bool:
        """The tunnel knows it no more: it was reset, it has ended, or the tunnel has."""
        return self.tunnel.streams.get(self.id) is not self

    @property
    def relayed(self) -> tuple[int, int]:
        """Bytes from the visitor, and from the service."""
        counts = self.bytes_from_local, self.bytes_to_local
        return counts if self.tunnel.is_server else (counts[1], counts[0])

    def charge(self, account: Account) -> None:
        """What it relays is that account's. Called once, at its beginning."""
        self.account = account
        account.opened += 1

    # what the other end does

    def receive(self, data: memoryview) -> None:
        """DATA came. Raises WireError when the other end sends beyond its window or its EOF."""
        if self.eof_received and not self.tunnel.has_windows:
            return  # it was still on its way when one of the ends closed
        size = len(data)
        self.undelivered += size
        if self.eof_received or (self.tunnel.has_windows and self.undelivered + self._credit > self._window):
            self.tunnel.broken(f"stream {self.id}: more data than it may send")
            return
        assert self.sink is not None
        self.bytes_to_local += size
        self.sink.deliver(data)
        if self.undelivered > HOLD_BYTES and not self.tunnel.has_windows and not self._holding:
            self._holding = True
            self.tunnel.hold(self)

    def receive_window(self, size: int) -> None:
        was = self.send_window
        self.send_window = was + size
        if self.send_window > 0xFFFFFFFF:
            self.tunnel.broken(f"stream {self.id}: window beyond 4 GiB")
        elif was == 0 and size:
            assert self.sink is not None
            self.sink.window_opened()

    def receive_eof(self) -> None:
        if not self.eof_received:
            self.eof_received = True
            assert self.sink is not None
            self.sink.deliver_eof()

    # what the local side does

    def delivered(self, size: int) -> None:
        """`size` received bytes have been taken by the local socket: let the other end send as many again."""
        self.undelivered -= size
        if self.tunnel.has_windows:
            self._credit += size
            if self._credit * 2 >= self._window and not self.eof_received:
                self._grant()
        elif self._holding and self.undelivered <= HOLD_BYTES - RELEASE_BYTES:
            self._holding = False
            self.tunnel.release(self)

    def held_by_us(self) -> None:
        """What is undelivered waits for its user's speed, not for the local socket: nobody may be cut for that."""
        if self._holding:
            self.tunnel.hold(self)

    def _grant(self) -> None:
        """Send WINDOW; double the window of a stream that empties half of it within a round trip."""
        tunnel = self.tunnel
        now = monotonic()
        grant = self._credit
        if now - self._granted_at < tunnel.rtt:
            growth = tunnel.take_window(min(self._window, MAX_WINDOW - self._window))
            self._window += growth
            grant += growth
        self._granted_at = now
        self._credit = 0
        tunnel.link.write(tunnel.frames.window(self.id, grant))

    def send_eof(self) -> None:
        """Half close; on protocol 1 the end of both directions."""
        if not self.eof_sent:
            self.eof_sent = True
            self.tunnel.link.write(self.tunnel.frames.eof(self.id))

    def reset(self, reason: int = frames.CANCELLED) -> None:
        """End it at both ends, now."""
        tunnel = self.tunnel
        if not self.over:
            if tunnel.has_windows or not self.eof_sent:
                tunnel.link.write(tunnel.frames.reset(self.id, reason))
            self.forget()

    def tunnel_ended(self) -> None:
        """What has arrived completely is still delivered; anything else must not look like an end."""
        self.eof_sent = True
        if self.sink is None:
            self.forget()
        elif self.eof_received:
            self.sink.deliver_rest()
        else:
            self.sink.deliver_reset(frames.CANCELLED)

    def cut(self, reason: int) -> None:
        """End it at both ends, now, and tell the sink why."""
        if self.sink is not None and not self.over:
            self.reset(reason)
            self.sink.deliver_reset(reason)

    def forget(self) -> None:
        """The stream is over at this end: give back what it holds of the tunnel."""
        if self.over:
            return
        tunnel = self.tunnel
        if self._holding:
            self._holding = False
            tunnel.release(self)
        tunnel.give_window(self._window - INITIAL_WINDOW)
        tunnel.forget(self)
