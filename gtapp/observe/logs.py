"""Logs: lines that people read or JSON, without secrets and impossible to forge. Each role calls `setup` once.

Everything in GT logs through `logging.getLogger("gt.<part>")` with %-style arguments. Whoever comes to know a secret
calls `hide`, so that a later mistake, or an exception's text, doesn't show it. What strangers can cause at will is
logged through `Limited("gt.<part>")`, lest they fill the files with it.
"""

import contextlib
import json
import logging
import sys
import traceback
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any
from urllib.parse import quote

from gtapp.observe.log_file import LogFile
from gtapp.observe.recent import Recent

TRACE = 5
PANIC = 60
LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": PANIC,
}
LEVEL_NAMES = (*LEVELS, "disable")
FORMATS = ("text", "json")

MAX_TEXT = 16 * 1024  # characters of a message or traceback: nobody reads more, and it may come from outside
MAX_SECRETS = 100_000  # spellings of secrets, six for each at most; beyond that the oldest is forgotten
# Shorter ones stay as they are: "1" in "tunnel *** to …" would tell everybody what the stars stand for.
MIN_SECRET = 4
# Up to here only whole words are replaced, so that the secret "test" leaves "latest" readable.
MAX_WORD_SECRET = 7

LIMIT_LINES = 10  # of one kind, caused by strangers, that are logged in LIMIT_S
LIMIT_S = 60.0

