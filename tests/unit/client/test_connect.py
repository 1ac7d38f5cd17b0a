"""Connecting to a server over TCP and TLS: what is trusted, and what is said where it is not."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtapp.client import connect as connect_module
from gtapp.client.connect import Connected, client_context, connect
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import ConfigError, LinkError
from gtapp.relay.sockets import PlainSocket
from gtapp.relay.tls import Handshakes, TLSSocket, channel_binding
from gtapp.server.certificates import server_context
from tests.support.certificates import Pair, make_pair
from tests.support.encrypted import TLSEnd
from tests.support.ports import Port
from tests.support.relay import ours, read_exactly, reset


class Remote:
    """A server whose connections are given to `answer`; `url` is its tls:// address."""

    def __init__(self) -> None:
        self.port = Port()
        self._listener = ours(self.port.listen())
        self._sockets: list[Any] = []
        self._serving: list[Any] = []

    def url(self, scheme: str = "tls", host: str = "127.0.0.1") -> URL:
        return URL(scheme, host, self.port.address[1])

    def serve(self, answer: Callable[[Any], None]) -> None:
        def run() -> None:
            sock, _ = self._listener.accept()
            self._sockets.append(sock)
            answer(sock)

        self._serving.append(gevent.spawn(run))

    def show(self, pair: Pair, directory: Path, chain: bytes = b"", newest: str = "TLSv1_3") -> None:
        """Shake hands with this certificate, and say hello."""
        cert, key = pair.write(directory, "shown")
        cert.write_bytes(pair.pem + chain)
        context = server_context(cert, key, "tls1.2")
        context.maximum_version = ssl.TLSVersion[newest]

        def answer(sock: Any) -> None:
            end = TLSEnd(sock, context, server_side=True)
            try:
                end.do_handshake()
                end.sendall(b"hello")
            except (ssl.SSLError, ConnectionError):
                pass  # the client does not like it

        self.serve(answer)

    def close(self) -> None:
        gevent.killall(self._serving)
        for sock in self._sockets:
            sock.close()
        self._listener.close()
        self.port.close()


@pytest.fixture
def remote() -> Iterator[Remote]:
    made = Remote()
    yield made
    made.close()


@pytest.fixture
def made() -> Iterator[list[Connected]]:
    """What is in here is closed after the test."""
    connections: list[Connected] = []
    yield connections
    for each in connections:
        each.sock.close()


@pytest.fixture
def go(made: list[Connected]) -> Callable[..., Connected]:
    """go(url, **options) connects."""
    handshakes = Handshakes()

    def connect_to(url: URL, **options: Any) -> Connected:
        made.append(connect(url, replace(ClientOptions(id="id1"), **options), handshakes))
        return made[-1]

    return connect_to


Go = Callable[..., Connected]


def received(connected: Connected, count: int) -> bytes:
    buffer = memoryview(bytearray(100))
    data = b""
    with gevent.Timeout(5):
        while len(data) < count:
            try:
                data += buffer[: connected.sock.recv_into(buffer)]
            except BlockingIOError:
                gevent.sleep(0.001)
    return data


# TCP


def test_tcp(go: Go, remote: Remote) -> None:
    remote.serve(lambda sock: sock.sendall(b"hello"))
    connected = go(remote.url("tcp"))
    assert isinstance(connected.sock, PlainSocket)
    assert (connected.channel_binding, connected.verified) == (None, False)
    assert received(connected, 5) == b"hello"


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_nobody_listens(go: Go, scheme: str) -> None:
    port = Port()
    with pytest.raises(LinkError, match=f"cannot connect to {scheme}://127.0.0.1:[0-9]+: Connection refused"):
        go(URL(scheme, *port.address))
    port.close()


def test_a_name_that_nobody_has(go: Go) -> None:
    with pytest.raises(LinkError, match=r"cannot connect to tcp://nobody\.invalid:80: "):
        go(URL("tcp", "nobody.invalid", 80))


def test_a_name_that_cannot_be_one(go: Go) -> None:
    with pytest.raises(LinkError, match="cannot be a host name"):
        go(URL("tls", "a..b", 443))


