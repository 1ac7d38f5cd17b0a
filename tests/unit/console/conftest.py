"""What tests of the console stand on: `app`, `client` and `auth` as in Flask's tutorial, `relay` for what runs behind.

`make_app` makes an application of another kind. Time is that of `clock`; the control socket is a real one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import argon2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gtapp.config.store import Store
from gtapp.console import create_app, passwords
from gtapp.console.context import EXTENSION, Console
from gtapp.console.database import Database
from gtapp.console.running import Running
from gtapp.console.tokens import SCOPES, Tokens
from gtapp.errors import GTError
from gtapp.observe import logs
from gtapp.process import control

NAME, PASSWORD = "admin", "correct horse"
SERVER = f"""\
type: server
options:
  addr: 127.0.0.1:18080
  webAddr: 127.0.0.1:18000
  admin: {NAME}
  password: {PASSWORD}
users:
  alice:
    secret: alices-secret
"""
CLIENT = f"""\
type: client
options:
  id: alice
  secret: alices-secret
  remote: tcp://127.0.0.1:18080
  webAddr: 127.0.0.1:17000
  admin: {NAME}
  password: {PASSWORD}
services:
  - local: http://127.0.0.1:18088
"""


def hashed(text: str) -> str:
    """A configuration above as it should be, with the hash of the password instead of the password."""
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=128, parallelism=1)
    return text.replace(f"password: {PASSWORD}", f"password: {quick.hash(PASSWORD)}")


class Clock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


class Relay:
    """The master behind the console, on a real control socket. `answers` has what it says to each command: an answer,
    an error, or a function of request and `tell` that gives one; `asked` what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self._server = control.Server({control.DIRECTORY_VARIABLE: str(directory)}, self._command)
        self.ask = control.Master(self._server.path).ask

    def close(self) -> None:
        self._server.close()

    def _command(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        if request["command"] == "hello":
            return {"pid": 1, "config": "", "roles": [], "version": ""}
        self.asked.append(request)
        answer = self.answers.get(request["command"], {})
        if callable(answer):
            answer = answer(request, tell)
        if isinstance(answer, GTError):
            raise answer
        found: dict[str, Any] = answer
        return found


class Auth:
    """Logs `client` in and out, and posts forms with their CSRF token."""

    def __init__(self, app: Flask, client: FlaskClient) -> None:
        self._app = app
        self._client = client

    def login(self, name: str = NAME, password: str = PASSWORD, **more: str) -> TestResponse:
        return self.post("/login", {"name": name, "password": password, **more})

    def logout(self) -> TestResponse:
        return self.post("/logout")

    def csrf(self) -> str:
        """The token of the page that the browser has open."""
        page = self._client.get("/no-such-page")
        found = re.search(r'name="csrf-token" content="([^"]+)"', page.text)
        assert found, page.text
        return found[1]

    def post(self, path: str, data: dict[str, Any] | None = None, **more: Any) -> TestResponse:
        return self._client.post(path, data={"csrf_token": self.csrf(), **(data or {})}, **more)

    def token(self, *scopes: str, lasts_s: float | None = None) -> dict[str, str]:
        """The headers of a program that has these scopes, by default all."""
        about: Console = self._app.extensions[EXTENSION]
        token = Tokens(about.db, about.clock).new("test", scopes or SCOPES, lasts_s)
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed as always, but for what that costs: tests log in a thousand times."""
    monkeypatch.setattr(
        passwords, "hasher", argon2.PasswordHasher(time_cost=1, memory_cost=128, parallelism=1)
    )
    monkeypatch.setattr(passwords, "_hashed", {})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    made = Relay(tmp_path / "run")
    yield made
    made.close()


@pytest.fixture
def make_app(tmp_path: Path, relay: Relay, clock: Clock) -> Iterator[Callable[..., Flask]]:
    """An application: `make_app(role="client", text="…", **fields of Console)`. `app.extensions["gt-console"]` is its
    Console; its file is `tmp_path/server.yml` or `client.yml`."""
    opened: list[Database] = []

    def make(role: str = "server", text: str | None = None, **more: Any) -> Flask:
        path = tmp_path / f"{role}.yml"
        state = tmp_path / f"{role}.state"
        if not more.get("setup"):
            path.write_text(text if text is not None else SERVER if role == "server" else CLIENT)
        fields: dict[str, Any] = {
            "role": role,
            "store": Store(path, role, state, ("-c", str(path)), {}),
            "words": ("-c", str(path)),
            "environ": {},
            "running": Running(relay.ask, str(path)),
            "db": Database(state / "console.db"),
            "sampler": None,
            "state": state,
            "tls": False,
            "setup": False,
            "listen": "127.0.0.1:18000",
            "clock": clock,
        }
        about = Console(**fields | more)
        opened.append(about.db)
        made = create_app(about)
        made.testing = True
        return made

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    """The console of a server."""
    return make_app()


@pytest.fixture
def console(app: Flask) -> Console:
    found: Console = app.extensions[EXTENSION]
    return found


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def auth(app: Flask, client: FlaskClient) -> Auth:
    return Auth(app, client)


@pytest.fixture
def own_log() -> Iterator[logging.Logger]:
    """The log of this process, kept as `logs.setup` has it kept."""
    logger = logging.getLogger("gt.console")
    before = logging.getLogger("gt").level
    logs.recent.role = "console"
    logger.addHandler(logs.recent)
    logging.getLogger("gt").setLevel(logging.INFO)
    yield logger
    logger.removeHandler(logs.recent)
    logging.getLogger("gt").setLevel(before)
