"""supervisord.conf with the real supervisord and supervisorctl: whole server and client, restarted, stopped, killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.support.http import Ended, fetch
from tests.support.nginx import Nginx
from tests.support.ports import Port
from tests.support.processes import END_S, Child, eventually
from tests.support.world import ROOT, TROUBLE, World

RESTART_S = 3.0  # from the command until a visitor gets the page again
CLIENT_BACK_S = 1.0  # from when the server listens
GRACE_S = 10.0  # that GT takes at most to end in order
NOT_OURS = r"/supervisor/\w+\.py:\d+: \w+Warning:|Enable tracemalloc"


class Supervisord(Child):
    """supervisord with our supervisord.conf and these variables, and all that runs under it."""

    def __init__(self, name: str, **variables: str) -> None:
        # The path of a socket has to be short: not the test's own directory.
        self.home = Path(tempfile.mkdtemp(prefix="gt-"))
        self._environ = {key: value for key, value in os.environ.items() if not key.startswith("GT_")}
        self._environ |= {
            "HOME": str(self.home),
            "GT_RUNTIME_DIR": str(self.home),
            "GT_PYTHON": sys.executable,
            "PYTHONWARNINGS": "default",
        }
        self._environ |= variables
        super().__init__(name, self._command("supervisord"), self._environ)

    def _command(self, program: str, *words: str) -> list[str]:
        return [
            sys.executable,
            str(Path(sys.executable).with_name(program)),
            "-c",
            str(ROOT / "supervisord.conf"),
            *words,
        ]

    def ctl(self, *words: str) -> str:
        """What supervisorctl answers."""
        environ = {**self._environ, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            self._command("supervisorctl", *words), env=environ, capture_output=True, text=True, timeout=60
        )
        return done.stdout + done.stderr

    def gt(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "gt.py"), *words]
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, timeout=60)

    @property
    def master(self) -> int:
        """The process id of its program; 0 while it does not run."""
        return int(self.ctl("pid", "gt"))

    def wait_until_listening(self, after: int = 0) -> None:
        self.wait_for(r"listening on ", after=after)

    def close(self) -> None:
        """End it; AssertionError when anything is left, or errors were logged."""
        offspring = psutil.Process(self.pid).children(recursive=True) if self.running else []
        try:
            self.end(END_S + 5)
        finally:
            _, left = psutil.wait_procs(offspring, 5)
            for each in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            print(self.tail())
            files = sorted(path.name for path in self.home.iterdir())
            shutil.rmtree(self.home)
        assert self.exit_code == 0
        assert not left, f"{self.name} left {left}"
        assert not files, f"{self.name} left {files}"
        trouble = [line for line in self.lines if re.search(TROUBLE, line) and not re.search(NOT_OURS, line)]
        assert not trouble, f"{self.name} logged: {trouble[:5]}"


class Site:
    """A server and a client, each under a supervisord of its own, and a page behind them."""

    def __init__(self, world: World, nginx: Nginx) -> None:
        self.port: Port = world.port()
        secret = world.secret()
        users = {"type": "server", "users": {"id1": {"secret": secret}}, "options": {"addr": str(self.port)}}
        self.config = world.write("server.yml", users)
        self.server: Supervisord = world.keep(Supervisord("server", GT_CONFIG=str(self.config)))
        self.server.wait_until_listening()
        # Without a file: the role and its options are variables.
        options = {"GT_ID": "id1", "GT_SECRET": secret, "GT_REMOTE": f"tcp://{self.port}"}
        self.client: Supervisord = world.keep(
            Supervisord("client", GT_ROLE="client", GT_LOCAL=nginx.url, **options)
        )
        self.client.wait_for(r"tunnel 1 to .* is up")

    def served(self) -> bool:
        """Whether a visitor gets the page now."""
        try:
            return fetch(self.port.address, "id1.example.com").status == 200
        except (OSError, Ended):
            return False

    def seconds_until_served(self, start: float) -> float:
        eventually(self.served, "the page is served", pause=0.01)
        return time.monotonic() - start


@pytest.fixture
def site(world: World, nginx: Nginx) -> Site:
    made = Site(world, nginx)
    assert made.served()
    return made


def test_what_runs_and_where_it_logs(site: Site) -> None:
    assert re.match(r"gt +RUNNING +pid \d+", site.server.ctl("status"))
    commands = {each.master: psutil.Process(each.master).cmdline() for each in (site.server, site.client)}
    assert [words[2:] for words in commands.values()] == [["-c", str(site.config)], ["client"]]
    # The program is supervisord's child itself: no shell stands between.
    assert all(psutil.Process(pid).ppid() in (site.server.pid, site.client.pid) for pid in commands)
    assert site.server.find(r"INFO +server: listening on ")


def test_restart_brings_everything_back(site: Site) -> None:
    """From the command to the page 3 s; the client is back 1 s after the server listens."""
    for _ in range(3):
        before = site.server.master
        mark = site.server.mark(), site.client.mark()
        restarting = subprocess.Popen(
            site.server._command("supervisorctl", "restart", "gt"),
            env=site.server._environ,
            stdout=subprocess.DEVNULL,
        )
        start = time.monotonic()
        site.server.wait_for(r"listening on ", after=mark[0])
        listens = time.monotonic()
        back = site.seconds_until_served(start)
        client_back = time.monotonic() - listens
        assert restarting.wait(30) == 0
        command = time.monotonic() - start
        print(
            f"page after {back:.2f} s, {client_back:.2f} s after listening; supervisorctl took {command:.2f} s"
        )
        assert back < RESTART_S
        assert client_back < CLIENT_BACK_S
        assert site.server.master not in (0, before)


def test_a_restarted_client_is_back(site: Site) -> None:
    start = time.monotonic()
    mark = site.client.mark()
    assert "gt: started" in site.client.ctl("restart", "gt")
    site.client.wait_for(r"tunnel 1 to .* is up", after=mark)
    assert site.seconds_until_served(start) < RESTART_S


def test_stop_and_start(site: Site) -> None:
    pid = site.server.master
    start = time.monotonic()
    assert site.server.ctl("stop", "gt") == "gt: stopped\n"
    assert time.monotonic() - start < GRACE_S
    assert not psutil.pid_exists(pid)
    assert not site.served()
    assert "STOPPED" in site.server.ctl("status")
    assert site.server.ctl("start", "gt") == "gt: started\n"
    assert site.seconds_until_served(time.monotonic()) < RESTART_S


def test_hup_loads_the_configuration_again(site: Site, world: World, nginx: Nginx) -> None:
    pid = site.server.master
    before = site.config.read_text()
    secret = world.secret()
    site.config.write_text(before.replace("users:", f"users:\n  id2: {{secret: {secret}}}"))
    mark = site.server.mark()
    assert site.server.ctl("signal", "HUP", "gt") == "gt: signalled\n"
    site.server.wait_for("reloaded", after=mark)
    world.client(site.port.address, "id2", secret, local=nginx.url)
    assert fetch(site.port.address, "id2.example.com").status == 200
    assert site.served()
    assert site.server.master == pid


def test_a_killed_master_is_started_again(site: Site) -> None:
    pid = site.server.master
    workers = psutil.Process(pid).children(recursive=True)
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    mark = site.server.mark()
    site.server.wait_for("listening on", after=mark)
    print(f"page after {site.seconds_until_served(start):.2f} s")
    assert site.server.master not in (0, pid)
    assert not psutil.wait_procs(workers, 2)[1]
    # Whoever asks next removes the socket that the dead one has left.
    assert site.server.gt("status").returncode == 0
    assert not (site.server.home / f"{pid}.sock").exists()


def test_stopped_by_itself_it_stays_so(site: Site) -> None:
    """`gt.py -s stop` is meant: supervisord does not start it again."""
    stopped = site.server.gt("-s", "stop", "-c", str(site.config))
    assert (stopped.returncode, stopped.stdout.splitlines()[-1]) == (0, "stopped")
    eventually(lambda: "EXITED" in site.server.ctl("status"), "supervisord knows")
    assert not site.served()


def test_replaced_in_place(site: Site) -> None:
    """The master is another program afterwards, but the same process: supervisord does not notice."""
    pid = site.server.master
    mark = site.server.mark()
    assert site.server.ctl("signal", "USR2", "gt") == "gt: signalled\n"
    site.server.wait_for("replaced in place", after=mark)
    site.server.wait_for("restarted", after=mark)
    assert site.served()
    assert site.server.master == pid
    assert not site.server.find("exited: gt", after=mark)


def test_one_that_cannot_start_is_tried_again(world: World, nginx: Nginx) -> None:
    """A port that somebody else has is free later on."""
    port = world.port()
    with port.listen():
        server: Supervisord = world.keep(
            Supervisord("server", GT_ADDR=str(port), GT_ID="id1", GT_SECRET=world.secret())
        )
        server.wait_for("Address already in use", count=2)
    server.wait_until_listening()
    server.lines[:] = [line for line in server.lines if "Address already in use" not in line]


def test_what_supervisord_is_told_ends_all_of_it(site: Site) -> None:
    """SIGTERM to supervisord, as systemd and containers do it."""
    offspring = psutil.Process(site.server.pid).children(recursive=True)
    start = time.monotonic()
    assert site.server.end() == 0
    assert time.monotonic() - start < GRACE_S
    assert not any(each.is_running() for each in offspring)
