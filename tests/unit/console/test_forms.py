"""Options as form fields, and posted forms as values: every option of the table goes both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask import Flask
from flask_babel import force_locale
from werkzeug.datastructures import MultiDict

from gtapp.config.options import OPTIONS, SERVICE, USER, ServerOptions
from gtapp.config.schema import Option
from gtapp.config.values import BOOLEAN, PortRange
from gtapp.console import WEB, forms, i18n
from gtapp.console.forms import Posted

TABLES = {**OPTIONS, "service": SERVICE, "user": USER}
ENTRIES = [
    pytest.param(name, entry, id=f"{name}-{entry.key}")
    for name, table in TABLES.items()
    for entry in table.values()
]
SERVER = OPTIONS["server"]
SAMPLES = [
    "true", "7", "0.5", "v1", "info", "tls1.2", "error", "30s", "10MiB", ":8080", "10.0.0.0/8", "2000-2010", "blog",
    "example.com", "a", "^a$", "X-Host", "1", "tcp://a:1", "http://a:1", "https://example.com/x", "verbose", "auto",
    f"me:$argon2id$v=19$m=65536,t=3,p=4${'a' * 22}${'b' * 43}",
    f"SCRAM-SHA-256$65536:MDEyMzQ1Njc4OWFiY2RlZg==${'A' * 43}=:{'b' * 43}=",
]  # fmt: skip


@pytest.fixture(scope="module")
def speaking() -> Flask:
    """An application that knows the languages and nothing else."""
    app = Flask("speaking")
    i18n.init_app(app, WEB / "translations")
    return app


@pytest.fixture(autouse=True)
def in_english(speaking: Flask) -> Iterator[None]:
    with speaking.test_request_context("/"):
        yield


def sample_of(entry: Option) -> str:
    """A text that the option takes, and that is not its default."""
    for text in (*SAMPLES, *entry.kind.choices):
        try:
            value = entry.kind.parse(text)
        except ValueError:
            continue
        if ((value,) if entry.many else value) != entry.default:
            return text
    raise AssertionError(f"no sample for {entry.key}")


def posted(
    table: Mapping[str, Option], form: dict[str, str], own: dict[str, Any], *keys: str, **more: Any
) -> Posted:
    return forms.read(table, MultiDict(form), own, keys=keys or tuple(form), **more)


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_every_option_goes_from_form_to_file_and_back(name, entry):
    text = sample_of(entry)
    read = forms.read(TABLES[name], MultiDict({entry.key: text}), {}, keys=[entry.key])
    assert read.errors == {}
    value = read.changes[entry.key]
    parsed = [entry.kind.parse(forms.text_of(entry, each)) for each in (value if entry.many else [value])]
    assert parsed == [entry.kind.parse(text)]
    again = forms.read(TABLES[name], MultiDict({entry.key: text}), {entry.key: value}, keys=[entry.key])
    assert again.changes == {}
    field = forms.fields(TABLES[name], {entry.key: value}, keys=[entry.key])[entry.key]
    assert field.is_set
    if entry.secret:
        assert field.value == ""
        assert text not in str(field.macro)
    elif field.type == "checkbox":
        assert field.checked is value
    else:
        assert field.value == forms.text_of(entry, value)


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_every_option_has_words_in_both_languages(name, entry):
    help_in_english, allowed_in_english = forms.help_of(entry), forms.allowed(entry.kind)
    with force_locale("zh"):
        for english, chinese in (
            (help_in_english, forms.help_of(entry)),
            (allowed_in_english, forms.allowed(entry.kind)),
        ):
            assert english
            assert any("\u4e00" <= letter <= "\u9fff" for letter in chinese), chinese


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_garbage_is_refused_with_words(name, entry):
    garbage = "\x00 no ( such 🐈 value"
    read = forms.read(TABLES[name], MultiDict({entry.key: garbage}), {}, keys=[entry.key])
    if entry.kind is BOOLEAN and entry.default is not None:
        assert read.changes == {} or read.changes == {
            entry.key: True
        }  # a box that is checked, whatever its value
    else:
        assert entry.key in read.errors
        assert ("such" in read.errors[entry.key]) is not entry.secret


def test_what_means_the_same_is_no_change():
    own = {"speed": 1024 * 1024, "timeout": "1m30s", "allowIPs": "10.0.0.0/8", "addr": 8080}
    assert posted(USER, {"speed": "1MiB", "allowIPs": "10.0.0.0/8"}, own).changes == {}
    assert posted(SERVER, {"timeout": "90s", "addr": ":8080"}, own).changes == {}


def test_units_stay_as_they_were_typed():
    read = posted(SERVER, {"speed": "500KiB", "timeout": "90s", "logFileMaxSize": "0001000"}, {})
    assert read.changes == {"speed": "500KiB", "timeout": "90s", "logFileMaxSize": 1000}


def test_an_empty_field_removes_its_key_and_only_that():
    own = {"speed": "1MiB"}
    assert posted(USER, {"speed": " ", "tcpNumber": ""}, own).changes == {"speed": None}
    assert posted(USER, {}, own, "tcpNumber").changes == {}


def test_an_empty_secret_stays_unless_it_is_to_go():
    own = {"sentryDSN": "https://key@sentry.example.com/1"}
    assert posted(SERVER, {"sentryDSN": ""}, own).changes == {}
    assert posted(SERVER, {"sentryDSN": "", "clear-sentryDSN": "true"}, own, "sentryDSN").changes == {
        "sentryDSN": None
    }
    assert posted(SERVER, {"sentryDSN": "https://new@x/2"}, own).changes == {"sentryDSN": "https://new@x/2"}


def test_a_secret_that_is_refused_is_not_in_the_words():
    read = posted(USER, {"secret": "hush\x07"}, {})
    assert read.errors == {"secret": "Has to be text of 1 to 200 bytes, no control characters."}


def test_boxes():
    assert posted(SERVER, {"allowAnyClient": "true"}, {}).changes == {"allowAnyClient": True}
    assert posted(SERVER, {}, {}, "allowAnyClient").changes == {}
    assert posted(SERVER, {}, {"allowAnyClient": True}, "allowAnyClient").changes == {"allowAnyClient": False}
    assert posted(SERVER, {}, {"allowAnyClient": "yes"}, "allowAnyClient").changes == {
        "allowAnyClient": False
    }
    assert posted(SERVER, {"allowAnyClient": "on"}, {"allowAnyClient": "yes"}).changes == {}


def test_what_is_inherited_can_be_left_open():
    server = ServerOptions(
        host_with_id=True, speed=1024 * 1024, tcp_range=(PortRange(1, 9), PortRange(20, 30))
    )
    made = forms.fields(USER, {}, keys=("hostWithID", "speed", "tcpRange", "denyIPs"), inherited=server)
    assert made["hostWithID"].options == [("", "Default: yes"), ("true", "yes"), ("false", "no")]
    assert (made["hostWithID"].value, made["speed"].value) == ("", "")
    assert made["speed"].placeholder == "1MiB"
    assert made["tcpRange"].placeholder == "1-9, 20-30"
    assert made["denyIPs"].placeholder == ""
    read = posted(USER, {"hostWithID": "false"}, {}, inherits=True)
    assert read.changes == {"hostWithID": False}
    assert posted(USER, {"hostWithID": ""}, {"hostWithID": False}, inherits=True).changes == {
        "hostWithID": None
    }
    assert (
        forms.fields(USER, {"hostWithID": "No"}, keys=["hostWithID"], inherited=server)["hostWithID"].value
        == "false"
    )


def test_lists_are_typed_on_lines_or_with_commas_where_these_mean_nothing():
    read = posted(USER, {"denyIPs": "10.0.0.1, 10.0.0.2\r\n\r\n 10.0.0.3，10.0.0.4 "}, {})
    assert read.changes == {"denyIPs": [f"10.0.0.{n}/32" for n in (1, 2, 3, 4)]}
    assert posted(USER, {"hostRegex": "^a{1,2}$\r\nb"}, {}).changes == {"hostRegex": ["^a{1,2}$", "b"]}
    field = forms.fields(USER, {"hostRegex": ["^a{1,2}$", "b"]}, keys=["hostRegex"])["hostRegex"]
    assert (field.type, field.value) == ("textarea", "^a{1,2}$\nb")


def test_endless_lists_are_refused():
    read = posted(USER, {"denyIPs": "\n".join(["10.0.0.1"] * (forms.MAX_ITEMS + 1))}, {})
    assert read.errors == {"denyIPs": "At most 1000 entries fit here."}


def test_what_was_typed_is_shown_again_with_what_is_wrong():
    read = posted(USER, {"speed": "fast", "tcpNumber": "5"}, {"speed": "1MiB"})
    made = forms.fields(USER, {"speed": "1MiB"}, keys=("speed", "tcpNumber"), posted=read)
    assert made["speed"].value == "fast"
    assert made["speed"].error.startswith('Found "fast"; has to be bytes per second')
    assert (made["tcpNumber"].value, made["tcpNumber"].error) == ("5", "")


def test_fields_have_the_input_that_fits():
    made = forms.fields(SERVER, {"logLevel": "WARN"})
    assert made["logLevel"].type == "select"
    assert made["logLevel"].value == "warn"
    assert made["workers"].type == "text"
    assert made["connections"].type == "number"
    assert made["logFileMaxSize"].unit == "bytes"
    assert made["allowAnyClient"].type == "checkbox"
    assert "stunAddr" not in made  # not available yet
    assert made["secret"].type == "password"


def test_changes_of_a_form_can_be_posted_again():
    read = forms.again(
        USER, {"speed": "2MiB", "denyIPs": ["10.0.0.0/8"], "hostWithID": True, "tcpNumber": None}
    )
    assert read.changes == {"speed": "2MiB", "denyIPs": ["10.0.0.0/8"], "hostWithID": True, "tcpNumber": None}
    assert read.texts == {"speed": "2MiB", "denyIPs": "10.0.0.0/8", "hostWithID": "true", "tcpNumber": ""}