@pytest.mark.parametrize("first", ["silent", "refusing"])
def test_the_second_address_of_a_name(
    go: Go, remote: Remote, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """As where IPv6 is broken: the address that comes first is no good."""
    monkeypatch.setattr(connect_module, "CONNECT_S", 1.0)
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        address = listener.getsockname()
        if first == "silent":  # its queue is full: the system drops what comes
            listener.listen(0)
            for _ in range(4):
                waiting = held.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
        addresses = [(2, 1, 6, "", address), (2, 1, 6, "", remote.port.address)]
        monkeypatch.setattr("gtapp.client.connect.socket.getaddrinfo", lambda *_, **__: addresses)
        remote.serve(lambda sock: None)
        assert go(URL("tcp", "two.example", 80)).sock.getpeername() == remote.port.address


# TLS


@pytest.mark.parametrize("key", ["ec", "rsa2048", "ed25519"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_self_signed_certificate_that_is_trusted(
    go: Go, remote: Remote, tmp_path: Path, key: str, host: str
) -> None:
    pair = make_pair(key=key)
    remote.show(pair, tmp_path)
    trusted, _ = pair.write(tmp_path, "trusted")
    connected = go(remote.url(host=host), remote_cert=str(trusted))
    assert isinstance(connected.sock, TLSSocket)
    assert connected.channel_binding == channel_binding(pair.der)
    assert connected.verified
    assert received(connected, 5) == b"hello"


@pytest.mark.parametrize("newest", ["TLSv1_2", "TLSv1_3"])
def test_a_certificate_of_a_ca(go: Go, remote: Remote, tmp_path: Path, newest: str) -> None:
    ca = make_pair((), ca=True)
    middle = make_pair((), ca=True, issuer=ca)
    remote.show(make_pair(issuer=middle), tmp_path, chain=middle.pem, newest=newest)
    trusted, _ = ca.write(tmp_path, "ca")
    assert go(remote.url(), remote_cert=str(trusted)).verified


def test_the_leaf_alone_is_trusted(go: Go, remote: Remote, tmp_path: Path) -> None:
    leaf = make_pair(issuer=make_pair((), ca=True))
    remote.show(leaf, tmp_path)
    trusted, _ = leaf.write(tmp_path, "leaf")
    assert go(remote.url(), remote_cert=str(trusted)).verified


def test_the_leaf_alone_is_trusted_whatever_its_name(go: Go, remote: Remote, tmp_path: Path) -> None:
    """The certificate that a server makes itself does not know under which name clients find it."""
    leaf = make_pair(("elsewhere.example",))
    remote.show(leaf, tmp_path)
    trusted, _ = leaf.write(tmp_path, "leaf")
    assert go(remote.url(), remote_cert=str(trusted)).verified


def test_another_certificate_than_the_leaf(go: Go, remote: Remote, tmp_path: Path) -> None:
    remote.show(make_pair(), tmp_path)
    trusted, _ = make_pair().write(tmp_path, "leaf")
    with pytest.raises(LinkError, match="is self-signed"):
        go(remote.url(), remote_cert=str(trusted))


def test_the_cas_of_the_system(
    go: Go, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = make_pair((), ca=True)
    remote.show(make_pair(issuer=ca), tmp_path)
    trusted, _ = ca.write(tmp_path, "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    connect_module._context.cache_clear()
    try:
        assert go(remote.url()).verified
    finally:
        connect_module._context.cache_clear()


def test_a_trusted_file_that_changes(go: Go, remote: Remote, tmp_path: Path) -> None:
    for _ in range(2):
        pair = make_pair()
        remote.show(pair, tmp_path)
        trusted, _ = pair.write(tmp_path, "trusted")
        assert go(remote.url(), remote_cert=str(trusted)).verified


@pytest.mark.parametrize("names", [("localhost",), ("elsewhere.example",)])
@pytest.mark.parametrize("days", [(-1, 30), (-30, -1)])
def test_any_certificate(
    go: Go, remote: Remote, tmp_path: Path, names: tuple[str], days: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nothing is known then: the dialer has the secret prove it."""
    pair = make_pair(names, days=days)
    monkeypatch.setattr("gtapp.server.certificates._read_certificate", lambda path: pair.certificate)
    remote.show(pair, tmp_path)
    connected = go(remote.url(), remote_cert_insecure=True)
    assert connected.channel_binding == channel_binding(pair.der)
    assert not connected.verified


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("self-signed", "is self-signed: set remoteCert to a file with it, or remoteCertInsecure: true"),
        ("unknown CA", "is signed by nobody known here: set remoteCert to its CA's"),
        ("unknown CA in the chain", "is signed by nobody known here: set remoteCert to its CA's"),
        ("other name", "is not for 127.0.0.1: set remote to a name that is in it"),
        ("no name", "is not for 127.0.0.1"),
        ("expired", "has expired: renew it on the server"),
        ("not yet valid", "is not valid yet: is the clock right"),
        ("no CA", "is refused (invalid CA certificate)"),
    ],
)
def test_a_certificate_that_is_not_trusted(
    go: Go, remote: Remote, tmp_path: Path, what: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = make_pair((), ca=what != "no CA")
    shown = {
        "self-signed": lambda: make_pair(),
        "unknown CA": lambda: make_pair(issuer=make_pair((), ca=True)),
        "unknown CA in the chain": lambda: make_pair(issuer=make_pair((), ca=True)),
        "other name": lambda: make_pair(("elsewhere.example",), issuer=ca),
        "no name": lambda: make_pair((), issuer=ca),
        "expired": lambda: make_pair(issuer=ca, days=(-30, -1)),
        "not yet valid": lambda: make_pair(issuer=ca, days=(1, 30)),
        "no CA": lambda: make_pair(issuer=ca),
    }[what]()
    monkeypatch.setattr("gtapp.server.certificates._read_certificate", lambda path: shown.certificate)
    chain = make_pair((), ca=True).pem if what == "unknown CA in the chain" else b""
    remote.show(shown, tmp_path, chain)
    trusted, _ = ca.write(tmp_path, "ca")
    with pytest.raises(LinkError) as caught:
        go(remote.url(), remote_cert=str(trusted))
    message = str(caught.value)
    assert message.startswith(f"{remote.url()}: the server's certificate ")
    assert text in message
    assert "remoteCertInsecure" in message


def test_the_host_name_is_checked_with_the_systems_cas_too(go: Go, remote: Remote, tmp_path: Path) -> None:
    remote.show(make_pair(), tmp_path)
    with pytest.raises(LinkError, match="is self-signed"):
        go(remote.url())


# no TLS, or none that is any good


@pytest.mark.parametrize(
    "answer",
    [
        lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
        lambda sock: sock.sendall(bytes(100)),
    ],
    ids=["http", "ssh", "zeros"],
)
def test_what_answers_is_no_tls(go: Go, remote: Remote, answer: Callable[[Any], None]) -> None:
    remote.serve(answer)
    with pytest.raises(LinkError, match="does not speak TLS: set remote to the port of the server's tlsAddr"):
        go(remote.url())


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_server_that_hangs_up(go: Go, remote: Remote, how: str) -> None:
    def answer(sock: Any) -> None:
        read_exactly(sock, 50)
        (reset if how == "reset" else type(sock).close)(sock)

    remote.serve(answer)
    with pytest.raises(LinkError, match="the TLS handshake failed: "):
        go(remote.url())


def test_a_server_that_says_nothing(go: Go, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_module, "HANDSHAKE_S", 0.05)
    remote.serve(lambda sock: None)
    with pytest.raises(LinkError, match="does not answer in TLS within"):
        go(remote.url())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_a_server_of_old(go: Go, remote: Remote, tmp_path: Path) -> None:
    """It speaks nothing newer than TLS 1.1."""
    context = server_context(*make_pair(key="rsa2048").write(tmp_path), "tls1.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_1

    def answer(sock: Any) -> None:
        end = TLSEnd(sock, context, server_side=True)
        with pytest.raises(ssl.SSLError):
            end.do_handshake()
        end.flush()

    remote.serve(answer)
    with pytest.raises(LinkError, match=r"it needs TLS 1\.2 or newer"):
        go(remote.url(), remote_cert_insecure=True)


# remoteCert


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "holds no certificate in PEM"),
        (b"garbage", "holds no certificate in PEM"),
        ("directory", "cannot be read: Is a directory"),
        ("key", "holds no certificate in PEM"),
        ("DER", "holds no certificate in PEM"),
    ],
)
def test_a_remote_cert_that_cannot_be_used(tmp_path: Path, content: Any, text: str) -> None:
    path = tmp_path / "ca.pem"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        pair = make_pair()
        path.write_bytes({"key": pair.key_pem(), "DER": pair.der}.get(content, content))
    with pytest.raises(ConfigError) as caught:
        client_context(ClientOptions(remote_cert=str(path)))
    assert str(caught.value).startswith(f"remoteCert {path}: {text}")


def test_a_remote_cert_is_not_read_when_nothing_is_checked(tmp_path: Path) -> None:
    options = ClientOptions(remote_cert=str(tmp_path / "missing"), remote_cert_insecure=True)
    assert client_context(options).verify_mode == ssl.CERT_NONE
