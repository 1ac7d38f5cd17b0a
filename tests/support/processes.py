"""Child processes of a test: started, read line by line, ended by their own pid. Used by nginx.py and world.py."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

# Time for a thing that takes milliseconds on an idle machine. Reaching it means that it will not happen.
PATIENCE_S = 20.0
# A relay may take 10 s over SIGTERM; the rest is for the machine.
END_S = 15.0


class Child:
    """One child process; its stdout and stderr are collected as lines by a thread."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.name = name
        self.lines: list[str] = []
        self.exit_code: int | None = None
        self.expected_exit: set[int] = {0}
        self._changed = threading.Condition()
        self._eof = False
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
        )
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for raw in output:
                with self._changed:
                    self.lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._eof = True
            self._changed.notify_all()

    def __repr__(self) -> str:
        state = "running" if self.running else f"exit {self.exit_code}"
        return f"<{self.name} pid {self.pid} {state}, {len(self.lines)} lines>"

    @property
    def running(self) -> bool:
        if self.exit_code is None:
            self.exit_code = self.process.poll()
        return self.exit_code is None

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def tail(self, count: int = 40) -> str:
        return "\n".join(f"    {self.name}| {line}" for line in self.lines[-count:])

    def mark(self) -> int:
        """The present end of the log: pass it to wait_for() to look only at what comes later."""
        return len(self.lines)

    def wait_for(
        self, pattern: str, *, after: int = 0, count: int = 1, timeout: float = PATIENCE_S
    ) -> re.Match[str]:
        """The count-th line after a mark that the regular expression finds; AssertionError when it does not come."""
        found: list[re.Match[str]] = []
        position = after
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self.lines[position:]:
                    if match := re.search(pattern, line):
                        found.append(match)
                        if len(found) == count:
                            return match
                position = len(self.lines)
                left = deadline - time.monotonic()
                if self._eof or left <= 0:
                    why = "it ended" if self._eof else f"{timeout:.0f} s passed"
                    raise AssertionError(
                        f"{self.name}: no line {count} like {pattern!r}; {why}\n{self.tail()}"
                    )
                self._changed.wait(left)

    def find(self, pattern: str, after: int = 0) -> list[str]:
        """The lines so far that the regular expression finds."""
        return [line for line in self.lines[after:] if re.search(pattern, line)]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = END_S) -> int:
        """Its exit code, once it has ended by itself; AssertionError when it does not."""
        try:
            self.exit_code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end in {timeout:.0f} s\n{self.tail()}") from None
        self._reader.join(2)  # longer only when a child of it lives on and holds its output open
        return self.exit_code

    def kill(self) -> None:
        """kill -9, as the test wants it: the exit code -9 is then the expected one."""
        self.expected_exit = {-signal.SIGKILL}
        self.process.kill()
        self.wait()

    def end(self, timeout: float = END_S) -> int:
        """SIGTERM and its exit code; killed (and AssertionError) when that does not end it."""
        if self.running:
            self.signal(signal.SIGTERM)
            try:
                return self.wait(timeout)
            except AssertionError:
                self.process.kill()
                self.process.wait()
                raise
        return self.wait()

    @property
    def rss(self) -> int:
        """Resident memory, bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    @property
    def cpu_s(self) -> float:
        """CPU time used so far, seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def open_files(self) -> int:
        """Open file descriptors as the kernel counts them: asking costs the process none."""
        return int(psutil.Process(self.pid).num_fds())


