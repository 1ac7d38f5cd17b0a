"""The editor: problems by line, the review before the save, and three ways out of a conflict."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from gtapp.config.load import load_client
from gtapp.console import yaml_editor
from gtapp.errors import GTError
from tests.unit.console.conftest import CLIENT, SERVER, Auth, Relay
from tests.unit.console.form_browser import Browser

MakeApp = Callable[..., Flask]


@pytest.fixture
def browse(make_app: MakeApp, relay: Relay) -> Callable[..., Browser]:
    def begin(role: str = "server", language: str = "en", **more: Any) -> Browser:
        return Browser(make_app(role=role, **more), language)

    return begin


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.yml"


def typed(browser: Browser) -> str:
    return browser.form("/yaml").fields["text"]


def sent_by_a_browser(text: str) -> str:
    """A form's text as browsers send it."""
    return text.replace("\n", "\r\n")


@pytest.mark.parametrize("role", ["server", "client"])
def test_the_file_is_there_as_it_is_and_nobody_keeps_the_page(browse, role):
    browser = browse(role)
    page = browser.get("/yaml")
    assert typed(browser) == (SERVER if role == "server" else CLIENT)
    assert "with its secrets" in page
    assert browser.page.headers["Cache-Control"] == "no-store"
    assert "Nothing is wrong with it" in page
    assert re.findall(r"<span>(\d+)</span>", page) == [
        str(n + 1) for n in range(typed(browser).count("\n") + 1)
    ]


def test_what_is_typed_is_reviewed_and_saved(browse, relay, path):
    relay.answers["reload"] = lambda request, tell: tell("taken over") or {}
    browser = browse()
    browser.get("/yaml")
    text = SERVER.replace("options:", "options:\n  speed: 1MiB   # enough") + "# Ende: 中文\n"
    page = browser.send("/yaml", {"text": sent_by_a_browser(text)})
    assert "<ins>+   speed: 1MiB   # enough\n</ins>" in page
    assert "<ins>+ # Ende: 中文\n</ins>" in page
    assert "<dt>speed</dt>" in page
    assert path.read_text() == SERVER
    page = browser.send("/apply")
    assert "taken over" in page
    assert path.read_text() == text


def test_going_back_from_the_review_keeps_what_was_typed(browse, path):
    browser = browse()
    browser.get("/yaml")
    text = SERVER + "# a\n\n\n#   b\n"
    browser.send("/yaml", {"text": sent_by_a_browser(text)})
    browser.send("/edit")
    assert typed(browser) == text
    assert path.read_text() == SERVER


def test_only_comments_change_nothing_for_the_running_gt(browse):
    browser = browse()
    browser.get("/yaml")
    assert "Nothing is different for the running GT" in browser.send("/yaml", {"text": SERVER + "# more\n"})


def test_nothing_changed(browse):
    browser = browse()
    browser.get("/yaml")
    assert "Nothing has been changed." in browser.send("/yaml", {"text": sent_by_a_browser(SERVER)})


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (SERVER.replace("  addr:", "  adr:"), [(3, "unknown key")]),
        (SERVER.replace("  addr: 127.0.0.1:18080\n", ""), [(None, "nowhere for tunnels")]),
        (
            SERVER.replace("127.0.0.1:18080", "somewhere") + "users: 1\n",
            [(3, "addr: found"), (10, "there twice")],
        ),
        (SERVER + "  bob: {}\n", [(10, "has no secret")]),
        ("options: [\n", [(2, "is not valid YAML")]),
        ("", [(None, "is empty")]),
        ("a: 1\n---\nb: 2\n", [(2, "second document")]),
        (SERVER + "more: \x07\n", [(10, "is not a text file")]),
    ],
)
def test_problems_are_told_by_line(browse, path, text, problems):
    browser = browse()
    browser.get("/yaml")
    token = browser.form("/yaml").fields["csrf_token"]
    answer = browser.client.post("/yaml/check", data={"text": text, "csrf_token": token})
    assert answer.status_code == 200
    page = browser.send("/yaml", {"text": text}, expect=422)
    found = "".join(re.findall(r"<li>.*?</li>", answer.text))
    for line, message in problems:
        assert message in found
        if line:
            assert f'data-line="{line}">Line {line}</a>' in answer.text
            assert f'data-line="{line}">Line {line}</a>' in page
            assert f'<span class="wrong">{line}</span>' in page
    assert typed(browser) == text
    assert path.read_text() == SERVER


def test_problems_in_chinese(browse):
    browser = browse(language="zh")
    browser.get("/yaml")
    page = browser.send("/yaml", {"text": SERVER.replace("addr:", "adr:", 1)}, expect=422)
    assert ">第 3 行</a>" in page


def test_the_ends_of_lines_of_the_file_stay(browse, path):
    browser = browse()
    path.write_bytes(SERVER.replace("\n", "\r\n").encode())
    browser.get("/yaml")
    browser.send("/yaml", {"text": sent_by_a_browser(SERVER + "# more\n")})
    browser.send("/apply")
    assert path.read_bytes() == (SERVER + "# more\n").replace("\n", "\r\n").encode()


def test_what_gt_refuses_is_taken_back_and_can_be_edited_further(browse, relay, path):
    relay.answers["reload"] = GTError("not reloaded: the port is in use")
    browser = browse()
    browser.get("/yaml")
    browser.send("/yaml", {"text": SERVER + "# mine\n"})
    page = browser.send("/apply")
    assert "the port is in use" in page
    assert path.read_text() == SERVER
    browser.send("/edit")
    assert typed(browser) == SERVER + "# mine\n"


# somebody else has saved


