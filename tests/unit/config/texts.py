"""Configurations as people write them, at random: every way of indenting, quoting and commenting, flow and
block, line ends, anchors and merges. Used by the tests of editing."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import yaml

IDS = ["id1", "id 2", "0123", "yes", "tcp", "host", "null", "é", "a:b", "<<", "users", "中文"]
SECRETS = [
    *(
        "0123",
        "yes",
        "no",
        "1e3",
        "null",
        "~",
        "a b",
        "a: b",
        "#x",
        "'",
        '"',
        "\\",
        "\\n",
        "é😀",
        "- a",
        "{",
        "[a]",
    ),
    *(
        "a,b",
        "*x",
        "&y",
        "!t",
        "%d",
        "@q",
        "`",
        "|",
        ">",
        "? a",
        ": b",
        "a:",
        "=",
        "<<",
        "2001-01-01",
        "0x1F",
    ),
    *("1_000", ".5", "-", "---", "...", " lead", "trail ", "0o17", "y", "N", "on", "x" * 180, "a#b", "a #b"),
    *("http://x:1/", "1:30", "+1", "-.inf", ".nan", "True", "NULL"),
]
VALUES: dict[str, list[Any]] = {
    "tcpRange": [["1-2"], ["10-20", "30-40"], [], ["5-5", "7-9", "100-200"]],
    "tcpNumber": [0, 5, "7"],
    "speed": ["1MiB", 4096, 0],
    "connections": [3],
    "hostNumber": [0, 2],
    "hostRegex": [["^a$"], ["^a$", "b\\.c"], [], ["x{1,2}", "[a-z]: #"]],
    "hostWithID": [True, False],
    "addr": [":8080", "8080", "0.0.0.0:1", "[::]:80"],
    "timeout": ["1m30s", "90s"],
    "logFile": ["/a b/c.log", "x"],
    "logLevel": ["debug"],
    "trustedProxies": [["10.0.0.0/8"], ["10.0.0.0/8", "2001:db8::/32"]],
    "sentrySampleRate": [0.5],
    "protocols": [[1, 3], [3]],
}
LOCALS = ["http://127.0.0.1:80", "tcp://[::1]:22", "https://a.example.com:443"]
OF_SERVICES: dict[str, list[Any]] = {
    "hostPrefix": ["1", "blog", "null"],
    "remoteTCPPort": [22, "10022"],
    "remoteTCPRandom": [True, False],
    "localTimeout": ["2m"],
    "allowIPs": [
        ["10.0.0.0/8"],
        ["10.0.0.0/8", "2001:db8::/32"],
        ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"],
    ],
    "denyIPs": [["192.0.2.1/32"], []],
}
LIMITS = ("tcpRange", "tcpNumber", "speed", "connections", "hostNumber", "hostRegex", "hostWithID")
NESTED = {"hostNumber": "number", "hostRegex": "regex", "hostWithID": "withID"}


class Anchored(dict[str, Any]):
    """A mapping with an anchor."""

    name = ""


class Alias(str):
    """Refers to an anchor."""


class Merge(str):
    """The key `<<`."""


def comments(text: str) -> set[str]:
    """The comments of a text that was written here."""
    return set(re.findall(r"# c[0-9]+\.", text))


class Writer:
    """Makes texts. `anchors` is how often users refer to each other."""

    def __init__(self, random: Random, anchors: float = 0.0) -> None:
        self._random = random
        self._anchors = anchors
        self._step = random.choice((2, 2, 4, 3))
        self._offset = random.choice((0, 2, self._step))
        self._comments = 0

    def server(self) -> str:
        return self._text(self._server())

    def client(self) -> str:
        services = [self.service() for _ in range(self._random.randint(0, 4))]
        said: dict[str, Any] = {
            "services": services or None,
            "options": {"id": "id1", "remote": ["tcp://a:1"]},
        }
        if self._maybe(0.3):
            said["type"] = "client"
        return self._text(self._shuffled(said))

    def _text(self, said: dict[str, Any]) -> str:
        if not said:
            lines = [self._comment()]
        elif self._maybe(0.1):
            lines = [self._flow(said)]
        else:
            lines = self._above(0) + self._mapping(said, 0)
        text = "\n".join(lines) + self._random.choice(("\n", "", "\n\n", f"\n{self._comment()}\n"))
        if self._maybe(0.2):
            text = text.replace("\n", "\r\n")
        return "\ufeff" + text if self._maybe(0.1) else text

    # what it says

    def limits(self, often: float) -> dict[str, Any]:
        return {key: self._random.choice(VALUES[key]) for key in LIMITS if self._maybe(often)}

    def service(self) -> dict[str, Any]:
        service: dict[str, Any] = {"local": self._random.choice(LOCALS)}
        service |= {key: self._random.choice(each) for key, each in OF_SERVICES.items() if self._maybe(0.3)}
        return self._shuffled(service)

    def _server(self) -> dict[str, Any]:
        said: dict[str, Any] = {"type": "server"} if self._maybe(0.5) else {}
        if self._maybe(0.2):
            said["version"] = "1.0"
        if self._maybe(0.9):
            ids = self._random.sample(IDS, self._random.randint(0, 3))
            said["users"] = {id: self._user() for id in ids} or None
            if len(ids) > 1 and self._maybe(self._anchors):
                self._share(said["users"])
        options = {key: self._random.choice(VALUES[key]) for key in VALUES if self._maybe(0.3)}
        self._nest(said, options, 0.6)
        if self._maybe(0.8):
            said["options"] = options or None
        return self._shuffled(said)

    def _user(self) -> dict[str, Any]:
        user: dict[str, Any] = {"secret": self._random.choice(SECRETS)}
        limits = self.limits(0.4)
        self._nest(user, limits, 0.7)
        user |= limits
        return self._shuffled(user) if self._maybe(0.2) else user

    def _nest(self, into: dict[str, Any], limits: dict[str, Any], often: float) -> None:
        """Let limits stand under `tcp` and `host`. No ports at all cannot be said there."""
        for key in list(limits):
            if key == "tcpRange" and limits[key] and self._maybe(often):
                into["tcp"] = [{"range": each} for each in limits.pop(key)]
            elif key in NESTED and self._maybe(often):
                into.setdefault("host", {})[NESTED[key]] = limits.pop(key)

    def _share(self, users: dict[str, Any]) -> None:
        first, *others = users
        base = users[first] = Anchored(users[first])
        base.name = "base"
        if "host" in base and self._maybe(0.5):
            base["host"] = Anchored(base["host"])
            base["host"].name = "hosts"
        for id in others:
            if self._maybe(0.3):
                users[id] = Alias("base")
            elif self._maybe(0.7):
                users[id] = {Merge("<<"): Alias("base"), **users[id]}
                if isinstance(base.get("host"), Anchored) and "host" in users[id] and self._maybe(0.5):
                    users[id]["host"] = Alias("hosts")

    def _shuffled(self, said: dict[str, Any]) -> dict[str, Any]:
        entries = list(said.items())
        self._random.shuffle(entries)
        return dict(entries)

    # how it is written

    def _mapping(self, said: dict[str, Any], indent: int) -> list[str]:
        lines: list[str] = []
        for key, value in said.items():
            lines += self._above(indent)
            start = " " * indent + self._scalar(key) + self._random.choice((":", ":", " :"))
            if isinstance(value, (dict, list)) and value and self._maybe(0.75):
                anchor = f" &{value.name}" if isinstance(value, Anchored) else ""
                lines.append(start + anchor + self._behind())
                if isinstance(value, dict):
                    lines += self._mapping(value, indent + self._step)
                else:
                    lines += self._list(value, indent + self._offset)
            else:
                lines.append(start + self._random.choice((" ", "   ")) + self._flow(value) + self._behind())
        return lines + ([" " * indent + self._comment()] if self._maybe(0.1) else [])

    def _list(self, said: list[Any], indent: int) -> list[str]:
        lines: list[str] = []
        for each in said:
            lines += self._above(indent)
            dash = " " * indent + "- "
            if isinstance(each, dict) and self._maybe(0.8):
                (key, value), *rest = each.items()
                lines.append(f"{dash}{self._scalar(key)}: {self._flow(value)}{self._behind()}")
                lines += self._mapping(dict(rest), indent + 2)
            else:
                lines.append(dash + self._flow(each) + self._behind())
        return lines

    def _flow(self, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, Alias):
            return f"*{value} "
        if isinstance(value, dict):
            anchor = f"&{value.name} " if isinstance(value, Anchored) else ""
            entries = (f"{self._scalar(key)}: {self._flow(each)}" for key, each in value.items())
            return anchor + "{" + ", ".join(entries) + "}"
        if isinstance(value, list):
            return self._random.choice(("[%s]", "[ %s ]")) % ", ".join(map(self._flow, value))
        return self._scalar(str(value).lower() if isinstance(value, bool) else value)

    def _scalar(self, value: Any) -> str:
        text = str(value)
        quote = self._random.choice(("", "'", '"'))
        if isinstance(value, Merge) or (not quote and _reads_plain(text)):
            return text
        return "'" + text.replace("'", "''") + "'" if quote == "'" else json.dumps(text, ensure_ascii=False)

    def _above(self, indent: int) -> list[str]:
        lines = [""] if self._maybe(0.15) else []
        return lines + ([" " * indent + self._comment()] if self._maybe(0.2) else [])

    def _behind(self) -> str:
        return "   " + self._comment() if self._maybe(0.2) else ""

    def _comment(self) -> str:
        self._comments += 1
        return f"# c{self._comments}."

    def _maybe(self, often: float) -> bool:
        return self._random.random() < often


def _reads_plain(text: str) -> bool:
    """Whether a text says the same without quotes."""
    try:
        flow: Any = yaml.compose(f"[{text}, b]")
        block: Any = yaml.compose(f"k: {text}")
        in_flow = flow.value
        (_, in_block), *more = block.value
    except (yaml.YAMLError, AttributeError, ValueError):
        return False
    is_null = in_block.tag == "tag:yaml.org,2002:null"
    return (
        len(in_flow) == 2
        and in_flow[0].value == text == in_block.value
        and not more
        and not is_null
        and text != "<<"
    )
