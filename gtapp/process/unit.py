"""One configuration and the workers that run it. Made by the master; `plan` says what is to be done."""

import base64
import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent
from gevent.event import AsyncResult

from gtapp.config.load import ServerConfig
from gtapp.config.options import OPTIONS
from gtapp.config.values import Address
from gtapp.errors import GTError
from gtapp.process import plan, spawn
from gtapp.process.console import ConsoleKeeper, certificate_files, console_start
from gtapp.process.ledger import Ledger
from gtapp.process.source import Config, Difference, Source, difference
from gtapp.relay.channel import Channel, ChannelClosed, Message, close_all, pair
from gtapp.relay.sockets import PlainSocket, plain_socket, show_address
from gtapp.server.listeners import listen
from gtapp.server.port_office import PortOffice, answer

log = logging.getLogger("gt.process")

ANSWER_S = 5.0  # for a worker to say what is asked of it
_WHAT = {
    "addr": "visitors and tunnels",
    "tlsAddr": "visitors and tunnels, over TLS",
    "sniAddr": "TLS to pass through",
    "apiAddr": "status API, GET /status",
    "webAddr": "console",
}
CONSOLE = "webAddr"  # not for workers: the console has that socket


class Running:
    """A worker process."""

    def __init__(self, number: int, pid: int, channel: Channel, started: float) -> None:
        self.number = number
        self.pid = pid
        self.channel = channel
        self.started = started  # seconds since the epoch
        self.reason = ""  # why it can't go on, in its own words
        self.cut = 0  # connections that it has cut at its end


class Prepared:
    """A configuration that could be read, and whose addresses could be listened on: ready to be applied."""

    def __init__(self, source: Source, config: Config, sockets: dict[str, PlainSocket]) -> None:
        self.source = source
        self.config = config
        self.sockets = sockets  # by option


