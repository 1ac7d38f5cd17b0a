"""The options: what there are, what each is set to and where, and how to set them. Made by role: a server has others
than a client."""

from __future__ import annotations

import secrets as random
from collections.abc import Mapping
from typing import Any

from flask_login import current_user
from marshmallow import fields

from gtapp.config.options import OPTIONS
from gtapp.config.schema import Option
from gtapp.config.store import Document
from gtapp.console import changes, parts, passwords
from gtapp.console.api.operations import Blueprint, Refused, etag_of_request, refusing
from gtapp.console.api.schemas import Given, etag_header, json_schema, one_of, options_schema, told
from gtapp.console.changes import Outcome, store_of
from gtapp.console.context import console
from gtapp.console.masks import compare_masked

_NOT_HERE = {"server": ("id", "secret")}  # pairs of users, from the command line
_ANY = {"description": "In the form that it has in the file."}


class SettingSchema(Given):
    """An option."""

    key = told(fields.String, "Its name in the file.")
    section = told(fields.String, "Heading that it belongs to.")
    section_zh = told(fields.String, "The same in Chinese.")
    help = told(fields.String, "What it is for.")
    help_zh = told(fields.String, "The same in Chinese.")
    applies = one_of(
        ("live", "listeners", "restart"),
        "What a change takes: used at once; opens or closes addresses; new workers.",
        required=True,
    )
    unit = told(fields.String, 'bytes, bytes/s, s; "" for none.')
    allowed = told(fields.String, "What it has to be, in words.")
    schema = told(fields.Dict, "The same as JSON Schema.")
    secret = told(fields.Boolean, "Whether its value is never given.")
    is_set = told(fields.Boolean, "Whether it is set to something.")
    default = fields.Raw(required=True, allow_none=True, metadata=_ANY)
    value = fields.Raw(
        required=True,
        allow_none=True,
        metadata={"description": "What holds now; null for nothing, and for secrets."},
    )
    in_file = fields.Raw(
        required=True,
        allow_none=True,
        metadata={"description": "What the file says; null for nothing, and for secrets."},
    )
    source = told(
        fields.String, 'What sets it: "default", "file", or the flag or variable that wins over the file.'
    )


class SettingsSchema(Given):
    """All options."""

    settings = fields.List(fields.Nested(SettingSchema), required=True)


class DiffLineSchema(Given):
    """A line of a difference."""

    kind = one_of(
        (" ", "-", "+", "…"),
        "A line that stays, goes or comes; … for lines that stay and are left out.",
        required=True,
    )
    text = told(fields.String, "The line, secrets masked.")
    count = told(fields.Integer, "How many lines are left out.")


class ProblemSchema(Given):
    """Something wrong with a configuration."""

    line = fields.Integer(required=True, allow_none=True, metadata={"description": "Where in the file."})
    key = fields.String(required=True, allow_none=True, metadata={"description": "Which option it is about."})
    message = told(fields.String, "What it is, and what to do.")


class PreviewSchema(Given):
    """What a change would do to the file; nothing is saved."""

    lines = fields.List(fields.Nested(DiffLineSchema), required=True)
    problems = fields.List(fields.Nested(ProblemSchema), required=True)


def settings(role: str) -> Blueprint:
    """The blueprint for the options of a role."""
    blueprint = Blueprint("settings", "The options of the configuration file.")
    table = {
        key: entry
        for key, entry in OPTIONS[role].items()
        if entry.available and key not in _NOT_HERE.get(role, ())
    }
    options: Any = options_schema("SettingChanges", table)
    example = {"logLevel": "debug", "webAddr": None}

    @blueprint.get("/settings")
    @blueprint.needs("read")
    @blueprint.response(200, SettingsSchema, headers=etag_header())
    def listed() -> Any:
        """Every option: help, default, and what it is set to."""
        config, fixed = console().usable_config(), parts.fixed()
        store = console().store
        now = store.read() if store else None
        document = store_of().document(now.text) if now else None
        shown = []
        for entry in table.values():
            source = fixed[entry.key].label if entry.key in fixed else ""
            said = document.get_option(entry.key) if document else None
            shown.append(_setting(entry, getattr(config.options, entry.name), said, source))
        return {"settings": shown}, {"ETag": f'"{now.etag}"'} if now else {}

    @blueprint.patch("/settings")
    @blueprint.needs("settings")
    @blueprint.arguments(options, example=example)
    @blueprint.changes()
    def change(values: Mapping[str, Any], etag: str | None) -> Outcome:
        """Set what is sent, remove what is null, leave the rest."""
        return changes.save_options(_hashed(values), etag)

    @blueprint.post("/settings/preview")
    @blueprint.needs("settings")
    @blueprint.arguments(options, example=example)
    @blueprint.response(200, PreviewSchema)
    @blueprint.matches()
    @blueprint.refuses(e409="This GT was started without a file.", e412="The file has been changed since.")
    def preview(values: Mapping[str, Any]) -> dict[str, Any]:
        """What the same would change in the file, and what is wrong with it."""
        given = _hashed(values, for_show=True)

        def change(document: Document) -> None:
            for key, value in given.items():
                document.set_option(key, value)

        with refusing():
            before, after, problems = store_of().preview(change, etag_of_request(False))
        return {"lines": compare_masked(before, after), "problems": problems}

    return blueprint


def _setting(entry: Option, value: Any, said: Any, fixed_by: str) -> dict[str, Any]:
    nothing = value in (None, "", ())
    shown = None if nothing else entry.show(value)
    source = fixed_by or ("file" if said is not None else "default")
    default = None if entry.default in (None, "", ()) else entry.show(entry.default)
    return {
        "key": entry.key,
        "section": entry.section.title(False),
        "section_zh": entry.section.title(True),
        "help": entry.en,
        "help_zh": entry.zh,
        "applies": entry.applies,
        "unit": {"BYTES": "bytes", "BYTES/S": "bytes/s", "DURATION": "s"}.get(entry.kind.metavar, ""),
        "allowed": entry.kind.allowed,
        "schema": json_schema(entry),
        "secret": entry.secret,
        "is_set": not nothing,
        "default": default,
        "value": None if entry.secret else shown,
        "in_file": None if entry.secret else said,
        "source": source,
    }


def _hashed(values: Mapping[str, Any], for_show: bool = False) -> dict[str, Any]:
    """No password stands in the file as it is. What is only to be shown need not take the time of a hash.

    Raises Refused, and Forbidden for what a token may not change.
    """
    changes.check_options(values)
    found = dict(values)
    password = found.get("password")
    if password and not passwords.is_hash(password):
        if problem := passwords.problem_of(password, current_user.name):
            raise Refused.because(password=problem)
        found["password"] = random.token_hex(8) if for_show else passwords.hash_password(password)
    return found
