"""The virtual machine that other tests rely on: it runs, and what it is trusted to notice, it does notice."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filesystems import mounted
from tests.support.guest import (
    GuestDiedError,
    GuestImage,
    Load,
    NoGuestError,
    RefusedError,
    agent,
    build_guest,
    check_disk,
    check_disk_by_booting,
    copy_disk,
    make_disk,
    monitor,
    running_guest,
)
from tests.support.guest import guest_image as guest_image
from tests.support.guest.disks import raw_of
from tests.support.guest.image import CACHE

pytestmark = pytest.mark.root  # disks are checked by mounting them

MIB = 1024 * 1024
SMALL_RING = Load(rate_per_s=0, files=4, per_file=4, min_bytes=4096, max_bytes=16384)
"""16 records on each disk: a few hundred go round many times."""


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """Two disks, of which one is fixed."""
    return [
        make_disk(tmp_path / "디스크, 하나 🖥.vhdx", 64 * MIB),
        make_disk(tmp_path / "data two.vhdx", 64 * MIB, kind="fixed"),
    ]


async def test_what_was_durable_is_there_after_the_machine_was_switched_off_and_on(
    guest_image: GuestImage, disks: list[Path]
) -> None:
    async with running_guest(guest_image, disks, load=SMALL_RING) as guest:
        await guest.wait_durable(100)
        await guest.power_off()
        assert guest.io_errors == []
    first = check_disk(disks)
    assert first.sound
    assert first.records_through == guest.durable().number >= 100

    # It goes on where it was, in the ring that is there, whatever it is told.
    async with running_guest(guest_image, disks, load=Load(rate_per_s=0, files=7)) as guest:
        assert (await guest.wait_line("ready")).text == f"ready 2 {first.highest}"
        await guest.wait_durable(first.highest + 50)
        number = await guest.hold()
        assert guest.durable().number == number
        assert not [line for line in guest.lines if line.text.startswith("checked")], "found nothing wrong at its start"
        await guest.power_off()
    assert check_disk(disks).records_through == number


@pytest.mark.parametrize("node_names", [True, False])
async def test_no_durable_record_is_lost_when_qemu_is_killed_in_the_midst_of_writing(
    guest_image: GuestImage, node_names: bool
) -> None:
    with mounted("xfs") as directory:
        disks = [make_disk(directory / f"디스크 {number}.vhdx", 64 * MIB) for number in range(3)]
        load = Load(rate_per_s=0, files=4, per_file=4, churn_bytes_per_s=4 * MIB)
        async with running_guest(guest_image, disks, load=load, node_names=node_names, cache="none") as guest:
            await guest.wait_durable(150)
            await guest.kill()
        durable = guest.durable().number
        assert guest.io_errors == []
        for checked in (check_disk(disks), await check_disk_by_booting(guest_image, disks)):
            assert checked.sound, checked
            assert checked.records_through >= durable


async def test_disks_copied_one_after_the_other_are_noticed_and_of_one_instant_they_are_not(
    guest_image: GuestImage, disks: list[Path], tmp_path: Path
) -> None:
    together, apart = tmp_path / "together", tmp_path / "apart"
    together.mkdir()
    apart.mkdir()
    async with running_guest(guest_image, disks, rate=0) as guest, monitor(guest.own_qmp_path) as qmp:
        await guest.wait_durable(20)
        await qmp.execute("stop")
        of_one_instant = [copy_disk(disk, together / disk.name) for disk in disks]
        earlier = copy_disk(disks[0], apart / disks[0].name)
        await qmp.execute("cont")
        await guest.wait_durable(guest.durable().number + 10)
        await qmp.execute("stop")
        later = copy_disk(disks[1], apart / disks[1].name)
    assert check_disk(of_one_instant).sound
    wrong = check_disk([earlier, later])
    assert wrong.fsck_clean
    assert not wrong.torn
    assert not wrong.io_errors
    assert wrong.records_through < wrong.highest
    assert not wrong.sound
    assert await check_disk_by_booting(guest_image, [earlier, later]) == wrong


@pytest.fixture
async def written(guest_image: GuestImage, tmp_path: Path) -> list[Path]:
    """Two raw disks with 200 records, of which the last 32 are kept, and switched off."""
    disks = [make_disk(tmp_path / f"{number}.raw", 64 * MIB, kind="raw") for number in range(2)]
    async with running_guest(guest_image, disks, load=SMALL_RING) as guest:
        await guest.wait_durable(200)
        await guest.power_off()
    return disks


async def test_a_record_that_was_damaged_lost_or_is_an_older_one_is_noticed(
    guest_image: GuestImage, written: list[Path]
) -> None:
    sound = check_disk(written)
    assert sound.sound
    number = sound.highest - 2
    disk = written[number % 2]
    content = disk.read_bytes()
    at = content.index(b"REPLREC1", 0)
    while int.from_bytes(content[at + 16 : at + 24], "little") != number:
        at = content.index(b"REPLREC1", at + 1)
    for what, change, torn in (
        ("one bit of its payload", bytes([content[at + 3000] ^ 1]), 1),
        ("its first sector", bytes(512), 0),
    ):
        damaged = bytearray(content)
        start = at + 3000 if len(change) == 1 else at
        damaged[start : start + len(change)] = change
        disk.write_bytes(damaged)
        checked = check_disk(written)
        assert not checked.sound, what
        assert (checked.records_through, checked.highest, checked.torn) == (number - 1, sound.highest, torn), what
        assert checked.fsck_clean, what
        assert await check_disk_by_booting(guest_image, written) == checked, what


async def test_a_file_system_that_needs_repair_and_one_that_is_none_are_noticed(written: list[Path]) -> None:
    content = bytearray(written[0].read_bytes())
    bitmap = int.from_bytes(content[4096:4100], "little") * 4096  # the first group's descriptor begins with its place
    content[bitmap + 1000] ^= 1
    written[0].write_bytes(content)
    unclean = check_disk(written)
    assert not unclean.fsck_clean
    assert unclean.records_through == unclean.highest > 0
    assert not unclean.sound
    with written[1].open("r+b") as file:
        file.write(bytes(MIB))
    none = check_disk(written)
    assert none.io_errors
    assert not none.sound
    no_vhdx = check_disk([written[1].rename(written[1].with_suffix(".vhdx"))])
    assert no_vhdx.io_errors
    assert not no_vhdx.fsck_clean


async def test_the_agent_freezes_the_file_systems_so_that_nothing_need_be_replayed(
    guest_image: GuestImage, disks: list[Path], tmp_path: Path
) -> None:
    load = Load(rate_per_s=0, churn_bytes_per_s=2 * MIB)
    async with (
        running_guest(guest_image, disks, load=load, agent=True) as guest,
        agent(guest.agent_path) as asked,
        monitor(guest.own_qmp_path) as qmp,
    ):
        await guest.wait_durable(20)
        assert await asked.execute("guest-fsfreeze-freeze") == 2
        await guest.wait_heartbeats(50)
        frozen = guest.durable().number
        await guest.wait_heartbeats(100)
        assert guest.durable().number == frozen, "it wrote while it was frozen"
        await qmp.execute("stop")
        for number, disk in enumerate(disks):
            where = tmp_path / f"frozen {number}"
            where.mkdir()
            raw = raw_of(copy_disk(disk, where / disk.name), where)
            clean = await asyncio.to_thread(
                subprocess.run, ["e2fsck", "-fn", str(raw)], capture_output=True, text=True, check=False
            )
            assert clean.returncode == 0, clean.stdout
            assert "needs_recovery" not in subprocess.check_output(["dumpe2fs", "-h", str(raw)], text=True)
        copies = [tmp_path / f"frozen {number}" / disk.name for number, disk in enumerate(disks)]
        await qmp.execute("cont")
        with pytest.raises(RefusedError, match="guest-get-time"):  # the agent refuses nearly all while it is frozen
            await asked.execute("guest-get-time")
        assert await asked.execute("guest-fsfreeze-thaw") == 2
        await guest.wait_durable(frozen + 10)
        assert guest.io_errors == []
    checked = check_disk(copies)
    assert checked.sound
    assert checked.records_through == frozen


async def test_what_it_writes_beside_the_records_gets_to_the_disks(guest_image: GuestImage, disks: list[Path]) -> None:
    async with (
        running_guest(guest_image, disks, load=Load(churn_bytes_per_s=8 * MIB)) as guest,
        monitor(guest.own_qmp_path) as qmp,
    ):

        async def written() -> list[int]:
            return [device["stats"]["wr_bytes"] for device in await qmp.execute("query-blockstats") if device["qdev"]]

        await guest.hold()
        before = await written()
        assert len(before) == 2
        async with asyncio.timeout(60):
            while any(now < then + MIB for now, then in zip(await written(), before, strict=True)):
                await guest.wait_heartbeats(10)
        assert guest.io_errors == []


async def test_a_pause_is_measured_by_the_clock_of_the_host(guest_image: GuestImage) -> None:
    async with running_guest(guest_image, []) as guest, monitor(guest.own_qmp_path) as qmp:
        await guest.wait_heartbeats(100)
        await qmp.execute("stop")
        # What this process does meanwhile does not count: the heartbeats wait with their time of arrival.
        stopped_s = time.monotonic()
        await asyncio.sleep(0.25)
        going_on_s = time.monotonic()
        await qmp.execute("cont")
        await guest.wait_heartbeats(100)
        ended_s = time.monotonic()
        assert guest.longest_gap(stopped_s, ended_s) >= going_on_s - stopped_s
        assert not [beat_s for beat_s in guest.heartbeats if stopped_s + 0.05 < beat_s < going_on_s]
        assert guest.gaps(stopped_s - 0.1, ended_s).max_s >= going_on_s - stopped_s


async def test_a_busy_event_loop_shifts_no_heartbeat(guest_image: GuestImage) -> None:
    async with running_guest(guest_image, []) as guest:
        await guest.wait_heartbeats(100)
        before_s = time.monotonic()
        time.sleep(0.5)  # noqa: ASYNC251 - holding the loop up is what is tested
        after_s = time.monotonic()
        await guest.wait_heartbeats(10)
        # There are 250 on a machine with nothing else to do; read late, all would be after it.
        assert len([beat_s for beat_s in guest.heartbeats if before_s < beat_s < after_s]) > 10


async def test_disks_that_are_missing_or_read_only_are_told_and_the_others_are_written(
    guest_image: GuestImage, disks: list[Path]
) -> None:
    async with running_guest(guest_image, disks, read_only=[0], expected_disks=3, rate=0) as guest:
        await guest.wait_durable(10)
        assert [line.text for line in guest.lines[:3]] == ["read-only 0", "absent 2", "ready 1 0"]
        await guest.power_off()
    assert check_disk([disks[1]]).sound
    async with running_guest(guest_image, [], expected_disks=1) as guest:
        assert [line.text for line in guest.lines] == ["absent 0", "ready 0 0"]
        await guest.power_off()


async def test_an_input_output_error_is_told_and_ends_the_writing(guest_image: GuestImage) -> None:
    with mounted("tmpfs", 8 * MIB) as directory:
        disk = make_disk(directory / "disk.raw", 64 * MIB, kind="raw")
        # Else QEMU would pause the guest instead of telling it.
        told = ["-global", "virtio-blk-device.werror=report"]
        async with running_guest(guest_image, [disk], rate=0, more=told) as guest:
            await guest.wait_line("error ")
            durable = guest.durable().number
            assert durable > 0
            assert any("vda" in error for error in guest.io_errors), guest.io_errors
            assert await guest.hold() == durable


async def test_a_guest_that_ends_or_never_starts_tells_why(guest_image: GuestImage, tmp_path: Path) -> None:
    with pytest.raises(GuestDiedError, match="nonsense-device"):
        async with running_guest(guest_image, [], more=["-device", "nonsense-device"]):
            pass
    panicking = GuestImage(guest_image.kernel, guest_image.kernel, guest_image.kernel)
    with pytest.raises(GuestDiedError, match="Kernel panic"):
        async with running_guest(panicking, []):
            pass
    async with running_guest(guest_image, []) as guest:
        os.kill(guest.pid, 9)
        with pytest.raises(GuestDiedError, match=r"before record 1 \(QEMU's status: -9\); it said last: ready 0 0"):
            await guest.wait_durable(1)
    with pytest.raises(GuestDiedError, match=r"did not get to record 1 within 0\.1 s"):
        async with running_guest(guest_image, []) as guest:
            await guest.wait_durable(1, timeout_s=0.1)


async def test_a_test_that_is_cancelled_leaves_no_machine_behind(guest_image: GuestImage) -> None:
    runs: asyncio.Future[Path] = asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with running_guest(guest_image, []) as guest:
            assert guest.alive
            runs.set_result(guest.directory)
            await guest.wait_durable(1)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(use())
        directory = await runs
        pids = _running_in(directory)
        assert len(pids) == 1
        task.cancel()
    assert _running_in(directory) == []
    assert not directory.exists()


def _running_in(directory: Path) -> list[str]:
    """The processes that name this directory on their command line."""

    def command_lines() -> Iterator[tuple[str, bytes]]:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                yield process.name, (process / "cmdline").read_bytes()
            except OSError:  # ended meanwhile
                continue

    return [pid for pid, line in command_lines() if os.fsencode(directory) in line]


def test_processes_that_build_the_guest_at_a_time_make_it_once(guest_image: GuestImage, tmp_path: Path) -> None:
    (tmp_path / "packages").symlink_to(CACHE / "packages")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        built = pool.map(build_guest, [tmp_path] * 3)
    assert len(set(built)) == 1
    for name in ("kernel", "initramfs", "initramfs_with_agent"):
        assert getattr(built[0], name).read_bytes() == getattr(guest_image, name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"packages", "lock", built[0].kernel.parent.name}


def test_what_is_missing_to_build_the_guest_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoGuestError, match=r"^the test guest needs qemu-system-x86_64: run `make test`, or `apt-get"):
        build_guest()
