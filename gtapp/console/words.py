"""Texts in the language of the page: `gettext` with types, for the modules of the console."""

from __future__ import annotations

from typing import Any

from flask_babel import get_locale, gettext


def _(text: str, **values: Any) -> str:
    """`text` in the language of the page, `values` put in where it says %(name)s."""
    return str(gettext(text, **values))


def is_chinese() -> bool:
    """Whether the page is in Chinese."""
    locale = get_locale()
    return locale is not None and bool(locale.language == "zh")
