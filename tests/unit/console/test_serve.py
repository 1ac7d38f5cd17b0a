"""The console as its process serves it: the real application behind the real HTTP server."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from time import monotonic

import gevent
import gevent.ssl
import pytest
from gevent import socket
from gevent.event import Event

from gtapp.console import serve, setup_token
from gtapp.console.sessions import Sessions
from gtapp.errors import ConfigError, GTError
from tests.support.certificates import make_pair
from tests.unit.console.browser import Connection, request
from tests.unit.console.conftest import CLIENT, NAME, PASSWORD, SERVER

DEADLINE_S = 20


@pytest.fixture(autouse=True)
def loader_log():
    """`run` silences the loader for its whole process, which here is the tests'."""
    log = logging.getLogger("gt.config")
    before = log.level
    yield
    log.setLevel(before)


class Served:
    """A console that runs."""

    def __init__(self, values, ask, address="127.0.0.1"):
        self.listener = socket.socket()
        self.listener.bind((address, 0))
        self.listener.listen()
        self.address = ("127.0.0.1", self.listener.getsockname()[1])
        self.until, self.ready = Event(), Event()
        self.greenlet = gevent.spawn(serve.run, values, ask, self.listener, self.until, self.ready.set)
        self.greenlet.link(lambda _: self.ready.set())
        assert self.ready.wait(DEADLINE_S)
        if self.greenlet.ready():
            self.listener.close()
            self.greenlet.get()

    def end(self):
        self.until.set()
        self.greenlet.get(timeout=DEADLINE_S)


@pytest.fixture
def values(tmp_path):
    (tmp_path / "server.yml").write_text(SERVER)
    return {
        "role": "server",
        "config": str(tmp_path / "server.yml"),
        "words": ["-c", str(tmp_path / "server.yml")],
        "environ": {},
        "state": str(tmp_path / "server.state"),
        "cert_file": "",
        "key_file": "",
        "setup": False,
        "target": "",
    }


@pytest.fixture
def start(values, relay):
    """`start(**values)`."""
    relay.answers["metrics"] = {"units": []}
    running = []

    def begin(address="127.0.0.1", **more):
        served = Served({**values, **more}, relay.ask, address)
        running.append(served)
        return served

    yield begin
    for each in running:
        each.end()


def log_in(connection, host):
    """The cookie of a session."""
    page = connection.get("/login", Host=host)
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    (csrf,) = re.findall(r'name="csrf-token" content="([^"]+)"', page.text)
    body = f"csrf_token={csrf}&name={NAME}&password={PASSWORD.replace(' ', '+')}".encode()
    form = {"Content_Type": "application/x-www-form-urlencoded", "Content_Length": str(len(body))}
    connection.send(request("POST", "/login", Host=host, Cookie=cookie, **form) + body)
    answer = connection.answer()
    assert answer.status == 302, answer.text
    cookies = (each.partition(";")[0] for each in answer.headers.get_all("Set-Cookie"))
    return next(each for each in cookies if "_session=" in each and not each.endswith("="))


def test_it_serves_and_ends(start):
    served = start()
    host = f"127.0.0.1:{served.address[1]}"
    with Connection(served.address) as browser:
        assert browser.get("/login", Host=host).status == 200
        cookie = log_in(browser, host)
        assert browser.get("/account", Host=host, Cookie=cookie).status == 200
        began = monotonic()
        served.end()
        assert monotonic() - began < 2
        assert browser.ended() == b""
    with pytest.raises(ConnectionRefusedError):
        Connection(served.address)


def test_sessions_outlive_it(start):
    """The next console, after a reload for instance, has the same database and key."""
    served = start()
    host = "127.0.0.1:1"
    with Connection(served.address) as browser:
        cookie = log_in(browser, host)
    served.end()
    again = start()
    name = f"gt_{again.address[1]}_session"
    with Connection(again.address) as browser:
        cookie = f"{name}={cookie.partition('=')[2]}"
        assert browser.get("/account", Host=host, Cookie=cookie).status == 200


@pytest.mark.parametrize("role", ["server", "client"])
def test_both_roles(start, tmp_path, role):
    path = tmp_path / f"{role}.yml"
    path.write_text(SERVER if role == "server" else CLIENT)
    served = start(role=role, config=str(path), words=["-c", str(path)])
    with Connection(served.address) as browser:
        assert browser.get("/login").status == 200
        assert browser.get("/users").status == (302 if role == "server" else 404)


