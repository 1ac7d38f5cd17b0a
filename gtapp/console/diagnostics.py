"""What somebody needs to find out what is wrong with a GT, as one archive, to be attached to a report: no secrets.

The configuration is masked as `gt.py check` shows it, and every text in it goes through the filter of the logs, which
knows the secrets of the configuration wherever they stand.
"""

from __future__ import annotations

import io
import json
import os
import platform
import resource
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import psutil

from gtapp import __version__
from gtapp.config.load import ClientConfig, ServerConfig
from gtapp.config.options import OPTIONS, SERVICE, USER
from gtapp.config.show import client_yaml, server_yaml
from gtapp.console import machine
from gtapp.console.context import console
from gtapp.console.log_lines import Found, lines_after, text_of
from gtapp.console.setup_checks import container
from gtapp.errors import GTError
from gtapp.observe import logs

_PACKAGES = (
    "gevent",
    "cryptography",
    "flask",
    "PyYAML",
    "httptools",
    "scramp",
    "argon2-cffi",
    "psutil",
)
_READ_ME = """\
Diagnostics of GT {version}, made {time} for {role} {config}

  config.yml      the configuration that is in the file now, with defaults left out and secrets masked
  status.json     processes, tunnels and what is published, as gt.py status --json says it
  metrics.json    counters, gauges and histograms
  log.txt         the last lines of all processes
  machine.json    versions, operating system, memory, disk and limits
  problems.txt    what could not be found out, if anything

Secrets are masked. Ids of users, host names and addresses of visitors and clients are not: look through it before you
give it to somebody.
"""


def bundle() -> bytes:
    """The archive (ZIP). What cannot be found out is said in it."""
    problems: list[str] = []
    about = console()
    config = _tried(_config, problems, "config.yml")  # first: from then on its secrets are known
    _hide_file()
    time = datetime.fromtimestamp(about.clock(), UTC)
    found = lines_after()
    if found.problem:
        problems.append(f"log.txt: the lines of the relay are missing: {found.problem}")
    path = about.store.path if about.store else "without a file"
    texts = {
        "README.txt": _READ_ME.format(
            version=__version__, time=time.isoformat(" "), role=about.role, config=path
        ),
        "config.yml": config,
        "status.json": _tried(lambda: _answer(about.running.status()), problems, "status.json"),
        "metrics.json": _tried(lambda: _answer(about.running.metrics()), problems, "metrics.json"),
        "log.txt": _log(found),
        "machine.json": _json(_machine()),
        "problems.txt": "".join(f"{each}\n" for each in problems),
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in texts.items():
            if text:
                info = zipfile.ZipInfo(f"gt-diagnostics/{name}", time.timetuple()[:6])
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o600 << 16
                file.writestr(info, text if name.endswith(".json") else logs.redact(text))
    return archive.getvalue()


def _hide_file() -> None:
    """Mask what the file says as well where flags or variables win over it: it is a secret all the same."""
    store = console().store
    if store is None:
        return
    try:
        document = store.document(store.read().text)
        found = [(OPTIONS[store.role], key, document.get_option(key)) for key in OPTIONS[store.role]]
        found += [(USER, key, value) for user in document.users().values() for key, value in user.items()]
        if store.role == "client":
            found += [(SERVICE, key, value) for each in document.services() for key, value in each.items()]
    except GTError:  # config.yml is missing then, and problems.txt says why
        return
    for table, key, value in found:
        if table[key].secret and value:
            for each in value if isinstance(value, list) else [value]:
                logs.hide(str(each))


def _tried(make: Callable[[], str], problems: list[str], name: str) -> str:
    try:
        return make()
    except GTError as error:
        problems.append(f"{name}: {error}")
        return ""


def _config() -> str:
    config = console().config()
    if isinstance(config, ServerConfig):
        return server_yaml(config)
    assert isinstance(config, ClientConfig)
    return client_yaml(config)


def _log(found: Found) -> str:
    return "".join(text_of(line) for line in found.lines)


def _answer(answer: dict[str, Any]) -> str:
    """What the relay says, as JSON."""
    return _json({key: value for key, value in answer.items() if key not in ("ok", "text")})


def _json(value: Any) -> str:
    return json.dumps(_redacted(value), indent=2, ensure_ascii=False) + "\n"


def _redacted(value: Any) -> Any:
    """Text by text, so that it stays JSON even when a secret looks like a part of that."""
    if isinstance(value, str):
        return logs.redact(value)
    if isinstance(value, dict):
        return {logs.redact(str(key)): _redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(each) for each in value]
    return value


def _machine() -> dict[str, Any]:
    """Facts about machine and process; nothing of the environment, which may have secrets."""
    looked = machine.look(console().state)
    return {
        "gt": __version__,
        "python": sys.version,
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "system": platform.platform(),
        "machine": platform.machine(),
        "container": container() or "",
        "user": os.getuid(),
        "cores": looked.cores,
        "load": os.getloadavg(),
        "memory": {"used": looked.memory_used, "total": looked.memory_total},
        "disk": {"used": looked.disk_used, "free": looked.disk_free, "total": looked.disk_total},
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "booted": psutil.boot_time(),
    }


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
