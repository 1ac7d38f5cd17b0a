"""The console's HTTP server, over real connections: what it serves, and what it does not put up with."""

from __future__ import annotations

import logging
import socket as plain_socket
from time import monotonic

import gevent
import gevent.ssl
import pytest
from flask import Flask, abort, request
from gevent import socket
from gevent.event import Event

from gtapp.console import http_server
from gtapp.console.http_server import Server
from tests.support.certificates import make_pair
from tests.unit.console.browser import Connection, frame
from tests.unit.console.browser import request as head

DEADLINE_S = 10


@pytest.fixture(autouse=True)
def quiet(caplog, capfd):
    """Strangers' mistakes are no errors of ours, and nothing is printed."""
    caplog.set_level(logging.DEBUG)
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == []
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def eventually(is_so):
    """Other greenlets run until it is so."""
    with gevent.Timeout(DEADLINE_S):
        while not is_so():
            gevent.sleep(0.001)


class Going:
    """What slow views of the application tell, and wait for."""

    def __init__(self) -> None:
        self.started = Event()
        self.on = Event()


@pytest.fixture
def going():
    return Going()


@pytest.fixture
def app(going):
    made = Flask("tests")
    made.config["MAX_CONTENT_LENGTH"] = 1000

    @made.before_request
    def check():
        if request.args.get("deny"):
            abort(403)

    @made.get("/")
    def index():
        return "hello"

    @made.get("/slow")
    def slow():
        going.started.set()
        assert going.on.wait(DEADLINE_S)
        return "done"

    @made.post("/post")
    def post():
        return str(len(request.get_data()))

    @made.post("/ignore")
    def ignore():
        return "not read"

    @made.get("/large")
    def large():
        return "x" * 50_000_000

    @made.get("/socket", websocket=True)
    def websocket():
        found = request.environ["wsgi.websocket"]
        going.started.set()
        while (message := found.receive()) is not None:
            found.send(message)
        return ""

    return made


@pytest.fixture
def serve(app):
    """Start one: `serve()` gives the server and its address."""
    running = []

    def start(context=None):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        server = Server(listener, app, context)
        server.start()
        running.append(server)
        return server, address

    yield start
    for server in running:
        server.end(0)
        assert not server.pool


@pytest.fixture
def address(serve):
    return serve()[1]


def test_requests_on_one_connection(address):
    with Connection(address) as browser:
        for _ in range(3):
            answer = browser.get("/")
            assert (answer.status, answer.text) == (200, "hello")
        assert browser.get("/no-such-page").status == 404


def test_answers_leave_at_once(serve, monkeypatch):
    """Nagle's delay is off."""
    server, address = serve()
    seen = []
    handle = server.handler_class.handle

    def look(self):
        seen.append(self.socket.getsockopt(plain_socket.IPPROTO_TCP, plain_socket.TCP_NODELAY))
        return handle(self)

    monkeypatch.setattr(server.handler_class, "handle", look)
    with Connection(address) as browser:
        browser.get("/")
    assert all(seen)
    assert len(seen) == 1


def test_what_is_logged(address, caplog):
    """At debug, and never a query or a header."""
    with Connection(address) as browser:
        browser.get("/?token=in-the-query", Authorization="Bearer in-a-header")
        browser.get("/no-such-page")
    assert "127.0.0.1 GET /: 200" in caplog.text
    assert "127.0.0.1 GET /no-such-page: 404" in caplog.text
    assert "in-the-query" not in caplog.text
    assert "in-a-header" not in caplog.text


# the end


def test_the_end_waits_for_answers_and_for_nothing_else(serve, going):
    server, address = serve()
    with Connection(address) as idle, Connection(address) as silent, Connection(address) as busy:
        idle.get("/")
        busy.send(head("GET", "/slow"))
        assert going.started.wait(DEADLINE_S)
        ending = gevent.spawn(server.end, 5)
        assert idle.ended() == silent.ended() == b""
        with pytest.raises(ConnectionRefusedError):
            Connection(address)
        going.on.set()
        assert busy.answer().text == "done"
        ending.join(DEADLINE_S)
        assert ending.ready()


def test_it_does_not_wait_for_long(serve, going):
    server, address = serve()
    with Connection(address) as busy:
        busy.send(head("GET", "/slow"))
        assert going.started.wait(DEADLINE_S)
        began = monotonic()
        server.end(0.05)
        assert monotonic() - began < 2
        busy.ended()


def test_websockets_do_not_hold_it_up(serve, going):
    server, address = serve()
    with Connection(address) as browser:
        assert browser.upgrade("/socket").status == 101
        assert going.started.wait(DEADLINE_S)
        began = monotonic()
        server.end(30)
        assert monotonic() - began < 2
        browser.ended()


