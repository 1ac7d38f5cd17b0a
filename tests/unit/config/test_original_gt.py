"""What users of the original GT have: its command lines and files load as they are, and mean the same."""

import shlex
from pathlib import Path

import pytest

from gtapp.config.load import load_client, load_server, load_users
from gtapp.config.options import ServerOptions
from gtapp.config.values import Address, PortRange
from gtapp.errors import ConfigError

SERVERS = {
    "http": "-addr 8080 -id id1 -secret secret1",
    "users, paired": "-addr 8080 -id id1 -secret secret1 -id id2 -secret secret2",
    "users, in order": "-addr 8080 -id id1 -id id2 -secret secret1 -secret secret2",
    "https": "-addr '' -tlsAddr 443 -certFile /root/tls.crt -keyFile /root/tls.key -id id1 -secret secret1",
    "sni": "-addr 8080 -sniAddr 443 -id id1 -secret secret1",
    "tls": "-addr 8080 -tlsAddr 443 -certFile /root/tls.crt -keyFile /root/tls.key -id id1 -secret secret1",
    "tcp": "-addr 8080 -id id1 -secret secret1 -tcpNumber 1 -tcpRange 1024-65535",
    "services": "-addr 8080 -id id1 -secret secret1 -tcpNumber 2 -tcpRange 1024-65535 -hostNumber 2 -hostWithID"
    " -hostRegex ^[0-9]+$ -hostRegex ^[a-zA-Z]+$",
    "status": "-addr 8080 -apiAddr 8081",
    "anybody": "-addr 8080 -allowAnyClient",
}
CLIENT = "-id id1 -secret secret1 "
CLIENTS = {
    "http": "-local http://127.0.0.1:80 -remote tcp://id1.example.com:8080",
    "https": "-local http://127.0.0.1 -remote tls://id1.example.com -remoteCertInsecure",
    "sni": "-local https://127.0.0.1 -remote tcp://id1.example.com:8080",
    "tls": "-local http://127.0.0.1:80 -remote tls://id1.example.com -remoteCertInsecure",
    "tcp": "-local tcp://127.0.0.1:22 -remote tcp://id1.example.com:8080 -remoteTCPPort 2222 -remoteTCPRandom",
    "services": "-remote tcp://id1.example.com:8080"
    " -local http://127.0.0.1:80 -useLocalAsHTTPHost -hostPrefix 1"
    " -local http://127.0.0.1:8080 -useLocalAsHTTPHost -hostPrefix 2"
    " -local tcp://127.0.0.1:2222 -remoteTCPPort 2222"
    " -local tcp://127.0.0.1:2223 -remoteTCPPort 2223",
}
SERVICES_YAML = """
services:
  - local: http://127.0.0.1:80
    useLocalAsHTTPHost: true
    hostPrefix: 1
  - local: http://127.0.0.1:8080
    useLocalAsHTTPHost: true
    hostPrefix: 2
  - local: tcp://127.0.0.1:2222
    remoteTCPPort: 2222
  - local: tcp://127.0.0.1:2223
    remoteTCPPort: 2223
options:
  remote: tcp://id1.example.com:8080
  id: id1
  secret: secret1
"""
EXAMPLE_CLIENT = """
version: 1.0
services:
  - local: http://127.0.0.1:80
    hostPrefix: blog
  - local: http://127.0.0.1:80
    hostPrefix: web
  - local: https://www.example.com
    hostPrefix: www
  - local: tcp://127.0.0.1:22
    remoteTCPPort: 10022
    remoteTCPRandom: true
options:
  id: id-should-be-overwritten
  secret: secret-should-be-overwritten
  remote: tcp://1.1.1.1:80
  remoteConnections: 5
  logLevel: info
"""
CONFIG = """
version: 1.0
users:
  id1:
    secret: secret1
    tcp:
      - range: 10000-20000
    tcpNumber: 0
  id2:
    secret: secret2
tcp:
  - range: 50000-65535
options:
  apiAddr: 1.2.3.4:1234
  certFile: /path
  keyFile: /path
  logFile: /path
  logFileMaxCount: 1234
  logFileMaxSize: 1234
  logLevel: debug
  addr: 1234
  timeout: 1234m1234ms
  tlsAddr: 1234
  tlsVersion: tls1.3
  users: {users}
  tcpNumber: 1
"""
SAVED_BY_ITS_CONSOLE = """
type: Server
users:
    id1:
        secret: secret1
        speed: 4096
tcp:
    - range: 50000-65535
host:
    number: 2
    regex:
        - ^a$
    withID: true
options:
    addr: "8080"
    tlsVersion: tls1.2
    tcpNumber: 3
    connections: 10
    reconnectTimes: 3
    reconnectDuration: 5m0s
    httpMUXHeader: Host
    maxHandShakeOptions: 600
    timeout: 1m30s
    apiTLSVersion: tls1.2
    stunLogLevel: warn
    sentrySampleRate: 1
    logFileMaxSize: 536870912
    logFileMaxCount: 7
    logLevel: info
    pprof: true
"""
CONTAINER = """
version: 1.0
options:
  addr: 80
  tlsAddr: 443
  sniAddr: 4443
  certFile: /opt/crt/tls.crt
  keyFile: /opt/crt/tls.key
  logLevel: info
  apiAddr: 0.0.0.0:81
  sentryDSN:
  authAPI: http://gateway/auth
  timeout: 90s
  httpMUXHeader: EID
  reconnectTimes: 3
"""


