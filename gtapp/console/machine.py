"""How the machine is: CPU, memory, disk, and the file descriptors of GT's processes. Asked by the sampler."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Machine:
    """Shares are between 0 and 1, sizes in bytes."""

    cpu: float = 0.0
    cores: int = 1
    memory_used: int = 0
    memory_total: int = 0
    disk_used: int = 0
    disk_total: int = 0
    disk_free: int = 0

    @property
    def memory(self) -> float:
        return self.memory_used / self.memory_total if self.memory_total else 0.0

    @property
    def disk(self) -> float:
        """As programs that are not root see it: what is reserved counts as used."""
        most = self.disk_used + self.disk_free
        return self.disk_used / most if most else 0.0


def look(directory: Path) -> Machine:
    """`directory` is on the disk that matters: the one with configuration and log. CPU: since the last look."""
    memory = psutil.virtual_memory()
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        disk = psutil.disk_usage(str(directory))
        used, total, free = disk.used, disk.total, disk.free
    except OSError:
        used = total = free = 0
    return Machine(
        cpu=psutil.cpu_percent() / 100,
        cores=psutil.cpu_count() or 1,
        memory_used=memory.total - memory.available,
        memory_total=memory.total,
        disk_used=used,
        disk_total=total,
        disk_free=free,
    )


def processes(told: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of the relay, as it has told them, and this one: pid, kind, rss, cpu_s, fds, and fds_limit, 0 where that is
    not known."""
    found = [dict(each) for each in told]
    if all(each.get("pid") != os.getpid() for each in found):
        own = psutil.Process()
        times = own.cpu_times()
        found.append(
            {
                "pid": os.getpid(),
                "kind": "console",
                "rss": own.memory_info().rss,
                "cpu_s": times.user + times.system,
                "fds": own.num_fds(),
            }
        )
    for each in found:
        each["fds_limit"] = _limit(int(each.get("pid", 0)))
    return found


def _limit(pid: int) -> int:
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except (OSError, ValueError):
        return 0
