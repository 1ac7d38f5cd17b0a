"""A TCP proxy that stands for the network between a client and its server: it can be cut, refuse, swallow, heal."""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tests.support.ports import Address, Port

# What one direction may hold while the far end does not take it; then its source is no longer read.
PENDING_BYTES = 256 * 1024
_NOW = struct.pack("ii", 1, 0)


class _End:
    """One of the two sockets of a proxied connection."""

    __slots__ = ("connected", "finished", "out", "peer", "socket", "swallow")

    def __init__(self, sock: socket.socket, connected: bool) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.connected = connected
        self.peer: _End | None = None
        self.out = bytearray()
        self.finished = False  # the peer sent its last byte: shut down once `out` is empty
        self.swallow = False


class CutProxy:
    """Forwards every connection to one target, in a thread of its own. Every method returns when it is done."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.port = Port()
        self.address = self.port.address
        self.accepted = 0
        self.carried = 0  # bytes forwarded, both directions
        self._silent = False
        self._ends: set[_End] = set()
        self._selector = selectors.DefaultSelector()
        self._commands: collections.deque[tuple[Future[Any], Callable[[], Any]]] = collections.deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self._running = True
        self._listen()
        self._thread = threading.Thread(target=self._loop, name=f"proxy {self.port}", daemon=True)
        self._thread.start()

    # What a test calls

    def cut(self) -> None:
        """Resets every connection, both ends. New ones are still taken."""
        self._call(self._cut)

    def refuse(self) -> None:
        """New connections are refused. Those that are open go on."""
        self._call(self._stop_listening)

    def freeze(self) -> None:
        """Open connections become black holes: bytes vanish, and an end that goes is not told to the other."""
        self._call(self._freeze)

    def silence(self) -> None:
        """New connections are taken and become black holes at once."""
        self._call(lambda: setattr(self, "_silent", True))

    def heal(self) -> None:
        """New connections are taken and forwarded again. Black holes stay what they are."""
        self._call(self._heal)

    @property
    def connections(self) -> int:
        """Connections that are open on the listening side."""
        return (
            int(
                self._call(lambda: len([end for end in self._ends if end.connected and end.peer is not None]))
            )
            // 2
        )

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._call(self._stop)
        self._thread.join()
        self.port.close()

    # The thread

    def _call(self, action: Callable[[], Any]) -> Any:
        if not self._thread.is_alive():
            raise RuntimeError("the proxy has ended")
        done: Future[Any] = Future()
        self._commands.append((done, action))
        self._wake_out.send(b"x")
        return done.result(10)

    def _loop(self) -> None:
        while self._running:
            for key, events in self._selector.select():
                if key.fileobj is self._wake_in:
                    self._wake_in.recv(4096)
                    while self._commands:
                        done, action = self._commands.popleft()
                        try:
                            done.set_result(action())
                        except BaseException as error:
                            done.set_exception(error)
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._ends:
                    self._turn(key.data, events)

    def _stop(self) -> None:
        self._running = False
        self._stop_listening()
        self._cut()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _listen(self) -> None:
        self._listener = self.port.listen()
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _heal(self) -> None:
        self._silent = False
        if self._listener is None:
            self._listen()

    def _cut(self) -> None:
        for end in list(self._ends):
            self._close(end, now=True)

    def _freeze(self) -> None:
        for end in self._ends:
            end.swallow = True
            end.out.clear()
            self._watch(end)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self.accepted += 1
        near = _End(sock, True)
        self._ends.add(near)
        if self._silent:
            near.swallow = True
        else:
            far = _End(socket.socket(socket.AF_INET, socket.SOCK_STREAM), False)
            far.socket.connect_ex(self.target)
            near.peer, far.peer = far, near
            self._ends.add(far)
            self._watch(far)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch(near)

    def _watch(self, end: _End) -> None:
        """Registers what the end waits for: bytes while its peer has room, and room while it has bytes."""
        events = 0
        room = end.swallow or end.peer is None or len(end.peer.out) < PENDING_BYTES
        if end.connected and room and not (end.peer is not None and end.peer.finished):
            events |= selectors.EVENT_READ
        if end.out or not end.connected:
            events |= selectors.EVENT_WRITE
        known = self._selector.get_map().get(end.socket)
        if known is None:
            if events:
                self._selector.register(end.socket, events, end)
        elif not events:
            self._selector.unregister(end.socket)
        elif known.events != events:
            self._selector.modify(end.socket, events, end)

    def _turn(self, end: _End, events: int) -> None:
        peer = end.peer
        try:
            if not end.connected:
                error = end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise ConnectionError(error)
                end.connected = True
                end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if events & selectors.EVENT_WRITE and end.out:
                del end.out[: end.socket.send(end.out)]
            if events & selectors.EVENT_READ:
                data = end.socket.recv(65536)
                if end.swallow:
                    if not data:  # the other end is left standing: it must find out by itself
                        self._forget(end)
                        return
                elif peer is not None:
                    self.carried += len(data)
                    peer.out += data
                    peer.finished = peer.finished or not data
            if end.finished and not end.out and end.connected:
                with contextlib.suppress(OSError):
                    end.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            if end.swallow:
                self._forget(end)
            else:
                self._close(end, now=True)
                if peer is not None:
                    self._close(peer, now=True)
            return
        if peer is not None and end.finished and peer.finished and not end.out and not peer.out:
            self._close(end)
            self._close(peer)
            return
        self._watch(end)
        if peer is not None and peer in self._ends:
            if peer.finished and not peer.out and peer.connected:
                with contextlib.suppress(OSError):
                    peer.socket.shutdown(socket.SHUT_WR)
            self._watch(peer)

    def _forget(self, end: _End) -> None:
        if end.peer is not None:
            end.peer.peer = None
            end.peer = None
        self._close(end)

    def _close(self, end: _End, now: bool = False) -> None:
        if end not in self._ends:
            return
        self._ends.discard(end)
        with contextlib.suppress(KeyError):
            self._selector.unregister(end.socket)
        if now:
            with contextlib.suppress(OSError):
                end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
        end.socket.close()
