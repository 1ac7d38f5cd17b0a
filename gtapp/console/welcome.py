"""The page after the first run, which stays: does it work, and how does the first client, or visitor, come in?

What it shows is tried out when it is shown, through the whole path, and again until it works.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import gevent
from flask import Blueprint, abort, render_template, request
from gevent import socket, ssl

from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.config.options import User
from gtapp.console import join, service_rows, user_rows
from gtapp.console.auth import needs
from gtapp.console.context import console
from gtapp.console.setup_checks import LOCALHOST, check_dns, own_addresses
from gtapp.console.setup_server import browser_host
from gtapp.console.setup_words import record_words
from gtapp.console.words import _
from gtapp.errors import GTError

blueprint = Blueprint("welcome", __name__, url_prefix="/welcome")

VISIT_S = 5.0  # for a service to answer through its public address
HEAD_BYTES = 4096  # of an answer that are read
AGAIN_S = 4  # between two tries of what does not work yet
WAIT_S = 2  # between two looks for the first client
MOST_VISITS = 10  # services that are visited

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})")
_GT = re.compile(rb"(?im)^server: *GT\r?$")  # an answer of the server's own: nothing came through
_LISTEN = {"addr": "HTTP", "tlsAddr": "HTTPS", "sniAddr": "SNI", "apiAddr": "API"}

Kind = Literal["ok", "warn", "bad", "info"]


@dataclass(frozen=True)
class Step:
    """A part of the path, and how it does, in words."""

    name: str
    kind: Kind
    text: str
    url: str = ""  # where a visitor finds it


@blueprint.get("")
@needs("users")
def index() -> str:
    config = console().usable_config()
    if isinstance(config, ClientConfig):
        steps = _client_steps(config) if "check" in request.args else None  # without scripts
        return render_template("welcome/client.html", steps=steps, again_s=AGAIN_S)
    user = _user(config)
    now = user_rows.live()
    return render_template(
        "welcome/server.html",
        steps=_server_steps(config) if "check" in request.args else None,
        again_s=AGAIN_S,
        user=user,
        users=[each.id for each in config.users.values() if each.secret and not each.disabled],
        made=join.invitation(config, user, request.host, now.status) if user else None,
        **_arrival(config, user, now),
    )


@blueprint.get("/check")
@needs("read")
def check() -> str:
    """The live test, a part of the page."""
    config = console().usable_config()
    steps = _client_steps(config) if isinstance(config, ClientConfig) else _server_steps(config)
    return render_template("welcome/check.html", steps=steps, again_s=AGAIN_S)


@blueprint.get("/arrival")
@needs("read")
def arrival() -> str:
    """Whether the client has come, a part of the server's page."""
    config = console().usable_config()
    if not isinstance(config, ServerConfig):
        abort(404)
    user = _user(config)
    return render_template("welcome/arrival.html", user=user, **_arrival(config, user, user_rows.live()))


def _user(config: ServerConfig) -> User | None:
    """Whom the page is about: the one that is asked for, or the first that could come in by a join code."""
    wanted = request.args.get("user")
    found = (each for each in config.users.values() if each.secret and not each.disabled)
    return next((each for each in found if wanted in (None, each.id)), None)


def _arrival(config: ServerConfig, user: User | None, now: user_rows.Live) -> dict[str, object]:
    links = join.public_links(config, now.status, request.host)
    return {
        "wait_s": WAIT_S,
        "tunnels": now.tunnels().get(user.id, 0) if user else 0,
        "links": [url for link in links if user and link.user == user.id for url in link.urls[:1]],
    }


# a server


def _server_steps(config: ServerConfig) -> list[Step]:
    steps = [_runs()]
    if steps[0].kind != "ok":
        return steps
    steps.append(_way_through())
    domain = config.options.domain
    if domain and domain != LOCALHOST:
        for record in check_dns(domain, own_addresses(browser_host())).records:
            words = record_words(record)
            steps.append(Step(words.about, words.kind, f"{words.text} {words.hint}".strip()))
    return steps


def _runs() -> Step:
    """Whether GT itself does."""
    try:
        status = console().running.status()
    except GTError as error:
        return Step(_("GT"), "bad", str(error))
    units = status.get("units", ())
    listeners = [
        f"{each['address']} ({_LISTEN[each['option']]})"
        for unit in units
        for each in unit.get("listeners", ())
        if each.get("option") in _LISTEN
    ]
    if not any(unit.get("workers") for unit in units):
        return Step(_("GT"), "bad", _("does not run. Its log may say why."))
    if listeners:
        return Step(_("GT"), "ok", _("runs, and listens on %(addresses)s.", addresses=", ".join(listeners)))
    return Step(_("GT"), "ok", _("runs."))


