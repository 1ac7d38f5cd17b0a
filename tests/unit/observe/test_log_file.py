"""The log file: several real processes write it, it is rotated once, and no line is lost or split."""

from __future__ import annotations

import fcntl
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gtapp.observe.log_file import LogFile
from tests.support.processes import eventually

# Logs as a worker of GT does: lines of very different length, a traceback now and then.
WRITER = """
import logging, signal, sys
from pathlib import Path
from gtapp.observe import logs

name, file, size, count, lines = sys.argv[1:]
logs.setup("info", "text", Path(file), int(size), int(count), name)
signal.signal(signal.SIGUSR1, lambda *_: logs.reopen())
log = logging.getLogger("gt.server")
sys.stdin.readline()
for number in range(int(lines)):
    log.info("line %05d %s", number, "x" * (number * 7 % 300))
    if number % 50 == 0:
        try:
            raise ValueError(f"of {number}")
        except ValueError:
            log.exception("failed at %d", number)
print("written", flush=True)
sys.stdin.readline()
log.info("the end")
"""


class Writer:
    """A process that logs when it is told to."""

    def __init__(self, name: str, file: Path, size: int, count: int, lines: int) -> None:
        arguments = [name, str(file), str(size), str(count), str(lines)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_until_written(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "written\n"

    def end(self) -> None:
        _, stderr = self.process.communicate("\n", timeout=60)
        assert (self.process.returncode, stderr) == (0, "")


def numbered(file: Path) -> list[Path]:
    """The files, the oldest first."""
    others = [path for path in file.parent.iterdir() if path != file]
    return [*sorted(others, key=lambda path: -int(path.suffix[1:])), file]


def messages(paths: list[Path]) -> dict[str, list[str]]:
    """What each process has logged, in order. Every line has to be one."""
    found: dict[str, list[str]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            if not line.startswith("  | "):
                match = re.fullmatch(r"\S+ \S+ (?:INFO |ERROR) (\S+): (.*)", line)
                assert match, f"{path.name}: {line!r}"
                found.setdefault(match[1], []).append(match[2])
    return found


def expected(lines: int) -> list[str]:
    texts = []
    for number in range(lines):
        texts.append(f"line {number:05d} {'x' * (number * 7 % 300)}")
        if number % 50 == 0:
            texts.append(f"failed at {number}")
    return [*texts, "the end"]


def run(file: Path, size: int, count: int, lines: int, writers: int = 4) -> list[str]:
    """Let so many processes write at the same time; their names."""
    names = [f"server/{number}" for number in range(writers)]
    processes = [Writer(name, file, size, count, lines) for name in names]
    for each in processes:
        each.go()
    for each in processes:
        each.wait_until_written()
    for each in processes:
        each.end()
    return names


def test_processes_that_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "gt.log"
    names = run(file, size=20_000, count=1000, lines=1500)
    paths = numbered(file)
    found = messages(paths)
    assert sorted(found) == names
    for name in names:
        assert found[name] == expected(1500)
    assert [path.name for path in paths[:-1]] == [f"gt.log.{n}" for n in range(len(paths) - 1, 0, -1)]
    assert len(paths) > 3
    sizes = [path.stat().st_size for path in paths[:-1]]
    # More than that is what others write while one is renaming.
    assert min(sizes) > 18_000, "each was renamed once, when it was full"


def test_the_count_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "gt.log"
    run(file, size=10_000, count=3, lines=500)
    paths = numbered(file)
    assert [path.name for path in paths] == ["gt.log.2", "gt.log.1", "gt.log"]
    messages(paths)


def test_one_file_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "gt.log"
    run(file, size=10_000, count=1, lines=500)
    assert [path.name for path in tmp_path.iterdir()] == ["gt.log"]
    messages([file])
    assert file.stat().st_size < 15_000


def test_logrotate(tmp_path: Path) -> None:
    """It renames the file, and says so: the new one is there at once. Who has not heard of it writes there, too."""
    file, old = tmp_path / "gt.log", tmp_path / "gt.log.1"
    told, other = (Writer(name, file, 0, 7, 100) for name in ("server/1", "server/2"))
    for each in (told, other):
        each.go()
        each.wait_until_written()
    file.rename(old)
    told.process.send_signal(signal.SIGUSR1)
    eventually(file.exists, "the new file")
    assert file.stat().st_size == 0
    told.end()
    other.end()
    assert {name: len(texts) for name, texts in messages([old]).items()} == {
        "server/1": len(expected(100)) - 1,
        "server/2": len(expected(100)) - 1,
    }
    assert messages([file]) == {"server/1": ["the end"], "server/2": ["the end"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gt.log"


@pytest.fixture
def two(path: Path) -> Iterator[tuple[LogFile, LogFile]]:
    with closing(LogFile(path, 100, 3)) as one, closing(LogFile(path, 100, 3)) as other:
        yield one, other


def test_the_others_follow(two: tuple[LogFile, LogFile], path: Path) -> None:
    one, other = two
    for _ in range(9):
        one.append(b"0123456789\n")
        other.append(b"abcdefghij\n")
    assert [(each.name, each.stat().st_size) for each in numbered(path)] == [("gt.log.1", 99), ("gt.log", 99)]


def test_nobody_waits_for_one_that_hangs_in_the_middle(two: tuple[LogFile, LogFile], path: Path) -> None:
    one, _ = two
    path.touch()
    with path.open() as hanging:
        fcntl.flock(hanging, fcntl.LOCK_EX)
        for _ in range(20):
            one.append(b"0123456789\n")
    assert path.stat().st_size == 220
    one.append(b"0123456789\n")
    assert path.stat().st_size == 11


def test_a_long_line_is_not_rotated_for_ever(two: tuple[LogFile, LogFile], path: Path) -> None:
    one, _ = two
    for _ in range(3):
        one.append(b"x" * 300 + b"\n")
    assert [each.stat().st_size for each in numbered(path)] == [301] * 3


def test_what_has_been_written_in_half_does_not_stick_to_the_next_line(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with closing(LogFile(path, 0, 1)) as file:
            file.append(b"first\n")
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
            for _ in range(2):
                with pytest.raises(OSError, match=r"No space left|File too large"):
                    file.append(b"second\n")
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            file.append(b"third\n")
            file.append(b"fourth\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"first\nseco\nthird\nfourth\n"


def test_what_is_no_file_is_not_rotated() -> None:
    with closing(LogFile(Path("/dev/null"), 10, 3)) as file:
        for _ in range(10):
            file.append(b"0123456789\n")
    assert not Path("/dev/null.1").exists()
