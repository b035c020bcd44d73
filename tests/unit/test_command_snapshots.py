"""The user's own snapshots: what they print is read or refused in one sentence, and they are always released."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from replicad.hypervisor.command.running import CommandNotStartedError
from replicad.model.address import Address
from replicad.model.errors import BusyError, NotFoundError, PermanentError, ReplicadError
from replicad.model.points import Consistency
from replicad.replica.layout import check_disk_path
from replicad.storage.local import LocalShare
from replicad.storage.port import Share
from replicad.tracking.frozen import FrozenView
from replicad.tracking.port import Request, Seen, SelectedFile
from replicad.tracking.selection import Selection
from replicad.tracking.snapshots import SnapshotView
from tests.support.cancelling import cancelled_at
from tests.support.commands import VM, Stage, command_stage
from tests.support.processes import other_process
from tests.support.world import SteadyClock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts of a POSIX shell")
SELECTION = Selection(("*.vhdx",), (), ("*.xml",))
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
print("opened")
sys.stdin.readline()
"""
REQUEST = Request("0123456789abcdef", (), application=True, for_cycle=True)
DISKS = {"웹 하나 🖥.vhdx": 1, "sub/둘.vhdx": 2}
COPY = 'mkdir -p "$1/shown"; cp -r "$1/vms/." "$1/shown/"; echo "$1/shown"'


@dataclass
class Scene:
    """A source of two disks, and views of it."""

    stage: Stage
    shares: AsyncExitStack
    allow_fuzzy: bool = False

    async def share(self, address: Address) -> Share:
        share = LocalShare(str(address))
        self.shares.push_async_callback(share.close)
        return share

    async def snapshot_view(self, snapshot: str, release: str | None = "", freeze: str | None = None) -> SnapshotView:
        freezer = None if freeze is None else self.stage.freezer(freeze)
        snapshots = self.stage.snapshots(snapshot, release, freezer)
        share = LocalShare(str(self.source))
        self.shares.push_async_callback(share.close)
        return SnapshotView(share, SELECTION, check_disk_path, snapshots, self.share, self.allow_fuzzy)

    async def frozen_view(self, freeze: str = "", thaw: str = "") -> FrozenView:
        share = LocalShare(str(self.source))
        self.shares.push_async_callback(share.close)
        return FrozenView(share, SELECTION, check_disk_path, self.stage.freezer(freeze, thaw), SteadyClock().clock())

    @property
    def source(self) -> Path:
        return self.stage.root / "vms"

    def write(self, seed: int = 0) -> None:
        for path, number in DISKS.items():
            (self.source / path).write_bytes(Random(seed + number).randbytes(5_000 + number))


