"""The frame of the pages: where the navigation leads, and in which language."""

import re

import pytest

from tests.unit.console.conftest import CLIENT, Auth
from tests.unit.console.lively import lively, make_lively

__all__ = ["lively", "make_lively"]


def links(page):
    found = re.search(r"<nav aria-label=\"Main\">(.*?)</nav>", page, re.S)
    assert found
    return re.findall(r'<a href="([^"]+)"', found[1])


def test_a_server(lively):
    assert links(lively.browser.get("/")) == [
        "/",
        "/clients",
        "/connections",
        "/users",
        "/settings",
        "/system",
    ]


def test_a_client(make_lively):
    page = make_lively("client", text=CLIENT).browser.get("/")
    assert links(page) == ["/", "/tunnels", "/services", "/connections", "/settings", "/system"]


@pytest.mark.parametrize(
    ("path", "current"),
    [("/", "/"), ("/clients/alice", "/clients"), ("/users/alice", "/users"), ("/history", "/settings")],
)
def test_where_one_is(lively, path, current):
    page = lively.browser.get(path)
    assert re.findall(r'<a href="([^"]+)" aria-current="page">', page.partition('class="side-foot"')[0]) == [
        current
    ]


def test_each_link_of_the_navigation_leads_somewhere(lively):
    for path in links(lively.browser.get("/")):
        lively.browser.get(path)


def test_whoever_is_not_logged_in_gets_none(client):
    page = client.get("/login").text
    assert "<nav" not in page
    assert 'class="bare"' in page


def test_landmarks_and_labels(lively):
    page = lively.browser.get("/")
    assert page.count("<h1>") == page.count("<main") == 1
    assert 'href="#content"' in page
    assert 'id="content"' in page
    assert re.search(r'aria-expanded="false" aria-controls="side"', page)


@pytest.mark.parametrize(
    ("accepts", "tag"), [("zh-CN,zh;q=0.9", "zh"), ("de", "en"), ("de,zh;q=0.5", "zh"), ("", "en")]
)
def test_the_language_of_the_browser(client, accepts, tag):
    assert f'<html lang="{tag}">' in client.get("/login", headers={"Accept-Language": accepts}).text


def test_a_language_that_is_chosen_stays(client):
    answer = client.get("/login?lang=zh&next=/users")
    assert answer.status_code == 303
    assert answer.location == "/login?next=/users" or answer.location == "/login?next=%2Fusers"
    assert '<html lang="zh">' in client.get("/login", headers={"Accept-Language": "en"}).text
    assert 'href="?lang=en"' in client.get("/login").text


@pytest.mark.parametrize(
    "path", ["//evil.example/?lang=zh", "/%2F/evil.example/?lang=zh", "///evil.example?lang=zh"]
)
def test_choosing_a_language_leads_to_no_other_host(client, path):
    location = client.get(path).headers.get("Location", "/")
    assert location.startswith("/")
    assert not location.startswith("//")


def test_an_unknown_language_is_not_chosen(client):
    answer = client.get("/login?lang=klingon")
    assert answer.status_code == 200
    assert "lang=" not in "".join(answer.headers.getlist("Set-Cookie"))


def test_other_parameters_stay(lively):
    page = lively.browser.get("/clients?q=a%26b&page=2")
    assert 'href="?q=a%26b&amp;page=2&amp;lang=zh"' in page


def test_the_api_has_no_language(app):
    auth = Auth(app, app.test_client())
    answer = app.test_client().get("/api/v1/no-such-thing?lang=zh", headers=auth.token("read"))
    assert answer.status_code == 404
