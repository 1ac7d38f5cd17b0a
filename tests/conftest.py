"""Fixtures of the tests that run real processes (e2e and chaos): `nginx`, `world`, and `path`, the way to a service."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.support")

from tests.support.nginx import Nginx  # noqa: E402
from tests.support.world import World  # noqa: E402

LONG = os.environ.get("GT_TEST_LONG") == "1"
REAL = {"e2e", "browser", "chaos"}
DEADLINE_S = 120


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--direct",
        action="store_true",
        help="run tests of a path to a service also without server and client: is it the relay, or the test?",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "long: the full form of a test that CI runs shortened; needs GT_TEST_LONG=1"
    )
    # The chaos tests hold thousands of connections, and processes inherit the limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames and REAL & set(metafunc.definition.path.parts):
        direct = ["direct"] if metafunc.config.getoption("--direct") else []
        metafunc.parametrize("path", [*direct, "3", "1"], ids=lambda path: f"path-{path}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REAL & set(item.path.parts) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(DEADLINE_S))
        if item.get_closest_marker("long") is not None and not LONG:
            item.add_marker(pytest.mark.skip(reason="GT_TEST_LONG=1 runs it"))


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """One nginx for all tests of this (xdist) process."""
    with contextlib.closing(Nginx(tmp_path_factory.mktemp("nginx"))) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """What a test starts is ended and checked after it: see World.close."""
    made = World(tmp_path)
    yield made
    made.close()
