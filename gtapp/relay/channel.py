"""Messages with file descriptors between two processes of ours: master and worker, or two workers.

A channel is one end of a SOCK_SEQPACKET pair: messages stay whole and in order, and the other end is ours, too.
"""

import array
import contextlib
import errno
import json
import logging
import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import gevent
from gevent import get_hub, monkey
from gevent.event import AsyncResult

from gtapp.errors import GTError
from gtapp.relay.sockets import EV_READ, EV_WRITE, system_socket

log = logging.getLogger("gt.process")

MAX_FDS = 64  # of a message; Linux takes 253
INLINE_BYTES = (
    64 * 1024
)  # larger messages go through a file in memory: packets have to fit into the send buffer
AT_ONCE = 64  # messages per callback: a burst must not hold the hub
AGAIN_S = 0.01  # when the kernel has too many descriptors on their way
_system_close = monkey.get_original("os", "close")  # gevent's does it some time later
_HEADER = struct.Struct("!BII")  # flags, size of the JSON, number of the call or of the one that is answered
_IN_FILE, _ANSWER = 1, 2
_buffer = bytearray(_HEADER.size + INLINE_BYTES)

Undelivered = Callable[[Sequence[int]], None]


class ChannelClosed(GTError):
    """The process at the other end is gone."""


class Message(NamedTuple):
    """One message. Whoever gets it closes `fds`. `number` is that of a call, which wants an answer; otherwise 0."""

    kind: str
    values: dict[str, Any]
    data: bytes = b""
    fds: Sequence[int] = ()
    number: int = 0


class _Packet(NamedTuple):
    data: bytes
    fds: Sequence[int]  # those of the message, and before them that of the file in memory
    in_file: bool
    undelivered: Undelivered


