"""The command line: who is called with what, exit codes, and texts without tracebacks."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import gtapp.process
from gtapp import __version__, cli
from gtapp.config.files import MAX_FILE_BYTES
from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.errors import ConfigError, GTError
from gtapp.process.source import Source

ROOT = Path(cli.__file__).parent.parent
SERVER_YAML = "options: {addr: 8080}\nusers: {id1: {secret: s3cret}}\n"
COMMANDS = (
    "server, client, connect, status, check, setup-token, reset-admin, hash-password, demo, version, help"
)
CLIENT_YAML = "options: {id: id1, remote: a}\nservices: [{local: http://b}]\n"


@pytest.fixture
def ran(monkeypatch) -> list[object]:
    """The configurations that were run; running one is exit code 7."""
    configs: list[object] = []

    def run_one(role, words, environ):
        configs.append(Source(role, words, environ).load()[1])
        return 7

    def run_directory(top, depth, environ):
        configs.append((top, depth))
        return 9

    def run_worker(fd):
        configs.append(fd)
        return 6

    def run_appliance(role, environ):
        configs.append(role)
        return 9

    master = SimpleNamespace(run_one=run_one, run_directory=run_directory, run_appliance=run_appliance)
    monkeypatch.setattr(gtapp.process, "master", master, raising=False)
    monkeypatch.setattr(gtapp.process, "console_child", SimpleNamespace(), raising=False)
    monkeypatch.setattr(gtapp.process, "worker", SimpleNamespace(run=run_worker), raising=False)
    monkeypatch.setattr(gtapp.process, "demo", SimpleNamespace(run=lambda: 8), raising=False)
    return configs


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "server.yml").write_text(SERVER_YAML)
    (tmp_path / "client.yaml").write_text(CLIENT_YAML)
    return tmp_path


def gt(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GT_", "LC_", "LANG"))}
    return subprocess.run(
        [sys.executable, "gt.py", *words],
        cwd=ROOT,
        env={**kept, "LC_ALL": "C.UTF-8", **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_server_is_run(ran):
    assert cli.run(["server", "--addr", "1", "--id", "a", "--secret", "s"], {}) == 7
    assert isinstance(ran[0], ServerConfig)


def test_a_client_is_run(ran):
    assert cli.run(["client", "--id", "a", "--remote", "b", "--local", "http://c"], {}) == 7
    assert isinstance(ran[0], ClientConfig)


def test_variables_are_enough(ran):
    assert cli.run(["server"], {"GT_ADDR": "1", "GT_ID": "a", "GT_SECRET": "s"}) == 7
    assert list(ran[0].users) == ["a"]


@pytest.mark.parametrize(
    "line", ["server -c {}", "-c {} server", "--config={} server", "-config {}", "-c {} --logLevel info"]
)
def test_a_config_file_before_or_after_the_role_or_without_one(ran, directory, line):
    assert cli.run(line.format(directory / "server.yml").split(), {}) == 7
    assert ran[0].path == directory / "server.yml"


def test_the_file_says_which_role_it_is_for(ran, directory):
    assert cli.run(["-c", str(directory / "client.yaml")], {}) == 7
    assert isinstance(ran[0], ClientConfig)


def test_a_directory_is_run(ran, directory):
    assert cli.run(["-c", str(directory)], {}) == 9
    assert cli.run(["-c", str(directory), "--depth", "1"], {}) == 9
    assert ran == [(directory, 3), (directory, 1)]


def test_a_worker_is_run(ran):
    assert cli.run(["worker", "5"], {}) == 6
    assert ran == [5]


def test_signal_and_status_when_nothing_runs(tmp_path):
    for words in (
        ["-s", "reload"],
        ["-s=stop", "-c", "x.yml"],
        ["status"],
        ["-c", "x.yml", "status", "--json"],
    ):
        with pytest.raises(GTError, match="no GT runs"):
            cli.run(words, {"GT_RUNTIME_DIR": str(tmp_path)})
    done = gt("-s", "restart", GT_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no GT runs that can be reached" in done.stderr


def test_the_demo_is_run(ran):
    assert cli.run(["demo"], {}) == 8


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("environ", [{}, {"PATH": "/bin", "GT_LOG_LEVEL": "debug", "GT_WEB_ADDR": "9000"}])
def test_a_role_alone_is_the_appliance(ran, role, environ):
    """What says how it runs does not say what it is to do."""
    assert cli.run([role], environ) == 9
    assert ran == [role]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "servr",
            f'"servr" is not a command, did you mean "server"? ({COMMANDS})',
        ),
        (
            "--addr 80",
            f'"--addr" is not a command ({COMMANDS})',
        ),
        ("-s relod", '-s: found "relod", allowed: reload, restart, stop, upgrade, did you mean "reload"?'),
        ("-s=stop server", '-s: "server" is not an option here, -c is'),
        ("status --all", 'status: "--all" is not an option here, -c and --json are'),
        ("-c", "-c: needs a value"),
        ("-c {} --logLevel info", '-c {}: "--logLevel" is not an option for a whole directory'),
        ("server -c {}", "{}: is a directory, a file is needed here"),
        ("connect", "connect is not available yet"),
        ("check", "check: needs -c FILE or -c DIR"),
        ("check gt.yml", 'check: "gt.yml" is not an option here, -c and --depth are'),
        ("check -c {} --depth 0", '--depth: found "0", allowed: a whole number from 1'),
        ("check -c {} --depth ٣", '--depth: found "٣", allowed: a whole number from 1'),
        ("check -c {}/empty", "{}/empty: there is no .yaml or .yml file in it"),
        ("-c {}/users.yml", '{}/users.yml: is a users file: name it as "users" in the options of a server'),
    ],
)
def test_wrong_usage(ran, directory, line, expected):
    (directory / "empty").mkdir()
    (directory / "users.yml").write_text("id1: {secret: s}")
    with pytest.raises(ConfigError) as caught:
        cli.run(line.format(directory).split(), {})
    assert str(caught.value) == expected.format(directory)
    assert not ran


def test_check_prints_the_effective_configuration(directory, capsys):
    assert cli.run(["check", "-c", str(directory / "server.yml")], {"GT_TIMEOUT": "5m"}) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"--- # {directory}/server.yml\ntype: server\n")
    assert "timeout: 5m\n" in text
    assert "secret: '***'" in text
    assert "s3cret" not in text


def test_check_says_what_is_ignored(directory):
    (directory / "odd.yml").write_text(
        "options: {id: a, remote: b}\nservices:\n- {local: tcp://c:1, hostPrefix: d}\n"
    )
    done = gt("check", "-c", str(directory / "odd.yml"))
    assert done.returncode == 0
    assert done.stderr == f"{directory}/odd.yml:3: hostPrefix: is ignored, it has no meaning for tcp://\n"


def test_check_goes_through_a_directory(directory, capsys):
    deep = directory / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (directory / "a" / "b" / "users.yml").write_text("id1: {secret: s}\n")
    (deep / "too-deep.yml").write_text("nonsense")
    (directory / "notes.txt").write_text("nonsense")
    (directory / "large.yml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert cli.run(["check", "-c", str(directory)], {}) == 0
    output = capsys.readouterr()
    checked = [line for line in output.out.split("\n") if line.startswith("---")]
    names = ["a/b/users.yml", "client.yaml", "server.yml"]
    assert checked == [f"--- # {directory}/{name}" for name in names]
    assert output.err == f"{directory}/large.yml: skipped, it is larger than 10,485,760 bytes\n"
    assert cli.run(["check", "--depth", "4", "-c", str(directory)], {}) == 2
    assert "too-deep.yml:1: the file: found a single value" in capsys.readouterr().err


def test_check_tells_the_errors_of_all_files(directory, capsys):
    (directory / "bad1.yml").write_text("type: server\nadr: 1\n")
    (directory / "bad2.yml").write_text("type: connect\n")
    assert cli.run(["check", "-c", str(directory)], {}) == 2
    output = capsys.readouterr()
    assert output.err == (
        f'{directory}/bad1.yml:2: unknown key "adr" in the file of a server\n'
        f"{directory}/bad2.yml: connect is not available yet\n"
    )
    assert "type: server" in output.out


@pytest.mark.parametrize(
    ("environ", "chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, True),
    ],
)
@pytest.mark.parametrize(
    ("line", "word"),
    [("--help", "用法"), ("server --help", "监听"), ("client -h", "隧道")],
)
def test_texts_are_chinese_where_the_locale_is(ran, capsys, environ, chinese, line, word):
    assert cli.run(line.split(), environ) == 0
    assert (word in capsys.readouterr().out) is chinese


@pytest.mark.parametrize("line", ["version", "--version", "-version", "-V"])
def test_version(capsys, line):
    assert cli.run([line], {}) == 0
    assert capsys.readouterr().out == f"gt {__version__}\n"


def test_an_unexpected_error_is_one_line_and_how_to_report_it(monkeypatch, capsys):
    def broken(words, environ):
        raise KeyError("x")

    monkeypatch.setattr(cli, "run", broken)
    assert cli.main() == 1
    first, second, _ = capsys.readouterr().err.split("\n")
    assert first.startswith("unexpected KeyError: 'x' (test_cli.py:")
    assert "Please report it" in second


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupted(words, environ):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert cli.main() == 130
    assert capsys.readouterr().err == ""


def test_the_real_program(directory):
    server = str(directory / "server.yml")
    done = gt("check", "-c", server)
    assert (done.returncode, done.stderr) == (0, "")
    done = gt("server", "--adr", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == '"--adr" is not an option here, did you mean "--addr"?\n'
    done = gt()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: gt.py")


def test_chinese_on_a_terminal_that_cannot_show_it():
    done = gt("--help", LC_ALL="zh_CN.UTF-8", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


def test_ten_mebibytes_of_nesting(directory):
    (directory / "server.yml").write_bytes(b"[" * MAX_FILE_BYTES)
    done = gt("server", "-c", str(directory / "server.yml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{directory}/server.yml:1: is nested more than 32 levels deep\n"
