"""Opening a tunnel from the client's side, against a server by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gevent
import pytest

from gtapp.client import dialer as dialer_module
from gtapp.client.dialer import Dialer
from gtapp.config.load import ClientConfig, Service
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import GTError, LinkError, RemoteRefused, WireError
from gtapp.wire import compat, frames
from gtapp.wire.credentials import MIN_ITERATIONS, derive
from gtapp.wire.handshake import ServerHandshake, error_message
from tests.support.ports import Port
from tests.support.relay import CONTROL, FarEnd, ours, read_exactly, reset, turn

VERIFIER = derive("secret1", bytes(16), MIN_ITERATIONS)
Answer = Callable[[Any], None]


class Remote:
    """A server by hand: each connection is given to the next of `answers`."""

    def __init__(self) -> None:
        self.port = Port()
        self.url = URL("tcp", *self.port.address)
        self._listener = ours(self.port.listen())
        self.sockets: list[Any] = []

    def serve(self, *answers: Answer) -> gevent.Greenlet[..., None]:
        def run() -> None:
            for answer in answers:
                sock, _ = self._listener.accept()
                sock.settimeout(5)
                self.sockets.append(sock)
                answer(sock)

        return gevent.spawn(run)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self._listener.close()
        self.port.close()


@pytest.fixture
def remote() -> Iterator[Remote]:
    made = Remote()
    yield made
    made.close()


@pytest.fixture
def make_dialer() -> Iterator[Callable[..., Dialer]]:
    made: list[Dialer] = []

    def make(**options: Any) -> Dialer:
        chosen = replace(ClientOptions(id="id1", secret="secret1"), **options)
        services = tuple(
            Service(local=URL("http", "127.0.0.1", 80), host_prefix=name) for name in ("id1", "b")
        )
        made.append(Dialer(ClientConfig(None, chosen, services), "instance", lambda stream, opened: None))
        return made[-1]

    yield make
    for each in made:
        each._threads.kill()


MakeDialer = Callable[..., Dialer]


def native(sock: Any, verifier: Any = VERIFIER, ready: bool = True) -> None:
    """A server of protocol 3 that lets the client in."""
    assert read_exactly(sock, 2) == frames.OPENING
    far = FarEnd(sock, frames.Frames())
    handshake = ServerHandshake("test")
    assert handshake.hello(far.next()[2]).id == "id1"
    far.send(far.frames.control(handshake.challenge(verifier)))
    auth = handshake.auth(far.next()[2])
    assert [service.host_prefix for service in auth.services] == ["id1", "b"]
    assert auth.instance == "instance"
    if ready:
        far.send(far.frames.control(handshake.ready([], 262144, 90.0, 1)))


def old(sock: Any) -> None:
    """A server that knows protocol 1 alone, when it sees protocol 3."""
    assert read_exactly(sock, 2) == frames.OPENING
    sock.close()


def compat_server(*signals: compat.Signal) -> Answer:
    def answer(sock: Any) -> None:
        assert read_exactly(sock, 2) == compat.OPENING
        reader = compat.OpeningReader()
        while not (asked := reader.receive(sock.recv(1000))):
            pass
        assert (asked.id, asked.secret, len(asked.services)) == ("id1", "secret1", 2)
        sock.sendall(b"".join(compat.signal(each) for each in signals))

    return answer


def test_protocol_3(make_dialer: MakeDialer, remote: Remote) -> None:
    serving = remote.serve(native)
    tunnel, _ = make_dialer().open(remote.url)
    assert tunnel.frames.version == 3
    assert not tunnel.closed
    serving.get(timeout=5)
    tunnel.abort("the test is over")


def test_a_server_that_does_not_know_the_secret(make_dialer: MakeDialer, remote: Remote) -> None:
    """It says yes to anything; nothing is relayed for it."""

    def impostor(sock: Any) -> None:
        read_exactly(sock, 2)
        far = FarEnd(sock, frames.Frames())
        handshake = ServerHandshake("test")
        handshake.hello(far.next()[2])
        far.send(far.frames.control(handshake.challenge(derive("guess", bytes(16), MIN_ITERATIONS))))
        far.next_of(CONTROL)
        ready = handshake.ready([], 262144, 90.0, 1) | {"scram": "v=AAAA"}
        far.send(far.frames.control(ready))

    remote.serve(impostor)
    with pytest.raises(WireError, match="does not know the secret"):
        make_dialer().open(remote.url)


def test_a_refusal_says_why(make_dialer: MakeDialer, remote: Remote) -> None:
    def refuse(sock: Any) -> None:
        native(sock, ready=False)
        sock.sendall(frames.Frames().control(error_message("host_conflict", "b is taken", 1)))

    remote.serve(refuse)
    with pytest.raises(RemoteRefused, match="b is taken") as error:
        make_dialer().open(remote.url)
    assert error.value.code == "host_conflict"


@pytest.mark.parametrize("way", ["close", "reset", "http"])
def test_the_step_down_to_protocol_1(make_dialer: MakeDialer, remote: Remote, way: str) -> None:
    def answer(sock: Any) -> None:
        read_exactly(sock, 2)
        if way == "http":
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        if way == "reset":
            reset(sock)
        else:
            sock.close()

    remote.serve(answer, compat_server(compat.Ready()))
    tunnel, _ = make_dialer().open(remote.url)
    assert tunnel.frames.version == 1
    tunnel.abort("the test is over")


def test_http_in_two_pieces_is_http(make_dialer: MakeDialer, remote: Remote) -> None:
    def answer(sock: Any) -> None:
        read_exactly(sock, 2)
        sock.sendall(b"HT")
        turn(5)
        sock.sendall(b"TP/1.1 400 Bad Request\r\n\r\n")
        sock.close()

    remote.serve(answer, compat_server(compat.Ready()))
    tunnel, _ = make_dialer().open(remote.url)
    assert tunnel.frames.version == 1
    tunnel.abort("the test is over")


def test_no_step_down_for_a_server_that_has_spoken_3(make_dialer: MakeDialer, remote: Remote) -> None:
    """Somebody on the way who closes connections must not get to see the secret."""
    dialer = make_dialer(allow_plain_secret=True)
    remote.serve(native, old)
    dialer.open(remote.url)[0].abort("the test is over")
    with pytest.raises(LinkError, match="does not speak protocol 3"):
        dialer.open(remote.url)


def test_no_step_down_when_pinned_to_3(make_dialer: MakeDialer, remote: Remote) -> None:
    remote.serve(old)
    with pytest.raises(LinkError, match="does not speak protocol 3"):
        make_dialer(protocol="3").open(remote.url)


def test_no_step_down_in_the_middle(make_dialer: MakeDialer, remote: Remote) -> None:
    """A server that has begun to speak protocol 3 and is lost is not an old one."""

    def answer(sock: Any) -> None:
        native(sock, ready=False)
        sock.close()

    remote.serve(answer)
    with pytest.raises(LinkError, match="closed by the other end"):
        make_dialer().open(remote.url)


@pytest.mark.parametrize(("allowed", "protocol"), [(False, "auto"), (True, "auto"), (False, "1")])
def test_the_secret_is_shown_only_where_it_may_be(
    make_dialer: MakeDialer, remote: Remote, monkeypatch: pytest.MonkeyPatch, allowed: bool, protocol: str
) -> None:
    monkeypatch.setattr(dialer_module, "_is_loopback", lambda link: False)
    dialer = make_dialer(allow_plain_secret=allowed, protocol=protocol)
    answers = [compat_server(compat.Ready())] if protocol == "1" else [old, compat_server(compat.Ready())]
    serving = remote.serve(*answers)
    if allowed or protocol == "1":
        dialer.open(remote.url)[0].abort("the test is over")
    else:
        with pytest.raises(GTError, match="allowPlainSecret"):
            dialer.open(remote.url)
        serving.kill()


@pytest.mark.parametrize("code", [*range(1, 10), 99])
def test_refusals_of_protocol_1(make_dialer: MakeDialer, remote: Remote, code: int) -> None:
    remote.serve(compat_server(compat.Error(code, 0 if code == compat.TCP_PORT_FAILED else None)))
    with pytest.raises(RemoteRefused) as error:
        make_dialer(protocol="1").open(remote.url)
    assert str(error.value)


def test_information_before_ready(make_dialer: MakeDialer, remote: Remote) -> None:
    remote.serve(compat_server(compat.Info(1, 0, 8000), compat.Ready()))
    make_dialer(protocol="1").open(remote.url)[0].abort("the test is over")


def test_nobody_listens(make_dialer: MakeDialer) -> None:
    with Port() as port, pytest.raises(LinkError, match=f"cannot connect to tcp://127.0.0.1:{port.number}"):
        make_dialer().open(URL("tcp", *port.address))


def test_a_server_that_says_nothing(
    make_dialer: MakeDialer, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer_module, "OPENING_S", 0.05)
    remote.serve(lambda sock: None)
    with pytest.raises(LinkError, match="does not answer"):
        make_dialer().open(remote.url)


def test_an_attempt_that_is_given_up(make_dialer: MakeDialer, remote: Remote) -> None:
    remote.serve(lambda sock: None)
    attempt = gevent.spawn(make_dialer().open, remote.url)
    turn(10)
    attempt.kill()
    with pytest.raises(ConnectionResetError):
        read_exactly(remote.sockets[0], 1_000_000)


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 50, frames.Frames().control({"type": "x"}), frames.Frames().eof(2)]
)
def test_garbage_is_an_error_of_ours(
    make_dialer: MakeDialer, remote: Remote, garbage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dialer_module, "OPENING_S", 0.1
    )  # an end of a stream to be opened later is not garbage yet
    remote.serve(lambda sock: sock.sendall(garbage))
    with pytest.raises(GTError):
        make_dialer().open(remote.url)
