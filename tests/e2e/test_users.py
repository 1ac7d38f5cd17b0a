"""Who may open tunnels: where users come from, and that a stranger learns and gets nothing."""

from __future__ import annotations

import os
import random
import socket
import statistics
import time
from collections.abc import Callable

import pytest

from tests.support.gt1 import ERROR, READY, Frame, OldClient, Wire
from tests.support.http import fetch
from tests.support.native import NativeClient, NativeServer, control, opened, stored_verifier
from tests.support.nginx import Nginx
from tests.support.ports import Address
from tests.support.services import Connection, answering
from tests.support.world import Server, World

WRONG = r"(?i)\b(unknown|invalid) id (or|and) (wrong |)secret\b"
BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
NO_LOCKOUT = ("--reconnectTimes", "0")  # the lockout itself: test_limits.py


@BOTH
def test_users_from_flags(world: World, nginx: Nginx, protocol: str) -> None:
    users = {name: world.secret() for name in ("one", "two")}
    server = world.server(users=users)
    for name, secret in users.items():
        world.client(server, name, secret, local=nginx.url, protocol=protocol, name=f"client {name}")
        assert fetch(server.address, f"{name}.example.com").status == 200


@BOTH
def test_users_from_the_config_file(world: World, nginx: Nginx, protocol: str) -> None:
    secret = world.secret()
    server = world.server(config={"type": "server", "users": {"one": {"secret": secret}}})
    world.client(server, "one", secret, local=nginx.url, protocol=protocol)
    assert fetch(server.address, "one.example.com").status == 200


@BOTH
def test_users_from_a_users_file(world: World, nginx: Nginx, protocol: str) -> None:
    secret = world.secret()
    users = world.write("users.yml", {"one": {"secret": secret}})
    server = world.server("--users", str(users))
    world.client(server, "one", secret, local=nginx.url, protocol=protocol)
    assert fetch(server.address, "one.example.com").status == 200


@BOTH
def test_a_user_with_a_verifier_instead_of_a_secret(world: World, nginx: Nginx, protocol: str) -> None:
    """The server never has the secret, only what SCRAM stores."""
    secret = world.secret()
    verifier = world.hidden(stored_verifier(secret, os.urandom(16)))
    server = world.server(config={"type": "server", "users": {"one": {"verifier": verifier}}})
    world.client(server, "one", secret, local=nginx.url, protocol=protocol)
    assert fetch(server.address, "one.example.com").status == 200
    world.allow("wrong client")
    wrong = world.client(server, "one", world.secret(), local=nginx.url, ready=False, name="wrong client")
    wrong.process.wait_for(WRONG)


def test_flags_win_over_users_file_over_config(world: World) -> None:
    by_flag, by_file, by_config = (world.secret() for _ in range(3))
    users = world.write("users.yml", {"a": {"secret": by_file}, "b": {"secret": by_file}})
    config = {
        "type": "server",
        "users": {name: {"secret": by_config} for name in "abc"},
        "options": {"users": str(users)},
    }
    server = world.server(*NO_LOCKOUT, config=config, users={"a": by_flag})
    for name, secret in (("a", by_flag), ("b", by_file), ("c", by_config)):
        NativeClient(server.address, name, secret).ready().close()
    for name, secret in (("a", by_file), ("b", by_config), ("c", by_flag)):
        with NativeClient(server.address, name, secret) as client:
            assert client.auth(client.hello())["code"] == "invalid_credentials"


@BOTH
def test_wrong_secret_or_unknown_id_gets_no_traffic(world: World, protocol: str) -> None:
    secret = world.secret()
    server = world.server(*NO_LOCKOUT, users={"one": secret})
    service = world.service(answering(b"reached"))
    said = []
    for id, given in (("one", world.secret()), ("nobody", world.secret())):
        client = world.client(
            server, id, given, local=service.url, protocol=protocol, ready=False, name=f"client {id}"
        )
        world.allow(r".")  # what it logs is for its user
        said.append(client.process.wait_for(WRONG).group())
        assert client.process.running  # it tries again later: the server's users may change
        assert fetch(server.address, f"{id}.example.com").status == 404
    assert said[0] == said[1]
    assert service.connections == []
    assert not server.process.find(r"tunnel of .* is up")


