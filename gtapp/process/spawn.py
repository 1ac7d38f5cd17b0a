"""Starts worker processes, and sees them end. Called by the unit."""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import gevent
from gevent import monkey

from gtapp.errors import GTError

GT = Path(__file__).resolve().parents[2] / "gt.py"
STATE_VARIABLE = (
    "GTMASTER_STATE"  # names the descriptor in which a master that is replaced in place finds its state
)
REAP_S = 2.0  # for a process that has closed its channel to be gone
_wait = monkey.get_original("os", "waitpid")


def command(*words: str) -> list[str]:
    """The command line of a `gt.py` process."""
    return [sys.executable, str(GT), *words]


def spawn(end: socket.socket, *words: str) -> int:
    """Start `gt.py`, with the words and the number of the descriptor of `end`, which it gets; the process id.

    Raises GTError.
    """
    fd = os.dup(end.fileno())
    try:
        os.set_inheritable(fd, True)
        # All else that is open here is closed there: descriptors of Python's are not inherited.
        return os.posix_spawn(
            sys.executable,
            command(*words, str(fd)),
            os.environ,
            setsigmask=(),
            setsigdef=(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
        )
    except OSError as error:
        raise GTError(f"cannot start a process: {error.strerror}") from error
    finally:
        os.close(fd)


def reap(pid: int) -> str:
    """How a process that is about to end has ended; one that does not is killed. Waits up to REAP_S."""
    left = REAP_S
    while True:
        try:
            done, status = _wait(pid, os.WNOHANG)
        except ChildProcessError:
            return "ended"
        if done:
            break
        if left <= 0:
            kill(pid)
            left = REAP_S
        gevent.sleep(0.01)
        left -= 0.01
    code = os.waitstatus_to_exitcode(status)
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
