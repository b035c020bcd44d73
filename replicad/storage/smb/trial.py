"""What a share can do, found out by doing it with a small temporary file."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from replicad.model.errors import (
    AccessDeniedError,
    BusyError,
    NotFoundError,
    OutOfSpaceError,
    PermanentError,
    UnsupportedError,
)
from replicad.model.extents import Extent
from replicad.storage.port import Capabilities, CopyRange, OpenMode

from .file import SmbFile

if TYPE_CHECKING:
    from .share import SmbShare

PREFIX = ".replicad-trial-"
"""Temporary files of ours begin so; one that was left behind may be deleted."""

_PIECE_BYTES = 256 * 1024
_SUPPORTS_SPARSE_FILES = 0x0000_0040


async def try_out(share: SmbShare) -> Capabilities:
    """The capabilities of a share; where it lets us write nothing, what it tells of itself."""
    path = PREFIX + secrets.token_hex(8)
    refusal: PermanentError | None = None
    try:
        async with await share.open(path, OpenMode.CREATE) as file:
            return await _with_file(share, path, file)
    except (AccessDeniedError, OutOfSpaceError) as error:
        refusal = error
    finally:
        # A creation that was cancelled may have taken effect.
        with contextlib.suppress(NotFoundError, AccessDeniedError):
            await share.remove(path)
    return await _as_told(share, f"Nothing could be written ({refusal.answer}), so this is what the server tells.")


async def _as_told(share: SmbShare, note: str) -> Capabilities:
    attributes, _ = await share.file_system()
    sparse = bool(attributes & _SUPPORTS_SPARSE_FILES)
    return Capabilities(
        server_copy=False, sparse=sparse, zero=False, allocated_extents=sparse, hold=True, flush_directory=False,
        notes=(note,),
    )  # fmt: skip


async def _with_file(share: SmbShare, path: str, file: SmbFile) -> Capabilities:
    tree = await share.tree()
    random = secrets.token_bytes(_PIECE_BYTES)
    notes: list[str] = []
    # A hole of one piece between two pieces of data.
    await file.write(random, 0)
    await file.write(random, 2 * _PIECE_BYTES)
    await file.flush()
    hole = Extent(_PIECE_BYTES, _PIECE_BYTES)
    extents = await file.allocated_extents()
    told = tree.can_tell_ranges and not any(e.offset_bytes <= hole.offset_bytes < e.end_bytes for e in extents)
    if not told:
        notes.append("Holes are not told from data, so a first copy reads whole files.")
    before = (await share.stat(path)).allocated_bytes
    await file.zero(2 * _PIECE_BYTES, _PIECE_BYTES)
    await file.flush()
    freed = tree.can_zero and (await share.stat(path)).allocated_bytes < before
    if not freed:
        notes.append("Zeroed ranges keep their space.")
    copied = await _copies(file, random)
    if not copied:
        notes.append("The server does not copy by itself, so undo logs are read and written through this host.")
    await share.flush_directory("")
    if not tree.can_flush_directories:
        notes.append("Directories can't be flushed: a rename may be lost when the server loses power.")
    held = await _holds(share, path, file)
    if not held:
        notes.append("A file that somebody writes can still be opened against writing: nothing can be held.")
    return Capabilities(
        server_copy=copied, sparse=tree.can_be_sparse and told, zero=freed, allocated_extents=told, hold=held,
        flush_directory=tree.can_flush_directories, notes=tuple(notes),
    )  # fmt: skip


async def _copies(file: SmbFile, random: bytes) -> bool:
    try:
        await file.copy_from(file, [CopyRange(0, 3 * _PIECE_BYTES, _PIECE_BYTES)])
    except UnsupportedError:
        return False
    buffer = bytearray(_PIECE_BYTES)
    return await file.read_into(buffer, 3 * _PIECE_BYTES) == _PIECE_BYTES and buffer == random


async def _holds(share: SmbShare, path: str, writer: SmbFile) -> bool:
    """Whether a hold is refused while somebody writes, and granted and respected afterwards."""
    try:
        await (await share.open(path, OpenMode.HOLD)).close()
    except BusyError:
        pass
    else:
        return False
    await writer.close()
    async with await share.open(path, OpenMode.HOLD):
        try:
            await (await share.open(path, OpenMode.WRITE)).close()
        except BusyError:
            return True
    return False
