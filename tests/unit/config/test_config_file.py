"""The layout of the files: what the original GT writes, what is new, and errors that say where they are."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from gtapp.config.config_file import read_config_file, read_users_file, role_of
from gtapp.config.problems import Problems
from gtapp.config.values import Address, PortRange
from gtapp.errors import ConfigError


@pytest.fixture
def yml(tmp_path: Path) -> Path:
    return tmp_path / "gt.yml"


def contents_of(yml: Path, role: str, text: str):
    yml.write_text(text)
    problems = Problems()
    contents = read_config_file(yml, role, problems)
    problems.check()
    return contents


def plain(values):
    return {key: given.value for key, given in values.items()}


def test_a_server_as_the_original_gt_writes_it(yml):
    contents = contents_of(
        yml,
        "server",
        """
version: 1.0
type: server
users:
  id1: {secret: 0123, tcp: [{range: 10000-20000}, {range: 3-3}], tcpNumber: 0, speed: 1000, connections: 2}
  2:
    secret: secret2
    host: {number: 3, regex: [^a$, ^b$], withID: true}
  id3:
    secret: secret3
    tcp: []
    host: {regex: []}
  id4:
    secret: secret4
    tcp:
    disabled: true
    allowIPs: [192.0.2.0/24, 2001:db8::/32]
    denyIPs: 192.0.2.7
tcp:
  - range: 50000-65535
host:
  number: 1
  regex: ^[0-9]+$
  withID: yes
options:
  apiAddr: 1.2.3.4:1234
  logFileMaxCount: 12
  logFileMaxSize: 1234
  addr: 1234
  timeout: 1234m1234ms
  tlsVersion: tls1.3
  users: testdata/users.yaml
  tcpNumber: 1
  pprof: true
  certFile:
""",
    )
    assert plain(contents.options) == {
        "tcpRange": (PortRange(50000, 65535),),
        "hostNumber": 1,
        "hostRegex": ("^[0-9]+$",),
        "hostWithID": True,
        "apiAddr": Address("1.2.3.4", 1234),
        "logFileMaxCount": 12,
        "logFileMaxSize": 1234,
        "addr": Address("", 1234),
        "timeout": 74041.234,
        "tlsVersion": "tls1.3",
        "users": "testdata/users.yaml",
        "tcpNumber": 1,
    }
    assert {id: plain(part.given) for id, part in contents.users.items()} == {
        "id1": {
            "secret": "0123",
            "tcpRange": (PortRange(10000, 20000), PortRange(3, 3)),
            "tcpNumber": 0,
            "speed": 1000,
            "connections": 2,
        },
        "2": {"secret": "secret2", "hostNumber": 3, "hostRegex": ("^a$", "^b$"), "hostWithID": True},
        "id3": {"secret": "secret3", "hostRegex": ()},
        "id4": {
            "secret": "secret4",
            "disabled": True,
            "allowIPs": (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
            "denyIPs": (ip_network("192.0.2.7"),),
        },
    }
    assert contents.users["2"].label == f'{yml}:6: user "2"'


def test_a_client_as_the_original_gt_writes_it(yml):
    contents = contents_of(
        yml,
        "client",
        """
version: 1.0
services:
  - local: http://127.0.0.1
    hostPrefix: 1
    useLocalAsHTTPHost: true
  - local: tcp://127.0.0.1:22
    remoteTCPPort: 10022
    remoteTCPRandom: true
options:
  id: id1
  secret: 0xff
  remote: tcp://1.1.1.1:80
  remoteConnections: 5
