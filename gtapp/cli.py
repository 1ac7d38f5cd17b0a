"""The command line: finds out what is to be done, and has it done. Called by gt.py alone."""

import io
import os
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gtapp import __version__
from gtapp.config import load, show
from gtapp.config.config_file import role_of
from gtapp.config.environ import sets_work
from gtapp.config.files import DEFAULT_DEPTH, yaml_files
from gtapp.config.help import USAGE, role_help
from gtapp.config.options import OPTIONS, ServerOptions
from gtapp.config.problems import nearest, quoted
from gtapp.errors import ConfigError, GTError
from gtapp.process.spawn import STATE_VARIABLE

if TYPE_CHECKING:
    from gtapp.process.control import Master

COMMANDS = (
    *OPTIONS, "status", "check", "setup-token", "reset-admin", "hash-password", "demo", "version", "help",
)  # fmt: skip
HELP = ("-h", "-help", "--help")
VERSION = ("-V", "-version", "--version")
LEADING = {"c": "config", "config": "config", "s": "signal", "signal": "signal", "depth": "depth"}
SIGNALS = ("reload", "restart", "stop", "upgrade")


def main() -> int:
    """Run what the command line asks for; the exit code. 2: bad usage or configuration, 1: anything else."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Chinese where it cannot be shown is no error
    try:
        state = os.environ.pop(STATE_VARIABLE, None)
        if state is not None:
            from gtapp.process import master

            return master.go_on(int(state))
        return run(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except GTError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}, GT {__version__}"
        print(f"unexpected {type(error).__name__}: {error} ({place})", file=sys.stderr)
        print(
            "This is a mistake in GT. Please report it with the line above and the command.", file=sys.stderr
        )
        return 1


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what the words after `gt.py` say; the exit code. Raises GTError."""
    if words[:1] in (["worker"], ["console"], ["probe"], ["preflight"]):  # not for people
        return _own_process(words)
    settings, rest = _leading(words)
    path = settings.get("config")
    command = rest[0] if rest else ""
    if "signal" in settings:
        if rest:
            raise ConfigError(f"-s: {quoted(rest[0])} is not an option here, -c is")
        return _signal(settings["signal"], path, environ)
    if command == "status":
        as_json = "--json" in rest
        more, rest = _leading([word for word in rest[1:] if word != "--json"])
        if rest:
            raise ConfigError(f"status: {quoted(rest[0])} is not an option here, -c and --json are")
        return _status((settings | more).get("config"), as_json, environ)
    if command in OPTIONS:
        return _run_role(command, path, rest[1:], environ)
    if command == "check":
        more, rest = _leading(rest[1:])
        if rest:
            raise ConfigError(f"check: {quoted(rest[0])} is not an option here, -c and --depth are")
        return _check(settings | more, environ)
    if command in ("setup-token", "reset-admin"):
        more, rest = _leading(rest[1:])
        if rest:
            raise ConfigError(f"{command}: {quoted(rest[0])} is not an option here, -c is")
        path = (settings | more).get("config")
        return _setup_token(path, environ) if command == "setup-token" else _reset_admin(path, environ)
    if command == "hash-password":
        from gtapp.process import hash_password

        return hash_password.run()
    if command == "demo":
        from gtapp.process import demo

        return demo.run()
    if command in ("version", *VERSION):
        print(f"gt {__version__}")
        return 0
    if command in ("help", *HELP):
        print(USAGE[_chinese(environ)], end="")
        return 0
    if path is not None and os.path.isdir(path) and (not command or command.startswith("-")):
        if rest:
            raise ConfigError(f"-c {path}: {quoted(rest[0])} is not an option for a whole directory")
        from gtapp.process import master

        return master.run_directory(Path(path), _depth(settings), environ)
    if path is not None and (not command or command.startswith("-")):
        return _run_role(_role_of(path), path, rest, environ)
    if not command:
        print(USAGE[_chinese(environ)], end="", file=sys.stderr)
        return 2
    raise ConfigError(
        f"{quoted(command)} is not a command{nearest(command, COMMANDS)} ({', '.join(COMMANDS)})"
    )


