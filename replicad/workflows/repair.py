"""Mending a replica: a disk from the source if that still has its bytes, a manifest from the disk, a record from its
copy. Whatever dies on the way, what was sound stays so, and what was not mended yet is found again."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from replicad.model.errors import IntegrityError, ReplicadError
from replicad.model.names import join
from replicad.model.points import DiskState, RecoveryPoint, RemovedDisk
from replicad.model.progress import PhaseStarted, Warned
from replicad.replica.directory import point_files, read_point, record_files
from replicad.replica.manifest_file import MAX_DISK_BYTES
from replicad.replica.record_files import RecordFiles, mend, read_both
from replicad.replica.records import Record
from replicad.replica.recovery_text import recovery_text
from replicad.storage.documents import replace_whole
from replicad.storage.port import Share
from replicad.tracking.port import ChangeSource, SnapshotFile

from .context import Context
from .covered import Covered
from .damage import Damage, Part, Verification
from .mending import NOWHERE_ELSE, Content, mend_content, mend_manifest, mend_undo_log
from .opening import OpenedReplica, opened_replica
from .verify import verify_opened

_INTERRUPTED = "a cycle was interrupted: this is repaired only after the next 'replicad sync'"


async def verify_and_repair(
    share: Share, vm_dir: str, source: ChangeSource, ctx: Context, covered: Covered | None = None
) -> Verification:
    """Verify the whole replica, then mend what can be mended; the rest stays in the report as not repaired, with why.

    Raises as `verify` does, and goes on as it does. A source that can't be held now mends nothing, and is no error.
    """
    covered = covered or Covered()
    async with opened_replica(share, vm_dir, None, ctx) as opened:
        found = await verify_opened(opened, ctx, covered)
        if not found.damages:
            found.damages = list(covered.repaired)
            return found
        if not opened.writable:
            ctx.observe(Warned("nothing is repaired, because the share can't be written"))
            return found
        async with AsyncExitStack() as stack:
            repair = _Repair(opened, _HeldSource(source, stack), ctx, await _parts_of(opened))
            unlooked = {content.manifest_path for content in repair.parts.contents}
            while True:
                ctx.observe(PhaseStarted("repairing"))
                found.damages = await repair.all_of(found.damages, covered)
                mended = [damage for damage in found.damages if damage.repaired]
                if not unlooked & {damage.file for damage in mended}:
                    break
                # Without its manifest there was nothing to hold a disk against.
                unlooked -= {damage.file for damage in mended}
                found = await verify_opened(opened, ctx, covered)
            found.damages = covered.repaired + [damage for damage in found.damages if not damage.repaired]
    return found


@dataclass(slots=True)
class _HeldSource:
    """The source's files, held from the first time on that one is asked for. `why_not`: they can't be had."""

    source: ChangeSource
    stack: AsyncExitStack
    files: dict[str, SnapshotFile] | None = None
    why_not: str = ""

    async def file(self, path: str) -> SnapshotFile | None:
        """The source's file of a disk, if there is one and it can be held."""
        if self.files is None:
            self.files = {}
            try:
                snapshot = await self.stack.enter_async_context(self.source.snapshot(None, for_cycle=False))
                self.files = {f.path: f for f in snapshot.files}
            except ReplicadError as error:
                self.why_not = f"the source can't help: cannot {error.op} {error.subject}: {error.answer}"
        return self.files.get(path)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the replica is made of: contents with their manifests, and undo logs by path with the disk's id."""

    contents: list[Content] = field(default_factory=list)
    logs: dict[str, DiskState | RemovedDisk] = field(default_factory=dict)


