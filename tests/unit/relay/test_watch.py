"""The watcher of a socket in which there is more than its descriptor tells."""

from __future__ import annotations

from gtapp.relay.sockets import EV_READ
from gtapp.relay.watch import Watch
from tests.support.relay import tcp_pair, turn


def test_it_calls_back_while_it_is_ready() -> None:
    watch = Watch()
    calls: list[int] = []

    def called(*args: int) -> None:
        calls.extend(args)
        if len(calls) == 3:
            watch.ready = False

    watch.start(called, 7)
    assert watch.active
    turn()
    assert calls == []
    watch.ready = True
    assert watch.ready
    assert calls == [], "never at once: what sets it may be in the middle of something"
    turn()
    assert calls == [7, 7, 7]


def test_soon_is_once() -> None:
    watch = Watch()
    calls: list[int] = []
    watch.soon()
    watch.start(calls.append, 1)
    turn()
    assert calls == [], "nobody was there then"
    watch.soon()
    watch.soon()
    turn()
    assert calls == [1]


def test_after_stop_nothing_comes() -> None:
    watch = Watch()
    calls: list[int] = []
    watch.start(calls.append, 1)
    watch.ready = True
    watch.stop()
    assert not watch.active
    turn()
    assert calls == []
    watch.start(calls.append, 2)
    turn(1)
    watch.stop()
    assert set(calls) == {2}, "it was ready all the time"


def test_it_may_stop_itself() -> None:
    watch = Watch()
    calls: list[int] = []

    def called() -> None:
        calls.append(1)
        watch.stop()

    watch.start(called)
    watch.ready = True
    turn()
    assert calls == [1]


def test_it_watches_what_is_below() -> None:
    near, far = tcp_pair()
    watch = Watch(near.watch(EV_READ))
    calls: list[int] = []
    watch.start(calls.append, 1)
    turn()
    assert calls == []
    far.sendall(b"x")
    turn()
    assert calls
    watch.put_above(None)
    calls.clear()
    turn()
    assert calls == []
    watch.put_above(near.watch(EV_READ))
    turn()
    assert calls
    watch.stop()
    watch.put_above(near.watch(EV_READ))
    calls.clear()
    turn()
    assert calls == []
    near.close()
    far.close()
