"""The first run in the browser: language, token, then the wizard's steps one after the other, and the start.

There is one wizard, for one browser: whoever has entered the token, which starts it, and is good once. What has been
entered is kept here in memory; going back and forward, or loading a page again, changes nothing. The steps themselves
are in `setup_server` and `setup_client`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint, current_app, make_response, redirect, render_template, request, url_for
from flask_babel import lazy_gettext
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from gtapp.config import show
from gtapp.console import accounts, setup_client, setup_server, setup_token
from gtapp.console.audit import audit
from gtapp.console.auth import public
from gtapp.console.context import EXTENSION, console
from gtapp.console.database import StorageError
from gtapp.console.navigation import COOKIE, COOKIE_S, LANGUAGES
from gtapp.console.security import is_secure, visitor_address
from gtapp.console.setup_checks import container
from gtapp.console.setup_wizard import Flow, Form, Refused, Step, Wizard, yaml_text
from gtapp.console.words import _
from gtapp.errors import GTError

log = logging.getLogger("gt.console")

blueprint = Blueprint("setup", __name__)

OWNER = "setup"  # the cookie of the browser that has the wizard
REFUSED = 422
MAX_TOKEN = 200  # letters of what is typed
POLL_S = 1  # between two looks whether the new console answers
_WIZARD = "gt-wizard"
_FLOWS: Mapping[str, Flow] = {"server": setup_server, "client": setup_client}
_TOKEN = lazy_gettext("Token")


# who may


def wizard() -> Wizard:
    """The one of this application."""
    about = console()
    found = current_app.extensions.setdefault(_WIZARD, Wizard(about.role, about.listen, about.tls))
    assert isinstance(found, Wizard)
    return found


def is_owner() -> bool:
    """Whether the request comes from the browser that has the wizard."""
    shown = request.cookies.get(accounts.cookie_name(OWNER), "")
    return wizard().is_owner(shown, console().clock())


def flow() -> Flow:
    return _FLOWS[console().role]


def steps() -> list[Step]:
    """Those that are needed, as far as that is known."""
    return [each for each in flow().STEPS if each.needed(wizard())]


def next_step() -> Step:
    """The first that has not been taken."""
    return next((each for each in steps() if each.name not in wizard().entries), steps()[-1])


# language and token


@blueprint.get("/setup")
@public
def index() -> Response:
    if is_owner():
        return _starting() if wizard().begun else redirect(url_for("setup.step", name=next_step().name), 303)
    return redirect(url_for("setup.language"), 303)


@blueprint.get("/setup/language")
@public
def language() -> Response:
    return make_response(
        render_template("setup/language.html", languages_to_choose=LANGUAGES, role=console().role)
    )


@blueprint.post("/setup/language")
@public
def choose_language() -> Response:
    """The token comes along when it was in the URL's fragment: then there is nothing more to ask."""
    chosen = request.form.get("language", "")
    if chosen not in LANGUAGES:
        return redirect(url_for("setup.language"), 303)
    if is_owner():
        response = redirect(url_for("setup.index"), 303)
    elif request.form.get("token"):
        response = _enter(request.form["token"])
    else:
        response = redirect(url_for("setup.token"), 303)
    response.set_cookie(COOKIE, chosen, max_age=COOKIE_S, samesite="Lax", httponly=True, secure=is_secure())
    return response


@blueprint.get("/setup/token")
@public
def token() -> Response:
    if is_owner():
        return redirect(url_for("setup.index"), 303)
    return _token_page()


@blueprint.post("/setup/token")
@public
def enter_token() -> Response:
    if is_owner():
        return redirect(url_for("setup.index"), 303)
    return _enter(request.form.get("token", ""))


def _enter(text: str) -> Response:
    about = console()
    if not text.strip():
        return _token_page(_("Enter the token."))  # that is no attempt
    try:
        setup_token.check(about, text.strip()[:MAX_TOKEN], visitor_address())
    except GTError as error:
        return _token_page(str(error))
    response = redirect(url_for("setup.step", name=steps()[0].name), 303)
    accounts.set_cookie(response, OWNER, wizard().enter(about.clock()))
    return response


def _token_page(problem: str = "") -> Response:
    page = render_template(
        "setup/token.html",
        problem=problem,
        taken=bool(wizard().owner),
        container=container(),
        **_progress(_TOKEN),
    )
    return make_response(page, REFUSED if problem else 200)


# the steps


@blueprint.get("/setup/step/<name>")
@public
def step(name: str) -> Response:
    found = _step(name)
    if isinstance(found, Response):
        return found
    return _page(found, wizard().entries.get(found.name, {}))


@blueprint.post("/setup/step/<name>")
@public
def answer(name: str) -> Response:
    found = _step(name)
    if isinstance(found, Response):
        return found
    if "check" in request.form and found.check:  # without scripts; with them it is `check` that is asked
        return _page(found, _typed(request.form), checked=found.check(wizard(), request.form))
    try:
        entry = found.read(wizard(), request.form)
    except Refused as refused:
        more = {"errors": refused.errors, "notice": refused.notice, **refused.more}
        return _page(found, {**_typed(request.form), **refused.more}, code=REFUSED, **more)
    _keep(found, entry)
    following = steps()
    place = [each.name for each in following].index(found.name)
    return redirect(url_for("setup.step", name=following[min(place + 1, len(following) - 1)].name), 303)


