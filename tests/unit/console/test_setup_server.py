"""The wizard of a server, from its first step to a file that loads."""

from __future__ import annotations

import html
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from gtapp.config.load import load_server
from gtapp.config.passwords import hasher
from gtapp.config.values import Address
from gtapp.console import setup_server, setup_words
from gtapp.console.setup_certificate import CertificateCheck, Problem
from gtapp.console.setup_checks import BindCheck
from gtapp.errors import GTError
from tests.support.certificates import make_pair
from tests.support.ports import Port
from tests.unit.console.conftest import Relay
from tests.unit.console.test_setup import PASSWORD, Browser, MakeSetup, location

__all__ = ["make_setup"]
from tests.unit.console.test_setup import make_setup

PUBLIC, ELSEWHERE = "9.9.9.9", "1.1.1.1"


@pytest.fixture
def browser(make_setup: MakeSetup) -> Browser:
    """With the account."""
    found = Browser(make_setup()).enter()
    assert location(found.account()) == "/setup/step/domain"
    return found


@pytest.fixture
def ports() -> Iterator[list[Port]]:
    """Free ones, which stay ours."""
    found = [Port() for _ in range(3)]
    yield found
    for each in found:
        each.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What DNS says; a name that is not there does not exist."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *more: Any, **others: Any) -> Any:
        if port is not None or host in (None, "127.0.0.1", "::1"):
            return real(host, port, *more, **others)
        found = known.get(host) or known.get("*." + host.partition(".")[2])
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def error(page: str, field: str) -> str:
    return page.partition(f'id="f-{field}-error">')[2].partition("</p>")[0]


def test_a_whole_server(
    browser: Browser, relay: Relay, tmp_path: Path, ports: list[Port], names: dict[str, list[str]]
) -> None:
    assert location(browser.step("domain", kind="own", domain="*.GT.Example.com.")) == "/setup/step/listen"
    answer = browser.step(
        "listen", addr=f"127.0.0.1:{ports[0].number}", tls=str(ports[1].number), ports="20000-20009, 25565"
    )
    assert location(answer) == "/setup/step/certificate"
    assert location(browser.step("certificate", kind="made")) == "/setup/step/client"
    page = browser.get("/setup/step/client").text
    secret = page.partition('name="secret"')[0].rpartition('value="')[2].partition('"')[0]
    assert len(secret) == 32
    assert secret not in browser.get("/setup/step/client").text  # another one each time, until one is taken
    assert location(browser.step("client", id="Laptop", secret=secret)) == "/setup/step/summary"
    assert secret in browser.get("/setup/step/client").text
    summary = browser.get("/setup/step/summary").text
    for shown in (
        "gt.example.com",
        f"127.0.0.1:{ports[0].number}",
        "20000-20009, 25565",
        "laptop",
        "made by GT",
        "server.yml",
    ):
        assert shown in summary
    for hidden in (secret, PASSWORD, "$argon2id$"):
        assert hidden not in summary
    assert "GT is starting" in browser.post("/setup/start").text

    target = tmp_path / "server.yml"
    assert target.stat().st_mode & 0o777 == 0o600
    config = load_server(("-c", str(target)), {})
    options = config.options
    assert options.domain == "gt.example.com"
    assert options.addr == Address("127.0.0.1", ports[0].number)
    assert options.tls_addr == Address("", ports[1].number)
    assert options.web_addr == Address("127.0.0.1", 18000)
    assert [str(each) for each in options.tcp_range] == ["20000-20009", "25565-25565"]
    assert (options.cert_file, options.web_cert_file) == ("", "")
    assert options.admin == "admin"
    assert hasher.verify(options.password, PASSWORD)
    assert {id: user.secret for id, user in config.users.items()} == {"laptop": secret}
    assert target.read_text().startswith("# Made by the first-run wizard.")
    assert [each["command"] for each in relay.asked] == ["reload"]
    assert "config" not in relay.asked[0]


def test_a_console_over_tls_stays_one(make_setup: MakeSetup, tmp_path: Path, ports: list[Port]) -> None:
    browser = Browser(make_setup(tls=True))
    browser.client.environ_base["wsgi.url_scheme"] = "https"
    browser.enter().account()
    browser.step("domain", kind="try")
    browser.step("listen", addr="", tls=f"127.0.0.1:{ports[0].number}", ports="")
    browser.step("certificate", kind="made")
    browser.step("client", id="home", secret="a-secret-of-the-first")
    browser.post("/setup/start")
    options = load_server(("-c", str(tmp_path / "server.yml")), {}).options
    assert (options.web_cert_file, options.addr, options.domain) == ("auto", None, "localhost")


