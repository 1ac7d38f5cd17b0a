"""A relay process: logging, signals and one server or client, from start to a graceful end. Called by `cli`."""

import contextlib
import gc
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import gevent
import greenlet
from gevent.event import Event

from gtapp import __version__
from gtapp.client.app import ClientApp
from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.config.options import OPTIONS, LogOptions, SentryOptions
from gtapp.errors import ConfigError, GTError
from gtapp.observe import logs, metrics
from gtapp.relay.pump import Pump
from gtapp.server.app import ServerApp

log = logging.getLogger("gt.process")

GRACE_S = 10.0  # how long running connections may take to end after SIGTERM


C = TypeVar("C", ServerConfig, ClientConfig, contravariant=True)


class App(Protocol[C]):
    def start(self) -> None: ...
    def reload(self, config: C) -> None: ...
    def stop(self, grace: float) -> None: ...


def run_server(load: Callable[[], ServerConfig]) -> int:
    """Run a server until SIGTERM or SIGINT; the exit code. SIGHUP loads its configuration anew."""
    config = load()
    _set_up_logs(config.options, "server")
    _hide_server(config)
    with _error_reports(config.options, "server"):
        return _run(ServerApp, "server", config, load, _hide_server)


def run_client(load: Callable[[], ClientConfig]) -> int:
    """Run a client until SIGTERM or SIGINT; the exit code. SIGHUP loads its configuration anew."""
    config = load()
    _set_up_logs(config.options, "client")
    _hide_client(config)
    with _error_reports(config.options, "client"):
        return _run(ClientApp, "client", config, load, _hide_client)


def _hide_server(config: ServerConfig) -> None:
    for user in config.users.values():
        for secret in (user.secret, user.verifier):
            if secret:
                logs.hide(secret)


def _hide_client(config: ClientConfig) -> None:
    logs.hide(config.options.secret)
    for service in config.services:
        if service.basic_auth:
            logs.hide(service.basic_auth.partition(":")[2])


def _set_up_logs(options: LogOptions, role: str) -> None:
    file = Path(options.log_file) if options.log_file else None
    sizes = (options.log_file_max_size, options.log_file_max_count)
    logs.setup(options.log_level, options.log_format, file, *sizes, role)


@contextlib.contextmanager
def _error_reports(options: SentryOptions, role: str) -> Iterator[None]:
    """Report errors to Sentry meanwhile, where that is configured. Raises ConfigError."""
    if not options.sentry_dsn:
        yield
        return
    from gtapp.observe import sentry  # 9 MB, for those who want it

    try:
        reports = sentry.Reports(
            options.sentry_dsn,
            options.sentry_level,
            options.sentry_sample_rate,
            options.sentry_release or f"gt@{__version__}",
            options.sentry_environment,
            options.sentry_server_name,
            options.sentry_debug,
            role,
        )
    except ValueError as error:
        raise ConfigError(f"sentryDSN: {error}") from error
    try:
        yield
    finally:
        reports.stop()


def _run(
    make: Callable[[C], App[C]], role: str, config: C, load: Callable[[], C], hide: Callable[[C], None]
) -> int:
    gevent.get_hub().print_exception = logs.unhandled  # type: ignore[method-assign, assignment]
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, ended.set)
    stats = os.environ.get("GT_DEBUG_STATS")
    if stats:
        gevent.signal_handler(signal.SIGUSR1, _stats_wanted, Path(stats))
    wanted = Event()
    gevent.signal_handler(signal.SIGHUP, wanted.set)
    try:
        app = make(config)
        app.start()
    except GTError as error:
        log.error("%s", error)
        return 2
    reloading = gevent.spawn(_reload_when, wanted, app, role, config, load, hide)
    log.info("GT %s runs as process %d", __version__, os.getpid())
    ended.wait()
    reloading.kill()
    log.info("ending: running connections have %.0f s", GRACE_S)
    app.stop(GRACE_S)
    log.info("ended")
    return 0


def _reload_when(
    wanted: Event, app: App[C], role: str, config: C, load: Callable[[], C], hide: Callable[[C], None]
) -> None:
    """`config` is the one that the process has started with."""
    while True:
        wanted.wait()
        wanted.clear()
        try:
            new = load()
            hide(new)
            app.reload(new)
        except GTError as error:
            log.error("not reloaded, everything stays as it was: %s", error)
            continue
        except Exception:
            log.exception("unexpected error while reloading")
            continue
        logs.set_level(new.options.log_level)
        log.info("reloaded")
        later = ", ".join(
            option.key
            for option in OPTIONS[role].values()
            if option.applies != "live"
            and getattr(new.options, option.name) != getattr(config.options, option.name)
        )
        if later:
            log.warning("changed, but in force only after a restart: %s", later)


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
