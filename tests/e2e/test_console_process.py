"""The console as a process: there when it is wanted, replaced when it dies or hangs, never in the relay's way."""

from __future__ import annotations

import re
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest
import yaml

from tests.support.http import Response, fetch
from tests.support.nginx import Nginx
from tests.support.ports import Port
from tests.support.processes import PATIENCE_S, Relay, eventually
from tests.support.world import World

PASSWORD = "correct horse battery"


class Site:
    """A server with a console, and its file."""

    def __init__(self, world: World, **options: Any) -> None:
        self.console = world.port()
        self.addr = world.port()
        self.secret = world.secret()
        self.file: dict[str, Any] = {
            "type": "server",
            "users": {"id1": {"secret": self.secret}},
            "options": {
                "addr": str(self.addr),
                "webAddr": str(self.console),
                "admin": "root",
                "password": world.hidden(PASSWORD),
                **options,
            },
        }
        self.path = world.write("server.yml", self.file)
        self.server = world.gt("server", ["-c", str(self.path)])
        self.server.wait_for(rf"listening on {self.console} \(console\)")
        page(self.console)

    def change(self, **options: Any) -> dict[str, Any]:
        """Other options, and a reload: its answer."""
        wanted = {**self.file["options"], **options}
        self.file["options"] = {key: value for key, value in wanted.items() if value is not None}
        self.path.write_text(yaml.safe_dump(self.file))
        return self.server.ask("reload")


def page(port: Port, path: str = "/login") -> Response:
    """The page as soon as it is there."""

    def attempt() -> Response:
        found = fetch(port.address, str(port), path)
        assert found.status in (200, 303), found  # a wizard begins with a step of its own
        return found

    found: Response = eventually(attempt, f"the console answers on {port}", 2 * PATIENCE_S)
    return found


def one_console(relay: Relay, other_than: psutil.Process | None = None) -> psutil.Process:
    def attempt() -> psutil.Process:
        found = relay.consoles
        assert len(found) == 1
        assert found[0] != other_than
        return found[0]

    # One that hangs is given up after 10 s; the next one has much to load.
    found: psutil.Process = eventually(attempt, "there is one console", 3 * PATIENCE_S)
    return found


def refused(port: Port) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(port.address) != 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_one_that_dies_or_hangs_is_replaced(world: World, nginx: Nginx, number: int) -> None:
    """And nobody whom the server relays for notices."""
    site = Site(world)
    world.allow(r"the console \(process \d+\) has")
    world.client(site.addr.address, "id1", site.secret, local=nginx.url)
    before, workers = one_console(site.server), site.server.workers
    before.send_signal(number)
    one_console(site.server, other_than=before)
    page(site.console)
    assert site.server.workers == workers
    assert fetch(site.addr.address, "id1.example.com").status == 200


def test_with_its_master_it_ends(world: World) -> None:
    site = Site(world)
    console = one_console(site.server)
    psutil.Process(site.server.pid).kill()
    site.server.expected_exit = {-signal.SIGKILL}
    assert not psutil.wait_procs([console], 5)[1]


def test_reload_opens_moves_and_closes_it(world: World) -> None:
    """The relay's workers stay whatever becomes of it."""
    site = Site(world)
    workers, other = site.server.workers, world.port()
    answer = site.change(webAddr=str(other))
    assert answer["ok"]
    assert any(re.search("webAddr: listener", line) for line in answer["lines"])
    page(other)
    eventually(lambda: refused(site.console), "nobody listens where it was")
    assert site.change(webAddr=None)["ok"]
    eventually(lambda: refused(other) and not site.server.consoles, "there is no console")
    assert site.change(webAddr=str(site.console))["ok"]
    page(site.console)
    assert site.server.workers == workers


def test_what_it_cannot_be_served_with_is_refused(world: World) -> None:
    site = Site(world)
    world.allow("everything stays as it was")
    cert = world.write("cert.pem", "no certificate")
    answer = site.change(webCertFile=str(cert), webKeyFile=str(cert))
    assert not answer["ok"]
    assert f"{cert}: holds no certificate in PEM" in answer["text"]
    page(site.console)
    with world.port().listen() as taken:
        port = taken.getsockname()[1]
        answer = site.change(webCertFile=None, webKeyFile=None, webAddr=f"127.0.0.1:{port}")
    assert "cannot listen on" in answer["text"]
    page(site.console)


def test_restart_and_upgrade_replace_it(world: World) -> None:
    """At no moment nobody listens."""
    site = Site(world)
    for command in ("restart", "upgrade"):
        before = one_console(site.server)
        assert site.server.ask(command)["ok"]
        one_console(site.server, other_than=before)
        page(site.console)


def test_status_names_it(world: World) -> None:
    site = Site(world)
    code, output = world.command("status", "-c", str(site.path))
    assert code == 0
    assert f"listens on {site.console} (webAddr)" in output


