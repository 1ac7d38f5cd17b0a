"""A visitor's way: head in any pieces, host, tunnel; or a page that says why not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gtapp.observe import metrics
from gtapp.relay.pump import Idle
from gtapp.relay.sockets import show_address
from gtapp.server import router as router_module
from gtapp.server.registry import Registry
from gtapp.server.router import HEAD_TIMEOUT_S, Router
from gtapp.wire import frames, http_head
from gtapp.wire.http_head import LIMIT_BYTES
from tests.support.relay import (
    DATA,
    EOF,
    OPEN,
    RESET,
    Made,
    read_all,
    read_exactly,
    reset,
    tcp_pair,
    turn,
    until,
)  # fmt: skip

REQUEST = b"GET /page HTTP/1.1\r\nHost: a.example.com\r\n\r\n"
MakeTunnel = Callable[..., Made]


class Scene:
    """A router; `visit` gives a visitor's socket. Host prefix "a" is service 7 of the tunnel `made`."""

    def __init__(self, make_tunnel: MakeTunnel) -> None:
        self.make_tunnel = make_tunnel
        self.registry = Registry()
        self.admitted: list[tuple[socket.socket, str, bytes]] = []
        self.router = Router(self.registry, lambda *args: self.admitted.append(args), "Host", Idle(8))
        self.visitors: list[Any] = []
        self.made = self.tunnel_comes()

    def tunnel_comes(self) -> Made:
        made = self.make_tunnel().up()
        self.registry.publish(made.tunnel, "id1", [("a", 7)])
        made.tunnel.on_closed = lambda reason: self.registry.withdraw(made.tunnel, "id1")
        return made

    def visit(self, data: bytes = b"") -> Any:
        sock, visitor = tcp_pair()
        self.visitors.append(visitor)
        if data:
            visitor.sendall(data)
        self.router.accept(sock, show_address(visitor.getsockname()))
        return visitor

    def away(self) -> None:
        self.made.tunnel.abort("gone")

    def close(self) -> None:
        self.router.stop()
        for visitor in self.visitors:
            visitor.close()
        for tunnel in self.registry.tunnels():
            tunnel.abort("the test is over")
        for sock, _, _ in self.admitted:
            sock.close()
        # Farewells end with their visitors.
        turn(5)


@pytest.fixture
def scene(make_tunnel: MakeTunnel) -> Iterator[Scene]:
    made = Scene(make_tunnel)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    fresh = metrics.Counters()
    monkeypatch.setattr(router_module, "counters", fresh)
    return fresh


def status(visitor: Any) -> int:
    """The status of the page that the visitor reads, to its end."""
    page = read_all(visitor)
    assert page.startswith(b"HTTP/1.1 "), page
    return int(page[9:12])


def gone(visitor: Any) -> None:
    """Raises OSError when the visitor has been closed, with or without bytes that nobody had read."""
    assert read_all(visitor) == b""
    raise OSError("closed")


# to the tunnel


def test_a_request_goes_to_its_service(scene: Scene, counters: metrics.Counters) -> None:
    visitor = scene.visit(REQUEST + b"body")
    peer = show_address(visitor.getsockname())
    assert scene.made.far.next() == (OPEN, 2, frames.Open(7, 0, peer, REQUEST + b"body"))
    scene.made.far.send(scene.made.far.data(2, b"HTTP/1.1 200 OK\r\n\r\n"))
    assert read_exactly(visitor, 19) == b"HTTP/1.1 200 OK\r\n\r\n"
    visitor.sendall(b"more")
    assert scene.made.far.next() == (DATA, 2, b"more")
    assert (counters.visitors_accepted, counters.streams_opened, scene.router.waiting) == (1, 1, 0)


@pytest.mark.parametrize("cut", range(1, len(REQUEST)))
def test_a_head_in_two_pieces(scene: Scene, cut: int) -> None:
    visitor = scene.visit(REQUEST[:cut])
    turn(2)
    assert scene.router.waiting == 1
    visitor.sendall(REQUEST[cut:])
    assert scene.made.far.next()[2].data == REQUEST


def test_a_head_byte_by_byte(scene: Scene) -> None:
    visitor = scene.visit()
    for at in range(len(REQUEST)):
        turn(1)
        visitor.sendall(REQUEST[at : at + 1])
    assert scene.made.far.next()[2].data == REQUEST


def test_the_largest_head_with_what_comes_behind_it(scene: Scene) -> None:
    head = REQUEST[:-2] + b"X: "
    head += b"x" * (LIMIT_BYTES - len(head) - 4) + b"\r\n\r\n"
    assert len(head) == LIMIT_BYTES
    visitor = scene.visit(head[:-1])
    turn()
    visitor.sendall(head[-1:] + b"y" * 100_000)
    got = scene.made.far.next()[2].data
    while len(got) < LIMIT_BYTES + 100_000:
        got += scene.made.far.next()[2]
    assert got == head + b"y" * 100_000


def test_a_visitor_that_has_said_all_and_closed_its_half(scene: Scene) -> None:
    visitor = scene.visit()
    visitor.sendall(REQUEST)
    visitor.shutdown(socket.SHUT_WR)
    assert [scene.made.far.next()[0] for _ in range(2)] == [OPEN, EOF]
    scene.made.far.send(scene.made.far.data(2, b"answer"), scene.made.far.frames.eof(2))
    assert read_all(visitor) == b"answer"


def test_the_least_busy_tunnel_gets_the_visitor(scene: Scene) -> None:
    other = scene.tunnel_comes()
    for _ in range(4):
        scene.visit(REQUEST)
        turn(2)
    assert (len(scene.made.tunnel.streams), len(other.tunnel.streams)) == (2, 2)


