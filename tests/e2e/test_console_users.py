"""Users and services changed in the console of a GT that runs: what is saved is true a moment later."""

from __future__ import annotations

import contextlib
import http.cookiejar
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from gtapp.config.load import load_server
from gtapp.wire.join_code import JoinCode
from tests.support.http import fetch
from tests.support.native import NativeClient
from tests.support.nginx import Nginx
from tests.support.ports import Port
from tests.support.processes import PATIENCE_S, Relay, eventually
from tests.support.services import answering
from tests.support.world import World

PASSWORD = "correct horse battery"
AT_ONCE_S = 1.0
SAVES = 100
GONE = r"(?i)unknown id or wrong secret"


class Browser:
    """Somebody who is logged in at a console: pages come as text, forms go with their CSRF token."""

    def __init__(self, console: Port) -> None:
        self._base = f"http://{console}"
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        page = eventually(lambda: self.get("/login"), "the console answers")
        self.csrf = self._token(page)
        self.post("/login", name="root", password=PASSWORD)
        self.csrf = self._token(self.get("/account"))

    def get(self, path: str) -> str:
        with self._opener.open(self._base + path, timeout=PATIENCE_S) as answer:
            text: str = answer.read().decode()
            return text

    def post(self, path: str, **fields: str) -> str:
        """The page that comes of it, redirects followed."""
        data = urllib.parse.urlencode({"csrf_token": self.csrf, **fields}).encode()
        try:
            with self._opener.open(self._base + path, data, timeout=PATIENCE_S) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"POST {path}: {error.code} {error.read().decode()}") from None

    @staticmethod
    def _token(page: str) -> str:
        found = re.search(r'name="csrf-token" content="([^"]+)"', page)
        assert found, page
        return found[1]


class Site:
    """A server with a console, and somebody who is logged in there."""

    def __init__(self, world: World, **options: Any) -> None:
        self.addr, console = world.port(), world.port()
        self.path = world.write(
            "server.yml",
            {
                "type": "server",
                "users": {"first": {"secret": world.secret()}},
                "options": {
                    "addr": str(self.addr),
                    "webAddr": str(console),
                    "admin": "root",
                    "password": world.hidden(PASSWORD),
                    "reconnectTimes": 0,
                    **options,
                },
            },
        )
        self.process: Relay = world.gt("server", ["-c", str(self.path)])
        self.process.wait_for(r"listening on")
        self.browser = Browser(console)

    @property
    def address(self) -> tuple[str, int]:
        return self.addr.address

    @property
    def users(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.path.read_text())["users"]
        return found

    def add(self, world: World, user: str, **fields: str) -> str:
        """Its secret, which the page shows in its join code."""
        page = self.browser.post("/users/new", id=user, **fields)
        return world.hidden(JoinCode.parse(page).secret)


@pytest.fixture
def site(world: World) -> Site:
    return Site(world)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < AT_ONCE_S


def test_a_user_who_is_added_can_connect_and_one_who_is_deleted_is_cut(
    world: World, site: Site, nginx: Nginx
) -> None:
    secret = site.add(world, "bob")
    with at_once(), NativeClient(site.address, "bob", secret) as tunnel:
        tunnel.ready("bob")
    client = world.client(site.address, "bob", secret, local=nginx.url, name="client of bob")
    assert fetch(site.address, "bob.example.com").status == 200
    page = site.browser.get("/users/bob")
    assert "connected" in page
    world.allow(GONE)
    with NativeClient(site.address, "bob", secret) as tunnel:
        tunnel.ready("other")
        before = client.process.mark()
        page = site.browser.post("/users/bob/remove")
        with at_once():
            tunnel.until_end()
    assert "User bob is deleted" in page
    client.process.wait_for(GONE, after=before)
    assert fetch(site.address, "bob.example.com").status == 404
    assert site.users.keys() == {"first"}


def test_a_new_secret_ends_the_old_one(world: World, site: Site) -> None:
    old = site.add(world, "bob")
    with NativeClient(site.address, "bob", old) as tunnel:
        tunnel.ready("bob")
        new = world.hidden(JoinCode.parse(site.browser.post("/users/bob/secret")).secret)
        with at_once():
            tunnel.until_end()
    with at_once(), NativeClient(site.address, "bob", new) as tunnel:
        tunnel.ready("bob")
    with NativeClient(site.address, "bob", old) as tunnel:
        assert tunnel.auth(tunnel.hello())["code"] == "invalid_credentials"


