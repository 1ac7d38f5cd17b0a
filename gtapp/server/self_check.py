"""Proves the server's own path: a tunnel to its own listeners, and visitors' requests that come back through it.

Run by `server.app` and `status_api`. The tunnel belongs to a user whose id and secret nobody but this server's workers
know.
"""

import hmac
import ipaddress
import secrets
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from gtapp import __version__
from gtapp.config.load import User
from gtapp.config.options import ServerOptions
from gtapp.errors import GTError, LinkError, RemoteRefused, WireError
from gtapp.relay.link import Link
from gtapp.relay.opening import Opening
from gtapp.relay.sockets import EV_READ, PlainSocket, Socket, take_over
from gtapp.relay.stream import Stream
from gtapp.relay.threads import Threads
from gtapp.relay.tls import Handshakes, TLSSocket, error_text
from gtapp.relay.tunnel import Frames, Tunnel
from gtapp.wire import compat, frames, proxy_header
from gtapp.wire.handshake import ClientHandshake, ServiceSpec

if TYPE_CHECKING:
    from gtapp.server.certificates import Certificate  # brings 11 MB with it

CHECK_S = 10.0  # the whole check; a server that needs longer is no help to its visitors either
CLOSE_S = 1.0  # how long the tunnel may take to end in order
IDLE_S = 60.0  # the tunnel's idle time, which it never reaches
MAX_CHECKS = 1000  # at a time, of all workers
HEAD_BYTES = 16384  # of a request that comes through the tunnel, and of an answer
ANYWHERE = {
    "0.0.0.0": ("127.0.0.1",),
    "::": ("::1", "127.0.0.1"),
}  # where a listener on every address is reached


def status_user(key: bytes) -> User:
    """Whom the checks log in as. Every worker of the server knows it by the server's `key`, and nobody else does."""
    names = (hmac.digest(key, f"status {what}".encode(), "sha256").hex() for what in ("user", "secret"))
    return User(id=next(names)[:32], secret=next(names), connections=MAX_CHECKS)


class CheckFailed(GTError):
    """The path does not work; `step` is the first one that failed: connect, tls, tunnel, request or answer."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


class SelfCheck:
    """`run` makes a check, one at a time; `user` is to be let in by the server like any other user, and publishes
    another host for each worker's `number`.

    `set_listeners` says where it connects to; `options` are those in force.
    """

    def __init__(self, options: ServerOptions, handshakes: Handshakes, user: User, number: int = 0) -> None:
        self.user = user
        self._host = f"{user.id}-{number}"
        self.options = options
        self.addr: str | None = None
        self.tls_addr: str | None = None
        self.certificate: Certificate | None = None
        self._handshakes = handshakes
        self._one_at_a_time = BoundedSemaphore()
        self._threads = Threads(1)  # for the key derivation of SCRAM
        self._step = ""
        self._on_open: Callable[[Stream, frames.Open], None] | None = None

    def set_listeners(
        self, addr: str | None, tls_addr: str | None, certificate: "Certificate | None"
    ) -> None:
        """These are the addresses of the server's listeners as text, None where there is none, and what the second one
        shows."""
        self.addr, self.tls_addr, self.certificate = addr, tls_addr, certificate

    def run(self) -> None:
        """Raises CheckFailed."""
        with self._one_at_a_time:
            self._step = "connect"
            self._run()

    def _run(self) -> None:
        try:
            with gevent.Timeout(CHECK_S):
                self._check()
        except gevent.Timeout:
            raise CheckFailed(self._step, f"took longer than {CHECK_S:.0f} s") from None
        except (LinkError, RemoteRefused, WireError) as error:
            raise CheckFailed(self._step, str(error)) from error
        except OSError as error:
            raise CheckFailed(self._step, error_text(error)) from error

    def stop(self) -> None:
        """End its thread."""
        self._threads.kill()

    def _check(self) -> None:
        question, answer = secrets.token_hex(16), secrets.token_hex(16)
        ways = [(self.tls_addr, True), (self.addr, False)]
        listeners = [(address, over_tls) for address, over_tls in ways if address is not None]
        if not listeners:
            raise LinkError("this worker does not listen any more")
        closed = Event()
        self._on_open = _answering(question, answer)
        tunnel = self._open_tunnel(*listeners[0], closed)
        try:
            for address, over_tls in listeners:
                self._visit(address, over_tls, question, answer)
            tunnel.drain()
            closed.wait(CLOSE_S)
        finally:
            tunnel.abort("the check is over")

    # the tunnel

    def _open_tunnel(self, address: str, over_tls: bool, closed: Event) -> Tunnel:
        sock = self._connect(address, over_tls)
        self._step = "tunnel"
        link = Link(sock, address)
        try:
            converse = self._native if 3 in self.options.protocols else self._compat
            tunnel, opening = converse(link, getattr(sock, "channel_binding", None))
            opening.hand_over(lambda message: _control(tunnel, message), lambda reason: closed.set())
        except BaseException:
            link.abort()
            raise
        tunnel.opened()
        return tunnel

    def _native(self, link: Link, binding: bytes | None) -> tuple[Tunnel, Opening]:
        tunnel, opening = self._new_tunnel(link, frames.Frames())
        handshake = ClientHandshake(
            self.user.id,
            self.user.secret or "",
            agent=f"gt/{__version__}",
            instance=self.user.id,
            services=[ServiceSpec("http", self._host)],
            channel_binding=binding,
            require_binding=binding is not None,
        )
        link.write(frames.OPENING)
        tunnel.send_control(handshake.hello())
        tunnel.start()
        tunnel.send_control(self._threads.call(handshake.auth, opening.receive_message()))
        handshake.ready(opening.receive_message())
        return tunnel, opening

    def _compat(self, link: Link, binding: bytes | None) -> tuple[Tunnel, Opening]:
        tunnel, opening = self._new_tunnel(link, compat.CompatFrames(server=False))
        services = (compat.CompatService("http", self._host),)
        link.write(compat.opening(compat.Opening(self.user.id, self.user.secret or "", services)))
        tunnel.start()
        message = opening.receive()
        if not isinstance(message, compat.Ready):
            raise WireError(f"the server answers {message}")
        return tunnel, opening

    def _new_tunnel(self, link: Link, wire: Frames) -> tuple[Tunnel, Opening]:
        tunnel = Tunnel(link, wire, IDLE_S, is_server=False)
        tunnel.on_open = self._on_open
        return tunnel, Opening(tunnel)

    # the visitor

    def _visit(self, address: str, over_tls: bool, question: str, answer: str) -> None:
        sock = self._connect(address, over_tls)
        try:
            self._step = "request"
            header = self.options.http_mux_header
            hosts = f"Host: {self._host}\r\n"
            if header.lower() != "host":
                hosts = f"Host: status\r\n{header}: {self._host}\r\n"
            request = f"GET /{question} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode()
            sock.send(request)  # smaller than an empty send buffer
            self._step = "answer"
            head, _, body = _read_to_end(sock).partition(b"\r\n\r\n")
        finally:
            sock.close()
        if not hmac.compare_digest(body, answer.encode()):
            line = head.partition(b"\r\n")[0].decode("latin-1")
            raise LinkError(f"a visitor of {address} is answered {line!r}")

    # both

    def _connect(self, address: str, over_tls: bool) -> Socket:
        self._step = "connect"
        sock = _connect(address)
        try:
            source = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
            if any(source in network for network in self.options.trusted_proxies):
                sock.send(proxy_header.build_v2("", ""))  # we are trusted to say whose connection it is: ours
            if not over_tls:
                return sock
            self._step = "tls"
            return self._secure(sock)
        except BaseException:
            sock.close()
            raise

    def _secure(self, sock: PlainSocket) -> TLSSocket:
        assert self.certificate is not None
        expected = self.certificate.binding
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it has to be our own certificate, whoever signed that
        secured = self._handshakes.wait(sock, context, server_side=False)
        if secured.channel_binding not in (expected, self.certificate.binding):  # renewed meanwhile
            secured.close()
            raise LinkError("what answers shows a certificate that is not ours")
        return secured


def _connect(address: str) -> PlainSocket:
    """A connection to the listener at `address`. Raises LinkError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    problem: OSError | None = None
    for candidate in ANYWHERE.get(host, (host,)):
        try:
            return take_over(socket.create_connection((candidate, int(port))))
        except OSError as error:
            problem = problem or error
    raise LinkError(f"cannot connect to {address}: {problem and (problem.strerror or problem)}")


