"""What the master behind the console answers in tests of API, metrics and system: the same shapes as a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gtapp.errors import GTError
from gtapp.observe import metrics

Client = Any
"""A FlaskClient; of its answers the type checker would have us look twice whether they are JSON."""

LINES = [
    (1000.0, "info", "master", "gt.process", "GT runs as process 1"),
    (1001.5, "warn", "server/1", "gt.server", "visitor 203.0.113.9 left"),
    (1002.0, "error", "server/1", "gt.server", "unexpected KeyError"),
]
NUMBERS = {"streams": 2, "opened": 7, "bytes_in": 1000, "bytes_out": 5000}


def status(role: str, path: Path) -> dict[str, Any]:
    tunnel = {
        "id": "1.4",
        "protocol": 3,
        "transport": "tls",
        "age_s": 12.5,
        "rtt_ms": 3.1,
        "streams": 2,
        "bytes_in": 1000,
        "bytes_out": 5000,
        "state": "open",
    }
    worker: dict[str, Any] = {"number": 1, "pid": 101, "generation": 1, "state": "ready", "age_s": 60.0}
    if role == "server":
        worker["tunnels"] = [{**tunnel, "user": "alice", "peer": "192.0.2.7:50100", "agent": "gt 3.0"}]
        worker["hosts"] = [{"kind": "http", "name": "alice", "user": "alice"}]
    else:
        local = {
            "local": "http://127.0.0.1:18088",
            "public": ["http://alice.example.com/"],
            "works": True,
            "problem": "",
        }
        worker |= {
            "tunnels": [{**tunnel, "remote": "tls://example.com:443"}],
            "services": [local],
            "problems": [],
        }
    listeners = [{"option": "addr", "address": "127.0.0.1:18080"}] if role == "server" else []
    unit = {"role": role, "config": str(path), "listeners": listeners, "workers": [worker]}
    return {
        "version": "3.0",
        "pid": 100,
        "started": 900.0,
        "config": str(path),
        "roles": [role],
        "units": [unit],
    }


def counted(role: str) -> dict[str, Any]:
    total = {each.name: index for index, each in enumerate(metrics.METRICS, 1)}
    processes = [
        {"pid": 100, "kind": "master", "rss": 30 << 20, "cpu_s": 1.5, "fds": 20},
        {"pid": 101, "kind": "worker 1", "rss": 40 << 20, "cpu_s": 7.25, "fds": 35},
    ]
    unit: dict[str, Any] = {
        "role": role,
        "total": total,
        "processes": processes,
        "histograms": {"dial_seconds": {"buckets": [[0.01, 3], [0.1, 5]], "sum": 0.75, "count": 6}},
    }
    if role == "server":
        unit["users"] = {"alice": {"tunnels": 1, **NUMBERS}}
        unit["hosts"] = {"http alice": {"kind": "http", "name": "alice", "user": "alice", **NUMBERS}}
    else:
        unit["services"] = {"http://127.0.0.1:18088": NUMBERS}
    return {"units": [unit]}


def connections(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    del tell
    one = {
        "id": "1.4.9",
        "user": "alice",
        "kind": "http",
        "name": "alice",
        "visitor": "203.0.113.9:40000",
        "tunnel": "1.4",
        "bytes_in": 100,
        "bytes_out": 900,
        "age_s": 1.5,
    }
    found = [one] if request.get("user") in (None, "alice") else []
    return {"units": [{"total": len(found), "connections": found[: request["limit"]]}]}


def log(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    del tell
    after = request.get("after", {})
    found = []
    for number, (time, level, role, logger, message) in enumerate(LINES, 1):
        source = "master" if role == "master" else "worker 1"
        if number > after.get(source, 0):
            line = {"time": time, "level": level, "role": role, "logger": logger, "message": message}
            found.append(line | {"source": source, "seq": number})
    return {"lines": found[-request["limit"] :], "after": {"master": 1, "worker 1": 3}}


def disconnect(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    del tell
    known = {"user": "alice", "tunnel": "1.4", "connection": "1.4.9"}
    hit = any(request.get(what) == name for what, name in known.items())
    return {"count": 1, "text": "closed"} if hit else {"count": 0, "text": "that is not there any more"}


def told(*lines: str, text: str) -> Callable[..., dict[str, Any]]:
    """An answer with lines before it."""

    def answer(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        del request
        for line in lines:
            tell(line)
        return {"text": text}

    return answer


def probe(request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    del tell
    if request["options"]["id"] != "alice":
        raise GTError("the server refuses: unknown user")
    return {"text": "a tunnel came up", "rtt_ms": 3.0, "agent": "gt 3.0", "transport": "tls"}


def answers(role: str, path: Path) -> dict[str, Any]:
    """For `relay.answers`."""
    return {
        "status": status(role, path),
        "metrics": counted(role),
        "connections": connections,
        "log": log,
        "disconnect": disconnect,
        "check": {"text": "a request got through", "ms": 4.5},
        "probe": probe,
        "reload": told(f"{path}: nothing has changed", text="reloaded"),
        "restart": told(f"{path}: 1 new worker; the old finish what they relay", text="restarted"),
        "upgrade": told("replacing the master in place", text="the master is being replaced"),
        "stop": told("ending: running connections have 10 s", text="stopped"),
    }
