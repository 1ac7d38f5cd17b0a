"""The audit page: who has changed what, when, and from where; as a table, and as CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, render_template, request, stream_with_context
from flask_babel import format_datetime

from gtapp.console.auth import needs
from gtapp.console.context import console
from gtapp.console.database import MAX_AUDIT

blueprint = Blueprint("audit", __name__, url_prefix="/audit")

PER_PAGE = 50
_AT_A_TIME = 500  # rows that are read at once for a download
MOST_SEARCH = 200
MOST_ID = 2**53  # SQLite takes no larger numbers than 2**63, and JSON none than this
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
)  # what a spreadsheet would take for a formula (OWASP, CSV injection)


@blueprint.get("")
@needs("read")
def index() -> str:
    """The newest entries, or those before one; `q` finds some of them."""
    search = _search()
    before = request.args.get("before", type=int)
    if before is not None and not 0 <= before <= MOST_ID:
        before = None
    found = console().db.audit(PER_PAGE + 1, before, search)
    entries = [_entry(each) for each in found[:PER_PAGE]]
    return render_template(
        "audit/index.html",
        part="audit",
        entries=entries,
        search=search,
        before=before,
        older=entries[-1]["id"] if len(found) > PER_PAGE else None,
    )


@blueprint.get("/download")
@needs("read")
def download() -> Response:
    """All entries, or those that a search finds, as CSV."""
    answer = Response(stream_with_context(_csv(_search())), content_type="text/csv; charset=utf-8")
    answer.headers["Content-Disposition"] = 'attachment; filename="gt-audit.csv"'
    return answer


def _csv(search: str) -> Iterator[str]:
    yield "\ufeff" + _row(
        ["time", "who", "via", "from", "what", "detail"]
    )  # the mark tells Excel that it is UTF-8
    db, before, count = console().db, None, 0
    while count < MAX_AUDIT:
        found = db.audit(_AT_A_TIME, before, search)
        for each in found:
            time = datetime.fromtimestamp(each["time"], UTC).isoformat(timespec="seconds")
            yield _row([time, *(each[key] for key in ("name", "via", "address", "what", "detail"))])
        if len(found) < _AT_A_TIME:
            return
        count += len(found)
        before = found[-1]["id"]


def _row(values: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([f"'{value}" if value.startswith(_FORMULA) else value for value in values])
    return line.getvalue()


def _entry(row: sqlite3.Row) -> dict[str, Any]:
    time = datetime.fromtimestamp(row["time"]).astimezone()
    return {
        **dict(row),
        "at": format_datetime(time, "yyyy-MM-dd HH:mm:ss", rebase=False),
        "iso": time.isoformat(),
    }


def _search() -> str:
    return request.args.get("q", "").strip()[:MOST_SEARCH]
