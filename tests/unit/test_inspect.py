"""The workflow that inspects a file of a share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicad.model.errors import IntegrityError
from replicad.model.progress import Advanced, PhaseStarted, ProgressEvent
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.vhdx import DamagedVhdxError, VhdxFacts
from replicad.workflows.inspect import inspect
from tests.support.vhdx_builder import MIB, REGION_TABLES, Block, Spec, build


async def test_progress_adds_up_to_what_was_read() -> None:
    share = MemoryShare()
    image = build()
    async with await share.open("a.vhdx", OpenMode.CREATE) as file:
        await file.write(image.get(0, image.size), 0)
    events: list[ProgressEvent] = []
    async with await share.open("a.vhdx", OpenMode.READ) as file:
        inspection = await inspect(file, events.append)
    assert inspection.path == "a.vhdx"
    assert isinstance(inspection.facts, VhdxFacts)
    assert events[0] == PhaseStarted("inspect")
    sizes = [event.done_bytes for event in events[1:] if isinstance(event, Advanced)]
    assert len(sizes) == len(events) - 1
    assert sum(sizes) == 8 + 512 + 2 * 4096 + 3 * 65536 + 8 + 8 + 16 + 4 + 4 + 64 * 8


async def test_damage_keeps_the_place_for_programs() -> None:
    share = MemoryShare()
    image = build()
    for at in REGION_TABLES:
        image.flip(at + 5)
    async with await share.open("a.vhdx", OpenMode.CREATE) as file:
        await file.write(image.get(0, image.size), 0)
        with pytest.raises(IntegrityError) as caught:
            await inspect(file)
    assert caught.value.hint == ""
    assert isinstance(caught.value.__cause__, DamagedVhdxError)
    assert caught.value.__cause__.offset_bytes == REGION_TABLES[0]


async def test_damage_in_a_file_that_changes_meanwhile_says_so(tmp_path: Path) -> None:
    path = build().save(tmp_path / "a.vhdx")
    share = LocalShare(str(tmp_path))

    def cut(event: ProgressEvent) -> None:
        if isinstance(event, Advanced):
            os.truncate(path, 100_000)

    async with await share.open("a.vhdx", OpenMode.READ) as file:
        with pytest.raises(IntegrityError) as caught:
            await inspect(file, cut)
    await share.close()
    assert "became shorter" in caught.value.answer
    assert caught.value.hint.startswith("The file changed while it was read, so it is in use")


async def test_a_present_block_is_never_read() -> None:
    """The blocks hold the machine's data, and may be terabytes."""
    share = MemoryShare()
    with_block = build(Spec(block_size=4 * MIB, blocks={0: Block(data=bytes([7]) * 4 * MIB)}))
    async with await share.open("a.vhdx", OpenMode.CREATE) as file:
        await file.write(with_block.get(0, with_block.size), 0)
        done: list[int] = []
        await inspect(file, lambda event: done.append(event.done_bytes) if isinstance(event, Advanced) else None)
    assert sum(done) < 300_000
