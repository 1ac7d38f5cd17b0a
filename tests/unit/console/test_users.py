"""The pages of users: what they show, what they write into the file, what they refuse, and what is told of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gtapp.config.store import Store
from gtapp.console.context import EXTENSION
from gtapp.errors import GTError
from gtapp.wire.join_code import JoinCode
from tests.unit.console.conftest import NAME, SERVER, Auth, Relay

MakeApp = Callable[..., Flask]

STATUS = {
    "units": [
        {
            "role": "server",
            "listeners": [{"option": "addr", "address": "127.0.0.1:18080"}],
            "workers": [
                {
                    "tunnels": [{"user": "alice"}, {"user": "alice"}],
                    "hosts": [
                        {"kind": "http", "name": "blog", "user": "alice"},
                        {"kind": "tcp", "name": "2222", "user": "alice"},
                    ],
                }
            ],
        }
    ]
}
METRICS = {
    "units": [
        {
            "users": {
                "alice": {"tunnels": 2, "streams": 7, "opened": 99, "bytes_in": 4096, "bytes_out": 5 << 20}
            }
        }
    ]
}


@pytest.fixture
def reloads(relay: Relay) -> list[str]:
    """The file as it was at each reload."""
    seen: list[str] = []

    def reload(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        seen.append(Path(request["config"]).read_text())
        tell("server.yml: users (1 changed): live")
        return {"text": "reloaded"}

    relay.answers |= {"status": STATUS, "metrics": METRICS, "reload": reload}
    return seen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.yml"


@pytest.fixture
def start(make_app: MakeApp, path: Path) -> Callable[..., FlaskClient]:
    """A browser that is logged in, at the console of a file with this text."""

    def begin(text: str = SERVER, **more: Any) -> FlaskClient:
        store = Store(path, "server", path.with_suffix(".state"), more.get("words", ()))
        app = make_app(text=text, **{"store": store, **more})
        client = app.test_client()
        assert Auth(app, client).login().status_code in (302, 303)
        return client

    return begin


def post(client: FlaskClient, path: str, **fields: str) -> TestResponse:
    token = re.search(r'name="csrf-token" content="([^"]+)"', client.get("/users").text)
    assert token
    return client.post(path, data={"csrf_token": token[1], **fields})


def save(client: FlaskClient, user: str, **fields: str) -> TestResponse:
    """Open the form, and send it with these fields changed."""
    return send(client, user, opened(client, user), **fields)


def opened(client: FlaskClient, user: str) -> dict[str, str]:
    """The fields of a user's form as it stands."""
    page = client.get(f"/users/{user}").text
    form = page[page.index('name="draft"') - 300 :]
    fields = dict(re.findall(r'name="(draft)" value="([^"]*)"', form))
    for value, name in re.findall(r'<input type="(?:text|number)" value="([^"]*)"[^>]*?name="(\w+)"', form):
        fields[name] = value
    for name, value in re.findall(r'<textarea[^>]*?name="(\w+)"[^>]*>\n?(.*?)</textarea>', form, re.DOTALL):
        fields[name] = value
    return fields


def send(client: FlaskClient, user: str, form: dict[str, str], **fields: str) -> TestResponse:
    return post(client, f"/users/{user}", **{**form, **fields})


def users_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["users"]
    return found


def told(client: FlaskClient) -> str:
    return client.get("/users").text


# the list


def test_the_list_shows_what_users_may_and_do(start, reloads):
    client = start(
        SERVER.replace("alices-secret", "alices-secret\n    speed: 1MiB\n    connections: 5").replace(
            "options:", "options:\n  domain: example.com"
        )
        + "  bob: {secret: b, disabled: true}\n"
    )
    page = client.get("/users").text
    alice, bob = page[page.index(">alice<") :].split(">bob<")
    assert "connected" in alice
    assert "1.0 MiB/s" in alice
    assert re.search(r"2\s*<span[^>]*>/ 5</span>", alice)
    assert "5.0 MiB" in alice
    assert 'href="http://blog.example.com:18080/"' in alice
    assert "tcp://example.com:2222" in alice
    assert "disabled" in bob
    assert "alices-secret" not in page


def test_users_of_other_sources_say_where_they_stand(start, reloads, tmp_path):
    more = tmp_path / "more.yml"
    more.write_text("carol: {secret: c}\nalice: {secret: another}\n")
    words = ("-c", str(tmp_path / "server.yml"), "--id", "dave", "--secret", "d")
    client = start(SERVER.replace("options:", f"options:\n  users: {more}"), words=words)
    page = client.get("/users").text
    assert page.count(f"in the file {more}") == 2
    assert "on the command line (--id)" in page
    assert client.get("/users/carol").text.count("This user is not changed here") == 1
    answer = post(client, "/users/carol/disabled", disabled="true")
    assert answer.status_code == 303
    assert "There is no user &#34;carol&#34; in this file." in told(client)
    assert post(client, "/users/alice/secret").status_code == 303
    assert f"stands in the users file {more}" in told(client)
    assert reloads == []


