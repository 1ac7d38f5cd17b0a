"""The first run: who may go through the wizard, how its steps follow each other, and what is left when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gtapp.config.store import Store
from gtapp.console import setup_client, setup_token
from gtapp.console.context import EXTENSION, Console
from gtapp.console.running import Running
from gtapp.console.setup_wizard import IDLE_S
from gtapp.errors import ConfigError, GTError
from tests.support.ports import Port
from tests.unit.console.conftest import Auth, Clock, Relay

PASSWORD = "correct horse battery"
MakeSetup = Callable[..., Flask]


class Browser:
    """Goes through the wizard."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()
        self._auth = Auth(app, self.client)
        self._csrf = ""

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.client.get(path, **more)

    def post(self, path: str, data: dict[str, Any] | None = None, **more: Any) -> TestResponse:
        if not self._csrf:
            self._csrf = self._auth.csrf()
        return self.client.post(path, data={"csrf_token": self._csrf, **(data or {})}, **more)

    def step(self, name: str, /, **data: Any) -> TestResponse:
        return self.post(f"/setup/step/{name}", data)

    def token(self) -> str:
        about: Console = self.app.extensions[EXTENSION]
        return setup_token.make_token(about.state, about.clock)

    def enter(self) -> Browser:
        """With a new token."""
        answer = self.post("/setup/token", {"token": self.token()})
        assert answer.status_code == 302 or answer.status_code == 303, answer.text
        return self

    def account(self, **data: str) -> TestResponse:
        return self.step("account", **{"name": "admin", "password": PASSWORD, "again": PASSWORD, **data})


@pytest.fixture
def make_setup(make_app: Callable[..., Flask], relay: Relay, tmp_path: Path) -> MakeSetup:
    """The wizard of a role; it writes `tmp_path/server.yml` or `client.yml`."""

    def make(role: str = "server", **more: Any) -> Flask:
        target = tmp_path / f"{role}.yml"
        fields = {
            "store": Store(target, role, tmp_path / f"{role}.state"),
            "words": (),
            "running": Running(relay.ask, ""),
            "setup": True,
        }
        return make_app(role, **fields | more)

    return make


@pytest.fixture
def browser(make_setup: MakeSetup) -> Browser:
    return Browser(make_setup())


@pytest.fixture
def free_port() -> Iterator[int]:
    with Port() as port:
        yield port.number


def location(answer: TestResponse) -> str:
    return answer.headers["Location"].partition("http://localhost")[2] or answer.headers["Location"]


# what there is


def test_everything_leads_to_the_wizard(browser: Browser) -> None:
    assert location(browser.get("/")) == "/setup"
    assert location(browser.get("/setup")) == "/setup/language"
    assert location(browser.get("/welcome")) == "/setup"
    for path in ("/login", "/settings", "/users", "/api/v1/status", "/metrics", "/setup/step", "/account"):
        assert browser.get(path).status_code == 404, path


