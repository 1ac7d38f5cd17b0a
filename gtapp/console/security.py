"""What guards every request whoever makes it: where it comes from, which host it names, its size; and the headers of
every answer."""

from __future__ import annotations

import hashlib
import logging
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import BadRequest, Forbidden, LengthRequired

from gtapp.config.options import OPTIONS
from gtapp.console.context import console
from gtapp.console.words import _
from gtapp.errors import ConfigError
from gtapp.observe.logs import Limited

log = logging.getLogger("gt.console")
_limited = Limited("gt.console")

MAX_BODY = 1024 * 1024
MAX_LARGE_BODY = 11 * 1024 * 1024  # a configuration file may have 10 MiB, and something surrounds it
LARGE = ("yaml",)  # the blueprints whose forms carry a whole file
MAX_SMALL_BODY = 32 * 1024
SMALL = ("auth",)  # those whose forms everybody may send: to read 1 MiB of fields takes most of a second
_HOSTS = OPTIONS["server"]["webHosts"]
SAFE = ("GET", "HEAD", "OPTIONS")
STATIC_S = 365 * 86400
STATIC_VERSION = "v"  # parameter of the URLs of static files

CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",  # WebSockets of this host are meant as well
        "font-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not "no-referrer": with that, browsers send "Origin: null" along with forms
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), interest-cohort=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
STRICT_TRANSPORT = "max-age=31536000"


def init_app(app: Flask) -> None:
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY, MAX_FORM_MEMORY_SIZE=MAX_BODY)
    app.before_request(_check_origin)
    app.before_request(_check_length)
    app.after_request(_headers)
    app.url_defaults(_version)


# where it comes from


def visitor_address() -> str:
    """The address that the request comes from: a proxy says it that is one of `trustedProxies`, and no other."""
    peer = request.remote_addr or ""
    if not _from_proxy():
        return peer
    for hop in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
        address = _address(hop.strip())
        if address is None:
            break
        peer = str(address)
        if not _is_trusted(peer):
            break
    return peer


def is_secure() -> bool:
    """Whether the browser speaks TLS, with us or with a trusted proxy."""
    return console().tls or (_from_proxy() and request.headers.get("X-Forwarded-Proto") == "https")


def _address(text: str) -> Any:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _from_proxy() -> bool:
    return _is_trusted(request.remote_addr or "")


def _is_trusted(peer: str) -> bool:
    address = _address(peer)
    return address is not None and any(address in network for network in _option("trusted_proxies"))


def _option(name: str) -> tuple[Any, ...]:
    """A list of the configuration; of webHosts, at the first run, what the environment says."""
    try:
        value: tuple[Any, ...] = getattr(console().usable_config().options, name, ())
    except ConfigError:
        said = console().environ.get(_HOSTS.env, "") if name == _HOSTS.name else ""
        return tuple(each.strip() for each in said.split(",") if each.strip())
    return value


# which host it names


def _check_origin() -> None:
    """Raises BadRequest or Forbidden.

    Against DNS rebinding: a console on a loopback address answers to addresses and localhost alone, because its only
    visitors are browsers of this machine, and a page of any site can give its own name this address. Another name,
    that of a reverse proxy for instance, is one of `webHosts` (GT_WEB_HOSTS). On other addresses whoever knows a name
    of the machine may use it; a page that was given one by rebinding has none of our cookies and is told apart by
    nothing from a stranger who comes directly. When `webHosts` is set, those names alone are taken everywhere.

    Against pages of other sites: what changes something, and every WebSocket, has to come from our own pages. Browsers
    say where it comes from; who is none and says nothing has no cookies that others could use.
    """
    host = _name(request.host)
    if host is None or not _is_ours(host):
        _limited.info("a request for the host %s is refused", request.host[:100])
        text = _(
            "%(host)s is no name of this console. To use it, add it to the option webHosts.",
            host=request.host,
        )
        raise BadRequest(text)
    upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
    if request.method in SAFE and not upgrade:
        return
    origin = request.headers.get("Origin")
    if origin is not None:
        if not _same_origin(origin):
            _limited.info("a request from pages of %s is refused", origin[:100])
            raise Forbidden(_foreign())
    elif request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden(_foreign())


def _foreign() -> str:
    return _("This request comes from a page of another site. Open the console itself, and repeat it there.")


def _is_ours(host: str) -> bool:
    if _address(host) is not None or host == "localhost" or host.endswith(".localhost"):
        return True
    listen = console().listen.rpartition(":")[0].lower()
    names = {each.lower() for each in _option(_HOSTS.name)}
    if names or console().on_loopback:
        return host in names or host == listen
    return True


def _same_origin(origin: str) -> bool:
    """Whether it is the host that the request names, or one of `webHosts`: a proxy may have given us another."""
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https"):
        return False
    if parts.netloc.lower() == request.host.lower():
        return True
    return _name(parts.netloc) in {each.lower() for each in _option(_HOSTS.name)}


def _name(host: str) -> str | None:
    """The name or address in "name:port"; None when it is neither."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


# how large it may be


def _check_length() -> None:
    """Raises LengthRequired: of a body in chunks whatever is over the bound would be cut off without a word."""
    if "Transfer-Encoding" in request.headers:
        raise LengthRequired
    if request.blueprint in LARGE:
        request.max_content_length = MAX_LARGE_BODY
        request.max_form_memory_size = MAX_LARGE_BODY
    elif request.blueprint in SMALL:
        request.max_content_length = MAX_SMALL_BODY


# answers


def _headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if console().tls:
        response.headers["Strict-Transport-Security"] = STRICT_TRANSPORT
    response.headers["Cache-Control"] = "no-store"
    if request.endpoint == "static" and response.status_code in (200, 304):
        known = request.args.get(STATIC_VERSION)
        if known and known == _digest((request.view_args or {}).get("filename", "")):
            response.headers["Cache-Control"] = f"public, max-age={STATIC_S}, immutable"
        else:
            response.headers["Cache-Control"] = "no-cache"
    return response


def _version(endpoint: str, values: dict[str, Any]) -> None:
    """A file that changes has another URL."""
    if endpoint == "static" and "filename" in values:
        values.setdefault(STATIC_VERSION, _digest(values["filename"]))


_digests: dict[tuple[str, int], str] = {}


def _digest(filename: str) -> str | None:
    folder = current_app.static_folder
    if folder is None or ".." in filename:
        return None
    path = Path(folder, filename)
    try:
        key = (str(path), path.stat().st_mtime_ns)
        if key not in _digests:
            _digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return None
    return _digests[key]
