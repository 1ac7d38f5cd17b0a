"""Tries a local service out: who answers there, and in which protocol. Used by services, setup and `discover`.

It is the console's process that dials; what it reaches, the client's workers on the same machine reach as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

import gevent
from gevent import socket, ssl

from gtapp.config.values import URL
from gtapp.console.setup_checks import container
from gtapp.console.words import _

DIAL_S = 3.0  # for all of it
HEAD_BYTES = 4096  # of an answer are read, at most; the first line is what counts
_HOST_OF_CONTAINER = "host.docker.internal"
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})")
_TLS_ALERT = b"\x15\x03"  # how a TLS server answers what is no TLS (RFC 8446 section 5.1)

Speech = Literal["http", "https", "tcp"]


@dataclass(frozen=True)
class Tried:
    """What came of it, in words; `ms` from the dial to the answer."""

    ok: bool
    text: str
    ms: int = 0


class _Failed(Exception):
    """The words for people."""


def try_service(local: URL) -> Tried:
    """Dial a service: connect for tcp, a request for http, a handshake for https. At most DIAL_S."""
    tries: dict[str, Callable[[URL], str]] = {"http": _try_http, "https": _try_tls, "tcp": _try_tcp}
    began = monotonic()
    try:
        with gevent.Timeout(DIAL_S, TimeoutError()):
            text = tries[local.scheme](local)
    except _Failed as error:
        return Tried(False, str(error))
    except OSError as error:
        return Tried(False, _words(local, error))
    return Tried(True, text, round((monotonic() - began) * 1000))


def speaks(host: str, port: int, seconds: float, tls_first: bool = False) -> Speech | None:
    """What is spoken there: HTTP, TLS (https) or something else (tcp); None where nobody answers in time."""
    try:
        with gevent.Timeout(seconds, TimeoutError()):
            if tls_first and _is_tls(host, port, seconds / 2):
                return "https"
            status, answer = _ask(host, port, seconds / 2)
            if not tls_first and _may_be_tls(status, answer) and _is_tls(host, port, seconds / 4):
                return "https"
            return "http" if status else "tcp"
    except OSError:
        return None


def _try_http(local: URL) -> str:
    status, answer = _ask(local.host, local.port, DIAL_S)
    if _may_be_tls(status, answer) and _is_tls(local.host, local.port, DIAL_S / 2):
        raise _Failed(_("TLS is spoken at %(address)s: choose https:// for it.", address=_at(local)))
    if status:
        return _("It answers, with HTTP status %(status)s.", status=status)
    if answer:
        raise _Failed(
            _("Something answers at %(address)s, but not in HTTP: choose tcp:// for it.", address=_at(local))
        )
    raise _Failed(
        _(
            "%(address)s takes the connection and closes it without an answer: is it a web server?",
            address=_at(local),
        )
    )


def _try_tls(local: URL) -> str:
    if not _handshake(local.host, local.port, DIAL_S):
        raise _Failed(_("No TLS is spoken at %(address)s: choose http:// for it.", address=_at(local)))
    return _("It answers, and speaks TLS.")


def _try_tcp(local: URL) -> str:
    with _connect(local.host, local.port, DIAL_S):
        return _("It takes connections.")


def _ask(host: str, port: int, seconds: float) -> tuple[int, bytes]:
    """The status (0: no HTTP) and the beginning of what answers to a request. Raises OSError when nothing listens."""
    name = f"[{host}]" if ":" in host else host
    request = f"HEAD / HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: GT\r\nConnection: close\r\n\r\n"
    answer = b""
    with _connect(host, port, seconds) as sock:
        try:
            sock.sendall(request.encode("ascii"))
            while b"\n" not in answer and len(answer) < HEAD_BYTES and (data := sock.recv(HEAD_BYTES)):
                answer += data
        except TimeoutError:
            if seconds >= DIAL_S and not answer:
                raise
        except ConnectionError:
            pass  # what came before counts
    status = _STATUS.match(answer)
    return (int(status[1]) if status else 0), answer


def _may_be_tls(status: int, answer: bytes) -> bool:
    """How TLS servers answer a request that is not encrypted: with an alert, with words of their own, or not at all."""
    return not answer or status == 400 or answer.startswith(_TLS_ALERT)


def _is_tls(host: str, port: int, seconds: float) -> bool:
    """The same as `_handshake`, where what does not answer is no TLS."""
    try:
        return _handshake(host, port, seconds)
    except OSError:
        return False


def _handshake(host: str, port: int, seconds: float) -> bool:
    """Whether TLS is spoken there; whose certificate it is does not matter: visitors check that. Raises OSError when
    nothing listens."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _connect(host, port, seconds) as sock:
        try:
            with context.wrap_socket(sock, server_hostname=host):
                return True
        except (ssl.SSLError, ConnectionError, ValueError):  # ValueError: a name that TLS has no words for
            return False


def _connect(host: str, port: int, seconds: float) -> Any:
    return socket.create_connection((host, port), timeout=seconds)


def _words(local: URL, error: OSError) -> str:
    address = _at(local)
    if isinstance(error, TimeoutError):
        return _(
            "%(address)s does not answer within %(seconds)s s: is the service busy, or a firewall between?",
            address=address,
            seconds=round(DIAL_S),
        )
    if isinstance(error, socket.gaierror):
        return _("The name %(host)s is not known here: check how it is written.", host=local.host)
    if isinstance(error, ConnectionRefusedError):
        text = _(
            "Nothing listens at %(address)s: start the service, or correct the address.", address=address
        )
        if container() and (local.host == "localhost" or local.host.startswith("127.")):
            text += " " + _(
                "In a container this is the container itself; the machine around it is often %(name)s.",
                name=_HOST_OF_CONTAINER,
            )
        return text
    return _(
        "%(address)s cannot be reached: %(reason)s.", address=address, reason=error.strerror or str(error)
    )


def _at(local: URL) -> str:
    return str(local).partition("://")[2]
