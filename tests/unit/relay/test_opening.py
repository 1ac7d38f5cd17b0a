"""The opening as a conversation: messages in order, an end in the middle, and the hand-over."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

from gtapp.errors import LinkError, WireError
from gtapp.relay.opening import MAX_WAITING, Opening
from gtapp.wire import compat
from tests.support.relay import Made, turn, until

MakeTunnel = Callable[..., Made]


def test_messages_come_in_order(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    opening = Opening(made.tunnel)
    made.tunnel.start()
    for number in range(3):
        made.far.send(made.far.frames.control({"type": "hello", "number": number}))
    assert [opening.receive_message()["number"] for _ in range(3)] == [0, 1, 2]


def test_receive_waits(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    opening = Opening(made.tunnel)
    made.tunnel.start()
    waiting = gevent.spawn(opening.receive)
    turn()
    assert not waiting.ready()
    made.far.send(made.far.frames.control({"type": "hello"}))
    assert waiting.get(timeout=5) == {"type": "hello"}


def test_the_end_is_an_error_after_the_last_message(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    opening = Opening(made.tunnel)
    made.tunnel.start()
    made.far.send(made.far.frames.control({"type": "error"}))
    made.far.close()
    until(lambda: made.tunnel.closed)
    assert opening.receive_message() == {"type": "error"}
    with pytest.raises(LinkError, match="closed by the other end"):
        opening.receive()
    with pytest.raises(LinkError):
        opening.hand_over(made.control.append, made.closed.append)


def test_one_who_waits_learns_of_the_end(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    opening = Opening(made.tunnel)
    made.tunnel.start()
    waiting = gevent.spawn(opening.receive)
    turn()
    made.far.close()
    with pytest.raises(LinkError):
        waiting.get(timeout=5)


def test_too_many_messages_end_it(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    opening = Opening(made.tunnel)
    made.tunnel.start()
    made.far.send(*[made.far.frames.control({"type": "hello"})] * (MAX_WAITING + 1))
    until(lambda: made.tunnel.closed)
    for _ in range(MAX_WAITING):
        opening.receive()
    with pytest.raises(LinkError, match="too many messages"):
        opening.receive()


def test_as_many_messages_as_its_owner_expects(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    opening = Opening(made.tunnel, MAX_WAITING + 3)
    made.tunnel.start()
    made.far.send(*[made.far.frames.control({"type": "hello"})] * (MAX_WAITING + 3))
    until(lambda: len(opening._messages) == MAX_WAITING + 3)
    assert not made.tunnel.closed


def test_a_signal_is_no_message(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel(version=1, is_server=False)
    opening = Opening(made.tunnel)
    made.tunnel.start()
    made.far.send(compat.signal(compat.Ready()))
    with pytest.raises(WireError):
        opening.receive_message()


def test_hand_over_passes_on_what_nobody_has_looked_at(make_tunnel: MakeTunnel) -> None:
    made = make_tunnel()
    opening = Opening(made.tunnel)
    made.tunnel.start()
    for number in range(3):
        made.far.send(made.far.frames.control({"type": "notice", "number": number}))
    until(lambda: len(opening._messages) == 3)
    opening.receive()
    opening.hand_over(made.control.append, made.closed.append)
    made.far.send(made.far.frames.control({"type": "notice", "number": 3}))
    until(lambda: len(made.control) == 3)
    assert [message["number"] for message in made.control] == [1, 2, 3]
    made.far.close()
    until(lambda: made.closed)
