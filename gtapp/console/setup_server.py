"""The server's part of the wizard: domain, addresses, certificate and the first client. Served by `setup`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import request
from flask_babel import lazy_gettext

from gtapp.config.values import ADDRESS, CREDENTIAL, PORT_RANGE, Address, is_host_prefix
from gtapp.console.context import console
from gtapp.console.setup_certificate import check_certificate
from gtapp.console.setup_checks import (
    HTTP_PORTS,
    LOCALHOST,
    TLS_PORTS,
    DNSCheck,
    check_bind,
    check_dns,
    clean_domain,
    container,
    free_port,
    is_address,
    is_public,
    own_addresses,
)
from gtapp.console.setup_wizard import (
    ACCOUNT,
    SUMMARY,
    Entry,
    Form,
    Refused,
    Step,
    Wizard,
    shown_address,
    text_of,
)
from gtapp.console.setup_words import (
    Finding,
    bind_words,
    certificate_problem,
    certificate_words,
    field_name,
    record_words,
)
from gtapp.console.words import _

MIN_SECRET = 12  # letters of one that somebody has thought of
FIRST_ID = "home"

# domain


def read_domain(wizard: Wizard, form: Form) -> Entry:
    if form.get("kind") == "try":
        return {"kind": "try", "domain": LOCALHOST}
    text = text_of(form, "domain")
    if not text:
        raise Refused({"domain": _("Enter your domain, or choose to try GT on this machine first.")})
    if is_address(text):
        raise Refused(
            {"domain": _("An address has no names under it, and each service needs one. Enter a domain.")}
        )
    try:
        return {"kind": "own", "domain": clean_domain(text)}
    except ValueError:
        raise Refused({"domain": _("This is no domain name. It looks like example.com.")}) from None


def check_domain(wizard: Wizard, form: Form) -> Mapping[str, Any]:
    """The records as they should be, and what is there now."""
    addresses = public_addresses()
    try:
        domain = clean_domain(text_of(form, "domain"))
    except ValueError:
        domain = ""
    if domain == LOCALHOST:
        return {"records": []}
    dns = check_dns(domain, own_addresses(browser_host())) if domain else DNSCheck(())
    shown = domain or "example.com"
    target = addresses or [_("your server's address")]
    records = [
        (name, "AAAA" if ":" in address else "A", address)
        for address in target
        for name in (shown, f"*.{shown}")
    ]
    return {
        "records": records,
        "dns": dns,
        "findings": [record_words(each) for each in dns.records],
        "local": bool(addresses) and not any(is_public(each) for each in addresses),
    }


def public_addresses() -> list[str]:
    """What the records should say, as far as this machine knows: at most one address of each family."""
    ours = own_addresses(browser_host())
    found = [each for each in ours if is_public(each)]
    if not found and not container():
        found = [each for each in ours if ":" not in each]
    by_family: dict[bool, str] = {}
    for each in found:
        by_family.setdefault(":" in each, each)
    return list(by_family.values())


def browser_host() -> str:
    """The name or address in the browser's address bar."""
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


# addresses


def read_listen(wizard: Wizard, form: Form) -> Entry:
    errors: dict[str, str] = {}
    addresses: dict[str, Address | None] = {}
    for name in ("addr", "tls"):
        try:
            addresses[name] = read_address(text_of(form, name))
        except ValueError:
            errors[name] = _("Enter a port such as 80, or an address with one: 192.0.2.1:80.")
    ports = text_of(form, "ports")
    try:
        for each in ports.replace(",", " ").split():
            PORT_RANGE.parse(each)
    except ValueError:
        errors["ports"] = _("Enter ports such as 20000-20099, or nothing.")
    addr, tls = addresses.get("addr"), addresses.get("tls")
    if not errors and addr is None and tls is None:
        errors["addr"] = _("One of the two is needed: how else would visitors come in?")
    if addr is not None and tls is not None and addr.port == tls.port:
        errors["tls"] = _("This is the same port as for HTTP. Each needs its own.")
    for name, address in addresses.items():
        if address is not None and name not in errors:
            finding = bind_words(check_bind(address), name)
            if finding.kind == "bad":
                errors[name] = finding.sentence
    if errors:
        raise Refused(errors)
    shown = {name: str(shown_address(each)) if each else "" for name, each in addresses.items()}
    return {**shown, "ports": ", ".join(ports.replace(",", " ").split())}


def read_address(text: str) -> Address | None:
    """Raises ValueError."""
    address: Address | None = ADDRESS.parse(text)
    if address is not None and not address.port:
        raise ValueError
    return address


