"""The shapes of what /api/v1 takes and gives: options come from the option table, the rest is here or beside its views.

What is taken is strict: a key that nobody knows is an error. What is given may get more keys in later versions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from gtapp.config.schema import Option
from gtapp.config.values import BOOLEAN, DURATION, FRACTION, PROTOCOL, SIZE, SPEED, WORKERS

MAX_TEXT = 10_000  # characters of one value
MAX_ITEMS = 1000  # of a list
MAX_NAME = 400  # characters of a name that something is looked for by; an id has 200 bytes at most

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NUMBER_OR_TEXT = (SIZE, SPEED, WORKERS)  # 1048576 or 1MiB, 4 or auto
_KEPT = (SIZE, SPEED, DURATION)  # 90s stays 90s, 500KiB stays 500KiB: people know them again in the file


class Taken(ma.Schema):
    """What comes in: nothing but what is listed."""

    class Meta:
        unknown = ma.RAISE


class Given(ma.Schema):
    """What goes out: what is listed, and perhaps more."""

    class Meta:
        unknown = ma.INCLUDE


def text(description: str = "", *, most: int = MAX_NAME, least: int = 0, **more: Any) -> fields.String:
    """A string of one line that people write."""
    rules: list[Any] = [validate.Length(min=least, max=most), _printable]
    more.setdefault("metadata", {})["description"] = description
    return fields.String(validate=rules, **more)


def number(description: str, lowest: int, highest: int, **more: Any) -> fields.Integer:
    """A whole number."""
    strict = bool(more.pop("strict", False))
    more.setdefault("metadata", {})["description"] = description
    return fields.Integer(strict=strict, validate=validate.Range(lowest, highest), **more)


def one_of(words: Iterable[str], description: str = "", **more: Any) -> fields.String:
    """One of a few words."""
    more.setdefault("metadata", {})["description"] = description
    return fields.String(validate=validate.OneOf(list(words)), **more)


def told(kind: type[fields.Field[Any]], description: str, **more: Any) -> Any:
    """A field of what goes out, which is always there unless `required` is False."""
    more.setdefault("required", True)
    more.setdefault("metadata", {})["description"] = description
    return kind(**more)


def _printable(value: str) -> None:
    if _UNPRINTABLE.search(value):
        raise ma.ValidationError("Must not have control characters.")


class OptionField(fields.Field[Any]):
    """The value of an option, in YAML form as `Option.show` gives it; anything that reads the same is taken. null
    removes the key from the file."""

    def __init__(self, entry: Option) -> None:
        self.entry = entry
        super().__init__(allow_none=True, metadata=json_schema(entry))

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not self.entry.many:
            return self._one(value)
        if not isinstance(value, list):
            raise ma.ValidationError("Must be a list.")
        if len(value) > MAX_ITEMS:
            raise ma.ValidationError(f"Must have at most {MAX_ITEMS} items.")
        return [self._one(each) for each in value]

    def _one(self, value: Any) -> Any:
        kind = self.entry.kind
        text = _text_of(value)
        if text is None or type(value) not in _python_types(self.entry) or len(text) > MAX_TEXT:
            raise ma.ValidationError(f"Must be {kind.allowed}.")
        try:
            parsed = kind.parse(text)
        except ValueError:
            raise ma.ValidationError(f"Must be {kind.allowed}.") from None
        if parsed is None:  # an empty address is none
            return None
        return text if kind in _KEPT and not text.isdigit() else kind.show(parsed)


def options_schema(
    name: str, table: Mapping[str, Option], keys: Iterable[str] | None = None
) -> type[ma.Schema]:
    """A schema with the options `keys` of a table, or all that are available."""
    chosen = keys if keys is not None else [key for key, entry in table.items() if entry.available]
    return Taken.from_dict({key: OptionField(table[key]) for key in chosen}, name=name)


def json_schema(entry: Option) -> dict[str, Any]:
    """An option's value as JSON Schema: its type, limits and what it is for."""
    one = _json_schema_of_one(entry)
    shown: dict[str, Any] = {"type": "array", "items": one, "maxItems": MAX_ITEMS} if entry.many else one
    if "enum" in shown:
        shown["enum"] = [*shown["enum"], None]
    shown["description"] = f"{entry.en[:1].upper()}{entry.en[1:]}. Has to be {entry.kind.allowed}."
    if entry.secret:
        shown["writeOnly"] = True
    elif entry.default not in (None, "", ()):
        shown["default"] = entry.show(entry.default)
    return shown


def _json_schema_of_one(entry: Option) -> dict[str, Any]:
    kind = entry.kind
    if kind is BOOLEAN:
        return {"type": "boolean"}
    if kind is FRACTION:
        return {"type": "number", "minimum": 0, "maximum": 1}
    if kind is PROTOCOL:
        return {"type": "integer", "enum": [1, 3]}
    if kind.bounds and kind.show is int:
        return {"type": "integer", "minimum": kind.bounds[0], "maximum": kind.bounds[1]}
    if kind in _NUMBER_OR_TEXT:
        return {"type": ["integer", "string"], "minimum": 0, "maxLength": MAX_TEXT}
    if kind.choices:
        return {"type": "string", "enum": list(kind.choices)}
    return {"type": "string", "maxLength": MAX_TEXT}


def _python_types(entry: Option) -> tuple[type, ...]:
    kind = entry.kind
    if kind is BOOLEAN:
        return (bool,)
    if kind in _NUMBER_OR_TEXT:
        return (int, float, str)
    if kind in (FRACTION, PROTOCOL) or (kind.bounds and kind.show is int):
        return (int, float)
    return (str,)


def _text_of(value: Any) -> str | None:
    """A JSON value as it would be written in the file; None for what can't be written in one word. 5.0 is 5 in JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else f"{value:.12f}".rstrip("0")
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) else None


class ErrorSchema(Given):
    """What all errors look like."""

    code = told(fields.Integer, "The status of HTTP.")
    status = told(fields.String, "Its name.")
    message = told(fields.String, "What is wrong and what to do, for people.")
    errors = fields.Dict(
        keys=fields.String(),
        metadata={
            "description": "What is wrong with each field that was sent: texts, or by place in a list."
        },
    )
    etag = fields.String(
        metadata={"description": "Where the file has been changed: stands for it as it is now."}
    )


class OutcomeSchema(Given):
    """What came of a change of the configuration."""

    etag = told(fields.String, "Stands for the file as it is now.")
    changed = told(fields.Boolean, "Whether the file is another one now.")
    lines = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "What the running GT told when it took it over."},
    )
    problem = told(
        fields.String,
        'Why the running GT did not take it over; "" when it did. The file is saved all the same.',
    )
    secret = fields.String(metadata={"description": "A new secret, shown this once."})


class TextSchema(Given):
    """What was done, in words."""

    text = told(fields.String, "What was done.")


class PageQuery(Taken):
    """A part of a long list."""

    offset = number("How many to skip.", 0, 1_000_000, load_default=0)
    limit = number("How many at most.", 1, 1000, load_default=100)


def etag_header() -> dict[str, Any]:
    """Documents what an answer has of the configuration file that it was made from."""
    text = "Stands for the file as it was: to be sent back as If-Match with a change."
    return {"ETag": {"description": text, "schema": {"type": "string"}}}
