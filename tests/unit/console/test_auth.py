"""Who may see and do what: nobody anything without a login, and a program what its token says."""

from collections.abc import Iterator

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView
from flask_login import current_user
from werkzeug.routing import AnyConverter, BaseConverter, IntegerConverter, Rule

from gtapp.console.auth import ACCOUNT, SCOPES, mark_of, needs, public, safe_next
from tests.unit.console.conftest import Auth

# Has a rule of its own: programs of this machine, which see that the request is local.
GUARDED = "prometheus.index"
PUBLIC = {GUARDED, "static", "auth.login", "auth.log_in", "auth.code", "auth.check_code", "auth.logout"}
PUBLIC_IN_SETUP = {"static"}


def rules(app: Flask) -> Iterator[tuple[Rule, str, str]]:
    """Every route, each of its methods, and a path that leads there."""
    adapter = app.url_map.bind("127.0.0.1:18000")
    for rule in app.url_map.iter_rules():
        values = {name: fitting(rule._converters[name]) for name in rule.arguments}
        path = adapter.build(rule.endpoint, values, method=None)
        for method in sorted((rule.methods or {"GET"}) - {"HEAD", "OPTIONS"}):
            yield rule, method, path


def fitting(converter: BaseConverter) -> int | str:
    """A value that it takes."""
    if isinstance(converter, AnyConverter):
        return min(converter.items)
    return 1 if isinstance(converter, IntegerConverter) else "x"


def is_public(app: Flask, rule: Rule, method: str) -> bool:
    return rule.endpoint == "static" or bool(mark_of(app.view_functions[rule.endpoint], method, "gt_public"))


