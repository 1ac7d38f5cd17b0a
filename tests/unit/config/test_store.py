"""The store: what is saved was checked, is whole at every instant, and nobody's save is lost."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gtapp.config import store as store_module
from gtapp.config.durable import write_new
from gtapp.config.load import load_server
from gtapp.config.store import Conflict, DiffLine, Problem, Store, Text, diff
from gtapp.config.yaml_edit import Document
from gtapp.errors import ConfigError

ROOT = Path(__file__).parents[3]
SAVER = Path(__file__).with_name("saver.py")
DEADLINE_S = 60

TEXT = """\
type: server
# people
users:
  id1:
    secret: secret1
options:
  addr: 8080   # visitors
# end
"""
OTHER = TEXT.replace("8080", "8081")
CLIENT = "services:\n- local: http://a\noptions:\n  id: id1\n  remote: tcp://b:80\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "server.yml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def store(path: Path) -> Store:
    return Store(path, "server", path.with_suffix(".state"))


def set_addr(port: int) -> Any:
    return lambda file: file.set_option("addr", f":{port}")


def left_in(directory: Path) -> set[str]:
    """The files there, but for those that belong there."""
    names = {str(each.relative_to(directory)) for each in directory.rglob("*") if each.is_file()}
    return {name for name in names if not name.startswith("server.state/versions/0")} - {
        "server.yml",
        "server.state/lock",
    }


def saver(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SAVER, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: subprocess.Popen[str], deadline_s: float = DEADLINE_S) -> str:
    try:
        output, _ = process.communicate(timeout=deadline_s)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


# reading and saving


def test_a_file_and_its_etag(store, path):
    text, etag = store.read()
    assert text == TEXT
    assert len(etag) == 64
    path.write_text(OTHER)
    assert store.read().etag != etag
    path.unlink()
    assert store.read() == Text("", "")


def test_a_save_is_there_and_can_be_read_by_its_owner_alone(store, path):
    path.chmod(0o644)
    after = store.save(OTHER, store.read().etag, "alice", "another port")
    assert after == store.read() == Text(OTHER, after.etag)
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.state.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in store.state.rglob("*") if each.is_file()} == {0o600}
    assert not left_in(path.parent)


def test_no_name_in_the_state_directory_is_that_of_a_configuration(store):
    store.save(OTHER, None, "alice", "")
    assert not [each for each in store.state.rglob("*") if each.suffix in (".yml", ".yaml")]


def test_a_save_that_is_based_on_something_else_is_a_conflict(store, path):
    etag = store.read().etag
    path.write_text(OTHER)
    with pytest.raises(Conflict) as caught:
        store.save(TEXT + "# mine\n", etag, "alice", "")
    assert caught.value.current == store.read()
    assert "save again" in str(caught.value)
    assert path.read_text() == OTHER
    path.unlink()
    with pytest.raises(Conflict) as caught:
        store.edit(set_addr(1), etag, "alice", "")
    assert caught.value.current == Text("", "")


def test_an_edit_says_what_was_and_what_is(store, path):
    saved = store.edit(set_addr(81), store.read().etag, "alice", "port 81")
    assert saved.before == TEXT
    assert saved.after == store.read()
    assert path.read_text() == TEXT.replace("8080   #", ":81   #")


def test_an_edit_without_an_etag_is_made_on_what_is_there(store, path):
    path.write_text(TEXT.replace("# people", "# everybody"))
    store.edit(set_addr(81), None, "alice", "")
    assert path.read_text() == TEXT.replace("# people", "# everybody").replace("8080   #", ":81   #")


def test_a_change_that_fails_saves_nothing(store, path):
    def change(file: Document) -> None:
        file.set_option("addr", ":81")
        file.remove_user("nobody")

    with pytest.raises(ConfigError, match="there is no user"):
        store.edit(change, None, "alice", "")
    assert path.read_text() == TEXT
    assert not store.versions()


def test_a_save_of_the_same_is_no_save(store):
    assert store.save(TEXT, store.read().etag, "alice", "") == store.read()
    assert store.edit(set_addr(8080), None, "alice", "").before == TEXT
    assert not store.versions()


def test_a_preview_writes_nothing(store, path):
    before, after, wrong = store.preview(lambda file: file.set_option("timeout", "soon"), store.read().etag)
    assert (before, after) == (TEXT, TEXT.replace("# visitors\n", "# visitors\n  timeout: soon\n"))
    assert [problem.key for problem in wrong] == ["timeout"]
    assert path.read_text() == TEXT
    assert not store.state.exists()
    with pytest.raises(Conflict):
        store.preview(set_addr(1), "0")


def test_what_is_not_right_is_not_saved(store, path):
    with pytest.raises(ConfigError, match=r"server.yml:7: addr: found \"99999\""):
        store.save(TEXT.replace("8080", "99999"), None, "alice", "")
    with pytest.raises(ConfigError, match=r"server.yml:4: user \"id1\": has no secret"):
        store.edit(lambda file: file.set_user("id1", {"secret": None}), None, "alice", "")
    with pytest.raises(ConfigError, match="holds a character that is no text"):
        store.save(TEXT + "# \udcff\n", None, "alice", "")
    with pytest.raises(ConfigError, match="is larger than 10 MiB"):
        store.save(TEXT + "#" * 11_000_000, None, "alice", "")
    assert path.read_text() == TEXT
    assert not store.versions()


def test_a_file_that_cannot_be_read_is_not_saved_over(store, path):
    path.write_bytes(b"\xff\xfe")
    for save in (
        lambda: store.read(),
        lambda: store.save(TEXT, None, "a", ""),
        lambda: store.edit(set_addr(1), None, "a", ""),
    ):
        with pytest.raises(ConfigError, match=r"server\.yml:1: is not UTF-8 text"):
            save()
    assert path.read_bytes() == b"\xff\xfe"


def test_a_file_that_was_broken_by_hand_can_be_put_right(store, path):
    path.write_text("users: {")
    with pytest.raises(ConfigError, match=r"server\.yml:2: is not valid YAML"):
        store.edit(set_addr(1), None, "alice", "")
    store.save(TEXT, store.read().etag, "alice", "put right")
    assert path.read_text() == TEXT
    assert store.version(store.versions()[-1].id) == "users: {"


def test_a_link_stays_a_link(store, path, tmp_path):
    real = tmp_path / "elsewhere" / "real.yml"
    real.parent.mkdir()
    path.rename(real)
    path.symlink_to("elsewhere/real.yml")
    store.save(OTHER, None, "alice", "")
    assert path.is_symlink()
    assert real.read_text() == OTHER
    assert os.listdir(real.parent) == ["real.yml"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_the_owner_stays_the_owner(store, path):
    os.chown(path, 1234, 2345)
    store.save(OTHER, None, "alice", "")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_what_a_form_does_to_line_ends_is_undone(store, path):
    store.save(OTHER.replace("\n", "\r\n"), None, "alice", "")
    assert path.read_bytes() == OTHER.encode()


def test_line_ends_of_windows_and_a_byte_order_mark_stay(store, path):
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert store.read().text == TEXT.replace("\n", "\r\n")
    store.edit(set_addr(81), store.read().etag, "alice", "")
    assert path.read_bytes() == b"\xef\xbb\xbf" + TEXT.replace("8080", ":81").replace("\n", "\r\n").encode()
    store.save(OTHER, store.read().etag, "alice", "")
    assert path.read_bytes() == b"\xef\xbb\xbf" + OTHER.replace("\n", "\r\n").encode()


def test_the_file_of_a_client(tmp_path):
    store = Store(tmp_path / "client.yml", "client", tmp_path / "client.state")
    store.new(CLIENT, "wizard")
    store.edit(
        lambda file: file.set_service(None, {"local": "tcp://b:22", "remoteTCPPort": 1}), None, "a", ""
    )
    assert store.read().text == CLIENT.replace("options", "- local: tcp://b:22\n  remoteTCPPort: 1\noptions")
    assert store.check("options: {id: a, remote: b}\n") == [
        Problem(None, None, "there is no service, set one (for example --local http://127.0.0.1:80)")
    ]
    assert store.check(CLIENT.replace("tcp://b:80", "b c")) == [
        Problem(
            5,
            "remote",
            'remote: found "b c", allowed: one of tcp://host:port, tls://host:port, quic://host:port, without a path',
        )
    ]


# the first one


def test_the_first_configuration(path):
    path.unlink()
    store = Store(path.parent / "new" / "server.yml", "server", path.parent / "new" / "server.state")
    after = store.new(TEXT, "wizard")
    assert after == store.read() == Text(TEXT, after.etag)
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert [(each.who, each.what) for each in store.versions()] == [("wizard", "first configuration")]


def test_a_configuration_is_never_the_first_twice(store, path):
    with pytest.raises(ConfigError, match="is there already, and stays as it is"):
        store.new(OTHER, "wizard")
    path.write_text("")
    with pytest.raises(ConfigError, match="is there already"):
        store.new(OTHER, "wizard")
    assert path.read_text() == ""


def test_a_first_configuration_that_is_not_right(path, store):
    path.unlink()
    with pytest.raises(ConfigError, match="there are no users"):
        store.new("type: server\noptions: {addr: 80}\n", "wizard")
    assert not path.exists()


# what is wrong with a text


CHECKS: dict[str, tuple[str, list[Problem]]] = {
    "nothing": (TEXT, []),
    "an option": (
        TEXT.replace("8080", "99999"),
        [
            Problem(
                7,
                "addr",
                'addr: found "99999", allowed: an address such as 80, :80, 0.0.0.0:80 or [::]:80',
            )
        ],
    ),
    "ports": (
        TEXT + "tcp: [{range: a}]\nhost: {number: -1}\n",
        [
            Problem(9, "tcpRange", 'tcp: found "a", allowed: ports such as 1024-65535 or 8080'),
            Problem(10, "hostNumber", 'number: found "-1", allowed: a whole number from 0 to 1000000'),
        ],
    ),
    "an unknown key": (
        TEXT.replace("addr:", "adr:"),
        [Problem(7, None, 'options: unknown key "adr", did you mean "addr"?')],
    ),
    "a user": (
        TEXT.replace("secret: secret1", "speed: 1"),
        [Problem(4, None, 'user "id1": has no secret (or verifier)')],
    ),
    "another line": (
        TEXT.replace("# end", "  addr: 81"),
        [Problem(8, None, 'options: "addr" is there twice, see line 7')],
    ),
    "a line of another place": (
        TEXT.replace("# end", "  tcpRange: 1\ntcp: [{range: 2}]"),
        [Problem(8, "tcpRange", "tcpRange: is there twice, see line 9: tcp")],
    ),
    "no line": (
        "type: server\nusers: {a: {secret: b}}\n",
        [
            Problem(
                None,
                None,
                "there is nowhere for tunnels to come in, set addr (for example --addr 8080) or tlsAddr",
            )
        ],
    ),
    "no YAML": (
        "users: {\n",
        [Problem(2, None, "is not valid YAML: while parsing a flow node, did not find expected")],
    ),
    "an empty text": ("", [Problem(None, None, "is empty")]),
    "a character that is no text": (
        "a\n\udcff",
        [Problem(2, None, "holds a character that is no text, remove it")],
    ),
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_wrong_is_told_by_line(store, name):
    text, expected = CHECKS[name]
    found = store.check(text)
    assert [(each.line, each.key) for each in found] == [(each.line, each.key) for each in expected]
    for problem, each in zip(found, expected, strict=True):
        assert problem.message.startswith(each.message)


def test_many_problems_are_not_all_told(store):
    found = store.check("options:\n" + "".join(f"  x{n}: 1\n" for n in range(100)))
    assert len(found) == 21
    assert found[-1] == Problem(None, None, "and perhaps more: only the first problems are shown")


def test_words_and_environment_count(path):
    words = ("-c", str(path), "--tcpRange", "1-2")
    store = Store(path, "server", path.parent / "state", words, {"GT_TCP_NUMBER": "3"})
    config = store.load(TEXT)
    assert config == load_server((*words, "--tcpNumber", "3"), {})
    assert store.check(TEXT.replace("secret1", "secret1\n    tcp: [{range: 2}]")) == [
        Problem(6, "tcpRange", "tcp: 2-2 overlaps with 1-2, ports that everybody may open")
    ]
    wrong = Store(path, "server", path.parent / "state", (*words, "--addr", "x"), {})
    assert [(each.line, each.message[:18]) for each in wrong.check(TEXT)] == [(None, '--addr: found "x",')]


def test_a_path_that_is_written_otherwise_in_the_words(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    store = Store(path, "server", path.parent / "state", ("-c", "./server.yml"))
    assert store.check(TEXT.replace("8080", "x"))[0].line == 7
    store.save(OTHER, None, "alice", "")
    assert path.read_text() == OTHER


def test_checking_does_not_fill_the_log(store, path, caplog):
    text = "type: server\noptions: {addr: 80, apiAddr: 81}\n"
    with caplog.at_level(logging.DEBUG):
        assert store.check(text) == []
        store.save(text, None, "alice", "")
        store.preview(set_addr(1), None)
    assert not caplog.records
    load_server(["-c", str(path)], {})
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # whoever starts it hears of it


# users who stand elsewhere


@pytest.mark.parametrize(
    ("words", "environ", "options", "expected"),
    [
        ((), {}, "users: {users}", "the users file {users}"),
        (("--users", "{users}"), {}, "speed: 1", "the users file {users}"),
        ((), {"GT_USERS": "{users}"}, "speed: 1", "the users file {users}"),
        (("--id", "far", "--secret", "x"), {}, "speed: 1", "the command line (--id)"),
        ((), {"GT_ID": "far", "GT_SECRET": "x"}, "speed: 1", "the environment (GT_ID)"),
        ((), {}, "id: far\n  secret: x", "the options of {path}"),
    ],
)
def test_users_who_stand_elsewhere_are_not_changed_here(path, tmp_path, words, environ, options, expected):
    (tmp_path / "users.yaml").write_text("far:\n  secret: x\nid1:\n  secret: y\n")
    names = {"users": tmp_path / "users.yaml", "path": path}
    path.write_text(TEXT.replace("# end", f"  {options.format(**names)}"))
    environ = {name: value.format(**names) for name, value in environ.items()}
    store = Store(path, "server", tmp_path / "state", [word.format(**names) for word in words], environ)
    assert store.document(store.read().text).users() == {"id1": {"secret": "secret1"}}
    for change in (
        lambda file: file.set_user("far", {"speed": 1}),
        lambda file: file.remove_user("far"),
        lambda file: file.rename_user("far", "near"),
        lambda file: file.rename_user("id1", "far"),
    ):
        with pytest.raises(ConfigError) as caught:
            store.edit(change, None, "alice", "")
        assert str(caught.value) in (
            f'user "far" stands in {expected.format(**names)}: change it there',
            f'user "id1" stands in {expected.format(**names)}: change it there',  # in the users file, too
        )
    store.edit(lambda file: file.set_user("new", {"secret": "z"}), None, "alice", "")
    assert list(store.document(store.read().text).users()) == ["id1", "new"]


# versions


def test_what_was_edited_by_hand_is_a_version_too(store, path):
    os.utime(path, (1_000_000_000, 1_000_000_000))
    store.save(OTHER, None, "alice", "another port")
    path.write_text(TEXT + "# by hand\n")
    store.edit(set_addr(82), None, "bob", "port 82")
    found = store.versions()
    assert [(each.who, each.what) for each in found] == [
        ("bob", "port 82"),
        ("by hand", ""),
        ("alice", "another port"),
        ("by hand", ""),
    ]
    texts = [store.version(each.id) for each in found]
    assert texts == [store.read().text, TEXT + "# by hand\n", OTHER, TEXT]
    assert found[0].etag == store.read().etag
    assert found[-1].time == 1_000_000_000
    assert abs(found[0].time - time.time()) < 60


def test_the_last_versions_are_kept(store):
    for port in range(1, 50):
        store.edit(set_addr(port), None, "alice", f"port {port}")
    found = store.versions()
    assert [each.what for each in found] == [f"port {port}" for port in range(49, 29, -1)]
    assert [each.id for each in found] == [f"{number:06}" for number in range(50, 30, -1)]
    assert store.version(found[-1].id) == TEXT.replace("8080", ":30")
    with pytest.raises(ConfigError, match="there is no version 000001 any more"):
        store.version("000001")


@pytest.mark.parametrize("id", ["", "pending", "../../server.yml", "lock", "/etc/passwd", "000001/../000001"])
def test_a_version_is_nothing_else(store, id):
    store.save(OTHER, None, "alice", "")
    with pytest.raises(ConfigError, match="there is no version"):
        store.version(id)


def test_a_version_is_restored(store, path):
    store.save(OTHER, None, "alice", "")
    saved = store.restore("000001", "bob")
    assert (saved.before, saved.after) == (OTHER, store.read())
    assert path.read_text() == TEXT
    newest = store.versions()[0]
    assert (newest.who, newest.what) == ("bob", "version 000001 restored")


def test_a_version_that_is_not_right_any_more_is_not_restored(store, path, tmp_path):
    store.save(OTHER, None, "alice", "")
    strict = Store(path, "server", store.state, ("--id", "x"))
    with pytest.raises(ConfigError, match="each id needs its secret"):
        strict.restore("000001", "bob")
    assert path.read_text() == OTHER


def test_a_version_is_restored_byte_by_byte(store, path):
    data = b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()
    path.write_bytes(data)
    store.edit(set_addr(1), None, "alice", "")
    store.restore("000001", "bob")
    assert path.read_bytes() == data


def test_words_of_any_length_and_kind_can_be_said_of_a_version(store):
    store.save(OTHER, None, "é\n#" * 1000, "x" * 100_000)
    assert store.versions()[0].who == ("é\n#" * 1000)[:500]
    assert store.version(store.versions()[0].id) == OTHER


def test_a_version_that_is_damaged_is_left_out(store):
    store.save(OTHER, None, "alice", "")
    store.save(TEXT, None, "alice", "")
    (store.state / "versions" / "000002").write_bytes(b"\xff\n")
    assert [each.id for each in store.versions()] == ["000003", "000001"]
    with pytest.raises(ConfigError, match="there is no version 000002"):
        store.version("000002")


# differences


def test_a_difference_has_every_line():
    assert diff("a\nb\nc\nd\n", "a\nx\nc\nd\ne\n") == [
        *(DiffLine(" ", "a"), DiffLine("-", "b"), DiffLine("+", "x"), DiffLine(" ", "c"), DiffLine(" ", "d")),
        DiffLine("+", "e"),
    ]
    assert diff("", "a\n") == [DiffLine("+", "a")]
    assert diff("a\na\n", "a\n") == [DiffLine(" ", "a"), DiffLine("-", "a")]
    assert diff("", "") == []


def test_a_difference_of_large_files_is_there_at_once():
    before = "".join(f"  id{n}:\n    secret: s\n    speed: 1\n" for n in range(20_000))
    begun = time.process_time()
    after = before.replace("id77:", "id78:").replace("id19000:", "id19001:")
    found = diff(before, after)
    assert [each.text for each in found if each.kind != "+"] == before.splitlines()
    assert [each.text for each in found if each.kind != "-"] == after.splitlines()
    assert len([each for each in found if each.kind != " "]) < 20
    assert time.process_time() - begun < 10


# many at once


class Reader(threading.Thread):
    """Reads a file over and over: it has to be whole each time."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.over = threading.Event()
        self.read = 0
        self.broken: list[str] = []

    def run(self) -> None:
        seen = ""
        while not self.over.is_set():
            text = self.path.read_text()
            self.read += 1
            if text == seen:
                continue
            seen = text
            try:
                assert text.endswith("# end\n")
                assert Document(text, "server").get_option("addr") == ":8080"
            except (AssertionError, ConfigError) as error:
                self.broken.append(f"{error}: {text}")


