"""Counters and gauges: one table, and a snapshot of it."""

from __future__ import annotations

import pytest

from gtapp.observe import metrics


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "counters", metrics.Counters())
    monkeypatch.setattr(metrics, "_gauges", {})


def test_the_table_tells_name_help_and_unit_of_each() -> None:
    assert len({metric.name for metric in metrics.METRICS}) == len(metrics.METRICS)
    for metric in metrics.METRICS:
        assert metric.help.endswith(".")
        assert metric.unit


def test_a_snapshot_has_every_counter() -> None:
    metrics.counters.bytes_in += 3
    metrics.counters.visitors_refused_404 += 1
    now = metrics.snapshot()
    assert list(now) == [metric.name for metric in metrics.METRICS if metric.kind == "counter"]
    assert now["bytes_in"] == 3
    assert now["visitors_refused_404"] == 1
    assert now["bytes_out"] == 0


def test_a_gauge_is_read_when_asked() -> None:
    tunnels = ["one"]
    metrics.watch("tunnels", lambda: len(tunnels))
    tunnels.append("two")
    assert metrics.snapshot()["tunnels"] == 2


def test_an_unknown_name_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        metrics.watch("tunels", int)
    with pytest.raises(AttributeError):
        metrics.counters.tunels_opened = 1  # type: ignore[attr-defined]


def test_several_processes_in_one() -> None:
    metrics.counters.bytes_in = 3
    metrics.watch("tunnels", lambda: 2)
    one = metrics.snapshot()
    total = metrics.summed([one, one, {"bytes_in": 1, "of_a_newer_version": 7}])
    assert list(total) == [*one, "of_a_newer_version"]
    assert (total["bytes_in"], total["tunnels"], total["of_a_newer_version"]) == (7, 4, 7)
    assert metrics.summed([]) == {}


def test_a_histogram_counts_what_does_not_exceed_each_bound() -> None:
    histogram = metrics.Histogram("waits", "Waits.", (1.0, 5.0, 10.0))
    for value in (0.5, 1.0, 1.5, 5.0, 7.0, 100.0):
        histogram.observe(value)
    histogram.counts[0] += 1  # as whoever has no time to measure does
    assert histogram.snapshot() == {"buckets": [[1.0, 3], [5.0, 5], [10.0, 6]], "sum": 115.0, "count": 7}


def test_the_histograms_are_a_table_as_well() -> None:
    assert set(metrics.histograms()) == {each.name for each in metrics.HISTOGRAMS}
    for each in metrics.HISTOGRAMS:
        assert each.help.endswith(".")
        bounds = [bound for bound, _ in each.snapshot()["buckets"]]
        assert bounds == sorted(set(bounds))
