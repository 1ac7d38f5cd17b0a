"""TLS: visitors over HTTPS, tunnels over tls://, certificates that change or are bad, and a man in the middle."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import Pair, make_pair
from tests.support.http import Ended, Visitor
from tests.support.middleman import Middleman
from tests.support.nginx import Nginx
from tests.support.ports import Address, Port
from tests.support.processes import eventually
from tests.support.services import Connection
from tests.support.world import Client, Server, World

NAMES = ("localhost", "127.0.0.1", "site.example.com")
HOST = "site.example.com"
PAGE_BYTES = 20 * len(b"<h1>nginx behind a tunnel</h1>\n")
BIG = 20 * 1024 * 1024


@dataclass
class Site:
    """A server with a certificate, whose files are `cert` and `key`; visitors come to `address`."""

    world: World
    server: Server
    port: Port
    pair: Pair
    cert: Path
    key: Path
    secret: str

    @property
    def address(self) -> Address:
        return self.port.address

    def client(
        self, local: str, *flags: str, scheme: str = "tcp", to: Port | None = None, ready: bool = True
    ) -> Client:
        """A client whose tunnels come by tcp:// or tls://."""
        port = to or (self.server.port if scheme == "tcp" else self.port)
        argv = ["client", "--id", "site", "--secret", self.secret, "--remote", f"{scheme}://{port}"]
        argv += ["--local", local, *flags]
        client = Client(self.world.gt("client", argv), argv)
        if ready:
            client.process.wait_for(r"tunnel \d+ to .* is up")
        return client

    def visit(self, trusted: Pair | None = None) -> Visitor:
        """A visitor over HTTPS, who trusts this certificate."""
        context = ssl.create_default_context(cadata=(trusted or self.pair).pem.decode())
        return self.secure(self.world.visitor(self.address), context)

    @staticmethod
    def secure(visitor: Visitor, context: ssl.SSLContext, name: str = HOST) -> Visitor:
        visitor.socket = context.wrap_socket(visitor.socket, server_hostname=name, suppress_ragged_eofs=False)
        return visitor


def serve(world: World, pair: Pair, *flags: str) -> Site:
    cert, key = pair.write(world.directory)
    port, secret = world.port(), world.secret()
    words = ("--tlsAddr", str(port), "--certFile", str(cert), "--keyFile", str(key), *flags)
    server = world.server(*words, users={"site": secret})
    server.process.wait_for("over TLS")
    return Site(world, server, port, pair, cert, key, secret)


@pytest.fixture
def site(world: World) -> Site:
    return serve(world, make_pair(NAMES))


def anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# visitors


@pytest.mark.parametrize("protocol", ["3", "1"])
def test_a_page(site: Site, nginx: Nginx, protocol: str) -> None:
    site.client(nginx.url, "--protocol", protocol)
    visitor = site.visit()
    for _ in range(3):
        visitor.request(HOST)
        response = visitor.response()
        assert (response.status, response.end, response.size) == (200, "length", PAGE_BYTES)
        assert response.headers["server"].startswith("nginx")


def test_a_page_that_ends_by_close(site: Site, nginx: Nginx) -> None:
    (nginx.www / "unsized" / "tls.html").write_bytes(b"x" * 500_000)
    site.client(nginx.url)
    visitor = site.visit()
    visitor.request(HOST, "/unsized/tls.html", version="1.0")
    response = visitor.response()
    assert (response.status, response.end, response.size) == (200, "close", 500_000)


@pytest.mark.parametrize("protocol", ["3", "1"])
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_big_transfers(site: Site, nginx: Nginx, scheme: str, protocol: str) -> None:
    flags = ("--protocol", protocol, "--remoteCert", str(site.cert))
    site.client(nginx.url, *flags, scheme=scheme)
    digest = nginx.file("big-tls", BIG)
    visitor = site.visit()
    visitor.request(HOST, "/big-tls")
    response = visitor.response(keep=False)
    assert (response.status, response.end, response.size, response.sha256) == (200, "length", BIG, digest)
    body = os.urandom(BIG)
    name = f"upload/tls-{scheme}-{protocol}"
    visitor.request(HOST, f"/{name}", method="PUT", body=body)
    assert visitor.response().status == 201
    assert nginx.sha256(name) == hashlib.sha256(body).hexdigest()


