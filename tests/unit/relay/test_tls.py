"""Handshakes in slices, and the encrypted socket where it differs from a plain one: ends, readiness, bounds.

What both have in common is tested by test_link and test_pump, which run over TLS too.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from cryptography.hazmat.primitives import hashes
from gevent import subprocess

from gtapp.relay import tls as tls_module
from gtapp.relay import tls_socket
from gtapp.relay.sockets import EV_READ, EV_WRITE, Socket, reset_on_close, take_over
from gtapp.relay.tls import Handshakes, TLSSocket, channel_binding, error_text
from gtapp.relay.tls_socket import READ_BYTES, SEND_BYTES, wait_for_rests
from tests.support.certificates import make_pair
from tests.support.encrypted import Contexts, TLSEnd, both_ends, encrypted_pair, secure
from tests.support.relay import ours, random_bytes, read_all, read_exactly, reset, tcp_pair, turn, until

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Reader:
    """Reads a socket as a pump does, from its watcher, into `data`; `ends` are the ends it saw."""

    def __init__(self, sock: Socket, size: int = READ_BYTES) -> None:
        self.sock = sock
        self.data = b""
        self.sizes: list[int] = []
        self.calls = 0
        self.ends: list[str] = []
        self._buffer = memoryview(bytearray(size))
        self.watcher = sock.watch(EV_READ)
        self.start()

    def start(self) -> None:
        self.watcher.start(self.readable)

    def readable(self) -> None:
        self.calls += 1
        try:
            count = self.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(error.strerror or "")
            return
        if not count:
            self.end("end")
        self.data += self._buffer[:count]
        self.sizes.append(count)

    def end(self, how: str) -> None:
        self.ends.append(how)
        self.watcher.stop()


def until_size(reader: Reader, size: int) -> None:
    until(lambda: len(reader.data) >= size)
    assert len(reader.data) == size


class Scene:
    """An encrypted connection: `sock` is the relay's end, `far` the test's."""

    def __init__(self, contexts: Contexts, buffer_bytes: int = 0) -> None:
        self.sock, self.far = encrypted_pair(contexts, buffer_bytes)
        self.readers: list[Reader] = []

    def read(self, size: int = READ_BYTES) -> Reader:
        self.readers.append(Reader(self.sock, size))
        return self.readers[-1]

    def close(self) -> None:
        for reader in self.readers:
            reader.watcher.stop()
        reset_on_close(self.sock)
        self.sock.close()
        self.far.cut()


@pytest.fixture(params=VERSIONS, ids=["tls1.2", "tls1.3"], scope="module")
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"), make_pair(), request.param)


@pytest.fixture
def scene(either: Contexts) -> Iterator[Scene]:
    made = Scene(either)
    yield made
    made.close()


@pytest.fixture
def narrow(either: Contexts) -> Iterator[Scene]:
    """Its kernel buffers are small."""
    made = Scene(either, 8192)
    yield made
    made.close()


# reading


@pytest.mark.parametrize("size", [1, 16384, 16385, 65536, 1_000_000])
@pytest.mark.parametrize("buffer", [1000, 65536, 262144])
def test_every_byte_is_read(scene: Scene, size: int, buffer: int) -> None:
    reader = scene.read(buffer)
    data = random_bytes(size)
    gevent.spawn(scene.far.sendall, data)
    until(lambda: len(reader.data) >= size)
    assert reader.data == data
    assert max(reader.sizes) <= min(buffer, READ_BYTES)


def test_a_small_message_costs_one_read_of_the_kernel_and_one_write(scene: Scene) -> None:
    calls = Counting(scene.sock)
    reader = scene.read()
    for number in range(1, 6):
        scene.far.sendall(b"x" * 100)
        until_size(reader, number * 100)
        scene.sock.send(b"y" * 100)
        assert read_exactly(scene.far, 100) == b"y" * 100
    assert calls.received <= 5 + 1, "one more for the session tickets' sake"
    assert calls.sent == 5


class Counting:
    """Counts the system calls of an encrypted socket."""

    def __init__(self, sock: TLSSocket) -> None:
        self.received = self.sent = 0
        self._plain = sock.plain
        sock.plain = self  # type: ignore[assignment]

    def recv_into(self, *args: Any) -> int:
        self.received += 1
        return self._plain.recv_into(*args)

    def send(self, data: bytes) -> int:
        self.sent += 1
        return self._plain.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


def test_what_waits_in_it_makes_it_readable(scene: Scene) -> None:
    """The kernel knows nothing of it. A pump reads as much as its window lets it, and stops."""
    reader = scene.read(100)
    reader.watcher.stop()
    scene.far.sendall(b"x" * 1000)
    turn(10)
    for number in range(1, 11):
        reader.watcher.start(once, reader)
        until_size(reader, number * 100)
        turn(3)
        assert len(reader.data) == number * 100
    assert not reader.watcher.active


def once(reader: Reader) -> None:
    reader.watcher.stop()
    reader.readable()


def test_a_watcher_that_does_not_read_is_called_again(scene: Scene) -> None:
    reader = scene.read(10)
    reader.watcher.stop()
    scene.far.sendall(b"x" * 20)
    reader.watcher.start(once, reader)
    until(lambda: reader.data)
    calls: list[int] = []
    reader.watcher.start(calls.append, 1)
    until(lambda: len(calls) > 3)
    reader.watcher.stop()
    turn(3)
    seen = len(calls)
    turn(3)
    assert len(calls) == seen
    other = scene.read(100)
    until(lambda: other.data == b"x" * 10)


def test_what_waits_does_not_hold_the_hub(scene: Scene) -> None:
    """Between two reads of a long stream others have a turn."""
    reader = scene.read()
    turns: list[int] = []
    sender = gevent.spawn(scene.far.sendall, bytes(5_000_000))

    def other() -> None:
        while not sender.ready() or len(reader.data) < 5_000_000:
            turns.append(len(reader.data))
            gevent.sleep(0)

    gevent.spawn(other).join(timeout=10)
    assert len(reader.data) == 5_000_000
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert max(gaps) <= 4 * READ_BYTES


def test_bytes_that_came_with_the_finished_are_there(either: Contexts) -> None:
    near, far = tcp_pair()
    end = TLSEnd(far, either.client)
    made: list[Any] = []
    handshake = Handshakes().start(near, either.server, made.append, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        end.tls.do_handshake()
    end.flush()
    while True:  # the last message of the handshake waits in `outgoing`
        try:
            end.tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            end.flush()
            end.incoming.write(far.recv(65536))
    if either.client.maximum_version == ssl.TLSVersion.TLSv1_3:
        end.tls.write(b"question")
    end.flush()
    until(lambda: made)
    handshake.close()
    sock = made[0]
    reader = Reader(sock)
    if either.client.maximum_version == ssl.TLSVersion.TLSv1_2:
        end.sendall(b"question")
    until(lambda: reader.data == b"question")
    reader.watcher.stop()
    sock.close()
    far.close()


# writing


@pytest.mark.parametrize("size", [1, 16384, 16385, SEND_BYTES, SEND_BYTES + 1])
def test_what_is_sent_arrives(scene: Scene, size: int) -> None:
    data = random_bytes(size)
    sent = scene.sock.send(data)
    assert sent == min(size, SEND_BYTES)
    assert read_exactly(scene.far, sent) == data[:sent]


def test_nothing_is_taken_while_something_waits(narrow: Scene) -> None:
    data = random_bytes(200_000)
    count = narrow.sock.send(data)
    assert count == SEND_BYTES
    for call in (lambda: narrow.sock.send(b"x"), lambda: narrow.sock.sendmsg([b"x", b"y"])):
        with pytest.raises(BlockingIOError):
            call()
    rest: list[int] = []
    writer = narrow.sock.watch(EV_WRITE)

    def writable() -> None:
        rest.append(narrow.sock.send(data[count:]))
        writer.stop()

    writer.start(writable)
    assert writer.active
    turn(5)
    assert rest == []
    assert read_exactly(narrow.far, len(data)) == data
    until(lambda: rest)
    assert not writer.active


def test_a_write_watcher_is_called_while_there_is_room(scene: Scene) -> None:
    calls: list[int] = []
    writer = scene.sock.watch(EV_WRITE)
    writer.start(calls.append, 1)
    until(lambda: len(calls) > 3)
    writer.stop()
    turn(2)
    seen = len(calls)
    turn(3)
    assert len(calls) == seen


def test_ciphertext_leaves_without_a_watcher(narrow: Scene) -> None:
    data = random_bytes(100_000)
    narrow.sock.send(data)
    assert read_exactly(narrow.far, len(data)) == data
    assert "unsent=0" in repr(narrow.sock)


def test_a_list_is_sent_in_its_order(scene: Scene) -> None:
    buffers: list[bytes | memoryview] = [b"a" * 5, memoryview(b"b" * 70_000), b"", b"c" * 100_000, b"d"]
    joined = b"".join(buffers)
    sent = scene.sock.sendmsg(buffers)
    assert sent == SEND_BYTES
    assert read_exactly(scene.far, sent) == joined[:sent]


def test_the_other_end_resets_while_something_waits(narrow: Scene) -> None:
    narrow.sock.send(bytes(100_000))
    reset(narrow.far)
    writer = narrow.sock.watch(EV_WRITE)
    errors: list[OSError] = []

    def writable() -> None:
        writer.stop()
        try:
            narrow.sock.send(b"x")
        except OSError as error:
            errors.append(error)

    writer.start(writable)
    until(lambda: errors)
    assert isinstance(errors[0], ConnectionError)
    reader = narrow.read()
    until(lambda: reader.ends)
    assert reader.ends != ["end"]


# ends


def test_their_end(scene: Scene) -> None:
    reader = scene.read()
    scene.far.sendall(b"last words")
    scene.far.shutdown(socket.SHUT_WR)
    until(lambda: reader.ends)
    assert (reader.data, reader.ends) == (b"last words", ["end"])
    scene.sock.send(b"answer")
    assert read_exactly(scene.far, 6) == b"answer"
    assert scene.sock.recv_into(memoryview(bytearray(10))) == 0, "it stays the end"


def test_their_end_without_a_fin(scene: Scene) -> None:
    """A client may say close_notify and keep the connection: the kernel has nothing to tell then."""
    reader = scene.read(10)
    scene.far.tls.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        scene.far.tls.unwrap()
    scene.far.flush()
    until(lambda: reader.ends)
    assert (reader.data, reader.ends) == (b"last words", ["end"])


def test_a_fin_without_a_close_notify_is_no_end(scene: Scene) -> None:
    reader = scene.read()
    scene.far.sendall(b"half of it")
    until(lambda: reader.data)
    scene.far.sock.shutdown(socket.SHUT_WR)
    until(lambda: reader.ends)
    assert reader.data == b"half of it"
    assert reader.ends == ["cut: the end was not announced by TLS"]


def test_a_fin_in_the_middle_of_a_record(scene: Scene) -> None:
    reader = scene.read()
    scene.far.tls.write(bytes(10_000))
    scene.far.sock.sendall(scene.far.outgoing.read()[:5000])
    scene.far.cut()
    until(lambda: reader.ends)
    assert reader.ends != ["end"]
    assert reader.data == b""


def test_a_changed_byte(scene: Scene) -> None:
    reader = scene.read()
    scene.far.tls.write(b"x" * 100)
    good = scene.far.outgoing.read()
    scene.far.tls.write(b"y" * 100)
    bad = bytearray(scene.far.outgoing.read())
    bad[50] ^= 1
    scene.far.sock.sendall(good + bad)
    until(lambda: reader.ends)
    assert reader.data == b"x" * 100, "what was whole before it is good"
    assert reader.ends[0].startswith("TLS: decryption failed")
    with pytest.raises(ConnectionResetError):
        scene.sock.recv_into(memoryview(bytearray(10)))


def test_our_end(scene: Scene) -> None:
    scene.sock.send(b"last words")
    scene.sock.shutdown(socket.SHUT_WR)
    scene.sock.shutdown(socket.SHUT_WR)
    assert read_all(scene.far) == b"last words"
    assert "half closed" in repr(scene.sock)
    with pytest.raises(BrokenPipeError):
        scene.sock.send(b"more")
    reader = scene.read()
    data = random_bytes(300_000)
    gevent.spawn(scene.far.sendall, data)
    until(lambda: len(reader.data) == len(data))
    assert reader.data == data
    scene.far.shutdown(socket.SHUT_WR)
    until(lambda: reader.ends == ["end"])


@pytest.mark.parametrize("size", [10, 20_000, 60_000])
def test_our_end_with_something_decrypted_and_not_read(scene: Scene, size: int) -> None:
    """OpenSSL's shutdown would choke on it."""
    data = random_bytes(size)
    scene.far.sendall(data)
    turn(5)
    buffer = memoryview(bytearray(5))
    assert scene.sock.recv_into(buffer) == 5
    scene.sock.shutdown(socket.SHUT_WR)
    assert read_all(scene.far) == b""
    scene.far.sendall(b"more")
    reader = scene.read(7000)
    until(lambda: len(reader.data) == size - 5 + 4)
    assert reader.data == data[5:] + b"more"
    scene.far.shutdown(socket.SHUT_WR)
    until(lambda: reader.ends == ["end"])


