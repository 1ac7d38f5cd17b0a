"""`gt.py demo`: a server, a client and a page behind them, to see GT work in a browser. Called by `gtapp.cli`."""

import contextlib
import ctypes
import html
import http.client
import http.server
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gtapp.errors import ConfigError, GTError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "web" / "demo"
HOST = "127.0.0.1"  # it is a demo: nobody outside this machine is to reach it
DEFAULT_PORT = 8080
PORT_VARIABLE = "GT_DEMO_PORT"
ID = "hello"
VISITED_AS = f"{ID}.localhost"  # browsers take every name under localhost for this machine (RFC 6761)

READY_WITHIN_S = 20.0
# Shorter than the 10 s that a relay gives its running connections: here they are idle ones of a browser.
END_WITHIN_S = 3.0
POLL_S = 0.1

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def run() -> int:
    """Run the demo until Ctrl-C or SIGTERM; the exit code. Raises ConfigError for a port that cannot be used."""
    port = _port()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.ExitStack() as parts:
        page = parts.enter_context(contextlib.closing(_PageServer()))
        try:
            relays = _Relays(port, page.port, ended)
            parts.callback(relays.end)
            relays.start()
            if not ended.is_set():
                print(_invitation(port, page.port), flush=True)
            while not ended.wait(POLL_S):
                relays.check()
        except GTError as error:
            print(f"\nThe demo ends: {error}", file=sys.stderr)
            return 1
    return 0


def _port() -> int:
    """Where the server is to listen, which nobody else does yet."""
    text = os.environ.get(PORT_VARIABLE, str(DEFAULT_PORT))
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ConfigError(f"{PORT_VARIABLE}: found {text[:20]!r}, allowed: a port from 1 to 65535")
    port = int(text)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = error.strerror or error
            other = f"Choose another one: {PORT_VARIABLE}=8081 make demo"
            raise ConfigError(f"the demo cannot listen on {HOST}:{port}: {reason}. {other}") from None
    return port


class _PageServer:
    """The local service: web/demo on a free port of the loopback address, served until it is closed."""

    def __init__(self) -> None:
        self._server = http.server.ThreadingHTTPServer((HOST, 0), _PageHandler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _PageHandler(http.server.SimpleHTTPRequestHandler):
    """The files of web/demo; its index.html shows the request as it arrived here."""

    protocol_version = "HTTP/1.1"

    def __init__(
        self, request: socket.socket, address: tuple[str, int], server: http.server.HTTPServer
    ) -> None:
        super().__init__(request, address, server, directory=str(PAGE))

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in ("/", "/index.html"):
            super().do_GET()
            return
        head = f"{self.requestline}\n" + "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        filled = {
            "{{head}}": html.escape(head),
            "{{host}}": html.escape(self.headers.get("Host", "")),
            "{{service}}": f"{HOST}:{self.connection.getsockname()[1]}",
            "{{from}}": f"{self.client_address[0]}:{self.client_address[1]}",
        }
        page = (PAGE / "index.html").read_text("utf-8")
        for mark, text in filled.items():
            page = page.replace(mark, text)
        body = page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The relays' logs are what there is to see."""


class _Relays:
    """The server and the client, processes of their own."""

    def __init__(self, port: int, page_port: int, ended: threading.Event) -> None:
        self._port = port
        self._page_port = page_port
        self._ended = ended
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # The variables of somebody's own configuration are not meant for the demo. A secret in a command line would
        # be for everybody to see who lists the processes.
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("GT_")}
        self._environ |= {"GT_ID": ID, "GT_SECRET": secrets.token_hex(16)}

    def start(self) -> None:
        """Returns when the page comes through the tunnel, or the demo is to end. Raises GTError."""
        self._start("server", "--addr", f"{HOST}:{self._port}")
        self._wait_for(self._listens)
        page = f"http://{HOST}:{self._page_port}"
        self._start("client", "--remote", f"tcp://{HOST}:{self._port}", "--local", page)
        self._wait_for(self._leads_to_page)

    def _start(self, role: str, *options: str) -> None:
        self._running[role] = subprocess.Popen(
            [sys.executable, str(ROOT / "gt.py"), role, *options],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us, and we end them
            preexec_fn=_end_with_parent,
        )

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not (self._ended.is_set() or ready()):
            self.check()
            if time.monotonic() > deadline:
                raise GTError(f"the page could not be reached through the tunnel in {READY_WITHIN_S:.0f} s")
            self._ended.wait(POLL_S)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self._port)) == 0

    def _leads_to_page(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=2)
        try:
            connection.request("GET", "/", headers={"Host": VISITED_AS, "Connection": "close"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def check(self) -> None:
        """Raises GTError when one of them has ended."""
        for role, relay in self._running.items():
            code = relay.poll()
            if code is not None and code < 0:
                raise GTError(f"its {role} was ended by {signal.Signals(-code).name}")
            if code is not None:
                raise GTError(f"its {role} ended with exit code {code}; the lines above say why")

    def end(self) -> None:
        """The client first, so that the server sees it leave."""
        for relay in reversed(self._running.values()):
            relay.terminate()
            try:
                relay.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                relay.kill()
                relay.wait()


def _end_with_parent() -> None:
    """In the child, before exec: should the demo be killed, the kernel sends SIGTERM. Only Linux can do that."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _invitation(port: int, page_port: int) -> str:
    url = f"http://{VISITED_AS}:{port}/"
    return f"""
  This page comes through a tunnel:  {url}

  What runs here, as you would start it yourself:
    gt.py server --addr {HOST}:{port} --id {ID} --secret SECRET
    gt.py client --id {ID} --secret SECRET --remote tcp://{HOST}:{port} --local http://{HOST}:{page_port}

  Ctrl-C ends all of it.
"""
