"""What was measured: rows with a ratio and a wish, tables beside them; as text for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

TOO_BUSY = 0.05  # beyond this share of CPU time for other processes, figures say little


@dataclass
class Row:
    """One load: a sample of each round for each route, and what GT's median should be."""

    case: str
    load: str
    unit: str
    gt: list[float]
    haproxy: list[float] = field(default_factory=list)
    nginx: list[float] = field(default_factory=list)
    _: KW_ONLY
    at_least: float | None = None  # of the ratio to haproxy, or of GT's own figure where haproxy has none
    at_most: float | None = None
    errors: int = 0

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.gt) / statistics.median(self.haproxy) if self.haproxy else None

    @property
    def ok(self) -> bool:
        judged = statistics.median(self.gt) if self.ratio is None else self.ratio
        return not (
            self.errors
            or (self.at_least is not None and judged < self.at_least)
            or (self.at_most is not None and judged > self.at_most)
        )

    @property
    def wanted(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def verdict(self) -> str:
        return ("ok" if self.ok else "MISS") + (f", {self.errors} errors" if self.errors else "")

    def cells(self) -> list[str]:
        figures = [
            f"{_number(statistics.median(each))} {self.unit}" if each else ""
            for each in (self.gt, self.haproxy)
        ]
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        nginx = f"{_number(statistics.median(self.nginx))} {self.unit}" if self.nginx else ""
        return [self.load, *figures, nginx, ratio, self.wanted, self.verdict]

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "ratio": self.ratio, "ok": self.ok}


@dataclass
class Table:
    """Figures that are told and not judged."""

    case: str
    title: str
    header: list[str]
    rows: list[list[str | float]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "title": self.title,
            "rows": [dict(zip(self.header, row, strict=True)) for row in self.rows],
        }


@dataclass
class Report:
    """Everything a run measured, in the order it was measured."""

    rounds: int
    seconds: float
    others: float = 0.0  # share of the machine's CPU time that went to other processes meanwhile, 0..1
    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def text(self) -> str:
        parts = []
        if self.rows:
            header = ["load", "GT", "haproxy twice", "nginx direct", "GT : haproxy", "wanted", ""]
            parts.append(
                f"Medians of {self.rounds} interleaved rounds of {self.seconds:g} s, all in this run.\n"
                + _aligned([header, *(row.cells() for row in self.rows)])
            )
        for table in self.tables:
            cells = [[each if isinstance(each, str) else _number(each) for each in row] for row in table.rows]
            parts.append(f"{table.title}\n" + _aligned([table.header, *cells]))
        if self.others > TOO_BUSY:
            parts.append(
                f"Other processes used {self.others:.0%} of this machine's CPU time: measure again without them."
            )
        return "\n\n".join(parts)

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = {
            "machine": machine(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "others": self.others,
            "ok": self.ok,
            "rows": [row.as_json() for row in self.rows],
            "tables": [table.as_json() for table in self.tables],
        }
        file.write_text(json.dumps(whole, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What figures depend on besides the code."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model[1] if model else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "haproxy": _version(["haproxy", "-v"]),
        "nginx": _version(["nginx", "-v"]),
    }


def _version(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.[\w.+~-]+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _aligned(rows: list[list[str]]) -> str:
    """Columns, the first one left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [
            first.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)),
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