def test_our_end_waits_for_what_was_sent_before(narrow: Scene) -> None:
    data = random_bytes(100_000)
    narrow.sock.send(data)
    narrow.sock.shutdown(socket.SHUT_WR)
    assert read_all(narrow.far) == data


def test_a_close_is_an_end(scene: Scene) -> None:
    scene.sock.send(b"last words")
    scene.sock.close()
    assert scene.sock.fileno() == -1
    assert "closed" in repr(scene.sock)
    assert read_all(scene.far) == b"last words"
    scene.sock.close()


def test_a_close_loses_nothing_that_was_sent(narrow: Scene) -> None:
    data = random_bytes(SEND_BYTES)
    narrow.sock.send(data)
    narrow.sock.close()
    assert narrow.sock.fileno() == -1
    assert read_all(narrow.far) == data


def test_the_process_may_wait_for_what_closed_sockets_have_sent(narrow: Scene) -> None:
    data = random_bytes(SEND_BYTES)
    narrow.sock.send(data)
    narrow.sock.close()
    reading = gevent.spawn(read_all, narrow.far)
    wait_for_rests(10)
    assert not tls_socket._rests
    assert reading.get(timeout=10) == data


def test_a_rest_that_nobody_reads_is_given_up(narrow: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_socket, "REST_S", 0.02)
    narrow.sock.send(bytes(SEND_BYTES))
    narrow.sock.close()
    until(lambda: not tls_socket._rests)
    with pytest.raises(ConnectionResetError):
        read_all(narrow.far)


