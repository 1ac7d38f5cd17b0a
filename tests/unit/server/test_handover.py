"""Visitors between workers: three of them in this process, and the tunnels are never where the visitor comes in."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import get_hub

from gtapp.observe import metrics
from gtapp.relay import splice as splice_module
from gtapp.relay.sockets import plain_socket
from gtapp.relay.splice import READ_BYTES
from gtapp.server import arrivals, request_router
from gtapp.server.certificates import Certificate
from gtapp.server.handover import MAX_QUEUED
from gtapp.server.router import FIRST_BYTES_S, MAX_HOPS
from gtapp.wire import frames, http_head, proxy_header
from gtapp.wire.client_hello import ALERT_UNRECOGNIZED_NAME
from tests.support.encrypted import TLSEnd
from tests.support.relay import (
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
    turn,
    until,
)
from tests.unit.server.scene import (
    REQUEST,
    MakeTunnel,
    Scene,
    client_hello,
    fresh_counters,
    introduce,
    is_closed,
    is_reset,
    siblings,
    status,
)

VISITOR = "203.0.113.9:51234"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OTHER = REQUEST.replace(b"Host: a.", b"Host: b.")


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    fresh = fresh_counters(monkeypatch)
    monkeypatch.setattr(request_router, "counters", fresh)
    return fresh


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate("", "", ["localhost"], tmp_path_factory.mktemp("certificate"), "tls1.2")


class Worker(Scene):
    """One of several; it has no tunnel yet."""

    @property
    def passed(self) -> int:
        """Visitors that are neither here as arrivals nor in tunnels, but go through."""
        return self.router.handover.splices

    def tunnel(self, version: int = 3) -> Made:
        """A tunnel of id1 that publishes SERVICES comes here, and all have heard of it."""
        made = self.tunnel_comes(version)
        turn(4)
        return made

    def publishes(self, *services: tuple[Any, str, int], version: int = 3) -> Made:
        made = self.new_tunnel(version)
        self.registry.publish(made.tunnel, "id1", services)
        made.tunnel.on_closed = lambda reason: self.registry.withdraw(made.tunnel, "id1")
        turn(4)
        return made

    def crash(self) -> None:
        """As far as the others can tell."""
        self.siblings.stop()
        turn(4)

    def stuck(self) -> None:
        """Its process is stopped: it reads nothing of the others."""
        for channel in self.siblings._channels.values():
            channel._reader.stop()


Start = Callable[..., list[Worker]]


@pytest.fixture
def start(make_tunnel: MakeTunnel, certificate: Certificate) -> Iterator[Start]:
    """start(count, **what Scene takes): workers 1, 2, 3, … that know each other."""
    workers: list[Worker] = []

    def start(count: int = 3, **given: Any) -> list[Worker]:
        made = [Worker(make_tunnel, siblings=each, **given) for each in siblings(count)]
        workers.extend(made)
        for worker in made:
            worker.certificate = SimpleNamespace(context=certificate.context)
            worker.router.accept_tls(worker.certificate)
            worker.siblings.start()
        for worker in made:
            worker.siblings.wait(10)
        return made

    yield start
    for each in workers:
        each.close()
        each.router.handover.cut()
    for each in workers:
        each.siblings.stop()
    turn(5)


@pytest.fixture
def three(start: Start) -> list[Worker]:
    return start()


def opened(made: Made) -> tuple[int, frames.Open]:
    """The next stream at a tunnel's other end. In protocol 1 what it begins with has a frame of its own."""
    _, stream, value = made.far.next_of(OPEN)
    if made.tunnel.bytes_from_local and not made.tunnel.has_windows:
        kind, number, data = made.far.next()
        assert (kind, number) == (DATA, stream)
        value = value._replace(data=data)
    return stream, value


def answer(made: Made, stream: int, data: bytes = OK) -> None:
    made.far.send(made.far.data(stream, data))


def data_of(made: Made, stream: int, count: int) -> bytes:
    """So many bytes of the stream from here; WINDOWs are no news."""
    got = b""
    while len(got) < count:
        kind, number, data = made.far.next(WINDOW)
        assert (kind, number) == (DATA, stream)
        got += data
        if made.tunnel.has_windows:
            made.far.send(made.far.frames.window(stream, len(data)))
    return got


VERSIONS = [3, 1]
BOTH = pytest.mark.parametrize("version", VERSIONS)


