"""The master: starts the units of its configurations, listens to signals and to its control socket, carries no traffic.

Signals: HUP reload, USR1 reopen the logs, USR2 replace the master in place and then the workers, TERM end in order, INT
end at once. `gt.py -s` does the same and waits for the outcome.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore

from gtapp import __version__
from gtapp.config.config_file import role_of
from gtapp.config.files import DEFAULT_DEPTH, yaml_files
from gtapp.errors import ConfigError, GTError
from gtapp.observe import logs
from gtapp.process import control, spawn
from gtapp.process.facts import Facts
from gtapp.process.first_run import FirstRun, data_directory
from gtapp.process.plan import TICK_S
from gtapp.process.reports import ErrorReports
from gtapp.process.source import Config, Source, gt_variables, set_up_logs
from gtapp.process.unit import Prepared, Unit

log = logging.getLogger("gt.process")

GRACE_S = 10.0  # how long running connections may take to end after SIGTERM
SENT_S = 2.0  # for what is on its way to the workers, before the master is replaced
MOST_FILES = 1 << 20  # open files are allowed up to here: each visitor takes one or two
HANDLED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


def run_one(role: str, words: tuple[str, ...], environ: Mapping[str, str]) -> int:
    """Run one configuration until it is to end; the exit code. Raises ConfigError."""
    return Master(environ).run([Source(role, words, gt_variables(environ))])


def run_directory(top: Path, depth: int, environ: Mapping[str, str]) -> int:
    """Run every configuration in a directory; the exit code. Raises ConfigError."""
    return Master(environ, top, depth).run(sources_in(top, depth, environ))


def run_appliance(role: str, environ: Mapping[str, str]) -> int:
    """Run what is in the directory of a role, or, as long as there is nothing, the console alone; the exit code.

    Raises ConfigError.
    """
    directory = data_directory(role, environ)
    if yaml_files(directory):
        return run_directory(directory, DEFAULT_DEPTH, environ)
    return Master(environ, directory, DEFAULT_DEPTH, FirstRun(role, directory, environ)).run([])


def go_on(fd: int) -> int:
    """Go on as the master that this process was before, whose state is in the file `fd`; the exit code."""
    with open(fd, "rb") as file:
        state = json.load(file)
    return Master(os.environ, Path(state["top"]) if state["top"] else None, state["depth"]).go_on(state)


def sources_in(top: Path, depth: int, environ: Mapping[str, str]) -> list[Source]:
    """The configurations in a directory. Raises ConfigError with what is wrong with each."""
    sources, problems = [], []
    for path in yaml_files(top, depth):
        try:
            role = role_of(path)
            if role == "connect":
                raise ConfigError(f"{path}: connect is not available yet")
            if role != "users":  # one that a server names
                sources.append(Source(role, ("-c", str(path)), gt_variables(environ)))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    if not sources:
        raise ConfigError(f"{top}: there is no configuration in it, put a .yaml or .yml file there")
    return sources


class Master:
    """`top` is the directory that its configurations are in, None when it was given one alone. With `first_run` there
    is none in it yet."""

    def __init__(
        self,
        environ: Mapping[str, str],
        top: Path | None = None,
        depth: int = DEFAULT_DEPTH,
        first_run: FirstRun | None = None,
    ) -> None:
        self._environ = environ
        self._top = top
        self._depth = depth
        self._units: dict[str, Unit] = {}  # by the path of the configuration
        self._started = time.time()
        self._one_at_a_time = BoundedSemaphore()
        self._ended: Any = AsyncResult()  # the exit code
        self._ending: list[Unit] = []  # they have been removed
        self._stopping = False
        self._first = first_run
        self._control: control.Server | None = None
        self._reports = ErrorReports()
        self._facts = Facts(lambda: list(self._units.values()))
        self._commands = {
            "hello": self._hello,
            "reload": self._reload,
            "restart": self._restart,
            "upgrade": self._upgrade,
            "stop": self._stop,
            "status": self._status,
            **self._facts.commands,
        }

    def run(self, sources: list[Source]) -> int:
        """Start them, and wait for the end; the exit code. Raises ConfigError."""
        prepared = self._load_all(sources)
        self._set_up(prepared)
        self._allow_files()
        started: list[tuple[Unit, Prepared]] = []
        try:
            for unit, loaded in prepared:
                started.append((unit, unit.prepare(loaded.source)))
            self._listen_to_signals()
        except GTError as error:
            log.error("%s", error)
            for unit, ready in started:
                unit.discard(ready)
            self._abandon()
            return 2
        ticking = gevent.spawn(self._tick)
        starting = [gevent.spawn(unit.start, ready) for unit, ready in started]
        gevent.joinall(starting)
        problems = {each.value for each in starting if each.value}
        if problems:
            ticking.kill()
            if not self._stopping:
                log.error("%s", "; ".join(sorted(problems)))
            self._abandon()
            return 0 if self._stopping else 2
        log.info("GT %s runs as process %d", __version__, os.getpid())
        if self._first is not None:
            self._first.start()
        return self._run(ticking)

    def go_on(self, state: dict[str, Any]) -> int:
        """Go on with what the process had before; the exit code."""
        self._started = state["started"]
        for each in state["units"]:
            unit = Unit.restored(each, self._unit_over)
            self._units[_key(unit.source)] = unit
        self._set_up_logs(list(self._units.values()))
        self._listen_to_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        log.info("replaced in place: GT %s runs as process %d", __version__, os.getpid())
        gevent.spawn(self._in_turn, self._restart, log.info)
        return self._run(gevent.spawn(self._tick))

    def _load_all(self, sources: list[Source]) -> list[tuple[Unit, Prepared]]:
        """Raises ConfigError with the problems of all."""
        prepared, problems = [], []
        for source in sources:
            try:
                loaded, config = source.load()
            except ConfigError as error:
                problems.append(str(error))
            else:
                prepared.append((self._unit(loaded, config), Prepared(loaded, config, {})))
        if problems:
            raise ConfigError("\n".join(problems))
        return prepared

    def _unit(self, source: Source, config: Config) -> Unit:
        if self._first is not None:  # where its console listens, ours does already
            return Unit(source, config, self._unit_over, self._first.listen)
        return Unit(source, config, self._unit_over)

    def _set_up(self, prepared: list[tuple[Unit, Prepared]]) -> None:
        for unit, _ in prepared:
            self._units[_key(unit.source)] = unit
        self._set_up_logs([unit for unit, _ in prepared])

    def _set_up_logs(self, units: list[Unit]) -> None:
        """One configuration's log and error reports are the master's as well; of several, each has its own, and the
        master stderr. Raises ConfigError."""
        if self._top is None:
            set_up_logs(units[0].config, units[0].source.role)
            self._reports.follow(units[0].config.options, units[0].source.role)
        else:
            logs.setup("info", "text", None, 0, 1, "master")

    def _allow_files(self) -> None:
        """As many open files as the system lets us have: supervisord and shells often allow 1024."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        if soft < most:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    def _run(self, ticking: "gevent.Greenlet[[], None]") -> int:
        get_hub().print_exception = logs.unhandled  # type: ignore[method-assign, assignment]
        try:
            self._control = control.Server(self._environ, self._commanded)
        except GTError as error:
            log.warning("%s; gt.py -s and gt.py status can't reach this process, signals can", error)
        code: int = self._ended.get()
        ticking.kill()
        if self._control is not None:
            self._control.close()
        self._abandon()
        return code

    def _abandon(self) -> None:
        if self._first is not None:
            self._first.close()
        for unit in (*self._units.values(), *self._ending):
            for pid in unit.pids:
                spawn.kill(pid)
                spawn.reap(pid)
            unit.close()
        self._reports.stop()

    def _tick(self) -> None:
        while True:
            gevent.sleep(TICK_S)
            for unit in (*self._units.values(), *self._ending):
                unit.tick()
            if self._first is not None and self._first.tick():
                gevent.spawn(self._in_turn, self._reload, log.info)

    def _unit_over(self, unit: Unit, problem: str) -> None:
        if unit in self._ending:
            self._ending.remove(unit)
            unit.close()
        elif problem and len(self._units) > 1:
            log.error("%s: has ended: %s; the others go on", unit.name, problem)
            del self._units[_key(unit.source)]
            unit.close()
        elif problem:
            log.error("%s", problem)
            self._ended.set(2)
        else:
            del self._units[_key(unit.source)]
            unit.close()
            if not self._units:
                self._ended.set(0)

    # signals and commands

    def _listen_to_signals(self) -> None:
        commands: dict[int, Callable[[], Any]] = {
            signal.SIGHUP: lambda: self._in_turn(self._reload, log.info),
            signal.SIGUSR1: self._reopen,
            signal.SIGUSR2: lambda: self._in_turn(self._upgrade, log.info),
            signal.SIGTERM: lambda: self._end(GRACE_S),
            signal.SIGINT: lambda: self._end(0.0),
        }
        for number, command in commands.items():
            gevent.signal_handler(number, command)

    def _in_turn(self, command: Callable[..., dict[str, Any]], tell: Callable[[str], None]) -> None:
        """For signals, whose outcome the log tells."""
        try:
            with self._one_at_a_time:
                text = command({}, tell)["text"]
        except GTError as error:
            log.error("%s", error)
        except Exception:
            log.exception("unexpected error")
        else:
            log.info("%s", text)

    def _commanded(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        name = request.get("command")
        command = self._commands.get(str(name))
        if command is None:
            raise GTError(f"there is no command {name!r} here, GT {__version__}")
        if name in ("hello", "status", "stop", *self._facts.commands):
            return command(request, tell)

        def tell_both(line: str) -> None:
            log.info("%s", line)
            tell(line)

        with self._one_at_a_time:
            try:
                answer = command(request, tell_both)
            except GTError as error:
                log.error("%s", error)
                raise
        log.info("%s", answer["text"])
        return answer

    def _hello(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        del request, tell
        config = self._top or next((each.config.path for each in self._units.values()), None)
        return {
            "pid": os.getpid(),
            "version": __version__,
            "config": os.path.realpath(config) if config else "",
            "roles": [each.source.role for each in self._units.values()],
            "started": self._started,
            **({"first_run": self._first.hello()} if self._first is not None else {}),
        }

    def _status(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        detail = "debug" if request.get("debug") else "status"
        units = list(self._units.values())
        asked = [gevent.spawn(unit.status, detail) for unit in units]
        gevent.joinall(asked)
        return {**self._hello(request, tell), "units": [each.value for each in asked if each.value]}

    def _reopen(self) -> None:
        logs.reopen()
        for unit in self._units.values():
            unit.reopen_logs()

    def _reload(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        del request
        return self._renew(tell, restart=False)

    def _restart(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        del request
        return self._renew(tell, restart=True)

    def _renew(self, tell: Callable[[str], None], restart: bool) -> dict[str, Any]:
        """All configurations anew, or, when one of them can't be, none."""
        word = "restarted" if restart else "reloaded"
        self._check_goes_on()
        if self._first is not None:
            self._first.seen()
        try:
            changed, added, removed = self._read_again()
        except GTError as error:
            raise GTError(f"not {word}, everything stays as it was: {error}") from error
        problems = []
        for unit, prepared in changed:
            try:
                for line in unit.apply(prepared, restart):
                    tell(line)
            except GTError as error:
                problems.append(f"{unit.name}: stays as it was: {error}")
        for unit, prepared in added:
            self._units[_key(unit.source)] = unit
            problem = unit.start(prepared)
            if problem:
                del self._units[_key(unit.source)]
                unit.close()
                problems.append(f"{unit.name}: not started: {problem}")
            else:
                tell(f"{unit.name}: started")
        for unit in removed:
            del self._units[_key(unit.source)]
            self._ending.append(unit)
            unit.stop(GRACE_S)
            tell(f"{unit.name}: stopped, it is there no more")
        if self._top is None:
            unit = next(iter(self._units.values()))
            logs.set_level(unit.config.options.log_level)
            self._reports.follow(unit.config.options, unit.source.role)
        if self._first is not None and self._units:
            self._first.stop()
            gevent.spawn_later(SENT_S, self._first.close)
            self._first = None
        if problems:
            raise GTError("\n".join(problems))
        return {"text": word}

    def _read_again(self) -> tuple[list[tuple[Unit, Prepared]], list[tuple[Unit, Prepared]], list[Unit]]:
        """The configurations as they are now: of the units that run, new ones, and the units that are to go."""
        if self._top is None:
            sources = [unit.source.again() for unit in self._units.values()]
        else:
            sources = sources_in(self._top, self._depth, self._environ)
        changed, added, problems = [], [], []
        for source in sources:
            unit = self._units.get(_key(source))
            try:
                if unit is None or unit.source.role != source.role:
                    loaded, config = source.load()
                    new = self._unit(loaded, config)
                    added.append((new, new.prepare(loaded)))
                else:
                    changed.append((unit, unit.prepare(replace(source, secret=unit.source.secret))))
            except GTError as error:
                problems.append(str(error))
        if problems:
            for unit, prepared in (*changed, *added):
                unit.discard(prepared)
            raise GTError("\n".join(problems))
        kept = {id(unit) for unit, _ in changed}
        return changed, added, [unit for unit in self._units.values() if id(unit) not in kept]

    def _check_goes_on(self) -> None:
        if self._stopping:
            raise GTError("it is ending")

    # the end

    def _stop(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        del request
        tell(f"ending: running connections have {GRACE_S:.0f} s")
        self._end(GRACE_S)
        units = list(self._units.values())
        while self._units:
            gevent.sleep(0.02)
        cut = sum(unit.cut for unit in units)
        return {"text": f"stopped, {cut} connections were cut" if cut else "stopped"}

    def _end(self, seconds: float) -> None:
        self._stopping = True
        if self._first is not None:
            self._first.stop()
        for unit in list(self._units.values()):
            unit.stop(seconds)
        if not self._units:
            self._ended.set(0)

    # in place

    def _upgrade(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        """Replace the program of this process by the one that is installed now; it then restarts the workers."""
        del request
        self._check_goes_on()
        if self._first is not None:
            raise GTError("it is not set up yet: end it and start it anew instead")
        try:
            spawn.preflight()
        except GTError as error:
            raise GTError(f"not replaced: {error}") from error
        tell("replacing the master in place")
        gevent.spawn_later(0.05, self._replace)  # when whoever asked has the answer
        return {"text": "the master is being replaced; the workers follow"}

    def _replace(self) -> None:
        with self._one_at_a_time:
            if self._control is not None:
                self._control.close()
            waited = 0.0
            while any(unit.busy for unit in self._units.values()) and waited < SENT_S:
                gevent.sleep(0.01)
                waited += 0.01
            # From here on nothing else runs in this process.
            signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
            try:
                environ = {**os.environ, spawn.STATE_VARIABLE: str(self._state())}
                os.execve(sys.executable, sys.orig_argv, environ)
            except BaseException:
                log.critical("cannot be replaced in place, and ends", exc_info=True)
                os._exit(1)

    def _state(self) -> int:
        """A file with what the next program of this process needs; what it names is open for that."""
        state = {
            "top": str(self._top) if self._top else "",
            "depth": self._depth,
            "started": self._started,
            "units": [unit.state() for unit in self._units.values()],
        }
        fd = os.memfd_create("gt-master")
        with open(fd, "wb", closefd=False) as file:
            file.write(json.dumps(state).encode())
        os.lseek(fd, 0, os.SEEK_SET)
        for each in (fd, *_descriptors(state)):
            os.set_inheritable(each, True)
        return fd


def _key(source: Source) -> str:
    """What tells configurations apart."""
    words = source.words
    return os.path.realpath(words[1]) if len(words) == 2 and words[0] == "-c" else " ".join(words)


def _descriptors(state: dict[str, Any]) -> list[int]:
    found = []
    for unit in state["units"]:
        found += [fd for _, fd in unit["sockets"].values()]
        found += [worker["fd"] for worker in unit["workers"]]
        found += [port["fd"] for port in unit["ports"] if "fd" in port]
    return found
