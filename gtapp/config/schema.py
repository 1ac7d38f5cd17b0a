"""What an option is: the metadata that each entry of the option table carries, and the names made from it."""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gtapp.config.values import Kind

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
D = TypeVar("D")

Applies = Literal["live", "listeners", "restart"]
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")


class Section(enum.Enum):
    """The headings of `--help`, of the manual and of the console's forms, in their order."""

    LISTENING = ("Listening", "监听")
    IDENTITY = ("Identity", "身份")
    USERS = ("Users", "用户")
    LIMITS = ("Limits of each client", "每个客户端的限制")
    TUNNELS = ("Tunnels", "隧道")
    SERVICES = ("Services (each flag belongs to the --local before it)", "服务（每项属于它前面的 --local）")
    RELAYING = ("Relaying", "转发")
    STATUS = ("Status API", "状态接口")
    WEBRTC = ("WebRTC", "WebRTC")
    CONSOLE = ("Console", "管理后台")
    LOGGING = ("Logging", "日志")
    SENTRY = ("Error reports (Sentry)", "错误上报（Sentry）")
    PROCESSES = ("Processes", "进程")

    def title(self, chinese: bool) -> str:
        """The heading in English or Chinese."""
        return self.value[chinese]


@dataclasses.dataclass(frozen=True)
class Option:
    """One entry of the table.

    `applies` says what a changed value takes: it is used at once (`live`), sockets are opened or closed
    (`listeners`), or new workers start (`restart`). An option that is not `available` belongs to a feature
    that is not built yet: it is refused unless it has its default.
    """

    key: str
    kind: Kind[Any]
    default: Any
    section: Section
    applies: Applies
    en: str
    zh: str
    many: bool = False
    available: bool = True
    secret: bool = False

    @property
    def name(self) -> str:
        """The attribute of the dataclass: tlsAddr -> tls_addr, httpMUXHeader -> http_mux_header."""
        return _WORD_STARTS.sub("_", self.key).lower()

    @property
    def flag(self) -> str:
        """The command line flag."""
        return f"--{self.key}"

    @property
    def env(self) -> str:
        """The environment variable: tlsAddr -> GT_TLS_ADDR."""
        return f"GT_{self.name.upper()}"

    def show(self, value: Any) -> Any:
        """The value as it stands in a YAML file; reading that again gives an equal value."""
        return [self.kind.show(item) for item in value] if self.many else self.kind.show(value)


def option(key: str, kind: Kind[T], default: D, section: Section, applies: Applies, **more: Any) -> T | D:
    """A dataclass field that holds one value; `more` are the remaining fields of `Option`."""
    return _field(default, Option(key, kind, default, section, applies, **more))


def option_list(
    key: str, kind: Kind[T], default: tuple[T, ...], section: Section, applies: Applies, **more: Any
) -> tuple[T, ...]:
    """A dataclass field that holds several values: a YAML list, a repeated flag, a variable with commas."""
    return _field(default, Option(key, kind, default, section, applies, many=True, **more))


def required(key: str, kind: Kind[T], section: Section, applies: Applies, **more: Any) -> T:
    """A dataclass field without which its group of options makes no sense."""
    missing: Any = dataclasses.MISSING
    field: T = _field(missing, Option(key, kind, None, section, applies, **more))
    return field


def _field(default: D, entry: Option) -> D:
    return dataclasses.field(default=default, repr=not entry.secret, metadata={"option": entry})


def options_of(table: type[DataclassInstance]) -> dict[str, Option]:
    """The options of one dataclass of the table, by key."""
    entries = (field.metadata.get("option") for field in dataclasses.fields(table))
    return {entry.key: entry for entry in entries if entry}