def _leading(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The settings before the command (config, depth) by name, and the words from the command on."""
    settings: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        flag, equals, value = rest[0].partition("=")
        name = LEADING.get(flag.lstrip("-"))
        if name is None:
            break
        del rest[0]
        if not equals:
            if not rest:
                raise ConfigError(f"{flag}: needs a value")
            value = rest.pop(0)
        settings[name] = value
    return settings, rest


def _run_role(role: str, path: str | None, words: list[str], environ: Mapping[str, str]) -> int:
    if any(word in HELP for word in words):
        width = min(shutil.get_terminal_size().columns, 110)
        print(role_help(role, _chinese(environ), width), end="")
        return 0
    if path is not None:
        words = ["-c", path, *words]
    if role == "connect":
        raise ConfigError("connect is not available yet")
    from gtapp.process import master

    if not words and not sets_work(environ):
        return master.run_appliance(role, environ)
    return master.run_one(role, tuple(words), environ)


def _own_process(words: Sequence[str]) -> int:
    """What GT starts itself: a worker, or a try whether the program can be loaded at all."""
    from gtapp.process import console_child, master, worker

    if words[0] == "console":
        from gtapp.console import serve

        return console_child.run(int(words[1]), serve.run)
    if words[0] == "probe":
        from gtapp.process import probe

        return probe.run(int(words[1]))
    if words[0] == "preflight":
        print(f"gt {__version__}: {master.__name__}")
        return 0
    return worker.run(int(words[1]))


def _signal(name: str, path: str | None, environ: Mapping[str, str]) -> int:
    """Have a running GT do it, and say what it says."""
    if name not in SIGNALS:
        raise ConfigError(f"-s: found {quoted(name)}, allowed: {', '.join(SIGNALS)}{nearest(name, SIGNALS)}")
    from gtapp.process import control

    answer = control.master_of(environ, path).ask(name, print)
    print(answer["text"])
    return 0


def _status(path: str | None, as_json: bool, environ: Mapping[str, str]) -> int:
    """Say what a running GT does."""
    from gtapp.process import control, status_text

    answer = control.master_of(environ, path).ask("status")
    print(status_text.as_json(answer) if as_json else status_text.as_text(answer))
    return 0


def _setup_token(path: str | None, environ: Mapping[str, str]) -> int:
    """Make a new token for a GT that waits to be set up, and show it."""
    from gtapp.console import setup_token
    from gtapp.process import control

    waiting = [each for each in control.masters(environ) if "first_run" in each.hello]
    if path is not None:
        waiting = [each for each in waiting if each.hello.get("config") == os.path.realpath(path)]
    if len(waiting) != 1:
        names = "".join(f"\n  {each}" for each in waiting)
        reason = f"several do, say with -c DIR which one:{names}" if waiting else "none of this user does"
        raise GTError(f"which GT waits to be set up: {reason}")
    first = waiting[0].hello["first_run"]
    print(
        setup_token.invitation(first["address"], setup_token.make_token(Path(first["state"])), first["tls"])
    )
    return 0


def _reset_admin(path: str | None, environ: Mapping[str, str]) -> int:
    """Give the console's administrator a new password, and show it: for whoever is locked out."""
    from gtapp.console import accounts
    from gtapp.process import control

    masters = control.masters(environ)
    if path is None:
        path = _only_console(masters)
    role = _role_of(path)
    name, password = accounts.reset_admin(Path(path), role, environ)
    for each in masters:
        units = each.ask("status")["units"]
        if os.path.realpath(path) in [os.path.realpath(unit["config"]) for unit in units if unit["config"]]:
            each.ask("reload")
    print(f"name      {name}\npassword  {password}")
    return 0


def _only_console(masters: "Sequence[Master]") -> str:
    """The configuration file of the only console of this user that runs. Raises ConfigError."""
    found = [
        unit["config"]
        for each in masters
        for unit in each.ask("status")["units"]
        if unit["config"] and any(listener["option"] == "webAddr" for listener in unit["listeners"])
    ]
    if len(found) == 1:
        return str(found[0])
    names = "".join(f"\n  {each}" for each in found)
    raise ConfigError(
        f"several consoles run, say with -c FILE which one:{names}"
        if found
        else "no console of this user runs with a configuration file, say with -c FILE which one is meant"
    )


def _role_of(path: str) -> str:
    role = role_of(Path(path))
    if role == "users":
        raise ConfigError(f'{path}: is a users file: name it as "users" in the options of a server')
    return role


def _check(settings: Mapping[str, str], environ: Mapping[str, str]) -> int:
    """Print the effective configuration of a file, or of those in a directory, and what is wrong with them."""
    if "config" not in settings:
        raise ConfigError("check: needs -c FILE or -c DIR")
    path = Path(settings["config"])
    paths = [path]
    if path.is_dir():
        paths = yaml_files(path, _depth(settings))
        if not paths:
            raise ConfigError(f"{path}: there is no .yaml or .yml file in it")
    code = 0
    for each in paths:
        try:
            print(f"--- # {each}\n{_effective(each, environ)}", end="")
        except ConfigError as error:
            print(error, file=sys.stderr)
            code = 2
    return code


def _effective(path: Path, environ: Mapping[str, str]) -> str:
    role = role_of(path)
    if role == "server":
        return show.server_yaml(load.load_server(["-c", str(path)], environ))
    if role == "client":
        return show.client_yaml(load.load_client(["-c", str(path)], environ))
    if role == "users":
        return show.users_yaml(load.load_users(path, ServerOptions()))
    raise ConfigError(f"{path}: {role} is not available yet")


def _depth(settings: Mapping[str, str]) -> int:
    text = settings.get("depth", str(DEFAULT_DEPTH))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigError(f"--depth: found {quoted(text)}, allowed: a whole number from 1")
    return int(text)


def _chinese(environ: Mapping[str, str]) -> bool:
    """Whether the locale asks for Chinese: the first of these variables that is set decides (POSIX 8.2)."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    return next((environ[name] for name in names if environ.get(name)), "").lower().startswith("zh")
