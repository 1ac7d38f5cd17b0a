"""All sources of options: that each option is the same from any, and what they do with any content at all."""

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
from gtapp.errors import ConfigError

BASIC_AUTH = f"me:$argon2id$v=19$m=65536,t=3,p=4${'a' * 22}${'b' * 43}"
VERIFIER = f"SCRAM-SHA-256$65536:MDEyMzQ1Njc4OWFiY2RlZg==${'A' * 43}=:{'b' * 43}="


@pytest.fixture
def yml(tmp_path: Path) -> Path:
    return tmp_path / "gt.yml"


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
    "DOMAIN": ["example.com", "Home.Example.com.", "localhost"],
    "LABEL": ["blog", "Blog-1", "1"],
    "REGEX": ["^[0-9]+$", "a|b", "#x: 'y'"],
    "NAME": ["Host", "X-GT-Host"],
    "URL": [
        "tcp://a:1",
        "http://[::1]:8080",
        "https://a",
        "quic://example.com",
        "tls://a",
        "http://a/b?c=d&e",
    ],
    "USER:HASH": [BASIC_AUTH, BASIC_AUTH.replace("me", "é #")],
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
