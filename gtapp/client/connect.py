"""Connects to a server: TCP, and TLS where the remote says tls://. Called by the dialer, in its greenlet."""

import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import monotonic

import gevent

from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import ConfigError, LinkError
from gtapp.relay.sockets import PlainSocket, Socket, take_over
from gtapp.relay.tls import Handshakes, TLSSocket, error_text

CONNECT_S = 5.0  # a new attempt gets through sooner than the late repetitions of a lost SYN
HANDSHAKE_S = 10.0  # as long as a server waits

_TRUST_IT = "set remoteCert to a file with it"
_ANY = "or remoteCertInsecure: true, which lets the secret prove who the server is"

# OpenSSL's X509_V_ERR_…
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64
_SELF_SIGNED, _UNKNOWN_ISSUER = (18,), (19, 20, 21)


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to a server. `channel_binding` is the hash of the certificate that it showed (RFC 5929), None
    without TLS. `verified`: that certificate is known to be the server's; otherwise the secret has to prove it."""

    sock: Socket
    channel_binding: bytes | None
    verified: bool


def connect(remote: URL, options: ClientOptions, handshakes: Handshakes) -> Connected:
    """Waits, at most CONNECT_S for TCP and HANDSHAKE_S for TLS.

    Raises LinkError, which says what to do, and whose code is one of name, unanswered, refused, unreachable, tls and
    certificate. Raises ConfigError when the file of `remoteCert` cannot be used.
    """
    context = client_context(options) if remote.scheme == "tls" else None
    try:
        with gevent.Timeout(CONNECT_S):
            sock = take_over(_reach(remote))
    except (gevent.Timeout, TimeoutError):
        text = f"cannot connect to {remote}: no answer within {CONNECT_S:.0f} s"
        raise LinkError(text, "unanswered") from None
    except UnicodeError:
        raise LinkError(f"cannot connect to {remote}: that cannot be a host name", "name") from None
    except OSError as error:
        text = f"cannot connect to {remote}: {error.strerror or error}"
        raise LinkError(text, _code(error)) from error
    if context is None:
        return Connected(sock, None, False)
    try:
        encrypted = _secure(remote, sock, context, handshakes)
    except BaseException:
        sock.close()
        raise
    return Connected(encrypted, encrypted.channel_binding, context.verify_mode == ssl.CERT_REQUIRED)


def _code(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "name"
    return "refused" if isinstance(error, ConnectionRefusedError) else "unreachable"


def _reach(remote: URL) -> socket.socket:
    """A connection to the first address of the server that answers; a silent one takes only its share of the time.

    Raises OSError, the last address's.
    """
    deadline = monotonic() + CONNECT_S
    found = socket.getaddrinfo(remote.host, remote.port, type=socket.SOCK_STREAM)
    for left in range(len(found), 0, -1):
        family, kind, protocol, _, address = found[-left]
        try:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(max(0.1, (deadline - monotonic()) / left))
                sock.connect(address)
            except BaseException:
                sock.close()
                raise
        except OSError:
            if left == 1:
                raise
        else:
            return sock
    raise OSError("the name has no address")


def client_context(options: ClientOptions) -> ssl.SSLContext:
    """The TLS settings that the options ask for. Raises ConfigError when the file of `remoteCert` cannot be used."""
    if options.remote_cert_insecure:
        return _context("", True, ())
    if not options.remote_cert:
        return _context("", False, ())
    try:
        status = Path(options.remote_cert).stat()
    except OSError as error:
        raise _unreadable(options.remote_cert, error) from error
    return _context(options.remote_cert, False, (status.st_mtime_ns, status.st_size, status.st_ino))


@lru_cache(maxsize=4)  # reading the system's certificates takes tens of milliseconds
def _context(remote_cert: str, insecure: bool, stamp: tuple[int, ...]) -> ssl.SSLContext:
    """`stamp` changes with the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif remote_cert:
        context.verify_flags |= (
            ssl.VERIFY_X509_PARTIAL_CHAIN
        )  # the file may hold the server's own certificate
        try:
            context.load_verify_locations(remote_cert)
        except ssl.SSLError as error:
            raise ConfigError(
                f"remoteCert {remote_cert}: holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
            ) from error
        except OSError as error:
            raise _unreadable(remote_cert, error) from error
        if not context.cert_store_stats()["x509_ca"]:
            context.check_hostname = False  # nobody but the server has the key of that one, whatever its name
    else:
        context.load_default_certs()
    return context


def _unreadable(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"remoteCert {path}: cannot be read: {error.strerror or error}")


def _secure(remote: URL, sock: PlainSocket, context: ssl.SSLContext, handshakes: Handshakes) -> TLSSocket:
    try:
        with gevent.Timeout(HANDSHAKE_S):
            return handshakes.wait(sock, context, server_side=False, server_hostname=remote.host)
    except gevent.Timeout:
        raise LinkError(
            f"{remote} accepts the connection and does not answer in TLS within {HANDSHAKE_S:.0f} s: "
            "is that the port of its tlsAddr?",
            "tls",
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise LinkError(f"{remote}: {_certificate_text(remote, error)}", "certificate") from error
    except ssl.SSLError as error:
        raise LinkError(f"{remote}: {_tls_text(error)}", "tls") from error
    except OSError as error:
        text = (
            f"{remote}: the TLS handshake failed: {error.strerror or error}: is that the port of its tlsAddr?"
        )
        raise LinkError(text, "tls") from error


def _certificate_text(remote: URL, error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    if code in (_WRONG_HOST, _WRONG_ADDRESS):
        return (
            f"the server's certificate is not for {remote.host}: set remote to a name that is in it, {_ANY}"
        )
    if code == _EXPIRED:
        return f"the server's certificate has expired: renew it on the server, {_ANY}"
    if code == _NOT_YET_VALID:
        return (
            f"the server's certificate is not valid yet: is the clock right here, and on the server? ({_ANY})"
        )
    if code in _SELF_SIGNED:
        return f"the server's certificate is self-signed: {_TRUST_IT}, {_ANY}"
    if code in _UNKNOWN_ISSUER:
        return f"the server's certificate is signed by nobody known here: set remoteCert to its CA's, {_ANY}"
    return f"the server's certificate is refused ({error.verify_message}): {_TRUST_IT}, {_ANY}"


def _tls_text(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_EOF_WHILE_READING"):
        return "what answers there does not speak TLS: set remote to the port of the server's tlsAddr, or to tcp://"
    if reason in ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"):
        return "the server has no TLS version that is safe: it needs TLS 1.2 or newer"
    return f"the TLS handshake failed: {error_text(error)}"
