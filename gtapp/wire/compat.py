"""Protocol 1, the original GT's: the same events as `gtapp.wire.frames`. Called by `gtapp.relay.tunnel`.

The format is in docs/PROTOCOL.md. It has no windows, no half close and no addresses of visitors.
"""

from dataclasses import dataclass
from struct import Struct

from gtapp.errors import WireError
from gtapp.wire.compat_opening import (
    DEFAULT_MAX_OPTIONS,
    OPENING,
    CompatService,
    Opening,
    OpeningReader,
    TooManyOptions,
    opening,
)
from gtapp.wire.frames import CLOSED, CONTROL, DATA, OPEN, PING, Event, Open

__all__ = [
    "OPENING", "Close", "CompatFrames", "CompatService", "Error", "Info", "Opening", "OpeningReader", "Ready",
    "Reconnect", "Services", "ServicesDone", "Signal", "TooManyOptions", "opening", "reconnect", "signal",
]  # fmt: skip

FIRST_SIGNAL = 0xFFFFFFFF - 3000  # the ids of tasks are below
_PING = 0xFFFFFFFF
_CLOSE = 0xFFFFFFFE
_READY = 0xFFFFFFFD
_ERROR = 0xFFFFFFFC
_INFO = 0xFFFFFFFB
_SERVICES = 0xFFFFFFFA
_RECONNECT = 0xFFFFFFF9

_OP_DATA, _OP_CLOSED, _OP_OPEN = range(3)

# Codes of `Error`.
INVALID_CREDENTIALS = 1
TCP_PORT_FAILED = 2
TOO_MANY_CONNECTIONS = 3
TOO_MANY_HOSTS = 4
HOST_CONFLICT = 5
HOST_NOT_ALLOWED = 6
OTHER_CONFIG_CONNECTED = 7
TOO_MANY_OPTIONS = 8
TOO_MANY_TCP_PORTS = 9

# Codes of `Info`.
TCP_PORT_OPENED = 1

_DATA_HEADER = Struct(">IHI")  # task, op, length
_OPEN_HEADER = Struct(">IHHI")  # task, op, service, length
_CLOSED_FRAME = Struct(">IH")  # task, op; or signal, code
_U32 = Struct(">I")
_U16 = Struct(">H")
_LONGEST_HEAD = _OPEN_HEADER.size


@dataclass(frozen=True, slots=True)
class Close:
    """No new tasks on this tunnel; close it when the running ones are done. The second one: close it now."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The server has accepted the tunnel."""


@dataclass(frozen=True, slots=True)
class Error:
    """The server refuses; `index` is the service it is about, for TCP_PORT_FAILED alone."""

    code: int
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Info:
    """TCP_PORT_OPENED: the service of this index has this port on the server. It comes before `Ready`."""

    code: int
    index: int
    port: int


@dataclass(frozen=True, slots=True)
class Services:
    """The client replaces the services of a live tunnel."""

    opening: Opening


