"""Per-request mode from outside: every request of a connection is read, on the client for services that ask for it
and on the server with routePerRequest, with nginx behind that tells what arrived."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.support.http import Response, Visitor, chunked
from tests.support.nginx import Nginx
from tests.support.processes import eventually
from tests.support.services import Connection, answering, endless, events
from tests.support.websocket import connect
from tests.support.world import GT, Published, World

MB = 1024 * 1024
CONFIG = """
daemon off;
master_process off;
pid {root}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    log_format seen '$request_method $request_uri $http_host';
    access_log {root}/access.log seen;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    client_max_body_size 0;
    keepalive_requests 100000;
    server {{
        listen {address};
        root {root}/www;
        location / {{ }}
        location /unsized/ {{ ssi on; ssi_types *; }}
        location /upload/ {{ dav_methods PUT; create_full_put_path on; }}
        location /seen {{
            return 200 "host=$http_host for=$http_x_forwarded_for proto=$http_x_forwarded_proto asked=$http_x_forwarded_host forwarded=$http_forwarded authorization=$http_authorization upgrade=$http_upgrade settings=$http_http2_settings";
        }}
    }}
}}
"""  # noqa: E501

MODES = {
    "client": ((), ("--forwardedFor",)),
    "server": (("--routePerRequest",), ()),
}


@pytest.fixture(scope="module")
def logging_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """An nginx that writes down which requests it got."""
    with contextlib.closing(Nginx(tmp_path_factory.mktemp("nginx"), CONFIG)) as running:
        yield running


@pytest.fixture(params=MODES)
def publish(request: pytest.FixtureRequest, world: World, path: str) -> Callable[[str], Published]:
    """Publishes a service with each way of reading all requests."""
    server, client = MODES[request.param]
    return lambda url: world.publish(url, path, server=server, client=client)


@pytest.fixture
def site(publish: Callable[[str], Published], logging_nginx: Nginx) -> Published:
    return publish(logging_nginx.url)


def seen(response: Response) -> dict[str, str]:
    """What nginx says at /seen that it got."""
    assert response.status == 200, response.text
    return dict(re.findall(r"(\w+)=(.*?)(?= \w+=|$)", response.text))


# ordinary traffic


def test_keep_alive_and_pipelining(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    for _ in range(100):
        visitor.request(site.host)
        assert visitor.response().status == 200
    for number in range(50):
        visitor.request(site.host, "/" if number % 2 else "/nowhere")
    assert [visitor.response().status for _ in range(50)] == [404, 200] * 25


@pytest.mark.parametrize("size", [1, 7])
def test_requests_in_small_pieces(world: World, site: Published, size: int) -> None:
    visitor = world.visitor(site.address)
    request = f"GET / HTTP/1.1\r\nHost: {site.host}\r\nX: y\r\n\r\n".encode() * 2
    for start in range(0, len(request), size):
        visitor.send(request[start : start + size])
    assert [visitor.response().status for _ in range(2)] == [200, 200]


def test_head_and_not_modified(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    visitor.request(site.host, method="HEAD")
    response = visitor.response(method="HEAD")
    assert int(response.headers["content-length"]) > 0
    visitor.request(site.host, headers={"If-None-Match": response.headers["etag"]})
    assert visitor.response().status == 304
    visitor.request(site.host)
    assert visitor.response().status == 200


def test_http_1_0(world: World, site: Published, logging_nginx: Nginx) -> None:
    digest = logging_nginx.file("unsized/1", 100_000)
    visitor = world.visitor(site.address)
    visitor.request(site.host, "/unsized/1", version="1.0")
    response = visitor.response()
    assert (response.end, response.sha256) == ("close", digest)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_upload(world: World, site: Published, logging_nginx: Nginx, framing: str) -> None:
    data = os.urandom(20 * MB)
    place = f"/upload/{os.urandom(4).hex()}"
    visitor = world.visitor(site.address)
    if framing == "length":
        visitor.request(site.host, place, method="PUT", body=data)
    else:
        parts = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
        headers = {"Transfer-Encoding": "chunked"}
        visitor.request(site.host, place, method="PUT", headers=headers, body=chunked(*parts))
    assert visitor.response().status == 201
    assert logging_nginx.sha256(place[1:]) == hashlib.sha256(data).hexdigest()
    visitor.request(site.host)
    assert visitor.response().status == 200


@pytest.mark.parametrize("place", ["large", "unsized/large"])
def test_a_large_download(world: World, site: Published, logging_nginx: Nginx, place: str) -> None:
    digest = logging_nginx.file(place, 20 * MB)
    visitor = world.visitor(site.address)
    for _ in range(2):
        visitor.request(site.host, "/" + place)
        response = visitor.response(keep=False)
        assert (response.sha256, response.whole) == (digest, True)


def test_100_continue(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    headers = {"Expect": "100-continue", "Content-Length": "3"}
    visitor.request(site.host, f"/upload/{os.urandom(4).hex()}", method="PUT", headers=headers)
    assert visitor.head().status == 100
    visitor.send(b"abc")
    assert visitor.response().status == 201
    visitor.request(site.host)
    assert visitor.response().status == 200


def test_server_sent_events(world: World, publish: Callable[[str], Published]) -> None:
    site = publish(world.service(events(5, 0.05)).url)
    visitor = world.visitor(site.address)
    visitor.request(site.host)
    assert visitor.head().status == 200
    for _ in range(5):
        assert visitor.until(b"\n\n").startswith(b"data: ")


@pytest.mark.parametrize("size", [1, 125, 1 * MB])
def test_websocket(world: World, publish: Callable[[str], Published], size: int) -> None:
    site = publish(world.echo_service().url)
    socket = world.keep(connect(site.address, site.host))
    message = os.urandom(size)
    for _ in range(3):
        socket.send_binary(message)
        assert socket.recv() == message


def test_h2c_is_not_passed_on(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    headers = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAMAAABkAAQAoAAA",
    }
    visitor.request(site.host, "/seen", headers=headers)
    values = seen(visitor.response())
    assert (values["upgrade"], values["settings"]) == ("", "")


def test_connect_is_refused(world: World, site: Published) -> None:
    visitor = world.visitor(site.address)
    visitor.send(f"CONNECT {site.host}:80 HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode())
    assert visitor.response().status == 400


# nobody is told that something is whole that is not


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_visitor_cut_in_an_upload(
    world: World, publish: Callable[[str], Published], framing: str, how: str
) -> None:
    def reading(connection: Connection) -> None:
        head = connection.head()
        connection.service.notes.append(head)
        ended = "reset"
        with contextlib.suppress(OSError):
            while data := connection.socket.recv(65536):
                connection.pending += data
            ended = "closed"
        connection.service.notes.append((ended, connection.pending))

    service = world.service(reading)
    site = publish(service.url)
    visitor = world.visitor(site.address)
    field = {"Content-Length": "1000"} if framing == "length" else {"Transfer-Encoding": "chunked"}
    visitor.request(site.host, method="POST", headers=field)
    visitor.send(b"3\r\nabc\r\n")
    eventually(lambda: service.notes, "the head arrives")
    visitor.reset() if how == "reset" else visitor.close()
    eventually(lambda: len(service.notes) == 2, "the end arrives")
    _, data = service.notes[1]
    assert len(data) < 1000
    assert b"0\r\n\r\n" not in data, "no end of a chunked body"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_service_cut_in_a_response(world: World, publish: Callable[[str], Published], framing: str) -> None:
    service = world.service(endless(framing))
    site = publish(service.url)
    visitor = world.visitor(site.address)
    visitor.request(site.host)
    response = visitor.head()
    visitor.receive()
    service.connections[0].reset()
    visitor.body(response, keep=False)
    assert not response.whole


def test_a_tunnel_cut_in_a_response(world: World, path: str) -> None:
    site = world.publish(world.service(endless("length")).url, path, client=["--forwardedFor"], cuttable=True)
    visitor = world.visitor(site.address)
    visitor.request(site.host)
    response = visitor.head()
    site.proxy.cut()
    visitor.body(response, keep=False)
    assert not response.whole


# back pressure


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_slow_visitor_costs_little_memory(
    world: World, publish: Callable[[str], Published], framing: str
) -> None:
    site = publish(world.service(endless(framing)).url)
    ends = [psutil.Process(end.process.pid) for end in (site.server, site.client)]
    visitors = [world.visitor(site.address, receive_buffer=4096) for _ in range(5)]
    for visitor in visitors:
        visitor.request(site.host)
        visitor.head()
    before = [end.memory_info().rss for end in ends]
    watched = world.visitor(site.address)
    watched.request(site.host)
    watched.head()
    for _ in range(200):
        watched.exactly(65536)
    grown = [end.memory_info().rss - was for end, was in zip(ends, before, strict=True)]
    assert max(grown) < 30 * MB


# smuggling


# Fields, added to "POST /first" and its Host, and what is sent of a body. Behind it comes the hidden request.
CHUNKED = "Transfer-Encoding: chunked\r\n"
ATTACKS = {
    "CL.TE": ("Content-Length: {length}\r\n" + CHUNKED, "0\r\n\r\n"),
    "TE.CL": (CHUNKED + "Content-Length: 5\r\n", "0\r\n\r\n"),
    "TE.TE": (CHUNKED + "Transfer-Encoding: x\r\n", "0\r\n\r\n"),
    "TE.TE, the other way round": ("Transfer-Encoding: x\r\n" + CHUNKED, "0\r\n\r\n"),
    "TE with a tab": ("Content-Length: {length}\r\nTransfer-Encoding:\tchunked\r\n", "0\r\n\r\n"),
    "TE with a vertical tab": ("Transfer-Encoding: \vchunked\r\n", "0\r\n\r\n"),
    "TE behind a space": ("Content-Length: {length}\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    "TE before a space": ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    "TE folded": ("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
    "TE behind a bare LF": ("Content-Length: {length}\r\nX: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    "CL.CL": ("Content-Length: 0\r\nContent-Length: {length}\r\n", ""),
    "CL, CL": ("Content-Length: 0, {length}\r\n", ""),
    "CL with a sign": ("Content-Length: +0\r\n", ""),
    "CL in hex": ("Content-Length: 0x0\r\n", ""),
    "CL with a space in its name": ("Content Length: {length}\r\n", ""),
    "CL behind a bare LF": ("X: y\nContent-Length: {length}\r\n", ""),
    "CL behind a bare CR": ("X: y\rContent-Length: {length}\r\n", ""),
    "CL behind NUL": ("X: \0\r\nContent-Length: {length}\r\n", ""),
    "two Hosts": ("Host: other.example.com\r\n", ""),
    "size with 0x": (CHUNKED, "0x5\r\nabcde\r\n0\r\n\r\n"),
    "size with a space": (CHUNKED, "5 \r\nabcde\r\n0\r\n\r\n"),
    "size beyond 64 bits": (CHUNKED, "10000000000000000\r\n0\r\n\r\n"),
    "size without CR": (CHUNKED, "5\nabcde\r\n0\r\n\r\n"),
    "chunk without its end": (CHUNKED, "5\r\nabcdeXX0\r\n\r\n"),
    "extension without CR": (CHUNKED, "5;\nabcde\r\n0\r\n\r\n"),
    "trailer of framing": (CHUNKED, "0\r\nContent-Length: {length}\r\n\r\n"),
}
# Here the hidden request is the body, for every reader who knows the rules.
HARMLESS = {
    "TE of another name": ("Content-Length: {length}\r\nTransfer_Encoding: chunked\r\n", "0\r\n\r\n"),
    "upgrade and a body": ("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: {length}\r\n", ""),
    "h2c and a body": ("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: {length}\r\n", ""),
    "length that Connection names": ("Connection: Content-Length\r\nContent-Length: {length}\r\n", ""),
}


@pytest.mark.parametrize("mode", ["client", "server"])
def test_what_two_readers_could_take_differently(world: World, mode: str, logging_nginx: Nginx) -> None:
    """It is refused, or one request arrives; the one that is hidden behind it never does."""
    server, client = MODES[mode]
    site = world.publish(logging_nginx.url, "3", server=server, client=client)
    log = logging_nginx.root / "access.log"
    log.write_text("")
    hidden = f"GET /smuggled HTTP/1.1\r\nHost: {site.host}\r\n\r\n"
    answers: dict[str, int] = {}
    for name, (fields, body) in (ATTACKS | HARMLESS).items():
        head = f"POST /first HTTP/1.1\r\nHost: {site.host}\r\n"
        attack = (fields + "\r\n" + body).format(length=len(body + hidden))
        with Visitor(site.address) as visitor:
            visitor.send((head + attack + hidden).encode("latin-1"))
            visitor.socket.shutdown(socket.SHUT_WR)
            answers[name] = visitor.response().status
            if name in ATTACKS:
                assert visitor.ending(10) == "closed", name
    with Visitor(site.address) as visitor:
        visitor.request(site.host, "/last")
        assert visitor.response().status == 404
    eventually(lambda: "/last" in log.read_text(), "nginx has written its log")
    arrived = [line.split()[1] for line in log.read_text().splitlines()]
    assert answers == dict.fromkeys(ATTACKS, 400) | dict.fromkeys(HARMLESS, 404)
    # Of bad chunks the head has arrived, and nginx writes that down when the connection is cut.
    assert arrived.count("/smuggled") == 0
    assert len(HARMLESS) <= arrived.count("/first") <= len(HARMLESS) + 7


@pytest.mark.parametrize("mode", ["client", "server"])
def test_the_host_in_the_target_is_the_host(world: World, mode: str, logging_nginx: Nginx) -> None:
    server, client = MODES[mode]
    site = world.publish(logging_nginx.url, "3", server=server, client=client)
    visitor = world.visitor(site.address)
    visitor.send(f"GET http://{site.host}/seen HTTP/1.1\r\nHost: other.example.com\r\n\r\n".encode())
    assert seen(visitor.response())["host"] == site.host


# what the client does to requests


def test_forwarded_for(world: World, path: str, logging_nginx: Nginx) -> None:
    site = world.publish(logging_nginx.url, path, client=["--forwardedFor"])
    visitor = world.visitor(site.address)
    for _ in range(2):
        visitor.request(
            site.host, "/seen", headers={"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
        )
        values = seen(visitor.response())
        assert values["asked"] == values["host"] == site.host
        if path == "3":
            assert (values["for"], values["proto"]) == ("127.0.0.1", "http")
            assert values["forwarded"] == f"for=127.0.0.1;proto=http;host={site.host}"
        else:
            assert (values["for"], values["proto"]) == ("", "")
            assert values["forwarded"] == f"for=unknown;host={site.host}"


def test_use_local_as_http_host(world: World, path: str, logging_nginx: Nginx) -> None:
    site = world.publish(logging_nginx.url, path, client=["--useLocalAsHTTPHost"])
    visitor = world.visitor(site.address)
    for _ in range(3):
        visitor.request(site.host, "/seen")
        assert seen(visitor.response())["host"] == logging_nginx.url.removeprefix("http://")


def test_basic_auth(world: World, path: str, logging_nginx: Nginx) -> None:
    password = world.hidden("hush-password")
    printed = subprocess.run(
        [*GT, "hash-password"], input=password + "\n", capture_output=True, text=True, check=True
    )
    site = world.publish(logging_nginx.url, path, client=["--basicAuth", f"anne:{printed.stdout.strip()}"])
    visitor = world.visitor(site.address)
    right = {"Authorization": "Basic YW5uZTpodXNoLXBhc3N3b3Jk"}
    for headers, status in (
        ({}, 401), ({"Authorization": "Basic YW5uZTp4"}, 401), (right, 200), ({}, 401), (right, 200),
    ):  # fmt: skip
        visitor.request(site.host, "/seen", headers=headers)
        response = visitor.response()
        assert response.status == status
        if status == 200:
            assert seen(response)["authorization"] == ""
        else:
            assert response.headers["www-authenticate"].startswith("Basic ")


# routePerRequest


def two_hosts(world: World, path: str, *client: str) -> tuple[Published, Any]:
    secret = world.secret()
    server = world.server("--routePerRequest", users={"id1": secret})
    services = {name: world.service(answering(name.encode())).url for name in ("one", "two")}
    agent = world.client(server, "id1", secret, *client, local=services, protocol=path)
    return Published(server.address, "one.example.com", "id1", secret, server, agent), services


def test_two_hosts_on_one_connection(world: World, path: str) -> None:
    site, _ = two_hosts(world, path)
    visitor = world.visitor(site.address)
    for _ in range(20):
        for name in ("one", "two"):
            visitor.request(f"{name}.example.com")
            assert visitor.response().text == name
        visitor.request("three.example.com")
        response = visitor.response()
        assert response.status == 404
        assert "connection" not in response.headers
    for name in ("one", "two", "two", "one") * 5:
        visitor.request(f"{name}.example.com")
    assert [visitor.response().text for _ in range(20)] == ["one", "two", "two", "one"] * 5


def test_a_proxy_that_pools_connections(world: World, path: str) -> None:
    """nginx in front keeps one connection to the server, whatever hosts its visitors ask for."""
    site, _ = two_hosts(world, path)
    template = """
daemon off;
master_process off;
pid {root}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    upstream gt {{ server {gt}; keepalive 1; }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://gt;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
        location = / {{ if ($host = localhost) {{ return 200; }} proxy_pass http://gt; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_set_header Host $http_host; }}
    }}
}}
"""
    front = world.keep(Nginx(world.directory / "front", template, gt=site.server.port))
    for _ in range(10):
        for name in ("one", "two"):
            visitor = world.visitor(front.address)
            visitor.request(f"{name}.example.com", "/x", headers={"Connection": "close"})
            assert visitor.response().text == name


def test_a_service_that_is_not_there(world: World, path: str) -> None:
    secret = world.secret()
    world.allow(r"WARNING service .*refused")
    server = world.server("--routePerRequest", users={"id1": secret})
    closed = world.port()
    services = {"one": world.service(answering(b"one")).url, "two": f"http://{closed}"}
    world.client(server, "id1", secret, local=services, protocol=path)
    visitor = world.visitor(server.address)
    for _ in range(3):
        visitor.request("two.example.com")
        assert visitor.response().status == 502
        visitor.request("one.example.com")
        assert visitor.response().text == "one"
