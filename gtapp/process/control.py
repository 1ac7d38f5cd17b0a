"""The control socket of a master, and how to reach it: `gt.py -s`, `gt.py status`, the console and tests use this.

Each running master has one socket, named by its process id, in a directory that only its user can enter.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer

from gtapp.errors import CommandFailed, GTError, WireError
from gtapp.wire import control

log = logging.getLogger("gt.process")

DIRECTORY_VARIABLE = "GT_RUNTIME_DIR"
MAX_REQUESTS = 100  # at a time
HELLO_S = 2.0  # for a master to say who it is
COMMAND_S = 120.0  # for a command to be done; a restart waits for new workers
READ_BYTES = 65536

Command = Callable[[dict[str, Any], Callable[[str], None]], dict[str, Any]]
"""Does what a request asks, telling lines meanwhile; the answer. Raises GTError."""


def directories(environ: Mapping[str, str]) -> list[Path]:
    """Where control sockets may be, the best place first."""
    chosen = environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return [Path(chosen)]
    places = [Path(environ["XDG_RUNTIME_DIR"], "gt")] if environ.get("XDG_RUNTIME_DIR") else []
    return [*places, Path("/run/gt"), _in_tmp()]


def _in_tmp() -> Path:
    return Path(f"/tmp/gt-{os.getuid()}")


class Server:
    """The socket of this process. `command` is called in a greenlet for each request.

    Raises GTError where there is no place for a socket.
    """

    def __init__(self, environ: Mapping[str, str], command: Command) -> None:
        self._command = command
        self.path, listener = _listen(environ)
        self._server = StreamServer(listener, self._serve, spawn=Pool(MAX_REQUESTS))
        self._server.start()

    def close(self) -> None:
        """Take no more requests; those that are served have half a second to read their answers."""
        self._server.stop(0.5)
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _serve(self, connection: socket.socket, address: object) -> None:
        del address

        def tell(line: str) -> None:
            with contextlib.suppress(OSError):  # whoever asked has gone: it is done all the same
                connection.sendall(control.encode({"line": line}))

        try:
            request = next(_messages(connection), None)
            if request is None:
                return
            try:
                answer = {"ok": True, "text": "", **self._command(request, tell)}
            except GTError as error:
                answer = {"ok": False, "text": str(error)}
            except Exception:
                log.exception("unexpected error in the command %r", request.get("command"))
                answer = {"ok": False, "text": "internal error: the log of this GT has it"}
            connection.sendall(control.encode(answer))
        except (OSError, WireError) as error:
            log.debug("control: %s", error)


def _listen(environ: Mapping[str, str]) -> tuple[Path, socket.socket]:
    problems = []
    for directory in directories(environ):
        path = directory / f"{os.getpid()}.sock"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(directory)
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            before = os.umask(0o177)  # 0600 from the first moment
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            sock.listen(16)
            return path, sock
        except OSError as error:
            problems.append(f"{directory}: {error.strerror or error}")
    raise GTError(
        f"no control socket ({'; '.join(problems)}): set {DIRECTORY_VARIABLE} to a directory of yours"
    )


def _check_owner(directory: Path) -> None:
    """In a place where everybody may write somebody else could have made it. Raises OSError."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(0, "is not a directory of this user")
    if found.st_mode & 0o077:
        directory.chmod(0o700)


# the other side


def ask(
    path: Path,
    command: str,
    tell: Callable[[str], None] = lambda line: None,
    timeout: float = COMMAND_S,
    **more: Any,
) -> dict[str, Any]:
    """The answer of the master with this socket to a command; `tell` gets the lines that come before it.

    Raises GTError; CommandFailed where it answers with a no.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(control.encode({"command": command, **more}))
            for message in _messages(connection):
                if "line" in message:
                    tell(message["line"])
                    continue
                if not message.get("ok"):
                    raise CommandFailed(str(message.get("text", "")), message)
                return message
    except TimeoutError:
        raise GTError(f"the process does not answer within {timeout:.0f} s; its log may say why") from None
    except (OSError, WireError) as error:
        raise GTError(f"the process cannot be asked: {getattr(error, 'strerror', None) or error}") from error
    raise GTError("the process has ended before it was done; its log may say why")


def _to_ask(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where masters are that can be believed: what answers gets secrets, and says where files are to be written."""
    for directory in directories(environ):
        if directory == _in_tmp():  # all other places only root or this user can make
            try:
                _check_owner(directory)
            except OSError as error:
                log.debug("control: %s: %s", directory, error)
                continue
        yield directory


def socket_of(environ: Mapping[str, str], pid: int) -> Path:
    """The socket of a master by its process id. Raises GTError while it has none."""
    for directory in _to_ask(environ):
        path = directory / f"{pid}.sock"
        if path.exists():
            return path
    raise GTError("GT is starting, or its control socket is gone; its log may say why")


class Master:
    """A running master, reached by its socket. `hello` is what it says of itself: pid, config, roles, version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hello = self.ask("hello", timeout=HELLO_S)

    def ask(
        self,
        command: str,
        tell: Callable[[str], None] = lambda line: None,
        timeout: float = COMMAND_S,
        **more: Any,
    ) -> dict[str, Any]:
        """The answer to a command; `tell` gets the lines that come before it. Raises GTError."""
        return ask(self.path, command, tell, timeout, **more)

    def __str__(self) -> str:
        config = self.hello.get("config")
        return f"process {self.hello['pid']} ({config or ', '.join(self.hello['roles'])})"


def masters(environ: Mapping[str, str]) -> list[Master]:
    """Those of this user that run."""
    found = []
    for directory in _to_ask(environ):
        for path in sorted(directory.glob("*.sock")):
            try:
                found.append(Master(path))
            except GTError as error:
                log.debug("%s: %s", path, error)
                _remove_if_stale(path)
    return found


def master_of(environ: Mapping[str, str], config: str | None) -> Master:
    """The one that runs the configuration file or directory `config`; without it, the only one. Raises GTError."""
    running = masters(environ)
    wanted = running
    if config is not None:
        real = os.path.realpath(config)
        wanted = [each for each in running if each.hello.get("config") == real]
    if len(wanted) == 1:
        return wanted[0]
    names = "".join(f"\n  {each}" for each in (wanted or running)) or " none of this user"
    if wanted:
        raise GTError(f"several GT run, say with -c CONFIG which one:{names}")
    if config is not None:
        raise GTError(f"no GT runs with {config}; what runs:{names}")
    raise GTError(
        f"no GT runs that can be reached (as this user, {DIRECTORY_VARIABLE} set as for the one that runs)"
    )


def _remove_if_stale(path: Path) -> None:
    """The socket of a process that was killed."""
    pid = path.stem
    if pid.isdigit() and not Path("/proc", pid).exists():
        with contextlib.suppress(OSError):
            path.unlink()


def _messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    reader = control.Reader()
    while data := connection.recv(READ_BYTES):
        yield from reader.receive(data)
