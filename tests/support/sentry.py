"""A server that takes error reports as Sentry's does: envelopes over HTTP, to be looked at by tests."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.ports import Port
from tests.support.processes import PATIENCE_S, eventually


class SentryServer:
    """Listens on a port of its own. `events` are those that came, `requests` what came around them.

    `hold` makes it slow: requests are taken and not answered until it is set.
    """

    def __init__(self, status: int = 200, port: Port | None = None) -> None:
        self.port = port or Port()
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.arrived = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                server.requests.append((self.path, dict(self.headers), body))
                server.events += events_of(body)
                server.arrived.set()
                server.hold.wait(PATIENCE_S)
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(self.port.address, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def dsn(self) -> str:
        return f"http://public-key-of-tests@{self.port}/7"

    def wait(self, count: int = 1, timeout: float = PATIENCE_S) -> list[dict[str, Any]]:
        eventually(lambda: len(self.events) >= count, f"{count} events at the Sentry server", timeout)
        return self.events

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)
        self.port.close()


def events_of(envelope: bytes) -> list[dict[str, Any]]:
    """The events in an envelope: https://develop.sentry.dev/sdk/data-model/envelopes/"""
    lines = envelope.split(b"\n")
    found = []
    for head, payload in zip(lines[1::2], lines[2::2], strict=False):
        if head and json.loads(head)["type"] == "event":
            found.append(json.loads(payload))
    return found