# What could begin a line, clear a terminal or turn the text around when it is shown: control characters of ASCII and
# Latin-1, Unicode's line ends and marks for the direction of writing, and halves of surrogate pairs.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {
    code: f"\\u{code:04x}" for code in (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
}
_ESCAPES |= {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


class _Secrets:
    """Strings to hide. They are found by their first four characters, so that a thousand cost no more than one."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._by_start: dict[str, list[str]] = {}

    def add(self, secret: str) -> None:
        for form in _spellings(secret):
            if len(form) < MIN_SECRET or form in self._known:
                continue
            self._known[form] = None
            same_start = self._by_start.setdefault(form[:MIN_SECRET], [])
            same_start.append(form)
            same_start.sort(key=len, reverse=True)  # of "pass" and "passport" the longer one is tried first
            if len(self._known) > MAX_SECRETS:
                self._forget(self._known.popitem(last=False)[0])

    def _forget(self, secret: str) -> None:
        same_start = self._by_start[secret[:MIN_SECRET]]
        same_start.remove(secret)
        if not same_start:
            del self._by_start[secret[:MIN_SECRET]]

    def redact(self, text: str) -> str:
        by_start = self._by_start
        if not by_start:
            return text
        parts: list[str] = []
        copied = position = 0
        while position <= len(text) - MIN_SECRET:
            for secret in by_start.get(text[position : position + MIN_SECRET], ()):
                end = position + len(secret)
                if text.startswith(secret, position) and _may_replace(text, position, end):
                    parts += (text[copied:position], "***")
                    copied = position = end
                    break
            else:
                position += 1
        return "".join((*parts, text[copied:])) if parts else text


def _spellings(secret: str) -> set[str]:
    """The secret as it stands in a text, in the repr of a string or of bytes, in JSON and in a URL."""
    encoded = secret.encode("utf-8", "surrogatepass")
    in_json = json.dumps(secret)[1:-1]
    return {secret, repr(secret)[1:-1], repr(encoded)[2:-1], in_json, quote(encoded), quote(encoded, safe="")}


def _may_replace(text: str, start: int, end: int) -> bool:
    if end - start > MAX_WORD_SECRET:
        return True
    return not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())


_TEXT = "gt_text"  # of a record: what `message_of` has found

_secrets = _Secrets()


def hide(secret: str) -> None:
    """From now on `secret` is logged as ***, wherever it appears. Shorter than MIN_SECRET: see there."""
    _secrets.add(secret)


def redact(text: str) -> str:
    """`text` with every secret that is to be hidden as ***."""
    return _secrets.redact(text)


def message_of(record: logging.LogRecord) -> str:
    """A record's text as it is logged: redacted, and not too long. Never raises."""
    known: str | None = record.__dict__.get(_TEXT)  # several handlers ask for it
    if known is None:
        known = record.__dict__[_TEXT] = _text_of(record)
    return known


def _text_of(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # a wrong log call, or a repr that fails, must not stop what it tells about
        text = f"{record.msg} (this line's arguments cannot be shown: {type(error).__name__})"
    text = _secrets.redact(text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " … (cut)"


def _shown(record: logging.LogRecord) -> tuple[str, str]:
    """A record's message and traceback as they are shown in a text line."""
    trace = "\n".join(line.translate(_ESCAPES) for line in _traceback(record).rstrip("\n").split("\n"))
    return message_of(record).translate(_ESCAPES), trace


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    try:
        text = "".join(traceback.format_exception(record.exc_info[1]))
    except Exception as error:
        text = f"(the traceback cannot be shown: {type(error).__name__})"
    text = _secrets.redact(text)
    if len(text) > MAX_TEXT:  # both its ends matter: where it began, and what it was
        text = f"{text[: MAX_TEXT // 2]}\n… (cut)\n{text[-MAX_TEXT // 2 :]}"
    return text


def level_name(level: int) -> str:
    """The name of the highest of LEVELS that `level` reaches."""
    return next((name for name, value in reversed(LEVELS.items()) if level >= value), "trace")


class _TextFormatter(logging.Formatter):
    """`2026-11-22 14:47:03.123+01:00 INFO  server: listening on …`; lines of a traceback begin with `  | `."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")
        message = message_of(record).translate(_ESCAPES)
        lines = [f"{time} {level_name(record.levelno).upper():5} {self._role}: {message}"]
        lines += ("  | " + line.translate(_ESCAPES) for line in _traceback(record).split("\n") if line)
        return "\n".join(lines)


class _JSONFormatter(logging.Formatter):
    """One object a line: time (RFC 3339), level, role, logger, message, and for exceptions error and traceback."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat("T", "milliseconds"),
            "level": level_name(record.levelno),
            "role": self._role,
            "logger": record.name,
            "message": message_of(record),
        }
        if trace := _traceback(record):
            line["error"] = trace.rstrip("\n").rpartition("\n")[2]
            line["traceback"] = trace
        return json.dumps(line)  # in ASCII, which escapes what the text format escapes


class _Stderr(logging.Handler):
    """The standard error as it is when a line is written; one that is closed or gone loses the line, nothing else."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


class _File(logging.Handler):
    """The log file. While it cannot be written, lines go to stderr; each further line tries the file again."""

    def __init__(self, path: Path, max_size: int, max_count: int, fallback: _Stderr) -> None:
        super().__init__()
        self._path = path
        self._file = LogFile(path, max_size, max_count)
        self._fallback = fallback
        self._failing = False

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        super().setFormatter(fmt)
        self._fallback.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        error = None
        try:
            self._file.append(line.encode("utf-8", "backslashreplace"))
        except OSError as problem:
            error = problem
        if error and not self._failing:
            why = error.strerror or error
            self._notice(logging.ERROR, f"cannot write the log file {self._path}: {why}; see stderr")
        elif self._failing and not error:
            self._notice(logging.INFO, f"the log file {self._path} can be written again")
        self._failing = error is not None
        if error:
            self._fallback.emit(record)

    def reopen(self) -> None:
        with self.lock or contextlib.nullcontext(), contextlib.suppress(OSError):  # the next line says it
            self._file.reopen()

    def close(self) -> None:
        self._file.close()
        super().close()

    def _notice(self, level: int, text: str) -> None:
        self._fallback.emit(logging.LogRecord("gt.logs", level, __file__, 0, text, None, None))


class Limit:
    """Lets through LIMIT_LINES of a kind in LIMIT_S. The kinds are log templates: there are as many as log calls."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[float, int]] = {}  # since when they are counted, and how many there were

    def count(self, kind: str) -> tuple[int, int]:
        """How many of this kind there have been with this one, and how many too many in the period that has ended."""
        now = monotonic()
        since, count = self._kinds.get(kind, (now, 0))
        too_many = 0
        if now - since >= LIMIT_S:
            since, count, too_many = now, 0, max(0, count - LIMIT_LINES)
        self._kinds[kind] = since, count + 1
        return count + 1, too_many


class Limited(logging.LoggerAdapter[logging.Logger]):
    """A logger for lines that strangers can cause at will: `strangers = Limited("gt.server")`, `strangers.info(…)`.

    Of each template, which has to be a constant, there are LIMIT_LINES lines in LIMIT_S, then one that says that
    the rest is left out, and when the next line comes after that time one that says how many were.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))
        self._limit = Limit()

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        if not self.isEnabledFor(level):
            return
        template = str(msg)
        count, left_out = self._limit.count(template)
        options.setdefault("stacklevel", 2)  # the place in the source is the caller's
        if left_out:
            self.logger.log(level, "%d lines like this were left out: %s", left_out, template)
        if count <= LIMIT_LINES:
            self.logger.log(level, msg, *args, **options)
        elif count == LIMIT_LINES + 1:
            self.logger.log(level, "many lines like this, leaving out the rest for a while: %s", template)


_handler: logging.Handler | None = None
recent = Recent(_shown, level_name)


def setup(level: str, format: str, file: Path | None, max_size: int, max_count: int, role: str) -> None:
    """Send this process' logs to `file`, or to stderr. Called again, it replaces what it set up before.

    `role` is what lines say about where they come from: "client", or which one of several processes: "server/2". All
    may write the same file.
    `level` is one of LEVEL_NAMES and `format` one of FORMATS; other libraries' logs appear from "warn" on. A file that
    reaches `max_size` bytes (0: never) is renamed to `file`.1 and so on; `max_count` files are kept, this one included.
    A file that cannot be written is an ERROR line on stderr, and then the lines it should have got; never an exception.
    """
    global _handler
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
        _handler.close()
    _handler = _File(file, max_size, max_count, _Stderr()) if file is not None else _Stderr()
    _handler.setFormatter(_JSONFormatter(role) if format == "json" else _TextFormatter(role))
    root.addHandler(_handler)
    recent.role = role
    root.addHandler(recent)
    set_level(level)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught


def reopen() -> None:
    """The log file has been renamed, by logrotate for example: write a new one from now on."""
    if isinstance(_handler, _File):
        _handler.reopen()


def set_level(level: str) -> None:
    """From now on lines appear from `level` on, one of LEVEL_NAMES."""
    threshold = LEVELS.get(level, PANIC + 1)
    logging.getLogger().setLevel(max(threshold, logging.WARNING))
    logging.getLogger("gt").setLevel(threshold)


def unhandled(
    where: object, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """Logs what nobody caught in a greenlet or a callback. It can stand in for gevent's `Hub.print_exception`."""
    problem = (kind, error, trace) if error is not None else None
    logging.getLogger("gt").critical("unexpected %s in %s", kind.__name__, where, exc_info=problem)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    unhandled("the main program", kind, error, trace)
