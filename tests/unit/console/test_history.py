"""History: which versions there are, what each changed, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from gtapp.config.store import Store
from gtapp.errors import GTError
from tests.unit.console.conftest import SERVER, Auth, Relay
from tests.unit.console.form_browser import Browser

MakeApp = Callable[..., Flask]

FAST = SERVER.replace("options:", "options:\n  speed: 1MiB")
FASTER = SERVER.replace("options:", "options:\n  speed: 2MiB")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.yml"


@pytest.fixture
def store(tmp_path: Path, path: Path) -> Store:
    return Store(path, "server", tmp_path / "server.state", ("-c", str(path)), {})


@pytest.fixture
def browse(make_app: MakeApp, relay: Relay) -> Callable[..., Browser]:
    def begin(language: str = "en", **more: Any) -> Browser:
        return Browser(make_app(**more), language)

    return begin


@pytest.fixture
def browser(browse: Callable[..., Browser], store: Store) -> Browser:
    """With three versions: the first file, that of ann, that of bob."""
    made = browse()
    store.save(FAST, None, "ann", "options: speed")
    store.save(FASTER, None, "bob", "options: speed again")
    return made


def test_versions_are_listed_newest_first(browser):
    page = browser.get("/history")
    assert page.index("options: speed again") < page.index(">options: speed<") < page.index("edited by hand")
    rows = page.split("<tr>")[2:]
    assert "in the file now" in rows[0]
    assert "Restore" in rows[1]
    assert re.search(r'<time datetime="20\d\d-[^"]+[+-]\d\d:\d\d">20\d\d-', rows[0])


def test_a_version_shows_what_it_changed(browser, store):
    newest, middle, first = store.versions()
    page = browser.get(f"/history/{newest.id}")
    assert "<del>-   speed: 1MiB" in page
    assert "<ins>+   speed: 2MiB" in page
    page = browser.get(f"/history/{middle.id}")
    assert "<ins>+   speed: 1MiB" in page
    assert "2MiB" not in page
    page = browser.get(f"/history/{first.id}")
    assert "type: server" in page  # nothing is known before it: all of it is shown
    assert "What it changed" not in page


def test_a_version_is_compared_with_what_is_there_now(browser, store):
    first = store.versions()[-1]
    page = browser.get(f"/history/{first.id}?view=now")
    assert "<ins>+   speed: 2MiB" in page
    assert "1MiB" not in page
    assert "type: server" in browser.get(f"/history/{first.id}?view=text")
    assert browser.get(f"/history/{first.id}?view=nonsense")


def test_no_secret_is_shown(browser, store):
    for each in store.versions():
        for view in ("before", "now", "text"):
            page = browser.get(f"/history/{each.id}?view={view}")
            assert "alices-secret" not in page
            assert "correct horse" not in page
        if each.etag != store.read().etag:
            assert "alices-secret" not in browser.get(f"/history/{each.id}/restore")


def test_a_version_is_restored_after_a_review(browser, store, path, relay):
    relay.answers["reload"] = lambda request, tell: tell("taken over") or {}
    middle = store.versions()[1]
    page = browser.get(f"/history/{middle.id}/restore")
    assert "<del>-   speed: 2MiB" in page
    assert "<ins>+   speed: 1MiB" in page
    assert "<del>2MiB</del> → 1MiB" in page
    assert path.read_text() == FASTER
    page = browser.send("/restore")
    assert "taken over" in page
    assert path.read_text() == FAST
    newest = store.versions()[0]
    assert (newest.who, newest.what) == ("admin", f"version {middle.id} restored")


def test_a_version_is_restored_over_what_was_looked_at_alone(browser, store, path):
    first = store.versions()[-1]
    browser.get(f"/history/{first.id}/restore")
    path.write_text(FASTER + "# by hand\n")
    page = browser.send("/restore", expect=409)
    assert "The file has changed meanwhile" in page
    assert "<del>- # by hand" in page
    assert path.read_text() == FASTER + "# by hand\n"
    browser.send("/restore")
    assert path.read_text() == SERVER
    assert any(store.version(each.id) == FASTER + "# by hand\n" for each in store.versions())


def test_a_version_that_gt_refuses_is_taken_back(browser, store, path, relay):
    relay.answers["reload"] = GTError("not reloaded: in use")
    browser.get(f"/history/{store.versions()[-1].id}/restore")
    page = browser.send("/restore")
    assert "not reloaded: in use" in page
    assert path.read_text() == FASTER


def test_a_version_that_is_not_right_any_more_cannot_be_restored(browse, tmp_path, path):
    words = ("-c", str(path))
    plain = Store(path, "server", tmp_path / "server.state", words, {})
    browser = browse()
    plain.save(SERVER + "tcp: [{range: 1000-2000}]\n", None, "ann", "ports")
    plain.save(SERVER, None, "ann", "no ports")
    version = next(each for each in plain.versions() if each.what == "ports")
    flags = (*words, "--id", "zoe", "--secret", "z", "--certFile", "/c.pem")
    strict = Store(path, "server", tmp_path / "server.state", flags, {})
    browser = browse(store=strict)
    page = browser.get(f"/history/{version.id}/restore")
    assert "This cannot be saved as it is" in page
    assert "needs keyFile as well" in page
    assert "Restore and apply" not in page


def test_a_version_opens_in_the_editor(browser, store, path):
    browser.get(f"/history/{store.versions()[1].id}")
    browser.send("/yaml/edit")
    assert browser.form("/yaml").fields["text"] == FAST
    browser.send("/yaml")
    browser.send("/apply")
    assert path.read_text() == FAST


def test_a_file_edited_by_hand_is_told_and_not_lost(browser, store, path):
    path.write_text(FASTER + "# by hand\n")
    page = browser.get("/history")
    assert "edited by hand after its last version" in page
    assert "in the file now" not in page
    browser.get("/settings/limits")
    browser.send("/settings/limits", {"speed": "3MiB"})
    browser.send("/apply")
    assert any(store.version(each.id) == FASTER + "# by hand\n" for each in store.versions())


def test_nothing_yet(browse):
    page = browse().get("/history")
    assert "Nothing yet" in page


def test_without_a_file(browse):
    words = ("--addr", "18080", "--id", "ann", "--secret", "s", "--password", "correct horse")
    page = browse(store=None, words=words).get("/history")
    assert "Without a file there are no versions" in page


@pytest.mark.parametrize("name", ["999999", "nonsense", "..%2F..%2Fserver.yml"])
def test_there_is_no_such_version(browser, name):
    for path in (f"/history/{name}", f"/history/{name}/restore"):
        assert browser.client.get(path).status_code == 404


def test_only_the_last_versions_are_kept(browser, store):
    for number in range(25):
        store.save(SERVER + f"# {number}\n", None, "ann", f"note {number}")
    page = browser.get("/history")
    assert page.count("<time ") == 20
    assert "note 24" in page
    assert ">note 4<" not in page


def test_in_chinese(browse, store):
    browser = browse("zh")
    store.save(FAST, None, "ann", "options: speed")
    page = browser.get("/history")
    assert "历史版本" in page
    assert "手动编辑" in page


def test_who_may(browser, store):
    auth = Auth(browser.app, browser.app.test_client())
    client = browser.app.test_client()
    path = f"/history/{store.versions()[1].id}"
    assert client.get(path, headers=auth.token("read")).status_code == 200
    assert client.get(f"{path}/restore", headers=auth.token("read")).status_code == 403
    assert client.post(f"{path}/restore", headers=auth.token("read")).status_code == 403
