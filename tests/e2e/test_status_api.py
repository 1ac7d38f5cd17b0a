"""The status API from outside, for servers that are set up in different ways. The check itself: unit tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Files, make_pair
from tests.support.http import Response, fetch
from tests.support.ports import Port
from tests.support.processes import Relay
from tests.support.services import answering
from tests.support.tls import over_tls, trusting
from tests.support.world import World


class Status:
    """A server with a status API, from a configuration file."""

    def __init__(self, world: World, addr: bool = True, **options: Any) -> None:
        self.world = world
        self.addr, self.tls, self.api = world.port(), world.port(), world.port()
        own = {"apiAddr": str(self.api)} | ({"addr": str(self.addr)} if addr else {})
        own |= {key: str(self.tls) for key in ("tlsAddr",) if options.pop(key, False)}
        self.secret = world.secret()
        config = {"users": {"id1": {"secret": self.secret}}, "options": own | options}
        path = world.write("server.yml", config)
        self.relay: Relay = world.gt("server", ["server", "-c", str(path)])
        self.relay.wait_for(r"listening on .*status API")

    def ask(self) -> tuple[int, dict[str, str]]:
        return parsed(fetch(self.api.address, "status", "/status"))


def parsed(response: Response) -> tuple[int, dict[str, str]]:
    return response.status, json.loads(response.body)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_pair(["status.example.com"]).write(tmp_path)


@pytest.mark.parametrize("protocols", [[1, 3], [1]], ids=["any", "1"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"addr": False, "tlsAddr": True},  # with a certificate that is made
        {"tlsAddr": True, "trustedProxies": ["127.0.0.0/8", "::1"]},
        {"httpMUXHeader": "EID", "trustedProxies": ["127.0.0.1"]},
        {"routePerRequest": True},
        {"reconnectTimes": 1, "connections": 1, "hostWithID": True},
    ],
    ids=str,
)
def test_the_path_works(world: World, options: dict[str, Any], protocols: list[int]) -> None:
    status = Status(world, protocols=protocols, **options)
    code, answer = status.ask()
    assert (code, answer["status"]) == (200, "ok"), answer
    assert status.ask() == (code, answer)


def test_over_tls(world: World, files: Files) -> None:
    status = Status(world, apiCertFile=str(files.cert), apiKeyFile=str(files.key), apiTLSVersion="tls1.3")
    visitor = world.visitor(status.api.address)
    over_tls(visitor, trusting(files.cert), "status.example.com")
    visitor.request("status.example.com", "/status")
    assert parsed(visitor.response())[0] == 200


def test_a_certificate_that_is_missing(world: World, files: Files) -> None:
    flags = [
        "--addr",
        str(world.port()),
        "--apiAddr",
        str(world.port()),
        "--id",
        "id1",
        "--secret",
        world.secret(),
    ]
    relay = world.gt(
        "server", ["server", *flags, "--apiCertFile", "/nowhere.crt", "--apiKeyFile", str(files.key)]
    )
    relay.expected_exit = {2}
    world.allow("/nowhere.crt")
    relay.wait_for(r"/nowhere\.crt: the certificate cannot be read: No such file or directory")
    assert relay.wait() == 2


def test_it_leaves_nothing_behind_and_is_no_client(world: World) -> None:
    status = Status(world)
    before = status.relay.stats()
    assert status.ask()[0] == 200
    after = status.relay.settle(tunnels=0, streams=0, pumps=0, fds=before["fds"])
    assert after["clients"] == 0
    assert after["handshakes_failed"] == 0


def test_busy_callers_do_not_stop_visitors(world: World) -> None:
    """Two hundred that never finish their request; each is closed, and the newest is always answered."""
    status = Status(world)
    service = world.service(answering(b"the page"))
    client = world.client(status.addr.address, "id1", status.secret, local=service.url)
    slow = [world.visitor(status.api.address) for _ in range(200)]
    for each in slow:
        each.send(b"GET /status HTTP/1.1\r\n")
    assert fetch(status.addr.address, "id1.example.com").body == b"the page"
    assert status.ask()[0] == 200
    assert slow[0].ending(within=20) in ("closed", "reset")
    assert slow[-1].ending(within=20) == "closed"
    assert client.process.running


def test_the_port_is_taken(world: World) -> None:
    taken: Port = world.port()
    world.keep(taken.listen(), until_last=True)
    flags = ["--addr", str(world.port()), "--apiAddr", str(taken), "--id", "id1", "--secret", world.secret()]
    relay = world.gt("server", ["server", *flags])
    relay.expected_exit = {2}
    world.allow("cannot listen on")
    relay.wait_for(rf"cannot listen on {taken}: Address already in use")
    assert relay.wait() == 2
