"""Reload, restart, upgrade and killed workers under load: which requests fail. GT_TEST_LONG=1 takes the full time."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import time
from typing import Any

import psutil
import pytest

from tests.support.http import Ended, Visitor, fetch
from tests.support.nginx import Nginx
from tests.support.processes import Relay, eventually
from tests.support.world import Server, World
from tests.support.wrk import Wrk

LONG = os.environ.get("GT_TEST_LONG") == "1"
TIMES = 10 if LONG else 3
PAUSE_S = 5.0 if LONG else 0.7  # under load, between two events
LOAD_S = 180  # the load's limit: each test ends it
HOST = "site.example.com"
MEGABYTE = 1 << 20

pytestmark = pytest.mark.timeout(900 if LONG else 120)
WAYS = pytest.mark.parametrize(
    ("tunnel", "close"),
    [("tcp", False), ("tcp", True), ("tls", False), ("tls", True)],
    ids=["tcp-keepalive", "tcp-close", "tls-keepalive", "tls-close"],
)


class Site:
    """A server with its file, a client, and a crowd of visitors."""

    def __init__(
        self, world: World, nginx: Nginx, *, workers: int = 1, tunnel: str = "tcp", protocol: str = ""
    ) -> None:
        self.world = world
        self.secret = world.secret()
        self.port, tls = world.port(), world.port()
        self.file: dict[str, Any] = {
            "type": "server",
            "users": {"site": {"secret": self.secret}},
            "options": {"addr": str(self.port), "workers": workers},
        }
        if tunnel == "tls":
            self.file["options"]["tlsAddr"] = str(tls)
        self.path = world.write("server.yml", self.file)
        self.server = world.gt("server", ["-c", str(self.path)])
        self.server.wait_for("listening on")
        client = {
            "type": "client",
            "services": [{"local": nginx.url}],
            "options": {
                "id": "site",
                "secret": self.secret,
                "remote": f"tls://{tls}" if tunnel == "tls" else f"tcp://{self.port}",
                "remoteCertInsecure": tunnel == "tls",
                "protocol": protocol or "auto",
            },
        }
        self.client = world.gt("client", ["client", "-c", str(world.write("client.yml", client))])
        self.client.wait_for(r"tunnel \d+ to .* is up")
        eventually(lambda: fetch(self.port.address, HOST).status == 200, "the page is served")

    def crowd(self, close: bool, connections: int = 100) -> Wrk:
        crowd: Wrk = self.world.keep(
            Wrk(self.port.address, HOST, connections=connections, close=close, seconds=LOAD_S)
        )
        time.sleep(PAUSE_S)
        return crowd

    def rewrite(self) -> None:
        self.world.write("server.yml", self.file)


def nothing_failed(crowd: Wrk) -> None:
    assert crowd.running
    result = crowd.result()
    assert (result.failed, result.refused) == (0, 0), result.text
    assert result.requests > 100, result.text


@WAYS
def test_reloads_with_changed_users_and_hosts(world: World, nginx: Nginx, tunnel: str, close: bool) -> None:
    site = Site(world, nginx, tunnel=tunnel)
    crowd = site.crowd(close)
    for number in range(TIMES):
        site.file["users"] = {
            "site": {"secret": site.secret, "host": {"number": number + 1}},
            f"user{number}": {"secret": world.hidden(f"hush-{secrets.token_hex(8)}")},
        }
        site.rewrite()
        answer = site.server.ask("reload")
        assert answer["ok"], answer
        assert any("users" in line and "live" in line for line in answer["lines"])
        time.sleep(PAUSE_S)
    nothing_failed(crowd)
    assert site.client.find("is down: (?!drained)") == []
    assert site.server.stats()["tunnels_lost"] == 0


@WAYS
def test_restarts(world: World, nginx: Nginx, tunnel: str, close: bool) -> None:
    site = Site(world, nginx, tunnel=tunnel)
    crowd = site.crowd(close)
    before = {each.pid for each in site.server.workers}
    for _ in range(TIMES):
        answer = site.server.ask("restart", timeout=60)
        assert answer["ok"], answer
        time.sleep(PAUSE_S)
    assert site.server.ask("status")["units"][0]["workers"][-1]["generation"] == TIMES + 1
    nothing_failed(crowd)
    eventually(lambda: before.isdisjoint(each.pid for each in site.server.workers), "the old ones have gone")


@pytest.mark.parametrize(("workers", "protocol"), [(2, "3"), (1, "1")])
def test_restarts_otherwise(world: World, nginx: Nginx, workers: int, protocol: str) -> None:
    """With two workers, with protocol 1, and of the client."""
    site = Site(world, nginx, workers=workers, protocol=protocol)
    for close in (False, True):
        crowd = site.crowd(close)
        for _ in range(TIMES):
            for process in (site.server, site.client):
                answer = process.ask("restart", timeout=60)
                assert answer["ok"], answer
                time.sleep(PAUSE_S)
        nothing_failed(crowd)


class Download:
    """A visitor who reads a large file piece by piece, as far as it is told."""

    def __init__(self, visitor: Visitor, path: str) -> None:
        visitor.request(HOST, path)
        self.response = visitor.head()
        self._visitor = visitor
        self._hash = hashlib.sha256()
        self._left = int(self.response.headers["content-length"])

    def read(self, size: int) -> None:
        while size and self._left:
            data = self._visitor.receive(min(size, self._left, MEGABYTE))
            assert data, f"ended with {self._left} bytes missing"
            self._hash.update(data)
            self._left -= len(data)
            size -= len(data)

    def rest(self) -> str:
        self.read(self._left)
        return self._hash.hexdigest()


@pytest.mark.parametrize("tunnel", ["tcp", "tls"])
def test_a_download_that_straddles_restarts(world: World, nginx: Nginx, tunnel: str) -> None:
    """500 MB, of the server and of the client, one after the other."""
    digest = nginx.file("large.bin", 500 * MEGABYTE)
    site = Site(world, nginx, tunnel=tunnel)
    visitor = world.visitor(site.port.address, 60)
    download = Download(visitor, "/large.bin")
    for process in (site.server, site.client, site.server):
        download.read(50 * MEGABYTE)
        assert process.ask("restart", timeout=60)["ok"]
        assert fetch(site.port.address, HOST).status == 200
    assert download.rest() == digest
    visitor.close()
    for process in (site.server, site.client):
        eventually(lambda process=process: len(process.workers) == 1, "the old ones have gone")


@pytest.mark.parametrize("close", [False, True], ids=["keepalive", "close"])
def test_masters_replaced_in_place(world: World, nginx: Nginx, close: bool) -> None:
    site = Site(world, nginx)
    crowd = site.crowd(close)
    for number in range(5 if LONG else 2):
        for process in (site.server, site.client):
            mark = process.mark()
            process.signal(signal.SIGUSR2)
            process.wait_for("restarted", after=mark, timeout=60)
            assert process.find("replaced in place", after=mark)
        time.sleep(PAUSE_S)
        assert psutil.Process(site.server.pid).is_running(), number
    nothing_failed(crowd)


@WAYS
def test_a_corrupt_file_and_then_a_reload(world: World, nginx: Nginx, tunnel: str, close: bool) -> None:
    site = Site(world, nginx, tunnel=tunnel)
    world.allow("everything stays as it was")
    crowd = site.crowd(close)
    site.path.write_text("type: server\nusers:\n  site: {secret: x\noptions: {}\n")
    for command in ("reload", "restart"):
        answer = site.server.ask(command)
        assert not answer["ok"]
        assert f"{site.path}:4: is not valid YAML" in answer["text"]
        time.sleep(PAUSE_S)
    nothing_failed(crowd)


@pytest.mark.parametrize("tunnel", ["tcp", "tls"])
def test_killed_workers(world: World, nginx: Nginx, tunnel: str) -> None:
    """Requests in flight on the killed one fail, and nothing else: 100 ask at a time. It serves again within 2 s."""
    site = Site(world, nginx, workers=2, tunnel=tunnel)
    world.allow(r"has ended by SIGKILL")
    connections, slowest = 100, 0.0
    crowd = site.crowd(True, connections)
    for _ in range(20 if LONG else 4):
        victim = secrets.choice(site.server.workers)
        victim.kill()
        killed = time.monotonic()
        eventually(lambda: _is_served(site), "the page is served", pause=0.02)
        slowest = max(slowest, time.monotonic() - killed)
        eventually(lambda pid=victim.pid: _are_two(site.server, without=pid), "there are two workers")
        time.sleep(PAUSE_S)
    result = crowd.result()
    kills = 20 if LONG else 4
    print(f"{kills} kills: {result.failed} failed, {result.refused} refused, longest gap {slowest:.2f} s")
    # A connection fails once for each kill; meanwhile the tunnel is away visitors wait, and few get a 503.
    assert result.failed + result.refused <= kills * connections * 2, result.text
    assert slowest < (2.0 if LONG else 10.0)


def _is_served(site: Site) -> bool:
    try:
        return fetch(site.port.address, HOST, timeout=5).status == 200
    except (Ended, TimeoutError):
        return False


def _are_two(relay: Relay, without: int) -> bool:
    workers = relay.status()
    return [each["state"] for each in workers] == ["ready"] * 2 and without not in [w["pid"] for w in workers]


def test_soak(world: World, nginx: Nginx) -> None:
    """Clients come and go each second, a reload each 20 s (faster in CI): nothing grows."""
    seconds, every = (600.0, 20.0) if LONG else (20.0, 3.0)
    site = Site(world, nginx, workers=2)
    address = site.port.address
    running = Server(site.server, address, site.port, [])
    others = {f"user{n}": world.secret() for n in range(4)}
    site.file["users"] |= {name: {"secret": secret} for name, secret in others.items()}
    site.rewrite()
    assert site.server.ask("reload")["ok"]

    def visit() -> None:
        for _ in range(20):
            assert fetch(address, HOST).status == 200

    visit()
    eventually(lambda: site.server.stats()["streams"] == 0, "no stream is left")
    start = site.server.settle(visitors_waiting=0)
    began = last_reload = time.monotonic()
    memory: list[tuple[float, int]] = []
    number = 0
    while (now := time.monotonic()) - began < seconds:
        name = f"user{number % 4}"
        client = world.client(
            running, name, others[name], local=nginx.url, name=f"client{number}", ready=False
        )
        client.process.wait_for("is up")
        assert fetch(address, f"{name}.example.com").status == 200
        if number % 2:
            client.process.end()
        else:
            client.process.kill()
        visit()
        if now - last_reload > every:
            last_reload = now
            site.file["users"][f"more{number}"] = {"secret": world.hidden(f"hush-{number:08}")}
            site.rewrite()
            assert site.server.ask("reload")["ok"]
        memory.append((now - began, site.server.rss))
        number += 1
    limits = {key: start[key] for key in ("spare_fds", "greenlets", "pumps", "streams")}
    site.server.settle(timeout=60, **limits)
    assert len(site.server.workers) == 2
    settled = [size for at, size in memory if at > seconds / 5]
    quarter = max(1, len(settled) // 4)
    growth = max(settled[-quarter:]) - max(settled[:quarter])
    print(
        f"{number} clients came and went; memory of the workers {settled[0] >> 10} KiB, growth {growth >> 10} KiB"
    )
    assert growth < 8 * MEGABYTE
