"""Whole configurations: precedence, users, services, what does not fit together, and files of any content."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gtapp.config.config_file import read_config_file, role_of
from gtapp.config.environ import read_environ
from gtapp.config.flags import read_flags
from gtapp.config.load import load_client, load_server, load_users
from gtapp.config.options import OPTIONS, SERVICE, USER, ServerOptions
from gtapp.config.problems import Problems
from gtapp.config.schema import Option
from gtapp.config.values import URL, Address
from gtapp.errors import ConfigError

SERVER = ["--addr", "80", "--id", "id1", "--secret", "s1"]
CLIENT = ["--id", "id1", "--secret", "s1", "--remote", "tcp://a:1", "--local", "http://b:2"]
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
    assert "there is nothing to listen on" in error_of(load_server, [*SERVER, "--addr="][2:])


def test_a_secret_is_made_when_there_is_none():
    words = CLIENT[:2] + CLIENT[4:]
    first, second = (load_client(words, {}).options.secret for _ in range(2))
    assert first != second
    assert len(first) >= 32


def test_services_of_flags_environment_and_file_are_all_published(yml):
    yml.write_text("services: [{local: http://c, hostPrefix: file}]\noptions: {id: id1, remote: a}")
    words = ["-c", str(yml), "--local", "http://a", "--hostPrefix", "FLAG"]
    config = load_client(words, {"GT_LOCAL": "http://b"})
    assert [service.host_prefix for service in config.services] == ["flag", "id1", "file"]


NO_SERVICE = CLIENT[:-2]
INVALID = [
    (
        load_server,
        "--id a --secret s",
        {},
        "server: there is nothing to listen on, set addr (for example --addr 8080)",
    ),
    (load_server, "--addr 1", {}, "server: there are no users, set --id and --secret, or users in a file"),
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
    (load_server, [*SERVER, "--tlsAddr", "443"], {}, "--tlsAddr is not available yet"),
    (load_server, [*SERVER, "--bbr"], {}, "--bbr is not available yet"),
    (load_server, SERVER, {"GT_WORKERS": "auto"}, "GT_WORKERS is not available yet"),
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
    (load_client, [*CLIENT, "--remote", "tls://a"], {}, "--remote: tls:// is not available yet"),
    (load_client, [*CLIENT, "--remote", "quic://a"], {}, "--remote: quic:// is not available yet"),
    (load_client, [*NO_SERVICE, "--local", "https://a"], {}, "--local: https:// is not available yet"),
    (load_client, [*NO_SERVICE, "--local", "tcp://a:22"], {}, "--local: tcp:// is not available yet"),
    (load_client, NO_SERVICE, {"GT_LOCAL": "https://a"}, "GT_LOCAL: https:// is not available yet"),
    (load_client, [*CLIENT, "--remoteTCPPort", "22"], {}, "--remoteTCPPort is not available yet"),
    (
        load_client,
        CLIENT,
        {"GT_HOST_PREFIX": "p"},
        "GT_HOST_PREFIX: belongs to a service, set GT_LOCAL as well",
    ),
    (
        load_client,
        [*CLIENT, "--remoteConnections", "2", "--remoteIdleConnections", "3"],
        {},
        "client: remoteIdleConnections has to be at most remoteConnections",
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
  sniAddr: 443
  logLevel: info
  timeout: 90s
  stunAddr: 3478
  speed: 0
users:
  id1:
    secret: secret1
    tcp:
      - range: 10000-15000
""")
    assert error_of(load_server, ["-c", str(yml)]).split("\n") == [
        f"{yml}:5: sniAddr is not available yet",
        f"{yml}:8: stunAddr is not available yet",
        f"{yml}:13: tcp is not available yet",
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


SAMPLES = {  # texts by what --help calls them; those that the option's own range refuses are left out
    "": ["true", "false"],
    "TEXT": ["a", "é b", "'\"#: {", "-x", "0123", "yes", "null", "~", VERIFIER],
    "FILE": ["/etc/gt.pem", "auto", "a b.yml"],
    "NUMBER": ["0", "1", "7", "50", "600", "8080", "0.25", "1.0", "auto"],
    "DURATION": ["100ms", "30s", "5m", "1m500ms", "1.5h", "720h"],
    "BYTES": ["1", "1000", "512MiB", "3KiB"],
    "BYTES/S": ["1", "1000", "512MiB", "3KiB"],
    "ADDRESS": ["80", ":80", "0.0.0.0:80", "[::1]:80", "localhost:0"],
    "PORTS": ["22", "1024-65535"],
    "NETWORK": ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"],
    "LABEL": ["blog", "Blog-1", "1"],
    "REGEX": ["^[0-9]+$", "a|b", "#x: 'y'"],
    "NAME": ["Host", "X-GT-Host"],
    "URL": ["tcp://a:1", "http://[::1]:8080", "https://a", "quic://example.com", "tls://a"],
}
ENTRIES = [
    pytest.param(role, entry, id=f"{role}-{entry.key}")
    for role, table in (*OPTIONS.items(), ("service", SERVICE), ("user", USER))
    for entry in table.values()
]


def samples_of(entry: Option) -> dict[str, object]:
    found = {}
    for text in SAMPLES.get(entry.kind.metavar, entry.kind.metavar.split("|")) + entry.kind.allowed.split(
        ", "
    ):
        try:
            found[text] = entry.kind.parse(text)
        except ValueError:
            continue
    return found


def read_all(path: Path, role: str, entry: Option, texts: list[str], shown: object) -> list[object]:
    """What the option is when it is given by a file, by flags and by the environment."""
    problems = Problems()
    local = {} if entry.key == "local" or role != "service" else {"local": "http://a"}
    document = {
        "service": {"services": [local | {entry.key: shown}]},
        "user": {"users": {"id1": {"secret": "s"} | {entry.key: shown}}},
    }.get(role, {"options": {entry.key: shown}})
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    contents = read_config_file(path, {"service": "client", "user": "server"}.get(role, role), problems)
    words = [f"{entry.flag}={text}" for text in texts]
    if role == "user":
        found = [contents.users["id1"].given]
    elif role == "service":
        flags = read_flags([f"--local={each}" for each in local.values()] + words, {}, SERVICE, problems)
        found = [contents.services[0].given, flags.services[0]]
    else:
        found = [contents.options, read_flags(words, OPTIONS[role], {}, problems).options]
    if role != "user" and not any("," in text for text in texts):
        found.append(read_environ({entry.env: ",".join(texts)}, {entry.key: entry}, problems))
    problems.check()
    return [values[entry.key].value for values in found]


@pytest.mark.parametrize(("role", "entry"), ENTRIES)
def test_every_option_is_the_same_by_file_flag_and_variable(yml, role, entry):
    samples = samples_of(entry)
    assert len(samples) > 1 or entry.key == "verifier"
    for text, value in samples.items():
        expected = (value,) if entry.many else value
        assert set(read_all(yml, role, entry, [text], text)) == {expected}
        assert set(read_all(yml, role, entry, [text], entry.show(expected))) == {expected}
    if entry.many:
        assert set(read_all(yml, role, entry, list(samples), list(samples))) == {tuple(samples.values())}


KEYS = sorted({key for table in (*OPTIONS.values(), SERVICE, USER) for key in table})
WORDS = [
    *KEYS,
    "type",
    "version",
    "users",
    "services",
    "options",
    "tcp",
    "host",
    "range",
    "number",
    "<<",
    "id1",
]
TEXTS = sorted({text for texts in SAMPLES.values() for text in texts} | {"server", "client", ""})
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(TEXTS) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=30,
)
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load_anyhow(path: Path, data: bytes) -> None:
    """Load `data` in every role. ConfigError is the one error there may be; it is short and has no line too many."""
    path.write_bytes(data)
    words = ["-c", str(path)]
    for load in (
        lambda: load_server(words, {}),
        lambda: load_client(words, {}),
        lambda: load_users(path, ServerOptions()),
        lambda: role_of(path),
    ):
        try:
            load()
        except ConfigError as error:
            lines = str(error).split("\n")
            assert len(lines) <= 21
            assert all(line.isprintable() for line in lines)


@FUZZ
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_configuration_or_a_config_error(yml, data):
    load_anyhow(yml, data)


@FUZZ
@given(data=st.text("aiou1{}[]:,-&*<>|?!#%@'\"\\ \n\t", max_size=60))
def test_any_yaml_punctuation_is_a_configuration_or_a_config_error(yml, data):
    load_anyhow(yml, data.encode())


@FUZZ
@given(
    top=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("type", "version", "options", "users", "services", "tcp", "host"), TREES)
    )
)
def test_any_tree_of_known_keys_is_a_configuration_or_a_config_error(yml, top):
    load_anyhow(yml, yaml.safe_dump(top, allow_unicode=True).encode())


@FUZZ
@given(
    words=st.lists(st.sampled_from([f"--{key}" for key in KEYS] + TEXTS) | st.text(max_size=6), max_size=8)
)
def test_any_command_line_is_a_configuration_or_a_config_error(words):
    for load in (load_server, load_client):
        try:
            load([word for word in words if word not in ("-c", "--c", "--users")], {})
        except ConfigError:
            pass