class Moment:
    """Writes down when it comes."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def before(self, files: Sequence[SelectedFile]) -> None:
        assert self._stage.log == []
        assert {one.path for one in files} >= set(DISKS) or len(files) == 1

    async def after(self) -> None:
        with (self._stage.root / "log").open("a") as log:
            log.write("after\n")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with command_stage(tmp_path) as stage, AsyncExitStack() as shares:
        scene = Scene(stage, shares)
        (scene.source / "sub").mkdir(parents=True)
        scene.write()
        yield scene


async def _read(scene: Scene, seen: Seen) -> dict[str, bytes]:
    found = {}
    for one in seen.files:
        buffer = bytearray(one.size_bytes)
        assert await one.file.read_into(buffer, 0) == one.size_bytes
        found[one.path] = bytes(buffer)
    return found


def _contents(seed: int = 0) -> dict[str, bytes]:
    return {path: Random(seed + number).randbytes(5_000 + number) for path, number in DISKS.items()}


async def test_a_directory_is_read_by_the_same_paths_after_the_thaw_and_then_released(scene: Scene) -> None:
    view = await scene.snapshot_view(COPY, 'rm -r "$1/shown"', freeze="echo application")
    async with view.open(REQUEST, Moment(scene.stage)) as seen:
        assert scene.stage.log == ["freeze", "snapshot", "thaw", "after"]
        scene.write(seed=7)  # the machine goes on
        assert await _read(scene, seen) == _contents()
        assert (seen.consistency, seen.warnings) == (Consistency.APPLICATION, ())
        await seen.confirm()
    assert scene.stage.log == ["freeze", "snapshot", "thaw", "after", "release"]
    assert not (scene.stage.root / "shown").exists()
    assert scene.stage.left() == []


async def test_one_file_a_disk_in_the_order_of_the_disks(scene: Scene) -> None:
    (scene.source / "web.xml").write_text("<vm/>")
    script = (
        'printf "%s\\n" "$REPLICAD_DISKS" | while read -r disk; do n=$((n + 1)); cp "$disk" "$1/자료 $n"; '
        'echo "$1/자료 $n"; done; echo working >&2'
    )
    view = await scene.snapshot_view(script)
    async with view.open(REQUEST, Moment(scene.stage)) as seen:
        scene.write(seed=7)
        assert await _read(scene, seen) == {**_contents(), "web.xml": b"<vm/>"}
        assert seen.consistency is Consistency.CRASH
        assert seen.warnings == ("'web.xml' is no part of the snapshot: it was read from the source after it",)
    assert scene.stage.log == ["snapshot", "after", "release"]


@pytest.mark.parametrize("as_directory", [False, True])
async def test_one_path_for_one_disk_is_a_directory_or_a_file(scene: Scene, as_directory: bool) -> None:
    shutil.rmtree(scene.source / "sub")
    script = COPY if as_directory else 'cp "$REPLICAD_DISKS" "$1/a"; echo "$1/a"'
    async with (await scene.snapshot_view(script)).open(REQUEST, Moment(scene.stage)) as seen:
        path = "웹 하나 🖥.vhdx"
        assert await _read(scene, seen) == {path: _contents()[path]}


async def test_without_a_freeze_the_moment_is_from_before_the_snapshot(scene: Scene) -> None:
    view = await scene.snapshot_view(COPY + "; echo application")
    async with view.open(REQUEST, Moment(scene.stage)) as seen:
        assert seen.consistency is Consistency.APPLICATION  # it quiesces by itself, and says so


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("", "'snapshot' printed no path"),
        (
            "echo shown",
            "line 1 that 'snapshot' printed is no path ('shown': it is neither a share nor an absolute path)",
        ),
        ("echo /a; echo; echo 'snapshot ready'", "line 2 that 'snapshot' printed is no path ('snapshot ready'"),
        ("echo /a; echo /b; echo /c", "'snapshot' printed 3 paths, and the machine has 2 disks"),
        (r"printf '/a\377\n'", "line 1 that 'snapshot' printed is not UTF-8"),
        (r"printf '/a\001b\n'", "line 1 that 'snapshot' printed is no path ('/a\ufffdb')"),
        ("echo /a/../b", "it holds '.' or '..'"),
        ("echo '\\\\\\\\server'", "it names no share"),
        ("head -c 2000000 /dev/urandom", "'snapshot' printed more than 1 MiB"),
        ("yes /a | head -c 10000000", "'snapshot' printed more than 1 MiB"),
    ],
)
async def test_what_is_no_path_is_refused_in_one_sentence_and_released(
    scene: Scene, script: str, sentence: str
) -> None:
    view = await scene.snapshot_view(script)
    with pytest.raises(PermanentError) as refused:
        async with view.open(REQUEST, Moment(scene.stage)):
            pytest.fail("it was read")
    assert sentence in str(refused.value)
    assert "one file for each line of REPLICAD_DISKS" in str(refused.value)
    assert len(str(refused.value)) < 600
    assert scene.stage.log == ["snapshot", "release"]


@pytest.mark.parametrize(
    ("script", "kind", "sentence"),
    [
        ('echo "$1/nothing"', NotFoundError, "nothing"),
        ('mkdir "$1/empty"; echo "$1/empty"', NotFoundError, "empty"),
        ('mkdir "$1/part"; cp "$1/vms/"*.vhdx "$1/part"; echo "$1/part"', BusyError, "'sub/둘.vhdx' is not in it"),
        (COPY + '; cp "$1/log" "$1/shown/more.vhdx"', BusyError, "it holds 'more.vhdx', which the source does not"),
        ('echo "$1/log"; echo "$1/missing"', NotFoundError, "missing"),
        ('echo "$1/log"; echo "$1/log"', PermanentError, "two disks can't have one file"),
        ('echo "$1/vms"', PermanentError, "it is the disk itself, and no snapshot of it: process "),
        (
            'ln -s vms "$1/link"; echo "$1/link"',
            PermanentError,
            "it is the disk itself, and no snapshot of it: process ",
        ),
        ('printf "%s\\n" "$REPLICAD_DISKS"', PermanentError, "it is the disk itself, and no snapshot of it: process "),
        (
            'cp -rl "$1/vms" "$1/hard"; echo "$1/hard"',
            PermanentError,
            "it is the disk itself, and no snapshot of it: process ",
        ),
    ],
)
async def test_what_is_no_snapshot_is_refused_in_one_sentence_and_released(
    scene: Scene, script: str, kind: type[ReplicadError], sentence: str
) -> None:
    view = await scene.snapshot_view(script, freeze="")
    with (scene.source / "sub/둘.vhdx").open("r+b"), pytest.raises(kind) as refused:  # the machine's
        async with view.open(REQUEST, Moment(scene.stage)):
            pytest.fail("it was read")
    assert sentence in str(refused.value)
    assert scene.stage.log == ["freeze", "snapshot", "thaw", "after", "release"]
    assert scene.stage.left() == []


async def test_the_disks_themselves_promise_nothing_even_where_that_is_allowed(scene: Scene) -> None:
    scene.allow_fuzzy = True
    view = await scene.snapshot_view('echo "$1/vms"; echo application')
    with (scene.source / "sub/둘.vhdx").open("r+b") as machine:
        machine.seek(9)
        async with view.open(REQUEST, Moment(scene.stage)) as seen:
            machine.write(b"goes on")
            machine.flush()
            await seen.confirm()
        assert seen.consistency is Consistency.FUZZY
        assert seen.warnings == ("sub/둘.vhdx: the disk itself was read, so the point promises nothing",)


async def test_a_machine_that_writes_elsewhere_while_the_snapshot_is_there_leaves_its_disks_to_be_read(
    scene: Scene,
) -> None:
    # As hypervisors do with checkpoints: what comes is written to files of its own.
    view = await scene.snapshot_view('printf "%s\\n" "$REPLICAD_DISKS"; echo application')
    async with view.open(REQUEST, Moment(scene.stage)) as seen:
        assert await _read(scene, seen) == _contents()
        await seen.confirm()
        assert (seen.consistency, seen.warnings) == (Consistency.APPLICATION, ())
        with other_process(WRITER, str(scene.source / "sub/둘.vhdx")) as machine:
            assert await asyncio.to_thread(machine.line) == "opened"  # it is let in at once, and there is no point
            with pytest.raises(BusyError, match=f"process {machine.pid}"):
                await seen.confirm()


async def test_a_snapshot_that_changes_while_it_is_read_is_none(scene: Scene) -> None:
    view = await scene.snapshot_view(COPY)
    async with view.open(REQUEST, Moment(scene.stage)) as seen:
        with (scene.stage.root / "shown/sub/둘.vhdx").open("ab") as file:
            file.write(b"more")
        with pytest.raises(BusyError, match="its size changed from 5002 to 5006 bytes while the snapshot was read"):
            await seen.confirm()


async def test_half_a_snapshot_is_released_too(scene: Scene) -> None:
    view = await scene.snapshot_view('mkdir "$1/shown"; exit 1', 'rmdir "$1/shown"', freeze="")
    with pytest.raises(BusyError, match=r"cannot take a snapshot of .* sh ended with status 1"):
        async with view.open(REQUEST, Moment(scene.stage)):
            pytest.fail("it was read")
    assert scene.stage.log == ["freeze", "snapshot", "thaw", "release"]
    assert not (scene.stage.root / "shown").exists()


async def test_without_a_freeze_that_went_well_there_is_no_snapshot_to_release(scene: Scene) -> None:
    view = await scene.snapshot_view(COPY, freeze="exit 1")
    with pytest.raises(BusyError, match="cannot freeze"):
        async with view.open(REQUEST, Moment(scene.stage)):
            pytest.fail("it was read")
    assert scene.stage.log == ["freeze", "thaw"]


async def test_a_snapshot_that_can_not_be_started_is_not_released(scene: Scene) -> None:
    snapshots = scene.stage.snapshots(("/no/such/program",))
    with pytest.raises(CommandNotStartedError):
        async with snapshots.taken(["/a"], application=True):
            pytest.fail("it was taken")
    assert scene.stage.log == []
    assert scene.stage.left() == []


async def test_a_snapshot_that_is_not_released_is_warned_of_and_released_before_the_next(scene: Scene) -> None:
    release = '[ -e "$1/mended" ] || exit 1'
    view = await scene.snapshot_view(COPY, release)
    async with view.open(REQUEST, Moment(scene.stage)) as seen:
        await _read(scene, seen)
    assert "cannot release the snapshot of" in scene.stage.warnings
    assert "remove it by hand" in scene.stage.warnings
    with pytest.raises(BusyError, match="cannot release"):  # they must not pile up
        await scene.stage.journal().undo_left(VM)
    (scene.stage.root / "mended").touch()
    await scene.stage.journal().undo_left(VM)
    assert scene.stage.log == ["snapshot", "after", "release", "release", "release"]
    assert scene.stage.left() == []


async def test_without_a_release_command_nothing_is_released(scene: Scene) -> None:
    async with (await scene.snapshot_view(COPY, None)).open(REQUEST, Moment(scene.stage)):
        pass
    assert scene.stage.log == ["snapshot", "after"]


async def test_cancelled_at_any_await_each_is_undone_once_that_was_begun(tmp_path: Path) -> None:
    for number in range(1, 400, 1):
        async with _fresh(tmp_path / str(number)) as scene:

            async def cycle(scene: Scene = scene) -> None:
                view = await scene.snapshot_view(COPY, freeze="")
                async with view.open(REQUEST, _Nobody()) as seen:
                    await seen.confirm()

            cancelled = await cancelled_at(number, cycle)
            log = scene.stage.log
            assert log.count("thaw") >= log.count("freeze")
            assert log.count("release") >= log.count("snapshot")
            assert max(log.count(phase) for phase in ("freeze", "snapshot", "thaw", "release")) <= 1
            assert scene.stage.left() == []
            if not cancelled:
                assert log == ["freeze", "snapshot", "thaw", "release"]
                assert number > 40
                return
    pytest.fail("it never ended")


class _Nobody:
    async def before(self, files: Sequence[SelectedFile]) -> None: ...

    async def after(self) -> None: ...


@asynccontextmanager
async def _fresh(root: Path) -> AsyncIterator[Scene]:
    root.mkdir()
    async with command_stage(root) as stage, AsyncExitStack() as shares:
        scene = Scene(stage, shares)
        (scene.source / "sub").mkdir(parents=True)
        scene.write()
        yield scene


async def test_without_a_snapshot_the_machine_is_frozen_for_the_whole_read(scene: Scene) -> None:
    view = await scene.frozen_view("echo application")
    async with view.open(REQUEST, Moment(scene.stage)) as seen:
        assert scene.stage.log == ["freeze", "after"]
        assert await _read(scene, seen) == _contents()
        await seen.confirm()
        assert seen.consistency is Consistency.APPLICATION
    assert scene.stage.log == ["freeze", "after", "thaw"]


async def test_a_disk_that_is_written_while_the_machine_is_frozen_is_noticed(scene: Scene) -> None:
    view = await scene.frozen_view()
    async with view.open(REQUEST, Moment(scene.stage)) as seen:
        await asyncio.sleep(0.02)  # more than the grain of the file system's clock
        with (scene.source / "sub/둘.vhdx").open("r+b") as file:
            file.write(b"!")
        with pytest.raises(BusyError, match="it was written while the machine was frozen"):
            await seen.confirm()
    assert scene.stage.log == ["freeze", "after", "thaw"]
