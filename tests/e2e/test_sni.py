"""`https` services behind `sniAddr`: passed through by the name in the ClientHello, never decrypted."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import time

import pytest

from tests.support.certificates import make_pair
from tests.support.daemons import binary
from tests.support.http import Ended, Visitor
from tests.support.ports import Port
from tests.support.services import silent
from tests.support.tls import Handshake, bytewise, in_records, over_tls, trusting
from tests.support.tls_nginx import TLSNginx
from tests.support.world import Client, World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
ABSENCE_S = 3.0
FIRST_BYTES_S = 10.0
SHOP = "shop.example.com"


def publish(
    world: World, nginx: TLSNginx, protocol: str, *prefixes: str, flags: tuple[str, ...] = ()
) -> tuple[Port, Client]:
    """nginx under these host prefixes ("shop" when none is given); the port for visitors."""
    port, secret = world.port(), world.secret()
    server = world.server("--sniAddr", str(port), *flags, users={"id1": secret})
    server.process.wait_for(rf"listening on {port}\b")
    local = dict.fromkeys(prefixes or ("shop",), nginx.url)
    return port, world.client(server, "id1", secret, local=local, protocol=protocol)


def curl(nginx: TLSNginx, port: Port, *words: str, host: str = SHOP, path: str = "/seen") -> str:
    """What real curl gets, and after a line break which HTTP it was."""
    argv = [binary("curl", "curl"), "--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]
    argv += ["--cacert", str(nginx.trusted), "--resolve", f"{host}:{port.number}:127.0.0.1"]
    argv += ["--write-out", "\n%{http_version}", *words, f"https://{host}:{port.number}{path}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


def passes(nginx: TLSNginx, port: Port, name: str = SHOP) -> bool:
    """Whether a visitor sees nginx' own certificate, and its answer."""
    with Visitor(port.address) as visitor:
        over_tls(visitor, trusting(nginx.trusted), name)
        visitor.request(name, "/seen")
        return visitor.response().text.startswith(f"{name} HTTP/1.1 TLSv1.")


def alert(visitor: Visitor, context: ssl.SSLContext, name: str | None) -> str:
    """What TLS of the standard library makes of the alert it gets."""
    with pytest.raises(ssl.SSLError) as caught:
        over_tls(visitor, context, name)
    return str(caught.value.reason)


