"""The one account of a console: the administrator that the configuration names, and what belongs to it in a request."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flask import g, request
from werkzeug.wrappers import Response

from gtapp.config.durable import write_new
from gtapp.config.files import state_directory
from gtapp.config.options import OPTIONS
from gtapp.config.passwords import hasher
from gtapp.config.store import Document, Store
from gtapp.console import passwords
from gtapp.console.context import Console, console
from gtapp.console.database import Database
from gtapp.console.security import is_secure, visitor_address
from gtapp.console.sessions import Session, Sessions
from gtapp.console.throttle import Throttle
from gtapp.console.tokens import Tokens
from gtapp.console.totp import Factor
from gtapp.console.words import _
from gtapp.errors import ConfigError, GTError

log = logging.getLogger("gt.console")

DEFAULT_NAME = "admin"
DATABASE = "console.db"  # in the state directory
KEY_FILE = "signing-key"
_BACKGROUND = ("live",)  # blueprints that only pages ask, as long as they are open


@dataclass(frozen=True)
class Administrator:
    """`password` is as the option has it: the password, an argon2id hash, or "" when nobody can log in."""

    name: str
    password: str
    stamp: str  # another one when name, password or signing key change


def administrator() -> Administrator:
    """Raises ConfigError when there is no configuration that could be used."""
    about = console()
    options = about.usable_config().options
    name = options.admin or DEFAULT_NAME
    text = f"{name}\0{options.password}".encode()
    return Administrator(
        name, options.password, hmac.digest(signing_key(about).encode(), text, "sha256").hex()
    )


def sessions() -> Sessions:
    about = console()
    return Sessions(about.db, about.clock, about.usable_config().options.web_idle_timeout)


def tokens() -> Tokens:
    about = console()
    return Tokens(about.db, about.clock)


# cookies: browsers send them to every port of a host, so that their names tell one console from another


def cookie_name(of: str) -> str:
    return f"gt_{console().port}_{of}"


def set_cookie(response: Response, of: str, value: str, lasts_s: float | None = None) -> None:
    """Lax, not strict: who follows a link to the console is still logged in, and nothing is changed by a GET."""
    response.set_cookie(
        cookie_name(of),
        value,
        max_age=None if lasts_s is None else int(lasts_s),
        secure=is_secure(),
        httponly=True,
        samesite="Lax",
    )


def session_of_request() -> Session | None:
    """The session that the request's cookie stands for, of whatever stage. Raises StorageError."""
    if "gt_session" not in g:
        cookie = request.cookies.get(cookie_name("session"), "")
        g.gt_session = None
        if cookie:
            used = not is_background()
            g.gt_session = sessions().find(cookie, administrator().stamp, visitor_address(), used)
    found: Session | None = g.gt_session
    return found


def is_background() -> bool:
    """Whether a page asks by itself, and not somebody who sits before it."""
    return request.blueprint in _BACKGROUND or "X-Background" in request.headers


def begin_session(response: Response, stage: str = "") -> None:
    """From this response on the browser has a new session, and the one before is over. Raises StorageError."""
    before = session_of_request()
    if before is not None:
        sessions().end(before.id)
    who = administrator()
    agent = request.headers.get("User-Agent", "")
    cookie = sessions().begin(who.name, who.stamp, visitor_address(), agent, stage)
    set_cookie(response, "session", cookie)


def end_session(response: Response) -> None:
    """The browser has none any more. Raises StorageError."""
    before = session_of_request()
    if before is not None:
        sessions().end(before.id)
    response.delete_cookie(cookie_name("session"), secure=is_secure(), httponly=True, samesite="Lax")


# the key


def signing_key(about: Console) -> str:
    """What signs cookies: the option `signingKey`, otherwise a random one that is kept in the state directory."""
    try:
        chosen = about.usable_config().options.signing_key
    except ConfigError:  # it is not set up yet
        chosen = ""
    return chosen or _kept_key(about.state / KEY_FILE)


_keys: dict[Path, str] = {}


def _kept_key(path: Path) -> str:
    """Where it can't be kept it is good as long as this process."""
    if path not in _keys:
        _keys[path] = _read_or_make(path)
    return _keys[path]


def _read_or_make(path: Path) -> str:
    key = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = path.with_name(f"{path.name}.{os.getpid()}")
        write_new(made, key.encode())
        try:
            os.link(made, path)  # whole, and not over one that another console has made meanwhile
        except FileExistsError:
            pass
        finally:
            made.unlink()
        return path.read_text().strip() or key
    except OSError as error:
        log.warning("%s cannot be kept: %s", path, error.strerror)
        return key


# the password


def set_password(password: str) -> None:
    """Keep the hash of a new password in the configuration. Every session ends by that. Waits.

    Raises GTError where that cannot be done, with the reason.
    """
    about = console()
    check_changeable(about)
    assert about.store is not None
    hashed = passwords.hash_password(password)
    about.store.edit(lambda text: text.set_option("password", hashed), None, administrator().name, "password")
    sessions().end_others()


def check_changeable(about: Console) -> None:
    """Raises GTError when a password in the file would not be the one that counts."""
    if about.store is None:
        raise GTError(
            _("GT runs without a configuration file: its command line has the password. Change it there.")
        )
    if about.environ.get(_PASSWORD.env):
        raise GTError(
            _("The environment variable %(name)s sets the password. Change it there.", name=_PASSWORD.env)
        )
    if any(
        word.startswith("-") and word.lstrip("-").partition("=")[0] == _PASSWORD.key for word in about.words
    ):
        raise GTError(_("The flag %(name)s sets the password. Change it there.", name=_PASSWORD.flag))


def reset_admin(path: Path, role: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Name and new password of the administrator of a configuration: for `gt.py reset-admin`.

    Second factor and sessions are gone by that, and nobody has to wait any more. Raises GTError.
    """
    if environ.get(_PASSWORD.env):
        raise GTError(f"the environment variable {_PASSWORD.env} sets the password: change it there")
    path = Path(os.path.realpath(path))
    state = state_directory(path)
    store = Store(path, role, state, ("-c", str(path)), environ)
    password, name = secrets.token_urlsafe(15), ""
    hashed = hasher.hash(password)

    def change(text: Document) -> None:
        nonlocal name
        name = str(text.get_option("admin") or DEFAULT_NAME)
        text.set_option("password", hashed)

    store.edit(change, None, "reset-admin", "password")
    db = Database(state / DATABASE)
    try:
        Factor(db, time.time).remove()
        Sessions(db, time.time).end_others()
        Throttle(db, time.time).forget_all()
        db.add_audit(time.time(), name, "reset-admin", "", "password reset", "")
    finally:
        db.close()
    return environ.get(_ADMIN.env) or name, password


_PASSWORD, _ADMIN = OPTIONS["server"]["password"], OPTIONS["server"]["admin"]
