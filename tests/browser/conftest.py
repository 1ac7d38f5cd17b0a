"""Fixtures: `chromium`, and `open_page`, whose pages must log no error and ask no other host."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.conftest import nginx, world
from tests.support.processes import PATIENCE_S

__all__ = ["nginx", "world"]

# A machine without a network, and no desktop: nothing but the pages is fetched.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic", "--no-first-run",
)  # fmt: skip
# The browser's own word for each answer from 400 on; the tests look at the answers themselves.
ANSWERS = "Failed to load resource: the server responded with a status of"

OpenPage = Callable[..., Page]


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
    """Opens a page in a context of its own: `open_page(width=375, theme="dark", language="zh")`."""
    complaints: list[str] = []
    contexts = []

    def open_page(width: int = 1440, theme: str = "light", language: str = "en", script: bool = True) -> Page:
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
            locale="zh-CN" if language == "zh" else "en-US",
            java_script_enabled=script,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_S * 1000)
        page = context.new_page()
        page.on("console", logged)
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.on("request", asked)
        return page

    def logged(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(ANSWERS):
            complaints.append(f"{message.location.get('url')}: {message.text}")

    def asked(request: Request) -> None:
        host = urlsplit(request.url).hostname or "localhost"  # data: has none
        if host not in ("127.0.0.1", "localhost") and not host.endswith(".localhost"):
            complaints.append(f"asks another host: {request.url}")

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(dict.fromkeys(complaints))
