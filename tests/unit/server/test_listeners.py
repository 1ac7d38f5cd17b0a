"""Accepting: bursts, want of descriptors, and errors that say what to do."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent.socket
import pytest
from gevent import get_hub, monkey

from gtapp.config.values import Address
from gtapp.errors import GTError
from gtapp.observe import metrics
from gtapp.relay.sockets import plain_socket
from gtapp.server import listeners
from gtapp.server.listeners import ACCEPT_AT_ONCE, FIRST_PAUSE_S, LONGEST_PAUSE_S, Listener, listen
from tests.support.relay import read_all, turn, until


class Taken:
    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.peers: list[str] = []

    def __call__(self, sock: socket.socket, peer: str) -> None:
        self.sockets.append(sock)
        self.peers.append(peer)


@pytest.fixture
def taken() -> Iterator[Taken]:
    made = Taken()
    yield made
    for sock in made.sockets:
        sock.close()


@pytest.fixture
def listener(taken: Taken) -> Iterator[Listener]:
    made = Listener(listen(Address("127.0.0.1", 0)), taken)
    yield made
    made.stop()


@pytest.fixture
def visitors() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for sock in made:
        sock.close()


def come(listener: Listener, visitors: list[socket.socket], count: int = 1) -> None:
    host, _, port = listener.address.rpartition(":")
    visitors += (socket.create_connection((host.strip("[]"), int(port))) for _ in range(count))


def test_a_visitor_is_accepted(listener: Listener, taken: Taken, visitors: list[socket.socket]) -> None:
    listener.start()
    come(listener, visitors)
    until(lambda: taken.sockets)
    assert taken.peers == [f"127.0.0.1:{visitors[0].getsockname()[1]}"]
    assert taken.sockets[0].gettimeout() == 0
    assert taken.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_burst_is_accepted(listener: Listener, taken: Taken, visitors: list[socket.socket]) -> None:
    come(listener, visitors, 3 * ACCEPT_AT_ONCE)
    listener._readable()
    assert len(taken.sockets) == ACCEPT_AT_ONCE, "a burst does not hold the hub"
    listener.start()
    until(lambda: len(taken.sockets) == 3 * ACCEPT_AT_ONCE)


def test_stop_refuses_the_next(listener: Listener, taken: Taken, visitors: list[socket.socket]) -> None:
    listener.start()
    listener.stop()
    with pytest.raises(ConnectionRefusedError):
        come(listener, visitors)


class Failing:
    """A listening socket whose accept() fails a few times."""

    def __init__(self, sock: socket.socket, error: int, times: int) -> None:
        self._sock = sock
        self._error = error
        self.left = times
        self.calls = 0

    def _accept(self) -> tuple[int, Any]:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise OSError(self._error, "for the test")
        return self._sock._accept()  # type: ignore[attr-defined, no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_want_of_descriptors_makes_it_pause(
    listener: Listener,
    taken: Taken,
    visitors: list[socket.socket],
    error: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counters = metrics.Counters()
    monkeypatch.setattr(listeners, "counters", counters)
    monkeypatch.setattr(listeners, "FIRST_PAUSE_S", 0.01)
    failing = Failing(listener._sock, error, 4)
    listener._sock = failing  # type: ignore[assignment]
    come(listener, visitors)
    listener.start()
    until(lambda: taken.sockets)
    assert counters.accept_paused == 4
    assert failing.calls <= 6, "no busy loop"
    assert listener._pause_s == 0
    assert caplog.text.count("accepting on") == 1


def test_the_pause_grows(listener: Listener) -> None:
    pauses = []
    for _ in range(8):
        listener._pause(OSError(errno.EMFILE, "x"))
        pauses.append(listener._pause_s)
        listener._timer.stop()
    assert pauses[:4] == [FIRST_PAUSE_S * 2**n for n in range(4)]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_stop_in_a_pause(listener: Listener, visitors: list[socket.socket]) -> None:
    listener._sock = Failing(listener._sock, errno.EMFILE, 1)  # type: ignore[assignment]
    come(listener, visitors)
    listener.start()
    until(lambda: listener._pause_s)
    listener.stop()


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_an_accept_that_fails_for_one_is_no_matter(
    listener: Listener, taken: Taken, visitors: list[socket.socket], error: int
) -> None:
    listener._sock = Failing(listener._sock, error, 1)  # type: ignore[assignment]
    come(listener, visitors)
    listener.start()
    until(lambda: taken.sockets)


def test_a_visitor_whose_handling_fails(
    listener: Listener, taken: Taken, visitors: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def fail_once(sock: socket.socket, peer: str) -> None:
        calls.append(peer)
        if len(calls) == 1:
            sock.close()
            raise ZeroDivisionError
        taken(sock, peer)

    listener._on_accept = fail_once
    listener.start()
    come(listener, visitors, 2)
    until(lambda: taken.sockets)
    assert read_all(visitors[0]) == b""
    assert "unexpected error while accepting" in caplog.text


def test_all_addresses_of_the_machine(taken: Taken, visitors: list[socket.socket]) -> None:
    listener = Listener(listen(Address("", 0)), taken)
    listener.start()
    try:
        port = listener.address.rpartition(":")[2]
        assert listener.address in (f"[::]:{port}", f"0.0.0.0:{port}")
        visitors.append(socket.create_connection(("127.0.0.1", int(port))))
        until(lambda: taken.sockets)
        assert taken.peers[0].startswith("127.0.0.1:")
    finally:
        listener.stop()


def test_errors_say_what_to_do(listener: Listener) -> None:
    port = int(listener.address.rpartition(":")[2])
    with pytest.raises(GTError, match="another process listens there"):
        listen(Address("127.0.0.1", port))
    with pytest.raises(GTError, match="does not have that address"):
        listen(Address("192.0.2.1", 0))
    with pytest.raises(GTError, match="cannot listen on no such name"):
        listen(Address("no such name", 80))
    turn()


def test_nothing_else_runs_while_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever checks which ports are free and then opens one must not be interrupted, whatever gevent has patched."""
    saved = {"getaddrinfo": socket.getaddrinfo}
    monkeypatch.setitem(monkey.saved, "socket", saved)  # type: ignore[attr-defined]
    monkeypatch.setattr(socket, "getaddrinfo", gevent.socket.getaddrinfo)
    listeners._resolve.cache_clear()
    ran: list[bool] = []
    other = gevent.spawn(ran.append, True)
    for _ in range(2):
        listen(Address("127.0.0.1", 0)).close()
    assert ran == []
    assert listeners._resolve.cache_info().misses == 1
    other.join()


