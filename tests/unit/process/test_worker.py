"""A relay process from start to end: signals, exit codes, and what it says it holds."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtapp.errors import GTError
from gtapp.process import worker
from gtapp.process.worker import GRACE_S
from tests.support.relay import turn, until


class App:
    """A server or client that only notes what is done with it."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")
        if self.problem:
            raise GTError(self.problem)

    def stop(self, grace: float) -> None:
        self.calls.append(f"stop {grace}")


@pytest.fixture(autouse=True)
def _signals_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    watchers = []
    real = gevent.signal_handler

    def handler(*args: Any) -> Any:
        watchers.append(real(*args))
        return watchers[-1]

    monkeypatch.setattr(gevent, "signal_handler", handler)
    hub = gevent.get_hub()
    yield
    for watcher in watchers:
        watcher.cancel()
    vars(hub).pop("print_exception", None)
    turn()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: int) -> None:
    app = App()
    running = gevent.spawn(worker._run, app)
    until(lambda: app.calls)
    os.kill(os.getpid(), number)
    assert running.get(timeout=5) == 0
    assert app.calls == ["start", f"stop {GRACE_S}"]


def test_one_that_cannot_start(caplog: pytest.LogCaptureFixture) -> None:
    app = App("cannot listen on :80; ports below 1024 need root")
    assert worker._run(app) == 2
    assert app.calls == ["start"]
    assert "cannot listen on :80" in caplog.text


def test_it_tells_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = tmp_path / "stats"
    monkeypatch.setenv("GT_DEBUG_STATS", str(stats))
    running = gevent.spawn(worker._run, App())
    turn()
    os.kill(os.getpid(), signal.SIGUSR1)
    until(stats.exists)
    now = json.loads(stats.read_text())
    assert now["fds"] > 3
    assert {"greenlets", "pumps", "streams_opened", "bytes_in"} <= set(now)
    os.kill(os.getpid(), signal.SIGTERM)
    assert running.get(timeout=5) == 0
