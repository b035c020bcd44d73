"""Records that are kept twice: which of the two counts, and how they become alike again."""

from __future__ import annotations

import pytest

from replicad.model.errors import IntegrityError
from replicad.model.progress import ProgressEvent, Warned
from replicad.replica.record_copies import points_due
from replicad.storage.documents import exists
from replicad.workflows.list_points import list_points
from replicad.workflows.status import look_at_replica
from replicad.workflows.verify import verify
from tests.support.small_replica import LAYOUT, fill, flip
from tests.support.world import VM, World, memory_world, read_tree

RECORDS = [
    (LAYOUT.record, LAYOUT.record_copy),
    *((LAYOUT.point_record(d), LAYOUT.point_record_copy(d)) for d in map(LAYOUT.point_dir, (1, 4))),
]


def warnings(world: World) -> list[str]:
    return [event.text for event in world.events if isinstance(event, Warned)]


async def test_both_files_of_a_record_hold_the_same_bytes() -> None:
    async with memory_world() as world:
        await fill(world)
        files = await read_tree(world.replica)
        twice = [path for path in files if path.endswith(".copy.json")]
        assert len(twice) == 5
        assert all(files[path] == files[path.replace(".copy", "")] for path in twice)


@pytest.mark.parametrize(("path", "copy"), RECORDS)
@pytest.mark.parametrize("lost", ["flipped", "gone"])
async def test_a_record_is_read_from_its_copy_with_a_warning_until_a_cycle_mends_it(
    path: str, copy: str, lost: str
) -> None:
    async with memory_world() as world:
        await fill(world)
        if lost == "flipped":
            await flip(world.replica, path, 40)
        else:
            await world.replica.remove(path)
        said: list[ProgressEvent] = []
        listed = await list_points(world.replica, VM, said.append)
        assert [point.number for point in listed.points] == [1, 2, 3, 4]
        assert [isinstance(event, Warned) and path in event.text for event in said] == [True]
        world.events.clear()
        await world.check_all_points()
        assert {text.partition(": ")[0].endswith(path) for text in warnings(world)} == {True}
        assert "is used in its place" in warnings(world)[0]
        found = await verify(world.replica, VM, None, world.context())
        assert [(d.file, d.points) for d in found.damages] == [(path, ())]
        world.events.clear()
        await world.sync()
        assert any(path in text and "written anew" in text for text in warnings(world))
        assert (await verify(world.replica, VM, None, world.context())).damages == []
        files = await read_tree(world.replica)
        assert files[path] == files[copy]


@pytest.mark.parametrize(("path", "copy"), RECORDS)
async def test_a_damaged_copy_is_written_anew_by_the_next_cycle(path: str, copy: str) -> None:
    async with memory_world() as world:
        await fill(world)
        await flip(world.replica, copy, 3)
        assert (await look_at_replica(world.replica, VM)).observation.damaged == ()
        assert [d.file for d in (await verify(world.replica, VM, None, world.context())).damages] == [copy]
        await world.sync()
        files = await read_tree(world.replica)
        assert files[path] == files[copy]


async def test_a_record_of_which_neither_file_is_sound_names_both() -> None:
    async with memory_world() as world:
        await fill(world)
        directory = LAYOUT.point_dir(2)
        both = [LAYOUT.point_record(directory), LAYOUT.point_record_copy(directory)]
        for path in both:
            await flip(world.replica, path, 40)
        with pytest.raises(IntegrityError, match=r"point\.json.*point\.copy\.json beside it is no better.*backup"):
            await list_points(world.replica, VM)
        found = await verify(world.replica, VM, None, world.context())
        assert [(d.file, d.points) for d in found.damages] == [(path, (1, 2)) for path in both]
        await world.sync()
        assert any("points up to 2 can't be restored" in text for text in warnings(world))


async def test_the_own_file_counts_where_both_are_sound_and_differ() -> None:
    async with memory_world() as world:
        await fill(world)
        files = await read_tree(world.replica)
        other = LAYOUT.point_record_copy(LAYOUT.point_dir(3))
        await world.replica.remove(LAYOUT.record_copy)
        changed = files[LAYOUT.record].replace(world.source.name.encode(), b"elsewhere")
        assert changed != files[LAYOUT.record]
        await write_sealed(world, LAYOUT.record_copy, changed)
        found = await verify(world.replica, VM, None, world.context())
        assert [(d.file, d.reason) for d in found.damages] == [
            (LAYOUT.record_copy, "it is not the same as replica.json")
        ]
        await world.sync()
        after = await read_tree(world.replica)
        assert after[LAYOUT.record_copy] == files[LAYOUT.record]
        assert after[other] == files[other]


async def write_sealed(world: World, path: str, raw: bytes) -> None:
    """Put a record with this content, rightly sealed, at `path`."""
    import json
    from dataclasses import replace

    from replicad.model.points import ReplicaRecord
    from replicad.replica.records import decode, encode
    from replicad.storage.documents import replace_whole

    original = decode((await read_tree(world.replica))[LAYOUT.record], ReplicaRecord, "it")
    await replace_whole(world.replica, path, encode(replace(original, source=json.loads(raw)["source"])))


async def test_a_replica_that_has_no_copies_yet_opens_and_gets_all_of_them_from_the_next_cycle() -> None:
    async with memory_world() as world:
        await fill(world)
        for path in await read_tree(world.replica):
            if path.endswith(".copy.json"):
                await world.replica.remove(path)
        found = await verify(world.replica, VM, None, world.context())
        assert found.damages == []
        assert any("have no copies yet" in text for text in warnings(world))
        world.events.clear()
        await world.sync()
        assert warnings(world) == []
        files = await read_tree(world.replica)
        assert all(files[p] == files[p.replace("json", "copy.json")] for p in files if p.endswith("point.json"))
        assert await exists(world.replica, LAYOUT.record_copy)


async def test_status_warns_of_a_record_that_is_read_from_its_copy() -> None:
    async with memory_world() as world:
        await fill(world)
        await flip(world.replica, LAYOUT.record, 9)
        await flip(world.replica, LAYOUT.point_record(LAYOUT.point_dir(4)), 9)
        seen = await look_at_replica(world.replica, VM)
        assert seen.latest is not None
        assert len(seen.observation.damaged) == 2
        assert all("copy.json beside it is used in its place" in text for text in seen.observation.damaged)


def test_all_older_points_have_their_turn_within_a_few_cycles() -> None:
    seen: set[int] = set()
    for cycle in range(10):
        committed = tuple(range(cycle + 1, cycle + 41))
        due = points_due(committed)
        assert due[0] == committed[-1]
        assert len(due) == len(set(due)) == 9
        seen.update(number - cycle for number in due[1:])
    assert len(seen) >= 39
    assert points_due(()) == []
    assert points_due((7,)) == [7]
    assert sorted(points_due((2, 3, 7))) == [2, 3, 7]