def test_guests_are_there_as_well(start, reloads, relay):
    relay.answers["status"] = {"units": [{"workers": [{"tunnels": [{"user": "guest"}], "hosts": []}]}]}
    client = start(SERVER.replace("options:", "options:\n  allowAnyClient: true"))
    page = client.get("/users").text
    assert "guest" in page
    assert "let in by allowAnyClient" in page
    assert client.get("/users/guest").status_code == 200
    assert client.get("/users/nobody").status_code == 404


def test_without_users_the_page_says_what_to_do(start, reloads, relay):
    relay.answers["status"] = {}
    client = start("options: {addr: 18080, allowAnyClient: true, password: correct horse}")
    page = client.get("/users").text
    assert "No users yet" in page
    assert 'href="/users/new">Add user</a>' in page


def test_a_relay_that_does_not_answer_is_no_reason_not_to_show_users(start, reloads, relay):
    relay.answers["status"] = GTError("the process does not answer within 3 s")
    page = start().get("/users").text
    assert ">alice<" in page
    assert "does not answer within 3 s" in page


def test_many_users_come_a_page_at_a_time_and_can_be_searched(start, reloads):
    many = "".join(f"  user{n}: {{secret: s{n}}}\n" for n in range(250))
    client = start(SERVER + many)
    page = client.get("/users").text
    assert page.count('<a class="break" href="/users/') == 100
    assert "Page 1 of 3 · users: 251" in page
    assert client.get("/users?page=3").text.count('<a class="break" href="/users/') == 51
    found = client.get("/users?q=USER24").text
    assert found.count('<a class="break" href="/users/') == 11
    assert "No user's id contains this" in client.get("/users?q=xyz").text


def test_without_a_file_nothing_can_be_changed(start, reloads):
    client = start(store=None)
    page = client.get("/users").text
    assert "was started without a file" in page
    assert "/users/new" not in page
    assert '<form class="stack"' not in client.get("/users/alice").text
    answer = post(client, "/users/alice/remove")
    assert answer.status_code == 503
    assert "-c FILE" in answer.text


# adding


def test_a_user_is_added_with_a_good_secret_and_gets_a_join_code(start, reloads, path):
    client = start()
    answer = post(client, "/users/new", id="bob", tcpRange="2200-2210, 3000", hostWithID="true")
    assert answer.status_code == 303
    entry = users_in(path)["bob"]
    assert len(entry["secret"]) >= 43
    assert entry["tcp"] == [{"range": "2200-2210"}, {"range": "3000-3000"}]
    assert entry["host"] == {"withID": True}
    assert len(reloads) == 1
    assert "bob" in reloads[0]
    page = client.get(answer.location).text
    assert "User bob can connect now." in page
    assert "users (1 changed): live" in page
    code = JoinCode.parse(page)
    assert (code.id, code.secret, code.remotes) == ("bob", entry["secret"], ("tcp://127.0.0.1:18080",))
    assert f"python gt.py client --id bob --secret {entry['secret']} --remote tcp://127.0.0.1:18080" in page
    assert '<svg width="240" height="240" viewBox="' in page
    assert "style=" not in page


def test_a_secret_can_be_chosen(start, reloads, path):
    client = start()
    assert post(client, "/users/new", id="bob", secret="tr0ub4dor").status_code == 303
    assert users_in(path)["bob"] == {"secret": "tr0ub4dor"}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"id": ""}, "id", "text of 1 to 200 bytes"),
        ({"id": "x" * 201}, "id", "text of 1 to 200 bytes"),
        ({"id": "alice"}, "id", "already"),
        ({"id": "bob", "secret": "a\x07b"}, "secret", "text of 1 to 200 bytes"),
        ({"id": "bob", "speed": "fast"}, "speed", "Found &#34;fast&#34;"),
        ({"id": "bob", "connections": "-1"}, "connections", "a whole number from 0 to 1000000"),
        ({"id": "bob", "tcpRange": "80-70"}, "tcpRange", "ports such as 1024-65535"),
        ({"id": "bob", "hostRegex": "("}, "hostRegex", "a regular expression"),
        ({"id": "bob", "allowIPs": "10.0.0.1/8"}, "allowIPs", "a network such as"),
    ],
)
def test_a_bad_value_is_refused_beside_its_field(start, reloads, path, fields, field, words):
    client = start()
    before = path.read_bytes()
    answer = post(client, "/users/new", **{"denyIPs": "192.0.2.1", **fields})
    assert answer.status_code == 422
    error = re.search(rf'id="f-{field}-error">([^<]*)<', answer.text)
    assert error
    assert words in error[1]
    assert "192.0.2.1" in answer.text  # what was typed is still there
    assert fields[field] == "" or fields[field].replace("\x07", "") in answer.text.replace("\x07", "")
    assert path.read_bytes() == before
    assert reloads == []


