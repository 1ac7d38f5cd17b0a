"""Changes one value in a YAML text and leaves every other byte of it alone; used by `yaml_edit`.

A change names its place by a path such as ("users", "id1", "secret"). It is made in the text itself, at the place
that `yaml_tree` tells, and then read again: what comes out says what was asked for and nothing else, or the change
is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gtapp.config.yaml_place import Again, Place
from gtapp.config.yaml_tree import parse, plain
from gtapp.config.yaml_write import flow
from gtapp.errors import ConfigError

T = TypeVar("T")

Path = Sequence[str | int]
_TRIES = 50  # at changing one value: a path of five keys has fewer aliases on its way


def put(text: str, path: Path, value: Any, name: str) -> str:
    """The text with `value` at `path`: there it replaces what was, and mappings on the way are made.

    Raises ConfigError where that cannot be written; `name` begins the message.
    """
    return _changed(text, name, path, lambda said: _placed(said, path, value), lambda at: at.put(path, value))


def remove(text: str, path: Path, name: str, comments: bool = False) -> str:
    """The text without what is at `path`; with `comments`, without those right above it, too."""
    return _changed(text, name, path, lambda said: _dropped(said, path), lambda at: at.remove(path, comments))


def append(text: str, path: Path, value: Any, name: str) -> str:
    """The text with one more item in the list at `path`."""

    def expected(said: Any) -> Any:
        return _placed(said, path, [*(_found(said, path) or []), value])

    return _changed(text, name, path, expected, lambda at: at.append(path, value))


def rename(text: str, path: Path, key: str, name: str) -> str:
    """The text with another key at `path`."""

    def expected(said: Any) -> Any:
        value = _found(said, path)
        return _placed(_dropped(said, path), (*path[:-1], key), value)

    return _changed(text, name, path, expected, lambda at: at.rename(path, key))


def _changed(
    text: str, name: str, path: Path, expect: Callable[[Any], Any], change: Callable[[Place], str]
) -> str:
    expected = _comparable(expect(plain(parse(text, name))))
    for unshare in (False, True):
        try:
            changed = _repeated(_unshared(text, path, name) if unshare else text, name, change)
            if _comparable(plain(parse(changed, name))) == expected:
                return changed
        except ConfigError:
            if unshare:
                raise
    where = " → ".join(map(str, path))
    raise ConfigError(f"{name}: {where}: cannot be changed in the way it is written, edit the file itself")


def _repeated(text: str, name: str, change: Callable[[Place], T]) -> T:
    for _ in range(_TRIES):
        try:
            return change(Place(text, name))
        except Again as again:
            text = again.text
    raise ConfigError(f"{name}: refers to itself too often to be changed, edit the file itself")


def _unshared(text: str, path: Path, name: str) -> str:
    """The text with its own copy for everything that refers to what is at `path`, or around it."""
    nodes, text = _repeated(text, name, lambda at: (at.reach(path), at.text))
    related = {id(node) for node in (*nodes, *nodes[-1].walk())}
    for node in reversed(list(nodes[0].walk())):
        if node.kind == "alias" and id(node.target) in related:
            text = text[: node.start] + flow(plain(node)) + text[node.end :]
    return text


# what a change means


def _found(said: Any, path: Path) -> Any:
    for key in path:
        if isinstance(key, int) != isinstance(said, list) or said is None:
            return None
        said = said[key] if isinstance(key, int) else said.get(key)
    return said


def _placed(said: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    key, *rest = path
    if isinstance(key, int):
        said[key] = _placed(said[key], rest, value)
        return said
    said = said if isinstance(said, dict) else {}
    return said | {key: _placed(said.get(key), rest, value)}


def _dropped(said: Any, path: Path) -> Any:
    key, *rest = path
    if isinstance(key, int) or (isinstance(said, dict) and key in said):
        if rest:
            said[key] = _dropped(said[key], rest)
        else:
            del said[key]
    return said


def _comparable(said: Any) -> Any:
    """Values as the text they are written in. A mapping with nothing in it is as good as none."""
    if isinstance(said, dict):
        entries = {key: _comparable(value) for key, value in said.items()}
        return {key: value for key, value in entries.items() if value is not None} or None
    if isinstance(said, (list, tuple)):
        return [_comparable(item) for item in said]
    if isinstance(said, bool):
        return "true" if said else "false"
    return None if said is None else str(said)
