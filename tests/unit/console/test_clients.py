"""The pages of clients: who is there, and disconnecting and blocking them."""

from typing import Any

import pytest
import yaml

from gtapp.errors import GTError
from tests.unit.console.conftest import SERVER
from tests.unit.console.lively import lively, make_lively, status

__all__ = ["lively", "make_lively"]

GUESTS = SERVER.partition("users:")[0] + "  allowAnyClient: true\n"
NOBODY: dict[str, Any] = {"units": [{"workers": [{"tunnels": [], "hosts": []}]}]}


def asked(lively, command):
    return [each for each in lively.relay.asked if each["command"] == command]


def test_all_that_are_connected(lively):
    lively.seconds(2)
    page = lively.browser.get("/clients")
    assert "198.51.100.1:4000" in page
    assert "gt/0.1.0" in page
    assert "TLS · protocol 3" in page
    assert "12.3 ms" in page
    assert "1 h 1 min" in page
    assert "3.0 MiB" in page
    assert "2 tunnels · 4 connections" in page
    assert "tcp://127.0.0.1:2222" in page
    assert "bob/&lt;b&gt;" in page
    assert "bob/<b>" not in page


def test_public_links_name_the_domain(make_lively):
    lively = make_lively(text=SERVER.replace("  addr:", "  domain: example.com\n  addr:"))
    page = lively.browser.get("/clients")
    assert 'href="http://shop.example.com:18080/"' in page
    assert "tcp://example.com:2222" in page


def test_what_a_script_asks_for_is_the_list_alone(lively):
    answer = lively.browser.client.get("/clients", headers={"HX-Request": "true"})
    assert "198.51.100.1:4000" in answer.text
    assert "<html" not in answer.text


def test_the_relay_is_asked_once_a_second_however_many_look(lively):
    for _ in range(5):
        lively.browser.get("/clients")
    assert len(asked(lively, "status")) < 5


def test_searching(lively):
    assert "198.51.100.3" not in lively.browser.get("/clients?q=ALICE")
    assert "198.51.100.1:" not in lively.browser.get("/clients?q=100.3")
    assert "No client matches" in lively.browser.get("/clients?q=nothing")


def test_many_are_on_several_pages(lively):
    answer = status()
    one = answer["units"][0]["workers"][0]["tunnels"][0]
    answer["units"][0]["workers"][0]["tunnels"] = [{**one, "user": f"user-{n:03}"} for n in range(120)]
    lively.relay.answers["status"] = answer
    page = lively.browser.get("/clients?page=2")
    assert "user-049" not in page
    assert "user-050" in page
    assert "Page 2 of 3, 120 clients" in page
    assert 'hx-get="/clients?page=2"' in page


@pytest.mark.parametrize(
    ("text", "says"),
    [(SERVER, "Open a user to get its join code"), (GUESTS, "This server has no users of its own")],
)
def test_nobody_is_connected(make_lively, text, says):
    lively = make_lively(text=text)
    lively.relay.answers["status"] = NOBODY
    assert says in lively.browser.get("/clients")


def test_a_relay_that_does_not_answer(lively):
    lively.relay.answers["status"] = GTError("the process does not answer")
    assert "the process does not answer" in lively.browser.get("/clients")


def test_one_client(lively):
    lively.seconds(2)
    page = lively.browser.get("/clients/alice")
    assert "198.51.100.1:4000" in page
    assert "198.51.100.3:4000" not in page
    assert "HTTP host" in page
    assert "203.0.113.5:4711" in page
    assert 'href="/users/alice"' in page
    assert asked(lively, "connections")[-1]["user"] == "alice"


def test_a_client_whose_id_is_no_word(lively):
    lively.seconds(2)
    page = lively.browser.get("/clients/~Ym9iLzxiPg")
    assert "198.51.100.3:4000" in page
    lively.browser.send("/clients/~Ym9iLzxiPg/disconnect")
    assert asked(lively, "disconnect")[-1]["user"] == "bob/<b>"


def test_a_client_that_is_away(lively):
    lively.relay.answers["status"] = NOBODY
    page = lively.browser.get("/clients/alice")
    assert "away" in page
    assert "Not connected" in page


def test_a_client_that_nobody_knows(lively):
    lively.browser.get("/clients/nobody", expect=404)


def test_disconnecting_a_client(lively):
    lively.browser.get("/clients/alice")
    page = lively.browser.send("/clients/alice/disconnect")
    assert "alice is disconnected" in page
    request = asked(lively, "disconnect")[-1]
    assert request["user"] == "alice"
    assert "tunnel" not in request


def test_closing_one_tunnel(lively):
    lively.browser.get("/clients")
    form = next(each for each in lively.browser.forms() if each.fields.get("tunnel") == "1.2")
    answer = lively.browser.client.post(form.action, data=form.fields, follow_redirects=True)
    assert "The tunnel is closed" in answer.text
    assert answer.request.path == "/clients"
    request = asked(lively, "disconnect")[-1]
    assert request["tunnel"] == "1.2"
    assert "user" not in request


def test_what_is_gone_already_is_told(lively):
    lively.relay.answers["disconnect"] = {"count": 0}
    lively.browser.get("/clients/alice")
    assert "There is no such tunnel any more" in lively.browser.send("/clients/alice/disconnect")
    lively.relay.answers["disconnect"] = GTError("the process cannot be asked")
    assert "the process cannot be asked" in lively.browser.send("/clients/alice/disconnect")


def test_blocking_and_unblocking(lively, tmp_path):
    lively.browser.get("/clients/alice")
    page = lively.browser.send("/clients/alice/block")
    assert "is blocked" in page
    assert yaml.safe_load((tmp_path / "server.yml").read_text())["users"]["alice"]["disabled"] is True
    assert asked(lively, "reload")
    assert "Unblock" in page
    lively.browser.send("/clients/alice/block")
    assert "disabled" not in yaml.safe_load((tmp_path / "server.yml").read_text())["users"]["alice"]


def test_blocking_somebody_who_is_no_user(lively):
    lively.browser.get("/clients/~Ym9iLzxiPg")
    page = lively.browser.send("/block")
    assert "is blocked" not in page
    assert 'class="notice bad"' in page


def test_a_program_that_may_only_read(lively):
    from tests.unit.console.conftest import Auth

    headers = Auth(lively.app, lively.app.test_client()).token("read")
    program = lively.app.test_client()
    assert program.get("/clients", headers=headers).status_code == 200
    assert program.post("/clients/alice/disconnect", headers=headers).status_code == 403
    assert program.post("/clients/alice/block", headers=headers).status_code == 403
