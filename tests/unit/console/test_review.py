"""What a change means for the running GT, in the order of what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from gtapp.config.store import Saved, Store, Text
from gtapp.console import review
from gtapp.console.changes import Outcome
from gtapp.console.context import EXTENSION
from tests.unit.console.conftest import CLIENT, SERVER


@pytest.fixture
def look(make_app: Callable[..., Flask]):
    """`look(role, before, after)` in a request."""
    contexts: list[Any] = []

    def begin(role: str, before: str, after: str) -> review.Review:
        app = make_app(role=role, text=before)
        context = app.test_request_context("/settings")
        context.push()
        contexts.append(context)
        store: Store = app.extensions[EXTENSION].store
        return review.review(before, after, store.check(after))

    yield begin
    for each in reversed(contexts):
        each.pop()


def effects(found: review.Review) -> list[tuple[str, str, str, str]]:
    return [(each.name, each.applies, each.before, each.after) for each in found.effects]


def test_options_of_a_server(look):
    after = SERVER.replace("18080", "18081").replace(
        "options:", "options:\n  workers: auto\n  routePerRequest: true"
    )
    found = look("server", SERVER, after)
    assert effects(found) == [
        ("addr", "listeners", "127.0.0.1:18080", "127.0.0.1:18081"),
        ("routePerRequest", "live", "no", "yes"),
        ("workers", "restart", "1", "auto"),
    ]
    assert [[effect.name for effect in taken] for _, _, taken in found.takes] == [
        ["routePerRequest"], ["addr"], ["workers"],
    ]  # fmt: skip


def test_users_of_a_server(look):
    before = SERVER + "  bob: {secret: b}\n  cid: {secret: c}\n"
    after = (
        SERVER + "  cid: {secret: c, speed: 1MiB}\n" + "".join(f"  u{n}: {{secret: s}}\n" for n in range(7))
    )
    assert effects(look("server", before, after)) == [
        ("users removed", "live", "bob", ""),
        ("users added", "live", "", "u0, u1, u2, u3, u4 and 2 more"),
        ("users changed", "live", "", "cid"),
    ]


def test_a_limit_of_all_is_no_change_of_each_user(look):
    before = SERVER + "  bob: {secret: b, speed: 2MiB}\n"
    after = before.replace("options:", "options:\n  speed: 1MiB")
    assert effects(look("server", before, after)) == [("speed", "live", "0", "1MiB")]


def test_a_secret_is_not_told(look):
    found = look("server", SERVER, SERVER.replace("correct horse", "battery staple"))
    assert effects(found) == [("password", "live", "", "")]
    assert "battery" not in repr(found)


def test_a_client(look):
    more = CLIENT + "  - local: tcp://127.0.0.1:22\n"
    assert effects(look("client", CLIENT, more)) == [("services", "live", "1", "2")]
    without = CLIENT.replace("  secret: alices-secret\n", "")  # a random one, and still the same
    assert effects(look("client", without, without + "# more\n")) == []


def test_a_broken_file_that_is_mended(look):
    found = look("server", "options: [\n", SERVER)
    assert not found.problems
    assert not found.effects
    assert any(line.kind == "+" for line in found.lines)


def test_what_is_wrong_is_said_instead(look):
    found = look("server", SERVER, SERVER.replace("18080", "no port"))
    assert [problem.line for problem in found.problems] == [3]
    assert not found.effects


def test_no_warning_where_there_is_no_need(look):
    assert look("server", SERVER, SERVER.replace("options:", "options:\n  speed: 1MiB")).warnings == []


def test_without_a_save_nothing_is_taken_back(app):
    with app.test_request_context("/settings"):
        result = review.settle(Outcome(None, [], "refused"))
    assert result.state == "waiting"


def test_what_was_done(app):
    with app.test_request_context("/settings"):
        result = review.settle(Outcome(Saved("a", Text("b", "e")), ["one", "two"]))
    assert (result.state, result.lines, result.etag) == ("done", ["one", "two"], "e")
