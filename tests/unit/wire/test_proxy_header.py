from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.errors import WireError
from gtapp.wire.proxy_header import V1_LIMIT_BYTES, V2_LIMIT_BYTES, Parsed, build_v1, build_v2, parse

from . import corpus

Verdict = Parsed | str | None


def verdict(data: bytes) -> Verdict:
    try:
        return parse(data)
    except WireError as error:
        return str(error)


@pytest.mark.parametrize("case", corpus.cases("proxy_header/*.yaml"))
def test_corpus(case: corpus.Case) -> None:
    """At every length: nothing, up to the byte that decides, and from there on the same."""
    data = corpus.data_of(case)
    decided_at = case.get("decided_at", len(data))
    expected = Parsed(**case["header"]) if "header" in case else case.get("bad")
    for size in range(len(data) + 1):
        found = verdict(data[:size])
        assert found == (None if size < decided_at else expected), size


@pytest.mark.parametrize(
    "case",
    [case for case in corpus.cases("proxy_header/v?.yaml") if "local" in case.values[0]],
)
def test_what_is_written(case: corpus.Case) -> None:
    data = corpus.data_of(case)
    build = build_v1 if data.startswith(b"PROXY") else build_v2
    assert build(case["header"]["visitor"], case["local"]) == data


NOBODY = (
    "",
    "visitor",
    "203.0.113.9",
    "203.0.113.9:65536",
    "[::1]",
    "::1:80",
    "1.2.3:4",
    "[1.2.3.4]:5",
    "[]:1",
    ":1",
)


@pytest.mark.parametrize("visitor", NOBODY)
def test_a_visitor_whose_address_is_not_known(visitor: str) -> None:
    assert build_v1(visitor, "192.0.2.1:443") == b"PROXY UNKNOWN\r\n"
    assert build_v2(visitor, "192.0.2.1:443") == b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


@pytest.mark.parametrize("local", NOBODY)
def test_a_service_whose_address_is_not_known(local: str) -> None:
    assert build_v1("203.0.113.9:51234", local) == b"PROXY TCP4 203.0.113.9 0.0.0.0 51234 0\r\n"
    assert build_v1("[2001:db8::1]:51234", local) == b"PROXY TCP6 2001:db8::1 :: 51234 0\r\n"


@pytest.mark.parametrize(
    ("visitor", "local", "line"),
    [
        ("[2001:db8::1]:5", "127.0.0.1:80", "TCP6 2001:db8::1 ::ffff:7f00:1 5 80"),
        ("203.0.113.9:5", "[::1]:80", "TCP6 ::ffff:cb00:7109 ::1 5 80"),
        ("[::ffff:203.0.113.9]:5", "127.0.0.1:80", "TCP4 203.0.113.9 127.0.0.1 5 80"),
        ("[fe80::1%eth0]:5", "[fe80::2%2]:80", "TCP6 fe80::1 fe80::2 5 80"),
    ],
    ids=["IPv6 to IPv4", "IPv4 to IPv6", "IPv4 inside IPv6", "zones"],
)
def test_both_ends_in_one_family(visitor: str, local: str, line: str) -> None:
    """There is one family per header; which spelling of an IPv4 address inside IPv6, Python decides."""
    written = build_v1(visitor, local).decode()
    assert written.replace("::ffff:127.0.0.1", "::ffff:7f00:1").replace(
        "::ffff:203.0.113.9", "::ffff:cb00:7109"
    ) == (f"PROXY {line}\r\n")
    first, second = parse(build_v1(visitor, local)), parse(build_v2(visitor, local))
    assert first is not None
    assert second is not None
    assert first.visitor == second.visitor


ports = st.integers(0, 65535)
fours = st.tuples(st.ip_addresses(v=4), ports).map(lambda each: f"{each[0]}:{each[1]}")
sixes = st.tuples(st.integers(2**48, 2**128 - 1).map(IPv6Address), ports).map(
    lambda each: f"[{each[0]}]:{each[1]}"
)


@given(fours | sixes, fours | sixes, st.sampled_from((build_v1, build_v2)), st.binary(max_size=20))
def test_what_is_written_is_read_again(visitor, local, build, rest) -> None:
    data = build(visitor, local)
    assert len(data) <= V1_LIMIT_BYTES
    assert parse(data + rest) == Parsed(visitor, len(data))


starts = st.sampled_from(
    (
        b"",
        b"PROXY ",
        b"PROXY TCP4 1.2.3.4 ",
        b"PROXY TCP6 ::1 ",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
    )
)
pieces = st.sampled_from(
    (b" ", b"TCP4", b"UNKNOWN", b"1.2.3.4", b"::1", b"\r\n", b"\r", b"80", b"\x21\x21", b"\0\x0c")
)


@given(starts, st.lists(pieces | st.binary(max_size=6), max_size=30).map(b"".join))
def test_any_bytes_give_a_header_or_the_error_and_more_bytes_change_nothing(start, data) -> None:
    data = start + data
    decided: Verdict = None
    for size in range(len(data) + 1):
        found = verdict(data[:size])
        assert decided is None or found == decided
        decided = found


@given(starts, st.binary(max_size=50))
def test_at_the_limit_it_is_decided(start, data) -> None:
    assert verdict((start + data).ljust(V2_LIMIT_BYTES, b"x")) is not None
