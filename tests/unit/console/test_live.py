"""Live numbers over a real WebSocket, to readers that are quick, slow, gone, and many."""

from __future__ import annotations

import json
import socket as plain_socket
from typing import Any

import gevent
import pytest
import websocket
from gevent import socket

from gtapp.console import live
from gtapp.console.context import EXTENSION
from gtapp.console.http_server import Server
from gtapp.errors import GTError
from tests.unit.console.conftest import Auth
from tests.unit.console.lively import lively, make_lively

__all__ = ["lively", "make_lively"]

DEADLINE_S = 10.0


class Served:
    """`lively` behind a real HTTP server. `connect` opens a WebSocket as the browser does that is logged in."""

    def __init__(self, lively):
        self.lively = lively
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._server = Server(listener, lively.app)
        self._server.start()
        self._open = []
        self._plain = []
        browser = lively.browser.client
        self.cookie = "; ".join(f"{name}={value}" for name, value in cookies(browser).items())

    @property
    def audience(self):
        return self.lively.app.extensions["gt-live"]

    def connect(self, path="/live", **more):
        options: dict[str, Any] = {
            "cookie": self.cookie,
            "origin": f"http://127.0.0.1:{self.port}",
            "timeout": DEADLINE_S,
        }
        plain = socket.socket()  # of gevent: server and reader are in one thread
        for option in more.pop("sockopt", ()):
            plain.setsockopt(*option)
        plain.settimeout(DEADLINE_S)
        plain.connect(("127.0.0.1", self.port))
        self._plain.append(plain)
        made = websocket.create_connection(
            f"ws://127.0.0.1:{self.port}{path}", socket=plain, **options | more
        )
        self._open.append(made)
        return made

    def wait_for(self, readers):
        with gevent.Timeout(DEADLINE_S):
            while len(self.audience) != readers:
                gevent.sleep(0.01)

    def close(self):
        for each in self._open:
            each.shutdown()
        for each in self._plain:
            each.close()
        self._server.end(1.0)


def cookies(client):
    """Those of a test client."""
    with client:
        client.get("/login")
        from flask import request

        return dict(request.cookies)


@pytest.fixture
def served(lively):
    made = Served(lively)
    yield made
    made.close()


def read(web_socket):
    return json.loads(web_socket.recv())


def test_a_reader_gets_how_it_is_and_then_each_sample(served):
    served.lively.seconds(2)
    reader = served.connect()
    first = read(reader)
    assert first["total"]["streams"] == 4
    assert first["problem"] == ""
    assert [row[0] for row in first["parts"]["users"]] == ["alice", "bob/<b>"]
    assert first["problems"]["visitors_refused_404"] == [0, 5]
    served.lively.seconds(1)
    assert read(reader)["time"] == first["time"] + 1


def test_a_relay_that_does_not_answer_is_told(served):
    reader = served.connect()
    read(reader)
    served.lively.relay.answers["metrics"] = GTError("the process does not answer")
    served.lively.seconds(1)
    message = read(reader)
    assert (message["problem"], message["total"]) == ("the process does not answer", None)
    assert "relay" in message["warnings"]


def test_many_readers_get_the_same_bytes_which_are_made_once(served, monkeypatch):
    served.lively.seconds(1)
    readers = [served.connect() for _ in range(50)]
    for each in readers:
        read(each)
    made = []

    def counted(sampler, message=live.message):
        made.append(sampler)
        return message(sampler)

    monkeypatch.setattr(live, "message", counted)
    served.lively.seconds(1)
    assert len({each.recv() for each in readers}) == 1
    assert len(made) == 1


def test_nothing_is_made_when_nobody_looks(served, monkeypatch):
    monkeypatch.setattr(live, "frame", lambda content: pytest.fail("made for nobody"))
    served.lively.seconds(2)


def test_one_that_goes_is_forgotten(served):
    served.connect().close()
    served.wait_for(0)
    gone = served.connect()
    served.wait_for(1)
    gone.shutdown()
    served.wait_for(0)


def test_one_that_reads_nothing_is_cut_and_holds_up_nobody(served, monkeypatch):
    monkeypatch.setattr(live, "SLOW_S", 0.2)
    long = live.frame({"much": "x" * 1_000_000})
    small = (plain_socket.SOL_SOCKET, plain_socket.SO_RCVBUF, 4096)
    slow, quick = served.connect(sockopt=[small]), served.connect()
    served.wait_for(2)
    read(quick)
    slow_reader, quick_reader = sorted(
        served.audience._readers, key=lambda each: each._plain.getpeername()[1] != slow.sock.getsockname()[1]
    )
    slow_reader._plain.setsockopt(plain_socket.SOL_SOCKET, plain_socket.SO_SNDBUF, 4096)
    slow_reader.tell(long)
    gevent.idle()
    served.lively.seconds(1)
    assert read(quick)["total"]
    served.wait_for(1)
    assert quick_reader in served.audience._readers


def test_a_reader_has_to_come_again(served, monkeypatch):
    """Whoever has been logged out meanwhile does not get in then."""
    monkeypatch.setattr(live, "LIFE_S", 0.1)
    reader = served.connect()
    read(reader)
    assert reader.recv() == ""
    served.wait_for(0)
    Auth(served.lively.app, served.lively.browser.client).logout()
    with pytest.raises(websocket.WebSocketException):
        served.connect()


def test_there_is_a_bound(served, monkeypatch):
    monkeypatch.setattr(live, "MOST_READERS", 1)
    first = served.connect()
    read(first)
    second = served.connect()
    assert second.recv() == ""
    assert len(served.audience) == 1


@pytest.mark.parametrize(
    "options", [{"cookie": ""}, {"origin": "http://evil.example"}, {"host": "evil.example"}], ids=str
)
def test_strangers_and_pages_of_other_sites_get_none(served, options):
    with pytest.raises(websocket.WebSocketException):
        served.connect(**options)
    assert len(served.audience) == 0


def test_without_a_websocket(lively):
    lively.seconds(1)
    client = lively.browser.client
    assert client.get("/live/now").json["total"]["streams"] == 4
    assert client.get("/live").status_code in (400, 404)
    assert lively.app.test_client().get("/live/now").status_code == 302


def test_programs_read_with_their_tokens(lively):
    auth = Auth(lively.app, lively.app.test_client())
    program = lively.app.test_client()
    assert program.get("/live/now", headers=auth.token("read")).status_code == 200
    assert program.get("/live/now", headers=auth.token("metrics")).status_code == 403


def test_what_the_charts_ask_for(lively):
    lively.seconds(130)
    client = lively.browser.client
    seconds = client.get("/live/series?span=15m").json
    assert (seconds["step"], len(seconds["times"])) == (1, 130)
    assert seconds["columns"]["streams"][-1] == 4
    assert client.get("/live/series?span=24h").json["step"] == 60
    alice = client.get("/live/series?span=15m&kind=users&name=alice").json
    assert alice["columns"]["bytes_out"][-1] > 0
    nobody = client.get("/live/series?span=15m&kind=users&name=nobody").json
    assert set(nobody["columns"]["bytes_out"]) == {0}


def test_a_message_is_small(lively):
    """It goes to each dashboard each second."""
    lively.seconds(2)
    assert len(live.frame(live.message(lively.sampler))) < 2500


def test_the_setup_has_no_live_numbers(make_app):
    assert "gt-live" not in make_app(setup=True).extensions
    assert make_app().extensions[EXTENSION].sampler is None
