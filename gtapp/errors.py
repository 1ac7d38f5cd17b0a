"""The errors GT raises on purpose. Every message a user can meet says what to do next."""

from collections.abc import Mapping
from typing import Any


class GTError(Exception):
    """Base of all of them; `str(error)` is one line for the user."""


class ConfigError(GTError):
    """A configuration that cannot be used. The message reads `file:line: …` where there is a file."""


class WireError(GTError):
    """The other end broke a protocol. The one error that parsers in `gtapp.wire` raise on bad input."""


class RemoteRefused(GTError):
    """The server refuses a tunnel: `code` is one of the words of docs/PROTOCOL.md, `service` the index of the
    service that it is about, if it is about one."""

    def __init__(self, code: str, message: str, service: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.service = service


class LinkError(GTError):
    """A connection could not be made or was lost; OS errors are translated to this at the edge.

    `code` is a word for the reason, where programs may want to know it."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CommandFailed(GTError):
    """A running GT answers a command with a no; `answer` is all that it says."""

    def __init__(self, message: str, answer: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.answer = answer
