"""The effective configuration as YAML, with secrets masked; called by `cli` for `gt.py check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.config.options import OPTIONS, SERVICE, USER, User
from gtapp.config.schema import Option

MASK = "***"


def server_yaml(config: ServerConfig) -> str:
    """A server's configuration; the users of every source stand under `users`."""
    options = _values(config.options, OPTIONS["server"])
    for key in ("id", "secret"):
        options.pop(key, None)
    return _dump({"type": "server", "users": _users(config.users), "options": options})


def client_yaml(config: ClientConfig) -> str:
    """A client's configuration."""
    services = [_values(service, SERVICE) for service in config.services]
    return _dump(
        {"type": "client", "services": services, "options": _values(config.options, OPTIONS["client"])}
    )


def users_yaml(users: Mapping[str, User]) -> str:
    """The users of a users file."""
    return _dump(_users(users))


def _users(users: Mapping[str, User]) -> dict[str, Any]:
    return {id: _values(user, USER) for id, user in users.items()}


def _values(instance: object, options: Mapping[str, Option]) -> dict[str, Any]:
    """What is set to something, in the order of the table; what is not available yet is always at its default."""
    shown = {}
    for key, entry in options.items():
        value = getattr(instance, entry.name)
        if entry.available and value not in (None, "", ()):
            shown[key] = MASK if entry.secret else entry.show(value)
    return shown


def _dump(document: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    return text