async def _parts_of(opened: OpenedReplica) -> _Parts:
    replica, layout = opened.replica, opened.replica.layout
    parts = _Parts()
    for disk in opened.point.disks:
        manifest_path = layout.manifest(disk.path, disk.manifest.point)
        parts.contents.append(Content(disk, layout.disk(disk.path), manifest_path, layout.updating(disk.path)))
    points: dict[int | None, RecoveryPoint] = {}
    for number in opened.numbers.committed:
        try:
            point = points[number] = await read_point(replica, number)
        except IntegrityError:
            continue  # it is in the report
        states: list[DiskState | RemovedDisk] = [*point.disks, *point.removed]
        for state in states:
            if state.undo is not None:
                parts.logs[join(layout.point_dir(number), state.undo.file)] = state
        older = points.get(point.previous)
        for removed in point.removed:
            gone = older.disk(removed.id) if older is not None else None
            if gone is not None:
                # With a log, its last content was of another size, which its manifest tells.
                size_bytes = gone.size_bytes if removed.undo is None else MAX_DISK_BYTES
                last = replace(gone, manifest=removed.manifest, size_bytes=size_bytes)
                manifest_path = layout.removed_manifest(number, removed.path, removed.since)
                path = layout.removed(number, removed.path, removed.since)
                parts.contents.append(Content(last, path, manifest_path, None))
    return parts


@dataclass(frozen=True, slots=True)
class _Repair:
    opened: OpenedReplica
    held: _HeldSource
    ctx: Context
    parts: _Parts

    async def all_of(self, damages: list[Damage], covered: Covered) -> list[Damage]:
        """Mend what can be mended of these; all of them with what became of each."""
        covered.is_mending = True
        try:
            tried = []
            for damage in damages:
                tried.append(await self.repaired(damage))
                covered.repaired += tried[-1:] if tried[-1].repaired else []
            return tried
        finally:
            covered.is_mending = False

    async def repaired(self, damage: Damage) -> Damage:
        """Mend one damage if that can be; the damage with what became of it."""
        await self.opened.still_ours()
        why_not = await self._mend(damage)
        return replace(damage, repaired=not why_not, not_repaired=why_not)

    async def _mend(self, damage: Damage) -> str:
        """'' if it is mended, else why it could not be."""
        replica, pending = self.opened.replica, self.opened.numbers.pending
        if damage.part is Part.TEXT:
            await replace_whole(replica.share, damage.file, recovery_text(replica.record).encode())
            return ""
        if damage.part is Part.RECORD:
            return await self._mend_record(damage.file)
        if damage.part is Part.STRUCTURE:
            return "the replica has what the source had"
        if damage.part is Part.UNDO_LOG:
            return await self._mend_undo_log(damage)
        content = next((c for c in self.parts.contents if damage.file in (c.path, c.manifest_path)), None)
        if content is None:
            return _INTERRUPTED if pending is not None else NOWHERE_ELSE
        find_source = partial(self.held.file, content.disk.path)
        if damage.file == content.manifest_path:
            why_not = await mend_manifest(replica, content, pending, find_source, self.ctx)
        elif pending is not None and content.working_path is not None:
            return _INTERRUPTED
        else:
            why_not = await mend_content(replica, content, damage.chunks, find_source)
        return why_not and (self.held.why_not or why_not)

    async def _mend_undo_log(self, damage: Damage) -> str:
        if damage.file not in self.parts.logs:
            return _INTERRUPTED
        state = self.parts.logs[damage.file]
        now = next((c for c in self.parts.contents if c.disk.id == state.id and c.working_path), None)
        if state.undo is None:
            return NOWHERE_ELSE
        return await mend_undo_log(
            self.opened.replica, damage.file, state.undo, damage.chunks, now.path if now else None,
            partial(self.held.file, state.path),
        )  # fmt: skip

    async def _mend_record(self, path: str) -> str:
        replica, layout = self.opened.replica, self.opened.replica.layout
        own = record_files(replica.share, layout)
        if path in (own.path, own.copy_path):
            return await _mend_either(own)
        for number in self.opened.numbers.committed:
            files = point_files(replica, layout.point_dir(number), number)
            if path in (files.path, files.copy_path):
                return await _mend_either(files)
        return _INTERRUPTED


async def _mend_either(files: RecordFiles[Record]) -> str:
    return "" if await mend(files, await read_both(files)) else "its copy is damaged as well"
