"""First bytes: of a load balancer, of TLS, of TLS that is passed through, and none at all on a TCP port."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from gtapp.observe import metrics
from gtapp.observe.logs import LIMIT_LINES
from gtapp.relay.tls import TLSSocket
from gtapp.server import arrivals
from gtapp.server.certificates import Certificate
from gtapp.server.router import FIRST_BYTES_S
from gtapp.wire import client_hello as hello_module
from gtapp.wire import frames, proxy_header
from gtapp.wire.client_hello import ALERT_DECODE_ERROR, ALERT_UNRECOGNIZED_NAME
from tests.support.relay import DATA, EOF, OPEN, read_all, read_exactly, reset, turn, until
from tests.unit.server.scene import (
    REQUEST,
    MakeTunnel,
    Scene,
    client_hello,
    fresh_counters,
    is_closed,
    is_reset,
    received,
    status,
)

VISITOR = "203.0.113.9:51234"
HERE = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
WAYS = ["http", "tls", "sni", "port"]


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> metrics.Counters:
    return fresh_counters(monkeypatch)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> list[Certificate]:
    return [
        Certificate("", "", ["localhost"], tmp_path_factory.mktemp("certificate"), "tls1.2") for _ in range(2)
    ]


@pytest.fixture
def make_scene(make_tunnel: MakeTunnel, certificates: list[Certificate]) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(**options: Any) -> Scene:
        scenes.append(Scene(make_tunnel, **options))
        scenes[-1].certificate = SimpleNamespace(context=certificates[0].context)
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


MakeScene = Callable[..., Scene]


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    return make_scene()


@pytest.fixture
def proxied(make_scene: MakeScene) -> Scene:
    """Behind a load balancer on this machine."""
    return make_scene(trusted_proxies=HERE)


def header(version: int, visitor: str = VISITOR) -> bytes:
    build = proxy_header.build_v1 if version == 1 else proxy_header.build_v2
    return build(visitor, "192.0.2.1:80")


# behind a load balancer


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("visitor", [VISITOR, "[2001:db8::1]:51234"])
def test_the_header_says_who_comes(proxied: Scene, version: int, visitor: str) -> None:
    proxied.visit(header(version, visitor) + REQUEST)
    assert proxied.made.far.next()[2] == frames.Open(7, 0, visitor, REQUEST)


@pytest.mark.parametrize("version", [1, 2])
def test_the_header_in_pieces(proxied: Scene, version: int) -> None:
    data = header(version) + REQUEST
    visitor = proxied.visit(data[:1])
    for at in range(1, len(data)):
        turn(1)
        assert proxied.router.waiting == 1
        visitor.sendall(data[at : at + 1])
    assert proxied.made.far.next()[2] == frames.Open(7, 0, VISITOR, REQUEST)


@pytest.mark.parametrize("version", [1, 2])
def test_a_proxy_that_speaks_for_itself(proxied: Scene, version: int) -> None:
    visitor = proxied.visit(header(version, "") + REQUEST)
    host, port = visitor.getsockname()
    assert proxied.made.far.next()[2].visitor == f"{host}:{port}"


def test_a_tunnel_behind_a_proxy(proxied: Scene) -> None:
    proxied.visit(header(2) + b"\xf0\x03hello")
    until(lambda: proxied.admitted)
    assert proxied.admitted[0][1:] == (VISITOR, b"\xf0\x03hello")


@pytest.mark.parametrize(
    "data",
    [
        REQUEST, b"\xf0\x03hello", b"PROXY TCP4 1.2.3.4\r\n" + REQUEST, b"PROXY " + b"x" * 200, b"\x16\x03\x01",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ],
)  # fmt: skip
def test_a_proxy_without_a_header_is_closed(
    proxied: Scene, data: bytes, counters: metrics.Counters, caplog: pytest.LogCaptureFixture
) -> None:
    """To take it for a visitor would let whoever reaches the server through the proxy choose an address."""
    for way in WAYS:
        assert is_closed(proxied.visit(data, way))
    assert "is one of trustedProxies and sends no PROXY header" in caplog.text
    assert proxied.router.waiting == 0
    assert (proxied.admitted, proxied.made.tunnel.streams) == ([], {})
    assert (counters.visitors_accepted, counters.visitors_refused_400) == (0, 0)


def test_health_checks_of_a_proxy_do_not_fill_the_log(
    proxied: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Some only connect, some send a request that has no header, each every second or two."""
    for _ in range(100):
        proxied.visit().close()
        proxied.visit(b"OPTIONS / HTTP/1.0\r\n\r\n")
    until(lambda: not proxied.router.waiting)
    assert caplog.text.count("PROXY header: no PROXY header") == LIMIT_LINES


