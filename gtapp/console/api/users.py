"""The users of a server: who may open tunnels, and what each may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import request
from marshmallow import fields

from gtapp.config.options import USER
from gtapp.config.values import CREDENTIAL
from gtapp.console import changes
from gtapp.console.api.clients import LinkSchema
from gtapp.console.api.operations import Blueprint, Refused
from gtapp.console.api.schemas import Given, PageQuery, etag_header, one_of, options_schema, text, told
from gtapp.console.api.server import own_users, server_config
from gtapp.console.audit import audit
from gtapp.console.changes import Outcome
from gtapp.console.context import console
from gtapp.console.join import invitation
from gtapp.console.user_rows import Row, live, rows
from gtapp.errors import GTError

blueprint = Blueprint("users", "Who may open tunnels to this server, and what each may do.")

_SECRET = ("secret", "verifier")
_OPEN = [key for key, entry in USER.items() if entry.available and key not in _SECRET]
_EXAMPLE = {"id": "bob", "speed": "10MiB", "connections": 3, "tcpRange": ["20000-20010"]}

UserChanges = options_schema("UserChanges", USER)
UserOptions = options_schema("UserOptions", USER, _OPEN)


class NewUser(UserChanges):  # type: ignore[misc, valid-type]
    """A user that is to be added; without a secret or verifier it gets a secret, which is in the answer."""

    id = text("Its name, also the host prefix of its client.", required=True, least=1)


class UserSchema(Given):
    """A user. Limits that it has none of its own of are those of the server."""

    id = told(fields.String, "Its name.")
    source = told(
        fields.String, 'Where it stands; "" is the file that this console edits. Others are only shown.'
    )
    state = one_of(("connected", "away", "disabled"), required=True)
    proves = one_of(
        ("secret", "verifier", ""),
        'How it proves who it is: by a secret, or one that is not known here; "" for one that is let in by others.',
        required=True,
    )
    options = fields.Nested(
        UserOptions, required=True, metadata={"description": "What is set for it, without secrets."}
    )
    tunnels = told(fields.Integer, "How many are up.")
    streams = told(fields.Integer, "Relayed connections that are open.")
    bytes_in = told(fields.Integer, "Bytes from visitors since the master has started.")
    bytes_out = told(fields.Integer, "Bytes to visitors since then.")
    publishes = fields.List(fields.Nested(LinkSchema), required=True)


class UsersSchema(Given):
    """A page of users, by id."""

    total = told(fields.Integer, "How many there are.")
    users = fields.List(fields.Nested(UserSchema), required=True)


class JoinCodeSchema(Given):
    """How its client comes in."""

    code = told(fields.String, "gt://…: id, secret and addresses, to be pasted into a client's wizard.")
    svg = told(fields.String, "The same as a QR code.")
    python = told(fields.String, "The same as a command.")
    docker = told(fields.String, "The same as a command of Docker.")
    host = told(fields.String, "Name of the server in it.")
    is_guess = told(
        fields.Boolean, "Whether that is only the name that this console was reached by: set `domain`."
    )


@blueprint.get("/users")
@blueprint.needs("read")
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, UsersSchema, headers=etag_header())
def listed(page: Mapping[str, Any]) -> Any:
    """The users of all sources, by id."""
    own = own_users()
    found = _rows(own)
    shown = [_user(row, own) for row in found[page["offset"] : page["offset"] + page["limit"]]]
    return {"total": len(found), "users": shown}, _etag()


@blueprint.post("/users")
@blueprint.needs("users")
@blueprint.arguments(NewUser, example=_EXAMPLE)
@blueprint.changes(201, e409="There is a user with this id already; this GT was started without a file; or what runs"
                             " refused the change: then it was taken back.")  # fmt: skip
def add(values: dict[str, Any], etag: str | None) -> Outcome:
    """Add a user, who can connect at once."""
    user = values.pop("id")
    try:
        CREDENTIAL.parse(user)
    except ValueError:
        raise Refused.because(id=f"Must be {CREDENTIAL.allowed}.") from None
    if user in server_config().users or user in own_users():
        raise Refused(409, "there is a user with this id already: choose another one")
    return changes.save_user(
        user, {key: value for key, value in values.items() if value is not None}, etag, new=True
    )


@blueprint.get("/users/<id:user>")
@blueprint.needs("read")
@blueprint.response(200, UserSchema, headers=etag_header())
@blueprint.refuses(e404="There is no such user.")
def one(user: str) -> Any:
    """One user."""
    own = own_users()
    row = next((row for row in _rows(own) if row.id == user), None)
    if row is None:
        raise Refused(404, "there is no such user")
    return _user(row, own), _etag()


@blueprint.patch("/users/<id:user>")
@blueprint.needs("users")
@blueprint.arguments(UserChanges, example={"speed": "20MiB", "disabled": None})
@blueprint.changes(e404="There is no such user.")
def change(values: Mapping[str, Any], user: str, etag: str | None) -> Outcome:
    """Set what is sent, remove what is null, leave the rest; live at once."""
    _check(user)
    return changes.save_user(user, values, etag)


@blueprint.delete("/users/<id:user>")
@blueprint.needs("users")
@blueprint.changes(e404="There is no such user.")
def remove(user: str, etag: str | None) -> Outcome:
    """Delete a user; its tunnels are cut."""
    _check(user)
    return changes.remove_user(user, etag)


@blueprint.post("/users/<id:user>/secret")
@blueprint.needs("users")
@blueprint.changes(e404="There is no such user.")
def rotate(user: str, etag: str | None) -> Outcome:
    """Give a user a new secret, which is in the answer; the old one ends at once."""
    _check(user)
    return changes.rotate_secret(user, etag)


@blueprint.get("/users/<id:user>/join-code")
@blueprint.needs("users")
@blueprint.response(200, JoinCodeSchema)
@blueprint.refuses(e404="There is no such user.", e409="Its secret is not known here: give it a new one.")
def join_code(user: str) -> Any:
    """What its client needs to come in. It has the secret: show it to nobody else."""
    config = server_config()
    known = config.users.get(user)
    if known is None:
        raise Refused(404, "there is no such user")
    try:
        status = console().running.status()
    except GTError:  # it only says which port is which when the system has chosen them
        status = {}
    made = invitation(config, known, request.host, status)
    if made is None:
        raise Refused(409, "its secret is not known here: give it a new one")
    audit(f"join code of user {user} shown")
    return made


def _check(user: str) -> None:
    if user not in server_config().users and user not in own_users():
        raise Refused(404, "there is no such user")


def _rows(own: Mapping[str, Any]) -> list[Row]:
    return rows(server_config(), own, live(), request.host)


def _user(row: Row, own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    known = server_config().users.get(row.id)
    given = own.get(row.id, {}) if row.source == "" else _of_elsewhere(row.id)
    return {
        "id": row.id,
        "source": row.source,
        "state": "disabled" if row.disabled else "connected" if row.tunnels else "away",
        "proves": "" if known is None else "secret" if known.secret is not None else "verifier",
        "options": {key: given[key] for key in _OPEN if key in given},
        "tunnels": row.tunnels,
        "streams": row.streams,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "publishes": row.links,
    }


def _of_elsewhere(user: str) -> dict[str, Any]:
    """What another source says of a user: what it has, wherever it has it from."""
    known = server_config().users.get(user)
    if known is None:
        return {}
    values = {key: getattr(known, USER[key].name) for key in _OPEN}
    return {key: USER[key].show(value) for key, value in values.items() if value not in (None, ())}


def _etag() -> dict[str, str]:
    store = console().store
    return {"ETag": f'"{store.read().etag}"'} if store else {}
