"""The console's end of what keeps it running: gets what it is for, says that it lives, ends when it is told to or its
master has gone. `cli` gives it the console itself, which knows nothing of processes."""

import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import gevent
import gevent.socket
from gevent import get_hub
from gevent.event import AsyncResult, Event

from gtapp.config.load import load_client, load_server
from gtapp.errors import GTError
from gtapp.observe import logs
from gtapp.process import control
from gtapp.process.plan import TICK_S
from gtapp.process.source import hide, set_up_logs
from gtapp.relay.channel import Channel, Message, close_all

log = logging.getLogger("gt.process")

START_S = 10.0  # for the master to say what this console is for

Ask = Callable[..., dict[str, Any]]
Serve = Callable[[Mapping[str, Any], Ask, gevent.socket.socket, Event, Callable[[], None]], None]
"""Serves what the values say with a listening socket until the event; calls the last when it does. Raises GTError."""


def run(fd: int, serve: Serve) -> NoReturn:
    """Be the console that its master reaches through this descriptor. Ends the process."""
    get_hub().print_exception = logs.unhandled  # type: ignore[method-assign, assignment]
    code = _Child(Channel(socket.socket(fileno=fd))).run(serve)
    logging.shutdown()
    os._exit(code)


class _Child:
    def __init__(self, master: Channel) -> None:
        self._master = master
        self._started: Any = AsyncResult()  # a Message
        self._until = Event()

    def run(self, serve: Serve) -> int:
        """Serve until the end; the exit code."""
        master = self._master
        master.on_message = self._received
        master.on_closed = self._until.set
        master.start()
        gevent.signal_handler(signal.SIGTERM, self._until.set)
        gevent.wait([self._started, self._until], timeout=START_S, count=1)
        if not self._started.ready():
            return 0
        start: Message = self._started.value
        listener = gevent.socket.socket(fileno=start.fds[0])
        alive = gevent.spawn(self._alive)
        try:
            _set_up_logs(start.values)
            serve(start.values, _ask, listener, self._until, lambda: master.send("ready"))
        except GTError as error:
            master.send("failed", {"reason": str(error)})
            while master.queued and not master.closed:
                gevent.sleep(0.01)
            return 2
        finally:
            alive.kill()
        return 0

    def _alive(self) -> None:
        while True:
            self._master.send("alive")
            gevent.sleep(TICK_S)

    def _received(self, message: Message) -> None:
        if message.kind == "start":
            self._started.set(message)
            return
        close_all(message.fds)
        if message.kind == "stop":
            self._until.set()
        elif message.kind == "reopen":
            logs.reopen()


def _ask(command: str, **more: Any) -> dict[str, Any]:
    """The master's answer to a command, see `control.ask`. Raises GTError."""
    return control.ask(control.socket_of(os.environ, os.getppid()), command, **more)


def _set_up_logs(values: Mapping[str, Any]) -> None:
    """As the configuration says, whose secrets are hidden; the first run has none. Raises ConfigError."""
    role = values["role"]
    if values["setup"]:
        logs.setup("info", "text", None, 0, 1, "console")
        return
    load = load_server if role == "server" else load_client
    warnings = logging.getLogger("gt.config")
    warnings.disabled = True  # they have been shown by the master
    try:
        config = load(tuple(values["words"]), values["environ"])
    finally:
        warnings.disabled = False
    set_up_logs(config, "console")
    hide(config)
