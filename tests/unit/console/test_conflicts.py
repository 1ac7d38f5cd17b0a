"""What stands on the page of a conflict: who has changed what, of texts and of forms."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from gtapp.config.store import Conflict, Text
from gtapp.console import conflicts
from gtapp.console.conflicts import Choice, Row, rows_of_texts, rows_of_values
from gtapp.console.merge import merge


@pytest.fixture
def page(app: Flask) -> Any:
    with app.test_request_context("/users/alice"):
        yield app


def brief(rows: list[Row]) -> list[tuple[str, str, str | None, str, str]]:
    return [(row.label, row.change, row.was, row.mine, row.theirs) for row in rows]


@pytest.mark.parametrize(
    ("changes", "was", "theirs", "expected"),
    [
        ({"speed": "1MiB"}, {}, {}, [("speed", "mine", "", "1MiB", "")]),
        ({"speed": None}, {"speed": "1MiB"}, {"speed": "1MiB"}, [("speed", "mine", "1MiB", "", "1MiB")]),
        ({}, {"speed": 1}, {"speed": 2}, [("speed", "theirs", "1", "1", "2")]),
        ({}, {"speed": 1}, {}, [("speed", "theirs", "1", "1", "")]),
        ({"speed": 3}, {"speed": 1}, {"speed": 2}, [("speed", "both", "1", "3", "2")]),
        ({"speed": 2}, {"speed": 1}, {"speed": 2}, [("speed", "alike", "1", "2", "2")]),
        ({"speed": None}, {"speed": 1}, {}, [("speed", "alike", "1", "", "")]),
        ({"a": True}, {"a": False, "b": [1, 2]}, {"a": False, "b": [1, 2]}, [("a", "mine", "false", "true", "false")]),
        ({"a": 1}, {"b": 2}, {"b": 3}, [("a", "mine", "", "1", ""), ("b", "theirs", "2", "2", "3")]),
        ({"ranges": ["1-2"]}, {"ranges": ["1-2", "3-4"]}, {"ranges": ["5-6"]},
            [("ranges", "both", "1-2\n3-4", "1-2", "5-6")]),
        ({"secret": "new"}, {"secret": "old"}, {"secret": "theirs"}, [("secret", "both", "***", "***", "***")]),
        ({"speed": 3}, None, {"speed": 2}, [("speed", "mine", None, "3", "2")]),
    ],
)  # fmt: skip
def test_who_has_changed_what_of_a_form(changes, was, theirs, expected):
    assert brief(rows_of_values(changes, was, theirs)) == expected


def test_lines_are_named_by_where_they_are_in_the_file(page):
    blocks = merge("a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nX\nY\nZ\n")
    rows = rows_of_texts(blocks)
    assert brief(rows) == [
        ("Line 1", "mine", "a", "A", "a"),
        ("Lines 3 to 5", "theirs", "c\nd", "c\nd", "X\nY\nZ"),
    ]


def test_the_page_has_all_texts_and_what_was_typed_goes_on(page):
    conflict = Conflict(Text("options: {}\n", "e2"))
    rows = [Row("speed", "both", "1 < 2", "mine", "theirs"), Row("more", "mine", None, "mine too", "")]
    ways = [
        Choice(
            "Again",
            "once more",
            "/users/alice",
            [("speed", '"1"'), ("speed", "2"), ("draft", "d")],
            "primary",
        ),
        Choice("Anew", "from the file", "/users/alice"),
    ]
    answer = conflicts.page(conflict, rows, ways)
    assert answer.status_code == 409
    assert "1 &lt; 2" in answer.get_data(as_text=True)
    assert answer.get_data(as_text=True).count("What was") == 1  # where nobody knows it, it is left out
    assert '<input type="hidden" name="speed" value="&#34;1&#34;">' in answer.get_data(as_text=True)
    assert '<input type="hidden" name="speed" value="2">' in answer.get_data(as_text=True)
    assert 'href="/users/alice"' in answer.get_data(as_text=True)
    assert "edited by other means" in answer.get_data(as_text=True)


def test_the_choices_of_a_form(page):
    first, last = conflicts.choices("/again", [("draft", "d")], "/fresh")
    assert (first.url, list(first.fields), first.kind) == ("/again", [("draft", "d")], "primary")
    assert (last.url, list(last.fields)) == ("/fresh", [])
