"""`gt.py -s reload|restart|stop`, the signals that do the same, `gt.py status`, and directories of configurations."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.http import fetch
from tests.support.nginx import Nginx
from tests.support.processes import Relay, eventually, runtime_directory
from tests.support.services import answering, echoing
from tests.support.world import Server, World

HOST = "id1.example.com"
UP = r"tunnel of {} from .* is up"


class Site:
    """A server with its file, which a test edits, and a client."""

    def __init__(
        self, world: World, local: str, *, workers: int = 1, protocol: str = "", **options: Any
    ) -> None:
        self.world = world
        self.secret = world.secret()
        self.port = world.port()
        self.file: dict[str, Any] = {
            "type": "server",
            "users": {"id1": {"secret": self.secret}},
            "options": {"addr": str(self.port), "workers": workers, **options},
        }
        self.path = self.write()
        self.process = world.gt("server", ["-c", str(self.path)])
        if "logFile" not in options:
            self.process.wait_for("listening on")
        self.server = Server(self.process, self.port.address, self.port, [])
        self.client = world.client(self.server, "id1", self.secret, local=local, protocol=protocol).process
        eventually(lambda: fetch(self.port.address, HOST).status == 200, "the page is served")

    def write(self) -> Path:
        return self.world.write("server.yml", self.file)

    def says(self, signal: str) -> tuple[int, str]:
        """What `gt.py -s` prints, and its exit code."""
        return self.world.command("-s", signal, "-c", str(self.path))

    def serves(self) -> bool:
        return fetch(self.port.address, HOST).status == 200


def test_reload_says_what_it_has_done(world: World, nginx: Nginx) -> None:
    site = Site(world, nginx.url)
    before = [each.pid for each in site.process.workers]
    assert site.says("reload") == (0, f"{site.path}: nothing has changed\nreloaded\n")
    site.file["users"]["id2"] = {"secret": world.secret()}
    site.file["options"]["speed"] = "10MiB"
    site.write()
    code, output = site.says("reload")
    assert (code, output.splitlines()) == (
        0,
        [f"{site.path}: speed: live", f"{site.path}: users (1 added, 1 changed): live", "reloaded"],
    )
    world.client(site.server, "id2", site.file["users"]["id2"]["secret"], local=nginx.url, name="second")
    site.client.wait_for("is up")
    assert site.client.find("is down") == []
    assert [each.pid for each in site.process.workers] == before


def test_reload_opens_and_closes_listeners(world: World, nginx: Nginx) -> None:
    site = Site(world, nginx.url)
    other = world.port()
    old = site.port
    site.file["options"]["addr"] = str(other)
    site.write()
    assert site.says("reload") == (0, f"{site.path}: addr: listener\nreloaded\n")
    assert fetch(other.address, HOST).status == 200
    with socket.socket() as probe:
        assert probe.connect_ex(old.address) != 0
    assert site.client.find("is down") == []


def test_reload_replaces_the_workers_where_it_has_to(world: World, nginx: Nginx, tmp_path: Path) -> None:
    site = Site(world, nginx.url)
    before = [each.pid for each in site.process.workers]
    log = tmp_path / "gt.log"
    site.file["options"] |= {"logFile": str(log), "workers": 2}
    site.write()
    code, output = site.says("reload")
    assert code == 0, output
    assert f"{site.path}: logFile: new workers\n{site.path}: workers: new workers" in output
    assert "2 new workers; the old finish what they relay" in output
    assert site.serves()
    eventually(lambda: before[0] not in [each.pid for each in site.process.workers], "the old one has gone")
    assert len(site.process.workers) == 2
    assert "is up" in log.read_text()


@pytest.mark.parametrize("command", ["reload", "restart"])
def test_a_bad_file_changes_nothing(world: World, nginx: Nginx, command: str) -> None:
    site = Site(world, nginx.url)
    world.allow("not (reloaded|restarted), everything stays as it was")
    before = [each.pid for each in site.process.workers]
    site.path.write_text("type: server\noptions:\n  addr: [1, 2\n")
    code, output = site.says(command)
    assert code == 1
    assert f"{site.path}:4: is not valid YAML" in output
    assert "everything stays as it was" in output
    assert site.serves()
    site.file["options"]["addrr"] = "1"
    site.write()
    code, output = site.says(command)
    assert (code, f'{site.path}:3: options: unknown key "addrr", did you mean "addr"?' in output) == (
        1,
        True,
    ), output
    assert site.serves()
    assert [each.pid for each in site.process.workers] == before
    assert site.client.find("is down") == []


def test_an_address_that_is_taken_changes_nothing(world: World, nginx: Nginx) -> None:
    site = Site(world, nginx.url)
    world.allow("everything stays as it was")
    taken = world.service(answering(b"")).port
    site.file["options"] |= {"addr": str(world.port()), "sniAddr": str(taken)}
    site.write()
    code, output = site.says("reload")
    assert code == 1
    assert "Address already in use" in output
    assert site.serves()
    assert site.client.find("is down") == []


def test_workers_that_cannot_start_change_nothing(world: World, nginx: Nginx, tmp_path: Path) -> None:
    """A certificate is read by the workers alone."""
    site = Site(world, nginx.url)
    world.allow("stays as it was")
    (tmp_path / "bad.pem").write_text("no certificate")
    site.file["options"] |= {
        "tlsAddr": str(world.port()),
        "certFile": str(tmp_path / "bad.pem"),
        "keyFile": str(tmp_path / "bad.pem"),
    }
    site.write()
    code, output = site.says("reload")
    assert code == 1
    assert "bad.pem" in output
    assert "stays as it was" in output
    assert site.serves()
    assert site.client.find("is down") == []
    site.file["options"] = {"addr": str(site.port)}
    site.write()
    assert site.says("restart")[0] == 0
    assert site.serves()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("protocol", ["3", "1"])
def test_restart_replaces_all_workers(world: World, nginx: Nginx, protocol: str, workers: int) -> None:
    site = Site(world, nginx.url, workers=workers, protocol=protocol)
    before = {each.pid for each in site.process.workers}
    code, output = site.says("restart")
    assert code == 0, output
    assert output.endswith("restarted\n")
    assert site.serves()
    eventually(lambda: before.isdisjoint(each.pid for each in site.process.workers), "the old ones have gone")
    assert len(site.process.workers) == workers
    assert site.serves()


def test_a_client_restarts_too(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url).process
    before = {each.pid for each in client.workers}
    assert client.ask("restart")["ok"]
    assert fetch(server.address, HOST).status == 200
    eventually(lambda: before.isdisjoint(each.pid for each in client.workers), "the old one has gone")
    assert fetch(server.address, HOST).status == 200


def test_what_runs_goes_on_in_the_old_worker(world: World) -> None:
    """A connection from before two restarts still echoes after them; it ends with its worker's drainTimeout."""
    secret, opened = world.secret(), world.port()
    local = world.service(echoing).url.replace("http", "tcp")
    port = world.port()
    path = world.write(
        "server.yml",
        {
            "type": "server",
            "users": {"id1": {"secret": secret}},
            "tcp": [{"range": str(opened.number)}],
            "options": {"addr": str(port), "drainTimeout": "4s"},
        },
    )
    process = world.gt("server", ["-c", str(path)])
    process.wait_for("listening on")
    server = Server(process, port.address, port, [])
    world.client(server, "id1", secret, "--remoteTCPPort", str(opened.number), local=local)
    visitor = world.visitor(opened.address)

    def echoes(text: bytes) -> None:
        visitor.send(text)
        assert visitor.until(text).endswith(text)

    echoes(b"before")
    for number in range(2):
        assert process.ask("restart")["ok"]
        echoes(b"after %d" % number)
        again = world.visitor(opened.address)
        again.send(b"new")
        assert again.until(b"new") == b"new"
    assert len(process.workers) >= 2
    world.allow("are cut")
    process.wait_for(r"1 connections were still running after .* and are cut")
    eventually(lambda: len(process.workers) == 1, "the old ones have gone")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_signals(world: World, nginx: Nginx, workers: int, tmp_path: Path) -> None:
    log = tmp_path / "gt.log"
    site = Site(world, nginx.url, workers=workers, logFile=str(log))
    site.file["options"]["speed"] = "10MiB"
    site.write()
    site.process.signal(signal.SIGHUP)
    eventually(lambda: "speed: live" in log.read_text() and "reloaded" in log.read_text(), "it has reloaded")
    log.rename(tmp_path / "rotated.log")
    site.process.signal(signal.SIGUSR1)
    site.path.write_text("{")
    site.process.signal(signal.SIGHUP)
    eventually(lambda: "not reloaded" in log.read_text(), "it writes to the new file")
    site.write()
    before = [each.pid for each in site.process.workers]
    site.process.signal(signal.SIGUSR2)
    eventually(lambda: "replaced in place" in log.read_text(), "the master is new")
    eventually(lambda: not set(before) & {each.pid for each in site.process.workers}, "the workers are new")
    assert site.serves()
    assert site.says("reload") == (0, f"{site.path}: nothing has changed\nreloaded\n")


