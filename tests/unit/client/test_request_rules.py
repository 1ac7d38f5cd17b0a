"""What the service is told, and what it is not."""

from __future__ import annotations

import pytest

from gtapp.client.request_rules import Rules, answer
from gtapp.config.load import Service
from gtapp.config.values import URL
from gtapp.wire import frames
from gtapp.wire.http_requests import RequestReader
from tests.unit.client.test_request_socket import GUARDED

LOCAL = URL("http", "127.0.0.1", 8080)
FORWARDED = Service(local=LOCAL, forwarded_for=True)


def changed(service: Service, fields: str, visitor: str = "203.0.113.9:51234", flags: int = 0) -> list[str]:
    """The header lines of a request with `fields` as the service gets them."""
    found = RequestReader().head(f"GET / HTTP/1.1\r\n{fields}\r\n".encode())
    assert found is not None
    rules = Rules(service)
    head = rules.head(found[0], rules.forwarded(visitor, flags)).decode()
    return head.split("\r\n")[1:-2]


@pytest.mark.parametrize(
    ("local", "host"),
    [
        (URL("http", "127.0.0.1", 8080), "127.0.0.1:8080"),
        (URL("http", "intern.example", 80), "intern.example"),
        (URL("http", "::1", 81), "[::1]:81"),
        (URL("http", "::1", 80), "[::1]"),
    ],
)
def test_the_local_host(local: URL, host: str) -> None:
    service = Service(local=local, use_local_as_http_host=True)
    assert changed(service, "X: y\r\nhost: a.example.com\r\n") == [f"Host: {host}", "X: y"]


def test_the_visitor_s_address() -> None:
    assert changed(FORWARDED, "Host: a.example.com\r\n") == [
        "Host: a.example.com",
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: a.example.com",
        "Forwarded: for=203.0.113.9;proto=http;host=a.example.com",
    ]


def test_over_ipv6_and_tls() -> None:
    assert changed(FORWARDED, "Host: a.example.com:8443\r\n", "[2001:db8::1]:5", frames.OVER_TLS) == [
        "Host: a.example.com:8443",
        "X-Forwarded-For: 2001:db8::1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: a.example.com:8443",
        'Forwarded: for="[2001:db8::1]";proto=https;host="a.example.com:8443"',
    ]


def test_where_the_address_is_not_known() -> None:
    assert changed(FORWARDED, "Host: a\r\n", "") == [
        "Host: a",
        "X-Forwarded-Host: a",
        "Forwarded: for=unknown;host=a",
    ]


def test_what_the_visitor_says_of_itself_is_dropped() -> None:
    fields = (
        "Host: a\r\nX-Forwarded-For: 127.0.0.1\r\nx-forwarded-proto: https\r\nX_Forwarded_For: 127.0.0.1\r\n"
        "X-Forwarded-Port: 1\r\nFORWARDED: for=127.0.0.1\r\nX-Forward: y\r\n"
    )
    seen = changed(FORWARDED, fields)
    assert seen[:2] == ["Host: a", "X-Forward: y"]
    assert "127.0.0.1" not in "".join(seen)
    assert len(seen) == 6


def test_it_may_not_have_what_we_say_dropped() -> None:
    seen = changed(FORWARDED, "Host: a\r\nConnection: X-Forwarded-For\r\n")
    assert "X-Forwarded-For: 203.0.113.9" in seen


def test_unasked_nothing_is_said_or_dropped() -> None:
    fields = "Host: a\r\nX-Forwarded-For: 127.0.0.1\r\nAuthorization: x\r\n"
    service = Service(local=LOCAL, use_local_as_http_host=True)
    assert changed(service, fields)[1:] == ["X-Forwarded-For: 127.0.0.1", "Authorization: x"]


def test_both_tell_the_host_that_the_visitor_asked_for() -> None:
    seen = changed(Service(local=LOCAL, use_local_as_http_host=True, forwarded_for=True), "Host: a\r\n")
    assert seen[0] == "Host: 127.0.0.1:8080"
    assert "X-Forwarded-Host: a" in seen


def test_the_password_stays_here() -> None:
    assert changed(GUARDED, "Host: a\r\nAuthorization: Basic x\r\nauthorization: y\r\n") == ["Host: a"]


def test_http_1_0_without_a_host() -> None:
    found = RequestReader().head(b"GET / HTTP/1.0\r\n\r\n")
    assert found is not None
    rules = Rules(FORWARDED)
    head = rules.head(found[0], rules.forwarded("192.0.2.1:5", 0))
    assert b"Forwarded: for=192.0.2.1;proto=http\r\n" in head
    assert b"X-Forwarded-Host" not in head


def test_an_answer() -> None:
    assert answer(400, "So not.", "X: y\r\n", close=True) == (
        b"HTTP/1.1 400 Bad Request\r\nServer: GT\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 24\r\n"
        b"Cache-Control: no-store\r\nX: y\r\nConnection: close\r\n\r\n400 Bad Request\nSo not.\n"
    )
    assert answer(400, "So not.", has_body=False).endswith(b"\r\nConnection: keep-alive\r\n\r\n")