def test_changes_of_different_lines_are_both_kept(browse, path):
    browser = browse()
    browser.get("/yaml")
    path.write_text(SERVER + "# theirs\n")
    page = browser.send("/yaml", {"text": "# mine\n" + SERVER}, expect=409)
    assert page.count("changed by you") == 1
    assert page.count("changed in the file") == 1
    assert "Keep both" in page
    browser.send("/review")
    assert path.read_text() == SERVER + "# theirs\n"
    browser.send("/apply")
    assert path.read_text() == "# mine\n" + SERVER + "# theirs\n"


@pytest.fixture
def torn(browse, path) -> Browser:
    """At the page of a conflict about one line."""
    browser: Browser = browse()
    browser.get("/yaml")
    path.write_text(SERVER.replace("18080", "18082"))
    page = browser.send("/yaml", {"text": SERVER.replace("18080", "18081")}, expect=409)
    assert "changed by both" in page
    assert "Keep both" not in page
    for port in ("18080", "18081", "18082"):
        assert f"addr: 127.0.0.1:{port}" in page
    return browser


def test_mine_over_theirs(torn, path):
    torn.send("/review")
    torn.send("/apply")
    assert path.read_text() == SERVER.replace("18080", "18081")
    torn.get("/history")
    assert "edited by hand" in torn.text  # theirs is not lost


def test_both_in_the_editor(torn, path):
    torn.send("/edit")
    text = SERVER.replace(
        "addr: 127.0.0.1:18080", "addr: 127.0.0.1:18081\n# in the file: addr: 127.0.0.1:18082"
    )
    assert typed(torn) == text
    torn.send("/yaml")
    torn.send("/apply")
    assert path.read_text() == text


def test_theirs(torn):
    assert '<a class="button secondary" href="/yaml">' in torn.text
    torn.get("/yaml")
    assert typed(torn) == SERVER.replace("18080", "18082")


def test_a_conflict_after_the_review(browse, path):
    browser = browse()
    browser.get("/yaml")
    browser.send("/yaml", {"text": "# mine\n" + SERVER})
    path.write_text(SERVER + "# theirs\n")
    browser.send("/apply", expect=409)
    browser.send("/review")
    browser.send("/apply")
    assert path.read_text() == "# mine\n" + SERVER + "# theirs\n"


def test_who_has_saved_meanwhile_is_named(browse, path):
    browser = browse()
    browser.get("/yaml")
    other = Browser(browser.app)
    other.get("/settings/limits")
    other.send("/settings/limits", {"speed": "1MiB"})
    other.send("/apply")
    page = browser.send("/yaml", {"text": SERVER + "# mine\n"}, expect=409)
    assert "admin has saved it after you opened it (options: speed)" in page


# bounds, and who may


def test_a_large_file_is_not_edited_here(browse, path, monkeypatch):
    monkeypatch.setattr(yaml_editor, "MAX_EDIT_BYTES", 1000)
    browser = browse()
    browser.get("/yaml")
    page = browser.send("/yaml", {"text": SERVER + "#" * 1000 + "\n"}, expect=422)
    assert "longer than 1000 bytes" in page
    path.write_text(SERVER + "#" * 1000 + "\n")
    page = browser.get("/yaml")
    assert "too large" in page
    assert "textarea" not in page


def test_a_file_as_large_as_allowed_goes_through(browse, path):
    text = SERVER + "".join(f"# {number:0>90}\n" for number in range(10_000)) + "  bob: {secret: b}\n"
    assert 900_000 < len(text) < yaml_editor.MAX_EDIT_BYTES
    browser = browse()
    path.write_text(text)
    browser.get("/yaml")
    assert typed(browser) == text
    browser.send("/yaml", {"text": sent_by_a_browser(text.replace("bob:", "robert:"))})
    browser.send("/apply")
    assert path.read_text() == text.replace("bob:", "robert:")


def test_without_a_file_there_is_one_to_copy(browse):
    words = ("--addr", "18080", "--id", "ann", "--secret", "flag-secret", "--password", "correct horse")
    browser = browse(store=None, words=words)
    page = browser.get("/yaml")
    assert "type: server" in page
    assert "addr: :18080" in page
    assert "ann:" in page
    assert "gt.py -c server.yml" in page
    assert "flag-secret" not in page
    assert "correct horse" not in page


def test_the_file_to_copy_does_what_the_flags_do(browse, tmp_path):
    flags = "--id ann --secret xyz --remote tcp://127.0.0.1:18080 --reconnectDelay 7s"
    services = ("--local", "http://127.0.0.1:80", "--forwardedFor", "--local", "tcp://127.0.0.1:22")
    words = (*flags.split(), "--password", "correct horse", *services)
    browser = browse("client", store=None, words=words)
    text = re.search(r"<code>(type: client.*?)</code>", browser.get("/yaml"), re.DOTALL)
    assert text
    path = tmp_path / "copied.yml"
    path.write_text(
        html.unescape(text[1]).replace("secret: '***'", "secret: xyz").replace("'***'", "correct horse")
    )
    copied, started = load_client(["-c", str(path)], {}), load_client(words, {})
    assert (copied.options, copied.services) == (started.options, started.services)
    assert "logLevel" not in text[1]  # at its default


def test_the_file_is_for_those_with_the_scope_alone(browse):
    browser = browse()
    auth = Auth(browser.app, browser.app.test_client())
    client = browser.app.test_client()
    assert client.get("/yaml", headers=auth.token("read", "users")).status_code == 403
    assert client.get("/yaml", headers=auth.token("settings")).status_code == 403, "programs have the API"
    browser.get("/yaml")
    for each in ("/yaml", "/yaml/check", "/yaml/edit", "/yaml/review", "/yaml/apply"):
        assert client.post(each, headers=auth.token("read", "users")).status_code == 403
