"""The first message of a visitor's TLS, for the name it asks for. Called by `gtapp.server.router`.

Nothing is decrypted: the ClientHello is readable for everyone, and goes on to the service as it came (RFC 8446 section
4.1.2, RFC 5246 section 7.4.1.2 for older versions, RFC 6066 section 3 for the name).
"""

import re
from dataclasses import dataclass

from gtapp.errors import WireError

# All records of the hello with their headers: RFC 8446 allows more, but one with two post-quantum key shares and ten
# session tickets stays far below, and a visitor who sends more costs no more memory.
LIMIT_BYTES = 16384

# What to send before closing: a fatal alert in a record of TLS 1.2 (RFC 8446 section 6), which any version reads.
ALERT_UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
ALERT_DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"


class NotTLS(WireError):
    """These bytes are not the beginning of TLS: close, no answer would be understood."""


class BadHello(WireError):
    """TLS, but not as it should be: answer with ALERT_DECODE_ERROR and close."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`server_name` is for routing: lower case, without final dot, None where none is given. `alpn` in the
    visitor's order, () where it has none.

    An IP address is no name (RFC 6066 section 3 forbids it) and counts as none. Under Encrypted Client Hello the
    name is the outer one, the only one that can be read.
    """

    server_name: str | None
    alpn: tuple[bytes, ...] = ()


_HANDSHAKE = 22
_CLIENT_HELLO = 1
_RECORD_HEADER_BYTES = 5  # type u8, version u16, length u16
_MESSAGE_HEADER_BYTES = 4  # type u8, length u24
_MAX_RECORD_BYTES = 16384
_SERVER_NAME, _ALPN = 0, 16  # types of extensions
_HOST_NAME = 0
_NAME = re.compile(rb"([a-z0-9._-]{1,255}?)\.?")
# Whatever looks like an IPv4 or IPv6 address.
_ADDRESS = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f:.]*:[0-9a-f:.]*")


def parse(data: bytes) -> ClientHello | None:
    """Return the hello at the start of `data`, everything read so far; None when it is not complete.

    What follows it is not looked at. Raises NotTLS and BadHello; more bytes never change what was raised or returned.
    """
    return HelloReader().read(data)


class HelloReader:
    """The same for a hello that comes in pieces: each record is looked at once, however many there are."""

    __slots__ = ("_message", "_position", "_size")

    def __init__(self) -> None:
        self._position = 0  # of the first record that was not complete
        self._message = b""  # what the records before it hold
        self._size = 0  # of the message with its header, 0 while that is not known

    def read(self, data: bytes) -> ClientHello | None:
        """`parse`, for the same `data` as before with more at its end."""
        data = data[:LIMIT_BYTES]
        while not self._size or len(self._message) < self._size:
            begin = self._position + _RECORD_HEADER_BYTES
            length = self._record(data[self._position : begin])
            piece = data[begin : begin + length]
            if not self._size:
                self._size = _size(self._message + piece[:_MESSAGE_HEADER_BYTES])
            missing = self._size - len(self._message)
            if len(piece) < length and not 0 < missing <= len(piece):
                if len(data) == LIMIT_BYTES:
                    raise BadHello(f"ClientHello of more than {LIMIT_BYTES} bytes")
                return None
            self._message += piece
            self._position = begin + length
        return _hello(self._message[_MESSAGE_HEADER_BYTES : self._size])

    def _record(self, header: bytes) -> int:
        """The length of the record with this header, more than there can be of it while the header is not complete."""
        if (header[:1] and header[0] != _HANDSHAKE) or (header[1:2] and header[1] != 3):
            if self._position:
                raise BadHello("another record inside the ClientHello")
            raise NotTLS("no TLS handshake")
        if len(header) < _RECORD_HEADER_BYTES:
            return LIMIT_BYTES
        length = int.from_bytes(header[3:])
        if not 0 < length <= _MAX_RECORD_BYTES:
            raise BadHello(f"record of {length} bytes")
        return length


def _size(start: bytes) -> int:
    """The size of the message that begins with `start`, its header included; 0 until that is there."""
    if start[:1] and start[0] != _CLIENT_HELLO:
        raise BadHello("the first message is no ClientHello")
    if len(start) < _MESSAGE_HEADER_BYTES:
        return 0
    length = int.from_bytes(start[1:_MESSAGE_HEADER_BYTES])
    if length > LIMIT_BYTES - _RECORD_HEADER_BYTES - _MESSAGE_HEADER_BYTES:
        raise BadHello(f"ClientHello of more than {LIMIT_BYTES} bytes")
    return _MESSAGE_HEADER_BYTES + length


class _Cursor:
    """Takes a structure apart; BadHello where it ends too early."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise BadHello("malformed ClientHello")
        self._position += count
        return self._data[self._position - count : self._position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int, least: int = 0, most: int = 65535) -> bytes:
        """A part of `least` to `most` bytes after its length, a number of `size` bytes (RFC 8446 section 3.4)."""
        length = self.number(size)
        if not least <= length <= most:
            raise BadHello("malformed ClientHello")
        return self.take(length)

    def end(self) -> None:
        if self.left:
            raise BadHello("malformed ClientHello")


def _hello(body: bytes) -> ClientHello:
    reader = _Cursor(body)
    if reader.number(2) >> 8 != 3:
        raise BadHello("ClientHello of an unknown version")
    reader.take(32)  # random
    reader.vector(1, 0, 32)  # session id
    if len(reader.vector(2, 2, 65534)) % 2:  # cipher suites
        raise BadHello("malformed ClientHello")
    reader.vector(1, 1, 255)  # compression methods
    if not reader.left:
        return ClientHello(None)  # from before there were extensions
    extensions = _extensions(reader.vector(2))
    reader.end()
    name, protocols = extensions.get(_SERVER_NAME), extensions.get(_ALPN)
    return ClientHello(
        None if name is None else _server_name(name), () if protocols is None else _protocols(protocols)
    )


def _extensions(data: bytes) -> dict[int, bytes]:
    found = {}
    reader = _Cursor(data)
    while reader.left:
        kind = reader.number(2)
        if kind in found:
            raise BadHello(
                "the same extension twice"
            )  # RFC 8446 section 4.2; two readers could take different ones
        found[kind] = reader.vector(2)
    return found


def _server_name(data: bytes) -> str | None:
    reader = _Cursor(data)
    names = _Cursor(reader.vector(2, 1))
    reader.end()
    host = None
    while names.left:
        kind = names.number(1)
        name = names.vector(2)  # RFC 6066: whatever other types there will be begin with a length, too
        if kind == _HOST_NAME:
            if host is not None:
                raise BadHello("more than one server name")
            host = name.lower()
    return None if host is None else _route(host)


def _route(host: bytes) -> str | None:
    if _ADDRESS.fullmatch(host):
        return None
    match = _NAME.fullmatch(host)
    if match is None:
        raise BadHello("malformed server name")
    return match[1].decode()


def _protocols(data: bytes) -> tuple[bytes, ...]:
    """RFC 7301 section 3.1."""
    reader = _Cursor(data)
    names = _Cursor(reader.vector(2, 2))
    reader.end()
    found = []
    while names.left:
        found.append(names.vector(1, 1, 255))
    return tuple(found)
