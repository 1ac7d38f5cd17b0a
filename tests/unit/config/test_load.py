"""Whole configurations: precedence, users, services, what does not fit together."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from gtapp.config.load import load_client, load_server, load_users
from gtapp.config.options import ServerOptions
from gtapp.config.values import PORT_RANGE, URL, Address, PortRange
from gtapp.errors import ConfigError

SERVER = ["--addr", "80", "--id", "id1", "--secret", "s1"]
CLIENT = ["--id", "id1", "--secret", "s1", "--remote", "tcp://a:1", "--local", "http://b:2"]
BASIC_AUTH = f"me:$argon2id$v=19$m=65536,t=3,p=4${'a' * 22}${'b' * 43}"
VERIFIER = f"SCRAM-SHA-256$65536:MDEyMzQ1Njc4OWFiY2RlZg==${'A' * 43}=:{'b' * 43}="


@pytest.fixture
def yml(tmp_path: Path) -> Path:
    return tmp_path / "gt.yml"


def error_of(load, words, environ=None):
    with pytest.raises(ConfigError) as caught:
        load(words, environ or {})
    return str(caught.value)


def test_a_server_from_flags_alone():
    config = load_server(SERVER, {})
    assert config.path is None
    assert config.options == ServerOptions(addr=Address("", 80), id=("id1",), secret=("s1",))
    assert list(config.users) == ["id1"]
    user = config.users["id1"]
    assert (user.id, user.secret, user.verifier, user.connections) == ("id1", "s1", None, 10)


def test_a_client_from_flags_alone():
    config = load_client(CLIENT, {})
    assert (config.options.id, config.options.secret) == ("id1", "s1")
    assert config.options.remote == (URL("tcp", "a", 1),)
    (service,) = config.services
    assert (service.local, service.host_prefix, service.local_timeout) == (URL("http", "b", 2), "id1", 120.0)


def test_flag_over_environment_over_file_over_default(yml):
    yml.write_text("options: {addr: 1, timeout: 1s, logLevel: warn, connections: 5}\nusers: {a: {secret: s}}")
    environ = {"GT_TIMEOUT": "2s", "GT_LOG_LEVEL": "error"}
    options = load_server(["-c", str(yml), "--logLevel", "debug"], environ).options
    assert (options.log_level, options.timeout, options.connections) == ("debug", 2.0, 5)
    assert options.max_hand_shake_options == 600


def test_command_line_over_users_file_over_config_file(yml, tmp_path):
    users = tmp_path / "users.yml"
    users.write_text("id1: {secret: users, connections: 7}\nid2: {secret: users}\nid3: {secret: users}\n")
    yml.write_text(
        f"options: {{addr: 1, users: {users}, connections: 4}}\n"
        "users: {id0: {secret: file}, id1: {secret: file}, id2: {secret: file, connections: 2}}\n"
    )
    config = load_server(["-c", str(yml), "--id", "id3", "--secret", "flag"], {})
    assert {user.id: (user.secret, user.connections) for user in config.users.values()} == {
        "id0": ("file", 4),
        "id1": ("users", 7),
        "id2": ("users", 4),
        "id3": ("flag", 4),
    }


def test_users_of_a_users_file_alone(yml):
    yml.write_text(f"id1: {{secret: s, connections: 3}}\nid2: {{verifier: {VERIFIER}}}\n")
    users = load_users(yml, ServerOptions(connections=8))
    assert [(user.id, user.secret, user.verifier, user.connections) for user in users.values()] == [
        ("id1", "s", None, 3),
        ("id2", None, VERIFIER, 8),
    ]


def test_an_empty_address_switches_it_off(yml):
    yml.write_text("options: {addr: '', users: nowhere.yml}")
    assert "there is nowhere for tunnels to come in" in error_of(load_server, [*SERVER, "--addr="][2:])


def test_a_secret_is_made_when_there_is_none():
    words = CLIENT[:2] + CLIENT[4:]
    first, second = (load_client(words, {}).options.secret for _ in range(2))
    assert first != second
    assert len(first) >= 32
    assert load_client(words, {}, secret="made before").options.secret == "made before"
    assert load_client(CLIENT, {}, secret="made before").options.secret == "s1"


def test_services_of_flags_environment_and_file_are_all_published(yml):
    yml.write_text("services: [{local: http://c, hostPrefix: file}]\noptions: {id: id1, remote: a}")
    words = ["-c", str(yml), "--local", "http://a", "--hostPrefix", "FLAG"]
    config = load_client(words, {"GT_LOCAL": "http://b"})
    assert [service.host_prefix for service in config.services] == ["flag", "id1", "file"]


def test_a_user_has_its_own_limits_and_the_servers_otherwise(yml):
    yml.write_text(
        "options: {addr: 1, tcpNumber: 3, speed: 1000, connections: 4}\n"
        "tcp: [{range: 10-20}]\n"
        "host: {number: 5, regex: [^a$, ^b$], withID: true}\n"
        "users:\n"
        "  all: {secret: s}\n"
        "  own: {secret: s, tcp: [{range: 1-2}, {range: 4-4}], tcpNumber: 0, speed: 7, connections: 2,"
        " host: {number: 0, regex: [], withID: false}, allowIPs: 10.0.0.0/8, disabled: yes}\n"
        "  zero: {secret: s, tcp: [], speed: 0, connections: 0}\n"
        "  none: {secret: s, tcpRange: []}\n"
    )
    users = load_server(["-c", str(yml)], {}).users
    everybody = (PortRange(10, 20),)
    assert {
        user.id: (user.tcp_range, user.tcp_number, user.speed, user.connections) for user in users.values()
    } == {
        "all": (everybody, 3, 1000, 4),
        "own": ((PortRange(1, 2), PortRange(4, 4)), 0, 7, 2),
        "zero": (everybody, 3, 1000, 4),
        "none": ((), 3, 1000, 4),
    }
    assert {id: (user.host_number, user.host_regex, user.host_with_id) for id, user in users.items()} == {
        "all": (5, ("^a$", "^b$"), True),
        "own": (0, (), False),
        "zero": (5, ("^a$", "^b$"), True),
        "none": (5, ("^a$", "^b$"), True),
    }
    assert [(user.disabled, user.allow_ips, user.deny_ips) for user in (users["own"], users["all"])] == [
        (True, (ip_network("10.0.0.0/8"),), ()),
        (False, (), ()),
    ]


OVERLAPS = [
    ("1-9", {"a": "9-10"}, ["a: 9-10 overlaps with 1-9, ports that everybody may open"]),
    ("9-20", {"a": "1-65535"}, ["a: 1-65535 overlaps with 9-20, ports that everybody may open"]),
    ("5-5", {"a": "5-5"}, ["a: 5-5 overlaps with 5-5, ports that everybody may open"]),
    ("", {"a": "1-9", "b": "5-6"}, ['b: 5-6 overlaps with 1-9, ports of user "a"']),
    (
        "",
        {"a": "20-30", "b": "1-9", "c": "8-20"},
        ['c: 8-20 overlaps with 1-9, ports of user "b"', 'a: 20-30 overlaps with 8-20, ports of user "c"'],
    ),
    ("", {"a": "1-100,2-3", "b": "50-60"}, ['b: 50-60 overlaps with 1-100, ports of user "a"']),
    ("1-100,5-6,101-110", {"a": "111-120,112-115,111-111", "b": "121-121"}, []),
]


@pytest.mark.parametrize(("everybody", "own", "expected"), OVERLAPS)
def test_ports_of_a_user_are_nobody_elses(yml, everybody, own, expected):
    lines = [f"{id}: {{secret: s, tcpRange: [{ranges}]}}" for id, ranges in own.items()]
    yml.write_text("\n".join(lines))
    words = ["--addr", "1", "--users", str(yml)]
    words += [f"--tcpRange={ports}" for ports in everybody.split(",") if ports]
    expected = [f"{yml}:{list(own).index(text[0]) + 1}: tcpRange{text[1:]}" for text in expected]
    if not expected:
        users = load_server(words, {}).users
        assert load_users(yml, load_server(words, {}).options) == users
        return
    assert error_of(load_server, words).split("\n") == expected
    with pytest.raises(ConfigError) as caught:
        load_users(
            yml, ServerOptions(tcp_range=tuple(map(PORT_RANGE.parse, filter(None, everybody.split(",")))))
        )
    assert str(caught.value).split("\n") == expected


@pytest.mark.parametrize(
    "words", ["--authAPI http://a", "--allowAnyClient", "--users {}", "--id a --secret s --users {}"]
)
def test_a_server_whose_users_come_from_elsewhere(yml, words):
    yml.write_text("{}")
    load_server(["--tlsAddr", "443", *words.format(yml).split()], {})


NO_SERVICE = CLIENT[:-2]


def test_the_kinds_of_services():
    words = (
        "--local http://a --hostPrefix A --useLocalAsHTTPHost --forwardedFor --allowIPs ::1 --denyIPs 10.0.0.0/8"
        " --local https://b --proxyProtocol v2 --local https://c --hostPrefix a"
        " --local tcp://d:1 --local tcp://d:1 --remoteTCPPort 7 --local tcp://d:2 --remoteTCPPort 7 --remoteTCPRandom"
        " --local tcp://d:3 --remoteTCPRandom --local tcp://d:4 --remoteTCPPort 8 --remoteTCPRandom=false"
    )
    services = load_client([*NO_SERVICE, *words.split()], {}).services
    assert [(str(each.local), each.host_prefix) for each in services[:3]] == [
        ("http://a:80", "a"),
        ("https://b:443", "id1"),
        ("https://c:443", "a"),
    ]
    assert (services[0].use_local_as_http_host, services[0].forwarded_for) == (True, True)
    assert (services[0].allow_ips, services[0].deny_ips) == (
        (ip_network("::1"),),
        (ip_network("10.0.0.0/8"),),
    )
    assert [each.proxy_protocol for each in services[:3]] == ["off", "v2", "off"]
    assert [(each.host_prefix, each.remote_tcp_port, each.remote_tcp_random) for each in services[3:]] == [
        (None, 0, True),
        (None, 7, False),
        (None, 7, True),
        (None, 0, True),
        (None, 8, False),
    ]


def test_what_is_not_in_use_may_be_off_for_any_kind_of_service(yml, caplog):
    yml.write_text("""
