"""The client's dial to a local service, and the stream that waits for it."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from gtapp.client import services as services_module
from gtapp.client.health import Healths
from gtapp.client.request_pump import RequestPump
from gtapp.client.services import DIAL_S, NAMES_S, SAY_EVERY_S, Services
from gtapp.config.load import Service
from gtapp.config.values import URL
from gtapp.observe import metrics
from gtapp.relay.clock import Clock
from gtapp.relay.pump import Pump
from gtapp.relay.sockets import PlainSocket, plain_socket
from gtapp.relay.stream import INITIAL_WINDOW
from gtapp.wire import frames
from gtapp.wire.handshake import ServiceSpec
from gtapp.wire.proxy_header import build_v1, build_v2
from tests.support.ports import Port
from tests.support.relay import (
    CLOSED,
    DATA,
    EOF,
    RESET,
    Made,
    ours,
    random_bytes,
    read_all,
    read_exactly,
    reset,
    turn,
    until,
)

MakeTunnel = Callable[..., Made]


@pytest.fixture
def port() -> Iterator[Port]:
    with Port() as made:
        yield made


@pytest.fixture
def listener(port: Port) -> Iterator[Any]:
    sock = ours(port.listen())
    yield sock
    sock.close()


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    fresh = metrics.Counters()
    monkeypatch.setattr(services_module, "counters", fresh)
    return fresh


class Scene:
    """A client's tunnel whose streams go to `urls`; `far` is the server's end."""

    def __init__(
        self,
        make_tunnel: MakeTunnel,
        *urls: URL | Service,
        version: int = 3,
        healths: Healths | None = None,
    ) -> None:
        self.clock = Clock([60])
        services = [each if isinstance(each, Service) else Service(local=each) for each in urls]
        self.services = Services(services, self.clock, healths)
        self.made = make_tunnel(version=version, is_server=False)
        self.made.tunnel.on_open = self.services.open
        self.made.up()
        self.far, self.tunnel = self.made.far, self.made.tunnel

    def open(
        self, service: int = 0, data: bytes = b"", stream: int = 2, visitor: str = "192.0.2.1:5"
    ) -> None:
        self.far.send(self.far.frames.open(stream, service, visitor, data))


def local(port: Port, host: str = "127.0.0.1") -> URL:
    return URL("http", host, port.number)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("version", [3, 1])
def test_a_stream_goes_to_its_service(
    make_tunnel: MakeTunnel, port: Port, listener: Any, host: str, version: int
) -> None:
    scene = Scene(make_tunnel, URL("http", "192.0.2.1", 1), local(port, host), version=version)
    scene.open(1, b"question")
    service, _ = listener.accept()
    assert read_exactly(service, 8) == b"question"
    service.sendall(b"answer")
    assert scene.far.next() == (DATA, 2, b"answer")
    service.close()
    scene.far.send(scene.far.frames.eof(2))
    until(lambda: not scene.tunnel.streams)


def test_a_service_that_is_not_there(
    make_tunnel: MakeTunnel, port: Port, counters: metrics.Counters, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(make_tunnel, local(port))
    scene.open()
    assert scene.far.next() == (RESET, 2, frames.REFUSED)
    assert counters.dials_failed == 1
    assert f"service http://127.0.0.1:{port.number}: Connection refused" in caplog.text
    assert not scene.tunnel.streams


@pytest.mark.parametrize("host", ["no-such-name.invalid", "x" * 64 + ".example"])
def test_a_name_that_has_no_address(
    make_tunnel: MakeTunnel, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def look_up(name: str, *args: Any, **kwargs: Any) -> Any:  # the network is not asked
        if name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    scene = Scene(make_tunnel, URL("http", host, 80))
    scene.open()
    assert scene.far.next() == (RESET, 2, frames.REFUSED)


def test_a_service_index_that_does_not_exist(make_tunnel: MakeTunnel, port: Port) -> None:
    scene = Scene(make_tunnel, local(port))
    scene.open(7, b"data")
    assert scene.far.next() == (RESET, 2, frames.PROTOCOL)
    assert not scene.tunnel.closed


def test_the_next_address_is_tried(
    make_tunnel: MakeTunnel, port: Port, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*args: Any, **kwargs: Any) -> Any:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port.number, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", port.number)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port.number)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    scene = Scene(make_tunnel, local(port, "localhost"))
    scene.open(0, b"question")
    service, _ = listener.accept()
    assert read_exactly(service, 8) == b"question"
    service.close()


def test_a_name_is_looked_up_again_after_a_while(
    make_tunnel: MakeTunnel, port: Port, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(name: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(name)
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(services_module, "monotonic", lambda: now[0])
    scene = Scene(make_tunnel, local(port, "localhost"))
    for number, pause in enumerate((0.0, NAMES_S - 0.1, 0.2)):
        now[0] += pause
        scene.open(0, b"x", 2 + 2 * number)
        listener.accept()[0].close()
    assert len(asked) == 2


class Stuck:
    """A dial that takes its time: the listener's backlog is full, so that the SYN is not answered."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.url = URL("http", *self.listener.getsockname())
        self.fillers = []
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self.listener.getsockname())
            self.fillers.append(sock)
        turn(10)

    def close(self) -> None:
        for sock in (*self.fillers, self.listener):
            sock.close()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    made = Stuck()
    yield made
    made.close()


