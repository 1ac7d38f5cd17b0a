"""The last versions of a configuration, each a file that says in its first line who saved it, when and why; used by
`store`, which sees to it that one process at a time writes here."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from gtapp.config.durable import sync_directory, write_new
from gtapp.errors import ConfigError

KEPT = 20
_PENDING = "pending"  # what is recorded before the configuration is replaced, and counts after
_NAME = re.compile(r"[0-9]{6,12}")
_FIRST_LINE_BYTES = 8192
_WORD_CHARACTERS = 500  # of who, and of what


@dataclass(frozen=True, slots=True)
class Version:
    """A version that was saved: `time` in seconds since 1970, `etag` of the file as it was then."""

    id: str
    time: float
    who: str
    what: str
    etag: str


class Versions:
    """The versions in a directory. Raises OSError where they cannot be written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> list[Version]:
        """All there are, the newest first."""
        found = (_read(self._directory / name)[0] for name in reversed(self._names()))
        return [version for version in found if version is not None]

    def data(self, id: str) -> bytes:
        """The configuration as it was. Raises ConfigError."""
        version, data = _read(self._directory / id, whole=True) if _NAME.fullmatch(id) else (None, b"")
        if version is None:
            raise ConfigError(f"there is no version {id[:20]} any more: only the last {KEPT} are kept")
        return data

    def prepare(self, version: Version, data: bytes) -> None:
        """Write a version that does not count yet."""
        write_new(self._directory / _PENDING, _first_line(version) + data)

    def settle(self, current: str) -> None:
        """Let the version that was prepared count if it is the configuration now, whose etag is `current`."""
        pending = self._directory / _PENDING
        version, _ = _read(pending)
        if version is None or version.etag != current:
            pending.unlink(missing_ok=True)
            return
        names = self._names()
        pending.rename(self._directory / f"{int(names[-1]) + 1 if names else 1:06}")
        for name in names[: max(0, len(names) + 1 - KEPT)]:
            (self._directory / name).unlink(missing_ok=True)
        sync_directory(self._directory)

    def forget(self) -> None:
        """Remove the version that was prepared: its configuration could not be saved."""
        (self._directory / _PENDING).unlink(missing_ok=True)

    def _names(self) -> list[str]:
        """Those of all versions, the oldest first."""
        if not self._directory.is_dir():
            return []
        return sorted((name for name in os.listdir(self._directory) if _NAME.fullmatch(name)), key=int)


def _read(path: Path, whole: bool = False) -> tuple[Version | None, bytes]:
    """A version and, if `whole`, what it holds; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.readline(_FIRST_LINE_BYTES).removeprefix(b"# "))
            version = Version(path.name, float(said["time"]), said["who"], said["what"], said["etag"])
            return version, file.read() if whole else b""
    except (OSError, ValueError, KeyError, TypeError):
        return None, b""


def _first_line(version: Version) -> bytes:
    said = asdict(version) | {"who": version.who[:_WORD_CHARACTERS], "what": version.what[:_WORD_CHARACTERS]}
    del said["id"]
    return b"# " + json.dumps(said).encode() + b"\n"
