"""Logging in: what it takes, what it gives, and what strangers get."""

import sqlite3

import gevent
import pyotp
import pytest

from gtapp.config.passwords import hasher
from gtapp.console import database, passwords
from gtapp.console.sessions import ABSOLUTE_S, CODE_S, IDLE_S
from gtapp.console.throttle import RULES
from gtapp.console.totp import Factor
from tests.unit.console.conftest import NAME, PASSWORD, SERVER, Auth

INSIDE = "/account"
FREE = RULES["address"].free


def is_in(client):
    """Whether the browser is logged in."""
    code = client.get(INSIDE).status_code
    assert code in (200, 302)
    return code == 200


@pytest.fixture
def phone(console, clock):
    """The second factor is on; what its phone shows."""
    factor = Factor(console.db, clock)
    secret = factor.begin()
    assert factor.confirm(pyotp.TOTP(secret).at(int(clock())))
    clock.forward(30)
    return lambda: pyotp.TOTP(secret).at(int(clock()))


def test_in_and_out(client, auth):
    assert not is_in(client)
    page = client.get("/login")
    assert page.status_code == 200
    assert 'name="password"' in page.text
    answer = auth.login()
    assert (answer.status_code, answer.location) == (302, "/")
    assert is_in(client)
    assert client.get("/login").location == "/", "there is nothing more to do there"
    assert auth.logout().location == "/login"
    assert not is_in(client)


@pytest.mark.parametrize(
    ("name", "password"), [(NAME, "wrong"), ("root", PASSWORD), ("", ""), (PASSWORD, NAME)]
)
def test_wrong(client, auth, name, password):
    answer = auth.login(name, password)
    assert answer.status_code == 401
    assert "Name or password is wrong." in answer.text
    assert not is_in(client)


def test_unknown_names_cannot_be_told_from_known_ones(app, monkeypatch):
    """The same answer but for the name itself, the same cookies, and the same work."""
    verified, verify = [], passwords._verify

    def counting(*args):
        verified.append(args)
        return verify(*args)

    monkeypatch.setattr(passwords, "_verify", counting)
    answers = {}
    for name in (NAME, "nobody"):
        browser = Auth(app, app.test_client())
        answer = browser.login(name, "wrong")
        text = answer.text.replace(f'value="{name}"', "")
        answers[name] = (answer.status_code, len(text), sorted(answer.headers.keys()))
    assert answers[NAME] == answers["nobody"]
    assert verified == [(PASSWORD, "wrong")] * 2, "what is in the file is verified, never anything else"


def test_where_one_wanted_to_go(client, auth):
    assert client.get("/account?lang2=x").location == "/login?next=/account?lang2%3Dx"
    assert auth.login(next="/account?a=b").location == "/account?a=b"


@pytest.mark.parametrize(
    "place", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "/\n/evil.example", ""]
)
def test_nowhere_else(auth, place):
    assert auth.login(next=place).location == "/"


def test_a_hash_in_the_file_is_as_good(make_app):
    app = make_app(text=SERVER.replace(PASSWORD, hasher.hash(PASSWORD)))
    client = app.test_client()
    assert Auth(app, client).login(password="wrong").status_code == 401
    assert Auth(app, client).login().status_code == 302
    assert is_in(client)


def test_without_a_password_nobody_gets_in_and_the_page_says_what_to_do(make_app):
    app = make_app(text=SERVER.replace(f"  password: {PASSWORD}\n", ""))
    client = app.test_client()
    page = client.get("/login")
    assert "gt.py reset-admin -c " in page.text
    assert 'name="password"' not in page.text
    for password in ("", "x"):
        assert Auth(app, client).login(password=password).status_code == 401
    assert not is_in(client)


def test_without_a_name_it_is_admin(make_app):
    app = make_app(text=SERVER.replace(f"  admin: {NAME}\n", ""))
    client = app.test_client()
    assert Auth(app, client).login("admin").status_code == 302
    assert is_in(client)


