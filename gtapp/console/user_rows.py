"""The users as a table: those of every source, what they may, and what they do just now. Pure, but for `live`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from gtapp.config.config_file import read_users_file
from gtapp.config.load import ServerConfig
from gtapp.config.options import ServerOptions, User
from gtapp.config.problems import Problems
from gtapp.console.context import console
from gtapp.console.filters import as_number, as_speed
from gtapp.console.join import Link, public_links
from gtapp.console.words import _
from gtapp.errors import ConfigError, GTError

_SHOWN_LIMITS = 3  # of a list, in a cell


@dataclass(frozen=True)
class Live:
    """What the running GT says; `problem` when it says nothing."""

    status: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    speeds: Mapping[str, Sequence[float]] | None = None  # by user: streams, opened, bytes in and out a second
    problem: str = ""

    def numbers(self, user: str) -> Mapping[str, Any]:
        """What a user does: tunnels, streams, bytes_in, bytes_out; {} when nothing is known of it."""
        for unit in self.metrics.get("units", ()):
            if user in unit.get("users", ()):
                found: Mapping[str, Any] = unit["users"][user]
                return found
        return {}

    def tunnels(self) -> dict[str, int]:
        """How many tunnels each user has."""
        counts: dict[str, int] = {}
        for unit in self.status.get("units", ()):
            for worker in unit.get("workers", ()):
                for each in worker.get("tunnels", ()):
                    counts[each["user"]] = counts.get(each["user"], 0) + 1
        return counts


@dataclass(frozen=True)
class Row:
    """One user. `source` says where it stands, "" for the file that this console edits."""

    id: str
    source: str
    disabled: bool
    limits: tuple[str, ...]
    most_tunnels: int | None  # None for guests, whose limit is not known here
    tunnels: int
    streams: int
    bytes_in: int
    bytes_out: int
    speed_in: float | None
    speed_out: float | None
    links: tuple[Link, ...]

    @property
    def state(self) -> tuple[str, str]:
        """In a word, and its colour."""
        if self.disabled:
            return _("disabled"), "muted"
        return (_("connected"), "ok") if self.tunnels else (_("away"), "muted")


def live() -> Live:
    """What the running GT says now."""
    running, sampler = console().running, console().sampler
    try:
        status = running.status()
        metrics = running.metrics()
    except GTError as error:
        return Live(problem=str(error))
    speeds = sampler.now.parts.get("users", {}) if sampler is not None and not sampler.problem else None
    return Live(status, metrics, speeds)


def rows(config: ServerConfig, own: Collection[str], now: Live, reached_at: str = "") -> list[Row]:
    """All users, by id; `own` are those of the file itself. Whoever is let in without being there comes as well."""
    links: dict[str, list[Link]] = {}
    for link in public_links(config, now.status, reached_at):
        links.setdefault(link.user, []).append(link)
    tunnels = now.tunnels()
    sources = sources_of(config, own)
    ids = [*config.users, *(user for user in tunnels if user not in config.users)]
    return [
        _row(
            user,
            config.users.get(user),
            sources.get(user, _guest_of(config.options)),
            tunnels.get(user, 0),
            now,
            tuple(links.get(user, ())),
        )
        for user in sorted(ids, key=str.lower)
    ]


def sources_of(config: ServerConfig, own: Collection[str]) -> dict[str, str]:
    """For each user where it stands, "" for the file itself: the command line wins over the users file over that.

    `own` may name others as well.
    """
    sources = dict.fromkeys(own, "")
    path = config.options.users
    if path:
        sources |= dict.fromkeys(_named_in(path, _stamp(path)), _("in the file %(path)s", path=path))
    sources |= dict.fromkeys(config.options.id, _from_a_list())
    return sources


@lru_cache(maxsize=1)  # it may have many users, and pages ask every few seconds
def _named_in(path: str, stamp: tuple[int, ...]) -> frozenset[str]:
    """The users of a users file; `stamp` changes with it."""
    try:
        return frozenset(read_users_file(Path(path), Problems()))
    except ConfigError:  # it is being edited
        return frozenset()


def _stamp(path: str) -> tuple[int, ...]:
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def limits_of(user: User) -> tuple[str, ...]:
    """A user's limits in a few words each; what is not limited is left out."""
    found = []
    if user.speed:
        found.append(as_speed(user.speed))
    if user.tcp_range:
        shown = ", ".join(_ports(each) for each in user.tcp_range[:_SHOWN_LIMITS])
        more = "…" if len(user.tcp_range) > _SHOWN_LIMITS else ""
        found.append(_("ports %(ranges)s", ranges=shown + more))
    if user.host_number:
        found.append(_("host prefixes: %(count)s", count=as_number(user.host_number)))
    if user.host_regex:
        found.append(_("hosts by pattern"))
    if user.allow_ips or user.deny_ips:
        found.append(_("only some visitors"))
    return tuple(found)


def _row(
    user_id: str,
    user: User | None,
    source: str,
    tunnels: int,
    now: Live,
    links: tuple[Link, ...],
) -> Row:
    numbers = now.numbers(user_id)
    speed = None if now.speeds is None else now.speeds.get(user_id, (0, 0, 0, 0))
    return Row(
        id=user_id,
        source=source,
        disabled=user is not None and user.disabled,
        limits=limits_of(user) if user else (),
        most_tunnels=user.connections if user else None,
        tunnels=tunnels,
        streams=int(numbers.get("streams", 0)),
        bytes_in=int(numbers.get("bytes_in", 0)),
        bytes_out=int(numbers.get("bytes_out", 0)),
        speed_in=speed[2] if speed else None,
        speed_out=speed[3] if speed else None,
        links=links,
    )


def _from_a_list() -> str:
    """Where the pairs of ids and secrets are that win over all others."""
    if any(word.lstrip("-").partition("=")[0] == "id" for word in console().words if word.startswith("-")):
        return _("on the command line (--id)")
    if console().environ.get("GT_ID"):
        return _("in the environment (GT_ID)")
    return _("in the lists id and secret of the file")


def _guest_of(server: ServerOptions) -> str:
    return _("let in by the authAPI") if server.auth_api else _("let in by allowAnyClient")


def _ports(ports: Any) -> str:
    return str(ports.first) if ports.first == ports.last else f"{ports.first}–{ports.last}"
