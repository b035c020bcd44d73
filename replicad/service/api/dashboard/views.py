"""What the page shows of machines. Pure.

Each piece has an `id` for its element, made from the machine's name so that no name can harm, and a `mark`: as long as
that stays, the page leaves the element that it has alone, with the focus in it and what is read aloud of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from math import log
from typing import Any
from urllib.parse import quote

from replicad.model.health import Health
from replicad.model.moves import MovePhase
from replicad.service.api.move_shapes import MoveViewShape
from replicad.service.api.shapes import MachineShape, RecoveryPointShape

SHOWN_AT_FIRST = 100
MOST_SHOWN = 5_000
MOST_MOVES_SHOWN = 50
_WORST_FIRST = list(reversed(Health))
SHOWS = ("all", "troubles", "running", "paused")
_TICKS_S = (
    (60, "1 min"), (600, "10 min"), (3_600, "1 h"), (6 * 3_600, "6 h"), (86_400, "1 day"), (7 * 86_400, "1 week"),
    (30 * 86_400, "1 month"), (365 * 86_400, "1 year"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A machine in the list. `more_reasons` counts those that are not shown."""

    id: str
    mark: str
    href: str
    machine: MachineShape
    more_reasons: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """The list: the worst first, then by name. `matching` counts the machines that the filter leaves, `counts` all of
    them by what can be chosen to be shown, `healths` by their health."""

    rows: tuple[Row, ...]
    matching: int
    counts: dict[str, int]
    healths: dict[str, int]
    mark: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point on the time line; `x_percent` grows towards now."""

    point: RecoveryPointShape
    x_percent: float


@dataclass(frozen=True, slots=True)
class TimeLine:
    """Points by their age, on a scale that has room for the latest minutes and for months."""

    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]


def mark_of(*facts: object) -> str:
    """The same for the same facts."""
    return blake2b(repr(facts).encode(), digest_size=9).hexdigest()


def element_id(vm: str) -> str:
    """The id of what belongs to a machine, whatever it is called."""
    return f"m-{blake2b(vm.encode(), digest_size=9).hexdigest()}"


def machine_path(vm: str) -> str:
    """Its path in the API."""
    return f"/vms/{quote(vm, safe='')}"


def fleet(machines: Sequence[MachineShape], query: str, show: str, limit: int) -> Fleet:
    """The machines that match all words of `query` in their name, state, health or reasons, at most `limit` of them."""
    words = query.casefold().split()
    chosen = [machine for machine in machines if _is_shown(machine, show) and _matches(machine, words)]
    chosen.sort(key=lambda machine: (_WORST_FIRST.index(machine.health), machine.vm.casefold(), machine.vm))
    rows = tuple(_row(machine) for machine in chosen[:limit])
    counts = {name: sum(_is_shown(machine, name) for machine in machines) for name in SHOWS}
    healths = {health.value: sum(machine.health is health for machine in machines) for health in _WORST_FIRST}
    return Fleet(rows, len(chosen), counts, healths, mark_of(counts, healths, len(chosen), len(rows)))


def _row(machine: MachineShape) -> Row:
    # Its age grows by itself on the page; a progress does not.
    facts = machine.model_copy(update={"lag_s": None, "statistics": None})
    return Row(
        element_id(machine.vm),
        mark_of(facts.model_dump()),
        f"#vm={quote(machine.vm, safe='')}",
        machine,
        max(0, len(machine.reasons) - 1),
    )


def _is_shown(machine: MachineShape, show: str) -> bool:
    match show:
        case "troubles":
            return machine.health is not Health.NORMAL
        case "running":
            return machine.run is not None
        case "paused":
            return machine.paused_since is not None
    return True


def _matches(machine: MachineShape, words: Sequence[str]) -> bool:
    if not words:
        return True
    text = " ".join((machine.vm, machine.state, machine.health, *machine.reasons)).casefold()
    return all(word in text for word in words)


@dataclass(frozen=True, slots=True)
class MoveRow:
    """A move in the list. `state` is what it does now, in words."""

    id: str
    mark: str
    path: str
    view: MoveViewShape
    state: str
    can_be_cancelled: bool
    can_be_resumed: bool


def moves_shown(moves: Sequence[MoveViewShape], now: datetime) -> tuple[MoveRow, ...]:
    """Those that have not ended, and of the others the newest of the last day: those under way first, then those
    with errors."""
    fresh = [
        view for view in moves if view.move.ended is None or (now - view.move.ended) < timedelta(days=1)
    ]  # fmt: skip
    fresh.sort(key=_move_order)
    return tuple(_move_row(view) for view in fresh[:MOST_MOVES_SHOWN])


def _move_order(view: MoveViewShape) -> tuple[object, ...]:
    move = view.move
    return move.ended is not None, view.progress is None, move.error is None, -move.began.timestamp(), move.id


def _move_row(view: MoveViewShape) -> MoveRow:
    move = view.move
    waits = move.ended is None and view.progress is None
    return MoveRow(
        f"move-{move.id}",
        mark_of(view.model_dump()),
        f"/moves/{quote(move.id, safe='')}",
        view,
        _state_of(view),
        move.ended is None and move.phase.can_be_cancelled,
        waits and move.error is not None,
    )


def _state_of(view: MoveViewShape) -> str:
    move = view.move
    if view.progress is not None:
        return view.progress.phase or "beginning"
    if move.ended is None and move.error is not None:
        return "stopped by an error" if view.retry_at is None else "tried again"
    if move.phase is MovePhase.RETIRED:
        return "done; the source is kept for a while"
    return move.phase.value


def progress_percent(of: MachineShape | MoveViewShape) -> int | None:
    """How much of its phase is done; None if that is not known."""
    progress = of.progress
    if progress is None or not progress.total_bytes:
        return None
    return min(100, 100 * progress.done_bytes // progress.total_bytes)


def time_line(points: Sequence[RecoveryPointShape], now: datetime) -> TimeLine:
    """Where each point lies: an age of no time at the right end, that of the oldest one at the left."""
    ages = [max(0.0, (now - point.time).total_seconds()) for point in points]
    longest = max([*ages, 600.0]) * 1.15
    room = log(1 + longest / 60)

    def place(age_s: float) -> float:
        return round(98 - 96 * log(1 + age_s / 60) / room, 2)

    dots = tuple(Dot(point, place(age)) for point, age in zip(points, ages, strict=True))
    # Names need room: one that comes too near to that before is left out.
    ticks: list[tuple[float, str]] = [(98.0, "now")]
    for age_s, name in _TICKS_S:
        if age_s < longest and ticks[-1][0] - place(age_s) >= 14:
            ticks.append((place(age_s), name))
    return TimeLine(dots, tuple(ticks))


@dataclass(frozen=True, slots=True)
class Verification:
    """What the API tells of a machine's verifications, as it tells it; None for what there is not."""

    last: dict[str, Any] | None
    verifying: dict[str, Any] | None


def verification_of(machine: MachineShape) -> Verification:
    """The last verification, and the one under way."""
    told = machine.model_dump(mode="json")
    return Verification(told.get("verification"), told.get("verifying"))
