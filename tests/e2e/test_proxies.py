"""Who the visitor is, and whether he may come in: behind a real HAProxy, from trusted and other addresses, and told
to the service by PROXY header.

All addresses are of the loopback network: HAProxy comes from 127.0.0.2, which is trusted, visitors from 127.0.0.3 and
127.0.0.4, clients from 127.0.0.1.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_pair
from tests.support.daemons import HAProxy
from tests.support.http import Ended, Visitor
from tests.support.ports import Address, Port
from tests.support.services import Connection, answering, echoing, greeting
from tests.support.tls import Handshake, over_tls, trusting
from tests.support.tls_nginx import TLSNginx
from tests.support.world import Client, Server, World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
WAYS = ("http", "https", "sni", "tcp")
HEADERS = pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
FIRST_BYTES_S = 10.0
PROXY, FRIEND, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.4"
V1 = b"PROXY TCP4 127.0.0.3 127.0.0.1 51234 80\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
    + socket.inet_aton(FRIEND)
    + socket.inet_aton("127.0.0.1")
    + b"\xc8\x22\0\x50"
)


@dataclass
class Front:
    """A server with one service for each way to it."""

    world: World
    nginx: TLSNginx
    server: Server
    client: Client
    certificate: Path
    addresses: dict[str, Address]

    def ask(self, visitor: Visitor, way: str) -> str:
        """What the service says it sees of the visitor: the address nginx was told, or for plain TCP all of the header.
        Raises Ended or ssl.SSLError where he is kept out."""
        if way == "tcp":
            visitor.send(b"hello")
            return visitor.until(b"hello").decode("latin-1")
        if way != "http":
            trusted = self.certificate if way == "https" else self.nginx.trusted
            over_tls(visitor, trusting(trusted), f"{way}.example.com")
        visitor.request(f"{way}.example.com", "/seen")
        response = visitor.response()
        return response.text if response.status == 200 else str(response.status)

    def seen(self, way: str, source: str, address: Address | None = None) -> str:
        """The same on a connection of its own; "refused" where it is closed without an answer, or by an alert."""
        try:
            with Visitor(address or self.addresses[way], source=source) as visitor:
                return self.ask(visitor, way)
        except (Ended, ssl.SSLError, ConnectionError):  # also while it connects, so quick is the reset
            return "refused"


def front(
    world: World,
    nginx: TLSNginx,
    protocol: str = "3",
    *,
    told: str = "v1",
    user: dict[str, Any] | None = None,
    service: dict[str, Any] | None = None,
    **options: Any,
) -> Front:
    """Options are the server's, `user` is added to the entry of the user, `service` to those of the services."""
    secret = world.secret()
    ports: dict[str, Port] = {way: world.port() for way in WAYS}
    files = make_pair(["https.example.com"]).write(world.directory)
    entry = {"secret": secret, "tcp": [{"range": str(ports["tcp"].number)}]} | (user or {})
    options |= {
        "addr": str(ports["http"]),
        "tlsAddr": str(ports["https"]),
        "sniAddr": str(ports["sni"]),
        "certFile": str(files.cert),
        "keyFile": str(files.key),
    }
    config = {"type": "server", "users": {"id1": entry}, "options": options}
    server = world.server(config=config, port=ports["http"])
    plain = world.service(echoing).url.replace("http", "tcp")
    more: dict[str, Any] = {"proxyProtocol": told} if told else {}
    more |= service or {}
    web = nginx.told if told else world.service(answering(b"in")).url
    services = [
        {"local": web, "hostPrefix": "http"} | more,
        {"local": web, "hostPrefix": "https"} | more,
        {"local": nginx.told_tls if told else nginx.url, "hostPrefix": "sni"} | more,
        {"local": plain} | more,
    ]
    secrets = {"id": "id1", "secret": secret, "remote": server.remote, "protocol": protocol}
    path = world.write("client.yml", {"type": "client", "services": services, "options": secrets})
    argv = ["client", "-c", str(path)]
    client = Client(world.gt("client", argv), argv)
    client.process.wait_for(r"tunnel \d+ to .* is up")
    addresses = {way: port.address for way, port in ports.items()}
    return Front(world, nginx, server, client, files.cert, addresses)


