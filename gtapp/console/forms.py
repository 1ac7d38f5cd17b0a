"""Options as form fields, and posted forms as values of a YAML file; used by users, services and settings.

One table (`config.options`) says what an option is. A form shows what the file itself says of each, and in its
place what holds where the file says nothing; what is posted is read by the option's own kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flask_babel import lazy_gettext
from werkzeug.datastructures import MultiDict

from gtapp.config.problems import quoted
from gtapp.config.schema import Option
from gtapp.config.values import BOOLEAN, DURATION, REGEX, SIZE, SPEED, TEXT, Kind
from gtapp.console.words import _, is_chinese

MAX_ITEMS = 1000  # of one list: nobody types more into a form
CLEAR = "clear-"  # with the key of a secret: posted to remove what is not shown

_UNITS = {"BYTES": lazy_gettext("bytes"), "BYTES/S": lazy_gettext("bytes/s")}
_KEPT_AS_TYPED = (SIZE, SPEED, DURATION)  # 90s stays 90s, 500KiB stays 500KiB
_COMMAS_MEAN_SOMETHING = (REGEX, TEXT)
_ROWS = 3


@dataclass(frozen=True)
class Field:
    """One option in a form (or, without `option`, something else): what the macro `ui.field` takes.

    `value` is what the file says, or what was typed and refused; `placeholder` what holds without it. A secret is never
    in `value` unless it has just been typed; `is_set` says that there is one.
    """

    option: Option | None
    name: str
    label: str
    help: str = ""
    type: str = "text"
    value: str = ""
    placeholder: str = ""
    unit: str = ""
    options: list[tuple[str, str]] | None = None
    rows: int = 0
    checked: bool = False
    is_set: bool = False
    required: bool = False
    error: str = ""

    @classmethod
    def of_text(cls, name: str, label: str, help: str, posted: Posted, **more: Any) -> Field:
        """A field that is no option; `posted` is shown again."""
        shown = {"value": posted.texts.get(name, ""), "error": posted.errors.get(name, "")}
        return cls(None, name, label, help, **{**more, **{key: text for key, text in shown.items() if text}})

    @property
    def macro(self) -> dict[str, Any]:
        """For a template: `{{ ui.field(**field.macro) }}`."""
        names = ("name", "label", "value", "help", "error", "type", "required", "unit", "placeholder")
        more = {"options": self.options, "rows": self.rows, "checked": self.checked}
        autocomplete = "new-password" if self.type == "password" else "off"
        return {name: getattr(self, name) for name in names} | more | {"autocomplete": autocomplete}


@dataclass
class Posted:
    """A form that was sent: what it changes, in YAML form by key (None removes a key), and what is wrong with it.

    `texts` is what was typed, for showing the form again.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def fields(
    table: Mapping[str, Option],
    own: Mapping[str, Any],
    *,
    keys: Iterable[str] | None = None,
    inherited: object | None = None,
    labels: Mapping[str, Any] | None = None,
    helps: Mapping[str, Any] | None = None,
    posted: Posted | None = None,
) -> dict[str, Field]:
    """The fields of the options `keys` of a table (all that are available), by key, in that order.

    `own` is what the file says, in YAML form. `inherited` has, as attributes, what holds where it says nothing (a
    user's limits are the server's then): booleans get a third choice for that. `posted` is shown again. `labels` and
    `helps` are texts by key, in the place of the option's own.
    """
    chosen = keys if keys is not None else (key for key, entry in table.items() if entry.available)
    found = {}
    for key in chosen:
        entry = table[key]
        default = entry.default if inherited is None else getattr(inherited, entry.name, entry.default)
        texts = str((labels or {}).get(key, key)), str((helps or {}).get(key) or help_of(entry))
        found[key] = _field(entry, texts, own, default, inherited is not None, posted or Posted())
    return found


def read(
    table: Mapping[str, Option],
    form: MultiDict[str, str],
    own: Mapping[str, Any],
    *,
    keys: Iterable[str],
    inherits: bool = False,
) -> Posted:
    """What a posted form changes in the options `keys`, compared with `own`, what the file says (in YAML form).

    An empty field removes its key, an empty secret leaves it. `inherits` as `fields` was given something inherited.
    """
    posted = Posted()
    for key in keys:
        entry = table[key]
        text = form.get(key, "")
        text = text if entry.secret else text.strip()
        if entry.kind is BOOLEAN and not inherits and entry.default is not None:
            text = "true" if key in form else "false"
            if key not in own and (text == "true") == entry.default:
                continue
        posted.texts[key] = text
        if not text:
            if (not entry.secret or form.get(CLEAR + key)) and key in own:
                posted.changes[key] = None
            continue
        if problem := problem_of(entry, text):
            posted.errors[key] = problem
            continue
        if key not in own or _parsed(entry, text_of(entry, own[key])) != _parsed(entry, text):
            posted.changes[key] = _yaml_form(entry, text)
    return posted