@blueprint.get("/setup/check/<name>")
@public
def check(name: str) -> Response:
    """What is typed, looked at before it is sent; a part of the page."""
    found = _step(name)
    if isinstance(found, Response) or found.check is None:
        raise NotFound
    page = render_template(f"setup/check_{found.name}.html", checked=found.check(wizard(), request.args))
    return make_response(page)


def _keep(found: Step, entry: dict[str, Any]) -> None:
    """What was entered; what stood on another answer has to be asked again."""
    entries = wizard().entries
    if entries.get("domain", entry).get("domain") != entry.get("domain") and found.name == "domain":
        entries.pop("certificate", None)
    entries[found.name] = entry


def _step(name: str) -> Step | Response:
    """The one of that name, or the way to where this browser has to go first."""
    if not is_owner():
        return redirect(url_for("setup.token"), 303)
    if wizard().begun:
        return _starting()
    found = next((each for each in steps() if each.name == name), None)
    if found is None:
        raise NotFound
    names = [each.name for each in steps()]
    first = next_step()
    if names.index(name) > names.index(first.name):
        return redirect(url_for("setup.step", name=first.name), 303)
    return found


def _typed(form: Form) -> dict[str, Any]:
    """What was sent, to be shown again; passwords are typed again."""
    return {
        name: text for name, text in form.items() if name not in ("csrf_token", "password", "again", "check")
    }


def _page(found: Step, values: Mapping[str, Any], code: int = 200, **more: Any) -> Response:
    shown = {**values, **found.show(wizard(), values)}
    if found.name == "summary":
        shown |= _summary()
    context = {"errors": {}, "notice": "", "values": shown, **_progress(found.short), **more}
    names = [each.name for each in steps()]
    place = names.index(found.name)
    page = render_template(
        f"setup/{found.name}.html",
        step=found,
        back=url_for("setup.step", name=names[place - 1]) if place else url_for("setup.language"),
        **context,
    )
    return make_response(page, code)


def _progress(current: Any) -> dict[str, Any]:
    names = [_TOKEN, *(each.short for each in steps())]
    return {"names": names, "current": names.index(current) + 1}


# the end


def _summary() -> dict[str, Any]:
    about, text = wizard(), _text()
    account = about.entries["account"]["hash"]
    secrets = [account, *(each["secret"] for each in _secret_places(flow().document(about)))]
    for secret in secrets:
        text = text.replace(secret, show.MASK)
    target = console().store
    return {"overview": flow().overview(about), "yaml": text, "target": target.path if target else ""}


def _secret_places(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from document.get("users", {}).values()
    if "secret" in document["options"]:
        yield document["options"]


def _text() -> str:
    store = console().store
    return yaml_text(wizard(), flow().document(wizard()), store.path if store else None)


@blueprint.get("/setup/start")
@public
def started() -> Response:
    """For whoever loads the page of a problem again, or in another language."""
    return redirect(url_for("setup.index"), 303)


@blueprint.post("/setup/start")
@public
def start() -> Response:
    """Save it and have it started. On a problem nothing stays behind, and the wizard goes on where it can be solved."""
    found = _step("summary")
    if isinstance(found, Response):
        return found
    if next_step().name != "summary":
        return redirect(url_for("setup.step", name=next_step().name), 303)
    wizard().begun = True  # from here on: who sends the form twice waits as well
    problem = "unexpected"
    try:
        problem = _begin()
    finally:
        wizard().begun = not problem
    if problem:
        at = flow().step_of(problem) or "summary"
        back_to = next((each for each in steps() if each.name == at), found)
        notice = _("GT could not be started like this: %(problem)s", problem=problem)
        return _page(back_to, wizard().entries.get(back_to.name, {}), code=REFUSED, notice=notice)
    response = _starting()
    _log_in(response)
    return response


def _begin() -> str:
    """Write the file and have the master run it; why that failed, "" when it did not."""
    store = console().store
    assert store is not None, "a console that sets up knows the file to be made"
    name = wizard().entries["account"]["name"]
    text = _text()
    try:
        problems = store.check(text)
        if problems:
            return "; ".join(each.message for each in problems)
        store.new(text, name)
    except GTError as error:
        return str(error)
    try:
        console().running.reload()
    except GTError as error:
        with contextlib.suppress(OSError):
            store.path.unlink()
        return str(error)
    audit("set up", name=name)
    return ""


def _log_in(response: Response) -> None:
    """Whoever has set it up is its administrator. The console that takes over knows the session: it has the same
    database and the same key."""
    about, store = console(), console().store
    assert store is not None
    configured = replace(about, setup=False, words=("-c", str(store.path)))
    current_app.extensions[EXTENSION] = configured
    try:
        accounts.begin_session(response)
    except (GTError, StorageError) as error:  # then they log in themselves
        log.warning("not logged in after the set-up: %s", error)
    finally:
        current_app.extensions[EXTENSION] = about


@blueprint.get("/welcome")
@public
def welcome() -> Response:
    """Of the console that takes over; until that serves, the browser waits here."""
    if is_owner() and wizard().begun:
        return _starting()
    return redirect(url_for("setup.index"), 303)


def _starting() -> Response:
    response = make_response(render_template("setup/starting.html", poll_s=POLL_S))
    response.headers["X-GT-Setup"] = "starting"
    return response
