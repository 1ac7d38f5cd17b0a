"""How a tunnel gets in, with the client's side by hand: both protocols, every refusal, and taking over."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtapp.config.load import User
from gtapp.config.options import ServerOptions
from gtapp.config.values import PortRange
from gtapp.errors import RemoteRefused
from gtapp.observe.logs import LIMIT_LINES, Limited
from gtapp.relay import tunnel as tunnel_module
from gtapp.relay.clock import Clock
from gtapp.relay.tunnel import Tunnel
from gtapp.server import admission as admission_module
from gtapp.server import headcount
from gtapp.server import users as users_module
from gtapp.server.admission import MAX_CHANGES, Admission
from gtapp.server.lockout import Lockout
from gtapp.server.port_office import PortOffice
from gtapp.server.ports import Ports
from gtapp.server.registry import Registry
from gtapp.server.siblings import Siblings
from gtapp.server.users import Login, Users
from gtapp.wire import compat, credentials, frames
from gtapp.wire.credentials import MIN_ITERATIONS, derive
from gtapp.wire.handshake import ClientHandshake, ServiceSpec
from tests.support.ports import Port
from tests.support.relay import CONTROL, PING, FarEnd, Recorder, tcp_pair, turn, until

OPTIONS = ServerOptions(max_hand_shake_options=5)
USERS = (User(id="id1", secret="secret1"), User(id="id2", secret="secret2", connections=2))
OWN = User(id="own", secret="secret of the server")  # of its status API
KEY = bytes(32)
HERE = "192.0.2.1:5"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not 65,536 iterations for each of these tests; and each has a fresh log."""
    monkeypatch.setattr(admission_module, "strangers", Limited("gt.server"))
    monkeypatch.setattr(credentials, "DEFAULT_ITERATIONS", MIN_ITERATIONS)
    monkeypatch.setattr(credentials, "derive", lambda secret, salt, n=MIN_ITERATIONS: derive(secret, salt, n))
    monkeypatch.setattr(headcount, "PROBE_S", 0.05)


class Door:
    """An admission, and clients that come to it; with `siblings` and `office` one of several workers."""

    def __init__(
        self,
        options: ServerOptions,
        *users: User,
        siblings: Siblings | None = None,
        office: PortOffice | None = None,
    ) -> None:
        self.options = options
        self.siblings = siblings or Siblings()
        self.registry = Registry(self.siblings)
        self.clock = Clock([0.04])  # quick ticks, for who is silent
        self.clock.start()
        table = {user.id: user for user in users or USERS}
        self.users = Users(table, options, OWN, KEY, self.siblings)
        self.lockout = Lockout(options.reconnect_times, options.reconnect_duration, self.siblings)
        self.office = office or PortOffice()
        self.ports = Ports(
            "127.0.0.1",
            self.registry,
            lambda port, sock, peer: sock.close(),
            self.office.opener(self.siblings.number),
            self.siblings,
        )
        self.admission = Admission(
            options, self.users, self.lockout, self.registry, self.ports, self.clock, self.siblings
        )
        self.siblings.start()
        self.clients: list[FarEnd] = []

    def come(self, wire: Any, first: bytes, peer: str = HERE) -> FarEnd:
        sock, far = tcp_pair()
        client = FarEnd(far, wire)
        self.clients.append(client)
        self.admission.admit(sock, peer, first)
        return client

    def native(self, peer: str = HERE) -> FarEnd:
        return self.come(frames.Frames(), frames.OPENING, peer)

    def log_in(
        self,
        user_id: str = "id1",
        secret: str = "secret1",
        prefixes: tuple[str | None, ...] = ("a",),
        **more: Any,
    ) -> FarEnd:
        """A client of protocol 3 up to its `auth`; the answer is the next message."""
        client = self.native(more.pop("peer", HERE))
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
        self, user_id: str = "id1", secret: str = "secret1", *services: compat.CompatService, peer: str = HERE
    ) -> FarEnd:
        asked = compat.Opening(user_id, secret, services or (compat.CompatService("http", "a"),))
        return self.come(compat.CompatFrames(server=False), compat.opening(asked), peer)

    def routes(self, *names: str) -> list[list[int] | None]:
        """The service indices of each endpoint's tunnels; None where there is no such endpoint."""
        found = [self.registry.find(*name.split(":", 1)) for name in names]  # type: ignore[arg-type]
        return [None if endpoint is None else list(endpoint.tunnels.values()) for endpoint in found]

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
        self.ports.stop()
        self.office.close()
        self.users.stop()
        self.siblings.stop()


