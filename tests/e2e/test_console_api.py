"""The API and /metrics of a GT that runs: real processes say what the document says, and do what they are told."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gtapp.config.passwords import hash_password
from tests.e2e.test_console_users import PASSWORD, Browser
from tests.support.http import fetch
from tests.support.native import NativeClient
from tests.support.nginx import Nginx
from tests.support.ports import Port
from tests.support.processes import PATIENCE_S, Relay, eventually
from tests.support.world import World

VISITS = 7


class Answer(NamedTuple):
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class API:
    """The API of a console, with a token for everything that was made in a browser."""

    def __init__(self, world: World, console: Port) -> None:
        self.base = f"http://{console}"
        self._token = ""
        browser = Browser(console)
        cookies = "; ".join(f"{each.name}={each.value}" for each in cookies_of(browser))
        body = {"label": "test", "scopes": ["read", "users", "settings", "system", "metrics"]}
        headers = {"Cookie": cookies, "X-CSRFToken": browser.csrf}
        made = self("POST", "account/tokens", body, **headers)
        assert made.status == 201, made.text
        self._token = world.hidden(made.json["token"])
        self.document = self("GET", "openapi.json").json

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        url = self.base + (path if path.startswith("/") else f"/api/v1/{path}")
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=PATIENCE_S) as answer:
                return Answer(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read().decode())

    def problems(self, operation: dict[str, Any], answer: Answer) -> list[str]:
        """What of an answer the document does not say."""
        described = operation["responses"][str(answer.status)]["content"]["application/json"]["schema"]
        schema = {**described, "components": self.document["components"]}
        validator = jsonschema_rs.validator_for(schema)
        return [f"{each.instance_path}: {each.message}" for each in validator.iter_errors(answer.json)]


def cookies_of(browser: Browser) -> CookieJar:
    handlers: list[Any] = vars(browser._opener)["handlers"]
    processors = (each for each in handlers if isinstance(each, urllib.request.HTTPCookieProcessor))
    return next(processors).cookiejar


class Pair:
    """A server and a client with consoles, nginx behind them, and visitors who have been there."""

    def __init__(self, world: World, nginx: Nginx) -> None:
        self.addr = world.port()
        ports = {role: world.port() for role in ("server", "client")}
        world.hidden(PASSWORD)
        login = {"admin": "root", "password": hash_password(PASSWORD)}  # else no token may read the file
        secret = world.secret()
        server = {"addr": str(self.addr), "webAddr": str(ports["server"]), "workers": 2, **login}
        path = world.write(
            "server.yml", {"type": "server", "users": {"alice": {"secret": secret}}, "options": server}
        )
        self.server: Relay = world.gt("server", ["-c", str(path)])
        self.server.wait_for("listening on")
        client = {
            "id": "alice",
            "secret": secret,
            "remote": f"tcp://{self.addr}",
            "webAddr": str(ports["client"]),
        }
        path = world.write(
            "client.yml", {"type": "client", "services": [{"local": nginx.url}], "options": client | login}
        )
        self.client: Relay = world.gt("client", ["-c", str(path)])
        self.client.wait_for("is up")
        for _ in range(VISITS):
            assert fetch(self.addr.address, "alice.example.com").status == 200
        assert fetch(self.addr.address, "nobody.example.com").status == 404
        self.apis = {role: API(world, port) for role, port in ports.items()}


@pytest.fixture
def pair(world: World, nginx: Nginx) -> Pair:
    return Pair(world, nginx)


@pytest.mark.parametrize("role", ["server", "client"])
def test_what_is_said_is_what_the_document_says(pair: Pair, role: str) -> None:
    """All that can be read, of real processes."""
    api = pair.apis[role]
    found, problems = 0, []
    for path, operations in api.document["paths"].items():
        if "get" not in operations or path.startswith("/api/v1/account"):
            continue
        versions = api("GET", "history").json["versions"] if "{version}" in path else []
        values = {"user": "alice", "number": "1", "version": versions[0]["id"] if versions else "1"}
        url = re.sub(r"{(\w+)}", lambda name: values[name[1]], path)  # noqa: B023
        answer = api("GET", url)
        assert answer.status == 200 or "{version}" in path, f"{path}: {answer.text}"
        problems += [f"{path}: {each}" for each in api.problems(operations["get"], answer)]
        found += 1
    assert found >= 15
    assert not problems


def test_a_user_comes_and_goes_by_the_api(pair: Pair, world: World) -> None:
    api = pair.apis["server"]
    made = api("POST", "users", {"id": "bob"})
    assert made.status == 201
    secret = world.hidden(made.json["secret"])
    with NativeClient(pair.addr.address, "bob", secret) as tunnel:
        tunnel.ready("bob")
        (listed,) = [each for each in api("GET", "clients").json["clients"] if each["id"] == "bob"]
        assert listed["publishes"][0]["name"] == "bob"
        cut = api("DELETE", f"tunnels/{listed['tunnels'][0]['id']}")
        assert cut.json["count"] == 1
        tunnel.until_end()
    with NativeClient(pair.addr.address, "bob", secret) as tunnel:
        tunnel.ready("bob")
        assert api("POST", "clients/bob/block").status == 200
        tunnel.until_end()
    assert api("GET", "users/bob").json["state"] == "disabled"
    assert api("DELETE", "users/bob").status == 200
    with NativeClient(pair.addr.address, "bob", secret) as tunnel:
        assert tunnel.auth(tunnel.hello())["code"] == "invalid_credentials"


def test_a_restart_by_the_api_is_told_and_cuts_nobody(pair: Pair) -> None:
    api = pair.apis["server"]
    before = api("GET", "log").json["next"]
    done = api("POST", "actions/restart")
    assert done.status == 200, done.text
    assert any("2 new workers" in line for line in done.json["lines"])
    assert fetch(pair.addr.address, "alice.example.com").status == 200

    def only_new() -> bool:
        workers = api("GET", "status").json["units"][0]["workers"]
        return {each["generation"] for each in workers} == {2}

    eventually(only_new, "the old workers have gone")
    lines = [each["message"] for each in api("GET", f"log?after={before}").json["lines"]]
    assert "restarted" in " ".join(lines)


def test_the_whole_path_and_other_servers_are_tried(pair: Pair, world: World) -> None:
    assert pair.apis["server"]("POST", "actions/check").json["ok"]
    body = {"id": "alice", "secret": "wrong-" + world.secret(), "remote": [f"tcp://{pair.addr}"]}
    answer = pair.apis["client"]("POST", "probe", body).json
    assert not answer["ok"]
    assert "secret" in answer["text"]


def test_prometheus_counts_what_visitors_did(pair: Pair) -> None:
    answer = pair.apis["server"]("GET", "/metrics")
    assert answer.status == 200
    samples: dict[Any, float] = {
        (each.name, *sorted(each.labels.items())): each.value
        for family in text_string_to_metric_families(answer.text)
        for each in family.samples
    }
    assert samples["gt_streams_opened_total",] == VISITS
    assert samples["gt_user_streams_opened_total", ("user", "alice")] == VISITS
    assert samples["gt_visitors_refused_total", ("answer", "404")] == 1
    assert samples["gt_user_relayed_out_bytes_total", ("user", "alice")] > VISITS * 100
    assert (
        samples["gt_relayed_out_bytes_total",]
        == samples["gt_user_relayed_out_bytes_total", ("user", "alice")]
    )
    assert samples["gt_tunnels",] == samples["gt_user_tunnels", ("user", "alice")] >= 1
    assert samples["gt_stream_seconds_count",] <= VISITS
    kinds = {dict(key[1:])["kind"] for key in samples if key[0] == "gt_process_resident_memory_bytes"}
    assert kinds == {"master", "worker", "console"}

    client = pair.apis["client"]("GET", "/metrics").text
    assert re.search(rf'gt_service_streams_opened_total{{service="http://[^"]+"}} {VISITS}\.0', client)
    assert "gt_dial_seconds_count" in client
