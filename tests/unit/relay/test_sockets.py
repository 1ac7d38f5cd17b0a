"""Plain sockets: no gevent in the way, and a gather write that keeps its place."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gtapp.relay import sockets
from gtapp.relay.sockets import (
    EV_READ,
    EV_WRITE,
    IOV_MAX,
    JOIN_BYTES,
    PlainSocket,
    plain_socket,
    reset_on_close,
    send_some,
    sent_again,
    show_address,
    take_over,
)
from tests.support.relay import random_bytes, read_all, read_exactly, tcp_pair, turn, until

ROOT = Path(__file__).parents[3]


def test_a_plain_socket_is_the_systems_and_does_not_block() -> None:
    with plain_socket(socket.AF_INET) as sock:
        assert type(sock) is PlainSocket
        assert sock.gettimeout() == 0


def test_take_over_leaves_nothing_with_gevent() -> None:
    near, far = tcp_pair()
    near.close()
    fd = far.fileno()
    taken = take_over(far)
    assert taken.fileno() == fd
    assert taken.gettimeout() == 0
    assert far.fileno() == -1
    taken.close()


def received(sock: PlainSocket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return sock.recv(100)
    return b""


def test_what_the_network_loses_is_sent_again() -> None:
    """A packet filter at the other end drops what comes, as a bad way would."""
    near, far = tcp_pair()
    near, far = take_over(near), take_over(far)
    assert sent_again(near) == 0.0
    instruction = struct.pack("HBBI", 6, 0, 0, 0)  # BPF_RET | BPF_K: keep 0 bytes
    program = ctypes.create_string_buffer(instruction)
    attach, detach = 26, 27  # SO_ATTACH_FILTER and SO_DETACH_FILTER of Linux
    far.setsockopt(socket.SOL_SOCKET, attach, struct.pack("HL", 1, ctypes.addressof(program)))
    near.send(b"lost")
    until(lambda: sent_again(near) > 0.0)
    far.setsockopt(socket.SOL_SOCKET, detach, 0)
    assert until(lambda: received(far)) == b"lost"
    assert 0.0 < sent_again(near) < 1.0
    for each in (near, far):
        each.close()
    assert sent_again(near) == 0.0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (("203.0.113.9", 51234), "203.0.113.9:51234"),
        (("2001:db8::1", 51234, 0, 0), "[2001:db8::1]:51234"),
        (("::ffff:203.0.113.9", 51234, 0, 0), "203.0.113.9:51234"),
        (("fe80::1%eth0", 51234, 0, 2), "[fe80::1]:51234"),
        (("::1", 1, 0, 0), "[::1]:1"),
        (("::ffff:0", 1, 0, 0), "[::ffff:0]:1"),
    ],
)
def test_show_address(name: tuple[object, ...], shown: str) -> None:
    assert show_address(name) == shown


def test_reset_on_close() -> None:
    near, far = tcp_pair()
    reset_on_close(near)
    near.close()
    with pytest.raises(ConnectionResetError):
        read_all(far)
    far.close()
    reset_on_close(near)  # closed: harmless


@pytest.mark.parametrize(
    "sizes",
    [
        [1],
        [1, 2, 3],
        [JOIN_BYTES, 1],
        [0, 5, 0],
        [100_000, 1, 100_000, 0, 7],
        [3] * 3000,
        [20] * (IOV_MAX * 3),
    ],
    ids=str,
)
def test_send_some_sends_each_byte_once(sizes: list[int]) -> None:
    near, far = tcp_pair(8192)
    data = random_bytes(sum(sizes))
    at = 0
    chunks: list[bytes | memoryview] = []
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    left, got = len(data), b""
    while left:
        sent = send_some(near, chunks, left)
        left -= sent
        assert sum(map(len, chunks)) == left
        got += read_exactly(far, sent)
    assert got == data
    assert chunks == [] or left == 0
    near.close()
    far.close()


def test_send_some_says_nothing_sent_when_the_socket_is_full() -> None:
    near, far = tcp_pair(8192)
    chunks: list[bytes | memoryview] = [bytes(4_000_000)]
    left = 4_000_000
    while sent := send_some(near, chunks, left):
        left -= sent
        turn()
    assert sum(map(len, chunks)) == left > 0
    near.close()
    far.close()


def test_send_some_raises_when_the_connection_is_gone() -> None:
    near, far = tcp_pair()
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match="Broken pipe"):
        send_some(near, [b"x"], 1)
    near.close()
    far.close()


def test_the_system_may_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def send(self, data: bytes) -> int:
            raise InterruptedError

    assert sockets.send_some(Interrupted(), [b"x"], 1) == 0  # type: ignore[arg-type]


def test_gevents_sockets_are_not_used() -> None:
    """In GT everything is patched: there the data path still has to get the system's class."""
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "from gtapp.relay.sockets import PlainSocket\n"
        "import socket, gevent.socket\n"
        "assert socket.socket is gevent.socket.socket\n"
        "assert not issubclass(PlainSocket, gevent.socket.socket)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=30)


# watchers


def test_a_read_watcher() -> None:
    near, far = tcp_pair()
    called: list[object] = []
    watcher = near.watch(EV_READ)
    states = [watcher.active]
    watcher.start(called.append, "ready")
    states.append(watcher.active)
    turn()
    assert called == []
    far.sendall(b"x")
    until(lambda: called)
    assert set(called) == {"ready"}
    watcher.stop()
    assert [*states, watcher.active] == [False, True, False]
    called.clear()
    turn()
    assert called == []
    near.close()
    far.close()


def test_a_read_watcher_sees_the_end() -> None:
    near, far = tcp_pair()
    called: list[object] = []
    watcher = near.watch(EV_READ)
    watcher.start(called.append, 1)
    far.close()
    until(lambda: called)
    watcher.stop()
    near.close()


def test_a_write_watcher() -> None:
    near, far = tcp_pair(8192)
    total = 0
    while sent := send_some(near, [bytes(100_000)], 100_000):
        total += sent
        turn()
    called: list[object] = []
    watcher = near.watch(EV_WRITE)
    watcher.start(called.append, 1)
    turn()
    assert called == [], "it is full"
    read_exactly(far, total)
    until(lambda: called)
    watcher.stop()
    near.close()
    far.close()


def test_both_watchers_of_a_socket() -> None:
    """A pump reads and writes at once."""
    near, far = tcp_pair()
    called: list[str] = []
    reader, writer = near.watch(EV_READ), near.watch(EV_WRITE)
    reader.start(called.append, "read")
    writer.start(called.append, "write")
    until(lambda: called)
    assert set(called) == {"write"}
    writer.stop()
    far.sendall(b"x")
    until(lambda: "read" in called)
    reader.stop()
    near.close()
    far.close()
