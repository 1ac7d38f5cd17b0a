"""What a client's options promise: where it finds its server, whom it lets in, what it tells the service, and that its
services can be replaced while it runs."""

from __future__ import annotations

import contextlib
import json
import re
import select
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Files, make_pair
from tests.support.http import Visitor, fetch
from tests.support.nginx import Nginx
from tests.support.ports import Address, Port
from tests.support.processes import Relay, eventually
from tests.support.services import Connection, Handler, Service, answering, echoing
from tests.support.world import Server, World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
UP = r"tunnel \d+ to .* is up"
ELSEWHERE = "127.0.0.7"  # another address of the loopback network, for visitors from there


def ask(server: Server, host: str = "id1.example.com", source: str = "") -> str:
    """What a visitor from `source` gets: status and text."""
    with Visitor(server.address, source=source) as visitor:
        visitor.request(host, headers={"Connection": "close"})
        response = visitor.response()
        return f"{response.status} {response.text}"


# remoteAPI


class API:
    """A small HTTP server that names `server`, or says `answer`, or nothing while it `hangs`."""

    def __init__(self, world: World, port: Port | None = None, server: Server | None = None) -> None:
        self.server = server
        self.answer = b""
        self.hangs = False
        self.heads: list[str] = []
        self.service: Service = world.service(self._handle, port)
        self.url = self.service.url

    def _handle(self, connection: Connection) -> None:
        head = connection.head()
        if not head:
            return
        self.heads.append(head.decode())
        if self.hangs:
            connection.wait_end()
        elif self.server is not None:
            body = json.dumps({"serverAddress": self.server.remote, "stunAddress": "stun:127.0.0.1:3478"})
            text = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}"
            connection.send(text.format(len(body), body).encode())
        else:
            connection.send(self.answer)


def api_client(world: World, url: str, secret: str, local: str, *flags: str) -> Relay:
    argv = ["client", "--id", "id1", "--secret", world.hidden(secret), "--remoteAPI", url, *flags]
    return world.gt("client", [*argv, "--local", local])


@BOTH
def test_an_api_names_the_server(world: World, protocol: str) -> None:
    secret = world.secret()
    api = API(world)
    api.server = world.server(users={"id1": secret})
    local = world.service(answering(b"found")).url
    client = api_client(world, api.url + "/where?a=b", secret, local, "--protocol", protocol)
    client.wait_for(UP)
    assert ask(api.server) == "200 found"
    assert api.heads[0].startswith("GET /where?a=b&network_client_id=id1 HTTP/1.1\r\n")
    assert re.search(r"(?im)^request-id: [0-9a-f]{8}-[0-9a-f-]{27}\r$", api.heads[0])
    assert len(api.heads) == 1


@pytest.mark.parametrize("trouble", ["down", "garbage", "refuses", "hangs", "trickles"])
def test_an_api_in_trouble_is_asked_until_it_answers(world: World, trouble: str) -> None:
    """With one warning that says what is wrong."""
    secret = world.secret()
    port = world.port()
    local = world.service(answering(b"found")).url
    warned = {
        "down": "Connection refused",
        "garbage": "no JSON",
        "refuses": "it answers 503",
        "hangs": "no answer within 2 s",
        "trickles": "no answer within 2 s",
    }[trouble]
    api = None if trouble == "down" else API(world, port)
    if api is not None:
        api.hangs = trouble == "hangs"
        api.answer = {"garbage": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"}.get(
            trouble, b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
        )
        if trouble == "trickles":
            api.service._handler = trickling
    client = api_client(
        world, f"http://{port}/", secret, local, "--remoteTimeout", "2s", "--reconnectDelay", "300ms"
    )
    client.wait_for(f"WARN.*no tunnel: the remoteAPI http://{port}/ .*{warned}")
    server = world.server(users={"id1": secret})
    if api is None:
        API(world, port, server)
    else:
        eventually(lambda: len(api.service.connections) > 2, "asked again")
        api.server, api.hangs = server, False
        api.service._handler = api._handle
    client.wait_for(UP)
    assert ask(server) == "200 found"
    assert len(client.find("no tunnel")) == 1


def trickling(connection: Connection) -> None:
    """An answer that never ends, byte after byte."""
    connection.head()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not connection.service.stopping.wait(0.05):
        connection.send(b" ")