def shown(answer: str) -> str:
    """The visitor's address in what the service says of him."""
    found = re.search(r"^(?:PROXY TCP4 )?(127\.[0-9.]+)", answer)
    return found[1] if found else answer


# Told to the service


@pytest.mark.parametrize("told", ["v1", "v2"])
def test_the_service_is_told_who_it_is(world: World, tls_nginx: TLSNginx, told: str) -> None:
    """nginx understands it, and it is the visitor's own address and port."""
    made = front(world, tls_nginx, told=told)
    for way in ("http", "https", "sni"):
        visitor = world.visitor(made.addresses[way], source=FRIEND)
        number = visitor.socket.getsockname()[1]
        assert made.ask(visitor, way) == f"{FRIEND}:{number}"
        if way != "sni":  # once for the connection, not for each request
            visitor.request(f"{way}.example.com", "/seen")
            assert visitor.response().text == f"{FRIEND}:{number}"
    visitor = world.visitor(made.addresses["tcp"], source=FRIEND)
    number = visitor.socket.getsockname()[1]
    header = made.ask(visitor, "tcp").removesuffix("hello").encode("latin-1")
    if told == "v1":
        assert re.fullmatch(rb"PROXY TCP4 127\.0\.0\.3 127\.0\.0\.1 %d [0-9]+\r\n" % number, header)
    else:
        assert header[:16] == V2[:16]
        assert header[16:24] == socket.inet_aton(FRIEND) + socket.inet_aton("127.0.0.1")
        assert struct.unpack(">HH", header[24:])[0] == number


def test_the_service_that_speaks_first_is_told_before(world: World) -> None:
    """The header comes without a byte of the visitor's."""
    port, secret = world.port(), world.secret()
    server = world.server("--tcpRange", str(port.number), users={"id1": secret})

    def handler(connection: Connection) -> None:
        header = connection.socket.recv(200)
        greeting(b"you are " + header)(connection)

    local = world.service(handler).url.replace("http", "tcp")
    world.client(server, "id1", secret, "--proxyProtocol", "v1", local=local)
    visitor = world.visitor(port.address, source=FRIEND)
    assert visitor.until(b"\r\n").startswith(b"you are PROXY TCP4 127.0.0.3 ")


