"""HTTP through the relay, with nginx behind it: nothing is added, lost, reordered or held back."""

from __future__ import annotations

import contextlib
import hashlib
import socket

import pytest

from tests.support.http import Visitor, chunked, fetch
from tests.support.nginx import Nginx
from tests.support.processes import Relay, eventually
from tests.support.services import Connection, Service, answering, counting
from tests.support.world import Published, World

BIG = 200 * 1024 * 1024
PAGE_BYTES = 20 * len(b"<h1>nginx behind a tunnel</h1>\n")


@pytest.fixture
def site(world: World, nginx: Nginx, path: str) -> Published:
    return world.publish(nginx.url, path)


def test_page(site: Published) -> None:
    response = fetch(site.address, site.host)
    assert (response.status, response.end, response.size) == (200, "length", PAGE_BYTES)
    assert response.headers["server"].startswith("nginx")


def test_head_reaches_the_service_as_it_was_sent(world: World, path: str) -> None:
    """The relay reads the first head to find the host; it must not touch a byte of it."""
    seen: list[bytes] = []

    def note(connection: Connection) -> None:
        seen.append(connection.head())
        connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    site = world.publish(world.service(note).url, path)
    request = (
        b"GET /a%20b?q=%00;x HTTP/1.1\r\nhOsT:\t Site.Example.COM:8080 \r\nX-Empty:\r\n"
        b"X-Twice: 1\r\nX-Twice: 2\r\nCookie: a=b; c=\xe9\xff\r\n\r\n"
    )
    visitor = world.visitor(site.address)
    visitor.send(request)
    assert visitor.response().status == 204
    assert seen == [request]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_head_in_small_pieces(world: World, site: Published, size: int) -> None:
    visitor = world.visitor(site.address)
    request = b"GET / HTTP/1.1\r\nX-Before: 1\r\nHost: site.example.com\r\nX-After: 2\r\n\r\n"
    for start in range(0, len(request), size):
        visitor.send(request[start : start + size])
    assert visitor.response().size == PAGE_BYTES


def test_not_found_is_the_services_own(site: Published) -> None:
    response = fetch(site.address, site.host, "/nowhere")
    assert response.status == 404
    assert response.headers["server"].startswith("nginx")


