"""What the wizard can find out about this machine: where its domain leads, which ports can be had, who has them.

Called by the wizard's steps and by the welcome page. Everything here looks and binds for real, and leaves nothing
behind.
"""

import contextlib
import errno
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gevent
import psutil

from gtapp.config.values import DOMAIN, Address

LOOK_UP_S = 4.0  # for one name; whoever waits sits before the page
HTTP_PORTS = (80, 8080, 8000, 8081, 8888)
TLS_PORTS = (443, 8443, 9443)
LOCALHOST = "localhost"  # browsers take every name under it for this machine (RFC 6761 section 6.3)
MOST_ADDRESSES = 8  # shown

_IN_CGROUP = re.compile("docker|containerd|libpod|kubepods|lxc")


# the domain


def clean_domain(text: str) -> str:
    """The domain that somebody means who types `*.Example.com.` or pastes a URL, as the option has it.

    Raises ValueError.
    """
    text = text.strip().removeprefix("http://").removeprefix("https://").partition("/")[0]
    text = text.removeprefix("*.").removesuffix(".")
    try:
        name = DOMAIN.parse(text.encode("idna").decode("ascii"))
    except UnicodeError:
        raise ValueError from None
    if name != LOCALHOST and "." not in name:
        raise ValueError
    return name


def is_address(text: str) -> bool:
    """Whether it is an IP address, which has no names under it."""
    try:
        ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return False
    return True


DNSState = Literal["here", "elsewhere", "unknown", "missing", "failed"]


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it should be, and what was found. `state`:

    here: it leads to this machine. elsewhere: not to it. unknown: this machine has no public address of its own that
    could be compared. missing: there is no such name. failed: nobody could be asked.
    """

    name: str  # as it is shown: example.com, *.example.com
    found: tuple[str, ...]
    state: DNSState


@dataclass(frozen=True, slots=True)
class DNSCheck:
    """Whether the names of a domain lead here."""

    records: tuple[Record, ...]

    @property
    def ok(self) -> bool:
        return all(each.state == "here" for each in self.records)

    @property
    def state(self) -> DNSState:
        """That of the record which has most to be done about it."""
        order: tuple[DNSState, ...] = ("failed", "missing", "elsewhere", "unknown", "here")
        return min((each.state for each in self.records), key=order.index)


def check_dns(domain: str, ours: Collection[str]) -> DNSCheck:
    """Look up the domain and a name under it that nobody has chosen; `ours` are the addresses of this machine."""
    names = {domain: domain, f"*.{domain}": f"gt-{secrets.token_hex(4)}.{domain}"}
    asked = {shown: gevent.spawn(_look_up, name) for shown, name in names.items()}
    return DNSCheck(tuple(_record(shown, *greenlet.get(), ours) for shown, greenlet in asked.items()))


def _look_up(name: str) -> tuple[DNSState | None, tuple[str, ...]]:
    try:
        with gevent.Timeout(LOOK_UP_S):
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except gevent.Timeout:
        return "failed", ()
    except socket.gaierror as error:
        missing = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
        return "missing" if error.errno in missing else "failed", ()
    except (OSError, UnicodeError):
        return "failed", ()
    return None, tuple(dict.fromkeys(str(each[4][0]).partition("%")[0] for each in found))[:MOST_ADDRESSES]


def _record(shown: str, state: DNSState | None, found: tuple[str, ...], ours: Collection[str]) -> Record:
    if state is None and not found:
        state = "missing"
    if state is not None:
        return Record(shown, (), state)
    if set(found) & set(ours):
        return Record(shown, found, "here")
    # Behind a router or in a cloud the public address is somebody else's, who passes on what comes to it.
    comparable = any(is_public(each) for each in ours) or not any(is_public(each) for each in found)
    return Record(shown, found, "elsewhere" if comparable else "unknown")


def is_public(address: str) -> bool:
    """Whether it can be reached from everywhere."""
    return ipaddress.ip_address(address).is_global


def own_addresses(host: str = "") -> list[str]:
    """The addresses by which others reach this machine, public ones first. `host` is what the browser has come to: an
    address that led here is one of ours, whoever passes it on."""
    found = [
        str(each.address).partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6)
    ]
    if is_address(host):
        found.insert(0, host.strip("[]"))
    parsed = [ipaddress.ip_address(each) for each in found]
    usable = [each for each in parsed if not (each.is_loopback or each.is_link_local or each.is_unspecified)]
    return list(dict.fromkeys(str(each) for each in sorted(usable, key=lambda each: not each.is_global)))


# ports


BindState = Literal["free", "taken", "forbidden", "no address", "failed"]


@dataclass(frozen=True, slots=True)
class BindCheck:
    """Whether an address can be listened on; `holder` names the process that has it, where this user may know that."""

    address: Address
    state: BindState
    holder: str = ""
    reason: str = ""  # the system's word for a failure of another kind

    @property
    def ok(self) -> bool:
        return self.state == "free"


_STATES: Mapping[int, BindState] = {
    errno.EADDRINUSE: "taken",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
    errno.EADDRNOTAVAIL: "no address",
}


def check_bind(address: Address) -> BindCheck:
    """Listen there for a moment, in the way the relay will do it."""
    try:
        _bind(address)
    except OSError as error:
        state = _STATES.get(error.errno or 0, "failed")
        holder = holder_of(address.port) if state == "taken" else ""
        return BindCheck(address, state, holder, error.strerror or str(error))
    return BindCheck(address, "free")


def _bind(address: Address) -> None:
    """Raises OSError."""
    if not address.host:
        try:
            _listen(socket.AF_INET6, "::", address.port)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
        else:
            return
    host = address.host or "0.0.0.0"
    family, _, _, _, name = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    _listen(family, str(name[0]), address.port)


def _listen(family: int, host: str, port: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
        sock.listen(1)


def holder_of(port: int) -> str:
    """The process that listens on a port, `nginx (process 812)`; "" where this user may not know that."""
    with contextlib.suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr[1] == port and each.pid:
                return f"{psutil.Process(each.pid).name()} ({each.pid})"
    return ""


def free_port(candidates: Collection[int], host: str = "") -> int | None:
    """The first that can be listened on; None where none can."""
    return next((port for port in candidates if check_bind(Address(host, port)).ok), None)


# where this runs


def container(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> str:
    """What kind of container this is in: docker, podman, kubernetes or container; "" for none."""
    environ = os.environ if environ is None else environ
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    if environ.get("container"):  # systemd-nspawn, LXC and others say so (systemd.io/CONTAINER_INTERFACE)
        return environ["container"] if environ["container"] in ("docker", "podman") else "container"
    with contextlib.suppress(OSError):
        if _IN_CGROUP.search((root / "proc/1/cgroup").read_text("utf-8", "replace")):
            return "container"
    return ""
