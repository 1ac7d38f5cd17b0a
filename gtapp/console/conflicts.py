"""The page for whoever saves over a file that has changed meanwhile (409): what was, what they made of it and what the
file says now stand beside each other, and they choose. What they have typed goes on with each choice.

`rows_of_texts` is for whole files, `rows_of_values` and `choices` are for forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Response, make_response, render_template
from flask_babel import lazy_gettext

from gtapp.config.show import MASK
from gtapp.config.store import Conflict, Version
from gtapp.console.changes import store_of
from gtapp.console.masks import is_secret
from gtapp.console.merge import Block, Change
from gtapp.console.words import _

WHO: dict[Change, tuple[Any, str]] = {
    "mine": (lazy_gettext("changed by you"), "info"),
    "theirs": (lazy_gettext("changed in the file"), "warn"),
    "alike": (lazy_gettext("changed alike"), "ok"),
    "both": (lazy_gettext("changed by both"), "bad"),
}
Values = Mapping[str, Any]  # in YAML form, by key


@dataclass(frozen=True)
class Row:
    """What somebody has changed, a few lines or a field: three texts beside each other. `was` is None where nobody
    knows it any more."""

    label: str
    change: Change
    was: str | None
    mine: str
    theirs: str

    @property
    def badge(self) -> tuple[Any, str] | None:
        return WHO.get(self.change)


@dataclass(frozen=True)
class Choice:
    """A way to go on: a form that posts `fields` to `url`, or a link where there are none."""

    text: str
    hint: str
    url: str
    fields: Sequence[tuple[str, str]] = ()
    kind: str = "secondary"


def page(conflict: Conflict, rows: Sequence[Row], choices: Sequence[Choice], part: str = "") -> Response:
    """The page: `rows` are what is different, `choices` how to go on, the best one first; `part` is which of the pages
    of `parts` it belongs to, "" for another."""
    by = _saved_by(conflict.current.etag)
    return make_response(
        render_template("settings/conflict.html", rows=rows, choices=choices, by=by, part=part, told=True),
        409,
    )


def rows_of_texts(blocks: Iterable[Block]) -> list[Row]:
    """What has changed in a file, of the blocks that `merge` makes of its three texts."""
    found = []
    for block in blocks:
        if not block.change:
            continue
        last = block.line + len(block.theirs) - 1
        label = _("Line %(line)d", line=block.line)
        if last > block.line:
            label = _("Lines %(first)d to %(last)d", first=block.line, last=last)
        was, mine, theirs = ("\n".join(lines) for lines in (block.was, block.mine, block.theirs))
        found.append(Row(label, block.change, was, mine, theirs))
    return found


def rows_of_values(changes: Values, was: Values | None, theirs: Values) -> list[Row]:
    """What has changed in a form: `changes` is what was typed (None: removed), `was` what the file said when the form
    was opened, None where that is not known, `theirs` what it says now. Secrets are masked."""
    found = []
    for key in dict.fromkeys([*changes, *(was or {}), *theirs]):
        old, now = (was or {}).get(key), theirs.get(key)
        new = changes.get(key, now if was is None else old)
        mine_is, theirs_is = (was is None or new != old), (was is not None and now != old)
        change: Change = ""
        if key in changes and mine_is and theirs_is:
            change = "alike" if new == now else "both"
        elif key in changes and mine_is:
            change = "mine"
        elif theirs_is:
            change, new = "theirs", old
        if change:
            texts = [_shown(key, value) for value in (old, new, now)]
            found.append(Row(key, change, None if was is None else texts[0], *texts[1:]))
    return found


def choices(again: str, fields: Sequence[tuple[str, str]], fresh: str) -> list[Choice]:
    """Those of a form: post `fields` to `again`, based on the file as it is now, or open it at `fresh`."""
    return [
        Choice(
            _("Make my changes in the new file"),
            _("What others have changed besides stays; where both changed the same, yours is taken."),
            again,
            fields,
            "primary",
        ),
        Choice(
            _("Start again from the file"),
            _("Your changes are given up; the form shows what the file says now."),
            fresh,
        ),
    ]


def _shown(key: str, value: Any) -> str:
    if value in (None, "", []):
        return ""
    if is_secret(key):
        return MASK
    values = value if isinstance(value, list) else [value]
    return "\n".join(str(each).lower() if isinstance(each, bool) else str(each) for each in values)


def _saved_by(etag: str) -> Version | None:
    """The version of the history that is in the file now; None when it was edited by other means."""
    return next((each for each in store_of().versions() if each.etag == etag), None)
