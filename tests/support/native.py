"""Protocol 3 by hand: frames and SCRAM written straight from docs/PROTOCOL.md and RFC 5802, for both roles.

Nothing here comes from gtapp or scramp, so that a mistake cannot hide in a test that makes the same one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import socket
import struct
from typing import Any, Self

from tests.support.ports import Address
from tests.support.processes import PATIENCE_S
from tests.support.tunnel_socket import TunnelSocket

DATA, OPEN, EOF, RESET, WINDOW, PING, PONG, CONTROL = range(8)
ITERATIONS = 65536


def frame(stream: int, kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">II", stream, kind << 24 | len(payload)) + payload


def control(message: dict[str, Any]) -> bytes:
    return frame(0, CONTROL, json.dumps(message).encode())


def window(stream: int, size: int) -> bytes:
    return frame(stream, WINDOW, struct.pack(">I", size))


def opened(stream: int, service: int, visitor: str, payload: bytes) -> bytes:
    return frame(stream, OPEN, struct.pack(">HBB", service, 0, len(visitor)) + visitor.encode() + payload)


def salted(secret: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, iterations)


def _digest(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def stored_verifier(secret: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """The `verifier` of a users file: what a server keeps instead of the secret."""
    key = salted(secret, salt, iterations)
    stored = hashlib.sha256(_digest(key, b"Client Key")).digest()
    return f"SCRAM-SHA-256${iterations}:{_b64(salt)}${_b64(stored)}:{_b64(_digest(key, b'Server Key'))}"


def _fields(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(","))


class NativeWire(TunnelSocket):
    """Reads and writes the frames of one tunnel connection."""

    def frame(self) -> tuple[int, int, bytes]:
        """The next frame: stream, type, payload."""
        stream, rest = struct.unpack(">II", self.exactly(8))
        return stream, rest >> 24, self.exactly(rest & 0xFFFFFF)

    def until_end(self) -> None:
        """Reads until the server ends the tunnel; TimeoutError when it does not."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                self.frame()

    def control(self) -> dict[str, Any]:
        """The next CONTROL message; what else comes is skipped."""
        while True:
            stream, kind, payload = self.frame()
            if kind == CONTROL:
                assert stream == 0
                message = json.loads(payload)
                assert isinstance(message, dict)
                return message

    def stream_frame(self) -> tuple[int, int, bytes]:
        """The next frame that belongs to a stream; pings are answered."""
        while True:
            stream, kind, payload = self.frame()
            if kind == PING:
                self.send(frame(0, PONG, payload))
            elif stream:
                return stream, kind, payload


class NativeClient(NativeWire):
    """A client's end of one tunnel to a server under test."""

    def __init__(self, address: Address, id: str, secret: str, source: str = "") -> None:
        """`source` is the address that it comes from, such as 127.0.0.2."""
        super().__init__(socket.create_connection(address, PATIENCE_S, (source, 0) if source else None))
        self.id = id
        self.secret = secret
        self.send(b"\xf0\x03")
        self._first = ""
        self._expected = b""

    def hello(self) -> dict[str, Any]:
        """Sends `hello`; the server's `challenge` (or `error`)."""
        self._first = f"n={self.id},r={_b64(os.urandom(18))}"
        self.send(
            control(
                {
                    "type": "hello",
                    "protocol": 3,
                    "id": self.id,
                    "mechanism": "SCRAM-SHA-256",
                    "scram": "n,," + self._first,
                    "agent": "test",
                    "lanes": 1,
                }
            )
        )
        return self.control()

    def prepare(
        self,
        challenge: dict[str, Any],
        prefixes: tuple[str | None, ...] = (None,),
        services: list[dict[str, Any]] | None = None,
    ) -> bytes:
        """The bytes of `auth`. The slow part, apart so that a test can measure the server alone."""
        server_first = challenge["scram"]
        fields = _fields(server_first)
        without_proof = f"c={_b64(b'n,,')},r={fields['r']}"
        text = f"{self._first},{server_first},{without_proof}".encode()
        key = salted(self.secret, base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = _digest(key, b"Client Key")
        signature = _digest(hashlib.sha256(client_key).digest(), text)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._expected = _digest(_digest(key, b"Server Key"), text)
        if services is None:
            services = [
                {"kind": "http", "hostPrefix": prefix, "port": 0, "random": False} for prefix in prefixes
            ]
        scram = f"{without_proof},p={_b64(proof)}"
        return control(
            {"type": "auth", "scram": scram, "instance": os.urandom(8).hex(), "services": services}
        )

    def auth(
        self,
        challenge: dict[str, Any],
        prefixes: tuple[str | None, ...] = (None,),
        services: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Sends `auth`, for HTTP under these prefixes or for `services`; the server's `ready`, its proof checked, or
        `error`."""
        self.send(self.prepare(challenge, prefixes, services))
        answer = self.control()
        if answer["type"] == "ready":
            assert answer["scram"] == f"v={_b64(self._expected)}"
        return answer

    def ready(self, *prefixes: str | None) -> Self:
        answer = self.auth(self.hello(), prefixes or (None,))
        assert answer["type"] == "ready", answer
        return self


class NativeServer(NativeWire):
    """A server's end of one tunnel from a client under test, on an accepted socket."""

    def __init__(self, sock: socket.socket, secret: str) -> None:
        super().__init__(sock)
        self.secret = secret

    def challenge(self) -> dict[str, Any]:
        """Takes `hello`, answers `challenge`, and takes `auth`, unchecked: the test is about the client."""
        assert self.exactly(2) == b"\xf0\x03"
        hello = self.control()
        client_first = hello["scram"].split(",", 2)[2]
        self._salt = b"salt of the test"
        server_first = f"r={_fields(client_first)['r']}{_b64(os.urandom(18))},s={_b64(self._salt)},i=4096"
        self.send(
            control(
                {"type": "challenge", "scram": server_first, "mechanisms": ["SCRAM-SHA-256"], "agent": "test"}
            )
        )
        auth = self.control()
        self._text = f"{client_first},{server_first},{auth['scram'].rpartition(',p=')[0]}".encode()
        return auth

    def ready(self, more: bytes = b"") -> Self:
        """The opening until `ready`, with these bytes right behind it."""
        auth = self.challenge()
        server_key = _digest(salted(self.secret, self._salt, 4096), b"Server Key")
        final = f"v={_b64(_digest(server_key, self._text))}"
        services = [{"ok": True} | service for service in auth["services"]]
        message = {
            "type": "ready",
            "scram": final,
            "services": services,
            "window": 262144,
            "idleTimeout": 90,
            "lanes": 1,
        }
        self.send(control(message), more)
        return self