@pytest.mark.parametrize("version", [1, 2])
def test_others_cannot_say_who_they_are(make_scene: MakeScene, version: int) -> None:
    scene = make_scene(trusted_proxies=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))
    answer = read_all(scene.visit(header(version) + REQUEST, peer="192.0.3.1:1"))
    assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert scene.made.tunnel.streams == {}
    for peer in ("192.0.2.7:1", "[2001:db8::7]:1"):
        scene.visit(header(version) + REQUEST, peer=peer)
        assert scene.made.far.next_of(OPEN)[2].visitor == VISITOR


def test_without_trusted_proxies_nobody_can(scene: Scene) -> None:
    scene.visit(header(2) + REQUEST, "port", "127.0.0.1:1")
    assert scene.made.far.next()[2].visitor == "127.0.0.1:1"


def test_rules_look_at_the_visitor_not_the_proxy(make_scene: MakeScene) -> None:
    scene = make_scene(trusted_proxies=HERE, user={"deny_ips": (ip_network("203.0.113.9/32"),)})
    assert status(scene.visit(header(1) + REQUEST)) == 403
    scene.visit(header(1, "203.0.113.10:5") + REQUEST)
    assert scene.made.far.next()[2].visitor == "203.0.113.10:5"


def test_every_listener_may_stand_behind_a_proxy(proxied: Scene) -> None:
    hello = client_hello("a.example.com")
    proxied.visit(header(1) + hello, "sni")
    assert proxied.made.far.next()[2] == frames.Open(8, 0, VISITOR, hello)
    proxied.visit(header(2) + b"SSH-2.0", "port")
    assert proxied.made.far.next()[2] == frames.Open(9, 0, VISITOR, b"SSH-2.0")
    proxied.visit_tls(REQUEST, first=header(2))
    assert proxied.made.far.next()[2] == frames.Open(7, frames.OVER_TLS, VISITOR, REQUEST)


def test_a_hello_right_behind_the_header(proxied: Scene) -> None:
    """One read has both: the handshake must get what the first stage has read."""
    hello = client_hello("localhost")
    visitor = proxied.visit(header(1) + hello, "tls")
    assert read_exactly(visitor, 3)[:1] == b"\x16", "the server's half of the handshake"


# TLS


def test_a_request_over_tls(scene: Scene) -> None:
    visitor = scene.visit_tls(REQUEST)
    kind, stream, opened = scene.made.far.next()
    assert (kind, opened.service, opened.flags, opened.data) == (OPEN, 7, frames.OVER_TLS, REQUEST)
    scene.made.far.send(scene.made.far.data(stream, b"answer"))
    assert read_exactly(visitor, 6) == b"answer"
    visitor.sendall(b"more")
    assert scene.made.far.next() == (DATA, stream, b"more")


def test_without_tls_the_flag_is_not_set(scene: Scene) -> None:
    scene.visit(REQUEST)
    assert scene.made.far.next()[2].flags == 0


def test_only_http_1_is_offered(scene: Scene) -> None:
    assert scene.visit_tls().selected_alpn_protocol() == "http/1.1"


