"""Which service a visitor gets, and what page when there is none."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.http import Response, Visitor, fetch
from tests.support.nginx import Nginx
from tests.support.processes import eventually
from tests.support.services import Unanswered, answering
from tests.support.world import World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
ABSENCE_S = 3.0


def explained(response: Response, *words: str) -> bool:
    """A small page of ours, for people: names its status and says what is the matter."""
    assert response.whole, response
    assert 0 < response.size < 4096
    assert "text/" in response.headers["content-type"]
    assert "nginx" not in response.headers.get("server", "")
    lower = response.text.lower()
    missing = [word for word in (str(response.status), *words) if word not in lower]
    assert not missing, f"{missing} not in {response.text!r}"
    return True


@BOTH
def test_several_services_by_host_prefix(world: World, protocol: str) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    local = {name: world.service(answering(name.encode())).url for name in ("blog", "shop", "wiki-2")}
    world.client(server, "id1", secret, local=local, protocol=protocol)
    for host, body in [
        ("blog.example.com", b"blog"),
        ("SHOP.example.com:8080", b"shop"),
        ("wiki-2.localhost.", b"wiki-2"),
    ]:
        assert fetch(server.address, host).body == body
    assert (
        fetch(server.address, "id1.example.com").status == 404
    )  # the id is a prefix only for a single service


@pytest.mark.parametrize(("protocol", "count"), [("3", 600), ("1", 300)])
def test_as_many_services_as_are_allowed(world: World, protocol: str, count: int) -> None:
    """`maxHandShakeOptions` is 600; protocol 1 counts two options for each service but the last."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    url = world.service(answering(b"found")).url
    services = [
        {"local": url, "hostPrefix": f"a-rather-long-prefix-of-service-number-{number}"}
        for number in range(count)
    ]
    options = {"id": "id1", "secret": secret, "remote": f"tcp://{server.port}", "protocol": protocol}
    config = world.write("client.yml", {"type": "client", "services": services, "options": options})
    world.gt("client", ["client", "-c", str(config)]).wait_for(r"tunnel 1 to .* is up")
    for number in (0, 1, count // 2, count - 1):
        assert (
            fetch(server.address, f"a-rather-long-prefix-of-service-number-{number}.example.com").text
            == "found"
        )
    services.append({"local": url, "hostPrefix": "one-too-many"})
    config = world.write("more.yml", {"type": "client", "services": services, "options": options})
    more = world.gt("client with more", ["client", "-c", str(config)])
    more.wait_for(r"no tunnel: .*more .*services")


@BOTH
def test_prefix_of_a_single_service_is_the_id(world: World, nginx: Nginx, protocol: str) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url, protocol=protocol)
    assert fetch(server.address, "id1.example.com").status == 200
    assert fetch(server.address, "id1").status == 200


def test_several_clients(world: World) -> None:
    users = {name: world.secret() for name in ("one", "two", "three")}
    server = world.server(users=users)
    for name, secret in users.items():
        world.client(
            server, name, secret, local=world.service(answering(name.encode())).url, name=f"client {name}"
        )
    for name in users:
        assert fetch(server.address, f"{name}.example.com").text == name