# slow and rude visitors


@pytest.mark.parametrize(
    ("bound", "sent"),
    [
        ("KEPT_S", b""),
        ("HEAD_S", b"G"),
        ("HEAD_S", b"GET / HTTP/1.1\r\nHost: a\r\n"),
        ("HEAD_S", b"GET / HTTP/1.1\r\nHost: a\r\nX: y"),
    ],
)
def test_a_request_has_to_come_in_time(address, monkeypatch, bound, sent):
    monkeypatch.setattr(http_server, bound, 0.05)
    with Connection(address) as browser:
        browser.send(sent)
        assert browser.ended() == b""


def test_drop_by_drop_is_not_in_time(address, monkeypatch):
    monkeypatch.setattr(http_server, "HEAD_S", 0.2)
    with Connection(address) as browser:

        def drip():
            try:
                while True:
                    browser.send(b"X: y\r\n")
                    gevent.sleep(0.01)
            except OSError:
                pass

        browser.send(b"GET / HTTP/1.1\r\n")
        dripping = gevent.spawn(drip)
        assert browser.ended() == b""
        dripping.kill()


def test_neither_is_a_body_that_does_not_come(address, monkeypatch):
    monkeypatch.setattr(http_server, "BODY_S", 0.1)
    monkeypatch.setattr(http_server, "DISCARD_S", 0.05)
    with Connection(address) as browser:
        browser.send(head("POST", "/post", Content_Length="100") + b"some of it")
        assert browser.answer().status == 400
        assert browser.ended() == b""


def test_nor_one_that_nobody_reads(address, monkeypatch):
    monkeypatch.setattr(http_server, "DISCARD_S", 0.05)
    with Connection(address) as browser:
        browser.send(head("POST", "/ignore", Content_Length="100") + b"some of it")
        assert browser.answer().text == "not read"
        assert browser.ended() == b"", "what follows of it is not taken for a request"


def test_who_does_not_read_is_dropped(serve, monkeypatch):
    monkeypatch.setattr(http_server, "WRITE_S", 0.1)
    server, address = serve()
    with Connection(address) as browser:
        browser.send(head("GET", "/large"))
        eventually(lambda: len(server.pool))
        eventually(lambda: not len(server.pool))


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/x.y\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /post HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"POST /post HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"\0" * 10_000,
        b"\n" * 10_000,
    ],
)
def test_nonsense(address, sent):
    with Connection(address) as browser:
        browser.send(sent)
        browser.socket.shutdown(plain_socket.SHUT_WR)
        answer = browser.ended()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_who_goes_in_the_middle(address):
    for sent in (b"", b"GET / HTTP/1.1\r\nHo", head("POST", "/post", Content_Length="100") + b"x"):
        with Connection(address) as browser:
            browser.send(sent)
    with Connection(address) as browser:
        assert browser.get("/").status == 200


@pytest.mark.parametrize("size", [1001, 100_000, 3_000_000])
def test_a_body_that_is_too_large_gets_its_answer(address, size):
    with Connection(address) as browser:
        sending = gevent.spawn(browser.send, head("POST", "/post", Content_Length=str(size)) + bytes(size))
        assert browser.answer().status == 413
        sending.join(DEADLINE_S)
        assert browser.get("/").status == 200


def test_one_that_is_far_too_large_ends_the_connection(address):
    with Connection(address) as browser:
        browser.send(head("POST", "/post", Content_Length=str(10**12)) + bytes(1000))
        assert browser.answer().status == 413
        browser.ended()


def test_chunked_bodies_are_bounded_too(address):
    with Connection(address) as browser:
        browser.send(head("POST", "/post", Transfer_Encoding="chunked"))
        browser.send(b"3e8\r\n" + bytes(1000) + b"\r\n0\r\n\r\n")
        assert browser.answer().text == "1000"
        browser.send(head("POST", "/post", Transfer_Encoding="chunked"))
        browser.send((b"3e8\r\n" + bytes(1000) + b"\r\n") * 10 + b"0\r\n\r\n")
        assert browser.answer().text == "1000", "no more than that is kept"
        assert browser.get("/").status == 200


def test_one_address_does_not_get_all_connections(address, monkeypatch):
    monkeypatch.setattr(http_server, "MAX_OF_ONE", 2)
    with Connection(address) as one, Connection(address) as two:
        assert (one.get("/").status, two.get("/").status) == (200, 200)
        with Connection(address) as three:
            assert three.ended() == b""
    with Connection(address) as again:
        answer = again.get("/")
        assert answer.status == 200


# WebSockets