# there and back


@BOTH
def test_a_request(three: list[Worker], version: int, counters: metrics.Counters) -> None:
    """It goes on as any other, in both directions, and the connection is used again."""
    here, there, _ = three
    made = there.tunnel(version)
    visitor = here.visit(REQUEST + b"body", peer=VISITOR)
    stream, asked = opened(made)
    assert asked == frames.Open(7, 0, VISITOR, REQUEST + b"body") or version == 1
    assert asked.data == REQUEST + b"body"
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK
    visitor.sendall(b"next")
    assert data_of(made, stream, 4) == b"next"
    answer(made, stream, b"answer")
    assert read_exactly(visitor, 6) == b"answer"
    visitor.close()
    assert made.far.next(WINDOW)[0] in (EOF, frames.CLOSED)
    assert (here.router.waiting, here.passed, there.passed) == (0, 0, 0)
    assert (counters.visitors_accepted, counters.visitors_passed, counters.streams_opened) == (1, 1, 1)


@pytest.mark.parametrize("cut", range(0, len(REQUEST), 7))
def test_a_head_in_pieces(three: list[Worker], cut: int) -> None:
    here, there, _ = three
    made = there.tunnel()
    visitor = here.visit(REQUEST[:cut])
    turn(3)
    visitor.sendall(REQUEST[cut:] + b"rest")
    stream, asked = opened(made)
    more = data_of(made, stream, len(REQUEST) + 4 - len(asked.data))
    assert asked.data + more == REQUEST + b"rest"


def test_the_largest_head_with_what_comes_behind_it(three: list[Worker]) -> None:
    here, there, _ = three
    made = there.tunnel()
    head = REQUEST[:-2] + b"X: "
    head += b"x" * (http_head.LIMIT_BYTES - len(head) - 4) + b"\r\n\r\n"
    body = random_bytes(300_000)
    visitor = here.visit()
    turn(3)
    writing = gevent.spawn(visitor.sendall, head + body)
    stream, asked = opened(made)
    assert asked.data + data_of(made, stream, len(head + body) - len(asked.data)) == head + body
    writing.get(timeout=10)


@BOTH
def test_tls_that_is_passed_through(three: list[Worker], version: int) -> None:
    here, there, _ = three
    made = there.tunnel(version)
    hello = client_hello("a.example.com")
    visitor = here.visit(hello[:40], to="sni")
    turn(3)
    visitor.sendall(hello[40:] + b"more")
    stream, asked = opened(made)
    assert asked.data + data_of(made, stream, len(hello) + 4 - len(asked.data)) == hello + b"more"
    answer(made, stream, b"server hello")
    assert read_exactly(visitor, 12) == b"server hello"


@BOTH
def test_a_port(three: list[Worker], version: int) -> None:
    here, there, _ = three
    made = there.tunnel(version)
    visitor = here.visit(to="port")
    stream, asked = opened(made)
    assert asked.data == b""
    answer(made, stream, b"SSH-2.0")
    assert read_exactly(visitor, 7) == b"SSH-2.0"
    visitor.sendall(b"early")
    assert data_of(made, stream, 5) == b"early"


def test_what_a_balancer_says(start: Start) -> None:
    here, there, _ = start(trusted_proxies=(ip_network("127.0.0.0/8"),))
    made = there.tunnel()
    here.visit(proxy_header.build_v2(VISITOR, "192.0.2.1:80") + REQUEST)
    assert opened(made)[1].visitor == VISITOR


def test_an_ipv6_visitor(three: list[Worker]) -> None:
    here, there, _ = three
    made = there.tunnel()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        far = socket.create_connection(listener.getsockname()[:2])
        near, _ = listener.accept()
    here.visitors.append(far)
    far.sendall(REQUEST)
    here.router.accept_http(plain_socket(near.family, near.detach()), "[::1]:5")
    assert opened(made)[1] == frames.Open(7, 0, "[::1]:5", REQUEST)


