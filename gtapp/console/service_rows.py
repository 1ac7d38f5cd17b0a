"""The services of a client as a table: what each is, where visitors find it, and how it does. Pure, but for `live`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from gtapp.config.load import ClientConfig, Service
from gtapp.config.values import URL, ip_of
from gtapp.console.context import console
from gtapp.console.moment import workers_of
from gtapp.console.words import _
from gtapp.errors import GTError


@dataclass(frozen=True)
class Health:
    """How a service does, of all workers: `works` is how the last connection to it went, None before the first."""

    works: bool | None = None
    dials: int = 0
    failed: int = 0
    last_dial: float = 0.0  # seconds since the epoch, 0: never
    problem: str = ""

    @property
    def state(self) -> tuple[str, str]:
        """In a word, and its colour."""
        if self.works is None:
            return _("not used yet"), "muted"
        return (_("works"), "ok") if self.works else (_("fails"), "bad")


@dataclass(frozen=True)
class Row:
    """One service. `index` is its place in the file that this console edits, None for one that stands elsewhere."""

    index: int | None
    service: Service
    source: str
    public: tuple[str, ...]  # URLs, or host prefixes where the host is not known
    health: Health
    streams: int
    bytes_in: int
    bytes_out: int

    @property
    def guards(self) -> tuple[str, ...]:
        """What keeps visitors out, in a few words each."""
        found = []
        if self.service.basic_auth:
            found.append(_("password"))
        if self.service.allow_ips or self.service.deny_ips:
            found.append(_("only some visitors"))
        return tuple(found)


@dataclass(frozen=True)
class Live:
    """What the running GT says; `problem` when it says nothing, `tunnels_problem` when it has no tunnel."""

    status: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def tunnels_problem(self) -> str:
        """Why there is no tunnel; "" when there is one, or nothing is known."""
        workers = workers_of(self.status)
        if not workers or any(each.get("tunnels") for each in workers):
            return ""
        problems = dict.fromkeys(text for each in workers for text in each.get("problems", ()))
        return "; ".join(problems)


def live() -> Live:
    """What the running GT says now."""
    running = console().running
    try:
        return Live(running.status(), running.metrics())
    except GTError as error:
        return Live(problem=str(error))


def rows(config: ClientConfig, own: int, now: Live) -> list[Row]:
    """All services in order; the last `own` of them are those of the file. (load_client puts the others before.)"""
    first = len(config.services) - own
    published = _published(config, now.status)
    healths = _healths(now.status)
    numbers = _numbers(now.metrics)
    found = []
    for place, service in enumerate(config.services):
        local = str(service.local)
        of_it = numbers.get(local, {})
        found.append(
            Row(
                index=place - first if place >= first else None,
                service=service,
                source="" if place >= first else _("on the command line or in the environment"),
                public=tuple(published.get((local, service.host_prefix or ""), ())),
                health=healths.get(local, Health()),
                streams=int(of_it.get("streams", 0)),
                bytes_in=int(of_it.get("bytes_in", 0)),
                bytes_out=int(of_it.get("bytes_out", 0)),
            )
        )
    return found


def public_url(scheme: str, prefix: str, remotes: Iterable[URL]) -> str:
    """Where visitors find a host prefix: tunnels and visitors come in to the same addresses of a server. "" where that
    can't be known: the server has no name here, or TLS is passed through on a port of its own."""
    for remote in remotes:
        if scheme == "http" and ip_of(f"{remote.host}:0") is None and ":" not in remote.host:
            way = "https" if remote.scheme == "tls" else "http"
            standard = 443 if way == "https" else 80
            port = "" if remote.port == standard else f":{remote.port}"
            return f"{way}://{prefix}.{remote.host}{port}/"
    return ""


def is_link(address: str) -> bool:
    """Whether a browser can open it."""
    return urlsplit(address).scheme in ("http", "https")


def _published(config: ClientConfig, status: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """By local URL and host prefix ("" for ports): where the servers publish it. A worker says for each service, in
    order, the prefix or tcp://host:port."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    schemes = {str(each.local): each.local.scheme for each in config.services}
    for worker in workers_of(status):
        for each in worker.get("services", ()):
            scheme = "tls" if schemes.get(each["local"]) == "https" else "http"
            for address in each.get("public", ()):
                is_port = address.startswith("tcp://")
                shown = address if is_port else public_url(scheme, address, config.options.remote) or address
                prefix = "" if is_port else _own_prefix(config.services, each["local"], address)
                found.setdefault((each["local"], prefix), {})[shown] = None
    return {key: list(addresses) for key, addresses in found.items()}


def _own_prefix(services: Sequence[Service], local: str, public: str) -> str:
    """The host prefix as this client asked for it: a server may have put the id before it."""
    prefixes = [each.host_prefix or "" for each in services if str(each.local) == local]
    if public in prefixes:
        return public
    return next((each for each in prefixes if public.endswith(f"-{each}")), public)


def _healths(status: Mapping[str, Any]) -> dict[str, Health]:
    """By local URL, of all workers together: the worker that has dialled last knows how it is."""
    found: dict[str, Health] = {}
    seen: set[tuple[int, str]] = set()
    for number, worker in enumerate(workers_of(status)):
        for each in worker.get("services", ()):
            local = each["local"]
            if (number, local) in seen or "dials" not in each:
                continue  # several services can have one URL, and one health
            seen.add((number, local))
            before = found.get(local, Health())
            newest = each if each.get("last_dial", 0) >= before.last_dial else None
            found[local] = Health(
                works=newest["works"] if newest else before.works,
                dials=before.dials + each["dials"],
                failed=before.failed + each["failed"],
                last_dial=newest["last_dial"] if newest else before.last_dial,
                problem=(newest["problem"] if newest else before.problem) or "",
            )
    return found


def _numbers(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    for unit in metrics.get("units", ()):
        if "services" in unit:
            found: Mapping[str, Any] = unit["services"]
            return found
    return {}