@pytest.mark.parametrize("role", ["server", "client"])
def test_every_route_without_a_login(make_app, role):
    """Default deny: 302 to the login, 401 for programs; nothing is done, nothing is shown."""
    app = make_app(role=role)
    browser, seen = Auth(app, app.test_client()), 0
    csrf = browser.csrf()
    client = app.test_client()
    for rule, method, path in rules(app):
        if rule.endpoint in PUBLIC:
            continue
        assert not is_public(app, rule, method), f"{rule.endpoint} is public: is that meant?"
        scheme = {
            "headers": {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": "http://127.0.0.1:18000"}
        }
        more = scheme if rule.websocket else {}
        answer = client.open(path, method=method, base_url="http://127.0.0.1:18000", **more)
        assert answer.status_code in (302, 401, 404), f"{method} {path}: {answer.status}"
        if answer.status_code == 302:
            assert answer.location.startswith("/login")
        posted = browser.post if method == "POST" else None
        if posted:  # with all that a form has, too
            assert posted(path, {"csrf_token": csrf}).status_code in (401, 404), path
        seen += 1
    assert seen >= 30
    assert client.get("/metrics", environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 401


@pytest.mark.parametrize("role", ["server", "client"])
def test_every_route_of_the_first_run(make_app, role):
    """There is no console yet: nothing of it is there, whoever asks."""
    app = make_app(role=role, setup=True)
    client = app.test_client()
    for rule, method, path in rules(app):
        if rule.endpoint.startswith("setup.") or rule.endpoint in PUBLIC_IN_SETUP:
            continue
        answer = client.open(path, method=method)
        allowed = (302, 404) if path == "/" else (400, 404)
        assert answer.status_code in allowed, f"{method} {path}: {answer.status}"


def test_after_the_first_run_its_routes_are_gone(app, client, auth):
    auth.login()
    assert [rule.endpoint for rule, _, _ in rules(app) if rule.endpoint.startswith("setup.")] == []
    assert client.get("/setup").status_code == 404


@pytest.mark.parametrize(
    "path", ["/no/such/page", "/static/no-such-file", "/static/../../gt.py", "/static/%2e%2e/gt.py"]
)
def test_what_is_not_there(client, path):
    assert client.get(path).status_code == 404


# views of our own


@pytest.fixture
def app(make_app):
    """With views of each kind besides."""
    made = make_app()
    blueprint = Blueprint("own", __name__)

    class Things(MethodView):
        def get(self):
            return "things"

        @needs("users")
        def post(self):
            return "made"

        def delete(self):
            return "gone"

    @blueprint.get("/own/public")
    @public
    def everybody():
        return f"hello {current_user.name}"

    @blueprint.get("/own/plain")
    def plain():
        return f"hello {current_user.name} by {current_user.via}"

    @blueprint.post("/own/plain")
    def change():
        return "changed"

    @blueprint.route("/own/system", methods=["GET", "POST"])
    @needs("system")
    def system():
        return "done"

    @blueprint.get("/own/account")
    @needs(ACCOUNT)
    def account():
        return "mine"

    blueprint.add_url_rule("/own/things", view_func=Things.as_view("things"))
    made.register_blueprint(blueprint)
    return made


def test_public_views(client, auth):
    assert client.get("/own/public").text == "hello "
    auth.login()
    assert client.get("/own/public").text == "hello admin"


def test_a_browser_may_everything(client, auth):
    auth.login()
    assert client.get("/own/plain").text == "hello admin by browser"
    for path in ("/own/system", "/own/account", "/own/things"):
        assert client.get(path).status_code == 200
    for path in ("/own/plain", "/own/system", "/own/things"):
        assert auth.post(path).status_code == 200
    assert client.delete("/own/things", headers={"X-CSRFToken": auth.csrf()}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/own/plain", "read"),
        ("HEAD", "/own/plain", "read"),
        ("GET", "/own/things", "read"),
        ("POST", "/own/things", "users"),
        ("GET", "/own/system", "system"),
        ("POST", "/own/system", "system"),
        ("POST", "/own/plain", None),
        ("DELETE", "/own/things", None),
        ("GET", "/own/account", None),
    ],
)
def test_a_token_may_what_it_says(client, auth, method, path, needed):
    """What is not marked it may read, and never change."""
    for scope in SCOPES:
        answer = client.open(path, method=method, headers=auth.token(scope))
        assert answer.status_code == (200 if scope == needed else 403), scope
    assert client.open(path, method=method, headers=auth.token()).status_code == (200 if needed else 403)


def test_who_a_token_stands_for(client, auth):
    assert client.get("/own/plain", headers=auth.token("read")).text == "hello admin by token test"


def test_a_token_that_is_worth_nothing(client, auth, clock):
    expired = auth.token("read", lasts_s=60.0)
    assert client.get("/own/plain", headers=expired).status_code == 200
    clock.forward(60)
    for header in (expired["Authorization"], "Bearer gt_nonsense", "Bearer ", "bearer", "Bearer a b c"):
        answer = client.get("/own/plain", headers={"Authorization": header})
        assert answer.status_code == (302 if header == "bearer" else 401), header


def test_with_a_token_the_session_counts_for_nothing(client, auth):
    """Otherwise a page of another site could add one and so go round the check of forms."""
    auth.login()
    nonsense = {"Authorization": "Bearer gt_nonsense"}
    assert client.get("/own/plain", headers=nonsense).status_code == 401
    assert client.post("/own/plain", headers=nonsense).status_code == 401
    assert client.post("/own/plain", headers=auth.token("read")).status_code == 403


def test_other_ways_to_authorize_are_no_tokens(client, auth):
    auth.login()
    assert client.get("/own/plain", headers={"Authorization": "Basic YTpi"}).status_code == 200


def test_a_program_gets_no_page(client):
    answer = client.get("/own/plain", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json["code"]) == (401, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/own/plain", headers={"HX-Request": "true"}).status_code == 401
    assert client.get("/own/plain", headers={"Accept": "text/html,*/*;q=0.8"}).status_code == 302


def test_cookies_of_other_applications_on_this_host(client, auth):
    """Flask-Login's usual ones among them."""
    auth.login()
    client.set_cookie("remember_token", "admin|0123456789abcdef")
    client.set_cookie("session", "nonsense")
    assert client.get("/own/plain").status_code == 200


def test_only_scopes_that_there_are_can_be_asked_for():
    with pytest.raises(AssertionError):
        needs("everything")
    assert ACCOUNT not in SCOPES


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/users?a=b#c", "/users?a=b#c"),
        ("", "/"),
        ("users", "/"),
        ("//evil", "/"),
        ("/\\evil", "/"),
        ("/\t/evil", "/"),
        ("http://evil", "/"),
        ("/" + "a" * 5000, "/"),
    ],
)
def test_where_to_go_after_a_login(text, place):
    assert safe_next(text) == place
