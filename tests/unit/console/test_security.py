"""What every request has to get past, and what every answer says."""

import time

import pytest

from gtapp.console import security
from gtapp.console.security import (
    CONTENT_POLICY,
    MAX_BODY,
    MAX_LARGE_BODY,
    MAX_SMALL_BODY,
    visitor_address,
)
from tests.unit.console.conftest import NAME, PASSWORD, SERVER, Auth

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": CONTENT_POLICY,
}


def with_hosts(*names):
    return SERVER.replace("  admin:", f"  webHosts: [{', '.join(names)}]\n  admin:")


# headers


@pytest.mark.parametrize(
    "path", ["/login", "/", "/no-such-page", "/static/theme.js", "/api/v1/no-such-thing"]
)
def test_headers_of_every_answer(client, path):
    answer = client.get(path, buffered=True)
    for name, value in ALWAYS.items():
        assert answer.headers[name] == value
    assert "camera=()" in answer.headers["Permissions-Policy"]
    assert "Strict-Transport-Security" not in answer.headers
    assert "Server" not in answer.headers


def test_the_policy_is_strict():
    rules = dict(rule.split(" ", 1) for rule in CONTENT_POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert (
        rules["script-src"] == rules["style-src"] == rules["form-action"] == rules["connect-src"] == "'self'"
    )
    assert "unsafe" not in CONTENT_POLICY
    assert "*" not in CONTENT_POLICY


def test_over_tls_browsers_are_told_to_stay_there(make_app):
    answer = make_app(tls=True).test_client().get("/login")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_no_page_stays_in_a_cache(client, auth):
    assert client.get("/login").headers["Cache-Control"] == "no-store"
    auth.login()
    assert client.get("/account").headers["Cache-Control"] == "no-store"


def test_files_stay_as_long_as_their_url(app, client):
    with app.test_request_context("/"):
        url = app.url_for("static", filename="theme.js")
    kept = client.get(url, buffered=True)
    assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for other in ("/static/theme.js", "/static/theme.js?v=000000000000"):
        assert client.get(other, buffered=True).headers["Cache-Control"] == "no-cache"
    again = client.get(url, headers={"If-None-Match": kept.headers["ETag"]}, buffered=True)
    assert (again.status_code, again.headers["Cache-Control"]) == (304, kept.headers["Cache-Control"])


# hosts


@pytest.mark.parametrize(
    "host", ["127.0.0.1:18000", "localhost:18000", "[::1]:18000", "192.0.2.7", "gt.localhost", "LOCALHOST"]
)
def test_names_of_a_console_on_loopback(client, host):
    assert client.get("/login", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:18000", "localhost.evil.example", "evil.example@localhost"]
)
def test_another_name_is_refused_there(client, host):
    """A page of that site may have given its own name our address."""
    for path in ("/login", "/static/theme.js", "/no-such-page"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 400
    assert "webHosts" in client.get("/login", headers={"Host": "evil.example"}).text


def test_names_that_are_allowed(make_app):
    client = make_app(text=with_hosts("console.example.com")).test_client()
    assert client.get("/login", headers={"Host": "Console.Example.COM"}).status_code == 200
    assert client.get("/login", headers={"Host": "other.example.com"}).status_code == 400


def test_elsewhere_any_name_will_do_unless_they_are_named(make_app):
    anywhere = make_app(listen="192.0.2.1:18000").test_client()
    assert anywhere.get("/login", headers={"Host": "gt.example.com"}).status_code == 200
    named = make_app(listen="0.0.0.0:18000", text=with_hosts("console.example.com")).test_client()
    assert named.get("/login", headers={"Host": "gt.example.com"}).status_code == 400
    assert named.get("/login", headers={"Host": "console.example.com"}).status_code == 200
    assert named.get("/login", headers={"Host": "192.0.2.1:18000"}).status_code == 200


def test_at_the_first_run_the_environment_names_them(make_app):
    app = make_app(setup=True, environ={"GT_WEB_HOSTS": "setup.example.com, other.example.com"})
    client = app.test_client()
    assert client.get("/setup", headers={"Host": "other.example.com"}).status_code != 400
    assert client.get("/setup", headers={"Host": "evil.example.com"}).status_code == 400


# origins


OURS = "http://localhost:18000"


def login_from(auth, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return auth.post("/login", {"name": NAME, "password": PASSWORD}, base_url=OURS, headers=named).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": OURS},
        {"Origin": "https://localhost:18000"},  # a proxy speaks TLS for us
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_forms_of_our_own_pages(client, auth, headers):
    assert login_from(auth, **headers) == 302


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:18001"},
        {"Origin": "http://localhost"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "file://localhost:18000"},
        {"Origin": "http://localhost:18000.evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_forms_of_others(auth, headers):
    assert login_from(auth, **headers) == 403


def test_links_of_others_are_followed(client):
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    assert client.get("/login", headers=headers).status_code == 200


def test_behind_a_proxy_that_names_us_otherwise(make_app):
    app = make_app(text=with_hosts("console.example.com"))
    assert login_from(Auth(app, app.test_client()), Origin="https://console.example.com") == 302
    assert login_from(Auth(app, app.test_client()), Origin="https://other.example.com") == 403


@pytest.mark.parametrize(("origin", "code"), [(OURS, 302), ("http://evil.example", 403)])
def test_websockets_come_from_our_pages(client, origin, code):
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": origin}
    assert client.get("/live", base_url=OURS, headers=headers).status_code == code


# forms


def test_a_form_has_to_be_ours(app, client, auth):
    data = {"name": NAME, "password": PASSWORD}
    assert client.post("/login", data=data).status_code == 400
    assert client.post("/login", data={**data, "csrf_token": "nonsense"}).status_code == 400
    other = Auth(app, app.test_client())
    assert client.post("/login", data={**data, "csrf_token": other.csrf()}).status_code == 400
    answer = client.post("/login", data=data, headers={"X-CSRFToken": auth.csrf()})
    assert answer.status_code == 302


def test_a_form_that_is_open_for_long_is_still_ours(auth, monkeypatch):
    token = auth.csrf()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 6 * 3600)
    assert auth.post("/login", {"name": NAME, "password": PASSWORD, "csrf_token": token}).status_code == 302


# sizes


def multipart(name, text):
    """What a form with `enctype` sends."""
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return {"data": f"{head}{text}\r\n--xyz--\r\n", "content_type": "multipart/form-data; boundary=xyz"}


def test_bodies_are_bounded(client, auth):
    auth.login()
    answer = auth.post("/account/tokens/new", {"label": "x" * MAX_BODY})
    assert answer.status_code == 413
    assert "1 MiB" in answer.text
    headers = {"X-CSRFToken": auth.csrf()}
    too_large = multipart("label", "x" * MAX_BODY)
    assert client.post("/account/tokens/new", headers=headers, **too_large).status_code == 413
    assert auth.post("/account/tokens/new", {"label": "x" * (MAX_BODY - 1000)}).status_code == 422


def test_what_everybody_may_send_is_small(client, auth):
    assert auth.post("/login", {"name": "x" * MAX_SMALL_BODY, "password": ""}).status_code == 413
    assert client.post("/login", **multipart("name", "x" * MAX_SMALL_BODY)).status_code == 413
    longest = {"name": NAME, "password": "\u4e2d" * 1000, "next": "/" + "x" * 2000}
    assert auth.post("/login", longest).status_code == 401


def test_a_whole_file_fits_where_one_is_edited(app, client, auth):
    """The YAML editor's form carries all of it."""
    with app.test_request_context("/"):
        place = app.url_for("yaml.submit")
    auth.login()
    headers = {"X-CSRFToken": auth.csrf()}
    fitting = client.post(place, headers=headers, **multipart("text", "# " + "x" * (MAX_LARGE_BODY - 1000)))
    assert fitting.status_code != 413
    assert "The page was open for too long" not in fitting.text, "it is read, and the view decides"
    assert client.post(place, headers=headers, **multipart("text", "x" * MAX_LARGE_BODY)).status_code == 413
    stranger = app.test_client()
    assert stranger.post(place, **multipart("text", "x" * MAX_LARGE_BODY)).status_code == 401, (
        "it is not even read"
    )


def test_bodies_say_how_long_they_are(client, auth):
    assert client.post("/login", data=b"name=x", headers={"Transfer-Encoding": "chunked"}).status_code == 411


# where it comes from


def address(app, peer, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with app.test_request_context("/", environ_base={"REMOTE_ADDR": peer}, headers=named):
        return visitor_address(), security.is_secure()


def test_strangers_do_not_say_where_they_come_from(app):
    assert address(app, "192.0.2.1", X_Forwarded_For="198.51.100.1") == ("192.0.2.1", False)
    assert address(app, "127.0.0.1", X_Forwarded_For="198.51.100.1", X_Forwarded_Proto="https") == (
        "127.0.0.1",
        False,
    )


@pytest.mark.parametrize(
    ("chain", "found"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("203.0.113.66, 198.51.100.1", "198.51.100.1"),
        ("198.51.100.1, 127.0.0.1", "198.51.100.1"),
        ("", "127.0.0.1"),
        ("nonsense", "127.0.0.1"),
        ("198.51.100.1, nonsense", "127.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_a_trusted_proxy_does(make_app, chain, found):
    app = make_app(text=SERVER.replace("  admin:", "  trustedProxies: [127.0.0.0/8]\n  admin:"))
    assert address(app, "127.0.0.1", X_Forwarded_For=chain) == (found, False)
    assert address(app, "127.0.0.1", X_Forwarded_For=chain, X_Forwarded_Proto="https") == (found, True)


# without TLS


@pytest.mark.parametrize(
    ("listen", "tls", "warned"),
    [
        ("127.0.0.1:18000", False, False),
        ("[::1]:18000", False, False),
        ("192.0.2.1:18000", False, True),
        ("0.0.0.0:18000", False, True),
        ("[::]:18000", False, True),
        ("192.0.2.1:18000", True, False),
    ],
)
def test_a_page_says_when_everybody_could_read_it(make_app, listen, tls, warned):
    page = make_app(listen=listen, tls=tls).test_client().get("/login").text
    assert ("Passwords go over the network readable" in page) is warned