def test_wrong_secret_and_unknown_id_get_the_same_bytes(world: World) -> None:
    secret = world.secret()
    server = world.server(*NO_LOCKOUT, users={"known": secret})
    answers = []
    for id in ("known", "nobod"):
        with NativeClient(server.address, id, "wrong") as client:
            challenge = client.hello()
            error = client.auth(challenge)
            assert error["type"] == "error"
            answers.append(
                (sorted(challenge), challenge["mechanisms"], challenge["scram"].rpartition(",i=")[2], error)
            )
            client.until_end()
    assert answers[0] == answers[1]
    old = []
    for id in ("known", "nobod"):
        with OldClient(server.address, id, "wrong") as tunnel:
            old.append(tunnel.frame())
            assert tunnel.until_end() == []
    assert old == [Frame(ERROR, payload=b"\x00\x01")] * 2


def _plain(address: Address, id: str, secret: str) -> dict[str, object]:
    """A login of protocol 3 that shows the secret, as those that ask an authAPI do; what the server says in the end."""
    hello = {
        "type": "hello",
        "protocol": 3,
        "id": id,
        "mechanism": "PLAIN",
        "secret": secret,
        "agent": "test",
        "lanes": 1,
    }
    with NativeClient(address, id, secret) as client:
        client.send(control(hello))
        answer = client.control()
        if answer["type"] == "challenge":
            services = [{"kind": "http", "hostPrefix": None, "port": 0, "random": False}]
            client.send(control({"type": "auth", "instance": "0123456789abcdef", "services": services}))
            answer = client.control()
        return answer


def test_plain_login(world: World) -> None:
    secret = world.secret()
    server = world.server(*NO_LOCKOUT, users={"known": secret})
    assert _plain(server.address, "known", secret)["type"] == "ready"
    refused = [
        _plain(server.address, id, given) for id, given in (("known", world.secret()), ("nobody", secret))
    ]
    assert refused[0] == refused[1]
    assert refused[0]["code"] == "invalid_credentials"


@pytest.mark.parametrize(
    "text", ["", "\x00", "\x07\r\n", "\u0221", "a\u0627b", "\u2028", "x" * 200, "x" * 201]
)
def test_strange_credentials_are_refused_quietly(world: World, text: str) -> None:
    """Letters that SASLprep knows nothing about, control characters, too much: a refusal each, in both places."""
    secret = world.secret()
    server = world.server(*NO_LOCKOUT, users={"known": secret})
    for id, given in (("known", text), (text, secret), (text, text)):
        assert _plain(server.address, id, given)["type"] == "error"
    raw = text.encode()[:255]
    for id_bytes, given_bytes in ((b"known", raw), (raw, b"x"), (b"\xff\xfe", raw or b"\xff")):
        with Wire(socket.create_connection(server.address), from_server=True) as tunnel:
            parts = (bytes([len(id_bytes)]), id_bytes, bytes([len(given_bytes)]), given_bytes)
            tunnel.send(b"\xf0\x01", *parts, b"\x00")
            assert READY not in {frame.number for frame in tunnel.until_end()}


def test_the_salt_of_an_id_stays_the_same(world: World) -> None:
    """A salt that changed with every try would tell an unknown id from a known one."""
    server = world.server(*NO_LOCKOUT, users={"known": world.secret()})

    def salt(id: str) -> str:
        with NativeClient(server.address, id, "x") as client:
            return str(client.hello()["scram"].split(",")[1])

    assert salt("known") == salt("known") != salt("nobody") == salt("nobody") != salt("another")
    assert len(salt("known")) == len(salt("nobody"))


def _native(address: Address, id: str) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        with NativeClient(address, id, "wrong") as client:
            challenge = client.hello()
            took = time.perf_counter() - start
            auth = client.prepare(challenge)
            start = time.perf_counter()
            client.send(auth)
            assert client.control()["type"] == "error"
            return took + time.perf_counter() - start

    return measure


def _old(address: Address, id: str) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        with OldClient(address, id, "wrong") as tunnel:
            assert tunnel.frame().number == ERROR
            return time.perf_counter() - start

    return measure


def _server(world: World, kind: str, count: int) -> Server:
    """A server with users known0, known1, ... of which it has the secret or the verifier."""
    users = {}
    for number in range(count):
        secret = world.secret()
        verifier = stored_verifier(secret, os.urandom(16))
        users[f"known{number}"] = {kind: world.hidden({"secret": secret, "verifier": verifier}[kind])}
    return world.server(*NO_LOCKOUT, config={"type": "server", "users": users})


