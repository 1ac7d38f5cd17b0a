"""The token that lets its owner set up a GT that has no configuration yet: whoever can read the log or a file of this
machine is its owner, and nobody else.

128 random bits, good once, for an hour and for ten attempts. Kept as a hash (`setup-token.json`); in plain it is in
`setup-token` (0600) as long as it is good. When it is not, setting up is locked and nothing else: `gt.py setup-token`
makes a new one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gtapp.config.durable import replace
from gtapp.console.context import Console
from gtapp.console.words import _
from gtapp.errors import GTError

log = logging.getLogger("gt.console")

LASTS_S = 3600.0
ATTEMPTS = 10
GROUP = 4  # letters between two dashes, for whoever types it
PLAIN_FILE = "setup-token"
STATE_FILE = "setup-token.json"

Clock = Callable[[], float]


def make_token(state: Path, clock: Clock = time.time) -> str:
    """A new token; the one before is worth nothing. Raises GTError."""
    letters = base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()
    token = "-".join(letters[at : at + GROUP] for at in range(0, len(letters), GROUP))
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep(state, {"hash": _hash(token), "expires": clock() + LASTS_S, "attempts": 0})
        replace(state / PLAIN_FILE, f"{token}\n".encode())
    except OSError as error:
        raise GTError(
            f"{state}: the setup token cannot be written there ({error.strerror}): let this user write to it"
        ) from error
    return token


def current_token(state: Path, clock: Clock = time.time) -> str | None:
    """The token that is good now, for whoever may read this machine's files; None when there is none."""
    known = _read(state)
    if known is None or clock() >= known["expires"] or known["attempts"] >= ATTEMPTS:
        return None
    try:
        token = (state / PLAIN_FILE).read_text().strip()
    except (OSError, ValueError):
        return None
    return token if hmac.compare_digest(_hash(token), known["hash"]) else None


def check(about: Console, token: str, address: str) -> None:
    """Use the token up. Raises GTError when it is not the one that is good now, in the page's language.

    Every wrong one counts, wherever it comes from.
    """
    known = _read(about.state)
    if known is None:
        raise GTError(_("There is no token that is good now. Make a new one: gt.py setup-token"))
    if about.clock() >= known["expires"]:
        raise GTError(_("The token has expired. Make a new one: gt.py setup-token"))
    if known["attempts"] >= ATTEMPTS:
        raise GTError(_("There were too many wrong tokens. Make a new one: gt.py setup-token"))
    try:
        if not hmac.compare_digest(_hash(token), known["hash"]):
            known["attempts"] += 1
            _keep(about.state, known)
            log.warning("a wrong setup token from %s, %d of %d", address, known["attempts"], ATTEMPTS)
            raise GTError(
                _("This is not the token. It is in GT's log, and in the file %(file)s.", file=PLAIN_FILE)
            )
        (about.state / STATE_FILE).unlink()
        (about.state / PLAIN_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise GTError(
            _("The token cannot be checked: %(reason)s (%(file)s).", reason=error.strerror, file=about.state)
        ) from error
    log.info("the setup token has been used from %s", address)


def invitation(address: str, token: str, tls: bool = False) -> str:
    """What is shown to the owner: where the console is, and the token. `address` is where it listens."""
    host, _colon, port = address.rpartition(":")
    if host in ("0.0.0.0", "[::]", ""):
        host = "THIS-MACHINE"
    # What follows # never leaves the browser by itself: no proxy and no log sees it.
    url = f"{'https' if tls else 'http'}://{host}:{port}/setup#{token}"
    return (
        f"GT is not set up yet. Open\n\n    {url}\n\n"
        f"or type the token there: {token}\n"
        f"It is good once, for {LASTS_S / 60:.0f} minutes. gt.py setup-token makes a new one."
    )


def _read(state: Path) -> dict[str, Any] | None:
    try:
        known = json.loads((state / STATE_FILE).read_text())
        return {
            "hash": str(known["hash"]),
            "expires": float(known["expires"]),
            "attempts": int(known["attempts"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(state: Path, known: dict[str, Any]) -> None:
    """Raises OSError."""
    replace(state / STATE_FILE, json.dumps(known).encode())


def _hash(token: str) -> str:
    """As it is typed: dashes, spaces and the size of letters make no difference."""
    letters = "".join(token.replace("-", "").split()).lower()
    return hashlib.sha256(letters.encode(errors="surrogatepass")).hexdigest()
