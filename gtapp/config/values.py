"""The value types of options and how each is read from text and shown again; used by the option table.

Every source of options (YAML, flags, environment) hands over plain text, so one reader a kind serves all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

MIB = 1024 * 1024
MAX_DOMAIN = 189  # a host name has at most 253 characters, 64 of them a prefix and its dot (RFC 1035, 2.3.4)
MAX_CREDENTIAL_BYTES = 200  # docs/PROTOCOL.md: an id and a secret travel with a one-byte length, 1..200
SHORTEST_S, LONGEST_S = 0.1, 30 * 86400.0  # of durations: less is a busy loop, more an overflow somewhere
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # the last: bytes of argv that are not UTF-8
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252}[A-Za-z0-9_.])?")
_DNS_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DURATION_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_SIZE = re.compile(r"([0-9]{1,15})(KiB|MiB|GiB)?")
_SIZE_UNITS = {None: 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}
_KEY = "[A-Za-z0-9+/]{43}="  # 32 bytes
_VERIFIER = re.compile(rf"SCRAM-SHA-256\$([0-9]{{4,7}}):[A-Za-z0-9+/]{{22}}==\${_KEY}:{_KEY}")
_BASIC_AUTH = re.compile(  # memory from 100 KiB to 1 GB, salt from 8 bytes, hash from 16 bytes
    r"[^:]{1,200}:\$argon2id\$v=19\$m=[1-9][0-9]{2,5},t=[1-9][0-9]?,p=[1-9]"
    r"\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}"
)
_TRUE, _FALSE = ("true", "yes", "on", "1", "t", "y"), ("false", "no", "off", "0", "f", "n")  # Go's and YAML's
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # RFC 9110 section 5.6.2, of a sensible length


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty host means every address of the machine, port 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class URL:
    """Where to connect to: the remote server or a local service. There is never a path."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class PortRange:
    """TCP ports `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How one kind of value is written.

    `parse` raises ValueError: whoever calls it says what was found and what is `allowed`. `choices` are the words
    of a kind that is one of a few, `bounds` the ends of a range of whole numbers: forms show them.
    """

    allowed: str
    metavar: str
    parse: Callable[[str], T]
    show: Callable[[Any], str | int | float | bool] = str
    choices: tuple[str, ...] = ()
    bounds: tuple[int, int] | None = None


def is_host_prefix(text: str) -> bool:
    """Whether `text` can be the first label of a host name (RFC 1035 section 2.3.1, and underscores)."""
    return _DNS_LABEL.fullmatch(text) is not None


def ip_of(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address in "203.0.113.9:51234" or "[2001:db8::1]:51234"; None where there is none."""
    try:
        return ipaddress.ip_address(peer.rpartition(":")[0].strip("[]"))
    except ValueError:
        return None


def network_of(peer: str) -> str:
    """Who counts as one where tries are limited, of an address with or without a port: an IPv4 address, or the first
    64 bits of an IPv6 address, the rest of which is its owner's to choose. A text without address is itself."""
    try:
        found = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        with_port = ip_of(peer)
        if with_port is None:
            return peer
        found = with_port
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), 64), strict=False))  # without the zone that it may have


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parse_text(text: str) -> str:
    if _UNPRINTABLE.search(text):
        raise ValueError
    return text


def _parse_credential(text: str) -> str:
    if not 1 <= len(_parse_text(text).encode()) <= MAX_CREDENTIAL_BYTES:
        raise ValueError
    return text


def _parse_boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError
    return text.lower() in _TRUE


def _parse_duration(text: str) -> float:
    """Seconds, to the millisecond."""
    if not re.fullmatch(f"({_DURATION_PART.pattern})+", text):
        raise ValueError
    seconds = round(sum(float(n) * _UNITS_MS[unit] for n, unit in _DURATION_PART.findall(text))) / 1000
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise ValueError
    return seconds


