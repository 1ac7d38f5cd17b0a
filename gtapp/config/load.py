"""Puts flags, environment, YAML file and defaults together into the configuration of a role; called by `cli`.

Precedence: flag > environment > file > default. What is wrong is collected and raised as one ConfigError: first
what cannot be read, then, when everything can, what does not fit together. What the original GT puts up with, so
do we, with a warning.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from gtapp.config.config_file import Contents, Part, read_config_file, read_users_file
from gtapp.config.environ import check_names, read_environ
from gtapp.config.files import Files
from gtapp.config.flags import read_flags
from gtapp.config.options import OPTIONS, SERVICE, USER, ClientOptions, Limits, ServerOptions, Service, User
from gtapp.config.problems import Given, Problems, Values, quoted
from gtapp.config.schema import Option
from gtapp.config.values import HOST_PREFIX, is_host_prefix

__all__ = ["ClientConfig", "ServerConfig", "Service", "User", "load_client", "load_server", "load_users"]

T = TypeVar("T")

log = logging.getLogger("gt.config")

_EMPTY = Given("", "")
_ONLY_FOR = {  # keys that make no sense for services with other schemes
    "hostPrefix": ("http", "https"),
    "remoteTCPPort": ("tcp",),
    "remoteTCPRandom": ("tcp",),
    "useLocalAsHTTPHost": ("http",),
    "forwardedFor": ("http",),
    "basicAuth": ("http",),
}
MAKE_CERTIFICATE = "auto"  # as webCertFile: GT makes one
_MUST_WORK = ("forwardedFor", "basicAuth")  # not in the original GT; who sets them relies on them


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


def load_server(words: Sequence[str], environ: Mapping[str, str], files: Files | None = None) -> ServerConfig:
    """The configuration that the words after `server` and the environment ask for. Raises ConfigError.

    `files` remembers what the files have said.
    """
    files = files or Files()
    problems = Problems()
    flags = read_flags(words, OPTIONS["server"], {}, problems)
    check_names(environ, problems)
    path, file = _read_file(flags.path, "server", problems, files)
    given = file.options | read_environ(environ, OPTIONS["server"], problems) | flags.options
    options = _build(ServerOptions, OPTIONS["server"], given, problems)
    parts = file.users
    if options.users:
        parts |= read_users_file(Path(options.users), problems, files)
    parts |= _paired_users(given, problems)
    users = _build_users(parts, options, problems)
    problems.check()

    name = path or "server"
    if not options.connections:
        problems.add(f"{given['connections'].label}: is 0, no client could have a tunnel")
    if options.addr is None and options.tls_addr is None:
        problems.add(
            f"{name}: there is nowhere for tunnels to come in, set addr (for example --addr 8080) or tlsAddr"
        )
    if not options.protocols:
        problems.add(f"{given['protocols'].label}: is empty, no tunnel could be accepted")
    if not (users or options.users or options.auth_api or options.allow_any_client):
        without = f"{name}: there are no users, set --id and --secret, or users in a file"
        if options.api_addr is None:
            problems.add(f"{without}, or allowAnyClient to let in everybody")
        else:
            log.warning("%s; until then the status API alone has a tunnel", without)
    for cert, key in (("certFile", "keyFile"), ("apiCertFile", "apiKeyFile")):
        _check_pair(given, cert, key, problems)
    _check_console(given, problems)
    problems.check()
    return ServerConfig(path, options, users)


def load_users(path: Path, options: ServerOptions) -> dict[str, User]:
    """The users of a users file; what they do not limit themselves `options` limit. Raises ConfigError."""
    problems = Problems()
    users = _build_users(read_users_file(path, problems, Files()), options, problems)
    problems.check()
    return users


def load_client(
    words: Sequence[str], environ: Mapping[str, str], files: Files | None = None, secret: str = ""
) -> ClientConfig:
    """The configuration that the words after `client` and the environment ask for. Raises ConfigError.

    `files` remembers what the files have said. `secret` is for a client that is given none; a random one by default.

    The services of the command line, of the environment (one) and of the file are all published, as the original
    GT does it.
    """
    problems = Problems()
    flags = read_flags(words, OPTIONS["client"], SERVICE, problems)
    check_names(environ, problems)
    path, file = _read_file(flags.path, "client", problems, files or Files())
    given = file.options | read_environ(environ, OPTIONS["client"], problems) | flags.options
    options = _build(ClientOptions, OPTIONS["client"], given, problems)
    service = read_environ(environ, SERVICE, problems)
    if service and not environ.get("GT_LOCAL"):
        problems.add(f"{next(iter(service.values())).label}: belongs to a service, set GT_LOCAL as well")
    problems.check()

    name = path or "client"
    if not options.id:
        problems.add(f"{name}: there is no id, set it (for example --id id1)")
    if not options.remote and not options.remote_api:
        problems.add(f"{name}: there is no remote, set it (for example --remote tcp://example.com:8080)")
    for remote in options.remote:
        if remote.scheme == "quic":
            problems.add(f"{given['remote'].label}: quic:// is not available yet")
    if options.remote_cert and options.remote_cert_insecure:
        log.warning("%s: is ignored, remoteCertInsecure accepts any certificate", given["remoteCert"].label)
        options = replace(options, remote_cert="")
    if options.remote_idle_connections > options.remote_connections:
        kept = options.remote_connections
        log.warning("%s: remoteIdleConnections is taken as %d, the value of remoteConnections", name, kept)
        options = replace(options, remote_idle_connections=kept)
    parts = [Part(f"--local {service['local'].value}", service) for service in flags.services]
    parts += [Part("GT_LOCAL", service)] if service else []
    parts += file.services
    services = _named_services(parts, options.id, problems)
    if not parts:
        problems.add(f"{name}: there is no service, set one (for example --local http://127.0.0.1:80)")
    _check_console(given, problems)
    problems.check()
    if not options.secret:
        options = replace(options, secret=secret or secrets.token_urlsafe())
    return ClientConfig(path, options, services)


def _read_file(path: str | None, role: str, problems: Problems, files: Files) -> tuple[Path | None, Contents]:
    if path is None:
        return None, Contents({}, {}, [])
    return Path(path), read_config_file(Path(path), role, problems, files)


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


def _check_pair(given: Values, cert: str, key: str, problems: Problems) -> None:
    for one, other in ((cert, key), (key, cert)):
        if given.get(one, _EMPTY).value and not given.get(other, _EMPTY).value:
            problems.add(f"{given[one].label}: needs {other} as well")


def _check_console(given: Values, problems: Problems) -> None:
    if given.get("webCertFile", _EMPTY).value != MAKE_CERTIFICATE:
        _check_pair(given, "webCertFile", "webKeyFile", problems)
    elif given.get("webKeyFile", _EMPTY).value:
        problems.add(
            f"{given['webKeyFile'].label}: goes with a file, not with webCertFile: {MAKE_CERTIFICATE}"
        )


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
    """The users; a speed of 0, or no connections, are the server's then too, as in the original GT."""
    limits = {field.name: getattr(options, field.name) for field in fields(Limits)}
    users = {}
    for id, (label, given) in parts.items():
        if "secret" in given and "verifier" in given:
            problems.add(f"{label}: has a secret and a verifier, one of the two is needed")
        own = {key: each for key, each in given.items() if key not in ("speed", "connections") or each.value}
        users[id] = _build(User, USER, own, problems, id=id, **limits)
    _check_ranges(parts, options, problems)
    return users


