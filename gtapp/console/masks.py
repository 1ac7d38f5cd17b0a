"""A configuration file's text without its secrets, for pages that show lines of it. Nothing else is touched."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import yaml

from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.show import MASK
from gtapp.console.merge import Line, compare

_SECRETS = {
    key for table in (*OPTIONS.values(), SERVICE, USER) for key, entry in table.items() if entry.secret
}
_KEY = rf"""["']?(?:{"|".join(sorted(_SECRETS))})["']?\s*:[ \t]*"""
_IN_COMMENT = re.compile(rf"(#.*?\b{_KEY})(\S.*)$", re.MULTILINE)
_ANYWHERE = re.compile(rf"(\b{_KEY})(.*)$")
_TAG = re.compile("\u2060[0-9a-f]{64}")  # after a word joiner, which nobody writes before 64 such digits
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_secret(key: str) -> bool:
    """Whether the value of an option, or of a user's or a service's key, is not to be shown."""
    return key in _SECRETS


def masked(text: str) -> str:
    """The text with a mask in the place of each secret. Where it is not valid YAML, what looks like one is masked."""
    return _TAG.sub("", _tagged(text))


def compare_masked(before: str, after: str) -> list[Line]:
    """The difference of two texts, masked; a line whose secret is another one is different all the same."""
    lines = compare(_tagged(before), _tagged(after))
    return [replace(line, text=_TAG.sub("", line.text)) for line in lines]


def _tagged(text: str) -> str:
    """The text with masks; behind each is a tag that stands for the secret."""
    try:
        spans = _spans(text)
    except (yaml.YAMLError, RecursionError):
        return "\n".join(_tagged_lines(text.split("\n")))
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], _mask(text[start:end])]
        at = end
    return _IN_COMMENT.sub(_mask_found, "".join([*parts, text[at:]]))


def _tagged_lines(lines: Iterable[str]) -> Iterator[str]:
    """Of what is no YAML: masked is the rest of each line that names a secret, and what stands further in below it."""
    within: int | None = None  # how far in the line is that has named one
    for line in lines:
        start = line.lstrip()
        indent = len(line) - len(start)
        if within is not None and (indent > within or not start):
            yield line[:indent] + _mask(start) if start else line
            continue
        found = _ANYWHERE.search(line)
        within = indent if found else None
        yield line[: found.start()] + _mask_found(found) if found and found[2] else line


def _mask(secret: str) -> str:
    return f"{MASK}\u2060{hashlib.sha256(secret.encode(errors='replace')).hexdigest()}"


def _mask_found(found: re.Match[str]) -> str:
    return found[1] + (found[2] if found[2].startswith(f"{MASK}\u2060") else _mask(found[2]))


def _spans(text: str) -> list[tuple[int, int]]:
    """Where the values of secrets stand, in order. Raises yaml.YAMLError."""
    spans: set[tuple[int, int]] = set()
    seen: set[tuple[int, bool]] = set()  # an alias is the node that it stands for
    root = yaml.compose(text, Loader=_Loader)
    rest: list[tuple[yaml.Node, bool]] = [(root, False)] if root else []
    while rest:
        node, secret = rest.pop()
        if (id(node), secret) in seen:
            continue
        seen.add((id(node), secret))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                rest.append((value, secret or getattr(key, "value", None) in _SECRETS))
        elif isinstance(node, yaml.SequenceNode):
            rest += ((each, secret) for each in node.value)
        elif secret:
            start = node.start_mark.index
            written = text[start : node.end_mark.index].rstrip()  # a block ends with its line
            if written:
                spans.add((start, start + len(written)))
    return sorted(spans)