def test_messages(address):
    with Connection(address) as browser:
        answer = browser.upgrade("/socket")
        assert (answer.status, answer.headers["Upgrade"]) == (101, "websocket")
        browser.send(frame(b"hello"))
        assert browser.socket.recv(100) == b"\x81\x05hello"
        browser.send(frame(b"hel", final=False) + frame(b"lo", opcode=0))
        assert browser.socket.recv(100) == b"\x81\x05hello"
        browser.send(frame(b"ping", opcode=9))
        assert browser.socket.recv(100) == b"\x8a\x04ping"
        browser.send(frame(b"", opcode=8))
        assert browser.ended().startswith(b"\x88")


def test_whoever_may_not_see_it_is_told_before_anything_is_upgraded(address):
    with Connection(address) as browser:
        assert browser.upgrade("/socket?deny=1").status == 403
    with Connection(address) as browser:
        assert browser.upgrade("/no-such-page").status == 404
    with Connection(address) as browser:
        assert browser.upgrade("/").status == 400, "no WebSocket is served there"


def test_a_request_whose_end_is_a_matter_of_opinion(address):
    with Connection(address) as browser:
        browser.send(
            b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 40\r\n\r\nhello"
        )
        browser.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answers = browser.ended()
        assert answers.startswith(b"HTTP/1.1 400 ")
        assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_WebSocket_Key": ""},
        {"Sec_WebSocket_Key": "x"},
        {"Sec_WebSocket_Key": "AAAA"},
        {"Sec_WebSocket_Version": "99"},
        {"Sec_WebSocket_Version": "x"},
    ],
)
def test_an_upgrade_that_is_no_handshake(address, headers, caplog):
    with Connection(address) as browser:
        assert browser.upgrade("/socket", **headers).status == 400
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"", length=2**62),
        frame(b"", length=70_000),
        (frame(b"x" * 60_000, final=False) + frame(b"x" * 60_000, opcode=0)),
        frame(b"hello", masked=False),
        b"\xf1" + frame(b"hello")[1:],
        frame(b"\xff\xfe"),
        frame(b"x", opcode=3),
        frame(b"x", opcode=0),
        frame(b"x" * 126, opcode=9),
    ],
)
def test_messages_that_break_the_rules_end_it(address, sent):
    with Connection(address) as browser:
        assert browser.upgrade("/socket").status == 101
        browser.send(sent)
        assert browser.ended().startswith(b"\x88")


def test_who_has_gone_is_noticed(serve, going):
    server, address = serve()
    browser = Connection(address)
    assert browser.upgrade("/socket").status == 101
    browser.socket.close()
    eventually(lambda: not len(server.pool))


def test_silence_is_no_reason_to_end_it(serve, monkeypatch):
    monkeypatch.setattr(http_server, "WRITE_S", 0.05)
    _, address = serve()
    with Connection(address) as browser:
        assert browser.upgrade("/socket").status == 101
        browser.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            browser.socket.recv(1)
        browser.socket.settimeout(DEADLINE_S)
        browser.send(frame(b"hello"))
        assert browser.socket.recv(100) == b"\x81\x05hello"


# TLS


@pytest.fixture
def contexts(tmp_path):
    """Of the server, and of a browser that trusts it."""
    pair = make_pair()
    files = pair.write(tmp_path)
    server = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.cert, files.key)
    browser = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    browser.load_verify_locations(files.cert)
    return server, browser


def test_over_tls(serve, contexts):
    _, address = serve(contexts[0])
    with Connection(address, contexts[1]) as browser:
        assert browser.get("/").text == "hello"
        assert browser.upgrade("/socket").status == 101
        browser.send(frame(b"hello"))
        assert browser.socket.recv(100) == b"\x81\x05hello"


def test_who_speaks_plain_http_there_is_told(serve, contexts):
    _, address = serve(contexts[0])
    with Connection(address) as browser:
        answer = browser.get("/")
        assert (answer.status, "https://" in answer.text) == (400, True)


def test_a_handshake_has_to_come_in_time(serve, contexts, monkeypatch):
    monkeypatch.setattr(http_server, "HANDSHAKE_S", 0.05)
    _, address = serve(contexts[0])
    for sent in (b"", b"\x16\x03"):
        with Connection(address) as browser:
            browser.send(sent)
            assert browser.ended() == b""


def test_a_handshake_that_is_none(serve, contexts):
    _, address = serve(contexts[0])
    with Connection(address) as browser:
        browser.send(b"\x16" + bytes(1000))
        browser.ended()
    stranger = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(gevent.ssl.SSLError):
        Connection(address, stranger)
    with Connection(address, contexts[1]) as browser:
        assert browser.get("/").status == 200
