"""Keeps a console process running, beside the workers and never in their way. Used by the unit, and at the first run.

The console is a process of its own, `gt.py console FD`: it gets its listening socket and what it is for, and reaches
the relay by the control socket like everybody else. One that dies is replaced; one that hangs is ended first.
"""

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gevent

from gtapp.config.files import state_directory
from gtapp.config.load import MAKE_CERTIFICATE
from gtapp.errors import GTError
from gtapp.process import spawn
from gtapp.process.plan import HANG_TICKS, START_TICKS
from gtapp.process.source import Config, Source
from gtapp.relay.channel import Channel, Message, close_all, pair
from gtapp.relay.sockets import PlainSocket

log = logging.getLogger("gt.process")

FIRST_PAUSE_TICKS = 2  # before one that has died is replaced; doubled while they die young
LONGEST_PAUSE_TICKS = 120
YOUNG_TICKS = 20
STOP_TICKS = 10  # for one that has been told to end
CLOSE_S = 3.0  # the same at the end of the master
POLL_S = 0.02


@dataclass(frozen=True)
class Start:
    """What a console is for. `config` "" is a GT without a file, or with `setup` one that is to be set up: then
    `target` is the file to be made. `state` is the directory for what the console keeps. `cert_file` "" is HTTP."""

    role: str
    config: str
    words: tuple[str, ...]
    environ: dict[str, str]
    state: str
    cert_file: str = ""
    key_file: str = ""
    setup: bool = False
    target: str = ""


class _Running:
    """A console process."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel
        self.ready = False
        self.age = 0  # ticks
        self.silent = 0
        self.left = -1  # ticks until it is killed; -1: it is to go on


class ConsoleKeeper:
    """The console of one configuration. `want` says what it is to be, None that there shall be none."""

    def __init__(self) -> None:
        self._start: Start | None = None
        self._sock: PlainSocket | None = None
        self._inode = 0  # of that socket, whatever its descriptors are
        self._all: list[_Running] = []
        self._pause = 0  # ticks until the next is started
        self._failures = 0
        self._ended = False

    @property
    def pids(self) -> list[int]:
        return [each.pid for each in self._all]

    def want(self, start: Start | None, sock: PlainSocket | None, anew: bool = False) -> None:
        """From now on. `sock` listens, and stays the caller's. What runs like that already goes on, unless it is to
        be started `anew`; otherwise the next one has begun to serve before the one before ends."""
        inode = os.fstat(sock.fileno()).st_ino if sock is not None else 0
        same = start == self._start and inode == self._inode
        self._start, self._sock, self._inode = start, sock, inode
        if same and not anew and (start is None or self._now() is not None):
            return
        self._pause = self._failures = 0
        if start is None:
            for each in self._all:
                self._end(each)
        else:
            self._spawn()

    def stop(self) -> None:
        """No more consoles."""
        self._ended = True
        self.want(None, None)

    def close(self) -> None:
        """None is left when this returns; those that do not end in time are killed."""
        self.stop()
        waited = 0.0
        while self._all and waited < CLOSE_S:
            gevent.sleep(POLL_S)
            waited += POLL_S
        for each in list(self._all):
            spawn.kill(each.pid)
            spawn.reap(each.pid)

    def tick(self) -> None:
        """Call each TICK_S."""
        for each in self._all:
            each.age += 1
            each.silent += 1
            if each.left > 0:
                each.left -= 1
            # One that starts says nothing before it has loaded its code, and a small machine takes its time for that.
            if each.left == 0 or each.silent > (HANG_TICKS if each.ready else START_TICKS):
                if each.left < 0:
                    log.error("the console (process %d) has not been heard of: it is killed", each.pid)
                each.silent = 0
                spawn.kill(each.pid)
        if self._start is not None and self._now() is None:
            self._pause -= 1
            if self._pause <= 0:
                self._spawn()

    def reopen_logs(self) -> None:
        for each in self._all:
            each.channel.send("reopen")

    def _now(self) -> _Running | None:
        """The one that is to go on."""
        return next((each for each in reversed(self._all) if each.left < 0), None)

    def _spawn(self) -> None:
        if self._ended or self._start is None or self._sock is None:
            return
        ours, theirs = pair()
        try:
            pid = spawn.spawn(theirs, "console")
        except GTError as error:
            ours.close()
            log.error("no console: %s", error)
            self._failed()
            return
        finally:
            theirs.close()
        running = _Running(pid, Channel(ours))
        running.channel.on_message = lambda message: self._received(running, message)
        running.channel.on_closed = lambda: _in_greenlet(self._gone, running)
        running.channel.start()
        running.channel.send("start", asdict(self._start), b"", [os.dup(self._sock.fileno())])
        self._all.append(running)

    def _received(self, running: _Running, message: Message) -> None:
        close_all(message.fds)
        running.silent = 0
        if message.kind == "ready" and not running.ready:
            running.ready = True
            for each in self._all[: self._all.index(running)]:
                self._end(each)
        elif message.kind == "failed":
            log.error("the console cannot run: %s", message.values.get("reason"))

    def _end(self, running: _Running) -> None:
        if running.left < 0:
            running.left = STOP_TICKS
            running.channel.send("stop")

    def _gone(self, running: _Running) -> None:
        how = spawn.reap(running.pid)
        if running in self._all:
            self._all.remove(running)
        if running.left < 0:
            log.error("the console (process %d) has %s", running.pid, how)
            self._failures = self._failures + 1 if running.age < YOUNG_TICKS else 1
            self._failed()

    def _failed(self) -> None:
        self._pause = min(FIRST_PAUSE_TICKS * 2 ** min(self._failures, 8), LONGEST_PAUSE_TICKS)


def console_start(source: Source, config: Config) -> Start:
    """How the console of a configuration that runs is to be started. Raises GTError where its certificate cannot be
    used."""
    path = Path(os.path.realpath(config.path)) if config.path else None
    cert_file, key_file = certificate_files(config)
    state = state_directory(path) if path else stateless_directory(source.role)
    return Start(
        role=source.role,
        config=str(path or ""),
        words=source.words,
        environ=dict(source.environ),
        state=str(state),
        cert_file=cert_file,
        key_file=key_file,
    )


def certificate_files(config: Config) -> tuple[str, str]:
    """The files of the console's certificate and its key, or "" twice. Raises GTError where they cannot be used."""
    options = config.options
    if not options.web_cert_file or options.web_addr is None:
        return "", ""
    from gtapp.server.certificates import made_pair, server_context  # brings 11 MB with it

    if options.web_cert_file == MAKE_CERTIFICATE:
        beside = config.path.parent if config.path else Path()
        cert, key = made_pair(beside, [options.web_addr.host] if options.web_addr.host else [])
    else:
        cert, key = Path(options.web_cert_file), Path(options.web_key_file)
    server_context(cert, key, "tls1.2")
    return str(cert), str(key)


def stateless_directory(role: str) -> Path:
    """For a GT without a file: what its console keeps is for this user alone, and lasts."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(os.environ.get("GT_DATA_DIR") or os.path.join(base, "gt"), f"{role}.state")


def _in_greenlet(function: Any, *args: Any) -> None:
    gevent.spawn(function, *args)
