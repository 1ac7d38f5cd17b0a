"""Logging in and out: name and password, then the second factor where there is one."""

from __future__ import annotations

import hmac
import logging
import math
import secrets

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask_babel import ngettext
from flask_login import current_user
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.exceptions import TooManyRequests
from werkzeug.wrappers import Response

from gtapp.config.values import network_of
from gtapp.console import accounts, passwords
from gtapp.console.audit import audit
from gtapp.console.auth import public, safe_next
from gtapp.console.context import console
from gtapp.console.errors import error_answer
from gtapp.console.security import visitor_address
from gtapp.console.sessions import WAITS_FOR_CODE, Session
from gtapp.console.throttle import Throttle, key
from gtapp.console.totp import Factor
from gtapp.console.words import _
from gtapp.observe.logs import Limited

log = logging.getLogger("gt.console")
_limited = Limited("gt.console")

DEVICE_S = 30 * 86400.0  # a browser is known that long after its last login
BUSY_S = 5  # when too many log in at once

blueprint = Blueprint("auth", __name__)


@blueprint.get("/login")
@public
def login() -> Response | str:
    if current_user.is_authenticated:
        return redirect(_next())
    return _page()


@blueprint.post("/login")
@public
def log_in() -> Response | str | tuple[str, int]:
    """The same answer, and one verification, for a wrong name and a wrong password."""
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    who = accounts.administrator()
    attempt = _keys(name)
    wait = _throttle().take(attempt)
    if wait:
        return _wait(wait)
    is_name = hmac.compare_digest(name.encode(errors="surrogatepass"), who.name.encode())
    try:
        right = passwords.matches(who.password, password) and is_name  # the same work whatever the name is
    except passwords.Busy:
        _throttle().give_back(attempt)
        return _wait(BUSY_S)
    if not right:
        _limited.warning("a login from %s failed", visitor_address())
        return _page(_("Name or password is wrong."), name), 401
    if Factor(console().db, console().clock).active():
        response = redirect(url_for("auth.code", next=request.values.get("next") or None))
        accounts.begin_session(response, WAITS_FOR_CODE)
        return response
    return _let_in(attempt)


@blueprint.get("/login/code")
@public
def code() -> Response | str:
    if _waiting() is None:
        return redirect(url_for("auth.login", next=request.args.get("next")))
    return render_template("auth/code.html", next=_next(), error="")


@blueprint.post("/login/code")
@public
def check_code() -> Response | str | tuple[str, int]:
    waiting = _waiting()
    if waiting is None:
        flash(_("That took too long: log in again."), "warn")
        return redirect(url_for("auth.login", next=request.form.get("next")))
    attempt = _keys(waiting.name)
    wait = _throttle().take(attempt)
    if wait:
        return _wait(wait)
    if not Factor(console().db, console().clock).check(request.form.get("code", "")):
        _limited.warning("a login from %s failed at its code", visitor_address())
        error = _("This code is wrong, or has been used already. Wait for the next one.")
        return render_template("auth/code.html", next=_next(), error=error), 401
    return _let_in(attempt)


@blueprint.post("/logout")
@public
def logout() -> Response:
    response = redirect(url_for("auth.login"))
    if current_user.is_authenticated and current_user.session is not None:
        audit("logged out")
    accounts.end_session(response)
    session.clear()
    return response


def remember_device(response: Response) -> None:
    """This browser is the administrator's: what others fail to guess does not keep it out."""
    device = _device() or secrets.token_urlsafe(16)
    accounts.set_cookie(response, "device", _devices().dumps(device), DEVICE_S)


def check_password(password: str) -> str:
    """ "" when it is the administrator's, otherwise what to say: for what needs it once more.

    Raises TooManyRequests.
    """
    who = accounts.administrator()
    attempt = _keys(who.name)
    wait = _throttle().take(attempt)
    if wait:
        raise TooManyRequests(_later(wait), retry_after=math.ceil(wait))
    try:
        right = passwords.matches(who.password, password)
    except passwords.Busy:
        _throttle().give_back(attempt)
        raise TooManyRequests(_later(BUSY_S), retry_after=BUSY_S) from None
    if not right:
        return _("This is not your password.")
    _throttle().forget(attempt)
    return ""


def _let_in(attempt: list[str]) -> Response:
    who = accounts.administrator()
    session.clear()  # what was before the login is worth nothing after it
    response = redirect(_next())
    accounts.begin_session(response)
    remember_device(response)
    _throttle().forget(attempt)
    audit("logged in", name=who.name)
    return response


def _page(error: str = "", name: str = "") -> str:
    who, store = accounts.administrator(), console().store
    return render_template(
        "auth/login.html",
        error=error,
        name=name,
        next=_next(),
        without_password=not who.password,
        config=store.path if store else None,
    )


def _wait(seconds: float) -> Response:
    return error_answer(429, _later(seconds), {"Retry-After": str(max(1, math.ceil(seconds)))})


def _later(seconds: float) -> str:
    whole = max(1, math.ceil(seconds))
    return str(ngettext("Try again in %(num)s second.", "Try again in %(num)s seconds.", whole))


def _waiting() -> Session | None:
    """The login that waits for its second factor."""
    found = accounts.session_of_request()
    return found if found is not None and found.stage == WAITS_FOR_CODE else None


def _next() -> str:
    return safe_next(request.values.get("next", ""))


# the throttle


def _throttle() -> Throttle:
    return Throttle(console().db, console().clock)


def _keys(name: str) -> list[str]:
    device = _device()
    if device is not None:
        return [key("device", device)]
    return [key("address", network_of(visitor_address())), key("account", name)]


def _device() -> str | None:
    """What names this browser, if it has logged in before."""
    cookie = request.cookies.get(accounts.cookie_name("device"), "")
    try:
        found = _devices().loads(cookie, max_age=int(DEVICE_S))
    except BadSignature:
        return None
    return found if isinstance(found, str) else None


def _devices() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(accounts.signing_key(console()), salt="gt-device")
