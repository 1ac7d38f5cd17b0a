"""The last lines of the log in memory: numbered, redacted, bounded in number and size."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import time
from typing import Any

import pytest

from gtapp.observe import logs, recent
from gtapp.observe.recent import Recent

log = logging.getLogger("gt.test")
ALL = 0


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recent]:
    """Set up as in any process, at the level info."""
    made = Recent(logs._shown, logs.level_name)
    monkeypatch.setattr(logs, "recent", made)
    root = logging.getLogger()
    before, level, gt_level = list(root.handlers), root.level, logging.getLogger("gt").level
    logs.setup("info", "text", None, 0, 1, "server/2")
    yield made
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("gt").setLevel(gt_level)
    logging.captureWarnings(False)


def lines(memory: Recent, after: int = 0, level: int = ALL, limit: int = 100) -> list[dict[str, Any]]:
    found = memory.lines(after, level, limit)["lines"]
    assert isinstance(found, list)
    return found


def test_a_line(memory: Recent) -> None:
    before = time()
    log.warning("tunnel %d is silent", 3)
    (line,) = lines(memory)
    assert before - 0.001 <= line.pop("time") <= time() + 0.001
    assert line.pop("seq") == memory.lines(0, ALL, 1)["seq"]
    assert line == {
        "level": "warn",
        "role": "server/2",
        "logger": "gt.test",
        "message": "tunnel 3 is silent",
    }


def test_only_what_is_logged_is_there(memory: Recent) -> None:
    log.debug("below the level")
    logging.getLogger("other.library").info("nobody asked")
    logging.getLogger("other.library").warning("beware")
    assert [each["message"] for each in lines(memory)] == ["beware"]


def test_secrets_and_control_characters_are_not(memory: Recent) -> None:
    logs.hide("hush-hush-hush")
    log.info("the secret is %s\x1b[2J", "hush-hush-hush")
    try:
        raise ValueError("hush-hush-hush")
    except ValueError:
        log.exception("it failed")
    first, second = lines(memory)
    assert first["message"] == r"the secret is ***\x1b[2J"
    assert second["traceback"].endswith("ValueError: ***")
    assert "hush" not in str(memory.lines(0, ALL, 10))


def test_what_was_read_is_not_read_again(memory: Recent) -> None:
    log.info("one")
    read = memory.lines(0, ALL, 10)
    assert memory.lines(read["seq"], ALL, 10) == {"lines": [], "seq": read["seq"], "more": False}
    log.info("two")
    log.error("three")
    news = memory.lines(read["seq"], ALL, 10)
    assert [each["message"] for each in news["lines"]] == ["two", "three"]
    assert [each["seq"] for each in news["lines"]] == [read["seq"] + 1, read["seq"] + 2]


def test_a_process_that_takes_the_place_of_another_is_ahead_of_it(memory: Recent) -> None:
    for _ in range(10):
        log.info("the one before")
    before = memory.lines(0, ALL, 1)["seq"]
    later = Recent(logs._shown, logs.level_name)
    assert later.lines(0, ALL, 1)["seq"] >= before - 10
    assert before < (time() + 1) * 1000


def test_level_and_limit(memory: Recent) -> None:
    for number in range(6):
        log.log(logging.ERROR if number % 2 else logging.INFO, "line %d", number)
    errors = memory.lines(0, logging.ERROR, 2)
    assert [each["message"] for each in errors["lines"]] == ["line 3", "line 5"]
    assert errors["more"]
    assert not memory.lines(0, logging.ERROR, 3)["more"]


def test_a_line_is_not_too_long(memory: Recent) -> None:
    log.info("x" * 100_000)
    assert lines(memory)[0]["message"] == "x" * recent.MOST_TEXT


def test_the_oldest_make_room(memory: Recent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST_LINES", 5)
    for number in range(8):
        log.info("line %d", number)
    assert [each["message"] for each in lines(memory)] == [f"line {number}" for number in range(3, 8)]


def test_all_together_are_not_too_long(memory: Recent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST_BYTES", 1000)
    for number in range(30):
        log.info("%02d%s", number, "x" * 98)
    assert len(lines(memory)) == 10
    log.info("short")
    assert len(lines(memory)) == 10
    assert lines(memory)[0]["message"].startswith("21")


def test_setting_up_again_does_not_double_it(memory: Recent) -> None:
    logs.setup("info", "json", None, 0, 1, "client")
    log.info("once")
    (line,) = lines(memory)
    assert line["role"] == "client"
