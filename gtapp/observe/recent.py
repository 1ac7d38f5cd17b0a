"""The last lines of this process' log, kept in memory for the console. `logs.setup` puts it in, beside file or stderr.

Lines are kept as they are logged: redacted, and from the level that is set.
"""

import logging
from collections import deque
from collections.abc import Callable
from time import time
from typing import Any

MOST_LINES = 2000
MOST_TEXT = 2000  # characters of a line, and of its traceback: a page shows no more
MOST_BYTES = 2 * 1024 * 1024  # of all, about

Line = tuple[float, int, str, str, str, int]
"""Time, level, logger, message, traceback, number."""


class Recent(logging.Handler):
    """`role` is what lines say about where they come from; `read` gives a record's message and traceback, redacted;
    `level_name` the name of a level."""

    def __init__(
        self, read: Callable[[logging.LogRecord], tuple[str, str]], level_name: Callable[[int], str]
    ) -> None:
        super().__init__()
        self.role = ""
        self._read = read
        self._level_name = level_name
        self._lines: deque[Line] = deque()
        self._size = 0
        # Ahead of those of the process that this one takes the place of: whoever has read up to a number goes on there.
        self._number = int(time() * 1000)

    def emit(self, record: logging.LogRecord) -> None:
        message, trace = self._read(record)
        message, trace = message[:MOST_TEXT], trace[-MOST_TEXT:]
        self._number += 1
        self._lines.append((record.created, record.levelno, record.name, message, trace, self._number))
        self._size += len(message) + len(trace)
        while len(self._lines) > MOST_LINES or self._size > MOST_BYTES:
            oldest = self._lines.popleft()
            self._size -= len(oldest[3]) + len(oldest[4])

    def lines(self, after: int, level: int, limit: int) -> dict[str, Any]:
        """The newest `limit` lines of at least this level whose number is higher than `after`; the number of the
        newest of all; and whether there were more."""
        chosen: list[dict[str, Any]] = []
        more = False
        for time_, number_of_level, logger, message, trace, number in reversed(self._lines):
            if number <= after:
                break
            if number_of_level < level:
                continue
            if len(chosen) >= limit:
                more = True
                break
            line = {
                "time": round(time_, 3),
                "level": self._level_name(number_of_level),
                "role": self.role,
                "logger": logger,
                "message": message,
                "seq": number,
            }
            chosen.append(line | ({"traceback": trace} if trace else {}))
        return {"lines": chosen[::-1], "seq": self._number, "more": more}
