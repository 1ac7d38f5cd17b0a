"""Visitors that are slow, stuck or too many, beside others that must not notice."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Callable

import pytest

from tests.support.http import Ended, Visitor, fetch
from tests.support.load import Load, Result, busy
from tests.support.nginx import Nginx
from tests.support.ports import Address
from tests.support.processes import eventually
from tests.support.services import Connection, answering
from tests.support.world import World

MEMORY_BYTES = 150 * 1024 * 1024
HEAD_TIMEOUT_S = 10.0


class SlowReader:
    """A visitor that reads 1 KB a second of a huge response, in a thread."""

    def __init__(self, address: Address, host: str, path: str) -> None:
        self.visitor = Visitor(address, receive_buffer=4096)
        self.visitor.request(host, path)
        assert self.visitor.head().status == 200
        self.read = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.read += len(self.visitor.receive(1024))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.visitor.close()


def compare(
    without: Callable[[], Result], with_it: Callable[[], Result], limit: float, rounds: int = 3, most: int = 9
) -> list[float]:
    """p99 with something against p99 without it, measured by turns, until the median of the ratios is within the limit
    (after `rounds` at the earliest) or after `most` rounds. The ratios.

    The machine is shared and noisy: one ratio says little, and what is wrong stays wrong in the median of nine.
    """
    ratios: list[float] = []
    while len(ratios) < most:
        first, second = without(), with_it()
        assert not first.errors
        assert not second.errors
        ratios.append(second.p99_ms / first.p99_ms)
        print(
            f"p99 without {first.p99_ms} ms of {first.requests}, with {second.p99_ms} ms of {second.requests}"
        )
        if len(ratios) >= rounds and statistics.median(ratios) <= limit:
            break
    return ratios


@pytest.mark.timeout(240)
def test_slow_visitor_beside_busy_ones(world: World, nginx: Nginx) -> None:
    """1 KB/s from a 1 GB response on the only tunnel, beside 100 busy visitors: their p99 within 1.5 times."""
    nginx.file("huge.bin", 1 << 30, random=False)
    site = world.publish(nginx.url, "3", client=("--remoteConnections", "1"))

    def load() -> Result:
        return busy(site.address, site.host, "/", 100, 2.0)

    def beside() -> Result:
        slow = SlowReader(site.address, site.host, "/huge.bin")
        try:
            return load()
        finally:
            slow.close()

    load()  # warm up
    ratios = compare(load, beside, 1.5)
    assert statistics.median(ratios) <= 1.5, ratios
    for process in (site.server.process, site.client.process):
        assert process.rss < MEMORY_BYTES
        process.settle(streams=0)


@pytest.mark.parametrize("protocol", ["3", "1"])
def test_slow_visitors_do_not_fill_memory(world: World, nginx: Nginx, protocol: str) -> None:
    """100 of them, each with a response of 1 GB. On protocol 1 they may hold each other up, but not fill memory."""
    nginx.file("huge.bin", 1 << 30, random=False)
    site = world.publish(nginx.url, protocol)
    visitors = [world.visitor(site.address, receive_buffer=4096) for _ in range(100)]
    for visitor in visitors:
        visitor.request(site.host, "/huge.bin")
    processes = (site.server.process, site.client.process)
    eventually(lambda: processes[1].stats()["streams"] == 100, "all have reached the client")

    def moved() -> tuple[int, ...]:
        return tuple(process.stats()["queued_bytes"] + process.rss for process in processes)

    last = moved()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        threading.Event().wait(0.5)
        now = moved()
        if all(abs(one - other) < 1 << 20 for one, other in zip(now, last, strict=True)):
            break
        last = now
    for process in processes:
        assert process.rss < MEMORY_BYTES, process
    for visitor in visitors:
        visitor.reset()
    for process in processes:
        process.settle(streams=0)


def test_a_slow_upload_beside_busy_visitors(world: World, nginx: Nginx) -> None:
    """The other direction: a service that does not read, a visitor that sends all it can."""
    reading = threading.Event()

    def does_not_read(connection: Connection) -> None:
        reading.wait(60)

    stuck = world.service(does_not_read)
    secret = world.secret()
    server = world.server(users={"id1": secret})
    local = {"stuck": stuck.url, "page": nginx.url}
    client = world.client(server, "id1", secret, "--remoteConnections", "1", local=local)
    visitor = world.visitor(server.address, timeout=1)
    visitor.request("stuck.example.com", method="POST", headers={"Content-Length": "1000000000"})
    with pytest.raises(TimeoutError):
        visitor.send(b"x" * 200_000_000)
    result = busy(server.address, "page.example.com", "/", 50, 2.0)
    assert not result.errors
    assert result.requests > 100
    assert result.max_ms < 5000
    for process in (server.process, client.process):
        assert process.rss < MEMORY_BYTES
    visitor.reset()
    reading.set()


class HalfHeads:
    """Visitors that send half a request line and wait; notes when each is closed."""

    def __init__(self, address: Address, count: int, per_second: float) -> None:
        self.opened_at: dict[socket.socket, float] = {}
        self.lived_s: list[float] = []
        self._address, self._count, self._per_second = address, count, per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        start = time.monotonic()
        opened = 0
        while not self._stop.is_set() and (opened < self._count or self.opened_at):
            due = min(int((time.monotonic() - start) * self._per_second) + 1, self._count)
            while opened < due:
                sock = socket.create_connection(self._address, 20)
                sock.sendall(b"GET /half HTT")
                sock.setblocking(False)
                self.opened_at[sock] = time.monotonic()
                selector.register(sock, selectors.EVENT_READ)
                opened += 1
            for key, _ in selector.select(0.005 if opened < self._count else 0.2):
                sock = key.fileobj  # type: ignore[assignment]
                try:
                    if sock.recv(65536):
                        continue
                except ConnectionError:
                    pass
                self.lived_s.append(time.monotonic() - self.opened_at.pop(sock))
                selector.unregister(sock)
                sock.close()
        selector.close()

    def wait(self, timeout: float) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"{len(self.opened_at)} are still open"

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for sock in self.opened_at:
            sock.close()


@pytest.mark.timeout(240)
def test_5000_visitors_with_half_a_request_line(world: World, nginx: Nginx) -> None:
    """They come within two seconds, are closed at the head timeout, and the others' p99 at most doubles meanwhile."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 5500:
        pytest.skip("this machine allows a process too few open files")
    site = world.publish(nginx.url, "3")
    settled = site.server.process.settle(streams=0)
    page = (site.address, site.host, "/", 50)
    ratios: list[float] = []
    while len(ratios) < 3 and (
        not ratios or min(ratios) > 2
    ):  # again when something else kept the machine busy
        quiet = [busy(*page, 3.0, pause=0.02)]
        load = Load(*page, seconds=15.0, pause=0.02)
        half = world.keep(HalfHeads(site.address, 5000, 2500))
        disturbed = load.result()
        half.wait(30)
        quiet.append(busy(*page, 3.0, pause=0.02))
        print(f"quiet {quiet}, disturbed {disturbed}")
        assert len(half.lived_s) == 5000
        assert min(half.lived_s) > HEAD_TIMEOUT_S - 2
        assert statistics.median(half.lived_s) < HEAD_TIMEOUT_S + 2
        assert max(half.lived_s) < HEAD_TIMEOUT_S + 5
        assert not disturbed.errors
        ratios.append(disturbed.p99_ms / statistics.mean(result.p99_ms for result in quiet))
    assert min(ratios) <= 2, ratios
    assert site.server.process.rss < MEMORY_BYTES
    site.server.process.settle(spare_fds=settled["spare_fds"] + 1, greenlets=settled["greenlets"] + 1)


