"""Editing a configuration: what was asked for changes, and every other byte stays as somebody wrote it."""

from __future__ import annotations

import contextlib
import difflib
import re
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gtapp.config.config_file import read_config_file
from gtapp.config.files import Files
from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.problems import Problems
from gtapp.config.schema import Option
from gtapp.config.yaml_edit import Document
from gtapp.errors import ConfigError
from tests.unit.config.test_original_gt import CONFIG, EXAMPLE_CLIENT, SAVED_BY_ITS_CONSOLE
from tests.unit.config.texts import IDS, SECRETS, VALUES, Writer, comments

Change = Callable[[Any], object]  # a document: a tuple of several changes is one, too
VERIFIER = f"SCRAM-SHA-256$4096:{'A' * 22}==${'A' * 43}=:{'A' * 43}="

SERVER = """\
# the server in the office

version: 1.0
users:
  # the shop
  id1:        # Alice
    secret:   0123
    tcp:
      - range: 10000-20000   # for her cameras
      - range: 443
    tcpNumber: 0

  # the wiki
  id2:
    secret: 'it''s'
    # speed: 1MiB

  id3: {secret: "a", connections: 3}   # Carol

# ports of everybody
tcp:
  - range: 50000-65535
host:
  number: 5   # each
options:
  addr:     8080      # visitors
  tlsAddr:  "[::]:443"  # the same

  # certificates
  certFile: /path
  keyFile:  /path
  hostRegex: [ "^a$",
               b ]
  timeout:  90s
  speed:
# end
"""

CLIENT = """\
type: client
services:
- local: http://127.0.0.1:80
  hostPrefix: blog   # the blog

# ssh, from everywhere
- local: tcp://127.0.0.1:22
  remoteTCPPort: 10022
  # remoteTCPRandom: true
  allowIPs:
    - 10.0.0.0/8    # the office
    - 192.0.2.1     # home
- hostPrefix: www
  local: https://www.example.com
options:
  id: id1
  secret: secret1
  remote: tcp://1.1.1.1:80
"""


def changed(text: str, change: Change, role: str = "server") -> str:
    document = Document(text, role, "server.yml")
    change(document)
    return document.text


