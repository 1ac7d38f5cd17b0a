"""A server and a client with consoles, nginx behind them, and a few visitors: what the pages are about."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.support.http import fetch
from tests.support.nginx import Nginx
from tests.support.processes import Relay
from tests.support.world import World

NAME = "root"
PASSWORD = "correct horse battery"
HOST = "home.localhost"


class Site:
    """`server` and `client` are the processes, `consoles` where each has its pages."""

    def __init__(self, world: World, nginx: Nginx) -> None:
        self.world = world
        self.addr = world.port()
        ports = {role: world.port() for role in ("server", "client")}
        self.consoles = {role: f"http://{port}" for role, port in ports.items()}
        self.secret = world.hidden("hush-0123456789abcdef")
        self.office_secret = world.secret()
        login = {"admin": NAME, "password": world.hidden(PASSWORD)}
        self.server_file = world.write(
            "server.yml",
            {
                "type": "server",
                "users": {
                    "home": {"secret": self.secret, "connections": 5},
                    "office": {"secret": self.office_secret, "speed": 1_000_000},
                    "old": {"secret": world.secret(), "disabled": True},
                },
                "tcp": [{"range": "40000-40099"}],
                "options": {
                    "addr": str(self.addr),
                    "webAddr": str(ports["server"]),
                    "domain": "localhost",
                    **login,
                },
            },
        )
        self.client_file = world.write(
            "client.yml",
            {
                "type": "client",
                "services": [
                    {"local": nginx.url},
                    {"local": "http://127.0.0.1:9", "hostPrefix": "away"},
                    {"local": nginx.url.replace("http:", "tcp:"), "remoteTCPRandom": True},
                ],
                "options": {
                    "id": "home",
                    "secret": self.secret,
                    "remote": f"tcp://{self.addr}",
                    "webAddr": str(ports["client"]),
                    **login,
                },
            },
        )
        self.server: Relay = world.gt("server", ["-c", str(self.server_file)])
        self.server.wait_for("listening on")
        self.client: Relay = world.gt("client", ["-c", str(self.client_file)])
        self.client.wait_for("is up")
        self.visit()

    def visit(self, times: int = 5) -> None:
        for _ in range(times):
            assert fetch(self.addr.address, HOST).status == 200
            assert fetch(self.addr.address, "away.localhost").status == 502

    def log_in(self, page: Page, role: str) -> None:
        page.goto(f"{self.consoles[role]}/login")
        page.locator("[name=name]").fill(NAME)
        page.locator("[name=password]").fill(PASSWORD)
        page.get_by_role("main").locator("button[type=submit], button:not([type])").first.click()
        page.wait_for_url(f"{self.consoles[role]}/")
