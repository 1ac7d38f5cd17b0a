"""A relay process: logging, signals and one server or client, from start to a graceful end. Called by `cli`."""

import gc
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any, Protocol

import gevent
import greenlet
from gevent.event import Event

from gtapp import __version__
from gtapp.client.app import ClientApp
from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.config.options import LogOptions
from gtapp.errors import GTError
from gtapp.observe import logs, metrics
from gtapp.relay.pump import Pump
from gtapp.server.app import ServerApp

log = logging.getLogger("gt.process")

GRACE_S = 10.0  # how long running connections may take to end after SIGTERM


class App(Protocol):
    def start(self) -> None: ...
    def stop(self, grace: float) -> None: ...


def run_server(config: ServerConfig) -> int:
    """Run a server until SIGTERM or SIGINT; the exit code."""
    _set_up_logs(config.options, "server")
    for user in config.users.values():
        for secret in (user.secret, user.verifier):
            if secret:
                logs.hide(secret)
    return _run(ServerApp(config))


def run_client(config: ClientConfig) -> int:
    """Run a client until SIGTERM or SIGINT; the exit code."""
    _set_up_logs(config.options, "client")
    logs.hide(config.options.secret)
    return _run(ClientApp(config))


def _set_up_logs(options: LogOptions, role: str) -> None:
    file = Path(options.log_file) if options.log_file else None
    sizes = (options.log_file_max_size, options.log_file_max_count)
    logs.setup(options.log_level, options.log_format, file, *sizes, role)


def _run(app: App) -> int:
    gevent.get_hub().print_exception = logs.unhandled  # type: ignore[method-assign, assignment]
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, ended.set)
    stats = os.environ.get("GT_DEBUG_STATS")
    if stats:
        gevent.signal_handler(signal.SIGUSR1, _stats_wanted, Path(stats))
    try:
        app.start()
    except GTError as error:
        log.error("%s", error)
        return 2
    log.info("GT %s runs as process %d", __version__, os.getpid())
    ended.wait()
    log.info("ending: running connections have %.0f s", GRACE_S)
    app.stop(GRACE_S)
    log.info("ended")
    return 0


def _write_stats(path: Path) -> None:
    """What this process holds, for tests that look for leaks. The file appears whole."""
    gc.collect()
    held: list[Any] = gc.get_objects()
    now: dict[str, Any] = {
        "fds": len(os.listdir("/proc/self/fd")),
        "greenlets": sum(isinstance(each, greenlet.greenlet) and not each.dead for each in held),
        "pumps": sum(isinstance(each, Pump) for each in held),
        **metrics.snapshot(),
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(now))
    temporary.rename(path)


def _stats_wanted(path: Path) -> None:
    try:
        _write_stats(path)
    except OSError as error:
        log.warning("no statistics in %s: %s", path, error.strerror)