def _check_ranges(parts: Mapping[str, Part], options: ServerOptions, problems: Problems) -> None:
    """A user's own ports are nobody else's: they overlap neither with the server's nor with another user's."""
    ranges = [(ports, "", "") for ports in options.tcp_range]
    for id, (_, given) in parts.items():
        ranges += [(ports, id, given["tcpRange"].label) for ports in given.get("tcpRange", _EMPTY).value]
    ranges.sort(key=lambda each: each[0].first)
    farthest = None
    for each in ranges:
        if farthest and each[0].first <= farthest[0].last and each[1] != farthest[1]:
            (ports, _, label), (others, other, _) = (each, farthest) if each[1] else (farthest, each)
            whose = f"of user {quoted(other)}" if other else "that everybody may open"
            problems.add(f"{label}: {ports} overlaps with {others}, ports {whose}")
        if not farthest or each[0].last > farthest[0].last:
            farthest = each


def _named_services(parts: Sequence[Part], id: str, problems: Problems) -> tuple[Service, ...]:
    """The services; those for host names have their host prefix, the others say whether any port will do."""
    services = []
    labels: dict[tuple[str, str], str] = {}  # by scheme and host prefix
    for label, given in parts:
        scheme = given["local"].value.scheme
        service = _build(Service, SERVICE, _fitting(given, scheme, problems), problems)
        if scheme == "tcp":
            if service.remote_tcp_random is None:
                service = replace(service, remote_tcp_random=not service.remote_tcp_port)
            if not service.remote_tcp_port and not service.remote_tcp_random:
                problems.add(f"{label}: would get no port, set remoteTCPPort or remoteTCPRandom")
            services.append(service)
            continue
        prefix = service.host_prefix or id.lower()
        if not prefix:
            continue  # there is no id, and that is noted
        if not is_host_prefix(prefix):
            hint = f"set hostPrefix to {HOST_PREFIX.allowed}"
            problems.add(f"{label}: the id {quoted(id)} cannot be its host prefix, {hint}")
        elif (scheme, prefix) in labels:
            other = labels[scheme, prefix]
            problems.add(f'{label}: host prefix "{prefix}" is that of {other}, set another hostPrefix')
        labels[scheme, prefix] = label
        services.append(replace(service, host_prefix=prefix))
    return tuple(services)


def _fitting(given: Values, scheme: str, problems: Problems) -> Values:
    """What of `given` means something for a service with `scheme`."""
    fitting = {}
    for key, each in given.items():
        schemes = _ONLY_FOR.get(key, (scheme,))
        if scheme in schemes:
            fitting[key] = each
        elif each.value and key in _MUST_WORK:
            problems.add(f"{each.label}: is not possible for {scheme}://, only for {' and '.join(schemes)}")
        elif each.value:
            log.warning("%s: is ignored, it has no meaning for %s://", each.label, scheme)
    return fitting
