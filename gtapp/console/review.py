"""What a change of the file would do, before it is made, and what came of it: for the pages "Review" and "Done" of
settings, the YAML editor and history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from flask_babel import lazy_gettext
from flask_login import current_user

from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.config.options import OPTIONS, Limits, ServerOptions, User
from gtapp.config.schema import Applies, Option
from gtapp.config.store import Conflict, Problem, Saved
from gtapp.console.auth import audit
from gtapp.console.changes import Outcome, store_of
from gtapp.console.context import console
from gtapp.console.masks import compare_masked
from gtapp.console.merge import Line, compare
from gtapp.console.words import _
from gtapp.errors import ConfigError, GTError

Config = ServerConfig | ClientConfig

BADGES: dict[Applies, tuple[Any, str]] = {
    "live": (lazy_gettext("at once"), "ok"),
    "listeners": (lazy_gettext("opens or closes addresses"), "info"),
    "restart": (lazy_gettext("new workers"), "warn"),
}
SENTENCES: dict[Applies, Any] = {
    "live": lazy_gettext("Used at once, nobody is interrupted."),
    "listeners": lazy_gettext("Addresses are opened or closed; connections that are open go on."),
    "restart": lazy_gettext(
        "New workers start and take over; the old ones finish their connections, then end."
    ),
}
_NAMES_SHOWN = 5
# Where visitors and tunnels come in to a server.
_ENTRANCES = (("addr", "addr"), ("tlsAddr", "tls_addr"), ("sniAddr", "sni_addr"))


@dataclass(frozen=True)
class Effect:
    """An option that is different afterwards, or the users, or the services; before and after as people write them,
    both "" for a secret."""

    name: str
    applies: Applies
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Review:
    """What a change does: the lines of the file, what is different for the running GT, what stands in its way."""

    lines: Sequence[Line]
    effects: Sequence[Effect] = ()
    warnings: Sequence[str] = ()
    problems: Sequence[Problem] = ()

    @property
    def takes(self) -> list[tuple[tuple[Any, str], Any, list[Effect]]]:
        """The effects by what they take: a badge, a sentence, and which they are."""
        found = []
        for applies, sentence in SENTENCES.items():
            if effects := [effect for effect in self.effects if effect.applies == applies]:
                found.append((BADGES[applies], sentence, effects))
        return found


def review(before: str, after: str, problems: Sequence[Problem], show_secrets: bool = False) -> Review:
    """What it means to put `after` in the place of `before`; `problems` are those that the store finds in `after`."""
    lines = compare(before, after) if show_secrets else compare_masked(before, after)
    if problems:
        return Review(lines, problems=problems)
    store = store_of()
    try:
        new = store.load(after)
        now = store.load(before)
    except ConfigError:  # the file as it is can't be used, and this mends it
        return Review(lines)
    return Review(lines, effects(console().role, now, new), warnings(now, new))


def effects(role: str, before: Config, after: Config) -> list[Effect]:
    """What is different for a GT that runs `before` when it takes over `after`: options in the order of the table."""
    found = []
    for entry in OPTIONS[role].values():
        old, new = getattr(before.options, entry.name), getattr(after.options, entry.name)
        if old != new:
            words = ("", "") if entry.secret else (words_of(entry, old), words_of(entry, new))
            found.append(Effect(entry.key, entry.applies, *words))
    if isinstance(before, ServerConfig) and isinstance(after, ServerConfig):
        found += _users(before, after)
    elif (
        isinstance(before, ClientConfig)
        and isinstance(after, ClientConfig)
        and before.services != after.services
    ):
        counts = (str(len(before.services)), str(len(after.services)))
        found.append(Effect(_("services"), "live", *counts))
    return found


def _users(before: ServerConfig, after: ServerConfig) -> list[Effect]:
    """Who comes, goes or is changed."""
    old, new = before.users, after.users
    gone, come = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    changed = sorted(
        user
        for user in old.keys() & new.keys()
        if not _same(old[user], new[user], before.options, after.options)
    )
    found = [Effect(_("users removed"), "live", _names(gone), "")] if gone else []
    found += [Effect(_("users added"), "live", "", _names(come))] if come else []
    found += [Effect(_("users changed"), "live", "", _names(changed))] if changed else []
    return found


def _same(old: User, new: User, before: ServerOptions, after: ServerOptions) -> bool:
    """Whether nothing of a user's own is different: where it has the server's limits, these are told as options."""
    inherited = {
        each.name: getattr(new, each.name)
        for each in fields(Limits)
        if getattr(old, each.name) == getattr(before, each.name)
        and getattr(new, each.name) == getattr(after, each.name)
    }
    return replace(old, **inherited) == new


def _names(names: Sequence[str]) -> str:
    text, more = ", ".join(names[:_NAMES_SHOWN]), len(names) - _NAMES_SHOWN
    return _("%(names)s and %(count)d more", names=text, count=more) if more > 0 else text


def words_of(entry: Option, value: Any) -> str:
    """A value of a configuration in one line; "" where there is none."""
    if value in (None, "", ()):
        return ""
    shown = entry.show(value)
    words = shown if isinstance(shown, list) else [shown]
    return ", ".join(
        (_("yes") if word else _("no")) if isinstance(word, bool) else str(word) for word in words
    )


def warnings(before: Config, after: Config) -> list[str]:
    """What people should know before they go on: they may lock themselves or their visitors out."""
    old, new = before.options, after.options
    found = []
    if old.web_addr and not new.web_addr:
        found.append(
            _(
                "This console ends: without webAddr it listens nowhere. To get it back, set webAddr in the file by hand"
                " and run: gt.py -s reload"
            )
        )
    elif old.web_addr != new.web_addr:
        found.append(
            _(
                "This console moves to %(address)s: this page no longer answers at its present address. Open the new"
                " one afterwards.",
                address=new.web_addr,
            )
        )
    if new.web_addr and bool(old.web_cert_file) != bool(new.web_cert_file):
        scheme = "https://" if new.web_cert_file else "http://"
        found.append(
            _("This console changes to %(scheme)s: put that before its address afterwards.", scheme=scheme)
        )
    if (old.admin, old.password, old.signing_key) != (new.admin, new.password, new.signing_key):
        found.append(_("Whoever is logged in is logged out, you as well: log in again afterwards."))
    for key, name in _ENTRANCES:
        address = getattr(old, name, None)
        if address and not getattr(new, name, None):
            found.append(
                _(
                    "Nothing listens on %(address)s any more (%(key)s): whoever comes in there finds no way in.",
                    address=address,
                    key=key,
                )
            )
    return found


@dataclass(frozen=True)
class Result:
    """What came of a change: "done", "refused" (the file is again what it was) or "waiting" (the file has it, the
    running GT does not)."""

    state: Literal["done", "refused", "waiting"]
    problem: str
    lines: Sequence[str]
    etag: str  # of the file as it is now


def settle(outcome: Outcome) -> Result:
    """After a save. What the running GT refuses is taken back, so that the next start finds a file that works. When
    GT cannot be asked at all the file is left: it was checked, and the next start takes it over."""
    saved = outcome.saved
    etag = saved.after.etag if saved else ""
    if not outcome.problem:
        return Result("done", "", outcome.lines, etag)
    try:
        console().running.status()
        if saved is None:
            return Result("waiting", outcome.problem, outcome.lines, etag)
        etag = _take_back(saved)
    except (Conflict, GTError) as error:  # or someone has saved meanwhile: then that stands
        del error
        return Result("waiting", outcome.problem, outcome.lines, etag)
    return Result("refused", outcome.problem, outcome.lines, etag)


def _take_back(saved: Saved) -> str:
    """Put the text before a save in its place again. Raises Conflict, ConfigError."""
    what = "taken back, the running GT refused it"
    after = store_of().save(saved.before, saved.after.etag, str(getattr(current_user, "name", "")), what)
    audit("change taken back")
    return after.etag
