"""The server's certificate: read, or made; taken over when its files change. Used by the server's listeners.

What is wrong with one at the start is a GTError that names the file and what to do; what is wrong with a later one
is logged, and the one before stays.
"""

import contextlib
import fcntl
import ipaddress
import logging
import os
import re
import ssl
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gtapp.config.files import MADE_CERTIFICATE, MADE_KEY
from gtapp.errors import GTError
from gtapp.relay.tls import ServerContext, channel_binding

log = logging.getLogger("gt.server")

MADE_FOR = timedelta(days=3652)  # ten years
CHECK_S = 1.0  # between two looks at the files
LIMIT_BYTES = 1024 * 1024  # of a file: a chain has a few KB
TRIES = 5  # at reading a pair that changes meanwhile

_MINIMUM = {
    "tls1.1": ssl.TLSVersion.TLSv1_1,
    "tls1.2": ssl.TLSVersion.TLSv1_2,
    "tls1.3": ssl.TLSVersion.TLSv1_3,
}
# TLS 1.1 knows only SHA-1, which OpenSSL 3 does not allow otherwise.
_OLD_CIPHERS = "ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:@SECLEVEL=0"

_Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate and what is done with it: `context` is the present one, `binding` its channel binding.

    Without files one is made for `names` (host names and addresses; those of this machine come with it), which stays
    in the directory `made_beside` for the next start. `minimum` is the oldest TLS version: tls1.1, tls1.2 or tls1.3.
    On a clock it looks after its files. Raises GTError.
    """

    over = False

    def __init__(
        self, cert_file: str, key_file: str, names: Sequence[str], made_beside: Path, minimum: str
    ) -> None:
        self._minimum = minimum
        self._age = 0.0
        if cert_file:
            self._cert, self._key = Path(cert_file), Path(key_file)
        else:
            self._cert, self._key = made_pair(made_beside, names)
        self._stamp = self._seen = _stamp(self._cert, self._key)
        self.context = self._load()

    @property
    def binding(self) -> bytes:
        return self.context.binding

    def tick(self, period: float) -> None:
        """`check` each CHECK_S."""
        self._age += period
        if self._age >= CHECK_S:
            self._age = 0.0
            self.check()

    def check(self) -> None:
        """Take a changed certificate over, when its files have stayed the same since the check before. Connections
        that are up keep what they have."""
        stamp = _stamp(self._cert, self._key)
        seen, self._seen = self._seen, stamp  # certificate and key are seldom replaced in one moment
        if stamp == seen and stamp != self._stamp:
            self._stamp = stamp
            try:
                self.context = self._load()
            except GTError as error:
                log.error("%s; the certificate from before stays in use", error)
            else:
                log.info("took over the changed certificate %s", self._cert)

    def _load(self) -> ServerContext:
        for _ in range(TRIES):
            before = _stamp(self._cert, self._key)
            try:
                context = server_context(self._cert, self._key, self._minimum)
            except GTError:
                if before == _stamp(self._cert, self._key):
                    raise
            else:
                if before == _stamp(self._cert, self._key):
                    self._stamp = before
                    return context
        raise GTError(f"{self._cert} and {self._key} keep changing while they are read")


def server_context(cert_file: Path, key_file: Path, minimum: str) -> ServerContext:
    """TLS settings for a certificate, with its chain, and its key, both PEM. Raises GTError that names the file."""
    leaf = _read_certificate(cert_file)
    _check_key(key_file, leaf, cert_file)
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TLS 1.1 is old, and asked for
        context.minimum_version = _MINIMUM[minimum]
    if minimum == "tls1.1":
        context.set_ciphers(_OLD_CIPHERS)
    try:
        context.load_cert_chain(cert_file, key_file)
    except (ssl.SSLError, OSError) as error:
        reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        raise GTError(f"{cert_file} with {key_file}: cannot be used for TLS: {reason}") from error
    context.set_alpn_protocols(["http/1.1"])
    context.binding = channel_binding(leaf.public_bytes(serialization.Encoding.DER))
    return context


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        _fail(path, f"the {what} cannot be read: {error.strerror}")
    if len(data) > LIMIT_BYTES:
        _fail(path, f"is too large for a {what}")
    return data


def _fail(path: Path, text: str) -> NoReturn:
    raise GTError(f"{path}: {text}")


def _read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of the file, which is the server's own."""
    data = _read(path, "certificate")
    try:
        leaf = x509.load_pem_x509_certificates(data)[0]
    except ValueError:
        hint = "; that is a key, is it in the wrong option?" if b"PRIVATE KEY-----" in data else ""
        _fail(path, f"holds no certificate in PEM (-----BEGIN CERTIFICATE-----){hint}")
    expired = leaf.not_valid_after_utc
    if expired <= datetime.now(UTC):
        _fail(path, f"the certificate expired on {expired:%Y-%m-%d %H:%M} UTC, renew it")
    return leaf


