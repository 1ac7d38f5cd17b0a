"""The log file, which several processes write at a time: whole lines, and one of them rotates it. Used by `logs`."""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path


class LogFile:
    """Appends lines to `path`. One that would exceed `max_size` bytes (0: there is no limit) is renamed to `path`.1
    before, that one to `path`.2 and so on; `max_count` files are kept, this one included.

    The file may be renamed or removed by anybody at any time: each line goes to what `path` names when it is written.
    While it is rotated it is locked with flock, itself and without waiting: who finds it locked, or renamed once it
    has the lock, has nothing to do. Lines that others write in that moment go to the renamed file.
    """

    def __init__(self, path: Path, max_size: int, max_count: int) -> None:
        self._path = str(path)
        self._max_size = max_size
        self._max_count = max_count
        self._fd: int | None = None
        self._identity = (0, 0)  # device and inode
        self._torn = False  # the last write went in half

    def append(self, line: bytes) -> None:
        """Write `line` with one call. Raises OSError, and then some of it may be there."""
        try:
            fd, size = self._current()
            if self._is_full(size, len(line)):
                self._rotate(fd, len(line))
                fd, _ = self._current()
            data = b"\n" + line if self._torn else line
            if os.write(fd, data) < len(data):
                self._torn = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
        except OSError:
            self.close()
            raise

    def reopen(self) -> None:
        """Somebody has renamed the file: make a new one now. Raises OSError."""
        self.close()
        self._current()

    def close(self) -> None:
        """The next line opens it again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _current(self) -> tuple[int, int]:
        """The descriptor of the file, opened if need be, and its size (0 for what is no file). Raises OSError."""
        if self._fd is not None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.stat(self._path)
                if (status.st_dev, status.st_ino) == self._identity:
                    return self._fd, _size(status)
            self.close()
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        status = os.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)
        return self._fd, _size(status)

    def _is_full(self, size: int, more: int) -> bool:
        return 0 < self._max_size < size + more and size > 0

    def _rotate(self, fd: int, more: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another process does it; if it hangs, this one must not
        except OSError:
            pass  # a file system without locks: some lines may come into files that are smaller than they might be
        try:
            status = os.stat(self._path)
            if (status.st_dev, status.st_ino) != self._identity or not self._is_full(status.st_size, more):
                return
            if self._max_count > 1:
                self._rename()
            else:
                os.ftruncate(fd, 0)
        except FileNotFoundError:
            pass  # somebody else has renamed it
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _rename(self) -> None:
        for number in range(self._max_count - 2, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.rename(self._path, f"{self._path}.1")


def _size(status: os.stat_result) -> int:
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
