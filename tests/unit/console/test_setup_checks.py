"""Domain, ports and surroundings as the wizard sees them: real sockets; of DNS, what getaddrinfo answers is made up."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import psutil
import pytest

from gtapp.config.values import Address
from gtapp.console import setup_checks
from gtapp.console.setup_checks import (
    check_bind,
    check_dns,
    clean_domain,
    container,
    free_port,
    is_address,
    own_addresses,
)
from tests.support.ports import Port

PUBLIC, ELSEWHERE = "9.9.9.9", "1.1.1.1"


@pytest.mark.parametrize(
    ("typed", "domain"),
    [
        ("example.com", "example.com"),
        (" *.Example.COM. ", "example.com"),
        ("https://tunnel.example.com/path", "tunnel.example.com"),
        ("localhost", "localhost"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("例子.中国", "xn--fsqu00a.xn--fiqs8s"),
        ("a-b.c_d.example", "a-b.c_d.example"),
    ],
)
def test_what_people_type_becomes_a_domain(typed: str, domain: str) -> None:
    assert clean_domain(typed) == domain


@pytest.mark.parametrize(
    "typed",
    ["", " ", "example", "203.0.113.7", "[2001:db8::1]", "a..b", "-a.example", "a b.example", "x" * 64 + ".com",
     "x." * 127 + "com", "example.com:8080", "<script>.com", "\x00.com", "*.*.com", "..", "a.1"],
)  # fmt: skip
def test_what_is_no_domain(typed: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        clean_domain(typed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("203.0.113.7", True), (" [2001:db8::1] ", True), ("::1", True), ("example.com", False), ("", False)],
)
def test_addresses_are_told_from_names(text: str, expected: bool) -> None:
    assert is_address(text) is expected


# DNS


Answers = dict[str, Any]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], list[str]]:
    """Sets what names lead to: a list of addresses, or an exception. A key that begins with *. is for every name under
    it. The names that were asked for are in the list that comes back."""

    def answer(answers: Answers) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, *more: Any, **others: Any) -> list[Any]:
            asked.append(host)
            found = answers.get(host, answers.get(f"*.{host.partition('.')[2]}"))
            if found is None:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            if isinstance(found, BaseException):
                raise found
            if callable(found):
                found()
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return answer


def test_a_domain_that_leads_here(resolver: Callable[[Answers], list[str]]) -> None:
    asked = resolver({"example.com": [PUBLIC], "*.example.com": [PUBLIC]})
    check = check_dns("example.com", [PUBLIC, "192.168.1.5"])
    assert check.ok
    assert check.state == "here"
    assert [(each.name, each.found) for each in check.records] == [
        ("example.com", (PUBLIC,)),
        ("*.example.com", (PUBLIC,)),
    ]
    random = [name for name in asked if name != "example.com"]
    assert len(random) == 1
    assert random[0].startswith("gt-")
    assert random[0].endswith(".example.com")
    check_dns("example.com", [PUBLIC])
    assert len(set(asked)) == 3  # another name each time: no cache can have it


def test_a_star_that_is_missing(resolver: Callable[[Answers], list[str]]) -> None:
    resolver({"example.com": [PUBLIC]})
    check = check_dns("example.com", [PUBLIC])
    assert [each.state for each in check.records] == ["here", "missing"]
    assert (check.ok, check.state) == (False, "missing")


def test_a_domain_that_leads_elsewhere(resolver: Callable[[Answers], list[str]]) -> None:
    resolver({"example.com": [ELSEWHERE], "*.example.com": [ELSEWHERE, PUBLIC]})
    check = check_dns("example.com", [PUBLIC])
    assert [each.state for each in check.records] == ["elsewhere", "here"]


def test_behind_a_router_nothing_can_be_compared(resolver: Callable[[Answers], list[str]]) -> None:
    resolver({"example.com": [PUBLIC], "*.example.com": ["192.168.1.77"]})
    check = check_dns("example.com", ["192.168.1.5"])
    assert [each.state for each in check.records] == ["unknown", "elsewhere"]


def test_a_resolver_that_fails(resolver: Callable[[Answers], list[str]]) -> None:
    resolver(
        {
            "example.com": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            "*.example.com": UnicodeError("label too long"),
        }
    )
    assert [each.state for each in check_dns("example.com", [PUBLIC]).records] == ["failed", "failed"]


def test_a_resolver_that_says_nothing(
    resolver: Callable[[Answers], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_checks, "LOOK_UP_S", 0.02)
    resolver({"example.com": lambda: gevent.sleep(10)})
    assert [each.state for each in check_dns("example.com", [PUBLIC]).records] == ["failed", "missing"]


def test_own_addresses_are_those_that_others_use() -> None:
    found = own_addresses("127.0.0.1:8000")
    assert "127.0.0.1" not in found
    assert "::1" not in found
    assert not any(each.startswith("fe80") for each in found)


def test_where_the_browser_has_come_to_is_one_of_ours() -> None:
    assert own_addresses(PUBLIC)[0] == PUBLIC
    assert own_addresses("[2620:fe::fe]")[0] == "2620:fe::fe"
    assert "example.com" not in own_addresses("example.com")
    assert "127.0.0.1" not in own_addresses("127.0.0.1")


# ports


def test_a_free_port_can_be_had_and_stays_free() -> None:
    with Port() as port:
        for _ in range(2):
            assert check_bind(Address("127.0.0.1", port.number)).ok
            assert check_bind(Address("", port.number)).ok


def test_who_holds_a_port_is_named() -> None:
    with Port() as port, port.listen():
        check = check_bind(Address("127.0.0.1", port.number))
        assert (check.ok, check.state) == (False, "taken")
        assert f"({os.getpid()})" in check.holder
        assert check.reason
        assert check_bind(Address("", port.number)).state == "taken"


def test_a_holder_that_may_not_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(kind: str) -> None:
        raise psutil.AccessDenied()

    monkeypatch.setattr(psutil, "net_connections", forbidden)
    with Port() as port, port.listen():
        check = check_bind(Address("127.0.0.1", port.number))
        assert (check.state, check.holder) == ("taken", "")


def test_an_address_of_another_machine() -> None:
    assert check_bind(Address("192.0.2.1", 8080)).state == "no address"


def test_a_name_that_is_none() -> None:
    check = check_bind(Address("gt.invalid", 8080))
    assert check.state == "failed"
    assert check.reason


def test_a_low_port_without_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)  # the tests run as root, who may
    assert check_bind(Address("127.0.0.1", 80)).state == "forbidden"


def test_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    listen = setup_checks._listen
    tried = []

    def no_ipv6(family: int, host: str, port: int) -> None:
        tried.append(host)
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        listen(family, host, port)

    monkeypatch.setattr(setup_checks, "_listen", no_ipv6)
    with Port() as port:
        assert check_bind(Address("", port.number)).ok
    assert tried == ["::", "0.0.0.0"]


def test_the_first_free_port_is_suggested() -> None:
    with Port() as taken, taken.listen(), Port() as free:
        assert free_port((taken.number, free.number), "127.0.0.1") == free.number
        assert free_port((taken.number,), "127.0.0.1") is None


# containers


@pytest.mark.parametrize(
    ("files", "environ", "expected"),
    [
        ({}, {}, ""),
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": ""}, {}, "podman"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({}, {"container": "podman"}, "podman"),
        ({}, {"container": "lxc"}, "container"),
        ({"proc/1/cgroup": "0::/\n"}, {}, ""),
        ({"proc/1/cgroup": "12:pids:/docker/0123456789ab\n"}, {}, "container"),
    ],
)
def test_containers(tmp_path: Path, files: dict[str, str], environ: dict[str, str], expected: str) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert container(tmp_path, environ) == expected