def test_a_tunnel_over_tls(scene: Scene, certificates: list[Certificate]) -> None:
    scene.visit_tls(b"\xf0\x03hello")
    until(lambda: scene.admitted)
    sock, _, data = scene.admitted[0]
    assert isinstance(sock, TLSSocket)
    assert sock.channel_binding == certificates[0].binding
    assert data == b"\xf0\x03hello"


def test_a_page_over_tls(scene: Scene) -> None:
    assert status(scene.visit_tls(REQUEST.replace(b"a.ex", b"b.ex"))) == 404


def test_a_new_certificate_is_shown_from_then_on(scene: Scene, certificates: list[Certificate]) -> None:
    for certificate in certificates:
        scene.certificate.context = certificate.context
        scene.visit_tls(b"\xf0\x03")
        until(lambda: scene.admitted)
        sock = scene.admitted.pop()[0]
        assert isinstance(sock, TLSSocket)
        assert sock.channel_binding == certificate.binding
        sock.close()


def test_what_is_no_tls_is_closed(scene: Scene, counters: metrics.Counters) -> None:
    visitor = scene.visit(b"\x00" * 100, "tls")
    got = b""
    try:
        got = read_all(visitor)
    except ConnectionResetError:
        pass
    assert got[:1] in (b"", b"\x15"), "nothing, or an alert"
    until(lambda: not scene.router.waiting)
    assert counters.visitors_tls_failed == 1
    assert counters.visitors_not_http == 0


def test_a_request_without_tls_is_told(scene: Scene, counters: metrics.Counters) -> None:
    visitor = scene.visit(REQUEST, "tls")
    page = read_all(visitor)
    assert page.startswith(b"HTTP/1.1 400")
    assert b"https://" in page
    assert counters.visitors_tls_failed == counters.visitors_refused_400 == 1


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_visitor_that_leaves_in_the_handshake(scene: Scene, counters: metrics.Counters, how: str) -> None:
    visitor = scene.visit(client_hello("localhost")[:100], "tls")
    turn()
    if how == "close":
        visitor.close()
    else:
        reset(visitor)
    until(lambda: not scene.router.waiting)
    assert counters.visitors_tls_failed == 1


# TLS that is passed through


@pytest.mark.parametrize("name", ["a.example.com", "A.Example.com", "a"])
def test_a_hello_goes_to_its_service_as_it_came(scene: Scene, counters: metrics.Counters, name: str) -> None:
    hello = client_hello(name)
    visitor = scene.visit(hello + b"early data", "sni")
    host, port = visitor.getsockname()
    opened = frames.Open(8, 0, f"{host}:{port}", hello + b"early data")
    assert scene.made.far.next() == (OPEN, 2, opened)
    visitor.sendall(b"more")
    assert scene.made.far.next() == (DATA, 2, b"more")
    scene.made.far.send(scene.made.far.data(2, b"answer"), scene.made.far.frames.eof(2))
    assert read_all(visitor) == b"answer"
    assert (counters.visitors_accepted, counters.streams_opened) == (1, 1)


def test_a_hello_byte_by_byte(scene: Scene) -> None:
    hello = client_hello("a.example.com")
    visitor = scene.visit(to="sni")
    for at in range(len(hello)):
        visitor.sendall(hello[at : at + 1])
        turn(1)
    assert scene.made.far.next()[2].data == hello


@pytest.mark.parametrize("name", ["b.example.com", None, "example.com", "2222"])
def test_a_name_that_nobody_publishes_gets_an_alert(
    scene: Scene, counters: metrics.Counters, name: str | None
) -> None:
    visitor = scene.visit(client_hello(name), "sni")
    assert read_all(visitor) == ALERT_UNRECOGNIZED_NAME
    assert counters.visitors_refused_alert == 1
    assert scene.router.waiting == 0


def test_what_the_visitor_makes_of_the_alert(scene: Scene) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        scene.visit_tls(to="sni", name="b.example.com")