@BOTH
def test_connection_stays_with_the_service_of_its_first_request(world: World, protocol: str) -> None:
    """GT's privacy rule: nothing after the first head is read."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    local = {name: world.service(answering(name.encode())).url for name in ("blog", "shop")}
    world.client(server, "id1", secret, local=local, protocol=protocol)
    visitor = world.visitor(server.address)
    for host in ("shop.example.com", "blog.example.com", "nobody.example.com"):
        visitor.request(host)
        assert visitor.response().text == "shop"


def test_other_mux_header(world: World) -> None:
    """The whole value is the prefix then."""
    secret = world.secret()
    server = world.server("--httpMUXHeader", "X-Site", users={"id1": secret})
    world.client(server, "id1", secret, local=world.service(answering(b"found")).url)
    visitor = world.visitor(server.address)
    visitor.request("whatever.example.com", headers={"X-Site": "id1"})
    assert visitor.response().text == "found"
    assert fetch(server.address, "id1.example.com").status in (400, 404)


def test_nobody_publishes_it_404_at_once(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    start = time.monotonic()
    response = fetch(server.address, "unknown.example.com")
    took = time.monotonic() - start
    assert response.status == 404
    assert explained(response)
    assert took < ABSENCE_S - 1


def test_404_of_a_known_user_that_never_came(world: World) -> None:
    server = world.server(users={"id1": world.secret()})
    assert explained(fetch(server.address, "id1.example.com"))
    assert fetch(server.address, "id1.example.com").status == 404


@BOTH
def test_published_and_away_503_after_3_s(world: World, nginx: Nginx, protocol: str) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url, protocol=protocol)
    assert fetch(server.address, "id1.example.com").status == 200
    mark = server.process.mark()
    client.process.kill()
    server.process.wait_for(r"tunnel of id1 .* is down", after=mark)  # a request before that is lost with it
    start = time.monotonic()
    response = fetch(server.address, "id1.example.com")
    took = time.monotonic() - start
    assert response.status == 503
    assert explained(response)
    assert ABSENCE_S - 0.5 < took < ABSENCE_S + 5


@BOTH
def test_published_and_back_in_time_is_answered(world: World, nginx: Nginx, protocol: str) -> None:
    """The request waits for its client and is then served, as if nothing had been."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    first = world.client(server, "id1", secret, local=nginx.url, protocol=protocol)
    mark = server.process.mark()
    first.process.end()
    server.process.wait_for(r"tunnel of id1 .*", after=mark)
    got: list[Response] = []
    waiting = threading.Thread(target=lambda: got.append(fetch(server.address, "id1.example.com")))
    begun = time.monotonic()
    waiting.start()
    world.client(server, "id1", secret, local=nginx.url, protocol=protocol, name="second client")
    up = time.monotonic() - begun
    waiting.join(20)
    if up > ABSENCE_S - 0.5:
        pytest.skip(f"this machine took {up:.1f} s to start a client; a request waits 3 s")
    assert got[0].status == 200


