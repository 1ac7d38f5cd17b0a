"""The tunnels of a client to its server: how many there are and should be, how good each is, and why one is missing."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from gtapp.config.load import ClientConfig
from gtapp.console import moment
from gtapp.console.audit import audit
from gtapp.console.auth import needs
from gtapp.console.context import console
from gtapp.console.words import _
from gtapp.errors import GTError

blueprint = Blueprint("tunnels", __name__, url_prefix="/tunnels")


@blueprint.get("")
@needs("read")
def index() -> str:
    now = moment.tunnels()
    config = console().usable_config()
    assert isinstance(config, ClientConfig)
    workers = moment.workers_of(now.answer)
    remotes = [str(each) for each in config.options.remote]
    remotes += sorted({str(each.get("remote")) for each in now.items} - set(remotes))
    return render_template(
        "tunnels/list.html" if request.headers.get("HX-Request") else "tunnels/index.html",
        tunnels=now.items,
        speeds=now.speeds,
        remotes=[
            (remote, [each for each in now.items if each.get("remote") == remote]) for remote in remotes
        ],
        problems=list(dict.fromkeys(text for worker in workers for text in worker.get("problems", ()))),
        options=config.options,
        problem=now.problem,
    )


@blueprint.post("/close")
@needs("users")
def close() -> Response:
    """Close one; another is opened when it is needed."""
    tunnel = request.form.get("tunnel", "")
    try:
        answer = console().running.disconnect(tunnel=tunnel)
    except GTError as error:
        flash(str(error), "bad")
    else:
        if answer.get("count"):
            audit(f"tunnel {tunnel} closed"[:200])
            flash(_("The tunnel is closed. Another one is opened when it is needed."), "ok")
        else:
            flash(_("There is no such tunnel any more."), "info")
    moment.tunnels().expire()
    return redirect(url_for("tunnels.index"), 303)
