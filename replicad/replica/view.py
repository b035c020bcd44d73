"""Reading a disk as it was at any point: the disk as it is, seen through the undo logs that lead back to the point.

Nothing is written. It works as well while a cycle is pending, whose undo log is then the first on the way back.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from replicad.model.chunks import chunk_count, chunk_length
from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.manifest import Manifest, ManifestEdit
from replicad.model.names import join, path_on
from replicad.model.points import Change, DiskState, RecoveryPoint, RemovedDisk
from replicad.storage.documents import exists
from replicad.storage.port import OpenMode, ShareFile

from .directory import Replica
from .hashing import hash_chunk
from .manifest_file import manifest_digest, read_manifest
from .undo_format import UndoHeader, damaged
from .undo_log import UndoIndex, index_undo_log, log_subject, open_log

_PLACE_BITS = 40
_PLACE_MASK = (1 << _PLACE_BITS) - 1


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """Chunks that lie side by side in one file. `unfinished`: in the undo log of a pending cycle."""

    first: int
    count: int
    file: ShareFile
    offset_bytes: int
    unfinished: bool


@dataclass(frozen=True, slots=True)
class _Layer:
    index: UndoIndex
    file: ShareFile
    unfinished: bool


@dataclass(slots=True)
class PointDisk:
    """One disk as it was at one point; use as `async with`.

    `manifest` is proven to be that of the point; the bytes are as the share has them, for the reader to hash.
    `overrides` says for each chunk where it comes from: 0 for `base`, else a layer's number (from 1) and a place in it.
    """

    state: DiskState
    manifest: Manifest
    base: ShareFile
    base_path: str
    layers: list[_Layer]
    overrides: array[int]
    seed: int
    files: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.files.aclose()

    def runs(self, most_bytes: int) -> Iterator[ChunkRun]:
        """All chunks that are not zeros, ascending, in runs of at most `most_bytes` (one chunk at least)."""
        chunk_bytes = self.manifest.chunk_bytes
        most = max(1, most_bytes // chunk_bytes)
        # Plain numbers: an object for each chunk would cost nearly as much as hashing it.
        first = count = offset = 0
        file, unfinished = self.base, False
        for index in self.manifest.nonzero_chunks(0, self.manifest.chunks):
            here, at, in_pending = self._place(index)
            if 0 < count < most and index == first + count and at == offset + count * chunk_bytes and here is file:
                count += 1
                continue
            if count:
                yield ChunkRun(first, count, file, offset, unfinished)
            first, count, file, offset, unfinished = index, 1, here, at, in_pending
        if count:
            yield ChunkRun(first, count, file, offset, unfinished)

    def run_of(self, index: int) -> ChunkRun:
        """One chunk that is not zeros, by itself."""
        file, offset, unfinished = self._place(index)
        return ChunkRun(index, 1, file, offset, unfinished)

    def _place(self, index: int) -> tuple[ShareFile, int, bool]:
        packed = self.overrides[index] if index < len(self.overrides) else 0
        if packed == 0:
            return self.base, index * self.manifest.chunk_bytes, False
        layer = self.layers[(packed >> _PLACE_BITS) - 1]
        return layer.file, layer.index.positions[packed & _PLACE_MASK], layer.unfinished

    def run_bytes(self, run: ChunkRun) -> int:
        """The length of a run: only the disk's last chunk may be shorter than a chunk."""
        last = run.first + run.count - 1
        whole = (run.count - 1) * self.manifest.chunk_bytes
        return whole + chunk_length(last, self.manifest.size_bytes, self.manifest.chunk_bytes)

    async def read(self, run: ChunkRun, buffer: memoryview) -> None:
        """Fill `buffer`, of exactly the run's length; what the file is too short for reads as zeros.

        A chunk of a pending cycle's log that is not whole there was never overwritten on the disk: it is taken from
        the disk.
        """
        count = await run.file.read_into(buffer, run.offset_bytes)
        if count < len(buffer):
            buffer[count:] = bytes(len(buffer) - count)
        if not run.unfinished:
            return
        chunk_bytes = self.manifest.chunk_bytes
        for index in range(run.first, run.first + run.count):
            start = (index - run.first) * chunk_bytes
            part = buffer[start : start + chunk_bytes]
            if hash_chunk(part, self.seed) != self.manifest.hash_of(index):
                await self.base.read_into(part, index * chunk_bytes)


@dataclass(frozen=True, slots=True)
class _Base:
    """The file to start from, and the manifest that goes with it."""

    path: str
    manifest_path: str
    digest: str
    is_latest: bool


async def open_point_disk(
    replica: Replica, points: list[RecoveryPoint], disk_id: str, pending: int | None
) -> PointDisk:
    """Open one disk of `points[0]`, given that point and all later ones, and the number of a pending cycle.

    IntegrityError if an undo log or the manifest on the way is damaged: the manifest arrived at must have the digest
    that the point's record names.
    """
    state = points[0].disk(disk_id)
    if state is None:
        raise NotFoundError("find", f"disk {disk_id} in point {points[0].number}", "the point has no such disk")
    async with AsyncExitStack() as files:
        base = await _find_base(replica, points, disk_id, pending)
        owner = replica.owner(disk_id)
        manifest = await read_manifest(replica.share, base.manifest_path, owner, base.digest)
        base_file = await files.enter_async_context(await replica.share.open(base.path, OpenMode.READ))
        disk = PointDisk(state, manifest, base_file, base.path, [], array("Q"), replica.seed)
        if pending is not None and base.is_latest:
            await _add_pending(disk, replica, pending, files)
        for point in reversed(points[1:]):
            newer = point.disk(disk_id) or point.gone(disk_id)
            if newer is not None and newer.undo is not None:
                path = join(replica.layout.point_dir(point.number), newer.undo.file)
                file = await files.enter_async_context(await open_log(replica.share, path))
                index = await index_undo_log(file, log_subject(replica.share, path), newer.undo)
                disk.manifest = _apply(disk, _Layer(index, file, unfinished=False), disk.manifest)
        named = (state.manifest.digest, state.size_bytes)
        if (manifest_digest(disk.manifest, owner), disk.manifest.size_bytes) != named:
            raise IntegrityError(
                "read", f"disk {state.path!r} of point {points[0].number} in {replica.name}",
                "the undo logs do not lead to the manifest that the point names",
                "Other recovery points may be sound: run 'replicad verify'.",
            )  # fmt: skip
        disk.files = files.pop_all()
        return disk


