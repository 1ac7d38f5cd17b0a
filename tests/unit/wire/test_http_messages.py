import random

import httptools
import pytest

from gtapp.wire.http_messages import OVERHEAD_BYTES, MessageReader


class Reader(MessageReader):
    """The simplest one."""

    def begin(self) -> None:
        self._begin(httptools.HttpRequestParser)
        self.complete = False

    def feed(self, data: bytes) -> int:
        return self._feed_chunks(data)


HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b"2\r\n\r\n\r\n4;x\r\n\r\n\r\n\r\n0\r\nX: y\r\n\r\n"


def test_nothing_behind_a_message_is_read() -> None:
    message = HEAD + BODY
    rng = random.Random(5)
    for _ in range(300):
        data = message + b"\0garbage\r\n\r\n"
        reader = Reader()
        reader.begin()
        at = 0
        while not reader.complete:
            size = rng.randrange(1, 40)
            at += reader.feed(data[at : at + size])
        assert at == len(message)


def test_what_is_no_body_is_bounded() -> None:
    reader = Reader()
    reader.begin()
    reader.feed(HEAD)
    for _ in range(3):  # however much it is in all
        reader.feed(b"1;" + b"a" * (OVERHEAD_BYTES - 100) + b"\r\nx\r\n")
    with pytest.raises(httptools.HttpParserError, match="no body"):
        reader.feed(b"1;" + b"a" * (2 * OVERHEAD_BYTES))


def test_a_large_body_is_no_overhead() -> None:
    reader = Reader()
    reader.begin()
    reader.feed(HEAD + b"100000\r\n")
    for _ in range(16):
        reader.feed(bytes(65536))
    assert reader.feed(b"\r\n0\r\n\r\nmore") == 7
    assert reader.complete