def test_after_a_loss_the_api_is_asked_again(world: World) -> None:
    """The server has moved."""
    secret = world.secret()
    api = API(world)
    old = world.server(users={"id1": secret})
    api.server = old
    local = world.service(answering(b"found")).url
    client = api_client(world, api.url, secret, local, "--reconnectDelay", "300ms")
    client.wait_for(UP)
    new = world.server(users={"id1": secret})
    api.server = new
    mark = client.mark()
    old.process.end()
    client.wait_for(rf"tunnel \d+ to {re.escape(new.remote)} is up", after=mark)
    assert ask(new) == "200 found"


def test_while_the_api_is_down_what_is_up_stays(world: World) -> None:
    secret = world.secret()
    api = API(world)
    api.server = world.server(users={"id1": secret})
    proxy = world.proxy(api.server.address)
    service = world.service(echoing)
    local = service.url
    remote = f"tcp://{proxy.address[0]}:{proxy.address[1]}"
    flags = ("--remote", remote, "--reconnectDelay", "300ms", "--remoteIdleConnections", "1")
    client = api_client(world, api.url, secret, local, *flags)
    client.wait_for(UP)
    assert not api.heads, "a remote is there: nothing has to be asked yet"
    api.service.stop_listening()
    proxy.refuse()  # a new tunnel cannot be made that way, and the API does not say another
    visitor = world.visitor(api.server.address)
    visitor.request("id1.example.com")
    service.wait_connections(1)
    client.wait_for("no tunnel: the remoteAPI .* Connection refused")
    for _ in range(3):
        visitor.send(b"still there")
        visitor.until(b"still there")
    assert not client.find("is down")


# services replaced live


class LiveClient:
    """A client with a configuration file, which the test changes while it runs."""

    def __init__(self, world: World, server: Server, secret: str, protocol: str, *services: Any) -> None:
        self._world = world
        options = {"id": "id1", "secret": world.hidden(secret), "remote": server.remote, "protocol": protocol}
        self.options: dict[str, Any] = options
        self.path = self.write(*services)
        self.process = world.gt("client", ["client", "-c", str(self.path)])
        self.process.wait_for(UP)

    def write(self, *services: Any) -> Path:
        return self._world.write(
            "client.yml", {"type": "client", "services": list(services), "options": self.options}
        )

    def reload(self, *services: Any) -> None:
        mark = self.process.mark()
        self.write(*services)
        self.process.signal(signal.SIGHUP)
        self.process.wait_for("reloaded", after=mark)


def published(url: str, prefix: str, **more: Any) -> dict[str, Any]:
    return {"local": url, "hostPrefix": prefix, **more}


