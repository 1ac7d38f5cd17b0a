"""The status API: its answers, one check for all who ask, callers that mean no good. The check itself is replaced."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtapp import __version__
from gtapp.config.options import ServerOptions
from gtapp.config.values import Address
from gtapp.errors import GTError
from gtapp.relay.tls import Handshakes
from gtapp.server import status_api
from gtapp.server.listeners import Listener, listen
from gtapp.server.self_check import CheckFailed
from gtapp.server.status_api import StatusAPI
from tests.support.certificates import make_pair
from tests.support.relay import ours, read_all, turn, until

GET = b"GET /status HTTP/1.1\r\nHost: status\r\n\r\n"
GOOD = {"status": "ok", "version": f"gt {__version__}"}


class Checks:
    """Stands for the check: `runs` counts, `problem` makes it fail, `gate` holds it."""

    def __init__(self) -> None:
        self.runs = 0
        self.problem: CheckFailed | None = None
        self.gate = Event()
        self.gate.set()

    def run(self) -> None:
        self.runs += 1
        self.gate.wait()
        if self.problem is not None:
            raise self.problem


class Running:
    def __init__(self, **given: Any) -> None:
        address = Address("127.0.0.1", 0)
        self.checks = Checks()
        check: Any = self.checks
        self.api = StatusAPI(ServerOptions(api_addr=address, **given), Handshakes(), check)
        self.listener = Listener(listen(address), self.api.accept)
        self.listener.start()
        self.sockets: list[Any] = []

    def connect(self) -> Any:
        host, _, port = self.listener.address.rpartition(":")
        self.sockets.append(ours(socket.create_connection((host, int(port)))))
        return self.sockets[-1]

    def ask(self, request: bytes = GET) -> tuple[int, dict[str, str], str]:
        return answer(self.send(request))

    def send(self, request: bytes = GET) -> Any:
        sock = self.connect()
        sock.sendall(request)
        return sock

    def close(self) -> None:
        self.checks.gate.set()
        for sock in self.sockets:
            sock.close()
        self.listener.stop()
        self.api.stop()


def answer(sock: Any) -> tuple[int, dict[str, str], str]:
    """Status, header fields and body of the one response on this connection."""
    head, _, body = read_all(sock).decode().partition("\r\n\r\n")
    sock.close()
    line, *fields = head.split("\r\n")
    return int(line.split()[1]), dict(field.split(": ") for field in fields), body


def dropped(sock: Any) -> bytes:
    """What comes before the end, which is a reset where bytes were left unread."""
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(**given: Any) -> Running:
        made.append(Running(**given))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    return start()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(status_api, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# Answers


def test_the_path_works(running: Running) -> None:
    status, fields, body = running.ask()
    assert (status, json.loads(body)) == (200, GOOD)
    assert fields["Content-Type"] == "application/json"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Connection"] == "close"
    assert fields["Cache-Control"] == "no-store"


def test_the_path_does_not_work(running: Running) -> None:
    running.checks.problem = CheckFailed("tunnel", "unknown id or wrong secret")
    status, _, body = running.ask()
    assert status == 503
    assert json.loads(body) == {
        "status": "failed",
        "version": f"gt {__version__}",
        "step": "tunnel",
        "error": "unknown id or wrong secret",
    }


@pytest.mark.parametrize(
    ("request_line", "status", "runs"),
    [
        ("GET /status HTTP/1.0", 200, 1),
        ("GET /status?verbose HTTP/1.1", 200, 1),
        ("HEAD /status HTTP/1.1", 200, 1),
        ("POST /status HTTP/1.1", 405, 0),
        ("GET / HTTP/1.1", 404, 0),
        ("GET /status/ HTTP/1.1", 404, 0),
        ("GET /statusResp HTTP/1.1", 404, 0),
        ("GET /status HTTP/2.0", 505, 0),
        ("GET /sta tus HTTP/1.1", 400, 0),
    ],
)
def test_requests(request_line: str, status: int, runs: int, running: Running) -> None:
    got, fields, body = running.ask(f"{request_line}\r\nHost: status\r\n\r\n".encode())
    assert (got, running.checks.runs) == (status, runs)
    if request_line.startswith("HEAD"):
        assert (body, fields["Content-Length"]) == ("", str(len(json.dumps(GOOD))))
    else:
        assert json.loads(body)
    assert ("Allow" in fields) == (status == 405)


def test_a_request_in_pieces_and_a_body_nobody_reads(running: Running) -> None:
    sock = running.connect()
    for byte in GET[:-4]:
        sock.sendall(bytes((byte,)))
    sock.sendall(b"\r\nContent-Length: 10000\r\n\r\n" + bytes(10000))
    assert answer(sock)[0] == 200


# One check for all


def test_a_good_result_is_kept(running: Running, clock: Clock) -> None:
    for _ in range(3):
        assert running.ask()[0] == 200
    clock.now += status_api.GOOD_S - 0.1
    running.checks.problem = CheckFailed("connect", "gone")
    assert running.ask()[0] == 200
    assert running.checks.runs == 1
    clock.now += 0.1
    assert running.ask()[0] == 503
    assert running.checks.runs == 2


def test_a_bad_result_is_kept_shortly_and_said_once(
    running: Running, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    running.checks.problem = CheckFailed("connect", "gone")
    for _ in range(5):
        assert running.ask()[0] == running.ask()[0] == 503
        clock.now += status_api.BAD_S
    assert running.checks.runs == 5
    assert caplog.text.count("the status check fails at the step connect: gone") == 1
    running.checks.problem = CheckFailed("tls", "bad")
    running.ask()
    assert caplog.text.count("the status check fails at the step tls: bad") == 1
    running.checks.problem = None
    clock.now += status_api.BAD_S
    assert running.ask()[0] == 200
    clock.now += status_api.GOOD_S
    assert running.ask()[0] == 200
    assert caplog.text.count("the status check succeeds again") == 1


def test_many_who_ask_at_once_wait_for_one_check(running: Running) -> None:
    running.checks.gate.clear()
    callers = [running.send() for _ in range(20)]
    until(lambda: len(running.api._callers) == 20 and running.checks.runs)
    turn()
    running.checks.gate.set()
    assert [answer(caller)[0] for caller in callers] == [200] * 20
    assert running.checks.runs == 1


def test_a_caller_who_leaves_stops_nobody(running: Running) -> None:
    running.checks.gate.clear()
    leaving, staying = running.send(), running.send()
    until(lambda: len(running.api._callers) == 2)
    leaving.close()
    running.checks.gate.set()
    assert answer(staying)[0] == 200


# Callers that mean no good


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01", b"\xf0\x03", b"\0" * 20000, b"hello\r\n\r\n"]
)
def test_garbage_is_closed(garbage: bytes, running: Running, caplog: pytest.LogCaptureFixture) -> None:
    assert dropped(running.send(garbage)) == b""
    assert running.ask()[0] == 200
    assert caplog.text == ""


def test_a_head_without_end(running: Running) -> None:
    sock = running.send(b"GET /status HTTP/1.1\r\nHost: status\r\nX: " + b"x" * 30000)
    assert answer(sock)[0] == 431


@pytest.mark.parametrize("sent", [b"", GET[:-2]])
def test_a_slow_caller_is_closed(sent: bytes, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_api, "REQUEST_S", 0.1)
    sock = running.connect()
    sock.sendall(sent)
    assert read_all(sock) == b""


def test_too_many_callers(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_api, "MAX_CALLERS", 5)
    slow = [running.connect() for _ in range(5)]
    until(lambda: len(running.api._callers) == 5)
    assert running.ask()[0] == 200
    assert read_all(slow[0]) == b""
    for each in slow[1:]:
        each.sendall(GET)
        assert answer(each)[0] == 200


def test_an_unexpected_error(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(running.checks, "run", broken)
    assert read_all(running.send()) == b""
    assert "unexpected error in the status API" in caplog.text
    monkeypatch.undo()
    assert running.ask()[0] == 200


# TLS


class Secured:
    """A caller over TLS, by hand: gevent's sockets below, as nothing is patched here."""

    def __init__(self, sock: Any, trusted: Path, name: str = "status.example.com") -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(trusted))
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    def _do(self, action: Callable[[], Any]) -> Any:
        while True:
            try:
                return action()
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                data = self.sock.recv(65536)
                self.incoming.write(data) if data else self.incoming.write_eof()

    def ask(self) -> str:
        self._do(self.tls.do_handshake)
        self.tls.write(GET)
        text = b""
        while data := self._do(lambda: self.tls.read(65536)):
            text += data
        return text.decode()


