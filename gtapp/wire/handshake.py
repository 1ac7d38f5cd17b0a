"""Protocol 3's opening: four CONTROL messages that authenticate both ends. Called by server and client.

The messages are in docs/PROTOCOL.md; here they are dicts, which the caller moves in CONTROL frames. Each side
calls the methods of its class in the order in which they stand.
"""

import secrets
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from scramp import ScramClient, ScramException, ScramMechanism
from scramp.utils import saslprep

from gtapp.errors import RemoteRefused, WireError
from gtapp.wire.credentials import (
    MAX_ITERATIONS,
    MECHANISM,
    MECHANISM_PLUS,
    MIN_ITERATIONS,
    SALT_BYTES,
    Verifier,
    derive,
    parse_verifier,
)

PLAIN = "PLAIN"
MAX_LANES = 64

_BINDING = "tls-server-end-point"  # RFC 5929 section 4
_MAX_NAME = 200  # characters of ids, secrets, agents, instances: as in protocol 1
_MAX_TEXT = 1024  # characters of SCRAM's messages, and of texts for people
_MAX_WINDOW = 0x7FFFFFFF
_MAX_SECONDS = 1e9

Message = dict[str, Any]


class HandshakeError(WireError):
    """The client is turned away: answer with `error_message(error.code, str(error))` and close."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service as the client announces it; `host_prefix` None means its id, `port` 0 any port."""

    kind: Literal["http", "tls", "tcp"]
    host_prefix: str | None = None
    port: int = 0
    random: bool = False

    def to_dict(self) -> Message:
        if self.kind == "tcp":
            return {"kind": self.kind, "port": self.port, "random": self.random}
        if self.host_prefix is None:
            return {"kind": self.kind}
        return {"kind": self.kind, "hostPrefix": self.host_prefix}

    @classmethod
    def from_dict(cls, value: Any) -> "ServiceSpec":
        """Raises WireError. Keys of later versions are ignored."""
        if not isinstance(value, dict) or value.get("kind") not in ("http", "tls", "tcp"):
            raise WireError("a service needs a kind: http, tls or tcp")
        kind = cast(Literal["http", "tls", "tcp"], value["kind"])
        if kind == "tcp":
            random = value.get("random", False)
            if not isinstance(random, bool):
                raise WireError("random is not true or false")
            return cls(kind, None, _integer(value, "port", 0, 0xFFFF, default=0), random)
        host_prefix = None if value.get("hostPrefix") is None else _text(value, "hostPrefix", _MAX_NAME)
        return cls(kind, host_prefix)


@dataclass(frozen=True, slots=True)
class Hello:
    """Who wants to come in; `secret` is there for the mechanism PLAIN alone."""

    id: str
    mechanism: str
    agent: str
    lanes: int
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Auth:
    """Who has come in; `verifier` is there for an enrolled client alone, to be kept."""

    instance: str
    services: list[ServiceSpec]
    verifier: Verifier | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """What the server grants: per service what was opened, bytes of window, idle seconds, lanes."""

    services: list[Message]
    window: int
    idle_timeout: float
    lanes: int


def error_message(code: str, text: str, service: int | None = None) -> Message:
    """The server's refusal; `code` is one of the words of docs/PROTOCOL.md, `service` an index."""
    message: Message = {"type": "error", "code": code, "message": text}
    if service is not None:
        message["service"] = service
    return message


