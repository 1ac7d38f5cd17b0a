import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.wire.http_responses import BadResponse, ResponseReader

from . import corpus


def feed(reader: ResponseReader, pieces: list[bytes]) -> int:
    """How many bytes belong to the response."""
    used = 0
    for piece in pieces:
        taken = reader.receive(memoryview(piece))
        used += taken
        if taken < len(piece):
            assert reader.complete
            break
    return used


@pytest.mark.parametrize("case", corpus.cases("http_responses/responses.yaml"))
def test_corpus(case: corpus.Case) -> None:
    data = corpus.data_of(case)
    for pieces in corpus.cuts(data + case.get("rest", "").encode("latin-1")):
        reader = ResponseReader()
        for _ in range(2):  # one reader, one response after the other
            reader.expect(case.get("method", "GET"), case.get("websocket", False))
            assert "open" in repr(reader)
            assert feed(reader, pieces) == len(data)
            assert reader.begun
            assert reader.status == case["status"]
            assert reader.upgraded is case.get("upgraded", False)
            assert reader.complete is not case.get("up_to_the_end", False)
            assert reader.delimited is not case.get("up_to_the_end", False)
            if not reader.upgraded:
                assert reader.keep_alive is case.get("keep_alive", True)
            reader.end()
            assert reader.complete


@pytest.mark.parametrize("case", corpus.cases("http_responses/bad.yaml"))
def test_bad(case: corpus.Case) -> None:
    for pieces in corpus.cuts(corpus.data_of(case)):
        reader = ResponseReader()
        reader.expect("GET", case.get("websocket", False))
        with pytest.raises(BadResponse, match=case["bad"]):  # noqa: PT012
            feed(reader, pieces)
            reader.end()


def test_of_what_is_not_the_response_nothing_is_taken() -> None:
    reader = ResponseReader()
    assert reader.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n") == 0


def test_a_large_body_costs_no_copy() -> None:
    reader = ResponseReader()
    reader.expect("GET")
    reader.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
    piece = memoryview(bytes(1_000_000))
    assert feed(reader, [piece] * 10) == 10_000_000  # type: ignore[list-item]
    assert reader.complete


def test_it_shows_its_state() -> None:
    assert repr(ResponseReader()) == "<ResponseReader  0 complete>"
    reader = ResponseReader()
    reader.expect("HEAD")
    assert repr(reader) == "<ResponseReader HEAD 0 open>"
    reader.receive(b"HTTP/1.1 200 OK\r\n\r\n")
    assert repr(reader) == "<ResponseReader HEAD 200 complete>"


words = st.sampled_from(
    (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 404 x\r\n", b"HTTP/1.1 101 x\r\n",
     b"HTTP/", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n",
     b"Connection: close\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n",
     b"abc", b"\r\n", b"\r\n\r\n", b":")
)  # fmt: skip
noise = st.lists(words | st.binary(max_size=3), max_size=12).map(b"".join)


def verdict(pieces: list[bytes], method: str, websocket: bool) -> tuple[object, ...]:
    reader = ResponseReader()
    reader.expect(method, websocket)
    try:
        used = feed(reader, pieces)
        reader.end()
    except BadResponse:
        return ("bad",)
    return used, reader.status, reader.keep_alive, reader.upgraded


@given(
    begin=st.sampled_from((b"", b"HTTP/1.1 200 OK\r\n")), rest=noise, cut=st.integers(0, 100),
    method=st.sampled_from(("GET", "HEAD")), websocket=st.booleans(),
)  # fmt: skip
def test_whatever_comes_is_read_or_refused(
    begin: bytes, rest: bytes, cut: int, method: str, websocket: bool
) -> None:
    data = begin + rest
    assert verdict([data], method, websocket) == verdict([data[:cut], data[cut:]], method, websocket)
