"""Two sockets passed on to each other, a visitor's (over TCP and over TLS) and one end of a pair: every way to end."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gtapp.relay import splice as splice_module
from gtapp.relay.splice import PAIR_S, READ_BYTES, HeldSocket, Pairs, Splice
from tests.support.relay import ours, random_bytes, read_all, read_exactly, reset, tcp_pair, turn, until

NO_LINGER = struct.pack("ii", 0, 0)
IDLE_S = 5.0


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made = Pairs()
    yield made
    made.close()


def make(pairs: Pairs) -> tuple[HeldSocket, HeldSocket]:
    made: list[tuple[HeldSocket, HeldSocket]] = []
    pairs.make(lambda *pair: made.append(pair), lambda: pytest.fail("no pair"))
    assert not made, "later"
    until(lambda: made)
    return made[0]


def close(sock: Any) -> None:
    """In order, as a HeldSocket does it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    sock.close()


class Scene:
    """`visitor` is at one end of the splice, `service` at the other."""

    def __init__(self, pairs: Pairs, buffer_bytes: int = 0) -> None:
        near, far = make(pairs)
        if buffer_bytes:
            for each in (near, far):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.service = ours(socket.socket(fileno=far.detach()))
        self.sock, self.visitor = tcp_pair(buffer_bytes)
        self.near = near
        self.ended: list[Splice] = []
        self.splice = Splice(self.sock, near, IDLE_S, self.ended.append)

    def over(self) -> None:
        """It has ended, and told so."""
        until(lambda: self.ended)
        assert self.ended == [self.splice]
        assert (self.sock.fileno(), self.near.fileno()) == (-1, -1)

    def pass_time(self, seconds: float) -> None:
        turn()
        for _ in range(int(seconds)):
            self.splice.tick(1.0)

    def fill(self, source: Any) -> int:
        """Send until the other side has taken all that it takes unread, and the splice has stopped to read."""
        sent = 0
        chunk = bytes(READ_BYTES)
        plain = getattr(source, "sock", source)
        while True:
            turn()
            if not select.select([], [plain.fileno()], [], 0.05)[1]:
                return sent
            if plain is source:
                source.setblocking(False)
                sent += source.send(chunk)
                source.setblocking(True)
            else:
                writing = gevent.spawn(source.sendall, chunk)
                if not gevent.wait([writing], timeout=0.5):
                    writing.kill()
                    return sent
                sent += len(chunk)

    def close(self) -> None:
        self.splice.close()
        self.visitor.close()
        self.service.close()
        turn(5)


@pytest.fixture
def scene(pairs: Pairs) -> Iterator[Scene]:
    made = Scene(pairs)
    yield made
    made.close()


@pytest.fixture
def narrow(pairs: Pairs) -> Iterator[Scene]:
    """With small buffers in the kernel."""
    made = Scene(pairs, 16384)
    yield made
    made.close()


# bytes


def test_both_ways(scene: Scene) -> None:
    scene.visitor.sendall(b"question")
    assert read_exactly(scene.service, 8) == b"question"
    scene.service.sendall(b"answer")
    assert read_exactly(scene.visitor, 6) == b"answer"


