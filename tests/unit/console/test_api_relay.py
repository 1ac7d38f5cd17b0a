"""What the API tells of the running relay, and what it has it do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from gtapp.config.store import Store
from gtapp.console.api import PREFIX
from gtapp.console.context import EXTENSION, Console
from gtapp.console.sampler import Sampler
from gtapp.errors import GTError
from tests.unit.console import api_relay
from tests.unit.console.api_relay import Client
from tests.unit.console.conftest import Auth, Relay

Ask = Callable[..., Any]


@pytest.fixture
def app(make_app: Callable[..., Flask], relay: Relay, tmp_path: Path) -> Flask:
    path = tmp_path / "server.yml"
    relay.answers |= api_relay.answers("server", path)
    app = make_app(store=Store(path, "server", path.with_suffix(".state")))
    about: Console = app.extensions[EXTENSION]
    about.sampler = Sampler(about.running, about.db, about.state, about.clock)
    return app


@pytest.fixture
def ask(client: Client, auth: Auth) -> Ask:
    headers = auth.token()

    def asked(method: str, path: str, **more: Any) -> Any:
        return client.open(f"{PREFIX}/{path}", method=method, headers=headers, **more)

    return asked


def test_the_status_is_what_the_master_says(ask: Ask, relay: Relay) -> None:
    found = ask("GET", "status").json
    assert found == relay.answers["status"]


def test_metrics_are_what_the_master_says(ask: Ask, relay: Relay) -> None:
    assert ask("GET", "metrics").json == relay.answers["metrics"]


def test_clients_with_their_tunnels_and_what_they_publish(ask: Ask) -> None:
    (alice,) = ask("GET", "clients").json["clients"]
    assert alice["id"] == "alice"
    assert alice["state"] == "connected"
    assert alice["streams"] == 2
    assert alice["bytes_out"] == 5000
    assert [each["id"] for each in alice["tunnels"]] == ["1.4"]
    assert alice["publishes"] == [{"kind": "http", "name": "alice", "urls": []}]  # there is no domain
    assert ask("GET", "clients/alice").json == alice


def test_tunnels_and_connections(ask: Ask, relay: Relay) -> None:
    (tunnel,) = ask("GET", "tunnels").json["tunnels"]
    assert tunnel["user"] == "alice"
    assert tunnel["rtt_ms"] == 3.1
    found = ask("GET", "connections?limit=5").json
    assert found["total"] == 1
    assert found["connections"][0]["visitor"] == "203.0.113.9:40000"
    assert ask("GET", "connections?user=bob").json == {"total": 0, "connections": []}
    asked = [each for each in relay.asked if each["command"] == "connections"]
    assert [(each["limit"], each.get("user")) for each in asked] == [(5, None), (100, "bob")]
    for limit in ("0", "501", "many"):
        assert ask("GET", f"connections?limit={limit}").status_code == 422


def test_a_connection_and_a_tunnel_are_cut(ask: Ask, console: Console) -> None:
    assert ask("DELETE", "connections/1.4.9").json == {"count": 1, "text": "closed"}
    assert ask("DELETE", "tunnels/1.4").json == {"count": 1, "text": "closed"}
    gone = ask("DELETE", "connections/1.4.8")
    assert (gone.status_code, gone.json["message"]) == (404, "that is not there any more")
    assert [each["what"] for each in console.db.audit(9)] == ["tunnel 1.4 closed", "connection 1.4.9 cut"]


def test_actions_tell_their_lines(ask: Ask, console: Console, relay: Relay, tmp_path: Path) -> None:
    done = ask("POST", "actions/restart").json
    lines = [f"{tmp_path}/server.yml: 1 new worker; the old finish what they relay"]
    assert done == {"lines": lines, "text": "restarted"}
    assert ask("POST", "actions/reload").json["text"] == "reloaded"
    assert ask("POST", "actions/stop").json["lines"] == ["ending: running connections have 10 s"]
    assert [each["what"] for each in console.db.audit(9)] == ["stopped", "reloaded", "restarted"]
    relay.answers["reload"] = GTError("not reloaded, everything stays as it was: server.yml:3: addr: …")
    refused = ask("POST", "actions/reload")
    assert refused.status_code == 503
    assert refused.json["message"].startswith("not reloaded")


def test_the_check_of_the_whole_path(ask: Ask, relay: Relay) -> None:
    assert ask("POST", "actions/check").json == {"ok": True, "text": "a request got through", "ms": 4.5}
    relay.answers["check"] = GTError("no worker is ready")
    assert ask("POST", "actions/check").json == {"ok": False, "text": "no worker is ready"}


def test_the_samples_of_the_charts(ask: Ask, console: Console) -> None:
    assert console.sampler is not None
    console.sampler.sample()
    found = ask("GET", "series").json
    assert found["step"] == 1
    assert found["times"] == [int(console.clock())]
    assert found["columns"]["tunnels"] == [api_relay.counted("server")["units"][0]["total"]["tunnels"]]
    assert ask("GET", "series?span=24h").json["step"] == 60
    of_user = ask("GET", "series?kind=users&name=alice").json
    assert of_user["columns"]["streams"] == [2]
    assert ask("GET", "series?span=1y").json["errors"].keys() == {"span"}


def test_the_log_of_all_processes_and_what_comes_later(ask: Ask, own_log: logging.Logger) -> None:
    own_log.info("one")
    first = ask("GET", "log").json
    messages = [each["message"] for each in first["lines"]]
    assert messages[:3] == [line[4] for line in api_relay.LINES]  # their times are long ago
    assert "one" in messages
    assert ask("GET", f"log?after={first['next']}").json["lines"] == []
    own_log.warning("two")
    later = ask("GET", f"log?after={first['next']}").json
    assert [(each["message"], each["level"], each["role"]) for each in later["lines"]] == [
        ("two", "warn", "console")
    ]


def test_the_log_by_level_and_text(ask: Ask, relay: Relay) -> None:
    found = ask("GET", "log?search=VISITOR").json["lines"]
    assert [each["message"] for each in found] == ["visitor 203.0.113.9 left"]
    ask("GET", "log?level=error&limit=7")
    asked = [each for each in relay.asked if each["command"] == "log"][-1]
    assert (asked["level"], asked["limit"]) == ("error", 7)
    for query in ("level=loud", "limit=0", "limit=1001", "search=%00"):
        assert ask("GET", f"log?{query}").status_code == 422


@pytest.mark.parametrize(
    "cursor", ["", "nonsense", "master:", ":5", "master:x", "master:-1", "a:1,b", "master:" + "9" * 30]
)
def test_a_cursor_that_is_none(ask: Ask, cursor: str) -> None:
    first = ask("GET", f"log?after={cursor}").json["lines"][0]
    assert first["message"] == api_relay.LINES[0][4]


def test_sessions_are_seen_and_ended(client: Client, auth: Auth, app: Flask) -> None:
    assert auth.login().status_code == 302
    other = app.test_client()
    assert Auth(app, other).login().status_code == 302
    found = client.get(f"{PREFIX}/account/sessions").json["sessions"]
    assert sorted(each["current"] for each in found) == [False, True]
    headers = {"X-CSRFToken": auth.csrf()}
    ids = {each["current"]: each["id"] for each in found}
    assert client.delete(f"{PREFIX}/account/sessions/{ids[True]}", headers=headers).status_code == 409
    assert other.get(f"{PREFIX}/version").status_code == 200
    assert client.delete(f"{PREFIX}/account/sessions/{ids[False]}", headers=headers).status_code == 200
    assert other.get(f"{PREFIX}/version").status_code == 401
    assert client.delete(f"{PREFIX}/account/sessions/{ids[False]}", headers=headers).status_code == 404


def test_a_token_is_made_used_and_revoked(client: Client, auth: Auth) -> None:
    assert auth.login().status_code == 302
    headers = {"X-CSRFToken": auth.csrf()}
    body = {"label": "Prometheus", "scopes": ["read", "metrics"], "days": None}
    made = client.post(f"{PREFIX}/account/tokens", json=body, headers=headers)
    assert made.status_code == 201
    bearer = {"Authorization": f"Bearer {made.json['token']}"}
    assert client.get(f"{PREFIX}/version", headers=bearer).status_code == 200
    listed = client.get(f"{PREFIX}/account/tokens")
    (token,) = listed.json["tokens"]
    assert (token["label"], token["scopes"], token["expires"]) == ("Prometheus", ["read", "metrics"], None)
    assert token["used"] is not None
    assert made.json["token"] not in listed.text
    assert client.delete(f"{PREFIX}/account/tokens/{token['id']}", headers=headers).status_code == 200
    assert client.get(f"{PREFIX}/version", headers=bearer).status_code == 401
    assert client.delete(f"{PREFIX}/account/tokens/{token['id']}", headers=headers).status_code == 404
    refused: list[dict[str, Any]] = [
        {"scopes": []},
        {"scopes": ["all"]},
        {"label": ""},
        {"days": 0},
        {"days": True},
    ]
    for wrong in refused:
        answer = client.post(f"{PREFIX}/account/tokens", json={**body, **wrong}, headers=headers)
        assert answer.status_code == 422, wrong
        assert answer.json["errors"].keys() == wrong.keys()


def test_the_audit_log_by_text_and_page(ask: Ask, console: Console) -> None:
    for number in range(5):
        console.db.add_audit(number, "admin", "browser", "192.0.2.1", f"user u{number} added", "speed")
    found = ask("GET", "audit?limit=2").json["entries"]
    assert [each["what"] for each in found] == ["user u4 added", "user u3 added"]
    older = ask("GET", f"audit?before={found[-1]['id']}").json["entries"]
    assert [each["what"] for each in older] == ["user u2 added", "user u1 added", "user u0 added"]
    assert [each["what"] for each in ask("GET", "audit?search=u3").json["entries"]] == ["user u3 added"]
    assert ask("GET", "audit?limit=501").status_code == 422
