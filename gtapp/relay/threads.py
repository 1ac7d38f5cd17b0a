"""Threads for what would hold the hub, which is key derivation. Used by the server's users and the dialer."""

from collections.abc import Callable
from typing import Any, TypeVar

from gevent.threadpool import ThreadPool

T = TypeVar("T")


class Threads:
    """At most `size` calls run at a time; each `call` makes only its own greenlet wait."""

    def __init__(self, size: int) -> None:
        self._pool = ThreadPool(size)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """`function(*args)`. What it raises is raised here; in the thread, gevent would report it as well."""
        result, error = self._pool.apply(_caught, (function, args))
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def kill(self) -> None:
        """End the threads."""
        self._pool.kill()


def _caught(function: Callable[..., T], args: tuple[Any, ...]) -> tuple[T | None, Exception | None]:
    try:
        return function(*args), None
    except Exception as error:
        return None, error
