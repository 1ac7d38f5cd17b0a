"""The effective configuration as YAML, with secrets masked; called by `cli` for `gt.py check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.config.options import OPTIONS, SERVICE, USER, Limits, ServerOptions, User
from gtapp.config.schema import Option, options_of

MASK = "***"
_LIMITS = options_of(Limits)


def server_yaml(config: ServerConfig) -> str:
    """A server's configuration; the users of every source stand under `users`."""
    options = _values(config.options, OPTIONS["server"])
    for key in ("id", "secret"):
        options.pop(key, None)
    return _dump({"type": "server", "users": _users(config.users, config.options), "options": options})


def client_yaml(config: ClientConfig) -> str:
    """A client's configuration."""
    services = [_values(service, SERVICE) for service in config.services]
    return _dump(
        {"type": "client", "services": services, "options": _values(config.options, OPTIONS["client"])}
    )


def users_yaml(users: Mapping[str, User]) -> str:
    """The users of a users file, as they are on a server that limits nothing itself."""
    return _dump(_users(users, ServerOptions()))


def _users(users: Mapping[str, User], server: ServerOptions) -> dict[str, Any]:
    return {id: _user(user, server) for id, user in users.items()}


def _user(user: User, server: ServerOptions) -> dict[str, Any]:
    """What is set, of the limits those that are not the server's: an empty list is such a limit, too."""
    shown = {key: value for key, value in _values(user, USER).items() if key not in _LIMITS}
    for key, entry in _LIMITS.items():
        value = getattr(user, entry.name)
        if value != getattr(server, entry.name):
            shown[key] = entry.show(value)
    return shown


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