""",
    )
    shown = [{key: str(value) for key, value in plain(part.given).items()} for part in contents.services]
    assert shown == [
        {"local": "http://127.0.0.1:80", "hostPrefix": "1", "useLocalAsHTTPHost": "True"},
        {"local": "tcp://127.0.0.1:22", "remoteTCPPort": "10022", "remoteTCPRandom": "True"},
    ]
    options = plain(contents.options)
    assert options["secret"] == "0xff"
    assert [str(remote) for remote in options["remote"]] == ["tcp://1.1.1.1:80"]
    assert options["remoteConnections"] == 5


def test_a_users_file(yml):
    yml.write_text("id1: &a {secret: s, connections: 3}\nid2: {<<: *a, secret: t}\n")
    problems = Problems()
    users = read_users_file(yml, problems)
    problems.check()
    assert {id: plain(part.given) for id, part in users.items()} == {
        "id1": {"secret": "s", "connections": 3},
        "id2": {"secret": "t", "connections": 3},
    }


INVALID = [
    ("server", "- addr: 1", "1: the file: found a list, allowed: a mapping"),
    ("server", "type: client", '1: type: found "client", allowed: server'),
    ("server", "addr: 80", '1: unknown key "addr" in the file of a server, it belongs under "options"'),
    ("server", "option: {}", '1: unknown key "option" in the file of a server, did you mean "options"?'),
    ("server", "services: []", '1: unknown key "services" in the file of a server'),
    ("client", "users: {}", '1: unknown key "users" in the file of a client'),
    ("server", "options: [addr]", "1: options: found a list, allowed: a mapping"),
    ("server", "options:\n  adr: 80", '2: options: unknown key "adr", did you mean "addr"?'),
    ("server", "options:\n  tlsadr: 80", '2: options: unknown key "tlsadr", did you mean "tlsAddr"?'),
    ("server", "options: {addr: 1, addr: 2}", '1: options: "addr" is there twice, see line 1'),
    (
        "server",
        "options:\n  addr: nowhere",
        '2: addr: found "nowhere", allowed: an address such as 80, :80, 0.0.0.0:80 or [::]:80',
    ),
    ("server", "options:\n  addr: [80]", "2: addr: found a list, allowed: a single value"),
    ("server", "options:\n  addr: {port: 80}", "2: addr: found a mapping, allowed: a single value"),
    ("server", "options:\n  protocols: [1, [3]]", "2: protocols: found a list, allowed: a single value"),
    ("server", "options:\n  protocols:\n  - 1\n  - 2", '2: protocols: found "2", allowed: 1 or 3'),
    (
        "server",
        "options:\n  connections: -1",
        '2: connections: found "-1", allowed: a whole number from 0 to 1000000',
    ),
    (
        "server",
        "options:\n  timeout: 90",
        '2: timeout: found "90", allowed: a duration such as 30s, 5m or 1m500ms, from 100ms to 720h',
    ),
    ("server", "options:\n  bbr: maybe", '2: bbr: found "maybe", allowed: true or false'),
    ("server", "users: [id1]", "1: users: found a list, allowed: a mapping"),
    ("server", "users:\n  id1: s3cret", '2: user "id1": found a single value, allowed: a mapping'),
    ("server", "users:\n  id1:", '2: user "id1": has no secret (or verifier)'),
    ("server", "users:\n  id1: {secret: }", '2: user "id1": has no secret (or verifier)'),
    (
        "server",
        "users:\n  id1: {secret: ''}",
        "2: secret: found a value that is not shown, allowed: text of 1 to 200 bytes, no control characters",
    ),
    (
        "server",
        f"users:\n  {'x' * 201}: {{secret: s}}",
        f'2: user "{"x" * 60}…": the id has to be text of 1 to 200 bytes, no control characters',
    ),
    (
        "server",
        "users:\n  id1: {secret: s, conections: 3}",
        '2: user "id1": unknown key "conections", did you mean "connections"?',
    ),
    (
        "server",
        "users:\n  id1: {secret: s}\n  id1: {secret: t}",
        '3: users: "id1" is there twice, see line 2',
    ),
    (
        "server",
        "users:\n  id1: {secret: s, allowIPs: [10.0.0.1/8]}",
        '2: allowIPs: found "10.0.0.1/8", allowed: a network such as 10.0.0.0/8 or one address',
    ),
    (
        "server",
        "users:\n  id1: {secret: s, disabled: maybe}",
        '2: disabled: found "maybe", allowed: true or false',
    ),
    (
        "server",
        "options: {authAPI: example.com/auth}",
        '1: authAPI: found "example.com/auth", allowed: a URL such as https://example.com/path',
    ),
    (
        "client",
        "services:\n- {local: http://a, basicAuth: 'me:s3cret'}",
        "2: basicAuth: found a value that is not shown,"
        " allowed: user:hash, the hash as gt.py hash-password prints it",
    ),
    ("server", "tcp: 1-2", "1: tcp: found a single value, allowed: a list"),
    ("server", "tcp:\n- 1-2", "2: tcp: found a single value, allowed: a mapping"),
    ("server", "tcp:\n- {rang: 1-2}", '2: tcp: unknown key "rang", did you mean "range"?'),
    ("server", "tcp:\n- {range: 2-1}", '1: tcp: found "2-1", allowed: ports such as 1024-65535 or 8080'),
    ("server", "host: {withid: true}", '1: host: unknown key "withid", did you mean "withID"?'),
    ("server", "host:\n  number: -1", '2: number: found "-1", allowed: a whole number from 0 to 1000000'),
    (
        "server",
        "host: {number: 1}\noptions: {hostNumber: 2}",
        "2: hostNumber: is there twice, see {path}:1: number",
    ),
    ("client", "services: {local: http://a}", "1: services: found a mapping, allowed: a list"),
    ("client", "services:\n- http://a", "2: services: found a single value, allowed: a mapping"),
    ("client", "services:\n- hostPrefix: a", '2: services: "local" is missing, the URL of the service'),
    ("client", "services:\n- local:", '2: services: "local" is missing, the URL of the service'),
    (
        "client",
        "services:\n- {local: http://a, hostprefix: b}",
        '2: services: unknown key "hostprefix", did you mean "hostPrefix"?',
    ),
    (
        "client",
        "services:\n- local: http://a\n  hostPrefix: a.b",
        '3: hostPrefix: found "a.b", allowed: one DNS label (letters, digits, - inside; at most 63)',
    ),
    (
        "client",
        "services:\n- local: ftp://a",
        '2: local: found "ftp://a", allowed: one of http://host:port, https://host:port, tcp://host:port,'
        " without a path",
    ),
]


@pytest.mark.parametrize(("role", "text", "expected"), INVALID)
def test_an_error_says_where_it_is_what_was_found_and_what_is_allowed(yml, role, text, expected):
    with pytest.raises(ConfigError) as caught:
        contents_of(yml, role, text)
    assert str(caught.value).split("\n")[0] == f"{yml}:{expected.format(path=yml)}"


def test_all_errors_of_a_file_are_told(yml):
    with pytest.raises(ConfigError) as caught:
        contents_of(yml, "server", "options:\n  adr: 1\n  bbr: x\nusers:\n  id1: {}\nzzz: 1\n")
    assert str(caught.value).split("\n") == [
        f'{yml}:6: unknown key "zzz" in the file of a server',
        f'{yml}:2: options: unknown key "adr", did you mean "addr"?',
        f'{yml}:3: bbr: found "x", allowed: true or false',
        f'{yml}:5: user "id1": has no secret (or verifier)',
    ]


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("type: server", "server"),
        ("type: Client", "client"),
        ("type: connect", "connect"),
        ("services: []", "client"),
        ("version: 1.0\nusers: {}", "server"),
        ("options: {addr: 80}", "server"),
        ("options: {tlsAddr: 443}", "server"),
        ("options: {sniAddr: 443, authAPI: http://a}", "server"),
        ("tcp: []", "server"),
        ("id1: {secret: s}\nid2: {verifier: v}", "users"),
    ],
)
def test_what_a_file_is_for(yml, text, role):
    yml.write_text(text)
    assert role_of(yml) == role


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\ntype: servr", ':2: type: found "servr", allowed: server or client or connect'),
        ("type: [server]", ':1: type: found "something else", allowed: server or client or connect'),
        ("options: {}", ': does not say what it is for, add "type: server" or "type: client"'),
        ("options: [addr]", ': does not say what it is for, add "type: server" or "type: client"'),
        ("id1: {secret: s}\nid2: x", ': does not say what it is for, add "type: server" or "type: client"'),
        ("[]", ":1: the file: found a list, allowed: a mapping"),
    ],
)
def test_a_file_that_does_not_say_what_it_is_for(yml, text, expected):
    yml.write_text(text)
    with pytest.raises(ConfigError) as caught:
        role_of(yml)
    assert str(caught.value) == f"{yml}{expected}"