@pytest.mark.parametrize(
    ("told", "header"), [("v1", b"PROXY UNKNOWN\r\n"), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
)
def test_protocol_1_does_not_know_who_it_is(
    world: World, tls_nginx: TLSNginx, told: str, header: bytes
) -> None:
    made = front(world, tls_nginx, "1", told=told)
    assert made.seen("tcp", FRIEND).encode("latin-1") == header + b"hello"
    answer = made.seen("http", FRIEND)  # nginx takes it, and has an address of its own or none
    assert answer.endswith(":") or answer.startswith("127.0.0.1")


# Behind a load balancer


@HEADERS
@BOTH
def test_behind_haproxy(world: World, tls_nginx: TLSNginx, tmp_path: Path, send: str, protocol: str) -> None:
    """Every way in; and the clients, who do not come through it, come in as ever."""
    made = front(
        world, tls_nginx, protocol, told="v1" if protocol == "3" else "", trustedProxies=[f"{PROXY}/32"]
    )
    haproxy: HAProxy = world.keep(HAProxy(tmp_path / "haproxy", made.addresses, send, PROXY), until_last=True)
    for way in WAYS:
        answer = made.seen(way, FRIEND, haproxy.addresses[way])
        if protocol == "3":
            assert shown(answer) == FRIEND
        else:
            assert answer not in ("refused", "403", "502")
        # From other addresses everything is as without proxies.
        direct = made.seen(way, STRANGER)
        assert direct != "refused"
        if protocol == "3":
            assert shown(direct) == STRANGER


@HEADERS
@BOTH
def test_who_may_come_in_through_haproxy(
    world: World, tls_nginx: TLSNginx, tmp_path: Path, send: str, protocol: str
) -> None:
    """The header decides, not the address that HAProxy comes from."""
    made = front(world, tls_nginx, protocol, told="", user={"allowIPs": [FRIEND]}, trustedProxies=[PROXY])
    haproxy: HAProxy = world.keep(HAProxy(tmp_path / "haproxy", made.addresses, send, PROXY), until_last=True)
    for way in WAYS:
        assert made.seen(way, FRIEND, haproxy.addresses[way]) not in ("refused", "403")
        kept_out = made.seen(way, STRANGER, haproxy.addresses[way])
        assert kept_out == ("403" if way in ("http", "https") else "refused")


def test_tunnels_through_haproxy(world: World, tmp_path: Path) -> None:
    """A client may come through it as well."""
    secret = world.secret()
    server = world.server("--trustedProxies", PROXY, users={"id1": secret})
    ways = {"http": server.address}
    haproxy: HAProxy = world.keep(
        HAProxy(tmp_path / "haproxy", ways, "send-proxy-v2", PROXY), until_last=True
    )
    world.client(haproxy.addresses["http"], "id1", secret, local=world.service(answering(b"in")).url)
    visitor = world.visitor(haproxy.addresses["http"])
    visitor.request("id1.example.com")
    assert visitor.response().text == "in"
    visitor = world.visitor(server.address)
    visitor.request("id1.example.com")
    assert visitor.response().text == "in"


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_header_from_elsewhere_is_refused(world: World, tls_nginx: TLSNginx, header: bytes) -> None:
    """Nobody can pretend to be somebody else; a plain TCP service alone gets the bytes, as it gets all bytes."""
    made = front(world, tls_nginx, told="", user={"allowIPs": [FRIEND, STRANGER]}, trustedProxies=[PROXY])
    for way in ("http", "https", "sni"):
        visitor = world.visitor(made.addresses[way], source=STRANGER)
        visitor.send(header)
        try:
            assert made.ask(visitor, way) == "400"
        except (Ended, ssl.SSLError, ConnectionError):
            pass
    visitor = world.visitor(made.addresses["tcp"], source=STRANGER)
    visitor.send(header)
    assert made.ask(visitor, "tcp").encode("latin-1") == header + b"hello"
    for way in WAYS:
        assert made.seen(way, STRANGER) != "refused"


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_without_trusted_proxies_no_header_is_taken(world: World, tls_nginx: TLSNginx, header: bytes) -> None:
    made = front(world, tls_nginx, told="")
    for way in ("http", "https", "sni"):
        visitor = world.visitor(made.addresses[way])
        visitor.send(header)
        try:
            assert made.ask(visitor, way) == "400"
        except (Ended, ssl.SSLError, ConnectionError):
            pass


def test_a_trusted_address_has_to_send_a_header(world: World, tls_nginx: TLSNginx) -> None:
    world.allow("PROXY header")
    made = front(world, tls_nginx, told="", trustedProxies=[PROXY])
    for way in WAYS:
        assert made.seen(way, PROXY) == "refused"
        visitor = world.visitor(made.addresses[way], source=PROXY)
        visitor.send(V1)
        assert made.ask(visitor, way) not in ("refused", "400")


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_header_in_pieces(world: World, tls_nginx: TLSNginx, header: bytes) -> None:
    made = front(world, tls_nginx, trustedProxies=[PROXY])
    for way in WAYS:
        visitor = world.visitor(made.addresses[way], source=PROXY)
        for at in range(len(header)):
            visitor.send(header[at : at + 1])
        assert shown(made.ask(visitor, way)) == FRIEND


def test_a_header_and_the_request_in_one_piece(world: World, tls_nginx: TLSNginx) -> None:
    made = front(world, tls_nginx, trustedProxies=[PROXY])
    visitor = world.visitor(made.addresses["http"], source=PROXY)
    visitor.send(V2 + b"GET /seen HTTP/1.1\r\nHost: http.example.com\r\n\r\n")
    assert visitor.response().text == f"{FRIEND}:51234"
    handshake = Handshake(trusting(tls_nginx.trusted), "sni.example.com")
    visitor = world.visitor(made.addresses["sni"], source=PROXY)
    visitor.send(V1 + handshake.hello)
    handshake.finish(visitor)
    assert handshake.fetch(visitor, "sni.example.com", "/seen").endswith(f"{FRIEND}:51234".encode())
    handshake = Handshake(trusting(made.certificate), "https.example.com")
    visitor = world.visitor(made.addresses["https"], source=PROXY)
    visitor.send(V1 + handshake.hello)
    handshake.finish(visitor)
    assert handshake.fetch(visitor, "https.example.com", "/seen").endswith(f"{FRIEND}:51234".encode())
    visitor = world.visitor(made.addresses["tcp"], source=PROXY)
    visitor.send(V2 + b"hello")
    assert visitor.until(b"hello").startswith(b"PROXY TCP4 127.0.0.3 127.0.0.1 51234 ")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"PROXY UNKNOWN\r\n", PROXY),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", PROXY),
        (b"PROXY TCP6 ::ffff:127.0.0.3 ::1 51234 80\r\n", FRIEND),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 80\r\n", "2001:db8::7"),
        (V2[:14] + b"\0\x14" + V2[16:] + b"\x01\0\x02h2\x04\0\0", FRIEND),
    ],
    ids=["unknown", "local", "IPv4 inside IPv6", "IPv6", "TLVs"],
)
def test_other_headers(world: World, tls_nginx: TLSNginx, header: bytes, expected: str) -> None:
    made = front(world, tls_nginx, trustedProxies=[PROXY])
    visitor = world.visitor(made.addresses["http"], source=PROXY)
    visitor.send(header)
    assert made.ask(visitor, "http").rpartition(":")[0].strip("[]") == expected


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 127.0.0.3 127.0.0.1 51234 80\n",
        b"PROXY TCP4 127.0.0.300 127.0.0.1 51234 80\r\n",
        b"PROXY " + b"x" * 200,
        V2[:12] + b"\x31" + V2[13:],
        V2[:14] + b"\xff\xff" + V2[16:],
        b"\x16\x03\x01",
        b"\xf0\x03",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["bare LF", "no address", "too long", "unknown version", "too long v2", "tls", "tunnel", "request"],
)
def test_a_bad_header_is_closed(world: World, tls_nginx: TLSNginx, header: bytes) -> None:
    """Without an answer, at once. (A line with a bare LF may still go on, up to its limit.)"""
    world.allow("PROXY header")
    made = front(world, tls_nginx, told="", trustedProxies=[PROXY])
    for way in WAYS:
        visitor = world.visitor(made.addresses[way], source=PROXY)
        visitor.send(header.ljust(120, b" ") if header.endswith(b"80\n") else header)
        with pytest.raises(Ended):
            visitor.receive()


