"""The administrator's own pages."""

import re

import pyotp
import pytest

from gtapp.config.load import load_server
from gtapp.config.passwords import hasher
from gtapp.console import accounts
from gtapp.console.account import browser_of
from gtapp.console.context import EXTENSION
from gtapp.console.database import Database
from gtapp.console.throttle import Throttle, key
from gtapp.console.totp import Factor
from gtapp.errors import GTError
from tests.unit.console.conftest import NAME, PASSWORD, SERVER, Auth

NEW = "battery staple"


@pytest.fixture
def inside(auth):
    """The administrator, logged in."""
    assert auth.login().status_code == 302
    return auth


@pytest.fixture
def phone(console, clock):
    factor = Factor(console.db, clock)
    secret = factor.begin()
    factor.confirm(pyotp.TOTP(secret).at(int(clock())))
    clock.forward(30)
    return lambda: pyotp.TOTP(secret).at(int(clock()))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "page", ["", "/password", "/totp", "/totp/remove", "/codes", "/tokens/new", "/no-such-page"]
)
def test_pages(client, inside, language, page):
    client.set_cookie("lang", language)
    answer = client.get(f"/account{page}", follow_redirects=True)
    assert answer.status_code == (404 if "no-such" in page else 200)
    assert f'<html lang="{language}"' in answer.text
    assert "style=" not in answer.text
    assert "<script>" not in answer.text


# password


def change(auth, **more):
    return auth.post("/account/password", {"old": PASSWORD, "new": NEW, "again": NEW, **more})


def test_a_new_password(app, client, inside, console):
    elsewhere = Auth(app, app.test_client())
    elsewhere.login()
    before = client.get_cookie("gt_18000_session").value
    answer = change(inside)
    assert (answer.status_code, answer.location) == (302, "/account")
    assert "The password is changed." in client.get("/account").text
    assert client.get_cookie("gt_18000_session").value != before
    assert elsewhere.post("/account/sessions/end").status_code == 401
    inside.logout()
    assert inside.login().status_code == 401
    assert inside.login(password=NEW).status_code == 302
    text = console.store.path.read_text()
    assert NEW not in text
    assert 'password: "$argon2id$' in text
    assert text.startswith(SERVER.partition("  password")[0]), "everything else is as it was"
    assert "password changed" in [row["what"] for row in console.db.audit(5)]
    assert console.store.versions()[0].who == NAME


@pytest.mark.parametrize(
    ("typed", "field", "words"),
    [
        ({"old": "wrong"}, "old", "This is not your password."),
        ({"new": "short", "again": "short"}, "new", "Use at least 10 characters."),
        ({"new": "x" * 1001, "again": "x" * 1001}, "new", "Use at most 1000 characters."),
        ({"new": "x" * 20, "again": "x" * 20}, "new", "guessed at once"),
        ({"new": "$argon2id$v=19$nonsense", "again": "$argon2id$v=19$nonsense"}, "new", "taken for the hash"),
        ({"again": "something else"}, "again", "This is not the same as above."),
    ],
)
def test_a_password_that_is_refused(client, inside, console, typed, field, words):
    answer = change(inside, **typed)
    assert answer.status_code == 422
    assert re.search(f'<p class="error" id="f-{field}-error">[^<]*{re.escape(words)}', answer.text)
    assert console.store.path.read_text() == SERVER
    assert client.get("/account").status_code == 200


def test_the_old_password_cannot_be_guessed_there(inside):
    codes = [change(inside, old=f"guess {number}").status_code for number in range(8)]
    assert codes == [422] * 6 + [429] * 2


def reason(app, **more):
    """Why the password cannot be changed, as the page says it and as the form is refused."""
    client = app.test_client()
    auth = Auth(app, client)
    assert auth.login(**more).status_code == 302
    page = client.get("/account").text
    assert 'href="/account/password"' not in page
    answer = auth.post("/account/password", {"old": PASSWORD, "new": NEW, "again": NEW})
    assert answer.status_code == 422
    return answer.text


def test_where_there_is_no_file(make_app, tmp_path):
    app = make_app(store=None)
    assert "GT runs without a configuration file" in reason(app)


def test_where_something_else_sets_it(make_app, tmp_path):
    path = tmp_path / "server.yml"
    app = make_app(text=SERVER.replace(f"  password: {PASSWORD}\n", ""), environ={"GT_PASSWORD": PASSWORD})
    assert "The environment variable GT_PASSWORD sets the password." in reason(app)
    app = make_app(words=("-c", str(path), "--password", PASSWORD))
    assert "The flag --password sets the password." in reason(app)


def test_a_file_that_cannot_be_written(app, client, inside, console):
    console.store.path.unlink()
    console.store.path.mkdir()
    answer = change(inside)
    assert answer.status_code == 422
    assert "is a directory" in answer.text


