"""Where events go: into the log, and to whoever listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from replicad.model.durations import human_duration
from replicad.model.known_moves import shown_id
from replicad.model.runs import Outcome, Run
from replicad.model.verification import VerificationOutcome, VerificationResult

from .events import (
    CycleBegan,
    CycleEnded,
    Event,
    MachineChanged,
    MoveBegan,
    MoveStopped,
    Trouble,
    VerificationBegan,
    VerificationEnded,
)

_MOST_WAITING = 256

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("daemon")

Listener = Callable[[Event], None]


class Hub:
    """For one event loop. Listeners must neither block nor raise."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = [log_event, *listeners]
        self._queues: set[asyncio.Queue[Event]] = set()

    def listen(self, listener: Listener) -> None:
        """Hand on to one more."""
        self._listeners.append(listener)

    def tell(self, event: Event) -> None:
        """Hand an event on. Who is too slow to hear it misses the oldest that it has not heard yet."""
        for listener in self._listeners:
            listener(event)
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    @contextmanager
    def subscription(self) -> Iterator[asyncio.Queue[Event]]:
        """A queue of what happens from now on, of at most 256 events."""
        queue: asyncio.Queue[Event] = asyncio.Queue(_MOST_WAITING)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)


def log_event(event: Event) -> None:
    """Write it to the log, as an administrator wants to read it."""
    match event:
        case CycleBegan(run):
            _log.info("cycle began", vm=run.vm, run=run.number, trigger=run.trigger.value, missed=run.missed)
        case CycleEnded(run, agenda):
            _log_end(run, agenda.failures)
        case VerificationBegan(vm):
            _log.info("verification began", vm=vm)
        case VerificationEnded(vm, result):
            _log_verification(vm, result)
        case MachineChanged(vm):
            _log.debug("machine changed", vm=vm)
        case MoveBegan(move):
            _log.info("move goes on", vm=move.vm, move=shown_id(move.id), phase=move.phase.value)
        case MoveStopped(move) if move.error is not None:
            _log.error(move.error, vm=move.vm, move=shown_id(move.id), phase=move.phase.value)
        case MoveStopped(move):
            _log.info(f"move {move.phase}", vm=move.vm, move=shown_id(move.id))
        case Trouble(vm, text, details):
            about = {"vm": vm} if vm is not None else {}
            _log.warning(text, **about, **({"details": details} if details else {}))


def _log_end(run: Run, failures: int) -> None:
    seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at is not None else 0.0
    facts = {"vm": run.vm, "run": run.number, "took": human_duration(seconds)}
    if run.outcome is Outcome.DONE:
        _log.info(
            "cycle done", **facts, point=run.point, kind=run.kind, changed_bytes=run.changed_bytes,
            sent_bytes=run.sent_bytes,
        )  # fmt: skip
    elif run.failure is not None:
        _log.error(run.failure.text, **facts, error=run.failure.error, means=run.failure.severity, failures=failures)
    else:
        _log.warning("cycle stopped; the next one goes on with it", **facts)


def _log_verification(vm: str, result: VerificationResult) -> None:
    facts = {"vm": vm, "took": human_duration(result.duration_s), "read_bytes": result.read_bytes}
    if result.outcome is VerificationOutcome.CLEAN:
        _log.info("verification done: the replica is sound", **facts, **({"note": result.text} if result.text else {}))
    elif result.outcome is VerificationOutcome.DAMAGED:
        _log.error(f"the replica is damaged: {result.text}", **facts, damaged_chunks=result.damaged_chunks)
    else:
        _log.error(f"the verification failed: {result.text}", **facts)
