"""What a running GT tells about itself: metrics, connections, log, check and probe; and connections that are cut."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_pair
from tests.support.http import Visitor, fetch
from tests.support.nginx import Nginx
from tests.support.processes import Relay, eventually
from tests.support.services import echoing
from tests.support.tcp import fixed, publish, reached, serve
from tests.support.workers import having_tunnel
from tests.support.world import Server, World

HOST = "id1.example.com"
BOTH = pytest.mark.parametrize("protocol", ["3", "1"])
COUNTED = ("opened", "bytes_in", "bytes_out")


def metrics(relay: Relay) -> dict[str, Any]:
    (unit,) = relay.ask("metrics")["units"]
    assert isinstance(unit, dict)
    return unit


def connections(relay: Relay, **more: Any) -> dict[str, Any]:
    (unit,) = relay.ask("connections", **more)["units"]
    assert isinstance(unit, dict)
    return unit


def counters(unit: dict[str, Any]) -> dict[str, int]:
    """All of a unit's numbers that may only grow, flat."""
    present = ("clients", "tunnels", "streams", "visitors_waiting", "queued_bytes")
    found = {name: value for name, value in unit["total"].items() if name not in present}
    for group in ("users", "hosts"):
        for key, values in unit[group].items():
            found |= {f"{group} {key} {name}": values[name] for name in COUNTED}
    found |= {name: each["count"] for name, each in unit["histograms"].items()}
    return found


def pids(relay: Relay) -> set[int]:
    """Those of the workers that are ready."""
    return {each["pid"] for each in relay.status() if each["state"] == "ready"}


def quiet(relay: Relay) -> dict[str, Any]:
    """The metrics once nothing is relayed any more. For whom was relayed is told a little later by a worker that is
    busy; what all amounts to is always fresh."""

    def attempt() -> dict[str, Any]:
        unit = metrics(relay)
        opened = sum(each["opened"] for each in unit.get("users", unit.get("services", {})).values())
        assert (unit["total"]["streams"], unit["total"]["streams_opened"]) == (0, opened), unit
        return unit

    found: dict[str, Any] = eventually(attempt, "nothing is relayed, and all of it is told")
    return found