# to admission


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_tunnel_goes_to_admission(scene: Scene, cut: int) -> None:
    data = b"\xf0\x03hello"
    visitor = scene.visit(data[:cut])
    turn()
    visitor.sendall(data[cut:])
    until(lambda: scene.admitted)
    sock, peer, first = scene.admitted[0]
    assert peer == show_address(visitor.getsockname())
    assert (first + sock.recv(100) if len(first) < len(data) else first) == data
    assert scene.router.waiting == 0


# what is refused


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n", 404),
        (b"GET / HTTP/1.0\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: a.x\r\nHost: b.x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a.x\n\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * LIMIT_BYTES, 431),
    ],
)
def test_pages(scene: Scene, counters: metrics.Counters, data: bytes, code: int) -> None:
    assert status(scene.visit(data)) == code
    assert getattr(counters, f"visitors_refused_{code}") == 1
    assert scene.router.waiting == 0


def test_what_is_not_http_is_closed(scene: Scene, counters: metrics.Counters) -> None:
    visitor = scene.visit(b"\x16\x03\x01\x02\x00")
    assert read_all(visitor) == b""
    assert counters.visitors_not_http == 1


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_visitor_that_leaves_early(scene: Scene, how: str) -> None:
    visitor = scene.visit(b"GET /")
    turn()
    if how == "close":
        visitor.close()
    else:
        reset(visitor)
    until(lambda: not scene.router.waiting)


def test_a_head_that_does_not_come_in_time(scene: Scene, counters: metrics.Counters) -> None:
    slow = scene.visit(b"GET /")
    for _ in range(5):
        scene.router.tick(1.0)
    later = scene.visit()
    for _ in range(round(HEAD_TIMEOUT_S) - 6):
        slow.sendall(b"x")  # speaking does not help
        scene.router.tick(1.0)
    assert scene.router.waiting == 2
    scene.router.tick(1.0)
    assert scene.router.waiting == 1
    assert counters.visitors_head_timeout == 1
    with pytest.raises(OSError, match=r"reset|closed"):
        gone(slow)
    later.sendall(REQUEST)
    assert scene.made.far.next()[0] == OPEN


def test_an_unexpected_error_ends_the_one_visitor(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(http_head, "parse", fail)
    visitor = scene.visit(REQUEST)
    with pytest.raises(OSError, match=r"reset|closed"):
        gone(visitor)
    assert "unexpected error" in caplog.text


# the service does not answer


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (frames.REFUSED, 502), (frames.TIMED_OUT, 504), (frames.LIMIT, 503), (frames.CANCELLED, 502),
        (frames.PROTOCOL, 502), (99, 502),
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


# the client is away


def test_a_visitor_waits_for_a_client_that_comes_back(scene: Scene) -> None:
    scene.away()
    visitors = [scene.visit(REQUEST) for _ in range(3)]
    turn(5)
    made = scene.tunnel_comes()
    assert [made.far.next()[0] for _ in range(3)] == [OPEN] * 3
    made.far.send(made.far.data(2, b"answer"))
    assert read_exactly(visitors[0], 6) == b"answer"


def test_a_client_that_does_not_come_back(
    scene: Scene, counters: metrics.Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "AWAY_S", 0.02)
    scene.away()
    visitor = scene.visit(REQUEST)
    assert status(visitor) == 503
    assert counters.visitors_refused_503 == 1
    host = scene.registry.find("a")
    assert host is not None
    assert not host.waiting
    scene.tunnel_comes()  # wakes nobody


def test_a_client_that_comes_back_and_is_gone_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "AWAY_S", 0.05)
    scene.away()
    visitor = scene.visit(REQUEST)
    again = scene.make_tunnel().up()
    scene.registry.publish(again.tunnel, "id1", [("a", 7)])
    scene.registry.withdraw(again.tunnel, "id1")
    assert status(visitor) == 503


def test_a_host_that_is_forgotten_while_a_visitor_waits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.away()
    visitor = scene.visit(REQUEST)
    host = scene.registry.find("a")
    assert host is not None
    scene.registry._drop(host)
    assert status(visitor) == 404


def test_a_visitor_that_leaves_while_it_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.away()
    scene.visit(REQUEST).close()
    turn()
    made = scene.tunnel_comes()
    assert made.far.next()[0] == OPEN
    assert made.far.next()[0] in (EOF, RESET)
    made.far.send(made.far.frames.eof(2))
    until(lambda: not made.tunnel.streams)


@pytest.mark.parametrize("waits_for", ["head", "client"])
def test_stop_closes_whoever_has_not_been_routed(scene: Scene, waits_for: str) -> None:
    if waits_for == "client":
        scene.away()
    visitor = scene.visit(b"GET /" if waits_for == "head" else REQUEST)
    turn()
    assert scene.router.waiting == 1
    scene.router.stop()
    assert scene.router.over
    assert scene.router.waiting == 0
    closed = gevent.spawn(read_all, visitor)
    closed.join(timeout=1)
    assert closed.ready(), "the visitor must not wait for a server that ends"


def test_a_tunnel_that_is_stuck_gets_no_more_visitors(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would add 16 KiB and more to what waits for it in our memory."""
    monkeypatch.setattr(router_module, "AWAY_S", 0.02)
    scene.made.tunnel.link.write(bytes(20_000_000))
    turn()
    before = scene.made.tunnel.link.queued
    visitors = [scene.visit(REQUEST) for _ in range(10)]
    turn()
    assert scene.made.tunnel.link.queued <= before
    assert status(visitors[0]) == 503
