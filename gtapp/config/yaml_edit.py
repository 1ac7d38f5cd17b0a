"""A configuration as text, changed by options, users and services; used by `store`.

Comments, order, quotes, blank lines and everything else that a change is not about stay as they are, byte by byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.problems import nearest, quoted
from gtapp.config.schema import Option
from gtapp.config.values import ADDRESS, PORT_RANGE
from gtapp.config.yaml_change import append, put, remove, rename
from gtapp.config.yaml_tree import parse, plain
from gtapp.config.yaml_write import Plain
from gtapp.errors import ConfigError

_HOST_KEYS = {"hostNumber": "number", "hostRegex": "regex", "hostWithID": "withID"}


class Document:
    """The text of a file of `role`. Raises ConfigError on one that cannot be read; `name` begins its messages.

    `elsewhere` says of users who are not to be changed here where they stand.

    Values are given and taken in the form that they have in YAML, `Option.show`: 30, true, "1m30s", [":80"]. A value
    that means what is there already changes nothing.
    """

    def __init__(
        self, text: str, role: str, name: str = "configuration", elsewhere: Mapping[str, str] | None = None
    ) -> None:
        self._role = role
        self._name = name
        self._options = OPTIONS[role]
        self._elsewhere = elsewhere or {}
        self._bom = text[:1] if text.startswith("\ufeff") else ""
        text = text.removeprefix("\ufeff")
        self._crlf = text.count("\r\n") == text.count("\n") > 0
        self._text = text.replace("\r\n", "\n") if self._crlf else text
        self._read()

    @property
    def text(self) -> str:
        """The text as it is now."""
        return self._bom + (self._text.replace("\n", "\r\n") if self._crlf else self._text)

    # options

    def get_option(self, key: str) -> Any:
        """The value of an option, None if the file does not set it. One that means nothing is given as written."""
        entry = self._option(key)
        return _shown(entry, self._find(self._option_path(key)), key)

    def set_option(self, key: str, value: Any) -> None:
        """Set an option where the file has it; None takes it out."""
        entry = self._option(key)
        if value is None:
            for path in self._option_paths(key):
                self._remove(path)
        elif not _same(entry, self.get_option(key), value):
            self._start()
            self._set_limit((), self._option_path(key), entry, value)

    # users

    def users(self) -> dict[str, dict[str, Any]]:
        """The users of this file: what is set for each, by key."""
        users = self._mapping(("users",), "users")
        return {id: self._user(id) for id in users}

    def set_user(self, id: str, values: Mapping[str, Any]) -> None:
        """Set, or with None take out, what `values` names of a user, who is made if there is none.

        A secret takes the place of a verifier, and the other way round.
        """
        self._check_user(id)
        for key in values:
            if key not in USER:
                raise ConfigError(f"{self._name}: a user has no {quoted(key)}{nearest(key, USER)}")
        values = _exclusive(values)
        if id not in self.users():
            self._start()
            self._put(("users", id), _new_user(values))
            return
        for key, entry in USER.items():
            if key not in values:
                continue
            value, path = values[key], self._user_path(id, key)
            if value is None:
                for each in _user_paths(id, key):
                    self._remove(each)
                if not self._find(("users", id, "host")):
                    self._remove(("users", id, "host"))
            elif not _same(entry, self._user(id).get(key), value):
                self._set_limit(("users", id), path, entry, value)

    def rename_user(self, id: str, new: str) -> None:
        """Give a user another id."""
        self._check_user(id, there=True)
        self._check_user(new)
        if new in self.users():
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
        for each in self._list(("services",), "services"):
            if not isinstance(each, Mapping):
                raise ConfigError(f"{self._name}: services: found a single value, allowed: a mapping")
            shown = {key: _shown(entry, each.get(key), key) for key, entry in SERVICE.items()}
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
            new = {key: _written(SERVICE[key], values[key]) for key in order if values.get(key) is not None}
            self._start()
            self._text = append(self._text, ("services",), new, self._name)
            self._read()
            return len(services)
        self._check_service(index)
        for key, entry in SERVICE.items():
            path = ("services", index, key)
            if key not in values:
                continue
            if values[key] is None:
                self._remove(path)
            elif not _same(entry, services[index].get(key), values[key]):
                self._set_list(path, _written(entry, values[key]))
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

    def _user(self, id: str) -> dict[str, Any]:
        self._mapping(("users", id), f"user {quoted(id)}")
        shown = {key: _shown(entry, self._find(self._user_path(id, key)), key) for key, entry in USER.items()}
        return {key: value for key, value in shown.items() if value is not None}

    def _check_user(self, id: str, there: bool = False) -> None:
        if id in self._elsewhere:
            raise ConfigError(f"user {quoted(id)} stands in {self._elsewhere[id]}: change it there")
        if there and id not in self.users():
            raise ConfigError(f"{self._name}: there is no user {quoted(id)}")

    def _check_service(self, index: int) -> None:
        if not 0 <= index < len(self.services()):
            raise ConfigError(f"{self._name}: there is no service number {index + 1}")

    # reading and writing

    def _read(self) -> None:
        said = plain(parse(self._text, self._name))
        if said is not None and not isinstance(said, dict):
            raise ConfigError(f"{self._name}:1: the file: found {_shape(said)}, allowed: a mapping")
        self._said: dict[str, Any] | None = said

    def _find(self, path: Sequence[str | int]) -> Any:
        said: Any = self._said
        for key in path:
            if isinstance(said, list) and isinstance(key, int):
                said = said[key]
            elif isinstance(said, dict):
                said = said.get(str(key))
            else:
                return None
        if path == ("tcp",) or path[-1] == "tcp":
            return _ranges(said)
        return said

    def _mapping(self, path: Sequence[str | int], what: str) -> dict[str, Any]:
        said = self._find(path)
        if said is None:
            return {}
        if not isinstance(said, dict):
            raise ConfigError(f"{self._name}: {what}: found {_shape(said)}, allowed: a mapping")
        return said

    def _list(self, path: Sequence[str | int], what: str) -> list[Any]:
        said = self._find(path)
        if said is None:
            return []
        if not isinstance(said, list):
            raise ConfigError(f"{self._name}: {what}: found {_shape(said)}, allowed: a list")
        return said

    def _start(self) -> None:
        """A file with nothing in it says what it is for."""
        if self._said is None:
            self._put(("type",), self._role)

    def _put(self, path: Sequence[str | int], value: Any) -> None:
        self._text = put(self._text, path, value, self._name)
        self._read()

    def _remove(self, path: Sequence[str | int], comments: bool = False) -> None:
        self._text = remove(self._text, path, self._name, comments)
        self._read()

    def _set_limit(self, at: tuple[str, ...], path: tuple[str, ...], entry: Option, value: Any) -> None:
        """Set what may stand below `tcp` or `host`. No ports at all cannot be said by `tcp`: it stands for itself."""
        written = _written(entry, value)
        if path[-1] != "tcp":
            self._set_list(path, written)
        elif written:
            self._set_list(path, [{"range": each} for each in written])
        else:
            self._remove(path)
            self._put((*(at or ("options",)), entry.key), [])

    def _set_list(self, path: Sequence[str | int], value: Any) -> None:
        self._put(path, value)


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
            new.setdefault("host", {})[_HOST_KEYS[key]] = value
        else:
            new[key] = value
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


def _shown(entry: Option, said: Any, key: str) -> Any:
    """What the file says in the form of `Option.show`; as it is written where it cannot be read."""
    if said is None:
        return None
    texts = said if isinstance(said, list) else [said]
    try:
        values = [entry.kind.parse(str(text)) for text in texts]
    except ValueError:
        return said
    if entry.many:
        return entry.show(values)
    return entry.show(values[0]) if len(values) == 1 else said


def _same(entry: Option, old: Any, new: Any) -> bool:
    return old is not None and old == _shown(entry, _texts(new), entry.key)


def _texts(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_texts(each) for each in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _written(entry: Option, value: Any) -> Any:
    """A value as it is to be written: without quotes what is no text to GT."""
    if isinstance(value, (list, tuple)):
        return [_written(entry, each) for each in value]
    if isinstance(value, str) and value:
        if entry.kind in (ADDRESS, PORT_RANGE):
            return Plain(value)
        try:
            return value if isinstance(entry.kind.show(entry.kind.parse(value)), str) else Plain(value)
        except ValueError:
            return value
    return value


def _shape(said: Any) -> str:
    return "a list" if isinstance(said, list) else "a mapping" if isinstance(said, dict) else "a single value"
