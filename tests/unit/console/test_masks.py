"""Secrets of a file's text are masked wherever they stand, and nothing else is."""

from __future__ import annotations

import pytest

from gtapp.console.masks import compare_masked, is_secret, masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("secret: abc\n", "secret: ***\n"),
        ("secret: abc   # of ann\n", "secret: ***   # of ann\n"),
        ('options:\n  password: "a: b"\n  admin: ann\n', "options:\n  password: ***\n  admin: ann\n"),
        ("users: {ann: {secret: 'x', speed: 1}}\n", "users: {ann: {secret: ***, speed: 1}}\n"),
        ("secret: [a, b]\nid: [c, d]\n", "secret: [***, ***]\nid: [c, d]\n"),
        ("secret:\n  - a\n  - b\nid: c\n", "secret:\n  - ***\n  - ***\nid: c\n"),
        ("secret: |\n  a\n  b\nid: c\n", "secret: ***\nid: c\n"),
        ("名: 密\nsecret: 密钥\nid: c\n", "名: 密\nsecret: ***\nid: c\n"),
        ("a: &it abc\nsecret: *it\n", "a: ***\nsecret: *it\n"),
        ("base: &b {secret: x}\nann: {<<: *b}\n", "base: &b {secret: ***}\nann: {<<: *b}\n"),
        ("secret:\nid: c\n", "secret:\nid: c\n"),
        ("# secret: old\nid: c  # was secret: older\n", "# secret: ***\nid: c  # was secret: ***\n"),
        ("sentryDSN: x\nsigningKey: y\nverifier: z\nbasicAuth: u:v\n",
            "sentryDSN: ***\nsigningKey: ***\nverifier: ***\nbasicAuth: ***\n"),
        ("secret: 'not closed\nid: c\n", "secret: ***\nid: c\n"),  # no YAML, and a secret all the same
        ("{ secret: abc\n", "{ secret: ***\n"),
        ("ann:\n  secret: >-\n    a\n\n    b\n  speed: 1\nbob: [\n",
            "ann:\n  secret: ***\n    ***\n\n    ***\n  speed: 1\nbob: [\n"),
        ("ann:\n  secret:\n    a\n  speed: 1\nbob: [\n", "ann:\n  secret:\n    ***\n  speed: 1\nbob: [\n"),
        ("secrets: many\nmysecret: 1\n", "secrets: many\nmysecret: 1\n"),
        ("", ""),
    ],
)  # fmt: skip
def test_secrets_are_masked(text, shown):
    assert masked(text) == shown


def test_another_secret_is_another_line():
    lines = compare_masked("id: a\nsecret: old\n", "id: a\nsecret: new\n")
    assert [(line.kind, line.text) for line in lines] == [
        (" ", "id: a"),
        ("-", "secret: ***"),
        ("+", "secret: ***"),
    ]
    assert compare_masked("secret: a\n", "secret: a\n") == []


def test_which_keys_are_secret():
    assert is_secret("password")
    assert is_secret("verifier")
    assert not is_secret("admin")
