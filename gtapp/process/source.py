"""Where a configuration comes from. The master loads it; workers load the same again from what the master has read,
so that one that is replaced does not find a file that somebody is just editing."""

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gtapp.config.files import Files
from gtapp.config.load import ClientConfig, ServerConfig, load_client, load_server
from gtapp.config.options import OPTIONS
from gtapp.observe import logs

Config = ServerConfig | ClientConfig

log = logging.getLogger("gt.config")


@dataclass(frozen=True)
class Source:
    """One configuration: a role, the words after it on the command line, the environment and files.

    `secret` is for a client that is given none. `texts` is what the files have said; what is not there is read.
    """

    role: str
    words: tuple[str, ...]
    environ: Mapping[str, str]
    secret: str = field(default_factory=secrets.token_urlsafe)
    texts: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> tuple["Source", Config]:
        """The configuration, and this source with what its files have said. Raises ConfigError."""
        files = Files(self.texts)
        config: Config
        if self.role == "server":
            config = load_server(self.words, self.environ, files)
        else:
            config = load_client(self.words, self.environ, files, self.secret)
        hide(config)
        return replace(self, texts=files.texts), config

    def again(self) -> "Source":
        """The same from the files as they are now."""
        return replace(self, texts={})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Source":
        known = {each.name: values[each.name] for each in fields(cls)}
        return cls(**known | {"words": tuple(values["words"])})


def gt_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the environment can set options."""
    return {name: value for name, value in environ.items() if name.startswith("GT_")}


def hide(config: Config) -> None:
    """From now on no log shows its secrets."""
    if isinstance(config, ServerConfig):
        for user in config.users.values():
            for secret in (user.secret, user.verifier):
                if secret:
                    logs.hide(secret)
        return
    logs.hide(config.options.secret)
    for service in config.services:
        if service.basic_auth:
            logs.hide(service.basic_auth.partition(":")[2])


def set_up_logs(config: Config, role: str) -> None:
    """From now on this process logs as `config` says, as `role`."""
    options = config.options
    file = Path(options.log_file) if options.log_file else None
    sizes = (options.log_file_max_size, options.log_file_max_count)
    logs.setup(options.log_level, options.log_format, file, *sizes, role)


@dataclass(frozen=True)
class Difference:
    """What is different between two configurations of one role: names of options, by what a change takes."""

    live: Sequence[str]
    listeners: Sequence[str]
    restart: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.live or self.listeners or self.restart)


def difference(role: str, old: Config, new: Config) -> Difference:
    """What changes when `new` takes the place of `old`."""
    changed: dict[str, list[str]] = {"live": [], "listeners": [], "restart": []}
    for option in OPTIONS[role].values():
        if getattr(old.options, option.name) != getattr(new.options, option.name):
            changed[option.applies].append(option.key)
    if isinstance(old, ServerConfig) and isinstance(new, ServerConfig):
        changed["live"] += _changed_users(old, new)
    elif isinstance(old, ClientConfig) and isinstance(new, ClientConfig) and old.services != new.services:
        changed["live"].append(f"services ({len(old.services)} before, {len(new.services)} now)")
    return Difference(**changed)


def _changed_users(old: ServerConfig, new: ServerConfig) -> list[str]:
    before, now = old.users, new.users
    common = before.keys() & now.keys()
    counts = {
        "added": len(now.keys() - before.keys()),
        "removed": len(before.keys() - now.keys()),
        "changed": sum(before[each] != now[each] for each in common),
    }
    words = [f"{count} {word}" for word, count in counts.items() if count]
    return [f"users ({', '.join(words)})"] if words else []