def test_a_visitor_who_ends_his_half(site: Site) -> None:
    """close_notify travels through the tunnel as an end, and the answer comes after it."""

    def answer(connection: Connection) -> None:
        data = connection.head() + connection.pending
        while more := connection.socket.recv(65536):
            data += more
        connection.send(hashlib.sha256(data).hexdigest().encode())

    site.client(site.world.service(answer).url)
    visitor = site.world.visitor(site.address)
    tls = Half(visitor)
    question = b"PUT / HTTP/1.1\r\nHost: site.example.com\r\n\r\n" + os.urandom(300_000)
    tls.send(question)
    tls.end()
    assert tls.rest() == hashlib.sha256(question).hexdigest().encode()


class Half:
    """TLS with a half close, which the standard library's sockets do not have."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = anyone().wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
        self._until(self._tls.do_handshake)

    def _until(self, call: object) -> object:
        assert callable(call)
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(self._visitor.receive())
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._visitor.send(self._outgoing.read())

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def end(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()
        self._visitor.socket.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        """All up to the server's close_notify; Ended when the connection ends without one."""
        parts = []
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while part := self._until(lambda: self._tls.read(65536)):
                assert isinstance(part, bytes)
                parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_that_is_cut_is_no_whole_one(site: Site, announced: bool) -> None:
    """A FIN that TLS did not announce is a reset to the service; an announced one is an end."""
    ends: list[str] = []

    def note(connection: Connection) -> None:
        connection.head()
        try:
            while connection.socket.recv(65536):
                pass
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    site.client(site.world.service(note).url)
    visitor = site.world.visitor(site.address)
    tls = Half(visitor)
    tls.send(b"PUT / HTTP/1.1\r\nHost: site.example.com\r\n\r\n" + bytes(100_000))
    if announced:
        tls.end()
    else:
        visitor.socket.shutdown(socket.SHUT_WR)
    eventually(lambda: ends, "the service sees an end")
    assert ends == ["end" if announced else "reset"]


def test_a_download_that_is_cut_is_no_whole_one(site: Site) -> None:
    def half(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        connection.reset()

    site.client(site.world.service(half).url)
    tls = Half(site.world.visitor(site.address))
    tls.send(b"GET / HTTP/1.1\r\nHost: site.example.com\r\n\r\n")
    with pytest.raises(Ended, match="reset"):
        tls.rest()


def test_pages_of_our_own(site: Site) -> None:
    visitor = site.visit()
    visitor.request("nobody.example.com")
    response = visitor.response()
    assert (response.status, response.end, response.headers["server"]) == (404, "length", "GT")
    assert visitor.ending(5) == "closed"


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)]
)
def test_alpn(site: Site, nginx: Nginx, offered: list[str], chosen: str | None) -> None:
    site.client(nginx.url)
    context = anyone()
    context.set_alpn_protocols(offered)
    visitor = site.secure(site.world.visitor(site.address), context)
    assert isinstance(visitor.socket, ssl.SSLSocket)
    assert visitor.socket.selected_alpn_protocol() == chosen
    visitor.request(HOST)
    assert visitor.response().status == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize(
    ("oldest", "newest", "works"),
    [
        ("tls1.1", "TLSv1_1", True),
        ("", "TLSv1_1", False),
        ("", "TLSv1_2", True),
        ("tls1.3", "TLSv1_2", False),
        ("tls1.3", "TLSv1_3", True),
    ],
)
def test_the_oldest_version(world: World, oldest: str, newest: str, works: bool) -> None:
    site = serve(world, make_pair(NAMES, key="rsa2048"), *(("--tlsVersion", oldest) if oldest else ()))
    context = anyone()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion[newest]
    visitor = world.visitor(site.address)
    if works:
        site.secure(visitor, context)
        visitor.request(HOST)
        assert visitor.response().status == 404
    else:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            site.secure(visitor, context)


def test_plain_http_on_the_tls_port(site: Site) -> None:
    visitor = site.world.visitor(site.address)
    visitor.request(HOST)
    response = visitor.response()
    assert (response.status, response.end) == (400, "length")
    assert "https://" in response.text


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xf0\x03",
        b"\xf0\x01\x03abc\x03abc\x00",
        bytes(5000),
        b"\x16\x03\x01\x40\x00" + bytes(200),
        b"\x15\x03\x01\x00\x02\x02\x00",
    ],
    ids=["tunnel 3", "tunnel 1", "zeros", "half a hello", "alert"],
)
def test_garbage_on_the_tls_port(site: Site, nginx: Nginx, garbage: bytes) -> None:
    site.client(nginx.url)
    visitor = site.world.visitor(site.address)
    visitor.send(garbage)
    visitor.socket.shutdown(socket.SHUT_WR)
    with contextlib.suppress(Ended):
        while visitor.receive():
            pass
    good = site.visit()
    good.request(HOST)
    assert good.response().status == 200
    site.server.process.settle(streams=1)