def test_what_does_not_fit_together_is_refused_beside_its_field(start, reloads, path):
    client = start(SERVER.replace("alices-secret", "alices-secret\n    tcp: [{range: 2000-2100}]"))
    answer = post(client, "/users/new", id="bob", tcpRange="2050-2060")
    assert answer.status_code == 422
    error = re.search(r'id="f-tcpRange-error">([^<]*)<', answer.text)
    assert error
    assert "overlaps with 2000-2100" in error[1]
    assert "bob" not in users_in(path)


# changing


def test_limits_are_saved_and_the_rest_of_the_file_stays(start, reloads, path):
    text = "# by hand\n" + SERVER.replace(
        "secret: alices-secret", "secret: alices-secret  # hers\n    speed: 500KiB"
    )
    client = start(text)
    answer = save(client, "alice", speed="2MiB", denyIPs="192.0.2.0/24\n198.51.100.7")
    assert answer.status_code == 303
    assert "User alice is saved." in client.get(answer.location).text
    now = path.read_text()
    assert now.startswith("# by hand\n")
    assert "secret: alices-secret  # hers" in now
    assert users_in(path)["alice"] == {
        "secret": "alices-secret",
        "speed": "2MiB",
        "denyIPs": ["192.0.2.0/24", "198.51.100.7/32"],
    }
    answer = save(client, "alice", speed="", denyIPs="")
    assert users_in(path)["alice"] == {"secret": "alices-secret"}
    assert len(reloads) == 2


def test_a_form_that_changes_nothing_saves_nothing(start, reloads, path):
    client = start(
        SERVER.replace("alices-secret", "alices-secret\n    speed: 1024KiB\n    allowIPs: 10.0.0.0/8")
    )
    before = path.read_bytes()
    assert save(client, "alice").status_code == 303
    assert "Nothing has been changed." in told(client)
    assert (path.read_bytes(), reloads) == (before, [])


def test_a_refused_form_can_be_corrected_and_saved(start, reloads, path):
    client = start()
    answer = save(client, "alice", speed="fast", tcpNumber="3")
    assert answer.status_code == 422
    assert 'value="fast"' in answer.text
    assert 'value="3"' in answer.text
    form = dict(re.findall(r'name="(draft)" value="([^"]*)"', answer.text))
    assert send(client, "alice", {**form, "tcpNumber": "3"}, speed="1MiB").status_code == 303
    assert users_in(path)["alice"] == {"secret": "alices-secret", "speed": "1MiB", "tcpNumber": 3}


def test_a_file_that_has_changed_is_a_conflict_with_three_ways(start, reloads, path):
    client = start()
    form = opened(client, "alice")
    path.write_text(SERVER.replace("alices-secret", "alices-secret\n    speed: 7MiB\n    connections: 4"))
    answer = send(client, "alice", form, speed="2MiB")
    assert answer.status_code == 409
    assert "7MiB" in answer.text
    assert "2MiB" in answer.text
    assert "alices-secret" not in answer.text
    assert users_in(path)["alice"]["speed"] == "7MiB"
    assert reloads == []
    again = dict(re.findall(r'name="(\w+)" value="([^"]*)"', answer.text))
    assert send(client, "alice", again).status_code == 303  # make my changes in the new file
    assert users_in(path)["alice"] == {"secret": "alices-secret", "speed": "2MiB", "connections": 4}


def test_a_user_that_someone_has_deleted_meanwhile(start, reloads, path):
    client = start(SERVER + "  bob: {secret: b}\n")
    form = opened(client, "bob")
    path.write_text(SERVER)
    answer = send(client, "bob", form, speed="2MiB")
    assert answer.status_code == 303
    assert "Someone has deleted user bob meanwhile" in told(client)


def test_disable_and_enable(start, reloads, path):
    client = start(SERVER + "  bob: {secret: b}\n")
    assert post(client, "/users/bob/disabled", disabled="true").status_code == 303
    assert users_in(path)["bob"] == {"secret": "b", "disabled": True}
    assert "its tunnels are cut" in told(client)
    post(client, "/users/bob/disabled", disabled="false")
    assert users_in(path)["bob"] == {"secret": "b"}
    assert len(reloads) == 2


def test_a_new_secret_takes_the_place_of_the_old_one(start, reloads, path):
    client = start()
    answer = post(client, "/users/alice/secret")
    secret = users_in(path)["alice"]["secret"]
    assert secret != "alices-secret"
    assert JoinCode.parse(client.get(answer.location).text).secret == secret


