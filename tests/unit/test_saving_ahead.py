"""Saving one batch while the one before is being written: the log must claim no more than was written."""

from __future__ import annotations

import pytest

from replicad.model.manifest import Manifest
from replicad.replica.disk_update import DiskUpdate, Stretch, UpdateTarget
from replicad.replica.hashing import hash_chunk
from replicad.replica.layout import Layout
from replicad.replica.undo_log import read_batches, read_file_header
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from tests.support.world import CHUNK, VM


async def _still_ours() -> None:
    """The lock is never lost here."""


async def test_a_flush_makes_no_batch_durable_that_is_saved_and_not_yet_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("replicad.replica.disk_update._FLUSH_EVERY_BYTES", 1)  # after every batch
    share, layout = MemoryShare(), Layout(VM)
    pending = layout.pending_dir(1)
    for directory in (layout.disks_dir, pending):
        await share.make_dir(directory)
    target = UpdateTarget("11" * 16, "22" * 16, "디스크.vhd", 1, True, 3 * CHUNK)
    update = DiskUpdate(share, layout, pending, target, Manifest(CHUNK, 0), 7, _still_ours)
    await update.start()
    data = [bytes([n]) * CHUNK for n in (1, 2, 3)]
    stretches = [Stretch(n, hash_chunk(chunk, 7), chunk) for n, chunk in enumerate(data)]
    first = await update.save([stretches[0]])
    await update.save([stretches[1]])  # saved, and not written when the disk is flushed
    await update.write(first)
    await update.save([stretches[2]])
    await update.close()
    async with await share.open(layout.undo(pending, target.path), OpenMode.READ) as log:
        header, digest = await read_file_header(log, "the log")
        durable = [batch.header.durable_batches async for batch in read_batches(log, header, digest)]
    assert durable == [0, 0, 1]
