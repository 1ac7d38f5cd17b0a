"""What is answered when something is wrong."""

import logging
import re

import pytest
from flask import abort
from werkzeug.exceptions import TooManyRequests

from gtapp.console.auth import public
from gtapp.errors import ConfigError, GTError

JSON = {"Accept": "application/json"}


@pytest.fixture
def app(make_app):
    """With views that fail in each way."""
    made = make_app()

    @made.get("/fail/<how>")
    @public
    def fail(how):
        if how == "gt":
            raise GTError("the process does not answer within 3 s; its log may say why")
        if how == "config":
            raise ConfigError("server.yml:3: addr: found nothing, allowed: an address")
        if how == "mistake":
            raise ZeroDivisionError("a secret is in here")
        if how == "late":
            raise TooManyRequests("Try later.", retry_after=7)
        abort(int(how))

    return made


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("400", 400, "This request cannot be used"),
        ("403", 403, "This is not allowed"),
        ("404", 404, "There is no such page"),
        ("409", 409, "Somebody else has changed this"),
        ("413", 413, "This is too large"),
        ("418", 418, "This request cannot be used"),
        ("429", 429, "Too many attempts"),
        ("500", 500, "Something went wrong"),
        ("late", 429, "Try later."),
        ("gt", 503, "its log may say why"),
        ("config", 503, "server.yml:3: addr: found nothing"),
        ("mistake", 500, "This is a mistake in GT."),
    ],
)
@pytest.mark.parametrize("logged_in", [False, True])
def test_pages(client, auth, logged_in, how, code, words):
    """In the look of all others, with the navigation for who is logged in."""
    if logged_in:
        auth.login()
    answer = client.get(f"/fail/{how}")
    assert answer.status_code == code
    assert words in answer.text
    assert answer.content_type == "text/html; charset=utf-8"
    assert ('aria-label="Main"' in answer.text) is logged_in
    assert "a secret is in here" not in answer.text


@pytest.mark.parametrize(("how", "code"), [("404", 404), ("gt", 503), ("mistake", 500), ("late", 429)])
def test_programs_get_json(client, how, code):
    answer = client.get(f"/fail/{how}", headers=JSON)
    assert (answer.status_code, answer.json["code"]) == (code, code)
    assert answer.json.keys() == {"code", "status", "message"}
    assert answer.json["status"]


@pytest.mark.parametrize("path", ["/api/v1/no-such-thing", "/api/nothing"])
def test_so_does_whoever_asks_the_api(client, path):
    answer = client.get(path, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.json["code"]) == (404, 404)


def test_browsers_get_pages(client):
    for accept in ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "*/*", ""):
        assert client.get("/fail/404", headers={"Accept": accept}).content_type.startswith("text/html")


def test_when_to_try_again(client):
    assert client.get("/fail/late").headers["Retry-After"] == "7"


def test_a_wrong_method(client):
    answer = client.post("/fail/404")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_a_mistake_is_found_in_the_log(client, caplog):
    """The page has no more than its number."""
    with caplog.at_level(logging.ERROR):
        page = client.get("/fail/mistake?token=never-logged").text
    (number,) = re.findall(r"under ([0-9a-f]{8})\.", page)
    assert f"unexpected error {number} at GET /fail/mistake" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "never-logged" not in caplog.text


def test_a_mistake_in_the_page_of_a_mistake(app, client, caplog, monkeypatch):
    monkeypatch.setitem(app.jinja_env.globals, "url_for", None)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/fail/mistake")
    assert answer.status_code == 500
    (number,) = re.findall(r"Internal error ([0-9a-f]{8})\n", answer.text)
    assert f"unexpected error in the page of error {number}" in caplog.text


def test_in_chinese(client):
    client.set_cookie("lang", "zh")
    assert "页面不存在" in client.get("/fail/404").text


def test_what_is_shown_is_text(client):
    assert "<b>" not in client.get("/login", headers={"Host": "<b>"}).text
