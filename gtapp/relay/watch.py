"""The watcher of a socket that is more than a file descriptor: what is in it counts, too. Used in per-request mode."""

from collections.abc import Callable
from typing import Any

from gevent import get_hub

from gtapp.relay.sockets import Watcher


class Watch:
    """Calls back while `io`, a watcher below it, finds its socket ready (if there is one), and while `ready` is set."""

    __slots__ = ("_args", "_callback", "_io", "_is_soon", "_ready")

    def __init__(self, io: Watcher | None = None) -> None:
        self._io = io
        self._ready = False
        self._callback: Callable[..., Any] | None = None
        self._args: tuple[Any, ...] = ()
        self._is_soon = False

    @property
    def active(self) -> bool:
        return self._callback is not None

    def start(self, callback: Callable[..., Any], *args: Any) -> None:
        self._callback = callback
        self._args = args
        if self._io is not None:
            self._io.start(callback, *args)
        if self._ready:
            self.soon()

    def stop(self) -> None:
        self._callback = None
        self._args = ()
        if self._io is not None:
            self._io.stop()

    @property
    def ready(self) -> bool:
        """Whether to call back whatever `io` says."""
        return self._ready

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._ready = ready
        if ready:
            self.soon()

    def soon(self) -> None:
        """Call back once, when the present callback of the hub is done."""
        if self._callback is not None and not self._is_soon:
            self._is_soon = True
            get_hub().loop.run_callback(self._now)

    def _now(self) -> None:
        self._is_soon = False
        if self._callback is not None:
            self._callback(*self._args)
            if self._ready:
                self.soon()

    def put_above(self, io: Watcher | None) -> None:
        """From now on watch `io`, in place of what was watched."""
        if self._io is not None:
            self._io.stop()
        self._io = io
        if io is not None and self._callback is not None:
            io.start(self._callback, *self._args)
