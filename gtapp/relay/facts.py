"""What the tunnels of a process relay just now, for people and programs. Asked by server and client.

Tunnels are those of the clock: one that is closed counts until what it had left is delivered.
"""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Any

from gtapp.observe.accounts import Account
from gtapp.relay.clock import Clock
from gtapp.relay.stream import Stream
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import frames

MOST_CONNECTIONS = 500  # in one answer
Numbers = dict[str, int]
NOTHING = {"streams": 0, "opened": 0, "bytes_in": 0, "bytes_out": 0}  # of an account


def tunnels_of(clock: Clock) -> list[Tunnel]:
    """Those that are not over."""
    return [each for each in clock.ticking if isinstance(each, Tunnel)]


def numbers(accounts: Iterable[Account], tunnels: Iterable[Tunnel]) -> list[tuple[Account, Numbers]]:
    """Each account with what it has now: streams that run, streams opened ever, bytes in and out."""
    running: dict[Account, list[int]] = {}
    for tunnel in tunnels:
        for stream in tunnel.streams.values():
            if stream.account is not None:
                bytes_in, bytes_out = stream.relayed
                known = running.setdefault(stream.account, [0, 0])
                known[0] += bytes_in
                known[1] += bytes_out
    found = []
    for each in accounts:
        more_in, more_out = running.get(each, (0, 0))
        values = {"streams": each.opened - each.ended, "opened": each.opened}
        values |= {"bytes_in": each.bytes_in + more_in, "bytes_out": each.bytes_out + more_out}
        found.append((each, values))
    return found


def by_user(found: Iterable[tuple[Account, Numbers]]) -> dict[str, Numbers]:
    """The same for each user: the sum of its accounts."""
    users: dict[str, Numbers] = {}
    for account, values in found:
        known = users.setdefault(account.user, dict(NOTHING))
        for name, value in values.items():
            known[name] += value
    return users


def tunnel_id(worker: int, tunnel: Tunnel) -> str:
    return f"{worker}.{tunnel.number}"


def connections(
    worker: int, tunnels: Iterable[Tunnel], limit: int, wanted: Callable[[str], bool]
) -> dict[str, Any]:
    """How many streams there are of users that are `wanted`, and the newest of them."""
    found = [
        (tunnel.age - stream.began, -stream.id, stream)
        for tunnel in tunnels
        for stream in tunnel.streams.values()
        if stream.account is not None and wanted(stream.account.user)
    ]
    newest = nsmallest(min(limit, MOST_CONNECTIONS), found, key=lambda each: each[:2])
    return {"total": len(found), "connections": [_connection(worker, age, each) for age, _, each in newest]}


def _connection(worker: int, age: float, stream: Stream) -> dict[str, Any]:
    account = stream.account
    assert account is not None
    bytes_in, bytes_out = stream.relayed
    tunnel = tunnel_id(worker, stream.tunnel)
    return {
        "id": f"{tunnel}.{stream.id}",
        "user": account.user,
        "kind": account.kind,
        "name": account.name,
        "visitor": stream.visitor,
        "tunnel": tunnel,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "age_s": round(age, 1),
    }


def cut_connection(worker: int, tunnels: Iterable[Tunnel], name: str) -> int:
    """Cut the connection with this id, at both ends; how many that were."""
    of_tunnel, _, number = name.rpartition(".")
    for tunnel in tunnels:
        if tunnel_id(worker, tunnel) == of_tunnel and number.isdecimal():
            stream = tunnel.streams.get(int(number))
            if stream is not None and stream.account is not None:
                stream.cut(frames.CANCELLED)
                return 1
    return 0


def close_tunnels(worker: int, tunnels: Iterable[Tunnel], name: str | None, why: str) -> int:
    """Close the one with this id, or all; how many that were."""
    wanted = [each for each in tunnels if name is None or tunnel_id(worker, each) == name]
    for tunnel in wanted:
        tunnel.disconnect(why)
    return len(wanted)
