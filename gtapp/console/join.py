"""What a client needs to come in, and where visitors find what it publishes: both made from the server's configuration.

A join code carries id, secret, the server's addresses and, where no authority vouches for its certificate, the
fingerprint of that. Used by users, clients, the API and the wizard's last page.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segno
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from gtapp.config.files import MADE_CERTIFICATE
from gtapp.config.load import ServerConfig
from gtapp.config.options import ServerOptions, User
from gtapp.config.values import URL, Address
from gtapp.wire.join_code import JoinCode

LIMIT_BYTES = 1024 * 1024  # of a file of certificates
EXAMPLE = "http://127.0.0.1:80"  # the service that commands publish: whoever copies one puts its own there
QR_PX = 240
_STANDARD = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Invitation:
    """How one user's client comes in: a join code, the same as a picture (SVG), and as commands.

    `host` is the name of the server in it; `is_guess` when the configuration has no domain and it is only how the
    console was reached.
    """

    code: str
    svg: str
    python: str
    docker: str
    host: str
    is_guess: bool


@dataclass(frozen=True)
class Link:
    """Something that is published: `kind` is http, tls or tcp, `name` the host prefix or port, `user` whose it is."""

    kind: str
    name: str
    user: str
    urls: tuple[str, ...]


def invitation(
    config: ServerConfig, user: User, reached_at: str = "", status: Mapping[str, Any] | None = None
) -> Invitation | None:
    """For a user whose secret is known, of a server that listens somewhere (None otherwise). `reached_at` is the Host
    that the console was reached by, `status` what the running GT says: where it really listens."""
    if user.secret is None:
        return None
    options = config.options
    host = public_host(options, reached_at)
    fingerprint = own_certificate(config)
    remotes = tuple(str(remote) for remote in remotes_of(options, host, status))
    if not remotes:
        return None
    code = JoinCode(user.id, user.secret, remotes, fingerprint, options.domain).encode()
    words = ["client", "--id", user.id, "--secret", user.secret]
    words += ["--remote", remotes[0]]
    if fingerprint and remotes[0].startswith("tls:"):
        words.append("--remoteCertInsecure")  # the secret decides: both prove that they know it
    words += ["--local", EXAMPLE]
    line = shlex.join(words)
    return Invitation(
        code=code,
        svg=qr_svg(code.upper()),  # which is the same, and a smaller picture
        python=f"python gt.py {line}",
        docker=f"docker run -d --name gt --restart unless-stopped --network host gt {line}",
        host=host,
        is_guess=not options.domain,
    )


def qr_svg(text: str) -> str:
    """A QR code as SVG without styles of its own; it is black on white in dark pages, too: cameras want it so."""
    code = segno.make(text, micro=False, error="m")
    svg = str(code.svg_inline(omitsize=True, dark="#000", light="#fff", svgclass="qr", lineclass=None))
    return svg.replace("<svg ", f'<svg width="{QR_PX}" height="{QR_PX}" ', 1)


def public_host(options: ServerOptions, reached_at: str = "") -> str:
    """The name or address that clients reach the server at: its domain; else the one address that it listens on;
    else the name in `reached_at`, host:port."""
    if options.domain:
        return options.domain
    for address in (options.tls_addr, options.addr):
        if address is not None and address.host and not _is_any(address.host):
            return address.host
    name = reached_at.rpartition(":")[0] if not reached_at.endswith("]") and ":" in reached_at else reached_at
    return name.strip("[]") or "127.0.0.1"


def remotes_of(options: ServerOptions, host: str, status: Mapping[str, Any] | None = None) -> list[URL]:
    """What a client's `remote` can be, the best first."""
    found = []
    for scheme, key in (("tls", "tlsAddr"), ("tcp", "addr")):
        port = _port(options, key, status)
        if port:
            found.append(URL(scheme, host, port))
    return found


def public_links(config: ServerConfig, status: Mapping[str, Any], reached_at: str = "") -> list[Link]:
    """What clients publish just now, and the URLs of it; none where host prefixes are not in host names.

    `status` is what the running GT answers; `reached_at` stands in for a domain that is not set, for TCP ports.
    """
    published: dict[tuple[str, str], str] = {}
    for unit in status.get("units", ()):
        for worker in unit.get("workers", ()):
            for each in worker.get("hosts", ()):
                published[each["kind"], each["name"]] = each["user"]
    return [
        Link(kind, name, user, urls_of(config.options, kind, name, status, reached_at))
        for (kind, name), user in sorted(published.items())
    ]


def urls_of(
    options: ServerOptions,
    kind: str,
    name: str,
    status: Mapping[str, Any] | None = None,
    reached_at: str = "",
) -> tuple[str, ...]:
    """Where visitors find a host prefix (kind http, or tls for one that is passed through) or port (tcp)."""
    if kind == "tcp":
        return (f"tcp://{_bracketed(public_host(options, reached_at))}:{name}",)
    if not options.domain or (kind == "http" and options.http_mux_header.lower() != "host"):
        return ()
    ways = (("https", "tlsAddr"), ("http", "addr")) if kind == "http" else (("https", "sniAddr"),)
    found = []
    for scheme, key in ways:
        port = _port(options, key, status)
        if port:
            shown = "" if port == _STANDARD[scheme] else f":{port}"
            found.append(f"{scheme}://{name}.{options.domain}{shown}/")
    return tuple(found)


def own_certificate(config: ServerConfig) -> str:
    """The fingerprint (SHA-256, hex) of the certificate of `tlsAddr` when it vouches for itself alone; "" for one of
    an authority, and where there is none (yet)."""
    options = config.options
    if options.tls_addr is None:
        return ""
    beside = config.path.parent if config.path else Path()
    path = Path(options.cert_file) if options.cert_file else beside / MADE_CERTIFICATE
    try:
        with path.open("rb") as file:
            leaf = x509.load_pem_x509_certificates(file.read(LIMIT_BYTES))[0]
    except (OSError, ValueError):
        return ""
    return leaf.fingerprint(hashes.SHA256()).hex() if leaf.issuer == leaf.subject else ""


def _port(options: ServerOptions, key: str, status: Mapping[str, Any] | None) -> int:
    """Where the server listens for `key`; 0 for nowhere. The configuration may leave the choice to the system."""
    names = {"addr": options.addr, "tlsAddr": options.tls_addr, "sniAddr": options.sni_addr}
    address: Address | None = names[key]
    if address is None:
        return 0
    if address.port:
        return address.port
    for unit in (status or {}).get("units", ()):
        for listener in unit.get("listeners", ()):
            if listener.get("option") == key:
                return int(listener["address"].rpartition(":")[2])
    return 0


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
