"""The sampler asks, remembers, writes and reads what it has written."""

import gevent
import pytest
from gevent.event import Event

from gtapp.console import sampler as module
from gtapp.console.database import Database
from gtapp.console.running import Running
from gtapp.console.sampler import MINUTES, SECONDS, WRITE_S, Sampler
from gtapp.errors import GTError


class Counting:
    """A relay that relays 1000 bytes each time it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, request, tell):
        self.asked += 1
        relayed = 1000 * self.asked
        return {
            "units": [
                {
                    "total": {"streams": 2, "bytes_in": relayed, "visitors_refused_404": self.asked},
                    "users": {"alice": {"streams": 2, "opened": 5, "bytes_in": relayed, "bytes_out": 0}},
                    "hosts": {},
                    "processes": [{"pid": 1, "kind": "master", "rss": 5, "cpu_s": 0.0, "fds": 9}],
                }
            ]
        }


@pytest.fixture
def db(tmp_path):
    made = Database(tmp_path / "state" / "console.db")
    yield made
    made.close()


@pytest.fixture
def counting(relay):
    relay.answers["metrics"] = counting = Counting()
    return counting


@pytest.fixture
def sampler(relay, db, tmp_path, clock):
    made = Sampler(Running(relay.ask, "server.yml"), db, tmp_path, clock)
    yield made
    made.stop()


def last(sampler):
    """The newest sample, which there is."""
    assert sampler.last is not None
    return sampler.last


def run(sampler, clock, seconds):
    for _ in range(seconds):
        clock.forward(1)
        sampler.sample()


def test_one_question(sampler, relay, counting):
    assert sampler.last is None
    assert sampler.sample()
    assert relay.asked[-1] == {"command": "metrics", "config": "server.yml"}
    assert last(sampler)["streams"] == 2
    assert [each["kind"] for each in sampler.processes] == ["master", "console"]
    assert sampler.descriptors[0] > 0
    assert sampler.warnings() == []


def test_each_second_has_its_sample_and_each_minute(sampler, counting, clock):
    run(sampler, clock, 130)
    assert len(sampler.seconds) == 130
    assert len(sampler.minutes) == 2
    assert all(each["bytes_in"] > 0 for each in list(sampler.seconds)[1:])
    assert sampler.minutes.last.part("users", "alice")[2] > 0
    assert sampler.minutes.last.time % 60 == 0


def test_it_goes_on_after_a_restart(sampler, relay, db, tmp_path, counting, clock):
    run(sampler, clock, 130)
    sampler.stop()
    again = Sampler(Running(relay.ask, "server.yml"), db, tmp_path, clock)
    again.load()
    assert list(again.seconds) == list(sampler.seconds)
    assert list(again.minutes) == list(sampler.minutes)
    clock.forward(1)
    again.sample()
    assert again.now.busiest["users"][0][0] == "alice"
    assert again.seconds.columns(again.time)["times"][-2:] == [again.time - 1, again.time]


def test_samples_are_written_together(sampler, db, counting, clock):
    run(sampler, clock, WRITE_S - 1)
    assert db.samples(1) == []
    run(sampler, clock, 1)
    assert len(db.samples(1)) == WRITE_S


def test_what_is_old_is_forgotten(sampler, db, counting, clock):
    run(sampler, clock, WRITE_S)
    start = sampler.time
    db.add_samples(60, [(start - 60 * MINUTES - 5, "{}"), (start - 5, "{}")])
    clock.forward(SECONDS - 5)
    run(sampler, clock, WRITE_S)
    assert start - WRITE_S < db.samples(1)[0][0] < start
    clock.forward(60)
    run(sampler, clock, 1)
    assert db.samples(1)[0][0] > start
    assert db.samples(60)[0][0] == start - 5


def test_a_relay_that_does_not_answer(sampler, relay, counting, clock):
    run(sampler, clock, 3)
    relay.answers["metrics"] = GTError("the process does not answer within 3 s; its log may say why")
    told = []
    sampler.listen(lambda: told.append(sampler.problem))
    clock.forward(1)
    assert not sampler.sample()
    assert told == ["the process does not answer within 3 s; its log may say why"]
    assert sampler.last is None
    assert sampler.warnings() == ["relay"]
    relay.answers["metrics"] = counting
    run(sampler, clock, 1)
    assert last(sampler)["bytes_in"] == 0, "what was relayed meanwhile is no matter of one second"
    run(sampler, clock, 1)
    assert last(sampler)["bytes_in"] > 0
    assert sampler.warnings() == []


def test_problems_of_the_last_hour(sampler, relay, db, tmp_path, counting, clock):
    run(sampler, clock, 1)
    assert sampler.problems()["visitors_refused_404"] == (0, 1)
    run(sampler, clock, 120)
    assert sampler.problems()["visitors_refused_404"] == (120, 121)
    again = Sampler(Running(relay.ask, "server.yml"), db, tmp_path, clock)
    again.load()
    run(again, clock, 1)
    hour, ever = again.problems()["visitors_refused_404"]
    assert ever == 122
    assert 60 <= hour < 122, "the minutes are known from before the restart"
    clock.forward(4000)
    run(again, clock, 60)
    assert again.problems()["visitors_refused_404"][0] <= 60


def test_a_relay_begun_anew_has_had_its_problems_in_the_last_hour(sampler, counting, clock):
    counting.asked = 50
    run(sampler, clock, 61)
    counting.asked = 0
    run(sampler, clock, 3)
    assert sampler.problems()["visitors_refused_404"] == (3, 3)


def test_a_clock_that_is_set_back(sampler, db, counting, clock):
    run(sampler, clock, 200)
    clock.forward(-100)
    run(sampler, clock, WRITE_S)
    sampler.stop()
    times = [each.time for each in sampler.seconds]
    assert times == sorted(set(times))
    assert times[-1] == sampler.time
    assert [time for time, _ in db.samples(1)] == times
    assert all(each.time <= sampler.time for each in sampler.minutes)


def test_a_database_that_cannot_be_written_does_not_stop_it(sampler, db, counting, clock):
    run(sampler, clock, WRITE_S)
    db.close()
    db.path.unlink()
    db.path.mkdir()
    run(sampler, clock, 2 * WRITE_S)
    assert len(sampler.seconds) == 3 * WRITE_S
    db.path.rmdir()


def test_warnings(sampler, counting, monkeypatch):
    from gtapp.console import machine
    from gtapp.console.machine import Machine

    full = Machine(memory_used=97, memory_total=100, disk_used=97, disk_free=3, disk_total=100)
    monkeypatch.setattr(machine, "look", lambda directory: full)
    monkeypatch.setattr(machine, "_limit", lambda pid: 10)
    sampler.sample()
    assert sampler.warnings() == ["disk", "memory", "fds"]


def test_it_runs_by_itself(sampler, counting):
    two = Event()
    sampler.listen(lambda: two.set() if counting.asked >= 2 else None)
    sampler.start()
    assert two.wait(10)
    sampler.stop()
    asked = counting.asked
    gevent.idle()
    assert counting.asked == asked


NO_WORKER = {"units": [{"total": {"bytes_in": 2000}, "users": {}}]}


def test_what_a_worker_tells_late_counts_for_the_whole_time(sampler, relay, counting, clock, monkeypatch):
    """The master tells what it has heard, which is old when a worker was too busy to answer."""
    monkeypatch.setattr(module, "monotonic", clock)
    run(sampler, clock, 2)
    relay.answers["metrics"] = NO_WORKER
    run(sampler, clock, 2)
    assert (len(sampler.seconds), sampler.problem) == (2, "")
    relay.answers["metrics"] = counting
    run(sampler, clock, 1)
    assert last(sampler)["bytes_in"] == pytest.approx(333.333, abs=0.01)


def test_workers_that_do_not_answer_are_a_problem(sampler, relay, counting, clock):
    run(sampler, clock, 1)
    relay.answers["metrics"] = NO_WORKER
    run(sampler, clock, 3)
    assert "no worker" in sampler.problem
    assert sampler.last is None
    relay.answers["metrics"] = counting
    run(sampler, clock, 1)
    assert sampler.problem == ""


def test_an_answer_that_makes_no_sense_does_not_end_it(relay, db, tmp_path, caplog):
    answers = iter([{"units": [{"total": {"streams": []}}]}, Counting()({}, None)])
    relay.answers["metrics"] = lambda request, tell: next(answers, {})
    sampler = Sampler(Running(relay.ask, ""), db, tmp_path)
    answered = Event()
    sampler.listen(answered.set)
    sampler.start()
    assert answered.wait(10)
    sampler.stop()
    assert "unexpected error while asking how the relay is" in caplog.text
