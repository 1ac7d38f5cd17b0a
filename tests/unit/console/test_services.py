"""The pages of services: what they show, what they write into the file, what they refuse, and what is told of it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import argon2
import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gtapp.config.passwords import hash_password
from gtapp.config.store import Store
from gtapp.console.context import EXTENSION
from gtapp.errors import GTError
from tests.unit.console.conftest import CLIENT, Auth, Relay

MakeApp = Callable[..., Flask]
LOCAL = "http://127.0.0.1:18088"
WORKS = {
    "works": True,
    "dials": 5,
    "failed": 1,
    "last_dial": 1000.0,
    "problem": "refused",
    "failed_at": 900.0,
}


def status_of(*services: dict[str, Any], tunnels: int = 1, problems: tuple[str, ...] = ()) -> dict[str, Any]:
    worker = {"services": list(services), "tunnels": [{}] * tunnels, "problems": list(problems)}
    return {"units": [{"role": "client", "workers": [worker]}]}


@pytest.fixture
def reloads(relay: Relay) -> list[str]:
    """The file as it was at each reload."""
    seen: list[str] = []

    def reload(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        seen.append(Path(request["config"]).read_text())
        tell("client.yml: services (1 before, 2 now): live")
        return {"text": "reloaded"}

    numbers = {"streams": 3, "opened": 9, "bytes_in": 4096, "bytes_out": 5 << 20}
    relay.answers |= {
        "status": status_of({"local": LOCAL, "public": ["alice"], **WORKS}),
        "metrics": {"units": [{"services": {LOCAL: numbers}}]},
        "reload": reload,
    }
    return seen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "client.yml"


@pytest.fixture
def start(make_app: MakeApp, path: Path) -> Callable[..., FlaskClient]:
    """A browser that is logged in, at the console of a file with this text."""

    def begin(text: str = CLIENT, **more: Any) -> FlaskClient:
        store = Store(path, "client", path.with_suffix(".state"), more.get("words", ()))
        app = make_app("client", text, **{"store": store, **more})
        client = app.test_client()
        assert Auth(app, client).login().status_code in (302, 303)
        return client

    return begin


def post(client: FlaskClient, path: str, **fields: str) -> TestResponse:
    token = re.search(r'name="csrf-token" content="([^"]+)"', client.get("/services").text)
    assert token
    return client.post(path, data={"csrf_token": token[1], **fields})


def fields_of(page: str) -> dict[str, str]:
    """What the form of a page has in it."""
    form = page[page.index('<form class="stack"') :]
    fields = dict(re.findall(r'name="(draft)" value="([^"]*)"', form))
    for value, name in re.findall(
        r'<input type="(?:text|number|password)" value="([^"]*)"[^>]*?name="(\w+)"', form
    ):
        fields[name] = value
    for name, value in re.findall(r'<textarea[^>]*?name="(\w+)"[^>]*>\n?(.*?)</textarea>', form, re.DOTALL):
        fields[name] = value
    for name, options in re.findall(r'<select[^>]*?name="(\w+)"[^>]*>(.*?)</select>', form, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options)
        fields[name] = chosen[1] if chosen else ""
    for name in re.findall(r'<input type="checkbox" value="true" checked[^>]*name="(\w+)"', form):
        fields[name] = "true"
    return fields


def save(client: FlaskClient, number: int | str, **fields: str) -> TestResponse:
    """Open the form, and send it with these fields changed."""
    form = fields_of(client.get(f"/services/{number}").text)
    return post(client, f"/services/{number}", **{**form, **fields})


def services_in(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return found


def told(client: FlaskClient) -> str:
    return client.get("/services").text


# the list


def test_the_list_shows_where_services_are_found_and_how_they_do(start, reloads):
    page = start(CLIENT.replace("tcp://127.0.0.1:18080", "tcp://example.com:18080")).get("/services").text
    assert 'href="http://alice.example.com:18080/"' in page
    assert "works" in page
    assert "5.0 MiB" in page


def test_a_service_that_fails_says_why(start, reloads, relay):
    fails = WORKS | {"works": False, "problem": "Connection refused"}
    relay.answers["status"] = status_of({"local": LOCAL, "public": ["alice"], **fails})
    client = start()
    assert "Connection refused" in client.get("/services").text
    page = client.get("/services/1").text
    assert "Connection refused" in page
    assert re.search(r"5, 1</dd>", page)


def test_without_a_tunnel_it_says_that_nobody_gets_there(start, reloads, relay):
    relay.answers["status"] = status_of(
        {"local": LOCAL, "public": []}, tunnels=0, problems=("unknown id or wrong secret",)
    )
    page = start().get("/services").text
    assert "nobody reaches these services: unknown id or wrong secret" in page
    assert "not just now" in page


def test_a_relay_that_does_not_answer_is_no_reason_not_to_show_services(start, reloads, relay):
    relay.answers["status"] = GTError("the process does not answer within 3 s")
    page = start().get("/services").text
    assert LOCAL in page
    assert "does not answer within 3 s" in page


def test_services_of_the_command_line_are_shown_and_stay(start, reloads, path):
    words = ("-c", str(path), "--local", "tcp://127.0.0.1:22", "--remoteTCPPort", "2222")
    client = start(words=words)
    page = client.get("/services").text
    assert "on the command line or in the environment" in page
    assert page.count("/remove") == 1
    assert f'href="/services/1">{LOCAL}' in page


def test_without_a_file_nothing_can_be_changed(start, reloads):
    client = start(store=None)
    page = client.get("/services").text
    assert "was started without a file" in page
    assert "/services/new" not in page
    assert client.get("/services/new").status_code == 503


# adding


def test_a_service_is_added(start, reloads, path):
    client = start()
    answer = save(
        client, "new", local="tcp://127.0.0.1:22", remoteTCPPort="2222", allowIPs="10.0.0.0/8, 192.0.2.7"
    )
    assert answer.status_code == 303
    assert services_in(path)[1] == {
        "local": "tcp://127.0.0.1:22",
        "remoteTCPPort": 2222,
        "allowIPs": ["10.0.0.0/8", "192.0.2.7/32"],
    }
    assert "127.0.0.1:22" in reloads[0]
    page = told(client)
    assert "The service is published." in page
    assert "services (1 before, 2 now): live" in page


def test_a_link_fills_the_form_in(start, reloads):
    page = start().get("/services/new?local=http://127.0.0.1:8123&hostPrefix=home").text
    form = fields_of(page)
    assert (form["local"], form["hostPrefix"]) == ("http://127.0.0.1:8123", "home")


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"local": ""}, "local", "Say where the service is"),
        ({"local": "ftp://a"}, "local", "Found &#34;ftp://a&#34;"),
        ({"hostPrefix": "a.b"}, "hostPrefix", "one DNS label"),
        ({"hostPrefix": "alice"}, "hostPrefix", "set another hostPrefix"),
        ({"localTimeout": "soon"}, "localTimeout", "a duration such as 30s"),
        ({"denyIPs": "nobody"}, "denyIPs", "a network such as"),
        ({"basicPassword": "hush"}, "basicUser", "needs a user name"),
        ({"basicUser": "me"}, "basicPassword", "Choose a password"),
        ({"basicUser": "m:e", "basicPassword": "hush"}, "basicUser", "colon"),
        ({"basicUser": "x" * 201, "basicPassword": "hush"}, "basicUser", "200 characters"),
        ({"local": "tcp://a:1", "basicUser": "me", "basicPassword": "hush"}, "basicUser", "only for http"),
        ({"local": "tcp://a:1", "forwardedFor": "true"}, "forwardedFor", "only for http"),
    ],
)
def test_a_bad_value_is_refused_beside_its_field(start, reloads, path, fields, field, words):
    client = start()
    before = path.read_bytes()
    answer = save(client, "new", **{"local": "http://127.0.0.1:1", "hostPrefix": "other", **fields})
    assert answer.status_code == 422
    error = re.search(rf'id="f-{field}-error">([^<]*)<', answer.text)
    assert error
    assert words in error[1]
    shown = fields_of(answer.text)
    assert {name: shown[name] for name in fields} == fields  # what was typed is still there
    assert path.read_bytes() == before
    assert reloads == []


# changing


def test_a_service_is_changed_and_the_rest_of_the_file_stays(start, reloads, path):
    client = start(CLIENT + "    localTimeout: 90s  # long enough\n    forwardedFor: true\n")
    assert save(client, 1, hostPrefix="Blog", proxyProtocol="v2").status_code == 303
    assert services_in(path) == [
        {
            "local": LOCAL,
            "localTimeout": "90s",
            "forwardedFor": True,
            "hostPrefix": "blog",
            "proxyProtocol": "v2",
        }
    ]
    assert "# long enough" in path.read_text()
    form = fields_of(client.get("/services/1").text)
    del form["forwardedFor"]  # a box that is not checked is not sent
    assert post(client, "/services/1", **{**form, "localTimeout": ""}).status_code == 303
    assert services_in(path)[0].get("forwardedFor", False) is False
    assert "localTimeout" not in services_in(path)[0]


def test_a_form_that_changes_nothing_saves_nothing(start, reloads, path):
    client = start(
        CLIENT
        + "    localTimeout: 1m30s\n    forwardedFor: yes\n    remoteTCPRandom: no\n    allowIPs: 10.0.0.0/8\n"
    )
    before = path.read_bytes()
    assert save(client, 1).status_code == 303
    assert "Nothing has been changed." in told(client)
    assert (path.read_bytes(), reloads) == (before, [])


def test_a_password_is_kept_as_a_hash_and_never_shown(start, reloads, path):
    client = start()
    assert save(client, 1, basicUser="me", basicPassword="hush hush").status_code == 303
    user, _, hashed = services_in(path)[0]["basicAuth"].partition(":")
    assert user == "me"
    assert argon2.PasswordHasher().verify(hashed, "hush hush")
    page = client.get("/services/1").text
    form = fields_of(page)
    assert (form["basicUser"], form["basicPassword"]) == ("me", "")
    assert hashed not in page
    assert "set, not shown" in page
    save(client, 1, basicUser="you")  # the password stays
    assert services_in(path)[0]["basicAuth"] == f"you:{hashed}"
    save(client, 1, localTimeout="30s")
    assert services_in(path)[0]["basicAuth"] == f"you:{hashed}"
    save(client, 1, basicUser="")
    assert "basicAuth" not in services_in(path)[0]
    assert "password" not in client.get("/services").text.replace("wrong", "")


def test_a_file_that_has_changed_is_a_conflict_with_three_ways(start, reloads, path):
    client = start()
    form = fields_of(client.get("/services/1").text)
    hashed = hash_password("hush")
    path.write_text(CLIENT + f"    hostPrefix: theirs\n    basicAuth: me:{hashed}\n")
    answer = post(client, "/services/1", **{**form, "hostPrefix": "mine", "localTimeout": "30s"})
    assert answer.status_code == 409
    assert "theirs" in answer.text
    assert "mine" in answer.text
    assert hashed not in answer.text
    again = dict(re.findall(r'name="(\w+)" value="([^"]*)"', answer.text))
    assert post(client, "/services/1", **again).status_code == 303
    assert services_in(path) == [
        {"local": LOCAL, "hostPrefix": "mine", "basicAuth": f"me:{hashed}", "localTimeout": "30s"}
    ]


def test_a_service_is_removed(start, reloads, path):
    client = start(CLIENT + "  - local: tcp://127.0.0.1:22\n")
    page = client.get("/services").text
    assert 'data-confirm="Remove http://127.0.0.1:18088? Visitors no longer find it."' in page
    draft = re.findall(r'name="(draft)" value="([^"]*)"', page)[0]
    assert post(client, "/services/1/remove", **dict([draft])).status_code == 303
    assert services_in(path) == [{"local": "tcp://127.0.0.1:22"}]
    assert "The service is removed." in told(client)


def test_nothing_is_removed_when_numbers_may_stand_for_others(start, reloads, path):
    client = start(CLIENT + "  - local: tcp://127.0.0.1:22\n")
    draft = re.findall(r'name="(draft)" value="([^"]*)"', client.get("/services").text)[0]
    path.write_text(CLIENT.replace("services:", "services:\n  - local: tcp://127.0.0.1:23"))
    post(client, "/services/1/remove", **dict([draft]))
    assert len(services_in(path)) == 2
    assert "nothing was removed" in told(client)


def test_the_last_service_stays(start, reloads, path):
    client = start()
    draft = re.findall(r'name="(draft)" value="([^"]*)"', client.get("/services").text)[0]
    post(client, "/services/1/remove", **dict([draft]))
    assert "there is no service" in told(client)
    assert len(services_in(path)) == 1


# trying out


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of a service that answers each connection with HTTP 204."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_service_is_tried_out(start, reloads, web_server):
    client = start()
    answer = post(client, "/services/test", local=f"http://127.0.0.1:{web_server}")
    assert "It answers, with HTTP status 204." in answer.text
    assert "<html" not in answer.text
    assert "Enter the address first" in post(client, "/services/test", local="").text
    assert "one of http://host:port" in post(client, "/services/test", local="ftp://a").text


def test_found_services_can_be_used(start, reloads, web_server, monkeypatch):
    monkeypatch.setitem(
        __import__("gtapp.console.discover", fromlist=["x"]).WELL_KNOWN, web_server, ("Test", "http")
    )
    client = start()
    page = client.get("/services/found").text
    assert f"http://127.0.0.1:{web_server}" in page
    assert f"/services/new?local=http://127.0.0.1:{web_server}" in page.replace("%3A", ":").replace(
        "%2F", "/"
    )


def test_who_may_do_it(start, reloads, path):
    client = start()
    auth = Auth(client.application, client.application.test_client())
    program = client.application.test_client()
    reading = auth.token("read")
    assert program.get("/services", headers=reading).status_code == 200
    assert program.get("/services/found", headers=reading).status_code == 403
    assert program.post("/services/test", data={"local": LOCAL}, headers=reading).status_code == 403
    assert program.post("/services/1/remove", headers=reading).status_code == 403


def test_changes_are_in_the_audit_log_without_secrets(start, reloads, path):
    client = start()
    save(client, 1, basicUser="me", basicPassword="hush hush")
    save(client, "new", local="tcp://127.0.0.1:22")
    entries = client.application.extensions[EXTENSION].db.audit(10)
    noted = [(each["what"], each["detail"]) for each in entries if "service" in each["what"]][::-1]
    assert noted == [("service 1 changed", "basicAuth"), ("service tcp://127.0.0.1:22 added", "local")]


def test_the_pages_are_there_in_chinese(start, reloads):
    client = start()
    client.get("/services?lang=zh")
    assert "服务" in client.get("/services").text
    page = client.get("/services/new").text
    assert "访客以“前缀.域名”访问" in page
    for words in ("Add service", "Publish", "Cancel", "More"):
        assert f">{words}<" not in page
