"""Two texts of one file compared, and three put beside each other: what was, what one made of it, what another did.

Pure functions, used by `review`, `history` and `conflicts`. The method for three is that of diff3: where neither has
changed a line all three meet, and what stands between two such places was changed by one, by the other, or by both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

CONTEXT = 3  # lines that stay, shown around those that change
Change = Literal["", "mine", "theirs", "alike", "both"]


@dataclass(frozen=True)
class Line:
    """A line that stays (" "), goes ("-") or comes ("+"), or "…" for `count` lines that stay and are left out."""

    kind: Literal[" ", "-", "+", "…"]
    text: str
    count: int = 0


def compare(before: str, after: str, context: int = CONTEXT) -> list[Line]:
    """What becomes of the lines of a text, with so many around that stay."""
    old, new = _lines(before), _lines(after)
    found: list[Line] = []
    a = b = 0
    for at, new_at, size in [*_matches(old, new), (len(old), len(new), 0)]:
        found += [Line("-", text) for text in old[a:at]] + [Line("+", text) for text in new[b:new_at]]
        stays = [Line(" ", text) for text in old[at : at + size]]
        head = context if found else 0
        tail = context if at + size < len(old) or new_at + size < len(new) else 0
        if size > head + tail + 1:
            stays[head : size - tail] = [Line("…", "", size - head - tail)]
        found += stays
        a, b = at + size, new_at + size
    return found if any(line.kind in "-+" for line in found) else []


@dataclass(frozen=True)
class Block:
    """Lines that belong together. `change` says who has changed them: nobody (""), one side, both to the same
    ("alike"), or both differently. `line` is where it begins in `theirs`, the first is 1."""

    change: Change
    line: int
    was: tuple[str, ...]
    mine: tuple[str, ...]
    theirs: tuple[str, ...]


def merge(was: str, mine: str, theirs: str) -> list[Block]:
    """The blocks of three texts, in order; none is empty."""
    texts = [_lines(text) for text in (was, mine, theirs)]
    blocks = []
    at = (0, 0, 0)
    for start, end in _common(*texts):
        for change, first, last in (("?", at, start), ("", start, end)):
            lines = [tuple(text[a:b]) for text, a, b in zip(texts, first, last, strict=True)]
            if any(lines):
                blocks.append(Block("" if change == "" else _who(*lines), first[2] + 1, *lines))
        at = end
    return blocks


def fits(blocks: Sequence[Block]) -> bool:
    """Whether both sides' changes can be kept: nowhere have both changed the same lines differently."""
    return all(block.change != "both" for block in blocks)


def together(blocks: Sequence[Block], newline: str = "\n") -> str:
    """The text with the changes of both. Where both changed the same, `mine` stands, and below it what `theirs` has,
    as a comment: the result stays YAML, and nothing is lost."""
    lines: list[str] = []
    for block in blocks:
        if block.change == "both":
            lines += block.mine
            lines += (f"# in the file: {line.strip()}" for line in block.theirs if line.strip())
        else:
            lines += block.theirs if block.change == "theirs" else block.mine
    return "".join(f"{line}{newline}" for line in lines)


def _lines(text: str) -> list[str]:
    """As an editor shows them; `splitlines` would cut at more than ends of lines."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _who(was: tuple[str, ...], mine: tuple[str, ...], theirs: tuple[str, ...]) -> Change:
    if mine == theirs:
        return "alike"
    if was == theirs:
        return "mine"
    return "theirs" if was == mine else "both"


Place = tuple[int, int, int]  # line numbers in was, mine and theirs


def _common(was: list[str], mine: list[str], theirs: list[str]) -> Iterator[tuple[Place, Place]]:
    """Where all three have the same lines: begin and end of each run, and the end of the texts as a last, empty one."""
    ours, others = _matches(was, mine), _matches(was, theirs)
    i = j = 0
    while i < len(ours) and j < len(others):
        (at_a, mine_at, size_a), (at_b, theirs_at, size_b) = ours[i], others[j]
        first, last = max(at_a, at_b), min(at_a + size_a, at_b + size_b)
        if first < last:
            start = (first, mine_at + first - at_a, theirs_at + first - at_b)
            yield start, (last, start[1] + last - first, start[2] + last - first)
        if at_a + size_a < at_b + size_b:
            i += 1
        else:
            j += 1
    end = (len(was), len(mine), len(theirs))
    yield end, end


def _matches(one: list[str], other: list[str]) -> list[tuple[int, int, int]]:
    """Runs of equal lines: where in `one`, where in `other`, how many. Equal ends are taken off first: comparing
    the rest takes time that grows with its square."""
    head = 0
    shorter = min(len(one), len(other))
    while head < shorter and one[head] == other[head]:
        head += 1
    tail = 0
    while tail < shorter - head and one[-1 - tail] == other[-1 - tail]:
        tail += 1
    found = [(0, 0, head)] if head else []
    rest, other_rest = one[head : len(one) - tail], other[head : len(other) - tail]
    for a, b, size in SequenceMatcher(None, rest, other_rest).get_matching_blocks():
        if size:
            found.append((a + head, b + head, size))
    if tail:
        found.append((len(one) - tail, len(other) - tail, tail))
    return found