def test_a_service_that_does_not_answer_the_dial(
    make_tunnel: MakeTunnel, stuck: Stuck, counters: metrics.Counters
) -> None:
    scene = Scene(make_tunnel, stuck.url)
    scene.open(0, b"question")
    until(lambda: scene.tunnel.streams)
    for _ in range(scene.clock.ticks(DIAL_S)):
        scene.tunnel.tick(0.0)
    assert scene.tunnel.streams
    scene.tunnel.tick(0.0)
    assert scene.far.next() == (RESET, 2, frames.TIMED_OUT)
    assert counters.dials_failed == 1
    assert not scene.tunnel.streams


@pytest.mark.parametrize("how", ["reset", "tunnel", "tunnel after eof"])
def test_a_visitor_that_leaves_during_the_dial(make_tunnel: MakeTunnel, stuck: Stuck, how: str) -> None:
    scene = Scene(make_tunnel, stuck.url)
    scene.open(0, b"question")
    until(lambda: scene.tunnel.streams)
    if how == "reset":
        scene.far.send(scene.far.frames.reset(2, 0))
    elif how == "tunnel":
        scene.far.close()
    else:
        scene.far.send(scene.far.frames.eof(2))
        scene.far.close()
    until(lambda: not scene.tunnel.streams)


def late(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The dial succeeds only when what this returns is called."""
    real = plain_socket
    open_now: list[bool] = []

    class Late(PlainSocket):
        def connect_ex(self, name: Any) -> int:
            return super().connect_ex(name) if open_now else errno.EINPROGRESS

    def plain(family: int, fd: int | None = None) -> socket.socket:
        made = Late(family, socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    monkeypatch.setattr(services_module, "plain_socket", plain)

    def release() -> None:
        open_now.append(True)
        monkeypatch.setattr(services_module, "plain_socket", real)

    return release


def test_what_comes_during_the_dial_is_kept_in_order(
    make_tunnel: MakeTunnel, port: Port, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(make_tunnel, local(port))
    release = late(scene, monkeypatch)
    data = random_bytes(INITIAL_WINDOW)
    scene.open(0, data[:1000])
    for at in range(1000, len(data), 50_000):
        scene.far.send(scene.far.data(2, data[at : at + 50_000]))
    scene.far.send(scene.far.frames.eof(2))
    until(lambda: scene.tunnel.streams and scene.tunnel.streams[2].eof_received)
    assert scene.tunnel.streams[2].undelivered == len(data)
    release()
    service, _ = listener.accept()
    assert read_all(service) == data
    assert isinstance(scene.tunnel.streams[2].sink, Pump)
    service.sendall(b"answer")
    service.close()
    assert scene.far.next_of(DATA) == (DATA, 2, b"answer")
    assert scene.far.next()[0] == EOF
    until(lambda: not scene.tunnel.streams)


def test_protocol_1_visitor_gone_during_the_dial(
    make_tunnel: MakeTunnel, port: Port, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(make_tunnel, local(port), version=1)
    release = late(scene, monkeypatch)
    scene.open(0, b"question")
    scene.far.send(scene.far.frames.eof(2))
    until(lambda: scene.tunnel.streams and scene.tunnel.streams[2].eof_received)
    release()
    service, _ = listener.accept()
    assert read_all(service) == b"question"
    until(lambda: not scene.tunnel.streams)
    service.close()


def test_out_of_descriptors(make_tunnel: MakeTunnel, port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(family: int, fd: int | None = None) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    scene = Scene(make_tunnel, local(port))
    monkeypatch.setattr(services_module, "plain_socket", none_left)
    scene.open()
    assert scene.far.next() == (RESET, 2, frames.LIMIT)


def test_a_service_that_resets(make_tunnel: MakeTunnel, port: Port, listener: Any) -> None:
    scene = Scene(make_tunnel, local(port))
    scene.open(0, b"question")
    service, _ = listener.accept()
    reset(service)
    assert scene.far.next()[:2] == (RESET, 2)
    until(lambda: not scene.tunnel.streams)


# who may come in


NETWORKS = {
    "allow_ips": (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
    "deny_ips": (ip_network("192.0.2.7"),),
}


@pytest.mark.parametrize(
    ("lists", "visitor", "comes_in"),
    [
        (("allow_ips",), "192.0.2.7:5", True),
        (("allow_ips",), "198.51.100.1:5", False),
        (("allow_ips",), "[2001:db8::1]:5", True),
        (("allow_ips",), "[2001:db9::1]:5", False),
        (("allow_ips",), "", False),
        (("deny_ips",), "192.0.2.7:5", False),
        (("deny_ips",), "192.0.2.8:5", True),
        (("deny_ips",), "", True),
        (("allow_ips", "deny_ips"), "192.0.2.7:5", False),
        (("allow_ips", "deny_ips"), "192.0.2.8:5", True),
        (("allow_ips", "deny_ips"), "", False),
    ],
)
def test_who_may_come_in(
    make_tunnel: MakeTunnel,
    port: Port,
    listener: Any,
    counters: metrics.Counters,
    lists: tuple[str, ...],
    visitor: str,
    comes_in: bool,
) -> None:
    service = Service(local=local(port), **{name: NETWORKS[name] for name in lists})  # type: ignore[arg-type]
    scene = Scene(make_tunnel, service)
    scene.open(0, b"question", visitor=visitor)
    if comes_in:
        sock, _ = listener.accept()
        assert read_exactly(sock, 8) == b"question"
        sock.close()
    else:
        assert scene.far.next() == (RESET, 2, frames.FORBIDDEN)
        assert not scene.tunnel.streams
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert (counters.streams_opened, counters.streams_forbidden) == (comes_in, not comes_in)


def test_over_protocol_1_who_is_kept_out_sees_an_end(make_tunnel: MakeTunnel, port: Port) -> None:
    service = Service(local=local(port), allow_ips=NETWORKS["allow_ips"])
    scene = Scene(make_tunnel, service, version=1)
    scene.open(0, b"question")
    assert scene.far.next() == (CLOSED, 2, None)


def test_visitors_who_are_kept_out_do_not_fill_the_log(
    make_tunnel: MakeTunnel, port: Port, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now = [1000.0]
    monkeypatch.setattr(services_module, "monotonic", lambda: now[0])
    services = [Service(local=local(port), deny_ips=NETWORKS["deny_ips"])] * 2
    scene = Scene(make_tunnel, *services)
    stream = 0
    for service, count in ((0, 20), (1, 1), (0, 1)):
        for _ in range(count):
            stream += 2
            scene.open(service, stream=stream, visitor="192.0.2.7:5")
            scene.far.next()
    lines = [line for line in caplog.messages if "192.0.2.7:5 may not come in" in line]
    assert len(lines) == 2
    now[0] += SAY_EVERY_S
    scene.open(0, stream=stream + 2, visitor="192.0.2.7:5")
    scene.far.next()
    assert caplog.messages[-1].endswith("21 since the last such line")


def test_a_list_that_cannot_be_kept_is_said(
    make_tunnel: MakeTunnel, port: Port, listener: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene = Scene(make_tunnel, Service(local=local(port), deny_ips=NETWORKS["deny_ips"]), version=1)
    scene.open()
    listener.accept()[0].close()
    assert "keeps nobody out over protocol 1" in caplog.text


# the PROXY header


@pytest.mark.parametrize("version", [3, 1])
@pytest.mark.parametrize("header", ["v1", "v2"])
def test_the_proxy_header_comes_first_and_without_a_word_of_the_visitor(
    make_tunnel: MakeTunnel, port: Port, listener: Any, header: str, version: int
) -> None:
    service = Service(local=URL("tcp", "127.0.0.1", port.number), proxy_protocol=header)
    scene = Scene(make_tunnel, service, version=version)
    scene.open()
    sock, _ = listener.accept()
    build = build_v1 if header == "v1" else build_v2
    visitor = "192.0.2.1:5" if version == 3 else ""
    expected = build(visitor, f"127.0.0.1:{port.number}")
    assert read_exactly(sock, len(expected)) == expected
    scene.far.send(scene.far.data(2, b"question"))
    assert read_exactly(sock, 8) == b"question"
    assert scene.tunnel.streams[2].undelivered == 0
    sock.close()


def test_the_proxy_header_and_what_came_during_the_dial(
    make_tunnel: MakeTunnel, port: Port, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(make_tunnel, Service(local=local(port), proxy_protocol="v1"))
    release = late(scene, monkeypatch)
    data = random_bytes(INITIAL_WINDOW)
    scene.open(0, data[:1000])
    for at in range(1000, len(data), 50_000):
        scene.far.send(scene.far.data(2, data[at : at + 50_000]))
    scene.far.send(scene.far.frames.eof(2))
    until(lambda: scene.tunnel.streams and scene.tunnel.streams[2].eof_received)
    release()
    sock, _ = listener.accept()
    assert read_all(sock) == build_v1("192.0.2.1:5", f"127.0.0.1:{port.number}") + data
    sock.close()
    assert scene.far.next_of(EOF)


# what the server is told


def test_what_the_server_is_told() -> None:
    services = [
        Service(local=URL("http", "127.0.0.1", 80), host_prefix="a"),
        Service(local=URL("https", "127.0.0.1", 443), host_prefix="b"),
        Service(local=URL("tcp", "127.0.0.1", 22), remote_tcp_port=2222, remote_tcp_random=False),
        Service(local=URL("tcp", "127.0.0.1", 23), remote_tcp_random=True),
    ]
    assert Services(services, Clock([60])).specs == [
        ServiceSpec("http", "a"),
        ServiceSpec("tls", "b"),
        ServiceSpec("tcp", None, 2222, False),
        ServiceSpec("tcp", None, 0, True),
    ]


@pytest.mark.parametrize(
    ("wish", "kind"),
    [
        ({}, Pump),
        ({"proxy_protocol": "v1"}, Pump),
        ({"use_local_as_http_host": True}, RequestPump),
        ({"forwarded_for": True}, RequestPump),
    ],
)
def test_only_who_wishes_it_has_every_request_read(
    make_tunnel: MakeTunnel, port: Port, listener: Any, wish: dict[str, Any], kind: type[Pump]
) -> None:
    scene = Scene(make_tunnel, Service(local=local(port), host_prefix="a", **wish))
    scene.open()
    listener.accept()[0].close()
    until(lambda: scene.tunnel.streams)
    assert type(scene.tunnel.streams[2].sink) is kind
    scene.far.send(scene.far.frames.reset(2, 0))
    until(lambda: not scene.tunnel.streams)


# health


def test_how_a_service_does(make_tunnel: MakeTunnel, port: Port) -> None:
    """It is away, then there."""
    healths, url = Healths(), local(port)
    scene = Scene(make_tunnel, url, healths=healths)
    (health,) = healths.all()
    assert health.status()["works"] is None
    scene.open()
    assert scene.far.next() == (RESET, 2, frames.REFUSED)
    first = health.status()
    assert (first["works"], first["dials"], first["failed"]) == (False, 1, 1)
    assert first["problem"] == "Connection refused"
    assert time.time() - 5 < first["failed_at"] == first["last_dial"] < time.time() + 1
    with ours(port.listen()) as listener:
        scene.open(stream=4)
        service, _ = listener.accept()
        now = health.status()
        assert (now["works"], now["dials"], now["failed"]) == (True, 2, 1)
        assert now["last_dial"] >= now["failed_at"] == first["failed_at"]
        service.close()
    assert health.account.opened == 2


def test_services_of_a_reload_have_the_health_of_those_before(make_tunnel: MakeTunnel, port: Port) -> None:
    healths, url = Healths(), local(port)
    Scene(make_tunnel, url, healths=healths)
    scene = Scene(make_tunnel, local(port), URL("tcp", "127.0.0.1", 1), healths=healths)
    assert [each.account.name for each in healths.all()] == [str(url), "tcp://127.0.0.1:1"]
    assert [each.account.kind for each in healths.all()] == ["http", "tcp"]
    scene.open()
    assert scene.far.next() == (RESET, 2, frames.REFUSED)
    assert [each.dials for each in healths.all()] == [1, 0]


def test_how_long_a_dial_takes(make_tunnel: MakeTunnel, port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is through at once is not timed, one whose name has to be looked up is; one that fails is neither."""
    histogram = metrics.Histogram("dial_seconds", "", (1.0, 5.0))
    monkeypatch.setattr(services_module, "dial_seconds", histogram)
    scene = Scene(make_tunnel, local(port), local(port, "localhost"))
    scene.open()
    assert scene.far.next() == (RESET, 2, frames.REFUSED)
    with ours(port.listen()) as listener:
        scene.open(stream=4)
        listener.accept()[0].close()
        scene.open(1, stream=6)
        listener.accept()[0].close()
        until(lambda: histogram.snapshot()["count"] == 2)
    snapshot = histogram.snapshot()
    assert snapshot["buckets"] == [[1.0, 2], [5.0, 2]]
    assert 0 < snapshot["sum"] < 1.0
