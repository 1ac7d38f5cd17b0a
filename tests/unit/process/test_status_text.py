"""What `gt.py status` prints."""

from __future__ import annotations

import json
from typing import Any

from gtapp.process.status_text import as_json, as_text

TUNNEL = {
    "user": "id1",
    "peer": "203.0.113.9:51234",
    "protocol": 3,
    "transport": "tls",
    "age_s": 7300.0,
    "rtt_ms": 12.34,
    "streams": 1,
    "state": "up",
}
HOST = {"kind": "http", "name": "shop", "user": "id1"}
ANSWER: dict[str, Any] = {
    "ok": True,
    "text": "",
    "version": "1.2.3",
    "pid": 77,
    "config": "/etc/gt/conf.d",
    "units": [
        {
            "role": "server",
            "config": "/etc/gt/conf.d/server.yml",
            "listeners": [{"option": "addr", "address": "[::]:8080"}],
            "workers": [
                {"number": 3, "pid": 80, "generation": 2, "state": "ready", "age_s": 59.0, "tunnels": [TUNNEL],
                 "hosts": [HOST, {"kind": "tcp", "name": "20022", "user": "id1"}]},
                {"number": 1, "pid": 78, "generation": 1, "state": "retiring", "age_s": 90000.0, "hosts": [HOST]},
                {"number": 2, "pid": 79, "generation": 1, "state": "ready", "age_s": 150.0, "problem": "no answer"},
            ],
        },
        {
            "role": "client",
            "config": "",
            "listeners": [],
            "workers": [
                {"number": 1, "pid": 90, "generation": 1, "state": "ready", "age_s": 3.0,
                 "services": [{"local": "http://127.0.0.1:80", "public": ["shop"]}], "tunnels": []},
            ],
        },
    ],
}  # fmt: skip
TEXT = """\
GT 1.2.3, process 77, /etc/gt/conf.d

server /etc/gt/conf.d/server.yml
  listens on [::]:8080 (addr)
  worker 3: process 80, generation 2, 59 s
    tunnel of id1 from 203.0.113.9:51234: up, protocol 3 over tls, 2 h, 1 connection, round trip 12.3 ms
  worker 1: process 78, generation 1, 25 h, retiring
  worker 2: process 79, generation 1, 2 min
    no answer
  host shop of id1
  port 20022 of id1

client
  worker 1: process 90, generation 1, 3 s
    serves http://127.0.0.1:80 as shop"""


def test_for_people() -> None:
    assert as_text(ANSWER) == TEXT


def test_for_programs() -> None:
    assert json.loads(as_json(ANSWER)) == {k: v for k, v in ANSWER.items() if k not in ("ok", "text")}