@BOTH
def test_services_are_replaced_live(world: World, protocol: str) -> None:
    """Each visitor gets the service that the host name means at that moment; what runs goes on."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    blog, shop = world.service(answering(b"blog")).url, world.service(answering(b"shop")).url
    echo = world.service(echoing)
    old = [published(echo.url, "echo"), published(shop, "old"), published(blog, "blog")]
    client = LiveClient(world, server, secret, protocol, *old)
    running = world.visitor(server.address)
    running.request("echo.example.com")
    running.until(b"\r\n\r\n")
    client.reload(published(blog, "blog"), published(shop, "shop"))
    eventually(lambda: ask(server, "shop.example.com") == "200 shop", "the new service is there")
    assert ask(server, "blog.example.com") == "200 blog"
    eventually(lambda: ask(server, "old.example.com").startswith("404"), "the old one is gone")
    running.send(b"still there")
    running.until(b"still there")
    client.reload(published(shop, "blog"), published(blog, "shop"))  # the server sees no difference
    eventually(lambda: ask(server, "blog.example.com") == "200 shop", "another address")
    running.send(b"and now, too")
    running.until(b"and now, too")
    assert not client.process.find("is down")


@BOTH
def test_services_that_the_server_refuses(world: World, protocol: str) -> None:
    secret, other = world.secret(), world.secret()
    server = world.server(users={"id1": secret, "id2": other})
    blog = world.service(answering(b"blog")).url
    client = LiveClient(world, server, secret, protocol, published(blog, "blog"))
    world.client(server, "id2", other, local={"shop": world.service(answering(b"of id2")).url}, name="other")
    client.reload(published(blog, "shop"))
    client.process.wait_for("WARN.*refuses the new services, those before stay: .*set another hostPrefix")
    assert ask(server, "blog.example.com") == "200 blog"
    assert ask(server, "shop.example.com") == "200 of id2"
    client.reload(published(blog, "blog"), published(blog, "wiki"))
    eventually(lambda: ask(server, "wiki.example.com") == "200 blog", "another try")


def test_a_bad_file_changes_nothing(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    blog = world.service(answering(b"blog")).url
    client = LiveClient(world, server, secret, "3", published(blog, "blog"))
    client.write(published("gopher://127.0.0.1:70", "blog"))
    world.allow(r"not reloaded")
    client.process.signal(signal.SIGHUP)
    client.process.wait_for(r"not reloaded, .*client\.yml:\d+: ")
    assert ask(server, "blog.example.com") == "200 blog"


# who may come in


def test_allowed_and_denied_addresses(world: World) -> None:
    """Deny wins. Who may not come in is told so, and the service sees nothing of him."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    service = world.service(answering(b"welcome"))
    rules: dict[str, dict[str, Any]] = {
        "open": {},
        "allow": {"allowIPs": [ELSEWHERE, "10.0.0.0/8"]},
        "deny": {"denyIPs": [f"{ELSEWHERE}/32"]},
        "both": {"allowIPs": "127.0.0.0/8", "denyIPs": ELSEWHERE},
    }
    services = [published(service.url, name, **lists) for name, lists in rules.items()]
    client = LiveClient(world, server, secret, "3", *services)
    for source, welcome in (("127.0.0.1", {"open", "deny", "both"}), (ELSEWHERE, {"open", "allow"})):
        for name in rules:
            came = len(service.connections)
            answer = ask(server, f"{name}.example.com", source)
            assert answer == "200 welcome" if name in welcome else answer.startswith("403 "), (source, name)
            assert len(service.connections) - came == (name in welcome)
    client.process.wait_for("may not come in", count=3)  # one for each service
    for _ in range(20):
        ask(server, "deny.example.com", ELSEWHERE)
    assert len(client.process.find("may not come in")) == 3
    assert client.process.stats()["streams_forbidden"] == 23


def test_addresses_that_protocol_1_does_not_tell(world: World) -> None:
    """A list of those who may is kept by letting nobody in; one of those who may not cannot be."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    service = world.service(answering(b"welcome"))
    services = (
        published(service.url, "allow", allowIPs="127.0.0.0/8"),
        published(service.url, "deny", denyIPs="127.0.0.0/8"),
    )
    client = LiveClient(world, server, secret, "1", *services)
    assert not ask(server, "allow.example.com").startswith("200")
    assert not service.connections
    assert ask(server, "deny.example.com") == "200 welcome"
    client.process.wait_for("keeps nobody out over protocol 1")


# the visitor's address in a PROXY header

NGINX = """
daemon off;
master_process off;
pid {root}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    server {{ listen {address}; return 200 "ready"; }}
    server {{
        listen {told} proxy_protocol;
        return 200 "from [$proxy_protocol_addr] $proxy_protocol_port to $proxy_protocol_server_port";
    }}
}}
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """The port of an nginx that says what the PROXY header says."""
    with Port() as port, contextlib.closing(Nginx(tmp_path_factory.mktemp("nginx"), NGINX, told=port)):
        yield port


@BOTH
@pytest.mark.parametrize("header", ["v1", "v2"])
def test_the_service_is_told_the_visitors_address(
    world: World, told: Port, protocol: str, header: str
) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, "--proxyProtocol", header, local=f"http://{told}", protocol=protocol)
    with Visitor(server.address, source=ELSEWHERE) as visitor:
        port = visitor.socket.getsockname()[1]
        for _ in range(2):  # the header belongs to the connection, not to the request
            visitor.request("id1.example.com")
            response = visitor.response()
            assert response.status == 200
            if protocol == "3":
                assert response.text == f"from [{ELSEWHERE}] {port} to {told.number}"
            else:
                assert response.text.startswith("from [] ")


