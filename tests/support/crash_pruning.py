"""The part of the table of tests/support/crash_scenarios.py in which points are pruned, pinned, or reached through
merged logs."""

from __future__ import annotations

from dataclasses import replace

from replicad.model.retention import Keep
from replicad.replica.layout import Layout
from replicad.workflows.list_points import list_points
from replicad.workflows.pin import pin_points
from tests.support.crash_mending import (
    look_at_what_was_restored,
    repair,
    repair_all,
    restore_a_point,
    restore_again,
)
from tests.support.crash_points import Scenario, Stage
from tests.support.disturbed_disks import ONE, THREE, TWO, changed, damage, some_bytes
from tests.support.dying import Choice, die, die_in, writes_disk
from tests.support.faulty import When
from tests.support.world import CHUNK, VM

_LAYOUT = Layout(VM)
_LATEST = Keep(1, 0, 0, 0, 0)
_LATEST_TWO = Keep(2, 0, 0, 0, 0)


async def _pin(stage: Stage, *numbers: int) -> None:
    await pin_points(stage.replica, VM, numbers, (), stage.context())


async def five_points(stage: Stage) -> None:
    """One disk has a chunk that changes all the time, others that become zeros and come back, and grows and shrinks;
    one stays as it is, changes, is gone and comes back; one is there for a while."""
    one = some_bytes(2.5)
    await stage.put(ONE, one)
    await stage.put(TWO, some_bytes(1.2, seed=2))
    await stage.sync()
    await stage.put(ONE, changed(bytes(CHUNK) + one[CHUNK:], 1, seed=2))
    await stage.sync()
    await stage.put(ONE, changed(one, 1, seed=3) + some_bytes(1.6, seed=3))
    await stage.put(TWO, changed(stage.disks[TWO], 0, seed=3))
    await stage.sync()
    await stage.put(ONE, changed(one, 1, seed=4)[: CHUNK + 900])
    await stage.drop(TWO)
    await stage.put(THREE, some_bytes(1, seed=4))
    await stage.sync()
    await stage.put(ONE, changed(one, 1, seed=5)[: 2 * CHUNK] + bytes(CHUNK) + b"end")
    await stage.drop(THREE)
    await stage.put(TWO, some_bytes(1.1, seed=5))
    await stage.sync()


async def five_points_and_a_pin(stage: Stage) -> None:
    await five_points(stage)
    await _pin(stage, 1)


async def five_points_and_pins(stage: Stage) -> None:
    await five_points(stage)
    await _pin(stage, 1, 3)


async def merged_logs(stage: Stage) -> None:
    """Points 1, 3 and 5, reached through merged logs, the first one pinned, and a delta."""
    await five_points_and_pins(stage)
    await stage.prune(_LATEST)
    await pin_points(stage.replica, VM, (), (3,), stage.context())
    await stage.put(ONE, changed(stage.disks[ONE], 1, seed=6))


async def merged_logs_to_merge(stage: Stage) -> None:
    await merged_logs(stage)
    await stage.sync()


async def a_cycle_under_way(stage: Stage) -> None:
    await five_points_and_a_pin(stage)
    await stage.put(ONE, changed(stage.disks[ONE], 0, 1, seed=6) + some_bytes(1, seed=6))
    await die(stage, writes_disk, nth=2)


async def a_cycle_under_way_over_merged_logs(stage: Stage) -> None:
    await merged_logs(stage)
    await stage.drop(TWO)
    await die(stage, writes_disk)


async def a_sealed_point(stage: Stage) -> None:
    await five_points_and_a_pin(stage)
    await _seal(stage)


async def a_sealed_point_over_merged_logs(stage: Stage) -> None:
    await merged_logs(stage)
    await _seal(stage)


async def _seal(stage: Stage) -> None:
    await stage.put(ONE, changed(stage.disks[ONE], 0, seed=6))
    await stage.drop(TWO)
    await die(stage, lambda what: what.startswith("rename") and what.endswith(_LAYOUT.point_dir(6)), when=When.BEFORE)
    stage.history[6] = dict(stage.disks)  # it will be one


async def a_merge_that_was_not_committed(stage: Stage) -> None:
    """Merged logs lie beside the record that does not name them yet."""
    await five_points_and_a_pin(stage)
    await die_in(stage, lambda: stage.prune(_LATEST), _renames(f"{_LAYOUT.point_dir(5)}/point.json"), when=When.BEFORE)


async def a_merge_that_was_not_tidied(stage: Stage) -> None:
    """The record follows its new neighbour already; its copy and the directories of the points between are there."""
    await five_points_and_a_pin(stage)
    await die_in(stage, lambda: stage.prune(_LATEST), _renames(f"{_LAYOUT.point_dir(5)}/point.json"), when=When.AFTER)
    await stage.put(ONE, changed(stage.disks[ONE], 0, seed=6))


async def a_merge_that_was_half_tidied(stage: Stage) -> None:
    await five_points_and_a_pin(stage)
    await die_in(stage, lambda: stage.prune(_LATEST), lambda what: what.startswith("remove") and ".pruned" in what, 3)
    await stage.put(ONE, changed(stage.disks[ONE], 0, seed=6))


