"""The system pages: what runs, actions whose page grows as they are done, the log, diagnostics without secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask
from flask.testing import FlaskClient
from gevent.event import Event

from gtapp.config.store import Store
from gtapp.console import system
from gtapp.console.context import Console
from gtapp.console.log_lines import text_of
from gtapp.console.processes import Busy
from gtapp.errors import GTError
from tests.unit.console import api_relay
from tests.unit.console.conftest import CLIENT, SERVER, Auth, Relay

MakeApp = Callable[..., Flask]
DEADLINE_S = 10.0


@pytest.fixture
def app(make_app: MakeApp, relay: Relay, tmp_path: Path) -> Flask:
    path = tmp_path / "server.yml"
    relay.answers |= api_relay.answers("server", path)
    return make_app(store=Store(path, "server", path.with_suffix(".state")))


@pytest.fixture
def browser(client: FlaskClient, auth: Auth) -> FlaskClient:
    """Somebody who is logged in."""
    assert auth.login().status_code == 302
    return client


def words(page: str) -> str:
    """What people read of it, in one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


# what runs


def test_processes_and_listeners(browser: FlaskClient) -> None:
    page = words(browser.get("/system").text)
    assert "Master process 100" in page
    assert "Worker 1 process 101, generation 1 running 1 min" in page
    assert "40.0 MiB 35" in page  # memory and open files of the worker
    assert "127.0.0.1:18080 Visitors and tunnels addr" in page
    for word in ("Reload", "Restart", "Stop", "Version", "Diagnostics"):
        assert word in page


def test_how_busy_a_process_is() -> None:
    busy = Busy()
    assert busy.shares([{"pid": 1, "cpu_s": 5.0}], now=100.0) == {}
    assert busy.shares([{"pid": 1, "cpu_s": 5.5}, {"pid": 2, "cpu_s": 1.0}], now=102.0) == {1: 0.25}
    assert busy.shares([{"pid": 1, "cpu_s": 9.0}], now=102.1) == {1: 0.25}  # too soon to say
    assert busy.shares([{"pid": 1, "cpu_s": 5.5}, {"pid": 2, "cpu_s": 5.0}], now=104.0) == {1: 0.0, 2: 2.0}
    assert busy.shares([{"pid": 1, "cpu_s": 0.1}], now=106.0) == {1: 0.0}  # another process of that number


@pytest.mark.parametrize(
    ("state", "shown"),
    [("starting", "starting"), ("retiring", "finishing its connections"), ("stopping", "ending")],
)
def test_the_state_of_a_worker(browser: FlaskClient, relay: Relay, state: str, shown: str) -> None:
    worker = relay.answers["status"]["units"][0]["workers"][0]
    worker |= {"state": state, "problem": "it does <not> answer"}
    page = browser.get("/system").text
    assert shown in words(page)
    assert "it does &lt;not&gt; answer" in page


def test_the_part_that_is_brought_up_to_date(browser: FlaskClient) -> None:
    part = browser.get("/system", headers={"HX-Request": "true"}).text
    assert "Worker 1" in part
    assert "<html" not in part


def test_a_relay_that_does_not_answer(browser: FlaskClient, relay: Relay) -> None:
    relay.answers |= {"status": GTError("the process does not answer"), "metrics": GTError("neither")}
    page = words(browser.get("/system").text)
    assert "The relay does not answer. the process does not answer" in page
    assert "Restart" in page


def test_the_pages_of_a_client(make_app: MakeApp, relay: Relay, tmp_path: Path) -> None:
    relay.answers |= api_relay.answers("client", tmp_path / "client.yml")
    app = make_app("client")
    client = app.test_client()
    assert Auth(app, client).login().status_code == 302
    page = words(client.get("/system").text)
    assert "It listens nowhere" in page
    assert client.get("/system/log").status_code == 200
    assert client.get("/audit").status_code == 200


def test_in_chinese(browser: FlaskClient) -> None:
    for path, word in (("/system", "工作进程 1"), ("/system/log", "最低级别"), ("/audit", "审计日志")):
        page = browser.get(path, headers={"Accept-Language": "zh-CN"}).text
        assert word in page


# what is done


