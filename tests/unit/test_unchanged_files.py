"""Files that were not written since they were read last are not read again; whatever is unclear is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import pytest

from replicad.model.changes import ChangeSet, Outside
from replicad.model.errors import BusyError
from replicad.model.points import FileKind, Provenance
from replicad.storage.decorated import DecoratedFile
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Identity, OpenMode
from replicad.tracking.port import Facts, Request, SnapshotFile, Untold
from replicad.tracking.unchanged import GRAIN_S, UnchangedFileTracker
from tests.support.vhdx_builder import build
from tests.support.world import SteadyClock

NAME = "디스크 🖥.vhdx"
NOBODY = Request("", (), application=False, for_cycle=True)
VHDX = build().get(0, 1 << 20)


@dataclass
class Source:
    """One file and a tracker, whose time passes only where a test says so."""

    share: MemoryShare
    time: SteadyClock
    tracker: UnchangedFileTracker
    held: bool = True
    kind: FileKind = FileKind.DISK
    identity: Callable[[Identity], Identity] = lambda identity: identity

    async def put(self, data: bytes) -> None:
        async with await self.share.open(NAME, OpenMode.CREATE) as file:
            await file.write(data, 0)

    async def write(self, data: bytes, offset: int) -> None:
        async with await self.share.open(NAME, OpenMode.WRITE) as file:
            await file.write(data, offset)

    async def cycle(self, since: Facts | None, seconds: float = 10) -> tuple[ChangeSet | Untold | None, Facts | None]:
        """What is told under a hold of so many seconds, and the mark that is made at its end."""
        async with await self.share.open(NAME, OpenMode.HOLD if self.held else OpenMode.READ) as opened:
            file = _Shown(opened, self.identity)
            size_bytes = (await opened.identity()).size_bytes
            seen = SnapshotFile(NAME, self.kind, False, file, size_bytes, size_bytes, self.held)
            await self.tracker.begin(NOBODY, ())
            await self.tracker.passed()
            told = None if since is None else await self.tracker.changes(seen, since)
            self.time.seconds += seconds
            made = await self.tracker.mark(seen)
            await self.tracker.end()
            return told, made


class _Shown(DecoratedFile):
    def __init__(self, inner: object, change: Callable[[Identity], Identity]) -> None:
        super().__init__(inner)  # type: ignore[arg-type]  # a ShareFile
        self._change = change

    async def identity(self) -> Identity:
        return self._change(await self.inner.identity())


async def source(data: bytes = VHDX) -> Source:
    time = SteadyClock()
    made = Source(MemoryShare(), time, UnchangedFileTracker(time.clock()))
    await made.put(data)
    return made


UNCHANGED = ChangeSet((), Outside.UNCHANGED, Provenance.UNCHANGED_FILE)


async def test_a_held_vhdx_that_nobody_wrote_is_skipped_again_and_again() -> None:
    at = await source()
    _, facts = await at.cycle(None)
    for _ in range(3):
        assert facts is not None
        told, facts = await at.cycle(facts, seconds=0)
        assert told == UNCHANGED


@pytest.mark.parametrize("offset", [0, 64 * 1024 + 20, 192 * 1024, 600_000])
async def test_a_file_that_was_written_anywhere_is_read(offset: int) -> None:
    at = await source()
    _, facts = await at.cycle(None)
    assert facts is not None
    await at.write(b"!", offset)
    assert isinstance((await at.cycle(facts))[0], Untold)


@pytest.mark.parametrize("offset", [8, 64 * 1024 + 20, 128 * 1024 + 20, 192 * 1024 + 20, 256 * 1024 + 65_535])
async def test_headers_that_differ_are_noticed_even_if_times_show_nothing(offset: int) -> None:
    at = await source()
    at.identity = lambda identity: replace(identity, write_time_ns=5, change_time_ns=5)
    _, facts = await at.cycle(None)
    assert facts is not None
    assert (await at.cycle(facts))[0] == UNCHANGED
    await at.write(b"!", offset)
    assert isinstance((await at.cycle(facts))[0], Untold)


@pytest.mark.parametrize("name", ["size_bytes", "write_time_ns", "change_time_ns"])
@pytest.mark.parametrize("step", [-1, 1])
async def test_any_difference_of_identity_is_noticed_also_a_clock_that_was_set_back(name: str, step: int) -> None:
    at = await source()
    _, facts = await at.cycle(None)
    assert facts is not None
    at.identity = lambda identity: replace(identity, **{name: getattr(identity, name) + step})
    assert isinstance((await at.cycle(facts))[0], Untold)


async def test_another_file_of_the_same_content_is_read() -> None:
    at = await source()
    _, facts = await at.cycle(None)
    assert facts is not None
    await at.share.remove(NAME)
    await at.put(VHDX)
    assert isinstance((await at.cycle(facts))[0], Untold)


async def test_without_a_hold_nothing_is_told_and_nothing_marked() -> None:
    at = await source()
    _, facts = await at.cycle(None)
    assert facts is not None
    at.held = False
    told, made = await at.cycle(facts)
    assert isinstance(told, Untold)
    assert "not held" in told.reason
    assert made is None


async def test_what_is_no_vhdx_or_no_disk_or_has_no_change_time_is_never_marked() -> None:
    for data in (b"", b"vhdxfile", Random(1).randbytes(1 << 20), VHDX[: 320 * 1024 - 1]):
        assert (await (await source(data)).cycle(None))[1] is None
    at = await source()
    at.kind = FileKind.CONFIG
    assert (await at.cycle(None))[1] is None
    at.kind, at.identity = FileKind.DISK, lambda identity: replace(identity, change_time_ns=0)
    assert (await at.cycle(None))[1] is None


async def test_a_file_that_may_have_been_written_within_the_clocks_grain_is_read_once_more() -> None:
    """The hold ended so soon that a write after it might have got the same time."""
    at = await source()
    _, facts = await at.cycle(None, seconds=GRAIN_S)
    assert facts is not None
    at.time.seconds += 0.5
    told, facts = await at.cycle(facts, seconds=0)
    assert isinstance(told, Untold)
    assert "shortly before" in told.reason
    assert facts is not None
    # By now it has been seen as it is for longer than the grain.
    assert (await at.cycle(facts, seconds=0))[0] == UNCHANGED


async def test_time_that_this_host_spent_with_another_file_does_not_count() -> None:
    at = await source()
    _, facts = await at.cycle(None, seconds=0)
    assert facts is not None
    at.time.seconds += 1000
    await at.write(b"!", 700_000)
    _, facts = await at.cycle(facts, seconds=0)
    assert facts is not None
    assert isinstance((await at.cycle(facts, seconds=0))[0], Untold)


async def test_a_host_that_began_anew_counts_from_its_beginning() -> None:
    at = await source()
    at.time.seconds = 100_000
    _, facts = await at.cycle(None, seconds=0)
    assert facts is not None
    at.time.seconds = 1
    told, facts = await at.cycle(facts, seconds=1)
    assert isinstance(told, Untold)
    assert facts is not None
    assert isinstance((await at.cycle(facts, seconds=GRAIN_S))[0], Untold)


@pytest.mark.parametrize("text", ["", "soon", "nan"])
async def test_marks_that_make_no_sense_are_not_believed(text: str) -> None:
    at = await source()
    _, facts = await at.cycle(None)
    assert facts is not None
    for name in ("seen_s", "marked_s"):
        assert isinstance((await at.cycle({**facts, name: text}))[0], Untold)
    for name in facts:
        assert isinstance((await at.cycle({k: v for k, v in facts.items() if k != name}))[0], Untold)


async def test_a_hold_that_is_lost_while_the_headers_are_read_is_told() -> None:
    at = await source()
    async with await at.share.open(NAME, OpenMode.HOLD) as opened:
        seen = SnapshotFile(NAME, FileKind.DISK, False, opened, 1, 1, held=True)
        at.share.break_hold(NAME)
        with pytest.raises(BusyError):
            await at.tracker.mark(seen)
