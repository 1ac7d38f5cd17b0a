"""The errors GT raises on purpose. Every message a user can meet says what to do next."""


class GTError(Exception):
    """Base of all of them; `str(error)` is one line for the user."""


class ConfigError(GTError):
    """A configuration that cannot be used. The message reads `file:line: …` where there is a file."""


class WireError(GTError):
    """The other end broke a protocol. The one error that parsers in `gtapp.wire` raise on bad input."""


class RemoteRefused(GTError):
    """The server refused this tunnel: `code` is one of the words of PROTOCOL.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LinkError(GTError):
    """A connection could not be made or was lost; OS errors are translated to this at the edge."""