def test_the_password_of_a_client_console(make_app):
    app = make_app(role="client")
    client = app.test_client()
    assert Auth(app, client).login().status_code == 302
    assert is_in(client)


# cookies and sessions


def test_the_session_is_new_at_each_login(app, client, auth):
    auth.login()
    first = client.get_cookie("gt_18000_session").value
    auth.login()
    second = client.get_cookie("gt_18000_session").value
    assert first != second
    other = app.test_client()
    other.set_cookie("gt_18000_session", first)
    assert not is_in(other), "the one before is over"


def test_a_session_that_somebody_has_planted_is_not_taken_over(client, auth):
    client.set_cookie("gt_18000_session", "planted")
    auth.login()
    assert client.get_cookie("gt_18000_session").value != "planted"


def test_the_csrf_secret_is_new_after_a_login(client, auth):
    before = auth.csrf()
    auth.login()
    assert client.post("/logout", data={"csrf_token": before}).status_code == 400
    assert is_in(client)


@pytest.mark.parametrize("tls", [False, True])
def test_cookies_are_for_this_console_alone(make_app, tls):
    """Browsers send cookies to all ports of a host."""
    app = make_app(tls=tls)
    client = app.test_client()
    answer = Auth(app, client).login()
    cookies = answer.headers.getlist("Set-Cookie")
    assert {each.partition("=")[0] for each in cookies} >= {"gt_18000_session", "gt_18000_device"}
    for each in cookies:
        assert "HttpOnly" in each
        assert "SameSite=Lax" in each
        assert ("Secure" in each) is tls
        assert "Domain" not in each


def test_it_ends_when_it_is_idle(client, auth, clock):
    auth.login()
    clock.forward(IDLE_S - 1)
    assert is_in(client)
    clock.forward(IDLE_S)
    assert not is_in(client)


@pytest.mark.parametrize(("path", "headers"), [(INSIDE, {"X-Background": "true"}), ("/live/series", {})])
def test_what_a_page_asks_by_itself_does_not_keep_it(client, auth, clock, path, headers):
    auth.login()
    clock.forward(IDLE_S - 1)
    assert client.get(path, headers=headers).status_code != 302
    clock.forward(1)
    assert not is_in(client)


def test_how_long_it_may_be_idle_is_an_option(make_app, clock):
    app = make_app(text=SERVER.replace("  admin:", "  webIdleTimeout: 1m\n  admin:"))
    client = app.test_client()
    Auth(app, client).login()
    clock.forward(59)
    assert is_in(client)
    clock.forward(60)
    assert not is_in(client)


