"""Finds the services of this machine that somebody may want to publish. Used by services and the client's wizard.

Only the ports of well known services are looked at: to say hello to everything that listens would, for one, make
printers print it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gevent
import psutil
from gevent.pool import Pool

from gtapp.console.dial import Speech, speaks

PROBE_S = 1.5  # for each, and they are asked together
TOTAL_S = 3.0  # whoever has not answered by then is taken for what usually is there
AT_A_TIME = 16

# Port: what usually is there, and what it usually speaks.
WELL_KNOWN: Mapping[int, tuple[str, Speech]] = {
    22: ("SSH", "tcp"),
    80: ("Web server", "http"),
    443: ("Web server", "https"),
    445: ("File sharing (SMB)", "tcp"),
    1880: ("Node-RED", "http"),
    3000: ("Web application", "http"),
    3389: ("Remote desktop (RDP)", "tcp"),
    5000: ("Web application", "http"),
    5001: ("Web application", "https"),
    5900: ("Remote desktop (VNC)", "tcp"),
    6052: ("ESPHome", "http"),
    8000: ("Web application", "http"),
    8006: ("Proxmox VE", "https"),
    8080: ("Web application", "http"),
    8081: ("Web application", "http"),
    8083: ("Web application", "http"),
    8096: ("Jellyfin", "http"),
    8123: ("Home Assistant", "http"),
    8384: ("Syncthing", "http"),
    8443: ("Web application", "https"),
    8888: ("Web application", "http"),
    9000: ("Web application", "http"),
    9090: ("Web application", "http"),
    9443: ("Web application", "https"),
    19999: ("Netdata", "http"),
    25565: ("Minecraft", "tcp"),
    32400: ("Plex", "http"),
}
_SPEAKS_FIRST = (22, 445, 3389, 5900, 25565)  # what these speak is known; an HTTP request fills their logs


@dataclass(frozen=True)
class Found:
    """A service: where to dial it, what it speaks, and the name of its process or of what usually is there."""

    port: int
    address: str
    scheme: str
    name: str

    @property
    def url(self) -> str:
        """As the option `local` has it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}:{self.port}"


def discover(
    own_ports: Collection[int] = (), ports: Mapping[int, tuple[str, Speech]] = WELL_KNOWN
) -> list[Found]:
    """What listens on `ports`, without GT's own: those of `own_ports`, and of every process that runs gt.py."""
    listening = {
        port: place for port, place in _listening().items() if port in ports and port not in own_ports
    }
    asked = {}
    pool = Pool(AT_A_TIME)
    for port, (address, _) in listening.items():
        if port not in _SPEAKS_FIRST:
            asked[port] = pool.spawn(speaks, address, port, PROBE_S, ports[port][1] == "https")
    gevent.joinall(list(asked.values()), timeout=TOTAL_S)
    pool.kill()
    found = []
    for port, (address, process) in sorted(listening.items()):
        usual, scheme = ports[port]
        spoken = asked[port].value if port in asked else scheme
        if isinstance(spoken, str):  # else nobody answers: it has ended meanwhile, or hangs
            found.append(Found(port, address, spoken, process or usual))
    return found


def _listening() -> dict[int, tuple[str, str]]:
    """By port: the address to dial, and the name of the process, "" where this user may not know it."""
    addresses: dict[int, set[str]] = {}
    names: dict[int, str] = {}
    ours: set[int] = set()
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return {}
    for each in connections:
        if each.status != psutil.CONN_LISTEN or not each.laddr:
            continue
        host, port = each.laddr[0], each.laddr[1]
        addresses.setdefault(port, set()).add(host)
        if each.pid:
            name, is_ours = _process(each.pid)
            names.setdefault(port, name)
            if is_ours:
                ours.add(port)
    return {
        port: (_to_dial(hosts), names.get(port, "")) for port, hosts in addresses.items() if port not in ours
    }


def _process(pid: int) -> tuple[str, bool]:
    """Its name, and whether it is a GT."""
    try:
        process = psutil.Process(pid)
        return process.name(), any(Path(word).name == "gt.py" for word in process.cmdline()[:4])
    except (psutil.Error, OSError):
        return "", False


def _to_dial(hosts: Iterable[str]) -> str:
    """Of the addresses that a service listens on, the one that is nearest."""
    known = sorted(hosts, key=_distance)
    first = known[0]
    if ipaddress.ip_address(first).is_unspecified:
        return "127.0.0.1"  # one that listens on :: alone takes these as well, unless it was told not to
    return first


def _distance(host: str) -> tuple[int, int]:
    address = ipaddress.ip_address(host)
    kind = 0 if address.is_unspecified else 1 if address.is_loopback else 2
    return kind, address.version
