"""Command line flags: `--key value`, `--key=value` or `-key value` for every option; used by `load`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gtapp.config.problems import Problems, Values, nearest, quoted
from gtapp.config.schema import Option
from gtapp.config.values import BOOLEAN

_CONFIG = ("c", "config")


@dataclass
class Flags:
    """What a command line says: the config file, options, and for each `--local` what follows it."""

    path: str | None = None
    options: Values = field(default_factory=dict)
    services: list[Values] = field(default_factory=list)


def read_flags(
    words: Sequence[str], options: Mapping[str, Option], service: Mapping[str, Option], problems: Problems
) -> Flags:
    """Read the words after the role. `service` are the options that belong to the `--local` before them."""
    flags = Flags()
    pairs = []
    for name, text in _split(words, {**options, **service}, problems):
        if name not in _CONFIG:
            pairs.append((name, text))
        elif flags.path is None:
            flags.path = text
        else:
            problems.add(f"-{name}: is there twice")
    # With one service the order does not matter, as in the original GT.
    is_single = [name for name, _ in pairs].count("local") == 1
    texts: dict[str, list[str]] = {}
    services: list[dict[str, list[str]]] = [{}] if is_single else []
    for name, text in pairs:
        if name == "local" and not is_single:
            services.append({})
        if name in service and not services:
            problems.add(f"--{name}: belongs to a service, put it after its --local")
            continue
        group = services[-1] if name in service else texts
        if name in group and not {**options, **service}[name].many:
            problems.add(f"--{name}: is there twice")
        group.setdefault(name, []).append(text)
    flags.options = _parse(texts, options, problems)
    flags.services = [_parse(group, service, problems) for group in services]
    return flags


def _split(
    words: Sequence[str], known: Mapping[str, Option], problems: Problems
) -> Iterator[tuple[str, str]]:
    """The flags in `words`: key (or c, config) and text."""
    flags = [entry.flag for entry in known.values()]
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
        if not word.startswith("-"):
            problems.add(f"{quoted(word)} is not an option, options begin with --")
        elif name not in known and name not in _CONFIG:
            flag = quoted(word.partition("=")[0])
            problems.add(f"{flag} is not an option here{nearest(name, known, '--')}")
            if rest and not equals and not rest[-1].startswith("-"):
                rest.pop()  # its value, most likely
        elif equals:
            yield name, text
        elif name in known and known[name].kind is BOOLEAN:
            yield name, "true"
        elif rest and rest[-1].partition("=")[0] not in flags:
            yield name, rest.pop()
        else:
            problems.add(f"--{name}: needs a value")


def _parse(texts: Mapping[str, list[str]], options: Mapping[str, Option], problems: Problems) -> Values:
    given: Values = {}
    for key, words in texts.items():
        if value := problems.parse(options[key], words, options[key].flag):
            given[key] = value
    return given