class ServerHandshake:
    """The server's side. `channel_binding` is the hash of its certificate (RFC 5929), None without TLS.

    With `plain` it tells clients that they may show their secret, which an authAPI has to be asked about.
    """

    def __init__(
        self,
        agent: str,
        channel_binding: bytes | None = None,
        *,
        plain: bool = False,
        nonce: str | None = None,
    ) -> None:
        self._agent = agent
        self._binding = None if channel_binding is None else (_BINDING, channel_binding)
        self._plain = plain
        self._nonce = nonce  # fixed by tests
        self._hello: Hello | None = None
        self._client_first = ""
        self._enroll = False
        self._scram: Any = None
        self._server_final: str | None = None

    def hello(self, message: Message) -> Hello:
        """Read the client's first message. Raises HandshakeError."""
        try:
            _expect(message, "hello")
            _integer(message, "protocol", 3, 3)
            mechanism = message.get("mechanism")
            if mechanism not in (*self._mechanisms(), PLAIN):
                raise WireError(f"unknown mechanism; there is {' and '.join(self._mechanisms())}")
            secret = None
            if mechanism == PLAIN:
                secret = _text(message, "secret", _MAX_NAME)
            else:
                self._client_first = _text(message, "scram", _MAX_TEXT)
                if not unicodedata.is_normalized("NFKC", self._client_first):
                    # SASLprep would do it; its tables are slow, and some characters grow to eighteen.
                    raise WireError("SCRAM message that is not normalized")
                if self._client_first.startswith("p=") != (mechanism == MECHANISM_PLUS):
                    raise WireError("mechanism and SCRAM message differ about channel binding")
            self._hello = Hello(
                id=_text(message, "id", _MAX_NAME),
                mechanism=mechanism,
                agent=_text(message, "agent", _MAX_NAME, default=""),
                lanes=min(_integer(message, "lanes", 1, 0xFFFF, default=1), MAX_LANES),
                secret=secret,
            )
        except WireError as error:
            raise HandshakeError("protocol_error", str(error)) from None
        return self._hello

    def challenge(self, verifier: Verifier | None) -> Message:
        """Answer the hello; `verifier` belongs to the id, or is a decoy; None for PLAIN.

        Raises HandshakeError.
        """
        assert self._hello is not None
        message: Message = {"type": "challenge", "mechanisms": self._offered(), "agent": self._agent}
        if self._hello.mechanism == PLAIN:
            return message
        assert verifier is not None
        keys = (verifier.salt, verifier.stored_key, verifier.server_key, verifier.iterations)
        users: list[str] = []

        def keys_of(user: str) -> tuple[bytes, bytes, bytes, int]:
            users.append(user)
            return keys

        mechanism = ScramMechanism(self._hello.mechanism)
        self._scram = mechanism.make_server(keys_of, channel_binding=self._binding, s_nonce=self._nonce)
        try:
            self._scram.set_client_first(self._client_first)
            message["scram"] = self._scram.get_server_first()
            same_id = users == [saslprep(self._hello.id)]
        except (ScramException, ValueError) as error:
            raise HandshakeError("protocol_error", _reason(error)) from None
        if not same_id:
            raise HandshakeError("protocol_error", "id and SCRAM message name different users")
        return message

    def enroll(self) -> Message:
        """Answer the hello of an unknown client whom the server lets in: it is to send a verifier to keep."""
        self._enroll = True
        return {"type": "challenge", "enroll": True, "mechanisms": self._offered(), "agent": self._agent}

    def auth(self, message: Message) -> Auth:
        """Check the client's proof, then read the rest.

        Raises HandshakeError, with the code `invalid_credentials` on a wrong proof.
        """
        verifier = None
        try:
            _expect(message, "auth")
            if self._enroll:
                verifier = _read_verifier(message)
            elif self._scram is not None:
                self._check_proof(_text(message, "scram", _MAX_TEXT))
            instance = _text(message, "instance", _MAX_NAME)
            services = message.get("services")
            if not isinstance(services, list):
                raise WireError("services is no list")
            return Auth(instance, [ServiceSpec.from_dict(service) for service in services], verifier)
        except HandshakeError:
            raise
        except WireError as error:
            raise HandshakeError("protocol_error", str(error)) from None

    def ready(self, services: list[Message], window: int, idle_timeout: float, lanes: int) -> Message:
        """Let the client in: per service what was opened, bytes of window, idle seconds, lanes."""
        message: Message = {"type": "ready", "services": services, "window": window}
        message |= {"idleTimeout": idle_timeout, "lanes": lanes}
        if self._server_final is not None:
            message["scram"] = self._server_final
        return message

    def _offered(self) -> list[str]:
        return self._mechanisms() + ([PLAIN] if self._plain else [])

    def _mechanisms(self) -> list[str]:
        return [MECHANISM] if self._binding is None else [MECHANISM_PLUS, MECHANISM]

    def _check_proof(self, client_final: str) -> None:
        try:
            self._scram.set_client_final(client_final)
            self._server_final = self._scram.get_server_final()
        except (ScramException, ValueError) as error:
            reason = getattr(getattr(error, "server_error", None), "value", "")
            if reason == "invalid-proof":
                raise HandshakeError("invalid_credentials", "unknown id or wrong secret") from None
            if reason == "channel-bindings-dont-match":
                text = "client and server see different certificates: something between them opens the TLS"
                raise HandshakeError("other_certificate", text) from None
            raise HandshakeError("protocol_error", _reason(error)) from None


