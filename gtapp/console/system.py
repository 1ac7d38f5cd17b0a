"""The system pages: what runs, the log as it grows, and what GT is told to do: reload, restart, stop.

What is told while something is done goes to the browser at once: the page is sent in parts, and needs no script.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gevent
from flask import Blueprint, Response, render_template, request, stream_with_context
from flask_babel import lazy_gettext
from gevent.queue import Empty, Queue
from markupsafe import Markup, escape

from gtapp import __version__
from gtapp.console import diagnostics, processes
from gtapp.console.audit import audit
from gtapp.console.auth import needs
from gtapp.console.context import console
from gtapp.console.log_lines import LEVELS, Found, cursor_of, lines_after, text_of
from gtapp.console.running import Running, Tell
from gtapp.errors import GTError

blueprint = Blueprint("system", __name__, url_prefix="/system")

SHOWN_LINES = 500
MOST_SEARCH = 200  # characters of a text that is searched for
LAST_WORDS_S = 1.0  # after GT has said that it ends: this console ends with it
LOOK_S = 0.3  # between looks at the processes, while nothing is told
_HERE = "\0"  # where a page is cut in two


@dataclass(frozen=True)
class Action:
    """Something that GT is told to do. `ends` is what it says of itself when nobody can answer any more."""

    name: str
    title: Any
    what: Any
    question: Any
    act: Callable[[Running, Tell], dict[str, Any]]
    done: Any
    ends: Any = ""
    kind: str = "secondary"


ACTIONS = {
    each.name: each
    for each in (
        Action(
            "reload",
            lazy_gettext("Reload"),
            lazy_gettext("Takes over the configuration file as it is now. Running connections go on."),
            "",
            lambda running, tell: running.reload(tell),
            lazy_gettext("GT runs with the configuration as it is in the file now."),
        ),
        Action(
            "restart",
            lazy_gettext("Restart"),
            lazy_gettext("Starts new workers. The old ones finish their connections: no visitor notices."),
            lazy_gettext("Start new workers? The old ones finish their connections: no visitor is cut."),
            lambda running, tell: running.restart(tell),
            lazy_gettext("New workers have taken over."),
        ),
        Action(
            "stop",
            lazy_gettext("Stop"),
            lazy_gettext("Ends GT and this console. Start it again on the machine itself."),
            lazy_gettext(
                "Stop GT?\nNothing is reachable through it then, and this console ends as well: it can only be started"
                " again on the machine itself."
            ),
            lambda running, tell: running.stop(tell),
            lazy_gettext("GT has ended, and this console with it."),
            lazy_gettext("GT is ending, and this console with it. Start it again on the machine itself."),
            "danger",
        ),
    )
}


@blueprint.get("")
@needs("read")
def index() -> str:
    """Processes, listeners, versions, and the buttons."""
    now = processes.facts()
    if request.headers.get("HX-Request"):
        return render_template("system/facts.html", facts=now)
    about = console()
    return render_template(
        "system/index.html",
        part="index",
        facts=now,
        actions=ACTIONS.values(),
        version=__version__,
        path=about.store.path if about.store else "",
        listen=f"{'https' if about.tls else 'http'}://{about.listen}",
        python=platform.python_version(),
        system=platform.platform(terse=True),
        host=platform.node(),
    )


@blueprint.post("/<any(reload, restart, stop):name>")
@needs("system")
def act(name: str) -> Response:
    """Do it; the page grows with what is told meanwhile."""
    action = ACTIONS[name]
    audit({"reload": "reloaded", "restart": "restarted", "stop": "stopped"}[name])
    running = console().running
    comings = processes.Comings(running)
    told = _begin(action, running)
    page = render_template("system/action.html", part="index", action=action, here=Markup(_HERE))
    answer = Response(stream_with_context(_parts(action, page, told, comings)), mimetype="text/html")
    answer.headers["X-Accel-Buffering"] = "no"  # nginx would wait for the whole page
    return answer


@blueprint.get("/log")
@needs("read")
def log() -> str:
    """The last lines; a script shows what comes then."""
    level, search = _filter()
    found = lines_after(level=level, search=search, limit=SHOWN_LINES)
    return render_template(
        "system/log.html",
        part="log",
        lines=[{**line, "at": _time_of(line), "iso": _iso_of(line)} for line in found.lines],
        next=cursor_of(found.after),
        problem=found.problem,
        level=level,
        levels=LEVELS,
        search=search,
        limit=SHOWN_LINES,
    )


@blueprint.get("/log/download")
@needs("read")
def download() -> Response:
    """The same as a text file."""
    level, search = _filter()
    found: Found = lines_after(level=level, search=search)
    text = "".join(text_of(line) for line in found.lines)
    return _attachment(text.encode("utf-8", "replace"), "gt.log", "text/plain; charset=utf-8")


@blueprint.get("/diagnostics")
@needs("system")
def bundle() -> Response:
    """An archive to be attached to a report."""
    audit("diagnostics downloaded")
    name = datetime.fromtimestamp(console().clock(), UTC).strftime("gt-diagnostics-%Y%m%d-%H%M%S.zip")
    return _attachment(diagnostics.bundle(), name, "application/zip")


# what is told while something is done


@dataclass(frozen=True)
class _Outcome:
    ok: bool
    text: str


def _begin(action: Action, running: Running) -> Queue[str | _Outcome]:
    """Have it done; it goes on when the browser has gone. The lines that are told, and then the outcome."""
    told: Queue[str | _Outcome] = Queue()

    def work() -> None:
        try:
            action.act(running, told.put)
        except GTError as error:
            told.put(_Outcome(False, str(error)))
        else:
            told.put(_Outcome(True, ""))

    gevent.spawn(work)
    return told


def _parts(
    action: Action, page: str, told: Queue[str | _Outcome], comings: processes.Comings
) -> Iterator[str]:
    """The page up to where the lines are, each line when it is told, the outcome, and the rest of the page."""
    before, after = page.split(_HERE)
    yield before
    has_told = False
    while True:
        try:
            each = told.get(timeout=LAST_WORDS_S if has_told else LOOK_S)
        except Empty:
            if has_told and action.ends:
                each = _Outcome(True, str(action.ends))
                break
            yield from (_line(text) for text in comings.news())
            continue
        if isinstance(each, _Outcome):
            break
        has_told = True
        yield _line(each)
    if has_told and action.ends and not each.ok:  # it has ended before it could say so
        each = _Outcome(True, str(action.ends))
    if not action.ends:
        yield from (_line(text) for text in comings.news())
    text = each.text or str(action.done)
    yield render_template("system/outcome.html", ok=each.ok, text=text, goes_on=not action.ends)
    yield after


def _line(text: str) -> str:
    return f"<li>{escape(text)}</li>\n"


def _filter() -> tuple[str, str]:
    level = request.args.get("level", "")
    search = request.args.get("search", "").strip()[:MOST_SEARCH]
    return (level if level in LEVELS else "", search)


def _time_of(line: dict[str, Any]) -> str:
    return datetime.fromtimestamp(float(line["time"])).strftime("%H:%M:%S.%f")[:-3]


def _iso_of(line: dict[str, Any]) -> str:
    return datetime.fromtimestamp(float(line["time"])).astimezone().isoformat(timespec="milliseconds")


def _attachment(data: bytes, name: str, content_type: str) -> Response:
    answer = Response(data, content_type=content_type)
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer
