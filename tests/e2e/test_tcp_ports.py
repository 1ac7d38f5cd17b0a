"""`tcp://` services: which port of the server they get, whose it is, and for how long."""

from __future__ import annotations

import signal
import struct
import time
from typing import Any

import pytest

from tests.support.gt1 import ERROR, INFO, READY, Frame, OldClient
from tests.support.native import NativeClient, control
from tests.support.processes import eventually
from tests.support.services import echoing, greeting, silent
from tests.support.tcp import REACHED, echoes, fixed, publish, ranges, reached, refuses, serve, tcp
from tests.support.world import World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
ABSENCE_S = 3.0


# Which port


@BOTH
def test_a_fixed_port(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    client = publish(world, server, secrets, protocol, *fixed(port))
    assert reached(client) == port.address
    assert echoes(port.address)
    server.process.wait_for(rf"listening on 127\.0\.0\.1:{port.number}\b.*id1")


@BOTH
def test_any_port(world: World, protocol: str) -> None:
    """Two services that name no port get one of the range each."""
    ports = [world.port() for _ in range(3)]
    server, secrets = serve(world, *ports)
    second = tcp(world.service(greeting(b"second")).url)
    client = publish(world, server, secrets, protocol, "--local", second)
    addresses = [reached(client, 1), reached(client, 2)]
    assert len(set(addresses)) == 2
    assert set(addresses) <= {port.address for port in ports}
    assert echoes(addresses[0])
    assert world.visitor(addresses[1]).exactly(6) == b"second"


@BOTH
def test_from_flags(world: World, protocol: str) -> None:
    """`--tcpRange` and `--tcpNumber` on the server's command line."""
    port, secret = world.port(), world.secret()
    server = world.server(
        "--tcpRange", f"{port.number}-{port.number}", "--tcpNumber", "1", users={"id1": secret}
    )
    client = publish(world, server, {"id1": secret}, protocol)
    assert reached(client) == port.address
    assert echoes(port.address)


@BOTH
def test_http_and_tcp_services_of_one_client(world: World, protocol: str) -> None:
    """The index of a service counts all kinds."""
    port, other = world.port(), world.port()
    server, secrets = serve(world, port, other)
    web = world.service(greeting(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nweb"))
    third = tcp(world.service(greeting(b"other")).url)
    flags = [*fixed(port), "--local", web.url, "--hostPrefix", "web", "--local", third, *fixed(other)]
    publish(world, server, secrets, protocol, *flags)
    visitor = world.visitor(server.address)
    visitor.request("web.example.com")
    assert visitor.response().text == "web"
    assert echoes(port.address)
    assert world.visitor(other.address).exactly(5) == b"other"


@BOTH
@pytest.mark.parametrize("why", ["out of range", "another user's", "another process'"])
def test_a_port_that_cannot_be_had(world: World, protocol: str, why: str) -> None:
    """Refused; or another one, where the service says that any will do."""
    wanted, spare = world.port(), world.port()
    server, secrets = serve(
        world, *([spare] if why == "out of range" else [wanted, spare]), users=("id1", "id2")
    )
    if why == "another user's":
        publish(world, server, secrets, protocol, *fixed(wanted), id="id2", name="first client")
    if why == "another process'":
        world.service(silent, wanted)
    world.allow("strict client")
    strict = publish(
        world, server, secrets, protocol, *fixed(wanted), "--remoteTCPRandom=false", name="strict client",
        ready=False,
    )  # fmt: skip
    line = strict.process.wait_for(r"no tunnel: .*").group()
    assert "tcp://127.0.0.1:" in line  # which service it is about
    assert "port" in line
    assert "remoteTCPRandom" in line  # what to do
    assert not strict.process.find(r"is up")
    assert strict.process.running
    strict.process.end()
    easy = publish(world, server, secrets, protocol, *fixed(wanted), "--remoteTCPRandom", name="easy client")
    assert reached(easy) == spare.address
    assert echoes(spare.address)
    if why == "another user's":
        assert echoes(wanted.address)


@BOTH
def test_no_port_is_left(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port, users=("id1", "id2"))
    publish(world, server, secrets, protocol, id="id2", name="first client")
    world.allow("second client")
    second = publish(world, server, secrets, protocol, name="second client", ready=False)
    second.process.wait_for(r"no tunnel: .*port")
    assert echoes(port.address)


@BOTH
def test_no_range_no_ports(world: World, protocol: str) -> None:
    server, secrets = serve(world)
    world.allow("client")
    client = publish(world, server, secrets, protocol, ready=False)
    client.process.wait_for(r"no tunnel: .*port.*tcpRange")


@BOTH
def test_a_range_of_one_user(world: World, protocol: str) -> None:
    """It takes the place of everybody's: its ports are that user's, and the others are not."""
    common, own = world.port(), world.port()
    server, secrets = serve(
        world, common, users=("id1", "id2"), own={"id1": {"tcp": ranges([own]), "tcpNumber": 1}}
    )
    client = publish(world, server, secrets, protocol)
    assert reached(client) == own.address
    world.allow("other client")
    other = publish(
        world, server, secrets, protocol, *fixed(own), "--remoteTCPRandom=false", id="id2", name="other client",
        ready=False,
    )  # fmt: skip
    other.process.wait_for(r"no tunnel: .*port")
    other.process.end()
    easy = publish(
        world, server, secrets, protocol, *fixed(own), "--remoteTCPRandom", id="id2", name="easy client"
    )
    assert reached(easy) == common.address


@BOTH
@pytest.mark.parametrize("of", ["all", "one user"])
def test_more_ports_than_are_allowed(world: World, protocol: str, of: str) -> None:
    """`tcpNumber` of all, or a user's own, which counts more."""
    ports = [world.port() for _ in range(4)]
    server, secrets = serve(
        world,
        *ports,
        own={"id1": {"tcpNumber": 2}} if of == "one user" else {},
        tcpNumber=2 if of == "all" else 1,
    )
    second = ("--local", tcp(world.service(echoing).url))
    world.allow("greedy client")
    greedy = publish(world, server, secrets, protocol, *second, *second, name="greedy client", ready=False)
    greedy.process.wait_for(r"no tunnel: .*tcpNumber")
    assert all(refuses(port.address) for port in ports)
    greedy.process.end()
    client = publish(world, server, secrets, protocol, *second)
    assert echoes(reached(client, 1))
    assert echoes(reached(client, 2))


def test_the_answer_of_protocol_3(world: World) -> None:
    """`ready` says which port, `error` of which service there is none."""
    port, other = world.port(), world.port()
    server, secrets = serve(world, port)
    services: list[dict[str, Any]] = [
        {"kind": "http", "hostPrefix": "web", "port": 0, "random": False},
        {"kind": "tcp", "hostPrefix": None, "port": port.number, "random": False},
    ]
    client = world.keep(NativeClient(server.address, "id1", secrets["id1"]))
    answer = client.auth(client.hello(), services=services)
    assert answer["type"] == "ready"
    assert answer["services"] == [{"hostPrefix": "web"}, {"port": port.number}]
    services[1]["port"] = other.number
    client.send(control({"type": "services", "services": services}))
    refused = client.control()
    assert (refused["type"], refused["code"]) == ("error", "port_unavailable")
    assert not refuses(port.address)  # on error the old list stays
    with NativeClient(server.address, "id1", secrets["id1"]) as another:
        refused = another.auth(another.hello(), services=services)
        assert (refused["type"], refused["code"], refused["service"]) == ("error", "port_unavailable", 1)
    client.send(control({"type": "services", "services": services[:1]}))
    assert client.control()["services"] == [{"hostPrefix": "web"}]
    eventually(lambda: refuses(port.address), "the port of a service that is withdrawn is closed")


def test_the_answer_of_protocol_1(world: World) -> None:
    """INFO before READY; ERROR 2 with the index of the service."""
    port, other = world.port(), world.port()
    server, secrets = serve(world, port)

    def asking(number: int) -> bytes:
        return b"\x02\x00\x01\x00" + struct.pack(">H", number)

    client = world.keep(OldClient(server.address, "id1", secrets["id1"], asking(port.number)))
    info = struct.pack(">HHH", 1, 1, port.number)
    assert [client.frame(), client.frame()] == [Frame(INFO, payload=info), Frame(READY)]
    with OldClient(server.address, "id1", secrets["id1"], asking(other.number)) as refused:
        assert refused.frame() == Frame(ERROR, payload=b"\x00\x02\x00\x01")


# Whose it stays, and for how long


@BOTH
def test_the_same_port_after_kill_9(world: World, protocol: str) -> None:
    ports = [world.port() for _ in range(40)]
    server, secrets = serve(world, *ports)
    first = publish(world, server, secrets, protocol, name="first client")
    address = reached(first)
    for name in ("second client", "third client"):
        first.process.kill()
        first = publish(world, server, secrets, protocol, name=name)
        assert reached(first) == address
        assert echoes(address)


@BOTH
def test_the_same_port_after_the_network_was_away(world: World, protocol: str) -> None:
    ports = [world.port() for _ in range(40)]
    server, secrets = serve(world, *ports)
    proxy = world.proxy(server.address)
    url = tcp(world.service(echoing).url)
    client = world.client(
        proxy, "id1", secrets["id1"], "--reconnectDelay", "200ms", local=url, protocol=protocol
    )
    address = reached(client)
    mark = client.process.mark()
    proxy.cut()
    client.process.wait_for(r"tunnel \d+ to .* is up", after=mark)
    assert echoes(address)
    assert {found.rpartition(":")[2] for found in client.process.find(REACHED)} == {str(address[1])}


@BOTH
def test_a_port_waits_for_its_client(world: World, protocol: str) -> None:
    """A client that is away a short while does not find its port given to somebody else."""
    port = world.port()
    server, secrets = serve(world, port, users=("id1", "id2"))
    client = publish(world, server, secrets, protocol, *fixed(port), name="first client")
    client.process.kill()
    world.allow("other client")
    other = publish(
        world, server, secrets, protocol, *fixed(port), id="id2", name="other client", ready=False
    )
    other.process.wait_for(r"no tunnel: .*port")
    publish(world, server, secrets, protocol, *fixed(port), name="second client")
    assert echoes(port.address)


@BOTH
def test_a_port_that_is_given_up(world: World, protocol: str) -> None:
    """A service taken out of the client's file is withdrawn at its SIGHUP: the port is free for others at once."""
    port = world.port()
    server, secrets = serve(world, port, users=("id1", "id2"))
    web = {"local": world.service(silent).url}
    options = {
        "id": "id1", "secret": secrets["id1"], "protocol": protocol, "remote": server.remote,
    }  # fmt: skip
    services = [web, {"local": tcp(world.service(echoing).url), "remoteTCPPort": port.number}]
    path = world.write("client.yml", {"type": "client", "services": services, "options": options})
    client = world.gt("client", ["client", "-c", str(path)])
    client.wait_for(r"tunnel \d+ to .* is up")
    running = world.visitor(port.address)
    running.send(b"before")
    assert running.exactly(6) == b"before"
    world.write("client.yml", {"type": "client", "services": [web], "options": options})
    client.signal(signal.SIGHUP)
    eventually(lambda: refuses(port.address), "the port is closed")
    running.send(b"after")
    assert running.exactly(5) == b"after"  # streams that run go on
    other = publish(world, server, secrets, protocol, *fixed(port), id="id2", name="other client")
    assert reached(other) == port.address
    assert echoes(port.address)


@BOTH
def test_ports_are_closed_with_the_server(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    publish(world, server, secrets, protocol, *fixed(port))
    assert echoes(port.address)
    server.process.end()
    assert refuses(port.address)


@BOTH
def test_a_visitor_while_the_client_is_away(world: World, protocol: str) -> None:
    """It waits for the client, 3 s at most."""
    port = world.port()
    server, secrets = serve(world, port)
    client = publish(world, server, secrets, protocol, *fixed(port))
    mark = server.process.mark()
    client.process.kill()
    server.process.wait_for(r"tunnel of id1 .*", after=mark)
    started = time.monotonic()
    visitor = world.visitor(port.address)
    visitor.send(b"hello")
    assert visitor.ending(ABSENCE_S + 5) in ("closed", "reset")
    assert time.monotonic() - started > ABSENCE_S - 0.5


@BOTH
def test_a_visitor_whose_client_comes_back_in_time(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    client = publish(world, server, secrets, protocol, *fixed(port), name="first client")
    mark = server.process.mark()
    client.process.kill()
    server.process.wait_for(r"tunnel of id1 .*", after=mark)
    started = time.monotonic()
    visitor = world.visitor(port.address)
    visitor.send(b"hello")
    publish(world, server, secrets, protocol, *fixed(port), name="second client")
    up = time.monotonic() - started
    if up > ABSENCE_S - 0.5:
        pytest.skip(f"this machine took {up:.1f} s to start a client; a visitor waits 3 s")
    assert visitor.exactly(5) == b"hello"
