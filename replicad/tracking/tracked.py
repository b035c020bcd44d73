"""A source of a view and a tracker: what is remembered of each cycle, so that the next one reads only what changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from replicad.model.changes import BaseState, ChangeSet, Outside
from replicad.model.clock import Clock
from replicad.model.errors import ReplicadError
from replicad.model.points import Consistency, Provenance
from replicad.model.progress import Observer, Warned

from .marks import Mark, Marks, MarkStore
from .port import Request, Seen, SelectedFile, Snapshot, SnapshotFile, Tracker, Untold, View

_NAME_DIGITS = 16


async def full_scan(file: SnapshotFile, note: str = "") -> ChangeSet:
    """All of a file but what is not allocated."""
    return ChangeSet(tuple(await file.file.allocated_extents()), Outside.ZEROS, Provenance.FULL_SCAN, note)


@dataclass(frozen=True, slots=True)
class TrackedSource:
    """A `ChangeSource`. Without `marks` or a `tracker` every cycle is a full scan.

    `application_every_s`: how long after a point with the guest quiesced the next one is to be; None: each is.
    """

    view: View
    tracker: Tracker | None
    marks: MarkStore | None
    clock: Clock
    observe: Observer
    application_every_s: int | None = None

    async def select(self) -> tuple[SelectedFile, ...]:
        return await self.view.select()

    @asynccontextmanager
    async def snapshot(self, replica_id: str | None, *, for_cycle: bool) -> AsyncIterator[Snapshot]:
        marks = await self._remembered(replica_id)
        request = Request(
            name=(replica_id or "")[:_NAME_DIGITS],
            remembered=tuple(mark.facts for mark in marks.marks),
            application=self._application_is_due(marks.application_at),
            for_cycle=for_cycle,
        )
        moment = _Moment(self.tracker if for_cycle and self.marks is not None else None, request)
        try:
            async with self.view.open(request, moment) as seen:
                yield Snapshot(
                    seen.files, seen.consistency, seen.taken, seen.warnings, seen.confirm,
                    partial(self._changes, marks, moment), partial(self._keep, replica_id, moment, seen),
                )  # fmt: skip
        finally:
            await moment.end()

    async def settle(self, replica_id: str, states: Mapping[str, BaseState]) -> None:
        if self.marks is None or self.tracker is None:
            return
        try:
            marks = await self.marks.load(replica_id)
            kept = tuple(mark for mark in marks.marks if states.get(mark.path) == mark.state)
            # Of two marks of one state (nothing changed) the newer one has seen less since.
            kept = tuple({mark.path: mark for mark in kept}.values())
            await self._forget(marks.marks, kept)
            if kept != marks.marks:
                await self.marks.save(replica_id, replace(marks, marks=kept))
        except ReplicadError as error:
            self._warn(error, "is done at the next cycle")

    def _application_is_due(self, last: datetime | None) -> bool:
        if self.application_every_s is None or last is None:
            return True
        passed = self.clock.now() - last
        # A clock that was set back must not keep the guest from being quiesced for ever.
        return not timedelta(0) <= passed < timedelta(seconds=self.application_every_s)

    async def _remembered(self, replica_id: str | None) -> Marks:
        if self.marks is None or replica_id is None:
            return Marks()
        try:
            return await self.marks.load(replica_id)
        except ReplicadError as error:
            self._warn(error, "the disks are read whole")
            return Marks()

    async def _changes(self, marks: Marks, moment: _Moment, file: SnapshotFile, since: BaseState | None) -> ChangeSet:
        if since is not None:
            moment.bases[file.path] = since
        if self.tracker is None or since is None:
            return await full_scan(file)
        mark = marks.of(file.path, since, self.tracker.provenance)
        if mark is None:
            return await full_scan(file, "nothing is remembered of the state that the replica has")
        told = await self.tracker.changes(file, mark.facts)
        return await full_scan(file, told.reason) if isinstance(told, Untold) else told

    async def _keep(self, replica_id: str | None, moment: _Moment, seen: Seen, states: Mapping[str, BaseState]) -> None:
        if self.marks is None or replica_id is None:
            return
        try:
            before = await self.marks.load(replica_id)
            # Cycles that kept something and then failed to commit must not pile up clones.
            useful = tuple(mark for mark in before.marks if moment.bases.get(mark.path) == mark.state)
            await self._forget(before.marks, useful)
            made = await moment.marks(seen.files, states)
            quiesced = seen.consistency is Consistency.APPLICATION
            after = Marks(marks=(*useful, *made), application_at=seen.taken if quiesced else before.application_at)
            if after != before:
                await self.marks.save(replica_id, after)
        except ReplicadError as error:
            self._warn(error, "the next cycle reads the disks whole")

    async def _forget(self, marks: tuple[Mark, ...], kept: tuple[Mark, ...]) -> None:
        for mark in marks:
            if mark not in kept and self.tracker is not None:
                await self.tracker.forget(mark.path, mark.facts)

    def _warn(self, error: ReplicadError, consequence: str) -> None:
        self.observe(Warned(f"cannot {error.op} {error.subject}: {error.answer}; {consequence}"))


class _Moment:
    """Tells the tracker when the view's moment comes, and has it give back what came to nothing."""

    def __init__(self, tracker: Tracker | None, request: Request) -> None:
        self.bases: dict[str, BaseState] = {}
        """The states that changes were asked for, by path."""
        self._tracker = tracker
        self._request = request

    async def before(self, files: Sequence[SelectedFile]) -> None:
        if self._tracker is not None:
            await self._tracker.begin(self._request, files)

    async def after(self) -> None:
        if self._tracker is not None:
            await self._tracker.passed()

    async def marks(self, files: Sequence[SnapshotFile], states: Mapping[str, BaseState]) -> list[Mark]:
        tracker = self._tracker
        if tracker is None:
            return []
        facts = {file.path: await tracker.mark(file) for file in files if file.path in states}
        return [
            Mark(path, states[path], tracker.provenance, dict(told)) for path, told in facts.items() if told is not None
        ]

    async def end(self) -> None:
        if self._tracker is not None:
            await self._tracker.end()
