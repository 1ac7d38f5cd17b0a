"""What the tunnels of a process relay just now, for people and programs. Asked by server and client.

Tunnels are those of the clock: one that is closed counts until what it had left is delivered.
"""

from collections.abc import Iterable
from heapq import nsmallest
from time import monotonic
from typing import Any

from gtapp.observe.accounts import Account
from gtapp.relay.clock import Clock
from gtapp.relay.stream import Stream
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import frames

MOST_CONNECTIONS = 500  # in one answer
NOTHING = {"streams": 0, "opened": 0, "bytes_in": 0, "bytes_out": 0}  # of an account


def tunnels_of(clock: Clock) -> list[Tunnel]:
    """Those that are not over."""
    return [each for each in clock.ticking if isinstance(each, Tunnel)]


def numbers(accounts: Iterable[Account], tunnels: Iterable[Tunnel]) -> list[tuple[Account, dict[str, int]]]:
    """Each account with what it has now: streams that run, streams opened ever, bytes in and out."""
    running: dict[Account, list[int]] = {}
    for tunnel in tunnels:
        for stream in tunnel.streams.values():
            account = stream.account
            while account is not None:
                known = running.get(account)
                if known is None:
                    known = running[account] = [0, 0]
                bytes_in, bytes_out = stream.relayed
                known[0] += bytes_in
                known[1] += bytes_out
                account = account.owner
    found = []
    for each in accounts:
        more_in, more_out = running.get(each, (0, 0))
        values = {"streams": each.streams, "opened": each.opened}
        values |= {"bytes_in": each.bytes_in + more_in, "bytes_out": each.bytes_out + more_out}
        found.append((each, values))
    return found


def tunnel_id(worker: int, tunnel: Tunnel) -> str:
    return f"{worker}.{tunnel.number}"


def connections(
    worker: int, tunnels: Iterable[Tunnel], limit: int, user: str | None = None
) -> dict[str, Any]:
    """How many streams there are, of one user or of all, and the newest of them."""
    now = monotonic()
    found = [
        (now - stream.began, stream)
        for tunnel in tunnels
        for stream in tunnel.streams.values()
        if stream.account is not None and (user is None or stream.account.user == user)
    ]
    newest = nsmallest(min(limit, MOST_CONNECTIONS), found, key=lambda each: each[0])
    return {"total": len(found), "connections": [_connection(worker, age, each) for age, each in newest]}


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
