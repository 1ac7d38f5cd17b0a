"""Opening a tunnel from the client's side, against a server by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import gevent
import pytest

from gtapp.client import connect as connect_module
from gtapp.client import dialer as dialer_module
from gtapp.client.dialer import Dialer, Opened
from gtapp.client.services import Services
from gtapp.config.load import Service
from gtapp.config.options import ClientOptions
from gtapp.config.values import URL
from gtapp.errors import ConfigError, GTError, LinkError, RemoteRefused, WireError
from gtapp.relay.clock import Clock
from gtapp.wire import compat, frames
from gtapp.wire.credentials import MIN_ITERATIONS, Verifier, derive
from gtapp.wire.handshake import HandshakeError, ServerHandshake, ServiceSpec, error_message
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


class Dialing:
    """A dialer, and the services for its tunnels."""

    def __init__(self, options: ClientOptions, services: Sequence[Service]) -> None:
        self.dialer = Dialer(options, "instance")
        self.services = Services(services, Clock([60]))

    def open(self, remote: URL) -> Opened:
        return self.dialer.open(remote, self.services)

    def close(self) -> None:
        self.dialer._threads.kill()


HTTP = (
    Service(local=URL("http", "127.0.0.1", 80), host_prefix="id1"),
    Service(local=URL("http", "127.0.0.1", 80), host_prefix="b"),
)


@pytest.fixture
def make_dialer() -> Iterator[Callable[..., Dialing]]:
    made: list[Dialing] = []

    def make(services: Sequence[Service] = HTTP, **options: Any) -> Dialing:
        made.append(Dialing(replace(ClientOptions(id="id1", secret="secret1"), **options), services))
        return made[-1]

    yield make
    for each in made:
        each.close()


MakeDialer = Callable[..., Dialing]


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
    tunnel = make_dialer().open(remote.url).tunnel
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
    tunnel = make_dialer().open(remote.url).tunnel
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
    tunnel = make_dialer().open(remote.url).tunnel
    assert tunnel.frames.version == 1
    tunnel.abort("the test is over")


def test_no_step_down_for_a_server_that_has_spoken_3(make_dialer: MakeDialer, remote: Remote) -> None:
    """Somebody on the way who closes connections must not get to see the secret."""
    dialer = make_dialer(allow_plain_secret=True)
    remote.serve(native, old)
    dialer.open(remote.url).tunnel.abort("the test is over")
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
        dialer.open(remote.url).tunnel.abort("the test is over")
    else:
        with pytest.raises(GTError, match="allowPlainSecret"):
            dialer.open(remote.url)
        serving.kill()


@pytest.mark.parametrize("code", [*range(1, 10), 99])
def test_refusals_of_protocol_1(make_dialer: MakeDialer, remote: Remote, code: int) -> None:
    remote.serve(compat_server(compat.Error(code, 0 if code == compat.TCP_PORT_FAILED else None)))
    with pytest.raises(RemoteRefused) as error:
        make_dialer(protocol="1").open(remote.url)
    assert str(error.value).count(": ") <= 2, "advice once"


ALL_KINDS = (
    Service(local=URL("http", "127.0.0.1", 80), host_prefix="id1"),
    Service(local=URL("https", "127.0.0.1", 443), host_prefix="b"),
    Service(local=URL("tcp", "127.0.0.1", 22), remote_tcp_port=2222, remote_tcp_random=False),
    Service(local=URL("tcp", "127.0.0.1", 23), remote_tcp_random=True),
)
SPECS = [
    ServiceSpec("http", "id1"),
    ServiceSpec("tls", "b"),
    ServiceSpec("tcp", None, 2222, False),
    ServiceSpec("tcp", None, 0, True),
]


def test_services_of_all_kinds(make_dialer: MakeDialer, remote: Remote) -> None:
    granted: list[dict[str, Any]] = [{"hostPrefix": "id1"}, {"hostPrefix": "b"}, {"port": 2222}, {"port": 9}]

    def answer(sock: Any) -> None:
        read_exactly(sock, 2)
        far = FarEnd(sock, frames.Frames())
        handshake = ServerHandshake("test")
        handshake.hello(far.next()[2])
        far.send(far.frames.control(handshake.challenge(VERIFIER)))
        assert handshake.auth(far.next()[2]).services == SPECS
        far.send(far.frames.control(handshake.ready(granted, 262144, 90.0, 1)))

    serving = remote.serve(answer)
    opened = make_dialer(ALL_KINDS).open(remote.url)
    serving.get(timeout=5)
    assert opened.granted == granted
    opened.tunnel.abort("the test is over")


def test_services_of_all_kinds_over_protocol_1(make_dialer: MakeDialer, remote: Remote) -> None:
    """Many messages at once: each port has its INFO."""

    def answer(sock: Any) -> None:
        read_exactly(sock, 2)
        reader = compat.OpeningReader()
        while not (asked := reader.receive(sock.recv(10_000))):
            pass
        assert [ServiceSpec(each.kind, each.prefix, each.port, each.random) for each in asked.services] == [
            ServiceSpec("http"), *SPECS[1:], *[SPECS[3]] * 20
        ]  # fmt: skip
        infos = [compat.signal(compat.Info(1, index, 8000 + index)) for index in range(2, 24)]
        sock.sendall(b"".join([*infos, compat.signal(compat.Ready())]))

    serving = remote.serve(answer)
    opened = make_dialer((*ALL_KINDS, *[ALL_KINDS[3]] * 20), protocol="1").open(remote.url)
    serving.get(timeout=5)
    prefixes: list[dict[str, Any]] = [{"hostPrefix": "id1"}, {"hostPrefix": "b"}]
    assert opened.granted == prefixes + [{"port": 8000 + index} for index in range(2, 24)]
    opened.tunnel.abort("the test is over")


def test_a_refusal_of_protocol_1_names_the_service(make_dialer: MakeDialer, remote: Remote) -> None:
    remote.serve(compat_server(compat.Error(compat.TCP_PORT_FAILED, 1)))
    services = (HTTP[0], ALL_KINDS[2])
    with pytest.raises(RemoteRefused, match=r"tcp://127.0.0.1:22: .*remoteTCPPort"):
        make_dialer(services, protocol="1").open(remote.url)


def test_an_id_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        Dialer(ClientOptions(id="\u06271", secret="secret1"), "instance")


# over TLS; the test plays it, for here it matters only what each end believes to know of the other


def secure(
    monkeypatch: pytest.MonkeyPatch, *, verified: bool, binding: bytes | None = b"certificate"
) -> None:
    """Connections of the dialer are TLS to somewhere far away, with this certificate."""
    real = connect_module.connect

    def connect(*args: Any) -> Any:
        return replace(real(*args), channel_binding=binding, verified=verified)

    monkeypatch.setattr(dialer_module, "connect", connect)
    monkeypatch.setattr(dialer_module, "_is_loopback", lambda link: False)


def modern(
    mechanism: str,
    *,
    binding: bytes | None = b"certificate",
    plain: bool = False,
    verifier: Verifier | None = VERIFIER,
    enroll: bool = False,
) -> Answer:
    """A server of protocol 3 with the certificate `binding`, to which the client comes with `mechanism`."""

    def answer(sock: Any) -> None:
        assert read_exactly(sock, 2) == frames.OPENING
        far = FarEnd(sock, frames.Frames())
        handshake = ServerHandshake("test", binding)
        try:
            first = far.next()[2]
            assert first["mechanism"] == mechanism
            hello = handshake.hello(first)
            challenge = handshake.enroll() if enroll else handshake.challenge(verifier)
            if plain:
                challenge["mechanisms"] = [*challenge["mechanisms"], "PLAIN"]
            far.send(far.frames.control(challenge))
            auth = handshake.auth(far.next()[2])
            assert (auth.verifier is not None) == enroll
            assert hello.secret == ("secret1" if mechanism == "PLAIN" else None)
            far.send(far.frames.control(handshake.ready([], 262144, 90.0, 1)))
        except HandshakeError as error:
            far.send(far.frames.control(error_message(error.code, str(error))))
        except ConnectionResetError:
            pass  # it goes and comes again with PLAIN

    return answer


BOUND, UNBOUND = "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"


@pytest.mark.parametrize("verified", [True, False])
def test_over_tls_the_proofs_include_the_certificate(
    make_dialer: MakeDialer, remote: Remote, monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    secure(monkeypatch, verified=verified)
    serving = remote.serve(modern(BOUND))
    make_dialer().open(remote.url).tunnel.abort("the test is over")
    serving.get(timeout=5)


def test_a_man_in_the_middle_without_a_certificate_of_the_authorities(
    make_dialer: MakeDialer, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure(monkeypatch, verified=False)
    dialer = make_dialer()
    remote.serve(modern(BOUND, binding=b"another"), modern(BOUND, binding=None))
    with pytest.raises(RemoteRefused, match=r"different certificates.*proxy of yours") as refused:
        dialer.open(remote.url)
    assert refused.value.code == "other_certificate"
    with pytest.raises(RemoteRefused, match="unknown mechanism"):
        dialer.open(remote.url)


@pytest.mark.parametrize("behind", [b"another", None])
def test_a_proxy_with_a_certificate_of_the_authorities(
    make_dialer: MakeDialer, remote: Remote, monkeypatch: pytest.MonkeyPatch, behind: bytes | None
) -> None:
    """It takes the TLS off; the server behind it has TLS of its own, or none. That is tried once."""
    secure(monkeypatch, verified=True)
    dialer = make_dialer()
    serving = remote.serve(
        modern(BOUND, binding=behind), modern(UNBOUND, binding=behind), modern(UNBOUND, binding=behind)
    )
    for _ in range(2):
        dialer.open(remote.url).tunnel.abort("the test is over")
    serving.get(timeout=5)


def test_after_a_refusal_the_best_way_is_tried_again(
    make_dialer: MakeDialer, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure(monkeypatch, verified=True)
    dialer = make_dialer()
    other = derive("secret2", bytes(16), MIN_ITERATIONS)
    remote.serve(modern(BOUND, binding=None), modern(UNBOUND, binding=None, verifier=other), modern(BOUND))
    with pytest.raises(RemoteRefused, match=r"wrong secret.*set the id and secret"):
        dialer.open(remote.url)
    dialer.open(remote.url).tunnel.abort("the test is over")


@pytest.mark.parametrize(
    ("verified", "binding", "allowed", "shown"),
    [
        (True, b"certificate", False, True),
        (False, b"certificate", False, False),
        (False, b"certificate", True, True),
        (False, None, False, False),
        (False, None, True, True),
    ],
)
def test_a_server_with_an_auth_api_is_shown_the_secret_where_that_is_safe(
    make_dialer: MakeDialer,
    remote: Remote,
    monkeypatch: pytest.MonkeyPatch,
    verified: bool,
    binding: bytes | None,
    allowed: bool,
    shown: bool,
) -> None:
    """Where it is not, SCRAM will do for those whom the server knows itself. PLAIN is remembered."""
    secure(monkeypatch, verified=verified, binding=binding)
    dialer = make_dialer(allow_plain_secret=allowed)
    first = modern(BOUND if binding else UNBOUND, binding=binding, plain=True)
    again = modern("PLAIN", binding=binding, plain=True) if shown else first
    serving = remote.serve(first, again, *[again] * shown)
    for _ in range(2):
        dialer.open(remote.url).tunnel.abort("the test is over")
    serving.get(timeout=5)


@pytest.mark.parametrize(
    ("verified", "allowed", "enrolled"), [(True, False, True), (False, False, False), (False, True, True)]
)
def test_a_server_that_lets_anybody_in_gets_a_verifier_where_that_is_safe(
    make_dialer: MakeDialer,
    remote: Remote,
    monkeypatch: pytest.MonkeyPatch,
    verified: bool,
    allowed: bool,
    enrolled: bool,
) -> None:
    secure(monkeypatch, verified=verified)
    remote.serve(modern(BOUND, enroll=True))
    dialer = make_dialer(allow_plain_secret=allowed)
    if enrolled:
        dialer.open(remote.url).tunnel.abort("the test is over")
    else:
        with pytest.raises(GTError, match="remoteCert"):
            dialer.open(remote.url)


@pytest.mark.parametrize("verified", [True, False])
def test_the_step_down_over_tls(
    make_dialer: MakeDialer, remote: Remote, monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    """Protocol 1 shows the secret, to whoever is at the other end of the TLS."""
    secure(monkeypatch, verified=verified)
    serving = remote.serve(old, compat_server(compat.Ready()))
    if verified:
        make_dialer().open(remote.url).tunnel.abort("the test is over")
        serving.get(timeout=5)
    else:
        with pytest.raises(LinkError, match="allowPlainSecret"):
            make_dialer().open(remote.url)
        serving.kill()


def test_a_server_that_has_locked_us_out(make_dialer: MakeDialer, remote: Remote) -> None:
    """It says so at once, before it has read who we are."""

    def answer(sock: Any) -> None:
        read_exactly(sock, 2)
        sock.sendall(frames.Frames().control(error_message("locked_out", "too many failed logins")))

    remote.serve(answer)
    with pytest.raises(RemoteRefused, match=r"too many failed logins: .*reconnectDuration"):
        make_dialer().open(remote.url)


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
