"""Per-request mode between a visitor's stream and a real connection to a service, and what holds the visitor back."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gtapp.client import request_socket
from gtapp.client.basic_auth import BasicAuth, Verdict
from gtapp.client.request_pump import factory
from gtapp.config.load import Service
from gtapp.config.passwords import hash_password
from gtapp.config.values import URL
from gtapp.relay import sockets
from gtapp.relay.pump import Idle, Pump
from gtapp.relay.stream import INITIAL_WINDOW
from gtapp.wire import frames
from tests.support.relay import (
    CLOSED,
    CONTROL,
    DATA,
    EOF,
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
)  # fmt: skip

LOCAL = URL("http", "127.0.0.1", 8080)
PLAIN = Service(local=LOCAL)
HASH = hash_password("hush")
GUARDED = Service(local=LOCAL, basic_auth=f"anne:{HASH}")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Scene:
    """A stream with a pump in per-request mode: `service` is the local service, `far` the tunnel's other end."""

    def __init__(self, made: Made, service: Service, buffer_bytes: int, visitor: str, flags: int) -> None:
        self.tunnel, self.far = made.tunnel, made.far
        self.stream = self.tunnel.open(0, "192.0.2.1:5", b"")
        self.far.next_of(frames.OPEN)
        self.id = self.stream.id
        self.sock, self.service = tcp_pair(buffer_bytes)
        self.pump: Pump = factory(service)(self.stream, Idle(1000), visitor, flags)
        self.left = b""
        self.pump.attach(self.sock)

    def send(self, *data: bytes) -> None:
        """The visitor sends."""
        for each in data:
            for at in range(0, len(each), 65536):
                self.far.send(self.far.data(self.id, each[at : at + 65536]))

    def send_eof(self) -> None:
        self.far.send(self.far.frames.eof(self.id))

    def receive(self, count: int) -> bytes:
        """So many bytes for the visitor."""
        while len(self.left) < count:
            self.left += self.far.next_of(DATA)[2]
        data, self.left = self.left[:count], self.left[count:]
        return data

    def response(self) -> bytes:
        """One response of ours for the visitor, whose length is known."""
        while b"\r\n\r\n" not in self.left:
            self.left += self.far.next_of(DATA)[2]
        head, _, _ = self.left.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        return self.receive(len(head) + 4 + length)

    def request(self) -> bytes:
        """One request head at the service."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += read_exactly(self.service, 1)
        return data

    def exchange(self, request: bytes = GET, response: bytes = OK) -> bytes:
        """The request as the service has seen it."""
        self.send(request)
        seen = self.request()
        self.service.sendall(response)
        assert self.receive(len(response)) == response
        return seen

    def nothing_at_the_service(self) -> None:
        turn(5)
        self.service.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.service.recv(1)
        self.service.settimeout(10)

    def mark(self) -> None:
        """The visitor has got nothing: what comes next is a CONTROL."""
        turn(5)
        assert not self.left
        self.tunnel.send_control({"type": "mark"})
        assert self.far.next(WINDOW)[0] == CONTROL

    def close(self) -> None:
        if not self.stream.over:
            self.stream.reset()
        if not self.pump._closed:
            self.pump._close(reset=False)
        self.service.close()


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(make_tunnel: Callable[..., Made]) -> Iterator[MakeScene]:
    scenes: list[Scene] = []

    def make(
        service: Service = PLAIN,
        version: int = 3,
        buffer_bytes: int = 0,
        visitor: str = "192.0.2.1:5",
        flags: int = 0,
    ) -> Scene:
        scenes.append(Scene(make_tunnel(version=version).up(), service, buffer_bytes, visitor, flags))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    if BasicAuth._threads is not None:
        BasicAuth._threads.kill()
        BasicAuth._threads = None


# exchanges


@pytest.mark.parametrize("version", [3, 1])
def test_one_request_after_the_other(make_scene: MakeScene, version: int) -> None:
    scene = make_scene(version=version)
    for _ in range(3):
        assert scene.exchange() == GET


def test_bytes_one_by_one(make_scene: MakeScene) -> None:
    scene = make_scene()
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    scene.send(*[request[at : at + 1] for at in range(len(request))])
    assert read_exactly(scene.service, len(request)) == request
    for at in range(len(OK)):
        scene.service.sendall(OK[at : at + 1])
        assert scene.receive(1) == OK[at : at + 1]
    assert scene.exchange() == GET


def test_a_pipelined_request_waits_for_the_response_before(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(GET + GET.replace(b"/ ", b"/2 ") + GET.replace(b"/ ", b"/3 "))
    assert scene.request() == GET
    scene.nothing_at_the_service()
    scene.service.sendall(OK[:-1])
    assert scene.receive(len(OK) - 1)
    scene.nothing_at_the_service()
    scene.service.sendall(OK[-1:])
    assert b"/2" in scene.request()
    scene.nothing_at_the_service()
    scene.service.sendall(OK)
    assert b"/3" in scene.request()


def test_a_request_after_a_body_in_the_same_piece(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET)
    assert b"POST" in scene.request()
    assert read_exactly(scene.service, 13) == b"3\r\nabc\r\n0\r\n\r\n"
    scene.nothing_at_the_service()
    scene.service.sendall(OK)
    assert scene.request() == GET


def test_a_response_that_is_complete_before_the_request(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
    scene.request()
    scene.service.sendall(OK)
    assert scene.receive(len(OK)) == OK
    scene.send(b"bc" + GET)
    assert read_exactly(scene.service, 3) == b"abc"
    assert scene.request() == GET


def test_head_and_not_modified_have_no_body(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.exchange(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    scene.exchange(GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n")
    assert scene.exchange() == GET


def test_interim_responses(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert b"Expect: 100-continue" in scene.request()
    for interim in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"):
        scene.service.sendall(interim)
        assert scene.receive(len(interim)) == interim
    scene.send(b"abc")
    assert read_exactly(scene.service, 3) == b"abc"
    scene.service.sendall(OK)
    assert scene.receive(len(OK)) == OK
    assert scene.exchange() == GET


def test_a_response_that_the_end_ends(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.exchange(GET, b"HTTP/1.1 200 OK\r\n\r\nsome")
    scene.service.sendall(b"more")
    assert scene.receive(4) == b"more"
    scene.service.close()
    assert scene.far.next(WINDOW)[0] == EOF


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (GET, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        (GET, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", OK),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", OK),
    ],
)
def test_after_the_last_response_nothing_is_asked(
    make_scene: MakeScene, request_: bytes, response: bytes
) -> None:
    scene = make_scene()
    scene.send(request_ + GET)
    assert scene.request() == request_
    scene.service.sendall(response)
    assert scene.receive(len(response)) == response
    assert scene.far.next(WINDOW)[0] == EOF
    scene.send(GET)
    scene.nothing_at_the_service()
    scene.send_eof()
    assert read_all(scene.service) == b""


def test_the_visitor_ends(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(GET)
    scene.send_eof()
    assert scene.request() == GET
    assert read_all(scene.service) == b""
    scene.service.sendall(OK)
    assert scene.receive(len(OK)) == OK
    scene.service.close()
    assert scene.far.next(WINDOW)[0] == EOF
    until(lambda: scene.stream.over)


def test_the_visitor_ends_with_requests_waiting(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(GET + GET)
    scene.send_eof()
    assert scene.request() == GET
    scene.nothing_at_the_service()
    scene.service.sendall(OK)
    assert scene.request() == GET
    assert read_all(scene.service) == b""


def test_a_head_that_stays_a_beginning_is_not_sent_on(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(GET[:-2])
    scene.send_eof()
    assert read_all(scene.service) == b""


def test_the_visitor_is_cut_in_a_body(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
    scene.request()
    scene.far.send(scene.far.frames.reset(scene.id, frames.CANCELLED))
    with pytest.raises(ConnectionResetError):
        read_all(scene.service)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_service_is_cut_in_a_response(make_scene: MakeScene, how: str) -> None:
    scene = make_scene()
    scene.exchange(GET, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    scene.service.close() if how == "close" else reset(scene.service)
    assert scene.far.next(WINDOW) == (RESET, scene.id, frames.CANCELLED)


def test_a_service_that_closes_without_an_answer(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(GET)
    scene.request()
    scene.service.close()
    assert scene.far.next(WINDOW)[0] == EOF


def test_an_idle_service_that_says_something(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.exchange()
    scene.service.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert scene.far.next(WINDOW)[0] == EOF


def test_more_than_the_response_is_not_the_next_one(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(GET + GET)
    scene.request()
    scene.service.sendall(OK + OK)
    assert scene.receive(len(OK)) == OK
    assert scene.far.next(WINDOW)[0] == EOF


def test_a_service_that_does_not_speak_http(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(GET)
    scene.request()
    scene.service.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert scene.response().startswith(b"HTTP/1.1 502 ")
    assert scene.far.next(WINDOW)[0] == EOF
    with pytest.raises(ConnectionResetError):
        read_all(scene.service)


def test_a_service_that_stops_speaking_http(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.exchange(GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    scene.service.sendall(b"x\r\n")
    assert scene.far.next(WINDOW) == (RESET, scene.id, frames.CANCELLED)


# bad requests


@pytest.mark.parametrize("version", [3, 1])
def test_a_malformed_request_is_answered_and_ends_it(make_scene: MakeScene, version: int) -> None:
    scene = make_scene(version=version)
    scene.exchange()
    scene.send(GET.replace(b"Host", b"Host ") + GET)
    answer = scene.response()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer
    assert scene.far.next(WINDOW)[0] == (EOF if version == 3 else CLOSED)
    if version == 3:
        scene.nothing_at_the_service()
        scene.send(GET)
        scene.send_eof()
    assert read_all(scene.service) == b""


def test_it_is_answered_in_its_turn(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(GET + b"no HTTP\r\n\r\n")
    scene.request()
    scene.mark()
    scene.service.sendall(OK)
    assert scene.receive(len(OK)) == OK
    assert scene.response().startswith(b"HTTP/1.1 400 ")


def test_a_body_that_goes_wrong_ends_the_service_s_connection(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    scene.request()
    assert read_exactly(scene.service, 8) == b"3\r\nabc\r\n"
    scene.send(b"x\r\n")
    assert scene.response().startswith(b"HTTP/1.1 400 ")
    with pytest.raises(ConnectionResetError):
        read_all(scene.service)
    assert scene.far.next(WINDOW)[0] == EOF


def test_a_body_that_goes_wrong_while_it_is_answered(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.exchange(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    )
    scene.send(b"x\r\n")
    assert scene.far.next(WINDOW) == (RESET, scene.id, frames.CANCELLED)


def test_who_goes_on_after_an_error_is_cut(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_socket, "DROPPED_BYTES", 100_000)
    scene = make_scene()
    scene.send(b"no HTTP\r\n\r\n")
    scene.response()
    assert scene.far.next(WINDOW)[0] == EOF
    scene.send(bytes(100_001))
    assert scene.far.next(WINDOW) == (RESET, scene.id, frames.CANCELLED)


# WebSocket, and what is none


UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_a_websocket_is_bytes(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.send(UPGRADE + b"early")
    assert scene.request() == UPGRADE
    scene.nothing_at_the_service()
    scene.service.sendall(SWITCH + b"\x81\0")
    assert scene.receive(len(SWITCH) + 2) == SWITCH + b"\x81\0"
    assert read_exactly(scene.service, 5) == b"early"
    data = random_bytes(100_000)
    scene.send(data)
    assert read_exactly(scene.service, len(data)) == data
    scene.service.sendall(data)
    assert scene.receive(len(data)) == data
    scene.send_eof()
    assert read_all(scene.service) == b""
    scene.service.close()
    assert scene.far.next(WINDOW)[0] == EOF


def test_a_websocket_that_reads_slowly_holds_the_visitor_back(make_scene: MakeScene) -> None:
    scene = make_scene(buffer_bytes=4096)
    scene.send(UPGRADE)
    scene.request()
    scene.service.sendall(SWITCH)
    scene.receive(len(SWITCH))
    data = random_bytes(INITIAL_WINDOW - 1000)
    scene.send(data)
    turn(10)
    assert scene.stream.undelivered > INITIAL_WINDOW // 2
    assert read_exactly(scene.service, len(data)) == data


def test_a_websocket_refused(make_scene: MakeScene) -> None:
    scene = make_scene()
    assert scene.exchange(UPGRADE) == UPGRADE
    assert scene.exchange() == GET


def test_no_other_protocol(make_scene: MakeScene) -> None:
    scene = make_scene()
    fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    assert scene.exchange(GET[:-2] + fields) == GET
    scene.send(GET)
    scene.request()
    scene.service.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert scene.response().startswith(b"HTTP/1.1 502 ")


# large bodies


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_to_a_slow_service(make_scene: MakeScene, chunked: bool) -> None:
    scene = make_scene(buffer_bytes=4096)
    data = random_bytes(INITIAL_WINDOW - 1000)
    field = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(data)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if chunked else data
    scene.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n" + body)
    turn(10)
    assert scene.stream.undelivered > INITIAL_WINDOW // 2, "what the service has not taken counts"
    sock: Any = scene.pump.sock
    assert sock._out_bytes < 2 * 65536
    scene.request()
    got = b""
    if chunked:
        while size := int(read_line(scene.service), 16):
            got += read_exactly(scene.service, size + 2)[:-2]
        assert read_line(scene.service) == b""
    else:
        got = read_exactly(scene.service, len(data))
    assert got == data
    until(lambda: not scene.stream.undelivered)
    scene.service.sendall(OK)
    assert scene.receive(len(OK)) == OK
    assert scene.exchange() == GET


def read_line(sock: Any) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        line += read_exactly(sock, 1)
    return line[:-2]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_download(make_scene: MakeScene, chunked: bool) -> None:
    scene = make_scene()
    data = random_bytes(INITIAL_WINDOW - 1000)
    field = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(data)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if chunked else data
    scene.exchange(GET, b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n" + body)
    scene.far.send(scene.far.frames.window(scene.id, INITIAL_WINDOW))
    assert scene.exchange() == GET


def test_more_pieces_than_one_call_takes(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "IOV_MAX", 2)
    scene = make_scene()
    pieces = [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n", *[bytes(40_000)] * 5]
    scene.stream.undelivered = sum(map(len, pieces))
    scene.pump._reader.stop()
    scene.pump.attach(scene.sock, pieces)
    assert scene.request() == pieces[0]
    assert read_exactly(scene.service, 200_000) == bytes(200_000)
    scene.service.sendall(OK)
    assert scene.receive(len(OK)) == OK


# the password


def credentials(text: str) -> bytes:
    return b"Authorization: Basic %b\r\n" % base64.b64encode(text.encode())


def with_credentials(text: str, request: bytes = GET) -> bytes:
    return request[:-2] + credentials(text) + b"\r\n"


@pytest.mark.parametrize("version", [3, 1])
def test_without_a_password_401_and_the_connection_goes_on(make_scene: MakeScene, version: int) -> None:
    scene = make_scene(GUARDED, version)
    for request in (GET, with_credentials("anne:wrong"), with_credentials("bob:hush")):
        scene.send(request)
        answer = scene.response()
        assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert b'\r\nWWW-Authenticate: Basic realm="GT", charset="UTF-8"\r\n' in answer
        assert b"Connection: close" not in answer
    scene.nothing_at_the_service()
    assert scene.exchange(with_credentials("anne:hush")) == GET, "the service does not see the password"
    assert scene.exchange(with_credentials("anne:hush")) == GET
    scene.send(GET)
    assert scene.response().startswith(b"HTTP/1.1 401 ")


def test_what_comes_while_the_password_is_checked_waits(make_scene: MakeScene) -> None:
    scene = make_scene(GUARDED)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    scene.send(with_credentials("anne:hush", post) + b"abc" + with_credentials("anne:hush"))
    scene.send_eof()
    assert scene.request() == post
    assert read_exactly(scene.service, 3) == b"abc"
    scene.service.sendall(OK)
    assert scene.request() == GET
    assert read_all(scene.service) == b""


def test_the_visitor_goes_while_the_password_is_checked(make_scene: MakeScene) -> None:
    scene = make_scene(GUARDED)
    scene.send(with_credentials("anne:hush"))
    until(lambda: "checking" in repr(scene.pump.sock))
    scene.far.send(scene.far.frames.reset(scene.id, frames.CANCELLED))
    with pytest.raises(ConnectionResetError):
        read_all(scene.service)
    until(lambda: not BasicAuth._one_at_a_time.locked())


def test_a_check_that_fails_ends_it(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def check(auth: BasicAuth, authorization: bytes, address: str) -> Verdict:
        raise ValueError("a mistake")

    monkeypatch.setattr(BasicAuth, "check", check)
    scene = make_scene(GUARDED)
    scene.send(with_credentials("anne:hush"))
    assert scene.far.next_of(RESET) == (RESET, scene.id, frames.CANCELLED)
    with pytest.raises(ConnectionResetError):
        read_all(scene.service)
    assert "a mistake" in caplog.text


def test_the_body_of_a_refused_request_is_dropped(make_scene: MakeScene) -> None:
    scene = make_scene(GUARDED)
    scene.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
    assert b"Connection: close" not in scene.response()
    scene.send(bytes(50_000) + with_credentials("anne:hush"))
    assert scene.request() == GET


@pytest.mark.parametrize("field", [b"Content-Length: 1048577", b"Content-Length: 3\r\nExpect: 100-continue"])
def test_a_body_that_may_not_come_or_is_too_large_ends_it(make_scene: MakeScene, field: bytes) -> None:
    scene = make_scene(GUARDED)
    scene.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in scene.response()
    assert scene.far.next(WINDOW)[0] == EOF
    scene.nothing_at_the_service()


def test_a_chunked_body_that_is_too_large_is_cut(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_socket, "DROPPED_BYTES", 100_000)
    scene = make_scene(GUARDED)
    scene.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    scene.response()
    scene.send(b"fffff\r\n" + bytes(100_001))
    assert scene.far.next(WINDOW) == (RESET, scene.id, frames.CANCELLED)


def test_many_requests_without_a_password_are_answered_one_by_one(make_scene: MakeScene) -> None:
    scene = make_scene(GUARDED)
    count = 500
    scene.send(GET * count)
    for _ in range(count):
        assert scene.response().startswith(b"HTTP/1.1 401 ")
    scene.mark()


def test_no_answer_to_head_has_a_body(make_scene: MakeScene) -> None:
    scene = make_scene(GUARDED)
    scene.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    _, _, data = scene.far.next_of(DATA)
    assert data.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: " in data
    assert scene.exchange(with_credentials("anne:hush")) == GET


def test_too_many_wrong_passwords(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BasicAuth, "check", lambda self, value, address: Verdict.LATER)
    scene = make_scene(GUARDED)
    scene.send(with_credentials("anne:hush"))
    answer = scene.response()
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: " in answer


# a window that is used up


def test_an_answer_of_ours_waits_for_a_window(make_scene: MakeScene) -> None:
    scene = make_scene(GUARDED)
    scene.exchange(with_credentials("anne:hush"), OK)
    scene.stream.send_window = 10
    scene.send(GET)
    assert len(scene.receive(10)) == 10
    scene.mark()
    scene.far.send(scene.far.frames.window(scene.id, INITIAL_WINDOW))
    scene.far.next_of(DATA)
    scene.left = b""
    assert scene.exchange(with_credentials("anne:hush")) == GET


def test_it_looks_like_a_socket(make_scene: MakeScene) -> None:
    scene = make_scene()
    sock: Any = scene.pump.sock
    assert sock.fileno() == scene.sock.fileno()
    assert sock.getpeername() == scene.sock.getpeername()
    assert repr(sock) == "<RequestSocket idle>"
    scene.send(GET)
    scene.request()
    assert repr(sock) == "<RequestSocket busy>"
    sock.close()
    assert sock.fileno() == -1
