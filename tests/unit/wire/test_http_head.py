import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.errors import WireError
from gtapp.wire.http_head import LIMIT_BYTES, BadHead, Head, NotHTTP, parse

from . import corpus

Verdict = Head | int | str | None


def verdict(data: bytes, mux_header: str = "Host") -> Verdict:
    try:
        return parse(data, mux_header)
    except BadHead as error:
        return error.status
    except NotHTTP:
        return "not HTTP"


def expected(case: corpus.Case) -> Verdict:
    if "head" in case:
        return Head(**case["head"])
    return "not HTTP" if "not_http" in case else case.get("bad")


@pytest.mark.parametrize("case", corpus.cases("http_head/*.yaml"))
def test_corpus(case: corpus.Case) -> None:
    """At every length: nothing, up to the byte that decides, and from there on the same."""
    data = corpus.data_of(case)
    found = [(size, verdict(data[:size], case.get("mux_header", "Host"))) for size in lengths(len(data))]
    decided = [(size, value) for size, value in found if value is not None]
    if expected(case) is None:
        assert decided == []
        return
    at = decided[0][0]
    assert {value for _, value in decided} == {expected(case)}
    assert [size for size, _ in found if size >= at] == [size for size, _ in decided]
    assert at == case.get("decided_at", at)


def lengths(most: int) -> list[int]:
    near = [*range(2000), *range(LIMIT_BYTES - 100, LIMIT_BYTES + 100), most]
    return sorted({size for size in near if size <= most})


tokens = st.text(st.sampled_from("GETPOXhost-_!#0"), min_size=1, max_size=10)
hosts = st.one_of(
    st.text(st.sampled_from("abcXYZ019-."), min_size=1, max_size=30).filter(
        lambda host: not host.endswith(".")
    ),
    st.sampled_from(("[::1]", "[2001:DB8::1]")),
)
others = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)


@given(
    method=tokens,
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
    name=st.sampled_from(("Host", "HOST", "host", "hOsT")),
    host=hosts,
    port=st.none() | st.integers(0, 65535),
    before=st.lists(st.tuples(tokens.map(lambda name: "X" + name), others), max_size=4),
    body=st.binary(max_size=30),
)
def test_the_host_is_found(method, path, name, host, port, before, body) -> None:
    fields = [*before, (name, f" {host}" + ("" if port is None else f":{port}"))]
    lines = [f"{method} /{path} HTTP/1.1", *(f"{name}:{value}" for name, value in fields), "", ""]
    head = parse("\r\n".join(lines).encode("latin-1") + body)
    assert head == Head(method, "/" + path, "1.1", host.lower().strip("[]"))


pieces = st.sampled_from(
    (b"GET", b" ", b"/", b"*", b"http://a", b" HTTP/1.1", b" HTTP/1.0", b"HTTP/2.0", b"[", b"]", b"::1", b":")
)
ends = st.sampled_from((b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\0", b"\xff"))
fields = st.sampled_from((b"Host:", b"hOSt: a\r\n", b"X: y\r\n", b"X-Mux: a\r\n"))
noise = st.lists(pieces | ends | fields | st.binary(max_size=4), max_size=15).map(b"".join)
starts = st.sampled_from((b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET http://"))


@given(starts, noise, st.sampled_from(("Host", "X-Mux")))
def test_any_bytes_give_a_head_or_the_errors_and_more_bytes_change_nothing(start, data, mux_header) -> None:
    data = start + data
    decided: Verdict = None
    for size in range(len(data) + 1):
        found = verdict(data[:size], mux_header)
        assert decided is None or found == decided
        decided = found


def test_both_errors_are_the_declared_one() -> None:
    assert issubclass(NotHTTP, WireError)
    assert issubclass(BadHead, WireError)
