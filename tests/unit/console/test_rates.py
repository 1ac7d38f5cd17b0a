"""What two answers of the relay say about the time between them."""

import pytest

from gtapp.console.rates import MOST_BUSIEST, Rates
from gtapp.console.series import REST


def unit(total=None, users=None, hosts=None, processes=()):
    return {
        "role": "server",
        "total": {"streams": 0, "streams_opened": 0, "bytes_in": 0, "bytes_out": 0, **(total or {})},
        "users": users or {},
        "hosts": hosts or {},
        "processes": list(processes),
    }


def numbers(streams=0, opened=0, bytes_in=0, bytes_out=0):
    return {"streams": streams, "opened": opened, "bytes_in": bytes_in, "bytes_out": bytes_out}


def test_gauges_are_as_told_and_counters_become_rates():
    rates = Rates()
    first = rates.next(unit({"streams": 3, "bytes_in": 1_000_000, "tunnels": 2, "clients": 1}), 1.0)
    assert (first.total["streams"], first.total["tunnels"], first.total["clients"]) == (3, 2, 1)
    assert first.total["bytes_in"] == 0, "nothing is known of the time before the first answer"
    second = rates.next(unit({"streams": 5, "bytes_in": 1_000_300, "streams_opened": 6}), 2.0)
    assert (second.total["streams"], second.total["bytes_in"], second.total["opened"]) == (5, 150, 3)


def test_a_master_that_was_begun_anew_counts_from_its_own_start():
    rates = Rates()
    rates.next(unit({"bytes_in": 5000, "bytes_out": 9}), 1.0)
    again = rates.next(unit({"bytes_in": 100, "bytes_out": 100}), 1.0)
    assert again.total["bytes_in"] == again.total["bytes_out"] == 0
    assert rates.next(unit({"bytes_in": 150, "bytes_out": 100}), 1.0).total["bytes_in"] == 50


def test_after_it_was_away_the_time_between_is_left_out():
    rates = Rates()
    rates.next(unit({"bytes_in": 100}), 1.0)
    rates.forget()
    assert rates.next(unit({"bytes_in": 100_000}), 60.0).total["bytes_in"] == 0


def test_problems_are_told_by_reason_and_as_two_rates():
    rates = Rates()
    rates.next(unit({"visitors_refused_404": 1, "dials_failed": 0}), 1.0)
    now = rates.next(unit({"visitors_refused_404": 4, "visitors_not_tls": 1, "dials_failed": 2}), 2.0)
    assert now.problems == {"visitors_refused_404": 4, "visitors_not_tls": 1, "dials_failed": 2}
    assert (now.total["refused"], now.total["failed"]) == (2, 1)


def test_cpu_of_processes_that_come_and_go():
    rates = Rates()
    rates.next(unit(processes=[{"pid": 1, "cpu_s": 10.0, "rss": 5}, {"pid": 2, "cpu_s": 1.0}]), 1.0)
    now = rates.next(
        unit(processes=[{"pid": 1, "cpu_s": 10.5, "rss": 7, "fds": 3}, {"pid": 3, "cpu_s": 9.0, "fds": 4}]),
        1.0,
    )
    assert (now.total["gt_cpu"], now.total["gt_memory"], now.total["fds"]) == (0.5, 7, 7)


def test_each_user_has_its_rates_and_who_rests_is_left_out():
    rates = Rates()
    rates.next(
        unit(users={"alice": numbers(bytes_in=10), "bob": numbers(), "carol": numbers(streams=1)}), 1.0
    )
    now = rates.next(
        unit(
            users={
                "alice": numbers(streams=2, opened=4, bytes_in=110, bytes_out=20),
                "bob": numbers(),
                "carol": numbers(streams=1),
                "dave": numbers(opened=5, bytes_in=5),
            }
        ),
        2.0,
    )
    assert now.parts["users"] == {"alice": (2, 2, 50, 10), "carol": (1, 0, 0, 0)}


def test_only_the_busiest_have_numbers_of_their_own():
    rates = Rates(most=2)
    names = [f"user-{n}" for n in range(5)]
    rates.next(unit(users={name: numbers() for name in names}), 1.0)
    now = rates.next(unit(users={name: numbers(bytes_in=10 ** (n + 1)) for n, name in enumerate(names)}), 1.0)
    assert now.parts["users"] == {
        "user-4": (0, 0, 100_000, 0),
        "user-3": (0, 0, 10_000, 0),
        REST: [0, 0, 1110, 0],
    }


def test_who_is_busiest_is_no_matter_of_one_second():
    rates = Rates()
    rates.next(unit(users={"steady": numbers(), "burst": numbers()}), 1.0)
    for second in range(1, 20):
        rates.next(unit(users={"steady": numbers(bytes_in=1000 * second), "burst": numbers()}), 1.0)
    now = rates.next(unit(users={"steady": numbers(bytes_in=19_000), "burst": numbers(bytes_in=5000)}), 1.0)
    assert [name for name, _ in now.busiest["users"]] == ["steady", "burst"]
    steady, burst = (part for _, part in now.busiest["users"])
    assert 0 < steady[2] < 1000, "what is shown is smoothed"
    assert burst[2] == 5000


def test_who_was_busy_is_forgotten_in_the_end():
    rates = Rates()
    rates.next(unit(users={"alice": numbers()}), 1.0)
    assert rates.next(unit(users={"alice": numbers(bytes_in=50)}), 1.0).busiest["users"]
    for _ in range(1000):
        last = rates.next(unit(users={"alice": numbers(bytes_in=50)}), 1.0)
    assert last.busiest["users"] == []


def test_at_most_so_many_are_shown():
    rates = Rates()
    users = {f"user-{n}": numbers(streams=1) for n in range(3 * MOST_BUSIEST)}
    now = rates.next(unit(users=users), 1.0)
    assert len(now.busiest["users"]) == MOST_BUSIEST


def test_samples_from_before_tell_who_is_busy():
    rates = Rates()
    rates.remember({"users": {"alice": (0, 0, 500, 500), REST: (0, 0, 9999, 0), "gone": (0, 0, 10, 0)}})
    now = rates.next(unit(users={"alice": numbers(), "bob": numbers()}), 1.0)
    assert [name for name, _ in now.busiest["users"]] == ["alice"]


def test_a_counter_of_one_user_that_went_back_gives_nothing():
    """The relay has forgotten one that was idle, to make room, and begun anew."""
    rates = Rates()
    rates.next(unit(users={"alice": numbers(bytes_in=1000, bytes_out=10)}), 1.0)
    now = rates.next(unit(users={"alice": numbers(bytes_in=5, bytes_out=20)}), 1.0)
    assert now.parts["users"] == {"alice": (0, 0, 0, 10)}


@pytest.mark.parametrize("answer", [{}, {"total": {}}, {"users": {"alice": {}}}])
def test_what_is_missing_counts_as_nothing(answer):
    rates = Rates()
    rates.next(answer, 1.0)
    now = rates.next(answer, 1.0)
    assert now.total["bytes_in"] == 0
    assert not any(now.parts.values())
