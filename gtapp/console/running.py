"""The running relay, as the console sees it: one method for each command of its master's control socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

READ_S = 3.0  # for what only looks: a page must not hang with the relay
DISCONNECT_S = 10.0
PROVE_S = 30.0  # for a way that is tried out: a dial, a handshake and a request
CHANGE_S = 120.0  # a restart waits for new workers

Tell = Callable[[str], None]


def _nothing(line: str) -> None:
    del line


class Ask(Protocol):
    """`Master.ask` of `gtapp.process.control`. Raises GTError with words for people."""

    def __call__(
        self, command: str, tell: Tell = ..., timeout: float = ..., **more: Any
    ) -> dict[str, Any]: ...


class Running:
    """Every method raises GTError when the master does not answer or refuses; the words are for people.

    `config` is the path of the configuration it is about, "" or None when the master has only one, of flags.
    """

    def __init__(self, ask: Ask, config: str | None) -> None:
        self._ask = ask
        self._about: dict[str, Any] = {"config": config} if config else {}

    def status(self) -> dict[str, Any]:
        return self._read("status")

    def metrics(self) -> dict[str, Any]:
        return self._read("metrics")

    def connections(self, user: str | None = None, limit: int = 500) -> dict[str, Any]:
        return self._read("connections", limit=limit, **({"user": user} if user is not None else {}))

    def disconnect(
        self, *, user: str | None = None, tunnel: str | None = None, connection: str | None = None
    ) -> dict[str, Any]:
        """One of them; the answer has `count`."""
        named = {"user": user, "tunnel": tunnel, "connection": connection}
        which: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        return self._ask("disconnect", timeout=DISCONNECT_S, **self._about, **which)

    def log(
        self, after: Mapping[str, int] | None = None, level: str = "", limit: int = 500
    ) -> dict[str, Any]:
        more: dict[str, Any] = {"limit": limit}
        if after:
            more["after"] = dict(after)
        if level:
            more["level"] = level
        return self._read("log", **more)

    def check(self) -> dict[str, Any]:
        """Whether a request gets through a tunnel of the server's own."""
        return self._ask("check", timeout=PROVE_S, **self._about)

    def probe(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Whether a tunnel could be opened with these options of a client."""
        return self._ask("probe", timeout=PROVE_S, **self._about, options=dict(options))

    def reload(self, tell: Tell = _nothing) -> dict[str, Any]:
        return self._change("reload", tell)

    def restart(self, tell: Tell = _nothing) -> dict[str, Any]:
        return self._change("restart", tell)

    def upgrade(self, tell: Tell = _nothing) -> dict[str, Any]:
        return self._change("upgrade", tell)

    def stop(self, tell: Tell = _nothing) -> dict[str, Any]:
        return self._change("stop", tell)

    def _read(self, command: str, **more: Any) -> dict[str, Any]:
        return self._ask(command, timeout=READ_S, **self._about, **more)

    def _change(self, command: str, tell: Tell) -> dict[str, Any]:
        return self._ask(command, tell=tell, timeout=CHANGE_S, **self._about)
