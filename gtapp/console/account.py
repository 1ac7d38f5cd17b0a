"""The administrator's own pages: password, sessions, second factor, API tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask_babel import lazy_gettext
from flask_login import current_user
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from gtapp.console import accounts, login, passwords, totp
from gtapp.console.audit import audit
from gtapp.console.auth import ACCOUNT, needs
from gtapp.console.context import console
from gtapp.console.sessions import Session
from gtapp.console.tokens import MAX_LABEL, SCOPES, Token
from gtapp.console.totp import Factor
from gtapp.console.words import _
from gtapp.errors import GTError

REFUSED = 422
HOUR_S, DAY_S = 3600.0, 86400.0

SCOPE_WORDS = {
    "read": lazy_gettext("see everything but secrets"),
    "users": lazy_gettext("change users and services"),
    "settings": lazy_gettext("change settings"),
    "system": lazy_gettext("reload, restart and stop"),
    "metrics": lazy_gettext("read /metrics"),
}
LASTS = {
    "30": lazy_gettext("30 days"),
    "90": lazy_gettext("90 days"),
    "365": lazy_gettext("one year"),
    "": lazy_gettext("no end"),
}
# What a User-Agent says first counts: most of them claim to be others as well.
_BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "Chrome": "Chrome",
    "Safari": "Safari",
    "curl": "curl",
}
_SYSTEMS = {
    "Windows": "Windows",
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Mac OS": "macOS",
    "Linux": "Linux",
}

blueprint = Blueprint("account", __name__)


@dataclass(frozen=True)
class _SessionRow:
    id: str
    browser: str
    address: str
    began_s: float  # ago
    seen_s: float
    current: bool


@dataclass(frozen=True)
class _TokenRow:
    token: Token
    age_s: float
    used_s: float | None
    left_s: float | None  # None: it does not end


@blueprint.get("/account")
@needs(ACCOUNT)
def index() -> str:
    factor = _factor()
    return render_template(
        "account/index.html",
        name=current_user.name,
        unchangeable=_unchangeable(),
        factor=factor.active(),
        codes_left=factor.recovery_codes_left(),
        most_codes=totp.RECOVERY_CODES,
        sessions=[_session_row(each) for each in accounts.sessions().all(accounts.administrator().stamp)],
        tokens=[_token_row(each) for each in accounts.tokens().all()],
        scopes=SCOPE_WORDS,
    )


# password


@blueprint.get("/account/password")
@needs(ACCOUNT)
def password() -> str:
    return _password_page({})


@blueprint.post("/account/password")
@needs(ACCOUNT)
def change_password() -> Response | str | tuple[str, int]:
    """Other browsers have to log in again, with the new one."""
    old, new, again = (request.form.get(name, "") for name in ("old", "new", "again"))
    errors = {}
    if problem := passwords.problem_of(new, current_user.name):
        errors["new"] = problem
    elif passwords.is_hash(new):
        errors["new"] = _("This would be taken for the hash of a password. Choose another one.")
    elif new != again:
        errors["again"] = _("This is not the same as above.")
    if not errors and (wrong := login.check_password(old)):
        errors["old"] = wrong
    if errors:
        return _password_page(errors), REFUSED
    try:
        accounts.set_password(new)
    except GTError as error:
        return _password_page({}, str(error)), REFUSED
    audit("password changed")
    flash(_("The password is changed. Other browsers have to log in again."), "ok")
    return _anew(redirect(url_for("account.index")))


def _password_page(errors: dict[str, str], problem: str = "") -> str:
    return render_template(
        "account/password.html",
        errors=errors,
        problem=problem or _unchangeable(),
        name=current_user.name,
        least=passwords.MIN_PASSWORD,
    )


def _unchangeable() -> str:
    """Why the password cannot be changed here."""
    try:
        accounts.check_changeable(console())
    except GTError as error:
        return str(error)
    return ""


def _anew(response: Response) -> Response:
    """This browser stays logged in, with a new session."""
    accounts.begin_session(response)
    login.remember_device(response)
    session.pop("csrf_token", None)
    return response


# sessions


@blueprint.post("/account/sessions/<id>/end")
@needs(ACCOUNT)
def end_session(id: str) -> Response:
    if not accounts.sessions().end(id):
        raise NotFound
    audit("session ended", id)
    flash(_("That browser is logged out."), "ok")
    return redirect(url_for("account.index"))


@blueprint.post("/account/sessions/end")
@needs(ACCOUNT)
def end_other_sessions() -> Response:
    count = accounts.sessions().end_others(current_user.session.id)
    audit("all other sessions ended", str(count))
    flash(_("All other browsers are logged out."), "ok")
    return redirect(url_for("account.index"))


# second factor


@blueprint.get("/account/totp")
@needs(ACCOUNT)
def factor() -> Response | str:
    """Shows the secret that is to be on the phone. It counts when a code of it has been typed."""
    if _factor().active():
        return redirect(url_for("account.index"))
    return _factor_page(_factor().begin())


@blueprint.post("/account/totp")
@needs(ACCOUNT)
def confirm_factor() -> Response | str | tuple[str, int]:
    factor = _factor()
    secret = factor.pending()
    if not secret:
        return redirect(url_for("account.factor"))
    codes = factor.confirm(request.form.get("code", ""))
    if codes is None:
        return _factor_page(
            secret, _("This is not the code that the phone shows now. Is its clock right?")
        ), REFUSED
    audit("second factor turned on")
    return render_template("account/codes.html", codes=codes)


@blueprint.get("/account/totp/remove")
@needs(ACCOUNT)
def remove_factor() -> Response | str:
    return _asks_password("account/totp_remove.html")


@blueprint.post("/account/totp/remove")
@needs(ACCOUNT)
def factor_removed() -> Response | str | tuple[str, int]:
    if wrong := login.check_password(request.form.get("password", "")):
        return render_template("account/totp_remove.html", error=wrong), REFUSED
    _factor().remove()
    audit("second factor turned off")
    flash(_("The second step is off: the password is enough now."), "ok")
    return redirect(url_for("account.index"))


@blueprint.get("/account/codes")
@needs(ACCOUNT)
def codes() -> Response | str:
    return _asks_password("account/codes_new.html")


@blueprint.post("/account/codes")
@needs(ACCOUNT)
def new_codes() -> Response | str | tuple[str, int]:
    """The codes before are worth nothing any more."""
    if not _factor().active():
        return redirect(url_for("account.index"))
    if wrong := login.check_password(request.form.get("password", "")):
        return render_template("account/codes_new.html", error=wrong), REFUSED
    made = _factor().new_recovery_codes()
    audit("recovery codes renewed")
    return render_template("account/codes.html", codes=made)


def _asks_password(template: str) -> Response | str:
    if not _factor().active():
        return redirect(url_for("account.index"))
    return render_template(template, error="")


def _factor_page(secret: str, error: str = "") -> str:
    text = totp.address_of(secret, current_user.name, request.host)
    spaced = " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
    return render_template("account/totp.html", picture=totp.picture_of(text), secret=spaced, error=error)


def _factor() -> Factor:
    return Factor(console().db, console().clock)


# tokens


@blueprint.get("/account/tokens/new")
@needs(ACCOUNT)
def token() -> str:
    return _token_page({"scopes": ["read"], "lasts": "90"}, {})


@blueprint.post("/account/tokens/new")
@needs(ACCOUNT)
def new_token() -> str | tuple[str, int]:
    """The only time that it is shown."""
    label, lasts = request.form.get("label", "").strip(), request.form.get("lasts", "")
    chosen = [each for each in SCOPES if each in request.form.getlist("scopes")]
    errors = {}
    if not (0 < len(label) <= MAX_LABEL and label.isprintable()):
        errors["label"] = _("Say what it is for, in at most %(most)s letters.", most=MAX_LABEL)
    if not chosen:
        errors["scopes"] = _("Choose at least one.")
    if lasts not in LASTS:
        errors["lasts"] = _("Choose one of these.")
    typed = {"label": label, "scopes": chosen, "lasts": lasts}
    if errors:
        return _token_page(typed, errors), REFUSED
    try:
        made = accounts.tokens().new(label, chosen, int(lasts) * DAY_S if lasts else None)
    except GTError as error:
        return _token_page(typed, {}, str(error)), REFUSED
    audit("API token made", f"{label} ({', '.join(chosen)})")
    return render_template("account/token.html", token=made, label=label)


@blueprint.post("/account/tokens/<id>/revoke")
@needs(ACCOUNT)
def revoke_token(id: str) -> Response:
    gone = accounts.tokens().revoke(id)
    if gone is None:
        raise NotFound
    audit("API token revoked", gone.label)
    flash(_("The token is worth nothing any more."), "ok")
    return redirect(url_for("account.index"))


def _token_page(typed: Mapping[str, object], errors: dict[str, str], problem: str = "") -> str:
    return render_template(
        "account/token_new.html",
        typed=typed,
        errors=errors,
        problem=problem,
        scopes=SCOPE_WORDS,
        lasts=list(LASTS.items()),
    )


# rows


def _session_row(each: Session) -> _SessionRow:
    now = console().clock()
    current = current_user.session is not None and each.id == current_user.session.id
    return _SessionRow(
        each.id, browser_of(each.agent), each.address, now - each.created, now - each.seen, current
    )


def _token_row(each: Token) -> _TokenRow:
    now = console().clock()
    return _TokenRow(
        each,
        now - each.created,
        None if each.used is None else now - each.used,
        None if each.expires is None else _rounded(each.expires - now),
    )


def _rounded(left_s: float) -> float:
    """Up to the hour: just made for 30 days it ends in 30 days, not in 29 d 23 h."""
    return math.ceil(left_s / HOUR_S) * HOUR_S if left_s > DAY_S else left_s


def browser_of(agent: str) -> str:
    """ "Firefox, Linux", or what it calls itself."""
    browser = next((name for sign, name in _BROWSERS.items() if f"{sign}/" in agent), "")
    system = next((name for sign, name in _SYSTEMS.items() if sign in agent), "")
    return ", ".join(each for each in (browser, system) if each) or agent[:40] or _("unknown")
