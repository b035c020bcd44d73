"""A writer whose replica was given another role while it worked: it commits nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from replicad.model.errors import StaleGenerationError
from replicad.model.points import ReplicaRecord
from replicad.replica.directory import list_numbers, require_replica
from replicad.replica.layout import Layout
from replicad.replica.records import encode
from replicad.storage.decorated import DecoratedShare
from replicad.storage.documents import replace_whole
from replicad.storage.port import Share
from tests.support.world import CHUNK, VM, World, memory_world

LAYOUT = Layout(VM)
Change = Callable[[Share, ReplicaRecord], Awaitable[None]]


def rewritten(**fields: Any) -> Change:
    async def change(share: Share, record: ReplicaRecord) -> None:
        await replace_whole(share, LAYOUT.record, encode(replace(record, **fields)))

    return change


async def removed(share: Share, record: ReplicaRecord) -> None:
    await share.remove(LAYOUT.record)
    await share.remove(LAYOUT.record_copy)


class _Meanwhile(DecoratedShare):
    """Somebody else changes the replica's record as soon as the point's own record is written."""

    def __init__(self, inner: Share, record: ReplicaRecord, change: Change) -> None:
        super().__init__(inner)
        self._record = record
        self._change = change

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        await super().rename(source, target, replace=replace)
        if target.endswith("/point.json"):
            await self._change(self.inner, self._record)


async def _world_with_a_point(world: World) -> ReplicaRecord:
    await world.put("디스크.vhd", Random(1).randbytes(9 * CHUNK))
    await world.sync()
    await world.put("디스크.vhd", Random(2).randbytes(11 * CHUNK))
    return (await require_replica(world.replica, VM)).record


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rewritten(generation=2), "it is in generation 2 as 'replica' by now, and the cycle began in generation 1"),
        (rewritten(replica_id="ab" * 16), "another replica has taken its place"),
        (removed, "its replica.json is gone"),
    ],
    ids=["generation", "replica", "gone"],
)
async def test_a_cycle_of_an_older_generation_is_not_committed(change: Change, said: str) -> None:
    async with memory_world() as world:
        record, honest = await _world_with_a_point(world), world.replica
        world.replica = _Meanwhile(honest, record, change)
        with pytest.raises(StaleGenerationError, match=said) as caught:
            await world.sync()
        assert caught.value.exit_code == 1
        world.replica = honest
        await replace_whole(honest, LAYOUT.record, encode(record))
        assert (await list_numbers(await require_replica(honest, VM))).committed == (1,)
        await world.check_all_points()


async def test_a_point_that_an_older_generation_sealed_is_not_committed_by_the_next_writer() -> None:
    async with memory_world() as world:
        record, honest = await _world_with_a_point(world), world.replica
        world.replica = _Meanwhile(honest, record, rewritten(generation=2))
        with pytest.raises(StaleGenerationError):
            await world.sync()
        world.replica = honest
        await world.put("디스크.vhd", Random(3).randbytes(10 * CHUNK))
        report = await world.sync()
        assert (report.point.number, report.point.generation, report.resumed) == (2, 2, True)
        await world.check_all_points()
