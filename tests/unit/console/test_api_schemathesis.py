"""The API against its own OpenAPI document: whatever is sent, no answer is a server error or an undocumented one.

schemathesis makes up the requests: the examples of the document, values at the edges of what is allowed and beyond
them, and random ones, the same each time. The relay behind is a control socket that answers as a real master does.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, settings
from schemathesis import Case, checks
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import BaseSchema

from gtapp.config.store import Store
from gtapp.console import create_app
from gtapp.console.api import cookie_of
from gtapp.console.context import Console
from gtapp.console.database import Database
from gtapp.console.running import Running
from gtapp.console.sampler import Sampler
from gtapp.errors import GTError
from tests.unit.console.api_relay import answers
from tests.unit.console.conftest import CLIENT, SERVER, Auth, Clock, Relay, hashed

checks.load_all_checks()
CHECKS: list[Any] = [
    checks.CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    )
]
# Precondition and size are looked at first.
REJECTED = {"expected-statuses": [400, 401, 403, 404, 409, 412, 413, 415, 422, 428]}
# These take much, and the same as PATCH /settings of a server does: values at the edges are tried there.
SIMILAR = {"server": ["POST /api/v1/settings/preview"]}
SIMILAR["client"] = [*SIMILAR["server"], "PATCH /api/v1/settings"]
EXAMPLES = settings(
    max_examples=12,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class API:
    """The application, as a browser that is logged in asks it."""

    app: Flask
    path: Path
    text: str
    headers: dict[str, str]
    cookies: dict[str, str]

    def ask(self, case: Case[Any]) -> None:
        self.path.write_text(self.text)  # the case before may have changed the password
        response = case.call(app=self.app, headers=self.headers, cookies=self.cookies)
        assert response.status_code != 401
        case.validate_response(response, checks=CHECKS)


def console_of(role: str, path: Path, running: Running) -> Console:
    path.write_text(hashed(SERVER if role == "server" else CLIENT))
    state, words = path.with_suffix(".state"), ("-c", str(path))
    db = Database(state / "console.db")
    return Console(
        role=role,
        store=Store(path, role, state, words),
        words=words,
        environ={},
        running=running,
        db=db,
        sampler=Sampler(running, db, state),
        state=state,
        tls=False,
        setup=False,
        listen="127.0.0.1:18000",
        clock=Clock(),
    )


def nobody(command: str, tell: Any = None, timeout: float = 0.0, **more: Any) -> dict[str, Any]:
    raise GTError("nothing runs")


def api_of(role: str, directory: Path) -> Iterator[API]:
    path = directory / f"{role}.yml"
    relay = Relay(directory / "run")
    relay.answers |= answers(role, path)
    about = console_of(role, path, Running(relay.ask, str(path)))
    app = create_app(about)
    client = app.test_client()
    auth = Auth(app, client)
    assert auth.login().status_code == 302
    headers = {"X-CSRFToken": auth.csrf()}
    cookies = {}
    for name in (cookie_of(about), app.config["SESSION_COOKIE_NAME"]):
        cookie = client.get_cookie(name)
        assert cookie is not None
        cookies[name] = cookie.value
    yield API(app, path, path.read_text(), headers, cookies)
    about.db.close()
    relay.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[API]:
    yield from api_of("server", tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[API]:
    yield from api_of("client", tmp_path_factory.mktemp("client"))


def described(role: str, only: str = "") -> BaseSchema:
    """The document of a console that is there for nothing else; `only` these paths: the others are the same."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"{role}.yml")
        about = console_of(role, path, Running(nobody, str(path)))
        app = create_app(about)
        found = app.extensions["flask-smorest"]["apis"][""]["ext_obj"].spec.to_dict()
        etag = about.store.read().etag if about.store else ""
    found["paths"] = {path: each for path, each in found["paths"].items() if re.search(only, path)}
    for operations in found["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()) if isinstance(operation, dict) else ():
                if parameter["name"] == "If-Match":
                    parameter["example"] = f'"{etag}"'  # that of this file, lest most ends with 412
    config = {
        "generation": {"with-security-parameters": False},
        "checks": {"negative_data_rejection": REJECTED},
        "operations": [
            {"include-name": name, "phases": {"coverage": {"enabled": False}}} for name in SIMILAR[role]
        ],
    }
    return schemathesis.openapi.from_dict(found, config=SchemathesisConfig.from_dict(config))


SERVER_SCHEMA = described("server")
CLIENT_SCHEMA = described("client", r"/(services|discover|probe|settings)")


@SERVER_SCHEMA.parametrize()
@EXAMPLES
def test_a_server_answers_as_its_document_says(case: Case[Any], server: API) -> None:
    server.ask(case)


@CLIENT_SCHEMA.parametrize()
@EXAMPLES
def test_a_client_answers_as_its_document_says(case: Case[Any], client: API) -> None:
    client.ask(case)
