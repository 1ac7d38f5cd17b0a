"""Who may see and do what. Everything needs a login but views marked `@public`; `@needs(scope)` says what else.

A browser has a session (`sessions`) and all scopes; a program has an API token (`tokens`) and the scopes of that,
and what is not marked with `@needs` it may only read.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, current_app, g, redirect, request, url_for
from flask_login import AnonymousUserMixin, LoginManager, UserMixin, current_user
from werkzeug.exceptions import Forbidden, NotFound, Unauthorized
from werkzeug.wrappers import Response

from gtapp.console import accounts
from gtapp.console.audit import audit
from gtapp.console.context import console
from gtapp.console.database import StorageError
from gtapp.console.errors import wants_json
from gtapp.console.security import visitor_address
from gtapp.console.sessions import Session
from gtapp.console.tokens import SCOPES, Token
from gtapp.console.words import _

__all__ = ["SCOPES", "Somebody", "audit", "needs", "public"]

log = logging.getLogger("gt.console")

ACCOUNT = "account"  # what only the administrator does, in a browser: no token has it
SAFE = ("GET", "HEAD", "OPTIONS")
_BEARER = "bearer "
# Served while there is no configuration yet, and nothing else.
_IN_SETUP = ("setup",)

View = TypeVar("View", bound=Callable[..., Any])


def public(view: View) -> View:
    """A view that needs no login. Put it under the route decorator."""
    view.gt_public = True  # type: ignore[attr-defined]
    return view


def needs(scope: str) -> Callable[[View], View]:
    """A view for those with `scope` alone: read, users, settings, system or metrics; put it under the route
    decorator. Without it, reading needs "read", and what changes something needs a browser."""
    assert scope in SCOPES or scope == ACCOUNT, scope

    def mark(view: View) -> View:
        view.gt_needs = scope  # type: ignore[attr-defined]
        return view

    return mark


class Somebody(UserMixin):  # type: ignore[misc]
    """Who is logged in: `session` for a browser, `token` for a program."""

    def __init__(self, name: str, session: Session | None = None, token: Token | None = None) -> None:
        self.name = name
        self.session = session
        self.token = token
        self.scopes = frozenset({*SCOPES, ACCOUNT}) if token is None else token.scopes

    @property
    def via(self) -> str:
        """For the audit log."""
        return "browser" if self.token is None else f"token {self.token.label}"

    def get_id(self) -> str:
        return self.name


class Nobody(AnonymousUserMixin):  # type: ignore[misc]
    """Nobody is logged in."""

    name = ""
    scopes: frozenset[str] = frozenset()
    via = ""
    session = None
    token = None


def init_app(app: Flask) -> None:
    # Flask-Login's own cookies are not used; another application on this host may have some by its usual names.
    app.config["REMEMBER_COOKIE_NAME"] = f"gt_{secrets.token_hex(8)}"
    manager = LoginManager()
    manager.anonymous_user = Nobody
    manager.session_protection = None
    manager.user_loader(lambda user_id: None)
    manager.request_loader(_load)
    manager.init_app(app)
    app.before_request(_check)


def bearer() -> str | None:
    """The API token of this request, None when it has none. Then cookies count for nothing."""
    header = request.headers.get("Authorization", "")
    return header[len(_BEARER) :].strip() if header[: len(_BEARER)].lower() == _BEARER else None


def mark_of(view: Any, method: str, name: str) -> Any:
    """What a decorator has said of a view, or of that method of a view class."""
    view_class = getattr(view, "view_class", None)
    if view_class is not None:
        handler = getattr(view_class, "get" if method == "HEAD" else method.lower(), None)
        found = getattr(handler, name, getattr(view_class, name, None))
        if found is not None:
            return found
    return getattr(view, name, None)


def _load(request_: Any) -> Somebody | None:
    """Who the request comes from. Flask-Login calls it once."""
    del request_
    token = bearer()
    if console().setup:
        return None
    try:
        if token is not None:
            found = accounts.tokens().find(token, visitor_address())
            return Somebody(accounts.administrator().name, token=found) if found else None
        session = accounts.session_of_request()
    except StorageError as error:
        g.storage_problem = error
        return None
    return Somebody(session.name, session=session) if session is not None and not session.stage else None


def _check() -> Response | None:
    """Before each request: may it go on?"""
    if request.endpoint is None:  # an error: of the path (404) or the method (405), whoever asks
        return None
    view = current_app.view_functions[request.endpoint]
    if console().setup and request.blueprint not in _IN_SETUP and request.endpoint != "static":
        if request.path == "/" and "setup" in current_app.blueprints:
            return redirect("/setup")
        raise NotFound
    if request.endpoint == "static" or mark_of(view, request.method, "gt_public"):
        return None
    if not current_user.is_authenticated:
        return _without_login()
    scope = mark_of(view, request.method, "gt_needs")
    if scope is None:
        scope = "read" if request.method in SAFE else ACCOUNT
    if scope not in current_user.scopes:
        raise Forbidden(_("This token may not do that: it lacks the scope %(scope)s.", scope=scope))
    return None


def _without_login() -> Response:
    problem = g.get("storage_problem")
    if problem is not None:
        raise problem
    if bearer() is not None or wants_json() or request.method not in SAFE or "HX-Request" in request.headers:
        raise Unauthorized(_("Log in again, or send an API token that is valid."))
    return redirect(url_for("auth.login", next=_next_here()))


def _next_here() -> str | None:
    query = request.query_string.decode("latin-1")
    here = request.path + (f"?{query}" if query else "")
    return here if here != "/" else None


def safe_next(text: str) -> str:
    """Where to go after a login: a path of this console, "/" where `text` is none."""
    if text.startswith("/") and text[1:2] not in ("/", "\\") and text.isprintable() and len(text) < 2000:
        return text
    return "/"
