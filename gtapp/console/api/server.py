"""What views about a server's users share."""

from __future__ import annotations

from typing import Any

from gtapp.config.load import ServerConfig
from gtapp.console.changes import store_of
from gtapp.console.context import console
from gtapp.errors import GTError


def server_config() -> ServerConfig:
    """The configuration of this server. Raises ConfigError when it cannot be used."""
    config = console().usable_config()
    assert isinstance(config, ServerConfig)
    return config


def own_users() -> dict[str, dict[str, Any]]:
    """What the file itself says of its users, by id, in YAML form; nothing while it is being broken by hand."""
    if console().store is None:
        return {}
    try:
        store = store_of()
        return store.document(store.read().text).users()
    except GTError:
        return {}
