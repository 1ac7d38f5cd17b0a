"""Protocol 3's frames: bytes in, events out, and the other way round. Called by `gtapp.relay.tunnel`.

The format is in docs/PROTOCOL.md. `gtapp.wire.compat` gives the same events for protocol 1.
"""

import json
from struct import Struct
from typing import Any, NamedTuple

from gtapp.errors import WireError

MAGIC = 0xF0  # the first byte of every tunnel, of either protocol; no visitor's connection begins with it
OPENING = b"\xf0\x03"

# Kinds of events. The first eight are the frame types of protocol 3.
DATA, OPEN, EOF, RESET, WINDOW, PING, PONG, CONTROL = range(8)
CLOSED = 8  # protocol 1 only: both directions of the stream are over at once

# Reasons of a RESET.
CANCELLED, REFUSED, TIMED_OUT, LIMIT, PROTOCOL, FORBIDDEN = range(6)

OVER_TLS = 1  # flag of an OPEN: the visitor came over TLS, which the server took off

MAX_DATA_BYTES = 65536  # one frame must not hold up the others on a slow link for long
MAX_CONTROL_BYTES = 262144  # 600 services with names and addresses fit several times over

Event = tuple[int, int, Any]
"""(kind, stream, value). What the value is depends on the kind:

DATA memoryview, OPEN `Open`, EOF None, RESET int (the reason), WINDOW int (bytes granted), PING and PONG
bytes (protocol 1: None), CONTROL dict (protocol 1: one of the signals of `gtapp.wire.compat`), CLOSED None.
"""


class Open(NamedTuple):
    """A new stream. `data` is what the visitor sent before it; `visitor` is "" where it is not known."""

    service: int
    flags: int
    visitor: str
    data: bytes


_HEADER = Struct(">II")  # stream, then type in the top 8 bits and length in the rest
_OPEN = Struct(">HBB")
_U32 = Struct(">I")
_MAX_OPEN_BYTES = _OPEN.size + 255 + MAX_DATA_BYTES

# Least and most bytes of payload per type; a frame outside is refused when its header is seen.
_SIZES = {
    DATA: (0, MAX_DATA_BYTES),
    OPEN: (_OPEN.size, _MAX_OPEN_BYTES),
    EOF: (0, 0),
    RESET: (1, 1),
    WINDOW: (4, 4),
    PING: (8, 8),
    PONG: (8, 8),
    CONTROL: (2, MAX_CONTROL_BYTES),
}
_NAMES = ("DATA", "OPEN", "EOF", "RESET", "WINDOW", "PING", "PONG", "CONTROL")


