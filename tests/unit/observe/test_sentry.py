"""Error reports: what goes to Sentry's server, what never does, and a server that is gone, slow or refuses."""

from __future__ import annotations

import json
import logging
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from gtapp.observe import logs, sentry
from tests.support.ports import Port
from tests.support.processes import eventually
from tests.support.sentry import SentryServer

log = logging.getLogger("gt.server")

Start = Callable[..., sentry.Reports]


@pytest.fixture
def server() -> Iterator[SentryServer]:
    made = SentryServer()
    yield made
    made.close()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Reports with the defaults of the options, but for what is given; stopped after the test."""
    monkeypatch.setattr(logs, "_secrets", logs._Secrets())
    monkeypatch.setattr(log, "level", logging.DEBUG)
    made: list[sentry.Reports] = []

    def start(dsn: str, **given: Any) -> sentry.Reports:
        options: dict[str, Any] = {
            "levels": ("error", "fatal", "panic"),
            "sample_rate": 1.0,
            "release": "gt 1.2.3",
            "environment": "",
            "server_name": "",
            "debug": False,
            "role": "server",
        }
        made.append(sentry.Reports(dsn, **options | given))
        return made[-1]

    yield start
    for each in made:
        each.stop()


def test_an_event(server: SentryServer, start: Start) -> None:
    start(server.dsn)
    log.error("cannot write %s: %d left", "file", 3)
    (event,) = server.wait()
    assert event["level"] == "error"
    assert event["logger"] == "gt.server"
    assert event["logentry"] == {
        "message": "cannot write %s: %d left",
        "formatted": "cannot write file: 3 left",
    }
    assert event["release"] == "gt 1.2.3"
    assert event["environment"] == "production"
    assert event["tags"] == {"role": "server"}
    path, headers, _ = server.requests[0]
    assert path == "/api/7/envelope/"
    assert "sentry_key=public-key-of-tests" in headers["X-Sentry-Auth"]


def test_what_is_configured_is_named(server: SentryServer, start: Start) -> None:
    start(server.dsn, release="mine", environment="staging", server_name="gate-1", role="client")
    log.error("x")
    (event,) = server.wait()
    assert (event["release"], event["environment"], event["server_name"]) == ("mine", "staging", "gate-1")
    assert event["tags"] == {"role": "client"}


@pytest.mark.parametrize(
    ("levels", "reported"),
    [
        (("error", "fatal", "panic"), ["error", "fatal", "fatal"]),
        (("warn",), ["warning"]),
        (("trace", "info"), ["debug", "info"]),
    ],
)
def test_the_levels_that_are_wanted(
    levels: tuple[str, ...], reported: list[str], server: SentryServer, start: Start
) -> None:
    log.setLevel(logs.TRACE)
    start(server.dsn, levels=levels)
    for number in logs.LEVELS.values():
        log.log(number, "level %d", number)
    server.wait(len(reported))
    assert [event["level"] for event in server.events] == reported


def test_an_exception(server: SentryServer, start: Start) -> None:
    start(server.dsn)
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError:
        log.exception("failed")
    (event,) = server.wait()
    inner, outer = event["exception"]["values"]
    assert (inner["type"], outer["type"], outer["value"]) == ("KeyError", "ValueError", "outer")
    frame = outer["stacktrace"]["frames"][-1]
    assert frame["function"] == "test_an_exception"
    assert frame["lineno"] > 0


class Teller:
    """Tells its secret wherever it is shown."""

    def __repr__(self) -> str:
        return "Teller(correct horse)"


def test_no_secret_and_nothing_of_this_machine_is_sent(
    server: SentryServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gt.py", "server", "--secret", "argument-secret"])
    logs.hide("correct horse")
    start(server.dsn, server_name="gate of correct horse", release="correct horse 1")
    local = "a local variable's value"
    try:
        request = {"Authorization": "correct horse"}
        raise ValueError(f"wrong: {request} {len(local)}")
    except ValueError as error:
        error.add_note("note: correct horse")
        log.exception("failed with correct horse and %r", Teller())
    log.error("failed with correct horse in its template")
    server.wait(2)
    sent = b"".join(body for _, _, body in server.requests).decode()
    assert "***" in sent
    for never in (
        "correct horse",
        "argument-secret",
        "local variable",
        socket.gethostname(),
        '"vars"',
        "abs_path",
        "context_line",
        "breadcrumbs",
        "modules",
        str(sys.prefix),
    ):
        assert never not in sent, never
    assert server.events[0]["server_name"] == "gate of ***"


def test_sample_rate(server: SentryServer, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = start(server.dsn, sample_rate=0.25)
    numbers = iter([0.1, 0.9, 0.25, 0.24])
    monkeypatch.setattr(random, "random", lambda: next(numbers))
    for number in range(4):
        log.error("line %d", number)
    reports.stop()
    assert [event["logentry"]["formatted"] for event in server.events] == ["line 0", "line 3"]


def test_a_storm_of_one_error_is_a_few_reports(server: SentryServer, start: Start) -> None:
    reports = start(server.dsn)
    for number in range(1000):
        log.error("storm %d", number)
    log.error("something else")
    reports.stop()
    texts = [event["logentry"]["formatted"] for event in server.events]
    assert texts == [*(f"storm {number}" for number in range(logs.LIMIT_LINES)), "something else"]


def test_other_libraries_errors_are_reported_but_not_its_own(server: SentryServer, start: Start) -> None:
    reports = start(server.dsn)
    for name in ("sentry_sdk.errors", "urllib3.connectionpool", "gt.sentry", "some.library"):
        logging.getLogger(name).error("of %s", name)
    reports.stop()
    assert [event["logger"] for event in server.events] == ["some.library"]


def test_after_stop_nothing_is_reported(server: SentryServer, start: Start) -> None:
    start(server.dsn).stop()
    log.error("too late")
    assert server.events == []


@pytest.mark.parametrize(
    "dsn",
    [
        "hello",
        "ftp://key@host/1",
        "https://host/1",
        "https://key@host/",
        "https://key@host:x/1",
        "http://k@/1",
    ],
)
def test_a_bad_dsn(dsn: str, start: Start) -> None:
    with pytest.raises(ValueError, match="is no DSN of Sentry"):
        start(dsn)


def test_the_dsn_is_hidden(server: SentryServer, start: Start) -> None:
    start(server.dsn)
    assert logs.redact(f"{server.dsn} public-key-of-tests") == "*** ***"


# Trouble with the server


def test_a_server_that_is_down(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with Port() as port:
        reports = start(f"http://key-of-tests@{port}/1", levels=("warn", "error"))
        for number in range(3):
            log.error("line %d", number)
        eventually(
            lambda: caplog.text.count("an error report to Sentry is lost: network") == 3, "three are lost"
        )
        reports.stop()
    assert [record.name for record in caplog.records if record.name not in ("gt.server", "gt.sentry")] == []


@pytest.mark.parametrize("status", [403, 413, 429, 500])
def test_a_server_that_refuses(status: int, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = SentryServer(status)
    reports = start(server.dsn)
    log.error("x")
    eventually(lambda: f"an error report to Sentry is lost: status_{status}" in caplog.text, "it is said")
    reports.stop()
    server.close()


def test_a_slow_server_holds_up_nobody(
    server: SentryServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentry, "FLUSH_S", 0.3)
    server.hold.clear()
    reports = start(server.dsn)
    log.error("first")
    assert server.arrived.wait(10)
    began = monotonic()
    for number in range(sentry.MAX_WAITING + 50):
        log.error(f"line {number}")  # each a template of its own
    assert monotonic() - began < 5
    began = monotonic()
    reports.stop()
    assert monotonic() - began < 2
    assert len(server.requests) == 1


def test_full_queue_is_said(server: SentryServer, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server.hold.clear()
    start(server.dsn)
    log.error("first")
    assert server.arrived.wait(10)
    for number in range(sentry.MAX_WAITING + 3):
        log.error(f"line {number}")
    assert caplog.text.count("an error report to Sentry is lost: full_queue") == 3
    server.hold.set()


def test_a_record_that_cannot_be_reported(
    server: SentryServer, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no")

    start(server.dsn)
    monkeypatch.setattr(sentry, "event_from_exception", broken)
    try:
        raise ValueError
    except ValueError:
        log.exception("failed")
    assert "an error report cannot be made" in caplog.text


def test_debug_goes_the_way_of_our_log(
    server: SentryServer, start: Start, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    start(server.dsn, debug=True)
    log.error("x")
    server.wait()
    eventually(lambda: "Sending envelope" in caplog.text, "the SDK's own words")
    assert "[sentry]" not in capfd.readouterr().err


def test_without_debug_the_sdk_is_silent(
    server: SentryServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    start(server.dsn)
    log.error("x")
    server.wait()
    assert not [record for record in caplog.records if record.name.startswith("sentry_sdk")]


IN_A_HUB = """
import gevent.monkey
gevent.monkey.patch_all()
import logging, sys
import gevent
from gtapp.observe import sentry

