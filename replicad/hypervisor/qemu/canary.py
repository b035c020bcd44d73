"""One bit that is known to be set in a bitmap: if it is missing later, somebody cleared the bitmap behind our back.

Clearing leaves no other trace in QEMU, and what was noted before it would be missing from a replica for good. The bit
costs one chunk that is compared in vain.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from replicad.model.errors import PermanentError
from replicad.model.extents import Extent

from .exports import Exports
from .leftovers import remove_node
from .nodes import FileNode
from .qmp import Qmp

_SECTOR_BYTES = 512


async def set_canary(
    qmp: Qmp, exports: Exports, prefix: str, node: FileNode, bitmap: str, granularity_bytes: int
) -> int | None:
    """Set a bit of a bitmap on `node` that nobody can guess: the offset that it stands for. None if the file is empty,
    or grew meanwhile."""
    sectors = node.size_bytes // _SECTOR_BYTES
    if not sectors:
        return None
    offset, shadow = secrets.randbelow(sectors) * _SECTOR_BYTES, f"{prefix}p"
    # Nothing sets a bit but a write, so one goes where it does no harm, and its bit is taken over.
    await qmp.execute("blockdev-add", {"driver": "null-co", "node-name": shadow, "size": node.size_bytes})
    try:
        noted = {"node": shadow, "name": "canary"}
        await qmp.execute("block-dirty-bitmap-add", {**noted, "granularity": granularity_bytes})
        async with exports.exported(qmp, prefix, shadow, writable=True) as export:
            await export.write(bytes(_SECTOR_BYTES), offset)
        try:
            merged = {"node": node.name, "target": bitmap, "bitmaps": [noted]}
            await qmp.execute("block-dirty-bitmap-merge", merged)
        except PermanentError:
            return None
        return offset
    finally:
        await remove_node(qmp, shadow)


def is_missing(offset: str, extents: Sequence[Extent]) -> bool:
    """Whether the canary at an offset, as it was remembered ('' if there is none), is not in what was noted."""
    if not offset.isdecimal():
        return False
    return not any(extent.offset_bytes <= int(offset) < extent.end_bytes for extent in extents)
