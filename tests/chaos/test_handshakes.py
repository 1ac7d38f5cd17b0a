"""Many TLS handshakes at once: a transfer goes on meanwhile, and nobody takes a cut for an end.

The hub runs in this process, and what counts is the processor time that handshakes take between two chunks of the
transfer: it does not depend on what else the machine does.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from time import thread_time
from typing import Any

import gevent
import pytest

from gtapp.relay.link import Link
from gtapp.relay.sockets import PlainSocket, take_over
from gtapp.relay.tls import Handshakes, TLSSocket
from tests.support.certificates import make_pair
from tests.support.encrypted import Contexts, TLSEnd, encrypted_pair
from tests.support.relay import no_leaks, read_all, tcp_pair, turn, until

__all__ = ["no_leaks"]

AT_ONCE = 200
LONGEST_GAP_S = 0.1


class Watched(Handshakes):
    """Notes how long its slices have held the hub since the last call of `mark`, and the longest of these times."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0.0
        self.gaps: list[float] = []
        self.slices = 0

    def _slice(self) -> None:
        began = thread_time()
        super()._slice()
        self.held += thread_time() - began
        self.slices += 1

    def mark(self) -> None:
        self.gaps.append(self.held)
        self.held = 0.0


class Transfer:
    """A link that never stops receiving; `on_chunk` is called for what it reads."""

    def __init__(self, handshakes: Watched) -> None:
        near, far = tcp_pair()
        self.sender, self.receiver = Link(near, "sender"), Link(take_over(far), "receiver")
        self.received = 0
        self._handshakes = handshakes
        self.receiver.on_data = self._take
        self.receiver.start()
        self.link_has_room()

    def link_has_room(self) -> None:
        while self.sender.queued < 1_000_000:
            self.sender.write(bytes(65536))
        self.sender.wait_for_room(self)

    def _take(self, data: memoryview) -> None:
        self.received += len(data)
        self._handshakes.mark()

    def close(self) -> None:
        self.sender.abort()
        self.receiver.abort()


class Crowd:
    """Clients that have all sent their hello, to a server that has not looked at one of them."""

    def __init__(self, contexts: Contexts, count: int) -> None:
        self.plain: list[PlainSocket] = []
        self.ends: list[TLSEnd] = []
        for _ in range(count):
            near, far = tcp_pair()
            self.plain.append(near)
            self.ends.append(TLSEnd(far, contexts.client))
            with pytest.raises(ssl.SSLWantReadError):
                self.ends[-1].tls.do_handshake()
            self.ends[-1].flush()

    def close(self) -> None:
        for sock in self.plain:
            sock.close()
        for end in self.ends:
            end.close()


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """The worst case that is common."""
    return Contexts(tmp_path_factory.mktemp("tls"), make_pair(key="rsa4096"))


@pytest.fixture
def crowd(contexts: Contexts) -> Iterator[Crowd]:
    made = Crowd(contexts, AT_ONCE)
    yield made
    made.close()


def test_a_transfer_goes_on_during_many_handshakes(crowd: Crowd, contexts: Contexts) -> None:
    handshakes = Watched()
    transfer = Transfer(handshakes)
    until(lambda: transfer.received > 5_000_000)
    results: list[Any] = []
    handshakes.gaps.clear()
    before = transfer.received
    for sock in crowd.plain:
        handshakes.start(sock, contexts.server, results.append, server_side=True)
    clients = [gevent.spawn(end.do_handshake) for end in crowd.ends]
    until(lambda: len(results) == AT_ONCE, seconds=60)
    gevent.joinall(clients, raise_error=True)
    assert all(isinstance(each, TLSSocket) for each in results)
    assert max(handshakes.gaps) < LONGEST_GAP_S
    assert sum(handshakes.gaps) > 2 * LONGEST_GAP_S, "else this shows nothing"
    assert len(handshakes.gaps) > handshakes.slices / 4, "there are about as many chunks as slices"
    assert transfer.received - before > AT_ONCE * 65536 / 4
    for each in results:
        each.close()
    transfer.close()


def test_clients_that_leave_in_the_middle_of_many_handshakes(crowd: Crowd, contexts: Contexts) -> None:
    handshakes = Watched()
    results: list[Any] = []
    for sock in crowd.plain:
        handshakes.start(sock, contexts.server, results.append, server_side=True)
    for number, end in enumerate(crowd.ends):
        if number % 2:
            end.cut()
    clients = [gevent.spawn(end.do_handshake) for end in crowd.ends[::2]]
    until(lambda: len(results) == AT_ONCE, seconds=60)
    gevent.joinall(clients, raise_error=True)
    good = [each for each in results if isinstance(each, TLSSocket)]
    assert len(good) == AT_ONCE / 2
    assert all(isinstance(each, (TLSSocket, ConnectionError, ssl.SSLError)) for each in results)
    for each in good:
        each.close()


@pytest.mark.parametrize("sent", [0, 1, 16384, 100_000])
def test_a_cut_is_never_an_end(contexts: Contexts, sent: int) -> None:
    """A FIN that TLS has not announced, as anybody on the way can send it, after any number of bytes."""
    sock, far = encrypted_pair(contexts)
    link = Link(sock, "far end")
    received = bytearray()
    lost: list[str] = []
    link.on_data = received.extend
    link.on_lost = lost.append
    link.start()
    if sent:
        far.sendall(bytes(sent))
    far.sock.shutdown(socket.SHUT_WR)
    until(lambda: lost)
    assert len(received) == sent
    assert lost == ["cut: the end was not announced by TLS"]
    with pytest.raises(ConnectionResetError):
        read_all(far)
    far.cut()
    turn()


def test_an_announced_end_is_one(contexts: Contexts) -> None:
    sock, far = encrypted_pair(contexts)
    link = Link(sock, "far end")
    lost: list[str] = []
    link.on_lost = lost.append
    link.start()
    far.shutdown(socket.SHUT_WR)
    until(lambda: lost)
    assert lost == ["closed by the other end"]
    far.cut()