class Relay(Child):
    """A gt.py server or client: its master is the child, its workers relay. It can be asked what they hold."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> None:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("GT_")}
        environ |= {
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "default",
            "GT_RUNTIME_DIR": str(runtime_directory()),
        }
        super().__init__(name, argv, environ | (env or {}))
        self._runtime = Path((environ | (env or {}))["GT_RUNTIME_DIR"])

    def ask(self, command: str, timeout: float = PATIENCE_S, **more: Any) -> dict[str, Any]:
        """The answer of the control socket to a command; the lines before it are in `lines`, unless it has its own."""

        def attempt() -> socket.socket:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self._runtime / f"{self.pid}.sock"))
            except OSError:
                connection.close()
                assert self.running, f"{self.name} has ended\n{self.tail()}"
                raise
            return connection

        with eventually(attempt, f"{self.name} has a control socket") as connection:
            connection.settimeout(timeout)
            connection.sendall(json.dumps({"command": command, **more}).encode() + b"\n")
            *before, last = [json.loads(line) for line in connection.makefile("rb")] or [{}]
        answer: dict[str, Any] = {"lines": [each["line"] for each in before]} | last
        return answer

    def status(self) -> list[dict[str, Any]]:
        """What `gt.py status --json` says of the workers of its first configuration."""
        workers = self.ask("status")["units"][0]["workers"]
        assert isinstance(workers, list)
        return workers

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that relay, oldest first."""
        return self._children(lambda words: "console" not in words)

    @property
    def consoles(self) -> list[psutil.Process]:
        """Its console, and one that is about to end."""
        return self._children(lambda words: "console" in words)

    def _children(self, wanted: Callable[[list[str]], bool]) -> list[psutil.Process]:
        """Those that have not ended."""
        found = []
        for child in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # of which a zombie is a kind
                if wanted(child.cmdline()):
                    found.append(child)
        return sorted(found, key=lambda child: child.pid)

    def stats(self, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """What the workers count just now, all together: fds, greenlets, tunnels, streams, pumps, counters.

        Added is `spare_fds`: fds without one for each tunnel, because the pool opens and closes tunnels as it likes.
        """
        answer = self.ask("status", timeout, debug=True)
        assert answer.get("ok"), f"{self.name} answers {answer}\n{self.tail()}"
        workers = answer["units"][0]["workers"]
        named = {key for each in workers for key in each} - {"number", "pid", "generation", "state", "age_s"}
        value = {key: sum(each.get(key, 0) for each in workers) for key in named}
        return value | {"spare_fds": value["fds"] - value["tunnels"]}

    def kill(self) -> None:
        """kill -9 of all its processes, as the test wants it: the exit code -9 is then the expected one."""
        workers = self.workers
        super().kill()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        psutil.wait_procs(workers, PATIENCE_S)

    @property
    def rss(self) -> int:
        """Resident memory of the workers, bytes."""
        return sum(int(each.memory_info().rss) for each in self.workers)

    @property
    def cpu_s(self) -> float:
        """CPU time that the workers have used so far, seconds."""
        times = [each.cpu_times() for each in self.workers]
        return float(sum(each.user + each.system for each in times))

    @property
    def open_files(self) -> int:
        """Open file descriptors of the workers as the kernel counts them: asking costs them none."""
        return sum(int(each.num_fds()) for each in self.workers)

    def settle(self, timeout: float = PATIENCE_S, **limits: int) -> dict[str, Any]:
        """Waits until each named statistic is at most its limit, as in settle(streams=0, spare_fds=9)."""
        now: dict[str, Any] = eventually(lambda: self._within(limits), f"{self.name}: {limits}", timeout)
        return now

    def _within(self, limits: dict[str, int]) -> dict[str, Any]:
        now = self.stats()
        over = {key: now[key] for key in limits if now[key] > limits[key]}
        assert not over, f"{self.name} still has {over}, wanted at most {limits}; all: {now}"
        return now


@functools.cache
def runtime_directory() -> Path:
    """For control sockets, whose paths have to be short. Removed when this process ends."""
    directory = tempfile.TemporaryDirectory(prefix="gt-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


def eventually(attempt: Any, what: str, timeout: float = PATIENCE_S, pause: float = 0.02) -> Any:
    """The first true result of attempt() that comes without AssertionError or OSError, before the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = attempt()
            last = repr(result)
        except (AssertionError, OSError) as error:
            result, last = None, f"{type(error).__name__}: {error}"
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout:g} s: {what}; last: {last}")
        time.sleep(pause)
