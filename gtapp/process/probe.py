"""Tries out whether a client could open a tunnel: the command `probe`. A process of its own does it, `gt.py probe FD`,
so that options which nobody has checked meet none that serves. The secret goes there by message, never in a command
line.
"""

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any, NoReturn

import gevent
from gevent import get_hub
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore

from gtapp.errors import GTError
from gtapp.observe import logs
from gtapp.process import spawn
from gtapp.relay.channel import Channel, Message, close_all, pair

log = logging.getLogger("gt.process")

PROBE_S = 20.0  # for the process; a trial takes 14 s at most
START_S = 10.0  # for the master to say what is to be tried
MOST = 4  # at a time

_at_a_time = BoundedSemaphore(MOST)


def probe(options: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome, see `client.trial`. Waits, at most PROBE_S. Raises GTError."""
    if not _at_a_time.acquire(blocking=False):
        raise GTError(f"{MOST} servers are being tried already: ask again in a moment")
    try:
        return _probe(options)
    finally:
        _at_a_time.release()


def _probe(options: Mapping[str, Any]) -> dict[str, Any]:
    ours, theirs = pair()
    try:
        pid = spawn.spawn(theirs, "probe")
    except GTError:
        ours.close()
        raise
    finally:
        theirs.close()
    channel = Channel(ours)
    channel.start()
    try:
        return channel.call("probe", {"options": dict(options)}, timeout=PROBE_S).values
    except GTError as error:
        raise GTError(f"the trial has failed: {error}") from error
    finally:
        channel.close()
        spawn.kill(pid)
        spawn.reap(pid)


# the process


def run(fd: int) -> NoReturn:
    """Be the process that its master reaches through this descriptor. Ends the process."""
    get_hub().print_exception = logs.unhandled  # type: ignore[method-assign, assignment]
    logs.setup("error", "text", None, 0, 1, "probe")  # the answer says what there is to say
    master = Channel(socket.socket(fileno=fd))
    asked: Any = AsyncResult()  # a Message
    master.on_message = asked.set
    master.on_closed = lambda: os._exit(0)
    master.start()
    try:
        message: Message = asked.get(timeout=START_S)
    except gevent.Timeout:
        os._exit(1)
    close_all(message.fds)
    master.reply(message, _tried(message.values["options"]))
    while master.queued and not master.closed:
        gevent.sleep(0.01)
    os._exit(0)


def _tried(options: Mapping[str, Any]) -> dict[str, Any]:
    from gtapp.client import trial

    logs.hide(str(options.get("secret") or ""))
    try:
        return trial.try_out(options)
    except Exception as error:
        log.exception("unexpected error while a server was tried out")
        return {"works": False, "code": "internal", "text": f"unexpected {type(error).__name__}"}
