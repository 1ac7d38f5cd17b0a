"""The store owns a configuration file: it reads, checks, changes and saves it, and keeps its last versions. Used by
the console, and by whatever else saves a configuration.

A save is all or nothing, whatever happens meanwhile: the file is the old or the new one, and the new one was loaded
before. Several processes may save; one that has not seen what the file says now gets a Conflict.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from gtapp.config import problems
from gtapp.config.config_file import read_users_file
from gtapp.config.durable import sync_directory, write_new
from gtapp.config.environ import read_environ
from gtapp.config.files import MAX_FILE_BYTES, Files, decode, read_bytes
from gtapp.config.flags import read_flags
from gtapp.config.load import ClientConfig, ServerConfig, load_client, load_server
from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.schema import Option
from gtapp.config.values import MIB
from gtapp.config.versions import Version, Versions
from gtapp.config.yaml_edit import Document
from gtapp.errors import ConfigError, GTError

__all__ = ["Conflict", "DiffLine", "Document", "Problem", "Saved", "Store", "Text", "Version", "diff"]

LOCK_S = 30.0  # a save takes milliseconds: who waits longer waits for a process that hangs
LOCK_AGAIN_S = 0.005
BY_HAND = "by hand"
MAX_EXACT = 1000  # lines of a difference that is found exactly: the time grows with their square
_ANY_SECRET = (
    "random"  # of a client that has none: the same each time, so that equal texts amount to the same
)
_BOM = b"\xef\xbb\xbf"


class Text(NamedTuple):
    """A configuration: `etag` changes with the file, "" is that of no file."""

    text: str
    etag: str


class Saved(NamedTuple):
    """A change that was saved: the text before it, and after."""

    before: str
    after: Text


class Problem(NamedTuple):
    """Something wrong with a configuration: its line, the option it is about, and what to do."""

    line: int | None
    key: str | None
    message: str


class DiffLine(NamedTuple):
    """A line that stays (" "), goes ("-") or comes ("+")."""

    kind: Literal[" ", "-", "+"]
    text: str


class Conflict(GTError):
    """The file is not what the change was based on. `current` is what it is now."""

    def __init__(self, current: Text) -> None:
        super().__init__("the configuration was changed meanwhile: look at what it says now, and save again")
        self.current = current


class Store:
    """The configuration at `path`, of a server or client, whose versions are in the directory `state`.

    `words` and `environ` are those the process was started with: what is saved is checked together with them.
    """

    def __init__(
        self,
        path: Path,
        role: str,
        state: Path,
        words: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.role = role
        self.state = state
        self._environ = dict(environ or {})
        named = read_flags(words, OPTIONS[role], _service(role), problems.Problems()).path
        self._words = tuple(words) if named else ("-c", str(path), *words)
        self._name = str(Path(named)) if named else str(path)
        self._versions = Versions(state / "versions")

    def read(self) -> Text:
        """What the file says now. Raises ConfigError when it cannot be read."""
        data = self._data()
        return Text("", "") if data is None else _text(self.path, data)

    def check(self, text: str) -> list[Problem]:
        """All that is wrong with a text, were it the file."""
        try:
            self.load(text)
        except ConfigError as error:
            return [self._problem(line) for line in str(error).split("\n")]
        return []

    def load(self, text: str) -> ServerConfig | ClientConfig:
        """What a text amounts to, were it the file. Raises ConfigError."""
        with _quiet():
            return self._load(text)

    def document(self, text: str) -> Document:
        """A text to be read or changed by options, users and services. Raises ConfigError."""
        return Document(text, self.role, self._name, self._users_elsewhere)

    def save(self, text: str, etag: str | None, who: str, what: str) -> Text:
        """Save a text that is based on `etag`; None: on whatever is there.

        Raises Conflict, and ConfigError when it is not right or cannot be written.
        """
        return self._save(lambda before: _with_line_ends_of(before, text), etag, who, what).after

    def edit(self, change: Callable[[Document], object], etag: str | None, who: str, what: str) -> Saved:
        """Save what `change` makes of the configuration. Raises as `save` does, and what `change` raises."""
        return self._save(lambda before: self._changed(before, change), etag, who, what)

    def preview(
        self, change: Callable[[Document], object], etag: str | None
    ) -> tuple[str, str, list[Problem]]:
        """The text before a change and after it, and what is wrong with it then; nothing is saved.

        Raises Conflict, ConfigError, and what `change` raises.
        """
        before = self.read()
        _check_etag(etag, before)
        after = self._changed(before.text, change)
        return before.text, after, self.check(after)

    def versions(self) -> list[Version]:
        """The versions that are kept, the newest first."""
        return self._versions.all()

    def version(self, id: str) -> str:
        """The text of a version. Raises ConfigError."""
        return _text(Path(f"version {id}"), self._versions.data(id)).text

    def restore(self, id: str, who: str, etag: str | None = None) -> Saved:
        """Save a version once more, in the place of what `etag` stands for. Raises as `save` does."""
        text = self.version(id)
        return self._save(lambda before: text, etag, who, f"version {id} restored")

    def new(self, text: str, who: str) -> Text:
        """Save the first configuration. Raises ConfigError, also when there is a file already."""
        try:
            return self._save(lambda before: text, "", who, "first configuration").after
        except Conflict:
            raise ConfigError(f"{self.path}: is there already, and stays as it is") from None

    # saving

    def _save(self, make: Callable[[str], str], etag: str | None, who: str, what: str) -> Saved:
        target = Path(os.path.realpath(self.path))  # a link stays a link
        with self._alone():
            data = self._data()
            before = Text("", "") if data is None else _text(self.path, data)
            _check_etag(etag, before)
            text = make(before.text)
            new = (_BOM if data is not None and data.startswith(_BOM) else b"") + self._encoded(text)
            if new == data:
                return Saved(before.text, before)
            self.load(text)
            after = Text(text, _etag(new))
            try:
                self._keep(target, data, before.etag)
                self._versions.prepare(Version("", time.time(), who, what, after.etag), new)
                try:
                    self._replace(target, data, new)
                except BaseException:
                    self._versions.forget()
                    raise
            except OSError as error:
                raise ConfigError(f"{self.path}: {_why_unwritable(error, target)}") from error
            with contextlib.suppress(OSError):  # it is saved, and the next save settles it
                self._versions.settle(after.etag)
        return Saved(before.text, after)

    def _replace(self, target: Path, old: bytes | None, new: bytes) -> None:
        """Put `new` in the place of `old`. Raises OSError, and Conflict when that is not there any more."""
        temporary = target.with_name(f".{target.name}.saving")  # no directory of configurations takes that up
        try:
            write_new(temporary, new, None if old is None else target.stat())
            if self._data() != old:  # an editor does not wait for our lock
                raise Conflict(self.read())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(target.parent)

    def _keep(self, target: Path, data: bytes | None, etag: str) -> None:
        """See to it that what is there now is among the versions: somebody may have edited the file."""
        self._versions.settle(etag)
        newest = self._versions.all()[:1]
        if data is not None and not (newest and newest[0].etag == etag):
            self._versions.prepare(Version("", target.stat().st_mtime, BY_HAND, "", etag), data)
            self._versions.settle(etag)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While other threads and processes that want to save wait."""
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.state / "versions").mkdir(mode=0o700, exist_ok=True)
            lock = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{self.path}: {_why_unwritable(error, self.state)}") from error
        try:
            deadline = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ConfigError(f"{self.path}: another process is saving it, try again") from None
                    time.sleep(LOCK_AGAIN_S)  # blocking in flock would hold all greenlets
            yield
        finally:
            os.close(lock)

    def _data(self) -> bytes | None:
        try:
            return read_bytes(self.path)
        except ConfigError:
            if not self.path.exists():
                return None
            raise

    def _changed(self, before: str, change: Callable[[Document], object]) -> str:
        document = self.document(before)
        change(document)
        return document.text

    # loading

    def _load(self, text: str) -> ServerConfig | ClientConfig:
        if len(self._encoded(text)) > MAX_FILE_BYTES:
            raise ConfigError(f"{self._name}: is larger than {MAX_FILE_BYTES // MIB} MiB")
        files = Files({self._name: text})
        if self.role == "server":
            return load_server(self._words, self._environ, files)
        return load_client(self._words, self._environ, files, _ANY_SECRET)

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            line = text.count("\n", 0, error.start) + 1
            raise ConfigError(f"{self._name}:{line}: holds a character that is no text, remove it") from None

    def _problem(self, line: str) -> Problem:
        at, message = None, line
        if match := re.match(rf"{re.escape(self._name)}(?::(\d+))?: ", line):
            at, message = match[1], line[match.end() :]
        message = re.sub(rf"{re.escape(self._name)}:(\d+)", r"line \1", message)
        key = message.partition(":")[0]
        known = (
            key in OPTIONS[self.role] or key in _PARTS or key in (SERVICE if self.role == "client" else USER)
        )
        return Problem(int(at) if at else None, _PARTS.get(key, key) if known else None, message)

    def _users_elsewhere(self, document: Document) -> dict[str, str]:
        """The users who stand somewhere that counts more than the `users` of the file, and where that is."""
        if self.role != "server":
            return {}
        ignored = problems.Problems()
        found: dict[str, str] = {}
        flags = read_flags(self._words, OPTIONS["server"], {}, ignored).options
        given = read_environ(self._environ, OPTIONS["server"], ignored) | flags
        path = given["users"].value if "users" in given else document.get_option("users")
        if path:
            with contextlib.suppress(ConfigError):  # whoever saves hears of it
                users = read_users_file(Path(path), problems.Problems())
                found = dict.fromkeys(users, f"the users file {path}")
        if "id" in given:
            label = given["id"].label
            where = "the command line" if label.startswith("--") else "the environment"
            return found | dict.fromkeys(given["id"].value, f"{where} ({label})")
        return found | dict.fromkeys(document.get_option("id") or (), f"the options of {self._name}")


