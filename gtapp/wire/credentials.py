"""What a server keeps of a secret: SCRAM's stored keys (RFC 5802 section 3). Called by `gtapp.server.users`.

Whoever steals a verifier cannot log in with it. Its text is the one PostgreSQL uses.
"""

import base64
import hmac
import re
from dataclasses import dataclass, field

from scramp import ScramException, ScramMechanism

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"
DEFAULT_ITERATIONS = 65536  # about 30 ms
MIN_ITERATIONS = 4096  # RFC 7677 section 4
MAX_ITERATIONS = 1_000_000  # a hostile server must not keep a client computing for more than half a second
SALT_BYTES = 16  # of every verifier, so that the length does not tell a known id from an unknown one

_TEXT = re.compile(r"SCRAM-SHA-256\$([0-9]{1,7}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class Verifier:
    """Shows whether a client knows a secret, and convinces the client of us. `str` gives its text form."""

    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    iterations: int

    def __str__(self) -> str:
        salt, stored_key, server_key = (
            base64.b64encode(data).decode() for data in (self.salt, self.stored_key, self.server_key)
        )
        return f"{MECHANISM}${self.iterations}:{salt}${stored_key}:{server_key}"


def derive(secret: str, salt: bytes, iterations: int = DEFAULT_ITERATIONS) -> Verifier:
    """Compute the verifier of a secret. Slow on purpose: not on the hub's thread.

    Raises ValueError on a secret that cannot be used: control characters, or characters unknown to SASLprep.
    """
    try:
        keys = ScramMechanism(MECHANISM).make_auth_info(secret, iteration_count=iterations, salt=salt)
    except (ScramException, ValueError) as error:
        raise ValueError(f"this secret cannot be used: {error.args[0]}") from None
    return Verifier(keys[0], keys[1], keys[2], keys[3])


def parse_verifier(text: str) -> Verifier:
    """Read the text form of a verifier. Raises ValueError."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"a verifier reads {MECHANISM}$<iterations>:<salt>$<stored key>:<server key>")
    iterations = int(match[1])
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"a verifier has {MIN_ITERATIONS} to {MAX_ITERATIONS} iterations, not {iterations}")
    salt = _decode("salt", match[2], SALT_BYTES)
    stored_key = _decode("stored key", match[3], 32)
    server_key = _decode("server key", match[4], 32)
    return Verifier(salt, stored_key, server_key, iterations)


def _decode(what: str, text: str, size: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError(f"the {what} of this verifier is no base64") from None
    if len(data) != size:
        raise ValueError(f"the {what} of a verifier has {size} bytes, not {len(data)}")
    return data


def salt_for(user_id: str, key: bytes) -> bytes:
    """The salt of an id, the same at every login; `key` is a secret of the server and decides it."""
    return _derived("salt", user_id, key)[:SALT_BYTES]


def decoy(user_id: str, key: bytes) -> Verifier:
    """A verifier for an id that does not exist: no secret matches it, and from outside nothing tells."""
    stored_key, server_key = _derived("stored", user_id, key), _derived("server", user_id, key)
    return Verifier(salt_for(user_id, key), stored_key, server_key, DEFAULT_ITERATIONS)


def _derived(purpose: str, user_id: str, key: bytes) -> bytes:
    return hmac.digest(key, f"{purpose}:{user_id}".encode(), "sha256")