@BOTH
def test_http_1_and_2(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    port, _ = publish(world, tls_nginx, protocol)
    assert passes(tls_nginx, port)
    assert curl(tls_nginx, port, "--http1.1") == f"{SHOP} HTTP/1.1 TLSv1.3\n1.1"
    assert curl(tls_nginx, port, "--http2") == f"{SHOP} HTTP/2.0 TLSv1.3\n2"
    assert curl(tls_nginx, port, "--http2", "--tls-max", "1.2") == f"{SHOP} HTTP/2.0 TLSv1.2\n2"


@BOTH
def test_the_only_service_has_the_id_for_a_prefix(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    port, secret = world.port(), world.secret()
    server = world.server("--sniAddr", str(port), users={"id1": secret})
    world.client(server, "id1", secret, local=tls_nginx.url, protocol=protocol)
    assert passes(tls_nginx, port, "id1.example.com")


@BOTH
def test_several_services(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    """Which one is decided by the name alone; nginx sees the name that the visitor sent."""
    port, _ = publish(world, tls_nginx, protocol, "shop", "wiki", "blog")
    for name in ("wiki", "blog", "shop"):
        assert passes(tls_nginx, port, f"{name}.example.com")


@BOTH
def test_client_certificates(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    """nginx asks for one, and gets the visitor's: nobody in between has taken the TLS off."""
    port, _ = publish(world, tls_nginx, protocol, "members")
    host = "members.example.com"
    issued = make_pair((), subject="a-member", issuer=tls_nginx.authority)
    member = issued.write(world.directory, "member")
    shown = ("--cert", str(member.cert), "--key", str(member.key))
    for version in ("1.1", "2"):
        flag = "--http2" if version == "2" else "--http1.1"
        assert curl(tls_nginx, port, flag, *shown, host=host) == f"SUCCESS CN=a-member\n{version}"
    refused = curl(tls_nginx, port, "--output", "/dev/null", "--write-out", "%{http_code}", host=host)
    assert refused.startswith("400")


@BOTH
def test_many_transfers_over_one_http_2_connection(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    port, _ = publish(world, tls_nginx, protocol)
    digest = tls_nginx.file("ten-megabytes", 10_000_000)
    base = f"https://{SHOP}:{port.number}"
    argv = [binary("curl", "curl"), "--silent", "--show-error", "--http2", "--parallel", "--max-time", "60"]
    argv += ["--cacert", str(tls_nginx.trusted), "--resolve", f"{SHOP}:{port.number}:127.0.0.1"]
    argv += ["--noproxy", "*"]
    files = [world.directory / f"copy-{number}" for number in range(6)]
    for file in files:
        argv += ["--output", str(file), f"{base}/ten-megabytes"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    for copy in files:
        with copy.open("rb") as content:
            assert hashlib.file_digest(content, "sha256").hexdigest() == digest


@BOTH
def test_a_hello_in_pieces(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    port, _ = publish(world, tls_nginx, protocol)
    for cut in ("bytes", "records of 40 bytes", "records of one byte", "in the middle"):
        handshake = Handshake(trusting(tls_nginx.trusted, "http/1.1"), SHOP)
        visitor = world.visitor(port.address)
        hello = handshake.hello
        pieces = {
            "bytes": list(bytewise(hello)),
            "records of 40 bytes": [in_records(hello, 40)],
            "records of one byte": [in_records(hello, 1)],
            "in the middle": [hello[: len(hello) // 2], hello[len(hello) // 2 :]],
        }[cut]
        for piece in pieces:
            visitor.send(piece)
        handshake.finish(visitor)
        assert b"200 OK" in handshake.fetch(visitor, SHOP, "/seen"), cut


@BOTH
def test_a_big_hello(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    """Nearly 16 KiB, as more than a post-quantum key share makes it."""
    port, _ = publish(world, tls_nginx, protocol)
    offered = [f"{number:03}-".ljust(250, "x") for number in range(61)]
    handshake = Handshake(trusting(tls_nginx.trusted, "http/1.1", *offered), SHOP)
    assert 15_000 < len(handshake.hello) < 16_384
    visitor = world.visitor(port.address)
    visitor.send(handshake.hello)
    handshake.finish(visitor)
    assert b"200 OK" in handshake.fetch(visitor, SHOP, "/seen")


@BOTH
def test_a_name_in_upper_case_with_a_final_dot(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    port, _ = publish(world, tls_nginx, protocol)
    context = trusting(tls_nginx.trusted)
    context.check_hostname = False
    handshake = Handshake(context, "SHOP.Example.COM.")
    visitor = world.visitor(port.address)
    visitor.send(handshake.hello)
    handshake.finish(visitor)
    assert b"200 OK" in handshake.fetch(visitor, SHOP, "/seen")


@BOTH
def test_no_name_or_one_that_nobody_has(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    """The alert that says so, at once, and in the words of real clients."""
    port, secret = world.port(), world.secret()
    server = world.server("--sniAddr", str(port), users={"id1": secret})
    local = {"shop": tls_nginx.url, "web": world.service(silent).url}
    world.client(server, "id1", secret, local=local, protocol=protocol)
    # web is published in the clear alone.
    for name in (
        "nobody.example.com",
        "example.com",
        "id1.example.com",
        "web.example.com",
        "127.0.0.1",
        None,
    ):
        took = []
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trusting(tls_nginx.trusted)
            context.maximum_version = version
            started = time.monotonic()
            visitor = world.visitor(port.address)
            assert alert(visitor, context, name) == "TLSV1_UNRECOGNIZED_NAME"
            took.append(time.monotonic() - started)
        assert min(took) < ABSENCE_S - 0.5, name
    words = [
        binary("openssl", "openssl"),
        "s_client",
        "-connect",
        str(port),
        "-servername",
        "nobody.example.com",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert "unrecognized name" in done.stderr


def test_a_hello_that_is_malformed(world: World, tls_nginx: TLSNginx) -> None:
    port, _ = publish(world, tls_nginx, "3")
    hello = Handshake(trusting(tls_nginx.trusted), SHOP).hello
    visitor = world.visitor(port.address)
    visitor.send(hello.replace(SHOP.encode(), b"shop\0example.com"))
    assert visitor.exactly(7) == b"\x15\x03\x03\x00\x02\x02\x32"  # fatal, decode_error
    assert visitor.ending(10)


def test_a_hello_over_the_limit(world: World, tls_nginx: TLSNginx) -> None:
    port, _ = publish(world, tls_nginx, "3")
    offered = [f"{number:03}-".ljust(250, "x") for number in range(80)]
    hello = Handshake(trusting(tls_nginx.trusted, *offered), SHOP).hello
    assert len(hello) > 16_384
    visitor = world.visitor(port.address)
    visitor.send(hello)
    try:
        assert visitor.receive().startswith(b"\x15\x03")
        assert visitor.ending(10)
    except Ended as ended:
        assert ended.how == "reset"  # noqa: PT017 (with bytes of ours unread)


def test_what_is_no_tls_is_closed(world: World, tls_nginx: TLSNginx) -> None:
    """Without a word: nobody there would understand one. And no tunnel comes in here."""
    port, client = publish(world, tls_nginx, "3")
    for what, first in {
        "HTTP": b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n",
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "a tunnel of protocol 3": b"\xf0\x03",
        "a tunnel of protocol 1": b"\xf0\x01\x03id1\x01x\x00",
        "zeros": b"\x00" * 300,
        "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
        "TLS, but data": b"\x17\x03\x03\x00\x05hello",
        "half a header, and the end": b"\x16\x03",
    }.items():
        visitor = world.visitor(port.address)
        visitor.send(first)
        if "the end" in what:
            visitor.socket.shutdown(socket.SHUT_WR)
        with pytest.raises(Ended):
            print(what, visitor.receive())
    assert client.process.running
    assert passes(tls_nginx, port)


def test_half_a_hello_times_out(world: World, tls_nginx: TLSNginx) -> None:
    """Whoever stops in the middle is closed, and so is who goes on too slowly."""
    port, _ = publish(world, tls_nginx, "3")
    hello = Handshake(trusting(tls_nginx.trusted), SHOP).hello
    visitors = [world.visitor(port.address) for _ in range(4)]
    started = time.monotonic()
    for visitor, piece in zip(visitors, (b"", hello[:1], hello[:100], hello[:-1]), strict=True):
        visitor.send(piece)
    for visitor in visitors:
        assert visitor.ending(FIRST_BYTES_S + 10)
    assert time.monotonic() - started > FIRST_BYTES_S - 2
    assert passes(tls_nginx, port)


@BOTH
def test_a_host_that_is_away(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    """Its visitor waits for the client, 3 s at most."""
    port, client = publish(world, tls_nginx, protocol)
    assert passes(tls_nginx, port)
    client.process.kill()
    hello = Handshake(trusting(tls_nginx.trusted), SHOP).hello
    for _ in range(2):  # the first may still have met the tunnel
        started = time.monotonic()
        visitor = world.visitor(port.address)
        visitor.send(hello)
        assert visitor.ending(ABSENCE_S + 5)
    assert time.monotonic() - started > ABSENCE_S - 0.5


@BOTH
def test_a_host_that_comes_back_in_time(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    port, secret = world.port(), world.secret()
    server = world.server("--sniAddr", str(port), users={"id1": secret})
    local = {"shop": tls_nginx.url}
    first = world.client(server, "id1", secret, local=local, protocol=protocol)
    mark = server.process.mark()
    first.process.end()
    server.process.wait_for(r"tunnel of id1 .*", after=mark)
    handshake = Handshake(trusting(tls_nginx.trusted, "http/1.1"), SHOP)
    started = time.monotonic()
    visitor = world.visitor(port.address)
    visitor.send(handshake.hello)
    world.client(server, "id1", secret, local=local, protocol=protocol, name="second client")
    up = time.monotonic() - started
    if up > ABSENCE_S - 0.5:
        pytest.skip(f"this machine took {up:.1f} s to start a client; a visitor waits 3 s")
    handshake.finish(visitor)
    assert b"200 OK" in handshake.fetch(visitor, SHOP, "/seen")


@BOTH
def test_a_service_that_is_down(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    port, secret = world.port(), world.secret()
    server = world.server("--sniAddr", str(port), users={"id1": secret})
    url = f"https://{world.port()}"
    client = world.client(server, "id1", secret, local={"shop": url}, protocol=protocol)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        over_tls(world.visitor(port.address), trusting(tls_nginx.trusted), SHOP)
    client.process.wait_for(r"refused")


def test_nothing_in_the_middle_is_decrypted(world: World, tls_nginx: TLSNginx) -> None:
    """What the service gets are the very bytes that the visitor sent."""
    port, secret = world.port(), world.secret()
    server = world.server("--sniAddr", str(port), users={"id1": secret})
    recorded: list[bytes] = []
    hello = in_records(Handshake(trusting(tls_nginx.trusted), SHOP).hello, 100)
    more = b"\x17\x03\x03\x00\x05\x00\xff\x00\xf0\x03"
    service = world.service(
        lambda connection: recorded.append(connection.socket.recv(1 << 16, socket.MSG_WAITALL))
    )
    url = service.url.replace("http", "https")
    world.client(server, "id1", secret, local={"shop": url})
    visitor = world.visitor(port.address)
    visitor.send(hello + more)
    visitor.socket.shutdown(socket.SHUT_WR)
    assert visitor.ending(10)
    assert recorded == [hello + more]


def test_idle_visitors_cost_no_greenlets(world: World, tls_nginx: TLSNginx) -> None:
    port, secret = world.port(), world.secret()
    server = world.server("--sniAddr", str(port), users={"id1": secret})
    service = world.service(silent)
    world.client(server, "id1", secret, local={"shop": service.url.replace("http", "https")})
    before = server.process.stats()
    hello = Handshake(trusting(tls_nginx.trusted), SHOP).hello
    visitors = [world.visitor(port.address) for _ in range(200)]
    for visitor in visitors:
        visitor.send(hello)
    service.wait_connections(200)
    assert server.process.stats()["greenlets"] <= before["greenlets"] + 2
    for visitor in visitors:
        visitor.close()
    server.process.settle(streams=0, spare_fds=before["spare_fds"])
