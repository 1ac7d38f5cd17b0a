"""Users of the server: who may open tunnels, what each may do, and what they use now. Changes are live at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint, abort, flash, make_response, redirect, render_template, request, url_for
from flask_babel import lazy_gettext
from werkzeug.wrappers import Response

from gtapp.config.load import ServerConfig
from gtapp.config.options import USER, User
from gtapp.config.store import Conflict
from gtapp.config.values import CREDENTIAL
from gtapp.console import changes, conflicts, drafts, forms
from gtapp.console.audit import audit
from gtapp.console.auth import needs
from gtapp.console.context import console
from gtapp.console.drafts import Draft
from gtapp.console.forms import Field, Posted
from gtapp.console.join import invitation
from gtapp.console.outcomes import split_problems, tell
from gtapp.console.user_rows import Row, live, rows, sources_of
from gtapp.console.words import _
from gtapp.errors import ConfigError

blueprint = Blueprint("users", __name__, url_prefix="/users")

PER_PAGE = 100

LIMITS = ("speed", "connections", "tcpRange", "tcpNumber", "hostNumber", "hostRegex", "hostWithID")
VISITORS = ("allowIPs", "denyIPs")
LABELS = {
    "speed": lazy_gettext("Speed, each direction"),
    "connections": lazy_gettext("Tunnels"),
    "tcpRange": lazy_gettext("TCP ports"),
    "tcpNumber": lazy_gettext("Number of TCP ports"),
    "hostNumber": lazy_gettext("Number of host prefixes"),
    "hostRegex": lazy_gettext("Host prefixes match"),
    "hostWithID": lazy_gettext("Host prefixes begin with the id"),
    "allowIPs": lazy_gettext("Only these visitors"),
    "denyIPs": lazy_gettext("Not these visitors"),
}
HELPS = {
    "speed": lazy_gettext("Such as 500KiB or 10MiB."),
    "connections": lazy_gettext("How many its client may hold at once."),
    "tcpRange": lazy_gettext(
        "Ports of this server that its client may open, such as 2000-2100, one range a line."
    ),
    "tcpNumber": lazy_gettext("How many of them at once; 0: no limit."),
    "hostNumber": lazy_gettext("How many its client may publish; 0: no limit."),
    "hostRegex": lazy_gettext("Regular expressions, one a line; a host prefix has to match one of them."),
    "hostWithID": lazy_gettext(
        "Its client's “blog” is published as “id-blog”: nobody takes a name from others."
    ),
    "allowIPs": lazy_gettext("Networks or addresses such as 10.0.0.0/8, one a line. Empty: everybody."),
    "denyIPs": lazy_gettext("Networks or addresses, one a line."),
}
NO_LIMIT = ("speed", "tcpNumber", "hostNumber")  # when they are 0


@blueprint.get("")
def index() -> str:
    """All users, a page at a time; `q` searches their ids."""
    search = request.args.get("q", "").strip()
    now = live()
    config = _config()
    found = rows(config, config.users, now, request.host)
    shown = [row for row in found if search.lower() in row.id.lower()]
    page = max(1, request.args.get("page", 1, type=int))
    return render_template(
        "users/index.html",
        rows=shown[(page - 1) * PER_PAGE : page * PER_PAGE],
        count=len(shown),
        all_count=len(found),
        page=page,
        pages=max(1, -(-len(shown) // PER_PAGE)),
        search=search,
        problem=now.problem,
        editable=console().store is not None,
        domain=config.options.domain,
    )


@blueprint.get("/new")
@needs("users")
def new() -> str:
    """A form for one more."""
    changes.store_of()
    return _new_form(Posted())


@blueprint.post("/new")
@needs("users")
def create() -> Any:
    """Add the user; its join code is what comes next."""
    user, secret = request.form.get("id", "").strip(), request.form.get("secret", "")
    posted = forms.read(USER, request.form, {}, keys=(*LIMITS, *VISITORS), inherits=True)
    posted.texts |= {"id": user, "secret": secret}
    posted.errors |= _credential_errors(user, secret)
    if posted.errors:
        return make_response(_new_form(posted), 422)
    values = {**({"secret": secret} if secret else {}), **posted.changes}
    try:
        outcome = changes.save_user(user, values, None, new=True)
    except ConfigError as error:
        posted.errors |= split_problems(error, ("id", *LIMITS, *VISITORS))
        return make_response(_new_form(posted), 422)
    if not tell(outcome, _("User %(user)s can connect now.", user=user)):
        return redirect(url_for("users.index"), 303)
    return redirect(url_for("users.join", user=user), 303)


@blueprint.get("/<id:user>")
def edit(user: str) -> str:
    """One user: what it does now, what it may, and the ways to change that."""
    return _edit_form(user, Posted())


@blueprint.post("/<id:user>")
@needs("users")
def save(user: str) -> Any:
    """Save its limits."""
    draft = drafts.opened(request.form.get(drafts.FIELD, ""))
    if draft.changes:  # they come from the page of a conflict
        posted = forms.again(USER, draft.changes)
    else:
        posted = forms.read(USER, request.form, draft.own, keys=(*LIMITS, *VISITORS), inherits=True)
    if posted.errors:
        return make_response(_edit_form(user, posted, draft), 422)
    if not posted.changes:
        flash(_("Nothing has been changed."), "info")
        return redirect(url_for("users.edit", user=user), 303)
    try:
        outcome = changes.save_user(user, posted.changes, draft.etag)
    except Conflict as conflict:
        return _conflict(conflict, user, draft, posted)
    except ConfigError as error:
        posted.errors |= split_problems(error, (*LIMITS, *VISITORS))
        return make_response(_edit_form(user, posted, Draft(draft.etag, own=draft.own)), 422)
    tell(outcome, _("User %(user)s is saved.", user=user))
    return redirect(url_for("users.edit", user=user), 303)


@blueprint.get("/<id:user>/join")
@needs("users")
def join(user: str) -> Any:
    """The join code, as text, picture and commands; for that the secret has to be known."""
    config = _config()
    known = config.users.get(user) or abort(404)
    made = invitation(config, known, request.host, live().status)
    if made is not None:
        audit(f"join code of user {user} shown")
    editable = _is_own(user, config)
    return render_template("users/join.html", user=known, made=made, editable=editable)


@blueprint.post("/<id:user>/secret")
@needs("users")
def rotate(user: str) -> Response:
    """A new secret; the old one ends at once."""
    try:
        outcome = changes.rotate_secret(user, None)
    except ConfigError as error:
        flash(str(error), "bad")
        return redirect(url_for("users.edit", user=user), 303)
    tell(outcome, _("User %(user)s has a new secret; the old one has ended.", user=user))
    return redirect(url_for("users.join", user=user), 303)


@blueprint.post("/<id:user>/disabled")
@needs("users")
def disable(user: str) -> Response:
    """Keep it out, or let it in again."""
    disabled = request.form.get("disabled") == "true"
    try:
        outcome = changes.save_user(user, {"disabled": True if disabled else None}, None)
    except ConfigError as error:
        flash(str(error), "bad")
    else:
        done = _("User %(user)s is disabled: its tunnels are cut.", user=user)
        tell(outcome, done if disabled else _("User %(user)s can connect again.", user=user))
    return redirect(url_for("users.edit", user=user), 303)


@blueprint.post("/<id:user>/remove")
@needs("users")
def remove(user: str) -> Response:
    """Delete it; the page has asked before."""
    try:
        outcome = changes.remove_user(user, None)
    except ConfigError as error:
        flash(str(error), "bad")
        return redirect(url_for("users.edit", user=user), 303)
    tell(outcome, _("User %(user)s is deleted: its tunnels are cut.", user=user))
    return redirect(url_for("users.index"), 303)


def _new_form(posted: Posted) -> str:
    made = _fields({}, posted)
    return render_template(
        "users/new.html",
        id=Field.of_text("id", _("Id"), _id_help(), posted, required=True),
        secret=Field.of_text("secret", _("Secret"), _("Leave it empty to have a good one made."), posted),
        limits=[made[key] for key in LIMITS],
        visitors=[made[key] for key in VISITORS],
        problem=posted.errors.get("", ""),
        opened=any(key in posted.errors for key in (*LIMITS, *VISITORS)),
    )


def _edit_form(user: str, posted: Posted, draft: Draft | None = None) -> str:
    config = _config()
    now = live()
    row = next((row for row in rows(config, config.users, now, request.host) if row.id == user), None)
    if row is None:
        abort(404)
    known = config.users.get(user)
    editable = _is_own(user, config)
    if editable and draft is None:
        text = changes.store_of().read()
        draft = Draft(text.etag, own=_of_form(changes.store_of().document(text.text).users().get(user, {})))
    made = _fields(draft.own if draft else _shown(known), posted)
    return render_template(
        "users/edit.html",
        row=row,
        user=known,
        editable=editable,
        limits=[made[key] for key in LIMITS],
        visitors=[made[key] for key in VISITORS],
        draft=draft.sealed() if draft else "",
        problem=posted.errors.get("", ""),
        unreachable=now.problem,
        questions=_questions(row),
    )


def _fields(own: Mapping[str, Any], posted: Posted) -> dict[str, Field]:
    made = forms.fields(
        USER,
        own,
        keys=(*LIMITS, *VISITORS),
        inherited=_config().options,
        labels=LABELS,
        helps=HELPS,
        posted=posted,
    )
    for key in NO_LIMIT:
        if made[key].placeholder == "0":
            made[key] = replace(made[key], placeholder=_("no limit"))
    if not made["tcpRange"].placeholder:
        made["tcpRange"] = replace(made["tcpRange"], placeholder=_("none"))
    return made


def _conflict(conflict: Conflict, user: str, draft: Draft, posted: Posted) -> Any:
    """The file is another one by now: what is different, and three ways to go on."""
    theirs = changes.store_of().document(conflict.current.text).users().get(user)
    if theirs is None:
        flash(_("Someone has deleted user %(user)s meanwhile: nothing was saved.", user=user), "bad")
        return redirect(url_for("users.index"), 303)
    again = Draft(conflict.current.etag, changes=posted.changes, own=_of_form(theirs))
    here = url_for("users.edit", user=user)
    table = conflicts.rows_of_values(posted.changes, draft.own, again.own)
    return conflicts.page(conflict, table, conflicts.choices(here, [(drafts.FIELD, again.sealed())], here))


def _questions(row: Row) -> dict[str, str]:
    """What is asked before something is cut: says what."""
    cut = _(
        "This cuts its tunnels (%(tunnels)s) and connections (%(streams)s).",
        tunnels=row.tunnels,
        streams=row.streams,
    )
    cut = cut if row.tunnels else _("It is not connected just now.")
    return {
        "remove": _("Delete user %(user)s?", user=row.id) + " " + cut,
        "rotate": _("Give user %(user)s a new secret? The old one ends at once.", user=row.id) + " " + cut,
        "disable": _("Disable user %(user)s? It can't connect until you enable it again.", user=row.id)
        + " "
        + cut,
    }


def _credential_errors(user: str, secret: str) -> dict[str, str]:
    errors = {}
    for name, text in (("id", user), ("secret", secret)):
        if not text and name == "secret":
            continue
        try:
            CREDENTIAL.parse(text)
        except ValueError:
            errors[name] = _("Has to be %(allowed)s.", allowed=forms.allowed(CREDENTIAL))
    if not errors and user in _config().users:
        errors["id"] = _("There is a user with this id already: choose another one.")
    return errors


def _id_help() -> str:
    domain = _config().options.domain
    if not domain:
        return _("The client's name; also its host prefix, if it sets no other.")
    return _(
        "The client's name; without another host prefix it is reachable as ID.%(domain)s.", domain=domain
    )


def _config() -> ServerConfig:
    config = console().usable_config()
    assert isinstance(config, ServerConfig)
    return config


def _is_own(user: str, config: ServerConfig) -> bool:
    """Whether the user is one that this console can change: it is in the file, and no other source wins over that."""
    return console().store is not None and sources_of(config, config.users).get(user) == ""


def _of_form(own: Mapping[str, Any]) -> dict[str, Any]:
    """What of a user's entry the form is about: never its secret."""
    return {key: value for key, value in own.items() if key in (*LIMITS, *VISITORS)}


def _shown(user: User | None) -> dict[str, Any]:
    """The same of one that stands elsewhere: what it has, wherever it has it from."""
    if user is None:
        return {}
    values = {key: getattr(user, USER[key].name) for key in (*LIMITS, *VISITORS)}
    return {key: USER[key].show(value) for key, value in values.items() if value not in (None, ())}
