"""The processes themselves: starting, logs, idle times, SIGTERM, and what they refuse to start with."""

from __future__ import annotations

import errno
import json
import signal
import socket
import threading
import time

import pytest

from tests.support.http import Ended, Response, fetch
from tests.support.nginx import Nginx
from tests.support.processes import eventually
from tests.support.services import Connection, answering, endless, silent
from tests.support.world import World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])


def test_ready_lines(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    assert server.process.find(rf"listening on {server.port} \(visitors and tunnels\)")
    client = world.client(server, "id1", secret, local=nginx.url)
    client.process.wait_for(rf"tunnel 1 to tcp://{server.port} is up")
    server.process.wait_for(r"tunnel of id1 from 127\.0\.0\.1:\d+ is up")


@pytest.mark.parametrize("level", ["trace", "debug", "info"])
def test_json_logs(world: World, nginx: Nginx, level: str) -> None:
    """One object a line, with a time, a level and a message, for everything, and no secret at any level."""
    secret = world.secret()
    flags = ("--logFormat", "json", "--logLevel", level)
    server = world.server(*flags, users={"id1": secret})
    for protocol in ("3", "1"):
        client = world.client(server, "id1", secret, *flags, local=nginx.url, protocol=protocol)
        assert fetch(server.address, "id1.example.com").status == 200
        assert fetch(server.address, "nobody.example.com").status == 404
        client.process.end()
    server.process.end()
    for process in world.relays:
        assert process.lines
        for line in process.lines:
            entry = json.loads(line)
            assert {"time", "level"} <= entry.keys(), entry
            assert {"message", "msg"} & entry.keys(), entry


def test_log_file(world: World) -> None:
    path = world.directory / "gt.log"
    server = world.server("--logFile", str(path), users={"id1": world.secret()}, ready=False)
    eventually(lambda: path.exists() and "listening on" in path.read_text(), "a line in the log file")
    server.process.end()
    assert "listening on" not in server.process.log


@BOTH
def test_sigterm_lets_a_running_download_finish(world: World, nginx: Nginx, protocol: str) -> None:
    """The server: no new connections, the download ends whole, exit 0 in less than 10 s."""
    expected = nginx.file("trickle/three-seconds.bin", 3_000_000)
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url, protocol=protocol)
    visitor = world.visitor(server.address)
    visitor.request("id1.example.com", "/trickle/three-seconds.bin", headers={"Connection": "close"})
    response = visitor.head()
    start = time.monotonic()
    server.process.signal(signal.SIGTERM)
    eventually(lambda: _refused(server.address), "new connections are refused", 5)
    visitor.body(response)
    assert (response.end, response.sha256) == ("length", expected)
    visitor.close()
    assert server.process.wait() == 0
    assert 1 < time.monotonic() - start < 10


def _refused(address: tuple[str, int]) -> bool:
    try:
        fetch(address, "id1.example.com", timeout=2)
    except ConnectionRefusedError:
        return True
    except (Ended, TimeoutError):
        return False
    return False


@BOTH
def test_sigterm_of_the_client_lets_a_running_download_finish(
    world: World, nginx: Nginx, protocol: str
) -> None:
    expected = nginx.file("trickle/three-seconds.bin", 3_000_000)
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url, protocol=protocol)
    visitor = world.visitor(server.address)
    visitor.request("id1.example.com", "/trickle/three-seconds.bin", headers={"Connection": "close"})
    response = visitor.head()
    start = time.monotonic()
    client.process.signal(signal.SIGTERM)
    eventually(
        lambda: fetch(server.address, "id1.example.com").status == 503, "nothing new for this client", 15
    )
    visitor.body(response)
    assert (response.end, response.sha256) == ("length", expected)
    visitor.close()
    assert client.process.wait() == 0
    assert time.monotonic() - start < 10


@BOTH
@pytest.mark.parametrize("role", ["server", "client"])
def test_sigterm_waits_no_longer_than_10_s(world: World, protocol: str, role: str) -> None:
    site = world.publish(world.service(endless("chunked")).url, protocol)
    visitor = world.visitor(site.address)
    visitor.request(site.host)
    response = visitor.head()
    reader = threading.Thread(target=visitor.body, args=(response,), kwargs={"keep": False})
    reader.start()
    process = site.server.process if role == "server" else site.client.process
    start = time.monotonic()
    assert process.end(20) == 0
    assert time.monotonic() - start < 12
    reader.join(20)
    assert response.end in ("reset", "short")