class Channel:
    """One end. Everything but `call` is for hub callbacks and never waits.

    `on_message(message)` gets what is not an answer; `on_closed()` is called once, when the other end has gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is used up."""
        self._sock = system_socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, sock.detach())
        loop = get_hub().loop
        self._reader: Any = loop.io(self._sock.fileno(), EV_READ)
        self._writer: Any = loop.io(self._sock.fileno(), EV_WRITE)
        self._waiting: deque[_Packet] = deque()
        self._again: Any = loop.timer(AGAIN_S)
        self._calls: dict[int, AsyncResult[Message]] = {}
        self._numbers = 0
        self.closed = False
        self.on_message: Callable[[Message], None] = _ignore
        self.on_closed: Callable[[], None] = lambda: None

    @property
    def queued(self) -> int:
        """Messages that wait to be sent."""
        return len(self._waiting)

    def fileno(self) -> int:
        return self._sock.fileno()

    def start(self) -> None:
        """Read from now on."""
        self._reader.start(self._readable)

    def send(
        self,
        kind: str,
        values: dict[str, Any] | None = None,
        data: bytes = b"",
        fds: Sequence[int] = (),
        undelivered: Undelivered | None = None,
    ) -> None:
        """Send a message. `fds` are taken over: closed once they are sent, or when that can't be any more.

        `undelivered(fds)` gets them back where the other end has gone before the message was on its way.
        """
        self._send(kind, values or {}, data, fds, 0, 0, undelivered)

    def reply(
        self, to: Message, values: dict[str, Any] | None = None, data: bytes = b"", fds: Sequence[int] = ()
    ) -> None:
        """Answer a call."""
        self._send("", values or {}, data, fds, to.number, _ANSWER)

    def call(
        self,
        kind: str,
        values: dict[str, Any] | None = None,
        data: bytes = b"",
        fds: Sequence[int] = (),
        *,
        timeout: float,
    ) -> Message:
        """Send a message and wait for its answer, in a greenlet.

        Raises ChannelClosed; GTError after `timeout` seconds.
        """
        self._numbers += 1
        number = self._numbers
        answer = self._calls[number] = AsyncResult()
        try:
            self._send(kind, values or {}, data, fds, number, 0)
            if self.closed:
                raise ChannelClosed("the other process is gone")
            return cast(Message, answer.get(timeout=timeout))
        except gevent.Timeout:
            raise GTError(f"no answer within {timeout:.0f} s") from None
        finally:
            del self._calls[number]

    def detach(self) -> int:
        """The descriptor, for whoever takes the channel over; what waits to be sent is lost."""
        self._stop()
        return self._sock.detach()

    def close(self) -> None:
        """Close this end; nobody is told here."""
        if not self.closed:
            self._stop()
            self._sock.close()

    def _stop(self) -> None:
        self.closed = True
        self._reader.stop()
        self._writer.stop()
        self._again.stop()
        for packet in self._waiting:
            close_all(packet.fds)
        self._waiting.clear()
        for answer in self._calls.values():
            answer.set_exception(ChannelClosed("the other process is gone"))

    # sending

    def _send(
        self,
        kind: str,
        values: dict[str, Any],
        data: bytes,
        fds: Sequence[int],
        number: int,
        flags: int,
        undelivered: Undelivered | None = None,
    ) -> None:
        undelivered = undelivered or close_all
        if self.closed:
            undelivered(fds)
            return
        assert len(fds) < MAX_FDS
        head = json.dumps([kind, values], separators=(",", ":")).encode()
        body = head + data
        in_file = len(body) > INLINE_BYTES
        if in_file:
            fds = (_in_memory(body), *fds)
            body = b""
        header = _HEADER.pack(flags | (_IN_FILE if in_file else 0), len(head), number)
        packet = _Packet(header + body, fds, in_file, undelivered)
        if self._waiting or not self._sent(packet):
            self._waiting.append(packet)

    def _sent(self, packet: _Packet) -> bool:
        """Whether the system has taken it; otherwise somebody comes back for it."""
        fds = packet.fds
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([packet.data], ancillary)
        except (BlockingIOError, InterruptedError):
            if not self._writer.active:
                self._writer.start(self._writable)
            return False
        except OSError as error:
            self._writer.stop()
            if error.errno == errno.ETOOMANYREFS:
                self._again.start(self._writable)
            else:
                log.debug("a message to another process cannot be sent: %s", error.strerror)
                get_hub().loop.run_callback(self._lost)
            return False
        close_all(fds)
        return True

    def _writable(self) -> None:
        while self._waiting and not self.closed:
            if not self._sent(self._waiting[0]):
                return
            self._waiting.popleft()
        self._writer.stop()

    # receiving

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                message, answers = self._receive()
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, EOFError):
                self._lost()
                return
            try:
                if answers:
                    self._answered(message)
                else:
                    self.on_message(message)
            except Exception:
                log.exception("unexpected error with the message %r", message.kind)
            if self.closed:
                return

    def _receive(self) -> tuple[Message, bool]:
        """The next message, and whether it is an answer. Raises OSError; EOFError at the end."""
        size, ancillary, _, _ = self._sock.recvmsg_into(
            [_buffer], socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
        if not size:
            raise EOFError
        fds = array.array("i")
        for level, kind, received in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(received[: len(received) - len(received) % fds.itemsize])
        numbers = fds.tolist()
        flags, head_size, number = _HEADER.unpack_from(_buffer)
        in_file = flags & _IN_FILE
        body = _from_memory(numbers.pop(0)) if in_file else bytes(_buffer[_HEADER.size : size])
        kind, values = json.loads(body[:head_size])
        return Message(kind, values, body[head_size:], numbers, number), bool(flags & _ANSWER)

    def _answered(self, message: Message) -> None:
        waiting = self._calls.get(message.number)
        if waiting is None:  # it took too long
            close_all(message.fds)
        else:
            waiting.set(message)

    def _lost(self) -> None:
        if self.closed:
            return
        packets = list(self._waiting)
        self._waiting.clear()
        self.close()
        self.on_closed()
        for packet in packets:
            if packet.in_file:
                _system_close(packet.fds[0])
            packet.undelivered(packet.fds[1:] if packet.in_file else packet.fds)


def pair() -> tuple[socket.socket, socket.socket]:
    """The two sockets of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _ignore(message: Message) -> None:
    close_all(message.fds)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            _system_close(fd)


def _in_memory(data: bytes) -> int:
    fd = os.memfd_create("gt-message", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _from_memory(fd: int) -> bytes:
    try:
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as mapped:
            return mapped[:]
    finally:
        _system_close(fd)
