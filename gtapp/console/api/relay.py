"""The running relay: what it does, what it counts and logs, and what it is told to do."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any

from flask import Response, jsonify
from marshmallow import fields

from gtapp import __version__
from gtapp.console.api.operations import Blueprint, Refused
from gtapp.console.api.schemas import Given, Taken, TextSchema, number, one_of, text, told
from gtapp.console.audit import audit
from gtapp.console.context import console
from gtapp.console.log_lines import LEVELS, MOST_LINES, cursor_of, lines_after
from gtapp.console.running import Tell
from gtapp.console.sampler import Sampler
from gtapp.errors import GTError

blueprint = Blueprint("relay", "The running GT: status, counters, log; reload, restart, stop.")


class AboutSchema(Given):
    """What runs here."""

    version = told(fields.String, "That of GT.")
    role = one_of(("server", "client"), required=True)
    config = told(fields.String, 'Path of the configuration; "" for one of flags alone.')
    python = told(fields.String, "Version of Python.")


class TunnelSchema(Given):
    """A tunnel. `user` and `peer` are of a server, `remote` of a client."""

    id = told(fields.String, "Names it for a disconnect.", required=False)
    user = told(fields.String, "Whose it is.", required=False)
    peer = told(fields.String, "Address it comes from.", required=False)
    remote = told(fields.String, "Address it goes to.", required=False)
    agent = told(fields.String, "Program at the other end.", required=False)
    protocol = told(fields.Integer, "Protocol of the tunnel, 1 or 3.", required=False)
    transport = told(fields.String, "tcp or tls.", required=False)
    state = told(fields.String, "How it is.", required=False)
    age_s = told(fields.Float, "Seconds since it came up.", required=False)
    rtt_ms = told(fields.Float, "Its last round trip.", required=False)
    loss = told(fields.Float, "Share of what it has sent that had to be sent again, 0 to 1.", required=False)
    streams = told(fields.Integer, "Relayed connections in it.", required=False)
    bytes_in = told(fields.Integer, "Bytes from visitors to services.", required=False)
    bytes_out = told(fields.Integer, "Bytes from services to visitors.", required=False)


class WorkerSchema(Given):
    """A relay process."""

    number = told(fields.Integer, "Names it.")
    pid = told(fields.Integer, "Its process.")
    generation = told(fields.Integer, "Counts restarts.")
    state = told(fields.String, "starting, ready, draining…")
    age_s = told(fields.Float, "Seconds since it started.")
    tunnels = fields.List(fields.Nested(TunnelSchema))


class ListenerSchema(Given):
    """An address that visitors or clients come in at."""

    option = told(fields.String, "Its option: addr, tlsAddr…")
    address = told(fields.String, "Where it listens.")


class UnitSchema(Given):
    """A configuration and its workers."""

    role = told(fields.String, "server or client.")
    config = told(fields.String, "Path of its file.")
    listeners = fields.List(fields.Nested(ListenerSchema), required=True)
    workers = fields.List(fields.Nested(WorkerSchema), required=True)


class StatusSchema(Given):
    """What runs, as `gt.py status --json` says it."""

    version = told(fields.String, "That of the master.", required=False)
    pid = told(fields.Integer, "Process of the master.", required=False)
    started = told(fields.Float, "Seconds since 1970.", required=False)
    units = fields.List(fields.Nested(UnitSchema), required=True)


class UnitMetricsSchema(Given):
    """What a configuration's workers have counted. The counters never go back while the master lives."""

    total = fields.Dict(keys=fields.String(), values=fields.Float())
    processes = fields.List(fields.Dict())
    users = fields.Dict(keys=fields.String(), values=fields.Dict())
    hosts = fields.Dict(keys=fields.String(), values=fields.Dict())
    services = fields.Dict(keys=fields.String(), values=fields.Dict())
    histograms = fields.Dict(keys=fields.String(), values=fields.Dict())


class MetricsSchema(Given):
    """All counters, gauges and histograms. /metrics has the same for Prometheus."""

    units = fields.List(fields.Nested(UnitMetricsSchema), required=True)


class SeriesQuery(Taken):
    """Which samples."""

    span = one_of(("15m", "24h"), "15m: one for each second; 24h: one for each minute.", load_default="15m")
    kind = one_of(
        ("", "users", "hosts", "services"),
        "Of one of these, named by `name`, instead of everything.",
        load_default="",
    )
    name = text("Id of a user, name of a host or service.", load_default="")


class SeriesSchema(Given):
    """Rows of numbers for charts; null where there is a gap."""

    step = told(fields.Integer, "Seconds from one to the next.")
    times = fields.List(fields.Integer(), required=True, metadata={"description": "Seconds since 1970."})
    columns = fields.Dict(
        keys=fields.String(), values=fields.List(fields.Float(allow_none=True)), required=True
    )


class LogQuery(Taken):
    """Which lines of the log."""

    after = text("What the answer before had as `next`: only newer lines come.", most=4000, load_default="")
    level = one_of(("", *LEVELS), "Least level that is wanted.", load_default="")
    search = text("Only lines with this text, whatever its case.", load_default="")
    limit = number("How many lines at most, the newest of them.", 1, MOST_LINES, load_default=MOST_LINES)


