"""What of all that happens is told to the user's hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from replicad.model.health import Health
from replicad.model.runs import Outcome, Run

from .control import MachineView
from .events import CycleEnded, Event, MoveStopped
from .hooks import Event as HookEvent
from .hooks import Fact, HookKind


class Announcer:
    """Tells `announce` of cycles and moves that ended, and of health that became another. For one event loop."""

    def __init__(self, announce: Callable[[HookEvent], None], now: Callable[[], datetime]) -> None:
        self._announce = announce
        self._now = now
        self._health: dict[str, Health] = {}

    def hear(self, event: Event) -> None:
        """As a listener of the hub."""
        if isinstance(event, CycleEnded) and event.run.outcome in (Outcome.DONE, Outcome.FAILED):
            self._announce(_of_run(event.run))
        if isinstance(event, MoveStopped):
            self._announce(_of_move(event, self._now()))

    def look(self, views: Iterable[MachineView], now: datetime) -> None:
        """How all machines stand now. The first look at a machine tells of it only if it is not well."""
        there = {view.vm: view for view in views}
        for vm, view in there.items():
            health, before = view.standing.health, self._health.get(vm, Health.NORMAL)
            self._health[vm] = health
            if health is not before:
                facts = {"health": health.value, "before": before.value, "reasons": view.standing.reasons}
                self._announce(HookEvent(HookKind.HEALTH_CHANGE, vm, now, facts))
        for vm in self._health.keys() - there.keys():
            del self._health[vm]


def _of_move(event: MoveStopped, now: datetime) -> HookEvent:
    record = event.move.record
    facts: dict[str, Fact] = {
        "move": record.id, "phase": record.phase.value, "source": record.source, "destination": record.places[0],
        "freeze_s": None if record.freeze_ms is None else record.freeze_ms / 1000, "error": event.move.error,
        "is_tried_again": event.is_tried_again,
    }  # fmt: skip
    return HookEvent(HookKind.MOVE, record.vm, now, facts)


def _of_run(run: Run) -> HookEvent:
    at = run.ended_at or run.started_at
    facts = {"run": run.number, "trigger": run.trigger.value, "duration_s": (at - run.started_at).total_seconds()}
    if run.failure is not None:
        failed = {"error": run.failure.text, "means": run.failure.severity.value}
        return HookEvent(HookKind.FAILURE, run.vm, at, {**facts, **failed})
    done = {"point": run.point, "kind": run.kind, "changed_bytes": run.changed_bytes, "sent_bytes": run.sent_bytes}
    return HookEvent(HookKind.SUCCESS, run.vm, at, {**facts, **done})
