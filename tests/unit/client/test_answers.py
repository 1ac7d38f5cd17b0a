"""What a server answers about services, in words for people."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gtapp.client.answers import address, advised, compat_granted, compat_refusal, published, refusal
from gtapp.config.load import Service
from gtapp.config.values import URL
from gtapp.errors import RemoteRefused
from gtapp.wire import compat

SERVICES = (
    Service(local=URL("http", "127.0.0.1", 80), host_prefix="id1"),
    Service(local=URL("https", "127.0.0.1", 443), host_prefix="id1"),
    Service(local=URL("tcp", "::1", 22), remote_tcp_random=True),
)
REMOTE = URL("tls", "server.example.com", 443)


def test_where_visitors_find_the_services() -> None:
    granted: list[dict[str, Any]] = [{"hostPrefix": "id1-a"}, {"error": "host_not_allowed"}, {"port": 2222}]
    assert published(SERVICES, granted, REMOTE) == [
        (logging.INFO, "http://127.0.0.1:80 is published as host prefix id1-a"),
        (
            logging.WARNING,
            "https://127.0.0.1:443 is not published, the server says host_not_allowed: "
            "set a hostPrefix that the server's hostRegex allows",
        ),
        (logging.INFO, "tcp://[::1]:22 is reached at tcp://server.example.com:2222"),
    ]


@pytest.mark.parametrize(
    ("service", "granted", "expected"),
    [
        (0, {"hostPrefix": "id1-a"}, "id1-a"),
        (0, {"hostPrefix": "id1-a", "error": "host_not_allowed"}, ""),
        (2, {"port": 2222}, "tcp://server.example.com:2222"),
        (2, {"port": 2222, "error": "port_unavailable"}, ""),
        (2, {"port": "2222"}, ""),
        (0, {}, ""),
    ],
)
def test_address(service: int, granted: dict[str, Any], expected: str) -> None:
    assert address(SERVICES[service], granted, REMOTE) == expected


@pytest.mark.parametrize(
    "granted",
    [
        [],
        [{}, {}, {}],
        [{"hostPrefix": 1}, {"port": 1}, {"port": "22"}],
        [{"port": None}, {"hostPrefix": None}, {"hostPrefix": None}],
    ],
)
def test_what_cannot_be_understood_is_not_told(granted: list[dict[str, Any]]) -> None:
    assert published(SERVICES, granted, REMOTE) == []


def test_more_answers_than_services() -> None:
    assert len(published(SERVICES[:1], [{"hostPrefix": "a"}] * 3, REMOTE)) == 1


def test_what_protocol_1_grants() -> None:
    assert compat_granted(SERVICES, {2: 2222, 7: 1}) == [
        {"hostPrefix": "id1"},
        {"hostPrefix": "id1"},
        {"port": 2222},
    ]
    assert compat_granted(SERVICES, {})[2] == {"port": None}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            {"code": "port_unavailable", "message": "taken", "service": 2},
            "tcp://[::1]:22: taken: set another remoteTCPPort, or remoteTCPRandom, within the server's tcpRange",
        ),
        ({"code": "host_conflict", "message": "taken", "service": 3}, "taken: set another hostPrefix"),
        ({"code": "host_conflict", "message": "taken", "service": "x"}, "taken: set another hostPrefix"),
        ({"code": "news", "message": "of later versions"}, "of later versions"),
        ({"code": ["x"], "message": None}, "None"),
    ],
)
def test_a_refusal_says_what_to_do(message: dict[str, Any], text: str) -> None:
    assert str(advised(refusal(message), SERVICES)) == text


@pytest.mark.parametrize("code", [*range(1, 10), 99])
def test_refusals_of_protocol_1(code: int) -> None:
    refused = compat_refusal(compat.Error(code, 2 if code == compat.TCP_PORT_FAILED else None))
    error = advised(refused, SERVICES)
    assert (": " in str(error)) == (code != 99), "advice"
    assert str(error).startswith("tcp://[::1]:22: ") == (code == compat.TCP_PORT_FAILED)


def test_advice_keeps_the_code() -> None:
    error = advised(RemoteRefused("locked_out", "too many failed logins"), [])
    assert error.code == "locked_out"
    assert "reconnectDuration" in str(error)
