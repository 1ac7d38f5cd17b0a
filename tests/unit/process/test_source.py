"""A configuration as the master hands it to workers, and what is different between two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.errors import ConfigError
from gtapp.observe import logs
from gtapp.process.source import Source, difference, gt_variables

SERVER = """
users:
  id1: {secret: secret-one}
  id2: {secret: secret-two}
options: {addr: 8080}
"""
CLIENT = ("--id", "id1", "--remote", "a", "--local", "http://b")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.yml"
    path.write_text(SERVER)
    return path


def handed_over(source: Source) -> Source:
    """As a worker gets it."""
    return Source.from_dict(json.loads(json.dumps(source.to_dict())))


def test_a_worker_loads_what_the_master_has_read(file: Path) -> None:
    source, config = Source("server", ("-c", str(file)), {}).load()
    file.write_text("{ nobody knows what this will be")
    again = handed_over(source).load()[1]
    assert again == config
    assert isinstance(again, ServerConfig)
    with pytest.raises(ConfigError, match="is not valid YAML"):
        source.again().load()


def test_a_users_file_belongs_to_it(file: Path, tmp_path: Path) -> None:
    users = tmp_path / "users.yml"
    users.write_text("id3: {secret: secret-three}")
    file.write_text(SERVER.replace("8080", f"8080, users: {users}"))
    source, config = Source("server", ("-c", str(file)), {}).load()
    users.unlink()
    assert handed_over(source).load()[1] == config
    assert isinstance(config, ServerConfig)
    assert set(config.users) == {"id1", "id2", "id3"}


def test_a_client_without_a_secret_keeps_the_one_made_for_it() -> None:
    source, config = Source("client", CLIENT, {}).load()
    assert isinstance(config, ClientConfig)
    assert len(config.options.secret) >= 32
    assert handed_over(source).load()[1] == config
    assert source.again().load()[1] == config


def test_the_environment_belongs_to_it() -> None:
    environ = gt_variables({"PATH": "/bin", "GT_ADDR": "1", "GT_ID": "a", "GT_SECRET": "hush-hush-hush"})
    assert set(environ) == {"GT_ADDR", "GT_ID", "GT_SECRET"}
    config = handed_over(Source("server", (), environ)).load()[1]
    assert isinstance(config, ServerConfig)
    assert list(config.users) == ["a"]
    assert logs.redact("it is hush-hush-hush") == "it is ***"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("addr: 8080", "addr: 8080", ((), (), ())),
        ("addr: 8080", "addr: 8081", ((), ("addr",), ())),
        ("addr: 8080", "addr: 8080, sniAddr: 443, timeout: 5s", (("timeout",), ("sniAddr",), ())),
        ("addr: 8080", "addr: 8080, workers: 2, logFile: x", ((), (), ("logFile", "workers"))),
        ("secret-two", "secret-2two", (("users (1 changed)",), (), ())),
        ("id2: {", "id3: {", (("users (1 added, 1 removed)",), (), ())),
    ],
)
def test_what_is_different(
    file: Path, before: str, after: str, expected: tuple[tuple[str, ...], ...]
) -> None:
    source, old = Source("server", ("-c", str(file)), {}).load()
    file.write_text(SERVER.replace(before, after))
    new = source.again().load()[1]
    found = difference("server", old, new)
    assert (tuple(found.live), tuple(found.listeners), tuple(found.restart)) == expected
    assert bool(found) == any(expected)


def test_what_is_different_for_a_client() -> None:
    old = Source("client", (*CLIENT, "--secret", "s"), {}).load()[1]
    new = Source("client", (*CLIENT, "--local", "http://c", "--hostPrefix", "c", "--secret", "t"), {}).load()[
        1
    ]
    found = difference("client", old, new)
    assert found.live == ["services (1 before, 2 now)"]
    assert found.restart == ["secret"]
