"""/metrics: what Prometheus gets, read by its own parser, and who may have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from gtapp.console.prometheus import MOST_LABELS, OTHER, Rest
from gtapp.errors import GTError
from gtapp.observe import metrics
from tests.unit.console import api_relay
from tests.unit.console.conftest import Auth, Relay

MakeApp = Callable[..., Flask]
NUMBERS = {"tunnels": 1, **api_relay.NUMBERS}


@pytest.fixture(autouse=True)
def answering(relay: Relay) -> None:
    relay.answers["metrics"] = api_relay.counted("server")


def unit(relay: Relay) -> dict[str, Any]:
    found: dict[str, Any] = relay.answers["metrics"]["units"][0]
    return found


def scrape(client: FlaskClient, **headers: str) -> dict[str, Metric]:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.content_type.startswith("text/plain")
    return {each.name: each for each in text_string_to_metric_families(answer.text)}


def values(family: Metric, *labels: str) -> dict[Any, float]:
    """The samples of a family by their labels."""
    return {tuple(each.labels[label] for label in labels): each.value for each in family.samples}


# what is told


def test_every_counter_and_gauge_of_the_table_is_there(client: FlaskClient, relay: Relay) -> None:
    found = scrape(client)
    total = unit(relay)["total"]
    own_names = {"bytes_in": "relayed_in_bytes", "bytes_out": "relayed_out_bytes"}
    for each in metrics.METRICS:
        if each.name.startswith("visitors_refused_"):
            answer = each.name.removeprefix("visitors_refused_")
            assert values(found["gt_visitors_refused"], "answer")[answer,] == total[each.name]
            continue
        family = found[f"gt_{own_names.get(each.name, each.name)}"]
        assert family.type == each.kind
        assert family.documentation == each.help
        (sample,) = family.samples
        assert sample.value == total[each.name]
        assert sample.name.endswith("_total") == (each.kind == "counter")


def test_names_are_as_prometheus_wants_them(client: FlaskClient) -> None:
    for name, family in scrape(client).items():
        assert name.startswith("gt_")
        assert not name.endswith(("_total_total", "_count", "_sum"))
        assert family.documentation.endswith("."), name
        if "bytes" in name:
            assert name.removesuffix("_total").endswith("_bytes"), name


def test_histograms(client: FlaskClient) -> None:
    family = scrape(client)["gt_dial_seconds"]
    assert family.type == "histogram"
    found = {(each.name, each.labels.get("le")): each.value for each in family.samples}
    assert found == {
        ("gt_dial_seconds_bucket", "0.01"): 3,
        ("gt_dial_seconds_bucket", "0.1"): 5,
        ("gt_dial_seconds_bucket", "+Inf"): 6,
        ("gt_dial_seconds_sum", None): 0.75,
        ("gt_dial_seconds_count", None): 6,
    }
    assert family.documentation == next(
        each.help for each in metrics.HISTOGRAMS if each.name == "dial_seconds"
    )


def test_processes(client: FlaskClient) -> None:
    found = scrape(client)
    assert values(found["gt_process_resident_memory_bytes"], "kind", "pid") == {
        ("master", "100"): 30 << 20,
        ("worker", "101"): 40 << 20,
    }
    assert values(found["gt_process_cpu_seconds"], "kind", "pid")["worker", "101"] == 7.25
    assert values(found["gt_process_open_fds"], "kind", "pid")["master", "100"] == 20
    (info,) = found["gt_build_info"].samples
    assert info.labels["role"] == "server"


def test_numbers_of_each_user(client: FlaskClient) -> None:
    found = scrape(client)
    assert values(found["gt_user_tunnels"], "user") == {("alice",): 1}
    assert values(found["gt_user_relayed_out_bytes"], "user") == {("alice",): 5000}
    assert found["gt_user_relayed_out_bytes"].type == "counter"


def test_names_of_users_are_escaped(client: FlaskClient, relay: Relay) -> None:
    strange = 'a"b\\c\nd{}名'
    unit(relay)["users"] = {strange: NUMBERS}
    assert values(scrape(client)["gt_user_streams"], "user") == {(strange,): 2}


def test_numbers_of_each_service_of_a_client(make_app: MakeApp, relay: Relay) -> None:
    relay.answers["metrics"] = api_relay.counted("client")
    found = scrape(make_app("client").test_client())
    assert values(found["gt_service_streams_opened"], "service") == {("http://127.0.0.1:18088",): 7}
    assert "gt_user_streams" not in found


def test_openmetrics_is_given_to_who_asks_for_it(client: FlaskClient) -> None:
    wanted = "application/openmetrics-text; version=1.0.0"
    answer = client.get("/metrics", headers={"Accept": f"{wanted},text/plain;version=0.0.4;q=0.5"})
    assert answer.content_type.startswith(wanted)
    assert "gt_streams_opened" in {each.name for each in openmetrics_families(answer.text)}


def test_a_relay_that_does_not_answer_is_down(client: FlaskClient, relay: Relay) -> None:
    relay.answers["metrics"] = GTError("the process does not answer within 3 s")
    answer = client.get("/metrics")
    assert answer.status_code == 503
    assert "does not answer" in answer.text


# labels are bounded


def many(count: int) -> dict[str, dict[str, float]]:
    """Users of whom each has relayed more than the one before."""
    return {f"user{n:04}": {**NUMBERS, "bytes_in": n, "bytes_out": n} for n in range(count)}


def test_the_users_with_most_bytes_have_their_own_numbers(client: FlaskClient, relay: Relay) -> None:
    unit(relay)["users"] = many(MOST_LABELS + 5)
    found = scrape(client)
    shown = values(found["gt_user_relayed_in_bytes"], "user")
    assert len(shown) == MOST_LABELS + 1
    assert ("user0004",) not in shown
    assert ("user0005",) in shown
    assert shown[OTHER,] == 0 + 1 + 2 + 3 + 4
    assert values(found["gt_user_tunnels"], "user")[OTHER,] == 5


def test_a_user_called_like_the_rest_is_of_the_rest() -> None:
    shown = Rest().split({OTHER: NUMBERS, "alice": NUMBERS}, most=5)
    assert shown.keys() == {"alice", OTHER}
    assert shown[OTHER]["bytes_in"] == NUMBERS["bytes_in"]


def test_the_rest_never_goes_back_when_users_come_and_go() -> None:
    rest = Rest()
    small, large = {"bytes_in": 10, "streams": 1}, {"bytes_in": 1000, "streams": 1}
    assert rest.split({"a": large, "b": small}, most=1)[OTHER]["bytes_in"] == 10
    # b relays so much that it is shown itself; what it had before stays in the rest, and a's later bytes come to it
    more_of_a = {"bytes_in": 1500, "streams": 1}
    shown = rest.split({"a": more_of_a, "b": {"bytes_in": 9000}}, most=1)
    assert shown.keys() == {"b", OTHER}
    assert shown[OTHER]["bytes_in"] == 10 + 500
    # all are gone but one: the rest keeps what it has, and nobody is in it
    shown = rest.split({"b": {"bytes_in": 9000}}, most=1)
    assert shown[OTHER]["bytes_in"] == 510
    assert shown[OTHER]["streams"] == 0


def test_the_rest_goes_on_when_the_master_begins_anew() -> None:
    rest = Rest()
    rest.split({"a": {"bytes_in": 1000}, "b": {"bytes_in": 100}}, most=1)
    shown = rest.split({"a": {"bytes_in": 50}, "b": {"bytes_in": 7}}, most=1)
    assert shown[OTHER]["bytes_in"] == 107


# who may


def test_programs_of_this_machine_need_no_token_on_loopback(client: FlaskClient) -> None:
    for host in ("localhost:18000", "127.0.0.1:18000", "[::1]:18000", "localhost"):
        assert scrape(client, Host=host)


@pytest.mark.parametrize("address", ["203.0.113.9", "::ffff:203.0.113.9", ""])
def test_others_do(client: FlaskClient, address: str) -> None:
    answer = client.get("/metrics", environ_overrides={"REMOTE_ADDR": address})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "gt_" not in answer.text


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"])
def test_who_comes_through_a_proxy_does(client: FlaskClient, header: str) -> None:
    assert client.get("/metrics", headers={header: "203.0.113.9"}).status_code == 401


def test_who_comes_by_a_public_name_does(make_app: MakeApp) -> None:
    """A client of GT that publishes the console, for instance: it dials from this machine."""
    text = api_config("webHosts: console.example.com")
    client = make_app("server", text).test_client()
    assert client.get("/metrics", headers={"Host": "console.example.com"}).status_code == 401


def test_on_other_addresses_everybody_does(make_app: MakeApp) -> None:
    app = make_app(listen="0.0.0.0:18000")
    client = app.test_client()
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=Auth(app, client).token("metrics")).status_code == 200


def test_tokens_need_the_scope(client: FlaskClient, auth: Auth) -> None:
    far = {"REMOTE_ADDR": "203.0.113.9"}
    assert client.get("/metrics", headers=auth.token("metrics"), environ_overrides=far).status_code == 200
    assert (
        client.get("/metrics", headers=auth.token("read", "system"), environ_overrides=far).status_code == 403
    )
    wrong = {"Authorization": "Bearer gt_wrong"}
    assert client.get("/metrics", headers=wrong).status_code == 401  # not even on loopback: it is a mistake


def test_who_is_logged_in_may(client: FlaskClient, auth: Auth) -> None:
    assert auth.login().status_code == 302
    answer = client.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.status_code == 200


def test_nothing_in_setup_mode(make_app: MakeApp) -> None:
    assert make_app(setup=True).test_client().get("/metrics").status_code == 404


def api_config(*lines: str) -> str:
    from tests.unit.console.conftest import SERVER

    return SERVER.replace("options:\n", "options:\n" + "".join(f"  {line}\n" for line in lines))
