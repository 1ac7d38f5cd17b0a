"""The requests of one connection, one after the other, for per-request mode. Called by client/request_pump and
server/request_router.

Each head has to pass the rules of `http_head` and httptools, a body httptools. What is sent on is written anew from
what they understood, so that nobody behind can understand it in another way (RFC 9112 section 11).
"""

import re
from dataclasses import dataclass

import httptools

from gtapp.errors import WireError
from gtapp.wire import http_head
from gtapp.wire.http_messages import END, MessageReader

CHUNKED = -1  # the length of a body that says itself where it ends

Field = tuple[bytes, bytes, bytes]
"""A header field: its name in lower case, its name as it came, its value."""

# They concern one connection only (RFC 9110 section 7.6.1), or a protocol that is not offered here.
_OF_CONNECTION = frozenset(
    (b"connection", b"http2-settings", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade")
)  # fmt: skip
_SPECIAL = _OF_CONNECTION | {b"content-length", b"expect", b"host"}
_NEVER_DROPPED = {b"content-length", b"host"}  # whatever Connection says
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"[^:/?#]+://([^/?#]*)")


class BadRequest(WireError):
    """Answer with `status` and close: nobody knows where the next request begins."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Request:
    """The head of a request. `host` is for routing, as in http_head.Head; `length` that of the body or CHUNKED."""

    method: str
    target: str
    version: str
    host: str
    fields: list[Field]  # without those that concern the connection
    length: int
    keep_alive: bool  # the visitor may send another request after this one
    websocket: bool  # asks to turn the connection into a WebSocket
    expects_continue: bool  # the body may not come before the service says 100

    def value(self, name: bytes) -> bytes | None:
        """The value of the first field of this name, which is in lower case."""
        for low, _, value in self.fields:
            if low == name:
                return value
        return None

    def head(self, added: bytes = b"") -> bytes:
        """The head to send on; `added` are complete lines."""
        lines = [f"{self.method} {self.target} HTTP/{self.version}\r\n".encode("latin-1")]
        for _, name, value in self.fields:
            lines.append(b"%b: %b\r\n" % (name, value))
        if self.length == CHUNKED:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        if self.websocket:
            lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
        elif self.keep_alive != (self.version == "1.1"):
            lines.append(b"Connection: keep-alive\r\n" if self.keep_alive else b"Connection: close\r\n")
        lines.append(added)
        lines.append(b"\r\n")
        return b"".join(lines)


class RequestReader(MessageReader):
    """Reads `head`, then `body` until `complete`, then `head` again. All errors are BadRequest."""

    __slots__ = ("_fields", "_left", "_mux_header", "_pieces")

    def __init__(self, mux_header: str = "Host") -> None:
        super().__init__()
        self._mux_header = mux_header
        self._fields: list[tuple[bytes, bytes]] = []
        self._left = 0  # bytes of the body, or CHUNKED
        self._pieces: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # else it is a trailer
            self._fields.append((name, value))

    def on_body(self, data: bytes) -> None:
        self._overhead = 0
        self._pieces.append(data)

    def head(self, data: bytes) -> tuple[Request, int] | None:
        """The request whose head begins `data`, and the length of that head; None when there is more to come.

        Call it again with the same bytes and more. Once it gives a request, the body comes next.
        """
        try:
            head = http_head.parse(data, self._mux_header)
        except http_head.BadHead as error:
            raise BadRequest(str(error), error.status) from error
        except http_head.NotHTTP as error:
            raise BadRequest(str(error)) from error
        if head is None:
            return None
        if head.method == "CONNECT":
            raise BadRequest("CONNECT is not offered here")
        begin = 0
        while data[begin] == 13:  # empty lines
            begin += 2
        begin = data.index(b"\r\n", begin)
        end = data.index(END, begin) + 4
        # llhttp knows a list of methods, and refuses bytes in targets that clients do send: that line is read above.
        line = b"POST / HTTP/1.1" if head.version == "1.1" else b"POST / HTTP/1.0"
        rest = data[begin:end]
        wants_upgrade = self._parse(line + rest)
        request = _understand(head, self._fields, wants_upgrade)
        if wants_upgrade and not request.websocket:  # or else llhttp would take it that no body follows
            self._parse(line + _UPGRADE.sub(b"", rest))
        self._left = request.length
        return request, end

    def _parse(self, head: bytes) -> bool:
        """Feed a complete head; whether it asks for an upgrade."""
        parser = self._begin(httptools.HttpRequestParser)
        self._fields = []
        self.complete = False
        wants_upgrade = False
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            wants_upgrade = True
        except httptools.HttpParserError as error:
            raise BadRequest(f"malformed head: {error}") from error
        if not self._in_body:
            raise BadRequest("malformed head")
        if self.complete:
            self._parser = None
        return wants_upgrade

    def body(self, data: bytes | memoryview) -> tuple[bytes, int]:
        """What of the body to send on, and how many bytes of `data` that was; the rest begins the next request."""
        assert self._parser is not None
        self._pieces = []
        if self._left != CHUNKED:
            end = min(self._left, len(data))
            self._left -= end
            self._parser.feed_data(data[:end])
            if self.complete:
                self._parser = None
            return b"".join(self._pieces), end
        try:
            end = self._feed_chunks(bytes(data))
        except httptools.HttpParserError as error:
            raise BadRequest(f"malformed chunked body: {error}") from error
        body = b"".join(self._pieces)
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return (chunk + b"0\r\n\r\n" if self.complete else chunk), end


def _understand(head: http_head.Head, fields: list[tuple[bytes, bytes]], wants_upgrade: bool) -> Request:
    """What the fields that concern the connection and the body say. Raises BadRequest."""
    kept: list[Field] = []
    options: list[bytes] = []  # of Connection
    upgrades: list[bytes] = []
    length = 0
    expects_continue = False
    target, authority = _origin_form(head)
    for name, value in fields:
        low = name.lower()
        value = value.strip(b" \t")
        if low in _SPECIAL and (low != b"host" or authority is not None):
            if low == b"connection":
                options += [option.strip(b" \t") for option in value.lower().split(b",")]
            elif low == b"transfer-encoding":
                if length or value.lower() != b"chunked" or head.version == "1.0":
                    raise BadRequest("Transfer-Encoding is something else than one `chunked` of HTTP/1.1")
                length = CHUNKED
            elif low == b"content-length":
                length = int(
                    value
                )  # llhttp has seen to it that there is one, of digits, without Transfer-Encoding
                value = b"%d" % length
            elif low == b"upgrade":
                upgrades.append(value.lower())
            elif low == b"expect":
                expects_continue = value.lower() == b"100-continue"
            elif low == b"host":
                assert authority is not None
                value = authority
            if low in _OF_CONNECTION:
                continue
        kept.append((low, name, value))
    if options:
        named = set(options) - _NEVER_DROPPED
        if named - {b"close", b"keep-alive", b"upgrade"}:
            kept = [field for field in kept if field[0] not in named]
    if head.version == "1.1":
        keep_alive = b"close" not in options
    else:
        keep_alive = b"keep-alive" in options and b"close" not in options
    websocket = (
        wants_upgrade and head.method == "GET" and head.version == "1.1" and upgrades == [b"websocket"]
    )
    return Request(
        head.method, target, head.version, head.host, kept, length, keep_alive,
        websocket and not length, expects_continue,
    )  # fmt: skip


def _origin_form(head: http_head.Head) -> tuple[str, bytes | None]:
    """The target as a service expects it, and for one in absolute form what Host has to be (RFC 9112 section 3.2.2)."""
    target = head.target
    if target[0] == "/" or target == "*":
        return target, None
    absolute = _ABSOLUTE.match(target.encode("latin-1"))
    assert absolute is not None  # http_head has seen to that
    rest = target[absolute.end() :]
    if not rest and head.method == "OPTIONS":
        rest = "*"
    return rest if rest.startswith(("/", "*")) else "/" + rest, absolute[1].rpartition(b"@")[2]