def test_half_a_header_times_out(world: World, tls_nginx: TLSNginx) -> None:
    world.allow("PROXY header")
    made = front(world, tls_nginx, told="", trustedProxies=[PROXY])
    started = time.monotonic()
    visitors = []
    for way in WAYS:
        for half in (b"", V1[:10], V2[:3], V2[:-1]):
            visitors.append(world.visitor(made.addresses[way], source=PROXY))
            visitors[-1].send(half)
    for visitor in visitors:
        assert visitor.ending(FIRST_BYTES_S + 10)
    assert time.monotonic() - started > FIRST_BYTES_S - 2


# Who may come in


@BOTH
@pytest.mark.parametrize(
    "rules",
    [
        {"allowIPs": [FRIEND]},
        {"denyIPs": [STRANGER]},
        {"allowIPs": ["127.0.0.0/29"], "denyIPs": [STRANGER]},
        {"allowIPs": ["2001:db8::/32", f"{FRIEND}/32"]},
    ],
    ids=["allow", "deny", "both", "v6 beside"],
)
def test_rules_of_a_user(world: World, tls_nginx: TLSNginx, protocol: str, rules: dict[str, Any]) -> None:
    """The server sees to it, in either protocol, before the client hears of the visitor."""
    made = front(world, tls_nginx, protocol, told="", user=rules)
    for way in WAYS:
        assert made.seen(way, FRIEND) not in ("403", "refused")
        assert made.seen(way, STRANGER) == ("403" if way in ("http", "https") else "refused")