def test_sigterm_with_nothing_running_is_quick(world: World, nginx: Nginx) -> None:
    """The 10 s are for what runs."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url)
    assert fetch(server.address, "id1.example.com").status == 200
    for process in (client.process, server.process):
        start = time.monotonic()
        assert process.end() == 0
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_client_without_a_server_ends_on_a_signal(world: World, number: signal.Signals) -> None:
    client = world.client(
        world.port().address, "id1", world.secret(), local="http://127.0.0.1:1", ready=False
    )
    client.process.wait_for(r".")
    eventually(
        lambda: client.process.find(r"(?i)refused|cannot|retry|again"), "it says that there is no server"
    )
    client.process.signal(number)
    assert client.process.wait() == 0


def test_the_client_goes_over_when_the_server_is_replaced(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url)
    server.process.end()
    mark = client.process.mark()
    world.server(users={"id1": secret}, port=server.port)
    client.process.wait_for(r"is up", after=mark)
    assert fetch(server.address, "id1.example.com").status == 200


@BOTH
def test_server_timeout_closes_idle_visitors(world: World, nginx: Nginx, protocol: str) -> None:
    secret = world.secret()
    server = world.server("--timeout", "2s", users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url, protocol=protocol)
    visitor = world.visitor(server.address)
    for _ in range(2):
        visitor.request("id1.example.com")
        assert visitor.response().status == 200
    start = time.monotonic()
    assert visitor.ending(20) in ("closed", "reset")
    assert 1.4 < time.monotonic() - start < 8
    server.process.settle(streams=0)


@BOTH
def test_timeout_counts_from_the_last_byte(world: World, nginx: Nginx, protocol: str) -> None:
    """A download that takes longer than the idle time is not idle."""
    expected = nginx.file("trickle/three-seconds.bin", 3_000_000)
    secret = world.secret()
    server = world.server("--timeout", "1s", users={"id1": secret})
    world.client(server, "id1", secret, "--localTimeout", "1s", local=nginx.url, protocol=protocol)
    assert fetch(server.address, "id1.example.com", "/trickle/three-seconds.bin").sha256 == expected


def test_one_direction_alone_is_idle_when_told_so(world: World) -> None:
    secret = world.secret()
    server = world.server("--timeout", "2s", "--timeoutOnUnidirectionalTraffic", users={"id1": secret})
    world.client(server, "id1", secret, local=world.service(endless("chunked")).url)
    visitor = world.visitor(server.address)
    visitor.request("id1.example.com")
    start = time.monotonic()
    response = visitor.response(keep=False)
    assert response.end in ("reset", "short")
    assert 1.4 < time.monotonic() - start < 10


@BOTH
def test_local_timeout(world: World, protocol: str) -> None:
    """A service that took the request and says nothing."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    service = world.service(silent)
    world.client(server, "id1", secret, "--localTimeout", "2s", local=service.url, protocol=protocol)
    visitor = world.visitor(server.address)
    visitor.request("id1.example.com")
    start = time.monotonic()
    assert visitor.ending(20) in ("closed", "reset")
    assert 1.4 < time.monotonic() - start < 8
    assert service.connections[0].gone.wait(10)


def test_remote_timeout(world: World, nginx: Nginx) -> None:
    """A tunnel on which nothing comes any more is given up after remoteTimeout, and replaced."""
    site = world.publish(
        nginx.url, "3", client=("--remoteTimeout", "3s", "--reconnectDelay", "300ms"), cuttable=True
    )
    mark = site.client.process.mark()
    start = time.monotonic()
    site.proxy.freeze()
    site.client.process.wait_for(r"is up", after=mark)
    assert time.monotonic() - start < 15
    assert fetch(site.address, site.host).status == 200


def test_an_idle_tunnel_stays(world: World, nginx: Nginx) -> None:
    """Longer than remoteTimeout without a visitor: pings keep it, nothing is reconnected."""
    site = world.publish(
        nginx.url, "3", client=("--remoteTimeout", "1s"), server=("--timeout", "1s"), cuttable=True
    )
    site.client.process.wait_for(r"is up")
    accepted = site.proxy.accepted
    before = site.proxy.carried
    # Pings go every half idle time: so many bytes of them mean that several idle times have passed.
    eventually(lambda: site.proxy.carried > before + 16 * 12, "pings")
    assert site.proxy.accepted == accepted
    assert fetch(site.address, site.host).status == 200


def test_names_and_ipv6(world: World) -> None:
    """An address without a host listens on both families; remote and local may be names."""
    secret = world.secret()
    port = world.port()
    server = world.server(users={"id1": secret}, port=port, addr=f":{port.number}")
    service = world.service(answering(b"found"))
    argv = ["client", "--id", "id1", "--secret", secret, "--remote", f"localhost:{port.number}"]
    client = world.gt("client", [*argv, "--local", f"http://localhost:{service.port.number}"])
    client.wait_for(r"tunnel 1 to .* is up")
    assert fetch(server.address, "id1.localhost").text == "found"
    try:
        sock = socket.create_connection(("::1", port.number), 10)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            pytest.skip("this machine has no IPv6")
        raise
    with sock:
        sock.sendall(b"GET / HTTP/1.0\r\nHost: id1.localhost\r\n\r\n")
        assert sock.recv(1000).endswith(b"found")