def test_it_ends_in_order_on_term_and_at_once_on_int(world: World) -> None:
    for number, slow in ((signal.SIGTERM, True), (signal.SIGINT, False)):
        site_world = Site(world, world.service(answering(b"page")).url)
        assert site_world.serves()
        started = time.monotonic()
        site_world.process.signal(number)
        assert site_world.process.wait() == 0
        if not slow:
            assert time.monotonic() - started < 5
        site_world.client.end()


def test_stop_waits_for_the_end(world: World, nginx: Nginx) -> None:
    site = Site(world, nginx.url)
    workers = site.process.workers
    code, output = site.says("stop")
    assert (code, output.splitlines()[-1]) == (0, "stopped")
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in workers)
    assert site.process.wait() == 0
    code, output = site.says("stop")
    assert code == 1
    assert f"no GT runs with {site.path}" in output


def test_status(world: World, nginx: Nginx) -> None:
    opened = world.port()
    site = Site(world, nginx.url, workers=2, tcpRange=[str(opened.number)])
    local = world.service(echoing).url.replace("http", "tcp")
    world.client(
        site.server, "id1", site.secret, "--remoteTCPPort", str(opened.number), local=local, name="tcp"
    )
    code, output = world.command("status", "-c", str(site.path))
    assert code == 0, output
    assert f"process {site.process.pid}, {site.path}" in output
    assert f"listens on {site.port} (addr)" in output
    for worker in site.process.workers:
        assert f": process {worker.pid}, generation 1" in output
    assert "tunnel of id1 from 127.0.0.1:" in output
    assert "host id1 of id1" in output
    assert f"port {opened.number} of id1" in output
    code, output = world.command("status", "--json", "-c", str(site.path))
    found = json.loads(output)
    assert found["pid"] == site.process.pid
    workers = found["units"][0]["workers"]
    assert sorted(each["pid"] for each in workers) == [each.pid for each in site.process.workers]
    tunnels = [tunnel for each in workers for tunnel in each["tunnels"]]
    assert {each["user"] for each in tunnels} == {"id1"}
    assert {each["protocol"] for each in tunnels} == {3}


