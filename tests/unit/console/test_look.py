"""What holds for all templates and files that pages load, whoever wrote them."""

import json
import re
from pathlib import Path

import pytest

WEB = Path(__file__).parents[3] / "web"
TEMPLATES = sorted((WEB / "templates").rglob("*.html"))
SCRIPTS = sorted((WEB / "static").glob("*.js"))
CSS_BYTES = 30 * 1024


def name(path):
    return str(path.relative_to(WEB))


def test_all_css_together_is_small():
    assert sum(path.stat().st_size for path in (WEB / "static").rglob("*.css")) < CSS_BYTES


@pytest.mark.parametrize("path", TEMPLATES, ids=name)
def test_templates_have_no_script_or_style_of_their_own(path):
    """The content policy forbids them."""
    text = re.sub(r"{#.*?#}", "", path.read_text(), flags=re.S)
    assert not re.search(r"<style|\sstyle\s*=|javascript:", text)
    assert not re.search(r"\son[a-z]+\s*=\s*[\"']", text)
    for tag in re.findall(r"<script[^>]*>", text):
        assert " src=" in tag
    assert not re.search(r"hx-on|hx-vals='js|hx-trigger=\"[^\"]*\[", text), "htmx would have to evaluate it"


@pytest.mark.parametrize("path", [*TEMPLATES, *SCRIPTS, *(WEB / "static").glob("*.css")], ids=name)
def test_nothing_is_loaded_from_another_host(path):
    text = path.read_text()
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", text)
    assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", text)
    assert not re.search(r"fetch\(\s*[\"'`](?:https?:)?//|new WebSocket\(\s*[\"'`]", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_evaluate_no_text(path):
    assert not re.search(
        r"\beval\(|new Function|outerHTML|document\.write|insertAdjacentHTML", path.read_text()
    )


def test_colours_are_variables():
    """Each stands once, for both themes."""
    css = (WEB / "static" / "app.css").read_text()
    rest = css.partition("--radius")[2]
    assert not re.findall(r":[^;{]*#[0-9a-f]{3,6}\b", rest)


def luminance(colour):
    if len(colour) == 4:
        colour = "#" + "".join(2 * each for each in colour[1:])
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXT = [
    *((ink, paper) for ink in ("ink", "muted") for paper in ("paper", "card", "sunk")),
    ("ink", "accent-soft"),
    ("accent", "paper"),
    ("accent", "card"),
    ("accent-strong", "accent-soft"),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    *((kind, paper) for kind in ("ok", "warn", "bad") for paper in ("card", "paper", f"{kind}-soft")),
]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough(theme):
    """WCAG 2 AA: 4.5 for text, 3 for edges of fields and lines of charts."""
    css = (WEB / "static" / "app.css").read_text()
    colours = {
        found[1]: found[2 + theme]
        for found in re.finditer(r"--([a-z-]+): light-dark\((#[0-9a-f]+), (#[0-9a-f]+)\)", css)
    }
    weak = [(ink, paper) for ink, paper in TEXT if contrast(colours[ink], colours[paper]) < 4.5]
    weak += [
        (line, "card")
        for line in ("edge", "accent", "second")
        if contrast(colours[line], colours["card"]) < 3
    ]
    assert weak == []


def test_packages_are_pinned_and_name_no_registry():
    wanted = json.loads((WEB / "package.json").read_text())
    for version in (*wanted["dependencies"].values(), *wanted["devDependencies"].values()):
        assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version)
    locked = json.loads((WEB / "package-lock.json").read_text())
    assert set(wanted["dependencies"]) <= {each.removeprefix("node_modules/") for each in locked["packages"]}
    for path, package in locked["packages"].items():
        assert "resolved" not in package
        assert not path or package["integrity"].startswith("sha512-")


def test_what_pages_load_is_copied():
    """`npm ci` does, by vendor.mjs."""
    copied = set(re.findall(r'^  "([^"]+)": "', (WEB / "vendor.mjs").read_text(), re.M))
    loaded = {
        found
        for path in TEMPLATES
        for found in re.findall(r"filename=['\"]vendor/([^'\"]+)", path.read_text())
    }
    assert loaded
    assert loaded <= copied
