"""A browser without scripts, for tests of pages with many forms: it reads the forms of a page and sends them as one
would, every field with what it says unless the test types something else."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from tests.unit.console.conftest import Auth


@dataclass
class Form:
    """A form: where it goes, and what it says. `fields` are those that are sent as they are, `all` the others too
    (boxes that are not ticked, fields that are disabled)."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)
    all: dict[str, dict[str, str | None]] = field(default_factory=dict)
    text: str = ""


class _Reader(HTMLParser):
    def __init__(self, here: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._here = here
        self._area = self._select = ""
        self._typed: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        name = about.get("name") or ""
        if tag == "form":
            self.forms.append(Form(about.get("action") or self._here))
        if not self.forms or (not name and tag != "option"):
            return
        form = self.forms[-1]
        if tag in ("input", "select", "textarea"):
            form.all[name] = about
        sent = "disabled" not in about
        if tag == "input" and sent and (about.get("type") not in ("checkbox", "radio") or "checked" in about):
            form.fields[name] = about.get("value") or ""
        elif tag == "textarea" and sent:
            self._area, self._typed = name, ""
        elif tag == "select":
            self._select = name if sent else ""
        elif tag == "option" and self._select and ("selected" in about or self._select not in form.fields):
            form.fields[self._select] = about.get("value") or ""

    def handle_data(self, data: str) -> None:
        if self._typed is not None:
            self._typed += data
        if self.forms:
            self.forms[-1].text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._typed is not None:
            self.forms[-1].fields[self._area] = self._typed.removeprefix("\n")
            self._typed = None
        elif tag == "select":
            self._select = ""


class Browser:
    """Somebody who is logged in to `app`. `page` is the answer that is open."""

    def __init__(self, app: Flask, language: str = "en") -> None:
        self.app = app
        self.client = app.test_client()
        self.headers = {"Accept-Language": language}
        assert Auth(app, self.client).login().status_code in (302, 303)
        self.page: TestResponse

    @property
    def text(self) -> str:
        return self.page.text

    def get(self, path: str, expect: int = 200) -> str:
        self.page = self.client.get(path, headers=self.headers, follow_redirects=True)
        assert self.page.status_code == expect, self.text
        return self.text

    def forms(self) -> list[Form]:
        reader = _Reader(self.page.request.path)
        reader.feed(self.text)
        return reader.forms

    def form(self, action: str) -> Form:
        """The first form of the page that goes to this path, or to one that ends like that."""
        found = next((each for each in self.forms() if each.action.endswith(action)), None)
        assert found, f"no form to {action} here: {[each.action for each in self.forms()]}"
        return found

    def send(self, action: str, typed: dict[str, Any] | None = None, expect: int = 200) -> str:
        """Send that form with what is typed; None takes a field out of it, as a box that is no longer ticked."""
        form = self.form(action)
        data = {key: value for key, value in {**form.fields, **(typed or {})}.items() if value is not None}
        self.page = self.client.post(form.action, data=data, headers=self.headers, follow_redirects=True)
        assert self.page.status_code == expect, self.text
        return self.text