def diff(before: str, after: str) -> list[DiffLine]:
    """Every line of two texts."""
    old, new = before.splitlines(), after.splitlines()
    same = _common(old, new)
    end = _common(old[same:][::-1], new[same:][::-1])  # what is alike at both ends would only slow it down
    a, b = old[same : len(old) - end], new[same : len(new) - end]
    lines = [DiffLine(" ", line) for line in old[:same]]
    for _, i, j, k, n in difflib.SequenceMatcher(
        None, a, b, autojunk=max(len(a), len(b)) > MAX_EXACT
    ).get_opcodes():
        if a[i:j] == b[k:n]:
            lines += [DiffLine(" ", line) for line in a[i:j]]
            continue
        lines += [DiffLine("-", line) for line in a[i:j]]
        lines += [DiffLine("+", line) for line in b[k:n]]
    return lines + [DiffLine(" ", line) for line in old[len(old) - end :]]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines are alike at the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


# what parts of `tcp` and `host` are called as options
_PARTS = {
    "tcp": "tcpRange",
    "range": "tcpRange",
    "number": "hostNumber",
    "regex": "hostRegex",
    "withID": "hostWithID",
}


def _service(role: str) -> Mapping[str, Option]:
    return SERVICE if role == "client" else {}


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(path: Path, data: bytes) -> Text:
    return Text(decode(path, data), _etag(data))


