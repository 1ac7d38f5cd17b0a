"""The console's database: what it survives, and what it says when it cannot be used."""

import logging
import sqlite3

import pytest

from gtapp.console import database
from gtapp.console.database import Database, StorageError


@pytest.fixture
def db(tmp_path):
    made = Database(tmp_path / "state" / "console.db")
    yield made
    made.close()


def test_it_is_made_for_its_user_alone(db):
    db.add_audit(1.0, "admin", "browser", "192.0.2.1", "logged in", "")
    assert db.path.stat().st_mode & 0o777 == 0o600
    assert db.path.parent.stat().st_mode & 0o777 == 0o700


def test_what_is_kept_is_there_after_a_restart(db):
    db.add_audit(1.0, "admin", "browser", "192.0.2.1", "logged in", "")
    db.close()
    again = Database(db.path)
    assert [dict(row) for row in again.audit(10)] == [
        {
            "id": 1,
            "time": 1.0,
            "name": "admin",
            "via": "browser",
            "address": "192.0.2.1",
            "what": "logged in",
            "detail": "",
        }
    ]
    again.close()


def test_a_transaction_is_whole(db):
    def fail():
        with db.transaction() as connection:
            connection.execute("INSERT INTO recovery VALUES ('a', NULL)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert db.rows("SELECT * FROM recovery") == []
    assert db.execute("INSERT INTO recovery VALUES ('b', NULL)") == 1


def test_one_that_is_deleted_is_begun_anew(db, caplog):
    db.execute("INSERT INTO recovery VALUES ('a', NULL)")
    for each in db.path.parent.iterdir():
        each.unlink()
    assert db.rows("SELECT * FROM recovery") == []
    assert db.execute("INSERT INTO recovery VALUES ('b', NULL)") == 1
    assert "is gone" in caplog.text


def test_with_its_directory(db):
    db.execute("INSERT INTO recovery VALUES ('a', NULL)")
    for each in db.path.parent.iterdir():
        each.unlink()
    db.path.parent.rmdir()
    assert db.rows("SELECT * FROM recovery") == []


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_one_that_is_damaged_is_put_aside(tmp_path, caplog, content):
    path = tmp_path / "console.db"
    path.write_bytes(content)
    db = Database(path)
    assert db.rows("SELECT * FROM recovery") == []
    assert db.execute("INSERT INTO recovery VALUES ('a', NULL)") == 1
    db.close()
    (aside,) = tmp_path.glob("console.db.damaged-*")
    assert aside.read_bytes() == content
    assert "is damaged" in caplog.text


def test_one_that_is_damaged_within_is_put_aside(db):
    """Pages in the middle are overwritten, as a failing disk does it."""
    for number in range(1000):
        db.add_audit(number, "admin", "browser", "192.0.2.1", "what" * 20, "detail" * 20)
    db.close()
    data = db.path.read_bytes()
    db.path.write_bytes(data[:8192] + b"\xff" * (len(data) - 8192))
    assert db.audit(10) == []
    db.add_audit(1.0, "admin", "browser", "192.0.2.1", "logged in", "")
    assert len(db.audit(10)) == 1
    assert len(list(db.path.parent.glob("console.db.damaged-*"))) == 1


def test_one_that_is_damaged_while_it_is_open(db):
    """The first who meets it is told; from then on there is a new one."""
    for number in range(1000):
        db.add_audit(number, "admin", "browser", "192.0.2.1", "what" * 20, "detail" * 20)
    db._open().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = db.path.stat().st_size
    with db.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    db._open().execute("PRAGMA cache_size = 1")
    with pytest.raises(StorageError, match="begun anew: try again"):
        db.audit(2000)
    assert db.audit(10) == []


def test_where_it_cannot_be(tmp_path, caplog):
    (tmp_path / "state").write_text("a file where the directory should be")
    db = Database(tmp_path / "state" / "console.db")
    with pytest.raises(StorageError, match=r"console\.db cannot be used .*: see that there is space"):
        db.rows("SELECT 1")
    (tmp_path / "state").unlink()
    assert db.rows("SELECT 1")
    db.close()


def test_one_that_another_process_holds(db, monkeypatch):
    """It is read all the same; what is written has to wait, and that not for long."""
    monkeypatch.setattr(database, "BUSY_S", 0.01)
    db.execute("INSERT INTO recovery VALUES ('a', NULL)")
    other = sqlite3.connect(db.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert len(db.rows("SELECT * FROM recovery")) == 1
    with pytest.raises(StorageError, match="locked"):
        db.execute("DELETE FROM recovery")
    other.execute("ROLLBACK")
    other.close()
    assert db.execute("DELETE FROM recovery") == 1


def test_a_full_disk(db):
    """It is read all the same, and written to again when there is space."""
    db.add_audit(1.0, "admin", "browser", "192.0.2.1", "logged in", "")
    pages = db._open().execute("PRAGMA page_count").fetchone()[0]
    db._open().execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full"):
        db.add_audit(1.0, "admin", "browser", "192.0.2.1", "logged in", "x" * 10_000)
    assert len(db.audit(10)) == 1
    db._open().execute("PRAGMA max_page_count = 1000000")
    db.add_audit(1.0, "admin", "browser", "192.0.2.1", "logged in", "x" * 10_000)
    assert len(db.audit(10)) == 2


def test_two_consoles_at_once(db):
    """While one is replaced both are there."""
    other = Database(db.path)
    db.execute("INSERT INTO recovery VALUES ('a', NULL)")
    assert other.execute("DELETE FROM recovery") == 1
    assert db.rows("SELECT * FROM recovery") == []
    other.close()


def test_the_audit_log_is_searched_and_forgets(db, monkeypatch):
    monkeypatch.setattr(database, "MAX_AUDIT", 150)
    monkeypatch.setattr(database, "TRIM_EVERY", 10)
    for number in range(200):
        db.add_audit(number, "admin", "browser", "192.0.2.1", f"user u{number} changed", "100%_\\ sure")
    entries = db.audit(1000)
    assert [entries[0]["what"], entries[-1]["what"]] == ["user u199 changed", "user u50 changed"]
    assert [row["what"] for row in db.audit(2, before=entries[0]["id"])] == [
        "user u198 changed",
        "user u197 changed",
    ]
    assert [row["what"] for row in db.audit(5, search="U123")] == ["user u123 changed"]
    assert len(db.audit(1000, search="100%_\\ S")) == 150
    assert db.audit(1000, search="1%s") == []


def test_samples(db):
    db.add_samples(1, [(100, "[1]"), (101, "[2]")])
    db.add_samples(60, [(60, "[3]")])
    db.add_samples(1, [(101, "[4]"), (102, "[5]")])
    assert db.samples(1) == [(100, "[1]"), (101, "[4]"), (102, "[5]")]
    assert db.samples(1, after=101) == [(102, "[5]")]
    db.forget_samples(1, before=102)
    assert db.samples(1) == [(102, "[5]")]
    assert db.samples(60) == [(60, "[3]")]


def test_nothing_is_logged_as_an_error_that_passes(db, caplog):
    with caplog.at_level(logging.ERROR):
        db.add_audit(1.0, "admin", "browser", "192.0.2.1", "logged in", "")
    assert caplog.text == ""