def difference(before: str, after: str) -> list[str]:
    """The lines that went and came, in order."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    return [line for line in lines if not line.startswith("@@")]


# what a change writes, and that it writes nothing else


OPTION_CASES: dict[str, tuple[Change, list[str]]] = {
    "a value keeps its place and comment": (
        lambda file: file.set_option("addr", "0.0.0.0:81"),
        ["-  addr:     8080      # visitors", "+  addr:     0.0.0.0:81      # visitors"],
    ),
    "what means the same changes nothing": (lambda file: file.set_option("timeout", "1m30s"), []),
    "an address": (lambda file: file.set_option("addr", ":8080"), []),
    "a key that had no value": (
        lambda file: file.set_option("speed", "2MiB"),
        ["-  speed:", "+  speed: 2MiB"],
    ),
    "a new key": (lambda file: file.set_option("logLevel", "debug"), ["+  logLevel: debug"]),
    "a number": (lambda file: file.set_option("reconnectTimes", 5), ["+  reconnectTimes: 5"]),
    "a boolean": (lambda file: file.set_option("allowAnyClient", False), ["+  allowAnyClient: false"]),
    "a number from a form": (lambda file: file.set_option("reconnectTimes", "5"), ["+  reconnectTimes: 5"]),
    "a list": (
        lambda file: file.set_option("trustedProxies", ["10.0.0.0/8", "::1/128"]),
        ['+  trustedProxies: [10.0.0.0/8, "::1/128"]'],
    ),
    "a list of one": (
        lambda file: file.set_option("trustedProxies", ["10.0.0.0/8"]),
        ["+  trustedProxies: 10.0.0.0/8"],
    ),
    "a long list": (
        lambda file: file.set_option("trustedProxies", [f"198.51.100.{n}/32" for n in range(1, 6)]),
        ["+  trustedProxies:", *(f"+    - 198.51.100.{n}/32" for n in range(1, 6))],
    ),
    "a key goes": (lambda file: file.set_option("certFile", None), ["-  certFile: /path"]),
    "a key with a list in brackets goes": (
        lambda file: file.set_option("hostRegex", None),
        ['-  hostRegex: [ "^a$",', "-               b ]"],
    ),
    "a key that is not there goes": (lambda file: file.set_option("apiAddr", None), []),
    "ports stand where the file has them": (
        lambda file: file.set_option("tcpRange", ["50000-65535", "1-2"]),
        ["+  - range: 1-2"],
    ),
    "no ports at all": (
        lambda file: file.set_option("tcpRange", []),
        ["-tcp:", "-  - range: 50000-65535", "+  tcpRange: []"],
    ),
    "ports go": (lambda file: file.set_option("tcpRange", None), ["-tcp:", "-  - range: 50000-65535"]),
    "a host limit stands where the file has it": (
        lambda file: file.set_option("hostNumber", 6),
        ["-  number: 5   # each", "+  number: 6   # each"],
    ),
    "another host limit stands beside it": (
        lambda file: file.set_option("hostWithID", True),
        ["+  withID: true"],
    ),
    "a host limit that stands under options stays there": (
        lambda file: file.set_option("hostRegex", ["^a$", "c"]),
        ["-               b ]", "+               c ]"],
    ),
    "the last host limit goes with its section": (
        lambda file: file.set_option("hostNumber", None),
        ["-host:", "-  number: 5   # each"],
    ),
    "a text that could be a number is quoted": (
        lambda file: file.set_option("sentryRelease", "1.10"),
        ['+  sentryRelease: "1.10"'],
    ),
    "a regular expression": (
        lambda file: file.set_option("httpMUXHeader", "EID"),
        ["+  httpMUXHeader: EID"],
    ),
}

USER_CASES: dict[str, tuple[Change, list[str]]] = {
    "a secret": (
        lambda file: file.set_user("id1", {"secret": "yes"}),
        ["-    secret:   0123", '+    secret:   "yes"'],
    ),
    "the same secret": (lambda file: file.set_user("id1", {"secret": "0123"}), []),
    "a quoted secret stays quoted": (
        lambda file: file.set_user("id2", {"secret": "new"}),
        ["-    secret: 'it''s'", "+    secret: 'new'"],
    ),
    "in brackets": (
        lambda file: file.set_user("id3", {"connections": 4, "speed": "1MiB", "tcpRange": ["1-2"]}),
        [
            '-  id3: {secret: "a", connections: 3}   # Carol',
            '+  id3: {secret: "a", connections: 4, tcp: [{range: 1-2}], speed: 1MiB}   # Carol',
        ],
    ),
    "out of brackets": (
        lambda file: file.set_user("id3", {"connections": None}),
        ['-  id3: {secret: "a", connections: 3}   # Carol', '+  id3: {secret: "a"}   # Carol'],
    ),
    "a port more": (
        lambda file: file.set_user("id1", {"tcpRange": ["10000-20000", "443-443", "1-2"]}),
        ["+      - range: 1-2"],
    ),
    "a port less": (
        lambda file: file.set_user("id1", {"tcpRange": ["443-443"]}),
        ["-      - range: 10000-20000   # for her cameras"],
    ),
    "ports in another order": (
        lambda file: file.set_user("id1", {"tcpRange": ["443-443", "10000-20000"]}),
        ["-      - range: 10000-20000   # for her cameras", "+      - range: 10000-20000"],
    ),
    "limits": (
        lambda file: file.set_user("id2", {"hostNumber": 2, "hostRegex": ["^a", "b#"], "disabled": True}),
        ["+    disabled: true", "+    host:", "+      number: 2", '+      regex: [^a, "b#"]'],
    ),
    "a verifier takes the place of the secret": (
        lambda file: file.set_user("id1", {"verifier": VERIFIER}),
        ["-    secret:   0123", f"+    verifier: {VERIFIER}"],
    ),
    "a new user, with a blank line like the others": (
        lambda file: file.set_user(
            "new", {"speed": "1MiB", "secret": "0123", "tcpRange": ["1-2"], "hostNumber": 1}
        ),
        [
            *("+  new:", '+    secret: "0123"', "+    tcp:", "+      - range: 1-2", "+    speed: 1MiB"),
            *("+    host:", "+      number: 1", "+"),
        ],
    ),
    "a user goes with the comments that are about it": (
        lambda file: file.remove_user("id2"),
        ["-", "-  # the wiki", "-  id2:", "-    secret: 'it''s'", "-    # speed: 1MiB"],
    ),
    "the first user leaves the comment that may be about all": (
        lambda file: file.remove_user("id1"),
        [
            *("-  id1:        # Alice", "-    secret:   0123", "-    tcp:"),
            *("-      - range: 10000-20000   # for her cameras", "-      - range: 443", "-    tcpNumber: 0"),
        ],
    ),
    "the last user": (
        lambda file: file.remove_user("id3"),
        ["-", '-  id3: {secret: "a", connections: 3}   # Carol'],
    ),
    "another id": (lambda file: file.rename_user("id2", "no"), ["-  id2:", '+  "no":']),
}

SERVICE_CASES: dict[str, tuple[Change, list[str]]] = {
    "a value": (
        lambda file: file.set_service(0, {"hostPrefix": "wiki"}),
        ["-  hostPrefix: blog   # the blog", "+  hostPrefix: wiki   # the blog"],
    ),
    "a new value": (
        lambda file: file.set_service(0, {"localTimeout": "10m"}),
        ["+  localTimeout: 10m"],
    ),
    "the first key of an item goes": (
        lambda file: file.set_service(2, {"hostPrefix": None}),
        ["-- hostPrefix: www", "-  local: https://www.example.com", "+- local: https://www.example.com"],
    ),
    "a list in lines": (
        lambda file: file.set_service(1, {"allowIPs": ["192.0.2.1/32", "::1/128"]}),
        ["-    - 10.0.0.0/8    # the office", "+    - ::1/128"],
    ),
    "a new service": (
        lambda file: file.set_service(
            None, {"hostPrefix": "1", "local": "http://127.0.0.1:81", "denyIPs": []}
        ),
        ["+- local: http://127.0.0.1:81", "+  denyIPs: []", '+  hostPrefix: "1"'],
    ),
    "a service goes": (
        lambda file: file.remove_service(1),
        [
            *("-# ssh, from everywhere", "-- local: tcp://127.0.0.1:22", "-  remoteTCPPort: 10022"),
            *("-  # remoteTCPRandom: true", "-  allowIPs:", "-    - 10.0.0.0/8    # the office"),
            "-    - 192.0.2.1     # home",
        ],
    ),
    "the first service goes": (
        lambda file: file.remove_service(0),
        ["-- local: http://127.0.0.1:80", "-  hostPrefix: blog   # the blog", "-"],
    ),
}


@pytest.mark.parametrize("name", OPTION_CASES)
def test_an_option(name):
    change, expected = OPTION_CASES[name]
    assert difference(SERVER, changed(SERVER, change)) == expected


@pytest.mark.parametrize("name", USER_CASES)
def test_a_user(name):
    change, expected = USER_CASES[name]
    assert difference(SERVER, changed(SERVER, change)) == expected


@pytest.mark.parametrize("name", SERVICE_CASES)
def test_a_service(name):
    change, expected = SERVICE_CASES[name]
    assert difference(CLIENT, changed(CLIENT, change, "client")) == expected


AWKWARD: dict[str, tuple[str, Change, str]] = {
    "an empty file": (
        "",
        lambda file: (file.set_option("addr", ":80"), file.set_user("a", {"secret": "b"})),
        "type: server\noptions:\n  addr: :80\nusers:\n  a:\n    secret: b\n",
    ),
    "comments alone": (
        "# mine",
        lambda file: file.set_option("addr", ":80"),
        "# mine\ntype: server\noptions:\n  addr: :80\n",
    ),
    "a document mark alone": (
        "---\n",
        lambda file: file.set_option("addr", ":80"),
        "---\ntype: server\noptions:\n  addr: :80\n",
    ),
    "no final line end": (
        "options:\n  addr: 80",
        lambda file: (file.set_option("speed", "1MiB"), file.set_user("a", {"secret": "b"})),
        "options:\n  addr: 80\n  speed: 1MiB\nusers:\n  a:\n    secret: b",
    ),
    "line ends of Windows": (
        "options:\r\n  addr: 80 # é😀\r\n\r\nusers:\r\n  a: {secret: b}\r\n",
        lambda file: (file.set_option("speed", "1MiB"), file.set_user("c", {"secret": "d"})),
        "options:\r\n  addr: 80 # é😀\r\n  speed: 1MiB\r\n\r\nusers:\r\n  a: {secret: b}\r\n  c:\r\n    secret: d\r\n",
    ),
    "a byte order mark": (
        "\ufefftype: server\noptions: {addr: 80}\n",
        lambda file: file.set_option("speed", "1MiB"),
        "\ufefftype: server\noptions: {addr: 80, speed: 1MiB}\n",
    ),
    "users without any": (
        "users:   # nobody yet\noptions:\n  addr: 80\n",
        lambda file: file.set_user("a", {"secret": "b"}),
        "users:   # nobody yet\n  a:\n    secret: b\noptions:\n  addr: 80\n",
    ),
    "users: null": (
        "users: null  # nobody yet\n",
        lambda file: file.set_user("a", {"secret": "b"}),
        "users:  # nobody yet\n  a:\n    secret: b\n",
    ),
    "users: {}": (
        "users: {}\n",
        lambda file: file.set_user("a", {"secret": "b"}),
        "users:\n  a:\n    secret: b\n",
    ),
    "a user with nothing": (
        "users:\n  a:\n  b: ~\n",
        lambda file: (file.set_user("a", {"secret": "c"}), file.set_user("b", {"secret": "d"})),
        "users:\n  a:\n    secret: c\n  b:\n    secret: d\n",
    ),
    "a key with nothing": (
        "users:\n  a:\n    secret:\n    speed: 1 # slow\n",
        lambda file: file.set_user("a", {"secret": "c", "speed": None}),
        "users:\n  a:\n    secret: c\n",
    ),
    "the only user": (
        "users:\n  a:\n    secret: b\noptions:\n  addr: 80\n",
        lambda file: file.remove_user("a"),
        "users:\noptions:\n  addr: 80\n",
    ),
    "indentation by four": (
        "users:\n    a:\n        secret: b\n        tcp:\n            - range: 1\noptions:\n    addr: 80\n",
        lambda file: (
            file.set_user("c", {"secret": "d", "tcpRange": ["2"], "hostNumber": 1}),
            file.set_option("tcpRange", ["3"]),
        ),
        "users:\n    a:\n        secret: b\n        tcp:\n            - range: 1\n"
        "    c:\n        secret: d\n        tcp:\n            - range: 2\n        host:\n            number: 1\n"
        "options:\n    addr: 80\n    tcpRange: 3\n",
    ),
    "lists that are not indented": (
        "users:\n  a:\n    secret: b\n    tcp:\n    - range: 1\n    speed: 1\n",
        lambda file: (
            file.set_user("a", {"tcpRange": ["1", "2"]}),
            file.set_user("c", {"secret": "d", "tcpRange": ["3"]}),
        ),
        "users:\n  a:\n    secret: b\n    tcp:\n    - range: 1\n    - range: 2\n    speed: 1\n"
        "  c:\n    secret: d\n    tcp:\n    - range: 3\n",
    ),
    "JSON": (
        '{\n  "options": {\n    "addr": "80"\n  },\n  "users": {"a": {"secret": "b"}}\n}\n',
        lambda file: (
            file.set_option("addr", ":81"),
            file.set_option("speed", 0),
            file.set_user("c", {"secret": "a,b", "hostNumber": 1}),
            file.remove_user("a"),
        ),
        '{\n  "options": {\n    "addr": ":81",\n    speed: 0\n  },\n'
        '  "users": {c: {secret: "a,b", host: {number: 1}}}\n}\n',
    ),
    "brackets of nothing": (
        "options: { }\nusers: {a: {secret: b}, }\n",
        lambda file: (file.set_option("addr", ":81"), file.remove_user("a")),
        "options:\n  addr: :81\nusers: {}\n",
    ),
    "texts over lines": (
        "options:\n  logFile: >-\n    /var/log\n\n  authAPI: 'http://a\n    '\n  sentryDSN: |\n    x\n  # end\n",
        lambda file: (file.set_option("logFile", "/x"), file.set_option("sentryDSN", None)),
        "options:\n  logFile: /x\n\n  authAPI: 'http://a\n    '\n  # end\n",
    ),
    "ends of a document": (
        "---\noptions:\n  addr: 80\n...\n",
        lambda file: (file.set_option("speed", 1), file.set_user("a", {"secret": "b"})),
        "---\noptions:\n  addr: 80\n  speed: 1\nusers:\n  a:\n    secret: b\n...\n",
    ),
    "a merge stays": (
        "users:\n  a: &base\n    secret: b\n    speed: 1MiB\n  c:\n    <<: *base\n    secret: d\n",
        lambda file: (
            file.set_user("c", {"secret": "e", "connections": 3}),
            file.set_user("a", {"secret": "f"}),
        ),
        "users:\n  a: &base\n    secret: f\n    speed: 1MiB\n"
        "  c:\n    <<: *base\n    secret: e\n    connections: 3\n",
    ),
    "what is merged is not the other's to change": (
        "users:\n  a: &base\n    secret: b\n    speed: 1MiB\n  c:\n    <<: *base   # as a\n    secret: d\n",
        lambda file: file.set_user("a", {"speed": "2MiB"}),
        "users:\n  a: &base\n    secret: b\n    speed: 2MiB\n"
        "  c:\n    <<: {secret: b, speed: 1MiB}   # as a\n    secret: d\n",
    ),
    "what is merged can be taken out": (
        "users:\n  a: &base\n    secret: b\n    speed: 1MiB\n  c:\n    <<: *base\n    secret: d\n    speed: 5\n",
        lambda file: file.set_user("c", {"speed": None}),
        "users:\n  a: &base\n    secret: b\n    speed: 1MiB\n  c:\n    <<: *base\n    secret: d\n    speed: null\n",
    ),
    "who is an alias gets something of its own": (
        "users:\n  a: &base {secret: b, host: {number: 1}}\n  c: *base   # as a\n",
        lambda file: file.set_user("c", {"speed": "1MiB", "hostWithID": True}),
        "users:\n  a: &base {secret: b, host: {number: 1}}\n"
        "  c: {<<: *base, speed: 1MiB, host: {number: 1, withID: true}}   # as a\n",
    ),
    "who others refer to can go": (
        "users:\n  a: &base\n    secret: 0123\n    speed: '1'\n  c: *base\n",
        lambda file: file.remove_user("a"),
        'users:\n  c: {secret: 0123, speed: "1"}\n',
    ),
    "an anchored list": (
        "options:\n  trustedProxies: &proxies\n    - 10.0.0.1 # a\n"
        "users:\n  a:\n    secret: b\n    allowIPs: *proxies\n",
        lambda file: file.set_option("trustedProxies", ["10.0.0.1/32", "10.0.0.2"]),
        "options:\n  trustedProxies: &proxies\n    - 10.0.0.1 # a\n    - 10.0.0.2\n"
        "users:\n  a:\n    secret: b\n    allowIPs: [10.0.0.1]\n",
    ),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_file(name):
    before, change, after = AWKWARD[name]
    assert changed(before, change) == after


def test_an_empty_file_of_a_client():
    text = changed(
        "",
        lambda file: (file.set_option("id", "a"), file.set_service(None, {"local": "tcp://b:22"})),
        "client",
    )
    assert text == "type: client\noptions:\n  id: a\nservices:\n  - local: tcp://b:22\n"


@pytest.mark.parametrize("services", ["", " null", " []", " [ ]"])
def test_the_first_service(services):
    text = changed(
        f"services:{services}\n", lambda file: file.set_service(None, {"local": "tcp://b:22"}), "client"
    )
    assert text == "services:\n  - local: tcp://b:22\n"


def test_the_only_service_goes():
    text = changed(
        "services: # none\n- local: tcp://b:22\n  # ssh\n", lambda file: file.remove_service(0), "client"
    )
    assert text == "services: [] # none\n  # ssh\n"
    assert Document(text, "client").services() == []


def test_services_in_brackets():
    text = "services: [{local: tcp://b:22}, {local: 'http://c'}]\n"
    text = changed(
        text, lambda file: file.set_service(None, {"local": "tcp://d:1", "remoteTCPPort": 2}), "client"
    )
    assert (
        text
        == "services: [{local: tcp://b:22}, {local: 'http://c'}, {local: \"tcp://d:1\", remoteTCPPort: 2}]\n"
    )
    text = changed(text, lambda file: (file.remove_service(0), file.remove_service(1)), "client")
    assert text == "services: [{local: 'http://c'}]\n"


# what is there


def test_options_are_read_in_the_form_of_the_table():
    file = Document(SERVER, "server")
    keys = ("addr", "timeout", "hostRegex", "hostNumber", "tcpRange", "speed", "certFile", "apiAddr")
    assert [file.get_option(key) for key in keys] == [
        *(":8080", "1m30s", ["^a$", "b"], 5, ["50000-65535"], None, "/path", None)
    ]


def test_an_option_that_is_not_allowed_is_read_as_it_is_written():
    assert Document("options: {timeout: soon, hostRegex: [a, '(']}", "server").get_option("timeout") == "soon"
    assert Document("options: {hostRegex: [a, '(']}", "server").get_option("hostRegex") == ["a", "("]
    assert Document("options: {timeout: [90s], addr: {a: 1}}", "server").get_option("timeout") is None


def test_users_are_read_by_the_keys_of_the_table():
    assert Document(SERVER, "server").users() == {
        "id1": {"secret": "0123", "tcpRange": ["10000-20000", "443-443"], "tcpNumber": 0},
        "id2": {"secret": "it's"},
        "id3": {"secret": "a", "connections": 3},
    }
    nested = "users: {a: {verifier: x, tcp: [{range: 1}], host: {number: 2, withID: yes, regex: b}}, tcp: {secret: c}}"
    assert Document(nested, "server").users() == {
        "a": {"verifier": "x", "tcpRange": ["1-1"], "hostNumber": 2, "hostWithID": True, "hostRegex": ["b"]},
        "tcp": {"secret": "c"},
    }


def test_services_are_read_by_the_keys_of_the_table():
    assert Document(CLIENT, "client").services() == [
        {"local": "http://127.0.0.1:80", "hostPrefix": "blog"},
        {"local": "tcp://127.0.0.1:22", "remoteTCPPort": 10022, "allowIPs": ["10.0.0.0/8", "192.0.2.1/32"]},
        {"local": "https://www.example.com:443", "hostPrefix": "www"},
    ]


@pytest.mark.parametrize(
    "text", ["", "# nothing", "type: server", "users:\noptions:\n", "users: {}\noptions: {}"]
)
def test_nothing_is_there(text):
    file = Document(text, "server")
    assert (file.users(), file.get_option("addr"), file.get_option("tcpRange"), file.text) == (
        {},
        None,
        None,
        text,
    )


@pytest.mark.parametrize(
    "text", ["", "# nothing", "users:\nhost:\ntcp:\noptions:\n", "users: {a: {host: }}\nhost: \n"]
)
def test_what_is_not_there_goes_without_a_change(text):
    def change(file: Document) -> None:
        for key in ("addr", "tcpRange", "speed"):
            file.set_option(key, None)
        if "a" in file.users():
            file.set_user("a", {"speed": None, "tcpRange": None})

    assert changed(text, change) == text


# texts that YAML would take for something else


def read_again(text: str) -> str:
    """The secret of user a, as the program reads it."""
    problems = Problems()
    contents = read_config_file(Path("server.yml"), "server", problems, Files({"server.yml": text}))
    problems.check()
    return str(contents.users["a"].given["secret"].value)


@pytest.mark.parametrize("before", ["", "users: {a: {secret: b}}", "users:\n  a:\n    secret: 'b' # c\n"])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_comes_back_the_same(before, secret):
    text = changed(before, lambda file: file.set_user("a", {"secret": secret}))
    assert read_again(text) == secret
    assert yaml.safe_load(text)["users"]["a"]["secret"] == secret  # for other programs, too
    assert ("# c" in text) == ("# c" in before)


@given(
    id=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20),
    secret=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40),
)
def test_any_id_and_secret_come_back_the_same(id, secret):
    text = changed("users: {x: {secret: y}}\n", lambda file: file.set_user(id, {"secret": secret}))
    text = changed(text, lambda file: file.set_user("after", {"secret": "z"}))
    assert Document(text, "server").users() == {
        "x": {"secret": "y"}, id: {"secret": secret}, "after": {"secret": "z"},
    } | {id: {"secret": secret}}  # fmt: skip
    assert yaml.safe_load(text)["users"][id] == {"secret": secret}


WORDS = [
    *(
        "true",
        "false",
        "0",
        "1",
        "3",
        "10",
        "600",
        "0.5",
        "1.0",
        "30s",
        "1m30s",
        "1MiB",
        "auto",
        "off",
        "v1",
        "text",
    ),
    *(
        "debug",
        "warn",
        "warning",
        "info",
        "tls1.2",
        "tls1.3",
        ":80",
        "[::]:443",
        "1-2",
        "8080-8090",
        "10.0.0.0/8",
    ),
    *(
        "2001:db8::/32",
        "https://example.com/a?b=c#d",
        "^a$",
        "[a-z]: #",
        "\\d{1,2}",
        "a-b",
        "X-A",
        "tcp://a:1",
    ),
    *("tls://[::1]:2", "http://a:80", "/a b/#c", "a: b", "it's", "1e3", "null", "example.com", VERIFIER),
]


def sampled(entry: Option) -> st.SearchStrategy[Any]:
    """Values of an option, in the form that they have in YAML."""
    values = []
    for word in WORDS:
        with contextlib.suppress(ValueError):
            values.append(entry.kind.show(entry.kind.parse(word)))
    one = st.sampled_from(values)
    return st.lists(one, max_size=4, unique=True) if entry.many else one


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), role=st.sampled_from(("server", "client")))
def test_any_option_comes_back_the_same(data, role):
    file = Document(SERVER if role == "server" else CLIENT, role)
    for key in data.draw(st.lists(st.sampled_from(list(OPTIONS[role])), min_size=1, max_size=8, unique=True)):
        value = data.draw(sampled(OPTIONS[role][key]), label=key)
        file.set_option(key, value)
        assert file.get_option(key) == value
        assert Document(file.text, role).get_option(key) == value
        if data.draw(st.booleans()):
            file.set_option(key, None)
            assert file.get_option(key) is None


# any file, any change


class Model:
    """What a file says, by the program's own reader, and what it has to say after a change."""

    def __init__(self, text: str) -> None:
        problems = Problems()
        self.options: dict[str, Any] = {}
        self.users: dict[str, dict[str, Any]] = {}
        if re.sub(r"#.*", "", text).strip("\ufeff\n\r "):
            contents = read_config_file(
                Path("f"), "server", problems, Files({"f": text.removeprefix("\ufeff")})
            )
            problems.check()
            self.options = {key: given.value for key, given in contents.options.items()}
            self.users = {
                id: {key: given.value for key, given in part.given.items()}
                for id, part in contents.users.items()
            }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return repr(vars(self))

    def put(self, into: dict[str, Any], entry: Option, value: Any) -> None:
        into.pop(entry.key, None)
        if value is not None:
            words = [str(each) for each in (value if isinstance(value, list) else [value])]
            values = tuple(entry.kind.parse(word) for word in words)
            into[entry.key] = values if entry.many else values[0]


