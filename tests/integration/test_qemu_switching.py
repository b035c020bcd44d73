"""A real QEMU whose disks are switched to other files while it runs: all of them or none, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicad.hypervisor.held import HeldUser
from replicad.hypervisor.port import Usage
from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.qemu.qmp import Qmp
from replicad.hypervisor.qemu.switching import QemuUser
from replicad.model.errors import BusyError, ConflictError, PermanentError, TransientError, UnsupportedError
from replicad.model.moves import Side
from replicad.storage.local import LocalShare
from tests.support.moving_guest import VM, Move, seen_at
from tests.support.processes import other_process
from tests.support.qemu import Qemu, make_vhdx, running_qemu
from tests.support.world import SteadyClock

NAMES = ("웹 디스크 🖥.vhdx", "둘째, 📦.vhdx")


@dataclass
class Stage:
    """A machine with two disks, `disk0` and `disk1`."""

    qemu: Qemu
    move: Move
    turn: int = 1

    async def write(self, device: str = "disk0") -> None:
        """What the guest would do."""
        self.turn += 1
        await self.qemu.own.io(f"-d {device}", f"write -P {self.turn} 8M 64k")
        await self.qemu.own.io(f"-d {device}", "flush")

    async def used(self, device: str = "disk0", name: str = NAMES[0]) -> Side:
        """Where what it writes is."""
        before = [(at / name).read_bytes() for at in (self.move.source, self.move.destination) if (at / name).exists()]
        await self.write(device)
        after = [(at / name).read_bytes() for at in (self.move.source, self.move.destination) if (at / name).exists()]
        [changed] = [number for number, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
        return (Side.SOURCE, Side.DESTINATION)[changed]

    async def check_nothing_is_left(self) -> None:
        nodes = await self.qemu.own.execute("query-named-block-nodes", flat=True)
        assert len(nodes) == 2 * len(self.move.names), sorted(node["node-name"] for node in nodes)
        assert await self.move.journal().left() == ()


DEVICES = ("virtio-blk-pci,drive=disk0,id=disk0", "virtio-blk-pci,drive=disk1,id=disk1")
QDEVS = {"disk0": "/machine/peripheral/disk0/virtio-backend", "disk1": "/machine/peripheral/disk1/virtio-backend"}


@asynccontextmanager
async def stage(
    directory: Path, *, named: bool = True, paused: bool = False, names: Sequence[str] = NAMES
) -> AsyncIterator[Stage]:
    source = directory / "원본"
    source.mkdir()
    disks = [make_vhdx(source / name) for name in names]
    more = [text for device in DEVICES[: len(names)] for text in ("-device", device)]
    async with running_qemu(disks, named=named, machine="q35", more=more, paused=paused) as qemu:
        yield Stage(qemu, Move(qemu.monitor, source, directory / "대상", tuple(names)))


@pytest.mark.parametrize("named", [True, False])
async def test_a_running_machine_goes_on_with_the_files_that_it_was_switched_to(tmp_path: Path, named: bool) -> None:
    async with stage(tmp_path, named=named) as it:
        user = it.move.user()
        assert await user.usage(it.move.files) is Usage.RUNNING
        for move in (it.move, it.move.back, it.move):
            user = move.user()
            await it.write(QDEVS["disk0"])
            for node in await it.qemu.own.execute("query-named-block-nodes", flat=True):
                if node["drv"] == "file":  # what has noted the changes until then goes away with the old file
                    await it.qemu.own.execute("block-dirty-bitmap-add", node=node["node-name"], name="noted")
            async with user.still(move.files) as still:
                assert await it.qemu.own.status() == "paused"
                await still.check()
                move.copy()
                await still.check()
                await still.switch(move.files)
            assert await it.qemu.own.status() == "running"
            assert await move.sides() == {Side.DESTINATION}
            here = Stage(it.qemu, move, it.turn)
            assert await here.used(QDEVS["disk0"], NAMES[0]) is Side.DESTINATION
            assert await here.used(QDEVS["disk1"], NAMES[1]) is Side.DESTINATION
            it.turn = here.turn
            await it.check_nothing_is_left()
            assert await it.qemu.own.bitmaps() == set()
        assert it.move.events == []


_THROTTLE = {"driver": "throttle", "node-name": "slow", "throttle-group": "group"}
_DEVICES = {
    "virtio-blk": "virtio-blk-pci,drive=d,id=it",
    "virtio-blk in an iothread": "virtio-blk-pci,drive=d,id=it,iothread=io",
    "virtio-scsi": "scsi-hd,drive=d,id=it",
    "ide": "ide-hd,drive=d,id=it",
    "nvme": "nvme,drive=d,id=it,serial=1",
    "usb": "usb-storage,drive=d,id=it,bus=usb.0",
    "without a name": "virtio-blk-pci,drive=d",
    "behind a throttle": "scsi-hd,drive=slow,id=it",
}


@pytest.mark.parametrize("device", _DEVICES)
async def test_every_kind_of_device_can_be_switched(tmp_path: Path, device: str) -> None:
    source = tmp_path / "원본"
    source.mkdir()
    disk = make_vhdx(source / NAMES[0])
    file = {"driver": "file", "filename": str(disk)}
    opened: dict[str, object] = {"driver": "vhdx", "node-name": "d", "file": file}
    more = ["-object", "iothread,id=io", "-object", "throttle-group,id=group,x-iops-total=100000"]
    more += ["-device", "virtio-scsi-pci,id=scsi", "-device", "qemu-xhci,id=usb"]
    if "throttle" in device:
        opened = {**_THROTTLE, "file": {"driver": "vhdx", "file": file}}
    more += ["-blockdev", json.dumps(opened), "-device", _DEVICES[device]]
    async with running_qemu([], machine="q35", more=more) as qemu:
        it = Stage(qemu, Move(qemu.monitor, source, tmp_path / "대상", (NAMES[0],)))
        [told] = [one for one in await qemu.own.execute("query-block") if one.get("inserted")]
        qdev = told["qdev"]
        await it.write(qdev)
        for move in (it.move, it.move.back, it.move):
            assert await move.user().usage(move.files) is Usage.RUNNING
            async with move.user().still(move.files) as still:
                move.copy()
                await still.switch(move.files)
            here = Stage(qemu, move, it.turn)
            assert await here.used(qdev) is Side.DESTINATION
            assert await move.sides() == {Side.DESTINATION}
            it.turn = here.turn
        nodes = await qemu.own.execute("query-named-block-nodes", flat=True)
        assert len(nodes) == (3 if "throttle" in device else 2), [node["node-name"] for node in nodes]


@pytest.mark.parametrize("kind", ["raw", "vpc"])
async def test_disks_of_other_formats_can_be_switched(tmp_path: Path, kind: str) -> None:
    source, name = tmp_path / "원본", "디스크.vhd"
    source.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, str(source / name), "64M"], check=True)
    drive = f"if=none,id=d,format={kind},file={source / name}"
    async with running_qemu([], machine="q35", more=["-drive", drive, "-device", "virtio-blk-pci,drive=d"]) as qemu:
        it = Stage(qemu, Move(qemu.monitor, source, tmp_path / "대상", (name,)))
        for move in (it.move, it.move.back):
            async with move.user().still(move.files) as still:
                move.copy()
                await still.switch(move.files)
            here = Stage(qemu, move, it.turn)
            qdev = "/machine/peripheral-anon/device[0]/virtio-backend"
            assert await here.used(qdev, name) is Side.DESTINATION
            it.turn = here.turn


async def test_the_new_files_are_opened_as_the_old_ones_were(tmp_path: Path) -> None:
    source = tmp_path / "원본"
    source.mkdir()
    first, second = (make_vhdx(source / name) for name in NAMES)
    file: dict[str, object] = {"driver": "file", "filename": str(first), "aio": "native"}
    file |= {"locking": "on", "discard": "unmap"}
    file |= {"node-name": "f", "cache": {"direct": True, "no-flush": True}}
    opened = {"driver": "vhdx", "node-name": "d", "file": "f", "detect-zeroes": "on", "cache": {"no-flush": True}}
    more = ["-blockdev", json.dumps(file), "-blockdev", json.dumps(opened), "-device", DEVICES[0].replace("disk0", "d")]
    name = str(second).replace(",", ",,")
    more += ["-drive", f"if=virtio,file={name},format=vhdx,cache=none,aio=io_uring,discard=on,detect-zeroes=unmap"]
    async with running_qemu([], machine="q35", more=more) as qemu:
        move = Move(qemu.monitor, source, tmp_path / "대상", NAMES)
        before = await _told(qemu)
        for turn in (move, move.back, move):
            added: list[dict[str, object]] = []
            async with turn.user().still(turn.files) as still:
                turn.copy()
                with _noting(added):
                    await still.switch(turn.files)
            assert await _told(qemu) == before
            options = [{key: one[key] for key in ("aio", "locking", "discard") if key in one} for one in added]
            assert options[0] == {"aio": "native", "locking": "on", "discard": "unmap"}
            assert options[1].get("discard", "ignore") == "ignore"
            assert options[2] == {"aio": "io_uring", "discard": "unmap"} | options[2]
            assert options[2].get("locking", "auto") == "auto"
            assert options[3] == {"discard": "unmap"}
        assert move.events == []


async def _told(qemu: Qemu) -> dict[tuple[str, str], object]:
    """What QEMU tells of how each file was opened, by the name of the file and the format."""
    nodes = await qemu.own.execute("query-named-block-nodes", flat=True)
    return {
        (Path(node["image"]["filename"]).name, node["drv"]): (node["cache"], node["detect_zeroes"], node["ro"])
        for node in nodes
    }


@contextmanager
def _noting(added: list[dict[str, object]]) -> Iterator[None]:
    """Note with which options nodes are made."""
    execute = Qmp.execute

    async def noting(self: Qmp, command: str, arguments: Mapping[str, object] | None = None, **named: object) -> object:
        if command == "blockdev-add":
            added.append(dict(arguments or {}))
        return await execute(self, command, arguments, **named)  # type: ignore[arg-type]  # handed on

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qmp, "execute", noting)
        yield


async def test_what_qemu_was_not_started_with_is_opened_with_defaults_and_that_is_told(tmp_path: Path) -> None:
    source = tmp_path / "원본"
    source.mkdir()
    disk = make_vhdx(source / NAMES[0])
    async with running_qemu([], machine="q35", more=["-device", "pcie-root-port,id=rp"]) as qemu:
        file = {"driver": "file", "filename": str(disk), "aio": "threads"}
        await qemu.own.execute("blockdev-add", driver="vhdx", node_name="d", file=file)
        await qemu.own.execute("device_add", driver="virtio-blk-pci", drive="d", id="it", bus="rp")
        move = Move(qemu.monitor, source, tmp_path / "대상", (NAMES[0],))
        async with move.user().still(move.files) as still:
            move.copy()
            await still.switch(move.files)
        assert await move.sides() == {Side.DESTINATION}
        [event] = move.events
        assert "not started with it" in str(event)
        assert NAMES[0] in str(event)


@pytest.mark.parametrize("paused", [True, False])
async def test_a_machine_that_its_user_has_paused_stays_so_and_is_switched(tmp_path: Path, paused: bool) -> None:
    async with stage(tmp_path, paused=paused) as it:
        if not paused:
            await it.qemu.own.execute("stop")
        before = await it.qemu.own.status()
        async with it.move.user().still(it.move.files) as still:
            it.move.copy()
            await still.check()
            await still.switch(it.move.files)
        assert await it.qemu.own.status() == before == ("prelaunch" if paused else "paused")
        assert await it.move.sides() == {Side.DESTINATION}
        await it.check_nothing_is_left()


async def test_without_a_switch_it_goes_on_with_its_own_files(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        it.move.copy()
        for error in (None, BusyError("copy", "a disk", "no")):
            with pytest.raises(BusyError) if error else _nothing():
                async with it.move.user().still(it.move.files):
                    if error:
                        raise error
            assert await it.qemu.own.status() == "running"
            assert await it.move.sides() == {Side.SOURCE}
            await it.check_nothing_is_left()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("spoil", ["missing", "larger", "no vhdx", "a directory"])
@pytest.mark.parametrize("named", [True, False])
async def test_when_one_disk_cannot_be_switched_none_is(tmp_path: Path, spoil: str, named: bool) -> None:
    async with stage(tmp_path, named=named) as it:
        it.move.copy()
        second = it.move.destination / NAMES[1]
        second.unlink()
        if spoil == "larger":
            make_vhdx(second, "65M")
        elif spoil == "no vhdx":
            second.write_bytes(bytes(2**20))
        elif spoil == "a directory":
            second.mkdir()
        with pytest.raises(UnsupportedError, match=r"64|QEMU"):
            async with it.move.user().still(it.move.files) as still:
                await still.switch(it.move.files)
        assert await it.qemu.own.status() == "running"
        await _check_all_at(it, Side.SOURCE)
        # And nothing keeps it from being tried again.
        if spoil == "a directory":
            second.rmdir()
        async with it.move.user().still(it.move.files) as still:
            it.move.copy()
            await still.switch(it.move.files)
        await _check_all_at(it, Side.DESTINATION)


async def _check_all_at(it: Stage, side: Side) -> None:
    assert await it.move.sides() == {side}
    if (it.move.destination / NAMES[1]).is_file():
        assert [await it.used(QDEVS[f"disk{number}"], NAMES[number]) for number in (0, 1)] == [side, side]
    await it.check_nothing_is_left()


async def test_a_device_that_refuses_has_the_earlier_ones_set_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        it.move.copy()
        with _failing(lambda command, count: command == "qom-set" and count == 2), pytest.raises(UnsupportedError):
            async with it.move.user().still(it.move.files) as still:
                await still.switch(it.move.files)
        assert await it.qemu.own.status() == "running"
        await _check_all_at(it, Side.SOURCE)
        user = it.move.user()
        with _failing(lambda command, count: command == "qom-set" and count in (2, 3)):
            async with user.still(it.move.files) as still:
                with pytest.raises(ConflictError, match=NAMES[0]):
                    await still.switch(it.move.files)
                assert await user.sides(it.move.files) == {NAMES[0]: Side.DESTINATION, NAMES[1]: Side.SOURCE}
        # Before it went on it was tried once more.
        await _check_all_at(it, Side.SOURCE)


@contextmanager
def _failing(which: Callable[[str, int], bool]) -> Iterator[None]:
    """Refuse commands; the number is that of those of the same kind."""
    execute, counts = Qmp.execute, dict[str, int]()

    async def failing(self: Qmp, command: str, *arguments: object, **named: object) -> object:
        counts[command] = counts.get(command, 0) + 1
        if which(command, counts[command]):
            raise PermanentError("run", self.subject, "QEMU says: not today")
        return await execute(self, command, *arguments, **named)  # type: ignore[arg-type]  # handed on

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qmp, "execute", failing)
        yield


async def test_files_that_qemu_does_not_use_are_held_and_moved_by_who_stands_in(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        (it.move.source / "기계.xml").write_text("<x/>")
        it.move.names = (*NAMES, "기계.xml", "gone.vhdx")
        others = ("gone.vhdx", "기계.xml")
        user = it.move.user()
        assert await user.usage(it.move.files) is Usage.RUNNING
        it.move.destination.mkdir()
        for name in NAMES:
            (it.move.destination / name).write_bytes((it.move.source / name).read_bytes())
        async with user.still(it.move.files) as still:
            await still.check()
            await still.switch(it.move.files)
        asked = it.move.unused.asked
        assert [what for what, _ in asked] == ["usage", "still", "check", "switch", "end"]
        assert [set(paths) for _, paths in asked if paths] == [set(others)] * 4
        sides = await it.move.user().sides(it.move.files)
        assert sides == dict.fromkeys(NAMES, Side.DESTINATION) | dict.fromkeys(others, Side.NOBODY)
        # It uses none of those at the source by now, so nothing of it has to stand still.
        async with it.move.user().still(it.move.files):
            assert await it.qemu.own.status() == "running"
            assert it.move.unused.asked[-1] == ("still", it.move.names)
        with pytest.raises(BusyError, match="uses none of its disks there"):
            await it.move.user().usage(it.move.files)


async def test_while_it_is_off_another_stands_in_for_all(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        await it.qemu.kill()
        user = it.move.user()
        assert await user.usage(it.move.files) is Usage.IDLE
        async with user.still(it.move.files) as still:
            await still.check()
            await still.switch(it.move.files)
        assert set((await user.sides(it.move.files)).values()) == {Side.NOBODY}
        assert [what for what, _ in it.move.unused.asked] == ["usage", "still", "check", "switch", "end", "sides"]
        assert await it.move.journal().left() == ()


@pytest.mark.parametrize("how", ["went on", "was restarted"])
async def test_a_machine_that_did_not_stand_still_is_noticed_and_not_switched(tmp_path: Path, how: str) -> None:
    async with stage(tmp_path) as it:
        it.move.copy()
        async with it.move.user().still(it.move.files) as still:
            if how == "was restarted":
                await it.qemu.kill()
            else:
                await it.qemu.own.execute("cont")
            with pytest.raises(TransientError):
                await still.check()
            with pytest.raises(TransientError):
                await still.switch(it.move.files)
        if how != "was restarted":
            assert await it.qemu.own.status() == "running"
            await _check_all_at(it, Side.SOURCE)


async def test_after_its_longest_time_it_goes_on_whatever_is_going_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        it.move.copy()
        async with it.move.user(longest_s=0.2).still(it.move.files) as still:
            async with asyncio.timeout(10):
                while await it.qemu.own.status() != "running":
                    pass
            with pytest.raises(BusyError, match="as long as it may"):
                await still.check()
            with pytest.raises(BusyError, match="as long as it may"):
                await still.switch(it.move.files)
        await _check_all_at(it, Side.SOURCE)
        async with it.move.user(longest_s=0.2).still(it.move.files) as still:
            await still.switch(it.move.files)
            async with asyncio.timeout(10):
                while await it.qemu.own.status() != "running":
                    pass
        await _check_all_at(it, Side.DESTINATION)


async def test_a_second_switch_is_a_mistake_and_not_passed_on_to_qemu(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        it.move.copy()
        async with it.move.user().still(it.move.files) as still:
            await still.switch(it.move.files)
            with pytest.raises(ValueError, match="already"):
                await still.switch(it.move.files)
        await _check_all_at(it, Side.DESTINATION)


async def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    async with stage(tmp_path, names=NAMES[:1]) as it:
        own, user = it.qemu.own, it.move.user()

        async def refused(why: str) -> None:
            with pytest.raises(BusyError, match=why) as raised:
                await user.usage(it.move.files)
            assert NAMES[0] in str(raised.value)
            with pytest.raises(BusyError, match=why):
                async with user.still(it.move.files):
                    pass
            assert await own.status() == "running"

        script = "import sys; f = open(sys.argv[1], 'r+b'); print(1); input()"
        with other_process(script, str(it.move.source / NAMES[0])) as other:
            assert other.line() == "1"
            await refused(rf"python.*\(process {other.pid}\) has it open for writing")
        await own.execute("blockdev-add", driver="null-co", node_name="null", size=64 * 2**20, read_zeroes=True)
        job = {"job_id": "j", "device": "disk0", "target": "null", "sync": "full", "speed": 1}
        for command in ("blockdev-mirror", "blockdev-backup"):
            await own.execute(command, **job)
            await refused("block job|backup")
            await own.execute("block-job-cancel", device="j", force=True)
            async with asyncio.timeout(10):
                while await own.execute("query-jobs"):
                    pass
        await own.execute("nbd-server-start", addr={"type": "unix", "data": {"path": str(it.qemu.directory / "nbd")}})
        await own.execute("block-export-add", type="nbd", id="e", node_name="disk0")
        await refused("export")
        await own.execute("block-export-del", id="e")
        async with asyncio.timeout(10):
            while await own.execute("query-block-exports"):
                pass
        assert await user.usage(it.move.files) is Usage.RUNNING
        again = {"filename": str(it.move.source / NAMES[0]), "read_only": True, "locking": "off"}
        await own.execute("blockdev-add", driver="file", node_name="again", **again)
        await refused("more than once.*again")
        await own.execute("blockdev-del", node_name="again")
        (it.move.source / NAMES[0]).rename(tmp_path / "away")
        make_vhdx(it.move.source / NAMES[0])
        with pytest.raises(BusyError, match="replaced by another"):
            await user.usage(it.move.files)


_OTHERWISE = {
    "is based on": (
        [
            '{"driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": "OVER"}, '
            '"backing": {"driver": "vhdx", "file": {"driver": "file", "filename": "DISK"}}}'
        ],
        "q",
    ),
    "read-only": (
        ['{"driver": "vhdx", "node-name": "d", "read-only": true, "file": {"driver": "file", "filename": "DISK"}}'],
        "d",
    ),
    "without a format": (['{"driver": "file", "node-name": "d", "filename": "DISK"}'], "d"),
    "no device": (['{"driver": "vhdx", "node-name": "d", "file": {"driver": "file", "filename": "DISK"}}'], ""),
    "copy-on-read": (
        [
            '{"driver": "copy-on-read", "node-name": "c", "file": '
            '{"driver": "vhdx", "file": {"driver": "file", "filename": "DISK"}}}'
        ],
        "c",
    ),
    "preallocate": (
        [
            '{"driver": "vhdx", "node-name": "d", "file": '
            '{"driver": "preallocate", "file": {"driver": "file", "filename": "DISK"}}}'
        ],
        "d",
    ),
}


@pytest.mark.parametrize("why", _OTHERWISE)
async def test_disks_that_are_used_in_another_way_are_left_alone(tmp_path: Path, why: str) -> None:
    source = tmp_path / "원본"
    source.mkdir()
    disk, over = make_vhdx(source / NAMES[0]), tmp_path / "over"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(over), "64M"], check=True)
    blockdevs, drive = _OTHERWISE[why]
    more = []
    for text in blockdevs:
        more += ["-blockdev", text.replace("DISK", str(disk)).replace("OVER", str(over))]
    more += ["-device", f"scsi-hd,drive={drive}"] if drive else []
    async with running_qemu([], machine="q35", more=["-device", "virtio-scsi-pci", *more]) as qemu:
        move = Move(qemu.monitor, source, tmp_path / "대상", (NAMES[0],))
        with pytest.raises(BusyError, match=why):
            await move.user().usage(move.files)
        with pytest.raises(BusyError, match=why):
            async with move.user().still(move.files):
                pass
        assert await qemu.own.status() == "running"


@pytest.mark.root
async def test_the_new_file_belongs_to_whom_the_old_one_does_so_that_qemu_can_open_it(tmp_path: Path) -> None:
    async with stage(tmp_path, names=NAMES[:1]) as it:
        old, new = it.move.source / NAMES[0], it.move.destination / NAMES[0]
        os.chown(old, 65534, 65533)
        old.chmod(0o640)
        async with it.move.user().still(it.move.files) as still:
            it.move.copy()
            assert new.stat().st_uid != 65534
            written_ns = new.stat().st_mtime_ns
            await still.switch(it.move.files)
            found = new.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65533, 0o640)
        assert found.st_mtime_ns == written_ns, "to open it is not to touch it"


async def test_files_that_qemu_does_not_use_are_really_held(tmp_path: Path) -> None:
    async with stage(tmp_path, names=NAMES[:1]) as it:
        it.move.names = (NAMES[0], "기계.xml")
        (it.move.source / "기계.xml").write_text("<x/>")
        source, place = LocalShare(str(it.move.source)), LocalShare(str(it.move.destination))
        held = HeldUser(source, [place], 0, SteadyClock().clock(), lambda _: None)
        monitor = Monitor(it.qemu.monitor, 20)
        user = QemuUser(monitor, it.move.journal(), VM, seen_at, held, it.move.events.append)
        with (it.move.source / "기계.xml").open("a"):
            with pytest.raises(BusyError, match=r"기계\.xml"):
                await user.usage(it.move.files)
            with pytest.raises(BusyError, match=r"기계\.xml"):
                async with user.still(it.move.files):
                    pass
        assert await it.qemu.own.status() == "running"
        assert await user.usage(it.move.files) is Usage.RUNNING
        async with user.still(it.move.files) as still:
            it.move.copy()
            await still.check()
            await still.switch(it.move.files)
        assert await user.sides(it.move.files) == {NAMES[0]: Side.DESTINATION, "기계.xml": Side.NOBODY}
        await it.qemu.kill()
        assert await user.usage(it.move.files) is Usage.IDLE
        assert await user.sides(it.move.files) == {NAMES[0]: Side.NOBODY, "기계.xml": Side.NOBODY}
