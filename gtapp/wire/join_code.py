"""A join code: all that a client needs to reach a server, in one word to paste or to scan. Made by the server's
console, read by the client's.

    gt://<base32, lower case, without padding>

Base32 because it survives everything: no letter of it is punctuation that a chat takes for the end of a link or for
italics, upper case is as good as lower case, and a QR code of it in upper case is a small one. The bytes:

    version     1 byte    1
    length      2 bytes   of all bytes, so that a code that was cut off is known for one
    fields      each: 1 byte of length, then as many: id, secret, name, fingerprint (0 or 32), remotes to the end
    checksum    4 bytes   the first of SHA-256 over all before
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field

from gtapp.errors import WireError

SCHEME = "gt://"
MAX_REMOTES = 16
MAX_FIELD_BYTES = 255
MAX_PASTE_CHARACTERS = 20_000  # the longest code has 8,200
_VERSION = 1
_HEAD_BYTES, _CHECKSUM_BYTES = 3, 4
_FINGERPRINT_BYTES = 32
_REMOTE = re.compile(r"(tcp|tls|quic)://[^\s/?#@]+")
# In mail and chats there may be spaces, line ends, marks of quoting and characters without width in between.
_CODE = re.compile(r"gt://((?:[a-z2-7]|[\s>\u00ad\u200b-\u200f\u2060\ufeff])+)", re.IGNORECASE)
_NOT_LETTERS = re.compile(r"[^a-z2-7]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JoinCode:
    """Who a client is and where its server is.

    `remotes` are such as tls://example.com:443, the first is tried first. `fingerprint` is the SHA-256, in hex, of
    the server's certificate (DER) when it is one that nobody signed, "" otherwise. `name` is what people call
    the server.
    """

    id: str
    secret: str = field(repr=False)
    remotes: tuple[str, ...]
    fingerprint: str = ""
    name: str = ""

    def encode(self) -> str:
        """The code. Raises ValueError where something is missing or too long for one."""
        if problem := self._problem():
            raise ValueError(problem)
        fields = [self.id.encode(), self.secret.encode(), self.name.encode(), bytes.fromhex(self.fingerprint)]
        fields += [remote.encode() for remote in self.remotes]
        body = b"".join(bytes((len(each),)) + each for each in fields)
        length = _HEAD_BYTES + len(body) + _CHECKSUM_BYTES
        data = bytes((_VERSION,)) + length.to_bytes(2, "big") + body
        text = base64.b32encode(data + _checksum(data)).decode()
        return SCHEME + text.rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> JoinCode:
        """Read a code, also in upper case, broken into lines or with words around it.

        Raises WireError, which says to somebody who has pasted it what is wrong.
        """
        match = _CODE.search(text[:MAX_PASTE_CHARACTERS])
        if match is None:
            raise WireError("this is no join code: one begins with gt://")
        letters = _NOT_LETTERS.sub("", match[1]).upper()
        data = _bytes(letters)
        if not data:
            raise WireError("the join code is cut off, copy all of it")
        if data[0] != _VERSION:
            raise WireError("the join code is damaged, or of a newer GT than this one: copy it again")
        length = int.from_bytes(data[1:_HEAD_BYTES], "big")
        if len(data) < max(length, _HEAD_BYTES + _CHECKSUM_BYTES):
            raise WireError(f"the join code is cut off after {len(letters)} letters, copy all of it")
        data = data[:length]
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if _checksum(body) != checksum:
            raise WireError("the join code is damaged, copy it again")
        return cls._from_fields(_fields(body[_HEAD_BYTES:]))

    @classmethod
    def _from_fields(cls, fields: list[bytes]) -> JoinCode:
        try:
            id, secret, name = (each.decode() for each in fields[:3])
            remotes = tuple(each.decode() for each in fields[4:])
            code = cls(id, secret, remotes, fields[3].hex(), name)
        except (ValueError, IndexError):
            raise WireError("the join code is damaged, copy it again") from None
        if problem := code._problem():
            raise WireError(f"the join code is of no use: {problem}")
        return code

    def _problem(self) -> str | None:
        """What is missing or too long."""
        if not self.id or not self.secret:
            return "it needs an id and a secret"
        if not 1 <= len(self.remotes) <= MAX_REMOTES:
            return f"it needs 1 to {MAX_REMOTES} remotes"
        for remote in self.remotes:
            if not _REMOTE.fullmatch(remote):
                return f"a remote has to be such as tls://example.com:443, not {remote[:60]!r}"
        if self.fingerprint and not re.fullmatch("[0-9a-f]{64}", self.fingerprint):
            return "the fingerprint has to be a SHA-256 in hex"
        for each in (self.id, self.secret, self.name, *self.remotes):
            if len(each.encode()) > MAX_FIELD_BYTES:
                return f"nothing in it may be longer than {MAX_FIELD_BYTES} bytes"
        return None


def _bytes(letters: str) -> bytes:
    """The bytes of base32 without padding; of what was cut off as many as there are."""
    whole = len(letters) * 5 // 8
    padded = letters + "A" * (-len(letters) % 8)
    return base64.b32decode(padded)[:whole]


def _fields(body: bytes) -> list[bytes]:
    fields = []
    at = 0
    while at < len(body):
        end = at + 1 + body[at]
        if end > len(body):
            raise WireError("the join code is damaged, copy it again")
        fields.append(body[at + 1 : end])
        at = end
    return fields


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]
