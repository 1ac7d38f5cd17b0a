import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.wire.http_requests import CHUNKED, BadRequest, Request, RequestReader

from . import corpus

Read = list[tuple[Request, bytes]]


def unchunk(data: bytes) -> tuple[bytes, bool]:
    """What is in a chunked body as we write it, and whether it has its end. Strict: it is ours."""
    parts: list[bytes] = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        assert size == b"%x" % length
        assert data[length : length + 2] == b"\r\n"
        if not length:
            assert data == b"\r\n"
            return b"".join(parts), True
        parts.append(data[:length])
        data = data[length + 2 :]
    return b"".join(parts), False


def read(pieces: list[bytes], mux_header: str = "Host") -> tuple[Read, RequestReader, int]:
    """All requests in the pieces, each with its body as it is sent on; the reader; the status where they are bad."""
    reader = RequestReader(mux_header)
    requests: Read = []
    unread = b""
    try:
        for piece in pieces:
            unread += piece
            while unread:
                if reader.complete:
                    found = reader.head(unread)
                    if found is None:
                        break
                    requests.append((found[0], b""))
                    unread = unread[found[1] :]
                else:
                    body, taken = reader.body(memoryview(unread))
                    assert taken
                    requests[-1] = (requests[-1][0], requests[-1][1] + body)
                    unread = unread[taken:]
    except BadRequest as error:
        return requests, reader, error.status
    return requests, reader, 0


@pytest.mark.parametrize("case", corpus.cases("http_requests/*.yaml"))
def test_corpus(case: corpus.Case) -> None:
    wanted = case.get("requests", [])
    for pieces in corpus.cuts(corpus.data_of(case)):
        requests, reader, status = read(pieces, case.get("mux_header", "Host"))
        assert status == case.get("bad", 0)
        assert [request.head().decode("latin-1") for request, _ in requests] == [
            each["head"] for each in wanted
        ]
        if status:
            continue
        for (request, body), expected in zip(requests, wanted, strict=True):
            complete = not expected.get("open", False)
            if request.length == CHUNKED:
                body, ended = unchunk(body)
                assert ended is complete
            assert body == expected.get("body", "").encode("latin-1")
            assert request.keep_alive is expected.get("keep_alive", True)
            assert request.websocket is expected.get("websocket", False)
            assert request.host == expected.get("host", request.host)
        assert reader.complete is not wanted[-1].get("open", False)


def test_what_is_sent_on_means_the_same_to_the_next_reader() -> None:
    """Read again, whatever was sent on comes out as it is."""
    for case in corpus.cases("http_requests/good.yaml"):
        (values,) = case.values
        requests, _, _ = read([corpus.data_of(values)], values.get("mux_header", "Host"))
        sent = [(request.head(), body) for request, body in requests]
        again, _, status = read([head + body for head, body in sent], values.get("mux_header", "Host"))
        assert status == 0
        assert [(request.head(), body) for request, body in again] == sent


@pytest.mark.parametrize("field", ["100-continue", "100-Continue"])
def test_who_waits_for_100_is_known(field: str) -> None:
    requests, _, _ = read(
        [f"PUT / HTTP/1.1\r\nHost: a\r\nExpect: {field}\r\nContent-Length: 1\r\n\r\n".encode()]
    )
    assert requests[0][0].expects_continue


def test_the_first_value_of_a_field() -> None:
    requests, _, _ = read([b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\n\r\n"])
    assert requests[0][0].value(b"x") == b"1"
    assert requests[0][0].value(b"y") is None


def test_added_lines_come_last() -> None:
    requests, _, _ = read([b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"])
    head = requests[0][0].head(b"X: y\r\n")
    assert head == b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: y\r\n\r\n"


def test_a_large_chunked_body_at_random_cuts() -> None:
    rng = random.Random(3)
    body = rng.randbytes(100_000) + b"\r\n\r\n" * 1000 + b"0\r\n\r\n"
    data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    at = 0
    while at < len(body):
        size = rng.choice((1, 2, 3, 100, 5000, 20_000))
        part = body[at : at + size]
        data += b"%X\r\n%b\r\n" % (len(part), part)
        at += size
    data += b"0\r\n\r\n"
    after = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    for pieces in corpus.cuts(data + after):
        requests, reader, status = read(pieces)
        assert status == 0
        assert unchunk(requests[0][1]) == (body, True)
        assert requests[1][0].head() == after
        assert reader.complete


starts = st.sampled_from(
    (
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
)
words = st.sampled_from(
    (b"GET", b"POST", b" ", b"/", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: a\r\n", b"Content-Length: ", b"3",
     b"0", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b"Connection: ", b"Upgrade", b"close",
     b"Upgrade: ", b"websocket", b"h2c", b"Expect: 100-continue\r\n", b"http://b", b"abc", b";a=b", b":", b",")
)  # fmt: skip
ends = st.sampled_from((b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b"\r", b"\n", b"\0", b"\xff"))
noise = st.lists(words | ends | st.binary(max_size=4), max_size=25).map(b"".join)


@given(start=starts, rest=noise, cut=st.integers(0, 200))
def test_whatever_comes_is_read_or_refused_and_what_is_sent_on_is_plain(
    start: bytes, rest: bytes, cut: int
) -> None:
    data = start + rest
    whole, _, status = read([data])
    parts, _, status_of_parts = read([data[:cut], data[cut:]])
    assert status == status_of_parts
    assert [request.head() for request, _ in whole] == [request.head() for request, _ in parts]
    for request, body in whole:
        head = request.head()
        again, end = RequestReader().head(head) or (None, 0)
        assert again is not None
        assert end == len(head)
        assert again.length == request.length
        assert head.lower().count(b"\r\ncontent-length:") + head.lower().count(b"\r\ntransfer-encoding:") <= 1
        if request.length == CHUNKED:
            unchunk(body)
        else:
            assert len(body) <= request.length