def test_a_host_of_http_alone_is_not_found(scene: Scene) -> None:
    scene.registry.publish(scene.made.tunnel, "id1", [("http", "a", 0)])
    assert read_all(scene.visit(client_hello("a.example.com"), "sni")) == ALERT_UNRECOGNIZED_NAME


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\0\5\1\0\0\1\0", b"\x16\x03\x01\x40\x01", b"\x16\x03\x01\0\4\x02\0\0\0",
        (b"\x16\x03\x01\x10\0" + b"\1\0\x40\0" + bytes(4092)) + (b"\x16\x03\x01\x10\0" + bytes(4096)) * 4,
    ],
)  # fmt: skip
def test_a_bad_hello_gets_another_alert(scene: Scene, counters: metrics.Counters, data: bytes) -> None:
    visitor = scene.visit(data, "sni")
    assert read_all(visitor) == ALERT_DECODE_ERROR
    assert counters.visitors_refused_alert == 1


@pytest.mark.parametrize("data", [REQUEST, b"\xf0\x03hello", b"SSH-2.0-OpenSSH\r\n", b"\x16GET"])
def test_what_is_no_tls_at_all_is_closed(scene: Scene, counters: metrics.Counters, data: bytes) -> None:
    assert is_closed(scene.visit(data, "sni"))
    assert counters.visitors_not_tls == 1
    assert scene.admitted == []


def test_a_hello_waits_for_a_client_that_comes_back(scene: Scene) -> None:
    scene.away()
    hello = client_hello("a.example.com")
    scene.visit(hello, "sni")
    turn(5)
    assert scene.tunnel_comes().far.next()[2].data == hello


def test_an_alert_when_the_client_does_not_come_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "AWAY_S", 0.02)
    scene.away()
    assert read_all(scene.visit(client_hello("a.example.com"), "sni")) == ALERT_UNRECOGNIZED_NAME


def test_an_alert_for_who_may_not_come_in(make_scene: MakeScene) -> None:
    scene = make_scene(user={"allow_ips": (ip_network("192.0.2.0/24"),)})
    assert read_all(scene.visit(client_hello("a.example.com"), "sni")) == ALERT_UNRECOGNIZED_NAME
    scene.visit(client_hello("a.example.com"), "sni", "192.0.2.9:5")
    assert scene.made.far.next()[0] == OPEN


# a TCP port


def test_a_port_needs_no_first_bytes(scene: Scene, counters: metrics.Counters) -> None:
    """Of SSH and SMTP the service speaks first."""
    visitor = scene.visit(to="port")
    host, port = visitor.getsockname()
    assert scene.made.far.next() == (OPEN, 2, frames.Open(9, 0, f"{host}:{port}", b""))
    scene.made.far.send(scene.made.far.data(2, b"SSH-2.0\r\n"))
    assert read_exactly(visitor, 9) == b"SSH-2.0\r\n"
    visitor.sendall(b"\xf0\x03 is no tunnel here")
    assert scene.made.far.next() == (DATA, 2, b"\xf0\x03 is no tunnel here")
    assert (counters.visitors_accepted, counters.streams_opened, scene.router.waiting) == (1, 1, 0)


def test_a_half_close_on_a_port(scene: Scene) -> None:
    visitor = scene.visit(b"question", "port")
    visitor.shutdown(socket.SHUT_WR)
    assert [scene.made.far.next() for _ in range(3)][1:] == [(DATA, 2, b"question"), (EOF, 2, None)]
    scene.made.far.send(scene.made.far.data(2, b"answer"), scene.made.far.frames.eof(2))
    assert read_all(visitor) == b"answer"


def test_a_port_waits_for_a_client_that_comes_back(scene: Scene) -> None:
    scene.away()
    visitor = scene.visit(b"said early", "port")
    turn(5)
    made = scene.tunnel_comes()
    assert made.far.next()[2] == frames.Open(9, 0, f"127.0.0.1:{visitor.getsockname()[1]}", b"")
    assert made.far.next() == (DATA, 2, b"said early")


