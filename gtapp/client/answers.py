"""What a server answers to a client's services, in words for people. Called by dialer and pool."""

import logging
from collections.abc import Sequence
from typing import Any

from gtapp.config.load import Service
from gtapp.config.values import URL
from gtapp.errors import RemoteRefused
from gtapp.wire import compat

Granted = dict[str, Any]
"""What was opened for a service, as `ready` of protocol 3 says it: a host prefix, a port, or why not."""

_COMPAT_CODES = {
    compat.INVALID_CREDENTIALS: ("invalid_credentials", "invalid id or secret"),
    compat.TCP_PORT_FAILED: ("port_unavailable", "the server cannot open the TCP port"),
    compat.TOO_MANY_CONNECTIONS: ("too_many_connections", "this id has as many tunnels as it may"),
    compat.TOO_MANY_HOSTS: ("too_many_hosts", "more host prefixes than the server allows"),
    compat.HOST_CONFLICT: ("host_conflict", "another client publishes a host prefix of ours"),
    compat.HOST_NOT_ALLOWED: ("host_not_allowed", "the server does not allow a host prefix of ours"),
    compat.OTHER_CONFIG_CONNECTED: ("host_conflict", "a client with this id and other services is connected"),
    compat.TOO_MANY_OPTIONS: ("too_many_services", "more services than the server allows"),
    compat.TOO_MANY_TCP_PORTS: ("too_many_ports", "more TCP ports than the server allows"),
}

_ADVICE = {
    "invalid_credentials": "set the id and secret that the server knows",
    "other_certificate": "if a proxy of yours does that, let the client check its certificate (without "
    "remoteCertInsecure)",
    "locked_out": "put id and secret right, then wait for the server's reconnectDuration (5 minutes if not set)",
    "too_many_connections": "end the other client with this id, or set fewer remoteConnections",
    "host_conflict": "set another hostPrefix",
    "host_not_allowed": "set a hostPrefix that the server's hostRegex allows",
    "too_many_hosts": "publish fewer, or raise hostNumber on the server",
    "port_unavailable": "set another remoteTCPPort, or remoteTCPRandom, within the server's tcpRange",
    "too_many_ports": "publish fewer, or raise tcpNumber on the server",
    "too_many_services": "publish fewer, or raise maxHandShakeOptions on the server",
}


def advised(error: RemoteRefused, services: Sequence[Service]) -> RemoteRefused:
    """The same refusal, which now names the one of `services` that it is about, and says what to do."""
    text, advice = str(error), _ADVICE.get(error.code)
    if error.service is not None and error.service < len(services):
        text = f"{services[error.service].local}: {text}"
    return RemoteRefused(error.code, f"{text}: {advice}" if advice else text)


def refusal(message: dict[str, Any]) -> RemoteRefused:
    """What the server says with protocol 3's `error`."""
    service = message.get("service")
    known = service if isinstance(service, int) and service >= 0 else None
    return RemoteRefused(str(message.get("code")), str(message.get("message")), known)


def compat_refusal(error: compat.Error) -> RemoteRefused:
    """The same of protocol 1."""
    code, text = _COMPAT_CODES.get(error.code, ("protocol_error", f"error {error.code}"))
    return RemoteRefused(code, text, error.index)


def compat_granted(services: Sequence[Service], ports: dict[int, int]) -> list[Granted]:
    """What `ready` would say, from the ports that INFO told by the services' indices."""
    return [
        {"port": ports.get(index)} if service.local.scheme == "tcp" else {"hostPrefix": service.host_prefix}
        for index, service in enumerate(services)
    ]


def address(service: Service, granted: Granted, remote: URL) -> str:
    """Where visitors find the service behind `remote`: a host prefix, or tcp://host:port; "" if it is not published."""
    port, prefix = granted.get("port"), granted.get("hostPrefix")
    if granted.get("error") is not None:
        return ""
    if service.local.scheme == "tcp" and isinstance(port, int):
        return str(URL("tcp", remote.host, port))
    return prefix if isinstance(prefix, str) else ""


def published(services: Sequence[Service], granted: Sequence[Granted], remote: URL) -> list[tuple[int, str]]:
    """Where visitors find the services behind `remote`: for each a line for the log, and its level."""
    lines = []
    for service, what in zip(services, granted, strict=False):
        where, problem = address(service, what, remote), what.get("error")
        if problem is not None:
            advice = _ADVICE.get(str(problem), "")
            text = f"is not published, the server says {problem}" + (f": {advice}" if advice else "")
            lines.append((logging.WARNING, f"{service.local} {text}"))
        elif where:
            how = "reached at" if where.startswith("tcp://") else "published as host prefix"
            lines.append((logging.INFO, f"{service.local} is {how} {where}"))
    return lines
