"""Every page of both consoles: in two languages, two themes, on a desk and on a phone.

Nothing on them may be wrong for a screen reader or a keyboard (axe-core), be wider than the screen, log an error, or
ask another host. GT_SCREENSHOTS=DIR keeps a picture of each.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import OpenPage
from tests.browser.site import Site
from tests.support.nginx import Nginx
from tests.support.world import ROOT, World

AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
PICTURES = os.environ.get("GT_SCREENSHOTS")
SHARED = (
    "/", "/connections", "/settings", "/yaml", "/history", "/system", "/system/log", "/audit", "/account",
    "/account/password", "/account/totp", "/account/tokens/new", "/welcome",
)  # fmt: skip
PAGES = {
    "server": (
        *SHARED,
        "/clients",
        "/clients/home",
        "/users",
        "/users/new",
        "/users/home",
        "/users/home/join",
    ),
    "client": (*SHARED, "/tunnels", "/services", "/services/new", "/services/1"),
}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
WIDEST = """() => {
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    return wide > 0 ? wide : 0;
}"""
RUN_AXE = """async () => {
    const found = await axe.run(document, {resultTypes: ["violations"]});
    return found.violations.filter(each => ["serious", "critical"].includes(each.impact)).map(
        each => `${each.id}: ${each.help}: ${each.nodes.map(node => node.html.slice(0, 120)).join(" | ")}`);
}"""

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize(
    ("width", "theme", "language"),
    [(1440, "light", "en"), (375, "dark", "zh"), (1440, "dark", "zh"), (375, "light", "en")],
)
@pytest.mark.parametrize("role", ["server", "client"])
def test_every_page(
    world: World, nginx: Nginx, open_page: OpenPage, role: str, width: int, theme: str, language: str
) -> None:
    site = Site(world, nginx)
    world.allow("console")
    page = open_page(width, theme, language)
    page.goto(f"{site.consoles[role]}/login")
    complaints = examine(page, "login", role, width, theme, language)
    site.log_in(page, role)
    for path in PAGES[role]:
        answer = page.goto(site.consoles[role] + path)
        assert answer is not None
        if answer.status != 200:
            complaints.append(f"{path}: answers {answer.status}")
        complaints += examine(page, path, role, width, theme, language)
    assert not complaints, "\n".join(complaints)


def examine(page: Page, path: str, role: str, width: int, theme: str, language: str) -> list[str]:
    """What is wrong with the page that is shown."""
    page.wait_for_load_state()
    if PICTURES:
        name = f"{role}{path.replace('/', '-')}-{width}-{theme}-{language}.png"
        page.screenshot(path=Path(PICTURES) / name, full_page=True)
    complaints = []
    if wide := page.evaluate(WIDEST):
        complaints.append(f"{path}: {wide} px wider than the screen")
    if bool(CHINESE.search(page.get_by_role("main").inner_text())) != (language == "zh"):
        complaints.append(f"{path}: is not in {language}")
    page.evaluate(AXE.read_text())  # not add_script_tag: the page's policy forbids that
    complaints += [f"{path}: {each}" for each in page.evaluate(RUN_AXE)]
    return complaints
