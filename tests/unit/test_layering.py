"""Who may import whom, and how long a module may be: the house rules, read off the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_MODULE = 500

# The arrows of the design's picture. A room may import what it stands on, and whatever that stands on.
STANDS_ON = {
    "cli": {"process", "console"},
    "process": {"server", "client", "connect"},
    "connect": {"client"},
    "server": {"relay"},
    "client": {"relay"},
    "relay": {"wire"},
    "console": {"wire"},  # it reaches the running system over the control socket alone
    "p2p": {"wire"},  # a process of its own, too
    "wire": set(),
    "config": {"errors"},
    "observe": set(),
    "errors": set(),
}
# Importable by all, but for those who have to do without.
COMMON = {"config", "observe", "errors"}
WITHOUT = {"wire": {"config", "observe"}, "config": COMMON - {"errors"}, "observe": COMMON, "errors": COMMON}

# Bytes in, events out: nothing of the standard library that does input or output, waits, or knows the time.
NOT_IN_WIRE = {
    "_socket", "_thread", "asyncio", "datetime", "http", "multiprocessing", "os", "queue", "sched", "select",
    "selectors", "signal", "socket", "socketserver", "ssl", "subprocess", "threading", "time", "urllib",
}  # fmt: skip
WIRE_PACKAGES = {"scramp", "cryptography", "httptools"}


def may_import(room: str) -> set[str]:
    """The rooms of gtapp that modules of `room` may import, its own included."""
    reached, new = {room}, {room}
    while new:
        new = set().union(*(STANDS_ON[each] for each in new)) - reached
        reached |= new
    return (reached | COMMON) - WITHOUT.get(room, set()) | {room}


def imports(file: Path, package: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module of `package` imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join((*above, base) if base else above)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "__import__",
        ):
            name = node.args[0]
            yield (
                node.lineno,
                str(name.value) if isinstance(name, ast.Constant) else "a name made at run time",
            )


def problems(root: Path) -> list[str]:
    """Every breach of the rules in the tree at `root`, as `file:line: what`."""
    found = []
    for file in sorted((root / "gtapp").rglob("*.py")):
        path = file.relative_to(root)
        room = path.parts[1].removesuffix(".py")
        package = ".".join(path.parts[:-1])
        lines = file.read_text().count("\n")
        if lines > LONGEST_MODULE:
            found.append(f"{path}:{lines}: longer than {LONGEST_MODULE} lines")
        if room == "__init__":
            found += (f"{path}:{line}: gtapp itself imports {name}" for line, name in imports(file, package))
            continue
        if room not in STANDS_ON:
            found.append(f"{path}:1: {room} is no room of the house")
            continue
        for line, name in imports(file, package):
            if problem := breach(room, name):
                found.append(f"{path}:{line}: {problem}")
    main = root / "gt.py"
    for line, name in imports(main, ""):
        if not (name.startswith(("gevent", "gtapp.cli", "__future__.")) or name == "sys"):
            found.append(f"gt.py:{line}: it patches and calls gtapp.cli; what is {name} for?")
    return found


def breach(room: str, name: str) -> str | None:
    top, _, rest = name.partition(".")
    if top == "gtapp":
        other = rest.partition(".")[0]
        if other in STANDS_ON and other not in may_import(room):
            return f"{room} may not import {other}"
        if other not in STANDS_ON and name != "gtapp.__version__":
            return f"import rooms, not {name}"
    elif top == "asyncio" and room != "p2p":
        return "asyncio is for p2p alone"
    elif top == "gevent" and room == "p2p":
        return "p2p is without gevent"
    elif room == "wire" and (top in NOT_IN_WIRE or top not in sys.stdlib_module_names | WIRE_PACKAGES):
        return f"wire may not import {top}"
    elif name == "a name made at run time":
        return f"an import of {name}"
    return None


def test_the_house_rules_are_kept() -> None:
    assert problems(ROOT) == []


# The test of the test: each rule, broken in a tree of its own.


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"gt.py": "from gevent import monkey\nfrom gtapp.cli import main\n", **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("gtapp/server/app.py", "from gtapp.client import pool", "1: server may not import client"),
        ("gtapp/server/app.py", "import gtapp.client.pool", "1: server may not import client"),
        ("gtapp/server/app.py", "from gtapp import client", "1: server may not import client"),
        ("gtapp/server/app.py", "from ..client.pool import Pool", "1: server may not import client"),
        ("gtapp/server/deep/er.py", "from ... import client", "1: server may not import client"),
        ("gtapp/server/app.py", "from .. import client as c", "1: server may not import client"),
        (
            "gtapp/client/app.py",
            "\ndef f():\n    from gtapp.server import app",
            "3: client may not import server",
        ),
        (
            "gtapp/client/app.py",
            "if TYPE_CHECKING:\n    import gtapp.server",
            "2: client may not import server",
        ),
        ("gtapp/client/app.py", "importlib.import_module('gtapp.server')", "1: client may not import server"),
        ("gtapp/client/app.py", "__import__(name)", "1: an import of a name made at run time"),
        ("gtapp/relay/pump.py", "import gtapp.server.router", "1: relay may not import server"),
        ("gtapp/relay/pump.py", "import gtapp.process", "1: relay may not import process"),
        ("gtapp/process/worker.py", "import gtapp.console", "1: process may not import console"),
        ("gtapp/process/worker.py", "import gtapp.cli", "1: process may not import cli"),
        ("gtapp/console/api.py", "import gtapp.process", "1: console may not import process"),
        ("gtapp/console/api.py", "import gtapp.relay", "1: console may not import relay"),
        ("gtapp/connect/app.py", "import gtapp.server", "1: connect may not import server"),
        ("gtapp/config/load.py", "from gtapp.observe import logs", "1: config may not import observe"),
        ("gtapp/config/load.py", "from gtapp.wire import frames", "1: config may not import wire"),
        ("gtapp/observe/logs.py", "from gtapp.errors import GTError", "1: observe may not import errors"),
        ("gtapp/errors.py", "from gtapp.config import options", "1: errors may not import config"),
        ("gtapp/wire/frames.py", "import gtapp.relay.link", "1: wire may not import relay"),
        ("gtapp/wire/frames.py", "from gtapp.observe import logs", "1: wire may not import observe"),
        ("gtapp/wire/frames.py", "import socket", "1: wire may not import socket"),
        ("gtapp/wire/frames.py", "from gevent import sleep", "1: wire may not import gevent"),
        ("gtapp/wire/frames.py", "def f():\n    from time import monotonic", "2: wire may not import time"),
        ("gtapp/wire/frames.py", "import yaml", "1: wire may not import yaml"),
        ("gtapp/relay/link.py", "import asyncio", "1: asyncio is for p2p alone"),
        ("gtapp/p2p/peer.py", "import gevent.event", "1: p2p is without gevent"),
        ("gtapp/p2p/peer.py", "import gtapp.relay", "1: p2p may not import relay"),
        ("gtapp/helpers.py", "", "1: helpers is no room of the house"),
        ("gtapp/client/app.py", "from gtapp import helpers", "1: import rooms, not gtapp.helpers"),
        ("gtapp/__init__.py", "import os", "1: gtapp itself imports os"),
        ("gtapp/relay/long.py", "\n" * 501, "501: longer than 500 lines"),
        (
            "gt.py",
            "import gtapp.server.app",
            "1: it patches and calls gtapp.cli; what is gtapp.server.app for?",
        ),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, name: str, text: str, problem: str) -> None:
    assert problems(tree(tmp_path, {name: text})) == [f"{name}:{problem}"]


def test_what_is_allowed_is_not_found(tmp_path: Path) -> None:
    files = {
        "gtapp/__init__.py": "__version__ = '1'\n",
        "gtapp/cli.py": "from gtapp import __version__, errors\nimport gtapp.console, gtapp.process.worker\n",
        "gtapp/process/worker.py": "from gtapp.server import app\nfrom gtapp.relay.pump import Pump\n",
        "gtapp/connect/app.py": "from gtapp.client.pool import Pool\nfrom gtapp.wire import frames\n",
        "gtapp/server/app.py": "from . import router\nfrom ..relay import link\nimport gevent, gtapp.observe\n",
        "gtapp/relay/link.py": "from gtapp.wire import frames\nimport socket, time\n",
        "gtapp/wire/frames.py": "import struct, scramp\nfrom gtapp.errors import WireError\nfrom . import compat\n",
        "gtapp/config/load.py": "from gtapp.errors import ConfigError\nimport yaml\n",
        "gtapp/p2p/peer.py": "import asyncio\nfrom gtapp.wire import signaling\n",
        "gtapp/relay/full.py": "\n" * 500,
    }
    assert problems(tree(tmp_path, files)) == []
