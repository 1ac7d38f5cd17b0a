"""Keeping a console: time goes by as the test says, the processes are real."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gtapp.process.console import ConsoleKeeper, Start
from gtapp.process.plan import HANG_TICKS, START_TICKS
from gtapp.relay.sockets import PlainSocket, plain_socket
from tests.support.relay import until


@pytest.fixture
def listener() -> Iterator[PlainSocket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        sock = plain_socket(made.family, made.detach())
        yield sock
        sock.close()


@pytest.fixture
def keeper() -> Iterator[ConsoleKeeper]:
    made = ConsoleKeeper()
    yield made
    made.close()


def test_one_that_starts_has_more_time_than_one_that_hangs(
    tmp_path: Path, keeper: ConsoleKeeper, listener: PlainSocket
) -> None:
    target = tmp_path / "server.yml"
    start = Start("server", "", (), {}, str(tmp_path / "server.state"), setup=True, target=str(target))
    keeper.want(start, listener)
    (first,) = keeper.pids
    for _ in range(HANG_TICKS + 1):  # in which this process does not get to hear anything
        keeper.tick()
    until(lambda: (tmp_path / "server.state").exists(), "it serves", seconds=20)
    assert keeper.pids == [first]
    assert psutil.Process(first).is_running()


def test_one_that_never_starts_is_replaced(
    tmp_path: Path, keeper: ConsoleKeeper, listener: PlainSocket, caplog: pytest.LogCaptureFixture
) -> None:
    start = Start("server", "", (), {}, str(tmp_path), setup=True, target=str(tmp_path / "server.yml"))
    keeper.want(start, listener)
    (first,) = keeper.pids
    psutil.Process(first).suspend()
    for _ in range(START_TICKS + 1):
        keeper.tick()
    until(lambda: keeper.pids == [], "it is gone")
    assert f"the console (process {first}) has not been heard of: it is killed" in caplog.text
    for _ in range(START_TICKS):
        keeper.tick()
    assert keeper.pids not in ([], [first])
