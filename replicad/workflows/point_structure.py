"""Whether the disks of a point are sound virtual disks: what their bytes say, wherever the replica keeps them."""

from __future__ import annotations

from replicad.model.chunks import chunk_length
from replicad.model.errors import UnsupportedError
from replicad.model.manifest import ZERO_HASH
from replicad.model.names import is_vhdx_name
from replicad.model.points import Consistency, DiskState, FileKind, RecoveryPoint
from replicad.model.progress import Warned
from replicad.replica.view import PointDisk
from replicad.vhdx.facts import DamagedVhdxError, VhdxFacts
from replicad.vhdx.parse import parse

from .context import Context
from .damage import Damage, Findings, Part
from .inspect import Readable, drive


class PointBytes:
    """The bytes of a disk as it was at a point, read a chunk at a time through the undo logs. They are not checked."""

    def __init__(self, disk: PointDisk) -> None:
        self._disk = disk
        self._index = -1
        self._data = memoryview(b"")

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        """As `ShareFile.read_into`."""
        view, chunk_bytes = memoryview(buffer), self._disk.manifest.chunk_bytes
        count = max(0, min(len(view), self._disk.manifest.size_bytes - offset))
        done = 0
        while done < count:
            index, start = divmod(offset + done, chunk_bytes)
            part = (await self._chunk(index))[start : start + count - done]
            view[done : done + len(part)] = part
            done += len(part)
        return count

    async def _chunk(self, index: int) -> memoryview:
        if index != self._index:
            manifest = self._disk.manifest
            data = memoryview(bytearray(chunk_length(index, manifest.size_bytes, manifest.chunk_bytes)))
            if manifest.hash_of(index) != ZERO_HASH:
                await self._disk.read(self._disk.run_of(index), data)
            self._index, self._data = index, data
        return self._data


async def check_point_structure(
    findings: Findings, point: RecoveryPoint, disk: DiskState, content: Readable, path: str, ctx: Context
) -> None:
    """Read headers, region table, metadata, BAT and log of a VHDX whose bytes are those of the point.

    Damage means that the source gave it like this. A log that must be replayed is none, if it can be; and of a fuzzy
    point, which may show a structure half-written, damage is only a warning. What is no VHDX is left alone.
    """
    if disk.kind is not FileKind.DISK or not is_vhdx_name(disk.path):
        return
    try:
        facts = await drive(parse(disk.size_bytes), content)
    except DamagedVhdxError as error:
        reason = f"its VHDX {error.structure} at byte {error.offset_bytes} is damaged: {error.reason}"
        if point.consistency is Consistency.FUZZY:
            ctx.observe(Warned(f"{disk.path} of point {point.number}: {reason}"))
            return
        costs = f"{disk.path} of point {point.number}, which the source had like this"
        findings.add(Damage(Part.STRUCTURE, path, reason, costs, points=(point.number,)))
    except UnsupportedError as error:
        ctx.observe(Warned(f"{disk.path} of point {point.number}: {error.answer}"))
    else:
        if isinstance(facts, VhdxFacts):
            for warning in facts.warnings:
                ctx.observe(Warned(f"{disk.path} of point {point.number}: {warning}"))
