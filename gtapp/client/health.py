"""How a local service does: when it was last connected to, what went wrong, and what was relayed for it.

Outlives the `Services` of a reload, which write it; read by `client.app`.
"""

from time import time
from typing import Any

from gtapp.observe.accounts import Account


class Health:
    """That of one local URL. Times are seconds since the epoch, 0 for never."""

    __slots__ = ("account", "dials", "failed", "failed_at", "last_dial", "problem")

    def __init__(self, kind: str, local: str) -> None:
        self.account = Account(kind, local)
        self.dials = 0  # connections to it that were tried
        self.failed = 0
        self.last_dial = 0.0
        self.failed_at = 0.0
        self.problem = ""  # of the last one that failed

    def connected(self) -> None:
        self.dials += 1
        self.last_dial = time()

    def refused(self, problem: str) -> None:
        """It could not be connected to."""
        self.dials += 1
        self.failed += 1
        self.last_dial = self.failed_at = time()
        self.problem = problem

    def status(self) -> dict[str, Any]:
        """`works` is how the last connection went, None before the first one."""
        return {
            "works": None if not self.dials else self.last_dial != self.failed_at,
            "dials": self.dials,
            "failed": self.failed,
            "last_dial": round(self.last_dial, 3),
            "problem": self.problem,
            "failed_at": round(self.failed_at, 3),
        }


class Healths:
    """Those of a process, by local URL."""

    def __init__(self) -> None:
        self._known: dict[str, Health] = {}

    def find(self, kind: str, local: str) -> Health:
        health = self._known.get(local)
        if health is None:
            health = self._known[local] = Health(kind, local)
        return health

    def all(self) -> list[Health]:
        return list(self._known.values())
