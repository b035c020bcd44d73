"""Bits that are known to be set: if one is missing later, what a bitmap tells is not all.

Clearing a bitmap leaves no other trace in QEMU, and what was noted before it would be missing from a replica for good.
A file that is cut off and grows again has zeros there that nobody has noted, and the bits of what was cut off are gone.
So one bit anywhere is set in the bitmap itself, and one at the end of the file in a second bitmap that notes no writes:
nobody sets that again. The bits cost two chunks that are compared in vain.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from replicad.model.errors import PermanentError
from replicad.model.extents import Extent

from .leftovers import END_SUFFIX, remove_node
from .nodes import FileNode
from .qmp import Qmp

_SECTOR_BYTES = 512


async def set_canaries(qmp: Qmp, prefix: str, node: FileNode, bitmap: str, granularity_bytes: int) -> int | None:
    """Set a bit of a bitmap on `node` that nobody can guess, and the last one of both: the offset that the first stands
    for. None if the file is empty, or grew meanwhile."""
    sectors = node.size_bytes // _SECTOR_BYTES
    if not sectors:
        return None
    offset, end = secrets.randbelow(sectors) * _SECTOR_BYTES, end_sector(node.size_bytes)
    for target, offsets in ((bitmap, (offset, end)), (bitmap + END_SUFFIX, (end,))):
        if not await _set(qmp, f"{prefix}p", node, target, granularity_bytes, offsets):
            return None
    return offset


async def _set(
    qmp: Qmp, shadow: str, node: FileNode, bitmap: str, granularity_bytes: int, offsets: Sequence[int]
) -> bool:
    # Nothing sets a bit but a write, so one goes where it does no harm, and its bit is taken over.
    await qmp.execute("blockdev-add", {"driver": "null-co", "node-name": shadow, "size": node.size_bytes})
    try:
        noted = {"node": shadow, "name": "canary"}
        await qmp.execute("block-dirty-bitmap-add", {**noted, "granularity": granularity_bytes})
        for offset in offsets:
            line = f'qemu-io {shadow} "write -q {offset} {_SECTOR_BYTES}"'
            await qmp.execute("human-monitor-command", {"command-line": line})
        merged = {"node": node.name, "target": bitmap, "bitmaps": [noted]}
        try:
            await qmp.execute("block-dirty-bitmap-merge", merged)
        except PermanentError:
            return False
        return True
    finally:
        await remove_node(qmp, shadow)


def end_sector(size_bytes: int) -> int:
    """Where the last whole sector of a file of that size begins."""
    return max(0, size_bytes // _SECTOR_BYTES - 1) * _SECTOR_BYTES


def is_missing(offset: str, extents: Sequence[Extent]) -> bool:
    """Whether the canary at an offset, as it was remembered, is not in what was noted."""
    return not any(extent.offset_bytes <= int(offset) < extent.end_bytes for extent in extents)