def test_a_rest_whose_reader_goes(narrow: Scene) -> None:
    narrow.sock.send(bytes(SEND_BYTES))
    narrow.sock.close()
    reset(narrow.far)
    until(lambda: not tls_socket._rests)


@pytest.mark.parametrize("sent", [0, 100, SEND_BYTES])
def test_a_reset(narrow: Scene, sent: int) -> None:
    if sent:
        narrow.sock.send(bytes(sent))
    reset_on_close(narrow.sock)
    narrow.sock.close()
    with pytest.raises(ConnectionResetError):
        read_all(narrow.far)
    assert not tls_socket._rests


def test_a_close_after_the_other_end_has_gone(scene: Scene) -> None:
    reset(scene.far)
    turn(3)
    scene.sock.close()


def test_a_shutdown_of_both_directions_is_a_cut(either: Contexts) -> None:
    """It is not TLS's: tests do it to cut a connection."""
    near, far = tcp_pair()
    server, client = both_ends(near, far, either)
    reader = Reader(client)
    server.shutdown(socket.SHUT_RDWR)
    until(lambda: reader.ends)
    assert reader.ends != ["end"]
    for sock in (server, client):
        sock.close()


# what TLS says on its own


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="asks for new keys as only OpenSSL's command does"
)
def test_new_keys_while_data_flows(contexts: Contexts) -> None:
    """The answer to it is written while we only read."""
    listener = ours(socket.create_server(("127.0.0.1", 0)))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = ["openssl", "s_client", "-tls1_3", "-connect", address]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as client:
        typed, printed, reported = client.stdin, client.stdout, client.stderr
        assert typed is not None
        assert printed is not None
        assert reported is not None
        sock, _ = listener.accept()
        made = Handshakes().wait(take_over(sock), contexts.server, server_side=True)
        reader = Reader(made)

        def type_in(line: bytes) -> None:
            typed.write(line)
            typed.flush()

        for number in range(1, 10):
            type_in(b"question\n")
            until_size(reader, number * len(b"question\n"))
            made.send(b"answer\n")
            while printed.readline() != b"answer\n":
                pass
            type_in(b"K\n")
            while reported.readline() != b"KEYUPDATE\n":
                pass
        reader.watcher.stop()
        made.close()
    listener.close()