def _control(tunnel: Tunnel, message: Any) -> None:
    """Of what the server may say to a client, only the end matters here."""
    if isinstance(message, compat.Close) or (isinstance(message, dict) and message["type"] == "drain"):
        tunnel.drained_by_peer()


def _read_to_end(sock: Socket) -> bytes:
    """What comes up to the other end's close, at most HEAD_BYTES. Raises OSError."""
    data = b""
    buffer = memoryview(bytearray(HEAD_BYTES))
    while len(data) < HEAD_BYTES:
        count = receive(sock, buffer)
        if not count:
            break
        data += buffer[:count]
    return data


def receive(sock: Socket, buffer: memoryview) -> int:
    """`recv_into` for a greenlet, which waits until there is something."""
    while True:
        try:
            return sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            _wait_readable(sock)


def _wait_readable(sock: Socket) -> None:
    ready = Event()
    watcher = sock.watch(EV_READ)
    watcher.start(ready.set)
    try:
        ready.wait()
    finally:
        watcher.stop()


def _answering(question: str, answer: str) -> Callable[[Stream, frames.Open], None]:
    """A client's `on_open`, for a service that answers `answer` to whoever asks for `/question`."""
    expected = f"GET /{question} ".encode()
    response = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n{answer}".encode()
    )

    def on_open(stream: Stream, opened: frames.Open) -> None:
        stream.sink = _Answer(stream, expected, response)

    return on_open


class _Answer:
    """The sink of a stream: it waits for a request's head, answers the expected one, and waits for the end."""

    def __init__(self, stream: Stream, expected: bytes, response: bytes) -> None:
        self._stream = stream
        self._expected = expected
        self._response = response
        self._head = b""

    def deliver(self, data: memoryview) -> None:
        stream, response = self._stream, self._response
        stream.delivered(len(data))
        self._head += data
        if stream.eof_sent or b"\r\n\r\n" not in self._head:
            return
        if not self._head.startswith(self._expected):  # nobody else knows the host, but who knows
            stream.reset()
            return
        wire = stream.tunnel.frames
        header = bytearray(wire.data_header_bytes)
        wire.write_data_header(header, stream.id, len(response))
        stream.tunnel.link.write(bytes(header) + response)
        stream.send_window -= len(response)
        stream.send_eof()
        if not stream.tunnel.has_windows:  # protocol 1: that ended both directions
            stream.forget()

    def deliver_eof(self) -> None:
        self._stream.send_eof()
        self._stream.forget()

    def deliver_rest(self) -> None:
        self._stream.forget()

    def deliver_reset(self, reason: int) -> None:
        self._stream.forget()

    def window_opened(self) -> None:
        """A window is larger than the answer."""

    def tick(self) -> None:
        """The check has a time-out of its own."""
