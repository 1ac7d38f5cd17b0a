"""Texts of the command line in English and Chinese, `--help` from the option table; used by `cli`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from gtapp.config.options import OPTIONS, SERVICE
from gtapp.config.schema import Option, Section
from gtapp.config.values import BOOLEAN

_COLUMN = 28  # where the help of an option begins; longer flags get a line of their own
_TOKEN = re.compile(r"\s+|(?:[!-\u10ff]+|.)[，。、：）”]*")  # spaces, or a word or one wide character
_ABOUT = {
    "server": (
        "Accept visitors and the tunnels of clients, and relay between them.",
        "接受访客与客户端的隧道，并在两者之间转发。",
    ),
    "client": (
        "Publish local services through the tunnels to a server.",
        "通过到服务器的隧道发布本地服务。",
    ),
    "connect": (
        "Reach the service behind a client's host prefix from here. Not available yet.",
        "在本地访问某个客户端发布的服务。尚不可用。",
    ),
}
USAGE = (
    """\
usage: gt.py [-c FILE|DIR] [--depth N] [-s reload|restart|stop|upgrade] [server|client] [options]

  server      accept visitors and tunnels
  client      publish local services
  status      say what a running GT does: gt.py status [-c FILE|DIR] [--json]
  check       say whether a configuration is right, and what it amounts to: gt.py check -c FILE|DIR [--depth N]
  setup-token    show a new token for the first run's wizard
  reset-admin    give the console's administrator a new password: gt.py reset-admin [-c FILE]
  hash-password  read a password and print its hash, for basicAuth and the console's password
  demo        a server, a client and a page, to see it work
  version     say which version this is

gt.py server or gt.py client with nothing else is the appliance: the first time with a wizard in the browser, later as
it was set up there. gt.py server --help and gt.py client --help list the options. With -c alone the file says which
role it is for; of a directory, every .yaml and .yml file in it is run. -s has a GT that runs take over its
configuration (reload), start new processes that take over from the old (restart), end (stop), or replace its own
program as well (upgrade).
""",
    """\
用法：gt.py [-c FILE|DIR] [--depth N] [-s reload|restart|stop|upgrade] [server|client] [选项]

  server      接受访客与隧道
  client      发布本地服务
  status      显示正在运行的 GT 的状态：gt.py status [-c FILE|DIR] [--json]
  check       检查配置并显示实际生效的值：gt.py check -c FILE|DIR [--depth N]
  setup-token    显示首次运行向导的新令牌
  reset-admin    为管理后台的管理员设置新密码：gt.py reset-admin [-c FILE]
  hash-password  读取密码并输出其哈希，用于 basicAuth 和管理后台的密码
  demo        启动服务器、客户端和一个示例页面
  version     显示版本

只写 gt.py server 或 gt.py client 即为一体化运行：首次运行时在浏览器中完成向导，之后按其设置运行。
gt.py server --help 和 gt.py client --help 列出全部选项。只给 -c 时，由文件决定角色；给出目录时，运行其中所有的
.yaml 和 .yml 文件。-s 让正在运行的 GT 重新读取配置（reload）、用新进程接替旧进程（restart）、结束（stop），
或者连同主进程一起换成新程序（upgrade）。
""",
)
_NOTES = (
    "Durations look like 30s, 5m or 1m500ms, addresses like 80, :80 or [::]:80. Where a flag may be repeated, a YAML"
    " file has a list. Each flag is also a key of the file and a variable: --logLevel, logLevel, GT_LOG_LEVEL."
    " Precedence: flag, variable, file, default.",
    "时长形如 30s、5m 或 1m500ms，地址形如 80、:80 或 [::]:80。可重复的选项在 YAML 文件中写成列表。"
    "每个选项也是配置文件中的键和环境变量：--logLevel、logLevel、GT_LOG_LEVEL。优先级：命令行、环境变量、文件、默认值。",
)


def role_help(role: str, chinese: bool, width: int) -> str:
    """The help of a role, in lines of at most `width` columns."""
    options = [*OPTIONS[role].values(), *(SERVICE.values() if role == "client" else ())]
    lines = [f"{'用法：' if chinese else 'usage: '}gt.py {role} [-c FILE] [options]", ""]
    lines += [*_wrapped(_ABOUT[role][chinese], width), ""]
    for section in Section:
        entries = [entry for entry in options if entry.available and entry.section is section]
        if entries:
            lines.append(section.title(chinese) + ("：" if chinese else ":"))
            for entry in entries:
                lines += _option_lines(entry, chinese, width)
            lines.append("")
    if later := " ".join(entry.flag for entry in options if not entry.available):
        lines.append("尚不可用：" if chinese else "Not available yet:")
        lines += [f"  {line}" for line in _wrapped(later, width - 2)] + [""]
    return "\n".join([*lines, *_wrapped(_NOTES[chinese], width), ""])


def _option_lines(entry: Option, chinese: bool, width: int) -> Iterator[str]:
    head = f"  {entry.flag} {entry.kind.metavar}".rstrip()
    text = entry.zh if chinese else entry.en
    notes = ["可重复" if chinese else "repeatable"] if entry.many else []
    if entry.default and entry.kind is not BOOLEAN:
        shown = entry.show(entry.default)
        default = ", ".join(map(str, shown)) if entry.many else shown
        notes.append(f"默认 {default}" if chinese else f"default {default}")
    if notes:
        text += f"（{'，'.join(notes)}）" if chinese else f" ({', '.join(notes)})"
    lines = _wrapped(text, width - _COLUMN)
    if len(head) < _COLUMN - 1:
        yield f"{head:<{_COLUMN}}{lines.pop(0)}"
    else:
        yield head
    for line in lines:
        yield " " * _COLUMN + line


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns; Chinese may break between any two of its characters."""
    lines = [""]
    for token in _TOKEN.findall(text):
        if _columns(lines[-1] + token.rstrip()) > width:
            lines.append("")
        lines[-1] += token if lines[-1] else token.lstrip()
    return [line.rstrip() for line in lines]


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