def test_answers_that_nobody_reads_have_a_bound(narrow: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that asks for new keys again and again and never reads must not fill our memory."""
    reader = narrow.read()
    narrow.sock.send(bytes(SEND_BYTES))
    monkeypatch.setattr(tls_socket, "SEND_BYTES", 0)
    narrow.sock._outgoing.write(b"an answer")
    narrow.far.sendall(b"x")
    until(lambda: reader.ends)
    assert reader.ends == ["TLS: it asks and does not read the answers"]


# handshakes


class Pending:
    """A handshake that is under way, with the plain socket and the far end's."""

    def __init__(self, handshakes: Handshakes, contexts: Contexts, first: bytes = b"") -> None:
        self.plain, self.far = tcp_pair()
        self.results: list[TLSSocket | OSError] = []
        self.handle = handshakes.start(
            self.plain, contexts.server, self.results.append, server_side=True, first=first
        )

    @property
    def result(self) -> Any:
        return until(lambda: self.results)[0]

    def close(self) -> None:
        self.handle.close()
        for each in self.results:
            if isinstance(each, TLSSocket):
                each.close()
        self.plain.close()
        self.far.close()


@pytest.fixture
def begin(contexts: Contexts) -> Iterator[Callable[..., Pending]]:
    """begin(first=b"") begins a handshake as the server."""
    made: list[Pending] = []
    handshakes = Handshakes()

    def make(first: bytes = b"") -> Pending:
        made.append(Pending(handshakes, contexts, first))
        return made[-1]

    yield make
    for each in made:
        each.close()


Begin = Callable[..., Pending]


def test_both_ends_know_the_certificate(contexts: Contexts) -> None:
    near, far = tcp_pair()
    server, client = both_ends(near, far, contexts)
    assert server.channel_binding == client.channel_binding == hashlib.sha256(contexts.pair.der).digest()
    assert server.getpeername() == client.plain.getsockname()
    for sock in (server, client):
        sock.close()


@pytest.mark.parametrize("cut", [1, 5, 100, 1000])
def test_a_hello_that_was_read_before(begin: Begin, contexts: Contexts, cut: int) -> None:
    hello = TLSEnd(None, contexts.client)
    with pytest.raises(ssl.SSLWantReadError):
        hello.tls.do_handshake()
    data = hello.outgoing.read()
    pending = begin(data[:cut])
    hello.sock = pending.far
    turn(3)
    pending.far.sendall(data[cut:])
    hello.do_handshake()
    assert isinstance(pending.result, TLSSocket)


def test_a_handshake_that_comes_byte_by_byte(begin: Begin, contexts: Contexts) -> None:
    pending = begin()
    end = TLSEnd(pending.far, contexts.client)
    end.sock = ByteByByte(pending.far)
    end.do_handshake()
    assert isinstance(pending.result, TLSSocket)


class ByteByByte:
    def __init__(self, sock: Any) -> None:
        self._sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def sendall(self, data: bytes) -> None:
        for at in range(len(data)):
            self._sock.sendall(data[at : at + 1])
            if at % 50 == 0:
                turn(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP_REQUEST"),
        (b"\xf0\x03" + bytes(50), None),
        (b"\x16\x03\x01\x00\x05garbage", None),
        (bytes(1000), None),
    ],
    ids=["http", "tunnel", "garbage", "zeros"],
)
def test_what_is_no_tls(begin: Begin, data: bytes, reason: str | None) -> None:
    pending = begin()
    pending.far.sendall(data)
    result = pending.result
    assert isinstance(result, ssl.SSLError)
    assert reason is None or result.reason == reason
    assert error_text(result).startswith("TLS: ")
    assert pending.plain.fileno() >= 0, "it is the caller's again"


