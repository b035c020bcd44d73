"""Dirty bitmaps of a real QEMU: every byte that differs lies in the change set, or it is said that nobody can tell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicad.hypervisor.qemu.bitmaps import BitmapTracker, granularity_bytes
from replicad.hypervisor.qemu.exports import Exports
from replicad.hypervisor.qemu.leftovers import prefix_of
from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.qemu.qmp import Qmp
from replicad.model.changes import ChangeSet, Outside, Untold
from replicad.model.errors import UnreachableError
from replicad.model.extents import total_bytes
from replicad.model.points import FileKind, Provenance
from replicad.tracking.port import Facts, Request, SelectedFile, Tracker
from tests.support.filesystems import mounted
from tests.support.guest import GuestImage, Load, build_guest, make_disk, running_guest
from tests.support.qemu import Qemu, connected, make_vhdx, running_qemu

NAME = "웹 디스크 🖥.vhdx"
REPLICA = secrets.token_hex(8)
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def guest_image() -> GuestImage:
    return build_guest()


@dataclass(frozen=True, slots=True)
class Shown:
    path: str
    size_bytes: int


@dataclass
class Cycles:
    """One cycle after the other on the disks of a directory, with copies of what they were at each moment."""

    qemu: Qemu
    directory: Path
    paths: Sequence[str] = (NAME,)
    copy: Sequence[str] = ("cp", "--sparse=always")
    marks: dict[str, Facts] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)
    number: int = 0

    def tracker(self) -> BitmapTracker:
        monitor = Monitor(self.qemu.monitor, 20)
        return BitmapTracker(monitor, Exports(monitor), str(self.directory))

    def request(self) -> Request:
        return Request(REPLICA, tuple(self.marks.values()), application=False, for_cycle=True)

    async def cycle(self) -> dict[str, ChangeSet | Untold]:
        """What the changes of each disk are since the cycle before; checked against what differs."""
        tracker: BitmapTracker = self.tracker()
        as_port: Tracker = tracker
        selected = [SelectedFile(path, FileKind.DISK, named=False) for path in self.paths]
        await as_port.begin(self.request(), selected)
        self.number += 1
        now = {path: self.directory / f".copy {self.number} {i}" for i, path in enumerate(self.paths)}
        for path, copy in now.items():
            await asyncio.to_thread(run, *self.copy, self.directory / path, copy)
        await as_port.passed()
        told: dict[str, ChangeSet | Untold] = {}
        for path in self.paths:
            shown = Shown(path, now[path].stat().st_size)
            if path in self.marks:
                told[path] = await tracker.changes(shown, self.marks[path])
                check(told[path], self.copies[path], now[path])
            mark = await tracker.mark(shown)
            if path in self.marks:
                with contextlib.suppress(UnreachableError):  # then QEMU is dead
                    await tracker.forget(path, self.marks.pop(path))
            if mark is not None:
                self.marks[path] = mark
        await tracker.end()
        self.copies = now
        return told

    async def one(self) -> ChangeSet | Untold:
        """A cycle of the only disk."""
        return (await self.cycle())[NAME]


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=60)


def differing(old: Path, new: Path, step: int = 4096) -> set[int]:
    """The offsets of blocks that differ; what the old one does not have is zeros."""
    before, after = old.read_bytes(), new.read_bytes()
    before = before.ljust(len(after), b"\0")
    return {at for at in range(0, len(after), step) if before[at : at + step] != after[at : at + step]}


def check(told: ChangeSet | Untold, old: Path, new: Path) -> None:
    """No false negative."""
    if isinstance(told, Untold):
        return
    assert (told.outside, told.provenance) == (Outside.UNCHANGED, Provenance.DIRTY_BITMAP)
    covered = {at for e in told.extents for at in range(e.offset_bytes // 4096 * 4096, e.end_bytes, 4096)}
    missed = differing(old, new) - covered
    assert not missed, f"missed at {sorted(missed)[:10]}"


@asynccontextmanager
async def cycles(directory: Path, *, named: bool = True, count: int = 1) -> AsyncIterator[Cycles]:
    names = [NAME, "b.vhdx"][:count]
    disks = [make_vhdx(directory / name) for name in names]
    async with running_qemu(disks, named=named) as qemu:
        yield Cycles(qemu, directory, names)


_STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 63 * 256), st.integers(1, 300)),
    st.tuples(st.just("zero"), st.integers(0, 63 * 256), st.integers(1, 300)),
    st.just(("cycle", 0, 0)),
)


@settings(max_examples=12)
@given(steps=st.lists(_STEP, min_size=5, max_size=25), named=st.booleans(), seed=st.integers(0, 2**20))
def test_every_byte_that_differs_is_in_the_change_set(
    steps: list[tuple[str, int, int]], named: bool, seed: int
) -> None:
    asyncio.run(_changes_are_covered(steps, named, seed))


async def _changes_are_covered(steps: list[tuple[str, int, int]], named: bool, seed: int) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory(prefix="replicad-비트맵-") as directory:
        async with cycles(Path(directory), named=named) as it:
            await it.cycle()
            for kind, block, count in [*steps, ("cycle", 0, 0)]:
                at, length = block * 4096, min(count * 4096, 64 * MIB - block * 4096)
                if kind == "cycle":
                    assert isinstance(await it.one(), ChangeSet)
                elif kind == "write":
                    await it.qemu.own.io("disk0", f"write -P {random.randrange(1, 256)} {at} {length}")
                else:
                    await it.qemu.own.io("disk0", f"write -z {at} {length}")
            left = await it.qemu.own.bitmaps()
            assert len(left) == 2
            assert not [name for name in await it.qemu.own.names() if name.startswith("replicad-")]


async def test_what_changes_is_told_about_as_large_as_it_is(tmp_path: Path) -> None:
    async with cycles(tmp_path) as it:
        assert await it.cycle() == {}
        quiet = await it.one()
        assert isinstance(quiet, ChangeSet)
        assert total_bytes(quiet.extents) <= 2 * 64 * 1024, "nothing but the canaries"
        await it.qemu.own.io("disk0", "write -P 5 5M 64k")
        told = await it.one()
        assert isinstance(told, ChangeSet)
        # The data, the block's entry in the table, the log and the headers.
        assert 64 * 1024 <= total_bytes(told.extents) <= 2 * MIB + 2 * 64 * 1024


@pytest.mark.root
@pytest.mark.parametrize("node_names", [True, False])
async def test_nothing_is_missed_while_a_guest_writes_on(guest_image: GuestImage, node_names: bool) -> None:
    with mounted("xfs") as directory:
        disks = [make_disk(directory / name, 64 * MIB) for name in (NAME, "b.vhdx")]
        load = Load(rate_per_s=0, files=4, per_file=4, churn_bytes_per_s=4 * MIB)
        async with (
            running_guest(guest_image, disks, load=load, node_names=node_names, cache="none") as guest,
            connected(guest.own_qmp_path) as own,
        ):
            # Nothing stands still: each file is cloned at another moment, and all of them in the midst of writing.
            qemu = Qemu(guest.process, guest.directory, own, guest.qmp_path)
            it = Cycles(qemu, directory, (NAME, "b.vhdx"), ("cp", "--reflink=always"))
            await it.cycle()
            for _ in range(10):
                await guest.wait_durable(guest.durable().number + 10)
                told = await it.cycle()
                assert all(isinstance(one, ChangeSet) and one.extents for one in told.values())


async def test_a_machine_started_anew_has_no_bitmap(tmp_path: Path) -> None:
    async with cycles(tmp_path) as it:
        await it.cycle()
        await it.qemu.kill()
        async with running_qemu([tmp_path / NAME]) as again:
            it.qemu = again
            assert await it.one() == Untold("QEMU was started anew since, and its bitmap is gone")
            assert isinstance(await it.one(), ChangeSet)


async def test_a_machine_that_is_off_tells_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    async with cycles(tmp_path) as it:
        await it.cycle()
        await it.qemu.kill()
        told = await it.one()
        assert isinstance(told, Untold)
        assert "cannot connect to the monitor" in told.reason
        assert it.marks == {}


@pytest.mark.parametrize("what", ["removed", "disabled", "cleared", "node", "file", "shrunk", "file and node"])
async def test_what_does_not_fit_any_more_is_noticed(tmp_path: Path, what: str) -> None:
    async with cycles(tmp_path) as it:
        await it.cycle()
        await it.cycle()
        own, bitmap = it.qemu.own, it.marks[NAME]["bitmap"]
        disk = tmp_path / NAME
        if what == "removed":
            await own.execute("block-dirty-bitmap-remove", node="disk0-file", name=bitmap)
        elif what == "disabled":
            await own.execute("block-dirty-bitmap-disable", node="disk0-file", name=bitmap)
        elif what == "cleared":
            await own.io("disk0", "write -P 9 5M 1M")
            await own.execute("block-dirty-bitmap-clear", node="disk0-file", name=bitmap)
        elif what == "shrunk":
            os.truncate(disk, disk.stat().st_size - MIB)
        elif what == "file":
            run("cp", disk, tmp_path / "new")
            (tmp_path / "new").rename(disk)
        else:
            await own.execute("blockdev-del", node_name="disk0")
            await own.execute("blockdev-del", node_name="disk0-file")
            if what == "file and node":
                run("cp", disk, tmp_path / "new")
                (tmp_path / "new").rename(disk)
            name = "disk0-file" if what == "file and node" else "another"
            await own.execute("blockdev-add", driver="file", filename=str(disk), node_name=name)
        told = await it.one()
        assert isinstance(told, Untold)
        expected = {
            "removed": "its bitmap is gone",
            "disabled": "its bitmap was stopped, or somebody else works on it",
            "cleared": "somebody cleared its bitmap",
            "shrunk": "the file became shorter",
            "file": "it was replaced by another file since QEMU opened it",
            "node": "its bitmap is gone",
            "file and node": "the file was replaced by another since",
        }
        assert told.reason == expected[what]


@pytest.mark.parametrize("least", [0, 3 * MIB - 512, 3 * MIB + 512, 7 * MIB + 512, 8 * MIB - 512])
async def test_what_was_cut_off_and_has_grown_again_is_never_called_unchanged(tmp_path: Path, least: int) -> None:
    """Nobody notes the zeros that are there then; and what is written to its end again proves nothing."""
    name = "fixed 🖥.vhd"
    (tmp_path / name).write_bytes(b"x" * 8 * MIB)
    more = ["-blockdev", f"driver=file,filename={tmp_path / name},node-name=f"]
    more += ["-blockdev", "driver=raw,file=f,node-name=r"]
    async with running_qemu([], more=more) as qemu:
        it = Cycles(qemu, tmp_path, paths=[name])
        await it.cycle()
        await qemu.own.execute("block_resize", node_name="r", size=least)
        await qemu.own.execute("block_resize", node_name="r", size=8 * MIB)
        await qemu.own.io("r", f"write -P 7 {8 * MIB - 512} 512")
        told = (await it.cycle())[name]  # which holds what is told against what differs
        assert told == Untold("the file became shorter") or least == 8 * MIB - 512
        assert isinstance((await it.cycle())[name], ChangeSet)


async def test_an_nbd_server_of_the_users_is_left_alone(tmp_path: Path) -> None:
    async with cycles(tmp_path) as it:
        await it.cycle()
        address = {"type": "unix", "data": {"path": str(it.qemu.directory / "theirs")}}
        await it.qemu.own.execute("nbd-server-start", addr=address)
        told = await it.one()
        assert isinstance(told, Untold)
        assert "NBD server" in told.reason
        with pytest.raises(RuntimeError, match="already running"):
            await it.qemu.own.execute("nbd-server-start", addr=address)
        await it.qemu.own.execute("nbd-server-stop")
        assert isinstance(await it.one(), ChangeSet)


async def test_what_a_cycle_that_died_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    async with cycles(tmp_path) as it:
        await it.cycle()
        own = it.qemu.own
        prefix = prefix_of(REPLICA)
        keep, others = it.marks[NAME]["bitmap"], f"{prefix_of('f' * 16)}x"
        for name in (f"{prefix}left", others, "theirs"):
            await own.execute("block-dirty-bitmap-add", node="disk0-file", name=name)
        await own.execute("blockdev-add", driver="null-co", node_name=f"{prefix}s", size=MIB)
        monitor = Monitor(it.qemu.monitor, 20)
        async with monitor.session() as qmp:
            # As after kill -9 in the middle: the server runs, and nobody will ever stop it.
            exporting = Exports(monitor).exported(qmp, prefix, f"{prefix}s")
            await exporting.__aenter__()
        await it.cycle()
        assert await own.bitmaps() == {others, "theirs", it.marks[NAME]["bitmap"], it.marks[NAME]["bitmap"] + "-end"}
        assert keep not in await own.bitmaps()
        assert not [name for name in await own.names() if name.startswith(prefix)]
        assert not list(Path(tempfile.gettempdir()).glob(f"{prefix}*"))
        await own.execute("nbd-server-start", addr={"type": "unix", "data": {"path": str(it.qemu.directory / "u")}})


async def test_a_cycle_that_ends_without_a_mark_leaves_what_was_there(tmp_path: Path) -> None:
    async with cycles(tmp_path) as it:
        await it.cycle()
        before = await it.qemu.own.bitmaps()
        tracker = it.tracker()
        await tracker.begin(it.request(), [SelectedFile(NAME, FileKind.DISK, named=False)])
        assert len(await it.qemu.own.bitmaps()) == 4
        await tracker.end()
        assert await it.qemu.own.bitmaps() == before
        await it.qemu.own.io("disk0", "write -P 7 1M 1M")
        assert isinstance(await it.one(), ChangeSet)


async def test_a_bitmap_that_goes_in_the_midst_of_a_cycle_costs_a_full_scan_and_qemu_lives_on(tmp_path: Path) -> None:
    """With its disk, which is unplugged, or because somebody removes it."""
    async with cycles(tmp_path) as it:
        await it.cycle()
        before = await it.qemu.own.bitmaps()
        tracker = it.tracker()
        await tracker.begin(it.request(), [SelectedFile(NAME, FileKind.DISK, named=False)])
        for bitmap in await it.qemu.own.bitmaps() - before:
            await it.qemu.own.execute("block-dirty-bitmap-remove", node="disk0-file", name=bitmap)
        await tracker.passed()
        shown = Shown(NAME, (tmp_path / NAME).stat().st_size)
        it.marks = {NAME: facts} if (facts := await tracker.mark(shown)) is not None else {}
        await tracker.end()
        assert not isinstance(await it.one(), ChangeSet)
        await it.cycle()
        assert isinstance(await it.one(), ChangeSet)


async def test_qemu_killed_at_any_command_is_told_and_never_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = 0
    kill_at: int | None = None
    execute = Qmp.execute
    make_vhdx(tmp_path / NAME)

    async def counted(self: Qmp, command: str, *arguments: object, **named: object) -> object:
        nonlocal commands
        commands += 1
        if commands == kill_at:
            await it.qemu.kill()
        return await execute(self, command, *arguments, **named)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(Qmp, "execute", counted)
    total = None
    for kill_at in range(200):
        async with running_qemu([tmp_path / NAME]) as qemu:
            it = Cycles(qemu, tmp_path)
            commands = -10_000
            await it.cycle()
            commands = 0
            # Whether it was told before QEMU died or not: `cycle` has held it against what differs.
            told = await it.one()
            if kill_at and kill_at < 8:
                assert isinstance(told, Untold)
        if kill_at == 0:
            total = commands
        if total is not None and kill_at > total:
            break
    assert total
    assert total > 10


async def test_cancelled_at_any_step_no_cycle_leaves_anything_for_good(tmp_path: Path) -> None:
    async with cycles(tmp_path) as it:
        await it.cycle()
        steps, done = 0, False
        while not done:
            marks = dict(it.marks)
            tracker = it.tracker()
            task = asyncio.ensure_future(_half_a_cycle(tracker, it))
            for _ in range(steps):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.wait([task])
            await tracker.end()
            it.marks = marks
            steps += 1 + steps // 6
        assert isinstance(await it.one(), ChangeSet)
        assert await it.qemu.own.bitmaps() == {it.marks[NAME]["bitmap"], it.marks[NAME]["bitmap"] + "-end"}
        assert not [name for name in await it.qemu.own.names() if name.startswith("replicad-")]


async def _half_a_cycle(tracker: BitmapTracker, it: Cycles) -> None:
    await tracker.begin(it.request(), [SelectedFile(NAME, FileKind.DISK, named=False)])
    await tracker.passed()
    told = await tracker.changes(Shown(NAME, (it.directory / NAME).stat().st_size), it.marks[NAME])
    assert isinstance(told, ChangeSet)


def test_a_bit_stands_for_a_chunk_until_bitmaps_would_become_large() -> None:
    assert granularity_bytes(0) == granularity_bytes(8 * 2**40) == 64 * 1024
    assert granularity_bytes(64 * 2**40) == 512 * 1024
    assert granularity_bytes(2**60) == 4 * MIB
