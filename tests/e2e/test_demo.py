"""`gt.py demo`: the page through the tunnel, and nothing left of it however it ends."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.support.http import fetch
from tests.support.ports import Port
from tests.support.processes import Child, eventually
from tests.support.world import GT


class Demo(Child):
    """A running demo. `GT_LOG_LEVEL` stands for a user's own variables, which are not for the demo."""

    def __init__(self, port: str) -> None:
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "GT_DEMO_PORT": port, "GT_LOG_LEVEL": "disable"}
        super().__init__("demo", [*GT, "demo"], environ)

    def relays(self) -> dict[str, psutil.Process]:
        """Its server and client."""
        return {each.cmdline()[2]: each for each in psutil.Process(self.pid).children()}


@pytest.fixture
def port() -> Iterator[Port]:
    with Port() as held:
        yield held


@pytest.fixture
def demo(port: Port) -> Iterator[Demo]:
    running = Demo(str(port.number))
    yield running
    if running.running:
        running.kill()


def test_the_page_comes_through_the_tunnel(demo: Demo, port: Port) -> None:
    demo.wait_for(f"http://hello.localhost:{port.number}/")
    response = fetch(port.address, f"hello.localhost:{port.number}", "/?<script>")
    assert response.status == 200
    assert "This page came through a tunnel." in response.text
    assert "GET /?&lt;script&gt; HTTP/1.1\nHost: hello.localhost" in response.text
    for name in re.findall(r'(?:href|src)="([^":]+)"', response.text):
        assert fetch(port.address, "hello.localhost", f"/{name}").status == 200, name
    assert fetch(port.address, "hello.localhost", "/../demo.py").status == 404


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_of_it(demo: Demo, number: int) -> None:
    demo.wait_for("hello.localhost")
    relays = demo.relays()
    assert relays.keys() == {"server", "client"}
    demo.signal(number)
    assert demo.wait() == 0
    assert not any(relay.is_running() for relay in relays.values())
    assert demo.find("server: ended")
    assert demo.find("client: ended")
    assert not demo.find("ERROR|Traceback")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_a_killed_demo_leaves_nothing(demo: Demo) -> None:
    demo.wait_for("hello.localhost")
    relays = demo.relays()
    demo.process.kill()
    eventually(lambda: not any(relay.is_running() for relay in relays.values()), "server and client end")


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_part_that_dies_ends_it_with_the_reason(demo: Demo, role: str) -> None:
    demo.wait_for("hello.localhost")
    relays = demo.relays()
    relays[role].kill()
    assert demo.wait() == 1
    assert demo.find(f"The demo ends: its {role} was ended by SIGKILL")
    assert not any(relay.is_running() for relay in relays.values())


def test_a_port_in_use_is_said(port: Port) -> None:
    with port.listen():
        demo = Demo(str(port.number))
        assert demo.wait() == 2
    assert demo.lines == [
        f"the demo cannot listen on 127.0.0.1:{port.number}: Address already in use. "
        "Choose another one: GT_DEMO_PORT=8081 make demo"
    ]


@pytest.mark.parametrize("text", ["http", "0", "65536"])
def test_a_port_that_is_none_is_said(text: str) -> None:
    demo = Demo(text)
    assert demo.wait() == 2
    assert demo.lines == [f"GT_DEMO_PORT: found '{text}', allowed: a port from 1 to 65535"]
