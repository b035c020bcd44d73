"""A cycle with kept clones is disturbed at every call to its source and to what it remembers: each later point is right
all the same, and no clone is left over."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from replicad.model.errors import NotFoundError, OutOfSpaceError, ReplicadError, StuckError, UnsupportedError
from replicad.model.extent_maps import ExtentMap
from replicad.model.points import Provenance
from replicad.storage.decorated import innermost
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Clones, OpenMode, Share, ShareFile
from replicad.tracking.marks import MarkStore
from tests.support.cloned import CloningWorld
from tests.support.faulty import Fault, FaultyFile, FaultyShare, When, crashes
from tests.support.filesystems import mounted
from tests.support.world import CHUNK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")

_DISKS = ("디스크 1.vhd", "하위 폴더/디스크 2 🖴.vhd")
_FAULTS = (
    *(Fault(when) for when in (When.BEFORE, When.AFTER)),
    *(Fault(When.BEFORE, kind("use", "it", "it is what this case is about"))
      for kind in (OutOfSpaceError, UnsupportedError, NotFoundError, StuckError)),
)  # fmt: skip


class _FaultyClones(FaultyShare):
    """Counts what is asked of clones, too."""

    def __init__(self, inner: Share, faults: Mapping[int, Fault] | None = None) -> None:
        super().__init__(inner, faults)
        self.opened: builtins.list[ShareFile] = []

    def _wrap(self, file: ShareFile) -> ShareFile:
        return FaultyFile(self, file)

    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        file = await super().open(path, mode)
        self.opened.append(innermost(file))
        return file

    async def end(self) -> None:
        """What the system does with the files of a process that has died."""
        for file in self.opened:
            await file.close()

    async def clones(self, paths: Sequence[str]) -> Clones:
        return await self.change("clones", lambda: super(_FaultyClones, self).clones(paths))

    async def give_name(self, clone: ShareFile, path: str) -> None:
        await self.change("give_name", lambda: super(_FaultyClones, self).give_name(clone, path))

    async def fingerprint(self, file: ShareFile) -> str:
        return await self.change("fingerprint", lambda: super(_FaultyClones, self).fingerprint(file))

    async def extent_map(self, file: ShareFile) -> ExtentMap:
        return await self.change("extent_map", lambda: super(_FaultyClones, self).extent_map(file))


class _Case:
    """A source of its own with two points, and a third cycle to be disturbed."""

    def __init__(self, where: Path, hashing: ThreadPoolExecutor, number: int) -> None:
        directory = where / f"vm {number}"
        directory.mkdir()
        self.local: Share = LocalShare(str(directory))
        self.memory = MemoryShare("state")
        self.world = CloningWorld(
            self.local, MemoryShare("replica"), hashing, seed=number + 1, marks=MarkStore(self.memory)
        )
        self.world.patterns = ("*.vhd",)

    async def prepare(self) -> None:
        for index, path in enumerate(_DISKS):
            await self.world.put(path, Random(index).randbytes(6 * CHUNK))
        await self.world.put("vm.xml", b"<vm/>")
        await self.world.sync()
        await self.write(1)
        await self.world.sync()
        await self.write(2)

    def breaking(self, what: str) -> Share:
        """What is to break."""
        return {"the source": self.local, "what is remembered": self.memory}.get(what, self.world.replica)

    async def write(self, seed: int) -> None:
        """As a guest does it: in the file as it is."""
        for path in _DISKS:
            data = bytearray(self.world.disks[path])
            at = Random(f"{seed}{path}").randrange(6) * CHUNK
            data[at : at + 100] = Random(seed).randbytes(100)
            with Path(self.local.name, path).open("r+b") as file:
                file.seek(at)
                file.write(data[at : at + 100])
            self.world.disks[path] = bytes(data)

    async def end(self) -> None:
        await self.local.close()


@asynccontextmanager
async def _cases() -> AsyncIterator[tuple[Path, ThreadPoolExecutor]]:
    with mounted("xfs", 1 << 30) as where, ThreadPoolExecutor(1) as hashing:
        yield where, hashing


async def _disturbed(case: _Case, share: _FaultyClones, what: str) -> tuple[bool, ReplicadError | None]:
    """Whether the third cycle died, or what it raised."""
    replica = case.world.replica
    if what == "the replica":
        case.world.replica = share
    elif what == "the source":
        case.world.source = share
    else:
        case.world.marks = MarkStore(share)
    try:
        died, error = await crashes(case.world.sync()), None
    except ReplicadError as raised:
        died, error = False, raised
    await share.end()
    # A new process sees what the old one left.
    case.world.source, case.world.marks = case.local, MarkStore(case.memory.view())
    assert isinstance(replica, MemoryShare)
    replica.die()
    case.world.replica = replica.view()
    return died, error


@pytest.mark.parametrize("what", ["the source", "what is remembered", "the replica"])
async def test_every_point_is_right_whatever_broke_the_cycle_before(what: str) -> None:
    await _every_call_disturbed(what, lambda at: (_FAULTS[at % len(_FAULTS)],))


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("what", ["the source", "what is remembered", "the replica"])
async def test_every_point_is_right_whatever_broke_the_cycle_before_in_every_way(what: str) -> None:
    await _every_call_disturbed(what, lambda at: _FAULTS)


async def _every_call_disturbed(what: str, faults_at: Callable[[int], Sequence[Fault]]) -> None:
    async with _cases() as (where, hashing):
        first = _Case(where, hashing, 0)
        await first.prepare()
        counted = _FaultyClones(first.breaking(what))
        assert await _disturbed(first, counted, what) == (False, None)
        await first.world.check_all_points()
        await first.end()
        assert len(counted.log) >= 6, counted.log
        number = 0
        for at, call in enumerate(counted.log, 1):
            for fault in faults_at(at):
                number += 1
                case = _Case(where, hashing, number)
                try:
                    await _lives_on(case, what, at, fault)
                except Exception as failure:
                    raise AssertionError(f"call {at}, {call}: {fault}: {failure!r}") from failure
                finally:
                    await case.end()


async def _lives_on(case: _Case, what: str, at: int, fault: Fault) -> None:
    await case.prepare()
    share = _FaultyClones(case.breaking(what), {at: fault})
    died, error = await _disturbed(case, share, what)
    assert len(share.log) >= at
    failed_by_itself = fault.when is When.AFTER and share.log[at - 1].startswith("remove")  # of what is not there
    assert died == (fault.error is None) or failed_by_itself, f"{error!r}"
    # What was read is what is there still; then the machine goes on.
    await case.world.sync()
    await case.write(3)
    report = await case.world.sync()
    assert {d.provenance for d in report.point.disks if d.path in _DISKS} == {Provenance.EXTENTS}
    await case.world.check_all_points()
    assert len(await case.world.kept()) == 3, "one clone of each file is kept"
