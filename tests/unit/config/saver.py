"""Saves configurations in a process of its own; run by the tests of the store.

saver.py users PATH STATE NAME COUNT      adds COUNT users, one save each
saver.py kill PATH STATE TEXT NEW         saves NEW over TEXT (file names; TEXT may not exist) in processes that
                                          are killed, each one line of the saving later than the one before;
                                          prints what is there after each: "old", "new" or what is wrong
saver.py greenlets PATH STATE             two greenlets save at a time, the first waits for the second to begin
saver.py limit PATH STATE NEW BYTES       saves NEW when no file may be longer than BYTES
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

SAVING = ("store.py", "durable.py", "versions.py")


def users(path: Path, state: Path, name: str, count: int) -> None:
    from gtapp.config.store import Store

    store = Store(path, "server", state)
    for number in range(count):
        store.edit(lambda file, id=f"{name}{number}": file.set_user(id, {"secret": "s"}), None, name, "add")  # type: ignore[misc]


def kill(path: Path, state: Path, old_file: Path, new_file: Path) -> None:
    from gtapp.config.store import Store

    old = old_file.read_bytes() if old_file.exists() else None
    new = new_file.read_text()
    line = 0
    while True:
        line += 1
        if old is None:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_bytes() != old:
            Store(path, "server", state).save(old.decode(), None, "before", "before")
        known = {each.id for each in Store(path, "server", state).versions()}
        child = os.fork()
        if not child:
            sys.settrace(_Killer(line).trace)
            Store(path, "server", state).save(new, None, "child", "change")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        data = path.read_bytes() if path.exists() else None
        print("old" if data == old else "new" if data == new.encode() else f"broken at line {line}: {data!r}")
        Store(path, "server", state).save(f"{new}# after\n", None, "after", "after")  # nothing is in the way
        left = [each.name for each in path.parent.iterdir() if each not in (path, state, old_file, new_file)]
        if left or (state / "versions/pending").exists():
            print(f"left behind at line {line}: {left}")
        kept = Store(path, "server", state)
        if data is not None and data.decode() not in [kept.version(each.id) for each in kept.versions()[:3]]:
            print(f"no version of what was there at line {line}")
        if (data == new.encode()) != (
            "child" in [each.who for each in kept.versions() if each.id not in known]
        ):
            print(f"a version that never was, or that nobody saved, at line {line}")


class _Killer:
    """Kills this process at a line of the saving, counted from its beginning."""

    def __init__(self, lines: int) -> None:
        self._left = lines

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if Path(frame.f_code.co_filename).name not in SAVING:
            return None
        if event == "line":
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.trace


def greenlets(path: Path, state: Path) -> None:
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from gevent.event import Event

    from gtapp.config.store import Store

    store = Store(path, "server", state)
    first_saves, second_begins = Event(), Event()

    def first() -> None:
        def change(file: Any) -> None:
            first_saves.set()
            assert second_begins.wait(20)
            gevent.idle()  # the second one has tried
            file.set_user("first", {"secret": "s"})

        store.edit(change, None, "first", "add")

    def second() -> None:
        assert first_saves.wait(20)
        second_begins.set()
        store.edit(lambda file: file.set_user("second", {"secret": "s"}), None, "second", "add")

    gevent.joinall([gevent.spawn(first), gevent.spawn(second)], timeout=30, raise_error=True)
    print(*store.document(store.read().text).users())


def limit(path: Path, state: Path, new_file: Path, limit_bytes: int) -> None:
    from gtapp.config.store import Store
    from gtapp.errors import ConfigError

    store = Store(path, "server", state)
    new = new_file.read_text()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        store.save(new, None, "somebody", "change")
    except ConfigError as error:
        print(error)


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "users":
        users(Path(words[0]), Path(words[1]), words[2], int(words[3]))
    elif command == "kill":
        kill(*map(Path, words))
    elif command == "greenlets":
        greenlets(*map(Path, words))
    elif command == "limit":
        limit(Path(words[0]), Path(words[1]), Path(words[2]), int(words[3]))
