"""Collecting what is wrong with a configuration, and the words for it; used by all readers here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple

from gtapp.config.schema import Option
from gtapp.errors import ConfigError

MAX_PROBLEMS = 20  # shown at once; whoever has more starts with these


class Given(NamedTuple):
    """A value that somebody wrote, and where: `server.yml:3: addr`, `--addr` or `GT_ADDR`."""

    value: Any
    label: str


Values = dict[str, Given]  # by the option's key


class Problems:
    """Collects what is wrong with a configuration, so that one run shows all of it."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, text: str) -> None:
        """Note one problem. Raises ConfigError when there are too many."""
        self._lines.append(text)
        if len(self._lines) == MAX_PROBLEMS:
            self._lines.append("and perhaps more: only the first problems are shown")
            self.check()

    def check(self) -> None:
        """Raise ConfigError, one problem a line, if there are any."""
        if self._lines:
            raise ConfigError("\n".join(self._lines))

    def parse(self, entry: Option, texts: list[str], label: str) -> Given | None:
        """The value that `texts` (several only for a list) stand for, or None and a problem noted."""
        values = []
        for text in texts:
            try:
                values.append(entry.kind.parse(text))
            except ValueError:
                found = "a value that is not shown" if entry.secret else quoted(text)
                self.add(f"{label}: found {found}, allowed: {entry.kind.allowed}")
                return None
        return Given(tuple(values) if entry.many else values[0], label)


def quoted(text: str) -> str:
    """`text` for an error message: on one line and not longer than people read."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:61])
    return f'"{text[:60]}{"…" if len(text) > 60 else ""}"'


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown `word`: what was probably meant, if anything is near."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower()[:100], by_lower, n=1, cutoff=0.7)
    return f', did you mean "{prefix}{by_lower[found[0]]}"?' if found else ""
