"""Who is let in by whom, and how much of the server each user gets: every limit seen from outside."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gtapp.relay.link import READ_BYTES, USER_TIMEOUT_MS
from tests.conftest import LONG
from tests.support.gt1 import ERROR, READY, Frame, OldClient, publish
from tests.support.http import Ended, Visitor, fetch
from tests.support.native import NativeClient, control
from tests.support.nginx import Nginx
from tests.support.ports import Address, Port
from tests.support.processes import eventually
from tests.support.services import Connection, endless
from tests.support.tls import over_tls
from tests.support.world import World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
INVALID = Frame(ERROR, payload=b"\x00\x01")
NO_LOCKOUT = ("--reconnectTimes", "0")
# Bytes per second that any machine keeps up with. With protocol 1 the head of the second answer comes after all that is
# on its way of the first one.
SPEED = {"3": 25_000, "1": 100_000}
SECONDS = 30 if LONG else 12


def said(address: Address, id: str, secret: str) -> str:
    """What a server says in the end to a login of protocol 3 that shows the secret: "ready" or an error's code."""
    with NativeClient(address, id, secret) as client:
        hello = {"type": "hello", "protocol": 3, "id": id, "mechanism": "PLAIN", "secret": secret}
        client.send(control(hello | {"agent": "test", "lanes": 1}))
        answer = client.control()
        if answer["type"] == "challenge":
            services = [{"kind": "http"}]
            client.send(control({"type": "auth", "instance": "0123456789abcdef", "services": services}))
            answer = client.control()
        return str(answer.get("code", answer["type"]))


def scram(address: Address, id: str, secret: str, source: str = "") -> str:
    """The same of a login by SCRAM, from the address `source`."""
    with NativeClient(address, id, secret, source) as client:
        answer = client.hello()
        if answer["type"] == "challenge":
            answer = client.auth(answer)
        return str(answer.get("code", answer["type"]))


def old(address: Address, id: str, secret: str, source: str = "") -> Frame | None:
    """The first answer to a login of protocol 1; None: closed without a word."""
    with OldClient(address, id, secret, source=source) as client:
        try:
            return client.frame()
        except (EOFError, ConnectionError):
            return None


class AuthAPI:
    """An operator's HTTP service. `answers` says how ids are answered, `asked` what came: heads and questions."""

    def __init__(self, world: World) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Callable[[Connection, dict[str, Any]], None]] = {}
        self._world = world
        self.port = world.port()
        self.url = f"http://{self.port}/check"
        self._service: Any = None

    def start(self) -> AuthAPI:
        self._service = self._world.service(self._handle, _Lasting(self.port))
        return self

    def stop(self) -> None:
        self._service.close()

    def knows(self, id: str, secret: str, *prefixes: str) -> None:
        def answer(connection: Connection, question: dict[str, Any]) -> None:
            reply(connection, {"result": question["networkSecretKey"] == secret, "appletTokens": prefixes})

        self.answers[id] = answer

    def _handle(self, connection: Connection) -> None:
        head = connection.head().decode()
        length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
        while len(connection.pending) < length:
            connection.pending += connection.socket.recv(65536)
        question = json.loads(connection.pending)
        self.asked.append((head, question))
        answer = self.answers.get(question["networkClientId"])
        if answer is None:
            reply(connection, {"result": False})
        else:
            answer(connection, question)


class _Lasting(Port):
    """The API's port, which outlives each time that the API runs."""

    def __init__(self, port: Port) -> None:
        self.address, self.number, self._holder = port.address, port.number, port._holder

    def close(self) -> None:
        """Its owner closes it."""


