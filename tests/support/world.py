"""A test's world: its server, clients, proxies and services, and the promise that nothing of them is left over."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.support import services
from tests.support.http import Visitor
from tests.support.ports import Address, Port
from tests.support.processes import Child, Relay, runtime_directory
from tests.support.proxy import CutProxy
from tests.support.websocket import EchoService

ROOT = Path(__file__).resolve().parents[2]
GT = [sys.executable, str(ROOT / "gt.py")]
# What no log may show unless the test says so. A level is a word of its own in text, a value in JSON.
TROUBLE = (
    r"\b(ERROR|CRITICAL|FATAL|PANIC)\b|\"level\": ?\"(error|critical|fatal|panic)\""
    r"|Traceback|Exception ignored|Warning:"
)


@dataclass
class Server:
    """A running `gt.py server`."""

    process: Relay
    address: Address
    port: Port
    argv: list[str]

    @property
    def remote(self) -> str:
        return f"tcp://{self.port}"


@dataclass
class Client:
    """A running `gt.py client`."""

    process: Relay
    argv: list[str]


@dataclass
class Published:
    """A service that visitors can reach: through a server and a client, or (path "direct") through a plain proxy."""

    address: Address
    host: str
    id: str = ""
    secret: str = ""
    # Path "direct" has none of these: a test that asks for them does not run on it.
    _server: Server | None = None
    _client: Client | None = None
    _proxy: CutProxy | None = None

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    @property
    def proxy(self) -> CutProxy:
        """Between client and server; only when published as cuttable."""
        assert self._proxy is not None
        return self._proxy


class World:
    """Makes what a test needs, and at the end takes it down, checks exits and logs, and looks for what is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.relays: list[Relay] = []
        self.allowed: list[str] = []
        self._secrets: list[str] = []
        self._before = contextlib.ExitStack()  # closed before the relays end: visitors
        self._after = contextlib.ExitStack()  # closed after they ended: what they talk to

    # Parts

    def port(self) -> Port:
        return self._after.enter_context(Port())

    def proxy(self, target: Address) -> CutProxy:
        return self._after.enter_context(contextlib.closing(CutProxy(target)))

    def service(self, handler: services.Handler, port: Port | None = None) -> services.Service:
        return self._after.enter_context(contextlib.closing(services.Service(handler, port)))

    def echo_service(self) -> EchoService:
        return self._after.enter_context(contextlib.closing(EchoService()))

    def keep(self, thing: Any, *, until_last: bool = False) -> Any:
        """Closes the thing with the world: before the relays end, or until_last after them."""
        (self._after if until_last else self._before).enter_context(contextlib.closing(thing))
        return thing

    def visitor(
        self, address: Address, timeout: float = 20.0, receive_buffer: int = 0, source: str = ""
    ) -> Visitor:
        visitor: Visitor = self.keep(Visitor(address, timeout, receive_buffer, source))
        return visitor

    def secret(self) -> str:
        """A new secret, which from now on must not be seen in any log."""
        return self.hidden("hush-" + secrets.token_hex(8))

    def hidden(self, text: str) -> str:
        """Remembers a text that no log may show."""
        self._secrets.append(text)
        return text

    def allow(self, *patterns: str) -> None:
        """These log lines are what the test is about: they don't count as trouble."""
        self.allowed += patterns

    # Our processes

    def gt(
        self, name: str, argv: Sequence[str], *, files: int = 0, env: dict[str, str] | None = None
    ) -> Relay:
        """Starts gt.py with these words, with a limit of open files when one is given."""
        words = [*GT, *argv]
        if files:
            words = ["/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *words]
        relay = Relay(name, words, env)
        self.relays.append(relay)
        return relay

    def command(self, *words: str) -> tuple[int, str]:
        """Runs gt.py with these words to its end, where it finds what this test runs: exit code and output."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("GT_")}
        environ["GT_RUNTIME_DIR"] = str(runtime_directory())
        done = subprocess.run(
            [*GT, *words],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout

    def server(
        self,
        *flags: str,
        users: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
        port: Port | None = None,
        addr: str = "",
        files: int = 0,
        ready: bool = True,
    ) -> Server:
        """A server on a port of its own. Users given here come as flags; `config` is written to a file."""
        place = port or self.port()
        argv = ["server"]
        if config is not None:
            argv += ["-c", str(self.write("server.yml", config))]
        argv += ["--addr", addr or str(place)]
        for user, secret in (users or {}).items():
            argv += ["--id", user, "--secret", self.hidden(secret)]
        argv += flags
        server = Server(self.gt("server", argv, files=files), place.address, place, argv)
        if ready:
            server.process.wait_for(r"listening on")
        return server

    def client(
        self,
        remote: Server | CutProxy | Address,
        id: str,
        secret: str,
        *flags: str,
        local: str | dict[str, str],
        protocol: str = "",
        name: str = "client",
        files: int = 0,
        ready: bool = True,
    ) -> Client:
        """A client; `local` is one URL, or host prefixes with their URLs. Flags after it belong to the last service."""
        address = remote if isinstance(remote, tuple) else remote.address
        argv = [
            "client",
            "--id",
            id,
            "--secret",
            self.hidden(secret),
            "--remote",
            f"tcp://{address[0]}:{address[1]}",
        ]
        if protocol:
            argv += ["--protocol", protocol]
        if isinstance(local, str):
            argv += ["--local", local]
        else:
            for prefix, url in local.items():
                argv += ["--local", url, "--hostPrefix", prefix]
        argv += flags
        client = Client(self.gt(name, argv, files=files), argv)
        if ready:
            client.process.wait_for(r"tunnel \d+ to .* is up")
        return client

    def publish(
        self,
        local: str,
        path: str,
        *,
        server: Sequence[str] = (),
        client: Sequence[str] = (),
        cuttable: bool = False,
    ) -> Published:
        """One service over tunnel protocol "3" or "1"; or "direct", where a proxy stands for the whole relay.

        Cuttable: the tunnels run through a proxy.
        """
        if path == "direct":
            name, _, port = local.removeprefix("http://").partition(":")
            return Published(self.proxy((name, int(port))).address, "site.example.com")
        secret = self.secret()
        running = self.server(*server, users={"site": secret})
        proxy = self.proxy(running.address) if cuttable else None
        agent = self.client(proxy or running, "site", secret, *client, local=local, protocol=path)
        return Published(running.address, "site.example.com", "site", secret, running, agent, proxy)

    def write(self, name: str, value: Any) -> Path:
        """Writes a YAML file into the test's directory."""
        path = self.directory / name
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
        path.chmod(0o600)
        return path

    # The end

    def close(self) -> None:
        """Ends everything and raises AssertionError with every complaint there is."""
        complaints: list[str] = []

        def attempt(action: Callable[[], Any]) -> None:
            try:
                action()
            except Exception as error:
                complaints.append(str(error) or repr(error))

        attempt(self._before.close)
        offspring = {relay: _children(relay) for relay in self.relays}
        for relay in sorted(self.relays, key=lambda relay: relay.name == "server"):
            attempt(relay.end)
            if relay.exit_code not in relay.expected_exit:
                complaints.append(
                    f"{relay.name} ended with {relay.exit_code}, expected {relay.expected_exit}"
                )
        attempt(self._after.close)
        for relay in self.relays:
            left = [child for child in offspring[relay] if child.is_running()]
            complaints += [f"{relay.name} left the process {child.pid} behind" for child in left]
            for child in left:
                child.send_signal(signal.SIGKILL)
            complaints += self._complaints(relay)
        print("\n".join(relay.tail() for relay in self.relays))  # pytest shows it when the test failed
        if complaints:
            raise AssertionError("\n".join(complaints))

    def _complaints(self, relay: Child) -> list[str]:
        allowed = re.compile("|".join(self.allowed)) if self.allowed else None
        found = [
            f"{relay.name} logged: {line}"
            for line in relay.lines
            if re.search(TROUBLE, line) and not (allowed and allowed.search(line))
        ]
        for text in set(self._secrets):
            found += [f"{relay.name} shows a secret: {line}" for line in relay.lines if text in line]
        return found[:5] + ([f"… and {len(found) - 5} more lines like these"] if len(found) > 5 else [])


def _children(relay: Child) -> list[psutil.Process]:
    try:
        return list(psutil.Process(relay.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []
