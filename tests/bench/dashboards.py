"""Browsers that have the dashboard open, as a process of its own. Started by console_cases.py.

python -m tests.bench.dashboards ADDRESS COUNT

reads name and password of the console from two lines, logs in once and prints "logged in". Then each line "open" opens
COUNT WebSockets and prints "open" when each has had a message; "close" closes them and prints how many came since then.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import re
import socket
import sys
import threading
import urllib.parse
import urllib.request
from typing import Any

import websocket

DEADLINE_S = 60.0


def log_in(url: str, name: str, password: str) -> str:
    """The cookies of a browser that is logged in, as its header says them."""
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
    )
    with browser.open(f"{url}/login", timeout=DEADLINE_S) as answer:
        token = re.search(r'name="csrf-token" content="([^"]+)"', answer.read().decode())
    assert token, "the login page has no token"
    form = urllib.parse.urlencode({"csrf_token": token[1], "name": name, "password": password})
    with browser.open(f"{url}/login", form.encode(), timeout=DEADLINE_S) as answer:
        assert answer.url == f"{url}/", f"not logged in: {answer.url}"
    return "; ".join(f"{each.name}={each.value}" for each in jar)


class Dashboard:
    """One that is open: a thread reads what comes."""

    def __init__(self, address: str, cookie: str) -> None:
        self.messages = 0
        self.heard = threading.Event()
        self._socket: Any = websocket.create_connection(
            f"ws://{address}/live", cookie=cookie, timeout=DEADLINE_S, skip_utf8_validation=True
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while self._socket.recv():
                self.messages += 1
                self.heard.set()
        except (OSError, websocket.WebSocketException):
            pass  # closed

    def leave(self) -> None:
        """The thread wakes up with that."""
        with contextlib.suppress(OSError):
            self._socket.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._thread.join(DEADLINE_S)
        self._socket.shutdown()


def main() -> None:
    address, count = sys.argv[1], int(sys.argv[2])
    name, password = (sys.stdin.readline().strip() for _ in range(2))
    cookie = log_in(f"http://{address}", name, password)
    print("logged in", flush=True)
    dashboards: list[Dashboard] = []
    for line in sys.stdin:
        if line.strip() == "open":
            dashboards += [Dashboard(address, cookie) for _ in range(count)]
            for each in dashboards:
                assert each.heard.wait(DEADLINE_S), "a dashboard has heard nothing"
            for each in dashboards:
                each.messages = 0
            print("open", flush=True)
        else:
            for each in dashboards:
                each.leave()
            for each in dashboards:
                each.close()
            print(sum(each.messages for each in dashboards), flush=True)
            dashboards.clear()


if __name__ == "__main__":
    main()