def has_not_gone_back(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return all(counters(now)[name] >= value for name, value in counters(before).items())


def echoed(visitor: Visitor, size: int) -> None:
    """Send so many bytes, and get them back."""
    for _ in range(size // 10_000):
        visitor.send(bytes(10_000))
        visitor.exactly(10_000)


# metrics


@BOTH
def test_every_byte_is_somebodys(world: World, nginx: Nginx, protocol: str) -> None:
    """What users and hosts have had is what visitors have sent and got, and adds up to what the server relayed."""
    one, other = world.port(), world.port()
    server, secrets = serve(world, one, other, users=("id1", "id2"), workers=2)
    first = publish(world, server, secrets, protocol, *fixed(one))
    second = publish(world, server, secrets, protocol, *fixed(other), id="id2", name="client2")
    third = world.client(server, "id1", secrets["id1"], local=nginx.url, protocol=protocol, name="client3")
    ends = {"id1": reached(first), "id2": reached(second)}
    for user, size in (("id1", 300_000), ("id2", 100_000), ("id1", 50_000)):
        with Visitor(ends[user]) as visitor:
            echoed(visitor, size)
    request = b"GET / HTTP/1.1\r\nHost: id1.example.com\r\nConnection: close\r\n\r\n"
    got = 0
    for _ in range(5):
        with Visitor(server.address) as visitor:
            visitor.send(request)
            while part := visitor.socket.recv(65536):
                got += len(part)
    unit = quiet(server.process)
    web = {"opened": 5, "bytes_in": 5 * len(request), "bytes_out": got}
    assert {name: unit["hosts"]["id1"][name] for name in COUNTED} == web
    assert {name: unit["hosts"][str(one.number)][name] for name in COUNTED} == {
        "opened": 2,
        "bytes_in": 350_000,
        "bytes_out": 350_000,
    }
    assert {name: unit["users"]["id1"][name] for name in COUNTED} == {
        "opened": 7,
        "bytes_in": 350_000 + web["bytes_in"],
        "bytes_out": 350_000 + got,
    }
    assert unit["users"]["id2"]["bytes_in"] == unit["users"]["id2"]["bytes_out"] == 100_000
    for name, total in (("opened", "streams_opened"), ("bytes_in",) * 2, ("bytes_out",) * 2):
        assert sum(each[name] for each in unit["users"].values()) == unit["total"][total]
        assert sum(each[name] for each in unit["hosts"].values()) == unit["total"][total]
    assert (
        unit["hosts"][str(other.number)] | {"kind": "tcp", "user": "id2"} == unit["hosts"][str(other.number)]
    )
    for client in (first, second, third):
        (service,) = quiet(client.process)["services"].values()
        assert service["opened"] in (1, 2, 5)
        if client is third:
            assert {name: service[name] for name in COUNTED} == web


def test_what_runs_is_counted_while_it_runs(world: World) -> None:
    port = world.port()
    server, secrets = serve(world, port)
    client = publish(world, server, secrets, "3", *fixed(port))
    visitor = world.visitor(reached(client))
    for round_ in (1, 2, 3):
        echoed(visitor, 200_000)
        unit = metrics(server.process)
        user = unit["users"]["id1"]
        assert (user["streams"], user["opened"]) == (1, 1)
        assert user["bytes_in"] == unit["total"]["bytes_in"] == 200_000 * round_
        assert user["bytes_out"] == unit["hosts"][str(port.number)]["bytes_out"] == 200_000 * round_
    assert unit["total"]["clients"] == 1
    assert user["tunnels"] == unit["total"]["tunnels"] >= 1
    kinds = {each["kind"]: each for each in unit["processes"]}
    assert kinds["master"]["pid"] == server.process.pid
    assert kinds["worker 1"]["pid"] == server.process.workers[0].pid
    assert all(each["rss"] > 1_000_000 and each["cpu_s"] > 0 and each["fds"] > 3 for each in kinds.values())
    for name in ("tunnel_rtt_seconds", "tunnel_opening_seconds"):
        histogram = unit["histograms"][name]
        assert histogram["count"] >= 1
        assert histogram["buckets"][-1][1] <= histogram["count"]
    assert metrics(client.process)["histograms"]["dial_seconds"]["count"] == 1


def test_a_worker_that_is_killed_takes_nothing_back(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    world.client(server, "id1", secret, "--remoteConnections", "1", local=nginx.url)
    world.allow("has ended by SIGKILL")
    for _ in range(3):
        for _ in range(10):
            assert fetch(server.address, HOST).status == 200
        before = metrics(server.process)
        assert before["users"]["id1"]["opened"] % 10 == 0
        killed = having_tunnel(server.process, True)
        killed.kill()
        eventually(lambda without=killed.pid: len(pids(server.process) - {without}) == 2, "it is replaced")
        assert has_not_gone_back(before, metrics(server.process))
        eventually(lambda: fetch(server.address, HOST).status == 200, "the client is back")
        mark = metrics(server.process)["users"]["id1"]["opened"]
        for _ in range(10 - mark % 10):
            assert fetch(server.address, HOST).status == 200
    now = metrics(server.process)
    assert has_not_gone_back(before, now)
    assert now["users"]["id1"]["opened"] >= 60


def test_many_who_ask_at_once_see_no_count_go_back(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    over, wrong = threading.Event(), list[str]()

    def ask() -> None:
        before = metrics(server.process)
        while not over.is_set():
            now = metrics(server.process)
            if not has_not_gone_back(before, now):
                wrong.append(f"{counters(before)} then {counters(now)}")
            before = now

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    try:
        for number in range(60):
            assert fetch(server.address, HOST).status == 200
            if number == 30:
                assert server.process.ask("restart", timeout=60)["ok"]
    finally:
        over.set()
        for thread in asking:
            thread.join()
    assert not wrong, wrong[0]
    assert quiet(server.process)["users"]["id1"]["opened"] == 60


def test_a_worker_that_does_not_answer_counts_with_what_it_said_last(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    assert fetch(server.address, HOST).status == 200
    before = quiet(server.process)
    (worker,) = server.process.workers
    worker.suspend()
    try:
        now = metrics(server.process)
    finally:
        worker.resume()
    assert counters(now) == counters(before)
    assert now["users"]["id1"]["tunnels"] == 0
    assert quiet(server.process)["users"]["id1"]["tunnels"] >= 1


@pytest.mark.parametrize("how", ["restart", "upgrade"])
def test_new_workers_and_a_new_master_count_on(world: World, nginx: Nginx, how: str) -> None:
    """To the byte: whoever ends in order says what it has counted."""
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    for _ in range(20):
        assert fetch(server.address, HOST).status == 200
    before = quiet(server.process)
    old = pids(server.process)
    assert server.process.ask(how, timeout=60)["ok"]
    eventually(lambda: len(now := pids(server.process)) == 2 and not old & now, "others work", timeout=60)
    now = quiet(server.process)
    for group in ("users", "hosts"):
        assert {key: [each[name] for name in COUNTED] for key, each in now[group].items()} == {
            key: [each[name] for name in COUNTED] for key, each in before[group].items()
        }
    assert has_not_gone_back(before, now)
    assert fetch(server.address, HOST).status == 200
    after = quiet(server.process)
    assert after["users"]["id1"]["opened"] == 21
    assert after["total"]["streams_opened"] == before["total"]["streams_opened"] + 1


# connections


@BOTH
def test_connections_are_listed(world: World, protocol: str) -> None:
    port = world.port()
    server, secrets = serve(world, port, workers=2)
    client = publish(world, server, secrets, protocol, *fixed(port))
    visitors = [world.visitor(reached(client)) for _ in range(5)]
    for number, visitor in enumerate(visitors):
        echoed(visitor, 10_000 * (number + 1))
    listed = connections(server.process)
    assert (listed["total"], listed["truncated"]) == (5, False)
    by_visitor = {each["visitor"]: each for each in listed["connections"]}
    for number, visitor in enumerate(visitors):
        host, local_port = visitor.socket.getsockname()
        found = by_visitor[f"{host}:{local_port}"]
        assert (found["user"], found["kind"], found["name"]) == ("id1", "tcp", str(port.number))
        assert found["bytes_in"] == found["bytes_out"] == 10_000 * (number + 1)
        assert 0 <= found["age_s"] < 60
        assert found["id"].startswith(found["tunnel"] + ".")
    tunnels = {each["id"]: each for worker in server.process.status() for each in worker["tunnels"]}
    assert {each["tunnel"] for each in listed["connections"]} <= tunnels.keys()
    assert sum(each["bytes_in"] for each in tunnels.values()) == 150_000
    assert {each["agent"] for each in tunnels.values()} == {"" if protocol == "1" else "gt/0.1.0"}

    assert len({each["id"] for each in listed["connections"]}) == 5
    few = connections(server.process, limit=2)
    assert (few["total"], few["truncated"], len(few["connections"])) == (5, True, 2)
    assert connections(server.process, user="id1")["total"] == 5
    assert connections(server.process, user="nobody")["total"] == 0

    there = connections(client.process)
    assert there["total"] == 5
    assert {each["user"] for each in there["connections"]} == {"id1"}
    assert {each["name"].partition(":")[0] for each in there["connections"]} == {"tcp"}
    seen = {each["visitor"] for each in there["connections"]}
    assert seen == (by_visitor.keys() if protocol == "3" else {""})


def test_one_connection_is_cut(world: World) -> None:
    port = world.port()
    server, secrets = serve(world, port, workers=2)
    client = publish(world, server, secrets, "3", *fixed(port))
    cut, kept = (world.visitor(reached(client)) for _ in range(2))
    for visitor in (cut, kept):
        echoed(visitor, 10_000)
    host, local_port = cut.socket.getsockname()
    (wanted,) = (
        each["id"]
        for each in connections(server.process)["connections"]
        if each["visitor"] == f"{host}:{local_port}"
    )
    answer = server.process.ask("disconnect", connection=wanted, by="admin from 127.0.0.1")
    assert (answer["ok"], answer["count"], answer["text"]) == (True, 1, "the connection was cut")
    assert cut.ending(10) == "reset"
    echoed(kept, 10_000)
    assert server.process.find(f"disconnected by admin from 127.0.0.1: connection {wanted}, 1 closed")
    again = server.process.ask("disconnect", connection=wanted)
    assert (again["ok"], again["count"]) == (True, 0)
    unit = metrics(server.process)
    assert unit["total"]["tunnels_lost"] == 0
    assert unit["users"]["id1"]["bytes_in"] == 30_000


def test_a_tunnel_is_closed_and_comes_back(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, "--remoteConnections", "1", local=nginx.url)
    (tunnel,) = server.process.status()[0]["tunnels"]
    answer = server.process.ask("disconnect", tunnel=tunnel["id"])
    assert (answer["count"], answer["text"]) == (1, "the tunnel was closed")
    client.process.wait_for(r"tunnel 2 to .* is up")
    (there,) = client.process.status()[0]["tunnels"]
    assert there["id"] == "1.2"
    answer = client.process.ask("disconnect", tunnel=there["id"])
    assert answer["count"] == 1
    client.process.wait_for(r"tunnel 3 to .* is up")
    assert fetch(server.address, HOST).status == 200
    assert metrics(server.process)["total"]["tunnels_opened"] == 3
    assert server.process.ask("disconnect", tunnel="1.999")["count"] == 0


def test_all_of_a_user(world: World) -> None:
    one, other = world.port(), world.port()
    server, secrets = serve(world, one, other, users=("id1", "id2"), workers=2)
    first = publish(world, server, secrets, "3", *fixed(one))
    second = publish(world, server, secrets, "3", *fixed(other), id="id2", name="client2")
    cut, kept = world.visitor(reached(first)), world.visitor(reached(second))
    for visitor in (cut, kept):
        echoed(visitor, 10_000)
    count = metrics(server.process)["users"]["id1"]["tunnels"]
    mark = first.process.mark()
    answer = server.process.ask("disconnect", user="id1")
    assert answer["count"] >= count >= 1
    assert cut.ending(10) == "reset"
    echoed(kept, 10_000)
    first.process.wait_for(r"tunnel \d+ to .* is up", after=mark)
    for answer in (
        server.process.ask("disconnect"),
        server.process.ask("disconnect", user="id1", tunnel="1.1"),
    ):
        assert not answer["ok"]
        assert "one of them" in answer["text"]


# the log


def test_the_log_of_all_processes(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server("--workers", "2", users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    server.process.wait_for(r"tunnel of id1 from .* is up")
    first = server.process.ask("log")
    assert {each["source"] for each in first["lines"]} >= {"master"}
    assert first["after"].keys() == {"master", "worker 1", "worker 2"}
    assert [each["time"] for each in first["lines"]] == sorted(each["time"] for each in first["lines"])
    shown = [each["message"] for each in first["lines"]]
    assert f"listening on {server.port} (visitors and tunnels)" in shown
    up = next(each for each in first["lines"] if each["message"].endswith("is up"))
    assert up["level"] == "info"
    assert up["source"] == up["role"].replace("server/", "worker ")

    assert fetch(server.address, HOST).status == 200
    with world.visitor(server.address) as wrong:
        wrong.send(b"\xf0\x07")  # a protocol that there is not
        wrong.ending(10)
    server.process.wait_for("protocol 7 is not accepted")
    news = eventually(lambda: server.process.ask("log", after=first["after"]), "there is something new")
    assert [each["message"] for each in news["lines"]][-1].endswith("protocol 7 is not accepted here now")
    assert not set(shown) & {each["message"] for each in news["lines"]}
    assert server.process.ask("log", after=news["after"])["lines"] == []
    assert server.process.ask("log", level="error")["lines"] == []
    assert len(server.process.ask("log", limit=1)["lines"]) == 1
    assert server.process.ask("log", limit=1)["truncated"]
    assert not server.process.ask("log", level="loud")["ok"]


def test_what_workers_said_is_kept_when_they_have_ended(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    world.client(server, "id1", secret, local=nginx.url)
    old = pids(server.process)
    assert server.process.ask("restart", timeout=60)["ok"]
    eventually(lambda: len(now := pids(server.process)) == 1 and not old & now, "another one works")

    def ended() -> Any:
        lines = server.process.ask("log")["lines"]
        return [each for each in lines if (each["source"], each["message"]) == ("worker 1", "ended")]

    (line,) = eventually(ended, "it has said so", timeout=60)
    after = server.process.ask("log")["after"]
    assert after["worker 1"] == line["seq"]
    assert server.process.ask("log", after=after)["lines"] == []


def test_several_configurations_are_told_apart(world: World, nginx: Nginx) -> None:
    secret, port = world.secret(), world.port()
    directory = world.directory / "several"
    directory.mkdir()
    world.write(
        "several/server.yml",
        {"type": "server", "options": {"addr": str(port)}, "users": {"id1": {"secret": secret}}},
    )
    client = {"id": "id1", "secret": secret, "remote": f"tcp://{port}"}
    world.write(
        "several/client.yml", {"type": "client", "options": client, "services": [{"local": nginx.url}]}
    )
    relay = world.gt("both", ["-c", str(directory)])
    relay.wait_for(r"tunnel \d+ to .* is up")
    eventually(lambda: fetch(port.address, HOST).status == 200, "the page is served")
    units = relay.ask("metrics")["units"]
    assert [each["role"] for each in units] == ["client", "server"]
    paths = {each["role"]: each["config"] for each in units}
    assert paths == {role: str(directory / f"{role}.yml") for role in ("client", "server")}
    for role, path in paths.items():
        (unit,) = relay.ask("metrics", config=path)["units"]
        assert (unit["role"], unit["config"]) == (role, path)
    assert units[0]["services"][nginx.url]["opened"] == units[1]["users"]["id1"]["opened"] >= 1
    sources = set(relay.ask("log")["after"])
    assert sources == {"master", *(f"worker 1 of {path}" for path in paths.values())}
    assert set(relay.ask("log", config=paths["client"])["after"]) == {"master", "worker 1"}
    answer = relay.ask("check")
    assert answer["ok"]
    assert relay.ask("disconnect", user="id1", config=paths["client"])["count"] >= 1
    assert not relay.ask("metrics", config="/no/such.yml")["ok"]


# check


def tls_server(world: World, tmp_path: Path) -> tuple[Server, str, str]:
    """A server that has TLS as well: it, its TLS remote, the secret of id1."""
    files = make_pair(["localhost"]).write(tmp_path)
    secret, tls = world.secret(), world.port()
    flags = ["--tlsAddr", str(tls), "--certFile", str(files.cert), "--keyFile", str(files.key)]
    return world.server(*flags, "--reconnectTimes", "3", users={"id1": secret}), f"tls://{tls}", secret


def test_a_server_checks_itself(world: World, tmp_path: Path) -> None:
    """Without a status API."""
    server, _, _ = tls_server(world, tmp_path)
    answer = server.process.ask("check")
    assert (answer["ok"], answer["text"]) == (True, "a request came in and back through a tunnel")
    assert 0 < answer["ms"] < 10_000
    unit = metrics(server.process)
    assert unit["users"] == unit["hosts"] == {}
    assert unit["total"]["clients"] == 0
    assert server.process.settle(tunnels=0)["handshakes_failed"] == 0


def test_a_client_says_why_it_has_no_tunnel(world: World, nginx: Nginx) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, "--remoteConnections", "1", local=nginx.url)
    answer = client.process.ask("check")
    assert (answer["ok"], answer["text"]) == (True, "1 tunnel up")
    assert eventually(lambda: client.process.ask("check")["ms"], "the round trip is known") > 0
    world.allow("no tunnel")
    server.process.end()
    client.process.wait_for("no tunnel: cannot connect")
    answer = client.process.ask("check")
    assert not answer["ok"]
    assert answer["text"] == f"no tunnel: cannot connect to {server.remote}: Connection refused"


def test_the_health_of_a_service(world: World) -> None:
    secret, away = world.secret(), world.port()
    server = world.server(users={"id1": secret})
    client = world.client(server, "id1", secret, local=f"http://{away}")

    def health() -> dict[str, Any]:
        ((service,),) = (each["services"] for each in client.process.status())
        assert isinstance(service, dict)
        return service

    before = health()
    assert (before["works"], before["dials"], before["last_dial"]) == (None, 0, 0)
    assert fetch(server.address, HOST).status == 502
    failed = health()
    assert (failed["works"], failed["dials"], failed["failed"]) == (False, 1, 1)
    assert failed["problem"] == "Connection refused"
    assert failed["last_dial"] == failed["failed_at"] > before["last_dial"]
    world.service(echoing, away)
    with Visitor(server.address) as visitor:
        visitor.request(HOST)
        visitor.until(b"\r\n\r\n")
    works = health()
    assert (works["works"], works["dials"], works["failed"]) == (True, 2, 1)
    assert works["last_dial"] > works["failed_at"] > 0


# probe


def probe(relay: Relay, remote: str | list[str], **options: Any) -> dict[str, Any]:
    return relay.ask("probe", timeout=40, options={"id": "id1", "remote": remote} | options)


def test_a_server_is_tried_out(world: World, nginx: Nginx, tmp_path: Path) -> None:
    server, tls, secret = tls_server(world, tmp_path)
    asked = server.process
    good = probe(asked, server.remote, secret=secret)
    assert (good["ok"], good["text"]) == (True, f"A tunnel to {server.remote} came up.")
    assert (good["agent"], good["transport"], good["protocol"]) == ("gt/0.1.0", "tcp", 3)
    assert 0 < good["rtt_ms"] < 2000
    old = probe(asked, server.remote, secret=secret, protocol="1")
    assert (old["ok"], old["protocol"]) == (True, 1)
    encrypted = probe(asked, tls, secret=secret, remoteCertInsecure=True)
    assert (encrypted["ok"], encrypted["transport"]) == (True, "tls")
    second = probe(asked, [f"tcp://{world.port()}", server.remote], secret=secret)
    assert (second["ok"], second["remote"]) == (True, server.remote)

    def problem(remote: str, **options: Any) -> tuple[str, str]:
        answer = probe(asked, remote, **({"secret": secret} | options))
        assert not answer["ok"]
        return answer["code"], answer["text"]

    closed = world.port()
    nothing = f"Nothing listens at 127.0.0.1, port {closed.number}."
    assert problem(f"tcp://{closed}") == ("refused", nothing + " Does the server run, and is that its port?")
    code, text = problem("tcp://no-such-host.invalid:80")
    assert code == "name"
    assert text.startswith('The name "no-such-host.invalid" has no address.')
    code, text = problem(nginx.url.replace("http", "tcp"))
    assert code == "no_gt"
    assert "is no GT server" in text
    code, text = problem(tls)
    assert code == "certificate"
    assert "self-signed" in text
    assert problem(tls.replace("tls", "tcp"))[0] == "no_gt"
    code, text = problem(server.remote.replace("tcp", "tls"))
    assert code == "tls"
    assert text.endswith("is that the port of its tlsAddr?")
    assert problem("http://127.0.0.1") == (
        "options",
        'remote: found "http://127.0.0.1", allowed: one of tcp://host:port, tls://host:port, quic://host:port, '
        "without a path",
    )
    code, text = problem(tls, remoteCert="/none.pem")
    assert code == "options"
    assert text == "remoteCert /none.pem: cannot be read: No such file or directory"
    assert problem(server.remote, colour="red")[1] == "colour: there is no such option of a client"

    wrong = world.secret()
    for _ in range(3):
        code, text = problem(server.remote, secret=wrong)
        assert code == "invalid_credentials"
        assert text.startswith("The server does not know this id, or the secret is another one.")
    code, text = problem(server.remote)
    assert code == "locked_out"
    assert "Too many logins have failed" in text
    eventually(lambda: len(asked.workers) == 1, "no process is left of it")


def test_a_server_that_only_speaks_protocol_1(world: World) -> None:
    secret = world.secret()
    server = world.server("--protocols", "1", users={"id1": secret})
    answer = probe(server.process, server.remote, secret=secret)
    assert (answer["ok"], answer["protocol"]) == (True, 1)
    answer = probe(server.process, server.remote, secret=secret, protocol="3")
    assert (answer["ok"], answer["code"]) == (False, "old_server")
    assert probe(server.process, server.remote, secret=world.secret())["code"] == "invalid_credentials"


def test_all_tunnels_are_taken(world: World, nginx: Nginx) -> None:
    """It says that id and secret are right."""
    secret = world.secret()
    server = world.server("--connections", "1", users={"id1": secret})
    world.client(server, "id1", secret, "--remoteConnections", "1", local=nginx.url)
    answer = probe(server.process, server.remote, secret=secret)
    assert (answer["ok"], answer["code"]) == (False, "too_many_connections")
    assert answer["text"].startswith("Id and secret are right")
    assert fetch(server.address, HOST).status == 200


def test_a_gt_that_is_not_set_up_can_try_a_server(world: World, tmp_path: Path) -> None:
    secret = world.secret()
    server = world.server(users={"id1": secret})
    environ = {"GT_DATA_DIR": str(tmp_path / "data"), "GT_WEB_ADDR": str(world.port())}
    relay = world.gt("client", ["client"], env=environ)
    relay.wait_for("not set up yet")
    assert probe(relay, server.remote, secret=secret)["ok"]
    assert relay.ask("metrics")["units"] == []
    assert relay.ask("log")["after"].keys() == {"master"}
    assert not relay.ask("check")["ok"]


def test_a_trial_that_is_killed(world: World) -> None:
    """The master says so, and goes on."""
    secret = world.secret()
    server = world.server(users={"id1": secret})
    hangs = world.port()
    world.keep(hangs.listen(), until_last=True)
    asking = server.process
    answer: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answer.append(probe(asking, f"tcp://{hangs}", secret=secret)))
    thread.start()
    workers = pids(asking)

    def trial() -> Any:
        return [each for each in asking.workers if each.pid not in workers and "probe" in each.cmdline()]

    (process,) = eventually(trial, "the trial runs")
    os.kill(process.pid, signal.SIGKILL)
    thread.join(20)
    assert answer
    assert not answer[0]["ok"]
    assert answer[0]["text"] == "the trial has failed: the other process is gone"
    assert asking.ask("check")["ok"]
