"""The last versions of a configuration, each a file that says in its first line who saved it, when and why; used by
`store`, which sees to it that one process at a time writes here."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from gtapp.config.durable import sync_directory, write_new
from gtapp.errors import ConfigError

KEPT = 20
_PENDING = "pending"  # what is recorded before the configuration is replaced, and counts after
_NAME = re.compile(r"[0-9]{6,12}")
_FIRST_LINE_BYTES = 4096


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
        found = (self._read(path)[0] for path in sorted(self._paths(), reverse=True))
        return [version for version in found if version is not None]

    def data(self, id: str) -> bytes:
        """The configuration as it was. Raises ConfigError."""
        version, data = self._read(self._directory / id) if _NAME.fullmatch(id) else (None, b"")
        if version is None:
            raise ConfigError(f"there is no version {id[:20]} any more: only the last {KEPT} are kept")
        return data

    def prepare(self, version: Version, data: bytes) -> None:
        """Write a version that does not count yet."""
        write_new(self._directory / _PENDING, _first_line(version) + data)

    def settle(self, current: str) -> None:
        """Let the version that was prepared count if it is the configuration now, whose etag is `current`."""
        pending = self._directory / _PENDING
        version, _ = self._read(pending)
        if version is None or version.etag != current:
            pending.unlink(missing_ok=True)
            return
        names = sorted(path.name for path in self._paths())
        pending.rename(self._directory / f"{int(names[-1]) + 1 if names else 1:06}")
        for name in names[: len(names) + 1 - KEPT]:
            (self._directory / name).unlink(missing_ok=True)
        sync_directory(self._directory)

    def _paths(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return [path for path in self._directory.iterdir() if _NAME.fullmatch(path.name)]

    def _read(self, path: Path) -> tuple[Version | None, bytes]:
        """A version and what it holds; None where there is none that can be read."""
        try:
            first, _, data = path.read_bytes().partition(b"\n")
            said = json.loads(first.removeprefix(b"# "))
            return Version(path.name, float(said["time"]), said["who"], said["what"], said["etag"]), data
        except (OSError, ValueError, KeyError, TypeError):
            return None, b""


def _first_line(version: Version) -> bytes:
    said = {key: value for key, value in asdict(version).items() if key != "id"}
    return b"# " + json.dumps(said).encode() + b"\n"
