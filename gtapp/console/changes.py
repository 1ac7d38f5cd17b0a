"""Changes that people make: each writes the file, has the running GT take it over, and notes who did it.

Pages and the API call these. All raise GTError when nothing was saved: ConfigError says what is wrong with the new
configuration, Conflict (of `config.store`) that the file is another one than `etag` stands for.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import gevent
from flask import current_app
from flask_login import current_user
from gevent.event import AsyncResult
from werkzeug.exceptions import Forbidden

from gtapp.config.load import ServerConfig
from gtapp.config.options import OPTIONS
from gtapp.config.problems import quoted
from gtapp.config.store import Document, Saved, Store
from gtapp.config.values import FILE
from gtapp.console import passwords
from gtapp.console.audit import audit
from gtapp.console.auth import ACCOUNT
from gtapp.console.context import console
from gtapp.console.running import Running
from gtapp.console.words import _
from gtapp.errors import ConfigError, GTError

log = logging.getLogger("gt.console")

_EXTENSION = "gt-reloads"
_LOGIN = ("admin", "password", "signingKey")
# What the administrator alone may change.
_OWNERS = {
    role: {key for key, entry in table.items() if key in _LOGIN or entry.kind is FILE}
    for role, table in OPTIONS.items()
}


@dataclass(frozen=True)
class Outcome:
    """What came of a change: what was saved, what the running GT told when it took it over, and why it did not
    ("" when it did). `secret` is a new one, to be shown once."""

    saved: Saved | None
    lines: list[str] = field(default_factory=list)
    problem: str = ""
    secret: str = ""


def new_secret() -> str:
    """A secret that nobody can guess: 256 bits."""
    return secrets.token_urlsafe(32)


# users, on a server


def save_user(user: str, values: Mapping[str, Any], etag: str | None, new: bool = False) -> Outcome:
    """Set what `values` says (YAML form, None removes) of a user; with `new` it must not be there yet.

    A new user without a secret or verifier gets one: it is in the outcome.
    """
    made = ""
    if new and not (values.get("secret") or values.get("verifier")):
        made = new_secret()
        values = {"secret": made, **{key: value for key, value in values.items() if key != "secret"}}

    def change(document: Document) -> None:
        if not new:
            _check_user(document, user)
        elif user in document.users() or user in _users_elsewhere():
            raise ConfigError(_("There is a user %(user)s already: choose another id.", user=quoted(user)))
        document.set_user(user, dict(values))

    what = f"user {user} added" if new else f"user {user} changed"
    detail = ", ".join(sorted(values))  # keys, never values: there are secrets among them
    return _edit(change, etag, what, detail, made)


def remove_user(user: str, etag: str | None) -> Outcome:
    """Remove a user; its tunnels are cut when the running GT has taken it over."""

    def change(document: Document) -> None:
        _check_user(document, user)
        document.remove_user(user)

    return _edit(change, etag, f"user {user} removed")


def rotate_secret(user: str, etag: str | None) -> Outcome:
    """Give a user a new secret, which is in the outcome; the old one, or its verifier, ends at once."""
    secret = new_secret()

    def change(document: Document) -> None:
        _check_user(document, user)
        document.set_user(user, {"secret": secret, "verifier": None})

    return _edit(change, etag, f"user {user}: new secret", secret=secret)


# services, on a client


def save_service(index: int | None, values: Mapping[str, Any], etag: str | None) -> Outcome:
    """Set what `values` says (YAML form, None removes) of the service at `index`, or of a new one (None)."""

    def change(document: Document) -> None:
        _check_index(document, index)
        document.set_service(index, dict(values))

    which = f"service {values.get('local', '')}" if index is None else f"service {index + 1}"
    return _edit(
        change, etag, f"{which} added" if index is None else f"{which} changed", ", ".join(sorted(values))
    )


def remove_service(index: int, etag: str | None) -> Outcome:
    """Remove a service. (The last one can't go: a client needs one; the check of the file says so.)"""

    def change(document: Document) -> None:
        _check_index(document, index)
        document.remove_service(index)

    return _edit(change, etag, f"service {index + 1} removed")


# everything


def save_options(values: Mapping[str, Any], etag: str | None) -> Outcome:
    """Set options (YAML form, None removes) of the file."""

    def change(document: Document) -> None:
        for key, value in values.items():
            document.set_option(key, value)

    unknown = values.keys() - OPTIONS[console().role].keys()
    if unknown:
        raise ConfigError(_("There is no option %(name)s here.", name=quoted(min(unknown))))
    check_options(values)
    return _edit(change, etag, f"options: {', '.join(values)}")


def save_text(text: str, etag: str | None) -> Outcome:
    """Put `text` in the place of the whole file."""
    store = store_of()
    before = store.read().text
    check_text(text)
    after = store.save(text, etag, _who(), "file edited")
    audit("file edited")
    lines, problem = reload()
    return Outcome(Saved(before, after), lines, problem)


def restore_version(version: str, etag: str | None = None) -> Outcome:
    """Put a version of the history in the place of the file."""
    store = store_of()
    check_text(store.version(version))
    saved = store.restore(version, _who(), etag)
    audit("version restored", version)
    lines, problem = reload()
    return Outcome(saved, lines, problem)


def check_options(keys: Collection[str]) -> None:
    """A token that may change settings must neither become the administrator by that, nor have GT read and write files
    of this machine for it. Raises Forbidden."""
    if ACCOUNT not in getattr(current_user, "scopes", ()) and not _OWNERS[console().role].isdisjoint(keys):
        raise Forbidden(
            _("A token may not change who can log in, or names of files: do that in the console.")
        )


def check_text(text: str) -> None:
    """The same for a whole file, before anything that it names is read. Raises Forbidden, and ConfigError where the
    text can't be read at all."""
    if ACCOUNT in getattr(current_user, "scopes", ()):
        return
    store = store_of()
    now, then = store.document(store.read().text), store.document(text)
    check_options([key for key in _OWNERS[store.role] if now.get_option(key) != then.get_option(key)])


def check_readable(text: str) -> None:
    """A file in which the administrator's password stands as it is, or the key of cookies, is not for tokens.

    Raises Forbidden."""
    if ACCOUNT in getattr(current_user, "scopes", ()):
        return
    document = store_of().document(text)
    password = document.get_option("password")
    if document.get_option("signingKey") or (password and not passwords.is_hash(str(password))):
        text = _("The file has the password or signingKey of this console in it: a token may not read that.")
        raise Forbidden(text)


def store_of() -> Store:
    """The store of this console. Raises GTError where there is no file."""
    store = console().store
    if store is None:
        raise GTError(_("This GT was started without a file: start it with -c FILE to save changes."))
    return store


def reload() -> tuple[list[str], str]:
    """Have the running GT take over what is in the file: the lines it tells meanwhile, and why it does not ("")."""
    reloads = current_app.extensions.setdefault(_EXTENSION, Reloads(console().running))
    assert isinstance(reloads, Reloads)
    return reloads.ask()


class Reloads:
    """Reloads of the running GT, one at a time. Whoever asks while one runs waits for the next, all for the same one:
    a hundred saves at once take two."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._busy = False
        self._waiting: list[AsyncResult[tuple[list[str], str]]] = []

    def ask(self) -> tuple[list[str], str]:
        """The lines that a reload tells which begins from now on, and why it was refused ("" when it was not)."""
        result: AsyncResult[tuple[list[str], str]] = AsyncResult()
        self._waiting.append(result)
        if not self._busy:
            self._busy = True
            gevent.spawn(self._run)  # it goes on when the browser that asks has gone
        outcome = result.get()
        assert outcome is not None
        return outcome

    def _run(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                outcome = self._reload()
                for each in waiting:
                    each.set(outcome)
        finally:
            self._busy = False

    def _reload(self) -> tuple[list[str], str]:
        lines: list[str] = []
        try:
            self._running.reload(lines.append)
        except GTError as error:
            return lines, str(error)
        except Exception:
            log.exception("unexpected error while reloading")
            return lines, _("internal error: the log of this GT has it")
        return lines, ""


def _edit(
    change: Callable[[Document], None], etag: str | None, what: str, detail: str = "", secret: str = ""
) -> Outcome:
    saved = store_of().edit(change, etag, _who(), what)
    audit(what, detail)
    lines, problem = reload()
    return Outcome(saved, lines, problem, secret)


def _check_index(document: Document, index: int | None) -> None:
    if index is not None and not 0 <= index < len(document.services()):
        raise ConfigError(_("There is no service %(number)d in this file: it has changed.", number=index + 1))


def _check_user(document: Document, user: str) -> None:
    if user not in document.users():
        raise ConfigError(_("There is no user %(user)s in this file.", user=quoted(user)))


def _users_elsewhere() -> Collection[str]:
    """Users of the users file and the command line: they would win over one of the file."""
    config = console().usable_config()
    return config.users if isinstance(config, ServerConfig) else ()


def _who() -> str:
    return str(getattr(current_user, "name", "") or "")
