"""Logs: what a line looks like, what never stands in one, and what happens when it cannot be written."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtapp.observe import logs

log = logging.getLogger("gt.server")


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging is global: after a test it is as it was, and no secret of one test is hidden in the next."""
    monkeypatch.setattr(logs, "_secrets", logs._Secrets())
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root, gt = logging.getLogger(), logging.getLogger("gt")
    before = root.level, gt.level
    yield
    assert logs._handler is not None
    root.removeHandler(logs._handler)
    logs._handler.close()
    logs._handler = None
    root.setLevel(before[0])
    gt.setLevel(before[1])
    logging.captureWarnings(False)


def setup(level: str = "info", format: str = "text", file: Path | None = None, **more: int) -> None:
    logging.getLogger().handlers.clear()  # pytest's own: they raise where ours must not
    logs.setup(level, format, file, more.get("max_size", 0), more.get("max_count", 7), "server")


class Lines:
    """The lines on stderr since it was last asked."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self) -> list[str]:
        return self._capture.readouterr().err.splitlines()

    def one(self) -> str:
        (line,) = self()
        return line


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capsys)


def test_a_line(lines: Lines) -> None:
    setup()
    log.info("listening on %s", "127.0.0.1:8080")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d INFO  server: listening on 127\.0\.0\.1:8080",
        lines.one(),
    )


def test_a_line_as_json(lines: Lines) -> None:
    setup(format="json")
    log.warning("tunnel %d is silent", 3)
    line = json.loads(lines.one())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", line.pop("time"))
    assert line == {"level": "warn", "role": "server", "logger": "gt.server", "message": "tunnel 3 is silent"}


@pytest.mark.parametrize("level", logs.LEVEL_NAMES)
def test_a_level_shows_itself_and_what_is_above(level: str, lines: Lines) -> None:
    setup(level)
    for number in logs.LEVELS.values():
        log.log(number, "x")
    expected = list(logs.LEVELS)[logs.LEVEL_NAMES.index(level) :]
    assert [line.split()[2].lower() for line in lines()] == expected


def test_other_libraries_are_heard_from_warn_on(lines: Lines) -> None:
    setup("trace")
    other = logging.getLogger("some.library")
    other.info("chatter")
    other.warning("trouble")
    assert lines.one().endswith("WARN  server: trouble")


def test_setup_again_replaces(lines: Lines, tmp_path: Path) -> None:
    setup(file=tmp_path / "gt.log")
    setup("debug", "json")
    log.debug("x")
    assert json.loads(lines.one())["message"] == "x"
    assert not (tmp_path / "gt.log").exists()


# Forging


@pytest.mark.parametrize("format", logs.FORMATS)
@pytest.mark.parametrize(
    "evil",
    [
        "a\n2026-01-01 INFO forged",
        "a\r\nb",
        "\x1b[2Jb",
        "a\x00b",
        "a\x85b\u2028c\u2029d",
        "\u202eevil",
        "\ud800",
        "\x9b31m",
    ],
)
def test_what_is_logged_is_one_line_of_printable_characters(format: str, evil: str, lines: Lines) -> None:
    setup(format=format)
    log.info("host %s", evil)
    line = lines.one()
    assert line.isprintable()
    assert "host" in line


def test_a_traceback_cannot_forge_a_line(lines: Lines) -> None:
    setup()
    try:
        raise ValueError("bad\n2026-01-01 00:00:00.000 INFO  server: forged\x1b[2J")
    except ValueError:
        log.exception("failed")
    first, *trace = lines()
    assert first.endswith("ERROR server: failed")
    assert trace[0] == "  | Traceback (most recent call last):"
    assert all(line.startswith("  | ") for line in trace)
    assert trace[-1].endswith("forged\\x1b[2J")


def test_a_traceback_as_json(lines: Lines) -> None:
    setup(format="json")
    try:
        raise ValueError("bad\nworse")
    except ValueError:
        log.exception("failed")
    line = json.loads(lines.one())
    assert line["error"] == "worse"
    assert line["traceback"].startswith("Traceback (most recent call last):\n")


# Secrets


@pytest.mark.parametrize("format", logs.FORMATS)
@pytest.mark.parametrize(
    "secret", ["correct horse", 'quo"te\\back', "päßwörd-密码", "line\nbreak", "a b&c/d=e+f", "pass"]
)
def test_a_secret_is_hidden_however_it_is_written(format: str, secret: str, lines: Lines) -> None:
    logs.hide(secret)
    setup("trace", format)
    forms = {secret, repr(secret)[1:-1], repr(secret.encode())[2:-1], json.dumps(secret)[1:-1]}
    log.info(
        "plain %s repr %r bytes %r json %s", secret, secret, secret.encode(), json.dumps({"secret": secret})
    )
    log.debug(f"in a URL: tcp://id:{secret}@host/?a={secret}")
    try:
        raise ValueError(f"wrong: {secret}")
    except ValueError:
        log.exception("failed with %r", {"secret": secret})
    output = "\n".join(lines())
    assert "***" in output
    for form in forms | {json.dumps(form)[1:-1] for form in forms}:
        assert form not in output


def test_a_url_encoded_secret_is_hidden(lines: Lines) -> None:
    logs.hide("s p/ä")
    setup()
    log.info("one s%20p/%C3%A4 two s%20p%2F%C3%A4")
    assert lines.one().endswith("one *** two ***")


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("id1", "tunnel of id1", "tunnel of id1"),  # too short: stars would give it away
        ("test", "test latest tests 'test' test", "*** latest tests '***' ***"),
        ("tunnels-", "tunnels-up", "***up"),  # long enough to be hidden inside a word
    ],
)
def test_short_secrets(secret: str, text: str, shown: str, lines: Lines) -> None:
    logs.hide(secret)
    setup()
    log.info(text)
    assert lines.one().endswith(f"server: {shown}")


def test_of_two_secrets_with_the_same_beginning_the_longer_one_goes_whole(lines: Lines) -> None:
    logs.hide("password")
    logs.hide("password-of-bob")
    setup()
    log.info("password-of-bob password password-of-eve")
    assert lines.one().endswith("server: *** *** ***-of-eve")


def test_the_number_of_secrets_is_bounded(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    monkeypatch.setattr(logs, "MAX_SECRETS", 10)
    for number in range(30):
        logs.hide(f"secret-{number:02d}")
    setup()
    log.info("secret-19 secret-20 secret-29")
    assert lines.one().endswith("secret-19 *** ***")
    assert sum(map(len, logs._secrets._by_start.values())) == 10


# Trouble


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_line_that_cannot_be_made_is_still_a_line(lines: Lines) -> None:
    setup()
    log.info("%d tunnels", "many")
    log.info("it is %s", Unprintable())
    assert [line.partition("server: ")[2] for line in lines()] == [
        "%d tunnels (this line's arguments cannot be shown: TypeError)",
        "it is %s (this line's arguments cannot be shown: RuntimeError)",
    ]


def test_a_long_text_is_cut(lines: Lines) -> None:
    setup()
    log.info("x" * 1_000_000)
    assert len(lines.one()) < logs.MAX_TEXT + 100
    try:
        raise ValueError("y" * 1_000_000 + "the end")
    except ValueError:
        log.exception("failed")
    output = lines()
    assert sum(map(len, output)) < logs.MAX_TEXT + 1000
    assert output[1].endswith("Traceback (most recent call last):")
    assert output[-1].endswith("the end")


def test_stderr_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup()
    with (tmp_path / "closed").open("w") as closed:
        pass
    for broken in (closed, None):
        monkeypatch.setattr(sys, "stderr", broken)
        log.error("nobody reads this")


def test_a_file_is_rotated_by_size_and_count(tmp_path: Path, lines: Lines) -> None:
    file = tmp_path / "made" / "gt.log"
    setup(file=file, max_size=1000, max_count=3)
    for number in range(100):
        log.info("line %03d", number)
    kept = sorted(file.parent.iterdir())
    assert [path.name for path in kept] == ["gt.log", "gt.log.1", "gt.log.2"]
    assert all(path.stat().st_size <= 1000 for path in kept)
    assert file.read_text().endswith("line 099\n")
    assert lines() == []


def test_one_file_begins_anew(tmp_path: Path) -> None:
    setup(file=tmp_path / "gt.log", max_size=1000, max_count=1)
    for number in range(100):
        log.info("line %03d", number)
    assert [path.name for path in tmp_path.iterdir()] == ["gt.log"]
    assert (tmp_path / "gt.log").stat().st_size <= 1000
    assert (tmp_path / "gt.log").read_text().endswith("line 099\n")


def test_size_0_is_never_rotated(tmp_path: Path) -> None:
    setup(file=tmp_path / "gt.log", max_size=0, max_count=3)
    for number in range(2000):
        log.info("line %04d", number)
    assert [path.name for path in tmp_path.iterdir()] == ["gt.log"]
    assert len((tmp_path / "gt.log").read_text().splitlines()) == 2000


def test_lines_of_several_threads_stay_whole_when_files_are_rotated(tmp_path: Path, lines: Lines) -> None:
    setup(file=tmp_path / "gt.log", max_size=20_000, max_count=100)

    def write(writer: int) -> None:
        for number in range(500):
            log.info("writer %d line %03d %s", writer, number, "x" * (number % 50))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = sorted(tmp_path.iterdir(), key=lambda path: -int(path.suffix[1:]) if path.suffix != ".log" else 1)
    assert len(files) > 5
    assert all(path.stat().st_size <= 20_000 for path in files)
    written = [line.partition("server: ")[2] for path in files for line in path.read_text().splitlines()]
    for writer in range(4):
        ours = [line for line in written if line.startswith(f"writer {writer} ")]
        assert ours == [f"writer {writer} line {number:03d} {'x' * (number % 50)}" for number in range(500)]
    assert len(written) == 2000
    assert lines() == []


def test_a_file_that_cannot_be_renamed(tmp_path: Path, lines: Lines) -> None:
    """Nothing is lost: what finds no place in the file goes to stderr."""
    (tmp_path / "gt.log.1").mkdir()
    (tmp_path / "gt.log.1" / "in the way").touch()
    setup(file=tmp_path / "gt.log", max_size=300, max_count=2)
    for number in range(10):
        log.info("line %03d", number)
    found = (tmp_path / "gt.log").read_text() + "\n".join(lines())
    assert "cannot write the log file" in found
    assert all(f"server: line {number:03d}" in found for number in range(10))


def test_a_directory_that_goes_away_is_made_again(tmp_path: Path, lines: Lines) -> None:
    file = tmp_path / "logs" / "gt.log"
    setup(file=file, max_size=200, max_count=2)
    for number in range(3):
        log.info("line %03d", number)
    for path in file.parent.iterdir():
        path.unlink()
    file.parent.rmdir()
    for number in range(3, 9):
        log.info("line %03d", number)
    assert file.read_text().endswith("line 008\n")


def test_a_full_disk(lines: Lines) -> None:
    setup(file=Path("/dev/full"))
    log.info("one")
    log.info("two")
    notice, one, two = lines()
    assert notice.endswith(
        "ERROR server: cannot write the log file /dev/full: No space left on device; see stderr"
    )
    assert one.endswith("INFO  server: one")
    assert two.endswith("INFO  server: two")


def test_a_file_that_can_be_written_again(tmp_path: Path, lines: Lines) -> None:
    file = tmp_path / "gt.log"
    file.mkdir()
    setup(file=file)
    log.info("lost to stderr")
    notice, line = lines()
    assert f"cannot write the log file {file}: Is a directory" in notice
    assert line.endswith("lost to stderr")
    file.rmdir()
    log.info("back")
    assert lines.one().endswith(f"INFO  server: the log file {file} can be written again")
    assert file.read_text().endswith("server: back\n")


def test_a_file_in_a_place_that_cannot_be_made(lines: Lines) -> None:
    setup(file=Path("/proc/nowhere/gt.log"))
    log.info("x")
    notice, line = lines()
    assert "cannot write the log file /proc/nowhere/gt.log" in notice
    assert line.endswith("server: x")


def test_what_nobody_caught_is_logged(lines: Lines) -> None:
    logs.hide("correct horse")
    setup()
    try:
        raise ValueError("correct horse")
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    output = lines()
    assert output[0].endswith("FATAL server: unexpected ValueError in the main program")
    assert output[-1] == "  | ValueError: ***"
    logs.unhandled("<callback>", KeyboardInterrupt, None, None)
    assert lines.one().endswith("FATAL server: unexpected KeyboardInterrupt in <callback>")


# Lines that strangers cause


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(logs, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def texts(lines: Lines) -> list[str]:
    return [line.partition("server: ")[2] for line in lines()]


def test_a_flood_of_one_kind_is_a_few_lines(clock: Clock, lines: Lines) -> None:
    setup()
    strangers = logs.Limited("gt.server")
    for number in range(1000):
        strangers.warning("tunnel from %s refused", number)
        strangers.info("another %d", number)
    shown = texts(lines)
    assert [text for text in shown if "another" not in text] == [
        *(f"tunnel from {number} refused" for number in range(10)),
        "many lines like this, leaving out the rest for a while: tunnel from %s refused",
    ]
    assert len(shown) == 22
    clock.now += 59
    strangers.warning("tunnel from %s refused", 1000)
    assert texts(lines) == []
    clock.now += 1
    strangers.warning("tunnel from %s refused", 1001)
    assert texts(lines) == [
        "991 lines like this were left out: tunnel from %s refused",
        "tunnel from 1001 refused",
    ]


def test_what_comes_seldom_is_all_shown(clock: Clock, lines: Lines) -> None:
    setup()
    strangers = logs.Limited("gt.server")
    for number in range(50):
        strangers.warning("line %d", number)
        clock.now += 7
    assert texts(lines) == [f"line {number}" for number in range(50)]


def test_a_level_that_is_off_is_not_counted(clock: Clock, lines: Lines) -> None:
    setup("info")
    strangers = logs.Limited("gt.server")
    for _ in range(100):
        strangers.debug("line")
    for _ in range(3):
        strangers.info("line")
    assert texts(lines) == ["line"] * 3


def test_a_limited_line_comes_from_its_caller(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    setup()
    logging.getLogger().addHandler(caplog.handler)
    logs.Limited("gt.server").warning("line")
    (record,) = caplog.records
    assert (record.name, record.filename) == ("gt.server", "test_logs.py")


def test_a_limited_line_may_have_a_traceback(clock: Clock, lines: Lines) -> None:
    setup()
    strangers = logs.Limited("gt.server")
    for _ in range(20):
        try:
            raise ValueError("bad")
        except ValueError:
            strangers.exception("failed for %s", "somebody")
    shown = lines()
    assert sum(line.endswith("failed for somebody") for line in shown) == 10
    assert sum(line == "  | ValueError: bad" for line in shown) == 10
