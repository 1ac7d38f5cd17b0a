"""The configuration file as text, and the versions of it that were saved before. Both have secrets, so that reading
them takes the scope `settings`, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flask import request
from marshmallow import fields

from gtapp.config.files import MAX_FILE_BYTES
from gtapp.config.store import Problem, Version
from gtapp.console import changes
from gtapp.console.api.operations import Blueprint, Refused
from gtapp.console.api.schemas import Given, Taken, etag_header, told
from gtapp.console.api.settings import DiffLineSchema, ProblemSchema
from gtapp.console.changes import Outcome, store_of
from gtapp.console.context import console
from gtapp.console.masks import compare_masked
from gtapp.console.security import MAX_LARGE_BODY
from gtapp.errors import ConfigError

blueprint = Blueprint("config", "The configuration file as text, and its history.")

_NO_FILE = "This GT was started without a file."
_EXAMPLE = {"text": "type: server\noptions:\n  addr: 8080\nusers:\n  alice:\n    secret: …\n"}


class FileSchema(Taken):
    """The text of a file."""

    text = fields.String(required=True, metadata={"description": "YAML.", "maxLength": MAX_FILE_BYTES})


class FileNowSchema(Given):
    """The file as it is."""

    text = told(fields.String, "All of it, secrets as well.")
    etag = told(fields.String, "Stands for it; the header ETag says the same.")


class ProblemsSchema(Given):
    """What is wrong with a text."""

    problems = fields.List(fields.Nested(ProblemSchema), required=True)


class VersionSchema(Given):
    """A version that is kept."""

    id = told(fields.String, "Names it.")
    time = told(fields.Float, "When it was saved, seconds since 1970.")
    who = told(fields.String, 'Who saved it; "by hand" for an editor.')
    what = told(fields.String, "What was changed.")
    etag = told(fields.String, "Stands for it.")


class VersionTextSchema(VersionSchema):
    """A version with its text."""

    text = told(fields.String, "All of it, secrets as well.")


class HistorySchema(Given):
    """The versions, newest first."""

    versions = fields.List(fields.Nested(VersionSchema), required=True)


class DiffSchema(Given):
    """What is different."""

    lines = fields.List(fields.Nested(DiffLineSchema), required=True)


def _allow_large() -> None:
    request.max_content_length = MAX_LARGE_BODY


blueprint.before_request(_allow_large)


@blueprint.get("/config")
@blueprint.needs("settings")
@blueprint.response(200, FileNowSchema, headers=etag_header())
@blueprint.refuses(e409=_NO_FILE)
def text() -> Any:
    """The configuration file."""
    _check_store()
    now = store_of().read()
    changes.check_readable(now.text)
    return {"text": now.text, "etag": now.etag}, {"ETag": f'"{now.etag}"'}


@blueprint.put("/config")
@blueprint.needs("settings")
@blueprint.arguments(FileSchema, example=_EXAMPLE)
@blueprint.changes(must_match=True)
def save(values: Mapping[str, str], etag: str | None) -> Outcome:
    """Put a text in the place of the file: checked first, saved whole, taken over at once."""
    problems = _problems(values["text"])
    if problems:
        errors = {"text": [_line(each) for each in problems]}
        raise Refused(422, "the configuration would not be valid: errors says where", errors)
    return changes.save_text(values["text"], etag)


@blueprint.post("/config/check")
@blueprint.needs("settings")
@blueprint.arguments(FileSchema, example=_EXAMPLE)
@blueprint.response(200, ProblemsSchema)
@blueprint.refuses(e409=_NO_FILE)
def check(values: Mapping[str, str]) -> Any:
    """What would be wrong with a text; nothing is saved."""
    _check_store()
    return {"problems": _problems(values["text"])}


@blueprint.get("/history")
@blueprint.needs("read")
@blueprint.response(200, HistorySchema)
@blueprint.refuses(e409=_NO_FILE)
def history() -> Any:
    """The versions that are kept: the last 20."""
    _check_store()
    return {"versions": store_of().versions()}


@blueprint.get("/history/<version>")
@blueprint.needs("settings")
@blueprint.response(200, VersionTextSchema)
@blueprint.refuses(e404="There is no such version.", e409=_NO_FILE)
def one(version: str) -> Any:
    """A version, with its text."""
    found = _version(version)
    text = _text(found)
    changes.check_readable(text)
    return {**asdict(found), "text": text}


@blueprint.get("/history/<version>/diff")
@blueprint.needs("read")
@blueprint.response(200, DiffSchema)
@blueprint.refuses(e404="There is no such version.", e409=_NO_FILE)
def diff(version: str) -> Any:
    """What restoring a version would change in the file as it is now. Secrets are masked."""
    found = _version(version)
    return {"lines": compare_masked(store_of().read().text, _text(found))}


@blueprint.post("/history/<version>/restore")
@blueprint.needs("settings")
@blueprint.changes(e404="There is no such version.")
def restore(version: str, etag: str | None) -> Outcome:
    """Put a version in the place of the file."""
    _version(version)
    return changes.restore_version(version, etag)


def _check_store() -> None:
    if console().store is None:
        raise Refused(409, "this GT was started without a file: start it with -c FILE to have one")


def _version(id: str) -> Version:
    _check_store()
    found = next((each for each in store_of().versions() if each.id == id), None)
    if found is None:
        raise Refused(404, "there is no such version: only the last 20 are kept")
    return found


def _text(version: Version) -> str:
    try:
        return store_of().version(version.id)
    except ConfigError as error:
        raise Refused(404, str(error)) from None


def _problems(text: str) -> list[Problem]:
    """All that is wrong with a text. Files that it names are read for that: who asks must be allowed to name them."""
    try:
        changes.check_text(text)
    except ConfigError as error:
        return [Problem(None, None, line) for line in str(error).split("\n")]
    return store_of().check(text)


def _line(problem: Any) -> str:
    return f"line {problem.line}: {problem.message}" if problem.line else problem.message