def test_it_ends_when_it_is_old(client, auth, clock):
    auth.login()
    for _ in range(int(ABSOLUTE_S // (IDLE_S - 60))):
        clock.forward(IDLE_S - 60)
        assert is_in(client)
    clock.forward(IDLE_S - 60)
    assert not is_in(client)


def test_it_ends_when_somebody_edits_the_password(client, auth, console):
    auth.login()
    console.store.path.write_text(SERVER.replace(PASSWORD, "another password"))
    assert not is_in(client)
    assert auth.login(password="another password").status_code == 302


def test_while_the_file_is_being_broken_the_session_goes_on(client, auth, console):
    auth.login()
    console.store.path.write_text(SERVER + "  what is this")
    assert is_in(client)
    auth.logout()
    assert auth.login().status_code == 302


def test_two_logins_at_once(app, console):
    browsers = [app.test_client() for _ in range(2)]
    logins = [gevent.spawn(Auth(app, browser).login) for browser in browsers]
    gevent.joinall(logins, timeout=30, raise_error=True)
    assert [each.get().status_code for each in logins] == [302, 302]
    assert all(is_in(browser) for browser in browsers)
    assert console.db.row("SELECT count(*) AS n FROM sessions")["n"] == 2


def test_it_is_noted(console, auth):
    auth.login(password="wrong")
    auth.login()
    auth.logout()
    entries = [(row["what"], row["name"], row["via"], row["address"]) for row in console.db.audit(10)]
    assert entries == [
        ("logged out", NAME, "browser", "127.0.0.1"),
        ("logged in", NAME, "", "127.0.0.1"),
    ]


# the throttle


def test_whoever_guesses_waits(client, auth, clock):
    for _ in range(FREE + 1):
        assert auth.login(password="wrong").status_code == 401
    answer = auth.login()
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "2"
    assert "Try again in 2 seconds." in answer.text
    assert not is_in(client)
    clock.forward(2)
    assert auth.login().status_code == 302


def test_others_do_not_wait_for_that(app, auth):
    for _ in range(FREE + 2):
        auth.login(password="wrong")
    other = Auth(app, app.test_client())
    assert (
        other.post(
            "/login", {"name": NAME, "password": PASSWORD}, environ_base={"REMOTE_ADDR": "192.0.2.9"}
        ).status_code
        == 302
    )


def guess(app, address, count=1):
    """Somebody else, from `address`."""
    browser = Auth(app, app.test_client())
    base = {"environ_base": {"REMOTE_ADDR": address}}
    return [
        browser.post("/login", {"name": NAME, "password": "wrong"}, **base).status_code for _ in range(count)
    ]


def test_a_subscriber_of_ipv6_is_one_place(app):
    codes = [guess(app, f"2001:db8:1:2::{number:x}")[0] for number in range(1, FREE + 3)]
    assert codes == [401] * (FREE + 1) + [429]
    assert guess(app, "2001:db8:1:3::1") == [401]


def test_the_owner_gets_in_while_the_whole_world_guesses(app, auth, clock):
    """With the browser that has logged in before, even from the address of one who guesses."""
    auth.login()
    auth.logout()
    for number in range(50):
        guess(app, f"192.0.2.{number}")
    assert guess(app, "198.51.100.1") == [429]
    guess(app, "127.0.0.1", FREE + 2)
    assert auth.login().status_code == 302
    auth.logout()
    clock.forward(29 * 86400)
    for number in range(50):
        guess(app, f"192.0.2.{number}")
    assert auth.login().status_code == 302


def test_such_a_browser_is_throttled_by_itself(app, client, auth):
    auth.login()
    auth.logout()
    for _ in range(RULES["device"].free + 1):
        auth.login(password="wrong")
    assert auth.login().status_code == 429
    assert Auth(app, app.test_client()).login().status_code == 302


def test_nobody_makes_such_a_cookie(app, client, auth):
    client.set_cookie("gt_18000_device", "ImFiYyI.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb")
    for _ in range(FREE + 1):
        auth.login(password="wrong")
    assert auth.login().status_code == 429
    assert Auth(app, app.test_client()).login().status_code == 429, "the address was counted"


def test_guesses_at_once_are_counted_one_by_one(app):
    browsers = [Auth(app, app.test_client()) for _ in range(FREE + 5)]
    logins = [gevent.spawn(each.login, NAME, "wrong") for each in browsers]
    gevent.joinall(logins, timeout=60, raise_error=True)
    assert sorted(each.get().status_code for each in logins) == [401] * (FREE + 1) + [429] * 4


def test_too_many_at_once_are_told_to_come_later(app, auth, monkeypatch):
    monkeypatch.setattr(passwords, "MAX_WAITING", 0)
    for _ in range(FREE + 5):
        answer = auth.login()
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    monkeypatch.undo()
    assert auth.login().status_code == 302


def test_that_makes_nobody_forget_what_was_wrong_before(app, auth, monkeypatch):
    """Otherwise whoever keeps it busy from many places could guess without end."""
    for _ in range(FREE):
        assert auth.login(password="wrong").status_code == 401
    monkeypatch.setattr(passwords, "MAX_WAITING", 0)
    assert auth.login(password="wrong").headers["Retry-After"] == "5"
    monkeypatch.undo()
    assert auth.login(password="wrong").status_code == 401
    assert auth.login(password="wrong").status_code == 429


# the second factor


def test_password_then_code(client, auth, phone):
    answer = auth.login(next="/account")
    assert (answer.status_code, answer.location) == (302, "/login/code?next=/account")
    assert not is_in(client)
    waiting = client.get_cookie("gt_18000_session").value
    page = client.get(answer.location)
    assert 'autocomplete="one-time-code"' in page.text
    answer = auth.post("/login/code", {"code": phone(), "next": "/account"})
    assert (answer.status_code, answer.location) == (302, "/account")
    assert is_in(client)
    assert client.get_cookie("gt_18000_session").value != waiting


def test_a_wrong_code(client, auth, phone):
    auth.login()
    answer = auth.post("/login/code", {"code": "000000"})
    assert answer.status_code == 401
    assert "This code is wrong" in answer.text
    assert not is_in(client)
    assert auth.post("/login/code", {"code": phone()}).status_code == 302
    assert is_in(client)


def test_a_code_cannot_be_used_again(app, client, auth, phone):
    auth.login()
    assert auth.post("/login/code", {"code": phone()}).status_code == 302
    thief = Auth(app, app.test_client())
    thief.login()
    assert thief.post("/login/code", {"code": phone()}).status_code == 401


def test_codes_cannot_be_guessed(client, auth, phone):
    """Not even by whoever knows the password."""
    auth.login()
    codes = [auth.post("/login/code", {"code": f"{number:06}"}).status_code for number in range(FREE + 3)]
    assert codes[:FREE] == [401] * FREE
    assert codes[-1] == 429
    assert auth.login().status_code == 429


def test_a_code_without_a_password_is_worth_nothing(client, auth, phone):
    assert client.get("/login/code").location == "/login"
    assert auth.post("/login/code", {"code": phone()}).location == "/login"
    assert not is_in(client)


def test_the_code_has_to_come_soon(client, auth, phone, clock):
    auth.login()
    clock.forward(CODE_S)
    assert auth.post("/login/code", {"code": phone()}).location == "/login"
    assert "That took too long: log in again." in client.get("/login").text


def test_a_recovery_code_does_as_well(app, client, auth, console, phone, clock):
    code = Factor(console.db, clock).new_recovery_codes()[3]
    auth.login()
    assert auth.post("/login/code", {"code": code}).status_code == 302
    assert is_in(client)
    thief = Auth(app, app.test_client())
    thief.login()
    assert thief.post("/login/code", {"code": code}).status_code == 401


# when the database cannot be used


def test_a_locked_database(client, auth, console, monkeypatch):
    """Nobody new gets in, and is told why; who is in goes on; what is not about logins is served."""
    monkeypatch.setattr(database, "BUSY_S", 0.01)
    auth.login()
    other = sqlite3.connect(console.db.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    newcomer = Auth(client.application, client.application.test_client())
    answer = newcomer.login()
    assert answer.status_code == 503
    assert "console.db cannot be used (database is locked)" in answer.text
    assert is_in(client)
    other.execute("ROLLBACK")
    other.close()
    assert newcomer.login().status_code == 302


def test_no_database_at_all(client, auth, console):
    auth.login()
    console.db.close()
    for each in console.state.iterdir():
        each.unlink()
    console.state.rmdir()
    console.state.write_text("a file where the directory should be")
    assert client.get("/login").status_code == 200
    answer = client.get(INSIDE)
    assert answer.status_code == 503
    assert "console.db cannot be used" in answer.text
    assert client.get("/static/theme.js", buffered=True).status_code == 200


def test_a_deleted_database_ends_the_sessions_and_no_more(client, auth, console):
    auth.login()
    console.db.path.unlink()
    assert not is_in(client)
    assert auth.login().status_code == 302
    assert is_in(client)


def test_a_damaged_database_too(client, auth, console):
    auth.login()
    console.db.close()
    console.db.path.write_bytes(b"rubbish" * 1000)
    assert not is_in(client)
    assert auth.login().status_code == 302
