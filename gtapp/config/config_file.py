"""The layout of GT's YAML files: what stands where, read into values by key; used by `load` and `cli`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from gtapp.config.files import Files
from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.problems import Problems, Values, nearest, quoted
from gtapp.config.schema import Option
from gtapp.config.values import CREDENTIAL
from gtapp.config.yaml_file import Entries, YamlFile, is_null
from gtapp.errors import ConfigError

_OBSOLETE = ("pprof",)  # means nothing here (Go's profiler), but files of the original GT may have it
_LAYOUT = {"server": ("users", "tcp", "host"), "client": ("services",), "connect": ()}
_LISTENING = ("addr", "tlsAddr", "sniAddr", "quicAddr")  # where these are set, it is a server
_HOST_KEYS = {"number": "hostNumber", "regex": "hostRegex", "withID": "hostWithID"}


class Part(NamedTuple):
    """A user or a service as somebody wrote it, and where."""

    label: str
    given: Values


class Contents(NamedTuple):
    """What one file says."""

    options: Values
    users: dict[str, Part]
    services: list[Part]


def role_of(path: Path, files: Files | None = None) -> str:
    """What a file is for: server, client or connect, or "users" for a users file. Raises ConfigError.

    `type` says it; without it, the keys show it.
    """
    problems = Problems()
    file = YamlFile(path, problems, files)
    top = file.mapping(file.root, "the file")
    problems.check()
    if "type" in top:
        _, node = top["type"]
        role = _word(node)
        if role not in OPTIONS:
            raise ConfigError(f"{file.at(node)}: type: found {quoted(role)}, allowed: {' or '.join(OPTIONS)}")
        return role
    if "services" in top:
        return "client"
    options = top.get("options")
    if not top.keys().isdisjoint(_LAYOUT["server"]) or (options and _says(options[1], *_LISTENING)):
        return "server"
    if top and all(_says(node, "secret", "verifier") for _, node in top.values()):
        return "users"
    raise ConfigError(f'{path}: does not say what it is for, add "type: server" or "type: client"')


def read_config_file(path: Path, role: str, problems: Problems, files: Files | None = None) -> Contents:
    """What a config file of `role` says. Raises ConfigError when the file itself is unusable."""
    file = YamlFile(path, problems, files)
    options = OPTIONS[role]
    top = file.mapping(file.root, "the file")
    allowed = ("type", "version", "options", *_LAYOUT[role])
    for key, (key_node, node) in top.items():
        if key == "type" and _word(node) != role:
            problems.add(f"{file.at(node)}: type: found {quoted(_word(node))}, allowed: {role}")
        elif key not in allowed:
            hint = ', it belongs under "options"' if key in options else nearest(key, allowed)
            problems.add(f"{file.at(key_node)}: unknown key {quoted(key)} in the file of a {role}{hint}")
    top = {key: nodes for key, nodes in top.items() if key in allowed}
    given = _limits(file, top)
    if "options" in top:
        entries = file.mapping(top["options"][1], "options", (*options, *_OBSOLETE))
        for key, value in _values(file, entries, options).items():
            if key in given:
                problems.add(f"{value.label}: is there twice, see {given[key].label}")
            given[key] = value
    users = _users(file, top["users"][1]) if "users" in top else {}
    services = _services(file, top["services"][1]) if "services" in top else []
    return Contents(given, users, services)


def read_users_file(path: Path, problems: Problems, files: Files | None = None) -> dict[str, Part]:
    """The users of a users file, by id. Raises ConfigError when the file itself is unusable."""
    file = YamlFile(path, problems, files)
    return _users(file, file.root)


def _users(file: YamlFile, node: yaml.Node) -> dict[str, Part]:
    users = {}
    for id, (key_node, value) in file.mapping(node, "users").items():
        label = f"{file.at(key_node)}: user {quoted(id)}"
        try:
            CREDENTIAL.parse(id)
        except ValueError:
            file.problems.add(f"{label}: the id has to be {CREDENTIAL.allowed}")
        entries = file.mapping(value, f"user {quoted(id)}", (*USER, "tcp", "host"))
        if not _has(entries, "secret") and not _has(entries, "verifier"):
            file.problems.add(f"{label}: has no secret (or verifier)")
        users[id] = Part(label, _limits(file, entries) | _values(file, entries, USER))
    return users


def _services(file: YamlFile, node: yaml.Node) -> list[Part]:
    parts = []
    for item in file.items(node, "services"):
        entries = file.mapping(item, "services", SERVICE)
        if not _has(entries, "local"):
            file.problems.add(f'{file.at(item)}: services: "local" is missing, the URL of the service')
        parts.append(Part(f"{file.at(item)}: services", _values(file, entries, SERVICE)))
    return parts


def _limits(file: YamlFile, entries: Entries) -> Values:
    """`tcp: [{range: 1024-65535}]` and `host: {number, regex, withID}`, of a server's file or of a user.

    An empty `tcp` sets nothing, as in the original GT.
    """
    given: Values = {}
    if "tcp" in entries:
        key_node, node = entries["tcp"]
        texts: list[str] = []
        for item in file.items(node, "tcp"):
            for _, value in file.mapping(item, "tcp", ("range",)).values():
                texts += file.texts(value, "range") or []
        ranges = file.problems.parse(USER["tcpRange"], texts, f"{file.at(key_node)}: tcp")
        if ranges and ranges.value:
            given["tcpRange"] = ranges
    if "host" in entries:
        hosts = file.mapping(entries["host"][1], "host", _HOST_KEYS)
        given |= _values(file, {_HOST_KEYS[key]: nodes for key, nodes in hosts.items()}, USER)
    return given


def _values(file: YamlFile, entries: Entries, options: Mapping[str, Option]) -> Values:
    """The values of those `entries` that are options. Where nothing is written, nothing is given."""
    given: Values = {}
    for key, (key_node, node) in entries.items():
        if key not in options or is_null(node):
            continue
        label = f"{file.at(key_node)}: {key_node.value}"
        texts = file.texts(node, key_node.value, options[key].many)
        if texts is not None and (value := file.problems.parse(options[key], texts, label)):
            given[key] = value
    return given


def _says(node: yaml.Node, *wanted: str) -> bool:
    return isinstance(node, yaml.MappingNode) and any(key.value in wanted for key, _ in node.value)


def _has(entries: Entries, key: str) -> bool:
    return key in entries and not is_null(entries[key][1])


def _word(node: yaml.Node) -> str:
    return node.value.lower() if isinstance(node, yaml.ScalarNode) else "something else"
