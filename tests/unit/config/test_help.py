"""The help of every role: whole, within the width of the terminal, in two languages."""

import unicodedata

import pytest

from gtapp.config.help import role_help
from gtapp.config.options import OPTIONS, SERVICE


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize("width", [60, 80, 110])
@pytest.mark.parametrize("role", OPTIONS)
def test_it_names_every_option_and_fits_the_terminal(role, width, chinese):
    text = role_help(role, chinese, width)
    words = text.split()
    for key in OPTIONS[role]:
        assert words.count(f"--{key}") >= 1
    assert max(columns(line) for line in text.split("\n")) <= width
    assert not any(line.endswith(" ") for line in text.split("\n"))


def test_defaults_units_and_sections_are_shown():
    lines = role_help("client", False, 100).split("\n")
    assert "Tunnels:" in lines
    assert "  --remoteTimeout DURATION  idle limit of a tunnel (default 45s)" in lines
    assert "  --remote URL              the server, such as tcp://example.com:8080 (repeatable)" in lines
    assert "  --allowPlainSecret        the secret may be sent readable over TCP" in lines
    long_flag = lines.index("  --remoteIdleConnections NUMBER")
    assert lines[long_flag + 1] == " " * 28 + "how many of them stay when idle (default 1)"


def test_services_are_part_of_the_client():
    words = role_help("client", False, 80).split()
    assert all(entry.flag in words for entry in SERVICE.values())
    assert "--local" not in role_help("server", False, 80)


def test_what_is_not_available_stands_apart():
    text = role_help("server", False, 80)
    available, later = text.split("Not available yet:")
    assert "--tlsAddr" in available
    assert "--tlsAddr" not in later
    assert "--quicAddr" not in available
    assert "--quicAddr" in later


def test_chinese():
    text = role_help("server", True, 80)
    assert "监听：" in text
    assert "连接的空闲超时（默认 1m30s）" in text
    assert "尚不可用：" in text
