"""routePerRequest: the requests of one connection to several hosts, in turn; pages in place; and every way to end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtapp.observe import metrics
from gtapp.server import arrivals, request_router
from gtapp.server.certificates import Certificate
from gtapp.server.router import FIRST_BYTES_S
from gtapp.wire import frames
from tests.support.relay import (
    CONTROL,
    DATA,
    EOF,
    OPEN,
    RESET,
    WINDOW,
    Made,
    random_bytes,
    read_all,
    read_exactly,
    reset,
    tcp_pair,
    turn,
    until,
)
from tests.unit.server import scene as scene_module
from tests.unit.server.scene import MakeTunnel, Scene, fresh_counters, is_closed, is_reset, status

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(host: str, path: str = "/", fields: bytes = b"") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}.example.com\r\n".encode() + fields + b"\r\n"


class TwoHosts(Scene):
    """Host a is served over the tunnel `a`, host b over `b`, each in its own stream."""

    def __init__(self, make_tunnel: MakeTunnel, **options: Any) -> None:
        super().__init__(make_tunnel, route_per_request=True, **options)
        self.a = self.made
        self.b = self.new_tunnel()
        self.registry.publish(self.b.tunnel, "id1", [("http", "b", 3)])
        self.b.tunnel.on_closed = lambda reason: self.registry.withdraw(self.b.tunnel, "id1")
        self.far = {"a": self.a.far, "b": self.b.far}

    def opened(self, host: str) -> tuple[int, bytes]:
        """The stream that was opened next at this host, and what it came with."""
        _, stream, opened = self.far[host].next_of(OPEN)
        return stream, opened.data

    def request(self, host: str) -> tuple[int, bytes]:
        """The next request at this host, on a stream that there was before."""
        kind, stream, data = self.far[host].next(WINDOW)
        assert kind == DATA
        return stream, data

    def answer(self, host: str, stream: int, data: bytes = OK) -> None:
        self.far[host].send(self.far[host].data(stream, data))

    def end(self, host: str, stream: int) -> None:
        self.far[host].send(self.far[host].frames.eof(stream))

    def cut(self, host: str, stream: int, reason: int = frames.CANCELLED) -> None:
        self.far[host].send(self.far[host].frames.reset(stream, reason))

    def nothing(self, host: str) -> None:
        """Nothing has come to this host."""
        turn(5)
        made: Made = getattr(self, host)
        made.tunnel.send_control({"type": "mark"})
        assert self.far[host].next(WINDOW)[0] == CONTROL


@pytest.fixture
def scene(make_tunnel: MakeTunnel) -> Iterator[TwoHosts]:
    made = TwoHosts(make_tunnel)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    fresh = fresh_counters(monkeypatch)
    monkeypatch.setattr(request_router, "counters", fresh)
    return fresh


def page(visitor: Any) -> tuple[int, bytes]:
    """Status and head of the next response, which has a Content-Length; its body is read."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += read_exactly(visitor, 1)
    read_exactly(visitor, int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
    return int(head[9:12]), head


# to their hosts


def test_each_request_goes_to_its_own_host(scene: TwoHosts, counters: metrics.Counters) -> None:
    visitor = scene.visit(get("a"))
    a, data = scene.opened("a")
    assert data == get("a")
    scene.answer("a", a)
    assert read_exactly(visitor, len(OK)) == OK
    visitor.sendall(get("b"))
    b, data = scene.opened("b")
    assert data == get("b")
    scene.answer("b", b)
    assert read_exactly(visitor, len(OK)) == OK
    visitor.sendall(get("a", "/2"))
    assert scene.request("a") == (a, get("a", "/2")), "the stream is used again"
    scene.answer("a", a)
    assert read_exactly(visitor, len(OK)) == OK
    assert (counters.visitors_accepted, counters.streams_opened, scene.router.waiting) == (1, 2, 0)


def test_pipelined_requests_are_answered_in_their_order(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a") + get("b") + get("a", "/2"))
    a, data = scene.opened("a")
    assert data == get("a")
    scene.nothing("b")
    scene.answer("a", a, OK[:-1])
    scene.nothing("b")
    scene.answer("a", a, OK[-1:])
    b, _ = scene.opened("b")
    scene.nothing("a")
    scene.answer("b", b, OK.replace(b"ok", b"kk"))
    assert scene.request("a")[1] == get("a", "/2")
    scene.answer("a", a)
    assert read_exactly(visitor, 3 * len(OK)) == OK + OK.replace(b"ok", b"kk") + OK


def test_a_body_goes_where_its_head_went(scene: TwoHosts) -> None:
    post = b"POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 200000\r\n\r\n"
    body = random_bytes(200_000)
    visitor = scene.visit(post)
    a, _ = scene.opened("a")
    visitor.sendall(body + get("b"))
    got = b""
    while len(got) < len(body):
        got += scene.request("a")[1]
    assert got == body
    scene.nothing("b")
    scene.answer("a", a)
    scene.opened("b")


def test_byte_by_byte(scene: TwoHosts) -> None:
    visitor = scene.visit()
    post = (
        b"POST / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    for at in range(len(post)):
        visitor.sendall(post[at : at + 1])
        turn(1)
    _, data = scene.opened("a")
    got = data
    while not got.endswith(b"0\r\n\r\n"):
        got += scene.request("a")[1]
    assert got == post.replace(b"3\r\nabc", b"1\r\na\r\n1\r\nb\r\n1\r\nc")


def test_what_comes_after_a_beginning_without_head(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a")[:9])
    turn(3)
    assert scene.router.waiting == 1
    visitor.sendall(get("a")[9:])
    scene.opened("a")
    assert scene.router.waiting == 0


def test_a_tunnel_is_a_tunnel(scene: TwoHosts) -> None:
    scene.visit(b"\xf0\x03")
    until(lambda: scene.admitted)


def test_the_signalling_of_webrtc_is_a_request_like_any(scene: TwoHosts) -> None:
    request = b"XP / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 2\r\n\r\n"
    scene.visit(request + b"{}")
    a, data = scene.opened("a")
    assert data == request
    assert scene.request("a") == (a, b"{}")


def test_absolute_form_says_where(scene: TwoHosts) -> None:
    scene.visit(b"GET http://b.example.com/x HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
    assert scene.opened("b")[1] == get("b", "/x")


# pages in place


def test_an_unknown_host_ends_nothing(scene: TwoHosts, counters: metrics.Counters) -> None:
    post = b"POST / HTTP/1.1\r\nHost: c.example.com\r\nContent-Length: 3\r\n\r\n"
    visitor = scene.visit(get("c") + post)
    for _ in range(2):
        code, head = page(visitor)
        assert code == 404
        assert b"Connection" not in head
    visitor.sendall(b"abc" + get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a)
    assert read_exactly(visitor, len(OK)) == OK
    assert counters.visitors_refused_404 == 2


@pytest.mark.parametrize(
    ("reason", "code"),
    [(frames.REFUSED, 502), (frames.TIMED_OUT, 504), (frames.LIMIT, 503), (frames.FORBIDDEN, 403)],
)
def test_a_service_that_gives_no_answer(scene: TwoHosts, reason: int, code: int) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.cut("a", a, reason)
    assert page(visitor)[0] == code
    visitor.sendall(get("b"))
    b, _ = scene.opened("b")
    scene.answer("b", b)
    assert read_exactly(visitor, len(OK)) == OK


def test_a_client_that_is_away_is_waited_for(scene: TwoHosts) -> None:
    scene.b.tunnel.abort("gone")
    visitor = scene.visit(get("b") + get("a"))
    turn(5)
    scene.nothing("a")
    made = scene.new_tunnel()
    made.tunnel.on_closed = lambda reason: scene.registry.withdraw(made.tunnel, "id1")
    scene.registry.publish(made.tunnel, "id1", [("http", "b", 0)])
    _, stream, opened = made.far.next_of(OPEN)
    assert opened.data == get("b")
    made.far.send(made.far.data(stream, OK))
    assert read_exactly(visitor, len(OK)) == OK
    scene.opened("a")


def test_a_client_that_stays_away(scene: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "AWAY_S", 0.01)
    scene.b.tunnel.abort("gone")
    visitor = scene.visit(get("b") + get("a"))
    assert page(visitor)[0] == 503
    scene.opened("a")


def test_a_body_of_which_nobody_knows_whether_it_comes(scene: TwoHosts) -> None:
    visitor = scene.visit(
        b"POST / HTTP/1.1\r\nHost: c.example.com\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    )
    data = read_all(visitor)
    assert data.startswith(b"HTTP/1.1 404 ")
    assert b"Connection: close" in data


def test_a_body_that_nobody_wants_is_read_to_a_limit(
    scene: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_router, "DROPPED_BYTES", 100_000)
    visitor = scene.visit(b"POST / HTTP/1.1\r\nHost: c.example.com\r\nContent-Length: 10000000\r\n\r\n")
    assert page(visitor)[0] == 404
    with pytest.raises(ConnectionResetError):  # noqa: PT012
        visitor.sendall(bytes(10_000_000))
        read_all(visitor)


@pytest.mark.parametrize(
    "bad", [b"no HTTP\r\n\r\n", get("a", fields=b"Host: b\r\n"), get("a", fields=b"X : y\r\n")]
)
def test_a_malformed_request_ends_it(scene: TwoHosts, bad: bytes) -> None:
    visitor = scene.visit(get("a") + bad)
    a, _ = scene.opened("a")
    turn(3)
    scene.answer("a", a)
    assert read_exactly(visitor, len(OK)) == OK
    assert status(visitor) == 400
    assert scene.far["a"].next(WINDOW)[0] == EOF
    scene.end("a", a)


def test_a_malformed_body_ends_the_request_at_the_service(scene: TwoHosts) -> None:
    visitor = scene.visit(
        b"POST / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    )
    a, _ = scene.opened("a")
    scene.request("a")
    visitor.sendall(b"x\r\n")
    assert status(visitor) == 400
    assert scene.far["a"].next(WINDOW) == (RESET, a, frames.CANCELLED)


# the end of services


CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\nX: y\r\n\r\nok"


def test_a_service_that_closes_ends_nothing(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a, CLOSING)
    scene.end("a", a)
    assert page(visitor)[1] == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\n"
    visitor.sendall(get("a"))
    again, _ = scene.opened("a")
    assert again != a
    scene.answer("a", again)
    assert read_exactly(visitor, len(OK)) == OK


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (get("a", fields=b"Connection: close\r\n"), OK),
        (get("a", fields=b"Connection: close\r\n"), CLOSING),
        (b"GET / HTTP/1.0\r\nHost: a.example.com\r\n\r\n", OK),
        (b"GET / HTTP/1.0\r\nHost: a.example.com\r\nConnection: keep-alive\r\n\r\n", CLOSING),
        (get("a"), b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ],
)
def test_the_last_response_goes_out_as_it_is(scene: TwoHosts, request_: bytes, response: bytes) -> None:
    visitor = scene.visit(request_ + get("b"))
    a, _ = scene.opened("a")
    scene.answer("a", a, response)
    assert read_all(visitor) == response
    scene.nothing("b")


def test_a_response_that_the_end_ends(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a, b"HTTP/1.1 200 OK\r\n\r\nsome")
    scene.answer("a", a, b"more")
    scene.end("a", a)
    assert read_all(visitor) == b"HTTP/1.1 200 OK\r\n\r\nsomemore"


@pytest.mark.parametrize("how", ["end", "cut"])
def test_a_response_that_is_cut(scene: TwoHosts, how: str) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    read_exactly(visitor, 41)
    getattr(scene, how)("a", a)
    assert is_reset(visitor)


@pytest.mark.parametrize("how", ["end", "cut"])
def test_a_stream_that_ends_when_it_is_used_again(scene: TwoHosts, how: str) -> None:
    """As the connection to a service would that has been idle for too long: closed, so that it may be tried again."""
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a)
    read_exactly(visitor, len(OK))
    visitor.sendall(get("a"))
    scene.request("a")
    getattr(scene, how)("a", a)
    assert read_all(visitor) == b""


def test_an_idle_stream_that_ends(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a)
    read_exactly(visitor, len(OK))
    scene.end("a", a)
    assert scene.far["a"].next(WINDOW)[0] == EOF
    visitor.sendall(get("a"))
    assert scene.opened("a")[0] != a


def test_a_service_that_says_more_than_it_was_asked(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a, OK + OK)
    assert read_exactly(visitor, len(OK)) == OK
    assert scene.far["a"].next(WINDOW) == (RESET, a, frames.CANCELLED)
    visitor.sendall(get("b"))
    b, _ = scene.opened("b")
    scene.answer("b", b, OK.replace(b"ok", b"bb"))
    assert read_exactly(visitor, len(OK)).endswith(b"bb")


def test_an_idle_service_that_says_something(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a") + get("b"))
    a, _ = scene.opened("a")
    scene.answer("a", a)
    b, _ = scene.opened("b")
    scene.answer("a", a, OK)
    assert scene.far["a"].next(WINDOW) == (RESET, a, frames.CANCELLED)
    scene.answer("b", b, OK.replace(b"ok", b"bb"))
    assert read_exactly(visitor, 2 * len(OK)).endswith(b"bb")


def test_a_service_that_does_not_speak_http(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a, b"SSH-2.0-x\r\n")
    assert status(visitor) == 502
    assert scene.far["a"].next(WINDOW) == (RESET, a, frames.CANCELLED)


def test_a_service_that_stops_speaking_http(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    read_exactly(visitor, 47)
    scene.answer("a", a, b"x\r\n")
    assert is_reset(visitor)
    assert scene.far["a"].next(WINDOW) == (RESET, a, frames.CANCELLED)


# the end of visitors


def test_a_visitor_that_has_said_all(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a") + get("b"))
    visitor.shutdown(socket.SHUT_WR)
    a, _ = scene.opened("a")
    scene.answer("a", a)
    b, _ = scene.opened("b")
    scene.answer("b", b)
    assert read_all(visitor) == OK + OK
    for host in ("a", "b"):
        assert scene.far[host].next(WINDOW)[0] == EOF


@pytest.mark.parametrize("body", [b"", b"a"])
def test_a_visitor_that_is_cut_in_a_request(scene: TwoHosts, body: bytes) -> None:
    visitor = scene.visit(b"POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 3\r\n\r\n" + body)
    a, _ = scene.opened("a")
    visitor.shutdown(socket.SHUT_WR)
    assert scene.far["a"].next_of(RESET) == (RESET, a, frames.CANCELLED)


def test_a_visitor_that_is_cut_in_a_response(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a") + get("b"))
    a, _ = scene.opened("a")
    scene.answer("a", a)
    b, _ = scene.opened("b")
    scene.answer("b", b, OK[:-1])
    read_exactly(visitor, 2 * len(OK) - 1)
    reset(visitor)
    assert scene.far["b"].next(WINDOW) == (RESET, b, frames.CANCELLED)
    assert scene.far["a"].next(WINDOW)[0] == EOF, "that one was idle"


def test_without_a_stream_there_is_little_time(scene: TwoHosts) -> None:
    visitor = scene.visit(get("c"))
    page(visitor)
    turn(5)
    assert scene.router.waiting == 1
    scene.router.tick(FIRST_BYTES_S + 1)
    assert read_all(visitor) == b""


class SlowVisitor:
    """It has a response that is complete but not in the kernel's buffers, and reads nothing unless the test does."""

    response = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n%b\r\n" + bytes(60_000)

    def __init__(self, made: TwoHosts, monkeypatch: pytest.MonkeyPatch, close: str) -> None:
        monkeypatch.setattr(scene_module, "tcp_pair", lambda: tcp_pair(8192))
        close_line = b"Connection: close\r\n"
        self.sock = made.visit(get("a", fields=close_line if close == "visitor" else b""))
        a, _ = made.opened("a")
        (stream,) = made.a.tunnel.streams.values()
        sink: Any = stream.sink
        self.split: request_router.SplitVisitor = sink.sock._owner
        made.answer("a", a, self.response % (close_line if close == "service" else b""))
        until(lambda: bool(self.split._out))
        if close != "visitor":
            made.end("a", a)
            until(lambda: not self.split._lanes)

    def read_response(self) -> None:
        response = self.response % b""  # `Connection: close` of the service is not passed on
        assert read_exactly(self.sock, len(response)) == response


@pytest.mark.parametrize("close", ["service", "idle service"])
def test_a_slow_visitor_gets_all_of_its_last_response(
    scene: TwoHosts, monkeypatch: pytest.MonkeyPatch, close: str
) -> None:
    visitor = SlowVisitor(scene, monkeypatch, close)
    scene.router.tick(FIRST_BYTES_S + 1)
    visitor.read_response()
    until(lambda: scene.router.waiting == 1)
    scene.router.tick(FIRST_BYTES_S + 1)
    assert read_all(visitor.sock) == b""


def test_who_takes_something_has_time_for_the_rest(scene: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = SlowVisitor(scene, monkeypatch, "visitor")
    timer = visitor.split._timer
    read_exactly(visitor.sock, 30_000)
    until(lambda: visitor.split._timer is not timer)
    assert len(read_all(visitor.sock)) > 30_000


@pytest.mark.parametrize("close", ["visitor", "service"])
def test_who_takes_nothing_is_cut(
    make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch, close: str
) -> None:
    scene = TwoHosts(make_tunnel, timeout=0.1)
    visitor = SlowVisitor(scene, monkeypatch, close)
    until(lambda: visitor.split.closed)
    with pytest.raises(ConnectionResetError):
        read_all(visitor.sock)
    scene.close()


@pytest.mark.parametrize("length", [b"Content-Length: 2", b""], ids=["length", "end"])
def test_a_body_that_nobody_waits_for_does_not_come(make_tunnel: MakeTunnel, length: bytes) -> None:
    scene = TwoHosts(make_tunnel, timeout=0.1)
    visitor = scene.visit(b"POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 5\r\n\r\nab")
    a, _ = scene.opened("a")
    scene.answer("a", a, b"HTTP/1.1 413 No\r\n%b\r\n\r\nok" % (length or b"X: y"))
    scene.end("a", a)
    with pytest.raises(ConnectionResetError):
        read_all(visitor)
    scene.close()


def test_a_stream_that_was_idle_for_too_long(scene: TwoHosts) -> None:
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a)
    read_exactly(visitor, len(OK))
    for _ in range(10):
        scene.a.tunnel.tick(1.0)
    assert scene.far["a"].next_of(RESET) == (RESET, a, frames.TIMED_OUT)
    turn(3)
    assert scene.router.waiting == 1
    visitor.sendall(get("b"))
    scene.opened("b")


def test_the_stop_of_the_router_ends_who_waits(scene: TwoHosts) -> None:
    visitor = scene.visit(b"GET")
    turn(3)
    scene.router.stop()
    assert is_closed(visitor)


def test_hosts_of_one_connection_are_bounded(scene: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_router, "MAX_LANES", 1)
    visitor = scene.visit(get("a"))
    a, _ = scene.opened("a")
    scene.answer("a", a)
    read_exactly(visitor, len(OK))
    visitor.sendall(get("b"))
    scene.opened("b")
    assert scene.far["a"].next(WINDOW)[0] == EOF
    scene.end("a", a)


# back pressure


def test_a_slow_service_holds_the_visitor_back(scene: TwoHosts) -> None:
    post = b"POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 100000000\r\n\r\n"
    visitor = scene.visit(post)
    scene.opened("a")
    sending = gevent.spawn(visitor.sendall, bytes(50_000_000))
    (stream,) = scene.a.tunnel.streams.values()
    until(lambda: stream.send_window == 0)
    turn(10)
    sink: Any = stream.sink
    assert len(sink.sock._in) < 3 * 65536
    assert not sending.ready()
    sending.kill()


def test_a_slow_visitor_holds_the_service_back(scene: TwoHosts) -> None:
    data = random_bytes(200_000)
    visitor = scene.visit(get("a") + get("b"))
    a, _ = scene.opened("a")
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + data
    for at in range(0, len(response), 50_000):
        scene.answer("a", a, response[at : at + 50_000])
    assert read_exactly(visitor, len(response)) == response
    scene.opened("b")


# WebSocket


UPGRADE = get("a", fields=b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_a_websocket_is_bytes(scene: TwoHosts) -> None:
    visitor = scene.visit(get("b") + UPGRADE + b"early")
    b, _ = scene.opened("b")
    scene.answer("b", b)
    a, data = scene.opened("a")
    assert data == UPGRADE
    scene.nothing("a")
    scene.answer("a", a, SWITCH + b"first")
    assert read_exactly(visitor, len(OK + SWITCH) + 5) == OK + SWITCH + b"first"
    assert scene.request("a") == (a, b"early")
    data = random_bytes(100_000)
    visitor.sendall(data)
    got = b""
    while len(got) < len(data):
        got += scene.request("a")[1]
    assert got == data
    for at in range(0, len(data), 50_000):
        scene.answer("a", a, data[at : at + 50_000])
    assert read_exactly(visitor, len(data)) == data
    visitor.shutdown(socket.SHUT_WR)
    assert scene.far["a"].next(WINDOW)[0] == EOF
    scene.answer("a", a, b"last")
    scene.end("a", a)
    assert read_all(visitor) == b"last"
    until(lambda: not scene.a.tunnel.streams)


def test_a_websocket_that_the_service_ends_first(scene: TwoHosts) -> None:
    visitor = scene.visit(UPGRADE)
    a, _ = scene.opened("a")
    scene.answer("a", a, SWITCH)
    scene.end("a", a)
    assert read_all(visitor) == SWITCH
    visitor.sendall(b"last")
    assert scene.request("a") == (a, b"last")
    visitor.close()
    assert scene.far["a"].next(WINDOW)[0] == EOF
    until(lambda: not scene.a.tunnel.streams)


def test_a_websocket_that_is_cut(scene: TwoHosts) -> None:
    visitor = scene.visit(UPGRADE)
    a, _ = scene.opened("a")
    scene.answer("a", a, SWITCH)
    read_exactly(visitor, len(SWITCH))
    scene.cut("a", a)
    assert is_reset(visitor)


# TLS


def test_over_tls(scene: TwoHosts, tmp_path: Path) -> None:
    """A large response, behind which ciphertext still waits when the connection ends, comes whole and with an end."""
    scene.certificate = Certificate("", "", ["localhost"], tmp_path, "tls1.2")
    visitor = scene.visit_tls(get("b") + get("a", fields=b"Connection: close\r\n"))
    b, _ = scene.opened("b")
    scene.answer("b", b)
    assert read_exactly(visitor, len(OK)) == OK
    a, data = scene.opened("a")
    assert b"Connection: close" in data
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + random_bytes(200_000)
    for at in range(0, len(response), 50_000):
        scene.answer("a", a, response[at : at + 50_000])
    assert read_exactly(visitor, len(response)) == response
    assert read_all(visitor) == b""


def test_the_service_is_told_that_it_was_tls(scene: TwoHosts, tmp_path: Path) -> None:
    scene.certificate = Certificate("", "", ["localhost"], tmp_path, "tls1.2")
    scene.visit_tls(get("a"))
    _, _, opened = scene.far["a"].next_of(OPEN)
    assert opened.flags == frames.OVER_TLS


# a user's speed


def test_at_the_speed_of_the_user(make_tunnel: MakeTunnel) -> None:
    scene = TwoHosts(make_tunnel, user={"speed": 400_000})
    post = b"POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 100000\r\n\r\n"
    body = random_bytes(100_000)
    visitor = scene.visit(post + body)
    a, _ = scene.opened("a")
    got = b""
    while len(got) < len(body):
        got += scene.request("a")[1]
    assert got == body
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + body
    for at in range(0, len(response), 50_000):
        scene.answer("a", a, response[at : at + 50_000])
    assert read_exactly(visitor, len(response)) == response
    visitor.sendall(get("b"))
    b, _ = scene.opened("b")
    scene.answer("b", b)
    assert read_exactly(visitor, len(OK)) == OK
    scene.close()