log = logging.getLogger("gt.server")
reports = sentry.Reports(sys.argv[1], ("error",), 1.0, "", "", "", False, "server")
done = gevent.event.Event()

def callback():
    try:
        raise ValueError("in a callback")
    except ValueError:
        log.exception("first")
    for number in range(200):
        log.error(f"line {number}")
    done.set()

gevent.get_hub().loop.run_callback(callback)
done.wait(10)
reports.stop()
"""


def test_a_callback_of_the_hub_may_log(server: SentryServer) -> None:
    """Most of what goes wrong in the relay is logged there, where nothing may wait."""
    done = subprocess.run(
        [sys.executable, "-c", IN_A_HUB, server.dsn], capture_output=True, text=True, timeout=60, check=True
    )
    assert server.events[0]["logentry"]["message"] == "first"
    assert server.events[0]["exception"]["values"][0]["value"] == "in a callback"
    assert len(server.events) >= sentry.MAX_WAITING - 1
    assert done.stderr == ""


def test_threads_may_log_at_once(server: SentryServer, start: Start) -> None:
    reports = start(server.dsn)
    threads = [
        threading.Thread(target=lambda number=number: log.error(f"thread {number}")) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reports.stop()
    assert len(server.events) == 20
    assert all(json.dumps(event) for event in server.events)