def test_nobody_waits_for_those_in_their_handshakes(site: Site, nginx: Nginx) -> None:
    site.client(nginx.url)
    for number in range(50):
        site.world.visitor(site.address).send(b"\x16\x03\x01\x02\x00"[: number % 6])
    visitor = site.visit()
    visitor.request(HOST)
    assert visitor.response().status == 200


# tunnels


@pytest.mark.parametrize("protocol", ["3", "1"])
@pytest.mark.parametrize("key", ["ec", "rsa2048", "ed25519"])
def test_a_tunnel_with_remote_cert(world: World, nginx: Nginx, key: str, protocol: str) -> None:
    site = serve(world, make_pair(NAMES, key=key))
    site.client(nginx.url, "--remoteCert", str(site.cert), "--protocol", protocol, scheme="tls")
    visitor = world.visitor(site.server.address)
    visitor.request(HOST)
    assert visitor.response().size == PAGE_BYTES


def test_a_tunnel_with_a_ca_of_the_system(
    world: World, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = make_pair((), ca=True)
    site = serve(world, make_pair(NAMES, issuer=ca))
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.write(world.directory, "ca")[0]))
    site.client(nginx.url, scheme="tls")
    visitor = world.visitor(site.server.address)
    visitor.request(HOST)
    assert visitor.response().size == PAGE_BYTES


def test_a_tunnel_that_accepts_any_certificate(world: World, nginx: Nginx) -> None:
    site = serve(world, make_pair(("elsewhere.example",)))
    site.client(nginx.url, "--remoteCertInsecure", scheme="tls")
    visitor = world.visitor(site.server.address)
    visitor.request(HOST)
    assert visitor.response().size == PAGE_BYTES


@pytest.mark.parametrize(
    ("names", "flags", "text"),
    [
        (NAMES, (), "is self-signed: set remoteCert"),
        (("elsewhere.example",), ("--remoteCert", "CA"), "is not for 127.0.0.1: set remote to a name"),
    ],
)
def test_a_client_that_does_not_trust_the_certificate(
    world: World, names: tuple[str, ...], flags: tuple[str, ...], text: str
) -> None:
    ca = make_pair((), ca=True)
    site = serve(world, make_pair(names, issuer=ca if flags else None))
    world.allow("the server's certificate")
    words = [str(ca.write(world.directory, "ca").cert) if word == "CA" else word for word in flags]
    client = site.client("http://127.0.0.1:9", *words, scheme="tls", ready=False)
    client.process.wait_for(text)
    assert not client.process.find("is up")


def test_a_made_certificate_and_a_client_that_trusts_it(world: World, nginx: Nginx) -> None:
    port, secret = world.port(), world.secret()
    server = world.server("--tlsAddr", str(port), users={"site": secret}, config={"type": "server"})
    server.process.wait_for("over TLS")
    made = world.directory / "gt-cert.pem"
    assert (world.directory / "gt-key.pem").stat().st_mode & 0o777 == 0o600
    site = Site(world, server, port, make_pair(), made, made, secret)
    site.client(nginx.url, "--remoteCert", str(made), scheme="tls")
    visitor = site.secure(
        world.visitor(port.address), ssl.create_default_context(cafile=str(made)), "127.0.0.1"
    )
    visitor.request(HOST)
    assert visitor.response().size == PAGE_BYTES


# the man in the middle


@pytest.fixture
def middleman(site: Site) -> Middleman:
    """He has a certificate of his own for the server's names."""
    cert, key = make_pair(NAMES).write(site.world.directory, "middleman")
    made: Middleman = site.world.keep(Middleman(site.address, cert, key), until_last=True)
    return made


@pytest.mark.parametrize("protocol", ["3", "auto"])
def test_a_man_in_the_middle_where_any_certificate_will_do(
    site: Site, middleman: Middleman, protocol: str
) -> None:
    """The secret proves which certificate is the server's: his own is another one."""
    site.world.allow("different certificates")
    flags = ("--remoteCertInsecure", "--protocol", protocol)
    client = site.client("http://127.0.0.1:9", *flags, scheme="tls", to=middleman.port, ready=False)
    client.process.wait_for("client and server see different certificates")
    assert middleman.heard
    assert not client.process.find(r"is up")
    assert site.secret.encode() not in middleman.heard


