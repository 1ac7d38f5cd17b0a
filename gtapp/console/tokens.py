"""API tokens: `gt_` and a random part, sent as `Authorization: Bearer gt_…`. Kept as hashes, with what each may do."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gtapp.console.database import Database, StorageError
from gtapp.errors import GTError

PREFIX = "gt_"
SCOPES = ("read", "users", "settings", "system", "metrics")
USED_EVERY_S = 60.0  # how exactly it is known when a token was used
MAX_TOKENS = 100
MAX_LABEL = 100  # characters


@dataclass(frozen=True)
class Token:
    """What is known of one; the token itself only its owner has. Times are seconds of the epoch."""

    id: str
    label: str
    scopes: frozenset[str]
    created: float
    expires: float | None
    used: float | None
    address: str


class Tokens:
    """All of them; each method raises StorageError."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    def new(self, label: str, scopes: Iterable[str], lasts_s: float | None) -> str:
        """A new one, to be shown this once. `lasts_s` None: it does not expire. Raises GTError."""
        chosen = [each for each in SCOPES if each in set(scopes)]
        token, now = PREFIX + secrets.token_urlsafe(32), self._clock()
        expires = None if lasts_s is None else now + lasts_s
        row = (_hash(token), secrets.token_hex(8), label, " ".join(chosen), now, expires, None, "")
        with self._db.transaction() as connection:
            if connection.execute("SELECT count(*) FROM tokens").fetchone()[0] >= MAX_TOKENS:
                raise GTError(f"there are {MAX_TOKENS} tokens already: revoke one that is not used any more")
            connection.execute(f"INSERT INTO tokens VALUES ({', '.join('?' * len(row))})", row)
        return token

    def find(self, token: str, address: str) -> Token | None:
        """The one that was sent, which is used now from `address`; None when it is unknown or has expired."""
        row = self._db.row("SELECT * FROM tokens WHERE hash = ?", (_hash(token),))
        now = self._clock()
        if row is None or (row["expires"] is not None and now >= row["expires"]):
            return None
        if row["used"] is None or now - row["used"] >= USED_EVERY_S or address != row["address"]:
            try:
                self._db.execute(
                    "UPDATE tokens SET used = ?, address = ? WHERE hash = ?", (now, address, row["hash"])
                )
            except StorageError:
                pass  # the disk is full, and the log says so
        return _token(row)

    def all(self) -> list[Token]:
        """The newest first."""
        return [_token(row) for row in self._db.rows("SELECT * FROM tokens ORDER BY created DESC, id")]

    def revoke(self, id: str) -> Token | None:
        """It is worth nothing from now on; what it was."""
        with self._db.transaction() as connection:
            row = connection.execute("SELECT * FROM tokens WHERE id = ?", (id,)).fetchone()
            connection.execute("DELETE FROM tokens WHERE id = ?", (id,))
        return None if row is None else _token(row)


def _token(row: object) -> Token:
    values = dict(row)  # type: ignore[call-overload]
    values["scopes"] = frozenset(values["scopes"].split())
    return Token(**{name: values[name] for name in Token.__dataclass_fields__})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
