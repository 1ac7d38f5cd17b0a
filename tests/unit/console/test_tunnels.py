"""The page of a client's tunnels."""

import pytest

from gtapp.errors import GTError
from tests.unit.console.conftest import CLIENT
from tests.unit.console.lively import make_lively, status

__all__ = ["make_lively"]


@pytest.fixture
def of_client(make_lively):
    return make_lively("client", text=CLIENT)


def test_what_there_is(of_client):
    page = of_client.browser.get("/tunnels")
    for text in ("tcp://127.0.0.1:18080", "12.3 ms", "TLS · protocol 3", "1 to 3", "connected"):
        assert text in page


def test_a_way_that_is_not_used(make_lively):
    second = CLIENT.replace(
        "remote: tcp://127.0.0.1:18080", "remote: [tcp://127.0.0.1:18080, tls://other:443]"
    )
    page = make_lively("client", text=second).browser.get("/tunnels")
    assert "tls://other:443" in page
    assert "GT uses it when the others fail." in page


def test_why_there_is_none(of_client):
    answer = status()
    answer["units"][0]["workers"][0] |= {"tunnels": [], "problems": ["the server refuses: unknown id"]}
    of_client.relay.answers["status"] = answer
    page = of_client.browser.get("/tunnels")
    assert "No tunnel: the server refuses: unknown id." in page
    assert "not connected" in page


def test_a_tunnel_that_is_being_replaced(of_client):
    answer = status()
    answer["units"][0]["workers"][0]["tunnels"][0]["state"] = "leaving"
    of_client.relay.answers["status"] = answer
    assert "being replaced" in of_client.browser.get("/tunnels")


def test_a_relay_that_does_not_answer(of_client):
    of_client.relay.answers["status"] = GTError("the process does not answer")
    assert "the process does not answer" in of_client.browser.get("/tunnels")


def test_closing_one(of_client):
    of_client.browser.get("/tunnels")
    assert "The tunnel is closed" in of_client.browser.send("/tunnels/close")
    request = [each for each in of_client.relay.asked if each["command"] == "disconnect"][-1]
    assert request["tunnel"] == "1.1"


def test_a_server_has_no_such_page(make_lively):
    make_lively().browser.get("/tunnels", expect=404)