class ClientHandshake:
    """The client's side. `channel_binding` is the hash of the certificate it was shown, None without TLS.

    `require_binding`: never go without. `plain`: show the secret; the caller has made sure that it may.
    `enroll`: a server that does not know this id may ask for a verifier to keep. It stays off where nobody
    has checked who the server is: whoever holds the verifier and then sees one login can log in too.

    Raises ValueError on an id or secret that cannot be used, and where a binding is required but not there.
    """

    def __init__(
        self,
        id: str,
        secret: str,
        agent: str,
        instance: str,
        services: list[ServiceSpec],
        lanes: int = 1,
        channel_binding: bytes | None = None,
        require_binding: bool = False,
        plain: bool = False,
        *,
        enroll: bool = False,
        nonce: str | None = None,
    ) -> None:
        if require_binding and (channel_binding is None or plain or enroll):
            raise ValueError("this link must be bound to the server's certificate, and cannot be")
        self.server_agent = ""
        """What the server calls itself, once `auth` has read it."""
        self._id = id
        self._secret = secret
        self._agent = agent
        self._instance = instance
        self._services = services
        self._lanes = lanes
        self._enroll = enroll
        self._enrolled = False
        self._scram: Any = None
        if plain:
            return
        mechanism = MECHANISM if channel_binding is None else MECHANISM_PLUS
        binding = None if channel_binding is None else (_BINDING, channel_binding)
        try:
            self._scram = ScramClient([mechanism], id, secret, channel_binding=binding, c_nonce=nonce)
        except (ScramException, ValueError) as error:
            raise ValueError(f"this id or secret cannot be used: {_reason(error)}") from None

    def hello(self) -> Message:
        message: Message = {"type": "hello", "protocol": 3, "id": self._id}
        message |= {"agent": self._agent, "lanes": self._lanes}
        if self._scram is None:
            return message | {"mechanism": PLAIN, "secret": self._secret}
        return message | {"mechanism": self._scram.mechanism_name, "scram": self._scram.get_client_first()}

    def auth(self, challenge: Message) -> Message:
        """Answer the challenge. Slow: not on the hub's thread. Raises RemoteRefused, WireError."""
        _expect_from_server(challenge, "challenge")
        self.server_agent = _text(challenge, "agent", _MAX_NAME, default="")
        message: Message = {"type": "auth", "instance": self._instance}
        message["services"] = [service.to_dict() for service in self._services]
        if challenge.get("enroll") is True:
            if not self._enroll:
                raise WireError("the server asks to enroll this client, which is not allowed here")
            self._enrolled = True
            message["verifier"] = str(derive(self._secret, secrets.token_bytes(SALT_BYTES)))
        elif self._scram is not None:
            message["scram"] = self._prove(_text(challenge, "scram", _MAX_TEXT))
        return message

    def ready(self, message: Message) -> Ready:
        """Check the server's proof and read what it grants. Raises RemoteRefused, WireError."""
        _expect_from_server(message, "ready")
        if self._scram is not None and not self._enrolled:
            try:
                self._scram.set_server_final(_text(message, "scram", _MAX_TEXT))
            except (ScramException, ValueError):
                raise WireError("this server does not know the secret: it is not the real one") from None
        services = message.get("services")
        if not isinstance(services, list) or not all(isinstance(service, dict) for service in services):
            raise WireError("services is no list of objects")
        return Ready(
            services=services,
            window=_integer(message, "window", 0, _MAX_WINDOW),
            idle_timeout=_seconds(message, "idleTimeout"),
            lanes=min(_integer(message, "lanes", 1, 0xFFFF, default=1), self._lanes, MAX_LANES),
        )

    def _prove(self, server_first: str) -> str:
        try:
            self._scram.set_server_first(server_first)
            iterations = int(self._scram.iterations)
            if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
                raise WireError(f"the server asks for {iterations} iterations")
            return cast(str, self._scram.get_client_final())
        except (ScramException, ValueError) as error:
            raise WireError(f"bad challenge: {_reason(error)}") from None


def _read_verifier(message: Message) -> Verifier:
    try:
        return parse_verifier(_text(message, "verifier", _MAX_TEXT))
    except ValueError as error:
        raise WireError(str(error)) from None


def _reason(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, ScramException) else "text that is no Unicode"


def _expect(message: Message, kind: str) -> None:
    if not isinstance(message, dict) or message.get("type") != kind:
        raise WireError(f"expected a message of the type {kind}")


def _expect_from_server(message: Message, kind: str) -> None:
    if isinstance(message, dict) and message.get("type") == "error":
        text = _text(message, "message", _MAX_TEXT, default="no reason given")
        service = _integer(message, "service", 0, 0xFFFF) if "service" in message else None
        raise RemoteRefused(_text(message, "code", _MAX_NAME), text, service)
    _expect(message, kind)


def _text(message: Message, key: str, most: int, default: str | None = None) -> str:
    """Return a string of 1 to `most` printable characters: it may go to a log. Raises WireError."""
    value = message.get(key, default)
    if default is not None and value == default:
        return default
    if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
        raise WireError(f"{key} is no text of 1 to {most} characters")
    return value


def _seconds(message: Message, key: str) -> float:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_SECONDS:
        raise WireError(f"{key} is no number of seconds")
    return float(value)


def _integer(message: Message, key: str, least: int, most: int, default: int | None = None) -> int:
    value = message.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise WireError(f"{key} is no number from {least} to {most}")
    return value
