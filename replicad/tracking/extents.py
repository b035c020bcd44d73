"""What changed, by where the bytes lie: a clone of each file is kept until the next cycle, and the places of its bytes
are compared with those of the next clone. The cost follows the changes and the fragments, not the size of the disk.

Kept clones lie in a hidden directory of the source, `.replicad-<name>`, under names that nobody has guessed. They take
the room of what the machine has changed since; where that becomes scarce they are dropped, and a full scan follows.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from replicad.model.changes import ChangeSet, Outside
from replicad.model.errors import NotFoundError, ReplicadError, UnsupportedError
from replicad.model.extent_maps import ExtentMap, differing, has_moved, unshared_bytes
from replicad.model.extents import Extent
from replicad.model.names import join, last_part, parent
from replicad.model.points import Provenance
from replicad.model.progress import Observer, Warned
from replicad.storage.decorated import cloning
from replicad.storage.port import CloningShare, OpenMode, Share, ShareFile

from .port import Facts, Request, SelectedFile, SnapshotFile, Untold

_DIRECTORY = re.compile(r"\.replicad-[0-9a-f]{16}")
_CLONE = re.compile(r"[0-9a-f]{32}\.clone")
_COMPARISONS = 5


@dataclass(slots=True)
class ExtentTracker:
    """A `Tracker` for views whose files are clones on `share`, for one cycle.

    `keep_free` tells how many bytes are to be left on a file system of some size: with less, no clone is kept, and
    those that are there are dropped. `new_id` gives 32 hexadecimal digits that nobody has guessed or used.
    """

    share: Share
    keep_free: Callable[[int], int]
    new_id: Callable[[], str]
    executor: Executor
    observe: Observer
    _directory: str | None = field(default=None, init=False)
    """None: nothing is to be kept."""
    _told: set[str] = field(default_factory=set, init=False)
    """Files whose places are known to tell."""

    @property
    def provenance(self) -> Provenance:
        return Provenance.EXTENTS

    async def begin(self, request: Request, files: Sequence[SelectedFile]) -> None:
        directory = f".replicad-{request.name}"
        if not _DIRECTORY.fullmatch(directory):
            return
        try:
            known = {facts["clone"] for facts in request.remembered if "clone" in facts}
            await _drop(self.share, directory, lambda path: path not in known)
            if await is_short_of_room(self.share, self.keep_free):
                dropped = await _drop(self.share, directory, lambda path: True)
                self._warn_of_room(dropped)
                return
            self._directory = directory
        except ReplicadError as error:
            self._warn(error)

    async def passed(self) -> None:
        """A clone is what it is, whatever is written beside it."""

    async def changes(self, file: SnapshotFile, since: Facts) -> ChangeSet | Untold:
        path = since.get("clone", "")
        if not is_clone(path):
            return Untold("what is remembered of it is not understood")
        try:
            share = cloning(self.share)
            async with await share.open(path, OpenMode.READ) as kept:
                if await share.fingerprint(kept) != since.get("fingerprint"):
                    return Untold("the clone of the state that the replica has was changed, or is another file")
                found = await self._compared(share, kept, file.file)
                if await share.fingerprint(kept) != since.get("fingerprint"):
                    return Untold("the clone of the state that the replica has was changed while it was compared")
        except NotFoundError:
            return Untold("the clone of the state that the replica has is gone")
        except UnsupportedError as error:
            return Untold(f"where its bytes lie can't be told: {error.answer}")
        except ReplicadError as error:
            return Untold(f"its clone can't be compared: {error.answer}")
        self._told.add(file.path)
        if found is None:
            return Untold("the file system moved its bytes around while they were compared")
        return ChangeSet(tuple(found), Outside.UNCHANGED, Provenance.EXTENTS)

    async def _compared(self, share: CloningShare, kept: ShareFile, new: ShareFile) -> list[Extent] | None:
        """Where the two may differ. The maps can't be read at one time, so the first one is read again: only a place
        that it has before and after is what it had when the other one was read."""
        loop = asyncio.get_running_loop()
        before = await _map(share, kept)
        for _ in range(_COMPARISONS):
            after = await _map(share, new)
            again = await _map(share, kept)
            if before is None or after is None or again is None:
                before = again
                continue
            if not await loop.run_in_executor(self.executor, has_moved, before, again):
                return await loop.run_in_executor(self.executor, differing, before, after)
            before = again
        return None

    async def mark(self, file: SnapshotFile) -> Facts | None:
        if self._directory is None:
            return None
        try:
            share = cloning(self.share)
            if await is_short_of_room(self.share, self.keep_free):  # it was used up while the clones were read
                self._warn_that_nothing_is_kept()
                return None
            if file.path not in self._told:  # a clone whose places tell nothing would take room for nothing
                await _map(share, file.file)
                await share.fingerprint(file.file)
            await share.make_dir(self._directory)
            path = join(self._directory, f"{self.new_id()}.clone")
            await share.give_name(file.file, path)
            return {"clone": path, "fingerprint": await share.fingerprint(file.file)}
        except ReplicadError as error:
            self._warn(error)
            return None

    async def forget(self, path: str, facts: Facts) -> None:
        clone = facts.get("clone", "")
        if is_clone(clone):
            await _drop(self.share, parent(clone), lambda found: found == clone)

    async def end(self) -> None:
        """Clones that were not marked have no name and end by themselves; those whose marks were lost are found by the
        next cycle."""

    def _warn(self, error: ReplicadError) -> None:
        text = f"cannot {error.op} {error.subject}: {error.answer}; the next cycle may have to read the disks whole"
        self.observe(Warned(text))

    def _warn_that_nothing_is_kept(self) -> None:
        text = "has less free space than 'keep_free' asks for; nothing is kept there, so the next cycle reads all"
        self.observe(Warned(f"{self.share.name} {text}"))

    def _warn_of_room(self, dropped: int) -> None:
        so = f"{dropped} kept clones were dropped, and " if dropped else ""
        text = f"{self.share.name} has less free space than 'keep_free' asks for; {so}the disks are read whole"
        self.observe(Warned(text))


async def _map(share: CloningShare, file: ShareFile) -> ExtentMap | None:
    try:
        return await share.extent_map(file)
    except ValueError:
        return None  # it moved while it was read


def is_clone(path: str) -> bool:
    """Whether a path below the source can be that of a kept clone. Nothing else is ever removed."""
    return bool(_DIRECTORY.fullmatch(parent(path)) and _CLONE.fullmatch(last_part(path)))


async def is_short_of_room(share: Share, keep_free: Callable[[int], int]) -> bool:
    """Whether less is free than should be."""
    room = await cloning(share).room()
    return room.free_bytes < keep_free(room.total_bytes)


async def kept_clones(share: Share) -> list[str]:
    """The paths of all clones that are kept in a source, of whichever replica."""
    directories = [entry.name for entry in await share.list("") if entry.is_dir and _DIRECTORY.fullmatch(entry.name)]
    return [path for directory in directories for path in await _clones_in(share, directory)]


async def kept_bytes(share: Share) -> int:
    """How much room the clones take that are kept in a source: what their removal would give back, at least."""
    total_bytes = 0
    for path in await kept_clones(share):
        try:
            async with await share.open(path, OpenMode.READ) as clone:
                total_bytes += unshared_bytes(await cloning(share).extent_map(clone))
        except (NotFoundError, ValueError):
            continue  # it was dropped since
    return total_bytes


async def drop_clones(share: Share) -> int:
    """Drop all clones that are kept in a source: their replicas' next cycles read everything. How many there were."""
    dropped = 0
    for directory in {parent(path) for path in await kept_clones(share)}:
        dropped += await _drop(share, directory, lambda path: True)
    return dropped


async def _clones_in(share: Share, directory: str) -> list[str]:
    try:
        entries = await share.list(directory)
    except NotFoundError:
        return []
    paths = (join(directory, entry.name) for entry in entries if not entry.is_dir and not entry.is_link)
    return [path for path in paths if is_clone(path)]


async def _drop(share: Share, directory: str, which: Callable[[str], bool]) -> int:
    """Remove these clones of a directory, and it with the last one. How many there were."""
    clones = await _clones_in(share, directory)
    dropped = 0
    for path in filter(which, clones):
        try:
            await share.remove(path)
        except NotFoundError:
            continue
        dropped += 1
    try:
        if not await share.list(directory):
            await share.remove(directory)
    except (NotFoundError, UnsupportedError):
        pass  # it is gone, or somebody has put something into it meanwhile
    return dropped