# sessions


def test_sessions_are_seen_and_ended(app, client, inside, clock):
    firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
    other = Auth(app, app.test_client())
    other.post("/login", {"name": NAME, "password": PASSWORD}, headers={"User-Agent": firefox})
    clock.forward(120)
    page = client.get("/account").text
    assert "Firefox, Linux" in page
    assert page.count("this one") == 1
    (path,) = re.findall(r'action="(/account/sessions/[0-9a-f]+/end)"', page)
    assert inside.post(path).location == "/account"
    assert inside.post(path).status_code == 404
    assert other.post("/account/sessions/end").status_code == 401
    assert client.get("/account").status_code == 200


def test_all_others_are_ended(app, client, inside):
    others = [Auth(app, app.test_client()) for _ in range(3)]
    for each in others:
        each.login()
    assert "Log out all others" in client.get("/account").text
    inside.post("/account/sessions/end")
    assert [each.post("/account/sessions/end").status_code for each in others] == [401] * 3
    assert "Log out all others" not in client.get("/account").text


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537 Chrome/120.0 Safari/537 Edg/120.0", "Edge, Windows"),
        ("Mozilla/5.0 (Linux; Android 14) AppleWebKit/537 Chrome/120.0 Mobile Safari/537", "Chrome, Android"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 14) AppleWebKit/605 Version/17 Safari/605", "Safari, macOS"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17 like Mac OS X) Version/17 Safari/604", "Safari, iPhone"),
        ("curl/8.0", "curl"),
        ("something of its own", "something of its own"),
        ("<script>alert(1)</script>" + "x" * 100, "<script>alert(1)</script>" + "x" * 15),
    ],
)
def test_what_a_browser_is_called(agent, name):
    assert browser_of(agent) == name


def test_it_is_text_for_the_page(app, client, inside):
    other = Auth(app, app.test_client())
    data = {"name": NAME, "password": PASSWORD}
    other.post("/login", data, headers={"User-Agent": "<script>alert(1)</script>"})
    assert "<script>alert" not in client.get("/account").text


# second factor


def test_turning_it_on_and_off(client, inside, console, clock):
    page = client.get("/account/totp").text
    assert 'src="data:image/svg+xml' in page
    secret = Factor(console.db, clock).pending()
    assert " ".join(secret[at : at + 4] for at in range(0, len(secret), 4)) in page
    wrong = inside.post("/account/totp", {"code": "000000"})
    assert (wrong.status_code, "not the code" in wrong.text) == (422, True)
    assert secret[:4] in wrong.text, "the same secret, not a new one"
    done = inside.post("/account/totp", {"code": pyotp.TOTP(secret).at(int(clock()))})
    codes = re.findall(r"\b[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}\b", done.text)
    assert len(codes) == 10
    assert "10 of 10 recovery codes are left." in client.get("/account").text
    assert client.get("/account/totp").location == "/account"
    inside.logout()
    assert inside.login().location == "/login/code"
    assert inside.post("/login/code", {"code": codes[0]}).status_code == 302
    assert "9 of 10 recovery codes are left." in client.get("/account").text
    wrong = inside.post("/account/totp/remove", {"password": "wrong"})
    assert (wrong.status_code, "This is not your password." in wrong.text) == (422, True)
    assert Factor(console.db, clock).active()
    assert inside.post("/account/totp/remove", {"password": PASSWORD}).location == "/account"
    inside.logout()
    assert inside.login().location == "/"
    noted = [row["what"] for row in console.db.audit(20)]
    assert {"second factor turned on", "second factor turned off"} <= set(noted)


def test_new_recovery_codes(inside, phone, console, clock):
    inside.logout()
    inside.login()
    inside.post("/login/code", {"code": phone()})
    before = Factor(console.db, clock).new_recovery_codes()
    assert inside.post("/account/codes", {"password": "wrong"}).status_code == 422
    answer = inside.post("/account/codes", {"password": PASSWORD})
    assert answer.status_code == 200
    assert before[0] not in answer.text
    assert not Factor(console.db, clock).check(before[0])


def test_without_it_there_are_no_codes(inside):
    assert inside.post("/account/codes", {"password": PASSWORD}).location == "/account"
    assert inside.post("/account/totp", {"code": "000000"}).location == "/account/totp"


# tokens


