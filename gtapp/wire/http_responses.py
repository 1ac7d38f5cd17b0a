"""The responses of one connection: where each ends, and nothing else, for their bytes are passed on as they came.

Called by client/request_pump and server/request_router.
"""

import re

import httptools

from gtapp.errors import WireError
from gtapp.wire.http_messages import END, MessageReader

LIMIT_BYTES = 65536  # of a head
COMMON_BYTES = 2048  # as long as heads are, as a rule
# To be found in what httptools has accepted: there are no other lines than those of fields.
_LENGTH = re.compile(rb"\r\n(content-length|transfer-encoding):[ \t]*([^\r]*)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:(?:[^\r]*,)?[ \t]*close[ \t]*[,\r]", re.IGNORECASE)
_UNTIL_CLOSE = -1  # the end of the connection ends the body
_CHUNKED = -2


class BadResponse(WireError):
    """What came is no response, or not a whole one."""


class ResponseReader(MessageReader):
    """`expect` a response, then `receive` until `complete`. All errors are BadResponse."""

    __slots__ = ("_head", "_left", "_method", "_websocket", "begun", "keep_alive", "status", "upgraded")

    def __init__(self) -> None:
        super().__init__()
        self._method = ""
        self._websocket = False
        self._head = b""  # what has come of it
        self._left = 0  # bytes of the body, or one of the constants
        self.begun = False  # a byte of the final response has come
        self.status = 0  # of the final response, once its head is read
        self.keep_alive = True  # another response may follow this one
        self.upgraded = False  # the connection has become a WebSocket; `complete` is true then

    def __repr__(self) -> str:
        return f"<ResponseReader {self._method} {self.status} {'complete' if self.complete else 'open'}>"

    @property
    def delimited(self) -> bool:
        """Whether the response says itself where it ends."""
        return self._left != _UNTIL_CLOSE

    def expect(self, method: str, websocket: bool = False) -> None:
        """What comes next answers a request with this method, which asked for a WebSocket or not."""
        self._method = method
        self._websocket = websocket
        self.status = 0
        self._next_head()

    def _next_head(self) -> None:
        self._begin(httptools.HttpResponseParser)
        self.complete = self.begun = False
        self._head = b""

    def receive(self, data: bytes | memoryview) -> int:
        """How many bytes of `data` belong to the response; interim ones (1xx) before it belong to it."""
        size = len(data)
        at = 0
        if not (self._in_body or self.begun or self.complete):
            at = self._receive_whole_head(bytes(data[:COMMON_BYTES]))
        while at < size and not self.complete:
            if not self._in_body:
                at += self._receive_head(bytes(data[at : at + LIMIT_BYTES]))
            elif self._left == _CHUNKED:
                at += self._receive_chunks(bytes(data[at:]))
            elif self._left == _UNTIL_CLOSE:
                at = size
            else:
                passed = min(self._left, size - at)
                self._left -= passed
                at += passed
                self.complete = not self._left
        return at

    def end(self) -> None:
        """The connection has ended. Raises BadResponse unless the response is whole."""
        if not self.complete:
            if self.status and self._left == _UNTIL_CLOSE:
                self.complete = True
            else:
                raise BadResponse("the connection ended within a response")

    def _receive_whole_head(self, data: bytes) -> int:
        """Take a head that begins `data`, if all of it is there; how many bytes that was."""
        end = data.find(END) + len(END)
        if end < len(END):
            return 0
        self.begun = True
        parser = self._parser
        assert isinstance(parser, httptools.HttpResponseParser)
        self._head = data[:end]
        try:
            parser.feed_data(self._head)
        except httptools.HttpParserUpgrade:
            pass  # a 101, which ends where its head does
        except httptools.HttpParserError as error:
            raise BadResponse(f"malformed head: {error}") from error
        if self._in_body:
            self._understand(parser)
        return end  # else that were empty lines before it

    def _receive_head(self, data: bytes) -> int:
        self.begun = True
        parser = self._parser
        assert isinstance(parser, httptools.HttpResponseParser)
        try:
            end = self._feed(data, 0)
        except httptools.HttpParserError as error:
            raise BadResponse(f"malformed head: {error}") from error
        self._head += data[:end]
        if self._in_body:
            self._understand(parser)
        elif self._overhead > LIMIT_BYTES:
            raise BadResponse(f"head of more than {LIMIT_BYTES} bytes")
        return end

    def _receive_chunks(self, data: bytes) -> int:
        try:
            return self._feed_chunks(data)
        except httptools.HttpParserError as error:
            raise BadResponse(f"malformed chunked body: {error}") from error

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._in_body = True
        self.keep_alive = self._parser.should_keep_alive()

    def _understand(self, parser: httptools.HttpResponseParser) -> None:
        """What a head says about the body and the connection (RFC 9112 section 6.3)."""
        status = parser.get_status_code()
        if status == 101:
            if not self._websocket:
                raise BadResponse("it changes the protocol without having been asked to")
            self.upgraded = self.complete = True
            self._parser = None
            return
        if status < 200:
            self._next_head()
            return
        self.status = status
        self._left = _UNTIL_CLOSE
        for name, value in _LENGTH.findall(self._head):
            if len(name) == len(b"content-length"):
                self._left = int(value)
            elif parser.get_http_version() == "1.0":
                raise BadResponse("Transfer-Encoding in HTTP/1.0")
            else:
                coding = value.lower().rpartition(b",")[2].strip(b" \t")
                self._left = _CHUNKED if coding == b"chunked" else _UNTIL_CLOSE
        if self._method == "HEAD":
            if self._left == _UNTIL_CLOSE and parser.get_http_version() == "1.1":
                self.keep_alive = not _CLOSE.search(
                    self._head
                )  # httptools thinks that it must end the connection
            self._left = 0
        elif status in (204, 304):
            self._left = 0
        self._head = b""
        self.complete = not self._left
        if self._left != _CHUNKED:
            self._parser = None  # it refers to this object, and bodies of known length need no reader