def make_a_change(file: Document, model: Model, writer: Writer, random: Random) -> bool:
    """Change a file and its model alike; whether a comment may go with it."""
    kind = random.choice(
        ("set option", "set option", "remove option", "set user", "new user", "remove user", "rename")
    )
    id = random.choice(list(model.users) or IDS)
    if kind == "set option":
        key = random.choice(list(VALUES))
        value = random.choice(VALUES[key])
        before = file.get_option(key)
        file.set_option(key, value)
        model.put(model.options, OPTIONS["server"][key], value)
        return isinstance(before, list)  # an item that goes takes along the comment behind it
    if kind == "remove option":
        key = random.choice(list(VALUES))
        file.set_option(key, None)
        model.options.pop(key, None)
    elif kind in ("set user", "new user"):
        id = id if kind == "set user" else random.choice(IDS)
        values = {
            key: random.choice((value, value, value, None)) for key, value in writer.limits(0.4).items()
        }
        if id not in model.users or random.random() < 0.5:
            values["secret"] = random.choice(SECRETS)
        before = file.users().get(id, {})
        file.set_user(id, values)
        for key, value in values.items():
            model.put(model.users.setdefault(id, {}), USER[key], value)
        return None in values.values() or any(isinstance(before.get(key), list) for key in values)
    elif id in model.users and kind == "remove user":
        file.remove_user(id)
        del model.users[id]
    elif id in model.users:
        new = random.choice([each for each in IDS if each not in model.users])
        file.rename_user(id, new)
        model.users[new] = model.users.pop(id)
        return False
    return True


