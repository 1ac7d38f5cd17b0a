"""What the master answers by itself, and what a worker does. All of it together: tests/e2e/test_facts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from gtapp.errors import GTError
from gtapp.observe import logs, metrics
from gtapp.process import facts, probe
from gtapp.process.facts import Facts, Witness


def nothing_told(line: str) -> None:
    raise AssertionError(line)


def ask(command: str, **more: Any) -> dict[str, Any]:
    """A master without any configuration."""
    return Facts(list).commands[command]({"command": command, **more}, nothing_told)


def test_without_a_configuration_there_is_nothing_to_tell() -> None:
    assert ask("metrics") == {"units": []}
    assert ask("connections") == {"units": []}
    assert ask("disconnect", user="id1") == {"count": 0, "text": "id1 has no tunnel at the moment"}
    with pytest.raises(GTError, match="there is no configuration that runs"):
        ask("check")


def test_a_configuration_that_does_not_run() -> None:
    for command in ("metrics", "connections", "log", "check"):
        with pytest.raises(GTError, match=r"/no/such\.yml: that configuration does not run here"):
            ask(command, config="/no/such.yml")


@pytest.mark.parametrize("limit", [-1, "5", True, 1.5, None])
def test_a_limit_that_is_none(limit: Any) -> None:
    with pytest.raises(GTError, match=r"limit: found .*, allowed: a whole number from 0"):
        ask("connections", limit=limit)


@pytest.mark.parametrize("named", [{}, {"user": ""}, {"user": "a", "connection": "1.1.1"}])
def test_it_has_to_be_said_what_is_to_be_cut(named: dict[str, str]) -> None:
    with pytest.raises(GTError, match="one of them"):
        ask("disconnect", **named)


def test_the_masters_own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.recent, "role", "server")
    logs.recent.emit(logging.LogRecord("gt.x", logging.WARNING, "", 0, "hello", None, None))
    found = ask("log", limit=1)
    assert found["lines"][-1]["message"] == "hello"
    assert found["lines"][-1]["source"] == "master"
    assert ask("log", after=found["after"]) == {"lines": [], "after": found["after"], "truncated": False}
    assert ask("log", after=found["after"] | {"worker 9": 4})["after"] == found["after"]
    with pytest.raises(GTError, match="log: the level is one of trace, debug"):
        ask("log", level="loud")


def test_what_the_system_says_of_a_process() -> None:
    sum(number * number for number in range(100_000))
    usage = facts._usage(os.getpid())
    assert usage is not None
    assert usage["rss"] > 5_000_000
    assert usage["cpu_s"] >= 0
    with open("/dev/null"):
        now = facts._usage(os.getpid())
        assert now is not None
        assert now["fds"] == usage["fds"] + 1


def test_a_process_that_has_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert facts._usage(process.pid) is None


# in a worker


class App:
    """A relay as far as it is asked."""

    def __init__(self) -> None:
        self.counts = 0
        self.takes_s = 0.0

    def count(self) -> None:
        self.counts += 1

    def metrics(self) -> dict[str, Any]:
        now = time.monotonic()
        while time.monotonic() < now + self.takes_s:
            pass
        return {"users": {"id1": {}}}

    def connections(self, limit: int, user: str | None) -> dict[str, Any]:
        return {"total": limit, "connections": [user]}

    def disconnect(self, request: Any, why: str) -> int:
        assert (request["user"], why) == ("id1", "by me")
        return 3

    def check(self) -> dict[str, Any]:
        return {"works": True}


def test_what_a_worker_answers() -> None:
    app = App()
    counted = Witness().answer(app, "metrics", {})
    assert counted["users"] == {"id1": {}}
    assert counted["numbers"].keys() >= metrics.COUNTERS
    assert counted["histograms"] == metrics.histograms()
    assert Witness().answer(app, "connections", {"limit": 5, "user": "id1"}) == {
        "total": 5,
        "connections": ["id1"],
    }
    assert Witness().answer(app, "disconnect", {"user": "id1", "why": "by me"}) == {"count": 3}
    assert Witness().answer(app, "check", {}) == {"works": True}
    assert Witness().answer(app, "log", {"after": 1 << 60, "level": "info", "limit": 5})["lines"] == []


def test_one_that_is_still_starting() -> None:
    assert Witness().answer(None, "metrics", {})["numbers"].keys() >= metrics.COUNTERS
    for question in ("connections", "disconnect", "check"):
        with pytest.raises(GTError, match="still starting"):
            Witness().answer(None, question, {"limit": 5, "user": None, "why": ""})


def test_what_takes_long_to_tell_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """But always to a master that knows nothing, and at the end."""
    app, witness = App(), Witness()
    for _ in range(3):
        assert "users" in witness.answer(app, "metrics", {"known": True})
    app.takes_s = 2 * facts.CHEAP_S
    assert "users" in witness.answer(app, "metrics", {"known": True})
    for _ in range(3):
        answer = witness.answer(app, "metrics", {"known": True})
        assert answer.keys() == {"numbers", "histograms"}
    assert app.counts == 7
    assert "users" in witness.answer(app, "metrics", {"known": False})
    assert "users" in witness.last_words(app)["counted"]
    now = time.monotonic()
    monkeypatch.setattr(facts, "monotonic", lambda: now + 1000)
    assert "users" in witness.answer(app, "metrics", {"known": True})


# probe


def test_a_probe_needs_options() -> None:
    for options in ({}, {"options": "id1"}, {"options": None}):
        with pytest.raises(GTError, match="probe: needs options"):
            ask("probe", **options)


def test_no_more_than_a_few_probes_run_at_a_time() -> None:
    taken = [probe._at_a_time.acquire(blocking=False) for _ in range(probe.MOST)]
    assert all(taken)
    try:
        with pytest.raises(GTError, match="ask again in a moment"):
            ask("probe", options={"id": "id1"})
    finally:
        for _ in taken:
            probe._at_a_time.release()


def test_a_probes_secret_is_hidden_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def tried(options: Any) -> dict[str, Any]:
        seen.append(options)
        return {"works": False, "text": "no"}

    monkeypatch.setattr(probe, "probe", tried)
    secret = f"hush-{time.time()}"
    assert ask("probe", options={"id": "id1", "secret": secret}) == {
        "ok": False,
        "works": False,
        "text": "no",
    }
    assert seen == [{"id": "id1", "secret": secret}]
    assert logs.redact(f"it is {secret}") == "it is ***"
