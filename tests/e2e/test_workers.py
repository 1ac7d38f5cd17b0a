"""Several workers: every visitor is served wherever the tunnel is, and a worker that dies or hangs is replaced."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import Any

import psutil
import pytest

from tests.support.http import Ended, fetch
from tests.support.nginx import Nginx
from tests.support.processes import Relay, eventually
from tests.support.services import answering, echoing
from tests.support.workers import accepted_without_tunnel
from tests.support.world import Server, World

HOST = "id1.example.com"
BOTH = pytest.mark.parametrize("protocol", ["3", "1"])


def tunnels_of(server: Relay) -> list[int]:
    """How many tunnels each worker has, oldest first."""
    return [len(each["tunnels"]) for each in server.status()]


def are_ready(relay: Relay, count: int, without: int) -> bool:
    """Whether so many workers are ready, and none of them is the process `without`."""
    workers = relay.status()
    return [w["state"] for w in workers] == ["ready"] * count and without not in [w["pid"] for w in workers]


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@BOTH
def test_tunnels_all_in_one_worker_serve_the_visitors_of_both(
    world: World, nginx: Nginx, protocol: str
) -> None:
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    world.client(server, "id1", secret, "--remoteConnections", "1", local=nginx.url, protocol=protocol)
    for number in range(40):
        if number % 2:
            assert fetch(server.address, HOST).status == 200
            continue
        with accepted_without_tunnel(server.process, server.address):
            visitor = world.visitor(server.address)
        visitor.request(HOST)
        assert visitor.response().status == 200
        visitor.close()
    assert sorted(tunnels_of(server.process)) == [0, 1]
    assert server.process.stats()["visitors_passed"] >= 20
    assert server.process.stats()["streams_opened"] == 40


def test_an_unknown_host_is_unknown_in_both(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    assert {fetch(server.address, "nobody.example.com").status for _ in range(20)} == {404}


def test_a_tcp_port_is_served_by_both(world: World) -> None:
    secret, opened = world.secret(), world.port()
    server = world.server("--workers", "2", "--tcpRange", str(opened.number), users={"id1": secret})
    local = world.service(echoing).url.replace("http", "tcp")
    world.client(server, "id1", secret, "--remoteTCPPort", str(opened.number), local=local)
    for number in range(20):
        visitor = world.visitor(opened.address)
        visitor.send(b"hello %d" % number)
        assert visitor.until(b"%d" % number).endswith(b"hello %d" % number)


def test_a_client_of_two_workers(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    client = world.client(server, "id1", secret, "--workers", "2", local=nginx.url).process
    eventually(lambda: sum(tunnels_of(server.process)) == 2, "each of the client's workers has a tunnel")
    assert [len(each["tunnels"]) for each in client.status()] == [1, 1]
    for _ in range(20):
        assert fetch(server.address, HOST).status == 200
    world.allow("has ended by SIGKILL")
    mark = server.process.mark()
    client.workers[0].kill()
    server.process.wait_for("is down", after=mark)
    eventually(lambda: sum(tunnels_of(server.process)) >= 2, "both are back")
    assert len(client.workers) == 2
    assert fetch(server.address, HOST).status == 200


@pytest.mark.parametrize("workers", [1, 2])
@BOTH
def test_a_killed_worker_is_back_and_so_are_its_tunnels(
    world: World, nginx: Nginx, protocol: str, workers: int
) -> None:
    secret = world.secret()
    server = world.server("--workers", str(workers), users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url, protocol=protocol).process
    world.allow(r"worker \d+ \(process \d+\) has ended by SIGKILL")
    for _ in range(2):
        victim = server.process.workers[0]
        victim.kill()
        eventually(lambda pid=victim.pid: are_ready(server.process, workers, pid), "it is back")
        eventually(lambda: fetch(server.address, HOST).status == 200, "the page is served")
    client_worker = client.workers[0]
    client_worker.kill()
    client.wait_for("is up", count=2)
    eventually(lambda: fetch(server.address, HOST).status == 200, "the page is served")


@pytest.mark.parametrize("which", ["server", "client"])
def test_one_that_hangs_is_replaced(world: World, nginx: Nginx, which: str) -> None:
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url).process
    process = server.process if which == "server" else client
    world.allow(r"has not been heard of for 10 s: it is killed", r"has ended by SIGKILL")
    hanging = process.workers[0]
    hanging.suspend()
    process.wait_for("has not been heard of for 10 s: it is killed", timeout=60)
    eventually(lambda: gone(hanging), "it has gone")
    with contextlib.suppress(Ended):  # one that was on its way to it may be cut with it
        fetch(server.address, HOST)
    eventually(lambda: fetch(server.address, HOST).status == 200, "the page is served")
    eventually(lambda: all(each["state"] == "ready" for each in process.status()), "its successor is ready")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_end_without_their_master(world: World, nginx: Nginx, workers: int) -> None:
    secret = world.secret()
    server = world.server("--workers", str(workers), users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url).process
    for relay in (server.process, client):
        left = relay.workers
        relay.expected_exit = {-signal.SIGKILL}
        relay.process.kill()
        started = time.monotonic()
        eventually(lambda left=left: all(map(gone, left)), "its workers have ended")
        assert time.monotonic() - started < 10  # 2 s where the machine has time


def test_one_that_cannot_start_says_why_and_does_not_loop(world: World) -> None:
    """A certificate is read by the workers."""
    bad = world.write("bad.pem", "no certificate")
    server = world.server("--tlsAddr", str(world.port()), "--certFile", str(bad), "--keyFile", str(bad),
                          users={"id1": world.secret()}, ready=False)  # fmt: skip
    server.process.expected_exit = {2}
    world.allow("bad.pem")
    assert server.process.wait() == 2
    assert "bad.pem" in server.process.log
    assert len(server.process.find("bad.pem")) == 1


def test_term_to_a_worker_alone(world: World, nginx: Nginx) -> None:
    """Somebody ends the wrong process: there is a new one."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    world.allow(r"has ended with exit code 0")
    old = server.process.workers[0]
    old.terminate()
    eventually(lambda: gone(old), "it has ended")
    eventually(lambda: fetch(server.address, HOST).status == 200, "the page is served")


