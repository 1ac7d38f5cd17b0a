"""Fixtures: `chromium`; `open_page`, whose pages must log no error and ask no other host; `site` for a whole module."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.browser.site import Site
from tests.conftest import nginx, world
from tests.support.nginx import Nginx
from tests.support.processes import PATIENCE_S
from tests.support.world import World

__all__ = ["nginx", "world"]

# A machine without a network, and no desktop: nothing but the pages is fetched.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic", "--no-first-run",
)  # fmt: skip
# The browser's own word for each answer from 400 on; the tests look at the answers themselves.
ANSWERS = "Failed to load resource: the server responded with a status of"
MOST_SHOWN = 5000  # characters of what a page said in the end
LAST_MS = 1000  # for it to say that

expect.set_options(timeout=PATIENCE_S * 1000)


class OpenPage:
    """Opens a page in a context of its own: `open_page(width=375, theme="dark", language="zh")`."""

    def __init__(self, chromium: Browser) -> None:
        self._chromium = chromium
        self._contexts: list[BrowserContext] = []
        self._complaints: list[str] = []
        self._allowed: list[str] = []

    def __call__(
        self, width: int = 1440, theme: str = "light", language: str = "en", script: bool = True
    ) -> Page:
        context = self._chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
            locale="zh-CN" if language == "zh" else "en-US",
            java_script_enabled=script,
        )
        self._contexts.append(context)
        context.set_default_timeout(PATIENCE_S * 1000)
        page = context.new_page()
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self._complaints.append(f"{page.url}: {error}"))
        page.on("request", self._asked)
        return page

    def allow(self, *patterns: str) -> None:
        """These errors are what the test is about."""
        self._allowed += patterns

    def close(self) -> None:
        """Raises AssertionError with what was wrong with the pages."""
        for context in self._contexts:
            for page in context.pages:  # pytest shows it when the test failed
                with contextlib.suppress(Error):
                    print(f"{page.url}\n{page.locator('body').inner_text(timeout=LAST_MS)[:MOST_SHOWN]}\n")
            context.close()
        allowed = re.compile("|".join(self._allowed)) if self._allowed else None
        complaints = [each for each in self._complaints if not (allowed and allowed.search(each))]
        assert not complaints, "\n".join(dict.fromkeys(complaints))

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(ANSWERS):
            self._complaints.append(f"{message.location.get('url')}: {message.text}")

    def _asked(self, request: Request) -> None:
        host = urlsplit(request.url).hostname or "localhost"  # data: has none
        if host not in ("127.0.0.1", "localhost") and not host.endswith(".localhost"):
            self._complaints.append(f"asks another host: {request.url}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    made = OpenPage(chromium)
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, nginx: Nginx) -> Iterator[Site]:
    """For tests that leave it as they found it, or do not care."""
    with contextlib.closing(World(tmp_path_factory.mktemp("site"))) as world:
        yield Site(world, nginx)
