"""How a tunnel gets in, with the client's side by hand: both protocols, every refusal, and taking over."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gevent
import pytest

from gtapp.config.load import User
from gtapp.config.options import ServerOptions
from gtapp.relay.clock import Clock
from gtapp.relay.tunnel import Tunnel
from gtapp.server import admission as admission_module
from gtapp.server.admission import Admission
from gtapp.server.registry import Registry
from gtapp.server.users import Users
from gtapp.wire import compat, credentials, frames
from gtapp.wire.credentials import MIN_ITERATIONS, derive
from gtapp.wire.handshake import ClientHandshake, ServiceSpec
from tests.support.relay import CONTROL, PING, FarEnd, Recorder, tcp_pair, turn, until

OPTIONS = ServerOptions(max_hand_shake_options=5)
USERS = (User(id="id1", secret="secret1"), User(id="id2", secret="secret2", connections=2))


@pytest.fixture(autouse=True)
def _quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not 65,536 iterations for each of these tests."""
    monkeypatch.setattr(credentials, "DEFAULT_ITERATIONS", MIN_ITERATIONS)
    monkeypatch.setattr(credentials, "derive", lambda secret, salt, _=0: derive(secret, salt, MIN_ITERATIONS))
    monkeypatch.setattr(admission_module, "PROBE_S", 0.05)


class Door:
    """An admission, and clients that come to it."""

    def __init__(self, options: ServerOptions) -> None:
        self.registry = Registry()
        self.clock = Clock([0.04])  # quick ticks, for who is silent
        self.clock.start()
        self.users = Users({user.id: user for user in USERS})
        self.admission = Admission(options, self.users, self.registry, self.clock)
        self.clients: list[FarEnd] = []

    def come(self, wire: Any, first: bytes) -> FarEnd:
        sock, far = tcp_pair()
        client = FarEnd(far, wire)
        self.clients.append(client)
        self.admission.admit(sock, "192.0.2.1:5", first)
        return client

    def native(self) -> FarEnd:
        return self.come(frames.Frames(), frames.OPENING)

    def log_in(
        self,
        user_id: str = "id1",
        secret: str = "secret1",
        prefixes: tuple[str | None, ...] = ("a",),
        **more: Any,
    ) -> FarEnd:
        """A client of protocol 3 up to its `auth`; the answer is the next message."""
        client = self.native()
        services = [ServiceSpec("http", prefix) for prefix in prefixes]
        handshake = ClientHandshake(
            user_id, secret, "test", "instance", more.pop("services", services), **more
        )
        client.send(client.frames.control(handshake.hello()))
        challenge = message(client)
        if challenge["type"] == "error":
            client._events.insert(0, (CONTROL, 0, challenge))
        else:
            client.send(client.frames.control(handshake.auth(challenge)))
            client.handshake = handshake  # type: ignore[attr-defined]
        return client

    def compat(
        self, user_id: str = "id1", secret: str = "secret1", *services: compat.CompatService
    ) -> FarEnd:
        asked = compat.Opening(user_id, secret, services or (compat.CompatService("http", "a"),))
        return self.come(compat.CompatFrames(server=False), compat.opening(asked))

    def tunnels(self) -> list[Tunnel]:
        return self.registry.tunnels()

    def close(self) -> None:
        turn()
        for client in self.clients:
            client.close()
        for tunnel in self.tunnels():
            tunnel.abort("the test is over")
        until(lambda: not self.admission._openings)
        self.clock.stop()
        self.users._threads.kill()


@pytest.fixture
def make_door() -> Iterator[Callable[..., Door]]:
    doors: list[Door] = []

    def make(**options: Any) -> Door:
        doors.append(Door(replace(OPTIONS, **options)))
        return doors[-1]

    yield make
    for door in doors:
        door.close()


@pytest.fixture
def door(make_door: Callable[..., Door]) -> Door:
    return make_door()


def message(client: FarEnd) -> Any:
    """The next control message or signal, PINGs aside."""
    kind, _, value = client.next(PING)
    assert kind == CONTROL
    return value


def live(client: FarEnd) -> None:
    """A client that answers PINGs."""
    while True:
        client.answer_ping()


def refused(client: FarEnd, code: str) -> Any:
    answer = message(client)
    assert (answer["type"], answer["code"]) == ("error", code)
    assert client.rest() == []
    return answer


def refused_compat(client: FarEnd, code: int, index: int | None = None) -> None:
    assert message(client) == compat.Error(code, index)
    assert client.rest() == []


# protocol 3