@contextlib.contextmanager
def whole_all_the_time(path: Path) -> Iterator[None]:
    reader = Reader(path)
    reader.start()
    try:
        yield
    finally:
        reader.over.set()
        reader.join(DEADLINE_S)
    assert reader.read > 10
    assert not reader.broken


def test_a_hundred_threads_save_at_once_and_nothing_is_lost(store, path):
    failed: list[BaseException] = []

    def save(number: int) -> None:
        try:
            mine = Store(path, "server", store.state)
            mine.edit(
                lambda file: file.set_user(f"user{number}", {"secret": "s"}), None, f"thread {number}", "add"
            )
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(number,), daemon=True) for number in range(100)]
    with whole_all_the_time(path):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert not failed
    found = store.document(store.read().text).users()
    assert found.keys() == {"id1", *(f"user{number}" for number in range(100))}
    assert store.check(store.read().text) == []
    assert len({each.who for each in store.versions()}) == 20
    assert not left_in(path.parent)


def test_processes_save_at_once_and_nothing_is_lost(store, path):
    with whole_all_the_time(path):
        running = [saver("users", path, store.state, name, 25) for name in ("a", "b", "c", "d")]
        for process in running:
            output_of(process)
    found = store.document(store.read().text).users()
    assert found.keys() == {"id1", *(f"{name}{number}" for name in "abcd" for number in range(25))}
    assert not left_in(path.parent)


