"""What kept clones take is known, and they go when the room becomes scarce, whether a cycle is under way or not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from replicad.service.clone_room import CloneRoom
from replicad.service.events import Event, Trouble
from replicad.service.kept_clones import KeptClones
from replicad.settings import Settings
from replicad.settings.load import load
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.tracking.extents import drop_clones
from replicad.tracking.marks import MarkStore
from tests.support.cloned import CloningWorld
from tests.support.filesystems import mounted
from tests.support.world import CHUNK, SteadyClock

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")


def _settings(path: Path, *sources: Path, consistency: str) -> Settings:
    machines = "\n".join(
        f"  vm{n}: {{source: '{source}', replica: '{path.parent}', consistency: {{{consistency}}}}}"
        for n, source in enumerate(sources)
    )
    path.write_text(f"state_dir: {path.parent}/state\nvirtual_machines:\n{machines}\n", "utf-8")
    return load(path, {})


async def test_kept_clones_are_dropped_as_soon_as_the_room_is_scarce_and_the_cycle_under_way_ends_well(
    tmp_path: Path,
) -> None:
    with mounted("xfs", 512 << 20) as where, ThreadPoolExecutor(1) as hashing:
        share = LocalShare(str(where))
        world = CloningWorld(share, MemoryShare("replica"), hashing, marks=MarkStore(MemoryShare("state")))
        world.patterns = ("*.vhd",)
        await world.put("디스크.vhd", Random(1).randbytes(8 * CHUNK))
        await world.sync()
        heard: list[Event] = []
        config = tmp_path / "replicad.yaml"
        gone = tmp_path / "not mounted"
        room = CloneRoom(
            _settings(config, where, gone, consistency="method: reflink, keep_free: 50M"),
            SteadyClock().clock(),
            heard.append,
        )
        await room.look()
        assert (len(await world.kept()), heard) == (1, [])

        with (where / "디스크.vhd").open("r+b") as file:
            file.write(b"changed")
        world.disks["디스크.vhd"] = (where / "디스크.vhd").read_bytes()
        with (where / "other machines").open("wb") as full:
            free = os.statvfs(where).f_bavail * os.statvfs(where).f_frsize
            os.posix_fallocate(full.fileno(), 0, free - (40 << 20))
        source = world.change_source()
        async with source.snapshot(None, for_cycle=False) as snapshot:  # a cycle is under way
            await room.look()
            assert await world.kept() == []
            buffer = bytearray(7)
            await snapshot.files[0].file.read_into(buffer, 0)
            assert buffer == b"changed"
        (trouble,) = heard
        assert isinstance(trouble, Trouble)
        assert (trouble.vm, "keep_free" in trouble.text) == ("vm0", True)
        await room.look()
        assert len(heard) == 1
        assert (await world.sync()).provenance == "full-scan"

        room.apply(_settings(config, where, consistency="method: reflink, keep_free: 1M"))
        await world.sync()
        await room.look()
        assert len(await world.kept()) == 1
        await world.check_all_points()
        await share.close()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
async def test_what_kept_clones_take_is_told_and_their_removal_gives_back_no_less(kind: str, tmp_path: Path) -> None:
    with mounted(kind, 512 << 20) as where, ThreadPoolExecutor(1) as hashing:
        share = LocalShare(str(where))
        world = CloningWorld(share, MemoryShare("replica"), hashing, marks=MarkStore(MemoryShare("state")))
        world.patterns = ("*.vhd",)
        random = Random(1)
        await world.put("디스크.vhd", random.randbytes(64 << 20))
        clock, config, gone = SteadyClock().clock(), tmp_path / "replicad.yaml", tmp_path / "not mounted"
        kept = KeptClones(_settings(config, where, gone, consistency="method: reflink"), clock)
        await kept.measure()
        assert (_bytes(kept, "vm0"), kept.of("vm1")) == (0, None)

        await world.sync()
        with (where / "디스크.vhd").open("r+b") as file:
            for at in range(0, 48 << 20, 2 << 20):
                file.seek(at)
                file.write(random.randbytes(1 << 20))
        assert _bytes(kept, "vm0") == 0, "what was seen last is remembered, and nothing is asked for"
        _free_bytes(where)  # both share the old bytes until the new ones are on the disk
        began = clock.now()
        await kept.measure()
        found = kept.of("vm0")
        assert found is not None
        assert began <= found.at < clock.now()
        # btrfs counts a piece as shared until all of it was overwritten.
        assert found.kept_bytes == 24 << 20 if kind == "xfs" else found.kept_bytes <= 24 << 20
        free_before = _free_bytes(where)
        assert await drop_clones(share) == 1
        await asyncio.to_thread(_wait_until_free, where, free_before + found.kept_bytes)
        await kept.measure()
        assert _bytes(kept, "vm0") == 0

        kept.apply(_settings(config, where, consistency="method: none"))
        assert kept.of("vm0") is None
        await kept.measure()
        assert kept.of("vm0") is None, "that method leaves no clones"
        await share.close()


def _bytes(kept: KeptClones, vm: str) -> int:
    found = kept.of(vm)
    assert found is not None
    return found.kept_bytes


def _wait_until_free(where: Path, wanted_bytes: int) -> None:
    """XFS gives back in the background."""
    deadline_s = time.monotonic() + 30
    while _free_bytes(where) < wanted_bytes:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def _free_bytes(where: Path) -> int:
    """Once all that was written is on the disk."""
    subprocess.run(["sync", "-f", str(where)], check=True)
    found = os.statvfs(where)
    return found.f_bfree * found.f_frsize
