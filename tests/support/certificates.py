"""Certificates of every kind, quick to make. Used by every test that needs one, and by the bench."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

LOCAL = ("localhost", "127.0.0.1")
_NEW_KEY: dict[str, Callable[[], Any]] = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
}


class Files(NamedTuple):
    """Certificate and key, in PEM."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def key_pem(self, password: bytes | None = None) -> bytes:
        hidden: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            hidden = serialization.BestAvailableEncryption(password)
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return bytes(self.key.private_bytes(pem, pkcs8, hidden))

    def write(self, directory: Path, name: str = "server") -> Files:
        """`name`-cert.pem and `name`-key.pem; each of them is replaced in one moment, as ACME clients do it."""
        files = Files(directory / f"{name}-cert.pem", directory / f"{name}-key.pem")
        for path, data in zip(files, (self.pem, self.key_pem()), strict=True):
            temporary = path.with_suffix(".new")
            temporary.touch(0o600)
            temporary.write_bytes(data)
            temporary.replace(path)
        return files


def make_pair(
    names: Sequence[str] = LOCAL,
    *,
    subject: str = "",
    key: str = "ec",
    issuer: Pair | None = None,
    ca: bool = False,
    days: tuple[float, float] = (-1, 30),
    digest: Any = None,
) -> Pair:
    """A certificate for `names`, which are host names and addresses; without `issuer` self-signed.

    `subject` is its common name, such as that of a client, and otherwise one that no other has. `key` is a kind of
    _NEW_KEY. It is valid from days[0] to days[1] as counted from now.
    """
    own = _key(key) if key.startswith("rsa") else _NEW_KEY[key]()
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or f"Test {serial}")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(own.public_key())
        .serial_number(serial)
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
    signer = issuer.key if issuer else own
    if digest is None and not isinstance(signer, ed25519.Ed25519PrivateKey):
        digest = hashes.SHA256()
    return Pair(builder.sign(signer, digest), own)


@functools.cache
def _key(kind: str) -> Any:
    return _NEW_KEY[kind]()  # RSA keys take seconds: one of each for all tests of the process


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