def test_status_of_a_client(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url).process
    worker = client.status()[0]
    assert worker["tunnels"][0]["remote"] == server.remote
    (service,) = worker["services"]
    assert (service["local"], service["public"]) == (nginx.url, ["id1"])
    assert secret not in json.dumps(client.ask("status"))


class Directory:
    """A directory of configurations: a server, and clients that a test adds and removes."""

    def __init__(self, world: World, local: str) -> None:
        self.world = world
        self.local = local
        self.path = world.directory / "conf.d"
        self.path.mkdir()
        self.port = world.port()
        self.secrets = {name: world.secret() for name in ("one", "two", "three")}
        users = {name: {"secret": secret} for name, secret in self.secrets.items()}
        self.write("server", {"type": "server", "users": users, "options": {"addr": str(self.port)}})

    def write(self, name: str, value: dict[str, Any]) -> Path:
        path = self.world.write(f"conf.d/{name}.yml", value)
        return path

    def client(self, name: str, **options: Any) -> Path:
        options = {"id": name, "secret": self.secrets[name], "remote": f"tcp://{self.port}", **options}
        return self.write(name, {"type": "client", "services": [{"local": self.local}], "options": options})

    def start(self) -> Relay:
        process = self.world.gt("gt", ["-c", str(self.path)])
        process.wait_for("listening on")
        return process

    def status(self, name: str) -> int:
        return fetch(self.port.address, f"{name}.example.com").status

    def comes_up(self, name: str) -> None:
        eventually(lambda: self.status(name) == 200, f"{name} is served")


