"""The pages of settings: every option is there, what is typed ends up in the file and means what it should, what is
wrong is refused beside its field, and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from gtapp.config import values
from gtapp.config.load import load_client, load_server
from gtapp.config.options import OPTIONS
from gtapp.config.schema import Option
from gtapp.config.store import Document, Store
from gtapp.console import passwords
from gtapp.console.context import EXTENSION, Console
from gtapp.errors import GTError
from tests.unit.console.conftest import CLIENT, SERVER, Auth, Relay
from tests.unit.console.form_browser import Browser

MakeApp = Callable[..., Flask]

ELSEWHERE = {"server": ("id", "secret"), "client": ()}  # on the page of users
CASES: list[tuple[str, Option]] = [
    (role, entry)
    for role in ("server", "client")
    for key, entry in OPTIONS[role].items()
    if entry.available and key not in ELSEWHERE[role]
]
OPTION_CASES = [pytest.param(role, entry, id=f"{role}-{entry.key}") for role, entry in CASES]
# What a configuration cannot be without, or who is logged in.
NEEDED = ("addr", "id", "remote", "admin", "webKeyFile")
SECTION_CASES = sorted(
    {
        (role, f"/settings/{entry.section.name.lower()}")
        for role, entry in CASES
        if entry.key not in NEEDED and not entry.secret
    }
)
# What is typed for a kind: one value, or those of a list. It is no default.
TYPED: dict[values.Kind[Any], list[str]] = {
    values.ADDRESS: ["127.0.0.1:18099"],
    values.CREDENTIAL: ["someone"],
    values.DOMAIN: ["tunnels.example.com"],
    values.DURATION: ["17s"],
    values.FILE: ["/etc/gt/some.pem"],
    values.FRACTION: ["0.25"],
    values.HEADER_NAME: ["X-Tunnel"],
    values.NETWORK: ["10.1.0.0/16", "192.0.2.7/32"],
    values.PORT_RANGE: ["20000-20100", "30000-30000"],
    values.PROTOCOL: ["3"],
    values.REGEX: ["^[a-z]{2,5}$", "^web, or so$"],
    values.SIZE: ["3MiB"],
    values.SPEED: ["500KiB"],
    values.TEXT: ["ein Text: mit # und 中文"],
    values.WEB_URL: ["https://gateway.example.com/auth"],
    values.WORKERS: ["3"],
}
BY_KEY = {
    "remote": ["tls://gt.example.com:8443", "tcp://gt.example.com:8080"],
    "webHosts": ["console.example.com"],
    "webCertFile": ["auto"],
    "sentryLevel": ["warn", "fatal"],
    "webAddr": ["127.0.0.1:18001"],
    "admin": ["root"],
    "password": ["battery staple"],
}
# Options that make sense together alone.
TOGETHER = {
    "certFile": {"keyFile": "/etc/gt/key.pem"},
    "keyFile": {"certFile": "/etc/gt/cert.pem"},
    "apiCertFile": {"apiKeyFile": "/etc/gt/key.pem"},
    "apiKeyFile": {"apiCertFile": "/etc/gt/cert.pem"},
    "webKeyFile": {"webCertFile": "/etc/gt/cert.pem"},
}


@pytest.fixture
def browse(make_app: MakeApp, relay: Relay) -> Callable[..., Browser]:
    """Somebody at the console of a role: `browse("server", text=…)`. The running GT takes over what it is told to."""
    relay.answers |= {"reload": reloaded}

    def begin(role: str = "server", language: str = "en", **more: Any) -> Browser:
        return Browser(make_app(role=role, **more), language)

    return begin


def reloaded(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    tell(f"{Path(request['config']).name}: taken over")
    return {"text": "reloaded"}


def about(browser: Browser) -> Console:
    found: Console = browser.app.extensions[EXTENSION]
    return found


def file_of(browser: Browser) -> Path:
    store = about(browser).store
    assert store is not None
    return store.path


def section_of(entry: Option) -> str:
    return f"/settings/{entry.section.name.lower()}"


def loaded(role: str, path: Path) -> Any:
    """The configuration that a file amounts to."""
    words = ["-c", str(path)]
    return load_server(words, {}) if role == "server" else load_client(words, {})


def typed_for(entry: Option) -> list[str]:
    """Something valid that is no default."""
    if entry.key in BY_KEY:
        return BY_KEY[entry.key]
    if entry.kind is values.BOOLEAN:
        return ["false" if entry.default else "true"]
    if entry.kind.choices:
        return [next(word for word in reversed(entry.kind.choices) if word != entry.default)]
    if entry.kind.bounds:
        lowest, highest = entry.kind.bounds
        return [str(next(n for n in range(lowest + 1, highest) if n != entry.default))]
    return TYPED[entry.kind]


# what is there


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_option_is_there_once_with_its_help(browse, role, language):
    browser = browse(role, language)
    names: list[str] = []
    pages = dict.fromkeys(section_of(entry) for entry in OPTIONS[role].values() if entry.available)
    for path in pages:
        page = browser.get(path)
        assert f'<html lang="{language}">' in page
        form = browser.form(path)
        names += (name for name in form.all if name in OPTIONS[role])
        for name in form.all:
            if name in OPTIONS[role]:
                entry = OPTIONS[role][name]
                text = entry.zh if language == "zh" else entry.en
                assert text[1:] in form.text
                assert f'name="{name}"' in page
                assert page.count(f' name="{name}"') == 1
                assert f"<code>{name}</code>" in page
    expected = [k for k, entry in OPTIONS[role].items() if entry.available and k not in ELSEWHERE[role]]
    assert sorted(names) == sorted(expected)


def test_a_section_says_default_unit_and_what_a_change_takes(browse):
    page = browse().get("/settings/limits")
    assert "Default: 10" in page  # connections
    assert "bytes/s" in page
    assert "at once" in page
    page = browse().get("/settings/listening")
    assert "opens or closes addresses" in page
    assert "new workers" in page


def test_the_list_has_all_options_and_what_they_are_set_to(browse):
    browser = browse(text=SERVER + "tcp:\n  - range: 20000-20100\n")
    page = browser.get("/settings")
    for key, entry in OPTIONS["server"].items():
        if entry.available and key not in ELSEWHERE["server"]:
            assert page.count(f"<code>{key}</code>") == 1
            assert f"{section_of(entry)}#f-{key}" in page
    assert "127.0.0.1:18080" in page
    assert "20000-20100" in page
    assert "correct horse" not in page


@pytest.mark.parametrize(
    ("query", "found", "not_found"),
    [
        ("tls version", ["tlsVersion", "apiTLSVersion"], ["tlsAddr"]),
        ("18080", ["addr"], ["tlsAddr"]),
        ("日志级别", ["logLevel"], ["logFile"]),
        ("LOGLEVEL", ["logLevel"], ["addr"]),
    ],
)
def test_the_list_is_searched_without_scripts(browse, query, found, not_found):
    browser = browse()
    page = browser.get(f"/settings?q={query}")
    for key in found:
        assert f"<code>{key}</code>" in page
    for key in not_found:
        assert f"<code>{key}</code>" not in page


def test_a_search_that_finds_nothing_says_what_to_do(browse):
    page = browse().get("/settings?q=nosuchthing")
    assert "Nothing found" in page
    assert 'href="/settings"' in page


def test_only_what_is_set(browse):
    page = browse().get("/settings?set=1")
    assert "<code>addr</code>" in page
    assert "<code>tlsAddr</code>" not in page


def test_a_section_that_is_none(browse):
    browse().get("/settings/nonsense", expect=404)
    browse("client").get("/settings/listening", expect=404)


# from the form to the file


@pytest.mark.parametrize(("role", "entry"), OPTION_CASES)
def test_what_is_typed_is_what_the_file_then_means(browse, tmp_path, role, entry):
    browser = browse(role)
    path = file_of(browser)
    before = loaded(role, path)
    wanted = typed_for(entry)
    if entry.key == "users":
        others = tmp_path / "others.yaml"
        others.write_text("bob: {secret: bobs}\n")
        wanted = [str(others)]
    if entry.kind is values.BOOLEAN:
        typed: dict[str, Any] = {entry.key: "true" if wanted == ["true"] else None}
    else:
        typed = {entry.key: "\n".join(wanted)}
    browser.get(section_of(entry))
    browser.send(section_of(entry), typed | TOGETHER.get(entry.key, {}))
    assert "Review changes" in browser.text
    assert path.read_text() == (SERVER if role == "server" else CLIENT)  # nothing is saved yet
    browser.send("/apply")
    assert "Saved and in force" in browser.text
    after = loaded(role, path)
    value = getattr(after.options, entry.name)
    if entry.key == "password":
        assert passwords.is_hash(value)
        assert passwords.matches(value, wanted[0])
        return
    parsed = [entry.kind.parse(text) for text in wanted]
    assert value == (tuple(parsed) if entry.many else parsed[0])
    assert value != getattr(before.options, entry.name)
    changed = {entry.name, *(OPTIONS[role][key].name for key in TOGETHER.get(entry.key, {}))}
    if not changed & {"speed", "connections"}:  # what users inherit
        assert {
            name: each for name, each in vars(after.options).items() if each != getattr(before.options, name)
        }.keys() == changed


@pytest.mark.parametrize(("role", "section"), SECTION_CASES)
def test_empty_fields_take_options_out_of_the_file(browse, tmp_path, role, section):
    entries = [entry for of, entry in CASES if of == role and section_of(entry) == section]
    entries = [entry for entry in entries if entry.key not in NEEDED]
    entries = [entry for entry in entries if entry.kind is not values.BOOLEAN and not entry.secret]
    (tmp_path / "others.yaml").write_text("bob: {secret: bobs}\n")
    document = Document(SERVER if role == "server" else CLIENT, role)
    for entry in entries:
        words = [str(tmp_path / "others.yaml")] if entry.key == "users" else typed_for(entry)
        document.set_option(entry.key, words if entry.many else words[0])
    browser = browse(role, text=document.text)
    path = file_of(browser)
    options = loaded(role, path).options
    assert all(getattr(options, entry.name) != entry.default for entry in entries)
    browser.get(section)
    browser.send(section, {entry.key: "" for entry in entries})
    browser.send("/apply")
    options = loaded(role, path).options
    assert all(getattr(options, entry.name) == entry.default for entry in entries)


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_form_that_is_sent_as_it_is_changes_nothing(browse, role):
    text = {
        "server": SERVER.replace(
            "options:", "options:\n  routePerRequest: yes\n  sentryLevel: []\n  timeout: 1m30s"
        )
        + "  bob: {secret: b}\nhost: {number: 2}\n",
        "client": CLIENT.replace("options:", "options:\n  reconnectDelay: 5000ms\n  remoteCertInsecure: on"),
    }[role]
    browser = browse(role, text=text)
    for path in dict.fromkeys(section_of(entry) for entry in OPTIONS[role].values() if entry.available):
        browser.get(path)
        browser.send(path)
        assert "Nothing has been changed." in browser.text
    assert file_of(browser).read_text() == text


def test_comments_order_and_what_is_about_something_else_stay(browse):
    text = SERVER.replace(
        "  addr: 127.0.0.1:18080", "  # for visitors\n  addr: '127.0.0.1:18080'   # of the house"
    )
    text += "# the end\n"
    browser = browse(text=text)
    browser.get("/settings/listening")
    browser.send("/settings/listening", {"addr": "127.0.0.1:18081"})
    browser.send("/apply")
    assert file_of(browser).read_text() == text.replace("18080", "18081")


def test_a_box_that_is_no_longer_ticked_says_so_in_the_file(browse):
    browser = browse(text=SERVER.replace("options:", "options:\n  routePerRequest: true   # slow"))
    browser.get("/settings/relaying")
    browser.send("/settings/relaying", {"routePerRequest": None})
    browser.send("/apply")
    assert "  routePerRequest: false   # slow\n" in file_of(browser).read_text()


# what is wrong


@pytest.mark.parametrize(
    ("role", "key", "typed"),
    [
        ("server", "addr", "somewhere"),
        ("server", "timeout", "soon"),
        ("server", "connections", "-1"),
        ("server", "tcpRange", "1-2\n9-3"),
        ("server", "hostRegex", "("),
        ("server", "trustedProxies", "10.0.0.0/99"),
        ("server", "speed", "fast"),
        ("server", "tlsVersion", "ssl3"),
        ("server", "domain", "not a domain"),
        ("server", "logFileMaxSize", "1TB"),
        ("server", "sentrySampleRate", "2"),
        ("client", "remote", "ftp://example.com"),
        ("client", "remoteConnections", "11"),
        ("client", "remoteAPI", "nowhere"),
    ],
)
def test_a_bad_value_is_refused_beside_its_field(browse, role, key, typed):
    browser = browse(role)
    path = section_of(OPTIONS[role][key])
    before = file_of(browser).read_text()
    browser.get(path)
    page = browser.send(path, {key: typed}, expect=422)
    field = re.search(rf'<(input|select|textarea)[^>]* name="{key}"[^>]*>', page)
    assert field
    assert f"f-{key}-error" in field[0]
    assert 'aria-invalid="true"' in field[0]
    error = re.search(rf'id="f-{key}-error">([^<]+)<', page)
    assert error
    assert len(error[1]) > 10
    if not OPTIONS[role][key].kind.choices:
        assert (
            browser.form(path).fields[key].splitlines() == typed.splitlines()
        )  # what was typed is still there
    assert file_of(browser).read_text() == before


def test_what_does_not_fit_together_is_refused_beside_the_field_or_above(browse):
    browser = browse()
    browser.get("/settings/listening")
    page = browser.send(
        "/settings/listening", {"certFile": "/etc/cert.pem", "domain": "example.com"}, expect=422
    )
    assert re.search(r'id="f-certFile-error">[^<]*needs keyFile as well', page)
    assert browser.form("/settings/listening").fields["domain"] == "example.com"
    browser.send("/settings/listening", {"certFile": "", "addr": ""}, expect=422)
    assert "there is nowhere for tunnels to come in" in browser.text
    assert file_of(browser).read_text() == SERVER


def test_fields_are_checked_while_they_are_typed_into(browse):
    browser = browse()
    browser.get("/settings/listening")
    token = {"X-CSRFToken": browser.form("/settings/listening").fields["csrf_token"]}

    def check(section: str, **typed: str) -> dict[str, str]:
        answer = browser.client.post(f"/settings/{section}/check", data=typed, headers=token)
        assert answer.status_code == 200
        found: dict[str, str] = json.loads(answer.text)
        return found

    assert check("listening", addr="8080") == {"addr": ""}
    assert check("listening", addr="") == {"addr": ""}
    assert check("listening", addr="80800")["addr"].startswith('Found "80800"; has to be an address')
    assert check("relaying", addr="80800") == {}  # on another page
    assert check("console", password="short")["password"].startswith("Use at least 10 characters.")
    assert "secret" not in check("users", secret="x")
    assert browser.client.post("/settings/listening/check", data={"addr": "1"}).status_code == 400


def test_the_check_of_fields_speaks_chinese(browse):
    browser = browse(language="zh")
    browser.get("/settings/relaying")
    page = browser.send("/settings/relaying", {"timeout": "soon"}, expect=422)
    assert re.search(r'id="f-timeout-error">[^<]*必须是时长', page)


# the review


def test_the_review_shows_lines_and_what_they_take(browse):
    browser = browse()
    browser.get("/settings/listening")
    page = browser.send(
        "/settings/listening", {"addr": "127.0.0.1:18081", "tlsVersion": "tls1.3", "domain": "example.com"}
    )
    assert "<del>-   addr: 127.0.0.1:18080\n</del>" in page
    assert "<ins>+   addr: 127.0.0.1:18081\n</ins>" in page
    at_once, listeners, workers = (
        page.index(">at once<"),
        page.index(">opens or closes addresses<"),
        page.index(">new workers<"),
    )
    assert at_once < page.index("<dt>domain</dt>") < listeners
    assert listeners < page.index("<dt>addr</dt>") < workers < page.index("<dt>tlsVersion</dt>")
    assert "<del>127.0.0.1:18080</del> → 127.0.0.1:18081" in page


def test_from_the_review_back_to_the_form_nothing_is_lost(browse):
    browser = browse()
    browser.get("/settings/console")
    typed = {
        "webAddr": "127.0.0.1:18001",
        "webHosts": "a.example.com\nb.example.com",
        "signingKey": "my-own-key",
    }
    browser.send("/settings/console", typed)
    browser.send("/edit")
    form = browser.form("/settings/console")
    assert form.fields["webAddr"] == "127.0.0.1:18001"
    assert form.fields["webHosts"] == "a.example.com\nb.example.com"
    assert form.fields["signingKey"] == ""
    assert "my-own-key" not in browser.text
    assert "typed, not shown, not saved yet" in browser.text
    browser.send("/settings/console", {"webAddr": "127.0.0.1:18002"})
    browser.send("/apply")
    options = loaded("server", file_of(browser)).options
    assert options.signing_key == "my-own-key"
    assert str(options.web_addr) == "127.0.0.1:18002"
    assert options.web_hosts == ("a.example.com", "b.example.com")


def test_a_secret_typed_beside_a_mistake_is_kept_and_not_shown(browse):
    browser = browse()
    browser.get("/settings/sentry")
    page = browser.send(
        "/settings/sentry", {"sentryDSN": "https://k@x.example/1", "sentrySampleRate": "7"}, 422
    )
    assert "https://k@x.example/1" not in page
    browser.send("/settings/sentry", {"sentrySampleRate": "0.5"})
    browser.send("/apply")
    assert loaded("server", file_of(browser)).options.sentry_dsn == "https://k@x.example/1"


@pytest.mark.parametrize(
    ("typed", "warning"),
    [
        ({"webAddr": ""}, "This console ends"),
        ({"webAddr": "127.0.0.1:18001"}, "This console moves to 127.0.0.1:18001"),
        ({"webCertFile": "auto"}, "This console changes to https://"),
        ({"admin": "root"}, "logged out"),
        ({"password": "battery staple"}, "logged out"),
    ],
)
def test_the_review_warns_who_would_lock_themselves_out(browse, typed, warning):
    browser = browse()
    browser.get("/settings/console")
    assert warning in browser.send("/settings/console", typed)


def test_the_review_warns_of_an_entrance_that_closes(browse):
    browser = browse(text=SERVER.replace("options:", "options:\n  tlsAddr: 127.0.0.1:18443"))
    browser.get("/settings/listening")
    page = browser.send("/settings/listening", {"tlsAddr": ""})
    assert "Nothing listens on 127.0.0.1:18443 any more (tlsAddr)" in page


# secrets


def test_no_page_shows_a_secret(browse):
    key, dsn = "kept-signing-key", "https://secret@sentry.example/1"
    text = SERVER.replace("options:", f"options:\n  signingKey: {key}\n  sentryDSN: {dsn}")
    browser = browse(text=text)
    pages = [browser.get("/settings")]
    pages += [
        browser.get(path) for path in {section_of(e) for e in OPTIONS["server"].values() if e.available}
    ]
    browser.get("/settings/console")
    pages.append(
        browser.send("/settings/console", {"webAddr": "127.0.0.1:18001", "signingKey": "another-key"})
    )
    pages.append(browser.send("/apply"))
    for page in pages:
        for secret in (key, dsn, "alices-secret", "correct horse", "another-key"):
            assert secret not in page


def test_an_empty_secret_stays_and_can_be_removed(browse):
    text = SERVER.replace("options:", "options:\n  sentryDSN: https://secret@sentry.example/1   # ours")
    browser = browse(text=text)
    browser.get("/settings/sentry")
    browser.send("/settings/sentry", {"sentryRelease": "7"})
    browser.send("/apply")
    assert loaded("server", file_of(browser)).options.sentry_dsn
    browser.get("/settings/sentry")
    page = browser.send("/settings/sentry", {"clear-sentryDSN": "true"})
    assert "<del>-   sentryDSN: ***" in page
    browser.send("/apply")
    assert not loaded("server", file_of(browser)).options.sentry_dsn


def test_a_password_is_kept_as_a_hash_and_has_a_length(browse):
    browser = browse()
    browser.get("/settings/console")
    page = browser.send("/settings/console", {"password": "short"}, expect=422)
    assert re.search(r'id="f-password-error">Use at least 10 characters', page)
    browser.send("/settings/console", {"password": "battery staple"})
    browser.send("/apply")
    text = file_of(browser).read_text()
    assert "battery staple" not in text
    assert (
        "password: $argon2id$" in text or 'password: "$argon2id$' in text or "password: '$argon2id$" in text
    )


# afterwards


def test_what_the_running_gt_tells_is_shown(browse, relay):
    browser = browse()
    browser.get("/settings/limits")
    browser.send("/settings/limits", {"speed": "1MiB"})
    page = browser.send("/apply")
    assert "server.yml: taken over" in page
    assert [each["command"] for each in relay.asked if each["command"] == "reload"] == ["reload"]
    versions = Store(file_of(browser), "server", about(browser).state).versions()
    assert (versions[0].who, versions[0].what) == ("admin", "options: speed")


def test_what_the_running_gt_refuses_is_taken_back(browse, relay):
    browser = browse()
    relay.answers["reload"] = GTError("not reloaded, everything stays as it was: 127.0.0.1:1: is in use")
    browser.get("/settings/listening")
    browser.send("/settings/listening", {"addr": "127.0.0.1:1"})
    page = browser.send("/apply")
    assert "Not saved" in page
    assert "127.0.0.1:1: is in use" in page
    assert file_of(browser).read_text() == SERVER
    relay.answers["reload"] = reloaded
    browser.send("/edit")  # and on with what was typed
    browser.send("/settings/listening", {"addr": "127.0.0.1:18082"})
    browser.send("/apply")
    assert "18082" in file_of(browser).read_text()


def test_when_gt_cannot_be_asked_the_file_is_left(browse, relay):
    browser = browse()
    browser.get("/settings/limits")
    browser.send("/settings/limits", {"speed": "1MiB"})
    relay.close()
    page = browser.send("/apply")
    assert "Saved, not in force" in page
    assert loaded("server", file_of(browser)).options.speed == values.MIB


def test_what_is_refused_is_not_taken_back_over_what_another_has_saved(browse, relay):
    browser = browse()
    path = file_of(browser)

    def reload(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        path.write_text(path.read_text() + "# by somebody else\n")
        raise GTError("not reloaded")

    relay.answers["reload"] = reload
    browser.get("/settings/limits")
    browser.send("/settings/limits", {"speed": "1MiB"})
    assert "Saved, not in force" in browser.send("/apply")
    assert path.read_text().endswith("# by somebody else\n")


# the file has changed meanwhile


def test_who_saves_over_a_changed_file_chooses(browse):
    browser = browse(text=SERVER.replace("options:", "options:\n  speed: 1MiB\n  connections: 5"))
    path = file_of(browser)
    browser.get("/settings/limits")
    path.write_text(path.read_text().replace("1MiB", "2MiB").replace("connections: 5", "connections: 6"))
    page = browser.send("/settings/limits", {"speed": "3MiB", "hostNumber": "4"}, expect=409)
    for text in ("1MiB", "2MiB", "3MiB", "changed by both", "changed by you", "changed in the file"):
        assert text in page
    assert "2MiB" in path.read_text()
    browser.send("/review")  # make my changes in the new file
    assert "<del>-   speed: 2MiB" in browser.text
    browser.send("/apply")
    options = loaded("server", path).options
    assert (options.speed, options.connections, options.host_number) == (3 * values.MIB, 6, 4)


def test_who_saves_after_the_review_over_a_changed_file_chooses_as_well(browse):
    browser = browse()
    path = file_of(browser)
    browser.get("/settings/limits")
    browser.send("/settings/limits", {"speed": "3MiB"})
    path.write_text(path.read_text() + "# another\n")
    browser.send("/apply", expect=409)
    browser.send("/edit")  # look at mine once more
    assert browser.form("/settings/limits").fields["speed"] == "3MiB"
    browser.send("/settings/limits")
    browser.send("/apply")
    assert path.read_text().endswith("# another\n")
    assert loaded("server", path).options.speed == 3 * values.MIB


def test_a_file_edited_by_hand_is_noticed_and_put_in_force(browse, relay):
    browser = browse()
    path = file_of(browser)

    digest = hashlib.sha256(SERVER.encode()).hexdigest()
    relay.answers["status"] = {"units": [{"role": "server", "config": str(path), "digest": digest}]}
    assert "edited by hand" not in browser.get("/settings")
    path.write_text(SERVER + "# more\n")
    assert "edited by hand" in browser.get("/settings/limits")
    browser.send("/settings/reload")
    assert "Saved and in force" in browser.text


def test_a_file_that_cannot_be_read_is_to_be_mended(browse):
    browser = browse()
    browser.get("/settings")
    file_of(browser).write_text("options: [\n")
    page = browser.get("/settings/limits")
    assert "The file cannot be read" in page
    assert 'href="/yaml"' in page
    assert 'href="/history"' in page


# who may, and what cannot be changed


def test_flags_and_variables_win_and_are_not_to_be_changed(browse, tmp_path):
    path = tmp_path / "server.yml"
    words, environ = ("-c", str(path), "--speed", "7MiB"), {"GT_TIMEOUT": "33s"}
    store = Store(path, "server", tmp_path / "server.state", words, environ)
    browser = browse(words=words, environ=environ, store=store)
    page = browser.get("/settings/limits")
    assert "Set by --speed" in page
    assert browser.form("/settings/limits").all["speed"]["value"] == "7MiB"
    assert "speed" not in browser.form("/settings/limits").fields
    browser.send("/settings/limits", {"speed": "1MiB"})  # typed by no browser
    assert "Nothing has been changed." in browser.text
    assert "Set by GT_TIMEOUT" in browser.get("/settings/relaying")
    assert "GT_TIMEOUT" in browser.get("/settings")


def test_without_a_file_everything_is_shown_and_nothing_can_be_saved(browse):
    words = (
        "--addr",
        "127.0.0.1:18080",
        "--id",
        "a",
        "--secret",
        "flag-secret",
        "--password",
        "correct horse",
    )
    browser = browse(store=None, words=words)
    page = browser.get("/settings/listening")
    assert "started by flags or variables alone" in page
    assert "Review changes" not in page
    form = browser.form("/settings/listening")
    assert form.fields.keys() <= {"draft", "csrf_token"}
    assert form.all["addr"]["value"] == "127.0.0.1:18080"
    browser.send("/settings/listening", {"addr": "127.0.0.1:1"})
    assert "Nothing has been changed" in browser.text
    page = browser.get("/settings")
    assert "127.0.0.1:18080" in page
    assert "flag-secret" not in page


def test_programs_need_the_scope(browse):
    browser = browse()
    auth = Auth(browser.app, browser.app.test_client())
    client = browser.app.test_client()
    assert client.get("/settings", headers=auth.token("read")).status_code == 200
    for path in ("/settings/limits", "/settings/limits/check", "/settings/limits/apply", "/settings/reload"):
        assert client.post(path, headers=auth.token("read", "users")).status_code == 403
        assert client.post(path).status_code in (400, 401)


def test_a_draft_of_somebody_else_is_refused(browse):
    browser = browse()
    browser.get("/settings/limits")
    browser.send("/settings/limits", {"draft": "made up"}, expect=400)
    assert "too old" in browser.text
