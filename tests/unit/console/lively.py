"""An application whose relay has something to tell, for tests of the live pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from gtapp.config.store import Store
from gtapp.console.database import Database
from gtapp.console.running import Running
from gtapp.console.sampler import Sampler
from tests.unit.console.conftest import Clock, Relay
from tests.unit.console.form_browser import Browser

TUNNELS = [
    {
        "id": f"1.{number}",
        "user": user,
        "peer": f"198.51.100.{number}:4000",
        "remote": "tcp://127.0.0.1:18080",
        "agent": "gt/0.1.0",
        "protocol": 3,
        "transport": "tls",
        "age_s": 3700.0,
        "rtt_ms": 12.3,
        "loss": 0.0312,
        "streams": 2,
        "bytes_in": 2048,
        "bytes_out": 3 << 20,
        "state": "up",
    }
    for number, user in ((1, "alice"), (2, "alice"), (3, "bob/<b>"))
]
CONNECTION = {
    "id": "1.1.7",
    "user": "alice",
    "kind": "http",
    "name": "shop",
    "visitor": "203.0.113.5:4711",
    "tunnel": "1.1",
    "bytes_in": 100,
    "bytes_out": 5000,
    "age_s": 61.0,
}


def status() -> dict[str, Any]:
    """What a relay answers that has two clients."""
    return {
        "pid": 4321,
        "version": "0.1.0",
        "started": 1_700_000_000.0 - 7200,
        "units": [
            {
                "role": "server",
                "listeners": [{"option": "addr", "address": "127.0.0.1:18080"}],
                "workers": [
                    {
                        "number": 1,
                        "pid": 4322,
                        "generation": 1,
                        "state": "ready",
                        "age_s": 7200.0,
                        "tunnels": [dict(each) for each in TUNNELS],
                        "hosts": [
                            {"kind": "http", "name": "shop", "user": "alice"},
                            {"kind": "tcp", "name": "2222", "user": "alice"},
                        ],
                        "problems": [],
                    }
                ],
            }
        ],
    }


def connections() -> dict[str, Any]:
    return {"units": [{"total": 1, "connections": [dict(CONNECTION)]}]}


def metrics(asked: int) -> dict[str, Any]:
    """Its numbers when it is asked for the so-manieth time: 1000 bytes in, 2000 out each time."""
    part = {"streams": 4, "opened": asked, "bytes_in": 1000 * asked, "bytes_out": 2000 * asked}
    return {
        "units": [
            {
                "total": {
                    "streams": 4,
                    "tunnels": 3,
                    "clients": 2,
                    "streams_opened": asked,
                    "bytes_in": 1000 * asked,
                    "bytes_out": 2000 * asked,
                    "visitors_refused_404": 5,
                },
                "users": {"alice": part, "bob/<b>": {**part, "streams": 1}},
                "hosts": {"shop": {"kind": "http", "user": "alice", **part}},
                "services": {"http://127.0.0.1:18088": part},
                "processes": [
                    {"pid": 4321, "kind": "master", "rss": 30 << 20, "cpu_s": 1.0, "fds": 9},
                    {"pid": 4322, "kind": "worker 1", "rss": 40 << 20, "cpu_s": 75.0, "fds": 20},
                ],
            }
        ]
    }


class Lively:
    """`app`, its `sampler`, and a `browser` that is logged in."""

    def __init__(self, app: Flask, sampler: Sampler, relay: Relay, clock: Clock) -> None:
        self.app = app
        self.sampler = sampler
        self.relay = relay
        self.clock = clock
        self.browser = Browser(app)

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.clock.forward(1)
            self.sampler.sample()


@pytest.fixture
def make_lively(
    make_app: Callable[..., Flask], relay: Relay, clock: Clock, tmp_path: Path
) -> Iterator[Callable[..., Lively]]:
    """`make_lively(role="client")`: what it was asked changes with `relay.answers`."""
    samplers = []
    relay.answers.update(
        status=lambda request, tell: status(),
        metrics=lambda request, tell: metrics(len(relay.asked)),
        connections=lambda request, tell: connections(),
        disconnect=lambda request, tell: {"count": 1},
        reload=lambda request, tell: {"text": "reloaded"},
    )

    def make(role: str = "server", **more: Any) -> Lively:
        path, state = tmp_path / f"{role}.yml", tmp_path / f"{role}.state"
        db, running = Database(state / "console.db"), Running(relay.ask, str(path))
        sampler = Sampler(running, db, state, clock)
        samplers.append(sampler)
        store = Store(path, role, state, ("-c", str(path)), {})
        app = make_app(role, db=db, running=running, sampler=sampler, store=store, **more)
        return Lively(app, sampler, relay, clock)

    yield make
    for each in samplers:
        each.stop()


@pytest.fixture
def lively(make_lively: Callable[..., Lively]) -> Lively:
    """A server's console."""
    return make_lively()
