"""A YAML text and where in it something is to be changed: how a change is written; used by `yaml_change` alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from gtapp.config.yaml_tree import Node, parse, plain
from gtapp.config.yaml_write import entry, flow, inline, is_nested, item, nested, scalar
from gtapp.errors import ConfigError

DEFAULT_STEP = 2  # of indentation, where the file shows none
_SHAPES = {"scalar": "a single value", "list": "a list", "mapping": "a mapping"}


class Again(Exception):
    """What is on the way was shared with other places and is not now: begin again with this text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class Place:
    """A text before a change. Each method gives the text after it, or raises ConfigError or Again."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self._name = name
        self._root = parse(text, name)

    # changes

    def put(self, path: Sequence[str | int], value: Any) -> str:
        if self._root is None:
            return self._first(path, value)
        nodes = self.reach(path)
        rest = path[len(nodes) - 1 :]
        if not rest:
            return self._replace(nodes, path, value)
        for key in reversed(rest[1:]):
            value = {key: value}
        if not nodes[-1].entries:
            return self._replace(nodes, path, {rest[0]: value})
        return self._add(nodes[-1], str(rest[0]), value)

    def append(self, path: Sequence[str | int], value: Any) -> str:
        nodes = self.reach(path) if self._root else []
        if len(nodes) <= len(path):
            inherited = nodes[-1].merged(str(path[-1])) if len(nodes) == len(path) else None
            if inherited is not None:
                raise Again(self._add(nodes[-1], str(path[-1]), plain(inherited)))
            return self.put(path, [value])
        node = nodes[-1]
        if node.kind == "alias":
            raise self._own_copy(node)
        if not node.is_null and node.kind != "list":
            raise self._unexpected(node, "a list")
        if not node.items:
            return self._replace(nodes, path, [value])
        if node.flow:
            end = node.items[-1].end
            return self._with(end, end, f", {flow(value)}")
        dashes = [self._dash(each) for each in node.items]
        column = self._column(dashes[0])
        lines = item(value, column, *self._indentation)
        return self._below(dashes, node.items[-1].end, column, lines)

    def remove(self, path: Sequence[str | int], comments: bool) -> str:
        nodes = self.reach(path) if self._root else []
        if len(nodes) <= len(path):
            inherited = len(nodes) == len(path) and nodes[-1].merged(str(path[-1]))
            return self._add(nodes[-1], str(path[-1]), None) if inherited else self.text
        parent = nodes[-2]
        if parent.kind == "mapping":
            if parent.merged(str(path[-1])) is not None:
                return self._replace(nodes, path, None)
            spans = [(key.start, value.end) for key, value in parent.entries]
        elif len(parent.items) == 1:
            return self._replace(nodes[:-1], path[:-1], [])
        else:
            spans = [(each.start if parent.flow else self._dash(each), each.end) for each in parent.items]
        at = next(at for at, span in enumerate(spans) if span[1] == nodes[-1].end)
        if parent.flow:
            return self._cut_in_flow(parent, spans, at)
        return self._cut_lines(parent, spans, at, comments)

    def rename(self, path: Sequence[str | int], key: str) -> str:
        nodes = self.reach(path)
        own = nodes[-2].entry(str(path[-1])) if len(nodes) > len(path) else None
        if own is None:
            raise ConfigError(f"{self._name}: there is no {path[-1]} to be renamed")
        return self._with(own[0].start, own[0].end, scalar(key, nodes[-2].flow, own[0].style))

    def reach(self, path: Sequence[str | int]) -> list[Node]:
        """The nodes on the way to `path`, from the root, as far as there are any that are written there."""
        if self._root is None:
            raise ConfigError(f"{self._name}: is empty")
        nodes = [self._root]
        for at, key in enumerate(path):
            node = nodes[-1]
            if node.kind == "alias":
                raise self._own_copy(node)
            if node.is_null:
                break
            if isinstance(key, int):
                if node.kind != "list" or key >= len(node.items):
                    raise self._unexpected(node, f"a list with more than {key} items")
                nodes.append(node.items[key])
                continue
            if node.kind != "mapping":
                raise self._unexpected(node, "a mapping")
            own = node.entry(key)
            if own is None:
                inherited = node.merged(key)
                if inherited is not None and at + 1 < len(path):
                    raise Again(self._add(node, key, plain(inherited)))
                break
            nodes.append(own[1])
        return nodes

    # how they are written

    def _first(self, path: Sequence[str | int], value: Any) -> str:
        """The text of a file that had nothing in it but comments."""
        for key in reversed(path):
            value = {key: value}
        text = self.text if not self.text or self.text.endswith("\n") else self.text + "\n"
        return text + "\n".join(self._lines(value)) + "\n"

    def _replace(self, nodes: list[Node], path: Sequence[str | int], value: Any) -> str:
        """Another value for the last of `nodes`."""
        old = nodes[-1]
        if len(nodes) == 1:
            return self._with(old.start, old.end, "\n".join(self._lines(value)))
        parent = nodes[-2]
        own = parent.entry(str(path[len(nodes) - 2])) if parent.kind == "mapping" else None
        space = " " if old.start == old.end else ""
        if own is None or parent.flow:
            return self._with(old.start, old.end, space + flow(value))
        key = own[0]
        colon = self.text.index(":", key.end) + 1
        if is_nested(value):
            lines = "\n" + "\n".join(nested(value, self._column(key.start), *self._indentation))
            if old.is_block:
                return self._with(self._line_end(colon), self._line_end(old.end), lines)
            end = self._line_end(old.end)
            behind = self.text[old.end : end].rstrip()
            return self._with(colon, end, behind + lines)
        if old.is_block:
            comment = self.text[colon : self._line_end(colon)]
            return self._with(colon, self._line_end(old.end), f" {inline(value)}{comment}")
        return self._with(old.start, old.end, space + inline(value, old.style))

    def _add(self, node: Node, key: str, value: Any) -> str:
        """One more entry for a mapping."""
        first, (last_key, last) = node.entries[0][0], node.entries[-1]
        if node.flow:
            own_line = not self.text[self._line_start(last_key.start) : last_key.start].strip()
            between = ",\n" + " " * self._column(last_key.start) if own_line else ", "
            return self._with(last.end, last.end, f"{between}{scalar(key, True)}: {flow(value)}")
        column = self._column(first.start)
        lines = entry(key, value, column, *self._indentation)
        return self._below([each.start for each, _ in node.entries], last.end, column, lines)

    def _below(self, starts: list[int], last_end: int, column: int, lines: list[str]) -> str:
        """`lines` below the last of the entries that begin at `starts`, with a blank line where they have one."""
        end = self._behind_comments(last_end, column)
        spaced = len(starts) > 1 and all(self._is_spaced(start) for start in starts[1:])
        return self._with(end, end, "\n" * (1 + spaced) + "\n".join(lines))

    def _cut_in_flow(self, parent: Node, spans: list[tuple[int, int]], at: int) -> str:
        if len(spans) == 1:
            return self._with(self.text.index("{", parent.start), parent.end, "{}")
        if at + 1 < len(spans):
            return self._with(spans[at][0], spans[at + 1][0], "")
        return self._with(spans[at - 1][1], spans[at][1], "")

    def _cut_lines(self, parent: Node, spans: list[tuple[int, int]], at: int, comments: bool) -> str:
        text, (start, end) = self.text, spans[at]
        column = self._column(start)
        begin = self._line_start(start)
        if text[begin:start].strip():  # behind the dash of a list
            if len(spans) == 1:
                return self._with(start, end, "{}")
            after = self._line_end(end) + 1
            return self._with(start, after + len(text[after:]) - len(text[after:].lstrip()), "")
        if comments:
            above = self._above_comments(begin, column)
            if at > 0 or not above or not text[:above].rstrip(" ").endswith(":\n"):
                begin = above
        after = min(self._behind_comments(end, column + 1) + 1, len(text))
        above_line = text[self._line_start(begin - 1) : begin].strip() if begin else ""
        first_of_all = at == 0 and not above_line.startswith("#")
        if not above_line or first_of_all:  # of two blank lines one stays, and below the key of all none
            while text[after:].partition("\n")[0].strip() == "" and after < len(text):
                after = text.find("\n", after) + 1 or len(text)
            if after == len(text):
                begin = len(text[:begin].rstrip("\n")) + 1 if begin else 0
        return self._with(begin, after, "")

    def _lines(self, value: Any) -> list[str]:
        """The lines of a mapping that is all of the file."""
        step, offset = self._indentation
        return nested(value, -step, step, offset)

    # where things are

    def _with(self, start: int, end: int, new: str) -> str:
        return self.text[:start] + new + self.text[end:]

    def _line_start(self, at: int) -> int:
        return self.text.rfind("\n", 0, at) + 1

    def _line_end(self, at: int) -> int:
        end = self.text.find("\n", at)
        return len(self.text) if end < 0 else end

    def _column(self, at: int) -> int:
        return at - self._line_start(at)

    def _dash(self, node: Node) -> int:
        """Where an item of a list in lines begins."""
        return self.text.rfind("-", 0, node.start)

    def _behind_comments(self, end: int, column: int) -> int:
        """The end of the line of `end`, or of the comments right below it that are indented by `column` or more."""
        end = self._line_end(end)
        while end < len(self.text):
            line = self.text[end + 1 : self._line_end(end + 1)]
            if not line.lstrip().startswith("#") or len(line) - len(line.lstrip()) < column:
                break
            end += 1 + len(line)
        return end

    def _above_comments(self, begin: int, column: int) -> int:
        """The start of the comments right above the line at `begin` that are indented as it is."""
        while begin:
            above = self._line_start(begin - 1)
            line = self.text[above : begin - 1]
            if not line.lstrip().startswith("#") or len(line) - len(line.lstrip()) != column:
                break
            begin = above
        return begin

    def _is_spaced(self, start: int) -> bool:
        """Whether there is a blank line above an entry and its comments."""
        above = self._above_comments(self._line_start(start), self._column(start))
        return above > 0 and not self.text[self._line_start(above - 1) : above].strip()

    @cached_property
    def _indentation(self) -> tuple[int, int]:
        """How far this file indents mappings in mappings, and the dashes of lists below their key."""
        step = offset = None
        for node in self._root.walk() if self._root else ():
            if node.kind != "mapping" or node.flow:
                continue
            for key, value in node.entries:
                if value.is_block and value.entries and step is None:
                    step = self._column(value.entries[0][0].start) - self._column(key.start)
                if value.is_block and value.items and offset is None:
                    offset = self._column(self._dash(value.items[0])) - self._column(key.start)
            if step is not None and offset is not None:
                break
        step = step or DEFAULT_STEP
        return step, step if offset is None else offset

    # errors

    def _own_copy(self, alias: Node) -> Again:
        """The text in which an alias has its own copy of what it refers to."""
        refers = f"{{<<: *{alias.value}}}" if alias.resolved.kind == "mapping" else flow(plain(alias))
        return Again(self._with(alias.start, alias.end, refers))

    def _unexpected(self, node: Node, allowed: str) -> ConfigError:
        line = self.text.count("\n", 0, node.start) + 1
        return ConfigError(f"{self._name}:{line}: found {_SHAPES[node.kind]}, allowed: {allowed}")
