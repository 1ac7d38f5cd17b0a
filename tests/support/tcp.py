"""TCP services of a test: a server that opens ports, clients that publish on them, and visitors. Used by e2e tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.support.http import Visitor
from tests.support.ports import Address, Port
from tests.support.services import echoing
from tests.support.world import Client, Server, World

REACHED = r"is reached at tcp://127\.0\.0\.1:(\d+)"


def ranges(ports: Iterable[Port]) -> list[dict[str, str]]:
    return [{"range": f"{port.number}-{port.number}"} for port in ports]


def serve(
    world: World,
    *ports: Port,
    users: Iterable[str] = ("id1",),
    own: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> tuple[Server, dict[str, str]]:
    """A server that opens these ports for all; `own` is what a user has of its own."""
    secrets = {name: world.secret() for name in users}
    entries = {name: {"secret": secret} | (own or {}).get(name, {}) for name, secret in secrets.items()}
    config = {"type": "server", "users": entries, "tcp": ranges(ports), "options": options}
    return world.server(config=config), secrets


def tcp(url: str) -> str:
    return url.replace("http://", "tcp://")


def publish(
    world: World,
    server: Server,
    secrets: dict[str, str],
    protocol: str,
    *flags: str,
    local: str = "",
    id: str = "id1",
    name: str = "client",
    ready: bool = True,
) -> Client:
    """A client with one service, the echo when none is given; flags belong to it."""
    url = local or tcp(world.service(echoing).url)
    return world.client(server, id, secrets[id], *flags, local=url, protocol=protocol, name=name, ready=ready)


def fixed(port: Port) -> tuple[str, str]:
    return ("--remoteTCPPort", str(port.number))


def reached(client: Client, count: int = 1, after: int = 0) -> Address:
    """The public address of the count-th service, as the client tells its user."""
    return ("127.0.0.1", int(client.process.wait_for(REACHED, count=count, after=after)[1]))


def echoes(address: Address, text: bytes = b"hello") -> bool:
    with Visitor(address) as visitor:
        visitor.send(text)
        return visitor.exactly(len(text)) == text


def refuses(address: Address) -> bool:
    """Whether nobody listens there."""
    try:
        Visitor(address).close()
    except ConnectionRefusedError:
        return True
    return False
