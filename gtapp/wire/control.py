"""The control socket's language, one JSON object a line: spoken by the master, `gt.py -s`, `gt.py status` and others.

A request is `{"command": …}`. The answer is any number of `{"line": text}`, to be shown as they come, and then one
object with `ok` and `text`, and what else the command gives.
"""

import json
from typing import Any

from gtapp.errors import WireError

MAX_BYTES = 64 * 1024 * 1024  # of one line: the status of a server with very many tunnels


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Reader:
    """Cuts what arrives into messages."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._limit = limit
        self._rest = bytearray()

    def receive(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are complete with `data`. Raises WireError; then there is nothing more to be had."""
        searched = len(self._rest)
        self._rest += data
        messages = []
        while (end := self._rest.find(b"\n", searched)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            searched = 0
            messages.append(_decode(line))
        if len(self._rest) > self._limit:
            raise WireError(f"a control message is longer than {self._limit:,} bytes")
        return messages


def _decode(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError("a control message is not JSON") from error
    if not isinstance(message, dict):
        raise WireError("a control message is no object")
    return message
