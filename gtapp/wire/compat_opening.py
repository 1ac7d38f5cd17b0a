"""Protocol 1's opening: who the client is and what it publishes. Called through `gtapp.wire.compat`.

The format is in docs/PROTOCOL.md. The same bytes, without `F0 01`, replace a live tunnel's services later.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

from gtapp.errors import WireError

OPENING = b"\xf0\x01"
MAX_NAME_BYTES = 200  # id and secret
DEFAULT_MAX_OPTIONS = 600

_ID_AS_HTTP_HOST = 0
_TCP_PORT = 1
_ONE_MORE = 2
_HTTP_HOST = 3
_ID_AS_TLS_HOST = 4
_TLS_HOST = 5
# An option's first byte of 64 and more says that code bytes follow; no such option exists.


class TooManyOptions(WireError):
    """More options than the server takes; it answers with `Error(TOO_MANY_OPTIONS)`."""


@dataclass(frozen=True, slots=True)
class CompatService:
    """One published service. `prefix` None means the client's id; `port` and `random` are for "tcp" alone."""

    kind: Literal["http", "tls", "tcp"]
    prefix: str | None = None
    port: int = 0
    random: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    id: str
    secret: str = field(repr=False)
    services: tuple[CompatService, ...]


def opening(value: Opening) -> bytes:
    """The first bytes of a tunnel. Raises ValueError on what the format has no room for."""
    if not value.services:
        raise ValueError("protocol 1 needs at least one service")
    parts = [OPENING, _name(value.id), _name(value.secret)]
    for service in value.services[:-1]:
        parts += (bytes((_ONE_MORE,)), _option(service, value.id))
    parts.append(_option(value.services[-1], value.id))
    return b"".join(parts)


def _name(text: str, most: int = MAX_NAME_BYTES) -> bytes:
    data = text.encode()
    if not 1 <= len(data) <= most:
        raise ValueError(f"protocol 1 carries names of 1 to {most} bytes, not of {len(data)}")
    return bytes((len(data),)) + data


def _option(service: CompatService, client_id: str) -> bytes:
    if service.kind == "tcp":
        return bytes((_TCP_PORT, service.random)) + service.port.to_bytes(2, "big")
    tls = service.kind == "tls"
    if service.prefix is None or service.prefix == client_id:
        return bytes((_ID_AS_TLS_HOST if tls else _ID_AS_HTTP_HOST,))
    return bytes((_TLS_HOST if tls else _HTTP_HOST,)) + _name(service.prefix, 255)


class OpeningReader:
    """Reads one opening, from after its `F0 01`. It keeps no more than the options it may accept."""

    def __init__(self, max_options: int = DEFAULT_MAX_OPTIONS) -> None:
        self.rest = b""
        """The bytes after the opening, once it is complete."""
        self._max_options = max_options
        self._buffer = bytearray()
        self._position = 0
        self._parser = self._parse()

    def receive(self, data: bytes | memoryview) -> Opening | None:
        """Take the next bytes; return the opening when it is complete. Raises WireError, TooManyOptions."""
        self._buffer += data
        try:
            next(self._parser)
        except StopIteration as done:
            self.rest = bytes(self._buffer[self._position :])
            result: Opening | None = done.value
            return result
        return None

    def _parse(self) -> Generator[None, None, Opening]:
        client_id = yield from self._text("id", MAX_NAME_BYTES)
        secret = yield from self._text("secret", MAX_NAME_BYTES)
        services: list[CompatService] = []
        expected = 1
        options = 0
        while expected:
            options += 1
            if options > self._max_options:
                raise TooManyOptions(f"more than {self._max_options} options")
            code = (yield from self._take(1))[0]
            if code == _ONE_MORE:
                expected += 1
            else:
                services.append((yield from self._service(code)))
                expected -= 1
        return Opening(client_id, secret, tuple(services))

    def _service(self, code: int) -> Generator[None, None, CompatService]:
        if code == _ID_AS_HTTP_HOST:
            return CompatService("http")
        if code == _ID_AS_TLS_HOST:
            return CompatService("tls")
        if code == _HTTP_HOST:
            return CompatService("http", (yield from self._text("host prefix", 255)))
        if code == _TLS_HOST:
            return CompatService("tls", (yield from self._text("host prefix", 255)))
        if code == _TCP_PORT:
            random, high, low = yield from self._take(3)
            return CompatService("tcp", None, high << 8 | low, random != 0)
        raise WireError(f"unknown option {code:#04x}")

    def _text(self, what: str, most: int) -> Generator[None, None, str]:
        length = (yield from self._take(1))[0]
        if not 1 <= length <= most:
            raise WireError(f"{what} of {length} bytes")
        data = yield from self._take(length)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise WireError(f"{what} that is no UTF-8") from None

    def _take(self, n: int) -> Generator[None, None, bytes]:
        stop = self._position + n
        while len(self._buffer) < stop:
            yield
        data = bytes(self._buffer[self._position : stop])
        self._position = stop
        return data
