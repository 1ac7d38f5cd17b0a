"""What the operations of /api/v1 are made of: routes that know who may, what they refuse and how it is documented.

A view takes what `arguments` has read and returns what `response` writes; what it can't do is a `Refused`. All that
stands in decorators is in the OpenAPI document, too: nothing of it is written a second time.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

import flask_smorest
import marshmallow as ma
from flask import Flask, Response, jsonify, request
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

from gtapp.config.store import Conflict
from gtapp.console import auth
from gtapp.console.api.schemas import ErrorSchema, OutcomeSchema, etag_header
from gtapp.console.changes import Outcome
from gtapp.console.context import console
from gtapp.console.review import settle
from gtapp.errors import ConfigError

View = TypeVar("View", bound=Callable[..., Any])
Decorator = Callable[[View], View]

_UNUSABLE = "some of it cannot be used: errors says what"
_OWN = "gt"  # where `_apidoc` has what our decorators say
_SAFE = ("GET", "HEAD", "OPTIONS")
_IN_PATH = re.compile(r"<(?:\w+:)?(\w+)>")
_PATH = {
    name: {"in": "path", "name": name, "required": True, "description": description, "example": example}
    for name, description, example in (
        (
            "user",
            "An id; one that is no plain word is written as ~ and its base64 (RFC 4648 section 5).",
            "alice",
        ),
        ("connection", "Id of a connection, as the list of them has it.", "1.4.9"),
        ("tunnel", "Id of a tunnel, as the list of them has it.", "1.4"),
        ("version", "Id of a version, as the history has it.", "000001"),
        ("session", "Id of a session, as the list of them has it.", "0123456789abcdef"),
        ("token", "Id of a token, as the list of them has it.", "0123456789abcdef"),
        ("number", "Place of the service in the file, from 1.", 1),
    )
}
_IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "description": "The ETag of the configuration that the change is based on: refused with 412 when the file is"
    " another one by now.",
    "schema": {"type": "string"},
    "example": '"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"',
}


class Refused(HTTPException):
    """An operation that is not done. `message` says what to do; `errors` what is wrong with each field; `etag` stands
    for the configuration as it is now."""

    def __init__(
        self, code: int, message: str, errors: Mapping[str, Any] | None = None, etag: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.errors = errors
        self.etag = etag

    @classmethod
    def because(cls, **errors: str) -> Refused:
        """For what was sent in these fields."""
        return cls(422, _UNUSABLE, {name: [text] for name, text in errors.items()})

    def answer(self) -> Response:
        code = self.code or 500
        body: dict[str, Any] = {"code": code, "status": HTTPStatus(code).phrase, "message": self.message}
        if self.errors is not None:
            body["errors"] = dict(self.errors)
        if self.etag is not None:
            body["etag"] = self.etag
        response = jsonify(body)
        response.status_code = code
        if self.etag is not None:
            response.set_etag(self.etag)
        return response


class _Parser(FlaskParser):
    """Reads what comes with a request; what is wrong is told by field."""

    def _raw_load_json(self, req: Any) -> Any:
        if not req.get_data(cache=True):
            raise Refused(400, "there is no body: send JSON")
        if not req.is_json:
            raise Refused(415, "send JSON, with the header Content-Type: application/json")
        try:
            return super()._raw_load_json(req)
        except RecursionError:
            raise Refused(400, "the body is nested too deeply") from None

    def _handle_invalid_json_error(self, error: Exception, req: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise Refused(400, "the body is not JSON in UTF-8")

    def handle_error(self, error: ma.ValidationError, req: Any, schema: Any, **more: Any) -> NoReturn:
        found = error.messages if isinstance(error.messages, dict) else {}
        errors: dict[str, Any] = {}
        for of_place in found.values():
            errors |= of_place if isinstance(of_place, dict) else {"": of_place}
        raise Refused(422, _UNUSABLE, errors)


class Api(flask_smorest.Api):  # type: ignore[misc]
    """The OpenAPI document. Errors are answered by the console's own handlers, and each operation names its own."""

    ERROR_SCHEMA = ErrorSchema
    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_error_handlers(self) -> None:
        app: Flask = self._app
        app.register_error_handler(Refused, Refused.answer)

    def _register_pagination_header(self) -> None:
        """Lists say themselves how long they are."""


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """A matter of the API."""

    ARGUMENTS_PARSER = _Parser()

    def __init__(self, name: str, description: str) -> None:
        super().__init__(name, __name__, description=description)
        self._prepare_doc_cbks.append(self._prepare_own_doc)

    # routes

    def get(self, rule: str) -> Decorator[Any]:
        return self._operation(rule, "GET")

    def post(self, rule: str) -> Decorator[Any]:
        return self._operation(rule, "POST")

    def put(self, rule: str) -> Decorator[Any]:
        return self._operation(rule, "PUT")

    def patch(self, rule: str) -> Decorator[Any]:
        return self._operation(rule, "PATCH")

    def delete(self, rule: str) -> Decorator[Any]:
        return self._operation(rule, "DELETE")

    def _operation(self, rule: str, method: str) -> Decorator[Any]:
        def decorate(view: View) -> View:
            documented: View = _remember(view, operation=f"{self.name}_{view.__name__}")
            parameters = [_PATH[name] for name in _IN_PATH.findall(rule)]
            self.add_url_rule(
                rule, None, documented, methods=[method], parameters=parameters, merge_slashes=False
            )
            return documented

        return decorate

    # what an operation takes and gives

    def arguments(self, schema: type[ma.Schema], location: str = "json", **more: Any) -> Decorator[Any]:
        """What comes with the request: the view's first argument."""
        found: Decorator[Any] = super().arguments(schema, location=location, **more)
        return found

    def response(
        self, status_code: int, schema: type[ma.Schema] | ma.Schema | None = None, **more: Any
    ) -> Decorator[Any]:
        """What a view returns goes out like this, unless it is a Response already."""
        found: Decorator[Any] = super().response(status_code, schema, **more)
        return found

    @staticmethod
    def needs(scope: str) -> Decorator[Any]:
        """As `auth.needs`, documented."""

        def decorate(view: View) -> View:
            return auth.needs(scope)(_remember(view, scope=scope))

        return decorate

    @staticmethod
    def refuses(**why: str) -> Decorator[Any]:
        """Documents errors besides those that every operation has: `refuses(e404="there is no such user")`."""

        def decorate(view: View) -> View:
            return _remember(view, refuses={int(name[1:]): text for name, text in why.items()})

        return decorate

    @staticmethod
    def matches(must: bool = False) -> Decorator[Any]:
        """Documents that the view looks at If-Match."""
        return lambda view: _remember(view, if_match="required" if must else "optional")

    def changes(self, status_code: int = 200, must_match: bool = False, **refuses: str) -> Decorator[Any]:
        """A view that changes the configuration: it gets `etag`, what it is based on (None: on whatever is there) and
        returns an Outcome. With `must_match` it is refused without one."""

        def decorate(view: View) -> View:
            @functools.wraps(view)
            def changing(*args: Any, **kwargs: Any) -> Any:
                with refusing():
                    outcome: Outcome = view(*args, etag=etag_of_request(must_match), **kwargs)
                return _answer(outcome, status_code)

            described: Decorator[Any] = self.response(status_code, OutcomeSchema, headers=etag_header())
            documented: View = _remember(
                described(changing),
                if_match="required" if must_match else "optional",
                refuses={
                    409: "This GT was started without a file, or what runs refused the change: then it was taken back.",
                    412: "The file has been changed since; `etag` stands for it as it is now.",
                    422: "The configuration would not be valid: `message` says where.",
                    **({428: "If-Match is missing."} if must_match else {}),
                    **{int(name[1:]): text for name, text in refuses.items()},
                },
            )
            return documented

        return decorate

    # the document

    def _prepare_own_doc(
        self, doc: dict[str, Any], doc_info: Mapping[str, Any], *, app: Flask, method: str, **more: Any
    ) -> dict[str, Any]:
        """What no decorator needs to say: who may, and what every operation can answer besides."""
        own = doc_info.get(_OWN, {})
        is_safe = method.upper() in _SAFE
        scope = own.get("scope") or ("read" if is_safe else auth.ACCOUNT)
        session: dict[str, list[str]] = {"session": []} if is_safe else {"session": [], "csrf": []}
        doc["security"] = [session] if scope == auth.ACCOUNT else [{"token": [scope]}, session]
        doc["operationId"] = own["operation"]
        if "if_match" in own:
            parameter = {**_IF_MATCH, "required": own["if_match"] == "required"}
            doc.setdefault("parameters", []).append(parameter)
        refuses = {
            400: "The request names another host than this console's.",
            401: "Nobody is logged in, and no valid token was sent.",
            403: f'The token has no scope "{scope}".',
        }
        if not is_safe:
            refuses[400] = "The body is not JSON, or a browser sent no CSRF token, or it names another host."
            refuses[403] = (
                f'The token has no scope "{scope}", or the request comes from a page of another site.'
            )
            refuses[413] = "The body is too large."
        if "requestBody" in doc:
            refuses[415] = "The body is not declared as JSON."
        if 422 in doc.get("responses", {}):
            refuses[422] = "Some of what was sent cannot be used: `errors` says what, by field."
        refuses[503] = (
            "The relay does not answer, or the console's database cannot be used: `message` says more."
        )
        refuses |= own.get("refuses", {})
        responses = doc.setdefault("responses", {})
        for code, text in sorted(refuses.items()):
            responses[code] = {
                "description": text,
                "content": {"application/json": {"schema": ErrorSchema, "example": _example(code, text)}},
            }
        return doc


