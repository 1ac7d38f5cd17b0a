"""gt.py hash-password, from a terminal and from a pipe."""

from __future__ import annotations

import io

import pytest

from gtapp.config.passwords import hasher
from gtapp.config.values import BASIC_AUTH
from gtapp.errors import ConfigError
from gtapp.process import hash_password


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("line", ["hush hush\n", "hush hush\r\n", "hush hush", "hush hush\nmore\n"])
def test_a_line_of_the_input(monkeypatch, capsys, line: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(line))
    assert hash_password.run() == 0
    printed = capsys.readouterr().out
    assert printed.endswith("\n")
    assert hasher.verify(printed.strip(), "hush hush")
    assert BASIC_AUTH.parse(f"anne:{printed.strip()}"), "as the option wants it"


def test_a_terminal_is_asked_twice(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    asked: list[str] = []

    def getpass(prompt: str) -> str:
        asked.append(prompt)
        return "hush"

    monkeypatch.setattr("getpass.getpass", getpass)
    assert hash_password.run() == 0
    assert asked == ["Password: ", "The same again: "]
    assert hasher.verify(capsys.readouterr().out.strip(), "hush")


def test_two_different_ones(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    answers = iter(("one", "two"))
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    with pytest.raises(ConfigError, match="two different passwords"):
        hash_password.run()


def test_none(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(ConfigError, match="there is no password"):
        hash_password.run()
