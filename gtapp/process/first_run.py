"""The first run: `gt.py server` or `gt.py client` with nothing else, and no configuration in its directory yet.

The master then has a console alone, with the wizard. It ends when there is a configuration that runs, whether the
wizard has written it or somebody has put it there.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtapp.config.files import state_directory, yaml_files
from gtapp.config.problems import quoted
from gtapp.config.values import ADDRESS, Address
from gtapp.errors import ConfigError
from gtapp.process.console import ConsoleKeeper, Start
from gtapp.process.source import gt_variables
from gtapp.relay.sockets import PlainSocket, plain_socket, show_address
from gtapp.server.listeners import listen

log = logging.getLogger("gt.process")

DATA_VARIABLE = "GT_DATA_DIR"
ADDRESS_VARIABLES = ("GT_WEB_ADDR", "GT_SETUP_ADDR")  # of the console; the second is for the first run alone
DEFAULT_ADDRESSES = {"server": "127.0.0.1:8000", "client": "127.0.0.1:7000"}


def data_directory(role: str, environ: Mapping[str, str]) -> Path:
    """Where the appliance of a role has its configuration."""
    chosen = environ.get(DATA_VARIABLE)
    if chosen:
        return Path(chosen)
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base, "gt", role)


class FirstRun:
    """The console of a GT that is not set up. Raises ConfigError or GTError where it cannot be had."""

    def __init__(self, role: str, directory: Path, environ: Mapping[str, str]) -> None:
        self.role = role
        self.target = Path(os.path.realpath(directory)) / f"{role}.yml"
        self.state = state_directory(self.target)
        self._directory = directory
        address = _address(role, environ)
        _make(directory)
        self._sock = listen(address)
        self._start = Start(
            role=role,
            config="",
            words=(),
            environ=gt_variables(environ),
            state=str(self.state),
            setup=True,
            target=str(self.target),
        )
        self.console = ConsoleKeeper()
        self._seen = self._before = self._files()

    @property
    def address(self) -> str:
        return show_address(self._sock.getsockname())

    def start(self) -> None:
        log.info("not set up yet: the console listens on %s", self.address)
        self.console.want(self._start, self._sock)

    def stop(self) -> None:
        """It is set up, or is to end."""
        self.console.stop()

    def close(self) -> None:
        self.console.close()
        self._sock.close()

    def tick(self) -> bool:
        """Whether there are other files than before, and have been since the last tick."""
        self.console.tick()
        now = self._files()
        changed = now == self._before != self._seen
        self._before = now
        if changed:
            self._seen = now
        return changed

    def seen(self) -> None:
        """What there is has just been tried."""
        self._seen = self._files()

    def listen(self, address: Address) -> PlainSocket:
        """A listening socket for a configuration: where the console is already, its own."""
        if address in (_as_address(self._sock), _address(self.role, self._start.environ)):
            return plain_socket(int(self._sock.family), os.dup(self._sock.fileno()))
        return listen(address)

    def hello(self) -> dict[str, Any]:
        return {"role": self.role, "address": self.address, "state": str(self.state), "tls": False}

    def _files(self) -> list[tuple[str, int, int]]:
        found = []
        try:
            for path in yaml_files(self._directory):
                status = path.stat()
                found.append((str(path), status.st_ino, status.st_ctime_ns))
        except OSError:  # gone again
            return []
        return found


def _address(role: str, environ: Mapping[str, str]) -> Address:
    """Where the console of the first run listens. Raises ConfigError."""
    name = next((each for each in ADDRESS_VARIABLES if environ.get(each)), "")
    text = environ.get(name, DEFAULT_ADDRESSES[role])
    try:
        address = ADDRESS.parse(text)
    except ValueError:
        address = None
    if address is None:
        raise ConfigError(f"{name}: found {quoted(text)}, allowed: {ADDRESS.allowed}")
    return address


def _as_address(sock: PlainSocket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host, port)


def _make(directory: Path) -> None:
    """Raises ConfigError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{directory}: cannot be made: {error.strerror}. Let {DATA_VARIABLE} name a directory that this user may "
            f"write to"
        ) from None
    if not os.access(directory, os.W_OK):
        raise ConfigError(
            f"{directory}: cannot be written to by user {os.getuid()}. Give it the right, or let {DATA_VARIABLE} name "
            f"another directory"
        )