@pytest.fixture
def make_door() -> Iterator[Callable[..., Door]]:
    doors: list[Door] = []

    def make(*users: User, **options: Any) -> Door:
        doors.append(Door(replace(OPTIONS, **options), *users))
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
    host = door.registry.find("http", "upper")
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


def test_an_opening_that_has_made_room_is_not_published(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its greenlet may run to the end before it is killed; nobody would ever withdraw what it publishes."""
    monkeypatch.setattr(admission_module, "MAX_OPENINGS", 1)
    proved = Login.proved

    def crowded(login: Login) -> None:
        proved(login)
        door.native()

    monkeypatch.setattr(Login, "proved", crowded)
    caplog.set_level("INFO")
    door.log_in().rest()
    assert "it gives way: too many are being opened" in caplog.text
    assert "is up" not in caplog.text
    assert door.tunnels() == []
    assert door.users._logins == {}
    host = door.registry.find("http", "a")
    assert host is None or not host.tunnels


# live tunnels of protocol 3


def test_new_services_for_a_live_tunnel(door: Door) -> None:
    client = door.log_in(prefixes=("a", "b"))
    message(client)
    specs = [ServiceSpec("http", name).to_dict() for name in ("b", "c")]
    client.send(client.frames.control({"type": "services", "services": specs}))
    assert message(client) == {"type": "ready", "services": [{"hostPrefix": "b"}, {"hostPrefix": "c"}]}
    assert door.routes("http:a", "http:b", "http:c") == [None, [0], [1]]


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
    host = door.registry.find("http", "a")
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


def test_new_services_in_one_read_have_a_bound(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tunnel_module, "strangers", Limited("gt.tunnel"))
    client = door.log_in()
    message(client)
    for number in range(MAX_CHANGES):
        ask_for(client, f"a{number}")
    for number in range(MAX_CHANGES):
        assert message(client)["services"] == [{"hostPrefix": f"a{number}"}]
    until(lambda: not door.admission._changes)
    services = client.frames.control({"type": "services", "services": []})
    client.send(services * (MAX_CHANGES + 1))
    until(lambda: not door.tunnels())
    client.rest()
    assert "changes its services faster" in caplog.text
    until(lambda: not door.admission._changes)


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


# everything that can be published


@pytest.fixture
def ports() -> Iterator[list[Port]]:
    """Two that are free, in increasing order."""
    made = sorted((Port() for _ in range(2)), key=lambda port: port.number)
    yield made
    for port in made:
        port.close()


def with_ports(ports: list[Port], **limits: Any) -> User:
    ranges = tuple(PortRange(port.number, port.number) for port in ports)
    return User(id="id1", secret="secret1", tcp_range=ranges, **limits)


def listens(port: Port) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(port.address):
        return True
    return False


def test_services_of_all_kinds(make_door: Callable[..., Door], ports: list[Port]) -> None:
    door = make_door(with_ports(ports))
    one, two = (port.number for port in ports)
    services = [
        ServiceSpec("http", "a"),
        ServiceSpec("tcp", None, one),
        ServiceSpec("tls", "a"),
        ServiceSpec("tcp", random=True),
    ]
    ready = message(door.log_in(services=services))
    assert ready["services"] == [{"hostPrefix": "a"}, {"port": one}, {"hostPrefix": "a"}, {"port": two}]
    assert door.routes("http:a", f"tcp:{one}", "tls:a", f"tcp:{two}") == [[0], [1], [2], [3]]
    assert all(listens(port) for port in ports)


def test_ports_are_the_same_for_all_tunnels_of_a_client(
    make_door: Callable[..., Door], ports: list[Port]
) -> None:
    door = make_door(with_ports(ports))
    services = [ServiceSpec("tcp", random=True)]
    first, second = (message(door.log_in(services=services))["services"] for _ in range(2))
    assert first == second
    assert door.routes(f"tcp:{first[0]['port']}") == [[0, 0]]


def test_new_services_change_the_ports(make_door: Callable[..., Door], ports: list[Port]) -> None:
    door = make_door(with_ports(ports, tcp_number=1))
    one, two = (port.number for port in ports)
    client = door.log_in(services=[ServiceSpec("tcp", None, one)])
    message(client)
    services = [ServiceSpec("http", "a").to_dict(), ServiceSpec("tcp", None, two).to_dict()]
    client.send(client.frames.control({"type": "services", "services": services}))
    assert message(client) == {"type": "ready", "services": [{"hostPrefix": "a"}, {"port": two}]}
    door.ports.tick(1.0)
    assert [listens(port) for port in ports] == [False, True]
    assert door.routes(f"tcp:{one}", f"tcp:{two}") == [None, [1]]


def test_a_refusal_of_new_services_names_the_service(door: Door) -> None:
    client = door.log_in()
    message(client)
    services = [ServiceSpec("http", "b").to_dict(), ServiceSpec("tcp", None, 80).to_dict()]
    client.send(client.frames.control({"type": "services", "services": services}))
    answer = message(client)
    assert (answer["code"], answer["service"]) == ("port_unavailable", 1)


@pytest.mark.parametrize("kinds", [("http", "tls"), ("tls", "http")])
def test_a_host_of_another_user_whatever_its_kind(door: Door, kinds: tuple[Any, Any]) -> None:
    assert message(door.log_in(services=[ServiceSpec(kinds[0], "a")]))["type"] == "ready"
    refused(door.log_in("id2", "secret2", services=[ServiceSpec(kinds[1], "a")]), "host_conflict")


def test_an_id_is_reserved_for_its_user(door: Door) -> None:
    refused(door.log_in(prefixes=("id2",)), "host_conflict")


def test_the_public_names_are_told(make_door: Callable[..., Door]) -> None:
    door = make_door(User(id="id1", secret="secret1", host_with_id=True))
    assert message(door.log_in(prefixes=("a", None)))["services"] == [
        {"hostPrefix": "id1-a"},
        {"hostPrefix": "id1"},
    ]


@pytest.mark.parametrize(
    ("limits", "prefixes", "code"),
    [
        ({"host_number": 1}, ("a", "b"), "too_many_hosts"),
        ({"host_regex": ("^b$",)}, ("b", "a"), "host_not_allowed"),
    ],
)
def test_limits_of_a_user(
    make_door: Callable[..., Door], limits: dict[str, Any], prefixes: tuple[str], code: str
) -> None:
    refused(make_door(User(id="id1", secret="secret1", **limits)).log_in(prefixes=prefixes), code)


def test_new_options_hold_for_who_comes_next(door: Door) -> None:
    client = door.log_in()
    message(client)
    door.admission.options = replace(door.options, protocols=(1,), max_hand_shake_options=1)
    assert door.native().rest() == []
    services = [ServiceSpec("http", name).to_dict() for name in ("b", "c")]
    client.send(client.frames.control({"type": "services", "services": services}))
    assert message(client)["code"] == "too_many_services"


# failed logins


def fail(door: Door, times: int, **more: Any) -> None:
    for _ in range(times):
        refused(door.log_in(secret="wrong", **more), "invalid_credentials")


def test_an_address_with_failed_logins_is_locked_out(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    fail(door, 3)
    caplog.clear()
    caplog.set_level("INFO")
    answer = refused(door.log_in(), "locked_out")
    assert "wait 300 s" in answer["message"]
    assert "WARNING" not in caplog.text, "anybody could fill the log with it"
    assert door.compat().rest() == [], "protocol 1 has no word for it"
    assert message(door.log_in(peer="192.0.2.2:5"))["type"] == "ready"


def test_failed_logins_of_all_kinds_count(door: Door) -> None:
    refused(door.log_in("nobody", "x"), "invalid_credentials")
    refused_compat(door.compat("id1", "wrong"), compat.INVALID_CREDENTIALS)
    refused(door.log_in(secret="wrong", plain=True), "invalid_credentials")
    refused(door.log_in(), "locked_out")


def test_logins_in_parallel_do_not_get_round_the_lockout(door: Door) -> None:
    """Whoever has opened before, and shows the right proof after others have failed, is told nothing."""
    client = door.native()
    handshake = ClientHandshake("id1", "secret1", "test", "instance", [ServiceSpec("http", "a")])
    client.send(client.frames.control(handshake.hello()))
    challenge = message(client)
    fail(door, 3)
    client.send(client.frames.control(handshake.auth(challenge)))
    refused(client, "locked_out")
    assert door.tunnels() == []


@pytest.mark.parametrize("version", [3, 1])
@pytest.mark.parametrize("secret", ["secret1", "wrong"])
def test_secrets_in_parallel_do_not_get_round_the_lockout(
    door: Door, monkeypatch: pytest.MonkeyPatch, version: int, secret: str
) -> None:
    """Others have failed while this one was checked: right or wrong, it is told nothing."""
    check = Login.check

    def slow(login: Login, *asked: Any) -> None:
        for _ in range(3):
            door.lockout.failed(HERE)
        check(login, *asked)

    monkeypatch.setattr(Login, "check", slow)
    if version == 3:
        refused(door.log_in(secret=secret, plain=True), "locked_out")
    else:
        assert door.compat("id1", secret).rest() == []
    assert door.tunnels() == []
    assert door.users._logins == {}


def test_what_else_is_refused_does_not_count(door: Door) -> None:
    for _ in range(4):
        refused(door.log_in(prefixes=("a.b",)), "host_not_allowed")
        client = door.native()
        client.send(client.frames.control({"type": "x"}))
        refused(client, "protocol_error")
    assert message(door.log_in())["type"] == "ready"


def test_the_lockout_may_be_off(make_door: Callable[..., Door]) -> None:
    door = make_door(reconnect_times=0)
    fail(door, 5)
    assert message(door.log_in())["type"] == "ready"


def test_tunnels_that_are_up_stay_when_their_address_is_locked_out(door: Door) -> None:
    client = door.log_in()
    message(client)
    fail(door, 3)
    client.send(
        client.frames.control({"type": "services", "services": [{"kind": "http", "hostPrefix": "b"}]})
    )
    assert message(client)["type"] == "ready"


def test_the_servers_own_user_is_not_locked_out(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Its checks come from this machine, as do the clients of a load balancer that is not in trustedProxies."""
    caplog.set_level("INFO")
    fail(door, 3)
    assert OWN.secret is not None
    assert message(door.log_in(OWN.id, OWN.secret, prefixes=(None,)))["type"] == "ready"
    assert message(door.compat(OWN.id, OWN.secret, compat.CompatService("http"))) == compat.Ready()
    assert "is up" not in caplog.text, "it comes every few seconds"


def test_a_flood_of_failed_logins_does_not_flood_the_log(
    make_door: Callable[..., Door], caplog: pytest.LogCaptureFixture
) -> None:
    door = make_door(reconnect_times=0)
    fail(door, LIMIT_LINES + 5)
    assert caplog.text.count("refused: unknown id or wrong secret") == LIMIT_LINES


# users that are in no file


def test_a_disabled_user(make_door: Callable[..., Door]) -> None:
    door = make_door(User(id="id1", secret="secret1", disabled=True))
    refused(door.log_in(), "invalid_credentials")
    refused(door.log_in(plain=True), "invalid_credentials")
    refused_compat(door.compat(), compat.INVALID_CREDENTIALS)


def test_any_client_is_enrolled_with_its_first_secret(make_door: Callable[..., Door]) -> None:
    door = make_door(allow_any_client=True)
    first = door.log_in("new", "apple", enroll=True)
    assert message(first)["type"] == "ready"
    second = door.log_in("new", "apple", enroll=True, prefixes=("b",))
    assert message(second)["type"] == "ready"
    refused(door.log_in("new", "pear", enroll=True), "invalid_credentials")
    assert message(door.compat("new", "apple", compat.CompatService("http", "c"))) == compat.Ready()
    for client in door.clients:
        client.close()
    until(lambda: not door.tunnels())
    assert message(door.log_in("new", "pear", enroll=True))["type"] == "ready", "the last tunnel has gone"


def test_any_client_of_protocol_1(make_door: Callable[..., Door]) -> None:
    door = make_door(allow_any_client=True)
    assert message(door.compat("new", "apple")) == compat.Ready()
    refused_compat(door.compat("new", "pear"), compat.INVALID_CREDENTIALS)
    refused(door.log_in("id1", "apple", enroll=True), "invalid_credentials")


def test_an_enrolment_that_fails_leaves_the_id_free(make_door: Callable[..., Door]) -> None:
    door = make_door(allow_any_client=True)
    refused(door.log_in("new", "apple", enroll=True, prefixes=("a.b",)), "host_not_allowed")
    gone = door.native()
    handshake = ClientHandshake("new", "apple", "test", "instance", [])
    gone.send(gone.frames.control(handshake.hello()))
    assert message(gone)["enroll"] is True
    waiting = gevent.spawn(door.log_in, "new", "pear", enroll=True)  # until that one is decided
    turn(5)
    gone.close()
    assert message(waiting.get(timeout=5))["type"] == "ready"


class API:
    """An authAPI that lets "guest" in, with the host prefix "tart"; it answers when it is `open`."""

    def __init__(self) -> None:
        self.down = False
        self.open = Event()
        self.open.set()
        self.asked: list[list[str]] = []
        self.hosts = frozenset({"tart"})

    def ask(self, user_id: str, secret: str, prefixes: Any, until: float) -> frozenset[str] | None:
        self.asked.append(list(prefixes))
        self.open.wait()
        if self.down:
            raise RemoteRefused("auth_unavailable", "the server cannot check this secret at the moment")
        return self.hosts if (user_id, secret) == ("guest", "pie") else None

    def close(self) -> None: ...


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> API:
    made = API()
    monkeypatch.setattr(users_module, "AuthAPI", lambda url: made)
    return made


@pytest.fixture
def api_door(make_door: Callable[..., Door], api: API) -> Door:
    return make_door(auth_api="http://127.0.0.1:1/")


def test_the_authapi_lets_in(api_door: Door, api: API) -> None:
    ready = message(api_door.log_in("guest", "pie", prefixes=("TART", "other", None), plain=True))
    assert ready["services"] == [
        {"hostPrefix": "tart"},
        {"error": "host_not_allowed"},
        {"hostPrefix": "guest"},
    ]
    assert api.asked == [["tart", "other", "guest"]]
    assert api_door.routes("http:tart", "http:other", "http:guest") == [[0], None, [2]]
    refused(api_door.log_in("guest", "wrong", plain=True), "invalid_credentials")


def test_the_authapi_and_protocol_1(api_door: Door) -> None:
    services = compat.CompatService("http", "other"), compat.CompatService("http", "tart")
    assert message(api_door.compat("guest", "pie", *services)) == compat.Ready()
    assert api_door.routes("http:tart", "http:other") == [[1], None]


def test_clients_are_told_that_the_secret_is_wanted(api_door: Door, door: Door) -> None:
    for each, wanted in ((api_door, True), (door, False)):
        client = each.native()
        handshake = ClientHandshake("guest", "pie", "test", "instance", [])
        client.send(client.frames.control(handshake.hello()))
        assert ("PLAIN" in message(client)["mechanisms"]) is wanted


def test_an_authapi_that_is_down(api_door: Door, api: API) -> None:
    """New tunnels hear why, nobody is locked out, and those that are there stay."""
    client = api_door.log_in("guest", "pie", prefixes=("tart",), plain=True)
    message(client)
    api.down = True
    for _ in range(4):
        answer = refused(api_door.log_in("guest", "pie", plain=True), "auth_unavailable")
    assert "at the moment" in answer["message"]
    assert api_door.compat("guest", "pie").rest() == [], "protocol 1 has no word for it"
    assert message(api_door.log_in())["type"] == "ready", "users of the file need no API"
    client.send(client.frames.ping(b"12345678"))
    assert client.next(PING)[0] == frames.PONG


def ask_for(client: FarEnd, *prefixes: str) -> None:
    services = [ServiceSpec("http", prefix).to_dict() for prefix in prefixes]
    client.send(client.frames.control({"type": "services", "services": services}))


def test_the_authapi_is_asked_about_new_services(api_door: Door, api: API) -> None:
    client = api_door.log_in("guest", "pie", plain=True)
    message(client)
    ask_for(client, "tart", "other")
    assert message(client)["services"] == [{"hostPrefix": "tart"}, {"error": "host_not_allowed"}]
    assert api.asked[-1] == ["tart", "other"]
    api.down = True
    ask_for(client, "guest")
    assert message(client)["code"] == "auth_unavailable"
    assert api_door.routes("http:tart", "http:guest") == [[0], None]


def test_new_services_that_wait_are_answered_in_order(api_door: Door, api: API) -> None:
    """The last ones win, however long the authAPI took over the first."""
    client = api_door.log_in("guest", "pie", plain=True, prefixes=(None,))
    message(client)
    api.open.clear()
    for prefix in ("tart", "other", "guest"):
        ask_for(client, prefix)
    until(lambda: len(api.asked) == 2)
    turn(5)
    assert len(api.asked) == 2, "one after the other"
    api.open.set()
    answers = [message(client)["services"][0] for _ in range(3)]
    assert answers == [{"hostPrefix": "tart"}, {"error": "host_not_allowed"}, {"hostPrefix": "guest"}]
    assert api_door.routes("http:tart", "http:guest") == [None, [0]]


def test_the_authapi_is_asked_about_public_names(make_door: Callable[..., Door], api: API) -> None:
    door = make_door(auth_api="http://127.0.0.1:1/", host_with_id=True)
    api.hosts = frozenset({"guest-tart"})
    client = door.log_in("guest", "pie", plain=True, prefixes=("tart", None))
    assert message(client)["services"] == [{"hostPrefix": "guest-tart"}, {"hostPrefix": "guest"}]
    ask_for(client, "TART")
    assert message(client)["services"] == [{"hostPrefix": "guest-tart"}]
    old = door.compat("guest", "pie", compat.CompatService("http", "tart"))
    assert message(old) == compat.Ready()
    asked = compat.Opening("guest", "pie", (compat.CompatService("tls", "tart"),))
    old.send(compat.signal(compat.Services(asked)))
    assert message(old) == compat.ServicesDone()
    assert api.asked[:2] == [["guest-tart", "guest"], ["guest-tart"]]
    assert {*map(tuple, api.asked[2:])} <= {("guest-tart",)}
    assert door.routes("http:guest-tart", "tls:guest-tart", "http:tart") == [[0], [0], None]


def test_a_tunnel_that_ends_while_the_authapi_is_asked(api_door: Door, api: API) -> None:
    """Its services must not be published: nobody would ever withdraw them."""
    client = api_door.log_in("guest", "pie", plain=True)
    message(client)
    api.open.clear()
    ask_for(client, "tart")
    until(lambda: len(api.asked) == 2)
    client.close()
    until(lambda: not api_door.tunnels())
    api.open.set()
    turn(5)
    assert api_door.routes("http:tart") == [None]
    assert api_door.registry.clients == 0


def test_every_login_ends(make_door: Callable[..., Door], api: API) -> None:
    """What is kept of a guest, or of an id, goes with its last opening or tunnel."""
    door = make_door(auth_api="http://127.0.0.1:1/", reconnect_times=0)
    for login in (("guest", "pie"), ("guest", "wrong"), ("id1", "secret1"), ("id1", "wrong")):
        message(door.log_in(*login, plain=True, prefixes=(None,)))
        message(door.compat(*login, compat.CompatService("http")))
    door.log_in("guest", "pie", plain=True, prefixes=("guest.",))
    for client in door.clients:
        client.rest() if client.ended else client.close()
    until(lambda: not door.tunnels() and not door.admission._openings)
    assert door.users._logins == {}
    assert door.users._guests.here == {}


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
    host = door.registry.find("http", "b")
    assert host is not None
    assert host.choose() == (tunnel, 1)
    client.send(client.frames.ping(bytes(8)))
    assert client.next()[0] == PING


def test_ports_of_protocol_1_are_told_before_it_is_up(
    make_door: Callable[..., Door], ports: list[Port]
) -> None:
    """The original GT's client takes no INFO after READY for an answer to its opening."""
    door = make_door(with_ports(ports))
    one, two = (port.number for port in ports)
    services = (
        compat.CompatService("tcp", port=one), compat.CompatService("http"), compat.CompatService("tcp", random=True),
    )  # fmt: skip
    client = door.compat("id1", "secret1", *services)
    told = [message(client) for _ in range(3)]
    assert told == [
        compat.Info(compat.TCP_PORT_OPENED, 0, one), compat.Info(compat.TCP_PORT_OPENED, 2, two), compat.Ready(),
    ]  # fmt: skip
    asked = compat.Opening("id1", "secret1", (compat.CompatService("tcp", port=two),))
    client.send(compat.signal(compat.Services(asked)))
    assert message(client) == compat.Info(compat.TCP_PORT_OPENED, 0, two)
    assert message(client) == compat.ServicesDone()
    door.ports.tick(1.0)
    assert [listens(port) for port in ports] == [False, True]


@pytest.mark.parametrize(
    ("limits", "services", "code", "index"),
    [
        ({"tcp_number": 1}, [compat.CompatService("tcp", random=True)] * 2, compat.TOO_MANY_TCP_PORTS, None),
        ({}, [compat.CompatService("tcp", random=True)] * 3, compat.TCP_PORT_FAILED, 2),
        ({}, [compat.CompatService("http"), compat.CompatService("tcp", port=1)], compat.TCP_PORT_FAILED, 1),
        (
            {"host_number": 1},
            [compat.CompatService("http", name) for name in "ab"],
            compat.TOO_MANY_HOSTS,
            None,
        ),
        ({"host_regex": ("b",)}, [compat.CompatService("tls", "a")], compat.HOST_NOT_ALLOWED, None),
    ],
)
def test_limits_of_a_user_in_protocol_1(
    make_door: Callable[..., Door],
    ports: list[Port],
    limits: dict[str, Any],
    services: list[compat.CompatService],
    code: int,
    index: int | None,
) -> None:
    door = make_door(with_ports(ports, **limits))
    refused_compat(door.compat("id1", "secret1", *services), code, index)
    assert not any(listens(port) for port in ports)


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
        (("id1", "secret1"), [compat.CompatService("tls", "a.b")], compat.HOST_NOT_ALLOWED, None),
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
    host = door.registry.find("http", "b")
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
            compat.Opening("id1", "secret1", (compat.CompatService("tls", "a.b"),)),
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
    host = door.registry.find("http", "a")
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
