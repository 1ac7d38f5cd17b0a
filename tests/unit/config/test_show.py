"""The effective configuration: whole, loadable, and without a secret."""

from pathlib import Path

from gtapp.config.load import load_client, load_server, load_users
from gtapp.config.options import ServerOptions
from gtapp.config.show import client_yaml, server_yaml, users_yaml

SERVER_YAML = """\
type: server
users:
  id1:
    secret: '***'
    connections: 10
options:
  addr: 127.0.0.1:80
  httpMUXHeader: Host
  connections: 10
  protocols:
  - 3
  maxHandShakeOptions: 600
  timeout: 1m30s
  timeoutOnUnidirectionalTraffic: false
  logFileMaxSize: 512MiB
  logFileMaxCount: 7
  logLevel: info
  logFormat: text
"""
CLIENT_YAML = """\
type: client
services:
- local: http://127.0.0.1:80
  hostPrefix: id1
  localTimeout: 2m
options:
  id: id1
  secret: '***'
  remote:
  - tcp://example.com:80
  remoteConnections: 3
  remoteIdleConnections: 1
  remoteTimeout: 45s
  reconnectDelay: 5s
  protocol: auto
  allowPlainSecret: false
  logFileMaxSize: 512MiB
  logFileMaxCount: 7
  logLevel: info
  logFormat: text
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
    users.write_text("用户: {secret: s3cret}\n")
    assert users_yaml(load_users(users, ServerOptions())) == "用户:\n  secret: '***'\n  connections: 10\n"
