"""Writing a file so that at every moment it is the old or the new one, whole; used by whoever keeps files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MODE = 0o600  # configurations hold secrets


def write_new(path: Path, data: bytes, like: os.stat_result | None = None) -> None:
    """Write a file that nobody reads yet and see it onto the disk. `like`: whose owner it gets, if it may.

    Raises OSError; then there is no file.
    """
    path.unlink(missing_ok=True)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE), "wb") as file:
            if like is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), like.st_uid, like.st_gid)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes) -> None:
    """Put `data` in the place of what a file says. Raises OSError; then it is as it was."""
    made = path.with_name(f"{path.name}.new")
    write_new(made, data)
    made.replace(path)


def sync_directory(path: Path) -> None:
    """See what was renamed in a directory onto the disk, where its file system can do that."""
    with contextlib.suppress(OSError):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
