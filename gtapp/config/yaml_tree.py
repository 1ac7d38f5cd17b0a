"""A YAML text as a tree that knows where each part of it stands, aliases included; used by `yaml_change`.

`yaml_file` reads values and forgets how they were written; here it is about the writing. Scalars stay text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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

    @property
    def is_block(self) -> bool:
        """A collection of the form that lives by its indentation."""
        return self.kind in ("list", "mapping") and not self.flow

    def entry(self, key: str) -> tuple[Node, Node] | None:
        """The entry of this mapping that is written in it: its key and value."""
        for each in self.entries:
            if each[0].value == key and not is_merge(each[0]):
                return each
        return None

    def merged(self, key: str) -> Node | None:
        """What `key` has by a merge (`<<: *other`) alone."""
        for name, value in self.entries:
            if not is_merge(name):
                continue
            for source in value.items if value.kind == "list" else [value]:
                source = source.resolved
                found = source.entry(key)
                inherited = found[1] if found else source.merged(key)
                if inherited is not None:
                    return inherited
        return None

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


def parse(text: str, name: str) -> Node | None:
    """The tree of a text; None where there is nothing but comments. `name` begins the messages.

    Raises ConfigError on what the readers of configurations refuse, and on a key that is there twice.
    """
    if all(not line or line.startswith(("#", "---")) for line in map(str.strip, text.splitlines())):
        return None
    problems = Problems()
    file = YamlFile(Path(name), problems, Files({str(Path(name)): text}))  # has its limits of depth and size
    file.mapping(file.root, "the file")
    problems.check()
    events = (event for event in yaml.parse(text, Loader=_Loader) if isinstance(event, _OF_NODES))
    return _Composer(text, name, events).node()


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
            self._check_key(node, first)
            node.entries.append((first, value))
            last = value.end
        node.end = self._end if node.flow else last

    def _check_key(self, node: Node, key: Node) -> None:
        line = self._text.count("\n", 0, key.start) + 1
        if key.kind != "scalar":
            raise ConfigError(f"{self._name}:{line}: a key has to be a word")
        if node.entry(key.value) and not is_merge(key):
            raise ConfigError(f"{self._name}:{line}: {quoted(key.value)} is there twice")


def _style(event: yaml.ScalarEvent) -> str | None:
    return event.style if event.style in ("'", '"', "|", ">") else None


def plain(node: Node | None) -> Any:
    """What a node says: dicts, lists, texts and None, with aliases and merges followed. `Plain` are texts without
    quotes."""
    if node is None:
        return None
    node = node.resolved
    if node.kind == "list":
        return [plain(item) for item in node.items]
    if node.kind == "mapping":
        said: dict[str, Any] = {}
        for key, value in node.entries:
            if is_merge(key):
                for source in value.items if value.kind == "list" else [value]:
                    inherited = plain(source)
                    if isinstance(inherited, dict):
                        said = inherited | said
        own = {key.value: plain(value) for key, value in node.entries if not is_merge(key)}
        return said | own
    if node.is_null:
        return None
    return Plain(node.value) if node.style is None else node.value
