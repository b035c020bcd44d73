"""The invariants of docs/invariants.md, as checks of a replica in memory at any moment."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterable, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from replicad.model.errors import AccessDeniedError, AlreadyExistsError, IntegrityError, NotFoundError
from replicad.model.names import join, last_part, parent
from replicad.replica.layout import Layout, disk_key
from replicad.storage.decorated import DecoratedShare
from replicad.storage.documents import exists
from replicad.storage.memory import MemoryShare
from replicad.storage.memory_tree import Directory
from replicad.storage.port import LockHolder, OpenMode, Share, ShareFile, ShareLock
from replicad.workflows.list_points import list_points
from replicad.workflows.restore import restore
from replicad.workflows.verify import verify
from tests.support.files import get, names, put
from tests.support.world import VM, World, digests, read_tree

LAYOUT = Layout(VM)
WORKING_SUFFIXES = (".updating", ".initial")


class ReadOnlyShare(DecoratedShare):
    """A share that we may read, and nothing else: asking for its lock is refused, and so is every change."""

    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        if mode is not OpenMode.READ:
            raise self._refused(f"open {path}")
        return await self.inner.open(path, mode)

    async def make_dir(self, path: str) -> None:
        raise self._refused(f"make {path}")

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        raise self._refused(f"rename {source}")

    async def remove(self, path: str) -> None:
        raise self._refused(f"remove {path}")

    async def flush_directory(self, path: str) -> None:
        raise self._refused(f"flush {path}")

    async def lock(self, path: str, holder: LockHolder) -> ShareLock:
        raise AccessDeniedError("lock", path, "the share may only be read")

    def _refused(self, what: str) -> AssertionError:
        return AssertionError(f"a reader wanted to {what}")


@dataclass(frozen=True, slots=True)
class Stays:
    """Which points nothing may take away: all of those that were `there`, or, with `latest`, the newest so many points
    and the `pinned` ones, while all others go with the prune that ends it."""

    there: Set[int]
    latest: int | None = None
    pinned: Set[int] = frozenset()

    def wanted(self, numbers: Iterable[int]) -> Set[int]:
        """Those of a replica whose points, or at least their directories, have these numbers."""
        if self.latest is None:
            return self.there
        return {*self.pinned, *sorted(numbers)[-self.latest :]}


async def _directories(share: Share) -> builtins.list[int]:
    if not await exists(share, LAYOUT.points_dir):
        return []
    return sorted(int(name) for name in await names(share, LAYOUT.points_dir) if name.isdecimal())


async def committed_points(share: Share) -> builtins.list[int]:
    """The numbers of a replica's points, ascending, told without replicad: the highest one, and those that it leads
    back to from record to record."""
    found: builtins.list[int] = []
    number = max(await _directories(share), default=None)
    while number is not None:
        found.append(number)
        record = await get(share, LAYOUT.point_record(LAYOUT.point_dir(number)))
        number = json.loads(record)["previous"]
    return found[::-1]


async def check_which_points(world: World, share: Share, stays: Stays) -> None:
    """Invariant 1: what stays is there, and to every reader each other point either is there or is none."""
    points, directories = await committed_points(share), await _directories(share)
    missing = stays.wanted(directories) - set(points)
    assert not missing, f"points {sorted(missing)} had to stay and are gone: there are {points}"
    if points:
        assert [p.number for p in (await list_points(share, VM)).points] == points
    for number in range(1, max(points, default=0)):
        if number not in points:
            with suppress(NotFoundError):
                await restore(share, VM, number, MemoryShare(), world.context())
                raise AssertionError(f"point {number} was pruned and can be read")


async def check_which_points_in_the_end(share: Share, stays: Stays) -> None:
    """After a prune that ended well, or a cycle where nothing is pruned: all that stays, and no point besides."""
    points = await committed_points(share)
    new = range(max(stays.there, default=0) + 1, max(points) + 1)
    wanted = stays.wanted(points) if stays.latest is not None else {*stays.there, *new}
    assert points == sorted(wanted), f"there are points {points} where {sorted(wanted)} stay"


async def check_names(world: World, spoiled: bool) -> None:
    """Invariant 2, looking at the directory without replicad: a disk that bears its own name is that of the latest
    committed point. One that the latest point has no more may still lie there as it was in the point before."""
    if spoiled or not await exists(world.replica, LAYOUT.disks_dir):
        return
    points = await world.replica.list(LAYOUT.points_dir) if await exists(world.replica, LAYOUT.points_dir) else []
    names = [entry.name for entry in points]
    latest = max((int(name) for name in names if name.isdecimal()), default=0)
    allowed = {**world.history.get(latest - 1, {}), **world.history.get(latest, {})}
    for path, data in (await read_tree(world.replica, LAYOUT.disks_dir)).items():
        name = path.removeprefix(LAYOUT.disks_dir + "/")
        if name.endswith(WORKING_SUFFIXES) or data.startswith(_FOREIGN):
            continue
        assert name in allowed, f"{name} has its own name and no committed point has it"
        assert digests({name: data}) == digests({name: allowed[name]}), f"{name} is visible and not what was committed"


async def check_points(world: World, share: Share, spoiled: bool) -> None:
    """Invariant 1: every committed point reads as what the source held then, or, on a replica that was damaged before,
    is refused as damaged."""
    for number in await committed_points(share):
        target = MemoryShare()
        try:
            await restore(share, VM, number, target, world.context())
        except IntegrityError:
            if spoiled:
                continue
            raise
        found, wanted = digests(await read_tree(target)), digests(world.history[number])
        assert found == wanted, f"point {number} does not read as it was"


async def check_seen_by_a_reader(world: World, stays: Stays, spoiled: bool) -> None:
    """The same at this very moment, for somebody who can't bring the replica into order."""
    await check_which_points(world, ReadOnlyShare(world.replica), stays)
    await check_points(world, ReadOnlyShare(world.replica), spoiled)


