"""Numbers as people read them; live.js shows them the same way."""

import pytest

from gtapp.console import filters


@pytest.fixture(params=["en"])
def page(app, request):
    with app.test_request_context(headers={"Accept-Language": request.param}):
        yield


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (99 * 1024, "99.0 KiB"),
        (100 * 1024, "100 KiB"),
        (5 * 1024**2, "5.0 MiB"),
        (3 * 1024**5, "3.0 PiB"),
        (5000 * 1024**5, "5,000 PiB"),
    ],
)
def test_bytes(page, size, shown):
    assert filters.as_bytes(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (7260, "2 h 1 min"),
        (86400, "1 d"),
        (86400 * 3 + 3600 * 5, "3 d 5 h"),
    ],
)
def test_age(page, seconds, shown):
    assert filters.as_age(seconds) == shown


def test_the_others(page):
    assert filters.as_speed(2048) == "2.0 KiB/s"
    assert filters.as_speed(None) == filters.as_number(None) == filters.as_rate(None) == "–"
    assert filters.as_number(1234567) == "1,234,567"
    assert [filters.as_rate(n) for n in (0, 0.25, 9.9, 9.96, 1234)] == ["0", "0.2", "9.9", "10", "1,234"]
    assert filters.as_percent(0.256) == "26%"
    assert filters.as_percent(None) == "–"


@pytest.mark.parametrize("page", ["zh"], indirect=True)
def test_in_chinese(page):
    assert filters.as_age(7260) == "2 小时 1 分钟"
    assert filters.as_bytes(1536) == "1.5 KiB"
