"""The processes of a measurement: nginx and a sink as services, and the ways to them: direct, haproxy twice, GT."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tests.support.http import fetch
from tests.support.ports import Address, Port
from tests.support.processes import Child, Relay, eventually

ROOT = Path(__file__).resolve().parents[2]
GIGABYTE = 1 << 30
PAGE = (
    b"<!DOCTYPE html><title>nginx behind a tunnel</title>\n".ljust(611, b".") + b"\n"
)  # as nginx' own welcome page
PAGE_HOST = "page.localhost"
SINK_HOST = "sink.localhost"

NGINX = """
daemon off;
master_process off;
worker_rlimit_nofile {files};
pid {root}/nginx.pid;
error_log stderr error;
events {{ worker_connections {files}; }}
http {{
    default_type text/html;
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    # As a busy site has it: one packet for a small page, no open() for each request.
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    open_file_cache max=100 inactive=1h;
    open_file_cache_valid 1h;
    server {{
        listen {address} backlog=4096;
        root {root}/www;
        location = /two {{ return 200 "ok"; }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn {connections}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen pages
    bind {pages_in} backlog 4096
    server next {pages_out}
listen uploads
    bind {uploads_in} backlog 4096
    server next {uploads_out}
"""


@dataclass
class Route:
    """A way for visitors to the services, and the processes that it consists of."""

    name: str
    pages: Address
    uploads: Address
    relays: dict[str, Child] = field(default_factory=dict)


class Parts:
    """Starts what is asked for in a directory of its own, and ends all of it in `close`."""

    def __init__(self, directory: Path, files: int) -> None:
        self.directory = directory
        self.files = files  # how many descriptors a process may have
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def subset(self) -> Parts:
        """Parts that can be ended earlier than the others."""
        return Parts(self.directory, self.files)

    def port(self) -> Port:
        return self._stack.enter_context(Port())

    def start(self, name: str, argv: Sequence[str], kind: type[Child] = Child) -> Child:
        # However this process ends, what it started does not outlive it.
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        child = kind(name, [*bound, *argv], {**os.environ, "PYTHONPATH": str(ROOT)})
        self._stack.callback(child.end)
        return child

    def services(self) -> Route:
        """nginx with its pages, and the sink for uploads: the route "nginx"."""
        root = self.directory / "nginx"
        (root / "www").mkdir(parents=True)
        (root / "www" / "page.html").write_bytes(PAGE)
        with (root / "www" / "gigabyte").open("wb") as file:
            file.truncate(GIGABYTE)  # takes no disk
        pages, uploads = self.port(), self.port()
        config = root / "nginx.conf"
        config.write_text(NGINX.format(root=root, address=pages, files=self.files))
        nginx = self.start("nginx", ["nginx", "-p", str(root), "-c", str(config), "-e", "stderr"])
        self.start("sink", [sys.executable, "-m", "tests.bench.sink", str(uploads)]).wait_for("listening")
        route = Route("nginx", pages.address, uploads.address, {"nginx": nginx})
        _wait_for(route)
        return route

    def haproxy(self, target: Route) -> Route:
        """Two haproxy processes of one thread in a row, which pass TCP on."""
        relays = {}
        for name in ("haproxy back", "haproxy front"):
            pages, uploads = self.port(), self.port()
            config = self.directory / f"{name.replace(' ', '-')}.cfg"
            config.write_text(
                HAPROXY.format(
                    connections=self.files // 2 - 100,
                    pages_in=pages,
                    pages_out=_text(target.pages),
                    uploads_in=uploads,
                    uploads_out=_text(target.uploads),
                )
            )
            relays[name] = self.start(name, ["haproxy", "-db", "-f", str(config)])
            target = Route("haproxy", pages.address, uploads.address)
        target.relays = dict(reversed(relays.items()))
        _wait_for(target)
        return target

    def gt(
        self,
        target: Route,
        *,
        name: str = "GT",
        server: Sequence[str] = (),
        client: Sequence[str] = (),
        more_hosts: Sequence[str] = (),
        service: Mapping[str, Any] = MappingProxyType({}),
    ) -> Route:
        """A GT server and client with default settings but for these flags, and these options of each service.

        `more_hosts` lead to the pages, too.
        """
        port, id, secret = self.port(), "bench", secrets.token_hex(16)
        gt = [sys.executable, str(ROOT / "gt.py")]
        far = self.start(
            "GT server", [*gt, "server", "--addr", str(port), "--id", id, "--secret", secret, *server], Relay
        )
        far.wait_for("listening on")
        hosts = dict.fromkeys((PAGE_HOST, *more_hosts), target.pages) | {SINK_HOST: target.uploads}
        services = [
            {"local": f"http://{_text(address)}", "hostPrefix": host.partition(".")[0], **service}
            for host, address in hosts.items()
        ]
        config = self.directory / f"client-{port.number}.yml"
        config.write_text(yaml.safe_dump({"type": "client", "services": services}))
        near = self.start(
            "GT client",
            [
                *gt,
                "client",
                "-c",
                str(config),
                "--id",
                id,
                "--secret",
                secret,
                "--remote",
                f"tcp://{port}",
                *client,
            ],
            Relay,
        )
        near.wait_for("tunnel .* is up")
        route = Route(name, port.address, port.address, {"GT server": far, "GT client": near})
        _wait_for(route)
        return route


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _wait_for(route: Route) -> None:
    def answers() -> bool:
        response = fetch(route.pages, PAGE_HOST, "/page.html")
        assert response.body == PAGE, f"{route.name} answers {response.status} {response.text[:200]}"
        return True

    eventually(answers, f"{route.name} leads to the page")
