"""What the readers of requests and of responses share: httptools (llhttp) fed so that it never reads beyond a message.

httptools cannot be stopped in the middle of what it is fed, and does not say where a message ended. But heads and
chunked bodies all end with CRLF CRLF: it is fed up to each of these, until it says that the message is complete.
"""

from collections.abc import Callable
from typing import TypeVar

import httptools

Parser = httptools.HttpRequestParser | httptools.HttpResponseParser
P = TypeVar("P", httptools.HttpRequestParser, httptools.HttpResponseParser)

END = b"\r\n\r\n"
OVERHEAD_BYTES = 16384  # of chunk sizes, extensions and trailers between two bytes of a body: all dropped


class MessageReader:
    """One message after the other. The methods `on_…` are called by httptools."""

    __slots__ = ("_in_body", "_overhead", "_parser", "_tail", "complete")

    def __init__(self) -> None:
        self.complete = True  # the message that was begun is whole
        self._parser: Parser | None = None
        self._in_body = False
        self._overhead = 0
        self._tail = b""  # of what was fed last: END may be cut

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        self._overhead = 0

    def on_message_complete(self) -> None:
        self.complete = True

    def _begin(self, make: Callable[[object], P]) -> P:
        """Get ready for the next head. A parser of its own for each costs 0.5 µs and has no past."""
        parser = self._parser = make(self)
        self._in_body = False
        self._overhead = 0
        self._tail = b""
        return parser

    def _feed(self, data: bytes, begin: int) -> int:
        """Feed a piece of a head or a chunked body, at most up to the next END; where the next piece begins.

        Raises httptools.HttpParserError.
        """
        assert self._parser is not None
        tail = self._tail
        if tail and (found := (tail + data[begin : begin + 3]).find(END)) >= 0:
            end = begin + found + len(END) - len(tail)
        elif (found := data.find(END, begin)) >= 0:
            end = found + len(END)
        else:
            end = len(data)
        end = min(end, begin + OVERHEAD_BYTES)
        piece = data[begin:end]
        self._overhead += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # a 101, which ends where its head does
        self._tail = (tail + piece[-3:])[-3:]
        if self.complete:
            self._parser = None  # which refers to this object
        return end

    def _feed_chunks(self, data: bytes) -> int:
        """Feed what belongs to a chunked body; where that ends. Raises httptools.HttpParserError."""
        end = 0
        while end < len(data) and not self.complete:
            end = self._feed(data, end)
            if self._overhead > OVERHEAD_BYTES:
                raise httptools.HttpParserError(f"more than {OVERHEAD_BYTES} bytes that are no body")
        return end
