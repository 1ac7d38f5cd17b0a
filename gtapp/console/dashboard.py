"""The first page: how the relay is, now and over time. A script keeps it up to date; without one it is that moment."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, current_app, render_template, url_for
from flask_babel import lazy_gettext

from gtapp import __version__
from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.console.auth import needs
from gtapp.console.context import Console, console
from gtapp.console.live import message
from gtapp.console.rates import PROBLEMS
from gtapp.console.sampler import Sampler
from gtapp.console.words import _
from gtapp.errors import ConfigError, GTError

POINTS = 60  # of the small charts of 15 minutes

PROBLEM_WORDS = {
    "visitors_refused_404": lazy_gettext("Nobody publishes the host that was asked for (404)"),
    "visitors_refused_503": lazy_gettext("The client of that host is away (503)"),
    "visitors_refused_502": lazy_gettext("The local service refused the connection (502)"),
    "visitors_refused_504": lazy_gettext("The local service did not answer in time (504)"),
    "visitors_refused_403": lazy_gettext("The visitor's address may not come in (403)"),
    "streams_forbidden": lazy_gettext("The visitor's address may not reach that service"),
    "visitors_refused_400": lazy_gettext("The request was malformed (400)"),
    "visitors_refused_431": lazy_gettext("The head of the request was too large (431)"),
    "visitors_refused_505": lazy_gettext("The request was not HTTP/1 (505)"),
    "visitors_refused_alert": lazy_gettext("Nobody publishes that TLS host"),
    "visitors_refused_reset": lazy_gettext("The client of that TCP port is away"),
    "visitors_not_http": lazy_gettext("What came was not HTTP"),
    "visitors_not_tls": lazy_gettext("What came was not TLS"),
    "visitors_head_timeout": lazy_gettext("The visitor sent no request in time"),
    "visitors_tls_failed": lazy_gettext("A TLS handshake failed"),
    "handshakes_failed": lazy_gettext("A tunnel was refused: credentials, limits or errors"),
    "dials_failed": lazy_gettext("A local service could not be reached"),
    "tunnels_lost": lazy_gettext("A tunnel was lost"),
    "accept_paused": lazy_gettext("Accepting paused: too few file descriptors"),
}

blueprint = Blueprint("dashboard", __name__)


@dataclass(frozen=True)
class Hint:
    """Something that somebody should see to, and where."""

    text: str
    action: str = ""
    href: str = ""


@blueprint.get("/")
@needs("read")
def index() -> str:
    here = console()
    sampler = here.sampler
    assert sampler is not None, "only the setup has none, and this page is not served then"
    hello, unit, problem = _running(here)
    kinds = ["users", "hosts"] if here.role == "server" else ["services"]
    return render_template(
        "dashboard/index.html",
        now=message(sampler),
        problem=sampler.problem or problem,
        parts={kind: _part(sampler, kind) for kind in kinds},
        problems=[(name, PROBLEM_WORDS[name], *sampler.problems().get(name, (0, 0))) for name in PROBLEMS],
        machine=sampler.machine,
        processes=sorted(
            sampler.processes, key=lambda each: (str(each.get("kind")), int(each.get("pid", 0)))
        ),
        versions=_versions(hello),
        started_ago=max(0.0, sampler.time - hello["started"]) if "started" in hello else None,
        hints=_hints(here, unit),
        first_steps=_first_steps(here, unit),
        process_words=process_words,
        points=POINTS,
    )


def process_words(kind: str) -> str:
    """What a process is: "worker 2" in the language of the page."""
    name, _space, number = kind.partition(" ")
    words = {"master": _("master"), "worker": _("worker"), "console": _("console")}.get(name, name)
    return f"{words} {number}".rstrip()


def _running(here: Console) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What the master says of itself and of this configuration; and why not."""
    try:
        answer = here.running.status()
    except GTError as error:
        return {}, {}, str(error)
    units = answer.get("units") or [{}]
    return answer, units[0], ""


def _part(sampler: Sampler, kind: str) -> list[dict[str, Any]]:
    """The busiest of a kind, each with its small chart."""
    if sampler.last is None:
        return []
    shown = sampler.now.busiest.get(kind, [])
    lines = sampler.seconds.lines(sampler.time, kind, [name for name, _part in shown], POINTS)
    return [{"name": name, "numbers": part, "line": lines[name]} for name, part in shown]


def _versions(hello: dict[str, Any]) -> list[tuple[str, str]]:
    found = [(_("Relay"), f"GT {hello['version']}")] if "version" in hello else []
    found.append((_("Console"), f"GT {__version__}"))
    found.append(("Python", platform.python_version()))
    found.append((_("System"), f"{platform.system()} {platform.release()} ({platform.machine()})"))
    return found


def _hints(here: Console, unit: dict[str, Any]) -> list[Hint]:
    settings = _link("settings.index")
    hints = []
    try:
        config = here.config()
    except ConfigError as error:
        text = _(
            "The configuration on disk cannot be used; what runs goes on with the one before.\n%(error)s",
            error=str(error),
        )
        return [Hint(text, _("Edit the file"), _link("yaml.edit"))]
    if isinstance(config, ServerConfig) and config.options.tls_addr is None:
        text = _(
            "There is no TLS: whoever is on the way can read what is relayed. Set an address for TLS; a certificate is "
            "made when there is none."
        )
        hints.append(Hint(text, _("Settings"), settings))
    if isinstance(config, ClientConfig):
        plain = [str(each) for each in config.options.remote if each.scheme == "tcp"]
        if plain:
            text = _(
                "The tunnels to %(server)s are not encrypted: whoever is on the way can read what is relayed. Use an "
                "address that begins with tls:// if the server has one.",
                server=", ".join(plain),
            )
            hints.append(Hint(text, _("Settings"), settings))
    for worker in unit.get("workers", ()):
        if worker.get("problem"):
            hints.append(Hint(_("Worker %(n)s: %(problem)s", n=worker["number"], problem=worker["problem"])))
    return hints


def _first_steps(here: Console, unit: dict[str, Any]) -> Hint | None:
    """What to do while there is nothing to be seen yet."""
    tunnels = [each for worker in unit.get("workers", ()) for each in worker.get("tunnels", ())]
    try:
        config = here.config()
    except ConfigError:
        return None
    if not unit or tunnels:
        return None
    if isinstance(config, ClientConfig):
        text = _("There is no tunnel to the server at the moment. The page Server says why.")
        return Hint(text, _("Server"), _link("tunnels.index"))
    if not config.users:
        return Hint(
            _("No client is connected. Every client that starts with this server as its remote is let in.")
        )
    text = _(
        "No client is connected. Open a user to get the join code, and give it to whoever runs the client."
    )
    return Hint(text, _("Users"), _link("users.index"))


def _link(endpoint: str) -> str:
    """ "" where this console has no such page."""
    return url_for(endpoint) if endpoint in current_app.view_functions else ""
