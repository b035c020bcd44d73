"""Files that nobody has written since they were read last: they need not be read again.

A file is taken for the one that was read if nobody could write it then, nobody can write it now, and every trace that a
writer leaves is as it was: the file's number, size, write time and change time, and the VHDX headers, in which whoever
opens a VHDX for writing has to put a new number before anything else. Other files have no such headers, and are read.

Times tell one write from the next only if the share's clock went on between them, and clocks of file systems have
grains of up to 2 s. So a mark counts only if the file had been seen in its very state for longer than that when its
hold still stood: whoever writes it later gets another time. How long that was is told by this host's steady clock;
the share's own is never compared with it. A write through a memory mapping shows in the times only when the page is
first touched (on tmpfs never), but keeps the hold from being granted as long as the mapping lasts, and its first touch
comes after the hold; what writes a VHDX that way is given away by the headers even on tmpfs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from math import inf

from replicad.model.changes import ChangeSet, Outside
from replicad.model.clock import Clock
from replicad.model.points import FileKind, Provenance
from replicad.storage.port import Identity
from replicad.vhdx.headers import REGION_TABLE_BYTES, REGION_TABLE_OFFSETS, SIGNATURE

from .port import Facts, Request, SelectedFile, SnapshotFile, Untold

GRAIN_S = 2.5
"""More than the coarsest clock that a file system has (FAT: 2 s)."""
_HEADER_SECTION_BYTES = REGION_TABLE_OFFSETS[1] + REGION_TABLE_BYTES


class UnchangedFileTracker:
    """A `Tracker` for views that hold the source's own files."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._passed_s: float | None = None
        """Since when the view stands."""
        self._seen_s: dict[str, float] = {}
        """Since when each file is known to have been as it is, where that is longer."""

    @property
    def provenance(self) -> Provenance:
        return Provenance.UNCHANGED_FILE

    async def begin(self, request: Request, files: Sequence[SelectedFile]) -> None:
        self._seen_s.clear()

    async def passed(self) -> None:
        self._passed_s = self._clock.monotonic_s()

    async def changes(self, file: SnapshotFile, since: Facts) -> ChangeSet | Untold:
        if not file.held:
            return Untold("it is not held, so somebody may be writing it")
        now = await _facts_of(file)
        if now is None or any(since.get(name) != fact for name, fact in now.items()):
            return Untold("the file is not the one that was read last")
        seen_s, marked_s = _seconds(since.get("seen_s")), _seconds(since.get("marked_s"))
        if seen_s is None or marked_s is None:
            return Untold("what is remembered of it makes no sense")
        here_s = self._clock.monotonic_s()
        # It begins anew when this host does, and then says too little, never too much.
        self._seen_s[file.path] = min(seen_s, here_s)
        if not GRAIN_S < marked_s - seen_s < inf:
            return Untold("the file had been changed shortly before it was read last, so its times prove nothing")
        return ChangeSet((), Outside.UNCHANGED, Provenance.UNCHANGED_FILE)

    async def mark(self, file: SnapshotFile) -> Facts | None:
        facts = await _facts_of(file) if file.held and file.kind is FileKind.DISK else None
        if facts is None:
            return None
        marked_s = self._clock.monotonic_s()
        seen_s = self._seen_s.get(file.path, self._passed_s)
        return {**facts, "seen_s": repr(marked_s if seen_s is None else seen_s), "marked_s": repr(marked_s)}

    async def forget(self, path: str, facts: Facts) -> None:
        pass

    async def end(self) -> None:
        pass


async def _facts_of(file: SnapshotFile) -> dict[str, str] | None:
    """What tells this state of the file from others; None if it is no VHDX, or if the share keeps no change times."""
    headers = bytearray(_HEADER_SECTION_BYTES)
    if await file.file.read_into(headers, 0) < len(headers) or not headers.startswith(SIGNATURE):
        return None
    identity = await file.file.identity()
    if identity.change_time_ns <= 0:
        return None
    return {"headers": hashlib.blake2b(headers, digest_size=32).hexdigest(), **_texts(identity)}


def _texts(identity: Identity) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(identity).items()}


def _seconds(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
