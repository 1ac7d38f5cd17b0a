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
from gtapp.relay.channel import close_all

GT = Path(__file__).resolve().parents[2] / "gt.py"
STATE_VARIABLE = (
    "GTMASTER_STATE"  # names the descriptor in which a master that is replaced in place finds its state
)
REAP_S = 2.0  # for a process that has closed its channel to be gone
POLL_S = 0.01
# A terminal sends some of them to all processes; the master says what to do. Blocked from their first moment.
NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
EXITED = "ended with exit code 0"
PREFLIGHT_S = 30.0  # for new code to show that it can be loaded
# The system's own: with gevent's, libev takes the exit codes of all children, also of those it knows nothing of.
_wait = monkey.get_original("os", "waitpid")
_spawn = monkey.get_original("os", "posix_spawn")


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
        pid: int = _spawn(
            sys.executable,
            command(*words, str(fd)),
            os.environ,
            setsigmask=NOT_FOR_WORKERS,
            setsigdef=NOT_FOR_WORKERS,
        )
        return pid
    except OSError as error:
        raise GTError(f"cannot start a process: {error.strerror}") from error
    finally:
        close_all([fd])  # at once: the next process must not inherit it


def preflight() -> None:
    """See whether the program that is installed now can be loaded. Raises GTError that says why not."""
    output = os.memfd_create("gt-preflight")
    try:
        actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        pid = _spawn(sys.executable, command("preflight"), os.environ, file_actions=actions)
        how = reap(pid, PREFLIGHT_S)
        if how == EXITED:
            return
        last = os.pread(output, 65536, 0).decode("utf-8", "replace").strip().rpartition("\n")[2]
    except OSError as error:
        how, last = "cannot be started", error.strerror or ""
    finally:
        close_all([output])
    raise GTError(f"the program that is installed now does not work, it {how}: {last}")


def reap(pid: int, seconds: float = REAP_S) -> str:
    """How a process has ended that is about to end; one that does not within `seconds` is killed. Waits."""
    left = seconds
    while True:
        try:
            done, status = _wait(pid, os.WNOHANG)
        except ChildProcessError:
            return "ended"
        if done:
            break
        if left <= 0:
            kill(pid)
            left = seconds
        gevent.sleep(POLL_S)
        left -= POLL_S
    code = os.waitstatus_to_exitcode(status)
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