def reply(connection: Connection, value: Any) -> None:
    body = json.dumps(value).encode()
    connection.send(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def raw(data: bytes) -> Callable[[Connection, dict[str, Any]], None]:
    return lambda connection, question: connection.send(data)


@pytest.fixture
def api(world: World) -> AuthAPI:
    return AuthAPI(world).start()


# where users come from


def test_the_four_sources_and_their_order(world: World, api: AuthAPI) -> None:
    secrets = {name: world.secret() for name in ("flag", "file", "config", "api")}
    for id in "abcd":
        api.knows(id, secrets["api"])
    users = world.write("users.yml", {id: {"secret": secrets["file"]} for id in "ab"})
    config = {"type": "server", "users": {id: {"secret": secrets["config"]} for id in "abc"}}
    server = world.server(
        "--users", str(users), "--authAPI", api.url, *NO_LOCKOUT, config=config, users={"a": secrets["flag"]}
    )
    right = {"a": "flag", "b": "file", "c": "config", "d": "api"}
    for id, source in right.items():
        for name, secret in secrets.items():
            expected = "ready" if name == source else "invalid_credentials"
            assert said(server.address, id, secret) == expected, (id, name)
            assert old(server.address, id, secret) == (Frame(READY) if name == source else INVALID)


@BOTH
def test_a_disabled_user_is_like_an_unknown_one(world: World, protocol: str) -> None:
    secret = world.secret()
    server = world.server(
        *NO_LOCKOUT,
        config={
            "type": "server",
            "users": {"gone": {"secret": secret, "disabled": True}, "one": {"secret": secret}},
        },
    )
    if protocol == "1":
        assert old(server.address, "gone", secret) == old(server.address, "nobody", secret) == INVALID
    else:
        for login in (scram, said):
            assert login(server.address, "gone", secret) == login(server.address, "nobody", secret)
            assert login(server.address, "gone", secret) == "invalid_credentials"
    assert scram(server.address, "one", secret) == "ready"
    server.process.wait_for("user gone is disabled and tries to log in")


# authAPI


@BOTH
def test_the_api_lets_a_client_in(world: World, nginx: Nginx, api: AuthAPI, protocol: str) -> None:
    secret = world.secret()
    api.knows("one", secret, "allowed")
    server = world.server("--authAPI", api.url)
    local = {"one": nginx.url, "allowed": nginx.url, "other": nginx.url}
    world.client(server, "one", secret, local=local, protocol=protocol)
    for host, status in (("one", 200), ("allowed", 200), ("other", 404)):
        assert fetch(server.address, f"{host}.example.com").status == status
    head, question = api.asked[0]
    assert head.startswith("POST /check HTTP/1.1\r\n")
    assert "\r\nrequest-id: " in head.lower()
    assert question == {
        "networkClientId": "one",
        "networkSecretKey": secret,
        "appletTokens": ["one", "allowed", "other"],
    }
    assert server.process.stats()["handshakes_failed"] <= 1, (
        "protocol 3 begins anew, with PLAIN; no login has failed"
    )


def test_a_pool_of_tunnels_asks_once(world: World, nginx: Nginx, api: AuthAPI) -> None:
    secret = world.secret()
    api.knows("one", secret)
    server = world.server("--authAPI", api.url)
    pool = ("--remoteConnections", "3", "--remoteIdleConnections", "3")
    client = world.client(server, "one", secret, *pool, local=nginx.url)
    client.process.wait_for("tunnel 3 to .* is up")
    assert len(api.asked) == 1


@BOTH
def test_while_the_api_is_down_tunnels_stay_and_new_ones_wait(
    world: World, nginx: Nginx, api: AuthAPI, protocol: str
) -> None:
    secret = world.secret()
    for id in ("early", "late"):
        api.knows(id, secret)
    server = world.server("--authAPI", api.url, "--reconnectTimes", "1")
    world.client(server, "early", secret, local=nginx.url, protocol=protocol, name="early client")
    api.stop()
    late = world.client(
        server, "late", secret, local=nginx.url, protocol=protocol, name="late client", ready=False
    )
    server.process.wait_for("authAPI .*: .*cannot come in")
    if protocol == "3":
        late.process.wait_for(
            "no tunnel: the server cannot check id and secret now: its authAPI gives no answer"
        )
    else:
        late.process.wait_for("no tunnel")
    assert not late.process.find("(?i)wrong|invalid")
    assert fetch(server.address, "early.example.com").status == 200
    api.start()
    late.process.wait_for("is up")
    assert fetch(server.address, "late.example.com").status == 200
    server.process.wait_for("answers again")
    assert fetch(server.address, "early.example.com").status == 200


def test_a_slow_api(world: World, api: AuthAPI) -> None:
    secret = world.secret()
    go_on = threading.Event()

    def answer(connection: Connection, question: dict[str, Any]) -> None:
        go_on.wait(20)
        reply(connection, {"result": True})

    api.answers["slow"] = answer
    api.knows("quick", secret)
    server = world.server("--authAPI", api.url)
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(said, server.address, "slow", secret)
        eventually(lambda: api.asked, "the API is asked")
        assert said(server.address, "quick", secret) == "ready", "who waits for it does not hold up others"
        go_on.set()
        assert slow.result() == "ready"


def test_answers_that_are_none(world: World, api: AuthAPI) -> None:
    """Neither a yes nor a no: the client is told that it is not its fault, and nobody is locked out."""
    secret = world.secret()
    api.answers = {
        "garbage": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
        "nothing": raw(b""),
        "no HTTP": raw(b"hello\r\n"),
        "status": raw(b'HTTP/1.1 403 Forbidden\r\nContent-Length: 15\r\n\r\n{"result":true}'),
        "redirect": raw(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"),
        "silent": lambda connection, question: connection.wait_end(),
        "endless": lambda connection, question: endless("length")(connection),
    }
    api.knows("good", secret)
    server = world.server("--authAPI", api.url, "--reconnectTimes", "1")
    with ThreadPoolExecutor(20) as threads:
        native = {id: threads.submit(said, server.address, id, secret) for id in api.answers}
        compat = {id: threads.submit(old, server.address, id, secret) for id in api.answers}
        assert {id: each.result() for id, each in native.items() if id != "good"} == dict.fromkeys(
            api.answers.keys() - {"good"}, "auth_unavailable"
        )
        assert {id: each.result() for id, each in compat.items() if id != "good"} == dict.fromkeys(
            api.answers.keys() - {"good"}
        )
    assert said(server.address, "good", secret) == "ready"
    assert old(server.address, "good", secret) == Frame(READY)


# allowAnyClient


@BOTH
@pytest.mark.parametrize("then", ["3", "1"])
def test_the_first_secret_of_an_id_counts_until_its_last_tunnel_goes(
    world: World, nginx: Nginx, protocol: str, then: str
) -> None:
    first, second = world.secret(), world.secret()
    server = world.server("--allowAnyClient", *NO_LOCKOUT)
    pool = ("--remoteConnections", "3", "--remoteIdleConnections", "3")
    one = world.client(server, "any", first, *pool, local=nginx.url, protocol=protocol, name="first client")
    one.process.wait_for("tunnel 3 to .* is up")
    assert fetch(server.address, "any.example.com").status == 200
    for _ in range(2):
        assert old(server.address, "any", second) == INVALID
        assert scram(server.address, "any", second) == "invalid_credentials"
    assert old(server.address, "any", first) == Frame(READY)
    assert scram(server.address, "any", first) == "ready"
    one.process.end()
    eventually(lambda: server.process.stats()["tunnels"] == 0, "its tunnels are gone")
    two = world.client(server, "any", second, local=nginx.url, protocol=then, name="second client")
    assert fetch(server.address, "any.example.com").status == 200
    assert old(server.address, "any", first) == INVALID
    assert scram(server.address, "any", first) == "invalid_credentials"
    assert two.process.running


def test_strangers_do_not_get_what_belongs_to_users(world: World) -> None:
    secret = world.secret()
    server = world.server("--allowAnyClient", *NO_LOCKOUT, users={"Known": secret})
    assert old(server.address, "Known", "another") == INVALID
    assert scram(server.address, "Known", "another") == "invalid_credentials"
    conflict = Frame(ERROR, payload=b"\x00\x05")
    for id, options in (("KNOWN", b"\x00"), ("known", b"\x00"), ("any", publish("known"))):
        with OldClient(server.address, id, "x", options) as client:
            assert client.frame() == conflict
    assert old(server.address, "Known", secret) == Frame(READY)


# lockout


def test_an_address_is_locked_out_for_a_while(world: World) -> None:
    secret = world.secret()
    server = world.server("--reconnectTimes", "3", "--reconnectDuration", "3s", users={"one": secret})
    assert scram(server.address, "one", "wrong") == "invalid_credentials"
    assert old(server.address, "nobody", "wrong") == INVALID
    assert scram(server.address, "one", secret) == "ready"
    assert said(server.address, "one", "wrong") == "invalid_credentials"
    locked = time.monotonic()
    assert scram(server.address, "one", secret) == "locked_out"
    assert said(server.address, "one", secret) == "locked_out"
    assert old(server.address, "one", secret) in (None, INVALID)
    assert scram(server.address, "one", secret, "127.0.0.2") == "ready"
    assert old(server.address, "one", secret, "127.0.0.2") == Frame(READY)
    assert time.monotonic() - locked < 3, "the machine is too slow for this test"
    eventually(lambda: scram(server.address, "one", secret) == "ready", "the lockout ends")
    assert time.monotonic() - locked > 2.5
    server.process.wait_for(r"127\.0\.0\.1 is locked out for 3 s after 3 failed logins")


def test_who_is_in_stays_in_when_his_address_is_locked_out(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server("--reconnectTimes", "1", users={"one": secret})
    world.client(server, "one", secret, local=nginx.url)
    assert scram(server.address, "one", "wrong") == "invalid_credentials"
    assert scram(server.address, "one", secret) == "locked_out"
    assert fetch(server.address, "one.example.com").status == 200


def test_a_client_with_a_wrong_secret_is_told_that_it_is_locked_out(world: World, nginx: Nginx) -> None:
    server = world.server("--reconnectTimes", "1", users={"one": world.secret()})
    world.allow("client")
    client = world.client(
        server, "one", world.secret(), "--reconnectDelay", "1s", local=nginx.url, ready=False
    )
    client.process.wait_for("unknown id or wrong secret")
    client.process.wait_for("too many failed logins")


# connections


@BOTH
def test_tunnels_per_user_are_limited_for_everybody(world: World, protocol: str) -> None:
    secret = world.secret()
    server = world.server("--connections", "1", users={"one": secret, "two": secret})
    world.keep(OldClient(server.address, "one", secret)).ready()
    world.keep(OldClient(server.address, "two", secret)).ready()
    if protocol == "1":
        assert old(server.address, "one", secret) == Frame(ERROR, payload=b"\x00\x03")
    else:
        assert scram(server.address, "one", secret) == "too_many_connections"


# speed


class Meter(threading.Thread):
    """Counts what `step` moves, until it is stopped."""

    def __init__(self, step: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self.total = 0
        self.times = [time.monotonic()]
        self._step = step
        self._over = threading.Event()

    def run(self) -> None:
        with contextlib.suppress(Ended, OSError):
            while not self._over.is_set():
                self.total += self._step()
                self.times.append(time.monotonic())

    def stop(self) -> None:
        self._over.set()

    @property
    def longest_gap(self) -> float:
        times = self.times
        return max(later - earlier for earlier, later in itertools.pairwise(times))


def flooding(connection: Connection) -> None:
    """Answers with as many bytes as the other end takes."""
    connection.head()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")
    while not connection.service.stopping.is_set():
        connection.send(bytes(65536))


def swallowing(connection: Connection) -> None:
    """Takes what comes, and counts it for the test."""
    connection.head()
    connection.service.notes.append(0)
    while data := connection.socket.recv(65536):
        connection.service.notes[0] += len(data)


def download(world: World, address: Address, host: str) -> Meter:
    # With the system's own buffers: into one that is smaller than a segment of the loopback (64 KB) TCP sends by its
    # persist timer, seconds late, and what was late is then counted as too fast.
    visitor: Visitor = world.visitor(address)
    visitor.request(host)
    visitor.head()
    return Meter(lambda: len(visitor.receive()))


@BOTH
@pytest.mark.timeout(180)
def test_a_speed_is_kept_in_both_directions_and_shared(world: World, nginx: Nginx, protocol: str) -> None:
    secret, pause, size, speed = world.secret(), threading.Event(), 1_000_000, SPEED[protocol]
    nginx.file("limits.bin", size)
    users = {"slow": {"secret": secret, "speed": speed}, "other": {"secret": secret}}
    server = world.server(config={"type": "server", "users": users})
    flood, sink = world.service(flooding), world.service(swallowing)
    local = {"slow": flood.url, "sink": sink.url}
    client = world.client(server, "slow", secret, local=local, protocol=protocol, name="slow client")
    world.client(server, "other", secret, local=nginx.url, protocol=protocol, name="other client")

    uploader = world.visitor(server.address)
    uploader.request("sink", method="POST", headers={"Content-Length": "1099511627776"})
    upload = Meter(lambda: uploader.socket.send(bytes(65536)))
    downloads = [download(world, server.address, "slow") for _ in range(2)]
    for meter in (upload, *downloads):
        meter.start()
    eventually(lambda: sink.notes and all(meter.total > speed for meter in downloads), "bytes flow")

    start, uploaded, downloaded = time.monotonic(), sink.notes[0], [meter.total for meter in downloads]
    slowest = 0.0
    while (began := time.monotonic()) - start < SECONDS:
        assert fetch(server.address, "other", "/limits.bin", keep=False).size == size
        slowest = max(slowest, time.monotonic() - began)
        pause.wait(0.2)  # the rest of the machine is for those who are measured
    took = time.monotonic() - start
    each = [meter.total - before for meter, before in zip(downloads, downloaded, strict=True)]
    up = sink.notes[0] - uploaded

    assert up == pytest.approx(speed * took, rel=0.05)
    assert sum(each) == pytest.approx(speed * took, rel=0.05)
    # Of protocol 1 up to READ_BYTES are read of the tunnel at once, and they may all be one visitor's.
    assert max(each) < 1.1 * min(each) + (READ_BYTES if protocol == "1" else 0)
    assert max(meter.longest_gap for meter in downloads) < 1.0
    assert client.process.running
    assert not server.process.find("cuts a stream|is down")
    assert slowest < 5, "the other user does not wait: at this speed it would have taken him 40 s, or 10"
    for meter in (upload, *downloads):
        meter.stop()
    uploader.socket.shutdown(socket.SHUT_RDWR)  # ends a send() that waits
    upload.join(10)
    uploader.reset()  # what is on its way would take a while at this speed


@BOTH
@pytest.mark.timeout(120)
def test_a_low_speed_does_not_end_its_tunnel(world: World, protocol: str) -> None:
    """Where it is not read for longer than the system waits for acknowledgements elsewhere."""
    secret, speed = world.secret(), 8_000
    server = world.server("--speed", str(speed), users={"slow": secret})
    flood = world.service(flooding)
    client = world.client(server, "slow", secret, local=flood.url, protocol=protocol)
    meter = download(world, server.address, "slow")
    meter.start()
    start = time.monotonic()
    time.sleep(USER_TIMEOUT_MS / 1000 + 10)
    took = time.monotonic() - start
    assert meter.total == pytest.approx(speed * took, rel=0.2)
    assert not client.process.find("is down")
    assert not server.process.find("is down")
    meter.stop()


@BOTH
@pytest.mark.parametrize("way", ["plain", "TLS", "per request"])
def test_a_speed_counts_on_every_way(world: World, nginx: Nginx, protocol: str, way: str) -> None:
    """And what comes is whole."""
    secret, speed, size = world.secret(), 100_000, 150_000
    expected = nginx.file(f"ways-{size}.bin", size)
    tls, more = world.port(), ["--speed", str(speed)]
    if way == "TLS":
        more += ["--tlsAddr", str(tls)]
    elif way == "per request":
        more += ["--routePerRequest"]
    server = world.server(*more, config={"type": "server"}, users={"one": secret})
    world.client(server, "one", secret, local=nginx.url, protocol=protocol)
    visitor = world.visitor(tls.address if way == "TLS" else server.address)
    if way == "TLS":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        over_tls(visitor, context, None)
    start = time.monotonic()
    for _ in range(2):
        visitor.request("one.example.com", f"/ways-{size}.bin")
        assert visitor.response(keep=False).sha256 == expected
    assert time.monotonic() - start > 2 * size / speed - 0.3
