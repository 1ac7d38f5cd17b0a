"""Host prefixes: how many, which, under what name, and whose they are."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.gt1 import ERROR, Frame, OldClient, publish
from tests.support.http import Visitor, fetch
from tests.support.native import NativeClient, control
from tests.support.processes import eventually
from tests.support.services import answering
from tests.support.tls import over_tls, trusting
from tests.support.tls_nginx import TLSNginx
from tests.support.world import Client, Server, World

BOTH = pytest.mark.parametrize("protocol", ["3", "1"])


def serve(
    world: World,
    *flags: str,
    host: dict[str, Any] | None = None,
    own: Mapping[str, dict[str, Any]] = {},
    **options: Any,
) -> tuple[Server, dict[str, str]]:
    """A server for the users id1 and id2; `host` holds for all, `own` for one."""
    secrets = {name: world.secret() for name in ("id1", "id2")}
    users = {
        name: {"secret": secret} | ({"host": own[name]} if name in own else {})
        for name, secret in secrets.items()
    }  # fmt: skip
    config: dict[str, Any] = {"type": "server", "users": users, "options": options}
    if host:
        config["host"] = host
    return world.server(*flags, config=config), secrets


def client(
    world: World,
    server: Server,
    secrets: dict[str, str],
    protocol: str,
    *prefixes: str,
    id: str = "id1",
    name: str = "client",
    ready: bool = True,
) -> Client:
    """One whose services answer with id and prefix; "" is a service that names no prefix."""
    flags: list[str] = []
    for prefix in prefixes:
        flags += ["--local", world.service(answering(f"{id} {prefix}".encode())).url]
        flags += ["--hostPrefix", prefix] if prefix else []
    return world.client(
        server, id, secrets[id], *flags[2:], local=flags[1], protocol=protocol, name=name, ready=ready
    )


def refused(
    world: World, server: Server, secrets: dict[str, str], protocol: str, *prefixes: str, words: str
) -> None:
    """A client that asks for these prefixes says why it cannot have them, and has no tunnel."""
    world.allow("refused client")
    made = client(world, server, secrets, protocol, *prefixes, name="refused client", ready=False)
    made.process.wait_for(rf"no tunnel: .*{words}")
    assert not made.process.find("is up")
    assert made.process.running
    made.process.end()


def answer(server: Server, name: str) -> str:
    response = fetch(server.address, f"{name}.example.com")
    return response.text if response.status == 200 else str(response.status)


# How many


@BOTH
@pytest.mark.parametrize("where", ["flag", "file", "user"])
def test_host_number(world: World, protocol: str, where: str) -> None:
    """A user's own number counts more than everybody's."""
    if where == "flag":
        server, secrets = serve(world, "--hostNumber", "2")
    elif where == "file":
        server, secrets = serve(world, host={"number": 2})
    else:
        server, secrets = serve(world, host={"number": 1}, own={"id1": {"number": 2}})
    refused(world, server, secrets, protocol, "a", "b", "c", words="hostNumber")
    assert answer(server, "a") == "404"
    client(world, server, secrets, protocol, "a", "b")
    assert [answer(server, name) for name in "ab"] == ["id1 a", "id1 b"]


@BOTH
def test_no_host_number_no_limit(world: World, protocol: str) -> None:
    server, secrets = serve(world, host={"number": 1}, own={"id1": {"number": 0}})
    client(world, server, secrets, protocol, *(f"host-{number}" for number in range(20)))
    assert answer(server, "host-19") == "id1 host-19"


# Which


@BOTH
@pytest.mark.parametrize("where", ["flags", "file", "user"])
def test_host_regex(world: World, protocol: str, where: str) -> None:
    patterns = ["^shop-[0-9]+$", "^blog$"]
    if where == "flags":
        server, secrets = serve(world, "--hostRegex", patterns[0], "--hostRegex", patterns[1])
    elif where == "file":
        server, secrets = serve(world, host={"regex": patterns})
    else:
        server, secrets = serve(world, host={"regex": ["^nothing$"]}, own={"id1": {"regex": patterns}})
    refused(world, server, secrets, protocol, "blog", "shop-x", words="hostRegex")
    assert answer(server, "blog") == "404"
    client(world, server, secrets, protocol, "blog", "shop-7")
    assert [answer(server, name) for name in ("blog", "shop-7")] == ["id1 blog", "id1 shop-7"]


@BOTH
def test_the_id_needs_to_match_nothing(world: World, protocol: str) -> None:
    server, secrets = serve(world, host={"regex": ["^shop$"]})
    client(world, server, secrets, protocol, "", "shop")
    assert [answer(server, name) for name in ("id1", "shop")] == ["id1 ", "id1 shop"]


# Under what name


@BOTH
@pytest.mark.parametrize("where", ["flag", "file", "user"])
def test_host_with_id(world: World, protocol: str, where: str) -> None:
    if where == "flag":
        server, secrets = serve(world, "--hostWithID")
    elif where == "file":
        server, secrets = serve(world, host={"withID": True})
    else:
        server, secrets = serve(world, own={"id1": {"withID": True}})
    client(world, server, secrets, protocol, "blog")
    assert answer(server, "id1-blog") == "id1 blog"
    assert answer(server, "blog") == "404"
    if where == "user":
        client(world, server, secrets, protocol, "wiki", id="id2", name="other client")
        assert answer(server, "wiki") == "id2 wiki"
    else:  # so both can have it
        client(world, server, secrets, protocol, "blog", id="id2", name="other client")
        assert answer(server, "id2-blog") == "id2 blog"
        assert answer(server, "id1-blog") == "id1 blog"


@BOTH
def test_a_user_without_id_in_its_names(world: World, protocol: str) -> None:
    server, secrets = serve(world, host={"withID": True}, own={"id1": {"withID": False}})
    client(world, server, secrets, protocol, "blog")
    assert answer(server, "blog") == "id1 blog"


@BOTH
def test_the_id_alone_stays_the_id(world: World, protocol: str) -> None:
    server, secrets = serve(world, host={"withID": True})
    client(world, server, secrets, protocol, "")
    assert answer(server, "id1") == "id1 "


@BOTH
def test_regex_sees_the_prefix_without_the_id(world: World, protocol: str) -> None:
    server, secrets = serve(world, host={"withID": True, "regex": ["^blog$"]})
    client(world, server, secrets, protocol, "blog")
    assert answer(server, "id1-blog") == "id1 blog"


def test_the_client_is_told_the_public_name(world: World) -> None:
    server, secrets = serve(world, host={"withID": True})
    made = client(world, server, secrets, "3", "blog")
    made.process.wait_for(r"published .*\bid1-blog\b")


# Whose


@BOTH
def test_the_first_one_keeps_it(world: World, protocol: str) -> None:
    """Another user that asks for it, too, gets an error and nothing of what it asked for."""
    server, secrets = serve(world)
    client(world, server, secrets, protocol, "blog")
    world.allow("other client")
    other = client(
        world, server, secrets, protocol, "wiki", "blog", id="id2", name="other client", ready=False
    )
    other.process.wait_for(r"no tunnel: .*blog|no tunnel: .*host prefix of ours")
    assert {answer(server, "blog") for _ in range(10)} == {"id1 blog"}
    assert answer(server, "wiki") == "404"
    other.process.end()
    client(world, server, secrets, protocol, "wiki", id="id2", name="modest client")
    assert answer(server, "wiki") == "id2 wiki"


@BOTH
def test_an_id_is_kept_for_its_user(world: World, protocol: str) -> None:
    """Also before that user has come."""
    server, secrets = serve(world)
    refused(world, server, secrets, protocol, "id2", words="(host prefix|id2)")
    client(world, server, secrets, protocol, "", id="id2", name="its client")
    assert answer(server, "id2") == "id2 "


@BOTH
def test_what_is_given_up_is_free(world: World, protocol: str) -> None:
    """A service taken out of the client's file is withdrawn at SIGHUP; another user has it the next moment."""
    server, secrets = serve(world)
    options = {"id": "id1", "secret": secrets["id1"], "protocol": protocol, "remote": server.remote}
    services = [
        {"local": world.service(answering(name.encode())).url, "hostPrefix": name}
        for name in ("blog", "wiki")
    ]
    path = world.write("client.yml", {"type": "client", "services": services, "options": options})
    first = world.gt("client", ["client", "-c", str(path)])
    first.wait_for(r"tunnel \d+ to .* is up")
    running = world.visitor(server.address)
    running.request("blog.example.com")
    assert running.response().text == "blog"
    world.write("client.yml", {"type": "client", "services": services[1:], "options": options})
    first.signal(signal.SIGHUP)
    eventually(lambda: answer(server, "blog") == "404", "the service is withdrawn")
    running.request("blog.example.com")
    assert running.response().text == "blog"  # what runs goes on
    client(world, server, secrets, protocol, "blog", id="id2", name="other client")
    assert answer(server, "blog") == "id2 blog"
    assert answer(server, "wiki") == "wiki"


