"""A WebSocket echo service (the websockets package), to be reached with websocket-client as a visitor."""

from __future__ import annotations

import logging
import threading
from typing import Any

import websocket
import websockets.sync.server

from tests.support.ports import Address


class EchoService:
    """Sends every message back as it came, in a thread per connection."""

    def __init__(self) -> None:
        logger = logging.getLogger("websockets.server")
        logger.setLevel(logging.ERROR)
        self._server = websockets.sync.server.serve(
            self._echo, "127.0.0.1", 0, max_size=None, compression=None, ping_interval=None, logger=logger
        )
        self.address: Address = self._server.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @staticmethod
    def _echo(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)


class Socket(websocket.WebSocket):
    """A visitor's WebSocket whose close() always closes: the package's leaves it open after a close frame came."""

    def close(self, *args: Any, **kwargs: Any) -> None:
        super().close(*args, **kwargs)
        self.shutdown()


def connect(address: Address, host: str, timeout: float = 20.0) -> Any:
    """A visitor's WebSocket to the service published at this host name."""
    return websocket.create_connection(
        f"ws://{address[0]}:{address[1]}/", host=host, timeout=timeout, class_=Socket
    )
