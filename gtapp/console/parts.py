"""The pages of settings, the YAML editor and history belong together: what leads from one to another, which options
stand on which page, and whether the file is what the running GT has.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from flask import url_for

from gtapp.config.environ import read_environ
from gtapp.config.flags import read_flags
from gtapp.config.options import OPTIONS, SERVICE
from gtapp.config.problems import Problems, Values
from gtapp.config.schema import Option, Section
from gtapp.console.context import console
from gtapp.console.words import _, is_chinese
from gtapp.errors import ConfigError, GTError

_USERS_PAGE = ("id", "secret")  # of a server: pairs of users, from the command line


@dataclass(frozen=True)
class Parts:
    """What `settings/frame.html` shows around each of these pages: links as (key, text, URL), in groups."""

    groups: list[list[tuple[str, str, str]]]
    by_flags: bool  # there is no file
    edited: bool  # the file is not what the running GT has


def parts() -> Parts:
    about = console()
    pages = [("all", _("All settings"), url_for("settings.index"))]
    for section in sections():
        name = slug(section)
        pages.append((name, section.title(is_chinese()), url_for("settings.section", section=name)))
    text = [
        ("yaml", _("YAML editor"), url_for("yaml.edit")),
        ("history", _("History"), url_for("history.index")),
    ]
    return Parts([pages, text], about.store is None, _edited())


def sections() -> dict[Section, list[Option]]:
    """The options that can be set here, by section, in the order of the table."""
    role = console().role
    found: dict[Section, list[Option]] = {}
    for entry in OPTIONS[role].values():
        if entry.available and not (role == "server" and entry.key in _USERS_PAGE):
            found.setdefault(entry.section, []).append(entry)
    return found


def slug(section: Section) -> str:
    """A section in a URL."""
    return section.name.lower()


def elsewhere(section: Section) -> tuple[str, str, str] | None:
    """Where the rest of what belongs to a section is: a sentence, and the text and URL of a link."""
    if console().role == "server" and section is Section.USERS:
        return _("This is for all of them."), _("The users themselves"), url_for("users.index")
    return None


def fixed() -> Values:
    """The options that flags or variables set: these win over the file. Each with where it stands."""
    about = console()
    table, problems = OPTIONS[about.role], Problems()
    service = SERVICE if about.role == "client" else {}
    try:
        flags = read_flags(about.words, table, service, problems).options
        return read_environ(about.environ, table, problems) | flags
    except ConfigError:  # GT runs with them: it has said what is wrong, and others it does not know
        return {}


def _edited() -> bool:
    """Whether the file is another one than the running GT has; not, where neither can tell."""
    about = console()
    if about.store is None:
        return False
    try:
        units = about.running.status().get("units", [])
        now = hashlib.sha256(about.store.read().text.encode()).hexdigest()
    except GTError:
        return False
    return any(unit.get("digest", now) != now for unit in units if _is_ours(unit))


def _is_ours(unit: dict[str, Any]) -> bool:
    store = console().store
    return store is not None and os.path.realpath(unit.get("config") or "") == os.path.realpath(store.path)