def test_one_of_many_saves_of_the_same_etag_wins(store, path):
    etag = store.read().etag
    results: list[str] = []

    def save(number: int) -> None:
        try:
            store.save(TEXT.replace("people", f"people {number}"), etag, str(number), "")
            results.append("saved")
        except Conflict:
            results.append("conflict")

    threads = [threading.Thread(target=save, args=(number,), daemon=True) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(results) == ["conflict"] * 19 + ["saved"]


def test_greenlets_do_not_wait_for_each_other_for_ever(store, path):
    assert output_of(saver("greenlets", path, store.state)) == "id1 first second\n"


def test_an_editor_that_saves_in_between_is_not_overwritten(store, path, monkeypatch):
    def edited_meanwhile(*arguments: Any) -> None:
        write_new(*arguments)
        path.write_text(OTHER)

    monkeypatch.setattr(store_module, "write_new", edited_meanwhile)
    with pytest.raises(Conflict) as caught:
        store.save(TEXT + "# mine\n", None, "alice", "")
    assert caught.value.current.text == OTHER
    assert path.read_text() == OTHER
    assert not left_in(path.parent)


def test_a_process_that_hangs_while_it_saves_is_not_waited_for_for_ever(store, path, monkeypatch):
    store.save(OTHER, None, "alice", "")
    monkeypatch.setattr(store_module, "LOCK_S", 0.1)
    with (store.state / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"server\.yml: another process is saving it, try again"):
            store.save(TEXT, None, "alice", "")
    store.save(TEXT, None, "alice", "")


# killed


@pytest.mark.parametrize("first", [False, True], ids=["over a file", "the first file"])
def test_a_kill_at_any_line_of_saving_leaves_the_old_or_the_new_file(store, path, tmp_path, first):
    old, new = tmp_path / "old", tmp_path / "new"
    new.write_text(OTHER)
    if not first:
        old.write_text(TEXT)
    found = output_of(saver("kill", path, store.state, old, new), deadline_s=300).splitlines()
    assert set(found) == {"old", "new"}
    assert found == sorted(found, reverse=True)  # old until the one moment, new from then on
    assert found.count("old") > 40


# no room, no permission


@contextlib.contextmanager
def file_system(where: Path, options: str) -> Iterator[Path]:
    """A small file system of its own. Skips the test where it cannot be had."""
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root, where it may mount, can have a file system that is full")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_a_full_disk_leaves_the_old_file(tmp_path):
    long = TEXT + "# " + "x" * 30_000 + "\n# end\n"
    outcomes = []
    with file_system(tmp_path / "disk", "size=256k") as disk:
        path, filler = disk / "server.yml", disk / "filler"
        store = Store(path, "server", disk / "server.state")
        for pages in range(30):
            path.write_text(TEXT)
            store.save(OTHER, None, "alice", "")
            store.save(TEXT, None, "alice", "")
            fill(filler)
            os.truncate(filler, filler.stat().st_size - pages * 4096)
            try:
                store.save(long, None, "alice", "long")
                outcomes.append("saved")
            except ConfigError as error:
                outcomes.append(str(error))
            assert path.read_text() == (long if outcomes[-1] == "saved" else TEXT)
            assert left_in(disk) == {"filler"}
            filler.unlink()
            store.save(OTHER, None, "alice", "")  # with room again it works
            for version in (store.state / "versions").iterdir():
                version.unlink()
    full = f"{path}: cannot be saved, the disk is full: make room and save again. Nothing was changed"
    failed = outcomes.count(full)
    assert outcomes == [full] * failed + ["saved"] * (30 - failed)
    assert 5 < failed < 30


@pytest.mark.parametrize("limit_bytes", [0, 10, 200, 3000])
def test_a_file_that_may_not_get_that_long_leaves_the_old_file(store, path, tmp_path, limit_bytes):
    new = tmp_path / "new"
    new.write_text(TEXT + "# " + "x" * 5000)
    store.save(OTHER, None, "alice", "")
    output = output_of(saver("limit", path, store.state, new, limit_bytes))
    assert (
        output
        == f"{path}: cannot be saved, the disk is full: make room and save again. Nothing was changed\n"
    )
    assert path.read_text() == OTHER
    assert left_in(tmp_path) == {"new"}


def test_a_read_only_file_system_is_told(tmp_path):
    with file_system(tmp_path / "disk", "size=256k") as disk:
        path = disk / "server.yml"
        path.write_text(TEXT)
        store = Store(path, "server", disk / "server.state")
        store.save(OTHER, None, "alice", "")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for again in (store, Store(path, "server", disk / "other.state")):
            with pytest.raises(ConfigError) as caught:
                again.save(TEXT, None, "alice", "")
            assert str(caught.value) == f"{path}: cannot be saved, {disk} is read-only: mount it writable"
        assert path.read_text() == OTHER


def test_a_file_that_is_mounted_by_itself_is_told(tmp_path):
    with file_system(tmp_path / "disk", "size=256k") as disk:
        path, real = disk / "server.yml", disk / "real"
        path.write_text("")
        real.write_text(TEXT)
        if subprocess.run(["mount", "--bind", str(real), str(path)], capture_output=True).returncode:
            pytest.skip("no file can be mounted here")
        try:
            with pytest.raises(ConfigError) as caught:
                Store(path, "server", disk / "server.state").save(OTHER, None, "alice", "")
        finally:
            subprocess.run(["umount", str(path)], check=True)
        assert str(caught.value) == (
            f"{path}: cannot be replaced, it is mounted by itself: mount the directory {disk} instead"
        )
        assert real.read_text() == TEXT
        assert left_in(disk) == {"real"}


@contextlib.contextmanager
def somebody_else() -> Iterator[int]:
    """A user whom permissions stop."""
    if os.getuid() != 0:
        yield os.getuid()
        return
    os.seteuid(65534)
    try:
        yield 65534
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("state_is_there", [False, True])
def test_a_directory_that_may_not_be_written_is_told(state_is_there):
    with tempfile.TemporaryDirectory() as name:  # where everybody may look, unlike in pytest's
        directory = Path(name)
        path, state = directory / "server.yml", directory / "server.state"
        path.write_text(TEXT)
        path.chmod(0o644)
        directory.chmod(0o777)
        with somebody_else() as user:
            store = Store(path, "server", state)
            if state_is_there:
                store.save(OTHER, None, "alice", "")
        directory.chmod(0o555)
        before = path.read_text()
        with somebody_else(), pytest.raises(ConfigError) as caught:
            store.edit(set_addr(5), None, "alice", "")
        directory.chmod(0o755)
        assert str(caught.value) == (
            f"{path}: cannot be saved, {directory} may not be written by user {user}: chown {user} {directory}"
        )
        assert path.read_text() == before
        assert not left_in(directory)