def test_ctrl_c_in_a_terminal_reaches_all_and_ends_in_order(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    workers = server.process.workers
    for each in workers:
        each.send_signal(signal.SIGINT)
    server.process.signal(signal.SIGINT)
    assert server.process.wait() == 0
    assert all(map(gone, workers))


def test_limits_hold_for_all_workers_together(world: World, nginx: Nginx) -> None:
    """Two tunnels for each user, three that come, two workers."""
    secret = world.secret()
    config: dict[str, Any] = {"type": "server", "users": {"id1": {"secret": secret, "connections": 2}}}
    server: Server = world.server("--workers", "2", config=config)
    clients = [world.client(server, "id1", secret, local=nginx.url, name=f"client{n}") for n in range(2)]
    third = world.client(server, "id1", secret, local=nginx.url, name="third", ready=False)
    third.process.wait_for("no tunnel: .*id1 has its 2 tunnels already")
    assert sum(tunnels_of(server.process)) == 2
    assert all(not each.process.find("is down") for each in clients)


def test_a_host_has_one_user_in_all_workers(world: World) -> None:
    secrets = {name: world.secret() for name in ("one", "two")}
    server = world.server("--workers", "2", users=secrets)
    local = {"shop": world.service(answering(b"one")).url}
    world.client(server, "one", secrets["one"], local=local, name="one")
    for number in range(4):  # wherever it lands
        other = world.client(server, "two", secrets["two"], local=local, name=f"two{number}", ready=False)
        other.process.wait_for("no tunnel: .*host prefix 'shop' is another user's")
        other.process.end()
    assert {fetch(server.address, "shop.example.com").body for _ in range(8)} == {b"one"}