# domain


NO_DOMAINS = [
    ("", "Enter your domain"),
    ("192.0.2.7", "no names under it"),
    ("[2001:db8::1]", "no names under it"),
    ("example", "no domain name"),
    ("ex ample.com", "no domain name"),
    ("a" * 190 + ".com", "no domain name"),
]


def test_what_is_no_domain_is_told(browser: Browser) -> None:
    for typed, words in NO_DOMAINS:
        answer = browser.step("domain", kind="own", domain=typed)
        assert answer.status_code == 422
        assert words in error(answer.text, "domain")
        if typed:
            assert f'value="{typed}"' in answer.text  # to be put right, not typed again


def test_the_records_and_what_is_there(
    browser: Browser, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_server, "own_addresses", lambda host: [PUBLIC, "10.0.0.1"])
    names["gt.example.com"] = [PUBLIC]
    page = browser.get("/setup/check/domain?domain=gt.example.com").text
    assert page.count(f"<code>{PUBLIC}</code>") == 2
    assert "<code>*.gt.example.com</code>" in page
    assert "leads to this server (9.9.9.9)." in page
    assert "has no record yet" in page
    assert "You can go on" in page
    names["*.gt.example.com"] = [ELSEWHERE]
    page = browser.get("/setup/check/domain?domain=gt.example.com").text
    assert "leads to 1.1.1.1, which is not this server." in page
    names["*.gt.example.com"] = [PUBLIC]
    page = browser.get("/setup/check/domain?domain=gt.example.com").text
    assert page.count("leads to this server") == 2
    assert "You can go on" not in page


def test_the_records_before_a_domain_is_typed(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_server, "own_addresses", lambda host: ["192.168.1.5"])
    monkeypatch.setattr(setup_server, "container", lambda: "")
    page = browser.get("/setup/check/domain?domain=").text
    assert "<code>*.example.com</code>" in page
    assert "<code>192.168.1.5</code>" in page
    assert "in your own network" in page
    monkeypatch.setattr(setup_server, "container", lambda: "docker")  # that of the container says nothing
    page = browser.get("/setup/check/domain?domain=").text
    assert "192.168.1.5" not in page
    assert "your server&#39;s address" in page


def test_the_domain_is_checked_without_scripts_too(browser: Browser, names: dict[str, list[str]]) -> None:
    answer = browser.step("domain", kind="own", domain="gt.example.com", check="1")
    assert answer.status_code == 200
    assert "has no record yet" in answer.text
    assert location(browser.get("/setup")) == "/setup/step/domain"  # it was only looked at


# addresses


def test_a_port_that_somebody_has_is_refused_and_the_process_named(
    browser: Browser, ports: list[Port]
) -> None:
    browser.step("domain", kind="try")
    with ports[0].listen():
        answer = browser.step("listen", addr=f"127.0.0.1:{ports[0].number}", tls="", ports="")
        assert answer.status_code == 422
        assert f"({os.getpid()})" in error(answer.text, "addr")
        assert "Stop it, or choose another port" in error(answer.text, "addr")
        page = browser.get(f"/setup/check/listen?addr={ports[0].number}&tls={ports[1].number}").text
        assert f"({os.getpid()})" in page
        assert "is free." in page
    assert browser.step("listen", addr=f"127.0.0.1:{ports[0].number}", tls="", ports="").status_code == 303


def test_the_port_of_the_console_itself(make_setup: MakeSetup, ports: list[Port]) -> None:
    with ports[0].listen():
        browser = Browser(make_setup(listen=f"127.0.0.1:{ports[0].number}")).enter()
        browser.account()
        browser.step("domain", kind="try")
        answer = browser.step("listen", addr=f"127.0.0.1:{ports[0].number}", tls="", ports="")
    assert "is where this console listens" in error(answer.text, "addr")


WRONG_ADDRESSES = [
    ({"addr": "", "tls": ""}, "addr", "One of the two is needed"),
    ({"addr": "http"}, "addr", "Enter a port"),
    ({"addr": "0"}, "addr", "Enter a port"),
    ({"addr": "65536"}, "addr", "Enter a port"),
    ({"tls": "-1"}, "tls", "Enter a port"),
    ({"addr": "18123", "tls": "18123"}, "tls", "same port"),
    ({"ports": "many"}, "ports", "Enter ports"),
    ({"ports": "9-1"}, "ports", "Enter ports"),
    ({"addr": "192.0.2.1:18123"}, "addr", "does not have that address"),
]


