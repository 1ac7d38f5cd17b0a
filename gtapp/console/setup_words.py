"""What the wizard's checks have found, in words, and what to do about it. Used by the server's steps and by welcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flask_babel import format_date

from gtapp.console.context import console
from gtapp.console.setup_certificate import CertificateCheck
from gtapp.console.setup_checks import HTTP_PORTS, TLS_PORTS, BindCheck, Record, container, free_port
from gtapp.console.words import _

LOW_PORTS = 1024  # below, a process needs a right of its own

Kind = Literal["ok", "warn", "bad", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found, in words: what it is about, what was found, what to do, and a command for that."""

    kind: Kind
    about: str
    text: str
    hint: str = ""
    command: str = ""

    @property
    def sentence(self) -> str:
        """All but the command, for beside a field."""
        return " ".join(part for part in (self.about, self.text, self.hint) if part)


def record_words(record: Record) -> Finding:
    """What a look-up has found."""
    found = ", ".join(record.found)
    if record.state == "here":
        return Finding("ok", record.name, _("leads to this server (%(found)s).", found=found))
    if record.state == "elsewhere":
        return Finding("warn", record.name, _("leads to %(found)s, which is not this server.", found=found))
    if record.state == "unknown":
        return Finding(
            "info",
            record.name,
            _("leads to %(found)s.", found=found),
            _("Is that your router, or your provider's address for this machine? Then all is well."),
        )
    if record.state == "missing":
        return Finding(
            "warn", record.name, _("has no record yet. New ones can take some minutes to be seen.")
        )
    return Finding("info", record.name, _("could not be looked up: no name server has answered."))


def bind_words(check: BindCheck, name: str) -> Finding:
    """Whether a port can be had, and otherwise what to do."""
    port = check.address.port
    about = _("Port %(port)s", port=port)
    if check.ok:
        return Finding("ok", about, _("is free."))
    other = free_port([each for each in (HTTP_PORTS if name == "addr" else TLS_PORTS) if each != port])
    choose = _("Choose another one.")
    if other:
        choose = _("Choose another one: %(port)s is free.", port=other)
    if check.state == "taken":
        if str(port) == console().port:
            return Finding("bad", about, _("is where this console listens."), choose)
        if check.holder:
            stop = _("Stop it, or choose another port.")
            if other:
                stop = _("Stop it, or choose another port: %(port)s is free.", port=other)
            return Finding("bad", about, _("is taken by %(holder)s.", holder=check.holder), stop)
        taken = _("is taken by a process of another user.")
        return Finding("bad", about, taken, choose, f"sudo ss -ltnp 'sport = :{port}'")
    if check.state == "forbidden":
        may_not = _("needs a right that GT does not have here, like all ports below 1024.")
        if port >= LOW_PORTS:
            may_not = _("may not be used here: the system refuses it.")
        return Finding("bad", about, may_not, choose, _low_ports_command(port))
    if check.state == "no address":
        none = _(
            "cannot be opened on %(host)s: this machine does not have that address.", host=check.address.host
        )
        return Finding("bad", about, none, _("Leave the address out to listen on all."))
    return Finding("bad", about, _("cannot be opened: %(reason)s.", reason=check.reason), choose)


def _low_ports_command(port: int) -> str:
    if port >= LOW_PORTS:
        return ""
    if container() in ("docker", "podman"):
        return f"{container()} run --sysctl net.ipv4.ip_unprivileged_port_start={port} …"
    return f"sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}"


def field_name(name: str) -> str:
    return _("Key") if name == "key" else _("Certificate")


def certificate_words(check: CertificateCheck) -> list[Finding]:
    if not check.ok:
        return [Finding("bad", field_name(check.field), certificate_problem(check))]
    until = format_date(check.until) if check.until else ""
    words = [
        Finding(
            "ok",
            _("Certificate and key"),
            _("are a pair, and valid until %(date)s.", date=until),
        )
    ]
    if check.uncovered:
        words.append(
            Finding(
                "warn",
                ", ".join(check.uncovered),
                _("is not among its names (%(names)s).", names=", ".join(check.names) or "–"),
                _("Browsers will warn visitors of these hosts. You can go on, and exchange the files later."),
            )
        )
    return words


def certificate_problem(check: CertificateCheck) -> str:
    """What to do about it."""
    if check.problem == "missing":
        return _("There is no such file. In a container, it has to be in a volume.")
    if check.problem == "unreadable":
        return _("This cannot be read: %(reason)s. GT needs the right to read it.", reason=check.detail)
    if check.problem == "too large":
        return _("This is too large to be a certificate or key.")
    if check.problem == "no certificate":
        return _("This holds no certificate in PEM (-----BEGIN CERTIFICATE-----).")
    if check.problem == "is a key":
        return _("This is a key. The certificate is needed here.")
    if check.problem == "expired":
        return _("This certificate expired on %(date)s. Renew it first.", date=check.detail)
    if check.problem == "not yet":
        return _("This certificate is not valid before %(date)s. Is the clock right?", date=check.detail)
    if check.problem == "no key":
        return _("This holds no key in PEM (-----BEGIN PRIVATE KEY-----).")
    if check.problem == "is a certificate":
        return _("This is a certificate. Its key is needed here.")
    if check.problem == "encrypted":
        return _("This key is encrypted. Decrypt it first: openssl pkey -in KEY -out NEWKEY")
    if check.problem == "no pair":
        return _("This is the key of another certificate. Choose the two that belong together.")
    return _("These cannot be used for TLS: %(reason)s.", reason=check.detail)
