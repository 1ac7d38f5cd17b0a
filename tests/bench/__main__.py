"""`python -m tests.bench`: runs the cases, prints the tables and writes them as JSON. Called by `make bench`."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.cases import CASES, Bench
from tests.bench.parts import ROOT, Parts
from tests.bench.report import Report

FILES = 20_000  # descriptors: 10,000 visitors on either side of a process, and some


def arguments() -> argparse.Namespace:
    cases = "\n".join(f"  {name:12} {case.__doc__}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        "python -m tests.bench",
        description="GT beside haproxy as two TCP hops and nginx direct, all on this machine.",
        epilog=f"cases:\n{cases}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="CASE,…", default="", help="these cases alone")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2 s each instead of 5 of 4 s")
    parser.add_argument("--rounds", type=int, help="how often to measure each figure")
    parser.add_argument("--seconds", type=int, help="how long to measure requests/s")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "build" / "bench.json", help="where to write the figures"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 when a figure misses what is wanted"
    )
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",") if chosen.only else list(CASES)
    if unknown := set(chosen.only) - CASES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return chosen


class Usage:
    """CPU time used so far: by the whole machine, and by this process with those it started that have ended."""

    def __init__(self) -> None:
        machine = psutil.cpu_times()
        self._machine = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
        self._ours = sum(
            sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        self._at = time.monotonic()

    def share_of_others(self) -> float:
        """The part, 0..1, of what all cores could do since then that went to other processes (or hosts: steal)."""
        now = Usage()
        others = (now._machine - self._machine) - (now._ours - self._ours)
        return max(others, 0.0) / ((now._at - self._at) * len(os.sched_getaffinity(0)))


def main() -> int:
    chosen = arguments()
    if missing := [
        name for name in ("nginx", "haproxy", "wrk", "strace", "redis-server") if not shutil.which(name)
    ]:
        print(f"missing here: {', '.join(missing)}; `make bench` installs what it can", file=sys.stderr)
        return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # through the `with` below, which ends what it started
    report = Report(
        rounds=chosen.rounds or (3 if chosen.quick else 5),
        seconds=chosen.seconds or (2 if chosen.quick else 4),
    )
    before = Usage()
    with tempfile.TemporaryDirectory(prefix="gt-bench-") as directory, Parts(Path(directory), files) as parts:
        bench = Bench(parts, report)
        for name in chosen.only:
            CASES[name](bench)
    report.others = before.share_of_others()  # now that all our processes have ended, and count
    print("\n" + report.text())
    report.write(chosen.json)
    print(f"\nAll figures: {chosen.json}")
    return 1 if chosen.check and not report.ok else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
