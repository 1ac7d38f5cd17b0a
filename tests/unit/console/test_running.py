"""The relay behind the console, over a real control socket."""

import gevent.event
import pytest

from gtapp.console import running
from gtapp.console.running import Running
from gtapp.errors import GTError


@pytest.fixture
def reached(relay):
    return Running(relay.ask, "/etc/gt/server.yml")


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        (lambda r: r.status(), {"command": "status"}),
        (lambda r: r.metrics(), {"command": "metrics"}),
        (lambda r: r.connections(), {"command": "connections", "limit": 500}),
        (lambda r: r.connections("alice", 7), {"command": "connections", "user": "alice", "limit": 7}),
        (lambda r: r.disconnect(user="alice"), {"command": "disconnect", "user": "alice"}),
        (lambda r: r.disconnect(tunnel="t1"), {"command": "disconnect", "tunnel": "t1"}),
        (lambda r: r.disconnect(connection="c1"), {"command": "disconnect", "connection": "c1"}),
        (lambda r: r.log(), {"command": "log", "limit": 500}),
        (
            lambda r: r.log({"w1": 5}, "warn", 10),
            {"command": "log", "after": {"w1": 5}, "level": "warn", "limit": 10},
        ),
        (lambda r: r.check(), {"command": "check"}),
        (lambda r: r.probe({"id": "alice"}), {"command": "probe", "options": {"id": "alice"}}),
        (lambda r: r.reload(), {"command": "reload"}),
        (lambda r: r.restart(), {"command": "restart"}),
        (lambda r: r.upgrade(), {"command": "upgrade"}),
        (lambda r: r.stop(), {"command": "stop"}),
    ],
)
def test_each_command_names_its_configuration(relay, reached, call, request_):
    relay.answers[request_["command"]] = {"text": "done", "count": 3}
    answer = call(reached)
    assert (answer["ok"], answer["text"], answer["count"]) == (True, "done", 3)
    assert relay.asked == [{"config": "/etc/gt/server.yml", **request_}]


@pytest.mark.parametrize("config", [None, ""])
def test_without_a_file_there_is_no_name(relay, config):
    Running(relay.ask, config).status()
    assert relay.asked == [{"command": "status"}]


def test_what_is_told_meanwhile(relay, reached):
    def restart(request, tell):
        tell("a new worker starts")
        tell("it serves")
        return {"text": "restarted"}

    relay.answers["restart"] = restart
    lines: list[str] = []
    assert reached.restart(lines.append)["text"] == "restarted"
    assert lines == ["a new worker starts", "it serves"]


def test_what_is_refused_is_told(relay, reached):
    relay.answers["reload"] = GTError("server.yml:3: addr: found nothing")
    with pytest.raises(GTError, match=r"server\.yml:3: addr: found nothing"):
        reached.reload()


def test_a_master_that_has_gone(relay, reached):
    relay.close()
    with pytest.raises(GTError, match="cannot be asked"):
        reached.status()


def test_one_that_hangs_does_not_hang_the_pages(relay, reached, monkeypatch):
    never = gevent.event.Event()
    relay.answers["status"] = lambda request, tell: {"waited": never.wait(30)}
    monkeypatch.setattr(running, "READ_S", 0.05)
    with pytest.raises(GTError, match="does not answer"):
        reached.status()
    never.set()
