"""wrk as a crowd of visitors who notice every request that fails."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from tests.support.ports import Address


@dataclass
class Result:
    """What the crowd saw. `failed` are requests without a whole answer, `refused` answers other than 2xx and 3xx."""

    requests: int
    failed: int
    refused: int
    text: str


class Wrk:
    """Asks for a page over `connections` connections, each anew with `close`, until `result` is called."""

    def __init__(
        self,
        address: Address,
        host: str,
        path: str = "/",
        *,
        connections: int = 100,
        close: bool,
        seconds: int,
    ) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout", "20", "-H", f"Host: {host}"]
            + (["-H", "Connection: close"] if close else [])
            + [f"http://{address[0]}:{address[1]}{path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def result(self) -> Result:
        """Ends it."""
        self._process.send_signal(2)  # it tells what it has seen so far
        text, _ = self._process.communicate(timeout=60)
        requests = re.search(r"(\d+) requests in", text)
        assert requests, text
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        return Result(
            int(requests[1]),
            sum(map(int, errors.groups())) if errors else 0,
            int(refused[1]) if refused else 0,
            text,
        )

    def close(self) -> None:
        if self.running:
            self._process.kill()
        self._process.communicate()