def again(table: Mapping[str, Option], changes: Mapping[str, Any]) -> Posted:
    """Changes that a form has made before, as if it were posted now."""
    return Posted(dict(changes), texts={key: text_of(table[key], value) for key, value in changes.items()})


def problem_of(entry: Option, text: str) -> str:
    """What is wrong with a text typed for an option; "" when nothing is."""
    parts = _parts(entry, text)
    if len(parts) > MAX_ITEMS:
        return _("At most %(count)d entries fit here.", count=MAX_ITEMS)
    for part in parts:
        try:
            entry.kind.parse(part)
        except ValueError:
            if entry.secret:
                return _("Has to be %(allowed)s.", allowed=allowed(entry.kind))
            return _(
                "Found %(found)s; has to be %(allowed)s.", found=quoted(part), allowed=allowed(entry.kind)
            )
    return ""


def text_of(entry: Option, value: Any) -> str:
    """A value in YAML form as it is typed into a form: a list is one item a line."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return "\n".join(_word(item) for item in value)
    return _word(value)


def allowed(kind: Kind[Any]) -> str:
    """What a kind of value has to be, in the language of the page."""
    if kind.bounds:
        lowest, highest = kind.bounds
        return _("a whole number from %(lowest)s to %(highest)s", lowest=lowest, highest=highest)
    if kind.choices:
        return _("one of %(words)s", words=", ".join(kind.choices))
    return _(kind.allowed)


def help_of(entry: Option) -> str:
    """The line of help of an option, in the language of the page, as a sentence."""
    text = entry.zh if is_chinese() else entry.en
    end = "。" if is_chinese() else "."
    return f"{text[:1].upper()}{text[1:]}{end}"


def _field(
    entry: Option,
    texts: tuple[str, str],
    own: Mapping[str, Any],
    default: Any,
    inherits: bool,
    posted: Posted,
) -> Field:
    key = entry.key
    text = posted.texts.get(key, "" if entry.secret else _as_chosen(entry, text_of(entry, own.get(key))))
    shown = "" if entry.secret or default in (None, "", ()) else text_of(entry, entry.show(default))
    made = Field(
        entry,
        key,
        *texts,
        value=text,
        placeholder=shown.replace("\n", ", "),
        unit=str(_UNITS.get(entry.kind.metavar, "")),
        is_set=own.get(key) not in (None, ""),
        error=posted.errors.get(key, ""),
    )
    return _typed(made, entry, inherits or default is None, shown)


def _typed(made: Field, entry: Option, three: bool, shown: str) -> Field:
    """The field with the input that fits its kind; with `three`, a boolean can also be left open."""
    values: dict[str, Any] = {}
    if entry.kind is BOOLEAN and not three:
        values |= {"type": "checkbox", "value": "true", "checked": (made.value or shown) == "true"}
    elif entry.kind is BOOLEAN or (entry.kind.choices and not entry.many):
        words = [(word, _choice(word)) for word in entry.kind.choices or ("true", "false")]
        open_text = _("Default: %(value)s", value=_choice(shown)) if shown else _("Default")
        values |= {"type": "select", "value": made.value, "options": [("", open_text), *words]}
    elif entry.secret:
        values |= {"type": "password", "placeholder": _("set, not shown") if made.is_set else ""}
    elif entry.many:
        values |= {"type": "textarea", "rows": _ROWS}
    elif entry.kind.bounds:
        values |= {"type": "number"}
    return replace(made, **values)


def _as_chosen(entry: Option, text: str) -> str:
    """For inputs that offer words to choose from, that word: a file may say Yes or INFO."""
    if not text or entry.many or not (entry.kind is BOOLEAN or entry.kind.choices):
        return text
    try:
        return _word(entry.kind.parse(text))
    except ValueError:
        return text


def _choice(word: str) -> str:
    return {"true": _("yes"), "false": _("no")}.get(word, word)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parts(entry: Option, text: str) -> list[str]:
    """The values in a text: one, or for a list those on its lines, or between commas where these mean nothing else."""
    if not entry.many:
        return [text]
    if entry.kind not in _COMMAS_MEAN_SOMETHING and not entry.secret:
        text = text.replace(",", "\n").replace("，", "\n")
    return [part for line in text.splitlines() if (part := line.strip())]


def _parsed(entry: Option, text: str) -> Any:
    """The values of a text, None where one is wrong: a file may have been edited by hand."""
    try:
        return [entry.kind.parse(part) for part in _parts(entry, text)]
    except ValueError:
        return None


def _yaml_form(entry: Option, text: str) -> Any:
    values = []
    for part in _parts(entry, text):
        shown = entry.kind.show(entry.kind.parse(part))
        values.append(part if entry.kind in _KEPT_AS_TYPED and not part.isdigit() else shown)
    return values if entry.many else values[0]