def test_a_page_grows_with_what_is_told(
    browser: FlaskClient, auth: Auth, relay: Relay, console: Console
) -> None:
    """Each part is sent when it is known, and not before."""
    told, go_on = Event(), Event()

    def restart(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        tell("server.yml: <2> new workers")
        told.set()
        assert go_on.wait(DEADLINE_S)
        return {"text": "restarted"}

    relay.answers["restart"] = restart
    answer = auth.post("/system/restart", buffered=False)
    assert answer.status_code == 200
    assert answer.headers["X-Accel-Buffering"] == "no"
    parts = parts_of(answer)
    head = next(parts)
    assert "At work…" in head
    assert '<ol class="told"' in head
    assert "</ol>" not in head[head.index('<ol class="told"') :]
    line = until(parts, "server.yml")
    assert told.is_set()
    assert line == "<li>server.yml: &lt;2&gt; new workers</li>\n"
    go_on.set()
    rest = "".join(parts)
    assert "New workers have taken over." in words(rest)
    assert rest.rstrip().endswith("</html>")
    assert [each["what"] for each in console.db.audit(1)] == ["restarted"]


def parts_of(answer: Any) -> Iterator[str]:
    """The page as it comes."""
    for part in answer.response:
        yield part if isinstance(part, str) else part.decode()


def until(parts: Iterator[str], text: str) -> str:
    """The next part with this text; what else there is of the page is news of processes."""
    with gevent.Timeout(DEADLINE_S):
        return next(part for part in parts if text in part)


def test_processes_that_come_and_go_are_told(browser: FlaskClient, auth: Auth, relay: Relay) -> None:
    new = {"pid": 102, "kind": "worker 2", "rss": 1, "cpu_s": 0.0, "fds": 1}
    go_on = Event()

    def restart(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        processes = relay.answers["metrics"]["units"][0]["processes"]
        processes[1:] = [new]
        assert go_on.wait(DEADLINE_S)
        return {"text": "restarted"}

    relay.answers["restart"] = restart
    parts = parts_of(auth.post("/system/restart", buffered=False))
    assert until(parts, "starts") == "<li>Worker 2 starts</li>\n"
    assert next(parts) == "<li>Worker 1 has ended</li>\n"
    go_on.set()
    assert "taken over" in "".join(parts)


def test_a_reload(browser: FlaskClient, auth: Auth, tmp_path: Path) -> None:
    page = words(auth.post("/system/reload").text)
    assert f"{tmp_path}/server.yml: nothing has changed" in page
    assert "GT runs with the configuration as it is in the file now." in page


def test_a_refusal_is_told(browser: FlaskClient, auth: Auth, relay: Relay) -> None:
    relay.answers["reload"] = GTError(
        "not reloaded, everything stays as it was: server.yml:3: addr: found <x>"
    )
    page = auth.post("/system/reload").text
    assert "server.yml:3: addr: found &lt;x&gt;" in page
    assert 'role="alert"' in page
    assert "GT runs with" not in page


def test_a_stop(browser: FlaskClient, auth: Auth) -> None:
    page = words(auth.post("/system/stop").text)
    assert "ending: running connections have 10 s" in page
    assert "GT has ended, and this console with it." in page
    assert "Back to the overview" not in page


def test_a_stop_of_which_nobody_tells_the_end(
    browser: FlaskClient, auth: Auth, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console ends before GT does, and says so in time."""
    monkeypatch.setattr(system, "LAST_WORDS_S", 0.05)
    over = Event()

    def stop(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        tell("ending: running connections have 10 s")
        assert over.wait(DEADLINE_S)
        raise GTError("the process has ended before it was done; its log may say why")

    relay.answers["stop"] = stop
    page = words(auth.post("/system/stop").text)
    over.set()
    assert "GT is ending, and this console with it." in page


def test_it_goes_on_when_the_browser_has_gone(browser: FlaskClient, auth: Auth, relay: Relay) -> None:
    begun, go_on, done = Event(), Event(), Event()

    def restart(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(DEADLINE_S)
        done.set()
        return {"text": "restarted"}

    relay.answers["restart"] = restart
    answer = auth.post("/system/restart", buffered=False)
    next(iter(answer.response))
    assert begun.wait(DEADLINE_S)
    answer.close()
    go_on.set()
    assert done.wait(DEADLINE_S)


def test_nothing_else_can_be_done(browser: FlaskClient, auth: Auth, relay: Relay) -> None:
    assert auth.post("/system/upgrade").status_code == 404
    assert browser.get("/system/stop").status_code == 405
    assert browser.post("/system/stop").status_code == 400  # without a CSRF token
    assert not [each for each in relay.asked if each["command"] in ("stop", "upgrade")]


# the log


def test_the_log_with_its_levels(browser: FlaskClient) -> None:
    page = browser.get("/system/log").text
    assert '<span class="error">' in page
    assert "WARN  server/1 visitor 203.0.113.9 left" in " ".join(words(page).split()).replace(
        "WARN ", "WARN  "
    )
    assert 'data-next="master:1,worker+1:3,' in page


def test_the_log_by_level_and_text(browser: FlaskClient, relay: Relay) -> None:
    page = browser.get("/system/log?level=warn&search=VISITOR").text
    assert "visitor 203.0.113.9 left" in page
    assert "unexpected KeyError" not in page
    assert relay.asked[-1]["level"] == "warn"
    assert "/system/log/download?level=warn&amp;search=VISITOR" in page
    nothing = browser.get("/system/log?search=nothing-like-it").text
    assert "No line yet that fits" in nothing
    assert browser.get("/system/log?level=loud").status_code == 200


def test_lines_are_shown_as_text(browser: FlaskClient, relay: Relay) -> None:
    line = {
        "time": 1.0,
        "level": "info",
        "role": "<b>",
        "logger": "gt",
        "message": "<script>alert(1)</script>",
    }
    relay.answers["log"] = {"lines": [line | {"traceback": "<i>\nlast"}], "after": {'"><x': 1}}
    page = browser.get("/system/log").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert '"><x' not in page
    assert "&lt;i&gt;\nlast" in page


def test_the_log_as_a_file(browser: FlaskClient) -> None:
    answer = browser.get("/system/log/download?search=keyerror")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="gt.log"'
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.text.endswith(" ERROR server/1: unexpected KeyError\n")
    assert answer.text.count("\n") == 1


def test_a_traceback_in_a_file() -> None:
    line = {"time": 0.0, "level": "error", "role": "server", "message": "it fails", "traceback": "one\ntwo"}
    assert text_of(line).endswith(" ERROR server: it fails\n  | one\n  | two\n")


def test_the_log_without_the_relay(browser: FlaskClient, relay: Relay, own_log: logging.Logger) -> None:
    relay.answers["log"] = GTError("the process does not answer")
    own_log.info("the console's own line")
    page = words(browser.get("/system/log").text)
    assert "The lines of the relay are missing. the process does not answer" in page
    assert "console the console&#39;s own line" in page


def test_the_page_does_not_see_itself_look(browser: FlaskClient, own_log: logging.Logger) -> None:
    own_log.info("127.0.0.1 GET /api/v1/log: 200")
    own_log.info("127.0.0.1 GET /system/log: 200")
    page = browser.get("/system/log").text
    assert "GET /api/v1/log" not in page
    assert "GET /system/log" in page


# diagnostics

PLANTED = {
    "user": "planted-user-secret-1",
    "password": "planted-password-2",
    "key": "planted-signing-key-3",
    "dsn": "https://planted4@sentry.example/5",
    "proof": "planted-basic-auth-6",
    "flag": "planted-flag-secret-7",
    "variable": "planted-variable-8",
}


def unpack(answer: Any) -> dict[str, str]:
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        return {
            each.removeprefix("gt-diagnostics/"): archive.read(each).decode() for each in archive.namelist()
        }


def leaks(files: dict[str, str]) -> set[tuple[str, str]]:
    """Which secret stands in which file; a part of one counts."""
    needles = {name: re.findall(r"planted[\w-]*", secret)[0] for name, secret in PLANTED.items()}
    return {
        (name, file) for name, needle in needles.items() for file, text in files.items() if needle in text
    }


def test_what_is_in_the_diagnostics(browser: FlaskClient, console: Console) -> None:
    answer = browser.get("/system/diagnostics")
    assert (
        answer.headers["Content-Disposition"] == 'attachment; filename="gt-diagnostics-20231114-221320.zip"'
    )
    files = unpack(answer)
    assert files.keys() == {
        "README.txt",
        "config.yml",
        "status.json",
        "metrics.json",
        "log.txt",
        "machine.json",
    }
    assert json.loads(files["status.json"])["units"][0]["workers"][0]["tunnels"][0]["user"] == "alice"
    assert json.loads(files["metrics.json"])["units"][0]["total"]["tunnels"]
    assert "unexpected KeyError" in files["log.txt"]
    assert "alice:" in files["config.yml"]
    about = json.loads(files["machine.json"])
    assert about["packages"]["gevent"]
    assert about["memory"]["total"] > 0
    assert [each["what"] for each in console.db.audit(1)] == ["diagnostics downloaded"]


def test_no_secret_of_a_server_is_in_the_diagnostics(make_app: MakeApp, relay: Relay, tmp_path: Path) -> None:
    """They are planted in every place that the archive is made from, and in what says them by mistake."""
    text = SERVER.replace("correct horse", PLANTED["password"]).replace("alices-secret", PLANTED["user"])
    text = text.replace(
        "options:", f"options:\n  signingKey: {PLANTED['key']}\n  sentryDSN: {PLANTED['dsn']}"
    )
    path = tmp_path / "server.yml"
    words_ = ("-c", str(path), "--id", "carol", "--secret", PLANTED["flag"])
    relay.answers |= api_relay.answers("server", path)
    said = " ".join(PLANTED[name] for name in ("user", "password", "key", "dsn", "flag", "variable"))
    relay.answers["status"]["units"][0]["workers"][0]["problem"] = f"cannot log in with {said}"
    relay.answers["status"][PLANTED["user"]] = [{"deep": (PLANTED["password"],)}]
    line = {
        "time": 1.0,
        "level": "error",
        "role": "server",
        "logger": "gt",
        "message": said,
        "traceback": said,
    }
    relay.answers["log"] = {"lines": [line], "after": {}}
    relay.answers["metrics"] = GTError(f"not possible: {said}")
    # A variable wins over the file, whose key stays a secret.
    app = make_app(
        text=text,
        words=words_,
        environ={"GT_SIGNING_KEY": PLANTED["variable"]},
        store=Store(path, "server", path.with_suffix(".state"), words_),
    )
    client = app.test_client()
    assert Auth(app, client).login(password=PLANTED["password"]).status_code == 302
    files = unpack(client.get("/system/diagnostics"))
    assert files["config.yml"].count("***") >= 4
    assert "metrics.json: not possible: ***" in files["problems.txt"]
    assert not leaks(files)
    json.loads(files["status.json"])


def test_no_secret_of_a_client_is_in_the_diagnostics(make_app: MakeApp, relay: Relay, tmp_path: Path) -> None:
    proof = f"visitor:$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'planted6' * 5}"
    text = CLIENT.replace("alices-secret", PLANTED["user"]) + f'    basicAuth: "{proof}"\n'
    relay.answers |= api_relay.answers("client", tmp_path / "client.yml")
    relay.answers["status"]["units"][0]["workers"][0]["problem"] = f"{PLANTED['user']} and {proof}"
    app = make_app("client", text)
    client = app.test_client()
    assert Auth(app, client).login().status_code == 302
    files = unpack(client.get("/system/diagnostics"))
    assert "local: http://127.0.0.1:18088" in files["config.yml"]
    for name, content in files.items():
        assert PLANTED["user"] not in content, name
        assert "planted6" not in content, name


def test_diagnostics_of_a_gt_that_does_not_answer(
    make_app: MakeApp, browser: FlaskClient, relay: Relay, tmp_path: Path
) -> None:
    relay.answers = dict.fromkeys(relay.answers, GTError("the process does not answer"))
    (tmp_path / "server.yml").write_text("type: server\noptions: [")
    files = unpack(browser.get("/system/diagnostics"))
    assert files.keys() - {"log.txt"} == {
        "README.txt",
        "machine.json",
        "problems.txt",
    }  # it has lines of its own
    for name in ("config.yml", "status.json", "metrics.json", "log.txt"):
        assert f"{name}: " in files["problems.txt"]