def _renames(target: str) -> Choice:
    return lambda what: what.startswith("rename") and what.endswith(f" to {target}")


async def damaged_merged_logs(stage: Stage) -> None:
    """Of the old bytes that are damaged, the disk or the source still has the same, where they were."""
    one = some_bytes(2.5)
    await stage.put(ONE, one)
    await stage.put(TWO, some_bytes(1.2, seed=2))
    await stage.sync()
    await stage.put(ONE, changed(one, 0, 1, seed=2))
    await stage.put(TWO, changed(stage.disks[TWO], 0, seed=2))
    await stage.sync()
    await stage.put(ONE, changed(one, 0))
    await stage.drop(TWO)
    await stage.sync()
    await stage.put(ONE, one[:CHUNK] + changed(one, 1, seed=4)[CHUNK:])
    await stage.sync()
    await _pin(stage, 1)
    await stage.prune(_LATEST)
    await stage.put(ONE, one)
    directory = _LAYOUT.point_dir(4)
    await damage(stage.replica, _LAYOUT.merged_undo(directory, ONE, 1), 8192 + 5)
    await damage(stage.replica, _LAYOUT.removed_manifest(4, TWO, 3), 5000)
    await damage(stage.replica, _LAYOUT.disk(ONE), 2 * CHUNK + 7)
    await damage(stage.replica, _LAYOUT.point_record_copy(directory), 7)


async def prune_to_the_latest(stage: Stage) -> None:
    await stage.prune(_LATEST)


async def prune_to_the_latest_two(stage: Stage) -> None:
    await stage.prune(_LATEST_TWO)


async def sync_and_prune(stage: Stage) -> None:
    await stage.sync(keep=_LATEST_TWO)


async def sync_then_prune(stage: Stage) -> None:
    """A cycle that leaves alone what an interrupted prune left, then a prune."""
    await stage.sync()
    await stage.prune(_LATEST)


async def pin_and_unpin(stage: Stage) -> None:
    await pin_points(stage.replica, VM, {2, 4}, {1}, stage.context())


async def look_at_the_pins(stage: Stage) -> None:
    """Until the new pins are there, the old one is."""
    pinned = await _pinned(stage)
    assert pinned <= {1, 2, 4}, f"{pinned} are pinned"
    assert pinned >= {1} or pinned >= {2, 4}, f"{pinned} are pinned"


async def pin_again(stage: Stage) -> None:
    await pin_and_unpin(stage)
    assert await _pinned(stage) == {2, 4}


async def _pinned(stage: Stage) -> set[int]:
    return {p.number for p in (await list_points(stage.replica, VM)).points if p.pinned}


_PRUNING = Scenario(
    "prune between a pinned point and the latest", five_points_and_a_pin, act=prune_to_the_latest,
    finish=prune_to_the_latest, keeps=1, pinned=frozenset({1}), foreign_in_points=False,
)  # fmt: skip

PRUNING = (
    replace(_PRUNING, small_batches=True),
    replace(_PRUNING, name="prune to the latest point", prepare=five_points, pinned=frozenset()),
    replace(_PRUNING, name="prune between pinned points", prepare=five_points_and_pins, pinned=frozenset({1, 3})),
    replace(_PRUNING, name="prune without server-side copy", share={"server_copy": False}),
    replace(_PRUNING, name="prune around what is not ours", foreign_in_points=True),
    replace(_PRUNING, name="prune over merged logs", prepare=merged_logs_to_merge),
    replace(_PRUNING, name="prune under a cycle under way", prepare=a_cycle_under_way, act=prune_to_the_latest_two,
            finish=sync_and_prune, keeps=2),
    replace(_PRUNING, name="prune of a sealed point", prepare=a_sealed_point, finish=sync_then_prune),
    replace(_PRUNING, name="prune that was not committed", prepare=a_merge_that_was_not_committed),
    replace(_PRUNING, name="prune that was not tidied", prepare=a_merge_that_was_not_tidied, finish=sync_then_prune),
    replace(_PRUNING, name="sync that prunes", prepare=merged_logs, act=sync_and_prune, finish=sync_and_prune, keeps=2),
    replace(_PRUNING, name="resumed sync that prunes", prepare=a_cycle_under_way_over_merged_logs, act=sync_and_prune,
            finish=sync_and_prune, keeps=2),
    replace(_PRUNING, name="sync over an untidied prune", prepare=a_merge_that_was_half_tidied, act=sync_and_prune,
            finish=sync_and_prune, keeps=2),
    Scenario("pin and unpin", five_points_and_a_pin, act=pin_and_unpin, finish=pin_again, look=look_at_the_pins),
    Scenario("repair of merged logs", damaged_merged_logs, act=repair, finish=repair_all, spoiled=True,
             may_change=False),
    Scenario("restore through merged logs to a share", merged_logs, act=restore_a_point, finish=restore_again,
             breaks="target", look=look_at_what_was_restored, may_change=False),
    Scenario("restore through merged logs from a share", a_sealed_point_over_merged_logs, act=restore_a_point,
             finish=restore_again, look=look_at_what_was_restored, may_change=False),
)  # fmt: skip
