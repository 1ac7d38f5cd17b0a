"""Drafts come back as they went, cannot be read on the way, and are good for who has made them alone."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from flask_login import login_user
from werkzeug.exceptions import BadRequest

from gtapp.console import drafts
from gtapp.console.auth import Somebody
from gtapp.console.drafts import Draft

CHANGES = {"speed": "1MiB", "secret": "s3cret", "off": None, "on": True}
DRAFT = Draft("e1", "text 中文\n", "was\n", CHANGES, {"a": [1, 2]})


@pytest.fixture
def request_of(app: Flask):
    """`with request_of("ann"):` is a request of hers."""

    def begin(name: str):
        context = app.test_request_context("/settings", environ_base={"REMOTE_ADDR": "127.0.0.1"})
        context.push()
        login_user(Somebody(name))
        return context

    opened = []
    yield lambda name: opened.append(begin(name))
    for each in reversed(opened):
        each.pop()


def test_a_draft_comes_back(request_of):
    request_of("ann")
    assert drafts.opened(DRAFT.sealed()) == DRAFT


def test_nothing_of_it_can_be_read(request_of):
    request_of("ann")
    sealed = DRAFT.sealed()
    data = base64.urlsafe_b64decode(sealed)
    for each in (b"s3cret", b"text", zlib.compress(b"s3cret")[2:6]):
        assert each not in data
        assert each not in sealed.encode()


def test_it_is_for_who_made_it(request_of):
    request_of("ann")
    sealed = DRAFT.sealed()
    request_of("bob")
    with pytest.raises(BadRequest, match="too old"):
        drafts.opened(sealed)


@pytest.mark.parametrize("text", ["", "nonsense", "gAAAA", "ü", "\ud800", "a" * 10_000])
def test_what_is_no_draft(request_of, text):
    request_of("ann")
    with pytest.raises(BadRequest, match="too old"):
        drafts.opened(text)


def test_one_of_another_key_or_changed_on_the_way(request_of):
    request_of("ann")
    packed = zlib.compress(json.dumps({"who": "ann", "etag": ""}).encode())
    with pytest.raises(BadRequest, match="too old"):
        drafts.opened(Fernet(Fernet.generate_key()).encrypt(packed).decode())
    sealed = DRAFT.sealed()
    with pytest.raises(BadRequest, match="too old"):
        drafts.opened(sealed[:-10] + ("A" if sealed[-10] != "A" else "B") + sealed[-9:])


def test_one_that_has_waited_for_too_long(request_of, monkeypatch):
    request_of("ann")
    sealed = DRAFT.sealed()
    monkeypatch.setattr(drafts, "LONGEST_S", -1)
    with pytest.raises(BadRequest, match="too old"):
        drafts.opened(sealed)
