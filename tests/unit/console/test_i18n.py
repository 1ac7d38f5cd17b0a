"""English and Chinese."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po
from flask_babel import gettext, ngettext

from gtapp import console
from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.values import CREDENTIAL
from gtapp.console import WEB
from gtapp.console.discover import WELL_KNOWN
from gtapp.console.i18n import translations

KEYWORDS = {"_": None, "gettext": None, "lazy_gettext": None, "ngettext": (1, 2)}
NAMES = {
    "Node-RED",
    "ESPHome",
    "Proxmox VE",
    "Jellyfin",
    "Home Assistant",
    "Syncthing",
    "Netdata",
    "Minecraft",
    "Plex",
}
CATALOGS = sorted((WEB / "translations" / "zh").glob("*.po"))


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "zh-TW", "zh"),
        ("", "de,fr;q=0.5", "en"),
        ("", "de,zh;q=0.5", "zh"),
        ("", "en-US,zh;q=0.5", "en"),
        ("en", "zh-CN", "en"),
        ("zh", "en", "zh"),
        ("de", "zh", "zh"),
        ("../../etc", "", "en"),
        ("", "nonsense;;;q=x", "en"),
    ],
)
def test_the_language_of_a_page(client, cookie, accepted, language):
    """What was chosen, otherwise what the browser asks for."""
    if cookie:
        client.set_cookie("lang", cookie)
    page = client.get("/login", headers={"Accept-Language": accepted}).text
    assert f'<html lang="{language}"' in page
    assert ("密码" in page) is (language == "zh")


def test_it_is_chosen_and_stays(client):
    answer = client.get("/login?lang=zh&next=/x")
    assert (answer.status_code, answer.location) == (303, "/login?next=%2Fx")
    assert "密码" in client.get("/login").text
    client.get("/login?lang=en")
    assert "密码" not in client.get("/login").text


def test_numbers_and_variables(app):
    with app.test_request_context("/", headers={"Accept-Language": "zh"}):
        assert (
            ngettext("Try again in %(num)s second.", "Try again in %(num)s seconds.", 3)
            == "请在 3 秒后重试。"
        )
        assert gettext("%(age)s ago", age="5 s") == "5 s前"
    with app.test_request_context("/"):
        assert (
            ngettext("Try again in %(num)s second.", "Try again in %(num)s seconds.", 1)
            == "Try again in 1 second."
        )


def test_outside_of_a_request_texts_stay_as_they_are(app):
    assert gettext("Log in") == "Log in"
    with app.app_context():
        assert gettext("Log in") == "Log in"


def test_all_catalogs_are_one(tmp_path):
    (tmp_path / "a.po").write_text('msgid "One"\nmsgstr "一"\n\n#, fuzzy\nmsgid "Three"\nmsgstr "三"\n')
    (tmp_path / "b.po").write_text('msgid "Two"\nmsgstr "二"\n\nmsgid "Four"\nmsgstr ""\n')
    found = translations(tmp_path, "zh")
    words = [found.gettext(word) for word in ("One", "Two", "Three", "Four", "Five")]
    assert words == ["一", "二", "Three", "Four", "Five"]
    (tmp_path / "b.po").write_text('msgid "Two"\nmsgstr "两"\n')
    assert translations(tmp_path, "zh").gettext("Two") == "两"
    assert translations(tmp_path / "none", "zh").gettext("One") == "One"


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: path.name)
def test_catalogs_can_be_used(path: Path):
    """Every text has its Chinese, with the same variables."""
    with path.open("rb") as file:
        catalog = read_po(file, locale="zh", abort_invalid=True)
    for message in catalog:
        if not message.id:
            continue
        ids: tuple[str, ...] = message.id if isinstance(message.id, tuple) else (str(message.id),)
        strings = message.string if isinstance(message.string, tuple) else (str(message.string or ""),)
        assert all(strings), f"{path.name}: {ids[0]}"
        assert not message.fuzzy, f"{path.name}: {ids[0]}"
        for text in strings:
            assert variables(text) <= variables(ids[-1]), f"{path.name}: {ids[0]}"
            missing = variables(ids[-1]) - variables(text)
            assert not missing, f"{path.name}: {ids[0]} lacks {missing}"


# every text


def texts_of_kinds() -> Iterator[str]:
    """What values of options have to be, in words."""
    tables = (*OPTIONS.values(), SERVICE, USER)
    kinds = [CREDENTIAL, *(entry.kind for table in tables for entry in table.values())]
    return (kind.allowed for kind in kinds if not (kind.bounds or kind.choices))


def texts_in(directory: Path, suffix: str, how: str) -> Iterator[str]:
    found = extract_from_dir(directory, [(f"**{suffix}", how)], {}, keywords=KEYWORDS)
    for _file, _line, message, _comments, _context in found:
        yield message if isinstance(message, str) else message[0]


@pytest.fixture(scope="module")
def said() -> set[str]:
    """What pages and answers say."""
    in_code = texts_in(Path(console.__file__).parent, ".py", "python")
    in_templates = texts_in(WEB / "templates", ".html", "jinja2")
    usual = (name for name, _ in WELL_KNOWN.values())
    return {*in_code, *in_templates, *texts_of_kinds(), *usual} - NAMES


@pytest.fixture(scope="module")
def known() -> list[str]:
    found = []
    for path in CATALOGS:
        with path.open("rb") as file:
            ids = [message.id for message in read_po(file, locale="zh") if message.id]
        found += [each if isinstance(each, str) else each[0] for each in ids]
    return found


def test_whatever_is_said_is_said_in_chinese(said, known):
    assert len(said) > 500, "that many were found"
    assert sorted(said - set(known)) == []


def test_nothing_is_translated_that_nobody_says(said, known):
    assert sorted(set(known) - said) == []


def test_each_text_is_translated_once(known):
    assert [text for text, times in Counter(known).items() if times > 1] == []


def test_what_comes_from_outside_is_escaped_when_it_is_looked_up() -> None:
    """Jinja takes what `_` gives for HTML: the text of a template is, a name that somebody chose is not."""
    calls = re.compile(r"\b_\((?![\"'])[^)]*\)(?! \| forceescape)")
    found = [
        f"{path.name}: {call}"
        for path in (WEB / "templates").rglob("*.html")
        for call in calls.findall(path.read_text())
    ]
    assert found == []


def variables(text: str) -> set[str]:
    return set(re.findall(r"%\((\w+)\)", text))