@pytest.mark.parametrize(
    "rules",
    [
        {"allowIPs": [FRIEND]},
        {"denyIPs": [STRANGER]},
        {"allowIPs": ["127.0.0.0/29"], "denyIPs": [STRANGER]},
    ],
    ids=["allow", "deny", "both"],
)
def test_rules_of_a_service(world: World, tls_nginx: TLSNginx, rules: dict[str, Any]) -> None:
    """The client sees to it, before the local service is dialled."""
    made = front(world, tls_nginx, told="", service=rules)
    for way in WAYS:
        assert made.seen(way, FRIEND) not in ("403", "refused")
        assert made.seen(way, STRANGER) == ("403" if way in ("http", "https") else "refused")


def test_a_server_for_both_families(world: World) -> None:
    """It sees IPv4 visitors as IPv6 ones; for the rules, and to the service, they are what they were."""
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("there is no IPv6 here")
    secret, port, opened = world.secret(), world.port(), world.port()
    user = {"secret": secret, "allowIPs": [f"{FRIEND}/32", "::1/128"]}
    config = {
        "type": "server",
        "users": {"id1": user},
        "tcp": [{"range": str(opened.number)}],
        "options": {"trustedProxies": [f"{PROXY}/32"]},
    }
    server = world.server(config=config, port=port, addr=str(port.number))
    local = world.service(echoing).url.replace("http", "tcp")
    more = ("--proxyProtocol", "v1", "--local", world.service(answering(b"in")).url)
    world.client(server, "id1", secret, "--remoteTCPPort", str(opened.number), *more, local=local)
    visitor = world.visitor(opened.address, source=FRIEND)
    visitor.send(b"hello")
    assert visitor.until(b"hello").startswith(b"PROXY TCP4 127.0.0.3 ")
    visitor = world.visitor(opened.address, source=PROXY)
    visitor.send(V1 + b"hello")
    assert visitor.until(b"hello").startswith(b"PROXY TCP4 127.0.0.3 ")
    with socket.create_connection(("::1", opened.number), 20) as six:
        six.sendall(b"hello")
        assert six.recv(14, socket.MSG_WAITALL) == b"PROXY TCP6 ::1"
    for source, status in ((FRIEND, 200), (STRANGER, 403)):
        visitor = world.visitor(port.address, source=source)
        visitor.request("id1.example.com")
        assert visitor.response().status == status


def test_a_service_that_is_forbidden_is_not_dialled(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    service = world.service(answering(b"in"))
    made = world.client(server, "id1", secret, "--allowIPs", FRIEND, local=service.url)
    for _ in range(20):
        visitor = world.visitor(server.address, source=STRANGER)
        visitor.request("id1.example.com")
        response = visitor.response()
        assert (response.status, response.whole) == (403, True)
    assert service.connections == []
    lines = made.process.find(STRANGER)
    assert len(lines) == 1  # said, but not for every visitor
    visitor = world.visitor(server.address, source=FRIEND)
    visitor.request("id1.example.com")
    assert visitor.response().text == "in"


def test_rules_of_the_service_after_those_of_the_user(world: World, tls_nginx: TLSNginx) -> None:
    """Both have to let a visitor in."""
    made = front(
        world, tls_nginx, told="", user={"allowIPs": [FRIEND, STRANGER]}, service={"denyIPs": [STRANGER]}
    )
    assert made.seen("http", FRIEND) == "in"
    assert made.seen("http", STRANGER) == "403"
    assert made.seen("http", "127.0.0.5") == "403"


def test_a_service_with_a_list_over_protocol_1(world: World, tls_nginx: TLSNginx) -> None:
    """Which does not tell who the visitor is: nobody is on the list, and the client's log says why."""
    made = front(world, tls_nginx, "1", told="", service={"allowIPs": [FRIEND]})
    for way in WAYS:
        assert made.seen(way, FRIEND) in ("403", "502", "refused")
    made.client.process.wait_for(r"protocol 1")