def test_whoever_does_not_get_to_the_point_is_closed(world: World) -> None:
    """Nothing at all, half of a tunnel's opening, a byte now and then: none of it buys time, all have 10 s."""
    server = world.server(users={"id1": world.secret()})
    start = time.monotonic()
    trickling = world.visitor(server.address, timeout=0.3)
    stuck = {}
    for said in (
        b"",
        b"G",
        b"\xf0",
        b"\xf0\x03",
        b"\xf0\x01",
        b"\xf0\x01\x03id1",
        b"\xf0\x03\x00\x00\x00\x00\x07",
    ):
        stuck[said] = world.visitor(server.address)
        stuck[said].send(said)
    ended = ""
    while not ended and time.monotonic() - start < 20:
        try:
            trickling.send(b"G")
            trickling.receive()
        except TimeoutError:
            pass
        except (Ended, ConnectionError) as end:
            ended = repr(end)
    assert HEAD_TIMEOUT_S - 2 < time.monotonic() - start < HEAD_TIMEOUT_S + 5
    for said, visitor in stuck.items():
        assert visitor.ending(10), said
    server.process.settle(visitors_waiting=0, tunnels=0)


@pytest.mark.timeout(180)
def test_many_half_openings_leave_visitors_alone(world: World, nginx: Nginx) -> None:
    """1,500 that begin to open a tunnel and stop: pages go on, and a real client still gets in afterwards."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    before = server.process.settle(streams=0)
    half = [world.visitor(server.address) for _ in range(1500)]
    for number, visitor in enumerate(half):
        with contextlib.suppress(ConnectionError):
            visitor.send(b"\xf0\x03\x00" if number % 2 else b"\xf0\x01\x03i")
    result = busy(server.address, "id1.example.com", "/", 20, 2.0, pause=0.02)
    assert not result.errors
    assert result.p99_ms < 500
    for visitor in half:
        assert visitor.ending(30)
        visitor.close()
    server.process.settle(spare_fds=before["spare_fds"] + 1, greenlets=before["greenlets"] + 1)
    world.client(server, "id1", secret, local=nginx.url, name="second client")


def test_downloads_at_full_speed_beside_busy_visitors(world: World, nginx: Nginx) -> None:
    """Three of them on the only tunnel: pages still come in good time, and a download gets its share."""
    nginx.file("huge.bin", 1 << 30, random=False)
    site = world.publish(nginx.url, "3", client=("--remoteConnections", "1"))
    stop = threading.Event()
    got = [0, 0, 0]

    def download(number: int) -> None:
        with Visitor(site.address) as visitor:
            visitor.request(site.host, "/huge.bin")
            while not stop.is_set():
                got[number] += len(visitor.receive(1 << 18))

    threads = [threading.Thread(target=download, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        result = busy(site.address, site.host, "/", 20, 3.0, pause=0.02)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print(f"{result}, downloads {got}")
    assert not result.errors
    assert result.p99_ms < 500
    assert min(got) > 1_000_000


@pytest.mark.timeout(240)
def test_server_out_of_file_descriptors(world: World) -> None:
    """Accepting pauses, without a busy loop; who is connected goes on; and it recovers by itself."""
    secret = world.secret()
    server = world.server(users={"id1": secret}, files=100)
    world.client(server, "id1", secret, local=world.service(answering(b"page")).url)
    served = world.visitor(server.address)
    served.request("id1.example.com")
    assert served.response().text == "page"
    crowd = [world.visitor(server.address) for _ in range(200)]
    for visitor in crowd:
        visitor.send(b"GET / HT")
    server.process.wait_for(r"(?i)accept.*pause|open files|descriptors")
    cpu, start, lines = server.process.cpu_s, time.monotonic(), server.process.mark()
    while time.monotonic() - start < 4:
        served.request("id1.example.com")
        assert served.response().text == "page"
        threading.Event().wait(0.05)
    assert server.process.cpu_s - cpu < 0.5 * (time.monotonic() - start)
    assert server.process.mark() - lines < 20
    for visitor in crowd:
        visitor.close()
    eventually(lambda: fetch(server.address, "id1.example.com").text == "page", "it goes on by itself", 15)
    eventually(lambda: server.process.open_files < 60, "the server lets go of its descriptors")


def test_client_out_of_file_descriptors(world: World) -> None:
    """Visitors that the client has no descriptor for get a page that says so; later ones are served again."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    held = threading.Event()

    def holds(connection: Connection) -> None:
        connection.head()
        held.wait(60)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    service = world.service(holds)
    client = world.client(server, "id1", secret, local=service.url, files=60)
    visitors = [world.visitor(server.address, timeout=60) for _ in range(100)]
    for visitor in visitors:
        visitor.request("id1.example.com")
    eventually(lambda: client.process.find(r"(?i)open files|descriptor|EMFILE"), "the client says so")
    cpu, start = client.process.cpu_s, time.monotonic()
    threading.Event().wait(2)
    assert client.process.cpu_s - cpu < 0.5 * (time.monotonic() - start)
    held.set()
    statuses = [visitor.response().status for visitor in visitors]
    assert set(statuses) == {200, 503}, statuses
    for visitor in visitors:
        visitor.close()
    eventually(lambda: client.process.open_files < 50, "the client lets go of its descriptors")
    client.process.settle(streams=0)
    assert fetch(server.address, "id1.example.com").text == "ok"