# other processes listen on the same socket


def test_another_descriptor_of_the_same_socket(listener: Listener) -> None:
    again = plain_socket(socket.AF_INET, os.dup(listener._sock.fileno()))
    assert listener.take_over(again)
    assert again.fileno() == -1, "one is enough"
    assert listener.take_over(listener._sock)
    assert listener._sock.fileno() >= 0
    other = listen(Address("127.0.0.1", 0))
    assert not listener.take_over(other)
    assert other.fileno() >= 0
    other.close()


def test_stop_leaves_the_socket_to_others(taken: Taken, visitors: list[socket.socket]) -> None:
    """Neither what waits in the backlog nor the epoll set of this process takes notice."""
    sock = listen(Address("127.0.0.1", 0))
    other = Listener(plain_socket(socket.AF_INET, os.dup(sock.fileno())), taken)
    one = Listener(sock, lambda sock, peer: pytest.fail("it has stopped"))
    one.start()
    turn()
    fd = sock.fileno()
    one.stop()
    one.stop()
    come(other, visitors)
    turn()
    epoll = Path(f"/proc/self/fdinfo/{get_hub().loop.fileno()}").read_text()
    assert f"tfd: {fd:8}" not in epoll
    other.start()
    until(lambda: taken.sockets)
    other.stop()
