"""What is told to hooks of moves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from replicad.model.known_moves import KnownMove
from replicad.model.moves import MovePhase, MoveRecord
from replicad.service.announcing import Announcer
from replicad.service.events import MoveBegan, MoveStopped
from replicad.service.hooks import Event, Fact, HookKind

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)
MOVE = KnownMove(
    MoveRecord("ab" * 16, "웹 🖥", r"\\nas1\vms\웹", (r"\\nas2\vms\웹", "/둘"), NOW, phase=MovePhase.DONE, freeze_ms=58)
)


def test_a_move_that_ended_or_was_stopped_is_told_with_what_became_of_it() -> None:
    told: list[Event] = []
    announcer = Announcer(told.append, lambda: NOW)
    announcer.hear(MoveBegan(MOVE))
    assert told == []
    announcer.hear(MoveStopped(MOVE))
    stopped = replace(MOVE, record=replace(MOVE.record, phase=MovePhase.BULK, freeze_ms=None), error="그 서버가 없다")
    announcer.hear(MoveStopped(stopped, is_tried_again=True))
    facts: dict[str, Fact] = {"move": "ab" * 16, "source": r"\\nas1\vms\웹", "destination": r"\\nas2\vms\웹"}
    done: dict[str, Fact] = {"phase": "done", "freeze_s": 0.058, "error": None, "is_tried_again": False}
    failed: dict[str, Fact] = {"phase": "bulk", "freeze_s": None, "error": "그 서버가 없다", "is_tried_again": True}
    assert told == [
        Event(HookKind.MOVE, "웹 🖥", NOW, facts | done), Event(HookKind.MOVE, "웹 🖥", NOW, facts | failed)
    ]  # fmt: skip
    assert "REPLICAD_ERROR" in told[1].environment()