def check_changes(random: Random, anchors: float) -> None:
    writer = Writer(random, anchors)
    text = writer.server()
    try:
        Model(text)
    except ConfigError:
        return  # ports by `tcp` and once more by `tcpRange`, or the like
    file = Document(text, "server", "f")
    assert file.text == text
    for _ in range(random.randint(1, 4)):
        before = file.text
        model = Model(before)
        may_lose = make_a_change(file, model, writer, random)
        assert Model(file.text) == model
        assert file.text.startswith("\ufeff") == before.startswith("\ufeff")
        assert file.text.count("\n") == file.text.count("\r\n") or "\r\n" not in file.text
        assert may_lose or comments(before) <= comments(file.text)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(random=st.randoms(use_true_random=False))
def test_any_file_says_after_a_change_what_was_asked_for_and_keeps_its_comments(random):
    check_changes(random, anchors=0.0)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(random=st.randoms(use_true_random=False))
def test_so_does_any_file_with_anchors_and_merges(random):
    check_changes(random, anchors=0.9)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(random=st.randoms(use_true_random=False))
def test_so_does_any_file_of_a_client(random):
    check_services(random)


def check_services(random: Random) -> None:
    writer = Writer(random)
    file = Document(writer.client(), "client", "f")
    for _ in range(random.randint(1, 4)):
        before, services = file.text, file.services()
        kind = random.choice(("set", "set", "new", "remove"))
        index = random.randrange(len(services)) if services else 0
        if kind == "new" or not services:
            new = writer.service()
            assert file.set_service(None, new) == len(services)
            services.append({key: shown_service(key, value) for key, value in new.items()})
        elif kind == "remove":
            file.remove_service(index)
            del services[index]
        else:
            values = {key: random.choice((value, value, None)) for key, value in writer.service().items()}
            values["local"] = values["local"] or "http://b:1"
            assert file.set_service(index, values) == index
            shown = {key: shown_service(key, value) for key, value in values.items()}
            services[index] = {
                key: value for key, value in (services[index] | shown).items() if value is not None
            }
        assert file.services() == services
        assert services_of(file.text) == services
        assert kind != "new" or comments(before) <= comments(file.text)


