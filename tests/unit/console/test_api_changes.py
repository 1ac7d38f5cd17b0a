"""Changes of the configuration over the API: what is written, what is answered, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import argon2
import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient

from gtapp.config.options import OPTIONS
from gtapp.config.store import Store
from gtapp.console.api import PREFIX
from gtapp.console.context import EXTENSION, Console
from gtapp.errors import GTError
from gtapp.wire.join_code import JoinCode
from tests.unit.console.api_relay import answers, told
from tests.unit.console.conftest import Auth, Relay

MakeApp = Callable[..., Flask]
HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")
SERVER = f"""\
# my server
type: server
options:
  addr: 127.0.0.1:18080  # visitors
  webAddr: 127.0.0.1:18000
  password: {HASH}
users:
  # the first
  alice:
    secret: alices-secret
    speed: 10MiB
"""
CLIENT = f"""\
type: client
options:
  id: alice
  secret: alices-secret
  remote: tcp://127.0.0.1:18080
  password: {HASH}
services:
  - local: http://127.0.0.1:18088  # wiki
  - local: tcp://127.0.0.1:22
    remoteTCPPort: 2222
"""


class API:
    """A program with a token for everything."""

    def __init__(self, app: Flask, path: Path) -> None:
        self.app = app
        self.path = path
        self._client: FlaskClient = app.test_client()
        self._headers = Auth(app, self._client).token()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        more = {} if body is None else {"json": body}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._client.open(
            f"{PREFIX}/{path}", method=method, headers={**self._headers, **named}, **more
        )

    @property
    def file(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.path.read_text())
        return found

    @property
    def etag(self) -> str:
        return self.about.store.read().etag if self.about.store else ""

    @property
    def about(self) -> Console:
        found: Console = self.app.extensions[EXTENSION]
        return found

    def audited(self) -> list[str]:
        return [each["what"] for each in self.about.db.audit(100)]


def api_of(role: str, text: str, make_app: MakeApp, relay: Relay, tmp_path: Path) -> API:
    path = tmp_path / f"{role}.yml"
    relay.answers |= answers(role, path)
    return API(make_app(role, text, store=Store(path, role, path.with_suffix(".state"))), path)


@pytest.fixture
def server(make_app: MakeApp, relay: Relay, tmp_path: Path) -> API:
    return api_of("server", SERVER, make_app, relay, tmp_path)


@pytest.fixture
def client(make_app: MakeApp, relay: Relay, tmp_path: Path) -> API:
    return api_of("client", CLIENT, make_app, relay, tmp_path)


def outcome(answer: Any, code: int = 200) -> dict[str, Any]:
    assert answer.status_code == code, answer.text
    found: dict[str, Any] = answer.json
    assert answer.headers["ETag"] == f'"{found["etag"]}"'
    return found


# users


def test_a_user_is_added_with_a_secret_that_is_shown_once(server: API, relay: Relay) -> None:
    made = outcome(server("POST", "users", {"id": "bob", "tcpRange": ["20000-20010"], "connections": 3}), 201)
    assert server.file["users"]["bob"]["secret"] == made["secret"]
    assert len(made["secret"]) > 40
    assert server.file["users"]["bob"]["connections"] == 3
    assert made["changed"]
    assert made["lines"] == [f"{server.path}: nothing has changed"]  # what the relay has told
    assert made["problem"] == ""
    assert "# the first" in server.path.read_text()
    assert [each["command"] for each in relay.asked].count("reload") == 1
    shown = server("GET", "users/bob")
    assert shown.json["options"] == {"connections": 3, "tcpRange": ["20000-20010"]}
    assert shown.json["proves"] == "secret"
    assert made["secret"] not in shown.text
    assert made["secret"] not in json.dumps(server("GET", "audit").json)
    assert server.audited() == ["user bob added"]


def test_a_user_with_a_secret_of_its_own(server: API) -> None:
    made = outcome(server("POST", "users", {"id": "bob", "secret": "bobs-secret"}), 201)
    assert "secret" not in made
    assert server.file["users"]["bob"] == {"secret": "bobs-secret"}


@pytest.mark.parametrize("id", ["a/b", "~x", "two words", "名字", "a//", ".", "new", "x" * 200])
def test_any_id_can_be_named_in_a_url(server: API, id: str) -> None:
    outcome(server("POST", "users", {"id": id}), 201)
    with server.app.test_request_context():
        from flask import url_for

        url = url_for("api_users.one", user=id).removeprefix(f"{PREFIX}/")
    assert server("GET", url).json["id"] == id
    outcome(server("DELETE", url))
    assert id not in server.file["users"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "a\nb"}, "id"),
        ({"id": "ü" * 101}, "id"),  # 202 bytes
        ({}, "id"),
        ({"id": "bob", "speed": "fast"}, "speed"),
        ({"id": "bob", "speed": True}, "speed"),
        ({"id": "bob", "speed": -1}, "speed"),
        ({"id": "bob", "connections": "3"}, "connections"),
        ({"id": "bob", "connections": 2.5}, "connections"),
        ({"id": "bob", "disabled": 1}, "disabled"),
        ({"id": "bob", "tcpRange": "1-2"}, "tcpRange"),
        ({"id": "bob", "tcpRange": [5]}, "tcpRange"),
        ({"id": "bob", "hostRegex": ["("]}, "hostRegex"),
        ({"id": "bob", "color": "red"}, "color"),
    ],
)
def test_what_is_wrong_is_told_by_field(server: API, relay: Relay, body: dict[str, Any], field: str) -> None:
    before = server.path.read_text()
    answer = server("POST", "users", body)
    assert answer.status_code == 422
    assert list(answer.json["errors"]) == [field]
    assert server.path.read_text() == before
    assert not relay.asked


def test_what_does_not_fit_together_is_told_in_words(server: API) -> None:
    outcome(server("POST", "users", {"id": "bob", "tcpRange": ["2000-3000"]}), 201)
    answer = server("POST", "users", {"id": "carol", "tcpRange": ["2500"]})
    assert answer.status_code == 422
    assert "overlaps" in answer.json["message"]
    assert "carol" not in server.file["users"]


def test_a_user_that_is_there_already(server: API) -> None:
    answer = server("POST", "users", {"id": "alice"})
    assert answer.status_code == 409
    assert server.file["users"]["alice"]["secret"] == "alices-secret"


def test_a_user_is_changed_disabled_and_deleted(server: API) -> None:
    changed = outcome(server("PATCH", "users/alice", {"speed": None, "hostNumber": 2, "disabled": True}))
    assert changed["changed"]
    assert server.file["users"]["alice"]["secret"] == "alices-secret"
    assert "speed" not in server.file["users"]["alice"]
    shown = server("GET", "users/alice").json
    assert shown["state"] == "disabled"
    assert shown["options"] == {"hostNumber": 2, "disabled": True}
    assert not outcome(server("PATCH", "users/alice", {"hostNumber": 2}))["changed"]
    outcome(server("POST", "users", {"id": "bob"}), 201)
    outcome(server("DELETE", "users/alice"))
    assert list(server.file["users"]) == ["bob"]
    assert server.audited()[:2] == ["user alice removed", "user bob added"]


def test_the_last_user_stays(server: API) -> None:
    answer = server("DELETE", "users/alice")
    assert answer.status_code == 422
    assert "no users" in answer.json["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "users/bob"),
        ("PATCH", "users/bob"),
        ("DELETE", "users/bob"),
        ("POST", "users/bob/secret"),
        ("GET", "users/bob/join-code"),
        ("GET", "clients/bob"),
        ("POST", "clients/bob/block"),
        ("POST", "clients/bob/disconnect"),
        ("GET", "users/~..."),
    ],
)
def test_a_user_that_is_not_there(server: API, method: str, path: str) -> None:
    answer = server(method, path, {} if method == "PATCH" else None)
    assert answer.status_code == 404
    assert answer.json["code"] == 404


def test_a_new_secret_and_the_join_code_that_has_it(server: API) -> None:
    secret = outcome(server("POST", "users/alice/secret"))["secret"]
    assert server.file["users"]["alice"]["secret"] == secret
    made = server("GET", "users/alice/join-code").json
    code = JoinCode.parse(made["code"])
    assert (code.id, code.secret) == ("alice", secret)
    assert made["svg"].startswith("<svg")
    assert secret in made["python"]
    assert server.audited() == ["join code of user alice shown", "user alice: new secret"]


def test_users_by_the_page(server: API) -> None:
    for number in range(5):
        outcome(server("POST", "users", {"id": f"user{number}"}), 201)
    page = server("GET", "users?offset=2&limit=3").json
    assert page["total"] == 6
    assert [each["id"] for each in page["users"]] == ["user1", "user2", "user3"]
    assert server("GET", "users?limit=1001").status_code == 422
    assert server("GET", "users?offset=-1").status_code == 422


def test_who_is_blocked_and_let_in_again(server: API, relay: Relay) -> None:
    assert server("GET", "clients/alice").json["state"] == "connected"
    outcome(server("POST", "clients/alice/block"))
    assert server.file["users"]["alice"]["disabled"] is True
    outcome(server("POST", "clients/alice/unblock"))
    assert "disabled" not in server.file["users"]["alice"]
    cut = server("POST", "clients/alice/disconnect")
    assert cut.json == {"count": 1, "text": "closed"}
    assert {"command": "disconnect", "config": str(server.path), "user": "alice"} in relay.asked


# who was faster


def test_a_change_is_refused_when_the_file_is_another_one(server: API) -> None:
    read = server("GET", "users/alice").headers["ETag"]
    outcome(server("PATCH", "users/alice", {"connections": 4}, If_Match=read))
    late = server("PATCH", "users/alice", {"connections": 5}, If_Match=read)
    assert late.status_code == 412
    assert late.json["etag"] == server.etag
    assert late.headers["ETag"] == f'"{server.etag}"'
    assert server.file["users"]["alice"]["connections"] == 4
    outcome(server("PATCH", "users/alice", {"connections": 5}, If_Match=late.headers["ETag"]))
    outcome(server("PATCH", "users/alice", {"connections": 6}, If_Match="*"))
    assert server.file["users"]["alice"]["connections"] == 6


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "users", {"id": "bob"}),
        ("DELETE", "users/alice", None),
        ("POST", "users/alice/secret", None),
        ("POST", "clients/alice/block", None),
        ("PATCH", "settings", {"logLevel": "debug"}),
        ("POST", "settings/preview", {"logLevel": "debug"}),
        ("PUT", "config", {"text": SERVER}),
    ],
)
def test_every_change_looks_at_it(server: API, method: str, path: str, body: Any) -> None:
    before = server.path.read_text()
    answer = server(method, path, body, If_Match=f'"{"0" * 64}"')
    assert answer.status_code == 412
    assert server.path.read_text() == before


def test_a_whole_file_is_never_saved_blindly(server: API) -> None:
    answer = server("PUT", "config", {"text": SERVER.replace("10MiB", "20MiB")})
    assert answer.status_code == 428
    assert "10MiB" in server.path.read_text()


@pytest.mark.parametrize("key", ["admin", "password", "signingKey", "users", "logFile", "certFile"])
def test_a_token_cannot_change_who_logs_in_or_which_files_are_used(server: API, key: str) -> None:
    """Whoever may change settings would become the administrator by that, and read and write files of the machine."""
    before = server.path.read_text()
    etag = f'"{server.etag}"'
    assert server("PATCH", "settings", {key: "/etc/passwd"}, If_Match=etag).status_code == 403
    assert server("POST", "settings/preview", {key: "/etc/passwd"}, If_Match=etag).status_code == 403
    text = re.sub(rf"\n  {key}: .*", "", before).replace("options:", f"options:\n  {key}: /etc/passwd", 1)
    for method, path in (("PUT", "config"), ("POST", "config/check")):
        answer = server(method, path, {"text": text}, If_Match=etag)
        assert answer.status_code == 403
        assert "root:" not in answer.text
    assert server.path.read_text() == before


def test_a_token_does_not_read_the_administrators_password(server: API) -> None:
    """As a hash it stands in the file, and the file can be read."""
    assert server("GET", "config").status_code == 200
    text = server.path.read_text()
    server.path.write_text(re.sub(r"\n  password: .*", "\n  password: in-the-clear", text))
    answer = server("GET", "config")
    assert answer.status_code == 403
    assert "in-the-clear" not in answer.text


# settings


def test_each_option_is_told_with_what_it_is_set_to(server: API) -> None:
    answer = server("GET", "settings")
    assert answer.headers["ETag"] == f'"{server.etag}"'
    found = {each["key"]: each for each in answer.json["settings"]}
    assert found.keys() == {key for key, each in OPTIONS["server"].items() if each.available} - {
        "id",
        "secret",
    }
    addr = found["addr"]
    assert addr["value"] == addr["in_file"] == "127.0.0.1:18080"
    assert (addr["source"], addr["applies"], addr["section"]) == ("file", "listeners", "Listening")
    assert found["timeout"]["value"] == found["timeout"]["default"] == "1m30s"
    assert (found["timeout"]["source"], found["timeout"]["unit"]) == ("default", "s")
    password = found["password"]
    assert password["secret"]
    assert password["is_set"]
    assert password["value"] is password["in_file"] is None
    assert "correct horse" not in answer.text
    for each in found.values():
        assert each["help"]
        assert each["help_zh"]
        assert each["allowed"]
        assert each["schema"]["description"]


def test_what_a_flag_sets_wins_over_the_file(make_app: MakeApp, relay: Relay, tmp_path: Path) -> None:
    path = tmp_path / "server.yml"
    relay.answers |= answers("server", path)
    words = ("-c", str(path), "--logLevel", "warn")
    app = make_app(
        "server", SERVER, words=words, store=Store(path, "server", path.with_suffix(".state"), words)
    )
    found = {each["key"]: each for each in API(app, path)("GET", "settings").json["settings"]}
    assert (found["logLevel"]["value"], found["logLevel"]["source"]) == ("warn", "--logLevel")
    assert found["logLevel"]["in_file"] is None


def test_options_are_set_and_removed(server: API) -> None:
    changed = {
        "logLevel": "debug",
        "trustedProxies": ["10.0.0.0/8", "192.0.2.1"],
        "timeout": "90s",
        "speed": 1048576,
    }
    assert outcome(server("PATCH", "settings", changed))["changed"]
    options = server.file["options"]
    assert options["logLevel"] == "debug"
    assert options["trustedProxies"] == ["10.0.0.0/8", "192.0.2.1/32"]
    assert options["timeout"] == "90s"  # as it was typed
    assert "# visitors" in server.path.read_text()
    outcome(server("PATCH", "settings", {"logLevel": None}))
    assert "logLevel" not in server.file["options"]
    assert server.audited()[0] == "options: logLevel"


def test_a_password_is_kept_as_a_hash(server: API) -> None:
    browser = server.app.test_client()
    auth = Auth(server.app, browser)
    assert auth.login("admin", "correct horse").status_code == 302

    def change(password: str) -> Any:
        headers = {"X-CSRFToken": auth.csrf()}
        return browser.patch(f"{PREFIX}/settings", json={"password": password}, headers=headers)

    headers = {"X-CSRFToken": auth.csrf()}
    shown = browser.post(f"{PREFIX}/settings/preview", json={"password": "something else"}, headers=headers)
    assert shown.status_code == 200
    assert "something" not in shown.text
    before = server.path.read_text()
    refused = change("$argon2")
    assert refused.status_code == 422, "what only begins like a hash is a password, and a short one"
    assert "at least 10" in refused.json["errors"]["password"][0]
    assert server.path.read_text() == before
    outcome(change("battery staple"))
    kept = server.file["options"]["password"]
    assert argon2.PasswordHasher().verify(kept, "battery staple")
    assert "battery" not in server.path.read_text()


def test_what_a_change_would_do_is_shown_and_not_done(server: API) -> None:
    before = server.path.read_text()
    answer = server("POST", "settings/preview", {"addr": ":8080", "timeout": None})
    assert answer.status_code == 200
    lines = [(each["kind"], each["text"].strip()) for each in answer.json["lines"]]
    assert ("-", "addr: 127.0.0.1:18080  # visitors") in lines
    assert ("+", "addr: :8080  # visitors") in lines
    assert answer.json["problems"] == []
    assert HASH not in answer.text
    wrong = server("POST", "settings/preview", {"addr": None}).json["problems"]
    assert "nowhere for tunnels" in wrong[0]["message"]
    assert server.path.read_text() == before


def test_an_option_that_cannot_be_set(server: API) -> None:
    for body, field in (
        ({"logLevel": "loud"}, "logLevel"),
        ({"addr": 5}, "addr"),
        ({"id": ["x"]}, "id"),
        ({"quicAddr": ":443"}, "quicAddr"),  # not available yet
        ({"nothing": 1}, "nothing"),
    ):
        answer = server("PATCH", "settings", body)
        assert answer.status_code == 422
        assert list(answer.json["errors"]) == [field]


# what the running GT makes of it


def test_a_change_that_the_running_gt_refuses_is_taken_back(server: API, relay: Relay) -> None:
    before = server.path.read_text()
    relay.answers["reload"] = GTError("not reloaded, everything stays as it was: 127.0.0.1:9: in use")
    answer = server("PATCH", "settings", {"addr": "127.0.0.1:9"})
    assert answer.status_code == 409
    assert "in use" in answer.json["message"]
    assert answer.json["etag"] == server.etag
    assert server.path.read_text() == before
    assert server.audited() == ["change taken back", "options: addr"]


def test_a_change_stays_when_nothing_runs(server: API, relay: Relay) -> None:
    relay.answers = dict.fromkeys(relay.answers, GTError("the process cannot be asked: Connection refused"))
    made = outcome(server("PATCH", "settings", {"logLevel": "debug"}))
    assert made["changed"]
    assert "cannot be asked" in made["problem"]
    assert server.file["options"]["logLevel"] == "debug"


# the file as text


def test_the_file_is_read_checked_and_replaced(server: API) -> None:
    now = server("GET", "config")
    assert now.json == {"text": SERVER, "etag": server.etag}
    assert now.headers["ETag"] == f'"{server.etag}"'
    text = SERVER.replace("10MiB", "20MiB")
    assert server("POST", "config/check", {"text": text}).json == {"problems": []}
    made = outcome(server("PUT", "config", {"text": text}, If_Match=now.headers["ETag"]))
    assert made["etag"] == server.etag
    assert server.path.read_text() == text


def test_what_is_wrong_with_a_text_is_told_by_line(server: API, relay: Relay) -> None:
    text = SERVER.replace("10MiB", "fast").replace("addr:", "adress:", 1)
    problems = server("POST", "config/check", {"text": text}).json["problems"]
    assert {(each["line"], each["key"]) for each in problems} >= {(11, "speed")}
    answer = server("PUT", "config", {"text": text}, If_Match=f'"{server.etag}"')
    assert answer.status_code == 422
    assert any(line.startswith("line 11: ") for line in answer.json["errors"]["text"])
    assert server.path.read_text() == SERVER
    assert not [each for each in relay.asked if each["command"] == "reload"]


def test_the_history_and_the_way_back(server: API) -> None:
    outcome(server("PATCH", "users/alice", {"speed": "20MiB"}))
    outcome(server("POST", "users/alice/secret"))
    versions = server("GET", "history").json["versions"]
    assert [each["what"] for each in versions] == ["user alice: new secret", "user alice changed", ""]
    assert [each["who"] for each in versions] == ["admin", "admin", "by hand"]
    first = versions[-1]["id"]
    assert server("GET", f"history/{first}").json["text"] == SERVER
    difference = server("GET", f"history/{first}/diff")
    lines = [(each["kind"], each["text"].strip()) for each in difference.json["lines"]]
    assert ("+", "speed: 10MiB") in lines
    assert ("-", "secret: ***") in lines
    assert "alices-secret" not in difference.text
    outcome(server("POST", f"history/{first}/restore"))
    assert server.path.read_text() == SERVER
    assert server("GET", "history/999999").status_code == 404
    assert server("POST", "history/..%2F..%2Fetc/restore").status_code == 404


# services of a client


def test_services_are_listed_with_how_they_do(client: API, relay: Relay) -> None:
    relay.answers["status"]["units"][0]["workers"][0]["services"].append(
        {"local": "tcp://127.0.0.1:22", "public": [], "works": False, "problem": "refused"}
    )
    answer = client("GET", "services")
    wiki, ssh = answer.json["services"]
    assert wiki == {
        "number": 1,
        "options": {"local": "http://127.0.0.1:18088"},
        "has_password": False,
        "public": ["http://alice.example.com/"],
        "problem": "",
    }
    assert ssh["problem"] == "refused"
    assert answer.json["others"] == 0
    assert client("GET", "services/2").json == ssh
    assert client("GET", "services/3").status_code == 404
    assert client("GET", "services/0").status_code == 404


def test_services_are_added_changed_and_removed(client: API) -> None:
    outcome(client("POST", "services", {"local": "http://127.0.0.1:3000", "hostPrefix": "git"}), 201)
    assert client.file["services"][2] == {"local": "http://127.0.0.1:3000", "hostPrefix": "git"}
    outcome(client("PATCH", "services/3", {"hostPrefix": "code", "allowIPs": ["10.0.0.0/8"]}))
    assert client.file["services"][2]["hostPrefix"] == "code"
    outcome(client("DELETE", "services/2"))
    assert [each["local"] for each in client.file["services"]] == [
        "http://127.0.0.1:18088",
        "http://127.0.0.1:3000",
    ]
    assert "# wiki" in client.path.read_text()
    assert client("DELETE", "services/3").status_code == 404


def test_services_that_are_not_right(client: API) -> None:
    assert client("POST", "services", {"hostPrefix": "git"}).json["errors"].keys() == {"local"}
    assert client("POST", "services", {"local": None}).json["errors"].keys() == {"local"}
    assert client("POST", "services", {"local": "ftp://x"}).json["errors"].keys() == {"local"}
    twice = client(
        "POST", "services", {"local": "http://127.0.0.1:3000"}
    )  # alice is the host prefix of the first
    assert twice.status_code == 422
    assert "hostPrefix" in twice.json["message"]


def test_a_service_is_tried_out(client: API) -> None:
    answer = client("POST", "services/try", {"local": "http://127.0.0.1:1"}).json
    assert not answer["ok"]
    assert "127.0.0.1:1" in answer["text"]
    assert client("POST", "services/try", {"local": "nonsense"}).json["errors"].keys() == {"local"}


def test_a_server_is_tried_out(client: API, relay: Relay) -> None:
    body = {
        "id": "alice",
        "secret": "s3cret",
        "remote": ["tls://example.com:443"],
        "remoteCertInsecure": True,
    }
    answer = client("POST", "probe", body).json
    assert answer == {
        "ok": True,
        "text": "a tunnel came up",
        "rtt_ms": 3.0,
        "agent": "gt 3.0",
        "transport": "tls",
    }
    asked = next(each for each in relay.asked if each["command"] == "probe")
    assert asked["options"] == {**body, "remoteCertInsecure": "true"}
    refused = client("POST", "probe", {**body, "id": "bob"}).json
    assert refused == {"ok": False, "text": "the server refuses: unknown user"}
    code = JoinCode("alice", "s3cret", ("tcp://example.com:80",)).encode()
    assert client("POST", "probe", {"join_code": code}).json["ok"]
    assert client("POST", "probe", {"join_code": code[:-5]}).json["errors"].keys() == {"join_code"}
    assert client("POST", "probe", {"id": "alice"}).json["errors"].keys() == {"secret", "remote"}


def test_the_lines_of_a_reload_come_with_the_outcome(client: API, relay: Relay) -> None:
    relay.answers["reload"] = told("client.yml: services: live", "done", text="reloaded")
    made = outcome(client("PATCH", "services/1", {"hostPrefix": "wiki"}))
    assert made["lines"] == ["client.yml: services: live", "done"]
