"""The JSON API, /api/v1: everything that the pages can do, for programs. The pages use parts of it, too.

Who may is the same as for pages: a browser by its session and CSRF token, a program by an API token with scopes.
Changes of the configuration go through `console.changes` like those of pages. The OpenAPI document, at
/api/v1/openapi.json, is made from the code: from the decorators in `operations`, the schemas, and the option table.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint as FlaskBlueprint
from flask import Flask, Response, jsonify
from flask.blueprints import BlueprintSetupState
from flask_smorest import current_api
from marshmallow import fields

from gtapp import __version__
from gtapp.console.api.operations import Api, Blueprint
from gtapp.console.api.schemas import Given, told
from gtapp.console.context import EXTENSION, Console

PREFIX = "/api/v1"
VERSION = "1.0.0"  # of the API: the first number is that of its URL

_ABOUT = """\
Everything that the console of GT can do.

**Who may.** Send a token, made under Account: `Authorization: Bearer gt_…`. Each operation names the scope that it
takes. A browser that is logged in has all of them; what changes something needs its CSRF token as well, in the header
`X-CSRFToken`.

**Changes of the configuration** are checked first, saved whole, and taken over by the running GT at once; the answer
has the lines that it tells meanwhile. Send the `ETag` of what you have read as `If-Match`, and a change is refused with
412 when somebody else was faster.

**Errors** are JSON, too: `code`, `status`, `message` (what is wrong and what to do), and `errors` by field.
"""

blueprint = FlaskBlueprint("api", __name__)
document = Blueprint("document", "This document.")


class DocumentSchema(Given):
    """An OpenAPI document."""

    openapi = told(fields.String, "Version of OpenAPI.")


@document.get("/openapi.json")
@document.needs("read")
@document.response(200, DocumentSchema)
def openapi() -> Response:
    """What all of this is, for programs."""
    return jsonify(current_api.spec.to_dict())


@blueprint.record
def _register(state: BlueprintSetupState) -> None:
    assert isinstance(state.app, Flask)
    init_app(state.app)


def init_app(app: Flask) -> Api:
    """Let `app` serve the API, as far as its console's role has it."""
    about: Console = app.extensions[EXTENSION]
    api = Api(
        app,
        spec_kwargs={
            "title": "GT console",
            "version": VERSION,
            "openapi_version": "3.1.0",
            "info": {"description": _ABOUT, "x-gt-version": __version__},
            "servers": [{"url": "/", "description": f"This {about.role}"}],
        },
    )
    schemes = api.spec.components.security_scheme
    schemes("token", {"type": "http", "scheme": "bearer", "description": "An API token, gt_…"})
    session = {
        "type": "apiKey",
        "in": "cookie",
        "name": cookie_of(about),
        "description": "A browser's login.",
    }
    schemes("session", session)
    csrf = {"type": "apiKey", "in": "header", "name": "X-CSRFToken", "description": "From a page's meta tag."}
    schemes("csrf", csrf)
    for each in _blueprints(about.role):
        api.register_blueprint(each, url_prefix=PREFIX, name=f"api_{each.name}")
    return api


def cookie_of(about: Console) -> str:
    return f"gt_{about.port}_session"


def _blueprints(role: str) -> list[Any]:
    from gtapp.console.api import account, config, connections, relay
    from gtapp.console.api.settings import settings

    common = [
        relay.blueprint,
        connections.blueprint,
        settings(role),
        config.blueprint,
        account.blueprint,
        document,
    ]
    if role == "server":
        from gtapp.console.api import clients, users

        return [*common, clients.blueprint, users.blueprint]
    from gtapp.console.api import services

    return [*common, services.blueprint]
