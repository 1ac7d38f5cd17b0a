"""The client's part of the wizard: the server, tried out at once, and the services to publish. Served by `setup`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_babel import lazy_gettext

from gtapp.config.options import LOCAL, REMOTE
from gtapp.config.values import CREDENTIAL, HOST_PREFIX, URL, is_host_prefix
from gtapp.console.context import console
from gtapp.console.discover import Found, discover
from gtapp.console.setup_checks import container
from gtapp.console.setup_wizard import ACCOUNT, SUMMARY, Entry, Form, Refused, Step, Wizard, text_of
from gtapp.console.words import _
from gtapp.errors import GTError, WireError
from gtapp.wire.join_code import MAX_PASTE_CHARACTERS, JoinCode

MAX_ROWS = 50  # services that one form can have
MORE = "more"  # the button for another row


# the server


@dataclass(frozen=True)
class Target:
    """A server, and who comes to it. `remotes` are ways to it, tried in this order; with `all_ways` it has said itself
    that it is reached by each. Without `insecure` a certificate has to verify, with it the secret proves who it is."""

    id: str
    secret: str
    remotes: tuple[str, ...]
    all_ways: bool
    insecure: bool

    def options(self, remotes: tuple[str, ...], insecure: bool) -> dict[str, Any]:
        """As a client's options have it."""
        more = {"remoteCertInsecure": "true"} if insecure else {}
        return {"id": self.id, "secret": self.secret, "remote": list(remotes), **more}


def read_server(wizard: Wizard, form: Form) -> Entry:
    """Only a server that lets this client in is taken."""
    target, entry = _from_code(form) if form.get("kind", "code") == "code" else _from_fields(form)
    at = "code" if entry["kind"] == "code" else "remote"
    known = wizard.entries.get("server", {})
    if known and all(known.get(key) == value for key, value in entry.items()):
        return known  # as before, and that was tried
    tried = _try(target)
    if tried.problem and not tried.untrusted:
        raise Refused({at: _("No tunnel could be opened: %(reason)s", reason=tried.problem)})
    if tried.untrusted:
        raise Refused(
            {at: _("The certificate of this server is not one that this machine trusts.")}, untrusted=True
        )
    return {
        **entry,
        "id": target.id,
        "secret": target.secret,
        "remotes": list(tried.remotes),
        "verify": not tried.insecure,
        **tried.facts,
    }


def _from_code(form: Form) -> tuple[Target, Entry]:
    text = form.get("code", "").strip()[:MAX_PASTE_CHARACTERS]
    if not text:
        raise Refused({"code": _("Paste the join code, or fill in the server yourself.")})
    try:
        code = JoinCode.parse(text)
        remotes = tuple(str(REMOTE.parse(each)) for each in code.remotes)
    except WireError as error:
        raise Refused({"code": _code_problem(str(error))}) from None
    except ValueError:
        raise Refused({"code": _code_problem("damaged")}) from None
    usable = tuple(each for each in remotes if not each.startswith("quic:"))
    if not usable:
        raise Refused({"code": _("This code names no server that can be reached. Make a new one there.")})
    insecure = bool(form.get("insecure"))
    target = Target(code.id, code.secret, usable, True, insecure or bool(code.fingerprint))
    return target, {"kind": "code", "code": text, "insecure": insecure}


def _code_problem(words: str) -> str:
    if "cut off" in words:
        return _("The end of this code is missing. Copy all of it.")
    if "begins with" in words:
        return _("This is no join code. One begins with gt://")
    return _("This code is damaged. Copy it again from the server's console.")


def _from_fields(form: Form) -> tuple[Target, Entry]:
    typed = {name: text_of(form, name) for name in ("remote", "id", "secret")}
    errors = {}
    try:
        remotes = ways_to(typed["remote"])
    except ValueError:
        errors["remote"] = _("Enter the server, for example tls://example.com or tcp://example.com:8080.")
    for name in ("id", "secret"):
        try:
            CREDENTIAL.parse(typed[name])
        except ValueError:
            errors[name] = _("This is needed: the server's console shows it, under Users.")
    if errors:
        raise Refused(errors)
    insecure = bool(form.get("insecure"))
    target = Target(typed["id"], typed["secret"], remotes, False, insecure)
    return target, {
        "kind": "fields",
        "insecure": insecure,
        **{f"typed_{key}": each for key, each in typed.items()},
    }


