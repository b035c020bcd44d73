"""Looking at the source's disks before they are sent: is each what its name says, and sound enough for a point?"""

from __future__ import annotations

import re

from replicad.model.errors import IntegrityError
from replicad.model.names import is_vhdx_name, last_part, path_on
from replicad.model.points import Consistency, FileKind
from replicad.tracking.port import Snapshot, SnapshotFile
from replicad.vhdx.facts import DamagedVhdxError, NotVhdx, VhdxFacts
from replicad.vhdx.parse import check_structure

from .inspect import drive


async def check_disks(snapshot: Snapshot, source_name: str) -> tuple[str, ...]:
    """Warnings about the snapshot's disks, which come from the share `source_name`.

    IntegrityError if a VHDX is damaged, or if a file that only a wildcard chose is not a VHDX though its name says so.
    Of a fuzzy snapshot, which may show a header half-written, damage is only a warning.
    """
    warnings: list[str] = []
    names = {last_part(f.path).casefold() for f in snapshot.files}
    for file in snapshot.files:
        if file.kind is not FileKind.DISK or not is_vhdx_name(file.path):
            continue
        try:
            facts = await drive(check_structure(file.size_bytes), file.file)
        except DamagedVhdxError as error:
            if snapshot.consistency is not Consistency.FUZZY:
                raise _damaged(file, error, source_name) from None
            warnings.append(f"{file.path}: {error}")
            continue
        if isinstance(facts, NotVhdx):
            warnings.append(_not_vhdx(file, facts, source_name))
        else:
            warnings += [f"{file.path}: {warning}" for warning in facts.warnings]
            warnings += _missing_parent(file.path, facts, names)
    return tuple(warnings)


def _damaged(file: SnapshotFile, error: DamagedVhdxError, source_name: str) -> IntegrityError:
    return IntegrityError(
        "replicate", path_on(source_name, file.path),
        f"its VHDX {error.structure} at byte {error.offset_bytes} is damaged: {error.reason}",
        "Repair the disk or restore it from an older point; no point was made of it ('replicad inspect' tells more).",
    )  # fmt: skip


def _not_vhdx(file: SnapshotFile, facts: NotVhdx, source_name: str) -> str:
    if file.named:
        return f"{file.path} is not a VHDX ({facts.reason}); it is replicated as plain bytes"
    raise IntegrityError(
        "replicate", path_on(source_name, file.path), f"it is not a VHDX: {facts.reason}",
        "Name it in full under 'disks' to have it replicated as plain bytes, or leave it out with 'exclude'.",
    )  # fmt: skip


def _missing_parent(path: str, facts: VhdxFacts, names: set[str]) -> list[str]:
    parents = [re.split(r"[\\/]", parent)[-1] for parent in facts.parent_paths]
    if not parents or any(parent.casefold() in names for parent in parents):
        return []
    return [f"{path} is a differencing disk and its parent {parents[0]!r} is not among the virtual machine's disks"]
