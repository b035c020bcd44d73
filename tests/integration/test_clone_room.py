"""Kept clones go when the room at a source becomes scarce, whether a cycle is under way or not."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from replicad.service.clone_room import CloneRoom
from replicad.service.events import Event, Trouble
from replicad.settings import Settings
from replicad.settings.load import load
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.tracking.marks import MarkStore
from tests.support.cloned import CloningWorld
from tests.support.filesystems import mounted
from tests.support.world import CHUNK, SteadyClock

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")


def _settings(path: Path, *sources: Path, keep_free: str) -> Settings:
    machines = "\n".join(
        f"  vm{n}: {{source: '{source}', replica: '{path.parent}', "
        f"consistency: {{method: reflink, keep_free: {keep_free}}}}}"
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
        room = CloneRoom(_settings(config, where, gone, keep_free="50M"), SteadyClock().clock(), heard.append)
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

        room.apply(_settings(config, where, keep_free="1M"))
        await world.sync()
        await room.look()
        assert len(await world.kept()) == 1
        await world.check_all_points()
        await share.close()
