"""The pages of our own, and a close that lets them arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gtapp.observe import metrics
from gtapp.server import pages
from gtapp.server.pages import LINGER_BYTES, Farewell, page, refuse
from tests.support.relay import read_all, reset, tcp_pair, turn, until


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    sock, visitor = tcp_pair()
    yield sock, visitor
    visitor.close()


def test_a_page_is_a_whole_response() -> None:
    head, _, body = page(404, "Nobody <here> & there.").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 404 Not Found"
    assert f"Content-Length: {len(body)}" in lines
    assert {"Connection: close", "Cache-Control: no-store"} <= set(lines)
    assert b"Nobody &lt;here&gt; &amp; there." in body
    assert b"<title>404 Not Found</title>" in body


@pytest.mark.parametrize("status", [400, 403, 404, 431, 502, 503, 504, 505])
def test_every_status_we_give_has_a_phrase(status: int) -> None:
    assert page(status, "x").startswith(b"HTTP/1.1 %d " % status)


def test_the_page_arrives_though_the_visitor_has_more_to_say(pair: tuple[Any, Any]) -> None:
    sock, visitor = pair
    visitor.sendall(bytes(200_000))
    Farewell(sock, b"the page")
    assert read_all(visitor) == b"the page"
    visitor.sendall(bytes(200_000))
    visitor.close()
    until(lambda: sock.fileno() < 0)


def test_it_closes_with_the_visitor(pair: tuple[Any, Any]) -> None:
    sock, visitor = pair
    Farewell(sock, b"the page")
    turn()
    assert sock.fileno() >= 0
    visitor.close()
    until(lambda: sock.fileno() < 0)


def test_it_does_not_wait_for_ever(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LINGER_S", 0.03)
    sock, visitor = pair
    Farewell(sock, b"the page")
    until(lambda: sock.fileno() < 0)
    assert read_all(visitor) == b"the page"


def test_it_does_not_read_for_ever(pair: tuple[Any, Any]) -> None:
    sock, visitor = pair
    Farewell(sock, b"the page")
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        visitor.sendall(bytes(100 * LINGER_BYTES))
    assert sock.fileno() < 0


def test_a_visitor_that_has_gone(pair: tuple[Any, Any]) -> None:
    sock, visitor = pair
    reset(visitor)
    turn()
    Farewell(sock, b"the page")
    until(lambda: sock.fileno() < 0)


@pytest.mark.parametrize("status", [400, 403, 404, 431, 502, 503, 504, 505])
def test_refuse_counts(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    counters = metrics.Counters()
    monkeypatch.setattr(pages, "counters", counters)
    sock, visitor = pair
    refuse(sock, status, "Because.")
    assert read_all(visitor) == page(status, "Because.")
    assert getattr(counters, f"visitors_refused_{status}") == 1
    visitor.close()
    until(lambda: sock.fileno() < 0)


class Choked:
    """A socket that takes nothing: `Farewell` may be given one whose buffer a response has filled."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def send(self, data: bytes) -> int:
        raise BlockingIOError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_a_socket_that_is_full(pair: tuple[Any, Any]) -> None:
    sock, visitor = pair
    visitor.sendall(b"more")  # a close before this is read would be a reset
    Farewell(Choked(sock), b"the page")  # type: ignore[arg-type]
    assert read_all(visitor) == b""
    assert sock.fileno() >= 0, "it lingers, and what fills the socket arrives"
    visitor.close()
    until(lambda: sock.fileno() < 0)
