"""A source of a view and a tracker: what is remembered of each cycle, so that the next one reads only what changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from replicad.model.changes import BaseState, ChangeSet, Outside
from replicad.model.clock import Clock
from replicad.model.errors import ReplicadError
from replicad.model.points import Consistency, Provenance, Trust
from replicad.model.progress import Observer, Warned

from .marks import Doubt, Mark, Marks, MarkStore
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
    async def snapshot(
        self, replica_id: str | None, *, for_cycle: bool, is_last: bool = False
    ) -> AsyncIterator[Snapshot]:
        marks = await self._remembered(replica_id)
        request = Request(
            name=(replica_id or "")[:_NAME_DIGITS],
            remembered=tuple(mark.facts for mark in marks.marks if self._understands(mark)),
            application=self._application_is_due(marks.application_at),
            for_cycle=for_cycle,
            is_last=is_last,
        )
        moment = _Moment(self.tracker if for_cycle and self.marks is not None else None, request)
        try:
            async with self.view.open(request, moment) as seen:
                yield Snapshot(
                    seen.files, seen.consistency, seen.taken, seen.warnings, seen.confirm,
                    partial(self._changes, marks, moment), partial(self._keep, replica_id, moment, seen),
                    partial(self._mistaken, replica_id, moment),
                )  # fmt: skip
        finally:
            await self._trying(moment.end(), "it is given back at the next cycle")

    async def settle(self, replica_id: str, states: Mapping[str, BaseState]) -> None:
        if self.marks is None:
            return
        try:
            marks = await self.marks.load(replica_id)
            kept = tuple(mark for mark in marks.marks if states.get(mark.path) == mark.state)
            # Of two marks of one state (nothing changed) the newer one has seen less since.
            kept = tuple({mark.path: mark for mark in kept}.values())
            quiesced = marks.application_next or marks.application_at
            after = replace(marks, marks=kept, doubts=(), application_at=quiesced, application_next=None)
            await self._replace(self.marks, replica_id, marks, after)
        except ReplicadError as error:
            self._warn(error, "this is done at the next cycle")

    def _understands(self, mark: Mark) -> bool:
        return self.tracker is not None and mark.tracker is self.tracker.provenance

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
        if since is None:
            return await full_scan(file)
        moment.bases[file.path] = since
        if (doubt := marks.doubt(file.path, since)) is not None:
            return await _full_scan_after(file, doubt.trust)
        if self.tracker is None:
            return await full_scan(file)
        if moment.failure is not None:
            return await full_scan(file, moment.failure)
        mark = marks.of(file.path, since, self.tracker.provenance)
        if mark is None:
            return await full_scan(file, "nothing is remembered of the state that the replica has")
        try:
            told = await self.tracker.changes(file, mark.facts)
        except ReplicadError as error:
            told = Untold(f"cannot {error.op} {error.subject}: {error.answer}")
        return await full_scan(file, told.reason) if isinstance(told, Untold) else told

    async def _mistaken(
        self, replica_id: str | None, moment: _Moment, file: SnapshotFile, since: BaseState, trust: Trust
    ) -> ChangeSet:
        moment.doubts.append(Doubt(file.path, since, trust))
        if self.marks is not None and replica_id is not None:
            try:
                before = await self.marks.load(replica_id)
                left = tuple(mark for mark in before.marks if mark.path != file.path)
                doubts = (*(d for d in before.doubts if d.path != file.path), moment.doubts[-1])
                await self._replace(self.marks, replica_id, before, replace(before, marks=left, doubts=doubts))
            except ReplicadError as error:
                self._warn(error, "it is not remembered that it can't be relied on")
        return await _full_scan_after(file, trust)

    async def _keep(self, replica_id: str | None, moment: _Moment, seen: Seen, states: Mapping[str, BaseState]) -> None:
        if self.marks is None or replica_id is None:
            return
        try:
            before = await self.marks.load(replica_id)
            doubtful = {doubt.path for doubt in moment.doubts}
            # Cycles that kept something and then failed to commit must not pile up clones.
            useful = tuple(
                mark for mark in before.marks if moment.bases.get(mark.path) == mark.state and mark.path not in doubtful
            )
            made = await self._marks_of(moment, seen.files, states)
            doubts = (*(d for d in before.doubts if d.path not in doubtful), *moment.doubts)
            quiesced = seen.consistency is Consistency.APPLICATION
            after = Marks(
                marks=(*useful, *made), application_at=before.application_at, doubts=doubts,
                application_next=seen.taken if quiesced else None,
            )  # fmt: skip
            await self._replace(self.marks, replica_id, before, after)
        except ReplicadError as error:
            self._warn(error, "the next cycle reads the disks whole")

    async def _marks_of(
        self, moment: _Moment, files: Sequence[SnapshotFile], states: Mapping[str, BaseState]
    ) -> list[Mark]:
        tracker, made = moment.tracker, []
        if tracker is None:
            return []
        for file in files:
            if (state := states.get(file.path)) is None:
                continue
            try:
                facts = await tracker.mark(file)
            except ReplicadError as error:
                self._warn(error, f"the next cycle reads {file.path} whole")
                continue
            if facts is not None:
                made.append(Mark(file.path, state, tracker.provenance, dict(facts)))
        return made

    async def _replace(self, store: MarkStore, replica_id: str, before: Marks, after: Marks) -> None:
        """Remember something else, and give back what is remembered no more. What fails to be given back bears our
        name, and the next cycle does it."""
        if after != before:
            await store.save(replica_id, after)
        for mark in before.marks:
            if mark not in after.marks and self.tracker is not None and self._understands(mark):
                await self._trying(self.tracker.forget(mark.path, mark.facts), "it is given back at the next cycle")

    async def _trying(self, call: Awaitable[None], consequence: str) -> None:
        try:
            await call
        except ReplicadError as error:
            self._warn(error, consequence)

    def _warn(self, error: ReplicadError, consequence: str) -> None:
        self.observe(Warned(f"cannot {error.op} {error.subject}: {error.answer}; {consequence}"))


async def _full_scan_after(file: SnapshotFile, trust: Trust) -> ChangeSet:
    told_by = "a tracker" if trust.mistake is None else trust.mistake.tracker.value
    return replace(await full_scan(file, f"{told_by} called chunks unchanged that were not"), trust=trust)


class _Moment:
    """Tells the tracker when the view's moment comes, and has it give back what came to nothing.

    A tracker that can't follow is left alone: `failure` says why, and all is read.
    """

    def __init__(self, tracker: Tracker | None, request: Request) -> None:
        self.bases: dict[str, BaseState] = {}
        """The states that changes were asked for, by path."""
        self.doubts: list[Doubt] = []
        """What was found wrong."""
        self.failure: str | None = None
        self._tracker = tracker
        self._request = request

    @property
    def tracker(self) -> Tracker | None:
        """Who has followed the moment, and can make marks of it."""
        return self._tracker if self.failure is None else None

    async def before(self, files: Sequence[SelectedFile]) -> None:
        if self._tracker is not None:
            await self._following(self._tracker.begin(self._request, files))

    async def after(self) -> None:
        if self.tracker is not None:
            await self._following(self.tracker.passed())

    async def _following(self, call: Awaitable[None]) -> None:
        try:
            await call
        except ReplicadError as error:
            self.failure = f"cannot {error.op} {error.subject}: {error.answer}"

    async def end(self) -> None:
        if self._tracker is not None:
            await self._tracker.end()