def ways_to(text: str) -> tuple[str, ...]:
    """What may be meant by a server as people type it: without a scheme, TLS is tried first. Raises ValueError."""
    text = text.strip()
    if "://" not in text:
        return tuple(str(REMOTE.parse(f"{scheme}://{text}")) for scheme in ("tls", "tcp"))
    scheme, _separator, rest = text.partition("://")
    scheme = {"https": "tls", "http": "tcp"}.get(scheme.lower(), scheme)
    remote: URL = REMOTE.parse(f"{scheme}://{rest}")
    if remote.scheme == "quic":
        raise ValueError
    return (str(remote),)


@dataclass(frozen=True)
class _Tried:
    """`untrusted`: it is only the certificate that is in the way."""

    remotes: tuple[str, ...] = ()
    insecure: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    untrusted: bool = False


def _try(target: Target) -> _Tried:
    """Open a tunnel by each of the ways until one can be had.

    A certificate that does not verify is taken when the join code has told which one it is, or when somebody has said
    so: the tunnel's handshake then proves, bound to that certificate, that the server knows the secret.
    """
    problems: list[str] = []
    for remote in target.remotes:
        for insecure in (False, True) if remote.startswith("tls:") else (False,):
            try:
                answer = console().running.probe(target.options((remote,), insecure))
            except GTError as error:
                problems.append(str(error))
                continue
            if insecure and not target.insecure:
                return _Tried((remote,), True, {}, problems[-1], untrusted=True)
            facts = {key: answer.get(key, "") for key in ("agent", "transport", "rtt_ms")}
            others = tuple(each for each in target.remotes if each != remote) if target.all_ways else ()
            return _Tried((remote, *others), insecure, facts)
    return _Tried(problem=problems[0])


# services


@dataclass(frozen=True)
class Row:
    """A service in the form. `port` is the public TCP port, "" for any."""

    use: bool
    local: str
    prefix: str = ""
    port: str = ""
    name: str = ""
    found: bool = False
    errors: Mapping[str, str] | None = None

    @property
    def is_tcp(self) -> bool:
        return self.local.lower().startswith("tcp:")


def read_services(wizard: Wizard, form: Form) -> Entry:
    rows = rows_of(form)
    if MORE in form:
        raise Refused(rows=[*rows, Row(True, "")][:MAX_ROWS])
    checked: list[Row] = []
    services: list[dict[str, Any]] = []
    taken: dict[tuple[str, str], str] = {}
    for row in rows:
        service, errors = _service(row, wizard.value("server", "id"), taken) if row.use else ({}, {})
        checked.append(Row(row.use, row.local, row.prefix, row.port, row.name, row.found, errors))
        if service:
            services.append(service)
    if any(each.errors for each in checked):
        raise Refused(notice=_("One of the services can't be published like this."), rows=checked)
    if not services:
        raise Refused(notice=_("Choose one service at least, or enter one."), rows=checked)
    kept = [each for each in checked if each.use or each.found]
    return {"rows": kept, "services": services}


def rows_of(form: Form) -> list[Row]:
    """What was sent, without rows that nobody has filled in."""
    rows = []
    for number in range(MAX_ROWS):
        if f"local-{number}" not in form:
            break
        local, prefix, port, name = (
            text_of(form, f"{what}-{number}") for what in ("local", "prefix", "port", "name")
        )
        if local:
            use = bool(form.get(f"use-{number}"))
            rows.append(Row(use, local, prefix, port, name[:100], bool(form.get(f"found-{number}"))))
    return rows