def test_waiting_requests_do_not_pile_up(world: World, nginx: Nginx) -> None:
    """500 requests for a service that is away, answered with 503 all, and nothing is left of them."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=nginx.url)
    client.process.end()
    before = server.process.stats()
    visitors = [world.visitor(server.address) for _ in range(500)]
    for visitor in visitors:
        visitor.request("id1.example.com", headers={"Connection": "close"})
    assert {visitor.response().status for visitor in visitors} == {503}
    for visitor in visitors:
        visitor.close()
    server.process.settle(spare_fds=before["spare_fds"], greenlets=before["greenlets"])


@BOTH
def test_service_refuses_502(world: World, protocol: str) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=f"http://{world.port()}", protocol=protocol)
    response = fetch(server.address, "id1.example.com")
    assert response.status == 502
    assert explained(response)
    client.process.wait_for(r"refused")


@BOTH
@pytest.mark.timeout(180)
def test_service_does_not_answer_the_dial_504(world: World, protocol: str) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    nowhere = world.keep(Unanswered(), until_last=True)
    world.client(server, "id1", secret, local=nowhere.url, protocol=protocol)
    response = fetch(server.address, "id1.example.com", timeout=90)
    # Protocol 1 has one way to end a task: the server only knows that there was no answer.
    assert response.status == (504 if protocol == "3" else 502)
    assert explained(response)


@BOTH
def test_the_error_pages_differ_and_the_service_may_come_back(world: World, protocol: str) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    port = world.port()
    world.client(server, "id1", secret, local=f"http://{port}", protocol=protocol)
    refused = fetch(server.address, "id1.example.com")
    unknown = fetch(server.address, "unknown.example.com")
    assert (refused.status, unknown.status) == (502, 404)
    assert refused.body != unknown.body
    world.service(answering(b"back"), port)
    assert fetch(server.address, "id1.example.com").text == "back"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00" * 100,
        b"\xf0\x63hello",
        b"\r\n\r\n\r\n\x01",
        b"EHLO there\r\n",
    ],
    ids=["tls", "ssh", "zeros", "unknown protocol", "empty lines", "smtp"],
)
def test_bytes_that_are_not_http_are_closed(world: World, garbage: bytes) -> None:
    server = world.server(users={"id1": world.secret()})
    visitor = world.visitor(server.address)
    visitor.send(garbage)
    received = b""
    while True:
        try:
            received += visitor.receive()
        except TimeoutError:
            raise AssertionError("still open") from None
        except Exception as end:
            assert getattr(end, "how", "") in ("closed", "reset")  # noqa: PT017
            break
    assert b"200" not in received


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: id1.example.com\r\nHost: id1.example.com\r\n",
        b"Host: id1.example.com\r\nHOST: other.example.com\r\n",
    ],
    ids=["same", "different"],
)
def test_two_hosts_are_refused(world: World, fields: bytes) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    service = world.service(answering(b"reached"))
    world.client(server, "id1", secret, local=service.url)
    visitor = world.visitor(server.address)
    visitor.send(b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
    response = visitor.response()
    assert response.status == 400
    assert explained(response)
    assert visitor.ending(10)
    assert service.connections == []


def test_head_over_the_limit(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    visitor = world.visitor(server.address)
    visitor.send(b"GET / HTTP/1.1\r\n" + b"X-Filler: 0123456789\r\n" * 1000)
    try:
        assert visitor.response().status in (400, 431)
    except Exception as end:
        assert getattr(end, "how", "") == "reset"  # noqa: PT017 (it may be reset with bytes of ours unread)


@BOTH
def test_two_clients_with_one_id(world: World, protocol: str) -> None:
    """Whatever the server decides (both serve, or the later is refused): no visitor may suffer from it."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    first, second = (world.service(answering(name)) for name in (b"first", b"second"))
    one = world.client(server, "id1", secret, local=first.url, protocol=protocol, name="client one")
    world.allow(r"client two")
    two = world.client(
        server, "id1", secret, local=second.url, protocol=protocol, name="client two", ready=False
    )
    two.process.wait_for(r"is up|refuse|conflict|another client")
    answers = {fetch(server.address, "id1.example.com").text for _ in range(20)}
    assert answers
    assert answers <= {"first", "second"}
    one.process.kill()
    eventually(
        lambda: fetch(server.address, "id1.example.com").text == "second", "the second client takes over", 30
    )


def test_a_prefix_belongs_to_who_has_it(world: World, nginx: Nginx) -> None:
    """Another user that asks for a prefix in use is told so, and the first one keeps its visitors."""
    users = {name: world.secret() for name in ("one", "two")}
    server = world.server(users=users)
    world.client(server, "one", users["one"], local={"blog": world.service(answering(b"one")).url})
    world.allow(r"blog")
    other = world.client(
        server,
        "two",
        users["two"],
        local={"blog": world.service(answering(b"two")).url},
        ready=False,
        name="other client",
    )
    other.process.wait_for(r"blog|conflict")
    assert {fetch(server.address, "blog.example.com").text for _ in range(10)} == {"one"}


def test_visitors_of_a_service_that_moves_to_another_address(world: World) -> None:
    """A client restarted with another local address serves from there, at once."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=world.service(answering(b"old")).url)
    assert fetch(server.address, "id1.example.com").text == "old"
    client.process.end()
    world.client(server, "id1", secret, local=world.service(answering(b"new")).url, name="second client")
    assert fetch(server.address, "id1.example.com").text == "new"


def test_absolute_form_and_no_host(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=world.service(answering(b"found")).url)
    with Visitor(server.address) as visitor:
        visitor.send(b"GET http://id1.example.com/x HTTP/1.1\r\nHost: other.example.com\r\n\r\n")
        assert visitor.response().text == "found"
    with Visitor(server.address) as visitor:
        visitor.send(b"GET / HTTP/1.0\r\n\r\n")
        assert visitor.response().status in (400, 404)