_FOREIGN = b"somebody else's: "


async def plant_foreign_files(share: Share, *, in_points: bool = True) -> dict[str, bytes]:
    """Put a file that is none of ours into every directory of a share, durable; their contents by path."""
    planted: dict[str, bytes] = {}
    directories = ["", *sorted({d for path in await read_tree(share) for d in _above(path)})]
    for directory in directories:
        if parent(directory) == LAYOUT.points_dir and not in_points:
            continue
        path = join(directory, "누구의 파일 🗒.txt")
        with suppress(AlreadyExistsError):
            planted[path] = _FOREIGN + path.encode()
            await put(share, path, planted[path])
            _make_name_durable(share, directory, last_part(path))
    return planted


def _make_name_durable(share: Share, directory: str, name: str) -> None:
    """That name alone: flushing the directory would hide what somebody else has not flushed in it."""
    assert isinstance(share, MemoryShare)
    node = share.tree.find(directory)
    assert isinstance(node, Directory)
    node.durable.update({key: entry for key, entry in node.entries.items() if entry[0] == name})


def _above(path: str) -> builtins.list[str]:
    found = []
    while path := parent(path):
        found.append(path)
    return found


async def check_foreign_files(share: Share, planted: dict[str, bytes]) -> None:
    """Invariant 5. One that lies in the directory of a cycle under way goes with that when it becomes a point."""
    found = set((await read_tree(share)).values())
    gone = [path for path, data in planted.items() if data not in found]
    assert not gone, f"{gone} was not replicad's, and is gone"


async def check_verified(world: World) -> None:
    """Whatever died, nothing is damaged; only the copy of a record may be that of the record before."""
    found = await verify(world.replica, VM, None, world.context())
    damages = [d for d in found.damages if d.points or not d.file.endswith("/point.copy.json")]
    assert damages == [], f"verify finds damage: {damages}"


async def check_nothing_left_over(world: World) -> None:
    """After a cycle or a prune that ended well: the files of the format that the points' records account for, and no
    others; no directory besides those of points, unless it holds what is not ours."""
    files = await read_tree(world.replica)
    ours = {path for path, data in files.items() if not data.startswith(_FOREIGN)}
    records: dict[int, dict[str, Any]] = {}
    for number in await committed_points(world.replica):
        records[number] = json.loads(files[LAYOUT.point_record(LAYOUT.point_dir(number))])
    wanted = {path for number, record in records.items() for path in files_of_point(number, record)}
    wanted |= files_of_replica(records[max(records)])
    # A server may forget that one was removed, and nothing reads it there.
    ours -= {LAYOUT.cycle_record(LAYOUT.point_dir(number)) for number in records if number < max(records)}
    assert ours == wanted, f"left over: {sorted(ours - wanted)}, missing: {sorted(wanted - ours)}"
    for name in {*await names(world.replica, LAYOUT.points_dir)} - {str(number) for number in records}:
        path = join(LAYOUT.points_dir, name)
        assert path in files or await names(world.replica, path), f"{path} is left over"
        assert not name.endswith(".pending"), f"{path} is left over"
    found = await verify(world.replica, VM, None, world.context())
    assert found.damages == [], f"verify finds damage: {found.damages}"
    below = {path for path in files.keys() - ours if path.startswith(f"{VM}/")}
    assert set(found.leftovers) == below, f"verify calls {set(found.leftovers) ^ below} left over, or does not"


def files_of_replica(latest: dict[str, Any]) -> set[str]:
    """The files that a replica at rest has once, whose latest point has this record."""
    found = {LAYOUT.record, LAYOUT.record_copy, LAYOUT.recovery_text}
    for disk in latest["disks"]:
        found |= {LAYOUT.disk(disk["path"]), LAYOUT.manifest(disk["path"], disk["manifest"]["point"])}
    return found


def files_of_point(number: int, record: dict[str, Any]) -> set[str]:
    """The files in the directory of a point that has this record."""
    directory = LAYOUT.point_dir(number)
    found = {LAYOUT.point_record(directory), LAYOUT.point_record_copy(directory)}
    disks = [*record["disks"], *record["removed"]]
    found |= {join(directory, disk["undo"]["file"]) for disk in disks if disk["undo"]}
    for disk in record["removed"]:
        stem = f"{directory}/{disk_key(disk['path'])}.{disk['since']}"
        found |= {f"{stem}.removed", f"{stem}.xxh3"}
    return found