def show_listen(wizard: Wizard, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first free ports are suggested."""
    if "addr" in values:
        return {}
    http, tls = free_port(HTTP_PORTS), free_port(TLS_PORTS)
    return {"addr": http or "", "tls": tls or "", "ports": ""}


def check_listen(wizard: Wizard, form: Form) -> Mapping[str, Any]:
    findings = []
    usable: list[str] = []
    for name in ("addr", "tls"):
        try:
            address = read_address(text_of(form, name))
        except ValueError:
            continue  # the field says it
        if address is not None:
            findings.append(bind_words(check_bind(address), name))
            usable.append(str(address.port))
    ports = text_of(form, "ports").replace(",", " ").split()
    usable += [each for each in ports if _is_range(each)]
    published = [f"{each}:{each}" for each in usable]
    lines = "".join(f'\n      - "{each}"' for each in (f"{console().port}:{console().port}", *published))
    return {
        "findings": findings,
        "container": container(),
        "published": published,
        "run": " ".join([container() or "docker", "run …", *(f"-p {each}" for each in published), "…"]),
        "compose": f"services:\n  gt:\n    ports:{lines}",
    }


def _is_range(text: str) -> bool:
    try:
        PORT_RANGE.parse(text)
    except ValueError:
        return False
    return True


# certificate


def has_tls(wizard: Wizard) -> bool:
    return bool(wizard.value("listen", "tls"))


def may_have_tls(wizard: Wizard) -> bool:
    """As long as that is not answered, the step counts."""
    return "listen" not in wizard.entries or has_tls(wizard)


def read_certificate(wizard: Wizard, form: Form) -> Entry:
    if form.get("kind", "made") != "files":
        return {"kind": "made"}
    paths = {name: text_of(form, name) for name in ("cert", "key")}
    errors = {name: path_problem(path) for name, path in paths.items()}
    if not any(errors.values()):
        check = check_certificate(Path(paths["cert"]), Path(paths["key"]), wizard.value("domain", "domain"))
        if not check.ok:
            errors[check.field] = certificate_problem(check)
    if any(errors.values()):
        raise Refused({name: text for name, text in errors.items() if text})
    return {"kind": "files", **paths}


def path_problem(path: str) -> str:
    if not path:
        return _("Enter the path of a file on this machine.")
    if not path.startswith("/") or not path.isprintable():
        return _("Enter the whole path, beginning with /.")
    return ""


def check_files(wizard: Wizard, form: Form) -> Mapping[str, Any]:
    paths = {name: text_of(form, name) for name in ("cert", "key")}
    if form.get("kind") != "files" or not all(paths.values()):
        return {"findings": []}
    for name, path in paths.items():
        if problem := path_problem(path):
            return {"findings": [Finding("bad", field_name(name), problem)]}
    check = check_certificate(Path(paths["cert"]), Path(paths["key"]), wizard.value("domain", "domain"))
    return {"findings": certificate_words(check)}


# the first client


def read_client(wizard: Wizard, form: Form) -> Entry:
    id, secret = text_of(form, "id"), text_of(form, "secret")
    errors = {}
    if not is_host_prefix(id):
        errors["id"] = _("Use letters, digits and - (inside); at most 63. It becomes part of a host name.")
    try:
        CREDENTIAL.parse(secret)
    except ValueError:
        errors["secret"] = _("Use 1 to 200 characters without line breaks.")
    else:
        if len(secret) < MIN_SECRET:
            errors["secret"] = _("Use at least %(n)s characters, or the one made for you.", n=MIN_SECRET)
    if errors:
        raise Refused(errors)
    return {"id": id.lower(), "secret": secret}


def show_client(wizard: Wizard, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A new secret for each who asks, until one is taken."""
    more = {} if "id" in values else {"id": FIRST_ID, "secret": secrets.token_urlsafe(24)}
    return {**more, "domain": wizard.value("domain", "domain")}


# what comes of it


STEPS = (
    ACCOUNT,
    Step(
        "domain",
        lazy_gettext("Which domain leads here?"),
        lazy_gettext("Domain"),
        read_domain,
        check=check_domain,
    ),
    Step(
        "listen",
        lazy_gettext("Where do visitors come in?"),
        lazy_gettext("Addresses"),
        read_listen,
        show_listen,
        check=check_listen,
    ),
    Step(
        "certificate",
        lazy_gettext("Which certificate do visitors see?"),
        lazy_gettext("Certificate"),
        read_certificate,
        needed=may_have_tls,
        check=check_files,
    ),
    Step(
        "client",
        lazy_gettext("Who is the first client?"),
        lazy_gettext("First client"),
        read_client,
        show_client,
    ),
    SUMMARY,
)


def document(wizard: Wizard) -> dict[str, Any]:
    """The configuration, as it stands in YAML."""
    listen, client = wizard.entries["listen"], wizard.entries["client"]
    options: dict[str, Any] = {"domain": wizard.value("domain", "domain")}
    for key, name in (("addr", "addr"), ("tlsAddr", "tls")):
        address = read_address(listen[name])
        if address is not None:
            options[key] = shown_address(address)
    if has_tls(wizard) and wizard.value("certificate", "kind") == "files":
        options["certFile"] = wizard.value("certificate", "cert")
        options["keyFile"] = wizard.value("certificate", "key")
    if listen["ports"]:
        options["tcpRange"] = listen["ports"].split(", ")
    options |= wizard.console_options()
    return {"type": "server", "users": {client["id"]: {"secret": client["secret"]}}, "options": options}


def step_of(problem: str) -> str:
    """The step whose answer a problem of the start is about; "" when nobody can tell."""
    marks = {
        "listen": ("cannot listen on", "addr:", "tlsAddr", "tcpRange"),
        "certificate": ("certFile", "keyFile", "certificate", ".pem", "for TLS"),
        "domain": ("domain",),
        "client": ("user ",),
    }
    return next((step for step, words in marks.items() if any(word in problem for word in words)), "")


def overview(wizard: Wizard) -> list[tuple[str, str, str]]:
    """For the summary: step, what it is, what was chosen."""
    listen = wizard.entries["listen"]
    rows = [
        ("account", _("Administrator"), wizard.value("account", "name")),
        ("domain", _("Domain"), wizard.value("domain", "domain")),
        ("listen", _("HTTP"), listen["addr"] or _("off")),
        ("listen", _("HTTPS"), listen["tls"] or _("off")),
    ]
    if listen["ports"]:
        rows.append(("listen", _("TCP ports"), listen["ports"]))
    if has_tls(wizard):
        files = wizard.value("certificate", "kind") == "files"
        rows.append(
            (
                "certificate",
                _("Certificate"),
                wizard.value("certificate", "cert") if files else _("made by GT"),
            )
        )
    rows.append(("client", _("First client"), wizard.value("client", "id")))
    return rows
