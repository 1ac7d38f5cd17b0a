"""Error reports from running processes: what arrives, and a Sentry server that is down or slow is nobody's trouble."""

from __future__ import annotations

import time

import pytest

from tests.support.http import fetch
from tests.support.sentry import SentryServer
from tests.support.services import answering
from tests.support.world import World

NETWORK = "an error report to Sentry is lost: network"


@pytest.fixture
def sentry(world: World) -> SentryServer:
    server: SentryServer = world.keep(SentryServer(), until_last=True)
    return server


def test_an_error_at_the_start_is_reported(world: World, sentry: SentryServer) -> None:
    world.allow("cannot listen on")
    taken = world.port()
    world.keep(taken.listen(), until_last=True)
    flags = ["--sentryDSN", sentry.dsn, "--sentryRelease", "mine-1", "--sentryServerName", "gate"]
    secret = world.secret()
    server = world.server(
        "--sentryEnvironment", "test", *flags, users={"id1": secret}, port=taken, ready=False
    )
    server.process.expected_exit = {2}
    assert server.process.wait() == 2
    (event,) = sentry.wait()
    assert "cannot listen on" in event["logentry"]["formatted"]
    assert (event["release"], event["server_name"], event["environment"]) == ("mine-1", "gate", "test")
    assert event["tags"] == {"role": "server"}
    for _, _, body in sentry.requests:
        assert secret.encode() not in body
    assert sentry.dsn not in server.process.log


def test_what_a_running_server_reports(world: World, sentry: SentryServer) -> None:
    """The server and the reports of it share one event loop: it goes on relaying meanwhile."""
    world.hidden(sentry.dsn)
    secret = world.secret()
    server = world.server("--sentryDSN", sentry.dsn, "--sentryLevel", "warn", users={"id1": secret})
    service = world.service(answering(b"the page"))
    sentry.hold.clear()
    world.client(server, "id1", world.secret(), local=service.url, ready=False)
    (event,) = sentry.wait()
    assert event["level"] == "warning"
    assert event["logentry"]["formatted"].endswith("refused: unknown id or wrong secret")
    assert event["release"].startswith("gt@")
    assert "server_name" not in event
    world.client(server, "id1", secret, local=service.url, name="right client")
    assert fetch(server.address, "id1.example.com").body == b"the page"
    sentry.hold.set()


def test_a_client_reports_too(world: World, sentry: SentryServer) -> None:
    server = world.server(users={"id1": world.secret()})
    flags = ("--sentryDSN", sentry.dsn, "--sentryLevel", "warn", "--sentryLevel", "error")
    world.client(server, "id1", world.secret(), *flags, local="http://127.0.0.1:9", ready=False)
    (event,) = sentry.wait()
    assert event["tags"] == {"role": "client"}


def test_a_sentry_server_that_is_down(world: World) -> None:
    secret = world.secret()
    dsn = f"http://key-of-nobody@{world.port()}/1"
    server = world.server("--sentryDSN", dsn, "--sentryLevel", "warn", users={"id1": secret})
    world.client(server, "id1", world.secret(), local="http://127.0.0.1:9", ready=False)
    server.process.wait_for(NETWORK)
    service = world.service(answering(b"the page"))
    world.client(server, "id1", secret, local=service.url, name="right client")
    assert fetch(server.address, "id1.example.com").body == b"the page"


def test_a_slow_sentry_server_delays_the_end_by_two_seconds(world: World, sentry: SentryServer) -> None:
    server = world.server("--sentryDSN", sentry.dsn, "--sentryLevel", "warn", users={"id1": world.secret()})
    sentry.hold.clear()
    client = world.client(server, "id1", world.secret(), local="http://127.0.0.1:9", ready=False)
    sentry.wait()
    client.process.end()
    began = time.monotonic()
    assert server.process.end() == 0
    assert 1.5 < time.monotonic() - began < 6


@pytest.mark.parametrize("dsn", ["hello", "https://example.com/1", "https://key@example.com/project"])
def test_a_bad_dsn(world: World, dsn: str) -> None:
    server = world.server("--sentryDSN", dsn, users={"id1": world.secret()}, ready=False)
    server.process.expected_exit = {2}
    assert server.process.wait() == 2
    (line,) = server.process.lines
    assert line == "sentryDSN: is no DSN of Sentry, which reads https://KEY@HOST/PROJECT"
