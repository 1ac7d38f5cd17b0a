"""Reads a YAML file into nodes that know their line, and guards against files made to hurt; used by `load`.

Scalars stay text, exactly as written (`secret: 0123` is not a number here): the option's kind reads them, as
it reads flags and variables.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from gtapp.config.files import Files
from gtapp.config.problems import Problems, nearest, quoted
from gtapp.errors import ConfigError

MAX_DEPTH = 32  # a configuration needs 5; PyYAML composes by recursion
MAX_NODES = 1_000_000  # with aliases counted as often as they are used; a file of 200,000 users has as many

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"
_NULL = "tag:yaml.org,2002:null"
Entries = dict[str, tuple[yaml.Node, yaml.Node]]  # key node and value node, by key
_SHAPES = {yaml.ScalarNode: "a single value", yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}


class YamlFile:
    """One YAML file. Raises ConfigError when it cannot be read; what is wrong inside goes to `problems`."""

    def __init__(self, path: Path, problems: Problems, files: Files | None = None) -> None:
        self.path = path
        self.problems = problems
        text = (files or Files()).read(path)
        try:
            _check_shape(path, text)
            root = yaml.compose(text, Loader=_Loader)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigError(f"{path}:{line}: is not a text file ({error.reason})") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            raise ConfigError(f"{path}:{line}: is not valid YAML: {reason}") from None
        if root is None or is_null(root):
            raise ConfigError(f"{path}: is empty")
        self.root: yaml.Node = root

    def at(self, node: yaml.Node) -> str:
        """Where `node` stands: `file:line`."""
        return f"{self.path}:{node.start_mark.line + 1}"

    def mapping(self, node: yaml.Node, what: str, known: Collection[str] | None = None) -> Entries:
        """The entries of a mapping. Duplicate keys and, where `known` is given, other keys are problems.

        `what` names the mapping in messages. A null is an empty mapping. Merge keys (`<<`) are followed.
        """
        entries: Entries = {}
        if is_null(node):
            return entries
        if not isinstance(node, yaml.MappingNode):
            self._unexpected(node, what, "a mapping")
            return entries
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._unexpected(key, f"{what}: a key", "a word")
            elif key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif key.value in entries:
                line = entries[key.value][0].start_mark.line + 1
                self.problems.add(
                    f"{self.at(key)}: {what}: {quoted(key.value)} is there twice, see line {line}"
                )
            elif known is not None and key.value not in known:
                hint = nearest(key.value, known)
                self.problems.add(f"{self.at(key)}: {what}: unknown key {quoted(key.value)}{hint}")
            else:
                entries[key.value] = (key, value)
        for source in merged:
            entries = self.mapping(source, what, known) | entries
        return entries

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        """The items of a list; a null is an empty one."""
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if not is_null(node):
            self._unexpected(node, what, "a list")
        return []

    def texts(self, node: yaml.Node, what: str, many: bool = False) -> list[str] | None:
        """The text of a single value or, with `many`, of each in a list. None after noting a problem."""
        nodes = node.value if many and isinstance(node, yaml.SequenceNode) else [node]
        for item in nodes:
            if not isinstance(item, yaml.ScalarNode):
                self._unexpected(item, what, "a single value")
                return None
        return [item.value for item in nodes]

    def _unexpected(self, node: yaml.Node, what: str, allowed: str) -> None:
        self.problems.add(f"{self.at(node)}: {what}: found {_SHAPES[type(node)]}, allowed: {allowed}")


@dataclass(eq=False)
class _Shape:
    """How large a node is, what its aliases stand for included."""

    before: int  # nodes of the file before it
    size: int = 1
    height: int = 1


def _check_shape(path: Path, text: str) -> None:
    """Refuse what is too deep or too large, aliases followed, before anything is built from it."""
    open_nodes: list[_Shape] = []
    anchored: dict[str | None, _Shape] = {}
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = f"{path}:{event.start_mark.line + 1}"  # type: ignore[union-attr]  # the loader sets it
        if isinstance(event, yaml.CollectionEndEvent):
            closed = open_nodes.pop()
            closed.size = total - closed.before
        if isinstance(event, yaml.DocumentStartEvent) and total:
            raise ConfigError(f"{where}: begins a second document, one is allowed")
        if not isinstance(event, yaml.NodeEvent):
            continue
        shape = _Shape(before=total)
        if isinstance(event, yaml.AliasEvent):
            shape = anchored.get(event.anchor, shape)  # composing refuses what is not defined
            if shape in open_nodes:
                raise ConfigError(f"{where}: *{event.anchor} stands inside of what it refers to")
        total += shape.size
        depth = len(open_nodes) + shape.height
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: is nested more than {MAX_DEPTH} levels deep")
        if total > MAX_NODES:
            raise ConfigError(f"{where}: has more than {MAX_NODES:,} values, counted with their aliases")
        for level, ancestor in enumerate(open_nodes):
            ancestor.height = max(ancestor.height, depth - level)
        anchored[event.anchor] = shape
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(shape)


def is_null(node: yaml.Node) -> bool:
    """Whether nothing is written there (or `null`, or `~`)."""
    return node.tag == _NULL
