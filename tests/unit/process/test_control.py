"""The control socket, with a real one: who can reach it, what it answers, and what is done about what is left over."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from gtapp.errors import GTError
from gtapp.process import control
from gtapp.process.control import Master, Server, master_of, masters


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def environ(directory: Path) -> dict[str, str]:
    return {control.DIRECTORY_VARIABLE: str(directory)}


@pytest.fixture
def server(environ: dict[str, str]) -> Iterator[Server]:
    made = Server(environ, answering)
    yield made
    made.close()


def answering(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    if request["command"] == "hello":
        return {"pid": os.getpid(), "config": "/etc/gt/server.yml", "roles": ["server"]}
    if request["command"] == "reload":
        tell("one")
        tell("two")
        return {"text": "reloaded", "given": request.get("given")}
    if request["command"] == "slow":
        gevent.sleep(30)
    if request["command"] == "broken":
        raise ZeroDivisionError
    raise GTError(f"no {request['command']}")


def test_a_command_its_lines_and_its_answer(server: Server, environ: dict[str, str]) -> None:
    lines: list[str] = []
    answer = master_of(environ, None).ask("reload", lines.append, given=3)
    assert lines == ["one", "two"]
    assert (answer["ok"], answer["text"], answer["given"]) == (True, "reloaded", 3)


def test_a_refusal_is_an_error_that_says_why(server: Server, environ: dict[str, str]) -> None:
    with pytest.raises(GTError, match=r"^no wonder$"):
        master_of(environ, None).ask("wonder")


def test_a_mistake_is_logged_and_answered(
    server: Server, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(GTError, match="internal error"):
        master_of(environ, None).ask("broken")
    assert "ZeroDivisionError" in caplog.text


def test_only_its_user_can_reach_it(server: Server, directory: Path) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_it_is_found_by_its_configuration(server: Server, environ: dict[str, str]) -> None:
    assert master_of(environ, "/etc/gt/../gt/server.yml").hello["pid"] == os.getpid()
    with pytest.raises(
        GTError, match=r"no GT runs with other.yml; what runs:\n  process \d+ \(/etc/gt/server.yml\)"
    ):
        master_of(environ, "other.yml")


def test_nothing_runs(environ: dict[str, str]) -> None:
    with pytest.raises(GTError, match="no GT runs that can be reached"):
        master_of(environ, None)


def test_what_a_killed_process_has_left_is_removed(directory: Path, environ: dict[str, str]) -> None:
    gone = directory / "999999999.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(gone))
    assert masters(environ) == []
    assert not gone.exists()


def test_one_that_is_stuck_is_not_waited_for(directory: Path, environ: dict[str, str]) -> None:
    stuck = directory / f"{os.getppid()}.sock"
    with socket.socket(socket.AF_UNIX) as listening, gevent.Timeout(control.HELLO_S + 10):
        listening.bind(str(stuck))
        listening.listen()
        assert masters(environ) == []
    assert stuck.exists()


def test_several_run(server: Server, directory: Path, environ: dict[str, str]) -> None:
    (directory / "1.sock").symlink_to(server.path)
    with pytest.raises(GTError, match="several GT run, say with -c CONFIG which one"):
        master_of(environ, None)
    (directory / "1.sock").unlink()


@pytest.mark.parametrize(
    "sent", [b"nonsense\n", b"[1]\n", b'{"command":\n', b"\xff\xfe\n", b"", b'{"command": 7}\n']
)
def test_garbage_ends_that_connection_alone(server: Server, environ: dict[str, str], sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.path))
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(20)
        connection.recv(1000)
    assert master_of(environ, None).hello["roles"] == ["server"]


def test_who_asks_and_leaves_hurts_nobody(server: Server, environ: dict[str, str]) -> None:
    for _ in range(10):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(server.path))
            connection.sendall(b'{"command": "reload"}\n')
    assert master_of(environ, None).ask("reload")["ok"]


def test_it_is_gone_after_its_end(environ: dict[str, str]) -> None:
    server = Server(environ, answering)
    server.close()
    assert not server.path.exists()
    assert masters(environ) == []


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.symlink_to("/etc")
    with pytest.raises(
        GTError, match=r"no control socket .*is not a directory of this user.* set GT_RUNTIME_DIR"
    ):
        Server({control.DIRECTORY_VARIABLE: str(place)}, answering)


def test_what_answers_in_a_directory_of_somebody_else_is_not_believed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "gt-7"
    monkeypatch.setattr(control, "_in_tmp", lambda: place)
    monkeypatch.setattr(control, "directories", lambda environ: [place])
    place.mkdir()
    (place / "1.sock").symlink_to(server.path)
    assert [each.path.name for each in masters({})] == ["1.sock"]
    assert control.socket_of({}, 1) == place / "1.sock"
    real = place.rename(tmp_path / "elsewhere")
    place.symlink_to(real)
    assert masters({}) == []
    with pytest.raises(GTError, match="control socket is gone"):
        control.socket_of({}, 1)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GTError, match="no control socket"):
        Server({control.DIRECTORY_VARIABLE: str(tmp_path / "file" / "run")}, answering)


def test_the_places(tmp_path: Path) -> None:
    own = Path(f"/tmp/gt-{os.getuid()}")
    assert control.directories({}) == [Path("/run/gt"), own]
    assert control.directories({"XDG_RUNTIME_DIR": "/run/user/7"})[0] == Path("/run/user/7/gt")
    assert control.directories({control.DIRECTORY_VARIABLE: "/x"}) == [Path("/x")]


def test_an_answer_that_ends_early(directory: Path, server: Server) -> None:
    path = directory / "half.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def hang_up() -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(b'{"line": "half"}\n')
            connection.close()

    greenlet = gevent.spawn(hang_up)
    with pytest.raises(GTError, match="has ended before it was done"):
        Master(path)
    greenlet.kill()
    listening.close()
