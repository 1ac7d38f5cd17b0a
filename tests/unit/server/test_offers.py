"""Host prefixes and ports against what a user may have: every rule, in the words of both protocols."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pytest

from gtapp.config.load import User
from gtapp.config.values import PortRange
from gtapp.errors import RemoteRefused
from gtapp.server.offers import AnyService, Offer, offer, prefixes
from gtapp.server.port_office import PortOffice
from gtapp.server.ports import Ports
from gtapp.server.registry import Registry
from gtapp.wire.compat import CompatService
from gtapp.wire.handshake import ServiceSpec
from tests.support.ports import Port
from tests.support.relay import turn


def http(*names: str | None) -> list[ServiceSpec]:
    return [ServiceSpec("http", name) for name in names]


class Desk:
    """Offers for the user "Id1"; the names in `reserved` wait for others."""

    def __init__(self) -> None:
        self.office = PortOffice()
        self.ports = Ports("127.0.0.1", Registry(), lambda *visitor: None, self.office.opener(1))
        self.reserved: set[str] = set()

    def offer(
        self, services: Sequence[AnyService], only: Collection[str] | None = None, **limits: Any
    ) -> Offer:
        user = User(id=limits.pop("id", "Id1"), **limits)
        return offer(user, services, None, self.ports, lambda name, id: name in self.reserved, only)

    def refused(self, services: Sequence[AnyService], code: str, index: int | None, **limits: Any) -> str:
        with pytest.raises(RemoteRefused) as refused:
            self.offer(services, **limits)
        assert (refused.value.code, refused.value.service) == (code, index)
        return str(refused.value)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    turn()
    made.ports.stop()


def names(offered: Offer) -> list[str]:
    return [name for _, name, _ in offered.endpoints]


# names


def test_each_service_gets_its_name(desk: Desk) -> None:
    services = [
        ServiceSpec("http", "a"),
        ServiceSpec("tls", "B"),
        ServiceSpec("http"),
        ServiceSpec("tls", "a"),
    ]
    offered = desk.offer(services)
    assert offered.endpoints == [("http", "a", 0), ("tls", "b", 1), ("http", "id1", 2), ("tls", "a", 3)]
    assert offered.ready == [{"hostPrefix": name} for name in ("a", "b", "id1", "a")]
    assert offered.ports == []


def test_the_services_of_protocol_1(desk: Desk) -> None:
    offered = desk.offer([CompatService("http", "A"), CompatService("tls"), CompatService("http")])
    assert offered.endpoints == [("http", "a", 0), ("tls", "id1", 1), ("http", "id1", 2)]


def test_prefixes_for_the_authapi() -> None:
    """Of all services that have one, in lower case and in their order."""
    services: list[AnyService] = [*http("B", None), ServiceSpec("tcp", None, 80), ServiceSpec("tls", "a")]
    assert prefixes([*services, CompatService("tcp")], "Id1") == ["b", "id1", "a"]


def test_prefixes_for_the_authapi_with_the_id() -> None:
    assert prefixes(http("B", None, "id1"), "Id1", with_id=True) == ["id1-b", "id1", "id1"]


@pytest.mark.parametrize("name", ["a.b", "-a", "a-", "a b", "é", "x" * 64, "a/b", "*"])
def test_what_cannot_be_a_host_prefix(desk: Desk, name: str) -> None:
    assert "cannot be a host prefix" in desk.refused(http("ok", name), "host_not_allowed", 1)


def test_a_name_that_is_too_long_is_no_matter_for_the_rules(desk: Desk) -> None:
    """A rule may take for ever over a long one."""
    text = desk.refused(http("x" * 64), "host_not_allowed", 0, host_regex=("^b$",))
    assert "cannot be a host prefix" in text


def test_an_id_that_cannot_be_a_host_prefix(desk: Desk) -> None:
    assert names(desk.offer(http("a"), id="some.one")) == ["a"]
    desk.refused(http(None), "host_not_allowed", 0, id="some.one")


def test_a_name_that_waits_for_another(desk: Desk) -> None:
    desk.reserved = {"a"}
    assert "another user's" in desk.refused(http("b", "a"), "host_conflict", 1)


@pytest.mark.parametrize(
    ("services", "index"),
    [(http("a", "A"), 1), (http(None, "b", "id1"), 2), ([CompatService("tls", "a")] * 2, 1)],
)
def test_a_name_that_is_there_twice(desk: Desk, services: Sequence[AnyService], index: int) -> None:
    assert "appears twice" in desk.refused(services, "host_conflict", index)


# hostNumber


def test_host_number(desk: Desk) -> None:
    assert len(desk.offer(http("a", "b"), host_number=2).endpoints) == 2
    text = desk.refused(http("a", "b", "c"), "too_many_hosts", None, host_number=2)
    assert "may publish 2 host prefixes, not 3" in text


def test_host_number_counts_names(desk: Desk) -> None:
    """A site and its TLS are one name; the id is one as well; a port is none."""
    both = [ServiceSpec("http", "a"), ServiceSpec("tls", "a")]
    assert len(desk.offer(both, host_number=1).endpoints) == 2
    desk.refused([*both, ServiceSpec("http")], "too_many_hosts", None, host_number=1)
    with Port() as port:
        limits: dict[str, Any] = {"host_number": 1, "tcp_range": (PortRange(port.number, port.number),)}
        assert len(desk.offer([*both, ServiceSpec("tcp")], **limits).endpoints) == 3


def test_names_that_are_left_out_do_not_count(desk: Desk) -> None:
    assert names(desk.offer(http("a", "b"), only={"a"}, host_number=1)) == ["a"]


# hostRegex


@pytest.mark.parametrize(
    ("name", "patterns", "allowed"),
    [
        ("shop", ["^shop$"], True),
        ("shop", ["^blog$", "^sh"], True),
        ("my-shop-2", ["shop"], True),  # anywhere in it, as in the original GT
        ("SHOP", ["^shop$"], True),
        ("shop", ["^SHOP$"], False),
        ("shops", ["^shop$"], False),
        ("shop", ["^blog$", "^news$"], False),
        ("id1", ["^blog$"], True),  # the id is its own
        (None, ["^blog$"], True),
        ("id1x", ["^blog$"], False),
    ],
)
def test_host_regex(desk: Desk, name: str | None, patterns: list[str], allowed: bool) -> None:
    rules = tuple(patterns)
    if allowed:
        assert names(desk.offer(http(name), host_regex=rules)) == [(name or "id1").lower()]
    else:
        text = desk.refused(http("id1", name), "host_not_allowed", 1, host_regex=rules)
        assert all(pattern in text for pattern in patterns)


# hostWithID


def test_host_with_id(desk: Desk) -> None:
    offered = desk.offer([*http("a", "Id1", None)[:2], ServiceSpec("tls", "b")], host_with_id=True)
    assert offered.endpoints == [("http", "id1-a", 0), ("http", "id1", 1), ("tls", "id1-b", 2)]
    assert offered.ready[0] == {"hostPrefix": "id1-a"}


def test_host_regex_looks_at_what_the_client_asks_for(desk: Desk) -> None:
    limits: dict[str, Any] = {"host_with_id": True, "host_regex": ("^a$",)}
    assert names(desk.offer(http("a"), **limits)) == ["id1-a"]
    desk.refused(http("id1-a"), "host_not_allowed", 0, **limits)


def test_a_public_name_that_gets_too_long(desk: Desk) -> None:
    assert names(desk.offer(http("x" * 59), host_with_id=True)) == ["id1-" + "x" * 59]
    desk.refused(http("x" * 60), "host_not_allowed", 0, host_with_id=True)


def test_the_public_name_may_be_reserved(desk: Desk) -> None:
    desk.reserved = {"id1-a", "b"}
    desk.refused(http("b", "a"), "host_conflict", 1, host_with_id=True)


# what the authAPI allows


def test_services_it_does_not_allow_are_left_out(desk: Desk) -> None:
    desk.reserved = {"c"}
    offered = desk.offer(http("a", "B", "c", None), only={"b", "id1"})
    assert offered.endpoints == [("http", "b", 1), ("http", "id1", 3)]
    left_out = {"error": "host_not_allowed"}
    assert offered.ready == [left_out, {"hostPrefix": "b"}, left_out, {"hostPrefix": "id1"}]


def test_nothing_may_be_left(desk: Desk) -> None:
    assert desk.offer(http("a"), only=()) == Offer([], [{"error": "host_not_allowed"}])


# ports


def test_ports_among_other_services(desk: Desk) -> None:
    with Port() as one, Port() as two:
        ranges = tuple(PortRange(port.number, port.number) for port in (one, two))
        services: list[AnyService] = [
            ServiceSpec("tcp", None, one.number), ServiceSpec("http", "a"), ServiceSpec("tcp", None, 0, True),
        ]  # fmt: skip
        offered = desk.offer(services, tcp_range=ranges)
        assert offered.ports == [(0, one.number), (2, two.number)]
        assert offered.ready == [{"port": one.number}, {"hostPrefix": "a"}, {"port": two.number}]
        assert sorted(offered.endpoints) == sorted(
            [("tcp", str(one.number), 0), ("http", "a", 1), ("tcp", str(two.number), 2)]
        )


def test_ports_of_protocol_1(desk: Desk) -> None:
    with Port() as port:
        limits: dict[str, Any] = {"tcp_range": (PortRange(port.number, port.number),)}
        offered = desk.offer([CompatService("http"), CompatService("tcp", port=port.number)], **limits)
        assert offered.ports == [(1, port.number)]


def test_a_port_that_cannot_be(desk: Desk) -> None:
    desk.refused([*http("a"), ServiceSpec("tcp", None, 80)], "port_unavailable", 1)


def test_no_port_is_opened_for_services_that_are_refused(desk: Desk) -> None:
    with Port() as port:
        limits: dict[str, Any] = {"tcp_range": (PortRange(port.number, port.number),)}
        services = [ServiceSpec("tcp", None, port.number), ServiceSpec("http", "a b")]
        desk.refused(services, "host_not_allowed", 1, **limits)
        assert not any(desk.ports._ports.values())
