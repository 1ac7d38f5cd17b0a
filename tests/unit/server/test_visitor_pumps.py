"""What visitors get when the service gives no answer, of each kind; users with a speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gtapp.observe import metrics
from gtapp.relay.bucket import Shaper
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.shaped_pump import Shaped
from gtapp.server.registry import Kind
from gtapp.server.visitor_pumps import HTTPPump, ShapedHTTPPump, ShapedPump, visitor_pump
from gtapp.wire import frames
from tests.support.relay import DATA, EOF, OPEN, RESET, read_all, read_exactly, until
from tests.unit.server.scene import REQUEST, MakeTunnel, Scene, client_hello, fresh_counters, is_reset, status


@pytest.fixture
def scene(make_tunnel: MakeTunnel) -> Iterator[Scene]:
    made = Scene(make_tunnel)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    return fresh_counters(monkeypatch)


# visitors with a request


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (frames.REFUSED, 502), (frames.TIMED_OUT, 504), (frames.LIMIT, 503), (frames.CANCELLED, 502),
        (frames.PROTOCOL, 502), (frames.FORBIDDEN, 403), (99, 502),
    ],
)  # fmt: skip
def test_a_page_says_why_the_service_gave_no_answer(
    scene: Scene, counters: metrics.Counters, reason: int, code: int
) -> None:
    visitor = scene.visit(REQUEST)
    scene.made.far.next_of(OPEN)
    scene.made.far.send(scene.made.far.frames.reset(2, reason))
    assert status(visitor) == code
    assert getattr(counters, f"visitors_refused_{code}") == 1


def test_a_service_that_closes_without_an_answer(scene: Scene) -> None:
    visitor = scene.visit(REQUEST)
    scene.made.far.next_of(OPEN)
    scene.made.far.send(scene.made.far.frames.eof(2))
    assert status(visitor) == 502


def test_a_tunnel_that_is_lost_before_the_answer(scene: Scene) -> None:
    visitor = scene.visit(REQUEST)
    scene.made.far.next_of(OPEN)
    scene.made.far.close()
    assert status(visitor) == 502


def test_no_page_in_the_middle_of_an_answer(scene: Scene) -> None:
    visitor = scene.visit(REQUEST)
    scene.made.far.next_of(OPEN)
    scene.made.far.send(scene.made.far.data(2, b"HTTP/1.1 200 OK\r\n"))
    read_exactly(visitor, 17)
    scene.made.far.send(scene.made.far.frames.reset(2, frames.TIMED_OUT))
    with pytest.raises(ConnectionResetError):
        read_all(visitor)


def test_a_silent_service(scene: Scene) -> None:
    visitor = scene.visit(REQUEST)
    scene.made.far.next_of(OPEN)
    for _ in range(9):
        scene.made.tunnel.tick(1.0)
    assert status(visitor) == 504
    assert scene.made.far.next_of(RESET) == (RESET, 2, frames.TIMED_OUT)


def test_a_visitor_that_leaves_before_the_answer(scene: Scene, counters: metrics.Counters) -> None:
    visitor = scene.visit(REQUEST)
    scene.made.far.next_of(OPEN)
    visitor.close()
    scene.made.far.next_of(EOF)
    scene.made.far.send(scene.made.far.frames.eof(2))
    until(lambda: not scene.made.tunnel.streams)
    assert counters.visitors_refused_502 == 0


# visitors without HTTP


@pytest.mark.parametrize("to", ["sni", "port"])
@pytest.mark.parametrize("reason", [frames.REFUSED, frames.TIMED_OUT, frames.FORBIDDEN, frames.CANCELLED])
def test_no_page_where_nobody_would_read_it(scene: Scene, to: str, reason: int) -> None:
    """Bytes of ours in the middle of somebody's TLS or SSH would look like theirs."""
    visitor = scene.visit(client_hello("a.example.com") if to == "sni" else b"", to)
    scene.made.far.next_of(OPEN)
    scene.made.far.send(scene.made.far.frames.reset(2, reason))
    assert is_reset(visitor)


@pytest.mark.parametrize("to", ["sni", "port"])
def test_a_service_that_just_closes(scene: Scene, to: str) -> None:
    visitor = scene.visit(client_hello("a.example.com") if to == "sni" else b"", to)
    scene.made.far.next_of(OPEN)
    scene.made.far.send(scene.made.far.frames.eof(2))
    assert read_all(visitor) == b""
    visitor.close()
    scene.made.far.next_of(EOF)
    until(lambda: not scene.made.tunnel.streams)


def test_a_tunnel_that_is_lost_under_a_port(scene: Scene) -> None:
    visitor = scene.visit(b"question", "port")
    scene.made.far.next_of(DATA)
    scene.made.far.close()
    assert is_reset(visitor)


# which pump


@pytest.mark.parametrize(
    ("kind", "speed", "expected"),
    [
        ("http", 0, HTTPPump), ("tls", 0, Pump), ("tcp", 0, Pump),
        ("http", 9, ShapedHTTPPump), ("tls", 9, ShapedPump), ("tcp", 9, ShapedPump),
    ],
)  # fmt: skip
def test_the_pump_of_each_kind(scene: Scene, kind: Kind, speed: int, expected: type[Pump]) -> None:
    stream = scene.made.tunnel.open(0, "", b"")
    assert type(visitor_pump(kind, stream, Idle(8), Shaper(speed) if speed else None)) is expected
    stream.reset()


@pytest.fixture
def shaped(make_tunnel: MakeTunnel) -> Iterator[Scene]:
    """A user with a speed that no test here reaches."""
    made = Scene(make_tunnel, user={"speed": 100_000_000})
    yield made
    made.close()


@pytest.mark.parametrize("to", ["http", "sni", "port"])
def test_a_user_with_a_speed(shaped: Scene, to: str) -> None:
    first = {"http": REQUEST, "sni": client_hello("a.example.com"), "port": b""}[to]
    visitor = shaped.visit(first, to)
    assert shaped.made.far.next()[2].data == first
    assert isinstance(next(iter(shaped.made.tunnel.streams.values())).sink, Shaped)
    visitor.sendall(b"question")
    assert shaped.made.far.next() == (DATA, 2, b"question")
    shaped.made.far.send(shaped.made.far.data(2, b"answer"), shaped.made.far.frames.eof(2))
    assert read_all(visitor) == b"answer"


def test_pages_for_a_user_with_a_speed(shaped: Scene) -> None:
    visitor = shaped.visit(REQUEST)
    shaped.made.far.next_of(OPEN)
    shaped.made.far.send(shaped.made.far.frames.reset(2, frames.REFUSED))
    assert status(visitor) == 502


def test_streams_of_a_user_share_one_speed(shaped: Scene) -> None:
    for _ in range(2):
        shaped.visit(REQUEST)
        shaped.made.far.next_of(OPEN)
    pumps: list[Any] = [stream.sink for stream in shaped.made.tunnel.streams.values()]
    assert pumps[0]._shaper is pumps[1]._shaper
