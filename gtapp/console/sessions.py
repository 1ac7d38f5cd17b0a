"""Who is logged in by a browser: rows of the console's database, found by the hash of a random cookie.

A session begins at a login and never takes over one that was there before. It ends when it is idle or old, when it is
revoked, and when name or password of the administrator are others than at the login (`stamp`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from gtapp.console.database import Database, StorageError

IDLE_S = 30 * 60.0
ABSOLUTE_S = 12 * 3600.0
CODE_S = 5 * 60.0  # for the second factor to be typed
SEEN_EVERY_S = 20.0  # how exactly it is known when a session was used; not every request is to write
MAX_SESSIONS = 100  # of all; the one that is idle the longest ends when there is one more
MAX_AGENT = 300  # characters of User-Agent that are kept

WAITS_FOR_CODE = (
    "code"  # the stage of one whose password was right, and which has to show the second factor yet
)


@dataclass(frozen=True)
class Session:
    """`id` names it on pages, and does not let anybody in. Times are seconds of the epoch."""

    id: str
    name: str
    stage: str  # "" or WAITS_FOR_CODE
    created: float
    seen: float
    address: str
    agent: str


class Sessions:
    """All of them; each method raises StorageError."""

    def __init__(self, db: Database, clock: Callable[[], float], idle_s: float = IDLE_S) -> None:
        """`idle_s` 0: they end when they are old, and not before."""
        self._db = db
        self._clock = clock
        self._idle_s = idle_s or ABSOLUTE_S

    def begin(self, name: str, stamp: str, address: str, agent: str, stage: str = "") -> str:
        """The cookie of a new one."""
        cookie, now = secrets.token_urlsafe(32), self._clock()
        row = (_hash(cookie), secrets.token_hex(8), name, stage, stamp, now, now, address, agent[:MAX_AGENT])
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE created < ? OR seen < ?", self._oldest())
            connection.execute(f"INSERT INTO sessions VALUES ({', '.join('?' * len(row))})", row)
            connection.execute(
                "DELETE FROM sessions WHERE hash IN"
                " (SELECT hash FROM sessions ORDER BY seen DESC, rowid DESC LIMIT -1 OFFSET ?)",
                (MAX_SESSIONS,),
            )
        return cookie

    def find(self, cookie: str, stamp: str, address: str, used: bool = True) -> Session | None:
        """The one of a cookie, which is used now from `address`, or is only looked at."""
        row = self._db.row("SELECT * FROM sessions WHERE hash = ?", (_hash(cookie),))
        if row is None:
            return None
        now = self._clock()
        created, seen = row["created"], row["seen"]
        old = now - created >= (CODE_S if row["stage"] else ABSOLUTE_S) or now - seen >= self._idle_s
        if old or row["stamp"] != stamp:
            self._db.execute("DELETE FROM sessions WHERE hash = ?", (row["hash"],))
            return None
        if used and (now - seen >= SEEN_EVERY_S or address != row["address"]):
            self._used(row["hash"], now, address)
        return _session(row)

    def all(self, stamp: str) -> list[Session]:
        """Those that let somebody in, the one that was used last first."""
        rows = self._db.rows(
            "SELECT * FROM sessions WHERE stamp = ? AND stage = '' AND created > ? AND seen > ?"
            " ORDER BY seen DESC",
            (stamp, *self._oldest()),
        )
        return [_session(row) for row in rows]

    def end(self, id: str) -> bool:
        """Whether there was one with that id."""
        return self._db.execute("DELETE FROM sessions WHERE id = ?", (id,)) > 0

    def end_others(self, id: str = "") -> int:
        """All but that one end; how many that were."""
        return self._db.execute("DELETE FROM sessions WHERE id != ?", (id,))

    def _oldest(self) -> tuple[float, float]:
        """When one must have begun, and been used, to be valid now."""
        now = self._clock()
        return now - ABSOLUTE_S, now - self._idle_s

    def _used(self, hash: str, now: float, address: str) -> None:
        try:
            self._db.execute("UPDATE sessions SET seen = ?, address = ? WHERE hash = ?", (now, address, hash))
        except StorageError:
            pass  # the disk is full, and the log says so: who is logged in may go on and look what is wrong


def _session(row: object) -> Session:
    values = dict(row)  # type: ignore[call-overload]
    return Session(**{name: values[name] for name in Session.__dataclass_fields__})


def _hash(cookie: str) -> str:
    """The cookie is random enough to need no salt. Who reads the database cannot log in by it."""
    return hashlib.sha256(cookie.encode()).hexdigest()
