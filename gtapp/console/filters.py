"""Numbers as people read them, in the page's language: the filters of the templates. `create_app` calls `init`."""

from flask import Flask
from flask_babel import format_decimal, gettext

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
NOTHING = "–"  # where a number is not known


def init(app: Flask) -> None:
    """Let the templates of `app` use these filters."""
    app.add_template_filter(as_bytes, "bytes")
    app.add_template_filter(as_speed, "speed")
    app.add_template_filter(as_age, "age")
    app.add_template_filter(as_number, "number")
    app.add_template_filter(as_percent, "percent")
    app.add_template_filter(as_rate, "rate")


def as_bytes(n: float | None) -> str:
    """`1536` is "1.5 KiB"; three digits at least, as far as there are that many."""
    if n is None:
        return NOTHING
    size, unit = float(n), 0
    while size >= 999.5 and unit < len(_BYTES) - 1:
        size /= 1024
        unit += 1
    pattern = "#,##0" if unit == 0 or size >= 99.95 else "0.0"
    return f"{format_decimal(size, pattern)} {_BYTES[unit]}"


def as_speed(n: float | None) -> str:
    """Bytes per second."""
    return NOTHING if n is None else f"{as_bytes(n)}/s"


def as_rate(n: float | None) -> str:
    """How often a second."""
    if n is None:
        return NOTHING
    return str(format_decimal(n, "#,##0" if n == 0 or n >= 9.95 else "0.0"))


def as_number(n: float | None) -> str:
    return NOTHING if n is None else str(format_decimal(n, "#,##0"))


def as_percent(part: float | None) -> str:
    """A share between 0 and 1."""
    return NOTHING if part is None else f"{format_decimal(100 * part, '0')}%"


def as_age(seconds: float | None) -> str:
    """The two largest units that say something: "3 s", "5 min", "2 h 10 min", "4 d 3 h"."""
    if seconds is None:
        return NOTHING
    whole = max(0, int(seconds))
    if whole < 60:
        return str(gettext("%(n)s s", n=whole))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if hours < 1:
        return str(gettext("%(n)s min", n=minutes))
    if days < 1:
        rest = minutes % 60
        return str(gettext("%(h)s h %(m)s min", h=hours, m=rest) if rest else gettext("%(h)s h", h=hours))
    rest = hours % 24
    return str(gettext("%(d)s d %(h)s h", d=days, h=rest) if rest else gettext("%(d)s d", d=days))
