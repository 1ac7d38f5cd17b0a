"""Error reports: log records of the wanted levels go to a Sentry server, redacted. `process.reports` starts them.

Of what sentry-sdk would collect by itself (arguments, local variables, source, requests, host name, breadcrumbs)
nothing is sent. Reports wait in a bounded queue that a greenlet empties; the relay never waits for it.
"""

import logging
import random
from collections.abc import Collection
from typing import Any

import sentry_sdk
from sentry_sdk.transport import HttpTransport
from sentry_sdk.utils import BadDsn, Dsn, event_from_exception

from gtapp.observe import logs

log = logging.getLogger("gt.sentry")

MAX_WAITING = 100  # reports that have not been sent; when there are more, new ones are dropped
SEND_S = 10.0  # how long a report may take to be sent
FLUSH_S = 2.0  # how long the end of the process waits for the last reports

_SENTRY_LEVELS = {"trace": "debug", "warn": "warning", "panic": "fatal"}
_OWN = ("gt.sentry", "sentry_sdk", "urllib3")  # what the reporting says of itself is not reported


class Reports(logging.Handler):
    """Reports records of `levels`, names of logs.LEVELS; `sample_rate` of them, 0 to 1. `stop` at the end.

    Without an `environment` it is Sentry's "production", without a `server_name` none is named. Make it in a
    greenlet, not in a callback. Raises ValueError when `dsn` cannot be one.
    """

    def __init__(
        self,
        dsn: str,
        levels: Collection[str],
        sample_rate: float,
        release: str,
        environment: str,
        server_name: str,
        debug: bool,
        role: str,
    ) -> None:
        super().__init__()
        self._levels = frozenset(levels)
        self._sample_rate = sample_rate
        self._role = role
        self._limit = logs.Limit()
        try:
            key = Dsn(dsn).public_key
        except (BadDsn, ValueError):
            raise ValueError("is no DSN of Sentry, which reads https://KEY@HOST/PROJECT") from None
        for secret in (dsn, key):
            logs.hide(secret)
        _log_of_sdk(debug)
        self._client = sentry_sdk.Client(
            dsn=dsn,
            transport=_Transport,
            transport_queue_size=MAX_WAITING,
            release=release,
            environment=environment or None,
            server_name=server_name,  # not None: that would be the host name
            debug=debug,
            before_send=_redacted,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            include_source_context=False,
            max_breadcrumbs=0,
            max_request_body_size="never",
            send_client_reports=False,
            auto_session_tracking=False,
            enable_backpressure_handling=False,
            spotlight=False,
        )
        self._client.flush(
            timeout=0.01
        )  # starts the greenlet that sends: in a callback that would be too late
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        level = logs.level_name(record.levelno)
        if level not in self._levels or record.name.startswith(_OWN):
            return
        if random.random() >= self._sample_rate:
            return
        if self._limit.count(f"{record.name} {record.msg}")[0] > logs.LIMIT_LINES:
            return
        try:
            self._client.capture_event(self._event(record, level))
        except Exception:
            log.warning("an error report cannot be made", exc_info=True)

    def _event(self, record: logging.LogRecord, level: str) -> Any:
        event: dict[str, Any] = {
            "level": _SENTRY_LEVELS.get(level, level),
            "logger": record.name,
            "logentry": {"message": str(record.msg), "formatted": logs.message_of(record)},
            "tags": {"role": self._role},
        }
        if record.exc_info and record.exc_info[1] is not None:
            found, _ = event_from_exception(record.exc_info[1], client_options=self._client.options)
            event["exception"] = found["exception"]
        return event

    def stop(self) -> None:
        """Send what waits, for at most FLUSH_S, and report nothing more."""
        logging.getLogger().removeHandler(self)
        self._client.close(timeout=FLUSH_S)
        self.close()


class _Transport(HttpTransport):
    """The SDK's own, which fails sooner and does not try again at once; and it says so when reports are lost."""

    TIMEOUT = SEND_S  # type: ignore[assignment]

    def __init__(self, options: dict[str, Any]) -> None:
        self._says = logs.Limited("gt.sentry")
        super().__init__(options)

    def _get_pool_options(self) -> dict[str, Any]:
        return super()._get_pool_options() | {"retries": False}

    def on_dropped_event(self, reason: str) -> None:
        self._says.warning("an error report to Sentry is lost: %s", reason)


def _redacted(event: Any, hint: Any) -> Any:
    """The SDK's last hook: it gets the event as it is to be sent."""
    return _redact({key: value for key, value in event.items() if value != ""})


def _redact(value: Any) -> Any:
    if isinstance(value, str):
        return logs.redact(value)[: logs.MAX_TEXT]
    if isinstance(value, dict):  # the paths of our files tell where GT is installed, and often for whom
        return {logs.redact(key): _redact(each) for key, each in value.items() if key != "abs_path"}
    if isinstance(value, list | tuple):
        return [_redact(each) for each in value]
    return value


def _log_of_sdk(debug: bool) -> None:
    """Let the SDK's log go the way of ours, redacted, or nowhere."""
    sdk = logging.getLogger("sentry_sdk.errors")
    for handler in list(sdk.handlers):
        sdk.removeHandler(handler)
    for each in list(sdk.filters):
        sdk.removeFilter(each)
    sdk.setLevel(logging.DEBUG if debug else logs.PANIC + 1)
