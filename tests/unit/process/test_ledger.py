"""What workers have counted, added up: it never goes back, whoever ends, hangs or forgets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gtapp.process import ledger as ledger_module
from gtapp.process.ledger import Ledger


def numbers(streams: int, opened: int, size: int) -> dict[str, int]:
    return {"streams": streams, "opened": opened, "bytes_in": size, "bytes_out": 2 * size}


def user(tunnels: int, streams: int, opened: int, size: int) -> dict[str, int]:
    return {"tunnels": tunnels, **numbers(streams, opened, size)}


def host(name: str, opened: int, size: int, kind: str = "http", of: str = "id1") -> dict[str, Any]:
    return {"kind": kind, "name": name, "user": of, **numbers(1, opened, size)}


def answer(**parts: Any) -> dict[str, Any]:
    """What a worker says; `numbers` are flat."""
    return {"numbers": {}, "histograms": {}, "users": {}, "hosts": []} | parts


def total(ledger: Ledger, *present: int) -> dict[str, Any]:
    found, truncated = ledger.total(present)
    assert not truncated
    return found


def test_two_workers_in_one() -> None:
    ledger = Ledger()
    ledger.heard(
        1, answer(numbers={"bytes_in": 5, "tunnels": 1, "clients": 1}, users={"a": user(1, 1, 2, 5)})
    )
    ledger.heard(
        2, answer(numbers={"bytes_in": 7, "tunnels": 2, "clients": 1}, users={"a": user(2, 0, 3, 7)})
    )
    found = total(ledger, 1, 2)
    assert found["counters"] == {"bytes_in": 12}
    assert found["gauges"] == {"clients": 1, "tunnels": 3}, "a client with tunnels in both is one"
    assert found["users"] == {"a": user(3, 1, 5, 12)}


def test_of_a_worker_that_has_ended_the_counts_stay() -> None:
    ledger = Ledger()
    ledger.heard(1, answer(numbers={"bytes_in": 5, "tunnels": 1}, users={"a": user(1, 1, 2, 5)}))
    ledger.gone(1)
    ledger.gone(2)  # it has never said a word
    for _ in range(2):
        found = total(ledger)
        assert (found["counters"], found["gauges"]) == ({"bytes_in": 5}, {})
        assert found["users"] == {"a": user(0, 0, 2, 5)}
    ledger.heard(3, answer(numbers={"bytes_in": 1, "tunnels": 1}, users={"a": user(1, 0, 1, 1)}))
    assert total(ledger, 3)["counters"] == {"bytes_in": 6}
    assert total(ledger, 3)["users"] == {"a": user(1, 0, 3, 6)}


def test_a_worker_that_says_it_is_ending_has_the_last_word() -> None:
    ledger = Ledger()
    ledger.heard(1, answer(numbers={"bytes_in": 5}))
    line = {"message": "ended", "seq": 9}
    ledger.ended(1, {"counted": answer(numbers={"bytes_in": 8}), "log": [line]})
    ledger.heard(1, answer(numbers={"bytes_in": 6}))  # was on its way
    ledger.gone(1)
    assert total(ledger)["counters"] == {"bytes_in": 8}
    assert ledger.last_words == {1: [line]}


def test_last_words_are_kept_of_a_few() -> None:
    ledger = Ledger()
    for worker in range(20):
        ledger.ended(worker, {"counted": answer(), "log": [{"seq": worker}] if worker % 2 else []})
    assert list(ledger.last_words) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    for worker in (20, 21):
        ledger.ended(worker, {"counted": answer(), "log": [{"seq": worker}]})
    assert next(iter(ledger.last_words)) == 5


def test_a_worker_that_does_not_answer_counts_and_has_nothing_now() -> None:
    ledger = Ledger()
    ledger.heard(1, answer(numbers={"bytes_in": 5, "tunnels": 1}, users={"a": user(1, 1, 2, 5)}))
    found = total(ledger)
    assert (found["counters"], found["gauges"]) == ({"bytes_in": 5}, {})
    assert found["users"] == {"a": user(0, 0, 2, 5)}


def test_a_worker_that_leaves_out_for_whom_means_as_before() -> None:
    ledger = Ledger()
    assert not ledger.knows(1)
    ledger.heard(1, answer(numbers={"bytes_in": 5}, users={"a": user(1, 0, 1, 5)}, hosts=[host("a", 1, 5)]))
    assert ledger.knows(1)
    before = total(ledger, 1)
    ledger.heard(1, {"numbers": {"bytes_in": 9}, "histograms": {}})
    now = total(ledger, 1)
    assert now["counters"] == {"bytes_in": 9}
    assert (now["users"], now["hosts"]) == (before["users"], before["hosts"])
    ledger.heard(1, answer(numbers={"bytes_in": 9}, users={"a": user(0, 0, 2, 9)}))
    assert total(ledger, 1)["users"] == {"a": user(0, 0, 2, 9)}
    ledger.gone(1)
    assert total(ledger)["users"] == {"a": user(0, 0, 2, 9)}


@pytest.mark.parametrize("comes_back", [False, True])
def test_what_a_worker_has_forgotten_counts_on(comes_back: bool) -> None:
    """It knows so many names and no more; one that makes room begins at zero when it comes back."""
    ledger = Ledger()
    ledger.heard(1, answer(hosts=[host("a", 5, 100), host("b", 2, 10)]))
    ledger.heard(1, answer(hosts=[host("b", 3, 20)] + ([host("a", 1, 7)] if comes_back else [])))
    found = total(ledger, 1)["hosts"]
    assert found["b"]["bytes_in"] == 20
    assert (found["a"]["opened"], found["a"]["bytes_in"]) == ((6, 107) if comes_back else (5, 100))
    ledger.gone(1)
    assert total(ledger)["hosts"]["a"]["bytes_in"] == (107 if comes_back else 100)


def test_names_that_look_alike_are_told_apart() -> None:
    ledger = Ledger()
    hosts = [host("a", 1, 1), host("a", 1, 2, "tls"), host("8022", 1, 4, "tcp"), host("8022", 1, 8)]
    ledger.heard(1, answer(hosts=hosts))
    found = total(ledger, 1)["hosts"]
    assert {key: each["bytes_in"] for key, each in found.items()} == {
        "a": 1, "a (tls)": 2, "8022": 4, "8022 (http)": 8,
    }  # fmt: skip


def test_a_host_that_has_gone_to_another_user_is_one() -> None:
    ledger = Ledger()
    ledger.heard(1, answer(hosts=[host("a", 2, 10), host("a", 1, 5, of="id2")]))
    (found,) = total(ledger, 1)["hosts"].values()
    assert (found["user"], found["opened"], found["bytes_in"]) == ("id2", 3, 15)


def test_histograms_add_up() -> None:
    one = {"buckets": [[1.0, 2], [5.0, 3]], "sum": 4.5, "count": 4}
    ledger = Ledger()
    ledger.heard(1, answer(histograms={"waits": one}))
    ledger.heard(2, answer(histograms={"waits": one, "more": one}))
    ledger.gone(1)
    found = total(ledger, 2)["histograms"]
    assert found == {"waits": {"buckets": [[1.0, 4], [5.0, 6]], "sum": 9.0, "count": 8}, "more": one}


def test_after_an_upgrade_with_other_bounds_the_new_ones_count() -> None:
    ledger = Ledger()
    ledger.heard(1, answer(histograms={"waits": {"buckets": [[1.0, 2]], "sum": 4.5, "count": 4}}))
    ledger.gone(1)
    new = {"buckets": [[2.0, 1]], "sum": 1.0, "count": 1}
    ledger.heard(2, answer(histograms={"waits": new}))
    assert total(ledger, 2)["histograms"]["waits"] == new


def test_services_of_a_client() -> None:
    ledger = Ledger()
    service = {"kind": "http", "name": "http://127.0.0.1:80", **numbers(1, 2, 3)}
    for worker in (1, 2):
        ledger.heard(worker, {"numbers": {}, "histograms": {}, "services": [service]})
    assert total(ledger, 1)["services"] == {"http://127.0.0.1:80": service | numbers(1, 4, 6)}


def test_there_are_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have relayed least are left out."""
    monkeypatch.setattr(ledger_module, "MOST", 3)
    ledger = Ledger()
    users = {f"u{number}": user(1, 0, 1, size) for number, size in enumerate((5, 1, 9, 3, 7))}
    ledger.heard(1, answer(users=users))
    found, truncated = ledger.total([1])
    assert truncated
    assert list(found["users"]) == ["u0", "u2", "u4"]
    assert found["gauges"]["clients"] == 5
    ledger.gone(1)
    assert list(total(ledger)["users"]) == ["u0", "u2", "u4"]


def test_a_master_that_takes_over_goes_on_counting() -> None:
    ledger = Ledger()
    ledger.heard(1, answer(numbers={"bytes_in": 5}, users={"a": user(1, 0, 1, 5)}, hosts=[host("a", 1, 5)]))
    ledger.heard(2, answer(numbers={"bytes_in": 7}, users={"a": user(1, 0, 1, 7)}, hosts=[host("a", 1, 7)]))
    ledger.gone(1)
    again = Ledger.restored(json.loads(json.dumps(ledger.state())))
    assert total(again, 2) == total(ledger, 2)
    again.heard(2, answer(numbers={"bytes_in": 9}, users={"a": user(1, 0, 1, 9)}))
    assert total(again, 2)["counters"] == {"bytes_in": 14}
    assert total(Ledger.restored({}))["counters"] == {}
