"""Answers of the relay that many pages share."""

import gevent
import pytest
from gevent.event import Event

from gtapp.console import moment
from gtapp.console.moment import MOST_MOMENTS, Moment
from gtapp.errors import GTError


def items(answer):
    return answer.get("tunnels", [])


@pytest.fixture
def time(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(moment, "monotonic", lambda: now[0])
    return now


def tunnel(name, bytes_in, bytes_out=0):
    return {"id": name, "bytes_in": bytes_in, "bytes_out": bytes_out}


def test_an_answer_is_good_for_a_second(time):
    numbers = iter(range(10))
    found = Moment(lambda: {"tunnels": [tunnel("1", next(numbers))]}, items)
    for _ in range(3):
        assert found.refresh().items == [tunnel("1", 0)]
    time[0] += 1.0
    assert found.refresh().items == [tunnel("1", 1)]
    found.expire()
    assert found.refresh().items == [tunnel("1", 2)]


def test_two_answers_tell_the_speed(time):
    answers = iter(
        [[tunnel("1", 100, 0), tunnel("2", 5)], [tunnel("1", 300, 50), tunnel("3", 9)], [tunnel("1", 100)]]
    )
    found = Moment(lambda: {"tunnels": next(answers)}, items)
    assert found.refresh().speeds == {}
    time[0] += 2
    assert found.refresh().speeds == {"1": (100, 25)}
    time[0] += 2
    assert found.refresh().speeds == {"1": (0, 0)}, (
        "a worker that was begun anew has a tunnel of that number, too"
    )


def test_answers_that_are_far_apart_tell_none(time):
    relayed = iter((0, 10_000))
    found = Moment(lambda: {"tunnels": [tunnel("1", next(relayed))]}, items)
    found.refresh()
    time[0] += moment.SPEED_S + 1
    assert found.refresh().speeds == {}


def test_a_relay_that_does_not_answer_and_then_does(time):
    answers = iter([GTError("away"), {"tunnels": [tunnel("1", 1)]}])

    def ask():
        answer = next(answers)
        if isinstance(answer, GTError):
            raise answer
        return answer

    found = Moment(ask, items)
    assert (found.refresh().problem, found.items) == ("away", [])
    time[0] += 1
    assert (found.refresh().problem, len(found.items)) == ("", 1)


def test_those_who_come_meanwhile_wait_for_the_same_answer():
    asked, go = [], Event()

    def ask():
        asked.append(1)
        go.wait()
        return {"tunnels": [tunnel("1", 1)]}

    found = Moment(ask, items)
    waiting = [gevent.spawn(lambda: list(found.refresh().items)) for _ in range(5)]
    gevent.idle()
    go.set()
    gevent.joinall(waiting, timeout=10)
    assert [each.value for each in waiting] == [[tunnel("1", 1)]] * 5
    assert len(asked) == 1


def test_questions_about_many_users_are_not_kept_for_ever(app, relay):
    relay.answers["connections"] = {"units": [{"total": 0, "connections": []}]}
    with app.test_request_context():
        for number in range(3 * MOST_MOMENTS):
            moment.connections(f"user-{number}")
        assert len(app.extensions["gt-moments"]) == MOST_MOMENTS