@dataclass(frozen=True, slots=True)
class ServicesDone:
    """The server's answer to `Services`."""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Open new tunnels: the server is being replaced."""


Signal = Close | Ready | Error | Info | Services | ServicesDone | Reconnect


def signal(value: Signal) -> bytes:
    """The bytes of a signal."""
    match value:
        case Close():
            return _U32.pack(_CLOSE)
        case Ready():
            return _U32.pack(_READY)
        case Error(code, index) if (code == TCP_PORT_FAILED) != (index is not None):
            raise ValueError("an error names a service if and only if its port could not be opened")
        case Error(code, None):
            return _CLOSED_FRAME.pack(_ERROR, code)
        case Error(code, index):
            return _CLOSED_FRAME.pack(_ERROR, code) + _U16.pack(index)
        case Info(code, index, port):
            return _CLOSED_FRAME.pack(_INFO, code) + _U16.pack(index) + _U16.pack(port)
        case Services(new):
            return _U32.pack(_SERVICES) + opening(new).removeprefix(OPENING)
        case ServicesDone():
            return _U32.pack(_SERVICES)
        case Reconnect():
            return _U32.pack(_RECONNECT)


def reconnect() -> bytes:
    """RECONNECT, in a way that GT's clients read on: they take the two bytes behind it for an operation.

    So frames of tasks that do not exist follow. As they stand there, they are no data for task 0001FFFF, and
    the end of task 00040001 (servers number theirs 2, 4, …); as GT reads them, the end of task FFFFFFF9, and data of
    four bytes for task FFFF0000. Both end at the same place.
    """
    return (
        signal(Reconnect())
        + _DATA_HEADER.pack(0x0001FFFF, _OP_DATA, 0)
        + _CLOSED_FRAME.pack(0x00040001, _OP_CLOSED)
    )


class CompatFrames:
    """The codec of one tunnel after the opening. `server` says which end we are: each hears other signals."""

    version = 1
    data_header_bytes = 10

    def __init__(self, server: bool, max_options: int = DEFAULT_MAX_OPTIONS) -> None:
        self._server = server
        self._max_options = max_options
        self._held = b""  # a head that the last input cut off, less than _LONGEST_HEAD
        self._task = 0
        self._data_left = 0  # bytes to come of the data of that task
        self._services: OpeningReader | None = None  # reads the payload of SERVICES

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """Return the events in the next piece of the connection; `Frames.receive` says more.

        The data of an OPEN (op 2) comes as DATA events after it.
        """
        view = memoryview(data)
        end = len(view)
        events: list[Event] = []
        append = events.append
        unpack = _DATA_HEADER.unpack_from
        position = 0
        if self._held or self._data_left or self._services:
            position = self._resume(view, events)
        while position < end:
            if end - position >= 10:
                task, op, length = unpack(view, position)
                stop = position + 10 + length
                if op == 0 and stop <= end and task < FIRST_SIGNAL:
                    if length:
                        append((0, task, view[position + 10 : stop]))
                    position = stop
                    continue
            used = self._head(view[position : position + _LONGEST_HEAD], events)
            if not used:
                self._held = bytes(view[position:])
                break
            position = self._body(view, position + used, events)
        return events

    def _resume(self, view: memoryview, events: list[Event]) -> int:
        """Go on with what the last input cut off; return where the next signal or frame begins."""
        held = self._held
        if not held:
            return self._body(view, 0, events)
        head = held + view[: _LONGEST_HEAD - len(held)]
        used = self._head(memoryview(head), events)
        if not used:
            self._held = head
            return len(view)
        self._held = b""
        return self._body(view, used - len(held), events)

    def _body(self, view: memoryview, position: int, events: list[Event]) -> int:
        """Take the data, or the services, that the last head announced; return where they end."""
        if self._data_left:
            piece = view[position : position + self._data_left]
            if piece:
                self._data_left -= len(piece)
                events.append((DATA, self._task, piece))
            return position + len(piece)
        if self._services:
            new = self._services.receive(view[position:])
            if new is None:
                return len(view)
            position = len(view) - len(self._services.rest)
            self._services = None
            events.append((CONTROL, 0, Services(new)))
        return position

    def _head(self, head: memoryview, events: list[Event]) -> int:
        """Take the signal, or the head of the frame, at the start of `head`.

        Returns its size, 0 when it is not complete. Raises WireError.
        """
        size = len(head)
        if size < 4:
            return 0
        word = _U32.unpack_from(head)[0]
        if word >= FIRST_SIGNAL:
            return self._signal(word, head, events)
        if size < 6:
            return 0
        op = _U16.unpack_from(head, 4)[0]
        if op == _OP_CLOSED:
            events.append((CLOSED, word, None))
            return 6
        if op == _OP_DATA:
            if size < 10:
                return 0
            self._task = word
            self._data_left = _U32.unpack_from(head, 6)[0]
            return 10
        if op == _OP_OPEN and not self._server:
            if size < 12:
                return 0
            _, _, service, self._data_left = _OPEN_HEADER.unpack_from(head)
            self._task = word
            events.append((OPEN, word, Open(service, 0, "", b"")))
            return 12
        raise WireError(f"operation {op} on task {word}")

    def _signal(self, word: int, head: memoryview, events: list[Event]) -> int:
        if word == _PING:
            events.append((PING, 0, None))
            return 4
        if word == _CLOSE:
            events.append((CONTROL, 0, Close()))
            return 4
        if self._server:
            if word != _SERVICES:
                raise WireError(f"signal {word:#010x} from a client")
            self._services = OpeningReader(self._max_options)
            return 4
        if word == _READY:
            events.append((CONTROL, 0, Ready()))
            return 4
        if word == _SERVICES:
            events.append((CONTROL, 0, ServicesDone()))
            return 4
        if word == _RECONNECT:
            events.append((CONTROL, 0, Reconnect()))
            return 4
        if word not in (_ERROR, _INFO):
            raise WireError(f"signal {word:#010x} from a server")
        if len(head) < 6:
            return 0
        code = _U16.unpack_from(head, 4)[0]
        if word == _INFO:
            return self._info(code, head, events)
        if code != TCP_PORT_FAILED:
            events.append((CONTROL, 0, Error(code)))
            return 6
        if len(head) < 8:
            return 0
        events.append((CONTROL, 0, Error(code, _U16.unpack_from(head, 6)[0])))
        return 8

    def _info(self, code: int, head: memoryview, events: list[Event]) -> int:
        if code != TCP_PORT_OPENED:
            raise WireError(f"information {code} from a server")
        if len(head) < 10:
            return 0
        events.append((CONTROL, 0, Info(code, _U16.unpack_from(head, 6)[0], _U16.unpack_from(head, 8)[0])))
        return 10

    def write_data_header(self, buffer: bytearray | memoryview, stream: int, length: int) -> None:
        """Write the header of a data frame of `length` bytes to the start of `buffer`."""
        _DATA_HEADER.pack_into(buffer, 0, stream, _OP_DATA, length)

    def open(self, stream: int, service: int, visitor: str, data: bytes, flags: int = 0) -> bytes:
        """Op 2, from the server alone. The protocol has no room for the visitor's address, nor for flags."""
        if len(data) == 1:
            # GT's client looks at the first two bytes and holds up its whole tunnel until both are there; it
            # does not look where there are none.
            first = _OPEN_HEADER.pack(stream, _OP_OPEN, service, 0)
            return first + _DATA_HEADER.pack(stream, _OP_DATA, 1) + data
        return _OPEN_HEADER.pack(stream, _OP_OPEN, service, len(data)) + data

    def eof(self, stream: int) -> bytes:
        """Op 1: there is no half close, the connection has ended."""
        return _CLOSED_FRAME.pack(stream, _OP_CLOSED)

    def reset(self, stream: int, reason: int) -> bytes:
        """Op 1: the reason has no place."""
        return _CLOSED_FRAME.pack(stream, _OP_CLOSED)

    def window(self, stream: int, n: int) -> bytes:
        """Nothing: there are no windows."""
        return b""

    def ping(self, payload: bytes | None = None) -> bytes:
        """The signal PING; it carries nothing. The server answers with the same."""
        return _U32.pack(_PING)

    pong = ping
