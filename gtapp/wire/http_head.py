"""The head of a visitor's first HTTP request, for the host it asks for. Called by `gtapp.server.router`.

Only what decides the way is read, but whatever two readers could understand differently is refused: the bytes
go on to the service as they came, and it must not see another host than we did (RFC 9112 section 11.2).
"""

import re
from functools import lru_cache
from typing import NamedTuple

from gtapp.errors import WireError

LIMIT_BYTES = 16384  # what common servers take in total; a visitor who sends more costs no more memory


class NotHTTP(WireError):
    """These bytes are not the beginning of an HTTP request: close, no answer would be understood."""


class BadHead(WireError):
    """HTTP, but not as it should be: answer with `status` (400, 431 or 505) and close."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head(NamedTuple):
    """`host` is for routing: lower case, without port, final dot and brackets; "" where there is none."""

    method: str
    target: str
    version: str
    host: str


# RFC 9110 section 5.6.2. The longest registered method has 17 characters.
_METHOD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}"
_TARGET = rb"[^\x00-\x20\x7f]+"  # raw bytes above 127 are against the rules, but some clients send them
_EMPTY_LINES = rb"(?:\r\n)*"  # left over from the request before, by old clients: RFC 9112 section 2.2

_REQUEST_LINE = re.compile(_EMPTY_LINES + rb"(%b) (%b) HTTP/(1\.[01])\r\n" % (_METHOD, _TARGET))
# What may become a request line when more is read.
_BEGINNING = re.compile(
    _EMPTY_LINES + rb"(?:\r|%b(?: (?:%b(?: (?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01]\r?)?)?)?)?)?)?)?)?)?)?)?)?"
    % (_METHOD, _TARGET)
)  # fmt: skip
# Wrong as it is, it was meant as HTTP.
_MEANT = re.compile(_EMPTY_LINES + rb"%b (?:/|%b HTTP/)" % (_METHOD, _TARGET))
_OTHER_VERSION = re.compile(_EMPTY_LINES + rb"%b %b HTTP/(?:[02-9]|1\.[2-9])" % (_METHOD, _TARGET))

_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\r\n\x00]*+\r\n)*+")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_HOST = re.compile(rb"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._~-]{0,255}?)\.?)(?::[0-9]{0,5})?")


def is_worth_a_look(data: bytes, known: int) -> bool:
    """Whether `parse` may say more of `data` than of its first `known` bytes, where it said None: a head that
    dribbles in is not to be read again for each byte."""
    return not known or b"\n" in data[known:] or len(data) >= LIMIT_BYTES


def parse(data: bytes, mux_header: str = "Host") -> Head | None:
    """Return the head at the start of `data`, everything read so far; None when it is not complete.

    `mux_header` is the header that says where to go; a target in absolute form stands for Host, as RFC 9112
    section 3.2.2 has it. What follows the head is not looked at. Raises NotHTTP and BadHead, as soon as more
    bytes could not change the verdict.
    """
    if len(data) > LIMIT_BYTES:
        data = data[:LIMIT_BYTES]
    line = _REQUEST_LINE.match(data)
    if line is None:
        _check_beginning(data)
        return None
    begin = line.end()
    end = data.find(b"\r\n\r\n", begin - 2) + 2
    if end < 2:
        _check_unfinished(data)
        return None
    if _FIELDS.fullmatch(data, begin, end) is None:
        raise BadHead("malformed header line")
    method, target, version = line.groups()
    fields = data[begin - 2 : end].lower()
    host = _field(fields, "Host")
    if host is None and version == b"1.1":
        raise BadHead("no Host header")
    host = _check_target(method, target) or host
    if mux_header.lower() != "host":
        host = _field(fields, mux_header)
    return Head(method.decode(), target.decode("latin-1"), version.decode(), _route(host or b""))


def _check_beginning(data: bytes) -> None:
    """Raise unless `data` may become a request line."""
    if _BEGINNING.fullmatch(data) is None:
        if _OTHER_VERSION.match(data):
            raise BadHead("HTTP version other than 1.0 and 1.1", 505)
        if _MEANT.match(data):
            raise BadHead("malformed request line")
        raise NotHTTP("no HTTP request")
    _check_size(data)


def _check_unfinished(data: bytes) -> None:
    """Raise where the end of the head, CRLF CRLF, must never come, or comes too late."""
    line_ends = data.count(b"\r\n")
    if data.count(b"\n") > line_ends or data.count(b"\r") - data.endswith(b"\r") > line_ends:
        raise BadHead("line that does not end with CRLF")
    _check_size(data)


def _check_size(data: bytes) -> None:
    if len(data) >= LIMIT_BYTES:
        raise BadHead(f"head of more than {LIMIT_BYTES} bytes", 431)


def _check_target(method: bytes, target: bytes) -> bytes | None:
    """Return the authority of a target in absolute form, in lower case, None for the other forms."""
    if target[0] == 0x2F or target == b"*" or method == b"CONNECT":
        return None
    absolute = _ABSOLUTE.match(target)
    if absolute is None or not absolute[1]:
        raise BadHead("malformed request target")
    return absolute[1].lower()


def _field(fields: bytes, name: str) -> bytes | None:
    """Return the value of the only header `name` in `fields`, which are in lower case and begin with CRLF."""
    start = _start(name)
    at = fields.find(start)
    if at < 0:
        return None
    at += len(start)
    if fields.find(start, at) >= 0:
        raise BadHead(f"more than one {name} header")
    return fields[at : fields.index(b"\r\n", at)].strip(b" \t")


@lru_cache(8)
def _start(name: str) -> bytes:
    return b"\r\n%b:" % name.lower().encode()


def _route(host: bytes) -> str:
    match = _HOST.fullmatch(host)
    if match is None:
        raise BadHead("malformed host")
    return (match[1] or match[2]).decode()