def test_a_reset_when_the_client_does_not_come_back(
    scene: Scene, counters: metrics.Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "AWAY_S", 0.02)
    scene.away()
    assert is_reset(scene.visit(to="port"))
    assert counters.visitors_refused_reset == 1


def test_a_reset_on_a_port_that_nobody_publishes(scene: Scene) -> None:
    """It has just been given up, and is closed at the next tick."""
    scene.registry.publish(scene.made.tunnel, "id1", [])
    assert is_reset(scene.visit(to="port"))


def test_a_reset_for_who_may_not_come_in(make_scene: MakeScene) -> None:
    scene = make_scene(user={"deny_ips": (ip_network("127.0.0.0/8"),)})
    assert is_reset(scene.visit(to="port"))
    assert scene.made.tunnel.streams == {}


def test_an_unexpected_error_on_a_port(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It must not leave the visitor in the air, nor reach the listener."""

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scene.router, "connect", fail)
    assert is_closed(scene.visit(to="port"))
    assert "unexpected error" in caplog.text


# time, and the end


@pytest.mark.parametrize(
    ("to", "data"), [("http", b"PROXY TCP4 "), ("tls", b""), ("tls", b"\x16"), ("sni", b"\x16\x03")]
)
def test_every_stage_has_its_time(
    make_scene: MakeScene, counters: metrics.Counters, to: str, data: bytes
) -> None:
    scene = make_scene(trusted_proxies=HERE if to == "http" else ())
    visitor = scene.visit(data, to)
    turn()
    for _ in range(round(FIRST_BYTES_S) - 1):
        scene.router.tick(1.0)
    assert scene.router.waiting == 1
    scene.router.tick(1.0)
    assert scene.router.waiting == 0
    assert counters.visitors_head_timeout == 1
    assert is_closed(visitor)


def test_the_next_stage_has_its_own_time(proxied: Scene) -> None:
    visitor = proxied.visit(to="tls")
    for part in (header(1), client_hello("localhost")):
        for _ in range(round(FIRST_BYTES_S) - 1):
            proxied.router.tick(1.0)
        visitor.sendall(part)
        turn(5)
    assert proxied.router.waiting == 1
    proxied.router.tick(1.0)
    assert proxied.router.waiting == 0


@pytest.mark.parametrize(("to", "data"), [("http", b"PROXY"), ("tls", b"\x16"), ("sni", b"\x16")])
def test_stop_closes_every_stage(make_scene: MakeScene, to: str, data: bytes) -> None:
    scene = make_scene(trusted_proxies=HERE if to == "http" else ())
    visitor = scene.visit(data, to)
    turn()
    scene.router.stop()
    assert scene.router.waiting == 0
    assert is_closed(visitor)


@pytest.mark.parametrize(("to", "data"), [("port", b""), ("sni", client_hello("a"))])
def test_stop_closes_who_waits_for_a_client(scene: Scene, to: str, data: bytes) -> None:
    scene.away()
    visitor = scene.visit(data, to)
    turn()
    assert scene.router.waiting == 1
    scene.router.stop()
    assert scene.router.waiting == 0
    assert is_closed(visitor)


@pytest.mark.parametrize("module", ["hello", "proxy"])
def test_an_unexpected_error_ends_the_one_visitor(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, module: str
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    if module == "hello":
        monkeypatch.setattr(hello_module.HelloReader, "read", fail)
    else:
        monkeypatch.setattr(proxy_header, "parse", fail)
    scene = make_scene(trusted_proxies=HERE if module == "proxy" else ())
    assert is_closed(scene.visit(client_hello("a"), "sni"))
    assert scene.router.waiting == 0
    assert "unexpected error" in caplog.text


def test_a_tunnel_in_pieces_over_tls(scene: Scene) -> None:
    visitor = scene.visit_tls(b"\xf0")
    turn(5)
    visitor.sendall(b"\x03")
    until(lambda: scene.admitted)
    visitor.sendall(b"hello")
    assert received(scene.admitted[0][0]) == b"hello"
