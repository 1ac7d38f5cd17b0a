"""Services of the client: what is published, where, and how it does; add, change, try out and remove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint, abort, flash, make_response, redirect, render_template, request, url_for
from flask_babel import lazy_gettext
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from gtapp.config.load import ClientConfig
from gtapp.config.options import SERVICE
from gtapp.config.store import Conflict
from gtapp.console import changes, conflicts, dial, drafts, forms, passwords
from gtapp.console.auth import needs
from gtapp.console.context import console
from gtapp.console.discover import discover
from gtapp.console.drafts import Draft
from gtapp.console.forms import Field, Posted
from gtapp.console.outcomes import split_problems, tell
from gtapp.console.service_rows import Row, is_link, live, rows
from gtapp.console.words import _
from gtapp.errors import ConfigError, GTError

blueprint = Blueprint("services", __name__, url_prefix="/services")

SCOPE = "users"  # the same as for whatever else lets somebody in
MAIN = ("local", "hostPrefix", "remoteTCPPort", "remoteTCPRandom")
TOLD = ("forwardedFor", "proxyProtocol", "useLocalAsHTTPHost", "localTimeout")
GUARDS = ("allowIPs", "denyIPs")
KEYS = (*MAIN, *TOLD, *GUARDS)
PASSWORD_KEYS = ("basicUser", "basicPassword")
MAX_PASSWORD_BYTES = 1024
LABELS = {
    "local": lazy_gettext("Address of the service"),
    "hostPrefix": lazy_gettext("Host prefix (http and https)"),
    "remoteTCPPort": lazy_gettext("Port on the server (tcp)"),
    "remoteTCPRandom": lazy_gettext("Any other port will do (tcp)"),
    "forwardedFor": lazy_gettext("Tell visitors' addresses by X-Forwarded-For"),
    "proxyProtocol": lazy_gettext("PROXY header"),
    "useLocalAsHTTPHost": lazy_gettext("Rewrite Host to the address of the service"),
    "localTimeout": lazy_gettext("Idle time"),
    "allowIPs": lazy_gettext("Only these visitors"),
    "denyIPs": lazy_gettext("Not these visitors"),
}
HELPS = {
    "local": lazy_gettext("http://, https:// or tcp://, and where it listens, such as tcp://192.168.1.5:22."),
    "hostPrefix": lazy_gettext("Visitors find it as PREFIX.DOMAIN. Empty: the id of this client."),
    "remoteTCPPort": lazy_gettext("Visitors find it on this port of the server. Empty: on one that is free."),
    "remoteTCPRandom": lazy_gettext("When that port can't be had. By default only if none is given."),
    "forwardedFor": lazy_gettext("For http alone; each request is read for that."),
    "proxyProtocol": lazy_gettext(
        "Tells the visitor's address to services that expect it, such as nginx or HAProxy."
    ),
    "useLocalAsHTTPHost": lazy_gettext("For services that answer to no other name; http alone."),
    "localTimeout": lazy_gettext("How long a connection may be silent, such as 30s or 5m."),
    "allowIPs": lazy_gettext("Networks or addresses such as 10.0.0.0/8, one a line. Empty: everybody."),
    "denyIPs": lazy_gettext("Networks or addresses, one a line."),
}


@blueprint.get("")
def index() -> str:
    """All services: what each is, where visitors find it, how it does."""
    now = live()
    own, etag = _own_services()
    return render_template(
        "services/index.html",
        rows=rows(_config(), len(own), now),
        draft=Draft(etag).sealed() if console().store else "",
        live=now,
        editable=console().store is not None,
        is_link=is_link,
    )


@blueprint.get("/found")
@needs(SCOPE)
def found() -> str:
    """What listens on this machine and could be published, for htmx."""
    config = _config()
    own_ports = {int(console().port or 0)}
    if config.options.web_addr:
        own_ports.add(config.options.web_addr.port)
    published = {service.local.port for service in config.services if _is_here(service.local.host)}
    return render_template("services/found.html", found=discover(own_ports), published=published)


@blueprint.post("/test")
@needs(SCOPE)
def test() -> str:
    """Dial the address that is in the form, for htmx."""
    text = request.form.get("local", "").strip()
    problem = _("Enter the address first.") if not text else forms.problem_of(SERVICE["local"], text)
    tried = dial.Tried(False, problem) if problem else dial.try_service(SERVICE["local"].kind.parse(text))
    return render_template("services/tried.html", tried=tried)


@blueprint.get("/new")
@needs(SCOPE)
def new() -> str:
    """A form for one more; `local` and `hostPrefix` can be filled in by the link that leads here."""
    changes.store_of()
    given = {key: request.args.get(key, "")[:300] for key in ("local", "hostPrefix") if key in request.args}
    return _form(None, Posted(texts=given), Draft("", own={}))


@blueprint.post("/new")
@needs(SCOPE)
def create() -> Any:
    """Add it."""
    return _save(None)


@blueprint.get("/<int:number>")
def edit(number: int) -> str:
    """One service of the file, counted from 1."""
    own, etag = _own_services()
    if not 1 <= number <= len(own):
        abort(404)
    return _form(number, Posted(), Draft(etag, own=own[number - 1]))


@blueprint.post("/<int:number>")
@needs(SCOPE)
def save(number: int) -> Any:
    """Save it."""
    return _save(number)


@blueprint.post("/<int:number>/remove")
@needs(SCOPE)
def remove(number: int) -> Response:
    """Remove it; the page has asked before."""
    draft = drafts.opened(request.form.get(drafts.FIELD, ""))
    try:
        outcome = changes.remove_service(number - 1, draft.etag)
    except Conflict:  # numbers may stand for other services now
        flash(_("The file has changed meanwhile, nothing was removed: look again."), "warn")
    except ConfigError as error:
        flash(str(error), "bad")
    else:
        tell(outcome, _("The service is removed. Connections that visitors have go on until they end."))
    return redirect(url_for("services.index"), 303)


def _save(number: int | None) -> Any:
    draft = drafts.opened(request.form.get(drafts.FIELD, ""))
    if draft.changes:  # they come from the page of a conflict
        posted = forms.again(SERVICE, draft.changes)
    else:
        posted = forms.read(SERVICE, request.form, draft.own, keys=KEYS)
        if not request.form.get("local", "").strip():
            posted.errors["local"] = _("Say where the service is, such as http://127.0.0.1:8080.")
        _read_password(request.form, draft.own, posted)
    if posted.errors:
        return make_response(_form(number, posted, draft), 422)
    if not posted.changes:
        flash(_("Nothing has been changed."), "info")
        return redirect(url_for("services.index"), 303)
    try:
        # A new one takes nothing from anybody else: it goes into the file whatever that says by now.
        etag = None if number is None else draft.etag
        outcome = changes.save_service(None if number is None else number - 1, posted.changes, etag)
    except Conflict as conflict:
        return _conflict(conflict, number, draft, posted)
    except ConfigError as error:
        posted.errors |= split_problems(error, (*KEYS, "basicAuth"))
        posted.errors["basicUser"] = posted.errors.pop("basicAuth", "")
        return make_response(_form(number, posted, Draft(draft.etag, own=draft.own)), 422)
    tell(outcome, _("The service is published.") if number is None else _("The service is saved."))
    return redirect(url_for("services.index"), 303)


def _read_password(form: MultiDict[str, str], own: Mapping[str, Any], posted: Posted) -> None:
    """The user and password that visitors are asked for: the option has "user:hash"."""
    user, password = form.get("basicUser", "").strip(), form.get("basicPassword", "")
    posted.texts |= {"basicUser": user, "basicPassword": password}
    before, _colon, kept = str(own.get("basicAuth") or "").partition(":")
    if not user:
        if password:
            posted.errors["basicUser"] = _("A password needs a user name as well.")
        elif before:
            posted.changes["basicAuth"] = None
        return
    if ":" in user:
        posted.errors["basicUser"] = _("A user name can't have a colon in it.")
    elif password and len(password.encode()) > MAX_PASSWORD_BYTES:
        posted.errors["basicPassword"] = _("At most %(count)d bytes fit here.", count=MAX_PASSWORD_BYTES)
    elif password or kept:
        value = f"{user}:{passwords.hash_password(password) if password else kept}"
        if forms.problem_of(SERVICE["basicAuth"], value):
            posted.errors["basicUser"] = _("At most 200 characters, none of them a control character.")
        elif password or user != before:
            posted.changes["basicAuth"] = value
    else:
        posted.errors["basicPassword"] = _("Choose a password for this user.")


def _form(number: int | None, posted: Posted, draft: Draft) -> str:
    made = forms.fields(SERVICE, draft.own, keys=KEYS, labels=LABELS, helps=HELPS, posted=posted)
    made["local"] = replace(made["local"], placeholder="http://127.0.0.1:8080", required=True)
    made["remoteTCPPort"] = replace(made["remoteTCPPort"], placeholder=_("any"))
    row = _row(number) if number is not None else None
    return render_template(
        "services/edit.html",
        number=number,
        row=row,
        main=[made[key] for key in MAIN],
        told=[made[key] for key in TOLD],
        guards=[*_password_fields(draft.own, posted), *(made[key] for key in GUARDS)],
        draft=draft.sealed(),
        problem=posted.errors.get("", ""),
        editable=console().store is not None,
        opened=any(posted.errors.get(key) for key in (*TOLD, *GUARDS, *PASSWORD_KEYS)),
        is_link=is_link,
    )


def _password_fields(own: Mapping[str, Any], posted: Posted) -> list[Field]:
    user = str(own.get("basicAuth") or "").partition(":")[0]
    kept = _("set, not shown") if user else ""
    return [
        Field.of_text(
            "basicUser",
            _("User name"),
            _(
                "Visitors are asked for it and for the password; leave both empty to ask for none. For http alone."
            ),
            posted,
            value=user,
        ),
        Field.of_text("basicPassword", _("Password"), "", posted, type="password", placeholder=kept),
    ]


def _conflict(conflict: Conflict, number: int | None, draft: Draft, posted: Posted) -> Any:
    """The file is another one by now: what is different, and three ways to go on."""
    services = changes.store_of().document(conflict.current.text).services()
    if number is None or number > len(services):
        flash(_("Someone has removed services meanwhile: nothing was saved."), "bad")
        return redirect(url_for("services.index"), 303)
    again = Draft(conflict.current.etag, changes=posted.changes, own=services[number - 1])
    here = url_for("services.edit", number=number)
    table = conflicts.rows_of_values(posted.changes, draft.own, again.own)
    return conflicts.page(conflict, table, conflicts.choices(here, [(drafts.FIELD, again.sealed())], here))


def _row(number: int) -> Row | None:
    own, _etag = _own_services()
    found = rows(_config(), len(own), live())
    return next((row for row in found if row.index == number - 1), None)


def _config() -> ClientConfig:
    config = console().usable_config()
    assert isinstance(config, ClientConfig)
    return config


def _own_services() -> tuple[list[dict[str, Any]], str]:
    """The services of the file itself, and its etag."""
    if console().store is None:
        return [], ""
    try:
        store = changes.store_of()
        text = store.read()
        return store.document(text.text).services(), text.etag
    except GTError:  # it is being edited by hand, and not valid just now
        return [], ""


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
