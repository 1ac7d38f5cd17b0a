"""A worker: one relay process of a server or client. Its master starts it, tells it what to run, and sees it end.

Messages from the master: start, sibling, reload, retire, stop, reopen, and the questions status, debug and those of
`facts`. Messages to it: alive, ready, failed, cut, ended, and what the server asks about TCP ports.
"""

import base64
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

import gevent
import greenlet
from gevent import get_hub
from gevent.event import AsyncResult, Event

from gtapp.config.load import ClientConfig
from gtapp.errors import GTError
from gtapp.observe import logs, metrics
from gtapp.process.facts import Witness
from gtapp.process.plan import TICK_S
from gtapp.process.reports import ErrorReports
from gtapp.process.source import Config, Source, set_up_logs
from gtapp.relay.channel import Channel, Message, close_all
from gtapp.relay.pump import Pump
from gtapp.relay.sockets import PlainSocket, plain_socket
from gtapp.server.siblings import Siblings

log = logging.getLogger("gt.process")

READY_S = (
    10.0  # how long a client that takes over from another waits for its tunnels, before that one retires
)
SENT_S = 1.0  # for what is still to be told at the end
ORPHAN_S = 0.5  # what connections have when the master is gone: nobody could end this process later


class App(Protocol):
    """A server or a client."""

    ready: Event  # it can take the place of another

    @property
    def over(self) -> bool: ...
    def start(self) -> None: ...
    def reload(self, config: Any, sockets: Mapping[str, PlainSocket]) -> None: ...
    def retire(self) -> None: ...
    def stop(self, grace: float) -> int: ...
    def status(self) -> dict[str, Any]: ...
    def count(self) -> None: ...
    def metrics(self) -> dict[str, Any]: ...
    def connections(self, limit: int, user: str | None) -> dict[str, Any]: ...
    def disconnect(self, request: Mapping[str, Any], why: str) -> int: ...
    def check(self) -> dict[str, Any]: ...


def run(fd: int) -> NoReturn:
    """Be the worker that its master reaches through this descriptor. Ends the process."""
    get_hub().print_exception = logs.unhandled  # type: ignore[method-assign, assignment]
    code = Worker(Channel(socket.socket(fileno=fd))).run()
    logging.shutdown()
    # Not by way of the interpreter's end: a thread that still derives a key would hold that up.
    os._exit(code)


