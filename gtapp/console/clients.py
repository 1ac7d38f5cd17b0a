"""The clients that hold tunnels to this server: where from, what they publish; to be disconnected or kept out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from gtapp.config.load import ServerConfig
from gtapp.console import changes, moment
from gtapp.console.audit import audit
from gtapp.console.auth import needs
from gtapp.console.context import console
from gtapp.console.join import Link, public_links
from gtapp.console.moment import Moment, Speed
from gtapp.console.outcomes import tell
from gtapp.console.words import _
from gtapp.errors import GTError

blueprint = Blueprint("clients", __name__, url_prefix="/clients")

PER_PAGE = 50
FEW = 20  # connections on the page of one client


@dataclass(frozen=True)
class Client:
    """One user with its tunnels, as the pages show it."""

    user: str
    tunnels: list[dict[str, Any]]
    speeds: Mapping[str, Speed]  # of the tunnels, by id
    links: list[Link]
    speed: tuple[float | None, float | None]  # of all together, in and out; None where that is not known

    @property
    def streams(self) -> int:
        return sum(int(each.get("streams", 0)) for each in self.tunnels)


@blueprint.get("")
@needs("read")
def index() -> str:
    """All that are connected, a page at a time; `q` searches ids and addresses."""
    now = moment.tunnels()
    search = request.args.get("q", "").strip()
    found = _clients(now)
    shown = [each for each in found if _matches(each, search.lower())]
    page = max(1, request.args.get("page", 1, type=int))
    users = len(_config().users)
    return render_template(
        "clients/list.html" if request.headers.get("HX-Request") else "clients/index.html",
        clients=shown[(page - 1) * PER_PAGE : page * PER_PAGE],
        count=len(shown),
        all_count=len(found),
        tunnels=len(now.items),
        users=users,
        page=page,
        pages=max(1, -(-len(shown) // PER_PAGE)),
        search=search,
        problem=now.problem,
    )


@blueprint.get("/<id:user>")
@needs("read")
def client(user: str) -> str:
    """One client, also one that is away."""
    now = moment.tunnels()
    known = _config().users.get(user)
    found = next((each for each in _clients(now) if each.user == user), None)
    if found is None:
        if known is None and not now.problem:
            abort(404)
        found = Client(user, [], {}, [], (None, None))
    connections = moment.connections(user)
    return render_template(
        "clients/one.html" if request.headers.get("HX-Request") else "clients/client.html",
        client=found,
        user=known,
        connections=connections.items[:FEW],
        speeds=connections.speeds,
        more=_total(connections) > FEW,
        problem=now.problem,
        editable=console().store is not None and known is not None,
    )


@blueprint.post("/<id:user>/disconnect")
@needs("users")
def disconnect(user: str) -> Response:
    """Close its tunnels, or the one that the form names."""
    tunnel = request.form.get("tunnel", "")
    try:
        answer = console().running.disconnect(**({"tunnel": tunnel} if tunnel else {"user": user}))
    except GTError as error:
        flash(str(error), "bad")
        return _back(user)
    if not answer.get("count"):
        flash(_("There is no such tunnel any more."), "warn")
    elif tunnel:
        audit(f"tunnel {tunnel} of {user} closed"[:200])
        flash(_("The tunnel is closed. Its client opens another one when it needs it."), "ok")
    else:
        audit(f"client {user} disconnected"[:200])
        flash(
            _("%(user)s is disconnected. It comes back by itself; to keep it out, block it.", user=user), "ok"
        )
    moment.tunnels().expire()
    return _back(user)


@blueprint.post("/<id:user>/block")
@needs("users")
def block(user: str) -> Response:
    """Disable its user, or let it in again (blocked=false)."""
    blocked = request.form.get("blocked", "true") == "true"
    try:
        outcome = changes.save_user(user, {"disabled": True if blocked else None}, None)
    except GTError as error:
        flash(str(error), "bad")
    else:
        done = _("%(user)s is blocked: its tunnels are cut, and it can't come back.", user=user)
        tell(outcome, done if blocked else _("%(user)s can connect again.", user=user))
    moment.tunnels().expire()
    return _back(user)


def _back(user: str) -> Response:
    """To where the button was."""
    if request.form.get("from") == "list":
        return redirect(url_for("clients.index"), 303)
    return redirect(url_for("clients.client", user=user), 303)


def _config() -> ServerConfig:
    config = console().usable_config()
    assert isinstance(config, ServerConfig)
    return config


def _clients(now: Moment) -> list[Client]:
    """By id."""
    links: dict[str, list[Link]] = {}
    for link in public_links(_config(), now.answer, request.host):
        links.setdefault(link.user, []).append(link)
    tunnels: dict[str, list[dict[str, Any]]] = {}
    for each in now.items:
        tunnels.setdefault(str(each.get("user", "")), []).append(each)
    return [
        Client(user, tunnels[user], now.speeds, links.get(user, []), _speed(user))
        for user in sorted(tunnels, key=lambda name: (name.lower(), name))
    ]


def _matches(each: Client, search: str) -> bool:
    return search in each.user.lower() or any(
        search in str(tunnel.get("peer", "")).lower() for tunnel in each.tunnels
    )


def _speed(user: str) -> tuple[float | None, float | None]:
    """Bytes a second, in and out, of the last sample."""
    sampler = console().sampler
    if sampler is None or sampler.last is None:
        return None, None
    part = sampler.now.parts.get("users", {}).get(user)
    return (part[2], part[3]) if part else (0.0, 0.0)


def _total(connections: Moment) -> int:
    return sum(int(unit.get("total", 0)) for unit in connections.answer.get("units", ()))
