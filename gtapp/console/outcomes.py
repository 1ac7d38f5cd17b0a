"""What people are told after a change: on the next page, or beside the field that is wrong. For users, services."""

from __future__ import annotations

import re
from collections.abc import Collection

from flask import flash

from gtapp.console.changes import Outcome
from gtapp.console.review import settle
from gtapp.console.words import _
from gtapp.errors import ConfigError

_WHERE = re.compile(r"^(?:.*?:\d+: )?")
_LABEL = re.compile(r"(?:^|\s)([A-Za-z]+): ")
_WORD = re.compile(r"[A-Za-z]+")
_IN_GROUPS = {"tcp": "tcpRange", "range": "tcpRange", "regex": "hostRegex", "number": "hostNumber"}


def tell(outcome: Outcome, done: str) -> bool:
    """Say `done`, and what the running GT told; or that it did not take it over, and what became of the file. Whether
    the change stands."""
    result = settle(outcome)
    if result.state == "done":
        flash("\n".join((done, *result.lines)), "ok")
    elif result.state == "refused":
        refused = _("Not changed: the running GT refused it, and the file is again as it was.")
        flash(f"{refused}\n{result.problem}", "bad")
    else:
        waiting = _(
            "Saved, but not in use yet: the running GT has not taken it over. It will at its next start."
        )
        flash(f"{waiting}\n{result.problem}", "warn")
    return result.state != "refused"


def split_problems(error: ConfigError, keys: Collection[str]) -> dict[str, str]:
    """The lines of an error by the field of a form that each is about, "" for those about none."""
    found: dict[str, list[str]] = {}
    for line in str(error).splitlines():
        text = _WHERE.sub("", line)
        named = [_IN_GROUPS.get(word, word) for word in _LABEL.findall(text)]
        named += (word for word in _WORD.findall(text) if len(word) > 2)  # "set another hostPrefix"
        key = next((word for word in named if word in keys), "")
        found.setdefault(key, []).append(text)
    return {key: "\n".join(lines) for key, lines in found.items()}