class Unit:
    """The workers of one configuration.

    `over(problem)` is called when none is left and none is to come; with a text when that was not asked for.
    """

    def __init__(
        self,
        source: Source,
        config: Config,
        over: Callable[["Unit", str], None],
        listen: Callable[[Address], PlainSocket] = listen,
    ) -> None:
        self.source = source
        self.config = config
        self.console = ConsoleKeeper()
        self.ledger = Ledger()
        self._over = over
        self._listen = listen
        self._sockets: dict[str, PlainSocket] = {}
        self._state = plan.State()
        self._running: dict[int, Running] = {}
        self._begun: AsyncResult[str] = AsyncResult()
        self._key = secrets.token_bytes(32)
        self._ports = PortOffice()
        self._serves = False
        self.cut = 0

    @property
    def name(self) -> str:
        """For people: the file, or what it is."""
        return str(self.config.path or self.source.role)

    @property
    def busy(self) -> bool:
        """Something is still on its way to a worker, or one is just ending."""
        return any(each.channel.queued or each.channel.closed for each in self._running.values())

    @property
    def pids(self) -> list[int]:
        return [each.pid for each in self._running.values()]

    # start and end

    def prepare(self, source: Source) -> Prepared:
        """Read the configuration, and listen where it says. Raises GTError; then nothing has changed."""
        source, config = source.load()
        sockets: dict[str, PlainSocket] = {}
        try:
            for key, address in _addresses(source.role, config).items():
                if key in self._sockets and _addresses(source.role, self.config).get(key) == address:
                    sockets[key] = self._sockets[key]
                else:
                    sockets[key] = self._listen(address)
            certificate_files(config)
        except GTError:
            self.discard(Prepared(source, config, sockets))
            raise
        return Prepared(source, config, sockets)

    def discard(self, prepared: Prepared) -> None:
        """It will not be applied."""
        for key, sock in prepared.sockets.items():
            if self._sockets.get(key) is not sock:
                sock.close()

    def start(self, prepared: Prepared) -> str:
        """Run it; "", or why it can't."""
        self._take(prepared)
        problem = self._begin()
        self._serves = not problem
        if self._serves:
            self._tell_listeners(self._sockets)
            self._run_console()
        return problem

    def stop(self, seconds: float) -> None:
        """End all workers, with so much time for what they relay. `over` is called then."""
        self.console.stop()
        self._do(plan.Stop(round(seconds / plan.TICK_S)))

    def close(self) -> None:
        """No worker is left: let go of the sockets."""
        self.console.close()
        for sock in self._sockets.values():
            sock.close()
        self._ports.close()

    def tick(self) -> None:
        self._ports.tick(plan.TICK_S)
        self.console.tick()
        self._do(plan.Tick())

    # reload and restart

    def changes(self, prepared: Prepared) -> Difference:
        return difference(self.source.role, self.config, prepared.config)

    def apply(self, prepared: Prepared, restart: bool) -> list[str]:
        """Run `prepared` from now on; what was done, in lines. Raises GTError, and then the old one runs on."""
        changed = self.changes(prepared)
        if restart or changed.restart:
            before = Prepared(self.source, self.config, self._sockets)
            self._take(prepared)
            problem = self._begin()
            if problem:
                self._take(before)
                self.discard(prepared)
                raise GTError(problem)
            self._tell_reload(old=True)
            before_sockets = before.sockets
        else:
            before_sockets = self._sockets
            self._take(prepared)
            self._tell_reload()
        for key, sock in before_sockets.items():
            if self._sockets.get(key) is not sock:
                sock.close()
        self._tell_listeners(changed.listeners)
        self._run_console(anew=restart)
        return _report(self.name, changed, restart, len(self._of_now()))

    def _tell_listeners(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._sockets:
                where = show_address(self._sockets[key].getsockname())
                log.info("listening on %s (%s)", where, _WHAT[key])

    def _run_console(self, anew: bool = False) -> None:
        """As the configuration says now. Whatever is wrong with it, the relay goes on."""
        start = None
        try:
            if CONSOLE in self._sockets:
                start = console_start(self.source, self.config)
        except GTError as error:
            log.error("no console: %s", error)
        self.console.want(start, self._sockets.get(CONSOLE) if start else None, anew)

    def _take(self, prepared: Prepared) -> None:
        self.source, self.config, self._sockets = prepared.source, prepared.config, prepared.sockets

    def _begin(self) -> str:
        """Have a new generation of workers; why there is none, or ""."""
        begun = self._begun = AsyncResult()
        options = self.config.options
        drain_s = getattr(options, "drain_timeout", 600.0)
        self._do(plan.Begin(options.workers, round(drain_s / plan.TICK_S)))
        return str(begun.get())

    def _of_now(self) -> list[Running]:
        """Those of the present generation."""
        now = self._state.generation
        return [self._running[n] for n, each in self._state.workers.items() if each.generation == now]

    def _tell_reload(self, old: bool = False) -> None:
        """Let the workers take over what applies to them while they run; `old` are those before the present ones."""
        now = self._of_now()
        wanted = [each for each in self._running.values() if not old or each not in now]
        asked = [gevent.spawn(self._reload_one, each) for each in wanted]
        gevent.joinall(asked)

    def _reload_one(self, running: Running) -> None:
        try:
            answered = running.channel.call(
                "reload",
                {"source": self.source.to_dict(), **self._listening()},
                b"",
                self._fds(),
                timeout=ANSWER_S,
            )
        except ChannelClosed:
            return  # it has ended: it had nothing left, or its successor will start with this
        except GTError as error:
            log.error("worker %d has not reloaded: %s", running.number, error)
        else:
            problem = answered.values.get("problem")
            if problem:
                log.error("worker %d has not reloaded: %s", running.number, problem)

    def _listening(self) -> dict[str, Any]:
        return {"listening": [key for key in self._sockets if key != CONSOLE]}

    def _fds(self) -> list[int]:
        return [os.dup(sock.fileno()) for key, sock in self._sockets.items() if key != CONSOLE]

    # workers

    def _do(self, event: plan.Event) -> None:
        self._state, actions = plan.decide(self._state, event)
        for action in actions:
            if isinstance(action, plan.Spawn):
                self._spawn(action.worker)
            elif isinstance(action, plan.Begun):
                self._begun.set(action.problem)
            elif isinstance(action, plan.Over):
                if self._serves:  # otherwise whoever starts it is told
                    self._over(self, action.problem)
            else:
                self._act(self._running.get(action.number), action)

    def _act(self, running: Running | None, action: plan.Action) -> None:
        if running is None:
            return
        if isinstance(action, plan.Retire):
            running.channel.send("retire", {"seconds": self._state.drain_ticks * plan.TICK_S})
        elif isinstance(action, plan.End):
            running.channel.send("stop", {"seconds": action.ticks * plan.TICK_S})
        elif isinstance(action, plan.Kill):
            log.error("worker %d (process %d) %s: it is killed", running.number, running.pid, action.reason)
            spawn.kill(running.pid)

    def _spawn(self, worker: plan.Worker) -> None:
        ours, theirs = pair()
        try:
            pid = spawn.spawn(theirs, "worker")
        except GTError as error:
            ours.close()
            gevent.get_hub().loop.run_callback(self._do, plan.Ended(worker.number, str(error)))
            return
        finally:
            theirs.close()
        running = Running(worker.number, pid, Channel(ours), time.time())
        self._watch(running)
        values = {
            "number": worker.number,
            "share": [worker.share, self._state.count],
            "replaces": self._state.before is not None and self._state.before[0] > 0,
            "source": self.source.to_dict(),
            "key": base64.b64encode(self._key).decode(),
            **self._listening(),
        }
        if isinstance(self.config, ServerConfig):
            # Before it starts: it must not accept without knowing them.
            for sibling in self._running.values():
                one, other = pair()
                running.channel.send("sibling", {"number": sibling.number}, b"", [one.detach()])
                sibling.channel.send("sibling", {"number": running.number}, b"", [other.detach()])
        running.channel.send("start", values, b"", self._fds())
        self._running[running.number] = running

    def _watch(self, running: Running) -> None:
        channel = running.channel
        channel.on_message = lambda message: self._received(running, message)
        channel.on_closed = lambda: _spawn_greenlet(self._ended, running)
        channel.start()

    def _received(self, running: Running, message: Message) -> None:
        kind = message.kind
        if kind == "alive":
            self._do(plan.Heard(running.number))
        elif kind == "ready":
            self._do(plan.Ready(running.number))
        elif kind == "failed":
            running.reason = message.values["reason"]
        elif kind == "cut":
            running.cut += message.values["streams"]
        elif kind == "ended":
            self.ledger.ended(running.number, message.values)
        elif kind in ("port", "release_port"):
            answer(self._ports, running.number, message, running.channel)
        else:
            close_all(message.fds)

    def _ended(self, running: Running) -> None:
        how = spawn.reap(running.pid)
        del self._running[running.number]
        self._ports.gone(running.number)
        self.ledger.gone(running.number)
        self.cut += running.cut
        worker = self._state.workers[running.number]
        if worker.phase in (plan.Phase.STARTING, plan.Phase.READY) and not running.reason:
            log.error("worker %d (process %d) has %s", running.number, running.pid, how)
        self._do(plan.Ended(running.number, running.reason or f"its worker has {how}"))

    def reopen_logs(self) -> None:
        self.console.reopen_logs()
        for running in self._running.values():
            running.channel.send("reopen")

    # what is so

    @property
    def running(self) -> Mapping[int, Running]:
        """The worker processes, by number."""
        return self._running

    @property
    def ready(self) -> list[int]:
        """Those of the present generation that serve."""
        known = self._state.workers
        return [each.number for each in self._of_now() if known[each.number].phase is plan.Phase.READY]

    def status(self, detail: str) -> dict[str, Any]:
        """What `gt.py status` tells of this configuration; `detail` is what the workers are asked for."""
        asked = {
            number: gevent.spawn(self._ask, running, detail) for number, running in self._running.items()
        }
        gevent.joinall(list(asked.values()))
        now = time.time()
        workers = []
        for number, running in list(self._running.items()):
            known = self._state.workers[number]
            workers.append(
                {
                    "number": number,
                    "pid": running.pid,
                    "generation": known.generation,
                    "state": known.phase.value,
                    "age_s": round(now - running.started, 1),
                    **((asked[number].value or {}) if number in asked else {}),
                }
            )
        return {
            "role": self.source.role,
            "config": str(self.config.path or ""),
            "digest": self._digest(),
            "listeners": [
                {"option": key, "address": show_address(sock.getsockname())}
                for key, sock in self._sockets.items()
            ],
            "console": self.console.pids,
            "workers": workers,
        }

    def _digest(self) -> str:
        """Of the text that this configuration was read from: another one when the file has been edited since."""
        text = self.source.texts.get(str(self.config.path), "") if self.config.path else ""
        return hashlib.sha256(text.encode()).hexdigest()

    def _ask(self, running: Running, detail: str) -> dict[str, Any]:
        try:
            return running.channel.call(detail, timeout=ANSWER_S).values
        except GTError as error:
            return {"problem": str(error)}

    # the master is replaced in place

    def state(self) -> dict[str, Any]:
        """All that `restored` needs, as JSON; descriptors stay open and are named by number. Used up then."""
        return {
            "source": self.source.to_dict(),
            "sockets": {key: [int(sock.family), sock.detach()] for key, sock in self._sockets.items()},
            "key": base64.b64encode(self._key).decode(),
            "ports": self._ports.state(),
            "ledger": self.ledger.state(),
            "console": self.console.pids,
            "generation": self._state.generation,
            "next_generation": self._state.next_generation,
            "next_number": self._state.next_number,
            "count": self._state.count,
            "workers": [
                {
                    "number": number,
                    "generation": known.generation,
                    "share": known.share,
                    "phase": known.phase.value,
                    "pid": self._running[number].pid,
                    "started": self._running[number].started,
                    "fd": self._running[number].channel.detach(),
                }
                for number, known in self._state.workers.items()
                if number in self._running
            ],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], over: Callable[["Unit", str], None]) -> "Unit":
        """The unit that `state` was asked of in the process before. Raises GTError."""
        source, config = Source.from_dict(state["source"]).load()
        unit = cls(source, config, over)
        kept = [fd for _, fd in state["sockets"].values()] + [each["fd"] for each in state["workers"]]
        for fd in kept:
            os.set_inheritable(fd, False)  # new workers must not have them: the end of one would not be seen
        for pid in state["console"]:  # it ends by itself, its channel is closed
            gevent.spawn(spawn.reap, pid)
        unit._sockets = {key: plain_socket(family, fd) for key, (family, fd) in state["sockets"].items()}
        unit._key = base64.b64decode(state["key"])
        unit._ports = PortOffice.restored(state["ports"])
        unit.ledger = Ledger.restored(state.get("ledger", {}))
        workers = {}
        for each in state["workers"]:
            number, phase = each["number"], plan.Phase(each["phase"])
            workers[number] = plan.Worker(number, each["generation"], each["share"], phase, limit=0)
            channel = Channel(socket.socket(fileno=each["fd"]))
            unit._running[number] = Running(number, each["pid"], channel, each["started"])
        unit._serves = True
        unit._state = plan.State(
            count=state["count"],
            generation=state["generation"],
            next_generation=state["next_generation"],
            next_number=state["next_number"],
            workers=workers,
        )
        for running in unit._running.values():
            unit._watch(running)
        return unit


def _spawn_greenlet(function: Callable[..., None], *args: Any) -> None:
    gevent.spawn(function, *args)


def _addresses(role: str, config: Config) -> dict[str, Address]:
    """Where the configuration listens, by option."""
    found = {}
    for option in OPTIONS[role].values():
        address = getattr(config.options, option.name) if option.applies == "listeners" else None
        if isinstance(address, Address):
            found[option.key] = address
    return found


def _report(name: str, changed: Difference, restart: bool, workers: int) -> list[str]:
    lines = [f"{name}: {key}: live" for key in changed.live]
    lines += [f"{name}: {key}: listener" for key in changed.listeners]
    lines += [f"{name}: {key}: new workers" for key in changed.restart]
    if restart or changed.restart:
        lines.append(f"{name}: {workers} new worker{'s' * (workers != 1)}; the old finish what they relay")
    elif not changed:
        lines.append(f"{name}: nothing has changed")
    return lines