def test_by_flags_alone(start):
    words = ["--addr", "127.0.0.1:0", "--id", "a", "--secret", "alices-secret", "--password", PASSWORD]
    served = start(config="", words=words)
    with Connection(served.address) as browser:
        cookie = log_in(browser, "127.0.0.1")
        page = browser.get("/account", Cookie=cookie)
        assert "GT runs without a configuration file" in page.text


def test_live_numbers_are_for_who_is_logged_in(start):
    served = start()
    host = f"127.0.0.1:{served.address[1]}"
    ours = {"Host": host, "Origin": f"http://{host}"}
    with Connection(served.address) as stranger:
        assert stranger.upgrade("/live", **ours).status == 302
    with Connection(served.address) as browser:
        cookie = log_in(browser, host)
    with Connection(served.address) as browser:
        assert browser.upgrade("/live", Cookie=cookie, Host=host, Origin="http://evil.example").status == 403
    with Connection(served.address) as browser:
        assert browser.upgrade("/live", Cookie=cookie, **ours).status == 101
        assert browser.socket.recv(65536).startswith(b"\x81")


def test_over_tls(start, tmp_path):
    files = make_pair().write(tmp_path)
    served = start(cert_file=str(files.cert), key_file=str(files.key))
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.cert)
    with Connection(served.address, context) as browser:
        page = browser.get("/login")
        assert page.headers["Strict-Transport-Security"]
        assert "; Secure;" in page.headers["Set-Cookie"]
        assert browser.socket.version() in ("TLSv1.2", "TLSv1.3")


def test_a_certificate_that_cannot_be_used(start, tmp_path):
    (tmp_path / "cert.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"webCertFile .*cert\.pem cannot be used"):
        start(cert_file=str(tmp_path / "cert.pem"), key_file=str(tmp_path / "cert.pem"))


def test_a_configuration_that_cannot_be_used(start, tmp_path):
    (tmp_path / "server.yml").write_text("nonsense: [")
    with pytest.raises(GTError, match=r"server\.yml"):
        start()


@pytest.mark.parametrize(
    ("address", "tls", "warned"), [("127.0.0.1", False, 0), ("0.0.0.0", False, 1), ("0.0.0.0", True, 0)]
)
def test_the_log_says_when_everybody_could_read_passwords(start, tmp_path, caplog, address, tls, warned):
    files = make_pair().write(tmp_path)
    more = {"cert_file": str(files.cert), "key_file": str(files.key)} if tls else {}
    start(address, **more).end()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == warned
    assert all("without TLS" in each and "webCertFile" in each for each in warnings)


def test_no_database_is_said_in_the_log(start, tmp_path, caplog):
    (tmp_path / "server.state").write_text("a file where the directory should be")
    served = start()
    with Connection(served.address) as browser:
        assert browser.get("/login").status == 200
    assert "nobody can log in to the console: " in caplog.text


# the first run


@pytest.fixture
def first(values, tmp_path):
    (tmp_path / "server.yml").unlink()
    return {"config": "", "words": [], "setup": True, "target": str(tmp_path / "server.yml")}


def test_the_first_run_prints_where_to_go(start, first, capsys, tmp_path):
    served = start(**first)
    printed = capsys.readouterr().out
    (url,) = re.findall(r"http://\S+", printed)
    host, _, token = url.partition("/setup#")
    assert host == f"http://127.0.0.1:{served.address[1]}"
    assert token == (tmp_path / "server.state" / "setup-token").read_text().strip()
    with Connection(served.address) as browser:
        assert browser.get("/").headers["Location"] == "/setup"
        assert browser.get("/login").status == 404
    served.end()
    start(**first).end()
    assert token in capsys.readouterr().out, "the next one goes on with it"


def test_a_token_that_was_used_up_is_made_anew(start, first, capsys, tmp_path):
    start(**first).end()
    before = setup_token.current_token(tmp_path / "server.state")
    (tmp_path / "server.state" / "setup-token.json").unlink()
    start(**first).end()
    after = setup_token.current_token(tmp_path / "server.state")
    assert after not in (None, before)


def test_where_no_token_can_be_written_it_is_said(start, first, tmp_path, caplog):
    (tmp_path / "server.state").write_text("a file where the directory should be")
    start(**first).end()
    assert "the setup token cannot be written there" in caplog.text


def test_what_it_is_about(values, relay):
    about = serve.make_console(values, relay.ask, "127.0.0.1:8000")
    assert (about.role, about.tls, about.setup, about.port) == ("server", False, False, "8000")
    assert about.store is not None
    assert about.store.path == Path(values["config"])
    assert about.config().options.admin == NAME
    assert Sessions(about.db, about.clock).all("") == []
    about.db.close()
