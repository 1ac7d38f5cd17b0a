"""A YAML text as a tree that knows where each part of it stands, aliases included; used by `yaml_change`.

`yaml_file` reads values and forgets how they were written; here it is about the writing. Scalars stay text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from gtapp.config.files import Files
from gtapp.config.problems import Problems, quoted
from gtapp.config.yaml_file import YamlFile
from gtapp.config.yaml_write import Plain
from gtapp.errors import ConfigError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = ("", "~", "null", "Null", "NULL")
_NULL_TAG = "tag:yaml.org,2002:null"
_MERGE = "<<"


@dataclass(eq=False, slots=True)
class Node:
    """One value, key or alias. It is written at `start` to `end` of the text, with its anchor and tag.

    `flow`: a collection in brackets. `value`: the text of a scalar, or the name that an alias refers to.
    """

    kind: Literal["scalar", "list", "mapping", "alias"]
    start: int
    end: int
    value: str = ""
    style: str | None = None
    is_null: bool = False
    flow: bool = False
    anchor: str | None = None
    target: Node | None = None  # of an alias
    items: list[Node] = field(default_factory=list)
    entries: list[tuple[Node, Node]] = field(default_factory=list)
    own: dict[str, tuple[Node, Node]] = field(default_factory=dict)  # the entries without merges, by key

    @property
    def is_block(self) -> bool:
        """A collection of the form that lives by its indentation."""
        return self.kind in ("list", "mapping") and not self.flow

    def entry(self, key: str) -> tuple[Node, Node] | None:
        """The entry of this mapping that is written in it: its key and value."""
        return self.own.get(key)

    def merged(self, key: str) -> Node | None:
        """What `key` has by a merge (`<<: *other`) alone."""
        for source in self.sources():
            found = source.resolved.entry(key)
            inherited = found[1] if found else source.resolved.merged(key)
            if inherited is not None:
                return inherited
        return None

    def sources(self) -> Iterator[Node]:
        """What is merged into this mapping, what counts more first."""
        for key, value in self.entries:
            if is_merge(key):
                yield from value.items if value.kind == "list" else [value]

    @property
    def resolved(self) -> Node:
        """The node itself, or what an alias refers to."""
        return self.target or self

    def walk(self) -> Iterator[Node]:
        """This node and all that are written in it; what aliases refer to is not."""
        yield self
        for each in self.items:
            yield from each.walk()
        for key, value in self.entries:
            yield key
            yield from value.walk()


def is_merge(key: Node) -> bool:
    return key.value == _MERGE and key.style is None


def check(text: str, name: str) -> None:
    """Raise ConfigError on a text that the readers of configurations refuse. `name` begins the message."""
    if not _is_empty(text):
        YamlFile(Path(name), Problems(), Files({str(Path(name)): text}))


@lru_cache(maxsize=2)  # a change reads the text before it, which it has just written, and the text after
def parse(text: str, name: str) -> Node | None:
    """The tree of a text; None where there is nothing but comments. The text is one that was checked, and changed.

    Raises ConfigError where it is no YAML, and on a key that is there twice. `name` begins the message.
    """
    if _is_empty(text):
        return None
    events = (event for event in yaml.parse(text, Loader=_Loader) if isinstance(event, _OF_NODES))
    try:
        return _Composer(text, name, events).node()
    except (yaml.YAMLError, KeyError) as error:  # KeyError: an alias of nothing
        raise ConfigError(f"{name}: is not valid YAML: {error}") from None


def _is_empty(text: str) -> bool:
    lines = (line.removeprefix("---").strip() for line in text.removeprefix("\ufeff").splitlines())
    return all(not line or line.startswith("#") for line in lines)


_OF_NODES = (yaml.NodeEvent, yaml.CollectionEndEvent)


class _Composer:
    def __init__(self, text: str, name: str, events: Iterator[Any]) -> None:
        self._text = text
        self._name = name
        self._events = events
        self._anchors: dict[str, Node] = {}

    def node(self) -> Node | None:
        """The next node, or None at the end of a collection."""
        event = next(self._events)
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, yaml.CollectionEndEvent):
            self._end = end
            return None
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            return Node("alias", start, end, name, target=self._anchors[name])
        if isinstance(event, yaml.ScalarEvent):
            end = start + len(self._text[start:end].rstrip())  # a block scalar ends after its line breaks
            node = Node("scalar", start, max(start, end), event.value, _style(event), anchor=event.anchor)
            node.is_null = event.tag == _NULL_TAG or (event.implicit[0] and event.value in _NULLS)
        else:
            kind: Literal["list", "mapping"] = (
                "list" if isinstance(event, yaml.SequenceStartEvent) else "mapping"
            )
            node = Node(kind, start, end, flow=bool(event.flow_style), anchor=event.anchor)
            self._fill(node)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _fill(self, node: Node) -> None:
        last = node.end
        while (first := self.node()) is not None:
            if node.kind == "list":
                node.items.append(first)
                last = first.end
                continue
            value = self.node()
            assert value is not None
            node.entries.append((first, value))
            if not is_merge(first):
                self._check_key(node, first)
                node.own[first.value] = (first, value)
            last = value.end
        node.end = self._end if node.flow else last

    def _check_key(self, node: Node, key: Node) -> None:
        if key.kind == "scalar" and key.value not in node.own:
            return
        problem = "a key has to be a word" if key.kind != "scalar" else f"{quoted(key.value)} is there twice"
        raise ConfigError(f"{self._name}:{self._text.count(chr(10), 0, key.start) + 1}: {problem}")


def _style(event: yaml.ScalarEvent) -> str | None:
    return event.style if event.style in ("'", '"', "|", ">") else None


def line_of(path: Sequence[str | int], text: str, name: str) -> int:
    """The line of what is at a path, or around it."""
    node = parse(text, name)
    for key in path if node else ():
        own = node.resolved.entry(key) if node and isinstance(key, str) else None
        items = node.resolved.items if node else []
        found = own[1] if own else items[key] if isinstance(key, int) and key < len(items) else None
        if found is None:
            break
        node = found
    return text.count("\n", 0, node.start) + 1 if node else 1


def plain(node: Node | None) -> Any:
    """What a node says: dicts, lists, texts and None, with aliases and merges followed. `Plain` are texts without
    quotes."""
    if node is None:
        return None
    node = node.resolved
    if node.kind == "list":
        return [plain(item) for item in node.items]
    if node.kind == "mapping":
        own = {key: plain(value) for key, (_, value) in node.own.items()}
        for source in node.sources() if len(own) < len(node.entries) else ():
            inherited = plain(source)
            if isinstance(inherited, dict):
                own = inherited | own
        return own
    if node.is_null:
        return None
    return Plain(node.value) if node.style is None else node.value