def test_a_directory_of_configurations(world: World, nginx: Nginx) -> None:
    conf = Directory(world, nginx.url)
    one, two = conf.client("one"), conf.client("two")
    process = conf.start()
    conf.comes_up("one")
    conf.comes_up("two")
    assert len(process.workers) == 3
    before = {each.pid for each in process.workers}
    two.unlink()
    conf.client("three")
    conf.client("one", remoteConnections=2)
    code, output = world.command("-s", "reload", "-c", str(conf.path))
    assert code == 0, output
    assert f"{one}: remoteConnections: live" in output
    assert f"{two}: stopped, it is there no more" in output
    assert f"{conf.path / 'three.yml'}: started" in output
    conf.comes_up("three")
    eventually(lambda: conf.status("two") in (404, 503), "two is gone")
    assert len(before & {each.pid for each in process.workers}) == 2
    (conf.path / "bad.yml").write_text("type: clientt\n")
    one.unlink()
    world.allow("everything stays as it was")
    code, output = world.command("-s", "reload", "-c", str(conf.path))
    assert code == 1
    assert f"{conf.path / 'bad.yml'}:1: type" in output
    assert conf.status("one") == 200
    (conf.path / "bad.yml").unlink()
    assert world.command("-s", "restart", "-c", str(conf.path))[0] == 0
    assert conf.status("three") == 200


def test_a_directory_with_a_bad_configuration_is_not_started(world: World, nginx: Nginx) -> None:
    conf = Directory(world, nginx.url)
    (conf.path / "bad.yml").write_text("type: server\noptions: {addr: nowhere}\n")
    code, output = world.command("-c", str(conf.path))
    assert code == 2
    assert f"{conf.path / 'bad.yml'}:2" in output
    (conf.path / "bad.yml").unlink()
    (conf.path / "server.yml").unlink()
    code, output = world.command("-c", str(conf.path))
    assert (code, "there is no configuration in it" in output) == (2, True)


def test_the_master_is_replaced_in_place(world: World, nginx: Nginx) -> None:
    """Its process id stays, a connection through it goes on, and it is asked as before."""
    site = Site(world, nginx.url, workers=2)
    started = psutil.Process(site.process.pid).create_time()
    for number in range(1, 3):
        answer = site.process.ask("upgrade")
        assert answer["ok"], answer
        site.process.wait_for("replaced in place", count=number)
        site.process.wait_for("restarted", count=number)
        assert site.serves()
    assert psutil.Process(site.process.pid).create_time() == started
    assert os.listdir(runtime_directory()).count(f"{site.process.pid}.sock") == 1
    status = site.process.ask("status")
    assert len([each for each in status["units"][0]["workers"] if each["state"] == "ready"]) == 2
    assert site.says("reload")[0] == 0