def test_a_client_that_leaves_in_the_middle(begin: Begin) -> None:
    pending = begin()
    pending.far.close()
    assert isinstance(pending.result, ConnectionResetError)


def test_a_client_that_resets_in_the_middle(begin: Begin) -> None:
    pending = begin()
    reset(pending.far)
    assert isinstance(pending.result, ConnectionResetError)
    assert error_text(pending.result) == "Connection reset by peer"


def test_a_client_that_does_not_like_the_certificate(begin: Begin) -> None:
    pending = begin()
    end = TLSEnd(pending.far, ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        end.do_handshake()
    end.flush()
    assert error_text(caught.value) == "TLS: self-signed certificate"
    assert pending.result.reason == "TLSV1_ALERT_UNKNOWN_CA"


def test_one_that_is_given_up(begin: Begin, contexts: Contexts) -> None:
    pending = begin()
    with pytest.raises(ssl.SSLWantReadError):
        (end := TLSEnd(pending.far, contexts.client)).tls.do_handshake()
    end.flush()
    turn(3)
    pending.handle.close()
    pending.handle.close()
    turn(5)
    assert pending.results == []
    assert pending.plain.fileno() >= 0


def test_one_that_is_given_up_in_the_queue(begin: Begin, contexts: Contexts) -> None:
    pending = begin(b"\x16")
    pending.handle.close()
    turn(3)
    assert pending.results == []


def test_a_greenlet_that_waits_for_one_and_is_timed_out(contexts: Contexts) -> None:
    near, far = tcp_pair()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
        Handshakes().wait(near, contexts.server, server_side=True)
    near.close()
    far.close()


def test_a_name_that_is_none(contexts: Contexts) -> None:
    near, far = tcp_pair()
    with pytest.raises(ValueError, match="server_hostname"):
        Handshakes().wait(near, contexts.client, server_side=False, server_hostname="")
    near.close()
    far.close()


def test_an_owner_that_fails_harms_nobody(contexts: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    def fail(result: object) -> None:
        raise ZeroDivisionError

    handshakes = Handshakes()
    near, far = tcp_pair()
    handshakes.start(near, contexts.server, fail, server_side=True)
    far.sendall(b"garbage")
    until(lambda: "unexpected error" in caplog.text)
    again, other = tcp_pair()
    end = TLSEnd(other, contexts.client)
    made = secure(again, end, contexts.server)
    for sock in (near, far, made, other):
        sock.close()


def test_an_unexpected_error_ends_the_one_handshake(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handshakes = Handshakes()
    with monkeypatch.context() as patch:
        patch.setattr(tls_module, "channel_binding", lambda certificate: 1 / 0)
        near, far = tcp_pair()
        end = TLSEnd(far, contexts.server, server_side=True)
        other = gevent.spawn(end.do_handshake)
        with pytest.raises(ConnectionAbortedError):
            handshakes.wait(near, contexts.client, server_side=False, server_hostname="localhost")
        other.get(timeout=10)
    assert "unexpected error" in caplog.text
    near.close()
    far.close()
    near, far = tcp_pair()
    end = TLSEnd(far, contexts.server, server_side=True)
    other = gevent.spawn(end.do_handshake)
    handshakes.wait(near, contexts.client, server_side=False, server_hostname="localhost").close()
    other.get(timeout=10)
    far.close()


def test_slices_leave_the_loop_its_turns(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step takes longer than a slice here: after one or two of them the loop looks at its sockets."""
    monkeypatch.setattr(tls_module, "SLICE_S", 0.0)
    handshakes = Handshakes()
    order: list[str] = []

    class Step:
        def step(self) -> None:
            order.append("step")

    near, far = tcp_pair()
    ticking = near.watch(EV_READ)
    ticking.start(order.append, "loop")  # ready all the time
    far.sendall(b"x")
    until(lambda: order)
    order.clear()
    for _ in range(20):
        handshakes.add(Step())  # type: ignore[arg-type]
    until(lambda: order.count("step") == 20)
    ticking.stop()
    assert "step,step,step" not in ",".join(order)
    near.close()
    far.close()


@pytest.mark.parametrize(
    ("key", "digest", "expected"),
    [
        ("ec", hashes.SHA256(), "sha256"),
        ("ec", hashes.SHA384(), "sha384"),
        ("rsa2048", hashes.SHA512(), "sha512"),
        ("rsa2048", hashes.SHA256(), "sha256"),
        ("ed25519", None, "sha256"),
    ],
)
def test_channel_binding(key: str, digest: Any, expected: str) -> None:
    """RFC 5929 section 4.1."""
    der = make_pair(key=key, digest=digest).der
    assert channel_binding(der) == hashlib.new(expected, der).digest()


def test_channel_binding_of_what_cannot_be_read() -> None:
    assert channel_binding(b"\x30\x03abc") == hashlib.sha256(b"\x30\x03abc").digest()