def test_a_man_in_the_middle_where_the_certificate_is_checked(site: Site, middleman: Middleman) -> None:
    site.world.allow("the server's certificate")
    flags = ("--remoteCert", str(site.cert))
    client = site.client("http://127.0.0.1:9", *flags, scheme="tls", to=middleman.port, ready=False)
    client.process.wait_for("the server's certificate is self-signed")
    assert middleman.heard == b""


def test_a_proxy_in_front_of_the_server_that_the_client_trusts(
    site: Site, middleman: Middleman, nginx: Nginx
) -> None:
    """It takes the TLS off, as a load balancer does, and its certificate is the one that is verified."""
    trusted = site.world.directory / "middleman-cert.pem"
    site.client(nginx.url, "--remoteCert", str(trusted), scheme="tls", to=middleman.port)
    visitor = site.visit()
    visitor.request(HOST)
    assert visitor.response().size == PAGE_BYTES
    assert site.secret.encode() not in middleman.heard


# certificates that change, and bad ones


def test_a_renewed_certificate_is_taken_over_and_nobody_is_dropped(site: Site, nginx: Nginx) -> None:
    client = site.client(nginx.url, "--remoteCertInsecure", scheme="tls")
    old = site.visit()
    old.request(HOST)
    assert old.response().status == 200
    for _ in range(2):
        mark = site.server.process.mark()
        renewed = make_pair(NAMES)
        renewed.write(site.world.directory)
        site.server.process.wait_for("took over the changed certificate", after=mark)
        visitor = site.visit(renewed)
        visitor.request(HOST)
        assert visitor.response().status == 200
        old.request(HOST)
        assert old.response().status == 200
    assert len(client.process.find("is up")) <= 3
    assert not client.process.find("lost|closed|reset")
    second = Site(site.world, site.server, site.port, site.pair, site.cert, site.key, site.secret)
    second.client(nginx.url, "--remoteCertInsecure", scheme="tls")


def test_a_bad_renewal_is_reported_and_the_old_certificate_stays(site: Site, nginx: Nginx) -> None:
    site.world.allow("stays in use")
    site.client(nginx.url)
    site.key.write_bytes(make_pair(NAMES).key_pem())
    site.server.process.wait_for(f"ERROR .*{site.key}: is not the key of the certificate .* stays in use")
    visitor = site.visit()
    visitor.request(HOST)
    assert visitor.response().status == 200


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("missing", "{cert}: the certificate cannot be read: No such file or directory"),
        ("expired", "{cert}: the certificate expired on"),
        ("not PEM", "{cert}: holds no certificate in PEM"),
        ("no key", "{key}: the key cannot be read: No such file or directory"),
        ("other key", "{key}: is not the key of the certificate {cert}"),
        ("encrypted key", "{key}: the key is encrypted"),
        ("half", "--certFile: needs keyFile"),
    ],
)
def test_a_bad_certificate_at_the_start(world: World, what: str, text: str) -> None:
    pair = make_pair(NAMES, days=(-30, -1) if what == "expired" else (-1, 30))
    cert, key = pair.write(world.directory)
    if what == "missing":
        cert.unlink()
    elif what == "not PEM":
        cert.write_bytes(pair.der)
    elif what == "no key":
        key.unlink()
    elif what == "other key":
        key.write_bytes(make_pair().key_pem())
    elif what == "encrypted key":
        key.write_bytes(pair.key_pem(b"password"))
    world.allow("ERROR")
    flags = ["--tlsAddr", str(world.port()), "--certFile", str(cert)]
    flags += [] if what == "half" else ["--keyFile", str(key)]
    server = world.server(*flags, users={"site": world.secret()}, ready=False)
    server.process.expected_exit = {2}
    assert server.process.wait() == 2
    assert text.format(cert=cert, key=key) in server.process.log
    assert "Traceback" not in server.process.log


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_a_bad_remote_cert_at_the_start(world: World, content: bytes | None) -> None:
    path = world.directory / "ca.pem"
    if content:
        path.write_bytes(content)
    world.allow("remoteCert")
    words = ["client", "--id", "site", "--secret", world.secret(), "--remote", f"tls://{world.port()}"]
    client = world.gt("client", [*words, "--local", "http://127.0.0.1:9", "--remoteCert", str(path)])
    client.expected_exit = {2}
    assert client.wait() == 2
    assert f"remoteCert {path}: " in client.log
