"""The words for what is wrong."""

import pytest

from gtapp.config.problems import Problems, nearest, quoted
from gtapp.errors import ConfigError


def test_no_problem_is_no_error():
    Problems().check()


def test_problems_are_told_in_order_one_a_line():
    problems = Problems()
    problems.add("first")
    problems.add("second")
    with pytest.raises(ConfigError, match=r"\Afirst\nsecond\Z"):
        problems.check()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", '"a b"'),
        ("", '""'),
        ("a\nb\x1b\udcff", '"a\ufffdb\ufffd\ufffd"'),
        ("x" * 61, f'"{"x" * 60}…"'),
    ],
)
def test_quoted_text_is_short_and_on_one_line(text, shown):
    assert quoted(text) == shown


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("adr", ', did you mean "addr"?'),
        ("TIMEOUT", ', did you mean "timeOut"?'),
        ("zzz", ""),
        ("x" * 10**6, ""),
    ],
)
def test_the_nearest_name(word, hint):
    assert nearest(word, ["addr", "timeOut"]) == hint
