"""Puts flags, environment, YAML file and defaults together into the configuration of a role; called by `cli`.

Precedence: flag > environment > file > default. What is wrong is collected and raised as one ConfigError: first
what cannot be read, then, when everything can, what does not fit together.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from gtapp.config.config_file import Contents, Part, read_config_file, read_users_file
from gtapp.config.environ import check_names, read_environ
from gtapp.config.flags import read_flags
from gtapp.config.options import OPTIONS, SERVICE, USER, ClientOptions, Limits, ServerOptions, Service, User
from gtapp.config.problems import Given, Problems, quoted
from gtapp.config.schema import Option
from gtapp.config.values import HOST_PREFIX, is_host_prefix

__all__ = ["ClientConfig", "ServerConfig", "Service", "User", "load_client", "load_server", "load_users"]

T = TypeVar("T")


@dataclass(frozen=True)
class ServerConfig:
    """What a server runs with. `path` is the config file, `users` are those of all sources, by id."""

    path: Path | None
    options: ServerOptions
    users: Mapping[str, User]


@dataclass(frozen=True)
class ClientConfig:
    """What a client runs with. Every HTTP service has its host prefix, and there is a secret."""

    path: Path | None
    options: ClientOptions
    services: tuple[Service, ...]


def load_server(words: Sequence[str], environ: Mapping[str, str]) -> ServerConfig:
    """The configuration that the words after `server` and the environment ask for. Raises ConfigError."""
    problems = Problems()
    flags = read_flags(words, OPTIONS["server"], {}, problems)
    check_names(environ, problems)
    path, file = _read_file(flags.path, "server", problems)
    given = file.options | read_environ(environ, OPTIONS["server"], problems) | flags.options
    options = _build(ServerOptions, OPTIONS["server"], given, problems)
    parts = file.users
    if options.users:
        parts |= read_users_file(Path(options.users), problems)
    parts |= _paired_users(given, problems)
    users = _build_users(parts, options, problems)
    problems.check()

    if options.addr is None:
        problems.add(f"{path or 'server'}: there is nothing to listen on, set addr (for example --addr 8080)")
    if not options.protocols:
        problems.add(f"{given['protocols'].label}: is empty, no tunnel could be accepted")
    if not users and not options.users:
        problems.add(f"{path or 'server'}: there are no users, set --id and --secret, or users in a file")
    problems.check()
    return ServerConfig(path, options, users)


def load_users(path: Path, options: ServerOptions) -> dict[str, User]:
    """The users of a users file; what they do not limit themselves `options` limit. Raises ConfigError."""
    problems = Problems()
    users = _build_users(read_users_file(path, problems), options, problems)
    problems.check()
    return users


def load_client(words: Sequence[str], environ: Mapping[str, str]) -> ClientConfig:
    """The configuration that the words after `client` and the environment ask for. Raises ConfigError.

    The services of the command line, of the environment (one) and of the file are all published, as the original
    GT does it.
    """
    problems = Problems()
    flags = read_flags(words, OPTIONS["client"], SERVICE, problems)
    check_names(environ, problems)
    path, file = _read_file(flags.path, "client", problems)
    given = file.options | read_environ(environ, OPTIONS["client"], problems) | flags.options
    options = _build(ClientOptions, OPTIONS["client"], given, problems)
    service = read_environ(environ, SERVICE, problems)
    if service and not environ.get("GT_LOCAL"):
        problems.add(f"{next(iter(service.values())).label}: belongs to a service, set GT_LOCAL as well")
    problems.check()

    for key, example in (("id", "--id id1"), ("remote", "--remote tcp://example.com:8080")):
        if not getattr(options, key):
            problems.add(f"{path or 'client'}: there is no {key}, set it (for example {example})")
    for remote in options.remote:
        if remote.scheme != "tcp":
            problems.add(f"{given['remote'].label}: {remote.scheme}:// is not available yet")
    if options.remote_idle_connections > options.remote_connections:
        problems.add(f"{path or 'client'}: remoteIdleConnections has to be at most remoteConnections")
    parts = [Part(f"--local {service['local'].value}", service) for service in flags.services]
    parts += [Part("GT_LOCAL", service)] if service else []
    parts += file.services
    services = _named_services(parts, options.id, problems)
    if not parts:
        problems.add(
            f"{path or 'client'}: there is no service, set one (for example --local http://127.0.0.1:80)"
        )
    problems.check()
    if not options.secret:
        options = replace(options, secret=secrets.token_urlsafe())
    return ClientConfig(path, options, services)


def _read_file(path: str | None, role: str, problems: Problems) -> tuple[Path | None, Contents]:
    if path is None:
        return None, Contents({}, {}, [])
    return Path(path), read_config_file(Path(path), role, problems)


def _build(
    table: type[T], options: Mapping[str, Option], given: Mapping[str, Given], problems: Problems, **more: Any
) -> T:
    """An instance of a class of the table; `more` stands where nothing is given.

    What is not available yet is refused, unless it is the default anyway.
    """
    values = dict(more)
    for key, (value, label) in given.items():
        entry = options[key]
        if not entry.available and value != entry.default:
            problems.add(f"{label} is not available yet")
        values[entry.name] = value
    return table(**values)


def _paired_users(given: Mapping[str, Given], problems: Problems) -> dict[str, Part]:
    """The users that the lists `id` and `secret` name, in order."""
    ids, secrets = given.get("id", Given((), "id")), given.get("secret", Given((), "secret"))
    if len(ids.value) != len(secrets.value):
        counts = f"{ids.label} has {len(ids.value)} values, {secrets.label} has {len(secrets.value)}"
        problems.add(f"{counts}: each id needs its secret")
    if len(set(ids.value)) != len(ids.value):
        problems.add(f"{ids.label}: an id is there twice")
    pairs = zip(ids.value, secrets.value, strict=False)
    return {id: Part(ids.label, {"secret": Given(secret, secrets.label)}) for id, secret in pairs}


def _build_users(parts: Mapping[str, Part], options: ServerOptions, problems: Problems) -> dict[str, User]:
    limits = {field.name: getattr(options, field.name) for field in fields(Limits)}
    users = {}
    for id, (label, given) in parts.items():
        if "secret" in given and "verifier" in given:
            problems.add(f"{label}: has a secret and a verifier, one of the two is needed")
        users[id] = _build(User, USER, given, problems, id=id, **limits)
    return users


def _named_services(parts: Sequence[Part], id: str, problems: Problems) -> tuple[Service, ...]:
    """The services, each with its host prefix."""
    services = []
    labels: dict[str, str] = {}  # by host prefix
    for label, given in parts:
        service = _build(Service, SERVICE, given, problems)
        if service.local.scheme != "http":
            problems.add(f"{given['local'].label}: {service.local.scheme}:// is not available yet")
            continue
        prefix = service.host_prefix or id.lower()
        if not prefix:
            continue  # there is no id, and that is noted
        if not is_host_prefix(prefix):
            hint = f"set hostPrefix to {HOST_PREFIX.allowed}"
            problems.add(f"{label}: the id {quoted(id)} cannot be its host prefix, {hint}")
        elif prefix in labels:
            problems.add(
                f'{label}: host prefix "{prefix}" is that of {labels[prefix]}, set another hostPrefix'
            )
        labels[prefix] = label
        services.append(replace(service, host_prefix=prefix))
    return tuple(services)
