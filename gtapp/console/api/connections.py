"""What runs through the relay just now: tunnels and connections, to be looked at and to be cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import fields

from gtapp.console.api.operations import Blueprint, Refused
from gtapp.console.api.relay import TunnelSchema
from gtapp.console.api.schemas import Given, Taken, number, text, told
from gtapp.console.audit import audit
from gtapp.console.context import console

MOST_CONNECTIONS = 500  # the relay tells no more at once

blueprint = Blueprint("connections", "Tunnels, and the connections of visitors in them.")


class ConnectionsQuery(Taken):
    """Which connections."""

    user = text("Only those of this user.", load_default=None)
    limit = number("How many at most, the newest of them.", 1, MOST_CONNECTIONS, load_default=100)


class ConnectionSchema(Given):
    """A visitor's connection."""

    id = told(fields.String, "Names it for a disconnect.")
    user = told(fields.String, 'Whose service it is; "" on a client.')
    kind = told(fields.String, "http, tls or tcp.")
    name = told(fields.String, "Host prefix, port, or local service.")
    visitor = told(fields.String, 'Address of the visitor, "" where nobody knows it.')
    tunnel = told(fields.String, "Id of the tunnel.")
    bytes_in = told(fields.Integer, "Bytes from the visitor.")
    bytes_out = told(fields.Integer, "Bytes to the visitor.")
    age_s = told(fields.Float, "Seconds since it began.")


class ConnectionsSchema(Given):
    """The newest connections."""

    total = told(fields.Integer, "How many there are.")
    connections = fields.List(fields.Nested(ConnectionSchema), required=True)


class TunnelsSchema(Given):
    """All tunnels."""

    tunnels = fields.List(fields.Nested(TunnelSchema), required=True)


class CutSchema(Given):
    """What was cut."""

    count = told(fields.Integer, "How many.")
    text = told(fields.String, "In words.")


@blueprint.get("/connections")
@blueprint.needs("read")
@blueprint.arguments(ConnectionsQuery, location="query")
@blueprint.response(200, ConnectionsSchema)
def listed(query: Mapping[str, Any]) -> dict[str, Any]:
    """The connections that are open, the newest first."""
    answer = console().running.connections(query["user"], query["limit"])
    units = answer.get("units", [])
    found = [each for unit in units for each in unit.get("connections", ())]
    return {"total": sum(int(unit.get("total", 0)) for unit in units), "connections": found[: query["limit"]]}


@blueprint.delete("/connections/<connection>")
@blueprint.needs("users")
@blueprint.response(200, CutSchema)
@blueprint.refuses(e404="That connection is not there any more.")
def cut(connection: str) -> dict[str, Any]:
    """Cut a connection."""
    return cut_one(console().running.disconnect(connection=connection), f"connection {connection} cut")


@blueprint.get("/tunnels")
@blueprint.needs("read")
@blueprint.response(200, TunnelsSchema)
def tunnels() -> dict[str, Any]:
    """The tunnels that are up."""
    return {"tunnels": tunnels_of(console().running.status())}


@blueprint.delete("/tunnels/<tunnel>")
@blueprint.needs("users")
@blueprint.response(200, CutSchema)
@blueprint.refuses(e404="That tunnel is not there any more.")
def close(tunnel: str) -> dict[str, Any]:
    """Close a tunnel; its client opens another one."""
    return cut_one(console().running.disconnect(tunnel=tunnel), f"tunnel {tunnel} closed")


def tunnels_of(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of all workers."""
    workers = [worker for unit in status.get("units", ()) for worker in unit.get("workers", ())]
    return [each for worker in workers for each in worker.get("tunnels", ())]


def cut_one(answer: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The answer to a disconnect. Raises Refused when there was nothing to cut."""
    count = int(answer.get("count", 0))
    if not count:
        raise Refused(404, str(answer.get("text") or "it is not there any more"))
    audit(what[:200])
    return {"count": count, "text": str(answer.get("text") or what)}
