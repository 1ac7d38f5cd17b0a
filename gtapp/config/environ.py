"""Environment variables, for containers: GT_ and the key in upper snake case; used by `load` and `cli`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from gtapp.config.options import OPTIONS, SERVICE
from gtapp.config.problems import Problems, Values
from gtapp.config.schema import Option, Section

_ASIDE = (Section.LOGGING, Section.SENTRY, Section.CONSOLE)  # what says how GT runs, not what it does
_KNOWN = {entry.env for table in (*OPTIONS.values(), SERVICE) for entry in table.values()}
_DECISIVE = {
    entry.env
    for table in (*OPTIONS.values(), SERVICE)
    for entry in table.values()
    if entry.section not in _ASIDE
}


def is_option(name: str) -> bool:
    """Whether a variable of this name sets an option, of whatever role."""
    return name in _KNOWN


def sets_work(environ: Mapping[str, str]) -> bool:
    """Whether any variable says what GT is to do; how it logs, or where its console is, does not."""
    return any(environ.get(name) for name in _DECISIVE)


def read_environ(environ: Mapping[str, str], options: Mapping[str, Option], problems: Problems) -> Values:
    """The options that variables set. An empty variable sets nothing, commas separate the items of a list."""
    given: Values = {}
    for key, entry in options.items():
        if text := environ.get(entry.env):
            texts = [part.strip() for part in text.split(",")] if entry.many else [text]
            if value := problems.parse(entry, texts, entry.env):
                given[key] = value
    return given


def check_names(environ: Mapping[str, str], problems: Problems) -> None:
    """Note variables that look like a misspelt option.

    Other unknown names are let be: Kubernetes, for one, sets GT_PORT and more in every container beside a
    service that is called gt.
    """
    for name in environ:
        if name.startswith("GT_") and name not in _KNOWN:
            for meant in difflib.get_close_matches(name[:100], _KNOWN, n=1, cutoff=0.9):
                problems.add(f"{name}: there is no such option, did you mean {meant}?")
