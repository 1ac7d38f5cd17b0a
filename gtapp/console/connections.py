"""The connections of visitors that are open now, the newest first; each can be cut."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from gtapp.config.load import ServerConfig
from gtapp.console import moment
from gtapp.console.audit import audit
from gtapp.console.auth import needs
from gtapp.console.context import console
from gtapp.console.words import _
from gtapp.errors import GTError

blueprint = Blueprint("connections", __name__, url_prefix="/connections")


@blueprint.get("")
@needs("read")
def index() -> str:
    """Those of all, or of one `user`."""
    user = request.args.get("user", "").strip() if console().role == "server" else ""
    now = moment.connections(user or None)
    total = sum(int(unit.get("total", 0)) for unit in now.answer.get("units", ()))
    return render_template(
        "connections/list.html" if request.headers.get("HX-Request") else "connections/index.html",
        connections=now.items,
        speeds=now.speeds,
        total=total,
        user=user,
        users=_users(),
        problem=now.problem,
    )


@blueprint.post("/cut")
@needs("users")
def cut() -> Response:
    """Cut one, at both ends."""
    connection, user = request.form.get("connection", ""), request.form.get("user", "")
    try:
        answer = console().running.disconnect(connection=connection)
    except GTError as error:
        flash(str(error), "bad")
    else:
        if answer.get("count"):
            audit(f"connection {connection} cut"[:200])
            flash(_("The connection is cut."), "ok")
        else:
            flash(_("That connection had ended already."), "info")
    moment.connections(user or None).expire()
    return redirect(url_for("connections.index", user=user or None), 303)


def _users() -> list[Any]:
    """To choose from: the ids of all users of a server, as far as they are known here."""
    config = console().usable_config()
    if not isinstance(config, ServerConfig):
        return []
    return sorted(config.users, key=str.lower)
