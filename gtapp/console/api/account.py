"""The administrator's account: sessions, tokens, and who changed what. No token may see or change it but the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_login import current_user
from marshmallow import fields, validate

from gtapp.console import accounts
from gtapp.console.api.operations import Blueprint, Refused
from gtapp.console.api.schemas import Given, Taken, TextSchema, number, text, told
from gtapp.console.audit import audit
from gtapp.console.auth import ACCOUNT
from gtapp.console.context import console
from gtapp.console.tokens import MAX_LABEL, MAX_TOKENS, SCOPES

blueprint = Blueprint("account", "The administrator's sessions and tokens, and the audit log.")

MOST_ENTRIES = 500
LONGEST_DAYS = 3650
DAY_S = 86400.0


class SessionSchema(Given):
    """A browser that is logged in."""

    id = told(fields.String, "Names it; nobody gets in by it.")
    created = told(fields.Float, "When it logged in, seconds since 1970.")
    seen = told(fields.Float, "When it was used last.")
    address = told(fields.String, "From where.")
    agent = told(fields.String, "What the browser calls itself.")
    current = told(fields.Boolean, "Whether it is this one.")


class SessionsSchema(Given):
    """All browsers that are logged in."""

    sessions = fields.List(fields.Nested(SessionSchema), required=True)


class TokenSchema(Given):
    """An API token, without itself."""

    id = told(fields.String, "Names it.")
    label = told(fields.String, "What it is for.")
    scopes = fields.List(
        fields.String(validate=validate.OneOf(SCOPES)),
        required=True,
        metadata={"description": "What it may do."},
    )
    created = told(fields.Float, "Seconds since 1970.")
    expires = fields.Float(required=True, allow_none=True, metadata={"description": "null: it does not."})
    used = fields.Float(required=True, allow_none=True, metadata={"description": "When last; null: never."})
    address = told(fields.String, 'From where; "" when it was never used.')


class TokensSchema(Given):
    """All tokens, newest first."""

    tokens = fields.List(fields.Nested(TokenSchema), required=True)


class NewToken(Taken):
    """A token that is to be made."""

    label = text("What it is for.", most=MAX_LABEL, least=1, required=True)
    scopes = fields.List(
        fields.String(validate=validate.OneOf(SCOPES)),
        required=True,
        validate=validate.Length(1, len(SCOPES)),
        metadata={"description": "What it may do."},
    )
    days = number(
        "How long it is good; null: it does not expire.",
        1,
        LONGEST_DAYS,
        strict=True,
        allow_none=True,
        load_default=90,
    )


class MadeTokenSchema(Given):
    """A new token."""

    token = told(fields.String, "Shown this once: Authorization: Bearer gt_…")


class AuditQuery(Taken):
    """Which entries of the audit log."""

    search = text("Only entries with this text.", load_default="")
    before = number("Only entries older than the one with this id.", 1, 2**53, load_default=None)
    limit = number("How many at most, the newest of them.", 1, MOST_ENTRIES, load_default=100)


class EntrySchema(Given):
    """Something that somebody has done."""

    id = told(fields.Integer, "Counts them.")
    time = told(fields.Float, "Seconds since 1970.")
    name = told(fields.String, "Who.")
    via = told(fields.String, "browser, or token and its label.")
    address = told(fields.String, "From where.")
    what = told(fields.String, "What was done.")
    detail = told(fields.String, "More about it, without secrets.")


class AuditSchema(Given):
    """Entries of the audit log, newest first."""

    entries = fields.List(fields.Nested(EntrySchema), required=True)


@blueprint.get("/account/sessions")
@blueprint.needs(ACCOUNT)
@blueprint.response(200, SessionsSchema)
def sessions() -> dict[str, Any]:
    """The browsers that are logged in."""
    found = accounts.sessions().all(accounts.administrator().stamp)
    own = _own_session()
    return {"sessions": [{**_plain(each, SessionSchema), "current": each.id == own} for each in found]}


@blueprint.delete("/account/sessions/<session>")
@blueprint.needs(ACCOUNT)
@blueprint.response(200, TextSchema)
@blueprint.refuses(e404="There is no such session.", e409="That is this session: log out instead.")
def end_session(session: str) -> dict[str, str]:
    """Log a browser out."""
    if session == _own_session():
        raise Refused(409, "that is this session: log out instead")
    if not accounts.sessions().end(session):
        raise Refused(404, "there is no such session: it has ended")
    audit("session ended", session)
    return {"text": "that browser has to log in again"}


@blueprint.get("/account/tokens")
@blueprint.needs(ACCOUNT)
@blueprint.response(200, TokensSchema)
def tokens() -> dict[str, Any]:
    """The API tokens."""
    found = accounts.tokens().all()
    return {
        "tokens": [
            {**_plain(each, TokenSchema), "scopes": [scope for scope in SCOPES if scope in each.scopes]}
            for each in found
        ]
    }


@blueprint.post("/account/tokens")
@blueprint.needs(ACCOUNT)
@blueprint.arguments(NewToken, example={"label": "Prometheus", "scopes": ["metrics"], "days": 365})
@blueprint.response(201, MadeTokenSchema)
@blueprint.refuses(e409="There are too many tokens: revoke one.")
def make_token(values: Mapping[str, Any]) -> dict[str, str]:
    """Make a token; it is shown this once."""
    lasts_s = None if values["days"] is None else values["days"] * DAY_S
    if len(accounts.tokens().all()) >= MAX_TOKENS:
        raise Refused(409, f"there are {MAX_TOKENS} tokens already: revoke one that is not used any more")
    made = accounts.tokens().new(values["label"], values["scopes"], lasts_s)
    audit("API token made", f"{values['label']} ({', '.join(values['scopes'])})")
    return {"token": made}


@blueprint.delete("/account/tokens/<token>")
@blueprint.needs(ACCOUNT)
@blueprint.response(200, TextSchema)
@blueprint.refuses(e404="There is no such token.")
def revoke_token(token: str) -> dict[str, str]:
    """It is worth nothing from now on."""
    gone = accounts.tokens().revoke(token)
    if gone is None:
        raise Refused(404, "there is no such token: it has been revoked")
    audit("API token revoked", gone.label)
    return {"text": "the token is worth nothing any more"}


@blueprint.get("/audit")
@blueprint.needs("read")
@blueprint.arguments(AuditQuery, location="query")
@blueprint.response(200, AuditSchema)
def entries(query: Mapping[str, Any]) -> dict[str, Any]:
    """Who changed what, when and from where."""
    found = console().db.audit(query["limit"], query["before"], query["search"])
    return {"entries": [dict(each) for each in found]}


def _own_session() -> str:
    return current_user.session.id if current_user.session is not None else ""


def _plain(value: Any, schema: type[Given]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in schema._declared_fields if hasattr(value, name)}