def test_a_disabled_user_is_cut_and_comes_back_when_it_is_enabled(world: World, site: Site) -> None:
    secret = site.add(world, "bob")
    with NativeClient(site.address, "bob", secret) as tunnel:
        tunnel.ready("bob")
        site.browser.post("/users/bob/disabled", disabled="true")
        with at_once():
            tunnel.until_end()
    assert "disabled" in site.browser.get("/users/bob")
    site.browser.post("/users/bob/disabled", disabled="false")
    with at_once(), NativeClient(site.address, "bob", secret) as tunnel:
        tunnel.ready("bob")


def test_the_command_that_is_shown_works(world: World, site: Site, nginx: Nginx) -> None:
    site.add(world, "bob")
    command = re.search(r"python gt\.py (client --id bob [^<]*)<", site.browser.get("/users/bob/join"))
    assert command
    words = command[1].replace("http://127.0.0.1:80", nginx.url).split()
    world.gt("client", words).wait_for(r"tunnel \d+ to .* is up")
    assert fetch(site.address, "bob.example.com").status == 200


def test_limits_are_live(world: World, site: Site) -> None:
    secret = site.add(world, "bob", hostRegex="^blog$")
    with NativeClient(site.address, "bob", secret) as tunnel:
        assert tunnel.auth(tunnel.hello(), ("shop",))["type"] == "error"
    draft = re.search(r'name="draft" value="([^"]+)"', site.browser.get("/users/bob"))
    assert draft
    site.browser.post("/users/bob", draft=draft[1], hostRegex="^blog$\n^shop$")
    with at_once(), NativeClient(site.address, "bob", secret) as tunnel:
        tunnel.ready("shop")


@pytest.mark.timeout(300)
def test_of_a_hundred_saves_at_once_none_is_lost(world: World, site: Site) -> None:
    """And the file is one that loads at every instant."""
    done = threading.Event()
    looks: list[int] = []

    def look() -> None:
        while not done.is_set():
            looks.append(len(load_server(("-c", str(site.path)), {}).users))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        with ThreadPoolExecutor(SAVES) as pool:
            added = list(
                pool.map(
                    lambda n: site.browser.post("/users/new", id=f"user{n}", speed=f"{n + 1}MiB"),
                    range(SAVES),
                )
            )
    finally:
        done.set()
        looking.join()
    assert looks == sorted(looks)  # users only came
    assert looks[0] < SAVES
    secrets = {f"user{n}": world.hidden(JoinCode.parse(page).secret) for n, page in enumerate(added)}
    assert site.users.keys() == {"first", *secrets}
    for n, (user, secret) in enumerate(secrets.items()):
        assert site.users[user] == {"secret": secret, "speed": f"{n + 1}MiB"}
    for user in ("user0", f"user{SAVES // 2}", f"user{SAVES - 1}"):
        with NativeClient(site.address, user, secrets[user]) as tunnel:
            tunnel.ready(user)


# a client's services


def test_a_service_that_is_added_is_published_and_one_that_is_removed_is_not(
    world: World, nginx: Nginx
) -> None:
    secret = world.secret()
    server = world.server(users={"bob": secret})
    console = world.port()
    service = world.service(answering(b"new here"))
    path: Path = world.write(
        "client.yml",
        {
            "type": "client",
            "services": [{"local": nginx.url}],
            "options": {
                "id": "bob",
                "secret": secret,
                "remote": server.remote,
                "webAddr": str(console),
                "admin": "root",
                "password": world.hidden(PASSWORD),
            },
        },
    )
    client = world.gt("client", ["-c", str(path)])
    client.wait_for(r"tunnel \d+ to .* is up")
    browser = Browser(console)
    assert fetch(server.address, "new.example.com").status == 404
    tried = browser.post("/services/test", local=service.url)
    assert "It answers, with HTTP status 200." in tried
    draft = re.search(r'name="draft" value="([^"]+)"', browser.get("/services/new"))
    assert draft
    browser.post("/services/new", draft=draft[1], local=service.url, hostPrefix="new")
    with at_once():
        eventually(lambda: fetch(server.address, "new.example.com").text == "new here", "it is published")
    page = eventually(lambda: _with(browser.get("/services"), "works"), "the page tells that it works")
    assert service.url in page
    draft = re.search(r'name="draft" value="([^"]+)"', page)
    assert draft
    browser.post("/services/2/remove", draft=draft[1])
    with at_once():
        eventually(
            lambda: fetch(server.address, "new.example.com").status == 404, "it is no longer published"
        )
    assert fetch(server.address, "bob.example.com").status == 200


def _with(page: str, words: str) -> str:
    return page if words in page else ""
