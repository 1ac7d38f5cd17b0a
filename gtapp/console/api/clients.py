"""The clients of a server: who is connected, what each publishes; to be disconnected, and to be kept out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import request
from marshmallow import fields

from gtapp.console import changes
from gtapp.console.api.connections import CutSchema, cut_one, tunnels_of
from gtapp.console.api.operations import Blueprint, Refused
from gtapp.console.api.relay import TunnelSchema
from gtapp.console.api.schemas import Given, one_of, told
from gtapp.console.api.server import server_config
from gtapp.console.changes import Outcome
from gtapp.console.context import console
from gtapp.console.join import Link, public_links

blueprint = Blueprint("clients", "The clients that are connected to this server.")


class LinkSchema(Given):
    """Something that is published."""

    kind = told(fields.String, "http, tls or tcp.")
    name = told(fields.String, "Host prefix or port.")
    urls = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "Where visitors find it, as far as that is known."},
    )


class ClientSchema(Given):
    """A client."""

    id = told(fields.String, "Its user.")
    state = one_of(("connected", "away", "disabled"), required=True)
    streams = told(fields.Integer, "Relayed connections that are open.")
    bytes_in = told(fields.Integer, "Bytes from visitors since the master has started.")
    bytes_out = told(fields.Integer, "Bytes to visitors since then.")
    tunnels = fields.List(fields.Nested(TunnelSchema), required=True)
    publishes = fields.List(fields.Nested(LinkSchema), required=True)


class ClientsSchema(Given):
    """All that are connected, by id."""

    clients = fields.List(fields.Nested(ClientSchema), required=True)


@blueprint.get("/clients")
@blueprint.needs("read")
@blueprint.response(200, ClientsSchema)
def listed() -> dict[str, Any]:
    """The clients that have a tunnel."""
    return {"clients": [each for each in _clients() if each["tunnels"]]}


@blueprint.get("/clients/<id:user>")
@blueprint.needs("read")
@blueprint.response(200, ClientSchema)
@blueprint.refuses(e404="There is no such user, and no such client is connected.")
def one(user: str) -> dict[str, Any]:
    """One client, also one that is away."""
    found = next((each for each in _clients() if each["id"] == user), None)
    if found is None:
        raise Refused(404, "there is no such user, and no such client is connected")
    return found


@blueprint.post("/clients/<id:user>/disconnect")
@blueprint.needs("users")
@blueprint.response(200, CutSchema)
@blueprint.refuses(e404="It has no tunnel at the moment.")
def disconnect(user: str) -> dict[str, Any]:
    """Close its tunnels. It may come back at once: to keep it out, block it."""
    return cut_one(console().running.disconnect(user=user), f"client {user} disconnected")


@blueprint.post("/clients/<id:user>/block")
@blueprint.needs("users")
@blueprint.changes(e404="There is no such user.")
def block(user: str, etag: str | None) -> Outcome:
    """Disable its user: the tunnels are closed, and it can't come back."""
    return _set_disabled(user, True, etag)


@blueprint.post("/clients/<id:user>/unblock")
@blueprint.needs("users")
@blueprint.changes(e404="There is no such user.")
def unblock(user: str, etag: str | None) -> Outcome:
    """Let it in again."""
    return _set_disabled(user, None, etag)


def _set_disabled(user: str, value: bool | None, etag: str | None) -> Outcome:
    if user not in server_config().users:
        raise Refused(404, "there is no such user")
    return changes.save_user(user, {"disabled": value}, etag)


def _clients() -> list[dict[str, Any]]:
    """All users, and who is connected without being one of them."""
    config, running = server_config(), console().running
    status = running.status()
    numbers: dict[str, Mapping[str, Any]] = {}
    for unit in running.metrics().get("units", ()):
        numbers |= unit.get("users", {})
    tunnels: dict[str, list[dict[str, Any]]] = {}
    for each in tunnels_of(status):
        tunnels.setdefault(each["user"], []).append(each)
    links: dict[str, list[Link]] = {}
    for link in public_links(config, status, request.host):
        links.setdefault(link.user, []).append(link)
    found = []
    for user in sorted({*config.users, *tunnels}):
        known, counted = config.users.get(user), numbers.get(user, {})
        away = "disabled" if known is not None and known.disabled else "away"
        found.append(
            {
                "id": user,
                "state": "connected" if user in tunnels else away,
                **{key: int(counted.get(key, 0)) for key in ("streams", "bytes_in", "bytes_out")},
                "tunnels": tunnels.get(user, []),
                "publishes": links.get(user, []),
            }
        )
    return found
