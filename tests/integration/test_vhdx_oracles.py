"""The parser against QEMU, libvhdi and dissect.hypervisor, on images that QEMU made and on our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pyvhdi
from dissect.hypervisor.disk.vhdx import VHDX

from replicad.storage.local import LocalShare
from replicad.storage.port import OpenMode
from replicad.vhdx import DamagedVhdxError, Kind, LogState, NotVhdx, VhdxFacts, parse
from replicad.workflows.inspect import drive as drive_file
from replicad.workflows.inspect import inspect
from tests.support.vhdx_builder import (
    FULLY_PRESENT,
    LOG_AT,
    MIB,
    PAGE,
    PARTIALLY_PRESENT,
    UNMAPPED,
    ZERO,
    Block,
    Data,
    Spec,
    Zeros,
    bat_entry_at,
    build,
    drive,
    log_entry,
    put_in_log,
)

GIB = 1024 * MIB
TIB = 1024 * GIB
LIBVHDI_KINDS = {2: Kind.FIXED, 3: Kind.DYNAMIC, 4: Kind.DIFFERENCING}


def create(path: Path, size: int, *options: str) -> Path:
    command = ["qemu-img", "create", "-q", "-f", "vhdx"]
    if options:
        command += ["-o", ",".join(options)]
    subprocess.run([*command, str(path), str(size)], check=True, timeout=60)
    return path


def qemu_io(image: str, *commands: str) -> str:
    arguments = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", *arguments, image], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def vhdx_on(path: Path, *broken_sectors: int) -> str:
    """A node for QEMU that fails to write these sectors of the file: as if it had been stopped before them."""
    rules = [
        {"event": "none", "iotype": "write", "sector": sector, "errno": 5, "once": False, "immediately": True}
        for sector in broken_sectors
    ]
    image = {"driver": "file", "filename": str(path)}
    return "json:" + json.dumps(
        {"driver": "vhdx", "file": {"driver": "blkdebug", "image": image, "inject-error": rules}}
    )


async def facts_of(path: Path) -> VhdxFacts:
    share = LocalShare(str(path.parent))
    async with await share.open(path.name, OpenMode.READ) as file:
        facts = (await inspect(file)).facts
    await share.close()
    assert isinstance(facts, VhdxFacts)
    return facts


def told_by_qemu(path: Path) -> dict[str, Any]:
    done = subprocess.run(
        ["qemu-img", "info", "--output=json", str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def agree(facts: VhdxFacts, path: Path) -> None:
    """What QEMU and libvhdi say of a file is what we say of it."""
    info = told_by_qemu(path)
    assert info["format"] == "vhdx"
    assert info["virtual-size"] == facts.virtual_size_bytes
    assert info["cluster-size"] == facts.block_size_bytes
    disk = pyvhdi.file()
    disk.open(str(path))
    assert disk.get_media_size() == facts.virtual_size_bytes
    assert disk.get_bytes_per_sector() == facts.logical_sector_bytes
    assert LIBVHDI_KINDS[disk.get_disk_type()] is facts.kind
    assert disk.get_identifier() == facts.header.data_write_guid
    disk.close()
    with path.open("rb") as file:
        other = VHDX(file)
        assert other.size == facts.virtual_size_bytes
        assert other.block_size == facts.block_size_bytes
        assert str(other.id) == facts.disk_id
        assert other.bat.entry_count == (facts.bat.entries if facts.bat else None)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (MIB, ()),
        (3 * MIB, ("block_size=1M",)),
        (1000 * MIB + 512, ("block_size=2M",)),
        (4 * GIB + MIB, ("block_size=1M",)),  # one block beyond the first chunk
        (127 * GIB, ()),
        (40 * GIB, ("block_size=8M",)),
        (100 * GIB, ("block_size=32M", "log_size=3M")),
        (5 * TIB, ("block_size=256M",)),
        (64 * TIB, ("block_size=256M",)),
        (20 * MIB, ("subformat=fixed",)),
        (300 * MIB, ("subformat=fixed", "block_state_zero=off", "block_size=32M")),
        (2 * GIB, ("block_state_zero=off",)),
    ],
)
async def test_images_made_by_qemu(tmp_path: Path, size: int, options: tuple[str, ...]) -> None:
    path = create(tmp_path / "디스크 💽.vhdx", size, *options)
    facts = await facts_of(path)
    agree(facts, path)
    assert facts.kind is (Kind.FIXED if "subformat=fixed" in options else Kind.DYNAMIC)
    assert facts.creator.startswith("QEMU v")
    assert facts.log.state is LogState.CLEAN
    assert facts.warnings == ()
    assert facts.bat is not None
    blocks = -(-facts.virtual_size_bytes // facts.block_size_bytes)
    full = facts.kind is Kind.FIXED and "block_state_zero=off" in options
    assert facts.bat.fully_present == (blocks if full else 0)
    # For an all-zero table QEMU's default is the state ZERO, and NOT PRESENT without it.
    assert (facts.bat.not_present if "block_state_zero=off" in options else facts.bat.zero) == (0 if full else blocks)


@pytest.mark.parametrize(("block_size", "stride"), [("1M", 1), ("2M", 2), ("8M", 8), ("32M", 32)])
async def test_blocks_written_by_qemu_are_counted(tmp_path: Path, block_size: str, stride: int) -> None:
    path = create(tmp_path / "a.vhdx", 64 * GIB, f"block_size={block_size}")
    last = 64 * GIB // MIB // stride - 1
    blocks = sorted({0, 1, 5, 511, 512, 513, 1024, 4095 // stride, 4096 // stride, 4097 // stride, last})
    Random(7).shuffle(blocks)
    qemu_io(str(path), *(f"write -q -P {n % 250 + 1} {n * stride}M 64k" for n in blocks))
    facts = await facts_of(path)
    agree(facts, path)
    assert facts.bat is not None
    assert facts.bat.fully_present == len(blocks)
    assert facts.bat.allocated_bytes == len(blocks) * stride * MIB
    disk = pyvhdi.file()
    disk.open(str(path))
    for n in blocks:
        assert disk.read_buffer_at_offset(512, n * stride * MIB) == bytes([n % 250 + 1]) * 512
    disk.close()


async def test_a_log_that_qemu_left_is_read_as_qemu_replays_it(tmp_path: Path) -> None:
    path = create(tmp_path / "a.vhdx", 64 * MIB, "block_size=1M")
    bat_at = next(region.offset_bytes for region in (await facts_of(path)).regions if region.name == "BAT")
    assert "Input/output error" in qemu_io(vhdx_on(path, bat_at // 512), "write -P 7 3M 64k")
    before = await facts_of(path)
    assert before.needs_replay
    assert before.log.entries == 1
    assert before.bat is not None
    assert before.bat.fully_present == 1  # as it will be: in the file the entry is not there yet
    raw = path.read_bytes()[bat_at : bat_at + 64 * 8]
    assert [state & 7 for state in raw[::8]] == [ZERO] * 64

    assert "failed" not in qemu_io(str(path), "read -P 7 3M 64k")  # opens it for writing, and replays
    after = await facts_of(path)
    assert after.log.state is LogState.CLEAN
    assert after.bat == before.bat
    agree(after, path)


@pytest.mark.parametrize("sector", [0, 1])
async def test_a_log_whose_first_entry_qemu_could_not_write_is_incomplete(tmp_path: Path, sector: int) -> None:
    path = create(tmp_path / "a.vhdx", 64 * MIB, "block_size=1M")
    log_at = (await facts_of(path)).header.log_offset_bytes
    assert "Input/output error" in qemu_io(vhdx_on(path, (log_at + sector * PAGE) // 512), "write -P 7 3M 64k")
    facts = await facts_of(path)
    assert facts.log.state is LogState.INCOMPLETE
    assert facts.bat is not None
    assert facts.bat.fully_present == 0
    assert "failed" not in qemu_io(str(path), "read -P 0 3M 64k")  # QEMU sees the same disk
    assert (await facts_of(path)).bat == facts.bat


async def test_a_disk_whose_writer_was_killed_is_sound(tmp_path: Path) -> None:
    path = create(tmp_path / "a.vhdx", GIB, "block_size=1M")
    writer = subprocess.Popen(["qemu-io", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdin is not None
    assert writer.stdout is not None
    for n in range(40):
        writer.stdin.write(f"write -P 9 {n * 23}M 64k\n")
        writer.stdin.flush()
        while "wrote" not in writer.stdout.readline():
            assert writer.poll() is None
    writer.stdin.write("".join(f"write -P 9 {n * 23 + 1}M 64k\n" for n in range(40)))
    writer.stdin.flush()
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate(timeout=30)
    facts = await facts_of(path)
    assert facts.bat is not None
    assert facts.bat.fully_present >= 40
    assert "failed" not in qemu_io(str(path), "read -P 9 0 64k", "read -P 9 897M 64k")
    after = await facts_of(path)
    assert after.bat == facts.bat
    agree(after, path)


async def test_a_disk_can_be_inspected_while_it_is_written(tmp_path: Path) -> None:
    path = create(tmp_path / "a.vhdx", GIB, "block_size=1M")
    writer = subprocess.Popen(["qemu-io", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdin is not None
    assert writer.stdout is not None
    for n in range(5):
        writer.stdin.write(f"write -P 9 {n * 23}M 64k\n")
        writer.stdin.flush()
        while "wrote" not in writer.stdout.readline():
            assert writer.poll() is None
        facts = await facts_of(path)
        assert facts.bat is not None
        assert facts.bat.fully_present == n + 1
    writer.communicate(timeout=30)
    assert writer.returncode == 0


def test_our_logs_are_replayed_by_qemu_as_we_read_them(tmp_path: Path) -> None:
    """Several entries, round the end of the log, with data, zeros and a file that the replay extends."""
    guid = uuid.UUID("99999999-8888-7777-6666-555555555555")
    image = build(Spec(log_guid=guid, blocks={0: Block(data=b"zero"), 1: Block(data=b"one")}))
    bat = image.places["bat"]
    first = image.get(bat, PAGE)
    moved = image.copy()
    for block, offset in ((2, image.size), (3, image.size + MIB)):
        moved.put(bat_entry_at(moved, block), (offset // MIB << 20 | FULLY_PRESENT).to_bytes(8, "little"))
    moved.put(bat_entry_at(moved, 1), UNMAPPED.to_bytes(8, "little"))
    size = image.size
    image.size += 2 * MIB  # QEMU 7.2 does not extend a file by whole MiB during a replay
    start = MIB - 3 * PAGE
    at = put_in_log(image, start, log_entry(guid, 41, start, [Data(bat, first)], flushed=size, last=size))
    at = put_in_log(image, at, log_entry(guid, 42, start, [Zeros(bat, PAGE)], flushed=size, last=size))
    last = log_entry(guid, 43, start, [Data(bat, moved.get(bat, PAGE))], flushed=size, last=size + 2 * MIB)
    put_in_log(image, at, last)
    path = image.save(tmp_path / "a.vhdx")
    before = drive(parse(image.size), image)
    assert isinstance(before, VhdxFacts)
    assert (before.log.entries, before.log.first_sequence_number) == (3, 41)
    assert before.bat is not None
    assert (before.bat.fully_present, before.bat.unmapped) == (3, 1)

    assert "failed" not in qemu_io(str(path), "read 2M 1M")
    replayed = path.read_bytes()
    assert replayed[bat : bat + PAGE] == moved.get(bat, PAGE)
    assert replayed[LOG_AT : LOG_AT + PAGE] == image.get(LOG_AT, PAGE)
    assert subprocess.run(["qemu-img", "check", "-q", str(path)], check=False, timeout=60).returncode == 0


async def test_differencing_disks_are_read_as_libvhdi_and_dissect_read_them(tmp_path: Path) -> None:
    base = Spec(virtual_size=64 * MIB, blocks={n: Block(data=bytes([n + 1]) * MIB) for n in range(4)})
    build(base).save(tmp_path / "부모.vhdx")
    parent = {
        "parent_linkage": "{" + str(base.data_write_guid) + "}",
        "relative_path": ".\\부모.vhdx",
        "absolute_win32_path": "D:\\vms\\부모.vhdx",
    }
    blocks = {
        0: Block(PARTIALLY_PRESENT, b"\xaa" * MIB, sectors=(0, 1, 9, 2047)),
        1: Block(data=b"\xbb" * MIB),
        2: Block(ZERO),
    }
    child = Spec(virtual_size=64 * MIB, parent=parent, blocks=blocks, data_write_guid=uuid.UUID(int=5))
    path = build(child).save(tmp_path / "자식.avhdx")
    expected = bytearray(b"\1" * MIB + b"\xbb" * MIB + bytes(MIB) + b"\4" * MIB + bytes(MIB))
    for sector in blocks[0].sectors:
        expected[sector * 512 : sector * 512 + 512] = b"\xaa" * 512

    facts = await facts_of(path)
    assert facts.kind is Kind.DIFFERENCING
    assert facts.parent_paths == (".\\부모.vhdx", "D:\\vms\\부모.vhdx")
    assert facts.bat is not None
    assert (facts.bat.partially_present, facts.bat.fully_present, facts.bat.zero) == (1, 1, 1)
    above, below = pyvhdi.file(), pyvhdi.file()
    above.open(str(path))
    below.open(str(tmp_path / "부모.vhdx"))
    assert LIBVHDI_KINDS[above.get_disk_type()] is Kind.DIFFERENCING
    assert above.get_parent_identifier() == below.get_identifier() == dict(facts.parent_locator)["parent_linkage"][1:-1]
    assert above.get_parent_filename() in facts.parent_paths
    above.set_parent(below)
    # libvhdi 20260901 shows the parent's bytes in blocks of state ZERO; MS-VHDX §2.5.1.1 has them read as zeros.
    for start, end in ((0, 2 * MIB), (3 * MIB, 5 * MIB)):
        assert above.read_buffer_at_offset(end - start, start) == expected[start:end]
    above.close()
    below.close()
    other = VHDX(path)
    assert other.parent_locator.entries == dict(facts.parent_locator)
    assert other.read(len(expected)) == expected
    other.fh.close()
    other.parent.fh.close()


@pytest.mark.parametrize(("subformat", "kind"), [("dynamic", Kind.DYNAMIC), ("fixed", Kind.FIXED)])
async def test_the_older_format_is_recognised(tmp_path: Path, subformat: str, kind: Kind) -> None:
    path = tmp_path / "a.vhd"
    command = ["qemu-img", "create", "-q", "-f", "vpc", "-o", f"subformat={subformat},force_size=on", str(path), "20M"]
    subprocess.run(command, check=True, timeout=60)
    share = LocalShare(str(tmp_path))
    async with await share.open("a.vhd", OpenMode.READ) as file:
        facts = (await inspect(file)).facts
    await share.close()
    assert isinstance(facts, NotVhdx)
    assert facts.vhd is not None
    assert (facts.vhd.kind, facts.vhd.virtual_size_bytes, facts.vhd.checksum_valid) == (kind, 20 * MIB, True)


async def test_what_qemu_refuses_is_damage(tmp_path: Path) -> None:
    """Cut to any whole MiB, an image is damaged for us whenever QEMU can't open it."""
    path = create(tmp_path / "a.vhdx", 64 * MIB, "block_size=1M")
    qemu_io(str(path), *(f"write -q -P 5 {n}M 64k" for n in range(4)))
    whole = path.read_bytes()
    for size in range(0, len(whole), MIB // 2):
        path.write_bytes(whole[:size])
        share = LocalShare(str(tmp_path))
        async with await share.open("a.vhdx", OpenMode.READ) as file:
            try:
                sound = isinstance(await drive_file(parse(size), file), VhdxFacts)
            except DamagedVhdxError:
                sound = False
        await share.close()
        opened = subprocess.run(["qemu-img", "info", "-f", "vhdx", str(path)], capture_output=True, check=False)
        assert opened.returncode == 0 or not sound
