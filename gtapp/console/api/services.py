"""The services of a client: what it publishes; what else this machine has; and whether a server lets it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import fields

from gtapp.config.load import ClientConfig
from gtapp.config.options import OPTIONS, SERVICE
from gtapp.config.values import URL
from gtapp.console import changes
from gtapp.console.api.operations import Blueprint, Refused
from gtapp.console.api.relay import CheckSchema
from gtapp.console.api.schemas import Given, Taken, etag_header, options_schema, text, told
from gtapp.console.changes import Outcome, store_of
from gtapp.console.context import console
from gtapp.console.dial import Tried, try_service
from gtapp.console.discover import Found, discover
from gtapp.errors import GTError, WireError
from gtapp.wire.join_code import MAX_PASTE_CHARACTERS, JoinCode

blueprint = Blueprint("services", "What this client publishes, and the server it publishes it at.")

_OPEN = [key for key, entry in SERVICE.items() if entry.available and not entry.secret]
_PROBED = ("id", "secret", "remote", "remoteCert", "remoteCertInsecure", "protocol", "allowPlainSecret")
_MISSING = "Missing data for required field."
_EXAMPLE = {"local": "http://127.0.0.1:8080", "hostPrefix": "wiki"}

ServiceChanges = options_schema("ServiceChanges", SERVICE)
ServiceOptions = options_schema("ServiceOptions", SERVICE, _OPEN)
_ProbeOptions = options_schema("ProbeOptions", OPTIONS["client"], _PROBED)


class NewService(ServiceChanges):  # type: ignore[misc, valid-type]
    """A service that is to be published: `local` at least."""


class ServiceSchema(Given):
    """A service of the configuration file."""

    number = told(
        fields.Integer, "Its place in the file, from 1: names it. Removing one moves those behind it."
    )
    options = fields.Nested(
        ServiceOptions, required=True, metadata={"description": "What is set, without secrets."}
    )
    has_password = told(fields.Boolean, "Whether visitors are asked for user and password (basicAuth).")
    public = fields.List(
        fields.String(), required=True, metadata={"description": "Where the server has published it."}
    )
    problem = told(
        fields.String, 'Why it could not be reached when it was last connected to; "" when it could.'
    )


class ServicesSchema(Given):
    """The services of the file, and how many come from flags or variables besides."""

    services = fields.List(fields.Nested(ServiceSchema), required=True)
    others = told(
        fields.Integer, "How many come from the command line or the environment: not to be changed here."
    )


class LocalSchema(Taken):
    """What is to be tried out."""

    local = text("URL of the service.", least=1, required=True)


class FoundSchema(Given):
    """A service that listens on this machine."""

    port = told(fields.Integer, "Where.")
    url = told(fields.String, "As `local` has it.")
    name = told(fields.String, "Its process, or what usually is there.")


class FoundListSchema(Given):
    """What was found."""

    found = fields.List(fields.Nested(FoundSchema), required=True)


class ProbeRequest(_ProbeOptions):  # type: ignore[misc, valid-type]
    """The server and who wants to come in: options of a client, or a join code instead."""

    join_code = text("gt://…", most=MAX_PASTE_CHARACTERS, load_default="")


class ProbeSchema(CheckSchema):
    """Whether a tunnel could be opened, and how."""

    code = told(fields.String, "Why the server refused, a word of PROTOCOL.md.", required=False)
    rtt_ms = told(fields.Float, "Round trip.", required=False)
    agent = told(fields.String, "Program of the server.", required=False)
    transport = told(fields.String, "tcp or tls.", required=False)


@blueprint.get("/services")
@blueprint.needs("read")
@blueprint.response(200, ServicesSchema, headers=etag_header())
def listed() -> Any:
    """The services, and how each does."""
    services, etag = _own()
    states = _states()
    shown = [_service(number, each, states) for number, each in enumerate(services, 1)]
    config = console().usable_config()
    assert isinstance(config, ClientConfig)
    return {"services": shown, "others": max(0, len(config.services) - len(services))}, _header(etag)


@blueprint.post("/services")
@blueprint.needs("users")
@blueprint.arguments(NewService, example=_EXAMPLE)
@blueprint.changes(201)
def add(values: Mapping[str, Any], etag: str | None) -> Outcome:
    """Publish one more service."""
    if not values.get("local"):
        raise Refused.because(local=_MISSING)
    return changes.save_service(
        None, {key: value for key, value in values.items() if value is not None}, etag
    )


@blueprint.get("/services/<int:number>")
@blueprint.needs("read")
@blueprint.response(200, ServiceSchema, headers=etag_header())
@blueprint.refuses(e404="There is no such service.")
def one(number: int) -> Any:
    """One service."""
    services, etag = _own()
    _check(number, services)
    return _service(number, services[number - 1], _states()), _header(etag)


@blueprint.patch("/services/<int:number>")
@blueprint.needs("users")
@blueprint.arguments(ServiceChanges, example={"hostPrefix": "notes"})
@blueprint.changes(e404="There is no such service.")
def change(values: Mapping[str, Any], number: int, etag: str | None) -> Outcome:
    """Set what is sent, remove what is null, leave the rest. With If-Match it is surely the service that you mean."""
    _check(number, _own()[0])
    return changes.save_service(number - 1, values, etag)


@blueprint.delete("/services/<int:number>")
@blueprint.needs("users")
@blueprint.changes(e404="There is no such service.")
def remove(number: int, etag: str | None) -> Outcome:
    """Publish it no more. With If-Match it is surely the service that you mean."""
    _check(number, _own()[0])
    return changes.remove_service(number - 1, etag)


@blueprint.post("/services/try")
@blueprint.needs("users")
@blueprint.arguments(LocalSchema, example={"local": "http://127.0.0.1:8080"})
@blueprint.response(200, CheckSchema)
def try_out(values: Mapping[str, str]) -> Tried:
    """Connect to a local service from this machine: whether it answers, and in the protocol of its URL."""
    try:
        local: URL = SERVICE["local"].kind.parse(values["local"])
    except ValueError:
        raise Refused.because(local=f"Must be {SERVICE['local'].kind.allowed}.") from None
    return try_service(local)


@blueprint.get("/discover")
@blueprint.needs("users")
@blueprint.response(200, FoundListSchema)
def discovered() -> dict[str, list[Found]]:
    """What listens on this machine that one may want to publish."""
    return {"found": discover()}


@blueprint.post("/probe")
@blueprint.needs("users")
@blueprint.arguments(
    ProbeRequest, example={"id": "alice", "secret": "…", "remote": ["tls://example.com:443"]}
)
@blueprint.response(200, ProbeSchema)
def probe(values: dict[str, Any]) -> dict[str, Any]:
    """Open a tunnel with other options than those of the file, and close it again: whether the server lets us in."""
    code = values.pop("join_code", "")
    options = {key: value for key, value in values.items() if value is not None}
    if code:
        try:
            parsed = JoinCode.parse(code)
        except WireError as error:
            raise Refused.because(join_code=str(error)) from None
        options |= {"id": parsed.id, "secret": parsed.secret, "remote": list(parsed.remotes)}
    if missing := {key: _MISSING for key in ("id", "secret", "remote") if not options.get(key)}:
        raise Refused.because(**missing)
    texts = {key: str(value).lower() if isinstance(value, bool) else value for key, value in options.items()}
    try:
        answer = console().running.probe(texts)
    except GTError as error:
        return {"ok": False, "text": str(error)}
    return {
        key: answer[key] for key in ("ok", "text", "code", "rtt_ms", "agent", "transport") if key in answer
    }


def _own() -> tuple[list[dict[str, Any]], str]:
    """The services of the file, in YAML form, and its etag. Raises ConfigError while it cannot be read."""
    if console().store is None:
        return [], ""
    now = store_of().read()
    return store_of().document(now.text).services(), now.etag


def _states() -> dict[str, Mapping[str, Any]]:
    """What the running client says of its services, by local URL; nothing when it does not answer."""
    try:
        status = console().running.status()
    except GTError:
        return {}
    workers = [worker for unit in status.get("units", ()) for worker in unit.get("workers", ())]
    return {each["local"]: each for worker in workers for each in worker.get("services", ())}


def _service(
    number: int, options: Mapping[str, Any], states: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    state = states.get(str(options.get("local")), {})
    return {
        "number": number,
        "options": {key: options[key] for key in _OPEN if key in options},
        "has_password": bool(options.get("basicAuth")),
        "public": state.get("public", []),
        "problem": "" if state.get("works", True) else state.get("problem", ""),
    }


def _check(number: int, services: list[dict[str, Any]]) -> None:
    if not 1 <= number <= len(services):
        raise Refused(404, f"there is no service {number} in the file")


def _header(etag: str) -> dict[str, str]:
    return {"ETag": f'"{etag}"'} if etag else {}
