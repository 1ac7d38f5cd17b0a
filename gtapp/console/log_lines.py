"""The log of all processes in one: what the relay tells, and this console's own. For the log page and the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from gtapp.console.context import console
from gtapp.errors import GTError
from gtapp.observe import logs

LEVELS = tuple(logs.LEVELS)
MOST_LINES = 1000  # in one answer
_LOOKED_AT = 2000  # lines that are looked through when a text is searched for: as many as a process keeps
_MOST_SOURCES = 300  # more are not read from a cursor: so many workers there are at most
_OURS = "console"
_ASKED = " GET /api/v1/log: "  # at debug level, a page that looks at the log would see itself look


@dataclass(frozen=True)
class Found:
    """Lines by time, `after` for the next question, and why the relay's are missing ("" when they are not)."""

    lines: list[dict[str, Any]]
    after: Mapping[str, int]
    problem: str = ""


def lines_after(cursor: str = "", level: str = "", search: str = "", limit: int = MOST_LINES) -> Found:
    """The newest lines of at least this level that have the text `search`, without those up to `cursor`."""
    after = _after_of(cursor)
    wanted = _LOOKED_AT if search else limit
    least = level if level in LEVELS else LEVELS[0]
    own = logs.recent.lines(after.get(_OURS, 0), logs.LEVELS[least], wanted)
    lines = [{**line, "source": _OURS} for line in own["lines"] if _ASKED not in line["message"]]
    seen, problem = dict(after), ""
    try:
        answer = console().running.log(after, least, wanted)
        lines += answer.get("lines", [])
        seen = dict(answer.get("after", {}))
    except GTError as error:
        problem = str(error)
    seen[_OURS] = own["seq"]
    if search:
        lines = [line for line in lines if _has(line, search.lower())]
    lines.sort(key=lambda line: float(line["time"]))
    return Found(lines[-limit:], seen, problem)


def cursor_of(after: Mapping[str, int]) -> str:
    """`after` as one word: in a URL it may stand as it is."""
    return ",".join(f"{quote_plus(source)}:{number}" for source, number in after.items())


def text_of(line: Mapping[str, Any]) -> str:
    """A line as it stands in a log file, with its end; a traceback is lines of their own."""
    time = datetime.fromtimestamp(float(line["time"])).astimezone().isoformat(" ", "milliseconds")
    text = f"{time} {str(line['level']).upper():5} {line['role']}: {line['message']}\n"
    return text + "".join(f"  | {part}\n" for part in str(line.get("traceback") or "").splitlines())


def _after_of(cursor: str) -> dict[str, int]:
    """What cannot be read is left out: then lines come once more."""
    found = {}
    for part in cursor.split(",")[:_MOST_SOURCES]:
        source, _, number = part.rpartition(":")
        if source and number.isascii() and number.isdigit() and len(number) < 19:
            found[unquote_plus(source)] = int(number)
    return found


def _has(line: Mapping[str, Any], search: str) -> bool:
    return any(search in str(line.get(key, "")).lower() for key in ("message", "logger", "role", "traceback"))