def test_the_header_for_a_tcp_service(world: World, told: Port) -> None:
    secret = world.secret()
    server = world.server("--tcpRange", "1024-65535", users={"id1": secret})
    client = world.client(server, "id1", secret, "--proxyProtocol", "v2", local=f"tcp://{told}")
    line = client.process.wait_for(rf"tcp://{told} is reached at tcp://127\.0\.0\.1:(\d+)")
    address = ("127.0.0.1", int(line[1]))
    with Visitor(address, source=ELSEWHERE) as visitor:
        port = visitor.socket.getsockname()[1]
        visitor.request("anything")
        assert visitor.response().text == f"from [{ELSEWHERE}] {port} to {told.number}"


# TLS that somebody else takes off


def tls_proxy(files: Files, target: Address, encrypted: bool) -> Handler:
    """Takes the TLS off and passes everything on to `target`; `encrypted`: over TLS of its own."""
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepting.load_cert_chain(*files)
    asking = ssl.create_default_context()
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE

    def handler(connection: Connection) -> None:
        with accepting.wrap_socket(connection.socket, server_side=True) as near:
            connection.socket = near
            plain = socket.create_connection(target)
            with asking.wrap_socket(plain) if encrypted else plain as far:
                both = {near: far, far: near}
                while True:
                    for source in select.select(both, [], [])[0]:
                        if not pass_on(source, both[source]):
                            return

    return handler


def pass_on(source: socket.socket, to: socket.socket) -> bool:
    """Everything that can be read now, for TLS may keep some of it; False at the end."""
    source.setblocking(False)
    try:
        while data := source.recv(65536):
            to.setblocking(True)
            to.sendall(data)
        return False
    except (ssl.SSLWantReadError, BlockingIOError):
        return True


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_proxy_that_takes_the_tls_off(world: World, encrypted: bool, trusted: bool) -> None:
    """With a certificate of the authorities it may. To a client that trusts nobody but the secret it is an attacker."""
    secret = world.secret()
    tls = world.port()
    server = world.server("--tlsAddr", str(tls), config={"users": {"id1": {"secret": secret}}})
    authority = make_pair((), ca=True)
    shown = make_pair(["localhost"], issuer=authority).write(world.directory, "proxy")
    proxy = world.service(tls_proxy(shown, tls.address if encrypted else server.address, encrypted))
    file = authority.write(world.directory, "authority").cert
    trust = ["--remoteCert", str(file)] if trusted else ["--remoteCertInsecure"]
    local = world.service(answering(b"found")).url
    remote = f"tls://localhost:{proxy.port.number}"
    argv = ["client", "--id", "id1", "--secret", world.hidden(secret), "--remote", remote, *trust]
    client = world.gt("client", [*argv, "--local", local])
    if trusted:
        client.wait_for(UP)
        assert ask(server) == "200 found"
    else:
        client.wait_for("no tunnel: .*(different certificates|unknown mechanism)")
        assert ask(server).startswith("404")


# where visitors find the services


@BOTH
def test_the_log_tells_where_visitors_find_the_services(world: World, protocol: str) -> None:
    secret = world.secret()
    server = world.server("--tcpRange", "1024-65535", "--hostWithID", users={"id1": secret})
    web = world.service(answering(b"found")).url
    with Port() as port:
        wanted = port.number
    services = [
        published(web, "web"),
        published(web.replace("http", "https"), "web"),
        {"local": web.replace("http", "tcp"), "remoteTCPPort": wanted, "remoteTCPRandom": True},
    ]
    client = LiveClient(world, server, secret, protocol, *services)
    client.process.wait_for("is reached at")
    found = [
        re.sub("^.*?((http|https|tcp)://)", r"\1", line) for line in client.process.find("is (publ|reach)")
    ]
    prefix = "id1-web" if protocol == "3" else "web"  # protocol 1 does not tell what becomes of it
    assert found[:2] == [
        f"{web} is published as host prefix {prefix}",
        f"{web.replace('http', 'https')} is published as host prefix {prefix}",
    ]
    public = re.fullmatch(r"tcp://[^ ]+ is reached at tcp://127\.0\.0\.1:(\d+)", found[2])
    assert public, found
    assert fetch(("127.0.0.1", int(public[1])), "any").text == "found"
    assert ask(server, "id1-web.example.com") == "200 found"
    assert len(found) == 3


def test_a_refusal_says_what_to_do(world: World) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", "wrong-" + secret, local="http://127.0.0.1:1", ready=False)
    client.process.wait_for(
        "no tunnel: .*unknown id or wrong secret: set the id and secret that the server knows"
    )
