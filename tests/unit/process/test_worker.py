"""A relay process from start to end: signals, exit codes, and what it says it holds."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtapp.config.load import ServerConfig, User
from gtapp.config.options import ServerOptions
from gtapp.config.values import Address
from gtapp.errors import ConfigError, GTError
from gtapp.observe import logs
from gtapp.process import worker
from gtapp.process.worker import GRACE_S
from tests.support.relay import turn, until


class App:
    """A server or client that only notes what is done with it."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.calls: list[str] = []
        self.config: Any = None

    def start(self) -> None:
        self.calls.append("start")
        if self.problem:
            raise GTError(self.problem)

    def reload(self, config: Any) -> None:
        self.calls.append("reload")
        if self.problem:
            raise GTError(self.problem)
        self.config = config

    def stop(self, grace: float) -> None:
        self.calls.append(f"stop {grace}")


def config(secret: str = "secret1", **options: Any) -> ServerConfig:
    return ServerConfig(None, ServerOptions(**options), {"id1": User(id="id1", secret=secret)})


def run(app: App, load: Callable[[], Any] = config) -> int:
    return worker._run(lambda _: app, "server", config(), load, worker._hide_server)


class Running:
    """A process with `app`; `load` gives what is in `next`, or raises it."""

    def __init__(self) -> None:
        self.app = App()
        self.next: ServerConfig | GTError = config()
        self.loads = 0
        self.greenlet = gevent.spawn(run, self.app, self._load)
        until(lambda: self.app.calls)

    def _load(self) -> ServerConfig:
        self.loads += 1
        if isinstance(self.next, GTError):
            raise self.next
        return self.next

    def hang_up(self, next: ServerConfig | GTError) -> None:
        """SIGHUP when that is the configuration; returns when it has been read."""
        self.next = next
        before = self.loads
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: self.loads > before)
        turn()

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert self.greenlet.get(timeout=5) == 0


@pytest.fixture
def running(caplog: pytest.LogCaptureFixture) -> Iterator[Running]:
    caplog.set_level("INFO")
    made = Running()
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    watchers = []
    real = gevent.signal_handler

    def handler(*args: Any) -> Any:
        watchers.append(real(*args))
        return watchers[-1]

    monkeypatch.setattr(gevent, "signal_handler", handler)
    monkeypatch.setattr(logs, "_secrets", logs._Secrets())
    hub = gevent.get_hub()
    yield
    for watcher in watchers:
        watcher.cancel()
    vars(hub).pop("print_exception", None)
    turn()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: int) -> None:
    app = App()
    running = gevent.spawn(run, app)
    until(lambda: app.calls)
    os.kill(os.getpid(), number)
    assert running.get(timeout=5) == 0
    assert app.calls == ["start", f"stop {GRACE_S}"]


def test_one_that_cannot_start(caplog: pytest.LogCaptureFixture) -> None:
    app = App("cannot listen on :80; ports below 1024 need root")
    assert run(app) == 2
    assert app.calls == ["start"]
    assert "cannot listen on :80" in caplog.text


def test_it_tells_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = tmp_path / "stats"
    monkeypatch.setenv("GT_DEBUG_STATS", str(stats))
    running = gevent.spawn(run, App())
    turn()
    os.kill(os.getpid(), signal.SIGUSR1)
    until(stats.exists)
    now = json.loads(stats.read_text())
    assert now["fds"] > 3
    assert {"greenlets", "pumps", "streams_opened", "bytes_in"} <= set(now)
    os.kill(os.getpid(), signal.SIGTERM)
    assert running.get(timeout=5) == 0


# SIGHUP


def test_sighup_reloads(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    new = config("secret2", connections=3)
    running.hang_up(new)
    assert running.app.config is new
    assert running.app.calls == ["start", "reload"]
    assert "reloaded" in caplog.text
    assert "restart" not in caplog.text
    assert logs.redact("it says secret2") == "it says ***", "new secrets are hidden as well"


def test_again_and_again(running: Running) -> None:
    for _ in range(3):
        running.hang_up(config())
    assert running.app.calls == ["start"] + ["reload"] * 3


def test_a_bad_file_changes_nothing(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.hang_up(ConfigError("gt.yaml:3: addr: 99999 is no port"))
    assert running.app.calls == ["start"]
    assert "not reloaded, everything stays as it was: gt.yaml:3: addr: 99999 is no port" in caplog.text
    running.hang_up(config())
    assert running.app.calls == ["start", "reload"], "the next try is as good as the first"


def test_a_configuration_that_cannot_be_taken_over(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.app.problem = "no such certificate"
    running.hang_up(config())
    assert "not reloaded, everything stays as it was: no such certificate" in caplog.text
    running.app.problem = ""
    running.hang_up(config())
    assert running.app.calls == ["start", "reload", "reload"]


def test_a_reload_that_fails_in_a_way_nobody_thought_of(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(config: Any) -> None:
        running.app.calls.append("reload")
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(running.app, "reload", fail)
        running.hang_up(config())
    assert "unexpected error" in caplog.text
    running.hang_up(config())
    assert running.app.calls == ["start", "reload", "reload"]


def test_what_needs_a_restart_is_said(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.hang_up(config(addr=Address("", 8081), tls_version="tls1.3", connections=4))
    assert "changed, but in force only after a restart: addr, tlsVersion" in caplog.text
    caplog.clear()
    running.hang_up(config(addr=Address("", 8081)))
    assert "after a restart: addr" in caplog.text, "it is still to come"
    assert "tlsVersion" not in caplog.text
    caplog.clear()
    running.hang_up(config())
    assert "restart" not in caplog.text, "all is as it was at the start"


def test_the_log_level_changes_at_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[str] = []
    monkeypatch.setattr(logs, "set_level", levels.append)
    running.hang_up(config(log_level="debug"))
    assert levels == ["debug"]