options: {id: id1, remote: a}
services:
- {local: tcp://a:1, useLocalAsHTTPHost: false, forwardedFor: false, basicAuth: ''}
- {local: http://b, remoteTCPPort: 0, remoteTCPRandom: false}
""")
    services = load_client(["-c", str(yml)], {}).services
    assert [each.remote_tcp_random for each in services] == [True, None]
    assert not caplog.records


def test_a_client_whose_remote_comes_from_elsewhere():
    words = [*CLIENT[:4], *CLIENT[6:], "--remoteAPI", "https://a/b"]
    options = load_client(words, {}).options
    assert (options.remote, options.remote_api) == ((), "https://a/b")


INVALID = [
    (
        load_server,
        "--id a --secret s",
        {},
        "server: there is nowhere for tunnels to come in, set addr (for example --addr 8080) or tlsAddr",
    ),
    (
        load_server,
        "--sniAddr 443 --apiAddr 1 --id a --secret s",
        {},
        "server: there is nowhere for tunnels to come in, set addr (for example --addr 8080) or tlsAddr",
    ),
    (
        load_server,
        "--addr 1",
        {},
        "server: there are no users, set --id and --secret, or users in a file, or allowAnyClient to let in everybody",
    ),
    (load_server, [*SERVER, "--certFile", "a.pem"], {}, "--certFile: needs keyFile as well"),
    (load_server, [*SERVER, "--keyFile", "a.key", "--certFile="], {}, "--keyFile: needs certFile as well"),
    (load_server, SERVER, {"GT_API_CERT_FILE": "a"}, "GT_API_CERT_FILE: needs apiKeyFile as well"),
    (load_server, [*SERVER, "--apiKeyFile", "a"], {}, "--apiKeyFile: needs apiCertFile as well"),
    (load_server, [*SERVER, "--connections", "0"], {}, "--connections: is 0, no client could have a tunnel"),
    (
        load_server,
        "--addr 1 --id a --id b --secret s",
        {},
        "--id has 2 values, --secret has 1: each id needs its secret",
    ),
    (
        load_server,
        "--addr 1 --secret s",
        {"GT_ID": "a,b"},
        "GT_ID has 2 values, --secret has 1: each id needs its secret",
    ),
    (load_server, "--addr 1 --id a", {}, "--id has 1 values, secret has 0: each id needs its secret"),
    (load_server, "--addr 1 --id a --id a --secret s --secret t", {}, "--id: an id is there twice"),
    (load_server, [*SERVER, "--quicAddr", "443"], {}, "--quicAddr is not available yet"),
    (load_server, [*SERVER, "--webCertFile", "c"], {}, "--webCertFile: needs webKeyFile as well"),
    (load_client, [*CLIENT, "--webKeyFile", "k"], {}, "--webKeyFile: needs webCertFile as well"),
    (
        load_server,
        [*SERVER, "--webCertFile", "auto", "--webKeyFile", "k"],
        {},
        "--webKeyFile: goes with a file, not with webCertFile: auto",
    ),
    (load_server, [*SERVER, "--bbr"], {}, "--bbr is not available yet"),
    (load_server, SERVER, {"GT_QUIC_ADDR": "443"}, "GT_QUIC_ADDR is not available yet"),
    (load_server, [*SERVER, "--users", "/nowhere.yml"], {}, "/nowhere.yml: there is no such file"),
    (load_server, SERVER, {"GT_ADDRR": "1"}, "GT_ADDRR: there is no such option, did you mean GT_ADDR?"),
    (load_client, CLIENT[2:], {}, "client: there is no id, set it (for example --id id1)"),
    (
        load_client,
        "--id a --local http://a",
        {},
        "client: there is no remote, set it (for example --remote tcp://example.com:8080)",
    ),
    (
        load_client,
        NO_SERVICE,
        {},
        "client: there is no service, set one (for example --local http://127.0.0.1:80)",
    ),
    (load_client, [*CLIENT, "--remote", "quic://a"], {}, "--remote: quic:// is not available yet"),
    (load_client, [*CLIENT, "--remoteSTUN", "a:1"], {}, "--remoteSTUN is not available yet"),
    (
        load_client,
        [*NO_SERVICE, "--local", "tcp://a:22", "--remoteTCPRandom=false"],
        {},
        "--local tcp://a:22: would get no port, set remoteTCPPort or remoteTCPRandom",
    ),
    (
        load_client,
        NO_SERVICE,
        {"GT_LOCAL": "tcp://a:22", "GT_REMOTE_TCP_RANDOM": "off"},
        "GT_LOCAL: would get no port, set remoteTCPPort or remoteTCPRandom",
    ),
    (
        load_client,
        [*NO_SERVICE, "--local", "tcp://a:22", "--forwardedFor"],
        {},
        "--forwardedFor: is not possible for tcp://, only for http",
    ),
    (
        load_client,
        [*NO_SERVICE, "--local", "https://a", "--basicAuth", BASIC_AUTH],
        {},
        "--basicAuth: is not possible for https://, only for http",
    ),
    (
        load_client,
        CLIENT,
        {"GT_HOST_PREFIX": "p"},
        "GT_HOST_PREFIX: belongs to a service, set GT_LOCAL as well",
    ),
    (
        load_client,
        [*CLIENT, "--local", "http://c"],
        {},
        '--local http://c:80: host prefix "id1" is that of --local http://b:2, set another hostPrefix',
    ),
    (
        load_client,
        [*CLIENT, "--hostPrefix", "x", "--local", "http://c", "--hostPrefix", "X"],
        {},
        '--local http://c:80: host prefix "x" is that of --local http://b:2, set another hostPrefix',
    ),
    (
        load_client,
        [*CLIENT, "--local", "https://c", "--local", "https://d"],
        {},
        '--local https://d:443: host prefix "id1" is that of --local https://c:443, set another hostPrefix',
    ),
    (
        load_client,
        "--id my.id --remote a --local http://a",
        {},
        '--local http://a:80: the id "my.id" cannot be its host prefix,'
        " set hostPrefix to one DNS label (letters, digits, - inside; at most 63)",
    ),
]


@pytest.mark.parametrize(("load", "words", "environ", "expected"), INVALID)
def test_what_does_not_fit_together_is_an_error(load, words, environ, expected):
    assert error_of(load, words.split() if isinstance(words, str) else words, environ) == expected


def test_an_id_that_is_no_host_prefix_will_do_when_every_service_has_one():
    config = load_client(["--id", "my.id", "--remote", "a", "--local", "http://a", "--hostPrefix", "b"], {})
    assert config.services[0].host_prefix == "b"


def test_a_file_that_asks_for_what_is_not_available(yml):
    yml.write_text("""
version: 1.0
options:
  addr: 80
  quicAddr: 443
  bbr: false
  timeout: 90s
  stunAddr: 3478
users: {id1: {secret: secret1}}
""")
    assert error_of(load_server, ["-c", str(yml)]).split("\n") == [
        f"{yml}:5: quicAddr is not available yet",
        f"{yml}:8: stunAddr is not available yet",
    ]


def test_lists_that_must_not_be_empty(yml):
    yml.write_text("options: {addr: 1, protocols: []}\nusers: {a: {secret: s}}")
    assert (
        error_of(load_server, ["-c", str(yml)])
        == f"{yml}:1: protocols: is empty, no tunnel could be accepted"
    )
    yml.write_text("options: {id: a, remote: []}\nservices: [{local: http://a}]")
    assert error_of(load_client, ["-c", str(yml)]).startswith(f"{yml}: there is no remote, set it")


def test_a_user_with_both_secret_and_verifier(yml):
    yml.write_text(f"options: {{addr: 1}}\nusers:\n  id1: {{secret: s, verifier: {VERIFIER}}}\n")
    error = error_of(load_server, ["-c", str(yml)])
    assert error == f'{yml}:3: user "id1": has a secret and a verifier, one of the two is needed'


def test_services_of_a_file_name_their_lines(yml):
    yml.write_text("options: {id: a, remote: b}\nservices:\n- local: http://c\n- local: http://d\n")
    assert error_of(load_client, ["-c", str(yml)]) == (
        f'{yml}:4: services: host prefix "a" is that of {yml}:3: services, set another hostPrefix'
    )


def test_errors_show_no_secrets(yml):
    yml.write_text(
        "options: {addr: x, id: [a], secret: [s3cret]}\n"
        "users: {a: s3cret, b: {secret: [s3cret]}, c: {verifier: s3cret}, d: {secret: {s3cret: 1}}}\n"
    )
    assert "s3cret" not in error_of(load_server, ["-c", str(yml), "--secret", "s3cret" * 50])