def _service(row: Row, id: str, taken: dict[tuple[str, str], str]) -> tuple[dict[str, Any], dict[str, str]]:
    """As an entry of `services` has it, or what is wrong."""
    try:
        local: URL = LOCAL.parse(row.local)
    except ValueError:
        hint = _("Enter http://127.0.0.1:80, https://… or tcp://127.0.0.1:22, without a path.")
        return {}, {"local": hint}
    if local.scheme == "tcp":
        if not row.port:
            return {"local": str(local)}, {}
        if not (row.port.isascii() and row.port.isdigit() and 0 < int(row.port) < 65536):
            return {}, {"port": _("Enter a port from 1 to 65535, or nothing for any.")}
        return _once({"local": str(local), "remoteTCPPort": int(row.port)}, ("tcp", row.port), "port", taken)
    prefix = row.prefix.lower() or id.lower()
    try:
        HOST_PREFIX.parse(prefix)
    except ValueError:
        return {}, {"prefix": _("Use letters, digits and - (inside); at most 63.")}
    return _once({"local": str(local), "hostPrefix": prefix}, (local.scheme, prefix), "prefix", taken)


def _once(
    service: dict[str, Any], key: tuple[str, str], field: str, taken: dict[tuple[str, str], str]
) -> tuple[dict[str, Any], dict[str, str]]:
    if key in taken:
        return {}, {field: _("That is where %(other)s is already. Choose another.", other=taken[key])}
    taken[key] = service["local"]
    return service, {}


def show_services(wizard: Wizard, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What listens on this machine is suggested, and one row is free."""
    more = {"domain": public_name(wizard), "container": container(), "id": wizard.value("server", "id")}
    if "rows" in values:
        return more
    rows = suggested(discover(own_ports=[int(console().port)]), wizard.value("server", "id"))
    return {**more, "rows": rows or [Row(True, "")]}


def suggested(found: list[Found], id: str) -> list[Row]:
    """The first web server gets the id for its host prefix, the others one that tells what they are."""
    prefixes: set[str] = set()
    rows = []
    for each in found:
        prefix = ""
        if each.scheme != "tcp":
            named = "".join(letter if letter.isalnum() else "-" for letter in each.name.lower()).strip("-")
            choices = [id.lower(), named, f"{named}-{each.port}", f"port-{each.port}"]
            usable = (choice for choice in choices if choice not in prefixes and is_host_prefix(choice))
            prefix = next(usable, "")
            prefixes.add(prefix)
        rows.append(Row(False, each.url, prefix, "", each.name, found=True))
    return rows


def public_name(wizard: Wizard) -> str:
    """Under which name the server's visitors come, as far as a client can know."""
    remotes = wizard.value("server", "remotes", [])
    host = str(REMOTE.parse(remotes[0]).host) if remotes else ""
    return "localhost" if host == "::1" or host.startswith("127.") else host


# what comes of it


STEPS = (
    ACCOUNT,
    Step("server", lazy_gettext("Which server?"), lazy_gettext("Server"), read_server),
    Step(
        "services",
        lazy_gettext("What do you want to publish?"),
        lazy_gettext("Services"),
        read_services,
        show_services,
    ),
    SUMMARY,
)


def document(wizard: Wizard) -> dict[str, Any]:
    """The configuration, as it stands in YAML."""
    server = wizard.entries["server"]
    remotes = server["remotes"]
    options: dict[str, Any] = {
        "id": server["id"],
        "secret": server["secret"],
        "remote": remotes if len(remotes) > 1 else remotes[0],
    }
    if not server["verify"]:
        options["remoteCertInsecure"] = True  # the secret proves who the server is
    services = wizard.value("services", "services")
    return {"type": "client", "services": services, "options": options | wizard.console_options()}


def step_of(problem: str) -> str:
    """The step whose answer a problem of the start is about; "" when nobody can tell."""
    marks = {
        "services": ("services", "local", "host prefix"),
        "server": ("remote", "secret", "cannot connect"),
    }
    return next((step for step, words in marks.items() if any(word in problem for word in words)), "")


def overview(wizard: Wizard) -> list[tuple[str, str, str]]:
    """For the summary: step, what it is, what was chosen."""
    server = wizard.entries["server"]
    rows = [
        ("account", _("Administrator"), wizard.value("account", "name")),
        ("server", _("Server"), ", ".join(server["remotes"])),
        ("server", _("This client's id"), server["id"]),
    ]
    for each in wizard.value("services", "services"):
        where = each.get("hostPrefix") or each.get("remoteTCPPort") or _("any port")
        rows.append(("services", _("Service"), f"{each['local']} → {where}"))
    return rows
