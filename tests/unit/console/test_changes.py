"""Changes: what is saved, that the running GT takes it over, who did it, and that none of many is lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import gevent
import pytest
import yaml
from flask import Flask
from gevent.event import Event

from gtapp.config.store import Conflict, Store
from gtapp.console import changes
from gtapp.console.context import EXTENSION, Console
from gtapp.errors import ConfigError, GTError
from tests.unit.console.conftest import CLIENT, SERVER, Relay

DEADLINE_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.yml"


@pytest.fixture
def server(make_app: Callable[..., Flask], path: Path, relay: Relay) -> Iterator[Console]:
    """The console of a server, in the middle of a request."""
    relay.answers["reload"] = _reloaded
    app = make_app(store=Store(path, "server", path.with_suffix(".state")))
    with app.test_request_context("/"):
        found: Console = app.extensions[EXTENSION]
        yield found


@pytest.fixture
def client(make_app: Callable[..., Flask], tmp_path: Path, relay: Relay) -> Iterator[Path]:
    """The file of a client, whose console is in the middle of a request."""
    relay.answers["reload"] = _reloaded
    file = tmp_path / "client.yml"
    app = make_app("client", CLIENT, store=Store(file, "client", file.with_suffix(".state")))
    with app.test_request_context("/"):
        yield file


def _reloaded(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    tell("server.yml: users (1 added): live")
    return {"text": "reloaded"}


def users_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["users"]
    return found


def test_a_change_is_saved_taken_over_and_noted(server, path, relay):
    outcome = changes.save_user("bob", {"speed": "1MiB"}, None, new=True)
    assert users_in(path)["bob"] == {"secret": outcome.secret, "speed": "1MiB"}
    assert outcome.saved is not None
    assert outcome.saved.before == SERVER
    assert outcome.saved.after.text == path.read_text()
    assert (outcome.lines, outcome.problem) == (["server.yml: users (1 added): live"], "")
    assert [(each["command"], each["config"]) for each in relay.asked] == [("reload", str(path))]
    noted = server.db.audit(1)[0]
    assert (noted["what"], noted["detail"]) == ("user bob added", "secret, speed")
    assert server.store.versions()[0].what == "user bob added"


def test_a_secret_is_made_only_where_none_is_given(server, path):
    assert changes.save_user("bob", {"secret": "b"}, None, new=True).secret == ""
    verifier = f"SCRAM-SHA-256$65536:MDEyMzQ1Njc4OWFiY2RlZg==${'A' * 43}=:{'b' * 43}="
    assert changes.save_user("carol", {"verifier": verifier}, None, new=True).secret == ""
    assert users_in(path)["carol"] == {"verifier": verifier}
    secrets = {changes.save_user(f"user{n}", {}, None, new=True).secret for n in range(5)}
    assert len(secrets) == 5
    assert all(re.fullmatch(r"[\w-]{43}", each) for each in secrets)


def test_what_cannot_be_is_refused_and_nothing_happens(server, path, relay):
    for change, words in (
        (lambda: changes.save_user("alice", {}, None, new=True), "already"),
        (lambda: changes.save_user("bob", {"speed": 1}, None), 'no user "bob"'),
        (lambda: changes.save_user("alice", {"colour": "red"}, None), "colour"),
        (lambda: changes.save_user("alice", {"speed": "fast"}, None), 'found "fast"'),
        (lambda: changes.rotate_secret("bob", None), 'no user "bob"'),
        (lambda: changes.remove_user("bob", None), 'no user "bob"'),
        (lambda: changes.save_options({"colour": "red"}, None), "colour"),
        (lambda: changes.save_options({"addr": "nowhere"}, None), "nowhere"),
        (lambda: changes.save_text(SERVER.replace("127.0.0.1:18080", "x", 1), None), "allowed"),
        (lambda: changes.restore_version("none"), "none"),
    ):
        with pytest.raises(ConfigError, match=words):
            change()
    assert path.read_text() == SERVER
    assert relay.asked == []
    assert server.db.audit(10) == []


def test_a_change_of_what_has_changed_is_a_conflict(server, path, relay):
    etag = server.store.read().etag
    path.write_text(SERVER + "# by hand\n")
    for change in (
        lambda: changes.save_user("alice", {"speed": 1}, etag),
        lambda: changes.remove_user("alice", etag),
        lambda: changes.rotate_secret("alice", etag),
        lambda: changes.save_options({"domain": "example.com"}, etag),
        lambda: changes.save_text(SERVER, etag),
    ):
        with pytest.raises(Conflict) as caught:
            change()
        assert caught.value.current.text == SERVER + "# by hand\n"
    assert relay.asked == []


def test_users_are_changed_rotated_and_removed(server, path):
    changes.save_user("bob", {"speed": 1000}, None, new=True)
    changes.save_user("bob", {"speed": None, "disabled": True}, None)
    before = users_in(path)["bob"]["secret"]
    outcome = changes.rotate_secret("bob", server.store.read().etag)
    assert users_in(path)["bob"] == {"secret": outcome.secret, "disabled": True}
    assert outcome.secret != before
    changes.remove_user("bob", None)
    assert users_in(path).keys() == {"alice"}


def test_options_text_and_versions(server, path):
    changes.save_options({"domain": "example.com", "speed": "1MiB"}, None)
    assert yaml.safe_load(path.read_text())["options"]["domain"] == "example.com"
    changes.save_options({"speed": None}, None)
    assert "speed" not in path.read_text()
    outcome = changes.save_text(SERVER + "# edited\n", server.store.read().etag)
    assert outcome.saved is not None
    assert "domain: example.com" in outcome.saved.before
    assert outcome.lines
    oldest = server.store.versions()[-1]
    changes.restore_version(oldest.id)
    assert path.read_text() == SERVER
    assert [each["what"] for each in server.db.audit(10)][:2] == ["version restored", "file edited"]


def test_services_are_added_changed_and_removed(client):
    changes.save_service(None, {"local": "tcp://127.0.0.1:22", "remoteTCPPort": 2222}, None)
    changes.save_service(1, {"remoteTCPPort": None, "remoteTCPRandom": True}, None)
    services = yaml.safe_load(client.read_text())["services"]
    assert services[1] == {"local": "tcp://127.0.0.1:22", "remoteTCPRandom": True}
    changes.remove_service(0, None)
    assert yaml.safe_load(client.read_text())["services"] == services[1:]
    for change in (lambda: changes.save_service(1, {}, None), lambda: changes.remove_service(-1, None)):
        with pytest.raises(ConfigError, match="There is no service"):
            change()


def test_what_the_running_gt_says_against_it_is_in_the_outcome(server, path, relay):
    def refuse(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        tell("a line before")
        raise GTError("not reloaded: no")

    relay.answers["reload"] = refuse
    outcome = changes.save_user("bob", {}, None, new=True)
    assert (outcome.lines, outcome.problem) == (["a line before"], "not reloaded: no")
    assert "bob" in users_in(path)


def test_without_a_file_nothing_can_be_saved(make_app):
    app = make_app(store=None)
    with app.test_request_context("/"), pytest.raises(GTError, match="-c FILE"):
        changes.save_user("bob", {}, None, new=True)


def test_a_hundred_changes_at_once_are_all_saved_and_taken_over(server, path, relay):
    seen: list[set[str]] = []

    def reload(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        seen.append(set(users_in(path)))
        gevent.sleep(0.01)
        return {}

    relay.answers["reload"] = reload
    app = flask.globals.app_ctx.app

    def add(number: int) -> bool:
        with app.test_request_context("/"):
            changes.save_user(f"user{number}", {}, None, new=True)
            return any(f"user{number}" in each for each in seen)

    added = [gevent.spawn(add, number) for number in range(100)]
    gevent.joinall(added, timeout=DEADLINE_S, raise_error=True)
    assert [each.value for each in added] == [True] * 100
    assert users_in(path).keys() == {"alice", *(f"user{number}" for number in range(100))}
    assert len(seen) < 100  # they share reloads


def test_a_change_during_a_reload_waits_for_the_next_one(server, path, relay):
    began, go_on = Event(), Event()
    seen: list[set[str]] = []

    def reload(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        seen.append(set(users_in(path)))
        tell(f"reload {len(seen)}")
        began.set()
        assert go_on.wait(DEADLINE_S)
        return {}

    relay.answers["reload"] = reload
    app = flask.globals.app_ctx.app

    def add(name: str) -> list[str]:
        with app.test_request_context("/"):
            return changes.save_user(name, {}, None, new=True).lines

    first = gevent.spawn(add, "first")
    assert began.wait(DEADLINE_S)
    others = [gevent.spawn(add, name) for name in ("second", "third")]
    while len(users_in(path)) < 4:
        gevent.sleep(0)
    assert not any(each.ready() for each in others)
    go_on.set()
    gevent.joinall([first, *others], timeout=DEADLINE_S, raise_error=True)
    assert (first.value, [each.value for each in others]) == (["reload 1"], [["reload 2"]] * 2)
    assert seen[1] >= {"first", "second", "third"}
