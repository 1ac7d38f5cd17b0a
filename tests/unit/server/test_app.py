"""The server put together: it listens, serves, and ends in order."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from gtapp.config.load import ServerConfig, User
from gtapp.config.options import ServerOptions
from gtapp.config.values import Address
from gtapp.errors import ConfigError, GTError
from gtapp.observe import metrics
from gtapp.server.app import ServerApp
from gtapp.wire import frames
from gtapp.wire.handshake import ClientHandshake, ServiceSpec
from tests.support.relay import CONTROL, OPEN, FarEnd, ours, read_all, read_exactly, turn, until

REQUEST = b"GET / HTTP/1.1\r\nHost: id1.example.com\r\n\r\n"


class Running:
    def __init__(self) -> None:
        options = ServerOptions(addr=Address("127.0.0.1", 0))
        self.app = ServerApp(ServerConfig(None, options, {"id1": User(id="id1", secret="secret1")}))
        self.app.start()
        host, _, port = self.app._listeners[0].address.rpartition(":")
        self.address = host, int(port)
        self.sockets: list[Any] = []

    def connect(self) -> Any:
        self.sockets.append(ours(socket.create_connection(self.address)))
        return self.sockets[-1]

    def client(self) -> FarEnd:
        """A client that publishes "id1"."""
        far = FarEnd(self.connect(), frames.Frames())
        handshake = ClientHandshake("id1", "secret1", "test", "instance", [ServiceSpec("http")])
        far.send(frames.OPENING, far.frames.control(handshake.hello()))
        far.send(far.frames.control(handshake.auth(far.next()[2])))
        handshake.ready(far.next()[2])
        far.answer_ping()
        return far

    def visit(self, data: bytes = REQUEST) -> Any:
        visitor = self.connect()
        visitor.sendall(data)
        return visitor

    def stop(self, grace: float) -> gevent.Greenlet[..., None]:
        return gevent.spawn(self.app.stop, grace)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.app.stop(0)
        until(lambda: len(self.app._users._verifiers) == 1)
        self.app._users._threads.kill()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(metrics, "_gauges", {})
    made = Running()
    yield made
    made.close()


def test_visitors_and_tunnels_on_one_address(running: Running) -> None:
    client = running.client()
    visitor = running.visit()
    kind, stream, opened = client.next()
    assert (kind, opened.data) == (OPEN, REQUEST)
    client.send(client.data(stream, b"answer"))
    assert read_exactly(visitor, 6) == b"answer"
    now = metrics.snapshot()
    assert (now["tunnels"], now["streams"], now["clients"], now["queued_bytes"]) == (1, 1, 1, 0)
    assert read_all(running.visit(REQUEST.replace(b"id1", b"id2"))).startswith(b"HTTP/1.1 404")


def test_no_address() -> None:
    with pytest.raises(ConfigError, match="no address to listen on"):
        ServerApp(ServerConfig(None, ServerOptions(), {}))


def test_an_address_in_use(running: Running) -> None:
    options = ServerOptions(addr=Address(*running.address))
    app = ServerApp(ServerConfig(None, options, {}))
    with pytest.raises(GTError, match="cannot listen"):
        app.start()
    app._clock.stop()


def test_stop_waits_for_what_runs(running: Running) -> None:
    client = running.client()
    visitor = running.visit()
    _, stream, _ = client.next()
    late, half = running.connect(), running.visit(b"GET /")
    turn(5)
    stopping = running.stop(5)
    assert client.next_of(CONTROL)[2] == {"type": "drain"}
    assert read_all(late) == read_all(half) == b""
    with pytest.raises(ConnectionRefusedError):
        running.connect()
    client.send(client.data(stream, b"answer"), client.frames.eof(stream))
    assert read_all(visitor) == b"answer"
    assert not stopping.ready()
    visitor.close()
    client.rest()
    client.close()
    stopping.get(timeout=3)


def test_stop_of_an_idle_server_tells_its_clients(running: Running) -> None:
    """They are to know that it was no accident, and the process ends right after `stop`."""
    client = running.client()
    began = monotonic()
    stopping = running.stop(5)
    assert client.next_of(CONTROL)[2] == {"type": "drain"}
    client.rest()
    client.close()
    stopping.get(timeout=3)
    assert monotonic() - began < 3


def test_stop_cuts_what_takes_too_long(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    client = running.client()
    visitor = running.visit()
    _, stream, _ = client.next()
    client.send(client.data(stream, b"half of"))
    read_exactly(visitor, 7)
    running.stop(0.05).get(timeout=3)
    with pytest.raises(ConnectionResetError):
        read_all(visitor)
    assert "1 connections were still running" in caplog.text