def _check_key(path: Path, leaf: x509.Certificate, cert_file: Path) -> None:
    data = _read(path, "key")
    try:
        # Whether it is a good RSA key takes up to half a second to find out; that it is the certificate's is enough.
        key = serialization.load_pem_private_key(data, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        _fail(path, f"the key is encrypted, decrypt it: openssl pkey -in {path} -out NEWFILE")
    except (ValueError, UnsupportedAlgorithm):
        block = re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", data)
        hint = (
            "; that is a certificate, is it in the wrong option?" if b"-----BEGIN CERTIFICATE" in data else ""
        )
        _fail(
            path,
            "the key is damaged" if block else f"holds no key in PEM (-----BEGIN PRIVATE KEY-----){hint}",
        )
    if _public(key.public_key()) != _public(leaf.public_key()):
        _fail(path, f"is not the key of the certificate {cert_file}, set certFile and keyFile to a pair")


def _public(key: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, form)  # type: ignore[attr-defined, no-any-return]


def _stamp(*paths: Path) -> _Stamp:
    """What changes when one of the files does."""
    stamps = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            stamps.append((0, 0, 0))
        else:
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


# the certificate that is made


def made_pair(directory: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """The certificate and key that are kept in a directory; made for `names` unless they are there.

    Raises GTError.
    """
    cert_file, key_file = directory / MADE_CERTIFICATE, directory / MADE_KEY
    _make_if_needed(cert_file, key_file, names)
    return cert_file, key_file


def _make_if_needed(cert_file: Path, key_file: Path, names: Sequence[str]) -> None:
    """See to it that there is a pair that can be used. Several processes may do this at the same time: the key of the
    first counts, and who comes first to it makes the certificate."""
    try:
        if not key_file.exists():
            _write_key(key_file)
        with _alone(key_file):
            _make_certificate(cert_file, key_file, names)
    except OSError as error:
        hint = "set certFile and keyFile, or make that directory writable"
        _fail(cert_file, f"no certificate can be made: {error.strerror}; {hint}")


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """While other processes that want the same wait. A file system that cannot do that does not keep us from it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # for a moment: the others only write two small files
        yield


def _make_certificate(cert_file: Path, key_file: Path, names: Sequence[str]) -> None:
    """Make the certificate, unless there is one for this key. Raises OSError."""
    try:
        key = serialization.load_pem_private_key(_read(key_file, "key"), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError
    except (ValueError, TypeError):
        _fail(key_file, f"is not as it was made: remove it and {cert_file.name} to get a new certificate")
    with contextlib.suppress(GTError):
        if _public(_read_certificate(cert_file).public_key()) == _public(key.public_key()):
            return
    try:
        made = _made_for(key, names).public_bytes(serialization.Encoding.PEM)
    except ValueError as error:
        _fail(
            cert_file, f"no certificate can be made for {', '.join(names)}: {error}; set certFile and keyFile"
        )
    _temporary(cert_file, made, 0o644).replace(cert_file)
    log.info("made a certificate, %s, for %s", cert_file, ", ".join(names) or "this machine alone")


def _write_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    temporary = _temporary(path, key.private_bytes(serialization.Encoding.PEM, form, no_password), 0o600)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was quicker
    finally:
        temporary.unlink()


def _temporary(beside: Path, data: bytes, mode: int) -> Path:
    path = beside.with_name(f"{beside.name}.{os.getpid()}")
    path.unlink(missing_ok=True)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def _made_for(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> x509.Certificate:
    all_names = list(dict.fromkeys((*names, "localhost", "127.0.0.1", "::1")))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, all_names[0][:64])])
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        (
            "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
            "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # for clocks that are slow
        .not_valid_after(now + MADE_FOR)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in all_names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
