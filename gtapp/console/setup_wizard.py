"""The wizard of the first run: its steps and what has been entered so far. Kept in memory, there is one of it.

`setup` serves it; `setup_server` and `setup_client` say what their steps ask, and make the configuration of it.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml
from flask_babel import lazy_gettext
from werkzeug.datastructures import MultiDict

from gtapp.config.load import MAKE_CERTIFICATE
from gtapp.config.values import Address
from gtapp.console import passwords
from gtapp.console.words import _

IDLE_S = 2 * 3600.0  # a wizard that nobody has touched for so long needs a new token
MAX_NAME = 64
MAX_FIELD = 2000  # of a text that is typed; a join code is the longest

Form = MultiDict[str, str]
Entry = dict[str, Any]


class Refused(Exception):
    """A step can't be taken like this: by field what is wrong, and what is wrong with the whole."""

    def __init__(self, errors: Mapping[str, str] | None = None, notice: str = "", **more: Any) -> None:
        super().__init__(notice or str(errors))
        self.errors = dict(errors or {})
        self.notice = notice
        self.more = more  # for the template


@dataclass(frozen=True)
class Step:
    """One question. `read` takes the form and says what is kept of it; it raises Refused. `show` is what the template
    needs beside that. A step that is not `needed` is left out. `check` looks at what is typed before it is kept; what
    it finds goes to the template setup/check_NAME.html."""

    name: str
    title: Any
    short: Any  # in the list of steps
    read: Callable[[Wizard, Form], Entry]
    show: Callable[[Wizard, Mapping[str, Any]], Mapping[str, Any]] = lambda wizard, values: {}
    needed: Callable[[Wizard], bool] = lambda wizard: True
    check: Callable[[Wizard, Form], Mapping[str, Any]] | None = None


class Flow(Protocol):
    """The steps of a role, and what comes of them. Both `setup_server` and `setup_client` are one."""

    @property
    def STEPS(self) -> tuple[Step, ...]: ...

    def document(self, wizard: Wizard) -> dict[str, Any]:
        """The configuration, as it stands in YAML."""

    def step_of(self, problem: str) -> str:
        """The step whose answer a problem of the start is about; "" when nobody can tell."""

    def overview(self, wizard: Wizard) -> list[tuple[str, str, str]]:
        """For the summary: step, what it is, what was chosen."""


@dataclass
class Wizard:
    """`owner` is what the browser shows that has entered the token, "" as long as none has."""

    role: str
    listen: str  # where the console is
    tls: bool
    owner: str = field(default="", repr=False)
    seen: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict, repr=False)  # by step
    begun: bool = False  # it is saved, and runs

    def enter(self, now: float) -> str:
        """Whoever has shown a token takes the wizard, from its first step on; what their browser is to show."""
        self.owner = secrets.token_urlsafe(32)
        self.seen = now
        self.entries.clear()
        return self.owner

    def is_owner(self, shown: str, now: float) -> bool:
        """Whether what a browser shows is what `enter` has given."""
        if not self.owner or not hmac.compare_digest(shown.encode(), self.owner.encode()):
            return False
        if now - self.seen > IDLE_S and not self.begun:
            self.owner = ""
            self.entries.clear()
            return False
        self.seen = now
        return True

    def value(self, step: str, name: str, default: Any = "") -> Any:
        return self.entries.get(step, {}).get(name, default)

    def console_options(self) -> dict[str, Any]:
        """What both roles write of the console itself."""
        options: dict[str, Any] = {"webAddr": self.listen}
        if self.tls:
            options["webCertFile"] = MAKE_CERTIFICATE
        account = self.entries["account"]
        return {**options, "admin": account["name"], "password": account["hash"]}


def text_of(form: Form, name: str) -> str:
    """What was typed into a field, without what is around it by accident."""
    return form.get(name, "").strip()[:MAX_FIELD]


def yaml_text(wizard: Wizard, document: Mapping[str, Any], target: Path | None) -> str:
    """The file, with two lines on top for whoever finds it."""
    scheme = "https" if wizard.tls else "http"
    file, directory = (f" -c {target}", f" -c {target.parent}") if target else ("", "")
    head = (
        f"# Made by the first-run wizard. Edit it here, or in the console at {scheme}://{wizard.listen}\n"
        f"# gt.py check{file} shows what it amounts to, gt.py -s reload{directory} takes it over.\n"
    )
    body: str = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=1000)
    return head + body


def shown_address(address: Address) -> str | int:
    """As people write it: 80, not :80."""
    return str(address) if address.host else address.port


# the administrator's account, the same for both roles


def read_account(wizard: Wizard, form: Form) -> Entry:
    """Of the password only the hash is kept; an empty one keeps what was there before."""
    name = text_of(form, "name")
    password, again = form.get("password", ""), form.get("again", "")
    errors = {}
    if not name:
        errors["name"] = _("Choose a name, for example admin.")
    elif len(name) > MAX_NAME or not name.isprintable():
        errors["name"] = _("Use at most %(n)s letters, no line breaks.", n=MAX_NAME)
    kept = wizard.value("account", "hash")
    if kept and not password and not again and not errors:
        return {"name": name, "hash": kept}
    if problem := passwords.problem_of(password, name):
        errors["password"] = problem
    elif password != again:
        errors["again"] = _("This is not the same password. Type it again.")
    if errors:
        raise Refused(errors)
    try:
        return {"name": name, "hash": passwords.hash_password(password)}
    except passwords.Busy as error:
        raise Refused(notice=str(error)) from None


ACCOUNT = Step(
    "account",
    lazy_gettext("Who may come in?"),
    lazy_gettext("Account"),
    read_account,
    lambda wizard, values: {
        "kept": bool(wizard.value("account", "hash")),
        "min_password": passwords.MIN_PASSWORD,
    },
)
SUMMARY = Step(
    "summary",
    lazy_gettext("Ready to start"),
    lazy_gettext("Start"),
    lambda wizard, form: {},
)
