"""The dashboard as it is without scripts: how it is now, what is missing, and what to do next."""

import re

import pytest

from gtapp.console.dashboard import PROBLEM_WORDS
from gtapp.console.rates import PROBLEMS
from gtapp.errors import GTError
from tests.unit.console.conftest import CLIENT, SERVER
from tests.unit.console.lively import lively, make_lively, status

__all__ = ["lively", "make_lively"]


def shown(page, title):
    """The number under a title."""
    found = re.search(rf"<dt>{title}</dt><dd[^>]*>([^<]*)", page)
    assert found, title
    return found[1].strip()


def test_how_it_is_now(lively):
    lively.seconds(3)
    page = lively.browser.get("/")
    assert shown(page, "Connections now") == "4"
    assert shown(page, "Tunnels") == "3"
    assert shown(page, "Clients") == "2"
    assert re.search(r"B/s$", shown(page, "Bytes in"))
    assert shown(page, "Bytes in") != "0 B/s"
    assert "Nobody publishes the host that was asked for (404)" in page
    assert re.search(r'data-problem="visitors_refused_404">', page)
    assert re.search(r'data-problem="dials_failed" hidden>', page)
    assert "GT 0.1.0" in page
    assert re.search(r"<dt>Running for</dt><dd>2 h", page)
    assert re.search(r'<a href="/clients/alice">alice</a>', page)
    assert "bob/&lt;b&gt;" in page
    assert "worker 1" in page


def test_before_the_first_sample(lively):
    page = lively.browser.get("/")
    assert shown(page, "Connections now") == "–"
    assert "Nobody relays anything at the moment" in page


def test_a_relay_that_does_not_answer(lively):
    for name in ("metrics", "status"):
        lively.relay.answers[name] = GTError("the process does not answer within 3 s")
    lively.seconds(1)
    page = lively.browser.get("/")
    assert re.search(r'data-warning="relay">', page)
    assert "the process does not answer within 3 s" in page
    assert shown(page, "Connections now") == "–"


def test_a_relay_that_answers_is_no_problem(lively):
    lively.seconds(1)
    page = lively.browser.get("/")
    for name in ("relay", "disk", "fds"):
        assert re.search(rf'data-warning="{name}" hidden>', page)


GUESTS = SERVER.partition("users:")[0] + "  allowAnyClient: true\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [(SERVER, 'href="/users">Users</a></p>'), (GUESTS, "Every client that starts with this server")],
)
def test_the_first_steps_of_a_server(make_lively, text, says):
    lively = make_lively(text=text)
    lively.seconds(1)
    assert "First steps" not in lively.browser.get("/")
    answer = status()
    answer["units"][0]["workers"][0]["tunnels"] = []
    lively.relay.answers["status"] = answer
    page = lively.browser.get("/")
    assert "First steps" in page
    assert says in page


def test_the_first_steps_of_a_client(make_lively):
    lively = make_lively("client", text=CLIENT)
    answer = status()
    answer["units"][0]["workers"][0]["tunnels"] = []
    lively.relay.answers["status"] = answer
    lively.seconds(1)
    page = lively.browser.get("/")
    assert "There is no tunnel to the server at the moment" in page
    assert "Busiest services" in page
    assert "Busiest users" not in page
    assert "are not encrypted" in page


def test_what_runs_without_tls_is_told(make_lively):
    assert "There is no TLS" in make_lively().browser.get("/")
    safe = make_lively(text=SERVER.replace("  addr:", "  tlsAddr: 127.0.0.1:18443\n  addr:"))
    assert "There is no TLS" not in safe.browser.get("/")


def test_a_file_that_cannot_be_used_is_told(lively, tmp_path):
    lively.browser.get("/")
    (tmp_path / "server.yml").write_text(SERVER.replace("127.0.0.1:18080", "no address"))
    page = lively.browser.get("/")
    assert "The configuration on disk cannot be used" in page
    assert "no address" in page


def test_a_worker_with_a_problem(lively):
    answer = status()
    answer["units"][0]["workers"][0]["problem"] = "does not answer"
    lively.relay.answers["status"] = answer
    assert "Worker 1: does not answer" in lively.browser.get("/")


def test_each_problem_has_words():
    assert tuple(PROBLEM_WORDS) == PROBLEMS


def test_in_chinese(lively):
    lively.seconds(2)
    lively.browser.headers = {"Accept-Language": "zh-CN"}
    page = lively.browser.get("/")
    assert '<html lang="zh">' in page
    assert "当前连接" in page
    assert "Connections now" not in page
