"""What the console is about: one `Console` for each application, found by `console()` in every view."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flask import current_app

from gtapp.config.load import ClientConfig, ServerConfig, load_client, load_server
from gtapp.console.database import Database
from gtapp.console.running import Running
from gtapp.errors import ConfigError
from gtapp.observe import logs

if TYPE_CHECKING:
    from gtapp.config.store import Store
    from gtapp.console.sampler import Sampler

EXTENSION = "gt-console"

Config = ServerConfig | ClientConfig
_Stamp = tuple[tuple[int, int, int] | None, ...]  # of each file that was read: inode, time and size


@dataclass
class Console:
    """The console of one configuration, or of none yet (`setup`)."""

    role: str  # server or client
    store: Store | None  # None: started by flags alone, settings are shown and cannot be saved
    words: tuple[str, ...]  # what followed the role on the command line
    environ: Mapping[str, str]
    running: Running  # the relay
    db: Database
    sampler: Sampler | None  # None in setup mode
    state: Path  # directory of the console's own files
    tls: bool  # whether it is served over TLS
    setup: bool  # first run: nothing but the wizard is served
    listen: str  # where the console listens, such as 127.0.0.1:8000
    clock: Callable[[], float] = time.time  # tests set it
    _loaded: tuple[_Stamp, Config] | None = field(default=None, init=False, repr=False)

    def config(self) -> Config:
        """The configuration as it is on disk now. Raises ConfigError when it cannot be used."""
        stamp = self._stamp()
        if self._loaded is None or self._loaded[0] != stamp:
            config = self._load()
            _hide(config)
            self._loaded = (stamp, config)
        return self._loaded[1]

    def usable_config(self) -> Config:
        """The same; while somebody is breaking the file by hand, what it said before. Raises ConfigError."""
        try:
            return self.config()
        except ConfigError:
            if self._loaded is None:
                raise
            return self._loaded[1]

    @property
    def port(self) -> str:
        return self.listen.rpartition(":")[2]

    @property
    def on_loopback(self) -> bool:
        """Whether nobody but this machine reaches it."""
        host = self.listen.rpartition(":")[0].strip("[]")
        return host == "localhost" or host == "::1" or host.startswith("127.")

    def _load(self) -> Config:
        if self.setup:
            raise ConfigError("there is no configuration yet: the setup makes it")
        if self.role == "server":
            return load_server(self.words, self.environ)
        return load_client(self.words, self.environ)

    def _stamp(self) -> _Stamp:
        """Changes when a file does that the configuration comes from."""
        paths = [self.store.path] if self.store else []
        if self._loaded and isinstance(self._loaded[1], ServerConfig) and self._loaded[1].options.users:
            paths.append(Path(self._loaded[1].options.users))
        return tuple(_stamp_of(path) for path in paths)


def console() -> Console:
    """That of the application whose request is served."""
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Console)
    return found


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _hide(config: Config) -> None:
    """From now on no log of this process shows its secrets."""
    secrets = [config.options.password, config.options.signing_key, config.options.sentry_dsn]
    if isinstance(config, ServerConfig):
        secrets += [each for user in config.users.values() for each in (user.secret, user.verifier) if each]
    else:
        secrets += [config.options.secret]
        secrets += [each.basic_auth.partition(":")[2] for each in config.services if each.basic_auth]
    for secret in secrets:
        if secret:
            logs.hide(secret)