def test_a_client_comes_in(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client = door.log_in(prefixes=("a", None, "UPPER"))
    ready = message(client)
    assert ready["type"] == "ready"
    assert ready["services"] == [{"hostPrefix": name} for name in ("a", "id1", "upper")]
    granted = client.handshake.ready(ready)  # type: ignore[attr-defined]
    assert granted.window == 256 * 1024
    assert granted.idle_timeout == OPTIONS.timeout
    (tunnel,) = door.tunnels()
    host = door.registry.find("upper")
    assert host is not None
    assert host.choose() == (tunnel, 2)
    assert "tunnel of id1 from 192.0.2.1:5 is up" in caplog.text
    assert "secret1" not in caplog.text
    client.answer_ping()
    until(lambda: tunnel.rtt)
    client.close()
    until(lambda: not door.tunnels())
    assert "is down: closed by the other end" in caplog.text


def test_plain(door: Door) -> None:
    assert message(door.log_in(plain=True))["type"] == "ready"
    refused(door.log_in(secret="wrong", plain=True), "invalid_credentials")
    refused(door.log_in("nobody", "wrong", plain=True), "invalid_credentials")


def test_nothing_tells_an_unknown_id_from_a_wrong_secret(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [
        refused(door.log_in(*login), "invalid_credentials") for login in (("id1", "x"), ("nobody", "x"))
    ]
    assert answers[0] == answers[1]
    assert door.tunnels() == []


@pytest.mark.parametrize(
    ("services", "code", "index"),
    [
        ([ServiceSpec("http", "a"), ServiceSpec("tcp", None, 80)], "port_unavailable", 1),
        ([ServiceSpec("tls", "a")], "host_not_allowed", 0),
        ([ServiceSpec("http", "a.b")], "host_not_allowed", 0),
        ([ServiceSpec("http", "a"), ServiceSpec("http", "A")], "host_conflict", 1),
        ([ServiceSpec("http", f"a{number}") for number in range(6)], "too_many_services", None),
    ],
)
def test_services_that_cannot_be(
    door: Door, services: list[ServiceSpec], code: str, index: int | None
) -> None:
    assert refused(door.log_in(services=services), code).get("service") == index
    assert door.tunnels() == []


def test_a_host_of_another_user(door: Door) -> None:
    assert message(door.log_in())["type"] == "ready"
    refused(door.log_in("id2", "secret2"), "host_conflict")
    assert door.registry.tunnels_of("id2") == []


@pytest.mark.parametrize(
    "bad",
    [{"type": "x"}, {"type": "hello"}, {"type": "auth"}, {"type": "drain"}, {"type": "hello", "id": "id1"}],
)
def test_messages_that_do_not_belong_here(door: Door, bad: dict[str, Any]) -> None:
    client = door.native()
    client.send(client.frames.control(bad))
    refused(client, "protocol_error")


@pytest.mark.parametrize(
    "data", [b"\xff" * 100, frames.Frames().open(2, 0, "", b""), b"GET / HTTP/1.1\r\n\r\n"]
)
def test_bytes_that_do_not_belong_here(door: Door, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    client = door.native()
    client.send(data)
    assert client.rest() == []
    assert "Traceback" not in caplog.text


def test_the_opening_has_its_time(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(admission_module, "OPENING_S", 0.05)
    clients = [door.native(), door.come(compat.CompatFrames(server=False), b"\xf0\x01\x03id")]
    for client in clients:
        assert client.rest() == []
    assert caplog.text.count("took longer than") == 2
    assert not door.admission._openings


def test_a_client_that_leaves_in_the_opening(door: Door) -> None:
    for first in (frames.OPENING, b"\xf0\x01\x03id"):
        door.come(frames.Frames(), first).close()
    until(lambda: not door.admission._openings)


@pytest.mark.parametrize("version", [1, 3])
def test_a_protocol_that_is_turned_off(make_door: Callable[..., Door], version: int) -> None:
    door = make_door(protocols=(4 - version,))
    client = door.native() if version == 3 else door.compat()
    assert client.rest() == []
    assert not door.admission._openings


def test_openings_have_a_bound(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says nothing must not keep others out."""
    monkeypatch.setattr(admission_module, "MAX_OPENINGS", 3)
    silent = [door.native() for _ in range(3)]
    turn()
    assert message(door.log_in())["type"] == "ready"
    assert silent[0].rest() == []
    assert len(door.admission._openings) == 2


def test_the_oldest_opening_makes_room_before_it_has_begun(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand connections may come to life in one turn of the loop."""
    monkeypatch.setattr(admission_module, "MAX_OPENINGS", 1)
    first, _ = door.native(), door.native()
    assert first.rest() == []
    gc.collect()


# live tunnels of protocol 3


def test_new_services_for_a_live_tunnel(door: Door) -> None:
    client = door.log_in(prefixes=("a", "b"))
    message(client)
    specs = [ServiceSpec("http", name).to_dict() for name in ("b", "c")]
    client.send(client.frames.control({"type": "services", "services": specs}))
    assert message(client) == {"type": "ready", "services": [{"hostPrefix": "b"}, {"hostPrefix": "c"}]}
    hosts = {name: door.registry.find(name) for name in "abc"}
    assert {name: list(host.tunnels.values()) for name, host in hosts.items() if host} == {
        "a": [],
        "b": [0],
        "c": [1],
    }


@pytest.mark.parametrize(
    ("services", "code"),
    [
        (None, "protocol_error"), ([1], "protocol_error"), ([{"kind": "tcp", "port": 1}], "port_unavailable"),
        ([{"kind": "http", "hostPrefix": "taken"}], "host_conflict"),
        ([{"kind": "http", "hostPrefix": f"a{n}"} for n in range(6)], "too_many_services"),
    ],
)  # fmt: skip
def test_new_services_that_cannot_be_leave_the_old(door: Door, services: Any, code: str) -> None:
    message(door.log_in("id2", "secret2", prefixes=("taken",)))
    client = door.log_in()
    message(client)
    client.send(client.frames.control({"type": "services", "services": services}))
    answer = message(client)
    assert (answer["type"], answer["code"]) == ("error", code)
    host = door.registry.find("a")
    assert host is not None
    assert host.choose()


def test_new_services_of_a_tunnel_that_ends_with_them(door: Door) -> None:
    """They must not be published: nobody would ever withdraw them."""
    client = door.log_in()
    message(client)
    services = {"type": "services", "services": [{"kind": "http", "hostPrefix": "late"}]}
    client.send(client.frames.control(services), client.frames.open(1, 0, "", b""))
    client.rest()
    turn(5)
    assert door.tunnels() == []
    assert door.registry.clients == 0


def test_a_client_that_drains(door: Door) -> None:
    client = door.log_in()
    message(client)
    client.send(client.frames.control({"type": "drain"}))
    client.rest()
    until(lambda: not door.tunnels())


def test_a_message_of_a_later_version_is_ignored(door: Door) -> None:
    client = door.log_in()
    message(client)
    client.send(client.frames.control({"type": "later"}), client.frames.ping(b"12345678"))
    assert client.next(PING)[0] == frames.PONG


# how many tunnels


def test_no_more_tunnels_than_allowed(door: Door) -> None:
    answering = [gevent.spawn(live, door.log_in("id2", "secret2")) for _ in range(2)]
    until(lambda: len(door.tunnels()) == 2)
    refused(door.log_in("id2", "secret2"), "too_many_connections")
    assert len(door.tunnels()) == 2
    gevent.killall(answering)


def test_a_client_that_comes_back_takes_over_from_its_dead_tunnels(door: Door) -> None:
    for _ in range(2):
        message(door.log_in("id2", "secret2"))
    dead = door.tunnels()
    assert message(door.log_in("id2", "secret2"))["type"] == "ready"
    assert all(tunnel.closed for tunnel in dead)
    assert len(door.tunnels()) == 1


def test_a_tunnel_that_is_busy_is_not_taken_for_dead(door: Door) -> None:
    """Its answer stands behind what it is sending."""
    busy = [door.log_in("id2", "secret2") for _ in range(2)]
    until(lambda: len(door.tunnels()) == 2)

    def send() -> None:
        while True:
            for client in busy:
                client.send(client.data(1000, bytes(1000)))
            gevent.sleep(0.005)

    sending = gevent.spawn(send)
    refused(door.log_in("id2", "secret2"), "too_many_connections")
    sending.kill()
    assert len(door.tunnels()) == 2


def test_openings_in_parallel_do_not_exceed_the_limit(door: Door) -> None:
    logins = [gevent.spawn(door.log_in, "id2", "secret2") for _ in range(6)]
    answers = [message(login.get(timeout=10)) for login in logins]
    assert len(door.tunnels()) <= 2
    assert {answer["type"] for answer in answers} <= {"ready", "error"}


# the end of the server


def test_stop_lets_nobody_in(door: Door) -> None:
    door.admission.stop()
    assert door.native().rest() == []


def test_stop_while_one_is_coming_in(door: Door) -> None:
    """A tunnel that came up now would be told nothing, and waited for."""
    client = door.native()
    handshake = ClientHandshake("id1", "secret1", "test", "instance", [ServiceSpec("http", "a")])
    client.send(client.frames.control(handshake.hello()))
    challenge = message(client)
    door.admission.stop()
    client.send(client.frames.control(handshake.auth(challenge)))
    assert message(client)["type"] == "ready"
    assert message(client) == {"type": "drain"}
    client.close()
    until(lambda: not door.tunnels())


# protocol 1


def test_a_client_of_protocol_1_comes_in(door: Door) -> None:
    client = door.compat("id1", "secret1", compat.CompatService("http"), compat.CompatService("http", "b"))
    assert message(client) == compat.Ready()
    (tunnel,) = door.tunnels()
    host = door.registry.find("b")
    assert host is not None
    assert host.choose() == (tunnel, 1)
    client.send(client.frames.ping(bytes(8)))
    assert client.next()[0] == PING


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_opening_of_protocol_1_in_pieces(door: Door, size: int) -> None:
    asked = compat.Opening("id1", "secret1", tuple(compat.CompatService("http", f"a{n}") for n in range(2)))
    data = compat.opening(asked)
    client = door.come(compat.CompatFrames(server=False), data[:2])
    for at in range(2, len(data), size):
        turn(1)
        client.send(data[at : at + size])
    assert message(client) == compat.Ready()


@pytest.mark.parametrize(
    ("login", "services", "code", "index"),
    [
        (("id1", "wrong"), [], compat.INVALID_CREDENTIALS, None),
        (("nobody", "wrong"), [], compat.INVALID_CREDENTIALS, None),
        (("id1", "\x00"), [], compat.INVALID_CREDENTIALS, None),
        (
            ("id1", "secret1"),
            [compat.CompatService("http"), compat.CompatService("tcp")],
            compat.TCP_PORT_FAILED,
            1,
        ),
        (("id1", "secret1"), [compat.CompatService("tls")], compat.HOST_NOT_ALLOWED, None),
        (("id1", "secret1"), [compat.CompatService("http", "a")] * 2, compat.HOST_CONFLICT, None),
        (
            ("id1", "secret1"),
            [compat.CompatService("http", f"a{n}") for n in range(6)],
            compat.TOO_MANY_OPTIONS,
            None,
        ),
    ],
)
def test_refusals_of_protocol_1(
    door: Door, login: tuple[str, str], services: list[compat.CompatService], code: int, index: int | None
) -> None:
    refused_compat(door.compat(*login, *services), code, index)
    assert door.tunnels() == []


def test_data_before_ready_is_refused(door: Door) -> None:
    asked = compat.Opening("id1", "secret1", (compat.CompatService("http"),))
    client = door.come(
        compat.CompatFrames(server=False), compat.opening(asked) + b"\0\0\0\x07\0\0\0\0\0\x01x"
    )
    client.rest()
    until(lambda: not door.admission._openings)
    assert door.tunnels() == []


def test_new_services_in_protocol_1(door: Door) -> None:
    client = door.compat()
    message(client)
    client.send(
        compat.signal(compat.Services(compat.Opening("id1", "secret1", (compat.CompatService("http", "b"),))))
    )
    assert message(client) == compat.ServicesDone()
    host = door.registry.find("b")
    assert host is not None
    assert host.choose()


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (
            compat.Opening("id1", "wrong", (compat.CompatService("http"),)),
            compat.Error(compat.INVALID_CREDENTIALS),
        ),
        (
            compat.Opening("id2", "secret2", (compat.CompatService("http"),)),
            compat.Error(compat.INVALID_CREDENTIALS),
        ),
        (
            compat.Opening("id1", "secret1", (compat.CompatService("tls"),)),
            compat.Error(compat.HOST_NOT_ALLOWED),
        ),
        (
            compat.Opening("id1", "secret1", (compat.CompatService("http"), compat.CompatService("tcp"))),
            compat.Error(compat.TCP_PORT_FAILED, 1),
        ),
    ],
)
def test_new_services_that_cannot_be_in_protocol_1(
    door: Door, asked: compat.Opening, error: compat.Error
) -> None:
    client = door.compat()
    message(client)
    client.send(compat.signal(compat.Services(asked)))
    assert message(client) == error
    host = door.registry.find("a")
    assert host is not None
    assert host.choose(), "the old ones stay"


def test_close_and_close_again(door: Door) -> None:
    client = door.compat()
    message(client)
    (tunnel,) = door.tunnels()
    sink = Recorder(tunnel.open(0, "", b"x"))
    client.send(compat.signal(compat.Close()))
    until(lambda: tunnel.draining)
    assert not tunnel.closed
    assert sink.notes == []
    client.send(compat.signal(compat.Close()))
    until(lambda: tunnel.closed)
    assert sink.notes == [("reset", frames.CANCELLED)]


def test_the_first_close_of_a_client_while_we_drain(door: Door) -> None:
    """Both say they open nothing new: what runs goes on."""
    client = door.compat()
    message(client)
    (tunnel,) = door.tunnels()
    sink = Recorder(tunnel.open(0, "", b"x"))
    tunnel.drain()
    client.send(compat.signal(compat.Close()), client.data(sink.stream.id, b"answer"))
    until(lambda: sink.data or tunnel.closed)
    assert not tunnel.closed
    sink.stream.reset()
    until(lambda: tunnel.closed)
