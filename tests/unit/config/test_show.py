"""The effective configuration: whole, loadable, and without a secret."""

from pathlib import Path

from gtapp.config.load import load_client, load_server, load_users
from gtapp.config.options import ServerOptions
from gtapp.config.show import client_yaml, server_yaml, users_yaml
from gtapp.config.values import PortRange

SERVER_YAML = """\
type: server
users:
  id1:
    secret: '***'
    disabled: false
options:
  addr: 127.0.0.1:80
  tlsVersion: tls1.2
  httpMUXHeader: Host
  allowAnyClient: false
  reconnectTimes: 3
  reconnectDuration: 5m
  tcpNumber: 0
  speed: 0
  connections: 10
  hostNumber: 0
  hostWithID: false
  protocols:
  - 3
  maxHandShakeOptions: 600
  timeout: 1m30s
  timeoutOnUnidirectionalTraffic: false
  routePerRequest: false
  apiTLSVersion: tls1.2
  webIdleTimeout: 30m
  logFileMaxSize: 512MiB
  logFileMaxCount: 7
  logLevel: info
  logFormat: text
  sentryLevel:
  - error
  - fatal
  - panic
  sentrySampleRate: 1.0
  sentryDebug: false
  workers: 1
  drainTimeout: 10m
"""
CLIENT_YAML = """\
type: client
services:
- local: http://127.0.0.1:80
  hostPrefix: id1
  remoteTCPPort: 0
  localTimeout: 2m
  useLocalAsHTTPHost: false
  proxyProtocol: 'off'
  forwardedFor: false
options:
  id: id1
  secret: '***'
  remote:
  - tcp://example.com:80
  remoteCertInsecure: false
  remoteConnections: 3
  remoteIdleConnections: 1
  remoteTimeout: 45s
  reconnectDelay: 5s
  protocol: auto
  allowPlainSecret: false
  webIdleTimeout: 30m
  logFileMaxSize: 512MiB
  logFileMaxCount: 7
  logLevel: info
  logFormat: text
  sentryLevel:
  - error
  - fatal
  - panic
  sentrySampleRate: 1.0
  sentryDebug: false
  workers: 1
"""

USERS_YAML = """\
用户:
  secret: '***'
  disabled: true
  denyIPs:
  - 10.0.0.0/8
  speed: 7
"""


def test_a_server_and_that_it_loads_again(tmp_path: Path):
    words = ["--addr", "127.0.0.1:80", "--id", "id1", "--secret", "s3cret", "--protocols", "3"]
    assert server_yaml(load_server(words, {})) == SERVER_YAML
    again = tmp_path / "server.yml"
    again.write_text(SERVER_YAML)
    assert server_yaml(load_server(["-c", str(again)], {})) == SERVER_YAML


def test_a_client_and_that_it_loads_again(tmp_path: Path):
    words = ["--id", "id1", "--secret", "s3cret", "--remote", "example.com", "--local", "http://127.0.0.1"]
    assert client_yaml(load_client(words, {})) == CLIENT_YAML
    again = tmp_path / "client.yml"
    again.write_text(CLIENT_YAML)
    assert client_yaml(load_client(["-c", str(again)], {})) == CLIENT_YAML


def test_users(tmp_path: Path):
    users = tmp_path / "users.yml"
    users.write_text("用户: {secret: s3cret, denyIPs: 10.0.0.0/8, speed: 7, disabled: yes}\n")
    assert users_yaml(load_users(users, ServerOptions())) == USERS_YAML


def test_a_user_without_the_servers_ports_and_patterns_stays_so(tmp_path: Path):
    file = tmp_path / "server.yml"
    file.write_text(
        "options: {addr: 1, tcpRange: 7-9, hostRegex: a}\n"
        "users: {a: {secret: s, tcpRange: [], host: {regex: []}}, b: {secret: s}}\n"
    )
    config = load_server(["-c", str(file)], {})
    again = tmp_path / "again.yml"
    text = server_yaml(config)
    assert text.startswith(
        "type: server\nusers:\n  a:\n    secret: '***'\n    disabled: false\n    tcpRange: []\n"
    )
    again.write_text(text)
    users = load_server(["-c", str(again)], {}).users
    assert [(user.tcp_range, user.host_regex) for user in users.values()] == [
        ((), ()),
        ((PortRange(7, 9),), ("a",)),
    ]