def test_what_comes_after_it_was_passed_is_not_ours(
    three: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that lives on elsewhere has left our epoll set: each event would have it built anew."""
    here, there, _ = three
    made = there.tunnel()
    visitors = [here.visit() for _ in range(10)]
    turn(3)
    for each in visitors:
        each.sendall(REQUEST)
    streams = [opened(made)[0] for _ in visitors]
    registered = Path(f"/proc/self/fdinfo/{get_hub().loop.fileno()}").read_text()
    for each in visitors:
        each.sendall(b"more")
    turn(5)
    assert registered.count("tfd:") <= len(os.listdir("/proc/self/fd"))
    known = {int(line.split()[1]) for line in registered.splitlines() if line.startswith("tfd:")}
    assert all(os.path.exists(f"/proc/self/fd/{fd}") for fd in known)
    assert len(streams) == 10


# whose turn it is


def test_own_tunnels_come_first(three: list[Worker]) -> None:
    here, there, _ = three
    there.tunnel()
    own = here.tunnel()
    here.visit(REQUEST)
    assert opened(own)[1].data == REQUEST


def test_siblings_take_turns(start: Start) -> None:
    here, *others = start(4)
    tunnels = [other.tunnel() for other in others]
    for _ in range(9):
        here.visit(REQUEST)
    for made in tunnels:
        for _ in range(3):
            opened(made)
        assert len(made.tunnel.streams) == 3


def test_those_that_retire_come_last(three: list[Worker]) -> None:
    here, old, new = three
    retiring, staying = old.tunnel(), new.tunnel()
    old.siblings.retire()
    turn(4)
    for _ in range(4):
        here.visit(REQUEST)
        opened(staying)
    staying.tunnel.drain()
    turn(4)
    here.visit(REQUEST)
    opened(retiring)


def test_a_sibling_that_is_stuck_gets_no_more(three: list[Worker]) -> None:
    here, stuck, other = three
    stuck.tunnel()
    stuck.stuck()
    for _ in range(3 * MAX_QUEUED):
        here.siblings.tell_one(2, "nothing")
        if here.siblings.queued(2) > MAX_QUEUED:
            break
    visitor = here.visit(REQUEST)
    turn(3)
    assert len(here.router.away) == 1, "it waits for another"
    made = other.tunnel()
    assert opened(made)[1].data == REQUEST
    visitor.close()
    here.siblings._channels[2]._waiting.clear()


def test_a_tunnel_that_does_not_answer_is_the_last_resort(three: list[Worker]) -> None:
    here, there, _ = three
    own = here.tunnel()
    own.tunnel.suspect = True
    here.visit(REQUEST)
    opened(own)
    made = there.tunnel()
    here.visit(REQUEST)
    opened(made)
    made.tunnel.suspect = True
    here.visit(REQUEST)
    until(lambda: len(own.tunnel.streams) + len(made.tunnel.streams) == 3)


def test_at_most_so_many_hops(three: list[Worker], counters: metrics.Counters) -> None:
    """Each thinks that another has it: it must not go round for ever."""
    for one, other in itertools.permutations(three, 2):
        endpoint = one.registry._get("http", "a", "id1")
        endpoint.siblings[other.siblings.number] = None
    visitor = three[0].visit(REQUEST)
    until(lambda: sum(len(each.router.away) for each in three))
    turn(10)
    assert counters.visitors_passed == MAX_HOPS
    assert sum(len(each.router.away) for each in three) == 1
    visitor.close()


def test_a_visitor_at_the_last_hop_waits_there(
    three: list[Worker], monkeypatch: pytest.MonkeyPatch, counters: metrics.Counters
) -> None:
    monkeypatch.setattr(arrivals, "AWAY_S", 0.05)
    for one, other in itertools.permutations(three, 2):
        one.registry._get("http", "a", "id1").siblings[other.siblings.number] = None
    assert status(three[0].visit(REQUEST)) == 503
    assert (counters.visitors_passed, counters.visitors_refused_503) == (MAX_HOPS, 1)


# rules and refusals


def test_rules_for_visitors(start: Start, counters: metrics.Counters) -> None:
    here, there, _ = start(user={"allow_ips": (ip_network("203.0.113.0/24"),)})
    made = there.tunnel()
    here.visit(REQUEST, peer=VISITOR)
    assert opened(made)[1].visitor == VISITOR
    assert status(here.visit(REQUEST, peer="198.51.100.1:5")) == 403
    assert counters.visitors_refused_403 == 1


def test_a_user_with_a_speed(start: Start) -> None:
    here, there, _ = start(user={"speed": 1_000_000})
    made = there.tunnel()
    visitor = here.visit(REQUEST)
    stream, _ = opened(made)
    assert type(made.tunnel.streams[stream].sink).__name__ == "ShapedHTTPPump"
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK


def test_nobody_publishes_it(three: list[Worker]) -> None:
    three[1].tunnel()
    assert status(three[0].visit(REQUEST.replace(b"Host: a", b"Host: x"))) == 404


def test_a_service_that_refuses(three: list[Worker]) -> None:
    here, there, _ = three
    made = there.tunnel()
    visitor = here.visit(REQUEST)
    stream, _ = opened(made)
    made.far.send(made.far.frames.reset(stream, frames.REFUSED))
    assert status(visitor) == 502


@pytest.mark.parametrize(
    ("to", "first"), [("http", REQUEST), ("sni", client_hello("a.example.com")), ("port", b"")]
)
def test_an_endpoint_whose_sibling_has_gone_is_away(
    three: list[Worker], monkeypatch: pytest.MonkeyPatch, to: str, first: bytes
) -> None:
    monkeypatch.setattr(arrivals, "AWAY_S", 0.05)
    here, there, _ = three
    there.tunnel()
    there.crash()
    visitor = here.visit(first, to=to)
    if to == "http":
        assert status(visitor) == 503
    elif to == "sni":
        assert read_all(visitor) == ALERT_UNRECOGNIZED_NAME
    else:
        assert is_reset(visitor)


@pytest.mark.parametrize(
    ("to", "first"), [("http", REQUEST), ("sni", client_hello("a.example.com")), ("port", b"")]
)
def test_whoever_waits_goes_where_the_client_comes_back(three: list[Worker], to: str, first: bytes) -> None:
    here, there, other = three
    there.tunnel().tunnel.abort("gone")
    turn(4)
    visitor = here.visit(first, to=to)
    until(lambda: here.router.away)
    made = other.tunnel()
    stream, asked = opened(made)
    assert asked.data == first
    answer(made, stream, b"answer")
    assert read_exactly(visitor, 6) == b"answer"
    assert not here.router.away


def test_whoever_waits_and_has_been_passed_is_found(three: list[Worker]) -> None:
    """Passed to where the client just was, it waits there, and goes on from there."""
    here, there, other = three
    made = there.tunnel()
    there.stuck()
    here.visit(REQUEST)
    made.tunnel.abort("gone")
    for channel in there.siblings._channels.values():
        channel.start()
    until(lambda: there.router.away)
    again = other.tunnel()
    assert opened(again)[1].data == REQUEST


def test_a_visitor_for_one_that_has_just_ended_comes_back(three: list[Worker]) -> None:
    """Nobody has taken him: he is as he was."""
    here, there, other = three
    there.tunnel()
    made = other.tunnel()
    there.siblings.stop()
    for _ in range(4):
        here.visit(REQUEST)
    for _ in range(4):
        assert opened(made)[1].data == REQUEST


def test_visitors_who_queue_for_one_that_ends_come_back(three: list[Worker]) -> None:
    here, there, other = three
    there.tunnel()
    there.stuck()
    while not here.siblings.queued(2):
        here.siblings.tell_one(2, "nothing", {}, bytes(10_000))
    visitors = [here.visit(REQUEST) for _ in range(5)]
    turn(4)
    made = other.tunnel()
    there.siblings.stop()
    for _ in visitors:
        assert opened(made)[1].data == REQUEST


def test_a_visitor_who_leaves_on_his_way(three: list[Worker]) -> None:
    here, there, _ = three
    made = there.tunnel()
    there.stuck()
    visitor = here.visit(REQUEST)
    reset(visitor)
    for channel in there.siblings._channels.values():
        channel.start()
    stream, _ = opened(made)
    assert made.far.next(WINDOW) == (RESET, stream, frames.CANCELLED)


def test_no_descriptors_left(three: list[Worker], caplog: pytest.LogCaptureFixture) -> None:
    """The system has dropped it on its way: nobody is there to be answered."""
    here, there, _ = three
    there.tunnel()
    here.siblings.tell_one(2, "visitor", {"passed": ["http", "a", VISITOR, 0, 1], "family": 2, "held": False})
    here.siblings.tell_one(
        2,
        "visitor",
        {"passed": ["http", "a", VISITOR, 0, 1], "family": 2, "held": False},
        b"",
        [os.dup(0)] * 2,
    )
    until(lambda: caplog.text.count("a visitor from worker 1 is lost") == 2)


def test_a_worker_that_ends_takes_nobody(three: list[Worker]) -> None:
    here, there, _ = three
    there.tunnel()
    there.router.stop()
    assert is_closed(here.visit(REQUEST))


def test_nothing_is_left_behind(three: list[Worker]) -> None:
    here, there, _ = three
    made = there.tunnel()
    before = len(os.listdir("/proc/self/fd"))
    for to, first in (("http", REQUEST), ("sni", client_hello("a.b")), ("port", b"")):
        for _ in range(20):
            visitor = here.visit(first, to=to)
            stream, _ = opened(made)
            made.far.send(made.far.data(stream, b"x"), made.far.frames.eof(stream))
            assert read_all(visitor) == b"x"
            visitor.close()
            made.far.next_of(EOF)
    until(lambda: not made.tunnel.streams)
    turn(5)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_newcomer(three: list[Worker], start: Start) -> None:
    """It passes visitors on as soon as it has met the others, and is passed some."""
    old = three[0]
    made = old.tunnel()
    (new,) = start(1)
    new.siblings.number = 4
    introduce(old.siblings, new.siblings)
    new.siblings.wait(10)
    new.visit(REQUEST)
    opened(made)


# TLS


@BOTH
def test_tls_by_name(three: list[Worker], version: int, counters: metrics.Counters) -> None:
    """The handshake is made where the tunnel is: nothing goes through the worker that has accepted."""
    here, there, _ = three
    made = there.tunnel(version)
    visitor = here.visit_tls(REQUEST)
    stream, asked = opened(made)
    assert asked.data == REQUEST
    if version == 3:
        assert asked.flags == frames.OVER_TLS
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK
    assert (here.passed, counters.visitors_passed, counters.visitors_accepted) == (0, 1, 1)


def test_tls_by_name_in_pieces(three: list[Worker]) -> None:
    here, there, _ = three
    made = there.tunnel()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a.example.com")
    visitor = here.visit(to="tls")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    for at in range(0, len(hello), 50):
        visitor.sendall(hello[at : at + 50])
        turn(1)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            visitor.sendall(outgoing.read())
            incoming.write(visitor.recv(65536))
    tls.write(REQUEST)
    visitor.sendall(outgoing.read())
    assert opened(made)[1].data == REQUEST


def test_tls_with_an_own_tunnel_stays(three: list[Worker], counters: metrics.Counters) -> None:
    here, there, _ = three
    there.tunnel()
    own = here.tunnel()
    here.visit_tls(REQUEST)
    opened(own)
    assert counters.visitors_passed == 0


@pytest.mark.parametrize("name", ["x.example.com", None], ids=["another name", "no name"])
@BOTH
def test_tls_whose_name_does_not_say_it(
    three: list[Worker], name: str | None, version: int, counters: metrics.Counters
) -> None:
    """It is known when the TLS is here already: what is in it goes through."""
    here, there, _ = three
    made = there.tunnel(version)
    visitor = here.visit_tls(REQUEST, name=name)  # type: ignore[arg-type]
    stream, asked = opened(made)
    assert (asked.data, asked.visitor) == (REQUEST, asked.visitor if version == 1 else _address(visitor))
    if version == 3:
        assert asked.flags == frames.OVER_TLS
    assert here.passed == 1
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK
    visitor.sendall(b"next")
    assert data_of(made, stream, 4) == b"next"
    answer(made, stream, b"answer")
    assert read_exactly(visitor, 6) == b"answer"
    assert (counters.visitors_passed, counters.visitors_accepted, counters.streams_opened) == (1, 1, 1)
    made.far.send(made.far.frames.eof(stream))
    assert read_all(visitor) == b""
    visitor.close()
    until(lambda: not here.passed)


def _address(visitor: Any) -> str:
    host, port = visitor.getsockname()
    return f"{host}:{port}"


def test_a_name_that_says_another_than_the_request(three: list[Worker]) -> None:
    """The name has led it to one worker, the Host leads it to a third."""
    here, there, other = three
    there.publishes(("http", "b", 1))
    made = other.tunnel()
    visitor = here.visit_tls(REQUEST, name="b.example.com")
    stream, asked = opened(made)
    assert (asked.data, there.passed) == (REQUEST, 1)
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK


def test_tls_with_another_header_than_host(start: Start) -> None:
    """The name in the hello says nothing about that."""
    here, there, _ = start(http_mux_header="X-Service")
    made = there.tunnel()
    request = b"GET / HTTP/1.1\r\nHost: other\r\nX-Service: a\r\n\r\n"
    here.visit_tls(request, name="a.example.com")
    assert opened(made)[1].data == request
    assert here.passed == 1


def test_a_tunnel_over_tls_stays(three: list[Worker]) -> None:
    three[1].tunnel()
    for name in ("gt.example.com", None):
        sock = three[0].visit_tls(frames.OPENING + b"more", name=name)  # type: ignore[arg-type]
        until(lambda: three[0].admitted)
        ((admitted, _, data),) = three[0].admitted
        assert data == frames.OPENING + b"more"
        admitted.close()
        three[0].admitted.clear()
        sock.close()


def test_a_tunnel_whose_server_is_called_like_a_service(three: list[Worker]) -> None:
    """Its connection goes where that is served, and it is let in there."""
    three[1].tunnel()
    three[0].visit_tls(frames.OPENING, name="a.example.com")
    until(lambda: three[1].admitted)
    assert three[1].admitted[0][2] == frames.OPENING


@pytest.mark.parametrize(
    "first",
    [REQUEST, b"\x80\x2e\x01" + bytes(60), b"\x16\x03\x01\x00\x05hello", b"\x16\x07\x01\x00\x05hello"],
)
def test_what_is_no_tls(three: list[Worker], first: bytes, counters: metrics.Counters) -> None:
    here, there, _ = three
    there.tunnel()
    visitor = here.visit(first, to="tls")
    if first == REQUEST:
        assert status(visitor) == 400
    else:
        try:
            assert not read_all(visitor).startswith(b"HTTP")
        except ConnectionResetError:
            pass
    until(lambda: counters.visitors_tls_failed == 1)


def test_a_visitor_who_does_not_finish_his_hello(three: list[Worker]) -> None:
    here = three[0]
    visitor = here.visit(client_hello("a.b")[:50], to="tls")
    turn(3)
    here.router.tick(FIRST_BYTES_S)
    assert is_closed(visitor)


def test_alone_tls_is_read_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one worker nothing looks at the hello but OpenSSL."""
    (alone,) = start(1)
    made = alone.tunnel()
    monkeypatch.setattr(arrivals.HelloArrival, "start", lambda self: pytest.fail("it looks"))
    alone.visit_tls(REQUEST)
    assert opened(made)[1].data == REQUEST


def test_tls_is_given_up_while_it_is_on_its_way(three: list[Worker]) -> None:
    here, there, _ = three
    there.tunnel()
    there.router._certificate = None
    visitor = here.visit(client_hello("a.example.com"), to="tls")
    assert is_closed(visitor)


def test_a_visitor_over_tls_who_waits(three: list[Worker]) -> None:
    here, there, _ = three
    there.tunnel().tunnel.abort("gone")
    turn(4)
    visitor = here.visit_tls(REQUEST)
    until(lambda: here.router.away)
    made = there.tunnel()
    stream, asked = opened(made)
    assert asked.data == REQUEST
    assert here.passed == 1
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK


def bridged(three: list[Worker]) -> tuple[Any, Made, int]:
    """A visitor whose TLS is in the first worker, and his stream in the second. He knows a cut from an end."""
    made = three[1].tunnel()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    visitor = TLSEnd(three[0].visit(to="tls"), context, server_name="x.example.com")
    visitor.do_handshake()
    visitor.sendall(REQUEST)
    stream, _ = opened(made)
    return visitor, made, stream


def test_a_large_upload_and_download_through_the_bridge(three: list[Worker]) -> None:
    visitor, made, stream = bridged(three)
    up, down = random_bytes(3_000_000, 1), random_bytes(200_000, 2)
    writing = gevent.spawn(visitor.sendall, up)
    assert data_of(made, stream, len(up)) == up
    writing.get(timeout=20)
    for at in range(0, len(down), 65536):
        answer(made, stream, down[at : at + 65536])
    assert read_exactly(visitor, len(down)) == down


def test_a_slow_visitor_behind_the_bridge(three: list[Worker]) -> None:
    """The service has to wait, and this process keeps little."""
    visitor, made, stream = bridged(three)
    (splice,) = three[0].router.handover._splices
    chunk = bytes(65536)
    window = 256 * 1024
    sent = 0
    while True:  # the window is used up when nothing takes it any more
        if window < len(chunk):
            try:
                with gevent.Timeout(0.5):
                    kind, _, value = made.far.next()
            except gevent.Timeout:
                break
            assert kind == WINDOW
            window += value
            continue
        answer(made, stream, chunk)
        sent += len(chunk)
        window -= len(chunk)
    assert splice._back.pending_bytes <= READ_BYTES
    assert made.tunnel.streams[stream].undelivered > 0
    assert len(read_exactly(visitor, sent)) == sent


def test_a_service_that_is_cut_behind_the_bridge(three: list[Worker]) -> None:
    visitor, made, stream = bridged(three)
    answer(made, stream, b"HTTP/1.1 200 OK\r\n\r\nhalf")
    assert read_exactly(visitor, 23)
    made.far.send(made.far.frames.reset(stream, frames.CANCELLED))
    with pytest.raises(ConnectionResetError):
        read_all(visitor)
    until(lambda: not three[0].passed)


def test_a_service_that_ends_behind_the_bridge(three: list[Worker]) -> None:
    visitor, made, stream = bridged(three)
    answer(made, stream, b"HTTP/1.1 200 OK\r\n\r\nall")
    made.far.send(made.far.frames.eof(stream))
    assert read_all(visitor).endswith(b"all")
    visitor.close()
    until(lambda: not three[0].passed)


def test_a_page_through_the_bridge(three: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    visitor, made, stream = bridged(three)
    made.far.send(made.far.frames.reset(stream, frames.TIMED_OUT))
    assert status(visitor) == 504


def test_a_visitor_who_is_cut_before_the_bridge(three: list[Worker]) -> None:
    visitor, made, stream = bridged(three)
    reset(visitor)
    assert made.far.next(WINDOW) == (RESET, stream, frames.CANCELLED)
    until(lambda: not three[0].passed)


def test_a_worker_that_ends_with_visitors_on_its_bridge(three: list[Worker]) -> None:
    visitor, made, stream = bridged(three)
    answer(made, stream, b"HTTP/1.1 200 OK\r\n\r\nhalf")
    assert read_exactly(visitor, 23)
    made.tunnel.abort("the process ends")
    with pytest.raises(ConnectionResetError):
        read_all(visitor)
    until(lambda: not three[0].passed)


def test_the_bridge_is_idle_as_the_other_worker_says(three: list[Worker]) -> None:
    visitor, made, stream = bridged(three)
    for _ in range(200):
        three[0].router.handover.tick(1.0)
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK
    for _ in range(10):
        made.tunnel.tick(1.0)  # Idle(8) in this scene
    with pytest.raises(ConnectionResetError):
        read_all(visitor)
    until(lambda: not three[0].passed)


def test_no_pair_can_be_made(three: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the visitor waits as if the client were away, and is told."""
    monkeypatch.setattr(arrivals, "AWAY_S", 0.05)

    def none(*args: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(splice_module, "HeldSocket", none)
    three[1].tunnel()
    assert status(three[0].visit_tls(REQUEST, name="x.example.com")) == 503


def test_a_pair_that_fails_later(three: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    here = three[0]
    three[1].tunnel()
    monkeypatch.setattr(splice_module.Pairs, "_readable", lambda self: self._reader.stop())
    visitor = here.visit_tls(REQUEST, name="x.example.com")
    until(lambda: here.router.handover._pairs._expected)
    here.router.handover.tick(splice_module.PAIR_S + 1)
    assert status(visitor) == 503


def test_a_visitor_who_is_given_up_while_the_pair_is_made(
    three: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = three[0]
    made = three[1].tunnel()
    monkeypatch.setattr(splice_module.Pairs, "_readable", lambda self: self._reader.stop())
    visitor = here.visit_tls(REQUEST, name="x.example.com")
    pairs = here.router.handover._pairs
    until(lambda: pairs._expected)
    monkeypatch.undo()
    here.router.tick(FIRST_BYTES_S)
    assert read_all(visitor) == b""
    pairs._reader.start(pairs._readable)
    until(lambda: not pairs._expected)
    assert not made.tunnel.streams


def test_the_sibling_has_gone_when_the_pair_is_made(
    three: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, other = three
    there.tunnel()
    monkeypatch.setattr(splice_module.Pairs, "_readable", lambda self: self._reader.stop())
    here.visit_tls(REQUEST, name="x.example.com")
    pairs = here.router.handover._pairs
    until(lambda: pairs._expected)
    monkeypatch.undo()
    there.crash()
    pairs._reader.start(pairs._readable)
    until(lambda: here.router.away)
    made = other.tunnel()
    assert opened(made)[1].data == REQUEST


# requests one by one


def test_requests_to_hosts_in_several_workers(start: Start, counters: metrics.Counters) -> None:
    here, there, other = start(route_per_request=True)
    a, b = there.tunnel(), other.publishes(("http", "b", 3))
    visitor = here.visit(REQUEST)
    stream, asked = opened(a)
    assert asked.data == REQUEST
    answer(a, stream)
    assert read_exactly(visitor, len(OK)) == OK
    visitor.sendall(OTHER)
    stream_b, asked = opened(b)
    assert asked.data == OTHER
    answer(b, stream_b)
    assert read_exactly(visitor, len(OK)) == OK
    visitor.sendall(REQUEST)
    assert data_of(a, stream, len(REQUEST)) == REQUEST, "the same stream"
    answer(a, stream)
    assert read_exactly(visitor, len(OK)) == OK
    assert here.passed == 2
    assert (counters.visitors_accepted, counters.visitors_passed, counters.streams_opened) == (1, 2, 2)
    assert here.router.has_visitors
    visitor.close()
    for made, number in ((a, stream), (b, stream_b)):
        assert made.far.next_of(EOF)[1] == number
        made.far.send(made.far.frames.eof(number))
    until(lambda: not (here.router.has_visitors or a.tunnel.streams or b.tunnel.streams))


def test_requests_one_by_one_over_tls(start: Start) -> None:
    here, there, _ = start(route_per_request=True)
    made = there.tunnel()
    visitor = here.visit_tls(REQUEST, name="x.example.com")
    stream, asked = opened(made)
    assert (asked.data, asked.flags) == (REQUEST, frames.OVER_TLS)
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK


def test_a_body_behind_the_bridge(start: Start) -> None:
    here, there, _ = start(route_per_request=True)
    made = there.tunnel()
    body = random_bytes(1_000_000)
    head = b"POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 1000000\r\n\r\n"
    visitor = here.visit(head)
    stream, asked = opened(made)
    assert asked.data == head
    writing = gevent.spawn(visitor.sendall, body)
    assert data_of(made, stream, len(body)) == body
    writing.get(timeout=20)
    answer(made, stream)
    assert read_exactly(visitor, len(OK)) == OK


def test_a_request_whose_service_is_cut(start: Start) -> None:
    here, there, _ = start(route_per_request=True)
    made = there.tunnel()
    visitor = here.visit(REQUEST)
    stream, _ = opened(made)
    answer(made, stream, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    read_exactly(visitor, 42)
    made.far.send(made.far.frames.reset(stream, frames.CANCELLED))
    assert is_reset(visitor)
    until(lambda: not here.router.has_visitors)


def test_a_page_between_answers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is away, in a connection that goes on."""
    here, there, _ = start(route_per_request=True)
    made = there.tunnel()
    visitor = here.visit(REQUEST)
    stream, _ = opened(made)
    made.far.send(made.far.frames.reset(stream, frames.REFUSED))
    assert visitor.recv(12) == b"HTTP/1.1 502"
    until(lambda: not here.passed)


def test_a_visitor_who_is_cut_between_workers(start: Start) -> None:
    here, there, _ = start(route_per_request=True)
    made = there.tunnel()
    visitor = here.visit(REQUEST)
    stream, _ = opened(made)
    reset(visitor)
    assert made.far.next(WINDOW) == (RESET, stream, frames.CANCELLED)
    until(lambda: not here.router.has_visitors)


def test_a_websocket_behind_the_bridge(start: Start) -> None:
    here, there, _ = start(route_per_request=True)
    made = there.tunnel()
    request = REQUEST[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    visitor = here.visit(request)
    stream, asked = opened(made)
    assert asked.data.startswith(b"GET /page ")
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    answer(made, stream, switched + b"hi")
    assert read_exactly(visitor, len(switched) + 2) == switched + b"hi"
    visitor.sendall(b"\0\1\2")
    assert data_of(made, stream, 3) == b"\0\1\2"
    made.far.send(made.far.frames.eof(stream))
    assert read_all(visitor) == b""