class Frames:
    """The codec of one tunnel, for either end. After a WireError it is of no use any more."""

    version = 3
    data_header_bytes = 8

    def __init__(self) -> None:
        self._held = bytearray()  # a frame, or only part of its header, that the last input cut off; no DATA
        self._held_stop = 0  # size of that frame, 0 while its header is not complete
        self.max_control_bytes = MAX_CONTROL_BYTES
        """A server lowers it while it does not know who sends: parsed JSON takes many times the room."""
        self._data_stream = 0
        self._data_left = 0  # bytes to come of the DATA frame that the last input cut off

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """Return the events in the next piece of the connection.

        The value of a DATA event is a slice of `data` itself, good until the caller reuses that buffer. A
        DATA frame that `data` cuts off comes in pieces. Raises WireError; events before the error are lost.
        """
        view = memoryview(data)
        end = len(view)
        events: list[Event] = []
        append = events.append
        unpack = _HEADER.unpack_from
        position = 0
        if self._held or self._data_left:
            position = self._resume(view, events)
        while end - position >= 8:
            stream, word = unpack(view, position)
            stop = position + 8 + word
            if word <= 65536 and stop <= end and stream:  # a whole DATA frame: its type is 0
                if word:
                    append((0, stream, view[position + 8 : stop]))
                position = stop
            else:
                position = self._other(view, position, stream, word, events)
        if position < end:
            self._held += view[position:]
        return events

    def _other(self, view: memoryview, position: int, stream: int, word: int, events: list[Event]) -> int:
        """Take the frame at `position`, one cut off or of another type; return where the next begins."""
        kind, length = self._check(stream, word)
        begin, end = position + 8, len(view)
        if kind == DATA:
            self._data_stream = stream
            self._data_left = length
            return self._data(view, begin, events)
        stop = begin + length
        if stop <= end:
            events.append((kind, stream, _value(kind, bytes(view[begin:stop]))))
            return stop
        self._held += view[position:]
        self._held_stop = 8 + length
        return end

    def _resume(self, view: memoryview, events: list[Event]) -> int:
        """Go on with what the last input cut off; return where the first whole frame of `view` begins."""
        held = self._held
        position = 0
        if held and not self._held_stop:
            position = min(8 - len(held), len(view))
            held += view[:position]
            if len(held) < 8:
                return position
            stream, word = _HEADER.unpack_from(held)
            kind, length = self._check(stream, word)
            if kind == DATA:
                held.clear()
                self._data_stream = stream
                self._data_left = length
            else:
                self._held_stop = 8 + length
        if self._data_left:
            return self._data(view, position, events)
        if held:
            stop = min(position + self._held_stop - len(held), len(view))
            held += view[position:stop]
            position = stop
            if len(held) == self._held_stop:
                stream, word = _HEADER.unpack_from(held)
                kind = word >> 24
                payload = bytes(held[8:])
                held.clear()
                self._held_stop = 0
                events.append((kind, stream, _value(kind, payload)))
        return position

    def _data(self, view: memoryview, position: int, events: list[Event]) -> int:
        piece = view[position : position + self._data_left]
        if piece:
            self._data_left -= len(piece)
            events.append((DATA, self._data_stream, piece))
        return position + len(piece)

    def _check(self, stream: int, word: int) -> tuple[int, int]:
        """Split the second word of a header into type and length. Raises WireError where they break a rule."""
        kind, length = word >> 24, word & 0xFFFFFF
        if kind not in _SIZES:
            raise WireError(f"frame of unknown type {kind}")
        least, most = _SIZES[kind]
        if not least <= length <= most or (kind == CONTROL and length > self.max_control_bytes):
            raise WireError(f"{_NAMES[kind]} frame of {length} bytes")
        if (stream == 0) != (kind >= PING):
            raise WireError(f"{_NAMES[kind]} frame on stream {stream}")
        return kind, length

    def write_data_header(self, buffer: bytearray | memoryview, stream: int, length: int) -> None:
        """Write the header of a DATA frame of `length` <= MAX_DATA_BYTES bytes to the start of `buffer`."""
        _HEADER.pack_into(buffer, 0, stream, length)

    def open(self, stream: int, service: int, visitor: str, data: bytes, flags: int = 0) -> bytes:
        """OPEN: `visitor` is an address, at most 255 ASCII characters; `data` at most MAX_DATA_BYTES."""
        address = visitor.encode("ascii")
        return _frame(stream, OPEN, _OPEN.pack(service, flags, len(address)) + address + data)

    def eof(self, stream: int) -> bytes:
        return _frame(stream, EOF)

    def reset(self, stream: int, reason: int) -> bytes:
        return _frame(stream, RESET, bytes((reason,)))

    def window(self, stream: int, n: int) -> bytes:
        """Allow the other end `n` more bytes on this stream, 0 <= n < 2**32."""
        return _frame(stream, WINDOW, _U32.pack(n))

    def ping(self, payload: bytes) -> bytes:
        """PING with 8 bytes that come back in the PONG."""
        return _frame(0, PING, payload)

    def pong(self, payload: bytes) -> bytes:
        return _frame(0, PONG, payload)

    def control(self, message: dict[str, Any]) -> bytes:
        """CONTROL: a JSON object with a "type". Raises ValueError over MAX_CONTROL_BYTES."""
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return _frame(0, CONTROL, text.encode())


def _frame(stream: int, kind: int, payload: bytes = b"") -> bytes:
    least, most = _SIZES[kind]
    if not least <= len(payload) <= most:
        raise ValueError(f"{_NAMES[kind]} cannot carry {len(payload)} bytes")
    return _HEADER.pack(stream, kind << 24 | len(payload)) + payload


def _value(kind: int, payload: bytes) -> Any:
    """What the event of a frame carries (`Event`); its length has been checked. Raises WireError."""
    if kind == EOF:
        return None
    if kind == RESET:
        return payload[0]
    if kind == WINDOW:
        return _U32.unpack(payload)[0]
    if kind == OPEN:
        return _read_open(payload)
    if kind == CONTROL:
        return _read_control(payload)
    return payload


def _read_open(payload: bytes) -> Open:
    service, flags, address_bytes = _OPEN.unpack_from(payload)
    begin = _OPEN.size + address_bytes
    address = payload[_OPEN.size : begin]
    # It goes to logs and request headers as it is.
    if len(address) < address_bytes or not address.isascii() or not address.decode("ascii").isprintable():
        raise WireError("OPEN frame with a bad visitor address")
    if len(payload) - begin > MAX_DATA_BYTES:
        raise WireError(f"OPEN frame with {len(payload) - begin} bytes of data")
    return Open(service, flags, address.decode("ascii"), payload[begin:])


def _read_control(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload.decode(), parse_constant=_refuse_constant)
        if b"\\u" in payload:
            # Half a surrogate pair can be written as an escape, and makes a str that no one can encode again.
            json.dumps(message, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise WireError("CONTROL frame that is no JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise WireError("CONTROL frame that is no JSON object with a type")
    return message


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