@pytest.mark.parametrize("size", [1, READ_BYTES, READ_BYTES + 1, 5_000_000])
def test_much_in_both_directions_at_once(narrow: Scene, size: int) -> None:
    there, back = random_bytes(size, 1), random_bytes(size, 2)

    def send(sock: Any, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    sending = [gevent.spawn(send, narrow.visitor, there), gevent.spawn(send, narrow.service, back)]
    reading = [gevent.spawn(read_all, each) for each in (narrow.service, narrow.visitor)]
    gevent.joinall(sending, raise_error=True)
    assert [each.get(timeout=20) for each in reading] == [there, back]
    narrow.over()


def test_what_was_there_before(pairs: Pairs) -> None:
    """Bytes that wait in the socket object, with TLS decrypted ahead, and in the kernel."""
    near, far = make(pairs)
    service = ours(socket.socket(fileno=far.detach()))
    sock, visitor = tcp_pair()
    visitor.sendall(b"first second")
    read = until(lambda: _some(sock, 5))
    service.sendall(b"early")
    splice = Splice(sock, near, IDLE_S, lambda splice: None)
    assert read + read_exactly(service, 7) == b"first second"
    assert read_exactly(visitor, 5) == b"early"
    splice.close()
    visitor.close()
    service.close()


def _some(sock: Any, count: int) -> bytes:
    buffer = memoryview(bytearray(count))
    try:
        return bytes(buffer[: sock.recv_into(buffer)])
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("slow", ["visitor", "service"])
def test_who_does_not_read_holds_up_the_other(narrow: Scene, slow: str) -> None:
    """And what waits here is bounded."""
    fast = {"visitor": narrow.service, "service": narrow.visitor}[slow]
    sent = narrow.fill(fast)
    pending = (narrow.splice._out.pending_bytes, narrow.splice._back.pending_bytes)
    assert 0 < sum(pending) <= READ_BYTES
    assert min(pending) == 0
    other = getattr(narrow, slow)
    other.sendall(b"the other way")
    assert read_exactly(fast, 13) == b"the other way"
    assert len(read_exactly(other, sent)) == sent


# ends


@pytest.mark.parametrize("first", ["visitor", "service"])
def test_half_close(scene: Scene, first: str) -> None:
    one, other = scene.visitor, scene.service
    if first == "service":
        one, other = other, one
    one.sendall(b"all")
    one.shutdown(socket.SHUT_WR)
    assert read_all(other) == b"all"
    other.sendall(b"answer")
    assert read_exactly(one, 6) == b"answer"
    scene.pass_time(2 * IDLE_S if first == "visitor" else 1)
    assert not scene.ended
    other.shutdown(socket.SHUT_WR)
    assert read_all(one) == b""
    scene.over()


def test_an_end_waits_for_what_is_before_it(narrow: Scene) -> None:
    data = random_bytes(400_000)

    def answer() -> None:
        narrow.service.sendall(data)
        close(narrow.service)

    narrow.visitor.shutdown(socket.SHUT_WR)
    assert read_all(narrow.service) == b""
    answering = gevent.spawn(answer)
    turn(20)
    narrow.splice.tick(1.0)
    assert read_all(narrow.visitor) == data
    answering.get(timeout=10)
    narrow.over()


def test_a_service_that_closes_while_the_visitor_sends(scene: Scene) -> None:
    """It has answered, as with a page: the answer arrives whole, and its end."""
    scene.service.sendall(b"answer")
    close(scene.service)
    assert read_exactly(scene.visitor, 6) == b"answer"

    def send() -> bool:
        try:
            scene.visitor.sendall(bytes(1000))
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    until(send)
    scene.over()


# resets


def is_reset(sock: Any) -> bool:
    try:
        read_all(sock)
    except ConnectionResetError:
        return True
    return False


def test_a_reset_of_the_visitor(scene: Scene) -> None:
    scene.visitor.sendall(b"half")
    assert read_exactly(scene.service, 4) == b"half"
    reset(scene.visitor)
    assert is_reset(scene.service)
    scene.over()


def test_a_reset_of_the_service(scene: Scene) -> None:
    scene.service.sendall(b"half")
    assert read_exactly(scene.visitor, 4) == b"half"
    reset(scene.service)
    assert is_reset(scene.visitor)
    scene.over()


@pytest.mark.parametrize("who", ["visitor", "service"])
def test_a_reset_after_the_other_has_ended(scene: Scene, who: str) -> None:
    one, other = (scene.visitor, scene.service) if who == "visitor" else (scene.service, scene.visitor)
    other.shutdown(socket.SHUT_WR)
    assert read_all(one) == b""
    reset(one)
    assert is_reset(other)
    scene.over()


def test_a_reset_while_the_other_takes_nothing(narrow: Scene) -> None:
    """Nothing here waits for the socket that was reset; the visitor is not to keep his for ever."""
    narrow.fill(narrow.service)
    reset(narrow.service)
    turn(5)
    assert not narrow.ended
    narrow.pass_time(1)
    narrow.over()
    assert is_reset(narrow.visitor)


def test_a_visitor_who_does_not_take_a_whole_answer(narrow: Scene) -> None:
    """Whoever has sent it looks after it no more: here is who ends it, when it is idle."""
    narrow.visitor.shutdown(socket.SHUT_WR)
    assert read_all(narrow.service) == b""
    narrow.fill(narrow.service)
    close(narrow.service)
    narrow.pass_time(IDLE_S)
    assert not narrow.ended
    narrow.pass_time(1)
    narrow.over()
    assert is_reset(narrow.visitor)


def test_a_slow_visitor_gets_all_of_it(narrow: Scene) -> None:
    """He takes some within each idle time."""
    narrow.visitor.shutdown(socket.SHUT_WR)
    assert read_all(narrow.service) == b""
    sent = narrow.fill(narrow.service)
    close(narrow.service)
    got = 0
    while got < sent:
        count = min(100_000, sent - got)
        assert len(read_exactly(narrow.visitor, count)) == count
        got += count
        if narrow.ended:  # the rest is the kernel's
            break
        turn(5)
        if narrow.splice._back.pending_bytes:
            narrow.pass_time(IDLE_S - 1)
    assert len(read_all(narrow.visitor)) == sent - got
    narrow.over()


def test_the_other_process_decides_what_is_idle(scene: Scene) -> None:
    scene.pass_time(10 * IDLE_S)
    scene.visitor.sendall(b"still")
    assert read_exactly(scene.service, 5) == b"still"


def test_an_upload_that_is_cut_has_no_good_end(narrow: Scene) -> None:
    """The reset hits a write. An answer that came before it is passed on; the end after it is not to be trusted."""
    narrow.fill(narrow.visitor)
    narrow.service.sendall(b"half an answer")
    assert read_exactly(narrow.visitor, 14) == b"half an answer"
    reset(narrow.service)
    assert is_reset(narrow.visitor)
    narrow.over()


def test_cut(scene: Scene) -> None:
    scene.splice.cut()
    scene.over()
    assert is_reset(scene.visitor)
    assert is_reset(scene.service)


def test_the_end_of_the_process_is_a_reset() -> None:
    """Also for what looks complete: it was only cut."""
    code = (
        "import os, socket, sys\n"
        "from gtapp.relay.splice import HeldSocket\n"
        "sock = HeldSocket(int(sys.argv[1]))\n"
        "sock.send(b'half')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            subprocess.run([sys.executable, "-c", code, str(far.fileno())], pass_fds=[far.fileno()])
            far.close()
            assert read_exactly(near, 4) == b"half"
            with pytest.raises(ConnectionResetError):
                near.recv(1)


def test_an_error_of_ours_ends_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scene.splice._out, "_end", lambda: 1 / 0)
    scene.visitor.shutdown(socket.SHUT_WR)
    assert is_reset(scene.service)
    scene.over()
    assert "unexpected error" in caplog.text


# pairs


def test_a_pair_is_ours(pairs: Pairs) -> None:
    """Whoever else connects to that port is closed."""
    one, other = make(pairs)
    strangers = [ours(socket.create_connection(pairs._address)) for _ in range(3)]
    three, four = make(pairs)
    assert one.getsockname() == other.getpeername()
    assert three.getsockname() == four.getpeername()
    for each in strangers:
        assert read_all(each) == b""
        each.close()
    for held in (one, other, three, four):
        assert held.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        held.close()


def test_many_pairs(pairs: Pairs) -> None:
    made: list[tuple[HeldSocket, HeldSocket]] = []
    for _ in range(100):
        pairs.make(lambda *pair: made.append(pair), lambda: pytest.fail("no pair"))
    until(lambda: len(made) == 100)
    for near, far in made:
        assert near.getsockname() == far.getpeername()
        near.close()
        far.close()


def test_held_sockets_close_in_order(pairs: Pairs) -> None:
    near, far = make(pairs)
    far.send(b"all")
    far.close()
    far.close()
    service = ours(socket.socket(fileno=near.detach()))
    assert read_all(service) == b"all"
    service.close()


def test_a_pair_that_never_comes(pairs: Pairs) -> None:
    failed: list[int] = []
    before = len(os.listdir("/proc/self/fd"))
    pairs.make(lambda *pair: pytest.fail("a pair"), lambda: failed.append(1))
    pairs._reader.stop()
    turn()
    pairs.tick(PAIR_S - 1)
    assert not failed
    pairs.tick(1.1)
    assert failed == [1]
    assert len(os.listdir("/proc/self/fd")) == before + 1, "the listener"


def test_close_gives_up_those_that_are_made(pairs: Pairs) -> None:
    failed: list[int] = []
    pairs.make(lambda *pair: pytest.fail("a pair"), lambda: failed.append(1))
    pairs.close()
    assert failed == [1]
    make_again = make(pairs)
    for each in make_again:
        each.close()


def test_no_pair_without_descriptors(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[int] = []
    near, far = make(pairs)

    class Listener:
        def _accept(self) -> None:
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(pairs, "_listener", Listener())
    real = splice_module.HeldSocket
    pairs.make(lambda *pair: pytest.fail("a pair"), lambda: failed.append(1))
    until(lambda: failed)
    monkeypatch.undo()

    def none(*args: object) -> HeldSocket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(splice_module, "HeldSocket", none)
    with pytest.raises(OSError, match="Too many"):
        pairs.make(lambda *pair: None, lambda: None)
    monkeypatch.setattr(splice_module, "HeldSocket", real)
    near.close()
    far.close()
