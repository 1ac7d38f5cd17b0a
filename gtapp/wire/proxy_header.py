"""The PROXY header of HAProxy, by which a relay says whose connection it passes on. Called by `gtapp.server.arrivals`
(which reads it from trusted proxies) and `gtapp.client.services` (which writes it for services that want it).

Both versions of https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Addresses are text everywhere,
"203.0.113.9:51234" or "[2001:db8::1]:51234".
"""

import re
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from gtapp.errors import WireError

V1_LIMIT_BYTES = 107  # the longest line there is, with its CRLF
V2_LIMIT_BYTES = 16 + 2048  # addresses take at most 216; the rest is for the TLVs of proxies that tell a lot


class Parsed(NamedTuple):
    """A header of `size` bytes; the connection proper follows it. `visitor` None: the address of the connection
    itself holds, because the proxy speaks for itself (LOCAL) or does not know better (UNKNOWN, UNSPEC, no TCP over IP).
    """

    visitor: str | None
    size: int


_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEADER = Struct(">12sBBH")  # signature, version and command, family and protocol, length of what follows
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6 = 0x00, 0x11, 0x21
_PORTS = Struct(">HH")

_IP = IPv4Address | IPv6Address
_ENDPOINT = re.compile(r"(?:\[([^\]]*)\]|([0-9.]*)):([0-9]{1,5})")
_V1_LINE = re.compile(r"TCP([46]) ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")


def build_v1(visitor: str, local: str) -> bytes:
    """The header as text, for a connection from `visitor` to `local`; UNKNOWN when `visitor` is no address, as ""."""
    found = _pair(visitor, local)
    if found is None:
        return b"PROXY UNKNOWN\r\n"
    (source, source_port), (target, target_port) = found
    return f"PROXY TCP{source.version} {source} {target} {source_port} {target_port}\r\n".encode()


def build_v2(visitor: str, local: str) -> bytes:
    """The header in its binary form; LOCAL, without addresses, when `visitor` is no address, as ""."""
    found = _pair(visitor, local)
    if found is None:
        return _V2_HEADER.pack(_V2, _LOCAL, _UNSPEC, 0)
    (source, source_port), (target, target_port) = found
    body = source.packed + target.packed + _PORTS.pack(source_port, target_port)
    return _V2_HEADER.pack(_V2, _PROXY, _TCP4 if source.version == 4 else _TCP6, len(body)) + body


def parse(data: bytes) -> Parsed | None:
    """Return the header at the start of `data`, everything read so far; None when it is not complete.

    Raises WireError; more bytes never change what was raised or returned.
    """
    if data.startswith(_V1):
        return _parse_v1(data)
    if data.startswith(_V2):
        return _parse_v2(data)
    if not (_V1.startswith(data) or _V2.startswith(data)):
        raise WireError("no PROXY header")
    return None


def _parse_v1(data: bytes) -> Parsed | None:
    end = data.find(b"\r\n", 0, V1_LIMIT_BYTES)
    if end < 0:
        if len(data) >= V1_LIMIT_BYTES:
            raise WireError(f"PROXY header of more than {V1_LIMIT_BYTES} bytes")
        return None
    line = data[len(_V1) : end].decode("latin-1")
    size = end + 2
    if line == "UNKNOWN" or line.startswith("UNKNOWN "):  # whatever follows is to be ignored
        return Parsed(None, size)
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise WireError("malformed PROXY header")
    version, source, target, *ports = match.groups()
    if any(int(port) > 65535 for port in ports):
        raise WireError("malformed PROXY header")
    kind = IPv4Address if version == "4" else IPv6Address
    try:
        kind(target)
        return Parsed(_text(kind(source), int(ports[0])), size)
    except ValueError:
        raise WireError("malformed PROXY header") from None


def _parse_v2(data: bytes) -> Parsed | None:
    if len(data) < _V2_HEADER.size:
        return None
    _, command, kind, length = _V2_HEADER.unpack_from(data)
    if command not in (_LOCAL, _PROXY):
        raise WireError("PROXY header of an unknown version or command")
    if kind >> 4 > 3 or kind & 15 > 2:
        raise WireError("PROXY header of an unknown family or protocol")
    size = _V2_HEADER.size + length
    if size > V2_LIMIT_BYTES:
        raise WireError(f"PROXY header of more than {V2_LIMIT_BYTES} bytes")
    if len(data) < size:
        return None
    if command == _LOCAL or kind not in (_TCP4, _TCP6):
        return Parsed(None, size)
    address_bytes = 4 if kind == _TCP4 else 16
    if length < 2 * address_bytes + _PORTS.size:
        raise WireError("malformed PROXY header")
    begin = _V2_HEADER.size
    packed = data[begin : begin + address_bytes]
    port, _ = _PORTS.unpack_from(data, begin + 2 * address_bytes)
    return Parsed(_text(IPv4Address(packed) if kind == _TCP4 else IPv6Address(packed), port), size)


def _text(address: _IP, port: int) -> str:
    """IPv4 inside IPv6 is shown as IPv4, so that a list of IPv4 networks decides on it, too."""
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError("a zone has no meaning elsewhere")
    address = _plain(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _plain(address: _IP) -> _IP:
    if isinstance(address, IPv6Address):
        # The zone of a link-local address has no meaning elsewhere, and no place in the header.
        return address.ipv4_mapped or IPv6Address(address.packed)
    return address


def _pair(visitor: str, local: str) -> tuple[tuple[_IP, int], tuple[_IP, int]] | None:
    """Both ends in one family; None without a visitor. A `local` that is no address becomes 0.0.0.0 or ::."""
    source = _endpoint(visitor)
    if source is None:
        return None
    target = _endpoint(local) or (IPv4Address(0) if source[0].version == 4 else IPv6Address(0), 0)
    if source[0].version != target[0].version:
        source, target = _widened(source), _widened(target)
    return source, target


def _endpoint(text: str) -> tuple[_IP, int] | None:
    match = _ENDPOINT.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        return None
    try:
        return _plain(IPv4Address(match[2]) if match[1] is None else IPv6Address(match[1])), int(match[3])
    except ValueError:
        return None


def _widened(endpoint: tuple[_IP, int]) -> tuple[_IP, int]:
    address, port = endpoint
    return (IPv6Address(f"::ffff:{address}") if address.version == 4 else address), port