def test_client_may_come_before_its_server(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    port = world.port()
    client = world.client(port.address, "id1", secret, local=nginx.url, ready=False)
    client.process.wait_for(r"(?i)refused")
    server = world.server(users={"id1": secret}, port=port)
    client.process.wait_for(r"tunnel 1 to .* is up")
    assert fetch(server.address, "id1.example.com").status == 200


def test_a_second_sigterm_changes_nothing(world: World, nginx: Nginx) -> None:
    expected = nginx.file("trickle/three-seconds.bin", 3_000_000)
    site = world.publish(nginx.url, "3")
    visitor = world.visitor(site.address)
    visitor.request(site.host, "/trickle/three-seconds.bin", headers={"Connection": "close"})
    response = visitor.head()
    for process in (site.server.process, site.client.process):
        mark = process.mark()
        process.signal(signal.SIGTERM)
        process.wait_for("ending", after=mark)
        process.signal(signal.SIGTERM)
    visitor.body(response)
    assert response.sha256 == expected
    visitor.close()
    assert site.server.process.wait() == 0
    assert site.client.process.wait() == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["server", "--addr", "127.0.0.1:99999"], "addr"),
        (["server", "--adr", "127.0.0.1:80"], "adr"),
        (["server", "-c", "/does/not/exist.yml"], "exist.yml"),
        (["client", "--id", "x", "--local", "http://127.0.0.1"], "remote"),
        (["client", "--remote", "tcp://127.0.0.1", "--local", "http://127.0.0.1"], "id"),
        (
            ["client", "--id", "x", "--remote", "quic://127.0.0.1", "--local", "http://127.0.0.1"],
            "not available yet",
        ),
        (
            ["client", "--id", "x", "--remote", "tcp://x", "--local", "http://x", "--remoteSTUN", "x:1"],
            "not available yet",
        ),
        (["server", "--addr", "127.0.0.1:1", "--quicAddr", "127.0.0.1:2"], "not available yet"),
        (["nonsense"], "nonsense"),
    ],
)
def test_what_cannot_start_says_why(world: World, argv: list[str], words: str) -> None:
    process = world.gt("gt", argv)
    process.expected_exit = {2}
    assert process.wait() == 2
    assert words in process.log
    assert len([line for line in process.lines if line.strip()]) <= 6, process.log


def test_address_in_use(world: World) -> None:
    server = world.server(users={"id1": world.secret()})
    world.allow(r"(?i)in use")
    second = world.server(users={"id1": world.secret()}, port=server.port, ready=False)
    second.process.expected_exit = {1, 2}
    assert second.process.wait() in (1, 2)
    assert str(server.port.number) in second.process.log
    assert "Traceback" not in second.process.log


@BOTH
def test_remote_connections(world: World, nginx: Nginx, protocol: str) -> None:
    """The pool: as many tunnels as told, all of them used when visitors stay."""
    held = threading.Event()

    def holds(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhe")
        held.wait(30)
        connection.send(b"ld")

    secret = world.secret()
    server = world.server(users={"id1": secret})
    service = world.service(holds)
    client = world.client(
        server, "id1", secret, "--remoteConnections", "4", "--remoteIdleConnections", "4",
        local=service.url, protocol=protocol,
    )  # fmt: skip
    client.process.wait_for(r"tunnel \d+ to .* is up", count=4)
    visitors = [world.visitor(server.address) for _ in range(8)]
    for visitor in visitors:
        visitor.request("id1.example.com")
    heads: list[Response] = [visitor.head() for visitor in visitors]
    stats = client.process.stats()
    assert (stats["tunnels"], stats["streams"]) == (4, 8)
    held.set()
    for visitor, head in zip(visitors, heads, strict=True):
        visitor.body(head)
        assert head.body == b"held"


def test_debug_statistics(world: World) -> None:
    site = world.publish(world.service(answering(b"x")).url, "3")
    visitor = world.visitor(site.address)
    visitor.request(site.host)
    assert visitor.response().body == b"x"
    for process in (site.server.process, site.client.process):
        stats = process.stats()
        assert {"fds", "greenlets", "tunnels", "streams", "pumps"} <= stats.keys()
        assert stats["streams"] == 1
        assert stats["tunnels"] >= 1
