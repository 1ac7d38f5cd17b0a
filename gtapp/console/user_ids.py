"""Ids of users in URLs: rules may say <id:user>. Pages and API have the same; `create_app` calls `init`."""

from __future__ import annotations

import base64
import binascii
import re

from flask import Flask
from werkzeug.routing import BaseConverter, ValidationError

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*")
_WORDS_OF_URLS = ("new",)


def init(app: Flask) -> None:
    app.url_map.converters["id"] = IdConverter


class IdConverter(BaseConverter):
    """A user's id in a URL: as it is where that is possible, else "~" and base64. Ids can be any text."""

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        if not value.startswith("~"):
            return value
        try:
            return base64.urlsafe_b64decode(value[1:] + "=" * (-len(value[1:]) % 4)).decode()
        except (binascii.Error, UnicodeError):
            raise ValidationError from None

    def to_url(self, value: str) -> str:
        if _PLAIN.fullmatch(value) and value not in _WORDS_OF_URLS:
            return value
        return "~" + base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")