def _show_duration(seconds: float) -> str:
    rest, text = round(seconds * 1000), ""
    for unit in ("h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS_MS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _parse_size(text: str) -> int:
    if not (match := _SIZE.fullmatch(text)):
        raise ValueError
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _show_size(size: int) -> str | int:
    return f"{size // MIB}MiB" if size and size % MIB == 0 else size


def _parse_port(text: str, lowest: int) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not lowest <= int(text) <= 65535:
        raise ValueError
    return int(text)


def _parse_host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        return str(ipaddress.IPv6Address(text[1:-1]))
    if re.fullmatch("[0-9.]+", text):
        return str(ipaddress.IPv4Address(text))
    if not _HOST_NAME.fullmatch(text):
        raise ValueError
    return text


def _parse_address(text: str) -> Address | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return Address(_parse_host(host) if host else "", _parse_port(port, lowest=0))


def _parse_port_range(text: str) -> PortRange:
    """As the original GT reads it: 0 is no port, so ranges from 0 begin at 1, and 0 alone is every port."""
    first, dash, last = text.partition("-")
    lowest = _parse_port(first, lowest=0)
    ports = PortRange(max(1, lowest), _parse_port(last, lowest=1) if dash else lowest or 65535)
    if ports.first > ports.last:
        raise ValueError
    return ports


def _parse_host_prefix(text: str) -> str:
    if not is_host_prefix(text):
        raise ValueError
    return text.lower()


def _parse_regex(text: str) -> str:
    try:
        re.compile(_parse_text(text))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError from error
    return text


def integer(lowest: int, highest: int) -> Kind[int]:
    """A whole number within a range, both ends included."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or not lowest <= int(text) <= highest:
            raise ValueError
        return int(text)

    allowed = f"a whole number from {lowest} to {highest}"
    return Kind(allowed, "NUMBER", parse, int, bounds=(lowest, highest))


def choice(*words: str) -> Kind[str]:
    """One of a few words."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    allowed = f"{', '.join(words[:-1])} or {words[-1]}"
    return Kind(allowed, "|".join(words) if len(words) < 5 else "WORD", parse, choices=words)


def url(ports: dict[str, int | None], default: str | None = None) -> Kind[URL]:
    """A URL with one of the schemes of `ports`, which names the port of each (None: it has to be written)."""

    def parse(text: str) -> URL:
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = default or "", text
        scheme, rest = scheme.lower(), rest.removesuffix("/")
        if scheme not in ports:
            raise ValueError
        host, colon, port = rest.rpartition(":")
        if not colon or rest.endswith("]"):
            host, port = rest, str(ports[scheme] or "")
        return URL(scheme, _parse_host(host), _parse_port(port, lowest=1))

    schemes = ", ".join(f"{scheme}://host:port" for scheme in ports)
    return Kind(f"one of {schemes}, without a path", "URL", parse)


def _parse_fraction(text: str) -> float:
    if not re.fullmatch(r"0|1|[01]?\.[0-9]{1,4}", text) or float(text) > 1:
        raise ValueError
    return float(text)


def _parse_workers(text: str) -> int:
    return 0 if text == "auto" else integer(1, 256).parse(text)


def _parse_protocol(text: str) -> int:
    if text not in ("1", "3"):
        raise ValueError
    return int(text)


def _parse_domain(text: str) -> str:
    """In lower case; the last label of an address is a number, which has no names under it."""
    labels = text.removesuffix(".").lower().split(".") if text else []
    name = ".".join(labels)
    if len(name) > MAX_DOMAIN or not all(_DNS_LABEL.fullmatch(each) for each in labels):
        raise ValueError
    if labels and labels[-1].isdigit():
        raise ValueError
    return name


def _parse_header_name(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError
    return text


def _parse_verifier(text: str) -> str:
    match = _VERIFIER.fullmatch(text)
    if not match or not 4096 <= int(match[1]) <= 1_000_000:  # as gtapp.wire.credentials has it
        raise ValueError
    return text


def _parse_web_url(text: str) -> str:
    url = urlsplit(_parse_text(text))
    if text and (url.scheme not in ("http", "https") or not url.hostname or url.port == 0 or " " in text):
        raise ValueError
    return text


def _parse_basic_auth(text: str) -> str:
    if text and not _BASIC_AUTH.fullmatch(_parse_text(text)):
        raise ValueError
    return text


def _parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


TEXT = Kind("text without control characters", "TEXT", _parse_text)
FILE = Kind("a path", "FILE", _parse_text)
CREDENTIAL = Kind(
    f"text of 1 to {MAX_CREDENTIAL_BYTES} bytes, no control characters", "TEXT", _parse_credential
)
BOOLEAN = Kind("true or false", "", _parse_boolean, bool)
FRACTION = Kind("a number from 0.0 to 1.0", "NUMBER", _parse_fraction, float)
DURATION = Kind(
    f"a duration such as 30s, 5m or 1m500ms, from {_show_duration(SHORTEST_S)} to {_show_duration(LONGEST_S)}",
    "DURATION",
    _parse_duration,
    _show_duration,
)
SIZE = Kind("a number of bytes, also with KiB, MiB or GiB", "BYTES", _parse_size, _show_size)
SPEED = Kind("bytes per second, also with KiB, MiB or GiB", "BYTES/S", _parse_size, _show_size)
ADDRESS = Kind("an address such as 80, :80, 0.0.0.0:80 or [::]:80", "ADDRESS", _parse_address)
PORT_RANGE = Kind("ports such as 1024-65535 or 8080", "PORTS", _parse_port_range)
WEB_URL = Kind("a URL such as https://example.com/path", "URL", _parse_web_url)
BASIC_AUTH = Kind("user:hash, the hash as gt.py hash-password prints it", "USER:HASH", _parse_basic_auth)
NETWORK = Kind("a network such as 10.0.0.0/8 or one address", "NETWORK", _parse_network)
DOMAIN = Kind("a domain name such as example.com", "DOMAIN", _parse_domain)
HOST_PREFIX = Kind("one DNS label (letters, digits, - inside; at most 63)", "LABEL", _parse_host_prefix)
REGEX = Kind("a regular expression", "REGEX", _parse_regex)
HEADER_NAME = Kind("the name of an HTTP header", "NAME", _parse_header_name)
PROTOCOL = Kind("1 or 3", "1|3", _parse_protocol, int)
VERIFIER = Kind(
    "SCRAM-SHA-256$iterations:salt$stored key:server key, 4096 to 1000000 iterations", "TEXT", _parse_verifier
)
WORKERS = Kind("auto or a whole number from 1 to 256", "NUMBER", _parse_workers, lambda n: n or "auto")