def shown_service(key: str, value: Any) -> Any:
    """A value as `services` gives it."""
    if value is None or SERVICE[key].many:
        return value
    return SERVICE[key].show(SERVICE[key].kind.parse(str(value)))


def services_of(text: str) -> list[dict[str, Any]]:
    """The services of a text, as the program reads them."""
    problems = Problems()
    contents = read_config_file(Path("f"), "client", problems, Files({"f": text.removeprefix("\ufeff")}))
    problems.check()
    return [
        {key: SERVICE[key].show(given.value) for key, given in part.given.items()}
        for part in contents.services
    ]


ORIGINAL: dict[str, tuple[str, str, Change, list[str]]] = {
    "its example of a client": (
        EXAMPLE_CLIENT,
        "client",
        lambda file: (file.set_option("id", "id1"), file.set_service(3, {"remoteTCPRandom": None})),
        ["-    remoteTCPRandom: true", "-  id: id-should-be-overwritten", "+  id: id1"],
    ),
    "its example of a server": (
        CONFIG.replace("{users}", "/users.yaml"),
        "server",
        lambda file: (
            file.set_user("id1", {"tcpRange": ["10000-20000", "443"], "tcpNumber": 2}),
            file.set_option("tcpRange", ["50000-60000"]),
            file.set_option("logFileMaxSize", "1MiB"),
        ),
        [
            *("-    tcpNumber: 0", "+      - range: 443", "+    tcpNumber: 2"),
            *("-  - range: 50000-65535", "+  - range: 50000-60000"),
            *("-  logFileMaxSize: 1234", "+  logFileMaxSize: 1MiB"),
        ],
    ),
    "a file that its console saved": (
        SAVED_BY_ITS_CONSOLE,
        "server",
        lambda file: file.set_user("id1", {"secret": "0123", "hostRegex": ["^a"]}),
        ["-        secret: secret1", '+        secret: "0123"', "+        host:", "+            regex: ^a"],
    ),
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_a_file_of_the_original_gt(name):
    text, role, change, expected = ORIGINAL[name]
    assert difference(text, changed(text, change, role)) == expected


def test_a_file_of_many_users_is_changed_without_delay():
    users = "".join(f"  id{n}:\n    secret: secret{n}\n    connections: 3\n" for n in range(5000))
    begun = time.process_time()
    file = Document(f"options:\n  addr: 80\nusers:\n{users}", "server")
    file.set_user("id4000", {"secret": "x", "speed": "1MiB"})
    file.set_user("new", {"secret": "y"})
    assert file.users()["id4000"] == {"secret": "x", "connections": 3, "speed": "1MiB"}
    assert (
        time.process_time() - begun < 10
    )  # a second or two; a minute where something looks through all for each


# what is refused


REFUSED: dict[str, tuple[str, Change, str]] = {
    "an unknown option": (
        SERVER,
        lambda file: file.set_option("adr", ":80"),
        'server.yml: a server has no option "adr", did you mean "addr"?',
    ),
    "reading an unknown option": (
        SERVER,
        lambda file: file.get_option("remote"),
        'server.yml: a server has no option "remote"',
    ),
    "an unknown key of a user": (
        SERVER,
        lambda file: file.set_user("id1", {"sped": 1}),
        'server.yml: a user has no "sped", did you mean "speed"?',
    ),
    "a secret and a verifier": (
        SERVER,
        lambda file: file.set_user("id1", {"secret": "a", "verifier": VERIFIER}),
        "a user has a secret or a verifier, give one of the two",
    ),
    "a user who is not there": (
        SERVER,
        lambda file: file.remove_user("nobody"),
        'server.yml: there is no user "nobody"',
    ),
    "an id that is taken": (
        SERVER,
        lambda file: file.rename_user("id1", "id2"),
        'server.yml: there is a user "id2" already, choose another id',
    ),
    "a user who stands elsewhere": (
        SERVER,
        lambda file: file.set_user("far", {"secret": "a"}),
        'user "far" stands in the users file: change it there',
    ),
    "to rename to a user who stands elsewhere": (
        SERVER,
        lambda file: file.rename_user("id1", "far"),
        'user "far" stands in the users file: change it there',
    ),
    "users that are a list": (
        "options:\n  addr: 80\nusers:\n- a\n",
        lambda file: file.users(),
        "server.yml:4: users: found a list, allowed: a mapping",
    ),
    "a user that is a word": (
        "users:\n  a: b\n",
        lambda file: file.set_user("a", {"secret": "c"}),
        'server.yml:2: user "a": found a single value, allowed: a mapping',
    ),
    "options that are a word": (
        "options: all\n",
        lambda file: file.set_option("addr", ":80"),
        "server.yml:1: found a single value, allowed: a mapping",
    ),
    "characters that are no text": (
        SERVER,
        lambda file: file.set_user("id1", {"secret": "a\udcff"}),
        "a value holds characters that are no text: enter it again",
    ),
}

UNREADABLE = {
    "unclosed": (
        "users: {a\n",
        "server.yml:2: is not valid YAML: while parsing a flow mapping, did not find",
    ),
    "a list": ("# a\n- b\n", "server.yml:2: the file: found a list, allowed: a mapping"),
    "a word": ("hello", "server.yml:1: the file: found a single value, allowed: a mapping"),
    "a key twice": ("options:\n  addr: 1\n  addr: 2\n", 'server.yml:3: "addr" is there twice'),
    "a key that is a list": ("options:\n  ? [a]\n  : 1\n", "server.yml:2: a key has to be a word"),
    "two documents": ("type: server\n---\na: b\n", "server.yml:2: begins a second document, one is allowed"),
    "an unknown alias": ("users: *a\n", "server.yml:1: is not valid YAML: found undefined alias"),
    "a control character": (
        "a: \0\n",
        "server.yml:1: is not a text file (control characters are not allowed)",
    ),
    "too deep": ("[" * 40, "server.yml:1: is nested more than 32 levels deep"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_change_that_is_refused_changes_nothing(name):
    before, change, expected = REFUSED[name]
    file = Document(before, "server", "server.yml", lambda file: {"far": "the users file"})
    with pytest.raises(ConfigError) as caught:
        change(file)
    assert str(caught.value) == expected
    assert file.text == before


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_not_edited(name):
    text, expected = UNREADABLE[name]
    with pytest.raises(ConfigError) as caught:
        Document(text, "server", "server.yml")
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.set_service(3, {}), "there is no service number 4"),
        (lambda file: file.remove_service(-1), "there is no service number 0"),
        (
            lambda file: file.set_service(0, {"hostprefix": "a"}),
            'has no "hostprefix", did you mean "hostPrefix"',
        ),
    ],
)
def test_a_service_that_is_refused(change, expected):
    with pytest.raises(ConfigError, match=expected):
        changed(CLIENT, change, "client")


def test_the_table_of_services_is_covered():
    values: dict[str, Any] = {
        "local": "http://a:1",
        "hostPrefix": "b",
        "localTimeout": "1s",
        "basicAuth": "x",
        "proxyProtocol": "v1",
    }
    values |= {"remoteTCPPort": 1, "remoteTCPRandom": True, "useLocalAsHTTPHost": False, "forwardedFor": True}
    values |= {"allowIPs": ["10.0.0.0/8"], "denyIPs": ["::1/128", "10.0.0.1/32"]}
    assert values.keys() == SERVICE.keys()
    text = changed(CLIENT, lambda file: file.set_service(None, values), "client")
    assert Document(text, "client").services()[3] == values
