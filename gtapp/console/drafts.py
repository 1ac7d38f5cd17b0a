"""What somebody has typed and not saved yet: it travels with the pages, sealed, from the form to the review and back.

The server remembers nothing of it, so nothing is lost when the console is restarted or a page stays open over night;
and as it is encrypted, no page holds a secret that was just typed. Used by settings, the YAML editor and history.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from flask import current_app
from flask_login import current_user
from werkzeug.exceptions import BadRequest

from gtapp.console.words import _

LONGEST_S = 24 * 3600  # that a draft can wait to be saved
FIELD = "draft"  # the name of the hidden input that carries it


@dataclass(frozen=True)
class Draft:
    """`etag` stands for the file that it is based on. In the editor `text` is what was typed, and `was` the text of
    that file; in a form `changes` is what was typed, and `own` what the file said of it, in YAML form by key."""

    etag: str
    text: str = ""
    was: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)

    def sealed(self) -> str:
        """For a hidden input; only the same account can open it again."""
        packed = zlib.compress(json.dumps({"who": _who(), **asdict(self)}).encode())
        return _box().encrypt(packed).decode()


def opened(text: str) -> Draft:
    """The draft that a page has sent back. Raises BadRequest when it is too old or not one of ours."""
    try:
        values = json.loads(zlib.decompress(_box().decrypt(text.encode(), ttl=LONGEST_S)))
    except (InvalidToken, UnicodeError):
        values = {}
    if values.pop("who", None) != _who():
        raise BadRequest(
            _("This page is too old to be saved from. Open it again, and make the change once more.")
        )
    return Draft(**values)


def _box() -> Fernet:
    key = current_app.secret_key or b""
    key = key.encode() if isinstance(key, str) else key
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"gt drafts\0" + key).digest()))


def _who() -> str:
    return str(getattr(current_user, "name", "") or "")