def test_a_change_that_is_refused_changes_nothing(world: World) -> None:
    server, secrets = serve(world, host={"number": 2})
    tunnel = world.keep(NativeClient(server.address, "id1", secrets["id1"]))
    answered = tunnel.auth(tunnel.hello(), ("a", "b"))
    assert answered["services"] == [{"hostPrefix": "a"}, {"hostPrefix": "b"}]
    services = [{"kind": "http", "hostPrefix": name, "port": 0, "random": False} for name in "bcd"]
    tunnel.send(control({"type": "services", "services": services}))
    error = tunnel.control()
    assert (error["type"], error["code"]) == ("error", "too_many_hosts")
    tunnel.send(control({"type": "services", "services": services[1:]}))
    assert tunnel.control()["services"] == [{"hostPrefix": "c"}, {"hostPrefix": "d"}]
    assert answer(server, "a") == "404"


@pytest.mark.parametrize(
    ("host", "prefixes", "code"),
    [
        ({"number": 1}, ("a", "b"), 4),
        ({"regex": ["^x$"]}, ("a",), 6),
        ({}, ("blog",), 5),
    ],
    ids=["number", "regex", "conflict"],
)
def test_the_codes_of_protocol_1(
    world: World, host: dict[str, Any], prefixes: tuple[str, ...], code: int
) -> None:
    server, secrets = serve(world, own={"id1": host} if host else {})
    client(world, server, secrets, "3", "blog", id="id2")
    with OldClient(server.address, "id1", secrets["id1"], publish(*prefixes)) as tunnel:
        assert tunnel.frame() == Frame(ERROR, payload=bytes([0, code]))


