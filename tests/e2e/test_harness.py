"""The harness keeps its own promises: what a proxy breaks is broken, and what a test leaves behind is found."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http import Ended, Visitor, fetch
from tests.support.nginx import Nginx
from tests.support.ports import Port
from tests.support.processes import Relay, eventually
from tests.support.proxy import CutProxy
from tests.support.services import Connection, Service, Unanswered, answering, counting, endless, silent
from tests.support.world import World


@pytest.fixture
def service() -> Iterator[Service]:
    with contextlib.closing(Service(answering(b"hello"))) as running:
        yield running


@pytest.fixture
def proxy(service: Service) -> Iterator[CutProxy]:
    with contextlib.closing(CutProxy(service.address)) as running:
        yield running


def test_proxy_forwards(proxy: CutProxy) -> None:
    with Visitor(proxy.address) as visitor:
        for _ in range(3):
            visitor.request("any")
            assert visitor.response().text == "hello"
        assert proxy.connections == 1
    assert proxy.carried > 100


def test_proxy_keeps_order(nginx: Nginx) -> None:
    expected = nginx.file("harness.bin", 8_000_000)
    with contextlib.closing(CutProxy(nginx.address)) as proxy:
        assert fetch(proxy.address, "any", "/harness.bin").sha256 == expected


def test_proxy_keeps_half_close() -> None:
    with (
        contextlib.closing(Service(counting)) as service,
        contextlib.closing(CutProxy(service.address)) as proxy,
        Visitor(proxy.address) as visitor,
    ):
        visitor.request("any", method="POST", headers={"Content-Length": "3000000"})
        visitor.send(b"x" * 3_000_000)
        visitor.socket.shutdown(1)
        response = visitor.response()
    assert (response.end, response.text.split()[0]) == ("close", "3000000")


def test_proxy_cuts_both_ends(proxy: CutProxy, service: Service) -> None:
    with Visitor(proxy.address) as visitor:
        visitor.request("any")
        assert visitor.response().text == "hello"
        proxy.cut()
        assert visitor.ending(5) == "reset"
        assert service.connections[0].gone.wait(5)
        assert any(isinstance(note, ConnectionResetError) for note in service.notes)
    assert fetch(proxy.address, "any").text == "hello"


def test_proxy_refuses_and_heals(proxy: CutProxy) -> None:
    with Visitor(proxy.address) as visitor:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            Visitor(proxy.address)
        visitor.request("any")
        assert visitor.response().text == "hello"
    proxy.heal()
    assert fetch(proxy.address, "any").text == "hello"


def test_frozen_connection_is_a_black_hole(proxy: CutProxy, service: Service) -> None:
    with Visitor(proxy.address, timeout=0.3) as visitor:
        visitor.request("any")
        assert visitor.response().text == "hello"
        proxy.freeze()
        visitor.request("any")
        with pytest.raises(TimeoutError):
            visitor.receive()
        assert fetch(proxy.address, "any").text == "hello"
    assert not service.connections[0].gone.wait(0.3)  # it is not told that the visitor went


def test_silent_proxy(proxy: CutProxy, service: Service) -> None:
    proxy.silence()
    with Visitor(proxy.address, timeout=0.3) as visitor:
        visitor.request("any")
        with pytest.raises(TimeoutError):
            visitor.receive()
    assert service.connections == []
    proxy.heal()
    assert fetch(proxy.address, "any").text == "hello"


def test_a_port_is_refused_until_somebody_listens() -> None:
    with Port() as port:
        with pytest.raises(ConnectionRefusedError):
            Visitor(port.address)
        with port.listen(), Visitor(port.address):
            pass
        with pytest.raises(ConnectionRefusedError):
            Visitor(port.address)


def test_unanswered_address_neither_takes_nor_refuses() -> None:
    with contextlib.closing(Unanswered()) as nowhere, pytest.raises(TimeoutError):
        Visitor(nowhere.port.address, timeout=0.5)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_visitor_tells_a_cut_response_from_a_whole_one(framing: str) -> None:
    with (
        contextlib.closing(Service(endless(framing))) as service,
        contextlib.closing(CutProxy(service.address)) as proxy,
        Visitor(proxy.address) as visitor,
    ):
        visitor.request("any")
        response = visitor.head()
        reader = threading.Thread(target=visitor.body, args=(response,))
        reader.start()
        before = proxy.carried
        eventually(lambda: proxy.carried > before + 100_000, "some of the body")
        proxy.cut()
        reader.join(10)
        assert response.end == "reset"


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nhalf", "close"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n", "chunked"),
    ],
)
def test_visitor_says_what_ended_a_response(answer: bytes, end: str) -> None:
    def once(connection: Connection) -> None:
        connection.head()
        connection.send(answer)

    with contextlib.closing(Service(once)) as service:
        response = fetch(service.address, "any")
    assert (response.end, response.body) == (end, b"half")


def test_a_service_that_ends_in_the_head() -> None:
    def once(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 200")

    with contextlib.closing(Service(once)) as service, pytest.raises(Ended):
        fetch(service.address, "any")


def test_handlers_end_with_their_service() -> None:
    service = Service(silent)
    with Visitor(service.address):
        service.wait_connections(1)
        service.close()
    assert not [thread for thread in threading.enumerate() if str(service.port) in thread.name]


def _relay(world: World, code: str) -> Relay:
    relay = Relay("fake", [sys.executable, "-c", code])
    world.relays.append(relay)
    return relay


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("print('2026-01-01 ERROR it broke')", "logged: .*it broke"),
        ("raise RuntimeError('x')", "Traceback"),
        ('print(\'{"level": "error", "msg": "json broke"}\')', "json broke"),
        ("print('the secret is hush-hush')", "shows a secret"),
        ("raise SystemExit(3)", "ended with 3"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
        (
            "import signal, time; signal.signal(15, signal.SIG_DFL); print('up', flush=True); time.sleep(60)",
            "-15",
        ),
        (
            "import signal, sys, subprocess, time; subprocess.Popen(['sleep', '60']); print('up', flush=True)\n"
            "signal.signal(15, lambda *_: sys.exit(0)); time.sleep(60)",
            "left the process",
        ),
    ],
    ids=["error", "traceback", "json error", "secret", "exit code", "killed", "no handler", "child"],
)
def test_what_a_test_leaves_behind_is_found(tmp_path: Path, code: str, complaint: str) -> None:
    world = World(tmp_path)
    world.hidden("hush-hush")
    relay = _relay(world, code)
    if "'up'" in code:
        relay.wait_for("up")
    else:
        relay.wait()
    with pytest.raises(AssertionError, match=complaint):
        world.close()


def test_expected_trouble_is_none(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.allow("expected to break")
    relay = _relay(world, "print('ERROR expected to break'); raise SystemExit(2)")
    relay.expected_exit = {2}
    relay.wait()
    world.close()


def test_wait_for_looks_only_after_its_mark(tmp_path: Path) -> None:
    world = World(tmp_path)
    relay = _relay(world, "print('one'); print('two')")
    assert relay.wait_for("one|two", count=2).group() == "two"
    relay.wait()
    with pytest.raises(AssertionError, match="no line"):
        relay.wait_for("one", after=1)
    world.close()