def test_over_tls(start: Callable[..., Running], tmp_path: Path) -> None:
    files = make_pair(["status.example.com"]).write(tmp_path)
    running = start(api_cert_file=str(files.cert), api_key_file=str(files.key))
    assert Secured(running.connect(), files.cert).ask().startswith("HTTP/1.1 200 OK\r\n")
    assert b"HTTP" not in dropped(running.send(b"GET /status HTTP/1.0\r\n\r\n"))


def test_a_renewed_certificate_is_taken_over(start: Callable[..., Running], tmp_path: Path) -> None:
    files = make_pair(["old.example.com"]).write(tmp_path)
    running = start(api_cert_file=str(files.cert), api_key_file=str(files.key))
    Secured(running.connect(), files.cert, "old.example.com").ask()
    make_pair(["status.example.com"]).write(tmp_path)

    def renewed() -> bool:
        running.api.tick(1.0)
        try:
            return "200 OK" in Secured(running.connect(), files.cert).ask()
        except ssl.SSLCertVerificationError:
            return False

    until(renewed)


def test_a_slow_handshake_is_closed(
    start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_pair(["status.example.com"]).write(tmp_path)
    running = start(api_cert_file=str(files.cert), api_key_file=str(files.key))
    monkeypatch.setattr(status_api, "REQUEST_S", 0.1)
    assert read_all(running.connect()) == b""


def test_a_bad_certificate(tmp_path: Path) -> None:
    files = make_pair(["status.example.com"], days=(-365, -1)).write(tmp_path)
    options = ServerOptions(
        api_addr=Address("127.0.0.1", 0), api_cert_file=str(files.cert), api_key_file=str(files.key)
    )
    check: Any = Checks()
    with pytest.raises(GTError, match=r"server-cert\.pem: the certificate expired on"):
        StatusAPI(options, Handshakes(), check)


# The end


def test_stop_gives_up_those_who_wait(running: Running) -> None:
    running.checks.gate.clear()
    waiting, silent = running.send(), running.connect()
    until(lambda: len(running.api._callers) == 2)
    running.api.stop()
    assert read_all(waiting) == read_all(silent) == b""
    gevent.sleep(0)
