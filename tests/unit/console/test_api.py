"""The API as a whole: its document, who may do what, and what is answered when something is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schemathesis
from flask import Flask

from gtapp.config.store import Store
from gtapp.console.api import PREFIX
from gtapp.console.auth import ACCOUNT, SCOPES
from gtapp.console.context import EXTENSION, Console
from gtapp.errors import GTError
from tests.unit.console.api_relay import Client, answers
from tests.unit.console.conftest import CLIENT, SERVER, Auth, Relay, hashed

MakeApp = Callable[..., Flask]
IN_PATH = {
    "user": "alice",
    "connection": "1.4.9",
    "tunnel": "1.4",
    "version": "1",
    "session": "0",
    "token": "0",
}


class Operation(NamedTuple):
    method: str
    path: str
    described: dict[str, Any]

    @property
    def url(self) -> str:
        return re.sub(r"{(\w+)}", lambda found: IN_PATH.get(found[1], "1"), self.path)

    @property
    def scope(self) -> str:
        """What the document says that it takes."""
        for each in self.described["security"]:
            if "token" in each:
                found: str = each["token"][0]
                return found
        return ACCOUNT


@pytest.fixture(params=["server", "client"])
def app(request: pytest.FixtureRequest, make_app: MakeApp, relay: Relay, tmp_path: Path) -> Flask:
    role: str = request.param
    path = tmp_path / f"{role}.yml"
    relay.answers |= answers(role, path)
    text = hashed(SERVER if role == "server" else CLIENT)
    return make_app(role, text, store=Store(path, role, path.with_suffix(".state")))


@pytest.fixture
def document(app: Flask, client: Client, auth: Auth) -> dict[str, Any]:
    answer = client.get(f"{PREFIX}/openapi.json", headers=auth.token("read"))
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json
    return found


@pytest.fixture
def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        Operation(method.upper(), path, each)
        for path, item in document["paths"].items()
        for method, each in item.items()
        if isinstance(each, dict)
    ]


def ask(client: Client, operation: Operation, **more: Any) -> Any:
    body: dict[str, Any] = {"json": {}} if "requestBody" in operation.described else {}
    return client.open(operation.url, method=operation.method, **body, **more)


def test_each_route_is_in_the_document_and_nothing_else(app: Flask, operations: list[Operation]) -> None:
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api")
    }
    assert {(each.method, each.path) for each in operations} == routes
    assert len(routes) > 30


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()


def test_each_operation_says_all_about_itself(operations: list[Operation]) -> None:
    for each in operations:
        described = each.described
        assert described["summary"], each
        responses = described["responses"]
        assert {"401", "403", "503"} <= responses.keys(), each.path
        assert any(code.startswith("2") for code in responses), each.path
        for code, response in responses.items():
            content = response["content"]["application/json"]
            assert content["schema"], (each.path, code)
            if code.startswith(("4", "5")):
                assert content["example"]["code"] == int(code)
        for parameter in described.get("parameters", ()):
            assert isinstance(parameter, dict)
            assert parameter["description"], (each.path, parameter["name"])
        if "requestBody" in described:
            assert "example" in described["requestBody"]["content"]["application/json"], each.path
    ids = [each.described["operationId"] for each in operations]
    assert len(set(ids)) == len(ids)


def test_each_schema_says_what_its_keys_are(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for key, described in schema["properties"].items():
            known = "description" in described or "$ref" in described or "items" in described
            assert known or described.get("enum") or described.get("additionalProperties"), (name, key)


def test_nobody_gets_in_without_a_login(client: Client, operations: list[Operation], relay: Relay) -> None:
    for each in operations:
        for headers in ({}, {"Authorization": "Bearer gt_wrong"}, {"Authorization": "Bearer "}):
            answer = ask(client, each, headers=headers)
            assert answer.status_code == 401, each.path
            assert answer.json["code"] == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not relay.asked


def test_a_token_may_do_what_its_scopes_say(
    client: Client, operations: list[Operation], auth: Auth, relay: Relay
) -> None:
    scopes = {scope: auth.token(scope) for scope in SCOPES}
    others = {scope: auth.token(*(each for each in SCOPES if each != scope)) for scope in SCOPES}
    everything = auth.token()
    for each in operations:
        if each.scope == ACCOUNT:
            answer = ask(client, each, headers=everything)
            assert answer.status_code == 403, each.path
            assert answer.json["message"]
        else:
            assert ask(client, each, headers=others[each.scope]).status_code == 403, each.path
            assert ask(client, each, headers=scopes[each.scope]).status_code != 403, each.path
    assert relay.asked


def test_a_browser_may_do_everything_with_its_csrf_token(
    client: Client, operations: list[Operation], auth: Auth
) -> None:
    assert auth.login().status_code == 302
    token = auth.csrf()
    for each in operations:
        if each.method == "GET":
            assert ask(client, each).status_code in (200, 404), each.path
            continue
        without = ask(client, each)
        assert without.status_code == 400, each.path
        assert without.json["code"] == 400
        assert ask(client, each, headers={"X-CSRFToken": token}).status_code not in (400, 401, 403), each.path


def test_a_page_of_another_site_changes_nothing(client: Client, auth: Auth, relay: Relay) -> None:
    assert auth.login().status_code == 302
    headers = {"X-CSRFToken": auth.csrf(), "Origin": "https://evil.example"}
    answer = client.post(f"{PREFIX}/actions/restart", headers=headers)
    assert answer.status_code == 403
    assert answer.is_json
    assert not [each for each in relay.asked if each["command"] == "restart"]


def test_what_is_not_there_and_what_is_not_done_there_is_json_too(client: Client, auth: Auth) -> None:
    headers = auth.token()
    missing = client.get(f"{PREFIX}/nothing", headers=headers)
    assert (missing.status_code, missing.json["code"]) == (404, 404)
    wrong = client.delete(f"{PREFIX}/version", headers=headers)
    assert (wrong.status_code, wrong.json["code"]) == (405, 405)
    assert "GET" in wrong.headers["Allow"]


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[" * 200_000, "application/json", 400),
        (b'"\xff"', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"text=type", "application/x-www-form-urlencoded", 415),
        (b"[]", "application/json", 422),
        (b"{}", "application/json", 422),
        (b'{"text": 5}', "application/json", 422),
        (b'{"text": "", "more": 1}', "application/json", 422),
    ],
)
def test_a_body_that_cannot_be_used(
    client: Client, auth: Auth, body: bytes, content_type: str, code: int
) -> None:
    answer = client.post(
        f"{PREFIX}/config/check", data=body, content_type=content_type, headers=auth.token("settings")
    )
    assert answer.status_code == code
    assert answer.json["code"] == code
    assert answer.json["message"]
    if code == 422:
        assert answer.json["errors"]


def test_a_body_beyond_the_limit(client: Client, auth: Auth) -> None:
    headers = auth.token("settings")
    now = client.get(f"{PREFIX}/config", headers=headers).json["text"]
    large = {"text": now + "#" * (2 << 20)}
    assert (
        client.post(f"{PREFIX}/config/check", json=large, headers=headers).status_code == 200
    )  # a file may be that large
    answer = client.patch(f"{PREFIX}/settings", json=large, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (413, 413)
    huge = client.post(f"{PREFIX}/config/check", json={"text": "#" * (12 << 20)}, headers=headers)
    assert huge.status_code == 413


def test_a_relay_that_does_not_answer_is_503(
    client: Client, operations: list[Operation], auth: Auth, relay: Relay
) -> None:
    problem = GTError("the process does not answer within 3 s; its log may say why")
    relay.answers = dict.fromkeys(relay.answers, problem)
    headers = auth.token()
    for path in ("status", "metrics", "tunnels", "connections"):
        answer = client.get(f"{PREFIX}/{path}", headers=headers)
        assert answer.status_code == 503
        assert answer.json["message"] == str(problem)
    # What can do without does.
    for path in ("settings", "log", "audit", "version", "config", "history"):
        assert client.get(f"{PREFIX}/{path}", headers=headers).status_code == 200, path


def test_a_gt_without_a_file_says_so(make_app: MakeApp, relay: Relay, tmp_path: Path) -> None:
    words = ("--addr", "127.0.0.1:18080", "--id", "alice", "--secret", "s3cret")
    relay.answers |= answers("server", tmp_path)
    app = make_app("server", words=words, store=None)
    headers = Auth(app, app.test_client()).token()
    client: Client = app.test_client()
    assert client.get(f"{PREFIX}/settings", headers=headers).status_code == 200
    assert client.get(f"{PREFIX}/users/alice", headers=headers).json["id"] == "alice"
    changes: list[tuple[str, str, dict[str, Any] | None]] = [
        ("PATCH", "settings", {"logLevel": "debug"}),
        ("POST", "settings/preview", {"logLevel": "debug"}),
        ("GET", "config", None),
        ("GET", "history", None),
        ("POST", "users", {"id": "bob"}),
        ("DELETE", "users/alice", None),
    ]
    for method, path, body in changes:
        answer = client.open(
            f"{PREFIX}/{path}", method=method, headers=headers, **({"json": body} if body else {})
        )
        assert answer.status_code == 409, path
        assert "-c FILE" in answer.json["message"]


def test_in_setup_mode_there_is_no_api(make_app: MakeApp) -> None:
    app = make_app(setup=True)
    assert app.test_client().get(f"{PREFIX}/version").status_code == 404


def test_errors_have_no_secrets(client: Client, auth: Auth, app: Flask) -> None:
    about: Console = app.extensions[EXTENSION]
    assert about.store is not None
    secret = "not\nto be shown"
    key = "secret" if about.role == "client" else "password"
    answer = client.patch(f"{PREFIX}/settings", json={key: secret}, headers=auth.token())
    assert answer.status_code == 422
    assert "to be shown" not in answer.text
