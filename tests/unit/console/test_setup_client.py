"""The wizard of a client, from its first step to a file that loads. What the control socket says is its server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtapp.config.load import load_client
from gtapp.console import setup_client
from gtapp.console.discover import Found
from gtapp.console.setup_client import suggested, ways_to
from gtapp.errors import GTError
from gtapp.wire.join_code import JoinCode
from tests.unit.console.conftest import Relay
from tests.unit.console.test_setup import Browser, MakeSetup, location, make_setup

__all__ = ["make_setup"]

SECRET = "the-secret-of-home"
FOUND = [
    Found(22, "127.0.0.1", "tcp", "sshd"),
    Found(80, "127.0.0.1", "http", "nginx"),
    Found(3000, "127.0.0.1", "http", "node"),
]
CODE = JoinCode(
    "home", SECRET, ("tls://gt.example.com:443", "tcp://gt.example.com:80"), "ab" * 32, "gt.example.com"
)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    """What listens on this machine."""
    services = list(FOUND)
    monkeypatch.setattr(setup_client, "discover", lambda own_ports: services)
    return services


@pytest.fixture
def browser(make_setup: MakeSetup, found: list[Found]) -> Browser:
    """With the account."""
    entered = Browser(make_setup("client")).enter()
    assert location(entered.account()) == "/setup/step/server"
    return entered


class Server:
    """What `probe` finds: by remote, and whether its certificate verifies."""

    def __init__(self, relay: Relay) -> None:
        self.reached: dict[str, bool] = {"tls://gt.example.com:443": True}
        self.secret = SECRET
        self.asked: list[dict[str, Any]] = []
        relay.answers["probe"] = self._probe

    def _probe(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        options = request["options"]
        self.asked.append(options)
        (remote,) = options["remote"]
        if remote not in self.reached:
            raise GTError(f"cannot connect to {remote}: Connection refused")
        if not self.reached[remote] and not options.get("remoteCertInsecure"):
            raise GTError(f"cannot connect to {remote}: its certificate is self-signed")
        if options["secret"] != self.secret:
            raise GTError(f"{remote} refuses the tunnel: invalid_credentials")
        return {"text": "", "agent": "gt/0.1", "transport": remote[:3], "rtt_ms": 3.2}


@pytest.fixture
def server(relay: Relay) -> Server:
    return Server(relay)


def error(page: str, field: str) -> str:
    return page.partition(f'id="f-{field}-error">')[2].partition("</p>")[0]


def publish(browser: Browser, *rows: dict[str, str]) -> Any:
    data = {f"{name}-{number}": text for number, row in enumerate(rows) for name, text in row.items()}
    return browser.step("services", **data)


def load(tmp_path: Path) -> Any:
    return load_client(("-c", str(tmp_path / "client.yml")), {})


def test_a_whole_client(browser: Browser, server: Server, relay: Relay, tmp_path: Path) -> None:
    answer = browser.step(
        "server", kind="code", code=f"Here it is:\n{CODE.encode()[:50]}\n{CODE.encode()[50:]}\n"
    )
    assert location(answer) == "/setup/step/services"
    page = browser.get("/setup/step/services").text
    for shown in ("sshd", "nginx", "node", "tcp://127.0.0.1:22", "http://127.0.0.1:3000", ".gt.example.com"):
        assert shown in page
    answer = publish(
        browser,
        {"local": "tcp://127.0.0.1:22", "found": "1", "name": "sshd", "use": "1", "port": "20022"},
        {"local": "http://127.0.0.1:80", "found": "1", "name": "nginx", "use": "1", "prefix": ""},
        {"local": "http://127.0.0.1:3000", "found": "1", "name": "node", "prefix": "node"},
        {"local": "http://192.168.1.9:8123", "use": "1", "prefix": "HA", "port": "7"},
        {"local": "tcp://127.0.0.1:5432", "use": "1", "prefix": "ignored"},
        {"local": "", "use": "1"},
    )
    assert location(answer) == "/setup/step/summary"
    summary = browser.get("/setup/step/summary").text
    for shown in (
        "tls://gt.example.com:443",
        "http://127.0.0.1:80 → home",
        "tcp://127.0.0.1:5432 → any port",
        "→ 20022",
    ):
        assert shown in summary
    assert SECRET not in summary
    page = browser.get("/setup/step/services").text  # all of it is still there
    assert 'value="ha"' in page or 'value="HA"' in page
    assert page.count(" checked") == 2
    assert "GT is starting" in browser.post("/setup/start").text

    config = load(tmp_path)
    assert (config.options.id, config.options.secret) == ("home", SECRET)
    assert [str(each) for each in config.options.remote] == list(CODE.remotes)
    assert not config.options.remote_cert_insecure  # it has verified
    assert str(config.options.web_addr) == "127.0.0.1:18000"
    assert [(str(each.local), each.host_prefix, each.remote_tcp_port) for each in config.services] == [
        ("tcp://127.0.0.1:22", None, 20022),
        ("http://127.0.0.1:80", "home", 0),
        ("http://192.168.1.9:8123", "ha", 0),
        ("tcp://127.0.0.1:5432", None, 0),
    ]
    assert config.services[3].remote_tcp_random
    assert [each["command"] for each in relay.asked] == ["probe", "reload"]


# the server


def test_a_code_with_a_fingerprint_needs_no_authority(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    server.reached["tls://gt.example.com:443"] = False
    assert browser.step("server", kind="code", code=CODE.encode()).status_code == 303
    assert [each.get("remoteCertInsecure") for each in server.asked] == [None, "true"]
    publish(browser, {"local": "http://127.0.0.1:80", "use": "1"})
    assert "remoteCertInsecure: true" in browser.get("/setup/step/summary").text
    browser.post("/setup/start")
    assert load(tmp_path).options.remote_cert_insecure


def test_the_second_way_of_a_code_is_tried(browser: Browser, server: Server) -> None:
    server.reached = {"tcp://gt.example.com:80": True}
    assert browser.step("server", kind="code", code=CODE.encode()).status_code == 303
    assert [each["remote"] for each in server.asked][-1] == ["tcp://gt.example.com:80"]
    publish(browser, {"local": "http://127.0.0.1:80", "use": "1"})
    summary = browser.get("/setup/step/summary").text
    assert "tcp://gt.example.com:80, tls://gt.example.com:443" in summary


@pytest.mark.parametrize("kind", ["code", "fields"])
def test_a_certificate_that_nobody_vouches_for_has_to_be_accepted(
    browser: Browser, server: Server, tmp_path: Path, kind: str
) -> None:
    server.reached = {"tls://gt.example.com:443": False}
    code = JoinCode("home", SECRET, ("tls://gt.example.com:443",)).encode()
    data = {"kind": kind, "code": code, "remote": "gt.example.com", "id": "home", "secret": SECRET}
    answer = browser.step("server", **data)
    assert answer.status_code == 422
    assert "not one that this machine trusts" in error(answer.text, "code" if kind == "code" else "remote")
    assert 'name="insecure"' in answer.text
    assert browser.step("server", **data, insecure="true").status_code == 303
    publish(browser, {"local": "http://127.0.0.1:80", "use": "1"})
    browser.post("/setup/start")
    assert load(tmp_path).options.remote_cert_insecure
    assert [str(each) for each in load(tmp_path).options.remote] == ["tls://gt.example.com:443"]


def test_a_server_that_is_filled_in(browser: Browser, server: Server) -> None:
    server.reached = {"tcp://gt.example.com:8080": True}
    data = {"kind": "fields", "remote": "gt.example.com:8080", "id": "home", "secret": SECRET}
    assert browser.step("server", **data).status_code == 303
    assert [each["remote"][0][:3] for each in server.asked] == ["tls", "tls", "tcp"]
    page = browser.get("/setup/step/server").text
    assert 'value="gt.example.com:8080"' in page
    count = len(server.asked)
    assert browser.step("server", **data).status_code == 303  # going on again does not try it again
    assert len(server.asked) == count


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("secret", "invalid_credentials"),
        ("away", "Connection refused"),
    ],
)
def test_what_the_server_says_is_told(browser: Browser, server: Server, problem: str, words: str) -> None:
    if problem == "secret":
        server.secret = "another"
    else:
        server.reached = {}
    answer = browser.step("server", kind="fields", remote="tls://gt.example.com", id="home", secret=SECRET)
    assert answer.status_code == 422
    assert "No tunnel could be opened" in error(answer.text, "remote")
    assert words in error(answer.text, "remote")
    assert location(browser.get("/setup")) == "/setup/step/server"


def test_a_master_that_does_not_answer(browser: Browser, relay: Relay) -> None:
    relay.answers["probe"] = GTError("the process does not answer within 30 s; its log may say why")
    answer = browser.step("server", kind="code", code=CODE.encode())
    assert "does not answer" in error(answer.text, "code")


WRONG_CODES = [
    ("", "Paste the join code"),
    ("gt.example.com", "no join code"),
    (CODE.encode()[:-9], "end of this code is missing"),
    (CODE.encode().replace(CODE.encode()[40:44], "aaaa"), "damaged"),
    ("gt://" + "a" * 30000, "damaged"),
]


def test_what_is_wrong_with_a_code(browser: Browser, server: Server) -> None:
    for code, words in WRONG_CODES:
        answer = browser.step("server", kind="code", code=code)
        assert answer.status_code == 422
        assert words in error(answer.text, "code")
    quic = JoinCode("home", SECRET, ("quic://gt.example.com:443",)).encode()
    assert "no server that can be reached" in error(
        browser.step("server", kind="code", code=quic).text, "code"
    )
    assert not server.asked


WRONG_FIELDS = [
    ({"remote": ""}, "remote"),
    ({"remote": "ftp://a"}, "remote"),
    ({"remote": "quic://a"}, "remote"),
    ({"remote": "a/b"}, "remote"),
    ({"remote": "a:0"}, "remote"),
    ({"id": ""}, "id"),
    ({"secret": ""}, "secret"),
    ({"id": "x" * 201}, "id"),
]


def test_what_is_wrong_with_a_field(browser: Browser, server: Server) -> None:
    for data, field in WRONG_FIELDS:
        answer = browser.step("server", **{"kind": "fields", "remote": "a", "id": "b", "secret": "c", **data})
        assert answer.status_code == 422
        assert error(answer.text, field)
    assert not server.asked


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("example.com", ("tls://example.com:443", "tcp://example.com:80")),
        (" example.com:8443 ", ("tls://example.com:8443", "tcp://example.com:8443")),
        ("https://example.com/", ("tls://example.com:443",)),
        ("http://example.com:8080", ("tcp://example.com:8080",)),
        ("TLS://[2001:db8::1]", ("tls://[2001:db8::1]:443",)),
    ],
)
def test_how_people_write_servers(text: str, ways: tuple[str, ...]) -> None:
    assert ways_to(text) == ways


# services


@pytest.fixture
def at_services(browser: Browser, server: Server) -> Browser:
    assert browser.step("server", kind="code", code=CODE.encode()).status_code == 303
    return browser


def test_suggestions_have_names_of_their_own() -> None:
    rows = suggested(
        [*FOUND, Found(8000, "127.0.0.1", "http", "node"), Found(8080, "::1", "https", "节点")], "Home"
    )
    assert [each.prefix for each in rows] == ["", "home", "node", "node-8000", "port-8080"]
    assert not any(each.use for each in rows)
    assert rows[4].local == "https://[::1]:8080"


def test_where_nothing_listens_there_is_an_empty_row(at_services: Browser, found: list[Found]) -> None:
    found.clear()
    page = at_services.get("/setup/step/services").text
    assert "Nothing was found" in page
    assert 'name="local-0"' in page
    assert 'name="use-0" value="1"' in page


def test_more_rows_without_scripts(at_services: Browser) -> None:
    answer = at_services.step(
        "services", **{"local-0": "http://127.0.0.1:80", "use-0": "1", "prefix-0": "x", "more": "1"}
    )
    assert answer.status_code == 422
    assert 'name="local-1"' in answer.text
    assert 'value="http://127.0.0.1:80"' in answer.text
    assert 'class="notice bad"' not in answer.text


WRONG_SERVICES = [
    ([], "Choose one service at least", ""),
    ([{"local": "http://127.0.0.1:80", "found": "1"}], "Choose one service at least", ""),
    ([{"local": "127.0.0.1:80", "use": "1"}], "Enter http://", "local-0"),
    ([{"local": "http://127.0.0.1:80/path", "use": "1"}], "without a path", "local-0"),
    ([{"local": "tcp://127.0.0.1", "use": "1"}], "Enter http://", "local-0"),
    ([{"local": "tcp://127.0.0.1:22", "use": "1", "port": "0"}], "a port from 1", "port-0"),
    ([{"local": "tcp://127.0.0.1:22", "use": "1", "port": "²"}], "a port from 1", "port-0"),
    ([{"local": "http://127.0.0.1:80", "use": "1", "prefix": "a.b"}], "Use letters", "prefix-0"),
    (
        [
            {"local": "http://127.0.0.1:80", "use": "1"},
            {"local": "http://127.0.0.1:81", "use": "1", "prefix": "HOME"},
        ],
        "That is where http://127.0.0.1:80 is already",
        "prefix-1",
    ),
    (
        [{"local": f"tcp://127.0.0.1:{each}", "use": "1", "port": "22"} for each in (1, 2)],
        "That is where tcp://127.0.0.1:1 is already",
        "port-1",
    ),
]


def test_what_is_wrong_with_a_service(at_services: Browser) -> None:
    for rows, words, field in WRONG_SERVICES:
        answer = publish(at_services, *rows)
        assert answer.status_code == 422, rows
        assert words in (error(answer.text, field) if field else answer.text), rows
    assert location(at_services.get("/setup")) == "/setup/step/services"


def test_what_is_not_chosen_may_be_wrong(at_services: Browser) -> None:
    rows = {"local": "nonsense", "found": "1"}, {"local": "http://127.0.0.1:80", "use": "1"}
    assert publish(at_services, *rows).status_code == 303


def test_tls_is_passed_through_beside_http_of_the_same_name(at_services: Browser, tmp_path: Path) -> None:
    rows = {"local": "http://127.0.0.1:80", "use": "1"}, {"local": "https://127.0.0.1:443", "use": "1"}
    assert publish(at_services, *rows).status_code == 303
    at_services.post("/setup/start")
    assert [each.host_prefix for each in load(tmp_path).services] == ["home", "home"]


@pytest.mark.parametrize(
    ("problem", "heading"),
    [
        ("client.yml: services: host prefix is taken", "What do you want"),
        ("something else", "Ready to start"),
    ],
)
def test_a_problem_of_the_start(
    at_services: Browser, relay: Relay, tmp_path: Path, problem: str, heading: str
) -> None:
    publish(at_services, {"local": "http://127.0.0.1:80", "use": "1"})
    relay.answers["reload"] = GTError(problem)
    answer = at_services.post("/setup/start")
    assert answer.status_code == 422
    assert heading in answer.text
    assert problem in answer.text
    assert not (tmp_path / "client.yml").exists()