def _compare(known: list[Callable[[], float]], unknown: list[Callable[[], float]]) -> None:
    """See that the known ones take as long as the unknown, of tries in random order, so that all meet the same noise.

    Compared are the lower quartiles: noise only adds. Deriving a key takes 30 ms, everything else some 1 ms, so one
    such step on one side only gives a factor of two and more; a few ms are what a busy machine does.
    """
    tries = [("known", each) for each in known] + [("unknown", each) for each in unknown]
    random.shuffle(tries)
    times: dict[str, list[float]] = {"known": [], "unknown": []}
    for kind, each in tries:
        times[kind].append(each())
    quartile = {kind: statistics.quantiles(values, n=4)[0] for kind, values in times.items()}
    print({kind: f"{value * 1000:.2f} ms" for kind, value in quartile.items()})
    shorter, longer = sorted(quartile.values())
    assert longer < max(1.7 * shorter, shorter + 0.008), quartile


PROTOCOLS = pytest.mark.parametrize("measure", [_native, _old], ids=["protocol3", "protocol1"])
KINDS = pytest.mark.parametrize("kind", ["secret", "verifier"])
Measure = Callable[[Address, str], Callable[[], float]]


@PROTOCOLS
@KINDS
def test_time_does_not_tell_an_unknown_id_from_a_wrong_secret(
    world: World, kind: str, measure: Measure
) -> None:
    server = _server(world, kind, 1)
    known, unknown = measure(server.address, "known0"), measure(server.address, "nobody")
    known()
    unknown()  # what is worked out once is kept from now on
    _compare([known] * 30, [unknown] * 30)


@PROTOCOLS
@KINDS
def test_the_first_try_does_not_tell_either(world: World, kind: str, measure: Measure) -> None:
    """Of every id the first try, before anything is kept: many users, and as many ids that don't exist."""
    server = _server(world, kind, 20)
    measure(server.address, "warm-up")()
    known = [measure(server.address, f"known{number}") for number in range(20)]
    unknown = [measure(server.address, f"unknown{number}") for number in range(20)]
    _compare(known, unknown)


def test_a_flood_of_wrong_logins_does_not_slow_visitors(world: World, nginx: Nginx) -> None:
    """Deriving keys happens off the hub's thread: pages go on while it is done."""
    secret = world.secret()
    server = world.server(*NO_LOCKOUT, users={"one": secret})
    world.client(server, "one", secret, local=nginx.url)
    flood = [world.keep(OldClient(server.address, f"guess{number}", "wrong")) for number in range(40)]
    took = []
    for _ in range(20):
        start = time.perf_counter()
        assert fetch(server.address, "one.example.com").status == 200
        took.append(time.perf_counter() - start)
    assert statistics.median(took) < 0.5
    assert all(tunnel.frame().number == ERROR for tunnel in flood)


def test_tunnels_per_user_are_limited(world: World) -> None:
    """`connections` of the user; the next one is told so."""
    secret = world.secret()
    server = world.server(config={"type": "server", "users": {"one": {"secret": secret, "connections": 2}}})
    for _ in range(2):
        world.keep(OldClient(server.address, "one", secret)).ready()
    with OldClient(server.address, "one", secret) as third:
        assert third.frame() == Frame(ERROR, payload=b"\x00\x03")


def test_an_impostor_server_is_found_out(world: World) -> None:
    """Protocol 3: a server must prove that it knows the secret, too. One that cannot is served nothing."""
    secret = world.secret()
    reached = world.service(answering(b"reached"))
    tried: list[bool] = []

    def impostor(connection: Connection) -> None:
        NativeServer(connection.socket, "not the secret").ready(
            opened(2, 0, "203.0.113.9:1", b"GET / HTTP/1.1\r\nHost: one\r\n\r\n")
        )
        tried.append(True)
        connection.wait_end()

    remote = world.service(impostor)
    world.allow(r".")
    client = world.client(remote.address, "one", secret, local=reached.url, ready=False)
    client.process.wait_for(r"(?i)proof|prove|authenticat|does not know")
    assert remote.wait_connections(1)[0].gone.wait(20)
    assert tried
    assert reached.connections == []
    assert not client.process.find(r"is up")