class Worker:
    """What it relays is in `_app`; `_ended` gets how long that may go on, in seconds."""

    def __init__(self, master: Channel) -> None:
        self._master = master
        self._started: Any = AsyncResult()  # a Message
        self._ended: Any = AsyncResult()
        self._siblings = Siblings()
        self._witness = Witness()
        self._app: App | None = None
        self._config: Config | None = None
        self._sockets: dict[str, PlainSocket] = {}

    def run(self) -> int:
        """Work until the end; the exit code."""
        self._master.on_message = self._received
        self._master.on_closed = lambda: self._end(ORPHAN_S)
        self._master.start()
        gevent.signal_handler(signal.SIGTERM, self._end, 0.0)
        gevent.wait([self._started, self._ended], count=1)
        if not self._started.ready():
            return 0
        try:
            return self._work(self._started.value)
        except GTError as error:
            for sock in self._sockets.values():
                sock.close()
            self._tell_last("failed", {"reason": str(error)})
            return 2

    def _work(self, start: Message) -> int:
        values = start.values
        source, config = _load(values["source"])
        share: tuple[int, int] = tuple(values["share"])
        name = f"{source.role}/{values['number']}" if share[1] > 1 else source.role
        set_up_logs(config, name)
        reports = ErrorReports()
        reports.follow(config.options, source.role)
        try:
            app = self._app = self._make(config, values["number"], share, start)
            self._config = config
            app.start()
            if values["replaces"]:
                app.ready.wait(READY_S)
            self._master.send("ready")
            alive = gevent.spawn(self._alive)
            grace: float = self._ended.get()
            alive.kill()
            return self._stop(app, grace)
        finally:
            reports.stop()

    def _make(self, config: Config, number: int, share: tuple[int, int], start: Message) -> App:
        # Each needs only one of the two rooms.
        if isinstance(config, ClientConfig):
            from gtapp.client.app import ClientApp

            close_all(start.fds)
            return ClientApp(config, number, share)
        from gtapp.server.app import ServerApp, Shared
        from gtapp.server.port_office import PortClerk

        self._siblings.number = number
        self._sockets = _sockets(start)
        key = base64.b64decode(start.values["key"])
        return ServerApp(config, Shared(self._sockets, self._siblings, PortClerk(self._master), key))

    def _alive(self) -> None:
        while True:
            self._master.send("alive")
            gevent.sleep(TICK_S)

    def _stop(self, app: App, grace: float) -> int:
        if grace:
            log.info("ending: running connections have %.0f s", grace)
        cut = app.stop(grace)
        self._siblings.stop()
        if cut:
            self._master.send("cut", {"streams": cut})
        log.info("ended")
        self._tell_last("ended", self._witness.last_words(app))
        return 0

    def _tell_last(self, kind: str, values: dict[str, Any]) -> None:
        """It is on its way when this returns, as far as the master takes it."""
        self._master.send(kind, values)
        waited = 0.0
        while self._master.queued and not self._master.closed and waited < SENT_S:
            gevent.sleep(0.01)
            waited += 0.01

    def _end(self, seconds: float) -> None:
        if not self._ended.ready():
            self._ended.set(seconds)

    # what the master says

    def _received(self, message: Message) -> None:
        handlers: dict[str, Callable[[Message], Any]] = {
            "start": self._started.set,
            "sibling": self._sibling,
            "reload": lambda message: self._answer(message, self._reload),
            "retire": lambda message: gevent.spawn(self._retire, message.values["seconds"]),
            "stop": lambda message: self._end(message.values["seconds"]),
            "reopen": lambda message: logs.reopen(),
            "status": lambda message: self._answer(message, self._status),
            "debug": lambda message: self._answer(message, self._debug),
            **dict.fromkeys(Witness.QUESTIONS, lambda message: self._answer(message, self._facts)),
        }
        handler = handlers.get(message.kind)
        if handler is None:
            close_all(message.fds)
        else:
            handler(message)

    def _answer(self, message: Message, answer: Callable[[Message], dict[str, Any]]) -> None:
        gevent.spawn(lambda: self._master.reply(message, _answered(answer, message)))

    def _sibling(self, message: Message) -> None:
        self._siblings.add(message.values["number"], Channel(socket.socket(fileno=message.fds[0])))

    def _reload(self, message: Message) -> dict[str, Any]:
        if self._app is None:
            close_all(message.fds)
            raise GTError("it is still starting")
        _, config = _load(message.values["source"])
        self._app.reload(config, _sockets(message))
        self._config = config
        logs.set_level(config.options.log_level)
        return {}

    def _retire(self, seconds: float) -> None:
        """Hand over, and end when nothing is relayed any more, but not later than `seconds` from now."""
        if self._app is None:
            return
        self._app.retire()
        while not self._app.over and seconds > 0:
            gevent.sleep(TICK_S / 5)
            seconds -= TICK_S / 5
        self._end(0.0)

    def _status(self, message: Message) -> dict[str, Any]:
        del message
        return {"metrics": metrics.snapshot(), **(self._app.status() if self._app is not None else {})}

    def _facts(self, message: Message) -> dict[str, Any]:
        return self._witness.answer(self._app, message.kind, message.values)

    def _debug(self, message: Message) -> dict[str, Any]:
        """What this process holds, for tests that look for leaks."""
        del message
        gc.collect()
        held: list[Any] = gc.get_objects()
        return {
            "fds": len(os.listdir("/proc/self/fd")),
            "greenlets": sum(isinstance(each, greenlet.greenlet) and not each.dead for each in held),
            "pumps": sum(isinstance(each, Pump) for each in held),
            **metrics.snapshot(),
        }


def _load(source: Mapping[str, Any]) -> tuple[Source, Config]:
    """The configuration as the master has it; its warnings have been shown there."""
    warnings = logging.getLogger("gt.config")
    warnings.disabled = True
    try:
        return Source.from_dict(source).load()
    finally:
        warnings.disabled = False


def _sockets(message: Message) -> dict[str, PlainSocket]:
    """The listening sockets of a message, by option."""
    sockets = {}
    for key, fd in zip(message.values["listening"], message.fds, strict=True):
        with socket.socket(fileno=os.dup(fd)) as known:
            family = int(known.family)
        sockets[key] = plain_socket(family, fd)
    return sockets


def _answered(answer: Callable[[Message], dict[str, Any]], message: Message) -> dict[str, Any]:
    try:
        return answer(message)
    except GTError as error:
        return {"problem": str(error)}
    except Exception as error:
        log.exception("unexpected error with %s", message.kind)
        return {"problem": f"internal error: {error}"}