def _answer(outcome: Outcome, status_code: int) -> Response:
    """What came of a change, as JSON. Raises Refused when the running GT refused it, and it was taken back."""
    result = settle(outcome)
    if result.state == "refused":
        text = "the running GT refused it, and the file is again as it was"
        raise Refused(409, f"{text}: {result.problem}", etag=result.etag)
    saved = outcome.saved
    body: dict[str, Any] = {
        "etag": result.etag,
        "changed": saved is not None and saved.before != saved.after.text,
        "lines": list(result.lines),
        "problem": result.problem,
    }
    if outcome.secret:
        body["secret"] = outcome.secret
    response = jsonify(body)
    response.status_code = status_code
    response.set_etag(result.etag)
    return response


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Around what changes the file, or tries how that would be: why it can't be, as a Refused."""
    if console().store is None:
        raise Refused(409, "this GT was started without a file: start it with -c FILE to save changes")
    try:
        yield
    except Conflict as conflict:
        message = "the file has been changed since: read it again"
        raise Refused(412, message, etag=conflict.current.etag) from None
    except ConfigError as error:
        raise Refused(422, str(error)) from None


def etag_of_request(is_required: bool) -> str | None:
    """Raises Refused when there has to be one."""
    wanted = request.if_match
    if wanted.star_tag:
        return None
    tags: Sequence[str] = [*wanted.as_set(include_weak=True)]
    if tags:
        return tags[0]
    if is_required:
        raise Refused(
            428, "send the ETag of what you have read as If-Match, so that nobody's changes are lost"
        )
    return None


def _remember(view: View, **more: Any) -> View:
    """Put it where the document is made from."""
    documentation = deepcopy(getattr(view, "_apidoc", {}))
    own = documentation.setdefault(_OWN, {})
    for name, value in more.items():
        own[name] = {**value, **own.get(name, {})} if isinstance(value, dict) else value
    view._apidoc = documentation  # type: ignore[attr-defined]
    return view


def _example(code: int, text: str) -> dict[str, Any]:
    return {
        "code": code,
        "status": HTTPStatus(code).phrase,
        "message": text.partition(":")[0].rstrip(".").lower(),
    }