# The same prefix over HTTP and over TLS


def over_sni(nginx: TLSNginx, visitor: Visitor, name: str) -> str:
    over_tls(visitor, trusting(nginx.trusted), name)
    visitor.request(name, "/seen")
    return visitor.response().text


@BOTH
def test_one_prefix_for_http_and_https(world: World, tls_nginx: TLSNginx, protocol: str) -> None:
    """Of one user, and it counts once."""
    sni = world.port()
    server, secrets = serve(world, "--sniAddr", str(sni), host={"number": 1})
    web = world.service(answering(b"in the clear")).url
    world.client(
        server, "id1", secrets["id1"], "--local", tls_nginx.url, "--hostPrefix", "shop", local={"shop": web},
        protocol=protocol,
    )  # fmt: skip
    assert answer(server, "shop") == "in the clear"
    assert over_sni(tls_nginx, world.visitor(sni.address), "shop.example.com").startswith("shop.example.com")


@BOTH
@pytest.mark.parametrize("first", ["http", "https"])
def test_one_prefix_of_two_users(world: World, tls_nginx: TLSNginx, protocol: str, first: str) -> None:
    """Whoever has it over one of the two has it over both."""
    sni = world.port()
    server, secrets = serve(world, "--sniAddr", str(sni))
    urls = [world.service(answering(b"in the clear")).url, tls_nginx.url]
    if first == "https":
        urls.reverse()
    world.client(server, "id1", secrets["id1"], local={"shop": urls[0]}, protocol=protocol)
    world.allow("other client")
    other = world.client(
        server,
        "id2",
        secrets["id2"],
        local={"shop": urls[1]},
        protocol=protocol,
        name="other client",
        ready=False,
    )
    other.process.wait_for(r"no tunnel: .*host prefix")
    if first == "http":
        assert answer(server, "shop") == "in the clear"
    else:
        assert over_sni(tls_nginx, world.visitor(sni.address), "shop.example.com")


# Where it stands in the request


@BOTH
def test_another_header(world: World, protocol: str) -> None:
    """Its whole value is the prefix; Host then says nothing."""
    server, secrets = serve(world, "--httpMUXHeader", "X-Site", host={"withID": True})
    client(world, server, secrets, protocol, "", "blog")

    def ask(host: str, headers: dict[str, str]) -> str:
        with Visitor(server.address) as visitor:
            visitor.request(host, headers=headers)
            response = visitor.response()
            return response.text if response.status == 200 else str(response.status)

    assert ask("whatever.example.com", {"X-Site": "id1-blog"}) == "id1 blog"
    assert ask("id1.example.com", {"x-site": "ID1-Blog"}) == "id1 blog"
    assert ask("whatever.example.com", {"X-SITE": "id1"}) == "id1 "
    assert ask("id1.example.com", {"X-Site": "blog"}) == "404"
    assert ask("id1.example.com", {"X-Site": "id1-blog.example.com"}) == "404"
    assert ask("id1.example.com", {}) in ("400", "404")
    assert ask("id1.example.com", {"X-Site": ""}) in ("400", "404")
