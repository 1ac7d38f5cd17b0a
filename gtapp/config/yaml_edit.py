"""A configuration as text, changed by options, users and services; used by `store`.

Comments, order, quotes, blank lines and everything else that a change is not about stay as they are, byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.problems import nearest, quoted
from gtapp.config.schema import Option
from gtapp.config.values import ADDRESS, PORT_RANGE
from gtapp.config.yaml_change import append, put, remove, rename
from gtapp.config.yaml_tree import check, line_of, parse, plain
from gtapp.config.yaml_write import Plain
from gtapp.errors import ConfigError

_HOST_KEYS = {"hostNumber": "number", "hostRegex": "regex", "hostWithID": "withID"}


class Document:
    """The text of a file of `role`. Raises ConfigError on one that cannot be read; `name` begins its messages.

    `elsewhere` says of users who are not to be changed here where they stand: what this file says of them counts
    for nothing.

    Values are given and taken in the form that they have in YAML, `Option.show`: 30, true, "1m30s", [":80"]. A value
    that means what is there already changes nothing.
    """

    def __init__(
        self,
        text: str,
        role: str,
        name: str = "configuration",
        elsewhere: Callable[[Document], Mapping[str, str]] = lambda document: {},
    ) -> None:
        self._role = role
        self._name = name
        self._options = OPTIONS[role]
        self._elsewhere = elsewhere
        self._bom = text[:1] if text.startswith("\ufeff") else ""
        text = text.removeprefix("\ufeff")
        self._crlf = text.count("\r\n") == text.count("\n") > 0
        self._text = text.replace("\r\n", "\n") if self._crlf else text
        check(self._text, name)
        self._read()

    @property
    def text(self) -> str:
        """The text as it is now."""
        return self._bom + (self._text.replace("\n", "\r\n") if self._crlf else self._text)

    # options

    def get_option(self, key: str) -> Any:
        """The value of an option, None if the file does not set it. One that is not allowed is given as written."""
        entry = self._option(key)
        return _shown(entry, self._find(self._option_path(key)))

    def set_option(self, key: str, value: Any) -> None:
        """Set an option where the file has it; None takes it out."""
        entry = self._option(key)
        if value is None:
            for path in self._option_paths(key):
                self._clear(path)
            self._tidy(key, "host")
        elif not _same(entry, self.get_option(key), value):
            self._start()
            self._set_limit((), self._option_path(key), entry, value)

    # users

    def users(self) -> dict[str, dict[str, Any]]:
        """The users of this file: what is set for each, by key."""
        return {id: self._user(id) for id in self._users()}

    def set_user(self, id: str, values: Mapping[str, Any]) -> None:
        """Set, or with None take out, what `values` names of a user, who is made if there is none.

        A secret takes the place of a verifier, and the other way round.
        """
        self._check_user(id)
        for key in values:
            if key not in USER:
                raise ConfigError(f"{self._name}: a user has no {quoted(key)}{nearest(key, USER)}")
        values = _exclusive(values)
        if id not in self._users():
            self._start()
            self._put(("users", id), _new_user(values))
            return
        for key, entry in USER.items():
            if key not in values:
                continue
            value, path = values[key], self._user_path(id, key)
            if value is None:
                for each in _user_paths(id, key):
                    self._clear(each)
                self._tidy(key, "users", id, "host")
            elif not _same(entry, self._user(id).get(key), value):
                self._set_limit(("users", id), path, entry, value)

    def rename_user(self, id: str, new: str) -> None:
        """Give a user another id."""
        self._check_user(id, there=True)
        self._check_user(new)
        if new in self._users():
            raise ConfigError(f"{self._name}: there is a user {quoted(new)} already, choose another id")
        self._text = rename(self._text, ("users", id), new, self._name)
        self._read()

    def remove_user(self, id: str) -> None:
        """Take a user out, and the comment right above."""
        self._check_user(id, there=True)
        self._remove(("users", id), comments=True)

    # services

    def services(self) -> list[dict[str, Any]]:
        """The services of this file: what is set for each, by key."""
        found = []
        for index in range(len(self._list(("services",), "services"))):
            each = self._mapping(("services", index), "services")
            shown = {key: _shown(entry, each.get(key)) for key, entry in SERVICE.items()}
            found.append({key: value for key, value in shown.items() if value is not None})
        return found

    def set_service(self, index: int | None, values: Mapping[str, Any]) -> int:
        """Set, or with None take out, what `values` names of a service; without an index it is a new one.

        The index of the service.
        """
        for key in values:
            if key not in SERVICE:
                raise ConfigError(f"{self._name}: a service has no {quoted(key)}{nearest(key, SERVICE)}")
        services = self.services()
        if index is None:
            order = ("local", *(key for key in SERVICE if key != "local"))
            given = [key for key in order if values.get(key) is not None]
            new = {key: _compact(_written(SERVICE[key], values[key])) for key in given}
            self._start()
            self._append(("services",), new)
            return len(services)
        self._check_service(index)
        for key, entry in SERVICE.items():
            path = ("services", index, key)
            if key not in values:
                continue
            if values[key] is None:
                self._clear(path)
            elif not _same(entry, services[index].get(key), values[key]):
                self._set(path, entry, _written(entry, values[key]))
        return index

    def remove_service(self, index: int) -> None:
        """Take a service out, and the comment right above."""
        self._check_service(index)
        self._remove(("services", index), comments=True)

    # where things stand

    def _option(self, key: str) -> Option:
        if key not in self._options:
            hint = nearest(key, self._options)
            raise ConfigError(f"{self._name}: a {self._role} has no option {quoted(key)}{hint}")
        return self._options[key]

    def _option_paths(self, key: str) -> list[tuple[str, ...]]:
        paths: list[tuple[str, ...]] = [("options", key)]
        if self._role == "server" and key == "tcpRange":
            paths.append(("tcp",))
        if self._role == "server" and key in _HOST_KEYS:
            paths.append(("host", _HOST_KEYS[key]))
        return paths

    def _option_path(self, key: str) -> tuple[str, ...]:
        """Where the file has an option, or would have it."""
        paths = self._option_paths(key)
        if self._find(paths[0]) is None:
            for path in paths[1:]:
                if path[0] in (self._said or {}):
                    return path
        return paths[0]

    def _user_path(self, id: str, key: str) -> tuple[str, ...]:
        paths = _user_paths(id, key)
        return paths[0] if self._find(paths[0]) is not None else paths[-1]

    def _users(self) -> dict[str, Any]:
        return self._mapping(("users",), "users")

    def _user(self, id: str) -> dict[str, Any]:
        self._mapping(("users", id), f"user {quoted(id)}")
        shown = {key: _shown(entry, self._find(self._user_path(id, key))) for key, entry in USER.items()}
        return {key: value for key, value in shown.items() if value is not None}

    def _check_user(self, id: str, there: bool = False) -> None:
        if place := self._elsewhere(self).get(id):
            raise ConfigError(f"user {quoted(id)} stands in {place}: change it there")
        if there and id not in self._users():
            raise ConfigError(f"{self._name}: there is no user {quoted(id)}")

    def _check_service(self, index: int) -> None:
        if not 0 <= index < len(self.services()):
            raise ConfigError(f"{self._name}: there is no service number {index + 1}")

    # reading and writing

    def _read(self) -> None:
        said = plain(parse(self._text, self._name))
        if said is not None and not isinstance(said, dict):
            raise self._unexpected((), "the file", said, "a mapping")
        self._said: dict[str, Any] | None = said

    def _find(self, path: Sequence[str | int]) -> Any:
        """What stands at a path; of `tcp` its ranges."""
        said = self._raw(path)
        is_tcp = path[0] == "tcp" or (path[0] == "users" and path[2:] == ("tcp",))
        return _ranges(said) if is_tcp else said

    def _raw(self, path: Sequence[str | int]) -> Any:
        said: Any = self._said
        for key in path:
            if isinstance(said, list) and isinstance(key, int):
                said = said[key]
            elif isinstance(said, dict):
                said = said.get(str(key))
            else:
                return None
        return said

    def _mapping(self, path: Sequence[str | int], what: str) -> dict[str, Any]:
        said = self._find(path)
        if said is None:
            return {}
        if not isinstance(said, dict):
            raise self._unexpected(path, what, said, "a mapping")
        return said

    def _list(self, path: Sequence[str | int], what: str) -> list[Any]:
        said = self._find(path)
        if said is None:
            return []
        if not isinstance(said, list):
            raise self._unexpected(path, what, said, "a list")
        return said

    def _unexpected(self, path: Sequence[str | int], what: str, said: Any, allowed: str) -> ConfigError:
        line = line_of(path, self._text, self._name)
        return ConfigError(f"{self._name}:{line}: {what}: found {_shape(said)}, allowed: {allowed}")

    def _start(self) -> None:
        """A file with nothing in it says what it is for."""
        if self._said is None:
            self._put(("type",), self._role)

    def _put(self, path: Sequence[str | int], value: Any) -> None:
        self._text = put(self._text, path, value, self._name)
        self._read()

    def _append(self, path: Sequence[str | int], value: Any) -> None:
        self._text = append(self._text, path, value, self._name)
        self._read()

    def _remove(self, path: Sequence[str | int], comments: bool = False) -> None:
        self._text = remove(self._text, path, self._name, comments)
        self._read()

    def _clear(self, path: Sequence[str | int]) -> None:
        """Take a value out, if there is one."""
        if self._raw(path) is not None:
            self._remove(path)

    def _tidy(self, key: str, *path: str) -> None:
        """Take out the `host` at `path` if `key` was the last thing in it."""
        around = self._raw(path[:-1])
        if key in _HOST_KEYS and isinstance(around, dict) and around.get("host", self) is None:
            self._remove(path)

    def _set_limit(self, at: tuple[str, ...], path: tuple[str, ...], entry: Option, value: Any) -> None:
        """Set what may stand below `tcp` or `host`. No ports at all cannot be said by `tcp`: it stands for itself."""
        written = _written(entry, value)
        if path[-1] != "tcp":
            self._set(path, entry, written)
        elif written:
            self._set(path, entry, [{"range": each} for each in written])
        else:
            self._remove(path)
            self._put((*(at or ("options",)), entry.key), [])

    def _set(self, path: Sequence[str | int], entry: Option, value: Any) -> None:
        """Set a value. A list keeps its form, and those of its items that stay are not touched."""
        old = self._raw(path)
        if not isinstance(value, list) or not isinstance(old, list) or not value or not old:
            self._put(path, _compact(value))
            return
        meant = [_item(entry, each) for each in value]
        stay: list[int] = []
        for index, each in enumerate(old):
            if len(stay) < len(meant) and _item(entry, each) == meant[len(stay)]:
                stay.append(index)
        for each in value[len(stay) :]:
            self._append(path, each)
        for index in reversed(range(len(old))):
            if index not in stay:
                self._remove((*path, index))


def _user_paths(id: str, key: str) -> list[tuple[str, ...]]:
    """Where a user may have `key`; the last is where it is put."""
    paths: list[tuple[str, ...]] = [("users", id, key)]
    if key == "tcpRange":
        paths.append(("users", id, "tcp"))
    if key in _HOST_KEYS:
        paths.append(("users", id, "host", _HOST_KEYS[key]))
    return paths


def _new_user(values: Mapping[str, Any]) -> dict[str, Any]:
    new: dict[str, Any] = {}
    for key, entry in USER.items():
        if values.get(key) is None:
            continue
        value = _written(entry, values[key])
        if key == "tcpRange" and value:
            new["tcp"] = [{"range": each} for each in value]
        elif key in _HOST_KEYS:
            new.setdefault("host", {})[_HOST_KEYS[key]] = _compact(value)
        else:
            new[key] = _compact(value)
    return new


def _exclusive(values: Mapping[str, Any]) -> dict[str, Any]:
    secret, verifier = values.get("secret"), values.get("verifier")
    if secret is not None and verifier is not None:
        raise ConfigError("a user has a secret or a verifier, give one of the two")
    if secret is not None:
        return {**values, "verifier": None}
    if verifier is not None:
        return {**values, "secret": None}
    return dict(values)


def _ranges(said: Any) -> Any:
    """The ports of a `tcp` section; None where there are none."""
    if not isinstance(said, list):
        return None
    ranges = [each.get("range") for each in said if isinstance(each, dict)]
    return [each for each in ranges if each is not None] or None


def _shown(entry: Option, said: Any) -> Any:
    """What the file says in the form of `Option.show`; as it is written where it cannot be read."""
    if said is None:
        return None
    texts = said if isinstance(said, list) else [said]
    if not all(isinstance(text, str) for text in texts) or (isinstance(said, list) and not entry.many):
        return None
    try:
        values = [entry.kind.parse(text) for text in texts]
    except ValueError:
        return said
    return entry.show(values if entry.many else values[0])


def _same(entry: Option, old: Any, new: Any) -> bool:
    return old is not None and old == _shown(entry, _texts(new))


def _item(entry: Option, each: Any) -> Any:
    """What an item of a list means, by itself or as the `range` of a `tcp`."""
    return _shown(entry, [_texts(each.get("range") if isinstance(each, dict) else each)])


def _texts(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_texts(each) for each in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _written(entry: Option, value: Any) -> Any:
    """A value as it is to be written: without quotes what is no text to GT."""
    if entry.many:
        return [_word(entry, each) for each in (value if isinstance(value, (list, tuple)) else [value])]
    return _word(entry, value)


def _word(entry: Option, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if entry.kind in (ADDRESS, PORT_RANGE):
        return Plain(value)
    try:
        return value if isinstance(entry.kind.show(entry.kind.parse(value)), str) else Plain(value)
    except ValueError:
        return value


def _compact(value: Any) -> Any:
    """A list of one word is that word."""
    is_word = isinstance(value, list) and len(value) == 1 and not isinstance(value[0], dict)
    return value[0] if is_word else value


def _shape(said: Any) -> str:
    return "a list" if isinstance(said, list) else "a mapping" if isinstance(said, dict) else "a single value"
