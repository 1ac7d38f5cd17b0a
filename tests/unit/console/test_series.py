"""Samples and rows of them, and how they come back from the database."""

import pytest

from gtapp.console import series
from gtapp.console.series import FIELDS, REST, Mean, Sample, Series, busiest, decode, make


def sample(time, **total):
    return make(time, total, {})


def test_a_sample_comes_back_from_the_database_as_it_was():
    made = make(
        100,
        {"streams": 3, "bytes_in": 1234.5678},
        {"users": {"alice": (1, 0.5, 10, 20), "bob": (0, 0, 0, 0)}},
        {"dials_failed": 7},
    )
    back = decode(100, made.encode())
    assert back == made
    assert back["bytes_in"] == 1234.568
    assert back["tunnels"] == 0
    assert back.part("users", "alice") == [1, 0.5, 10, 20]
    assert back.part("users", "bob") == (0, 0, 0, 0)
    assert back.part("hosts", "shop") == (0, 0, 0, 0)
    assert back.problems == {"dials_failed": 7}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"total":[1,2],"parts":{}}',
        '{"total":"abc","parts":{}}',
        f'{{"total":{[0] * len(FIELDS)},"parts":{{"users":{{"alice":[1]}}}}}}',
        f'{{"total":{[0] * len(FIELDS)},"parts":[]}}',
        f'{{"total":{[0] * len(FIELDS)},"parts":{{}},"problems":[]}}',
    ],
)
def test_what_another_version_has_written_is_left_out(text):
    assert decode(1, text) is None


def test_only_the_busiest_have_names_and_nothing_is_lost():
    parts = {"a": (1, 1, 1, 1), "b": (2, 2, 2, 2), "c": (3, 3, 3, 3), REST: (4, 4, 4, 4)}
    assert busiest(parts, ["c", REST, "b", "a"], 2) == {
        "c": (3, 3, 3, 3),
        "b": (2, 2, 2, 2),
        REST: [5, 5, 5, 5],
    }
    assert busiest({"a": (1, 1, 1, 1)}, ["a"], 2) == {"a": (1, 1, 1, 1)}


def test_the_mean_of_a_minute():
    mean = Mean()
    assert mean.take(60, 10) is None
    for value in (10.0, 20.0):
        one = sample(1, bytes_in=value)
        mean.add(one.total, {"users": {"alice": (2, 0, value, 0)}})
    taken = mean.take(60, 10, {"dials_failed": 3})
    assert taken is not None
    assert (taken.time, taken["bytes_in"], taken.problems) == (60, 15, {"dials_failed": 3})
    assert taken.part("users", "alice") == [2, 0, 15, 0]
    assert mean.take(120, 10) is None


def test_a_part_that_was_busy_for_a_moment_counts_by_its_share_of_the_minute():
    mean = Mean()
    mean.add(sample(1).total, {"users": {"alice": (0, 0, 30, 0)}})
    mean.add(sample(2).total, {})
    mean.add(sample(3).total, {})
    taken = mean.take(60, 10)
    assert taken is not None
    assert taken.part("users", "alice") == [0, 0, 10, 0]


def test_rows_are_the_span_up_to_now_with_gaps():
    rows = Series(1, 10)
    for time in (1, 95, 96, 99):
        rows.add(sample(time, streams=time))
    found = rows.columns(100, ["streams"])
    assert found == {
        "step": 1,
        "times": [95, 96, 97, 98, 99],
        "columns": {"streams": [95, 96, None, None, 99]},
    }


def test_a_minute_that_ends_a_little_late_is_no_gap():
    rows = Series(60, 10)
    for time in (60, 120, 185):
        rows.add(sample(time))
    assert rows.columns(200)["times"] == [60, 120, 185]


def test_only_what_is_later_enters_and_the_oldest_goes():
    rows = Series(1, 3)
    assert [rows.add(sample(time)) for time in (5, 5, 4, 6, 7, 8)] == [True, False, False, True, True, True]
    assert [each.time for each in rows] == [6, 7, 8]
    rows.forget_after(6)
    assert [each.time for each in rows] == [6]
    assert rows.last == sample(6)


def test_the_columns_of_one_user():
    rows = Series(1, 10)
    rows.add(make(1, {}, {"users": {"alice": (1, 2, 3, 4)}}))
    rows.add(make(2, {}, {"users": {"bob": (1, 2, 3, 4)}}))
    rows.add(make(4, {}, {}))
    assert rows.part_columns(5, "users", "alice") == {
        "step": 1,
        "times": [1, 2, 3, 4],
        "columns": {
            "streams": [1, 0, None, 0],
            "opened": [2, 0, None, 0],
            "bytes_in": [3, 0, None, 0],
            "bytes_out": [4, 0, None, 0],
        },
    }


def test_lines_are_means_of_the_bytes_both_ways():
    rows = Series(1, 10)
    for time in range(91, 101):
        rows.add(make(time, {}, {"users": {"alice": (0, 0, time - 90, 1)}}))
    lines = rows.lines(100, "users", ["alice", "nobody"], 5)
    assert lines == {"alice": [2.5, 4.5, 6.5, 8.5, 10.5], "nobody": [0, 0, 0, 0, 0]}
    assert rows.lines(1000, "users", ["alice"], 5) == {"alice": [0, 0, 0, 0, 0]}


def test_a_sample_of_many_busy_users_stays_small():
    """A day of them is kept in memory, and on disk."""
    part = (12.0, 34.567, 123456.789, 9876543.21)
    made = make(1, dict.fromkeys(FIELDS, 1e9), {"users": {f"user-{n:04}": part for n in range(50)}})
    assert isinstance(made, Sample)
    assert len(made.encode()) < 4000


def test_fields_are_each_there_once():
    assert len(set(FIELDS)) == len(FIELDS)
    assert set(series.GAUGES).isdisjoint(series.RATES)