def test_a_new_secret_takes_the_place_of_a_verifier(start, reloads, path):
    verifier = f"SCRAM-SHA-256$65536:MDEyMzQ1Njc4OWFiY2RlZg==${'A' * 43}=:{'b' * 43}="
    client = start(SERVER.replace("secret: alices-secret", f"verifier: {verifier}"))
    page = client.get("/users/alice/join").text
    assert "gt://" not in page
    assert "The secret of this user is not known" in page
    assert verifier not in page
    post(client, "/users/alice/secret")
    assert users_in(path)["alice"].keys() == {"secret"}
    assert "gt://" in client.get("/users/alice/join").text


def test_delete_asks_and_says_what_is_cut(start, reloads, path):
    client = start(SERVER + "  bob: {secret: b}\n")
    page = client.get("/users/alice").text
    assert 'data-confirm="Delete user alice? This cuts its tunnels (2) and connections (7)."' in page
    assert post(client, "/users/alice/remove").status_code == 303
    assert users_in(path).keys() == {"bob"}
    assert "User alice is deleted" in told(client)


def test_the_last_user_is_not_deleted_when_nobody_could_come_in(start, reloads, path):
    client = start()
    assert post(client, "/users/alice/remove").status_code == 303
    assert "there are no users" in told(client)
    assert users_in(path).keys() == {"alice"}
    assert reloads == []


def test_what_the_running_gt_refuses_is_taken_back(start, reloads, relay, path):
    relay.answers["reload"] = GTError("not reloaded, everything stays as it was: cannot listen")
    client = start()
    post(client, "/users/new", id="bob")
    assert "bob" not in users_in(path)
    page = told(client)
    assert "the running GT refused it" in page
    assert "cannot listen" in page


def test_a_gt_that_cannot_be_asked_takes_it_over_at_its_next_start(start, reloads, relay, path):
    relay.answers |= dict.fromkeys(("reload", "status"), GTError("the process cannot be asked: refused"))
    client = start()
    post(client, "/users/new", id="bob")
    assert "bob" in users_in(path)
    assert "not in use yet" in told(client)


@pytest.mark.parametrize(
    "user", ["new", "a/b", "ä ö", "..", ".", "a?b=c#d", "~", "100%", "<script>alert(1)</script>"]
)
def test_every_id_has_a_page(start, reloads, path, user):
    client = start()
    answer = post(client, "/users/new", id=user)
    assert answer.status_code == 303
    assert user in users_in(path)
    page = client.get(answer.location)
    assert page.status_code == 200
    assert JoinCode.parse(page.text).id == user
    assert "<script>alert" not in page.text
    listed = client.get("/users").text
    assert answer.location.removesuffix("/join") in listed
    assert client.get(answer.location.removesuffix("/join")).status_code == 200
    assert post(client, answer.location.removesuffix("join") + "remove").status_code == 303
    assert user not in users_in(path)


# who may


def test_who_may_do_it(start, reloads, path):
    client = start()
    auth = Auth(client.application, client.application.test_client())
    program = client.application.test_client()
    reading, writing = auth.token("read"), auth.token("read", "users")
    assert program.get("/users", headers=reading).status_code == 200
    assert program.get("/users/alice/join", headers=reading).status_code == 403
    assert program.post("/users/new", data={"id": "bob"}, headers=reading).status_code == 403
    assert program.post("/users/new", data={"id": "bob"}, headers=writing).status_code == 303
    assert "bob" in users_in(path)
    stranger = client.application.test_client()
    assert stranger.get("/users/alice").status_code == 302


def test_changes_are_in_the_audit_log_without_secrets(start, reloads, path):
    client = start()
    post(client, "/users/new", id="bob", secret="tr0ub4dor")
    save(client, "bob", speed="1MiB")
    client.get("/users/bob/join")
    post(client, "/users/bob/secret")
    post(client, "/users/bob/remove")
    entries = client.application.extensions[EXTENSION].db.audit(10)
    noted = [(each["name"], each["what"]) for each in entries if "bob" in each["what"]][::-1]
    assert noted == [
        (NAME, "user bob added"),
        (NAME, "user bob changed"),
        (NAME, "join code of user bob shown"),
        (NAME, "user bob: new secret"),
        (NAME, "user bob removed"),
    ]
    assert all("tr0ub4dor" not in str(tuple(each)) for each in entries)
    who = {each.who for each in client.application.extensions[EXTENSION].store.versions()}
    assert NAME in who


def test_the_pages_are_there_in_chinese(start, reloads):
    client = start()
    client.get("/users?lang=zh")
    page = client.get("/users").text
    assert "用户" in page
    for words in ("Users", "Tunnels", "Connections", "Published", "connected"):
        assert f">{words}<" not in page
