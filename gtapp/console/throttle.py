"""How soon somebody may try again to log in: delays that grow with each failure, by address and by account.

Everybody is counted by address and by account, so that neither many names from one place nor many places with one
name can guess for long. Lest strangers lock the owner out with that, a browser that has logged in before (it has a
signed cookie) is counted by itself instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gtapp.console.database import MAX_THROTTLED, Database

FORGOTTEN_S = 24 * 3600.0  # after the last failure


@dataclass(frozen=True)
class Rule:
    """So many failures are free; then the delay is 2 s, and with each more the double, up to the longest."""

    free: int
    longest_s: float

    def delay(self, failures: int) -> float:
        return min(2.0 ** min(failures - self.free, 30), self.longest_s) if failures > self.free else 0.0


RULES = {
    "address": Rule(5, 900.0),
    "account": Rule(10, 300.0),
    "device": Rule(5, 900.0),
    "token": Rule(5, 900.0),  # of the setup
}


def key(kind: str, of: str) -> str:
    """What is counted; `kind` is one of RULES. Of any length, and not readable in the database."""
    return f"{kind}:{hashlib.sha256(of.encode(errors='surrogatepass')).hexdigest()[:32]}"


class Throttle:
    """Each method raises StorageError."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    def take(self, keys: Sequence[str]) -> float:
        """An attempt begins: 0.0, or for how many seconds it has to wait yet, and then it is not to be made.

        It counts as failed until `forget` or `give_back`: of many at once no more are made than one after another.
        """
        now = self._clock()
        with self._db.transaction() as connection:
            failures = dict.fromkeys(keys, 0)
            wait = 0.0
            for name in keys:
                row = connection.execute("SELECT * FROM throttle WHERE key = ?", (name,)).fetchone()
                if row is not None and now - row["last"] < FORGOTTEN_S:
                    failures[name] = row["failures"]
                    if row["last"] <= now:  # the clock has not been set back since
                        wait = max(wait, row["until"] - now)
            if wait > 0:
                return wait
            for name, before in failures.items():
                delay = RULES[name.partition(":")[0]].delay(before + 1)
                connection.execute(
                    "INSERT OR REPLACE INTO throttle VALUES (?, ?, ?, ?)",
                    (name, before + 1, now, now + delay),
                )
            connection.execute(
                "DELETE FROM throttle WHERE key IN (SELECT key FROM throttle ORDER BY last DESC LIMIT -1 OFFSET ?)",
                (MAX_THROTTLED,),
            )
        return 0.0

    def give_back(self, keys: Sequence[str]) -> None:
        """The attempt was not made after all: it does not count. Those before it do as before."""
        now = self._clock()
        with self._db.transaction() as connection:
            connection.executemany(
                "UPDATE throttle SET failures = max(failures - 1, 0), until = ? WHERE key = ?",
                [(now, name) for name in keys],
            )

    def forget(self, keys: Sequence[str]) -> None:
        """The attempt was right."""
        with self._db.transaction() as connection:
            connection.executemany("DELETE FROM throttle WHERE key = ?", [(name,) for name in keys])

    def forget_all(self) -> None:
        """Whoever waits may try again at once."""
        self._db.execute("DELETE FROM throttle")
