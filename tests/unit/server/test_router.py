"""A visitor's way: head in any pieces, host, tunnel; or a page that says why not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import gevent
import pytest

from gtapp.observe import metrics
from gtapp.relay.pump import Idle
from gtapp.relay.sockets import show_address
from gtapp.server import arrivals
from gtapp.server.router import FIRST_BYTES_S
from gtapp.wire import frames, http_head
from gtapp.wire.http_head import LIMIT_BYTES
from tests.support.relay import DATA, EOF, OPEN, RESET, read_all, read_exactly, reset, turn, until
from tests.unit.server.scene import (
    REQUEST,
    SERVICES,
    MakeTunnel,
    Scene,
    fresh_counters,
    is_closed,
    received,
    status,
)


@pytest.fixture
def scene(make_tunnel: MakeTunnel) -> Iterator[Scene]:
    made = Scene(make_tunnel)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    return fresh_counters(monkeypatch)


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


def test_a_name_in_another_header(scene: Scene) -> None:
    """It is the whole name there; Host stays as it is."""
    scene.router.set_options(replace(scene.options, http_mux_header="X-Service"), Idle(8))
    assert status(scene.visit(REQUEST)) == 404
    assert status(scene.visit(REQUEST[:-2] + b"X-Service: a.example.com\r\n\r\n")) == 404
    request = REQUEST[:-2] + b"X-Service: A\r\n\r\n"
    scene.visit(request)
    assert scene.made.far.next()[2].data == request


def test_new_options_are_in_force_for_the_next_visitor(scene: Scene) -> None:
    """Who is there already keeps the idle time that it came with."""
    before = scene.visit(REQUEST)
    scene.made.far.next_of(OPEN)
    scene.router.set_options(scene.options, Idle(2))
    after = scene.visit(REQUEST)
    scene.made.far.next_of(OPEN)
    for _ in range(3):
        scene.made.tunnel.tick(1.0)
    assert status(after) == 504
    assert len(scene.made.tunnel.streams) == 1
    scene.made.far.send(scene.made.far.data(2, b"answer"))
    assert read_exactly(before, 6) == b"answer"


def test_the_service_of_each_endpoint(scene: Scene) -> None:
    """The same host prefix may be two services, and two tunnels may count theirs differently."""
    other = scene.new_tunnel()
    scene.registry.publish(other.tunnel, "id1", [("http", "a", 3), ("http", "b", 4)])
    scene.visit(REQUEST)
    turn(2)
    scene.visit(REQUEST)
    assert scene.made.far.next()[2].service == 7
    assert other.far.next()[2].service == 3
    scene.visit(REQUEST.replace(b"a.ex", b"b.ex"))
    assert other.far.next()[2].service == 4
    other.close()
    scene.registry.withdraw(other.tunnel, "id1")


def test_a_service_of_another_kind_is_not_found(scene: Scene) -> None:
    other = scene.new_tunnel()
    scene.registry.publish(other.tunnel, "id1", [("tls", "b", 0), ("tcp", "80", 1)])
    for name in (b"b", b"80", b"2222"):
        assert status(scene.visit(REQUEST.replace(b"a.ex", name + b".ex"))) == 404
    scene.registry.withdraw(other.tunnel, "id1")


def test_each_request_has_its_own_way_where_that_is_wanted(scene: Scene) -> None:
    other = scene.new_tunnel()
    scene.registry.publish(other.tunnel, "id1", [("http", "b", 4)])
    scene.router.set_options(replace(scene.options, route_per_request=True), Idle(8))
    visitor = scene.visit(REQUEST)
    assert scene.made.far.next()[2].service == 7
    scene.made.far.send(scene.made.far.data(2, b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert read_exactly(visitor, 27)
    visitor.sendall(REQUEST.replace(b"a.ex", b"b.ex"))
    assert other.far.next()[2].service == 4
    scene.visit(b"\xf0\x03hello")
    until(lambda: scene.admitted)
    other.close()
    scene.registry.withdraw(other.tunnel, "id1")


# who may come in


@pytest.mark.parametrize(
    ("allow", "deny", "peer", "let_in"),
    [
        (["203.0.113.0/24"], [], "203.0.113.9:5", True),
        (["203.0.113.0/24"], [], "203.0.114.9:5", False),
        (["203.0.113.0/24"], [], "[2001:db8::1]:5", False),
        ([], ["203.0.113.0/24"], "203.0.113.9:5", False),
        ([], ["203.0.113.0/24"], "203.0.114.9:5", True),
        (["203.0.113.0/24"], ["203.0.113.9/32"], "203.0.113.9:5", False),
        (["2001:db8::/32"], [], "[2001:db8::1]:5", True),
    ],
)
def test_the_rules_of_a_user(
    make_tunnel: MakeTunnel,
    counters: metrics.Counters,
    allow: list[str],
    deny: list[str],
    peer: str,
    let_in: bool,
) -> None:
    rules = {"allow_ips": tuple(map(ip_network, allow)), "deny_ips": tuple(map(ip_network, deny))}
    scene = Scene(make_tunnel, user=rules)
    try:
        visitor = scene.visit(REQUEST, peer=peer)
        if let_in:
            assert scene.made.far.next()[2].visitor == peer
        else:
            assert status(visitor) == 403
            assert counters.visitors_refused_403 == 1
            assert scene.made.tunnel.streams == {}
            scene.away()
            assert status(scene.visit(REQUEST, peer=peer)) == 403, "and need not wait for that"
    finally:
        scene.close()


def test_rules_that_change_while_a_visitor_waits(scene: Scene) -> None:
    scene.away()
    visitor = scene.visit(REQUEST)
    turn()
    strict = replace(scene.users._users["id1"], deny_ips=(ip_network("127.0.0.0/8"),))
    scene.users.replace({"id1": strict}, scene.options)
    scene.tunnel_comes()
    assert status(visitor) == 403


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
    assert (first if len(first) == len(data) else first + received(sock)) == data
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
    for _ in range(round(FIRST_BYTES_S) - 6):
        slow.sendall(b"x")  # speaking does not help
        scene.router.tick(1.0)
    assert scene.router.waiting == 2
    scene.router.tick(1.0)
    assert scene.router.waiting == 1
    assert counters.visitors_head_timeout == 1
    assert is_closed(slow)
    later.sendall(REQUEST)
    assert scene.made.far.next()[0] == OPEN


def test_an_unexpected_error_ends_the_one_visitor(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(http_head, "parse", fail)
    visitor = scene.visit(REQUEST)
    assert is_closed(visitor)
    assert "unexpected error" in caplog.text


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
    monkeypatch.setattr(arrivals, "AWAY_S", 0.02)
    scene.away()
    visitor = scene.visit(REQUEST)
    assert status(visitor) == 503
    assert counters.visitors_refused_503 == 1
    host = scene.registry.find("http", "a")
    assert host is not None
    assert not host.waiting
    scene.tunnel_comes()  # wakes nobody


def test_a_client_that_comes_back_and_is_gone_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "AWAY_S", 0.05)
    scene.away()
    visitor = scene.visit(REQUEST)
    again = scene.new_tunnel()
    scene.registry.publish(again.tunnel, "id1", SERVICES)
    scene.registry.withdraw(again.tunnel, "id1")
    assert status(visitor) == 503


def test_a_host_that_is_forgotten_while_a_visitor_waits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.away()
    visitor = scene.visit(REQUEST)
    host = scene.registry.find("http", "a")
    assert host is not None
    scene.registry.drop(host)
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
    monkeypatch.setattr(arrivals, "AWAY_S", 0.02)
    scene.made.tunnel.link.write(bytes(20_000_000))
    turn()
    before = scene.made.tunnel.link.queued
    visitors = [scene.visit(REQUEST) for _ in range(10)]
    turn()
    assert scene.made.tunnel.link.queued <= before
    assert status(visitors[0]) == 503
