"""Having differencing disks find their parents at the destination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

from replicad.model.address import Address, parse_address
from replicad.model.errors import IntegrityError
from replicad.model.extents import Extent, normalise
from replicad.model.moves import MovedFile, MoveRecord
from replicad.model.names import parent
from replicad.storage.port import ShareFile
from replicad.vhdx.facts import DamagedVhdxError, NotVhdx
from replicad.vhdx.parent_locator import rewrite_parent_locator
from replicad.vhdx.parent_paths import ParentPaths, parent_paths
from replicad.vhdx.parse import check_structure
from replicad.vhdx.writing import Extend, Stages, Write, Zeros

from .inspect import drive

_ABSOLUTE = "absolute_win32_path"


async def rewrite_locator(
    file: ShareFile, record: MoveRecord, child: MovedFile, files: Mapping[str, MovedFile], new_id: Callable[[], str]
) -> list[Extent]:
    """Have the disk in `file`, the copy of `child`, name its parent where that will be; where bytes changed.

    Durable on return. Wherever it is cut short the disk is sound, with the old or the new paths, and it can be done
    again. IntegrityError if the disk is damaged, and what `rewrite_parent_locator` raises.
    """
    if child.parent is None:
        return []
    size_bytes = (await file.identity()).size_bytes
    try:
        facts = await drive(check_structure(size_bytes), file)
        if isinstance(facts, NotVhdx):
            raise IntegrityError("move", child.path, f"it is no VHDX any more: {facts.reason}")
        paths = _paths(record, child, files[child.parent], dict(facts.parent_locator).get(_ABSOLUTE))
        stages = await drive(
            rewrite_parent_locator(size_bytes, paths, file_write_guid=_guid(new_id), log_guid=_guid(new_id)), file
        )
    except DamagedVhdxError as error:
        raise IntegrityError(
            "move", child.path, f"its VHDX {error.structure} at byte {error.offset_bytes} is damaged: {error.reason}",
            "Repair the disk; the machine is still used at the source.",
        ) from None  # fmt: skip
    return await carry_out(file, stages)


def _paths(record: MoveRecord, child: MovedFile, its_parent: MovedFile, like: str | None) -> ParentPaths:
    directory = _address(record, child).child(*parent(child.target).split("/"))
    where = _address(record, its_parent).child(*its_parent.target.split("/"))
    return parent_paths(str(directory), str(where), like=like)


def _address(record: MoveRecord, file: MovedFile) -> Address:
    return parse_address(record.places[file.place])


def _guid(new_id: Callable[[], str]) -> str:
    return str(UUID(new_id()))


async def carry_out(file: ShareFile, stages: Stages) -> list[Extent]:
    """Do one stage after the other, each durable before the next; where bytes changed, as a normal sequence."""
    touched: list[Extent] = []
    for stage in stages:
        for change in stage:
            match change:
                case Write(offset_bytes=offset, data=data):
                    await file.write(data, offset)
                    touched.append(Extent(offset, len(data)))
                case Zeros(offset_bytes=offset, length_bytes=length):
                    await _grow(file, offset + length)
                    await file.zero(offset, length)
                    touched.append(Extent(offset, length))
                case Extend(size_bytes=size_bytes):
                    await _grow(file, size_bytes)
        await file.flush()
    return normalise(touched)


async def _grow(file: ShareFile, size_bytes: int) -> None:
    if (await file.identity()).size_bytes < size_bytes:
        await file.set_size(size_bytes)
