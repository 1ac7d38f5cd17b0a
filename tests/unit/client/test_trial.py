"""Trying a server out: options as they come from a form, and words for what goes wrong. Real ones: e2e/test_facts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from gtapp.client import dialer as dialer_module
from gtapp.client import trial
from gtapp.config.values import URL
from gtapp.errors import ConfigError
from gtapp.wire import compat, frames
from gtapp.wire.credentials import MIN_ITERATIONS, derive
from gtapp.wire.handshake import HandshakeError, ServerHandshake, error_message
from tests.support.relay import CONTROL, PING, FarEnd, read_exactly
from tests.unit.client.test_dialer import Remote

VERIFIER = derive("secret1", b"salt" * 4, MIN_ITERATIONS)
Answer = Callable[[Any], None]


@pytest.fixture
def remote() -> Iterator[Remote]:
    made = Remote()
    yield made
    made.close()


def try_out(server: Remote, /, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"id": "id1", "secret": "secret1", "remote": str(server.url)} | options
    found: dict[str, Any] = json.loads(json.dumps(trial.try_out(given)))
    return found


def native(sock: Any, code: str = "", services: list[Any] | None = None, then: Answer | None = None) -> None:
    """A server of protocol 3 that lets the client in, or refuses with a code."""
    assert read_exactly(sock, 2) == frames.OPENING
    far = FarEnd(sock, frames.Frames())
    handshake = ServerHandshake("gt/9")
    assert handshake.hello(far.next()[2]).id == "id1"
    far.send(far.frames.control(handshake.challenge(VERIFIER)))
    try:
        auth = handshake.auth(far.next()[2])
    except HandshakeError as error:
        far.send(far.frames.control(error_message(error.code, str(error))))
        return
    if services is not None:
        services.extend(auth.services)
    if code:
        far.send(far.frames.control(error_message(code, "the server says no")))
        return
    far.send(far.frames.control(handshake.ready([], 262144, 90.0, 1)))
    if then is not None:
        then(sock)
        return
    far.answer_ping()
    assert far.next_of(CONTROL)[2] == {"type": "drain"}
    far.send(far.frames.control({"type": "drain"}))
    assert sock.recv(1) == b""


def test_it_works(remote: Remote) -> None:
    services: list[Any] = []
    serving = remote.serve(lambda sock: native(sock, services=services))
    answer = try_out(remote)
    serving.get(timeout=5)
    rtt = answer.pop("rtt_ms")
    assert 0 < rtt < 5000
    assert answer == {
        "works": True,
        "code": "",
        "text": f"A tunnel to {remote.url} came up.",
        "remote": str(remote.url),
        "transport": "tcp",
        "protocol": 3,
        "agent": "gt/9",
    }
    assert services == [], "it takes no visitors away from a client that runs"


def test_over_protocol_1(remote: Remote) -> None:
    """Which wants a service, so there is one that nobody asks for."""
    asked: list[Any] = []

    def old(sock: Any) -> None:
        read_exactly(sock, 2)
        sock.close()

    def answer(sock: Any) -> None:
        assert read_exactly(sock, 2) == b"\xf0\x01"
        reader = compat.OpeningReader()
        while not (opening := reader.receive(sock.recv(10_000))):
            pass
        asked.append(opening)
        sock.sendall(compat.signal(compat.Ready()))
        far = FarEnd(sock, compat.CompatFrames(server=True))
        far.next_of(PING)
        far.send(far.frames.pong(bytes(8)))
        far.send(compat.signal(compat.Close()))

    remote.serve(old, old, answer)
    found = try_out(remote)
    assert (found["works"], found["protocol"], found["agent"]) == (True, 1, "")
    (service,) = asked[0].services
    assert service.prefix.startswith("gt-trial-")


@pytest.mark.parametrize("code", [compat.HOST_NOT_ALLOWED, compat.TOO_MANY_HOSTS])
def test_that_service_may_be_refused(remote: Remote, code: int) -> None:
    def answer(sock: Any) -> None:
        read_exactly(sock, 2)
        sock.sendall(compat.signal(compat.Error(code, None)))
        while sock.recv(1000):
            pass

    remote.serve(answer)
    found = try_out(remote, protocol="1")
    assert (found["works"], found["text"]) == (True, f"{remote.url} accepts id and secret.")


def test_the_secret_is_wrong(remote: Remote) -> None:
    remote.serve(native)
    found = try_out(remote, secret="another")
    assert (found["works"], found["code"]) == (False, "invalid_credentials")
    assert found["text"].startswith("The server does not know this id, or the secret is another one.")


def test_the_server_has_another_reason(remote: Remote) -> None:
    remote.serve(lambda sock: native(sock, "too_many_connections"))
    assert (
        try_out(remote)["text"]
        == "Id and secret are right; this id has as many tunnels as the server allows."
    )
    remote.serve(lambda sock: native(sock, "locked_out"))
    assert "the server says no" in try_out(remote)["text"]
    remote.serve(lambda sock: native(sock, "news_of_tomorrow"))
    found = try_out(remote)
    assert (found["code"], found["text"]) == ("news_of_tomorrow", "the server says no")


def test_it_is_no_server_at_all(remote: Remote) -> None:
    remote.serve(lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_10\r\n"))
    assert try_out(remote)["code"] == "no_gt"

    def web(sock: Any) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        sock.close()

    remote.serve(web, web, web)
    found = try_out(remote)
    host, port = remote.url.host, remote.url.port
    assert found["code"] == "no_gt"
    assert found["text"].startswith(f"What answers at {host}, port {port}, is no GT server.")


def test_one_that_may_be_old_is_not_shown_the_secret(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer_module, "_is_loopback", lambda link: False)

    def old(sock: Any) -> None:
        assert b"secret1" not in read_exactly(sock, 2) + sock.recv(1000)
        sock.close()

    serving = remote.serve(old, old, lambda sock: sock.close())
    found = try_out(remote)
    assert found["code"] == "old_server"
    assert "which shows the secret to whoever listens" in found["text"]
    serving.get(timeout=5)


def test_it_takes_too_long(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_S", 0.2)
    remote.serve(lambda sock: gevent.sleep(0))
    began = monotonic()
    found = try_out(remote, remote=[str(remote.url)] * 20)
    assert (found["works"], found["code"]) == (False, "silent")
    assert monotonic() - began < 2


def test_a_server_that_closes_at_once(remote: Remote) -> None:
    remote.serve(lambda sock: native(sock, then=lambda sock: sock.close()))
    found = try_out(remote)
    assert found["code"] == "lost"
    assert "closed it at once" in found["text"]


def test_the_first_remote_that_works_counts(remote: Remote) -> None:
    remote.serve(native)
    found = try_out(remote, remote=["tcp://127.0.0.1:1", str(remote.url)])
    assert (found["works"], found["remote"]) == (True, str(remote.url))
    found = try_out(remote, remote=["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"])
    assert (found["code"], found["remote"]) == ("refused", "tcp://127.0.0.1:2")


def test_options_as_they_come_from_a_form() -> None:
    options = trial.read_options(
        {
            "id": "id1",
            "secret": "=a secret, with -- signs",
            "remote": ["a.example", "tls://b.example:8443"],
            "remoteCertInsecure": True,
            "allowPlainSecret": False,
            "protocol": "3",
            "remoteCert": "",
            "logFile": "/nobody/asks",
            "bbr": True,
        }
    )
    assert options.secret == "=a secret, with -- signs"
    assert options.remote == (URL("tcp", "a.example", 80), URL("tls", "b.example", 8443))
    assert (options.remote_cert_insecure, options.allow_plain_secret, options.protocol) == (True, False, "3")
    assert options.log_file == ""


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"remote": "tcp://a"}, "there is no id, set it (for example --id id1)"),
        ({"id": "id1"}, "there is no remote, set it (for example --remote tcp://example.com:8080)"),
        ({"id": "id1", "remote": "a", "protocol": "2"}, 'protocol: found "2", allowed: auto, 1 or 3'),
        ({"colour": "red"}, "colour: there is no such option of a client"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        trial.read_options(given)
    assert str(error.value) == problem
    found = trial.try_out(given)
    assert (found["works"], found["code"], found["text"]) == (False, "options", problem)