@pytest.fixture
def yml(tmp_path: Path) -> Path:
    return tmp_path / "gt.yml"


def client_of(yml: Path, services: str):
    yml.write_text(f"options: {{id: id1, remote: tcp://a}}\nservices:\n{services}")
    return load_client(["-c", str(yml)], {})


@pytest.mark.parametrize("name", SERVERS)
def test_server_lines_of_its_readme(name):
    load_server(shlex.split(SERVERS[name]), {})


@pytest.mark.parametrize("name", CLIENTS)
def test_client_lines_of_its_readme(name, caplog):
    assert load_client((CLIENT + CLIENTS[name]).split(), {}).options.secret == "secret1"
    assert not caplog.records


def test_users_on_the_command_line_in_both_orders():
    paired, in_order = (load_server(SERVERS[f"users, {name}"].split(), {}) for name in ("paired", "in order"))
    assert paired == in_order
    assert [(user.id, user.secret) for user in paired.users.values()] == [
        ("id1", "secret1"),
        ("id2", "secret2"),
    ]


def test_limits_on_the_command_line_are_those_of_its_users():
    (user,) = load_server(SERVERS["services"].split(), {}).users.values()
    assert (user.tcp_number, user.tcp_range) == (2, (PortRange(1024, 65535),))
    assert (user.host_number, user.host_with_id) == (2, True)
    assert user.host_regex == ("^[0-9]+$", "^[a-zA-Z]+$")


def test_many_services_are_the_same_by_flags_and_file(yml):
    yml.write_text(SERVICES_YAML)
    file = load_client(["-c", str(yml)], {})
    flags = load_client((CLIENT + CLIENTS["services"]).split(), {})
    assert (file.options, file.services) == (flags.options, flags.services)
    assert [(each.host_prefix, each.remote_tcp_port, each.remote_tcp_random) for each in file.services] == [
        ("1", 0, None),
        ("2", 0, None),
        (None, 2222, False),
        (None, 2223, False),
    ]


def test_its_example_of_a_client_with_an_id_from_the_command_line(yml):
    yml.write_text(EXAMPLE_CLIENT)
    config = load_client(["-config", str(yml), "-id", "id1", "-secret", "secret1"], {})
    assert (config.options.id, config.options.secret) == ("id1", "secret1")
    assert [each.host_prefix for each in config.services] == ["blog", "web", "www", None]


def test_its_example_of_a_server_with_a_users_file(yml, tmp_path):
    users = tmp_path / "users.yaml"
    users.write_text(
        "id3:\n  secret: secret3\nid1:\n  secret: secret1-overwrite\n  tcp:\n  - range: 1-49999\n"
    )
    yml.write_text(CONFIG.replace("{users}", str(users)))
    config = load_server(["-config", str(yml)], {})
    everybody = (PortRange(50000, 65535),)
    assert {user.id: (user.secret, user.tcp_range, user.tcp_number) for user in config.users.values()} == {
        "id1": ("secret1-overwrite", (PortRange(1, 49999),), 1),
        "id2": ("secret2", everybody, 1),
        "id3": ("secret3", everybody, 1),
    }


def test_its_example_of_ports_without_a_users_file(yml):
    yml.write_text(CONFIG.replace("  users: {users}\n", ""))
    config = load_server(["-config", str(yml)], {})
    assert {user.id: (user.tcp_range, user.tcp_number) for user in config.users.values()} == {
        "id1": ((PortRange(10000, 20000),), 0),
        "id2": ((PortRange(50000, 65535),), 1),
    }