def _way_through() -> Step:
    about = _("The whole path")
    try:
        answer = console().running.check()
    except GTError as error:
        return Step(about, "bad", _where_it_breaks(str(error)))
    ms = round(float(answer.get("ms", 0)))
    return Step(about, "ok", _("works: a request went in, through a tunnel and back, in %(ms)s ms.", ms=ms))


def _where_it_breaks(problem: str) -> str:
    """The server says the step that failed, and why."""
    step, _colon, reason = problem.partition(": ")
    if step == "connect":
        return _("is broken where connections come in: %(reason)s", reason=reason)
    if step == "tls":
        return _("is broken at TLS: %(reason)s", reason=reason)
    if step == "tunnel":
        return _("is broken where the tunnel is opened: %(reason)s", reason=reason)
    if step == "request":
        return _("is broken where the request is sent: %(reason)s", reason=reason)
    if step == "answer":
        return _("is broken on the way back: %(reason)s", reason=reason)
    return problem


# a client


def _client_steps(config: ClientConfig) -> list[Step]:
    steps = [_runs()]
    if steps[0].kind != "ok":
        return steps
    now = service_rows.live()
    problem = now.problem or now.tunnels_problem
    about = _("The tunnel")
    if problem:
        steps.append(Step(about, "bad", _("is not there yet: %(reason)s", reason=problem)))
        return steps
    steps.append(_tunnel(about, now))
    rows = service_rows.rows(config, len(config.services), now)
    tries: list[Callable[[], Step]] = []
    for row in rows[:MOST_VISITS]:
        tries += [_visit_of(str(row.service.local), address) for address in row.public]
        if not row.public:
            tries.append(_unpublished(str(row.service.local), row.service.host_prefix))
    visits = [gevent.spawn(each) for each in tries]
    return [*steps, *(each.get() for each in visits)]


def _tunnel(about: str, now: service_rows.Live) -> Step:
    tunnels = [
        each
        for unit in now.status.get("units", ())
        for worker in unit.get("workers", ())
        for each in worker.get("tunnels", ())
    ]
    if not tunnels:
        return Step(about, "bad", _("is not there yet."))
    first = tunnels[0]
    return Step(
        about,
        "ok",
        _(
            "to %(remote)s is up, %(ms)s ms there and back.",
            remote=first["remote"],
            ms=round(first["rtt_ms"]),
        ),
    )


def _unpublished(local: str, prefix: str | None) -> Callable[[], Step]:
    text = _(
        "is not published. The log says why: the name may be another client's, or the server may allow no ports."
    )
    return lambda: Step(local, "warn", text)


def _visit_of(local: str, address: str) -> Callable[[], Step]:
    """How a visitor fares. The words are made here, in the request's language."""
    scheme = urlsplit(address).scheme
    if scheme not in ("http", "https"):
        shown = address if scheme == "tcp" else ""
        where = _("is published: %(address)s", address=address)
        named = where if shown else _("is published as host prefix %(name)s.", name=address)
        return lambda: Step(local, "ok", named)
    ok = _("is reached there.")
    refused = _("is published there, but the service does not answer. Does it run?")
    away = _("is published there, but can't be reached from here: does the name lead to the server?")

    def visit_it() -> Step:
        try:
            came_through = visit(address)
        except OSError:
            return Step(local, "warn", away, address)
        return Step(local, "ok" if came_through else "warn", ok if came_through else refused, address)

    return visit_it


def visit(url: str) -> bool:
    """Go the way of a visitor, DNS included: whether the service has answered, whatever it said. Raises OSError."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    # Browsers take names under localhost for this machine (RFC 6761 section 6.3); resolvers need not.
    target = "127.0.0.1" if host.endswith(f".{LOCALHOST}") else host
    try:
        with gevent.Timeout(VISIT_S, TimeoutError()):
            answer = _ask(target, port, host, parts.netloc, parts.scheme == "https")
    except (ssl.SSLError, UnicodeError) as error:
        raise OSError(str(error)) from error
    return _STATUS.match(answer) is not None and not _GT.search(answer)


def _ask(target: str, port: int, name: str, authority: str, over_tls: bool) -> bytes:
    """The head of the answer, or what has come of it. Raises OSError."""
    answer = b""
    plain = socket.create_connection((target, port), timeout=VISIT_S)
    with _secured(plain, name) if over_tls else plain as sock:
        sock.sendall(
            f"HEAD / HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: GT\r\nConnection: close\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in answer and len(answer) < HEAD_BYTES and (data := sock.recv(HEAD_BYTES)):
            answer += data
    return answer


def _secured(plain: socket.socket, name: str) -> ssl.SSLSocket:
    """Whether the certificate pleases browsers is another question than whether the path works."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise
