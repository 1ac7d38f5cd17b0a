"""The web console: a Flask application in a process of its own, which knows the relay by its control socket alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Blueprint, Flask
from flask.sessions import SecureCookieSessionInterface
from flask_wtf.csrf import CSRFProtect, generate_csrf
from markupsafe import Markup

from gtapp.console import accounts, audit, auth, errors, filters, i18n, navigation, security, user_ids
from gtapp.console.context import EXTENSION, Console

__all__ = ["audit", "create_app"]

WEB = Path(__file__).parents[2] / "web"


def create_app(console: Console) -> Flask:
    """The application that serves `console`: all of it, or in setup mode the wizard alone."""
    app = Flask(
        "gtapp.console",
        root_path=str(Path(__file__).parent),
        template_folder=str(WEB / "templates"),
        static_folder=str(WEB / "static"),
        static_url_path="/static",
    )
    app.extensions[EXTENSION] = console
    app.session_interface = _Signed()
    app.config.update(
        SESSION_COOKIE_NAME=f"gt_{console.port}_page",
        SESSION_COOKIE_SECURE=console.tls,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        WTF_CSRF_TIME_LIMIT=None,  # as long as the cookie it belongs to
        WTF_CSRF_SSL_STRICT=False,  # `security` looks at Origin, which says the same
        WTF_CSRF_CHECK_DEFAULT=False,  # `_protect` does it, after the login has been looked at
        TEMPLATES_AUTO_RELOAD=False,
    )
    i18n.init_app(app, WEB / "translations")
    filters.init(app)
    user_ids.init(app)
    errors.init_app(app)
    security.init_app(app)
    navigation.init(app)
    auth.init_app(app)
    csrf = CSRFProtect(app)
    app.before_request(lambda: _protect(csrf))
    app.context_processor(lambda: {"csrf_field": _csrf_field, "insecure": _insecure(console)})
    for blueprint in _blueprints(console):
        app.register_blueprint(blueprint)
    return app


class _Signed(SecureCookieSessionInterface):
    """The small signed cookie that carries CSRF secret and notices. Its key is an option that can change."""

    def get_signing_serializer(self, app: Flask) -> Any:
        app.secret_key = accounts.signing_key(app.extensions[EXTENSION])
        return super().get_signing_serializer(app)


def _protect(csrf: CSRFProtect) -> None:
    """A form has to be ours. What comes with a token is no form: no browser sends that by itself."""
    if auth.bearer() is None:
        csrf.protect(apply_exemptions=True)


def _csrf_field() -> Markup:
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(generate_csrf())


def _insecure(console: Console) -> bool:
    """Whether passwords go over a network readable for everybody."""
    return not console.on_loopback and not security.is_secure()


def _blueprints(console: Console) -> list[Blueprint]:
    """Those of its role; the wizard as long as there is something to be set up, and what follows it from then on."""
    from gtapp.console import (
        account,
        api,
        audit_log,
        connections,
        dashboard,
        history,
        live,
        login,
        prometheus,
        settings,
        system,
        yaml_editor,
    )

    modules: list[Any] = [login, account, dashboard, live, connections, settings, yaml_editor, history]
    modules += [system, audit_log, api, prometheus]
    if console.role == "server":
        from gtapp.console import clients, users

        modules += [clients, users]
    else:
        from gtapp.console import services, tunnels

        modules += [services, tunnels]
    if console.setup:
        from gtapp.console import setup

        modules.append(setup)
    else:
        from gtapp.console import welcome

        modules.append(welcome)
    return [each.blueprint for each in modules]