async def _find_base(replica: Replica, points: list[RecoveryPoint], disk_id: str, pending: int | None) -> _Base:
    layout, last = replica.layout, points[0].disk(disk_id)
    for point in points[1:]:
        state, gone = point.disk(disk_id), point.gone(disk_id)
        if state is None and gone is not None:
            content, manifest = await find_removed_disk(replica, point.number, gone)
            return _Base(content, manifest, gone.manifest.digest, False)
        last = state or last
    if last is None:
        raise NotFoundError("find", f"disk {disk_id} in {replica.name}", "no point has it")
    own = layout.disk(last.path)
    places = [layout.updating(last.path), own]
    if last.change is Change.INITIAL and pending is None:
        # Where the share does not tell cases apart, its own name may still be that of a disk that is gone.
        places.insert(0, layout.initial(last.path))
    path = await _first_there(replica, places, own)
    return _Base(path, layout.manifest(last.path, last.manifest.point), last.manifest.digest, True)


async def find_removed_disk(replica: Replica, holder: int, gone: RemovedDisk) -> tuple[str, str]:
    """Where the last content of a disk that the record of point `holder` names lies, and the manifest of that: beside
    the record, unless whoever was to move them there has not done so yet. IntegrityError if one is missing."""
    layout = replica.layout
    contents = [layout.removed(holder, gone.path, gone.since)]
    manifests = [layout.removed_manifest(holder, gone.path, gone.since)]
    if gone.origin is not None:
        contents.append(layout.removed(gone.origin, gone.path, gone.since))
        manifests.append(layout.removed_manifest(gone.origin, gone.path, gone.since))
    elif gone.since == holder:
        contents.append(layout.disk(gone.path))
        manifests.append(layout.manifest(gone.path, gone.manifest.point))
    return (
        await _first_there(replica, contents, contents[0]),
        await _first_there(replica, manifests, manifests[0]),
    )


async def _first_there(replica: Replica, paths: Sequence[str], named: str) -> str:
    for path in paths:
        if await exists(replica.share, path):
            return path
    raise IntegrityError(
        "read", path_on(replica.share.name, named), "the file is missing from the replica",
        "Put it back if it was moved away; else 'replicad sync --resync' sends it again, as the source has it now.",
    )  # fmt: skip


async def _add_pending(disk: PointDisk, replica: Replica, pending: int, files: AsyncExitStack) -> None:
    """See the disk through the log of the cycle that did not end; its manifest is still the latest point's."""
    path = replica.layout.undo(replica.layout.pending_dir(pending), disk.state.path)
    if disk.base_path != replica.layout.updating(disk.state.path) or not await exists(replica.share, path):
        return
    file = await files.enter_async_context(await replica.share.open(path, OpenMode.READ))
    if (await file.identity()).size_bytes > 0:
        subject = f"undo log {path_on(replica.share.name, path)}"
        index = await index_undo_log(file, subject, None)
        state, record = disk.state, replica.record
        if index.header != UndoHeader(
            record.replica_id, state.id, pending, disk.manifest.chunk_bytes, disk.manifest.size_bytes
        ):
            # No record names it, so nothing else would tell.
            raise damaged(subject, "it belongs to another disk, replica or point")
        _apply(disk, _Layer(index, file, unfinished=True), disk.manifest)


def _apply(disk: PointDisk, layer: _Layer, manifest: Manifest) -> Manifest:
    """See the disk through one more log; returns the manifest from before the log's point, given that of its point."""
    header = layer.index.header
    disk.layers.append(layer)
    number = len(disk.layers) << _PLACE_BITS
    chunks = chunk_count(header.previous_size_bytes, header.chunk_bytes)
    del disk.overrides[chunks:]
    disk.overrides.extend(array("Q", bytes(8 * (chunks - len(disk.overrides)))))
    before = manifest_before(layer.index, manifest, f"undo log {layer.file.path}")
    for place, chunk in enumerate(layer.index.chunks):
        disk.overrides[chunk] = number | place
    return before


def manifest_before(index: UndoIndex, manifest: Manifest, subject: str) -> Manifest:
    """The manifest of the point before a log's, given that of its own point. IntegrityError for an impossible chunk."""
    header = index.header
    chunks = chunk_count(header.previous_size_bytes, header.chunk_bytes)
    edit = ManifestEdit(manifest, header.previous_size_bytes)
    for place, chunk in enumerate(index.chunks):
        if chunk >= chunks:
            raise damaged(subject, f"it names chunk {chunk} of a disk of {chunks} chunks")
        edit.put(chunk, index.hash_at(place))
    return edit.finish()