def test_a_token_is_shown_once(app, client, inside, console):
    data = {"label": "Prometheus <b>", "scopes": ["read", "metrics"], "lasts": "30"}
    answer = inside.post("/account/tokens/new", data)
    (token,) = set(re.findall(r"gt_[\w-]{40,}", answer.text))
    program = app.test_client()
    bearer = {"Authorization": f"Bearer {token}"}
    assert program.get("/account", headers=bearer).status_code == 403, "an account is no program's business"
    page = client.get("/account").text
    assert token not in page
    assert "Prometheus &lt;b&gt;" in page
    assert "in 30 d" in page
    (path,) = re.findall(r'action="(/account/tokens/[0-9a-f]+/revoke)"', page)
    assert inside.post(path).location == "/account"
    assert inside.post(path).status_code == 404
    assert program.get("/account", headers=bearer).status_code == 401
    noted = [(row["what"], row["detail"]) for row in console.db.audit(5)]
    assert ("API token made", "Prometheus <b> (read, metrics)") in noted
    assert ("API token revoked", "Prometheus <b>") in noted


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"label": ""}, "Say what it is for"),
        ({"label": "x" * 101}, "Say what it is for"),
        ({"scopes": []}, "Choose at least one."),
        ({"scopes": ["account", "nonsense"]}, "Choose at least one."),
        ({"lasts": "1000000"}, "Choose one of these."),
    ],
)
def test_a_token_that_is_refused(inside, console, typed, words):
    answer = inside.post("/account/tokens/new", {"label": "x", "scopes": ["read"], "lasts": "30", **typed})
    assert (answer.status_code, words in answer.text) == (422, True)
    assert console.db.rows("SELECT * FROM tokens") == []


def test_one_that_does_not_expire_and_one_that_has(client, inside, clock):
    inside.post("/account/tokens/new", {"label": "for ever", "scopes": ["read"], "lasts": ""})
    inside.post("/account/tokens/new", {"label": "short", "scopes": ["read"], "lasts": "30"})
    clock.forward(31 * 86400)
    inside.login()
    page = client.get("/account").text
    assert page.count("expired") == 1


# gt.py reset-admin


def test_reset_admin(app, client, inside, console, clock, phone):
    """For whoever is locked out: by the password, the second factor, or by others who guess."""
    Throttle(console.db, clock).take([key("address", "192.0.2.1")])
    name, password = accounts.reset_admin(console.store.path, "server", {})
    assert name == NAME
    assert client.get("/account").status_code == 302
    assert console.db.rows("SELECT * FROM throttle") == []
    fresh = Auth(app, app.test_client())
    assert fresh.login(password=PASSWORD).status_code == 401
    assert fresh.login(password=password).location == "/"
    text = console.store.path.read_text()
    assert password not in text
    assert hasher.verify(load_server(["-c", str(console.store.path)], {}).options.password, password)
    assert [row["via"] for row in console.db.audit(10) if row["what"] == "password reset"] == ["reset-admin"]


def test_reset_admin_where_there_has_been_no_console(tmp_path):
    path = tmp_path / "server.yml"
    path.write_text("# mine\ntype: server\noptions:\n  addr: :8080  # here\nusers:\n  a:\n    secret: abcd\n")
    name, password = accounts.reset_admin(path, "server", {})
    assert name == "admin"
    assert len(password) >= 20
    assert path.read_text().startswith("# mine\ntype: server\noptions:\n  addr: :8080  # here\n")
    db = Database(tmp_path / "server.state" / "console.db")
    assert len(db.audit(10)) == 1
    db.close()


def test_reset_admin_where_it_would_be_no_use(tmp_path):
    with pytest.raises(GTError, match="GT_PASSWORD sets the password"):
        accounts.reset_admin(tmp_path / "server.yml", "server", {"GT_PASSWORD": "x"})
    with pytest.raises(GTError):
        accounts.reset_admin(tmp_path / "no-such-file.yml", "server", {})


# keys and sessions of an application


def test_a_key_of_its_own_is_kept(make_app, tmp_path):
    about = make_app().extensions[EXTENSION]
    key = accounts.signing_key(about)
    path = about.state / "signing-key"
    assert path.read_text() == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert accounts._read_or_make(path) == key
    assert {each.name for each in about.state.iterdir()} == {"signing-key"}


def test_the_key_of_the_file_counts(make_app):
    app = make_app(text=SERVER.replace("  admin:", "  signingKey: a-key-of-mine\n  admin:"))
    assert accounts.signing_key(app.extensions[EXTENSION]) == "a-key-of-mine"


def test_another_key_ends_the_sessions(client, inside, console):
    console.store.path.write_text(SERVER.replace("  admin:", "  signingKey: a-key-of-mine\n  admin:"))
    assert client.get("/account").status_code == 302
    assert inside.login().status_code == 302


def test_a_key_that_cannot_be_kept(tmp_path, caplog):
    (tmp_path / "state").write_text("a file")
    key = accounts._read_or_make(tmp_path / "state" / "signing-key")
    assert len(key) > 40
    assert "cannot be kept" in caplog.text
