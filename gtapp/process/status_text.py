"""What `gt.py status` prints, of what the master answers."""

import json
from typing import Any

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def as_json(answer: dict[str, Any]) -> str:
    """All of it."""
    return json.dumps({key: value for key, value in answer.items() if key not in ("ok", "text")}, indent=2)


def as_text(answer: dict[str, Any]) -> str:
    """What people want to know."""
    lines = [f"GT {answer['version']}, process {answer['pid']}, {answer['config'] or 'without a file'}"]
    if first := answer.get("first_run"):
        lines += [
            "",
            f"not set up yet: its wizard is on {first['address']}; gt.py setup-token shows the token",
        ]
    for unit in answer["units"]:
        lines += ["", f"{unit['role']} {unit['config']}".rstrip()]
        lines += [f"  listens on {each['address']} ({each['option']})" for each in unit["listeners"]]
        for worker in unit["workers"]:
            state = f", {worker['state']}" if worker["state"] != "ready" else ""
            age = _age(worker["age_s"])
            lines.append(
                f"  worker {worker['number']}: process {worker['pid']}, generation {worker['generation']}, {age}{state}"
            )
            if "problem" in worker:
                lines.append(f"    {worker['problem']}")
            lines += [f"    {_tunnel(each)}" for each in worker.get("tunnels", ())]
            lines += [
                f"    serves {each['local']} as {', '.join(each['public'])}"
                for each in worker.get("services", ())
            ]
        lines += [f"  {_host(each)}" for each in _hosts(unit)]
    return "\n".join(lines)


def _hosts(unit: dict[str, Any]) -> list[dict[str, Any]]:
    """The hosts and ports of all workers, each once."""
    found = {}
    for worker in unit["workers"]:
        for each in worker.get("hosts", ()):
            found[each["kind"], each["name"]] = each
    return [found[key] for key in sorted(found)]


def _host(each: dict[str, Any]) -> str:
    what = {"tcp": "port", "tls": "host (TLS passed through)"}.get(each["kind"], "host")
    return f"{what} {each['name']} of {each['user']}"


def _tunnel(each: dict[str, Any]) -> str:
    who = f"of {each['user']} from {each['peer']}" if "user" in each else f"to {each['remote']}"
    streams = each["streams"]
    return (
        f"tunnel {who}: {each['state']}, protocol {each['protocol']} over {each['transport']}, {_age(each['age_s'])}, "
        f"{streams} connection{'s' * (streams != 1)}, round trip {each['rtt_ms']:.1f} ms"
    )


def _age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
