"""Error reports of this process to Sentry, as its configuration says. For master and workers."""

from typing import TYPE_CHECKING

from gtapp import __version__
from gtapp.config.options import SentryOptions
from gtapp.errors import ConfigError

if TYPE_CHECKING:
    from gtapp.observe.sentry import Reports


class ErrorReports:
    """There are none until `follow` is called with options that have a `sentryDSN`. `stop` at the end."""

    def __init__(self) -> None:
        self._followed: tuple[object, ...] = ()
        self._reports: Reports | None = None

    def follow(self, options: SentryOptions, role: str) -> None:
        """Report as these say from now on. Raises ConfigError; then nothing has changed."""
        wanted = (
            options.sentry_dsn,
            options.sentry_level,
            options.sentry_sample_rate,
            options.sentry_release or f"gt@{__version__}",
            options.sentry_environment,
            options.sentry_server_name,
            options.sentry_debug,
            role,
        )
        if wanted == self._followed:
            return
        reports = None
        if options.sentry_dsn:
            from gtapp.observe import sentry  # 9 MB, for those who want it

            try:
                reports = sentry.Reports(*wanted)
            except ValueError as error:
                raise ConfigError(f"sentryDSN: {error}") from error
        self.stop()
        self._followed, self._reports = wanted, reports

    def stop(self) -> None:
        """Send what waits, which takes 2 s at most, and report nothing more."""
        if self._reports is not None:
            self._reports.stop()
            self._reports = None