def _with_line_ends_of(before: str, text: str) -> str:
    """A text with the line ends of the one before: a form gives back CRLF, whatever it was given."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    lines = before.count("\n")
    return text.replace("\n", "\r\n") if 0 < lines == before.count("\r\n") else text


def _why_unwritable(error: OSError, path: Path) -> str:
    """What is wrong, in words that say what to do. `path` is what was to be written."""
    directory = path.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "cannot be saved, the disk is full: make room and save again. Nothing was changed"
    if error.errno == errno.EROFS:
        return f"cannot be saved, {directory} is read-only: mount it writable"
    if error.errno in (errno.EACCES, errno.EPERM):
        user = os.geteuid()
        return f"cannot be saved, {directory} may not be written by user {user}: chown {user} {directory}"
    if error.errno == errno.EBUSY:
        return f"cannot be replaced, it is mounted by itself: mount the directory {directory} instead"
    return f"cannot be saved: {error.strerror}"


def _check_etag(etag: str | None, current: Text) -> None:
    if etag is not None and etag != current.etag:
        raise Conflict(current)


class _Quiet(threading.local):
    """Whether this thread, or greenlet, only tries how a configuration loads."""

    on = False


_state = _Quiet()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the loader's warnings: who starts or reloads a configuration has them in the log."""
    before, _state.on = _state.on, True
    try:
        yield
    finally:
        _state.on = before


logging.getLogger("gt.config").addFilter(lambda record: not _state.on)