@pytest.mark.parametrize("role", ["server", "client"])
def test_after_the_set_up_its_routes_are_gone(make_app: Callable[..., Flask], role: str) -> None:
    app = make_app(role)
    assert not [rule.rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/setup")]
    client = app.test_client()
    for path in ("/setup", "/setup/language", "/setup/token", "/setup/step/account", "/setup/start"):
        assert client.get(path).status_code == 404
        assert Auth(app, client).post(path).status_code == 404


def test_the_language_is_chosen_and_kept(browser: Browser) -> None:
    assert "Welcome to GT" in browser.get("/setup/language").text
    assert location(browser.post("/setup/language", {"language": "zh"})) == "/setup/token"
    assert "设置令牌" in browser.get("/setup/token").text
    assert location(browser.post("/setup/language", {"language": "xx"})) == "/setup/language"


def test_a_form_of_another_site_changes_nothing(browser: Browser) -> None:
    token = browser.token()
    assert browser.client.post("/setup/token", data={"token": token}).status_code == 400  # no CSRF token
    answer = browser.post("/setup/token", {"token": token}, headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert browser.get("/setup", headers={"Host": "evil.example"}).status_code == 400
    assert location(browser.post("/setup/token", {"token": token})) == "/setup/step/account"


# the token


def test_without_the_token_no_step_is_there(browser: Browser) -> None:
    for name in ("account", "domain", "listen", "certificate", "client", "summary"):
        assert location(browser.get(f"/setup/step/{name}")) == "/setup/token"
        assert location(browser.step(name)) == "/setup/token"
    assert browser.get("/setup/check/listen").status_code == 404
    assert location(browser.post("/setup/start")) == "/setup/token"


def test_the_token_that_came_with_the_url_is_not_asked_again(browser: Browser) -> None:
    answer = browser.post("/setup/language", {"language": "en", "token": browser.token()})
    assert location(answer) == "/setup/step/account"
    assert location(browser.get("/setup/token")) == "/setup"
    assert location(browser.post("/setup/token", {"token": "again"})) == "/setup"
    assert location(browser.get("/setup")) == "/setup/step/account"
    assert location(browser.post("/setup/language", {"language": "zh"})) == "/setup"


def test_a_wrong_token_is_told_and_many_lock_the_set_up(browser: Browser) -> None:
    token = browser.token()
    assert browser.post("/setup/token", {"token": "  "}).status_code == 422  # no attempt
    for _attempt in range(setup_token.ATTEMPTS):
        answer = browser.post("/setup/token", {"token": "x" * 5000})
        assert answer.status_code == 422
        assert "This is not the token" in answer.text
    answer = browser.post("/setup/token", {"token": token})
    assert answer.status_code == 422
    assert "too many wrong tokens" in answer.text
    assert browser.get("/setup/language").status_code == 200
    browser.enter()  # a new one unlocks


def test_an_expired_token(browser: Browser, clock: Clock) -> None:
    token = browser.token()
    clock.forward(setup_token.LASTS_S + 1)
    answer = browser.post("/setup/language", {"language": "en", "token": token})
    assert answer.status_code == 422
    assert "has expired" in answer.text


def test_a_second_browser_needs_a_new_token_and_takes_over(browser: Browser) -> None:
    token = browser.token()
    browser.post("/setup/token", {"token": token})
    assert browser.account().status_code == 303
    second = Browser(browser.app)
    assert "another browser" in second.get("/setup/token").text
    assert second.post("/setup/token", {"token": token}).status_code == 422
    assert location(browser.get("/setup")) == "/setup/step/domain"  # that harms nobody
    second.enter()
    assert location(second.get("/setup")) == "/setup/step/account"  # and sees nothing of what was entered
    assert location(browser.get("/setup/step/domain")) == "/setup/token"


def test_a_wizard_that_nobody_touches_ends(browser: Browser, clock: Clock) -> None:
    browser.enter()
    browser.account()
    clock.forward(IDLE_S - 1)
    assert browser.get("/setup/step/domain").status_code == 200
    clock.forward(IDLE_S + 1)
    assert location(browser.get("/setup/step/domain")) == "/setup/token"
    assert "another browser" not in browser.get("/setup/token").text


# the steps


def test_steps_follow_each_other(browser: Browser) -> None:
    browser.enter()
    assert location(browser.get("/setup/step/summary")) == "/setup/step/account"
    assert location(browser.step("client", id="x")) == "/setup/step/account"
    assert location(browser.post("/setup/start")) == "/setup/step/account"
    assert browser.get("/setup/step/nothing").status_code == 404
    assert location(browser.account()) == "/setup/step/domain"
    assert browser.get("/setup/step/account").status_code == 200
    assert location(browser.get("/setup/step/listen")) == "/setup/step/domain"


def test_going_back_keeps_what_was_entered_but_the_password(browser: Browser) -> None:
    browser.enter()
    browser.account(name="eve")
    page = browser.get("/setup/step/account").text
    assert 'value="eve"' in page
    assert PASSWORD not in page
    assert "Leave both fields empty to keep it" in page
    assert location(browser.account(name="Ann", password="", again="")) == "/setup/step/domain"
    assert browser.get("/setup/step/account").text == browser.get("/setup/step/account").text


WRONG_ACCOUNTS = [
    ({"name": ""}, "name", "Choose a name"),
    ({"name": "x" * 65}, "name", "at most 64"),
    ({"name": "a\x07b"}, "name", "at most 64"),
    ({"password": "short", "again": "short"}, "password", "at least 10"),
    ({"password": "", "again": ""}, "password", "at least 10"),
    ({"password": "xyz?" * 300, "again": "xyz?" * 300}, "password", "at most 1000"),
    ({"password": "aaaaaaaaaaaa", "again": "aaaaaaaaaaaa"}, "password", "guessed at once"),
    ({"again": "correct horse batterx"}, "again", "not the same"),
]


def test_what_is_wrong_with_an_account_stands_beside_its_field(browser: Browser) -> None:
    for data, field, words in WRONG_ACCOUNTS:
        browser.enter()
        answer = browser.account(**data)
        assert answer.status_code == 422
        error = answer.text.partition(f'id="f-{field}-error">')[2].partition("</p>")[0]
        assert words in error
        assert PASSWORD not in answer.text
        assert location(browser.get("/setup")) == "/setup/step/account"


GARBAGE = [
    "",
    "\x00",
    "\udcff",
    "x" * 3000,
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "'; DROP TABLE",
    "％",
    "🦆" * 50,
]


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("garbage", GARBAGE, ids=[str(number) for number in range(len(GARBAGE))])
def test_garbage_in_every_field_is_refused_or_taken_and_never_an_error(
    make_setup: MakeSetup,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
    free_port: int,
    role: str,
    garbage: str,
) -> None:
    monkeypatch.setattr(setup_client, "discover", lambda own_ports: [])
    garbage = garbage.encode("utf-8", "replace").decode()
    relay.answers["probe"] = GTError("no")
    browser = Browser(make_setup(role)).enter()
    fields = [
        "kind",
        "name",
        "password",
        "again",
        "domain",
        "addr",
        "tls",
        "ports",
        "cert",
        "key",
        "id",
        "secret",
        "code",
        "remote",
        "insecure",
        "local-0",
        "prefix-0",
        "port-0",
        "use-0",
        "found-0",
        "name-0",
        "language",
        "token",
    ]
    everything = dict.fromkeys(fields, garbage)
    for name in ("account", "domain", "listen", "certificate", "client", "server", "services", "summary"):
        for kind in {"domain": ["own"], "certificate": ["files"], "server": ["code", "fields"]}.get(
            name, [garbage]
        ):
            for button in ({}, {"check": "1"}, {"more": "1"}):
                answer = browser.step(name, **{**everything, "kind": kind, **button})
                assert answer.status_code < 500, (name, kind, button)
                assert "<script>alert" not in answer.text
            assert (
                browser.get(f"/setup/check/{name}", query_string={**everything, "kind": kind}).status_code
                < 500
            )
        take(browser, name, free_port)
    assert browser.post("/setup/language", everything).status_code < 500


def take(browser: Browser, name: str, port: int) -> None:
    """A good answer to a step, so that the next one can be had."""
    good: dict[str, dict[str, str]] = {
        "account": {"name": "admin", "password": PASSWORD, "again": PASSWORD},
        "domain": {"kind": "try"},
        "listen": {"addr": "", "tls": f"127.0.0.1:{port}", "ports": ""},
        "certificate": {"kind": "made"},
        "client": {"id": "home", "secret": "a-secret-of-the-first"},
    }
    if name == "server":
        about = browser.app.extensions["gt-wizard"]
        about.entries["server"] = {
            "kind": "fields",
            "id": "home",
            "secret": "s",
            "remotes": ["tcp://a.example:1"],
            "verify": True,
        }
    elif name in good:
        browser.step(name, **good[name])


# the end


def fill_in(browser: Browser) -> Browser:
    """A server that is only tried out, ready to start."""
    browser.enter()
    browser.account()
    assert browser.step("domain", kind="try").status_code == 303
    return browser


def finish(browser: Browser, port: int) -> TestResponse:
    assert browser.step("listen", addr=f"127.0.0.1:{port}", tls="", ports="").status_code == 303
    assert browser.step("client", id="home", secret="a-secret-of-the-first").status_code == 303
    return browser.post("/setup/start")


def test_a_start_that_fails_leaves_nothing_behind(
    browser: Browser, relay: Relay, tmp_path: Path, free_port: int
) -> None:
    seen: list[str] = []

    def fail(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        seen.append((tmp_path / "server.yml").read_text())
        raise GTError(
            f"not reloaded, everything stays as it was: cannot listen on 127.0.0.1:{free_port}: in use"
        )

    relay.answers["reload"] = fail
    answer = finish(fill_in(browser), free_port)
    assert answer.status_code == 422
    assert "Where do visitors come in?" in answer.text  # at its step
    assert "cannot listen on" in answer.text
    assert len(seen) == 1
    assert "addr: 127.0.0.1" in seen[0]
    assert not (tmp_path / "server.yml").exists()
    assert location(browser.get("/setup")) == "/setup/step/summary"
    relay.answers["reload"] = {}
    assert "GT is starting" in browser.post("/setup/start").text  # it can be tried again
    assert (tmp_path / "server.yml").exists()


def test_a_file_that_somebody_has_put_there_stays(
    browser: Browser, relay: Relay, tmp_path: Path, free_port: int
) -> None:
    fill_in(browser)
    (tmp_path / "server.yml").write_text("type: server\n")
    answer = finish(browser, free_port)
    assert answer.status_code == 422
    assert "is there already" in answer.text
    assert (tmp_path / "server.yml").read_text() == "type: server\n"
    assert not [each for each in relay.asked if each["command"] == "reload"]


def test_a_disk_that_is_full(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_port: int
) -> None:
    fill_in(browser)

    def full(self: Store, text: str, who: str) -> None:
        raise ConfigError("server.yml: cannot be saved: No space left on device")

    monkeypatch.setattr(Store, "new", full)
    answer = finish(browser, free_port)
    assert answer.status_code == 422
    assert "No space left" in answer.text


def test_the_browser_is_logged_in_and_waits_for_the_new_console(
    browser: Browser, make_app: Callable[..., Flask], tmp_path: Path, free_port: int
) -> None:
    answer = finish(fill_in(browser), free_port)
    assert answer.status_code == 200
    assert "GT is starting" in answer.text
    assert '<meta http-equiv="refresh"' in answer.text
    for path in ("/welcome", "/setup/step/account", "/setup/step/summary"):
        waiting = browser.get(path)
        assert waiting.status_code == 200
        assert waiting.headers["X-GT-Setup"] == "starting"
    assert location(Browser(browser.app).get("/welcome")) == "/setup"  # nobody else does

    # the console that takes over: another process, the same files, the same address
    target = tmp_path / "server.yml"
    state = tmp_path / "server.state"
    app = make_app(text=target.read_text(), store=Store(target, "server", state, ("-c", str(target))))
    client = app.test_client()
    for cookie in ("gt_18000_session", "gt_18000_setup", "gt_18000_page"):
        found = browser.client.get_cookie(cookie)
        if found is not None:
            client.set_cookie(cookie, found.value)
    page = client.get("/welcome")
    assert page.status_code == 200
    assert "Your server runs" in page.text
    assert "X-GT-Setup" not in page.headers
    about: Console = app.extensions[EXTENSION]
    entry = about.db.audit(10)[0]
    assert (entry["what"], entry["name"]) == ("set up", "admin")


def test_who_sends_the_form_twice_starts_once(
    browser: Browser, relay: Relay, tmp_path: Path, free_port: int
) -> None:
    second = Browser(browser.app)
    meanwhile: list[TestResponse] = []

    def slow(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        for cookie in ("gt_18000_setup", "gt_18000_page"):
            found = browser.client.get_cookie(cookie)
            assert found is not None
            second.client.set_cookie(cookie, found.value)
        meanwhile.append(second.post("/setup/start"))
        return {}

    relay.answers["reload"] = slow
    assert finish(fill_in(browser), free_port).status_code == 200
    assert [each.headers.get("X-GT-Setup") for each in meanwhile] == ["starting"]
    assert (tmp_path / "server.yml").exists()


def test_an_accident_does_not_lock_the_wizard(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setattr(Store, "check", lambda self, text: 1 / 0)
    browser.app.testing = False
    assert finish(fill_in(browser), free_port).status_code == 500
    monkeypatch.undo()
    assert "GT is starting" in browser.post("/setup/start").text


def test_a_restart_of_the_page_does_not_start_twice(browser: Browser, relay: Relay, free_port: int) -> None:
    finish(fill_in(browser), free_port)
    again = browser.post("/setup/start")
    assert "GT is starting" in again.text
    assert len([each for each in relay.asked if each["command"] == "reload"]) == 1