def test_what_is_wrong_with_an_address(browser: Browser) -> None:
    for data, field, words in WRONG_ADDRESSES:
        browser.step("domain", kind="try")
        answer = browser.step("listen", **{"addr": "", "tls": "", "ports": "", **data})
        assert answer.status_code == 422
        assert words in error(answer.text, field)


def test_free_ports_are_suggested(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, ports: list[Port]
) -> None:
    monkeypatch.setattr(setup_server, "HTTP_PORTS", (ports[0].number, ports[1].number))
    monkeypatch.setattr(setup_server, "TLS_PORTS", (ports[2].number,))
    browser.step("domain", kind="try")
    with ports[0].listen():
        page = browser.get("/setup/step/listen").text
    assert f'value="{ports[1].number}"' in page
    assert f'value="{ports[2].number}"' in page


def test_in_a_container_the_mapping_is_shown(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, ports: list[Port]
) -> None:
    query = f"addr={ports[0].number}&tls={ports[1].number}&ports=20000-20009+x"
    monkeypatch.setattr(setup_server, "container", lambda: "")
    assert "container" not in browser.get(f"/setup/check/listen?{query}").text
    monkeypatch.setattr(setup_server, "container", lambda: "docker")
    browser.step("domain", kind="try")
    page = browser.get(f"/setup/check/listen?{query}").text
    mapped = [f"{each.number}:{each.number}" for each in ports[:2]] + ["20000-20009:20000-20009"]
    assert f"docker run … -p {' -p '.join(mapped)} …" in page
    compose = html.unescape(page[page.index("services:") :].partition("</code>")[0])
    assert yaml.safe_load(compose) == {"services": {"gt": {"ports": ["18000:18000", *mapped]}}}


@pytest.mark.parametrize(
    ("check", "surroundings", "words", "command"),
    [
        (BindCheck(Address("", 80), "taken"), "", "process of another user", "sudo ss -ltnp 'sport = :80'"),
        (BindCheck(Address("", 80), "forbidden"), "", "like all ports below 1024",
         "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80"),
        (BindCheck(Address("", 443), "forbidden"), "docker", "like all ports below 1024",
         "docker run --sysctl net.ipv4.ip_unprivileged_port_start=443 …"),
        (BindCheck(Address("", 8080), "forbidden"), "", "the system refuses it", ""),
        (BindCheck(Address("", 8080), "failed", reason="No buffer space"), "", "No buffer space", ""),
    ],
)  # fmt: skip
def test_words_for_what_is_rarely_seen(
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
    check: BindCheck,
    surroundings: str,
    words: str,
    command: str,
) -> None:
    monkeypatch.setattr(setup_words, "container", lambda: surroundings)
    with browser.app.test_request_context():
        finding = setup_words.bind_words(check, "addr")
    assert finding.kind == "bad"
    assert words in finding.text
    assert finding.command == command


# certificate


@pytest.fixture
def at_certificate(browser: Browser, ports: list[Port]) -> Browser:
    browser.step("domain", kind="own", domain="gt.example.com")
    answer = browser.step("listen", addr="", tls=f"127.0.0.1:{ports[0].number}", ports="")
    assert location(answer) == "/setup/step/certificate"
    return browser


def test_without_https_no_certificate_is_asked_for(browser: Browser, ports: list[Port]) -> None:
    browser.step("domain", kind="try")
    answer = browser.step("listen", addr=f"127.0.0.1:{ports[0].number}", tls="", ports="")
    assert location(answer) == "/setup/step/client"
    assert browser.get("/setup/step/certificate").status_code == 404


def test_files_that_fit(at_certificate: Browser, tmp_path: Path) -> None:
    files = make_pair(["gt.example.com", "*.gt.example.com"]).write(tmp_path)
    data = {"kind": "files", "cert": str(files.cert), "key": str(files.key)}
    page = at_certificate.get("/setup/check/certificate", query_string=data).text
    assert "are a pair, and valid until" in page
    assert "is not among its names" not in page
    assert location(at_certificate.step("certificate", **data)) == "/setup/step/client"
    at_certificate.step("client", id="home", secret="a-secret-of-the-first")
    assert str(files.cert) in at_certificate.get("/setup/step/summary").text
    at_certificate.post("/setup/start")
    options = load_server(("-c", str(tmp_path / "server.yml")), {}).options
    assert (options.cert_file, options.key_file) == (str(files.cert), str(files.key))


