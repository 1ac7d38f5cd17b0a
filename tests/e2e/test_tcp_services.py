"""`tcp://` services: whatever speaks over a port finds it as if it were the service's own."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.daemons import Redis, SSHDaemon, binary
from tests.support.http import Ended, Visitor
from tests.support.processes import PATIENCE_S, Child, eventually
from tests.support.services import Connection, Unanswered, echoing, greeting
from tests.support.tcp import echoes, fixed, publish, serve, tcp
from tests.support.world import World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])


@BOTH
def test_the_service_speaks_first(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    url = tcp(world.service(greeting(b"220 ready\r\n")).url)
    publish(world, server, secrets, protocol, *fixed(port), local=url)
    visitor = world.visitor(port.address)
    assert visitor.exactly(11) == b"220 ready\r\n"
    visitor.send(b"EHLO")
    assert visitor.exactly(4) == b"EHLO"


@BOTH
def test_any_first_bytes_go_through(world: World, protocol: str) -> None:
    """Nobody looks at them, not even where they would open a tunnel elsewhere."""
    port = world.port()
    server, secrets = serve(world, port)
    publish(world, server, secrets, protocol, *fixed(port))
    for first in (b"\xf0\x03", b"\xf0\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00", b"\x00"):
        assert echoes(port.address, first)


@BOTH
def test_a_service_that_is_down(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    down = world.port()
    client = publish(world, server, secrets, protocol, *fixed(port), local=f"tcp://{down}")
    visitor = world.visitor(port.address)
    visitor.send(b"hello")
    with pytest.raises(Ended):
        visitor.receive()
    client.process.wait_for(r"refused")
    world.service(echoing, down)
    assert echoes(port.address)


@BOTH
def test_a_service_that_does_not_answer_the_dial(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    nowhere = world.keep(Unanswered(), until_last=True)
    publish(world, server, secrets, protocol, *fixed(port), local=tcp(nowhere.url))
    assert world.visitor(port.address).ending(60) in ("closed", "reset")


@BOTH
def test_many_connections_at_once(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    client = publish(world, server, secrets, protocol, *fixed(port))
    before = server.process.stats(), client.process.stats()
    visitors = [world.visitor(port.address) for _ in range(300)]
    for number, visitor in enumerate(visitors):
        visitor.send(b"%06d" % number * 1000)
    for number, visitor in enumerate(visitors):
        assert visitor.exactly(6000) == b"%06d" % number * 1000
    for visitor in visitors:
        visitor.close()
    for relay, was in zip((server.process, client.process), before, strict=True):
        relay.settle(streams=0, spare_fds=was["spare_fds"], greenlets=was["greenlets"])


@BOTH
def test_bytes_in_both_directions_at_once(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    publish(world, server, secrets, protocol, *fixed(port))
    size = 30_000_000
    data = os.urandom(1 << 20)
    visitor = world.visitor(port.address)
    sent, got = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        left = size
        while left:
            piece = data[: min(left, len(data))]
            sent.update(piece)
            visitor.send(piece)
            left -= len(piece)

    sender = threading.Thread(target=send)
    sender.start()
    left = size
    while left:
        piece = visitor.receive(min(left, 1 << 18))
        got.update(piece)
        left -= len(piece)
    sender.join(PATIENCE_S)
    assert got.hexdigest() == sent.hexdigest()


@BOTH
def test_everything_arrives_before_the_end(world: World, protocol: str) -> None:
    """Whoever sends and closes at once loses nothing of it, in either direction."""
    port = world.port()
    server, secrets = serve(world, port)
    content = os.urandom(5_000_000)
    got: list[bytes] = []

    def handler(connection: Connection) -> None:
        if connection.socket.recv(4) == b"give":
            connection.send(content)
        else:
            got.append(b"".join(iter(lambda: connection.socket.recv(1 << 18), b"")))

    publish(world, server, secrets, protocol, *fixed(port), local=tcp(world.service(handler).url))
    visitor = world.visitor(port.address)
    visitor.send(b"give")
    assert visitor.exactly(len(content)) == content
    assert visitor.ending(10) == "closed"
    with Visitor(port.address) as giver:
        giver.send(b"take" + content)
    eventually(lambda: got == [content], "the service has it all")


@BOTH
def test_a_reset_ends_the_other_side(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port)

    def handler(connection: Connection) -> None:
        if connection.socket.recv(5) == b"reset":
            connection.reset()
        else:
            connection.wait_end()

    service = world.service(handler)
    publish(world, server, secrets, protocol, *fixed(port), local=tcp(service.url))
    visitor = world.visitor(port.address)
    visitor.send(b"hello")
    (connection,) = service.wait_connections(1)
    visitor.reset()
    assert connection.gone.wait(PATIENCE_S)
    visitor = world.visitor(port.address)
    visitor.send(b"reset")
    assert visitor.ending(PATIENCE_S)


@BOTH
def test_visitors_when_the_client_is_killed(world: World, protocol: str) -> None:
    """None of them is left hanging."""
    port = world.port()
    server, secrets = serve(world, port)
    client = publish(world, server, secrets, protocol, *fixed(port))
    visitors = [world.visitor(port.address) for _ in range(20)]
    for visitor in visitors:
        visitor.send(b"hello")
        assert visitor.exactly(5) == b"hello"
    client.process.kill()
    for visitor in visitors:
        assert visitor.ending(10)
    server.process.settle(streams=0)


def _digest(connection: Connection) -> None:
    """Answers what it got only after its end."""
    digest = hashlib.sha256()
    while data := connection.socket.recv(1 << 18):
        digest.update(data)
    connection.send(digest.hexdigest().encode())


def _nc(*words: str) -> list[str]:
    program = binary("nc", "netcat-openbsd")
    usage = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=PATIENCE_S)
    if "-N" not in usage.stderr + usage.stdout:
        pytest.skip("this nc has no -N (apt-get install netcat-openbsd)")
    return [program, *words]


def test_half_close_by_the_visitor(world: World, tmp_path: Path) -> None:
    """`nc -N` says that it has finished, and reads the answer. Protocol 1 has no half close."""
    port = world.port()
    server, secrets = serve(world, port)
    publish(world, server, secrets, "3", *fixed(port), local=tcp(world.service(_digest).url))
    sent = os.urandom(3_000_000)
    words = _nc("-N", "127.0.0.1", str(port.number))
    done = subprocess.run(words, input=sent, capture_output=True, timeout=60, check=True)
    assert done.stdout.decode() == hashlib.sha256(sent).hexdigest()


def test_half_close_by_the_service(world: World, tmp_path: Path) -> None:
    """The service is `nc -N`: it finishes first, and the visitor, who knows by the end of it, answers."""
    port, local = world.port(), world.port()
    server, secrets = serve(world, port)
    content = os.urandom(3_000_000)
    (tmp_path / "content").write_bytes(content)
    script = f'exec "$@" < {tmp_path / "content"} > {tmp_path / "answer"}'
    words = _nc("-N", "-l", "127.0.0.1", str(local.number))
    service = Child("nc", ["/bin/sh", "-c", script, "sh", *words])
    try:
        publish(world, server, secrets, "3", *fixed(port), local=f"tcp://{local}")
        eventually(lambda: _listening(local.number), "nc listens")
        visitor = world.visitor(port.address)
        assert visitor.exactly(len(content)) == content
        with pytest.raises(Ended, match="closed"):
            visitor.receive()
        visitor.send(b"the answer")
        visitor.socket.shutdown(socket.SHUT_WR)
        assert service.wait() == 0
        assert (tmp_path / "answer").read_bytes() == b"the answer"
    finally:
        service.end()


def _listening(number: int) -> bool:
    return any(
        line.split()[1].endswith(f":{number:04X}") and line.split()[3] == "0A"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
    )


# Real programs


@BOTH
def test_ssh(world: World, tmp_path: Path, protocol: str) -> None:
    """A login, 100 MB there and back, and ports forwarded through it in both directions."""
    sshd: SSHDaemon = world.keep(SSHDaemon(tmp_path / "sshd"), until_last=True)
    port = world.port()
    server, secrets = serve(world, port)
    publish(world, server, secrets, protocol, *fixed(port), local=f"tcp://{sshd.port}")

    def run(words: list[str]) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"{words}\n{done.stderr}\n{sshd.child.tail()}"
        return done.stdout

    assert run(sshd.ssh(port.number, "echo", "logged", "in")) == "logged in\n"

    digest = hashlib.sha256()
    with (tmp_path / "there").open("wb") as file:
        for _ in range(100):
            piece = os.urandom(1_000_000)
            digest.update(piece)
            file.write(piece)
    far = f"{sshd.user}@127.0.0.1:{tmp_path}/far"
    run([*sshd.words("scp", port.number), str(tmp_path / "there"), far])
    run([*sshd.words("scp", port.number), far, str(tmp_path / "back")])
    for name in ("far", "back"):
        with (tmp_path / name).open("rb") as copy:
            assert hashlib.file_digest(copy, "sha256").hexdigest() == digest.hexdigest()

    near, remote = world.port(), world.port()
    echo = world.service(echoing)
    forward = ["-N", "-L", f"{near}:{echo.port}", "-R", f"{remote}:{echo.port}"]
    words = sshd.words("ssh", port.number)
    forwarding = Child("ssh", [*words, *forward, f"{sshd.user}@127.0.0.1"])
    try:
        for end in (near, remote):
            eventually(lambda end=end: echoes(end.address, b"through ssh"), f"ssh forwards {end}")
    finally:
        forwarding.expected_exit = {255}
        forwarding.end()


@BOTH
def test_redis(world: World, tmp_path: Path, protocol: str) -> None:
    redis: Redis = world.keep(Redis(tmp_path / "redis"), until_last=True)
    port = world.port()
    server, secrets = serve(world, port)
    publish(world, server, secrets, protocol, *fixed(port), local=f"tcp://{redis.port}")

    def cli(*words: str, said: str = "") -> str:
        program = binary("redis-cli", "redis-tools")
        argv = [program, "-h", "127.0.0.1", "-p", str(port.number), *words]
        done = subprocess.run(argv, input=said, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    assert cli("PING") == "PONG\n"
    assert cli("SET", "name", "value") == "OK\n"
    assert cli("GET", "name") == "value\n"
    big = "x" * 1_000_000
    assert cli("-x", "SET", "big", said=big) == "OK\n"
    assert cli("GET", "big") == big + "\n"

    visitor = world.visitor(port.address)  # 10,000 commands at once, all answered in order
    visitor.send(b"".join(b"INCR counter\r\n" for _ in range(10_000)))
    answers = b"".join(b":%d\r\n" % number for number in range(1, 10_001))
    assert visitor.exactly(len(answers)) == answers

    subscriber = world.visitor(port.address)
    subscriber.send(b"SUBSCRIBE news\r\n")
    subscriber.until(b":1\r\n")
    assert cli("PUBLISH", "news", "pushed") == "1\n"
    assert b"pushed" in subscriber.until(b"pushed\r\n")

    program = binary("redis-benchmark", "redis-tools")
    argv = [
        program,
        "-h",
        "127.0.0.1",
        "-p",
        str(port.number),
        "-q",
        "-n",
        "2000",
        "-c",
        "20",
        "-t",
        "set,get",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert "requests per second" in done.stdout
