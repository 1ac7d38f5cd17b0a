"""What is answered when something is wrong: a page that says what to do, or JSON for programs."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from flask import Flask, jsonify, render_template, request
from flask_babel import lazy_gettext
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Response

from gtapp.console.words import _
from gtapp.errors import GTError

log = logging.getLogger("gt.console")

_TITLES = {
    400: lazy_gettext("This request cannot be used"),
    401: lazy_gettext("Log in first"),
    403: lazy_gettext("This is not allowed"),
    404: lazy_gettext("There is no such page"),
    405: lazy_gettext("There is no such page"),
    409: lazy_gettext("Somebody else has changed this"),
    413: lazy_gettext("This is too large"),
    429: lazy_gettext("Too many attempts"),
    500: lazy_gettext("Something went wrong"),
    503: lazy_gettext("This does not work now"),
}
_HELP = {
    404: lazy_gettext("The address is wrong, or what was here has been removed."),
    405: lazy_gettext("The address is wrong, or what was here has been removed."),
    413: lazy_gettext("Send less at a time: 1 MiB, or 10 MiB for a configuration file."),
}


def wants_json() -> bool:
    """Whether a program asks."""
    if request.path.startswith("/api/") or request.path == "/metrics":
        return True
    accepted = request.accept_mimetypes
    return bool(accepted) and accepted["application/json"] > accepted["text/html"]


def error_answer(code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The page, or the JSON, of an error."""
    response: Response
    if wants_json():
        response = jsonify(code=code, status=HTTP_STATUS_CODES.get(code, "Error"), message=message)
    else:
        title = _TITLES.get(code) or _TITLES[400 if code < 500 else 500]
        response = Response(
            render_template("error.html", heading=title, message=message, code=code), mimetype="text/html"
        )
    response.status_code = code
    response.headers.update(headers or {})
    return response


def init_app(app: Flask) -> None:
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(CSRFError, _csrf)
    app.register_error_handler(GTError, _refused)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Any:
    code = error.code or 500
    if code < 400:
        return error  # a redirect
    generic = type(error).description
    said = error.description if error.description and error.description != generic else ""
    headers = {}
    if error.response is not None:
        return error.response
    retry = getattr(error, "retry_after", None)
    if retry is not None:
        headers["Retry-After"] = str(int(retry))
    if code == 401 and wants_json():
        headers["WWW-Authenticate"] = "Bearer"
    if code == 405 and getattr(error, "valid_methods", None):
        headers["Allow"] = ", ".join(sorted(error.valid_methods))  # type: ignore[attr-defined]
    return error_answer(code, said or str(_HELP.get(code, "")), headers)


def _csrf(error: CSRFError) -> Response:
    del error
    return error_answer(
        400, _("The page was open for too long, or its session is over. Load it again and repeat it.")
    )


def _refused(error: GTError) -> Response:
    """Nobody has caught it: something outside the console is not as it should be, and the words say what to do."""
    return error_answer(503, str(error))


def _unexpected(error: Exception) -> Response:
    number = secrets.token_hex(4)
    log.error("unexpected error %s at %s %s", number, request.method, request.path, exc_info=error)
    try:
        return error_answer(
            500, _("This is a mistake in GT. The log has more about it, under %(number)s.", number=number)
        )
    except Exception:  # the page itself is what fails
        log.exception("unexpected error in the page of error %s", number)
        return Response(f"Internal error {number}\n", 500, mimetype="text/plain")
