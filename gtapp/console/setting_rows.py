"""Options as the pages of settings show them: a row with a field for each of a section, and the lines of the list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gtapp.config.options import OPTIONS
from gtapp.config.problems import Values
from gtapp.config.schema import Option, Section
from gtapp.config.show import MASK
from gtapp.config.store import Document
from gtapp.console import forms, parts, review
from gtapp.console.context import console
from gtapp.console.words import _, is_chinese


@dataclass(frozen=True)
class Row:
    """An option on the page of its section: the arguments of the macro `ui.field`, and what stands beside it."""

    key: str
    macro: dict[str, Any]
    badge: tuple[Any, str]
    fixed: bool  # by a flag or a variable: what the file says does not matter
    can_clear: bool = False  # a secret that can be removed
    cleared: bool = False

    @property
    def clear(self) -> str:
        """The name of the checkbox that removes it."""
        return forms.CLEAR + self.key


@dataclass(frozen=True)
class Line:
    """An option in the list of all. `words` is what a search looks at."""

    key: str
    help: str
    value: str
    source: str  # "" for the default
    badge: tuple[Any, str]
    words: str


def own(document: Document, keys: Iterable[str]) -> dict[str, Any]:
    """What a file says of these options, in YAML form. What shows as nothing is nothing: an empty field leaves it."""
    table = OPTIONS[console().role]
    said = {key: document.get_option(key) for key in keys}
    return {key: value for key, value in said.items() if forms.text_of(table[key], value)}


def rows(
    section: Section,
    said: Mapping[str, Any],
    posted: forms.Posted,
    changes: Mapping[str, Any],
    can_save: bool,
) -> list[Row]:
    """A section's options. `said` is what the file says of them, `posted` what was typed, and `changes` what is typed
    already and not saved: of a secret that is all there is."""
    table = OPTIONS[console().role]
    given = parts.fixed()
    keys = [entry.key for entry in parts.sections()[section]]
    shown = {key: table[key].show(each.value) for key, each in given.items() if key in keys}
    found = []
    for key, field in forms.fields(table, {**said, **shown}, keys=keys, posted=posted).items():
        entry, is_fixed = table[key], key in given
        macro = {**field.macro, "label": label_of(entry), "help": _note(key, field, given)}
        macro["disabled"] = is_fixed or not can_save
        if entry.secret and changes.get(key):
            macro["placeholder"] = _("typed, not shown, not saved yet")
        if field.type in ("text", "textarea"):
            macro["spellcheck"] = "false"
        can_clear = entry.secret and (field.is_set or bool(changes.get(key))) and can_save and not is_fixed
        cleared = key in changes and changes[key] is None
        found.append(Row(key, macro, review.BADGES[entry.applies], is_fixed, can_clear, cleared))
    return found


def lines(section: Section) -> list[Line]:
    """A section's options, with what they are set to now and by what."""
    config, given = console().usable_config(), parts.fixed()
    found = []
    for entry in parts.sections()[section]:
        value = getattr(config.options, entry.name)
        text = review.words_of(entry, value)
        if entry.secret and text:
            text = MASK
        source = (
            given[entry.key].label if entry.key in given else _("the file") if value != entry.default else ""
        )
        label = label_of(entry)
        words = (
            f"{entry.key} {entry.en} {entry.zh} {text} {section.title(False)} {section.title(True)}".lower()
        )
        found.append(Line(entry.key, label, text, source, review.BADGES[entry.applies], words))
    return found


def label_of(entry: Option) -> str:
    """What an option is for, as the label of its field."""
    text = forms.help_of(entry)
    return text.rstrip("。" if is_chinese() else ".")


def _note(key: str, field: forms.Field, given: Values) -> str:
    """The line below a field."""
    if key in given:
        source = given[key].label
        return _(
            "Set by %(source)s, which wins over the file: to set it here, take it out there.", source=source
        )
    notes = [_("One on each line.")] if field.type == "textarea" else []
    if field.placeholder and field.type in ("text", "number", "textarea"):
        notes.append(_("Default: %(value)s", value=field.placeholder))
    return " ".join(notes)
