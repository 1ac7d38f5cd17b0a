"""What base.html shows on every page besides its content: the way to the other pages, and the languages."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import Flask, current_app, redirect, request
from flask_babel import get_locale, lazy_gettext
from flask_login import current_user
from werkzeug.wrappers import Response as AnyResponse

from gtapp.console.context import console

LANGUAGES = {"en": "English", "zh": "中文"}
COOKIE = "lang"
COOKIE_S = 365 * 86400

_SERVER = (
    ("dashboard.index", lazy_gettext("Dashboard"), ("dashboard",)),
    ("clients.index", lazy_gettext("Clients"), ("clients",)),
    ("connections.index", lazy_gettext("Connections"), ("connections",)),
    ("users.index", lazy_gettext("Users"), ("users",)),
    ("settings.index", lazy_gettext("Settings"), ("settings", "yaml", "history")),
    ("system.index", lazy_gettext("System"), ("system", "audit")),
)
_CLIENT = (
    ("dashboard.index", lazy_gettext("Dashboard"), ("dashboard",)),
    ("tunnels.index", lazy_gettext("Server"), ("tunnels",)),
    ("services.index", lazy_gettext("Services"), ("services",)),
    ("connections.index", lazy_gettext("Connections"), ("connections",)),
    ("settings.index", lazy_gettext("Settings"), ("settings", "yaml", "history")),
    ("system.index", lazy_gettext("System"), ("system", "audit")),
)


@dataclass(frozen=True)
class Item:
    """A link of the navigation; `current` when the page belongs to it."""

    endpoint: str
    text: Any
    current: bool


def init(app: Flask) -> None:
    """Let the templates of `app` know all this, and `?lang=zh` of any page choose its language."""
    app.context_processor(_known)
    app.before_request(_choose_language)


def preferred_language() -> str:
    """What was chosen, or what the browser likes best of what there is."""
    chosen = request.cookies.get(COOKIE, "")
    if chosen in LANGUAGES:
        return chosen
    wanted = (tag.partition("-")[0].lower() for tag, quality in request.accept_languages if quality > 0)
    return next((tag for tag in wanted if tag in LANGUAGES), "en")


def _known() -> dict[str, Any]:
    now = str(get_locale() or "en").partition("_")[0]
    return {
        "role": console().role,
        "endpoints": current_app.view_functions,
        "navigation": _items(),
        "language": {"tag": now},
        "languages": [
            {"tag": tag, "name": name, "current": tag == now, "url": _with_language(tag)}
            for tag, name in LANGUAGES.items()
        ],
    }


def _items() -> list[Item]:
    """None for whoever is not logged in, or as long as there is nothing but the first steps."""
    if console().setup or not (current_user and current_user.is_authenticated):
        return []
    return [
        Item(endpoint, text, request.blueprint in blueprints)
        for endpoint, text, blueprints in (_SERVER if console().role == "server" else _CLIENT)
        if endpoint in current_app.view_functions
    ]


def _with_language(tag: str) -> str:
    """This page in another language."""
    others = [(key, value) for key, value in request.args.items(multi=True) if key != "lang"]
    return f"?{urlencode([*others, ('lang', tag)])}"


def _choose_language() -> AnyResponse | None:
    chosen = request.args.get("lang", "")
    if request.method != "GET" or chosen not in LANGUAGES or request.path.startswith("/api/"):
        return None
    others = [(key, value) for key, value in request.args.items(multi=True) if key != "lang"]
    # a path that begins with two slashes would be another host
    target = "/" + request.path.lstrip("/") + (f"?{urlencode(others)}" if others else "")
    response = redirect(target, 303)
    response.set_cookie(COOKIE, chosen, max_age=COOKIE_S, samesite="Lax", httponly=True, secure=console().tls)
    return response
