"""Join codes and public links: what the server's configuration makes of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from gtapp.config.load import ServerConfig, load_client, load_server
from gtapp.console import join
from gtapp.console.join import Invitation, own_certificate, public_host, public_links, urls_of
from gtapp.server import certificates
from gtapp.wire.join_code import JoinCode
from tests.support.certificates import make_pair

SECRET = "a secret with 'quotes' & blanks"


def server(*words: str) -> ServerConfig:
    return load_server(("--id", "alice", "--secret", SECRET, *words), {})


def invited(config: ServerConfig, reached_at: str = "", status: dict[str, Any] | None = None) -> Invitation:
    made = join.invitation(config, config.users["alice"], reached_at, status)
    assert made is not None
    return made


def test_a_code_has_all_that_a_client_needs():
    config = server("--addr", "8080", "--domain", "example.com")
    made = invited(config, "console.example.com:8000")
    assert JoinCode.parse(made.code) == JoinCode(
        "alice", SECRET, ("tcp://example.com:8080",), name="example.com"
    )
    assert (made.host, made.is_guess) == ("example.com", False)
    assert made.svg.startswith('<svg width="240" height="240" viewBox="')
    assert "style" not in made.svg


def test_the_commands_are_those_of_that_client():
    config = server("--addr", "8080", "--domain", "example.com")
    made = invited(config)
    for text, before in ((made.python, ["python", "gt.py"]), (made.docker, ["docker", "run"])):
        words = shlex.split(text)
        assert words[:2] == before
        client = load_client(words[words.index("client") + 1 :], {})
        assert (client.options.id, client.options.secret) == ("alice", SECRET)
        assert [str(each) for each in client.options.remote] == ["tcp://example.com:8080"]


def test_tls_comes_first_and_a_certificate_of_its_own_is_named(tmp_path):
    path = tmp_path / "server.yml"
    path.write_text("options: {addr: 80, tlsAddr: 443, domain: example.com}\nusers: {alice: {secret: a}}\n")
    config = load_server(("-c", str(path)), {})
    assert own_certificate(config) == ""  # it is not made yet
    certificate = certificates.Certificate("", "", [], tmp_path, "tls1.2")
    made = invited(config)
    code = JoinCode.parse(made.code)
    assert code.remotes == ("tls://example.com:443", "tcp://example.com:80")
    assert len(code.fingerprint) == 64
    assert code.fingerprint == own_certificate(config)
    assert "--remote tls://example.com:443 --remoteCertInsecure" in made.python
    assert certificate.context


def test_a_certificate_of_an_authority_needs_no_more(tmp_path):
    issuer = make_pair(ca=True)
    files = make_pair(["example.com"], issuer=issuer).write(tmp_path)
    config = server("--tlsAddr", "443", "--certFile", str(files.cert), "--keyFile", str(files.key))
    assert own_certificate(config) == ""
    assert "remoteCertInsecure" not in invited(config).python


def test_who_is_not_known_gets_no_code(tmp_path):
    verifier = f"SCRAM-SHA-256$65536:MDEyMzQ1Njc4OWFiY2RlZg==${'A' * 43}=:{'b' * 43}="
    path = tmp_path / "server.yml"
    path.write_text(f"options: {{addr: 80}}\nusers: {{alice: {{verifier: '{verifier}'}}}}\n")
    config = load_server(("-c", str(path)), {})
    assert join.invitation(config, config.users["alice"]) is None


@pytest.mark.parametrize(
    ("words", "reached_at", "host"),
    [
        (("--addr", "80", "--domain", "example.com"), "other:8000", "example.com"),
        (("--addr", "192.0.2.1:80"), "other:8000", "192.0.2.1"),
        (("--addr", "0.0.0.0:80"), "other:8000", "other"),
        (("--addr", "[::]:80"), "other", "other"),
        (("--addr", "80"), "[2001:db8::1]:8000", "2001:db8::1"),
        (("--addr", "80"), "[2001:db8::1]", "2001:db8::1"),
        (("--addr", "80"), "", "127.0.0.1"),
    ],
)
def test_the_host_that_clients_reach(words, reached_at, host):
    config = server(*words)
    assert public_host(config.options, reached_at) == host
    assert (
        JoinCode.parse(invited(config, reached_at).code)
        .remotes[0]
        .startswith(f"tcp://[{host}]" if ":" in host else f"tcp://{host}")
    )


def test_a_port_that_the_system_chooses_is_the_one_it_chose():
    config = server("--addr", "127.0.0.1:0")
    assert join.invitation(config, config.users["alice"]) is None
    status = {"units": [{"listeners": [{"option": "addr", "address": "127.0.0.1:45678"}]}]}
    made = invited(config, "", status)
    assert JoinCode.parse(made.code).remotes == ("tcp://127.0.0.1:45678",)


@pytest.mark.parametrize(
    ("words", "kind", "urls"),
    [
        (("--addr", "80", "--domain", "example.com"), "http", ("http://blog.example.com/",)),
        (("--addr", "8080", "--domain", "example.com"), "http", ("http://blog.example.com:8080/",)),
        (
            ("--addr", "80", "--tlsAddr", "443", "--domain", "example.com"),
            "http",
            ("https://blog.example.com/", "http://blog.example.com/"),
        ),
        (("--addr", "80", "--sniAddr", "8443", "--domain", "a.de"), "tls", ("https://blog.a.de:8443/",)),
        (("--addr", "80", "--domain", "a.de"), "tls", ()),
        (("--addr", "80"), "http", ()),
        (("--addr", "80", "--domain", "a.de", "--httpMUXHeader", "X-GT-Host"), "http", ()),
    ],
)
def test_where_a_host_prefix_is_found(words, kind, urls):
    assert urls_of(server(*words).options, kind, "blog") == urls


def test_links_of_what_is_published():
    config = server("--addr", "8080", "--domain", "example.com")
    hosts = [
        {"kind": "http", "name": "blog", "user": "alice"},
        {"kind": "tcp", "name": "2222", "user": "bob"},
    ]
    status = {"units": [{"workers": [{"hosts": hosts}, {"hosts": hosts[:1]}, {}]}]}
    links = public_links(config, status)
    assert [(each.kind, each.name, each.user, each.urls) for each in links] == [
        ("http", "blog", "alice", ("http://blog.example.com:8080/",)),
        ("tcp", "2222", "bob", ("tcp://example.com:2222",)),
    ]
    assert public_links(config, {}) == []


def test_a_certificate_that_cannot_be_read_is_nobodys(tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for path in (broken, Path("/does/not/exist.pem")):
        assert own_certificate(server("--tlsAddr", "443", "--certFile", str(path), "--keyFile", "x")) == ""
