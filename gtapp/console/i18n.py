"""English and Chinese: catalogs are read from web/translations/*/*.po when the console starts."""

from __future__ import annotations

import functools
import io
from pathlib import Path

from babel import Locale
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations
from flask import Flask, has_request_context
from flask_babel import Babel, Domain, get_locale

from gtapp.console.navigation import LANGUAGES, preferred_language


class _Catalogs(Domain):  # type: ignore[misc]
    """What the .po files of `directory` say, all features together."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._known = {tag: translations(directory / tag, tag) for tag in LANGUAGES}

    def get_translations(self) -> NullTranslations:
        locale = get_locale()
        return self._known.get(locale.language if locale else "en", self._known["en"])


def init_app(app: Flask, directory: Path) -> None:
    babel = Babel(app, locale_selector=_language)
    babel.domain_instance = _Catalogs(directory)


def translations(directory: Path, tag: str) -> NullTranslations:
    """The catalogs in a directory as one; where there are none, texts stay as they are."""
    return _merged(tuple((path, path.stat().st_mtime_ns) for path in sorted(directory.glob("*.po"))), tag)


@functools.lru_cache(maxsize=8)  # every application of a process has the same
def _merged(files: tuple[tuple[Path, int], ...], tag: str) -> NullTranslations:
    merged = Catalog(locale=Locale.parse(tag))
    for path, _ in files:
        with path.open("rb") as file:
            for message in read_po(file, locale=tag, abort_invalid=True):
                if message.id and message.string and not message.fuzzy:
                    merged[message.id] = message
    compiled = io.BytesIO()
    write_mo(compiled, merged)
    compiled.seek(0)
    return Translations(compiled)


def _language() -> str:
    return preferred_language() if has_request_context() else "en"