def test_head_request(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    for _ in range(3):
        visitor.request(site.host, method="HEAD")
        response = visitor.response(method="HEAD")
        assert (response.status, response.headers["content-length"]) == (200, str(PAGE_BYTES))


def test_keep_alive(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    for _ in range(200):
        visitor.request(site.host)
        assert visitor.response().size == PAGE_BYTES


def test_pipelined(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    one = b"GET /%s HTTP/1.1\r\nHost: site.example.com\r\n\r\n"
    visitor.send(b"".join(one % (b"" if number % 2 else b"nowhere") for number in range(40)))
    assert [visitor.response().status for _ in range(40)] == [404, 200] * 20


@pytest.mark.timeout(180)
def test_big_download(site: Published, nginx: Nginx) -> None:
    expected = nginx.file("big.bin", BIG)
    response = fetch(site.address, site.host, "/big.bin", keep=False, timeout=60)
    assert (response.status, response.size, response.sha256) == (200, BIG, expected)


@pytest.mark.timeout(180)
def test_big_upload(world: World, site: Published, nginx: Nginx, path: str) -> None:
    nginx.file("big.bin", BIG)
    visitor = world.visitor(site.address, timeout=60)
    visitor.request(site.host, f"/upload/{path}.bin", method="PUT", headers={"Content-Length": str(BIG)})
    with (nginx.www / "big.bin").open("rb") as file:
        visitor.socket.sendfile(file)
    assert visitor.response().status in (201, 204)
    assert nginx.sha256(f"upload/{path}.bin") == nginx.sha256("big.bin")
    (nginx.www / f"upload/{path}.bin").unlink()


def test_ranges(world: World, site: Published, nginx: Nginx) -> None:
    nginx.file("ranges.bin", 3_000_000)
    content = (nginx.www / "ranges.bin").read_bytes()
    visitor = world.visitor(site.address)
    for first, last in [(0, 0), (0, 99), (65_535, 65_536), (1_000_000, 2_499_999), (2_999_999, 2_999_999)]:
        visitor.request(site.host, "/ranges.bin", headers={"Range": f"bytes={first}-{last}"})
        response = visitor.response()
        assert response.status == 206
        assert response.headers["content-range"] == f"bytes {first}-{last}/3000000"
        assert response.body == content[first : last + 1]
    visitor.request(site.host, "/ranges.bin", headers={"Range": "bytes=-100"})
    assert visitor.response().body == content[-100:]
    visitor.request(site.host, "/ranges.bin", headers={"Range": "bytes=3000000-"})
    assert visitor.response().status == 416
    visitor.request(site.host, "/ranges.bin", headers={"Range": "bytes=0-9,100-109"})
    several = visitor.response()
    assert several.status == 206
    assert content[100:110] in several.body


def test_chunked_response(world: World, site: Published, nginx: Nginx) -> None:
    expected = nginx.file("unsized/chunked.bin", 5_000_000)
    visitor = world.visitor(site.address)
    for _ in range(2):
        visitor.request(site.host, "/unsized/chunked.bin")
        response = visitor.response()
        assert (response.end, response.sha256) == ("chunked", expected)


def test_chunked_upload(world: World, site: Published, nginx: Nginx, path: str) -> None:
    nginx.file("ranges.bin", 3_000_000)
    content = (nginx.www / "ranges.bin").read_bytes()
    parts = [content[start : start + 70_001] for start in range(0, len(content), 70_001)]
    visitor = world.visitor(site.address)
    visitor.request(
        site.host,
        f"/upload/chunked-{path}.bin",
        method="PUT",
        headers={"Transfer-Encoding": "chunked"},
        body=chunked(*parts),
    )
    assert visitor.response().status in (201, 204)
    assert nginx.sha256(f"upload/chunked-{path}.bin") == hashlib.sha256(content).hexdigest()


def test_expect_100_continue(world: World, site: Published, nginx: Nginx, path: str) -> None:
    visitor = world.visitor(site.address)
    visitor.request(
        site.host,
        f"/upload/expected-{path}.txt",
        method="PUT",
        headers={"Expect": "100-continue", "Content-Length": "11"},
    )
    assert visitor.head().status == 100  # before one byte of the body was sent
    visitor.send(b"hello world")
    assert visitor.response().status in (201, 204)
    assert (nginx.www / f"upload/expected-{path}.txt").read_bytes() == b"hello world"


def test_http_1_0(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    visitor.request(site.host, version="1.0")
    response = visitor.response()
    assert (response.status, response.size) == (200, PAGE_BYTES)
    assert visitor.ending(10) == "closed"


def test_response_that_ends_by_close(world: World, site: Published, nginx: Nginx) -> None:
    expected = nginx.file("unsized/by-close.bin", 5_000_000)
    visitor = world.visitor(site.address)
    visitor.request(site.host, "/unsized/by-close.bin", version="1.0")
    response = visitor.response()
    assert "content-length" not in response.headers
    assert (response.end, response.sha256) == ("close", expected)


def test_end_of_connection_comes_after_the_last_byte(world: World, site: Published, nginx: Nginx) -> None:
    """Many responses that end by close: a close that overtakes data would cut one short sooner or later."""
    expected = nginx.file("unsized/last-byte.bin", 300_000)
    for _ in range(30):
        visitor = world.visitor(site.address)
        visitor.request(site.host, "/unsized/last-byte.bin", version="1.0")
        assert visitor.response().sha256 == expected
        visitor.close()


def test_half_close_of_the_visitor(world: World) -> None:
    """Protocol 3 carries half close: what counts the body by its end still gets to answer."""
    site = world.publish(world.service(counting).url, "3")
    body = bytes(range(256)) * 8192
    visitor = world.visitor(site.address)
    visitor.request(site.host, method="POST", headers={"Content-Length": str(len(body))})
    visitor.send(body)
    visitor.socket.shutdown(1)
    response = visitor.response()
    assert response.text == f"{len(body)} {hashlib.sha256(body).hexdigest()}"
    assert response.end == "close"


def test_half_close_right_after_the_request(world: World, nginx: Nginx) -> None:
    """As `printf ... | nc -N` does."""
    site = world.publish(nginx.url, "3")
    visitor = world.visitor(site.address)
    visitor.request(site.host)
    visitor.socket.shutdown(1)
    assert visitor.response().size == PAGE_BYTES


def test_answer_before_the_upload_is_over(world: World, path: str) -> None:
    """A service that refuses a big upload, and says so, while the visitor is still sending."""
    answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntoo big"

    def refuses(connection: Connection) -> None:
        connection.head()
        connection.send(answer)
        connection.socket.shutdown(socket.SHUT_WR)
        connection.wait_end()

    site = world.publish(world.service(refuses).url, path)
    for _ in range(5):
        visitor = world.visitor(site.address)
        visitor.request(site.host, method="POST", headers={"Content-Length": "5000000"})
        with contextlib.suppress(
            ConnectionError
        ):  # who goes on sending may be cut, but not before the answer came
            visitor.send(b"x" * 5_000_000)
        response = visitor.response()
        assert (response.status, response.text) == (413, "too big")
        visitor.close()


def test_reset_of_the_service_is_not_a_clean_end(world: World, path: str) -> None:
    """A service that dies in the middle of a response that ends by close: the visitor must be able to tell."""

    def dies(connection: Connection) -> None:
        connection.head()
        go_on.append(connection)
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
        connection.service.stopping.wait()

    go_on: list[Connection] = []
    site = world.publish(world.service(dies).url, path)
    visitor = world.visitor(site.address)
    visitor.request(site.host)
    assert visitor.until(b"half of it")
    go_on[0].reset()
    if path == "1":  # protocol 1 has one way to say that a connection ended
        assert visitor.ending(10) in ("closed", "reset")
    else:
        assert visitor.ending(10) == "reset"


def test_visitor_that_goes_away_ends_the_services_connection(world: World, path: str) -> None:
    def begins(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\n")
        connection.wait_end()

    service = world.service(begins)
    site = world.publish(service.url, path)
    for number, leave in enumerate((Visitor.close, Visitor.reset)):
        visitor = world.visitor(site.address)
        visitor.request(site.host)
        visitor.until(b"\r\n")
        leave(visitor)
        assert service.connections[number].gone.wait(10)


def test_many_connections_one_after_the_other_leave_nothing(world: World, nginx: Nginx, path: str) -> None:
    site = world.publish(nginx.url, path)
    if path == "direct":
        pytest.skip("about the relay")
    for _ in range(20):
        assert fetch(site.address, site.host).whole
    before = [process.settle(streams=0) for process in (site.server.process, site.client.process)]
    for number in range(300):
        with Visitor(site.address) as visitor:
            visitor.request(site.host, version="1.0" if number % 2 else "1.1")
            visitor.response() if number % 3 else visitor.reset()
    for process, first in zip((site.server.process, site.client.process), before, strict=True):
        process.settle(
            streams=0, spare_fds=first["spare_fds"], greenlets=first["greenlets"], pumps=first["pumps"]
        )


def test_what_was_relayed_is_counted(world: World, path: str) -> None:
    if path == "direct":
        pytest.skip("about the relay")
    site = world.publish(world.service(counting).url, path)
    body = b"x" * 1_000_000
    visitor = world.visitor(site.address)
    visitor.request(site.host, method="POST", headers={"Content-Length": str(len(body))}, body=body)
    for process in (site.server.process, site.client.process):
        counted = eventually(
            lambda process=process: _at_least(process, len(body)), f"{process.name} counts what it relayed"
        )
        assert counted["bytes_in"] < len(body) + 1000
        assert counted["bytes_out"] == 0
        assert counted["streams_opened"] == 1


def _at_least(process: Relay, size: int) -> dict[str, int] | None:
    stats = process.stats()
    return stats if stats["bytes_in"] > size else None


def test_two_visitors_do_not_mix(world: World, path: str) -> None:
    """Streams that run at once on one tunnel, each with bytes of its own."""
    many: list[Service] = [world.service(answering(bytes([65 + number]) * 200_000)) for number in range(4)]
    if path == "direct":
        pytest.skip("needs several services")
    server = world.server(users={"site": world.secret()})
    secret = server.argv[server.argv.index("--secret") + 1]
    local = {f"s{number}": service.url for number, service in enumerate(many)}
    world.client(server, "site", secret, "--remoteConnections", "1", local=local, protocol=path)
    visitors = [world.visitor(server.address) for _ in range(16)]
    for _ in range(10):
        for number, visitor in enumerate(visitors):
            visitor.request(f"s{number % 4}.example.com")
        for number, visitor in enumerate(visitors):
            assert visitor.response().body == bytes([65 + number % 4]) * 200_000
