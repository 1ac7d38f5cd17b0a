"""Values as YAML text, in one line or in lines; used by `yaml_change`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from gtapp.errors import ConfigError

LINE_CHARACTERS = 80  # a list that would be longer gets a line for each item

# What may stand without quotes; more may, but nobody has to remember what.
_PLAIN = re.compile(r"[\w/.:^$+~(][\w/.:^$+~()=;@%&*!?<>|\\-]*")
_PLAIN_IN_FLOW = re.compile(r"[\w/.^$+(][\w/.^$+()=;@-]*")
_OF_YAML_1_2 = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+|[yYnN]"
)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


class Plain(str):
    """A text without quotes, also where it looks like a number: an address such as 8080."""


def scalar(value: Any, flow: bool = False, style: str | None = None) -> str:
    """One value. A text that YAML would take for a number, a date or a boolean is quoted; `style` is the quote
    that stood there before. Raises ConfigError on what no file can hold."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    if style not in ("'", '"') and _may_be_plain(value, flow):
        return value
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ConfigError("a value holds characters that are no text: enter it again")
    readable = value.isprintable()
    if readable and "'" not in value and (style == "'" or "\\" in value or '"' in value):
        return f"'{value}'"
    return '"' + "".join(map(_escaped, value)) + '"'


def flow(value: Any) -> str:
    """A value in one line: `{range: 1-2}`, `[a, b]`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key, True)}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value, flow=True)


def entry(key: str, value: Any, indent: int, step: int, offset: int) -> list[str]:
    """The lines of `key: value` in a mapping that is indented by `indent`. `step` and `offset` are how far the
    mappings and lists within are indented."""
    start = f"{' ' * indent}{scalar(key)}:"
    if is_nested(value):
        return [start, *nested(value, indent, step, offset)]
    return [f"{start} {inline(value)}"]


def inline(value: Any, style: str | None = None) -> str:
    """A value that stands behind its key."""
    return flow(value) if isinstance(value, (Mapping, list, tuple)) else scalar(value, style=style)


def is_nested(value: Any) -> bool:
    """Whether a value gets lines of its own."""
    if isinstance(value, Mapping):
        return bool(value)
    if not isinstance(value, (list, tuple)):
        return False
    return any(isinstance(each, Mapping) for each in value) or len(flow(value)) > LINE_CHARACTERS


def nested(value: Any, indent: int, step: int, offset: int) -> list[str]:
    """The lines below a key that is indented by `indent`."""
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, each in value.items():
            lines += entry(key, each, indent + step, step, offset)
        return lines
    for each in value:
        lines += item(each, indent + offset, step, offset)
    return lines


def item(value: Any, indent: int, step: int, offset: int) -> list[str]:
    """The lines of an item of a list whose dashes are indented by `indent`."""
    dash = " " * indent + "- "
    if not isinstance(value, Mapping) or not value:
        return [dash + inline(value)]
    lines = [line for key, each in value.items() for line in entry(key, each, indent + 2, step, offset)]
    return [dash + lines[0][indent + 2 :], *lines[1:]]


def _may_be_plain(text: str, in_flow: bool) -> bool:
    if not (_PLAIN_IN_FLOW if in_flow else _PLAIN).fullmatch(text) or text.endswith(":"):
        return False
    return isinstance(text, Plain) or not _means_something(text)


def _means_something(text: str) -> bool:
    """Whether YAML 1.1 or 1.2 reads anything else than a text in it."""
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers.get(text[0], [])
    return bool(_OF_YAML_1_2.fullmatch(text)) or any(pattern.match(text) for _, pattern in resolvers)


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
