"""The token of the first run."""

import json
import re

import pytest
from flask import request
from werkzeug.datastructures import ImmutableMultiDict

from gtapp.console.context import EXTENSION
from gtapp.console.setup_token import ATTEMPTS, LASTS_S, check, current_token, invitation, make_token
from gtapp.errors import GTError

ADDRESS = "192.0.2.1"


@pytest.fixture
def about(make_app):
    app = make_app(setup=True)
    with app.test_request_context("/setup"):
        yield app.extensions[EXTENSION]


@pytest.fixture
def token(about, clock):
    return make_token(about.state, clock)


def test_it_is_for_whoever_may_read_the_file(about, token):
    letters = token.replace("-", "")
    assert re.fullmatch("[a-z2-7]{26}", letters), "128 bits"
    plain, known = about.state / "setup-token", about.state / "setup-token.json"
    assert plain.read_text().strip() == token
    assert plain.stat().st_mode & 0o777 == known.stat().st_mode & 0o777 == 0o600
    assert about.state.stat().st_mode & 0o777 == 0o700
    assert token not in known.read_text()
    assert letters not in known.read_text()
    assert {path.name for path in about.state.glob("setup-token*")} == {"setup-token", "setup-token.json"}


def test_it_is_good_once(about, token):
    check(about, token, ADDRESS)
    with pytest.raises(GTError, match="no token that is good now"):
        check(about, token, ADDRESS)
    assert list(about.state.glob("setup-token*")) == []


def test_as_people_type_it(about, token):
    check(about, f" {token.upper().replace('-', ' ')}\n", ADDRESS)


def test_it_expires(about, token, clock):
    clock.forward(LASTS_S - 1)
    assert current_token(about.state, clock) == token
    clock.forward(1)
    assert current_token(about.state, clock) is None
    with pytest.raises(GTError, match=r"expired\. Make a new one: gt.py setup-token"):
        check(about, token, ADDRESS)


def test_after_so_many_wrong_ones_the_right_one_is_no_good_either(about, token, clock):
    for _ in range(ATTEMPTS):
        with pytest.raises(GTError, match="This is not the token"):
            check(about, "aaaa-bbbb", ADDRESS)
    with pytest.raises(GTError, match="too many wrong tokens"):
        check(about, token, ADDRESS)
    assert current_token(about.state, clock) is None


def test_renewed_it_is_another_one(about, token, clock):
    for _ in range(ATTEMPTS):
        with pytest.raises(GTError):
            check(about, "", ADDRESS)
    new = make_token(about.state, clock)
    assert new != token
    with pytest.raises(GTError, match="This is not the token"):
        check(about, token, ADDRESS)
    check(about, new, ADDRESS)


def test_a_new_console_goes_on_with_it(about, token, clock):
    assert current_token(about.state, clock) == token
    (about.state / "setup-token").write_text("aaaa\n")
    assert current_token(about.state, clock) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"hash": 1}', "\0", '{"hash": "x", "expires": [], "attempts": 0}']
)
def test_a_file_that_says_nothing_lets_nobody_in(about, token, content, clock):
    (about.state / "setup-token.json").write_text(content)
    assert current_token(about.state, clock) is None
    with pytest.raises(GTError, match="no token that is good now"):
        check(about, token, ADDRESS)


def test_without_a_token_nothing_is_right(about):
    with pytest.raises(GTError, match="no token that is good now"):
        check(about, "", ADDRESS)


def test_where_it_cannot_be_written(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(GTError, match="the setup token cannot be written there"):
        make_token(tmp_path / "state")


def test_the_attempts_outlive_the_process(about, token):
    with pytest.raises(GTError):
        check(about, "wrong", ADDRESS)
    assert json.loads((about.state / "setup-token.json").read_text())["attempts"] == 1


def test_the_page_is_told_in_its_language(about, token):
    request.cookies = ImmutableMultiDict({"lang": "zh"})
    with pytest.raises(GTError, match="令牌不正确"):
        check(about, "wrong", ADDRESS)


@pytest.mark.parametrize(
    ("address", "tls", "url"),
    [
        ("127.0.0.1:8000", False, "http://127.0.0.1:8000/setup#abc"),
        ("[::1]:8000", True, "https://[::1]:8000/setup#abc"),
        ("0.0.0.0:8000", False, "http://THIS-MACHINE:8000/setup#abc"),
        ("[::]:8000", False, "http://THIS-MACHINE:8000/setup#abc"),
    ],
)
def test_the_invitation_names_the_place(address, tls, url):
    text = invitation(address, "abc", tls)
    assert url in text
    assert "type the token there: abc" in text
