"""The image's health check: exit code 0 when GT relays or waits for its set-up, 1 and the reason otherwise.

Docker runs it every 30 s."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

GT = Path(__file__).resolve().parents[1] / "gt.py"


def main() -> int:
    asked = subprocess.run([sys.executable, str(GT), "status", "--json"], capture_output=True, text=True)
    if asked.returncode:
        print(asked.stderr.strip())
        return 1
    status = json.loads(asked.stdout)
    problems = [problem for unit in status["units"] for problem in problems_of(unit)]
    waits = "first_run" in status and "GT waits to be set up in the browser"
    print("\n".join(problems) or waits or "GT relays")
    return 1 if problems else 0


def problems_of(unit: dict[str, Any]) -> list[str]:
    """What keeps one configuration from doing its work."""
    name = unit["config"] or unit["role"]
    ready = [worker for worker in unit["workers"] if worker["state"] == "ready" and "problem" not in worker]
    if not ready:
        return [f"{name}: no worker is ready"]
    if unit["role"] == "client" and not any(worker["tunnels"] for worker in ready):
        return [f"{name}: has no tunnel to its server"]
    return []


if __name__ == "__main__":
    sys.exit(main())
