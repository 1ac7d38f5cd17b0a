"""Reads configuration files, and remembers what they said: who else needs them must not find them edited meanwhile."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from gtapp.config.values import MIB
from gtapp.errors import ConfigError

MAX_FILE_BYTES = 10 * MIB
MADE_CERTIFICATE, MADE_KEY = "gt-cert.pem", "gt-key.pem"  # what a server makes for itself, beside its file
DEFAULT_DEPTH = 3  # levels of directories that a directory of configurations is searched; the first is itself


class Files:
    """Text files by path. What is in `texts` is not read again."""

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        self.texts: dict[str, str] = dict(texts or {})

    def read(self, path: Path) -> str:
        """Raises ConfigError."""
        name = str(path)
        if name not in self.texts:
            self.texts[name] = _from_disk(path)
        return self.texts[name]


def state_directory(config: Path) -> Path:
    """Where the console of a configuration keeps what is its own: beside it."""
    return config.with_name(f"{config.stem}.state")


def yaml_files(top: Path, depth: int = DEFAULT_DEPTH) -> list[Path]:
    """The YAML files in `top`, at most `depth` levels down, in order; too large ones are skipped and said so."""
    return sorted(_yaml_files(top, depth))


def _yaml_files(top: Path, depth: int) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(top):
        level = len(Path(directory).relative_to(top).parts) + 1
        if level == depth:
            subdirectories.clear()
        for path in (Path(directory, name) for name in names if name.endswith((".yaml", ".yml"))):
            if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
                print(f"{path}: skipped, it is larger than {MAX_FILE_BYTES:,} bytes", file=sys.stderr)
            else:
                yield path


def _from_disk(path: Path) -> str:
    return decode(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """What a file holds. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, a file is needed here") from None
    except PermissionError:
        who = f"user {os.getuid()}, group {os.getgid()}"
        raise ConfigError(
            f"{path}: cannot be read: Permission denied. GT is {who}: these need the right to read it"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_FILE_BYTES // MIB} MiB")
    return data


def decode(path: Path, data: bytes) -> str:
    """The text of a file that holds `data`. Raises ConfigError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text (byte 0x{data[error.start]:02x})") from None