def test_a_certificate_for_other_names_is_a_warning(at_certificate: Browser, tmp_path: Path) -> None:
    files = make_pair(["gt.example.com"]).write(tmp_path)
    data = {"kind": "files", "cert": str(files.cert), "key": str(files.key)}
    page = at_certificate.get("/setup/check/certificate", query_string=data).text
    assert "*.gt.example.com" in page
    assert "is not among its names (gt.example.com)" in page
    assert at_certificate.step("certificate", **data).status_code == 303
    # of another domain it may be another one that is needed
    at_certificate.step("domain", kind="own", domain="other.example.com")
    assert location(at_certificate.get("/setup")) == "/setup/step/certificate"


def test_a_certificate_that_does_not_match_its_key(at_certificate: Browser, tmp_path: Path) -> None:
    files = make_pair(["gt.example.com"]).write(tmp_path)
    other = make_pair(["gt.example.com"]).write(tmp_path, "other")
    data = {"kind": "files", "cert": str(files.cert), "key": str(other.key)}
    assert (
        "key of another certificate" in at_certificate.get("/setup/check/certificate", query_string=data).text
    )
    answer = at_certificate.step("certificate", **data)
    assert answer.status_code == 422
    assert "key of another certificate" in error(answer.text, "key")
    assert not error(answer.text, "cert")


WRONG_FILES = [
    ("", "/k", "cert", "Enter the path"),
    ("/c", "", "key", "Enter the path"),
    ("cert.pem", "/k", "cert", "beginning with /"),
    ("/nowhere/cert.pem", "/nowhere/key.pem", "cert", "no such file"),
    ("{swapped}", "{cert}", "cert", "This is a key"),
    ("{expired}", "{key}", "cert", "expired on"),
]


def test_what_is_wrong_with_files(at_certificate: Browser, tmp_path: Path) -> None:
    for cert, key, field, words in WRONG_FILES:
        files = make_pair().write(tmp_path)
        expired = make_pair(days=(-9, -1)).write(tmp_path, "expired")
        known = {"swapped": files.key, "cert": files.cert, "key": files.key, "expired": expired.cert}
        data = {"kind": "files", "cert": cert.format(**known), "key": key.format(**known)}
        answer = at_certificate.step("certificate", **data)
        assert answer.status_code == 422
        assert words in error(answer.text, field)


def test_every_problem_of_a_certificate_has_words(browser: Browser) -> None:
    problems = get_args(Problem)
    assert len(problems) == 12
    with browser.app.test_request_context():
        checks = [CertificateCheck(problem=each, detail="x") for each in problems]
        assert len({setup_words.certificate_problem(each) for each in checks}) == 12


# the first client


WRONG_CLIENTS = [
    ({"id": ""}, "id"),
    ({"id": "a b"}, "id"),
    ({"id": "a.b"}, "id"),
    ({"id": "x" * 64}, "id"),
    ({"secret": "short"}, "secret"),
    ({"secret": ""}, "secret"),
    ({"secret": "x" * 201}, "secret"),
]


def test_what_is_wrong_with_a_client(browser: Browser, ports: list[Port]) -> None:
    browser.step("domain", kind="try")
    browser.step("listen", addr=f"127.0.0.1:{ports[0].number}", tls="", ports="")
    for data, field in WRONG_CLIENTS:
        answer = browser.step("client", **{"id": "home", "secret": "a-secret-of-the-first", **data})
        assert answer.status_code == 422
        assert error(answer.text, field)


PROBLEMS_OF_THE_START = [
    ("server.yml: certFile: cannot be read", "Which certificate"),
    ("/x/gt-key.pem: the key is damaged", "Which certificate"),
    ("cannot listen on :443: Permission denied", "Where do visitors"),
    ("something else", "Ready to start"),
]


def test_a_problem_of_the_start_is_shown_at_its_step(at_certificate: Browser, relay: Relay) -> None:
    at_certificate.step("certificate", kind="made")
    at_certificate.step("client", id="home", secret="a-secret-of-the-first")
    for problem, heading in PROBLEMS_OF_THE_START:
        relay.answers["reload"] = GTError(problem)
        answer = at_certificate.post("/setup/start")
        assert answer.status_code == 422
        assert heading in answer.text
        assert problem in answer.text
    relay.answers["reload"] = {}
    assert "GT is starting" in at_certificate.post("/setup/start").text