# the first run


def test_first_run_until_a_file_is_there(world: World, nginx: Nginx) -> None:
    data, console, addr = world.directory / "data", world.port(), world.port()
    server = world.gt("server", ["server"], env={"GT_DATA_DIR": str(data), "GT_WEB_ADDR": str(console)})
    server.wait_for(f"not set up yet: the console listens on {console}")
    server.wait_for(rf"http://{console}/setup#")
    before = one_console(server)
    page(console, "/setup")
    code, output = world.command("status")
    assert (code, f"its wizard is on {console}" in output) == (0, True)
    assert not server.ask("upgrade")["ok"]
    world.allow("not replaced|it is not set up yet")

    world.allow("everything stays as it was")
    (data / "server.yml").write_text("type: server\noptions:\n  adr: 80\n")
    server.wait_for('server.yml:3: .*unknown key "adr"')
    secret = world.secret()
    file = {
        "type": "server",
        "users": {"id1": {"secret": secret}},
        "options": {"addr": str(addr), "webAddr": str(console), "admin": "root", "password": PASSWORD},
    }
    (data / "server.yml").write_text(yaml.safe_dump(file))
    server.wait_for(f"listening on {addr}")
    one_console(server, other_than=before)
    page(console, "/login")
    assert fetch(console.address, str(console), "/setup").status == 404
    world.client(addr.address, "id1", secret, local=nginx.url)
    assert fetch(addr.address, "id1.example.com").status == 200
    assert "first_run" not in server.ask("hello")

    # The next time it starts with what is there.
    server.end()
    again = world.gt("again", ["server"], env={"GT_DATA_DIR": str(data), "GT_WEB_ADDR": str(console)})
    again.wait_for(f"listening on {addr}")
    page(console)


def test_unattended_by_environment(world: World) -> None:
    """Everything is said by variables: no wizard, and the console lets its administrator in."""
    console, addr = world.port(), world.port()
    environ = {
        "GT_ADDR": str(addr),
        "GT_ID": "id1",
        "GT_SECRET": world.secret(),
        "GT_WEB_ADDR": str(console),
        "GT_ADMIN": "root",
        "GT_PASSWORD": world.hidden(PASSWORD),
        "GT_DATA_DIR": str(world.directory / "data"),
    }
    server = world.gt("server", ["server"], env=environ)
    server.wait_for(f"listening on {addr}")
    page(console)
    assert fetch(console.address, str(console), "/setup").status == 404
    assert "first_run" not in server.ask("hello")
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with browser.open(f"http://{console}/login") as answer:
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', answer.read().decode())
    assert token is not None
    form = urlencode({"csrf_token": token.group(1), "name": "root", "password": PASSWORD}).encode()
    with browser.open(f"http://{console}/login", form) as answer:
        assert answer.url == f"http://{console}/"
        assert "Log out" in answer.read().decode()


def test_a_new_setup_token(world: World) -> None:
    console = world.port()
    environ = {"GT_DATA_DIR": str(world.directory / "data"), "GT_WEB_ADDR": str(console)}
    client = world.gt("client", ["client"], env=environ)
    token = client.wait_for(r"/setup#(\S+)").group(1)
    kept = world.directory / "data" / "client.state" / "setup-token"
    assert kept.read_text().strip() == token
    assert kept.stat().st_mode & 0o777 == 0o600
    code, output = world.command("setup-token")
    assert code == 0
    new = output.strip().rpartition("setup#")[2].split()[0]
    assert new != token
    assert kept.read_text().strip() == new


def test_where_the_first_run_cannot_be(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = world.gt("server", ["server"], env={"GT_DATA_DIR": str(tmp_path / "file" / "data")})
    server.expected_exit = {2}
    assert server.wait() == 2
    assert "GT_DATA_DIR" in server.log
    with world.port().listen() as taken:
        port = taken.getsockname()[1]
        environ = {"GT_DATA_DIR": str(tmp_path / "data"), "GT_WEB_ADDR": f"127.0.0.1:{port}"}
        server = world.gt("server", ["server"], env=environ)
        server.expected_exit = {1, 2}
        assert server.wait() in (1, 2)
    assert f"cannot listen on 127.0.0.1:{port}" in server.log


def test_reset_admin(world: World) -> None:
    """For whoever is locked out: a new password, as a hash in the file, whose comments stay."""
    site = Site(world)
    site.path.write_text("# ours\n" + site.path.read_text())
    code, output = world.command("reset-admin", "-c", str(site.path))
    assert code == 0, output
    password = re.search(r"^password  (\S+)$", output, re.M)
    assert password is not None
    text = site.path.read_text()
    assert text.startswith("# ours\n")
    assert "$argon2id$" in text
    assert password.group(1) not in text
    assert PASSWORD not in text