class LogLineSchema(Given):
    """A line of the log."""

    time = told(fields.Float, "Seconds since 1970.")
    level = told(fields.String, "trace, debug, info, warn, error, fatal or panic.")
    role = told(fields.String, "Which process: master, server/1, console…")
    logger = told(fields.String, "Which part of the program.")
    message = told(fields.String, "Without secrets.")
    traceback = told(fields.String, "Of an unexpected error.", required=False)


class LogSchema(Given):
    """Lines of all processes, by time."""

    lines = fields.List(fields.Nested(LogLineSchema), required=True)
    next = told(fields.String, "For `after`, to get what comes later.")
    problem = told(fields.String, 'Why the lines of the relay are missing; "" when they are not.')


class ActionSchema(TextSchema):
    """What came of an action."""

    lines = fields.List(
        fields.String(), required=True, metadata={"description": "What was told while it was done."}
    )


class CheckSchema(Given):
    """Whether a request gets through."""

    ok = told(fields.Boolean, "Whether it did.")
    text = told(fields.String, "In words.")
    ms = told(fields.Float, "How long it took.", required=False)


@blueprint.get("/version")
@blueprint.needs("read")
@blueprint.response(200, AboutSchema)
def version() -> dict[str, str]:
    """What runs here."""
    store = console().store
    return {
        "version": __version__,
        "role": console().role,
        "config": str(store.path) if store else "",
        "python": platform.python_version(),
    }


@blueprint.get("/status")
@blueprint.needs("read")
@blueprint.response(200, StatusSchema)
def status() -> Response:
    """Processes, listeners, tunnels, and what is published."""
    return _as_it_is(console().running.status())


@blueprint.get("/metrics")
@blueprint.needs("read")
@blueprint.response(200, MetricsSchema)
def metrics() -> Response:
    """Counters, gauges and histograms."""
    return _as_it_is(console().running.metrics())


@blueprint.get("/series")
@blueprint.needs("read")
@blueprint.arguments(SeriesQuery, location="query")
@blueprint.response(200, SeriesSchema)
@blueprint.refuses(e404="No samples are kept here.")
def series(query: Mapping[str, str]) -> dict[str, Any]:
    """The samples of the charts."""
    sampler = _sampler()
    rows = sampler.minutes if query["span"] == "24h" else sampler.seconds
    if query["kind"]:
        return rows.part_columns(sampler.time, query["kind"], query["name"])
    return rows.columns(sampler.time)


@blueprint.get("/log")
@blueprint.needs("read")
@blueprint.arguments(LogQuery, location="query")
@blueprint.response(200, LogSchema)
def log(query: Mapping[str, Any]) -> dict[str, Any]:
    """The newest lines of the log, and then those that come."""
    found = lines_after(query["after"], query["level"], query["search"], query["limit"])
    return {"lines": found.lines, "next": cursor_of(found.after), "problem": found.problem}


@blueprint.post("/actions/check")
@blueprint.needs("read")
@blueprint.response(200, CheckSchema)
def check() -> dict[str, Any]:
    """Bring a request through a tunnel of the server's own: whether the whole path works."""
    try:
        answer = console().running.check()
    except GTError as error:
        return {"ok": False, "text": str(error)}
    return {key: answer[key] for key in ("ok", "text", "ms") if key in answer}


@blueprint.post("/actions/reload")
@blueprint.needs("system")
@blueprint.response(
    200, ActionSchema, example={"lines": ["server.yml: nothing has changed"], "text": "reloaded"}
)
def reload() -> dict[str, Any]:
    """Take over the configuration as it is in the file now."""
    return _done("reloaded", console().running.reload)


@blueprint.post("/actions/restart")
@blueprint.needs("system")
@blueprint.response(200, ActionSchema, example={"lines": ["server.yml: 2 new workers"], "text": "restarted"})
def restart() -> dict[str, Any]:
    """Start new workers; the old ones finish what they relay. No visitor is cut."""
    return _done("restarted", console().running.restart)


@blueprint.post("/actions/stop")
@blueprint.needs("system")
@blueprint.response(
    200, ActionSchema, example={"lines": ["ending: running connections have 10 s"], "text": "stopped"}
)
def stop() -> dict[str, Any]:
    """End GT, this console as well: the answer may be the last thing that comes from it."""
    return _done("stopped", console().running.stop)


def _done(what: str, act: Callable[[Tell], dict[str, Any]]) -> dict[str, Any]:
    lines: list[str] = []
    audit(what)
    answer = act(lines.append)
    return {"lines": lines, "text": str(answer.get("text") or what)}


def _as_it_is(answer: Mapping[str, Any]) -> Response:
    """What the relay says may have more keys than are documented."""
    body = {key: value for key, value in answer.items() if key not in ("ok", "text")}
    return jsonify({"units": [], **body})


def _sampler() -> Sampler:
    sampler = console().sampler
    if sampler is None:
        raise Refused(404, "no samples are kept here")
    return sampler
