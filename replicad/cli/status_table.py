"""How virtual machines stand, as the API tells it, in the rows of a table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from replicad.model.durations import human_duration
from replicad.model.sizes import human_bytes

Machine = Mapping[str, Any]
"""One object of `status --json`."""

HEADERS = ("vm", "state", "health", "latest point", "lag", "objective")
DAEMON_HEADERS = (*HEADERS, "under way", "next cycle")
RIGHT = (4, 5)
_BADNESS = {"critical": 0, "warning": 1}


def row(machine: Machine) -> list[str]:
    """The cells for HEADERS."""
    lag_s, rpo_s = machine["lag_s"], machine["rpo_s"]
    return [
        machine["vm"],
        machine["state"],
        machine["health"],
        point_text(machine["last_point"]),
        "-" if lag_s is None else human_duration(lag_s),
        human_duration(rpo_s) if rpo_s else "-",
    ]


def daemon_row(machine: Machine, now: datetime) -> list[str]:
    """The cells for DAEMON_HEADERS."""
    return [*row(machine), under_way(machine), next_text(machine, now)]


def point_text(point: Machine | None) -> str:
    """A recovery point in a cell."""
    return f"{point['number']} ({point['consistency']}, {_time(point['time'])})" if point else "-"


def under_way(machine: Machine) -> str:
    """How far the cycle under way is, or the verification; '-' if there is neither."""
    progress = machine.get("progress")
    if progress is None and machine.get("run"):
        return "a cycle"
    if progress is None:
        progress = machine.get("verifying")
    if progress is None:
        return "-"
    done, total = progress["done_bytes"], progress["total_bytes"]
    share = f" {min(100, done * 100 // total)} %" if total else ""
    sent = f", {human_bytes(progress['sent_bytes'])} sent" if progress["sent_bytes"] else ""
    return f"{progress['phase']}{share}{sent}"


def reasons(machine: Machine) -> list[str]:
    """What keeps its health from being normal, a line each."""
    return [f"{machine['vm']}: {reason}" for reason in machine["reasons"]]


def verifications(machine: Machine, now: datetime) -> list[str]:
    """What the last verification came to, in a line; none where there was none, and where the reasons tell."""
    last = machine.get("verification")
    if last is None or last["outcome"] != "clean":
        return []
    ago = human_duration(max(0, round((now - datetime.fromisoformat(last["at"])).total_seconds())))
    note = f" ({last['text']})" if last["text"] else ""
    return [f"{machine['vm']}: verified {ago} ago: sound{note}"]


def tracking(machine: Machine) -> list[str]:
    """How the last cycle knew what had changed, and how far that was checked, a line each."""
    return [f"{machine['vm']}: tracking: {line}" for line in machine.get("tracking", ())]


def kept_clones(machine: Machine) -> list[str]:
    """How much room clones take at its source, in a line; none where there can be none, or that is not known."""
    kept = machine.get("kept_clones")
    return (
        [f"{machine['vm']}: clones kept at the source take {human_bytes(kept['bytes'])} of their own"] if kept else []
    )


def worst_first(machines: Sequence[Machine]) -> list[Machine]:
    """Those that are not well, then those with a cycle under way, then the rest."""
    return sorted(machines, key=lambda m: (_BADNESS.get(m["health"], 2), m.get("run") is None))


def news(before: Machine | None, now: Machine) -> list[str]:
    """What happened to a machine between two looks, as sentences without its name; not its age, nor its progress."""
    if before is None:
        return [_standing(now)]
    told = []
    old_run, run = before.get("run"), now.get("run")
    is_another = run is not None and (old_run is None or run["started_at"] != old_run["started_at"])
    if now["last_point"] and now["last_point"] != before["last_point"]:
        told.append(f"point {point_text(now['last_point'])} committed")
    elif old_run and (run is None or is_another):
        told.append("the cycle under way ended without a point")
    if run is not None and is_another:
        told.append(f"a cycle began ({run['trigger']})")
    verified = now.get("verification")
    if verified and verified != before.get("verification"):
        text = f": {verified['text']}" if verified["text"] else ""
        told.append(f"verification ended: {verified['outcome']}{text}")
    if any(before[key] != now[key] for key in ("state", "health")):
        told.append(_standing(now))
    return told


def _standing(machine: Machine) -> str:
    text = f"{machine['state']}, {machine['health']}"
    if machine["reasons"]:
        text += f": {'; '.join(machine['reasons'])}"
    return text


def next_text(machine: Machine, now: datetime) -> str:
    """When a cycle begins if nothing else happens."""
    if machine["next_run"] is None:
        return "paused" if machine.get("paused_since") else "-"
    left_s = (datetime.fromisoformat(machine["next_run"]) - now).total_seconds()
    return f"in {human_duration(round(left_s))}" if left_s >= 1 else "now"


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"