def test_its_users_file(yml):
    yml.write_text("id1:\n  secret: secret1\n  tcp:\n    - range: 1-65535\nid2:\n  secret: secret2\n")
    users = load_users(yml, ServerOptions())
    assert [user.tcp_range for user in users.values()] == [(PortRange(1, 65535),), ()]


def test_a_file_that_its_console_saved(yml):
    yml.write_text(SAVED_BY_ITS_CONSOLE)
    config = load_server(["-c", str(yml)], {})
    assert (config.options.addr, config.options.reconnect_duration) == (Address("", 8080), 300.0)
    user = config.users["id1"]
    assert (user.speed, user.tcp_number, user.host_number, user.host_with_id) == (4096, 3, 2, True)


def test_the_file_of_its_container(yml):
    yml.write_text(CONTAINER)
    options = load_server(["-c", str(yml)], {}).options
    assert (options.sentry_dsn, options.auth_api) == ("", "http://gateway/auth")
    assert options.http_mux_header == "EID"


def test_its_container_without_an_api_would_let_in_everybody(yml):
    yml.write_text(CONTAINER.replace("http://gateway/auth", "").replace("apiAddr: 0.0.0.0:81", "apiAddr:"))
    with pytest.raises(ConfigError, match=r"there are no users, .* or allowAnyClient to let in everybody$"):
        load_server(["-c", str(yml)], {})


def test_a_status_api_without_users_starts_with_a_warning(caplog):
    config = load_server(SERVERS["status"].split(), {})
    assert not config.users
    assert not config.options.allow_any_client
    assert [record.getMessage() for record in caplog.records] == [
        "server: there are no users, set --id and --secret, or users in a file;"
        " until then the status API alone has a tunnel"
    ]


IGNORED = [
    ("local: tcp://a:22, hostPrefix: ssh", "hostPrefix: is ignored, it has no meaning for tcp://"),
    (
        "local: tcp://a:22, useLocalAsHTTPHost: true",
        "useLocalAsHTTPHost: is ignored, it has no meaning for tcp://",
    ),
    (
        "local: https://a, useLocalAsHTTPHost: true",
        "useLocalAsHTTPHost: is ignored, it has no meaning for https://",
    ),
    ("local: https://a, remoteTCPPort: 22", "remoteTCPPort: is ignored, it has no meaning for https://"),
    ("local: http://a, remoteTCPRandom: true", "remoteTCPRandom: is ignored, it has no meaning for http://"),
]


@pytest.mark.parametrize(("service", "expected"), IGNORED)
def test_what_it_ignores_is_ignored_with_a_warning(yml, caplog, service, expected):
    (found,) = client_of(yml, f"- {{{service}}}\n").services
    (plain,) = client_of(yml, f"- {{{service.partition(',')[0]}}}\n").services
    assert found == plain
    assert [record.getMessage() for record in caplog.records] == [f"{yml}:3: {expected}"]


def test_a_host_prefix_among_tcp_services_on_the_command_line(caplog):
    words = f"{CLIENT} -remote a -local tcp://b:22 -hostPrefix ssh -local http://c -hostPrefix ssh".split()
    assert [each.host_prefix for each in load_client(words, {}).services] == [None, "ssh"]
    assert [record.getMessage() for record in caplog.records] == [
        "--hostPrefix: is ignored, it has no meaning for tcp://"
    ]


def test_insecure_wins_over_a_certificate(caplog):
    words = f"{CLIENT} -remote tls://a -local http://b -remoteCert ca.pem -remoteCertInsecure".split()
    options = load_client(words, {}).options
    assert (options.remote_cert, options.remote_cert_insecure) == ("", True)
    assert [record.getMessage() for record in caplog.records] == [
        "--remoteCert: is ignored, remoteCertInsecure accepts any certificate"
    ]
    assert load_client(words[:-1], {}).options.remote_cert == "ca.pem"


def test_no_more_idle_tunnels_than_there_are(caplog):
    words = f"{CLIENT} -remote a -local http://b -remoteIdleConnections".split()
    assert load_client([*words, "3"], {}).options.remote_idle_connections == 3
    assert not caplog.records
    assert load_client([*words, "4"], {}).options.remote_idle_connections == 3
    assert [record.getMessage() for record in caplog.records] == [
        "client: remoteIdleConnections is taken as 3, the value of remoteConnections"
    ]


def test_every_port_is_range_0(yml):
    yml.write_text("options: {addr: 1, tcpNumber: 1}\nusers: {a: {secret: s}}\ntcp: [{range: 0}]")
    assert load_server(["-c", str(yml)], {}).users["a"].tcp_range == (PortRange(1, 65535),)
