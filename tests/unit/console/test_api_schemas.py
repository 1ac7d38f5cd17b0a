"""Options as the API takes them: JSON of the right type, read by the option's own kind, in the form of the file."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import marshmallow as ma
import pytest

from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.schema import Option
from gtapp.console.api.schemas import MAX_ITEMS, MAX_TEXT, OptionField, json_schema, options_schema

TABLES = {**OPTIONS, "service": SERVICE, "user": USER}
ALL = [
    pytest.param(entry, id=f"{name}.{key}") for name, table in TABLES.items() for key, entry in table.items()
]
WRONG = [True, 1.5, -1, "\x00", "", [], {}, [{}], [None], "x" * (MAX_TEXT + 1), float("nan")]


def read(entry: Option, value: Any) -> Any:
    return OptionField(entry).deserialize(value)


@pytest.mark.parametrize("entry", ALL)
def test_the_default_of_an_option_is_taken_as_it_is_shown(entry: Option) -> None:
    if entry.default in (None, "", ()):
        return
    shown = entry.show(entry.default)
    assert read(entry, shown) == shown
    jsonschema_rs.validate(json_schema(entry), shown)


@pytest.mark.parametrize("entry", ALL)
def test_null_removes_an_option(entry: Option) -> None:
    schema = options_schema("Some", {entry.key: entry}, [entry.key])()
    assert schema.load({entry.key: None}) == {entry.key: None}


@pytest.mark.parametrize("entry", ALL)
def test_what_is_taken_is_what_the_schema_allows_and_reads_the_same_in_the_file(entry: Option) -> None:
    """Nothing is taken that the document forbids; what it allows is taken, or refused in words."""
    validator = jsonschema_rs.validator_for(json_schema(entry))
    refused: list[str] = []
    for value in WRONG:
        if isinstance(value, float) and value != value:
            with pytest.raises(ma.ValidationError):  # no JSON, but Python's reader takes it
                read(entry, value)
            continue
        try:
            taken = read(entry, value)
        except ma.ValidationError as error:
            refused.append(str(error))
            continue
        assert validator.is_valid(value), value
        assert read(entry, taken) == taken


@pytest.mark.parametrize(
    ("table", "key", "given", "taken"),
    [
        ("server", "timeout", "90s", "90s"),
        ("server", "speed", "512KiB", "512KiB"),
        ("server", "speed", 1048576, "1MiB"),
        ("server", "speed", 5.0, 5),  # the same number in JSON
        ("server", "workers", "auto", "auto"),
        ("server", "workers", 4, 4),
        ("server", "logLevel", "debug", "debug"),
        ("server", "protocols", [3], [3]),
        ("server", "addr", "8080", ":8080"),
        ("server", "sentrySampleRate", 1, 1.0),
        ("server", "sentrySampleRate", 0.25, 0.25),
        ("client", "remote", ["example.com"], ["tcp://example.com:80"]),
        ("user", "disabled", True, True),
        ("service", "hostPrefix", "Wiki", "wiki"),
    ],
)
def test_values_in_the_form_of_the_file(table: str, key: str, given: Any, taken: Any) -> None:
    found = read(TABLES[table][key], given)
    assert found == taken
    assert type(found) is type(taken)


def test_an_empty_address_is_none() -> None:
    assert read(OPTIONS["server"]["apiAddr"], "") is None


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("server", "timeout", 90),
        ("server", "workers", "4 or so"),
        ("server", "connections", "3"),
        ("server", "protocols", 3),
        ("server", "protocols", ["3"]),
        ("server", "hostWithID", "true"),
        ("server", "hostWithID", 1),
        ("server", "sentrySampleRate", "0.5"),
        ("server", "trustedProxies", ["10.0.0.0/8"] * (MAX_ITEMS + 1)),
        ("server", "logLevel", ["debug"]),
    ],
)
def test_values_of_another_type(table: str, key: str, value: Any) -> None:
    with pytest.raises(ma.ValidationError):
        read(TABLES[table][key], value)


def test_unknown_options_are_errors() -> None:
    with pytest.raises(ma.ValidationError, match="Unknown field"):
        options_schema("Some", USER)().load({"speeed": 5})


def test_no_secret_has_a_default_in_the_document() -> None:
    for table in TABLES.values():
        for entry in table.values():
            if entry.secret:
                assert "default" not in json_schema(entry)
                assert json_schema(entry)["writeOnly"]
