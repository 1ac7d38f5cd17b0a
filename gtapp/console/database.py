"""The console's own memory, one SQLite file: sessions, tokens, second factor, throttle, audit log and samples.

Nothing in it is needed for the relay to run. It is opened when it is used first and again when somebody has deleted
it; one that is damaged is put aside and begun anew. What cannot be read or written (disk full, locked) raises
StorageError, and the pages that can do without go on.

SQLite is fast enough here to be called on the hub's thread; nothing of it switches greenlets, so that each
`transaction` is whole for all greenlets of this process, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gtapp.errors import GTError
from gtapp.observe.logs import Limited

log = logging.getLogger("gt.console")
_limited = Limited("gt.console")

BUSY_S = (
    0.25  # that the hub waits for another process, which is a console that is just replaced or reset-admin
)
MAX_AUDIT = 20_000  # entries; the oldest are forgotten
MAX_THROTTLED = 10_000  # keys; those that are idle the longest are forgotten
TRIM_EVERY = 100  # entries of the audit log

# Each step brings the file from the version that is its place in the list to the next one.
_STEPS = (
    """
    CREATE TABLE factor (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        secret TEXT NOT NULL,
        pending TEXT NOT NULL,
        last_step INTEGER NOT NULL,
        since REAL NOT NULL
    );
    CREATE TABLE recovery (hash TEXT PRIMARY KEY, used REAL);
    CREATE TABLE sessions (
        hash TEXT PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        stage TEXT NOT NULL,
        stamp TEXT NOT NULL,
        created REAL NOT NULL,
        seen REAL NOT NULL,
        address TEXT NOT NULL,
        agent TEXT NOT NULL
    );
    CREATE TABLE tokens (
        hash TEXT PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        label TEXT NOT NULL,
        scopes TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL,
        used REAL,
        address TEXT NOT NULL
    );
    CREATE TABLE throttle (
        key TEXT PRIMARY KEY,
        failures INTEGER NOT NULL,
        last REAL NOT NULL,
        until REAL NOT NULL
    );
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        name TEXT NOT NULL,
        via TEXT NOT NULL,
        address TEXT NOT NULL,
        what TEXT NOT NULL,
        detail TEXT NOT NULL
    );
    CREATE TABLE samples (
        step INTEGER NOT NULL,
        time INTEGER NOT NULL,
        numbers TEXT NOT NULL,
        PRIMARY KEY (step, time)
    ) WITHOUT ROWID;
    """,
)


class StorageError(GTError):
    """The console's database cannot be used now; the message says what to do."""


class Database:
    """The file at `path`; its directory is made when it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode of what is open
        self._audited = 0

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a SELECT finds. Raises StorageError."""
        try:
            return self._open().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._problem(error) from error

    def row(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        """The first of it. Raises StorageError."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Do it; how many rows it was about. Raises StorageError."""
        with self.transaction() as connection:
            return connection.execute(sql, values).rowcount

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, and nobody else's writes within. Raises StorageError. Do nothing in it that waits."""
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._problem(error) from error

    # audit log

    def add_audit(self, time: float, name: str, via: str, address: str, what: str, detail: str) -> None:
        """Raises StorageError."""
        with self.transaction() as connection:
            added = connection.execute(
                "INSERT INTO audit (time, name, via, address, what, detail) VALUES (?, ?, ?, ?, ?, ?)",
                (time, name, via, address, what, detail),
            ).lastrowid
            self._audited += 1
            if self._audited % TRIM_EVERY == 0:
                connection.execute("DELETE FROM audit WHERE id <= ?", ((added or 0) - MAX_AUDIT,))

    def audit(self, limit: int, before: int | None = None, search: str = "") -> list[sqlite3.Row]:
        """The newest entries first: id, time, name, via, address, what, detail. `before` is an id. Raises
        StorageError."""
        text = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        return self.rows(
            "SELECT * FROM audit WHERE (?1 IS NULL OR id < ?1) AND (?2 = '%%'"
            " OR what || ' ' || detail || ' ' || name || ' ' || address LIKE ?2 ESCAPE '\\')"
            " ORDER BY id DESC LIMIT ?3",
            (before, text, limit),
        )

    # samples of the charts

    def add_samples(self, step: int, samples: Iterable[tuple[int, str]]) -> None:
        """`samples` are time and numbers as JSON, one for each `step` seconds. Raises StorageError."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO samples (step, time, numbers) VALUES (?, ?, ?)",
                [(step, time, numbers) for time, numbers in samples],
            )

    def samples(self, step: int, after: int = 0) -> list[tuple[int, str]]:
        """Those later than `after`, the oldest first. Raises StorageError."""
        found = self.rows(
            "SELECT time, numbers FROM samples WHERE step = ? AND time > ? ORDER BY time", (step, after)
        )
        return [(each["time"], each["numbers"]) for each in found]

    def forget_samples(self, step: int, before: int) -> None:
        """Raises StorageError."""
        self.execute("DELETE FROM samples WHERE step = ? AND time < ?", (step, before))

    # the file

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._file == _identity(self.path):
            return self._connection
        if self._connection is not None:
            log.warning("%s is gone or another file now: the console begins with what is there", self.path)
        self.close()
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._put_aside(error)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StorageError(_words(self.path, error.strerror or str(error))) from error
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            _upgrade(connection)
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(f"malformed: {found}")
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, _identity(self.path)
        return connection

    def _put_aside(self, error: sqlite3.Error) -> None:
        """What is damaged stays for whoever wants to look at it. Raises StorageError."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        try:
            os.replace(self.path, aside)
            for ending in ("-wal", "-shm"):
                self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
        except OSError as problem:
            raise StorageError(_words(self.path, problem.strerror or str(problem))) from problem
        log.error("%s is damaged (%s): it is %s now, sessions and tokens are lost", self.path, error, aside)

    def _problem(self, error: sqlite3.Error) -> StorageError:
        if _is_damage(error):
            self.close()
            self._put_aside(error)
            return StorageError(f"{self.path} was damaged and has been begun anew: try again")
        _limited.error("%s: %s", self.path, error)
        return StorageError(_words(self.path, str(error)))


def _upgrade(connection: sqlite3.Connection) -> None:
    """Make or change the tables. Raises sqlite3.Error."""
    if connection.execute("PRAGMA user_version").fetchone()[0] >= len(_STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]  # another console may have been first
    for step in _STEPS[version:]:
        for statement in step.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(_STEPS)}")
    connection.execute("COMMIT")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_damage(error: sqlite3.Error) -> bool:
    """Rather than something that passes."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return str(error).startswith("malformed")
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _words(path: Path, reason: str) -> str:
    return (
        f"the console's database {path} cannot be used ({reason}): see that there is space and that this user may "
        f"write there"
    )
