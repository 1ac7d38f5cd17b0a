"""What per-request mode does to the requests for one service, and what it answers itself. Called by request_socket."""

from functools import lru_cache
from http import HTTPStatus

from gtapp.client.basic_auth import BasicAuth
from gtapp.config.load import Service
from gtapp.wire import frames
from gtapp.wire.http_requests import Field, Request


class Rules:
    """What is done to the requests for one service."""

    def __init__(self, service: Service) -> None:
        local = service.local
        host = f"[{local.host}]" if ":" in local.host else local.host
        if local.port != 80:
            host += f":{local.port}"
        self.auth = BasicAuth(service.basic_auth) if service.basic_auth else None
        self._host = host.encode() if service.use_local_as_http_host else None
        self._forwarded_for = service.forwarded_for

    def forwarded(self, visitor: str, flags: int) -> tuple[bytes, bytes] | None:
        """What the service is told of a visitor: lines, and the value of Forwarded (RFC 7239), both without the host.

        What the visitor says itself is never passed on: GT is where the visitor came in.
        """
        if not self._forwarded_for:
            return None
        if not visitor:  # protocol 1 does not tell
            return b"", b"for=unknown"
        address = visitor.rpartition(":")[0]
        scheme = "https" if flags & frames.OVER_TLS else "http"
        lines = f"X-Forwarded-For: {address.strip('[]')}\r\nX-Forwarded-Proto: {scheme}\r\n"
        quoted = f'"{address}"' if ":" in address else address
        return lines.encode(), f"for={quoted};proto={scheme}".encode()

    def head(self, request: Request, forwarded: tuple[bytes, bytes] | None) -> bytes:
        """The head for the service."""
        fields = request.fields
        added = b""
        if forwarded is not None:
            added = _forwarded_lines(*forwarded, request.value(b"host"))
            fields = [field for field in fields if b"forwarded" not in field[0] or not _is_forwarded(field)]
        if self.auth is not None:
            fields = [field for field in fields if field[0] != b"authorization"]
        if self._host is not None:
            fields = [(b"host", b"Host", self._host), *(field for field in fields if field[0] != b"host")]
        request.fields = fields
        return request.head(added)


@lru_cache(256)  # a connection asks for one host as a rule
def _forwarded_lines(lines: bytes, value: bytes, host: bytes | None) -> bytes:
    if host:
        lines += b"X-Forwarded-Host: %b\r\n" % host
        value += b';host="%b"' % host if b":" in host else b";host=" + host
    return lines + b"Forwarded: %b\r\n" % value


def _is_forwarded(field: Field) -> bool:
    name = field[0].replace(b"_", b"-")  # CGI and its heirs take one for the other
    return name.startswith(b"x-forwarded-") or name == b"forwarded"


def answer(status: int, text: str, added: str = "", *, close: bool = False, has_body: bool = True) -> bytes:
    """A response of our own that says `text`; `added` are complete header lines. Without body it answers a HEAD."""
    body = f"{status} {HTTPStatus(status).phrase}\n{text}\n".encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: GT\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        f"{added}{'Connection: close' if close else 'Connection: keep-alive'}\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
