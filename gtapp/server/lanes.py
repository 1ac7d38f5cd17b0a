"""A lane: what of a visitor's connection belongs to one host, as a socket in memory. Made by request_router."""

import socket
from typing import Any, Protocol

from gtapp.relay.sockets import EV_READ, Socket, Watcher
from gtapp.relay.watch import Watch

FULL_BYTES = 65536  # of requests that wait to be pumped


class Owner(Protocol):
    """The connection that has been split."""

    def lane_sends(self, lane: "Lane", data: bytes | memoryview) -> int: ...
    def lane_has_room(self, lane: "Lane") -> None: ...
    def lane_ended(self, lane: "Lane", clean: bool) -> None: ...
    def lane_closed(self, lane: "Lane") -> None: ...


class Lane:
    """What a pump sees of the visitor: `recv_into` gives requests, `send` takes responses."""

    __slots__ = (
        "_cut", "_finished", "_in", "_owner", "_reader", "_reset", "_visitor", "_writer",
        "is_used_again", "name", "over",
    )  # fmt: skip

    def __init__(self, owner: Owner, name: str, visitor: Socket) -> None:
        self._owner = owner
        self.name = name
        self._visitor = visitor
        self._in = b""
        self._finished = False  # nothing follows `_in`
        self._cut = False  # the visitor is gone
        self._reset = False  # the service is, in the middle of something
        self._reader = Watch()
        self._writer = Watch()
        self._writer.ready = True
        self.is_used_again = False  # by a second request
        self.over = False  # the service sends no more

    # for the owner

    @property
    def is_full(self) -> bool:
        return len(self._in) >= FULL_BYTES and not self.over

    def put(self, data: bytes) -> None:
        """Bytes for the service."""
        self._in += data
        self._reader.ready = bool(self._in)

    def finish(self) -> None:
        """No bytes follow."""
        self._finished = True
        self._reader.ready = True

    def cut(self) -> None:
        """The service must not take what it has got for a whole request."""
        self._cut = True
        self._reader.ready = True

    def has_room(self) -> None:
        """`send` takes something again."""
        self._writer.ready = True

    # as a socket

    def recv_into(self, buffer: memoryview, nbytes: int = 0) -> int:
        if self._cut:
            raise ConnectionResetError
        part = self._in[: nbytes or len(buffer)]
        if not part:
            if self._finished:
                return 0
            raise BlockingIOError
        was_full = self.is_full
        buffer[: len(part)] = part
        self._in = self._in[len(part) :]
        self._reader.ready = bool(self._in) or self._finished
        if was_full and not self.is_full:
            self._owner.lane_has_room(self)
        return len(part)

    def send(self, data: bytes | memoryview) -> int:
        try:
            sent = self._owner.lane_sends(self, data)
        except BlockingIOError:
            self._writer.ready = False
            raise
        self._writer.ready = True
        return sent

    def sendmsg(self, buffers: list[bytes | memoryview]) -> int:
        sent = 0
        try:
            for each in buffers:
                sent += self.send(each)
        except BlockingIOError:
            if not sent:
                raise
        return sent

    def shutdown(self, how: int) -> None:
        self._end(clean=True)

    def close(self) -> None:
        self._end(clean=not self._reset)
        self._reader.stop()
        self._writer.stop()
        self._owner.lane_closed(self)

    def _end(self, clean: bool) -> None:
        if not self.over:
            self.over = True
            self._owner.lane_ended(self, clean)

    def watch(self, events: int) -> Watcher:
        return self._reader if events == EV_READ else self._writer

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self._reset = self._reset or option == socket.SO_LINGER  # see reset_on_close

    def getpeername(self) -> Any:
        return self._visitor.getpeername()

    def fileno(self) -> int:
        return self._visitor.fileno()
