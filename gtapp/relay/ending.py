"""The end of a process: what its tunnels carry gets some time, but nobody waits for those who say nothing."""

import logging
import math
from time import monotonic

from gtapp.relay.clock import Clock
from gtapp.relay.pump import Pump
from gtapp.relay.tunnel import Tunnel
from gtapp.wire import frames

log = logging.getLogger("gt.relay")

QUIET_S = 1.0  # a connection that is silent for so long after an answer waits for the next request
LOOK_EVERY_S = 0.25


def end_tunnels(clock: Clock, grace: float, why: str) -> int:
    """Wait up to `grace` seconds until everything on `clock` is over, then abort its tunnels, which have been told to
    drain. Returns how many streams that has cut.

    Streams between two requests are not waited for: where the service has had the last word, and that QUIET_S ago, it
    is told that the visitor has nothing more to say.
    """
    deadline = monotonic() + grace
    if grace > 0:
        _end_quiet(clock)
        clock.quicken(LOOK_EVERY_S)  # in a second much can become quiet
    while not clock.over and (left := deadline - monotonic()) > 0:
        clock.wait(min(LOOK_EVERY_S, left))
        _end_quiet(clock)
    streams = [stream for tunnel in _tunnels(clock) for stream in tunnel.streams.values()]
    if streams:
        log.warning("%d connections were still running after %g s and are cut", len(streams), grace)
    for tunnel in _tunnels(clock):
        tunnel.abort(why)
    for stream in streams:  # of those that were closed and delivered the rest: it must not look like all
        stream.cut(frames.CANCELLED)
    return len(streams)


def _end_quiet(clock: Clock) -> None:
    ticks = 1 + math.ceil(QUIET_S / clock.period)  # the first tick may come right after the last byte
    for tunnel in _tunnels(clock):
        for stream in list(tunnel.streams.values()):
            if isinstance(stream.sink, Pump):
                stream.sink.end_if_quiet(ticks)


def _tunnels(clock: Clock) -> list[Tunnel]:
    return [each for each in clock.ticking if isinstance(each, Tunnel)]
