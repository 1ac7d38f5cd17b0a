"""Whether a certificate and its key can be used for a domain; called by the server's wizard.

The relay has a look of its own at its start. This one is here to say it beside the field, and to say what the relay
does not mind: names that are missing.
"""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

LIMIT_BYTES = 1024 * 1024  # of a file: a chain has a few KB

Field = Literal["cert", "key"]
Problem = Literal[
    "missing", "unreadable", "too large", "no certificate", "is a key", "expired", "not yet",
    "no key", "is a certificate", "encrypted", "no pair", "unusable",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class CertificateCheck:
    """A pair of files. With a `problem`, `field` says which of the two has it and `detail` more about it."""

    names: tuple[str, ...] = ()
    until: datetime | None = None
    fingerprint: str = ""  # SHA-256 of the certificate, in hex
    uncovered: tuple[str, ...] = ()  # what of the domain it is not for
    problem: Problem | None = None
    field: Field = "cert"
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.problem is None


class _Bad(Exception):
    def __init__(self, problem: Problem, field: Field, detail: str = "") -> None:
        super().__init__(problem)
        self.problem: Problem = problem
        self.field: Field = field
        self.detail = detail


def check_certificate(cert_file: Path, key_file: Path, domain: str) -> CertificateCheck:
    """Read both, see that they are a pair that TLS takes, and whether it is for the domain and the names under it."""
    try:
        leaf = _certificate(_read(cert_file, "cert"))
        _check_key(_read(key_file, "key"), leaf)
        _check_chain(cert_file, key_file)
    except _Bad as bad:
        return CertificateCheck(problem=bad.problem, field=bad.field, detail=bad.detail)
    names = certificate_names(leaf)
    wanted = [domain, f"*.{domain}"]
    return CertificateCheck(
        names=names,
        until=leaf.not_valid_after_utc,
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        uncovered=tuple(each for each in wanted if not covers(names, each)),
    )


def _read(path: Path, field: Field) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise _Bad("missing", field) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _Bad("unreadable", field, getattr(error, "strerror", None) or str(error)) from None
    if len(data) > LIMIT_BYTES:
        raise _Bad("too large", field)
    return data


def _certificate(data: bytes) -> x509.Certificate:
    """The first of the file, which is the server's own."""
    try:
        leaf = x509.load_pem_x509_certificates(data)[0]
    except ValueError:
        raise _Bad("is a key" if b"PRIVATE KEY-----" in data else "no certificate", "cert") from None
    now = datetime.now(UTC)
    if leaf.not_valid_after_utc <= now:
        raise _Bad("expired", "cert", f"{leaf.not_valid_after_utc:%Y-%m-%d}")
    if leaf.not_valid_before_utc > now:
        raise _Bad("not yet", "cert", f"{leaf.not_valid_before_utc:%Y-%m-%d}")
    return leaf


def _check_key(data: bytes, leaf: x509.Certificate) -> None:
    try:
        key = serialization.load_pem_private_key(data, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise _Bad("encrypted", "key") from None
    except (ValueError, UnsupportedAlgorithm):
        certificate = b"-----BEGIN CERTIFICATE" in data
        raise _Bad("is a certificate" if certificate else "no key", "key") from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise _Bad("no pair", "key")


def _check_chain(cert_file: Path, key_file: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise _Bad("unusable", "cert", reason.replace("_", " ").lower()) from None


def certificate_names(leaf: x509.Certificate) -> tuple[str, ...]:
    """The host names that it is for (RFC 6125: the common name does not count)."""
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(name.lower() for name in alternative.get_values_for_type(x509.DNSName))


def covers(names: Iterable[str], wanted: str) -> bool:
    """Whether one of the names is `wanted`, or has a star for its first label."""
    wildcard = f"*.{wanted.partition('.')[2]}"
    return any(name in (wanted, wildcard) for name in names)
