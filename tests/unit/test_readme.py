"""What the READMEs show can be used: all command lines and YAML files in them load, the same ones in both languages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from gtapp.config.load import load_client, load_server, load_users
from gtapp.config.options import ServerOptions

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh.md")
REAL = {  # what the text abbreviates
    "p=1$…": "p=1$c29tZXNhbHRzb21lc2FsdA$ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGk",
    "65536:…$…:…": f"65536:{'A' * 22}==${'A' * 43}=:{'A' * 43}=",
}


def commands(name: str) -> list[str]:
    """The lines of indented blocks that begin with `gt.py server` or `client`, continued ones joined."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return [
        " ".join(line.split()[1:]) for line in re.findall(r"^    (gt\.py (?:server|client) .*)$", text, re.M)
    ]


def files(name: str) -> list[str]:
    text = (ROOT / name).read_text()
    for short, real in REAL.items():
        text = text.replace(short, real)
    return re.findall(r"```yaml\n(.*?)```", text, re.S)


@pytest.mark.parametrize("name", READMES)
def test_command_lines(name: str) -> None:
    found = commands(name)
    assert len(found) > 8
    for line in found:
        role, *words = shlex.split(line)
        if role == "server":
            load_server(words, {})
        else:
            load_client(words, {})


@pytest.mark.parametrize("name", READMES)
def test_yaml_files(name: str, tmp_path: Path) -> None:
    found = files(name)
    assert len(found) > 4
    for text in found:
        value = yaml.safe_load(text)
        path = tmp_path / "file.yml"
        if "services" in value:
            value.setdefault(
                "options", {"id": "id1", "secret": "correct-horse-1", "remote": "tcp://example.com"}
            )
            path.write_text(yaml.safe_dump(value))
            load_client(["-c", str(path)], {})
        elif "users" in value:
            value.setdefault("options", {"addr": 8080})
            path.write_text(yaml.safe_dump(value))
            load_server(["-c", str(path)], {})
        else:
            path.write_text(text)
            load_users(path, ServerOptions())


def test_both_languages_show_the_same() -> None:
    assert commands("README.md") == commands("README.zh.md")
    assert [yaml.safe_load(text) for text in files("README.md")] == [
        yaml.safe_load(text) for text in files("README.zh.md")
    ]


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (ROOT / target).exists(), target
