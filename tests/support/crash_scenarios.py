"""What is disturbed at every call (tests/support/crash_points.py): one entry a kind of work.

A new workflow gets its entry here, and is enumerated by tests/fault/test_crash_points.py with all others.
"""

from __future__ import annotations

from replicad.replica.layout import Layout
from replicad.replica.recovery import recover, roll_back
from replicad.storage.memory import MemoryShare
from replicad.workflows.opening import opened_replica
from tests.support.crash_mending import (
    look_at_what_was_restored,
    repair,
    repair_all,
    restore_a_point,
    restore_again,
)
from tests.support.crash_points import Scenario, Stage
from tests.support.crash_pruning import PRUNING
from tests.support.disturbed_disks import ONE, THREE, TWO, changed, damage, some_bytes
from tests.support.dying import die, writes_disk
from tests.support.faulty import When
from tests.support.world import CHUNK, VM

_LAYOUT = Layout(VM)


async def new_machine(stage: Stage) -> None:
    await stage.put(ONE, some_bytes(3.01) + bytes(CHUNK))
    await stage.put(TWO, some_bytes(2, seed=2))


async def a_point(stage: Stage) -> None:
    await new_machine(stage)
    await stage.sync()


async def a_delta(stage: Stage) -> None:
    await a_point(stage)
    await stage.put(ONE, changed(stage.disks[ONE], 1)[: 2 * CHUNK] + bytes(CHUNK) + stage.disks[ONE][3 * CHUNK :])


async def grown_disks(stage: Stage) -> None:
    await a_point(stage)
    await stage.put(ONE, changed(stage.disks[ONE], 0) + some_bytes(1.5, seed=3))
    await stage.put(TWO, stage.disks[TWO] + bytes(CHUNK + 5))


async def shrunken_disks(stage: Stage) -> None:
    await a_point(stage)
    await stage.put(ONE, changed(stage.disks[ONE], 0)[: CHUNK + 100])
    await stage.put(TWO, b"")


async def other_disks(stage: Stage) -> None:
    await a_point(stage)
    await stage.put(ONE, changed(stage.disks[ONE], 2))
    await stage.sync()
    await stage.drop(TWO)
    await stage.put(THREE, some_bytes(1.3, seed=4))
    await stage.put("깊이/더 깊이/라.vhd", bytes(CHUNK) + b"end")


async def a_disk_that_comes_back(stage: Stage) -> None:
    await a_point(stage)
    data = stage.disks[TWO]
    await stage.drop(TWO)
    await stage.sync()
    await stage.put(TWO, changed(data, 0))


async def case_of_a_name(stage: Stage) -> None:
    await stage.put("disk.vhd", some_bytes(2))
    await stage.sync()
    data = changed(stage.disks["disk.vhd"], 1)
    await stage.drop("disk.vhd")
    await stage.put("DISK.vhd", data)


async def many_changes(stage: Stage) -> None:
    await stage.put(ONE, some_bytes(6))
    await stage.put(TWO, some_bytes(2, seed=2))
    await stage.sync()
    await stage.put(ONE, changed(stage.disks[ONE], 0, 1, 2, 3, 4, 5))
    await stage.put(TWO, changed(stage.disks[TWO], 1))


async def a_torn_write(stage: Stage) -> None:
    await many_changes(stage)
    await die(stage, writes_disk, nth=4)
    await stage.put(ONE, changed(some_bytes(6), 0, 3) + some_bytes(1, seed=5))


async def two_torn_lives(stage: Stage) -> None:
    await a_torn_write(stage)
    await die(stage, writes_disk, nth=2)
    await stage.put(ONE, some_bytes(2.5, seed=6))


async def a_torn_first_sending(stage: Stage) -> None:
    await new_machine(stage)
    await die(stage, lambda what: what.startswith("write") and ".initial" in what, nth=2)
    await stage.put(ONE, changed(stage.disks[ONE], 0)[: 2 * CHUNK])


async def a_torn_write_of_a_disk_that_is_gone(stage: Stage) -> None:
    await many_changes(stage)
    await stage.put(THREE, some_bytes(1, seed=7))
    await die(stage, lambda what: what.startswith("create") and ".2.xxh3" in what and THREE in what)
    await stage.drop(ONE)
    await stage.drop(THREE)


async def a_rollback_that_was_interrupted(stage: Stage) -> None:
    await a_torn_write_of_a_disk_that_is_gone(stage)
    await die(stage, writes_disk, nth=2)
    await stage.put(ONE, some_bytes(6, seed=8))


async def a_sealed_point(stage: Stage) -> None:
    await other_disks(stage)
    await die(stage, _names_the_point, when=When.BEFORE)
    stage.history[3] = dict(stage.disks)  # it will be one
    await stage.put(ONE, changed(stage.disks[ONE], 0))


async def a_point_without_its_names(stage: Stage) -> None:
    await other_disks(stage)
    await die(stage, lambda what: what.startswith("rename") and ".initial to" in what, when=When.AFTER)
    stage.history[3] = dict(stage.disks)
    await stage.put(ONE, changed(stage.disks[ONE], 0))


async def a_point_just_named(stage: Stage) -> None:
    """Committed by one who died before that was durable."""
    await other_disks(stage)
    await die(stage, _names_the_point, when=When.AFTER)
    stage.history[3] = dict(stage.disks)


async def a_point_just_sealed_and_named(stage: Stage) -> None:
    """The same, and who had sealed it died before that was durable."""
    await other_disks(stage)
    sealed = _LAYOUT.point_record(_LAYOUT.pending_dir(3))
    await die(stage, lambda what: what.startswith("rename") and what.endswith(f" to {sealed}"), when=When.AFTER)
    await die(stage, _names_the_point, when=When.AFTER)
    stage.history[3] = dict(stage.disks)


def _names_the_point(what: str) -> bool:
    return what.startswith("rename") and what.endswith(_LAYOUT.point_dir(3))


async def a_damaged_replica(stage: Stage) -> None:
    """What was damaged the source still has, so that in the end all points read right again."""
    await many_changes(stage)
    await stage.sync()
    await damage(stage.replica, _LAYOUT.disk(ONE), 2 * CHUNK + 5)
    await damage(stage.replica, _LAYOUT.manifest(TWO, 2), 5000)


async def a_damaged_replica_and_text(stage: Stage) -> None:
    await a_damaged_replica(stage)
    await damage(stage.replica, _LAYOUT.recovery_text, 5)


async def a_damaged_replica_and_changes(stage: Stage) -> None:
    await a_damaged_replica(stage)
    await stage.put(ONE, changed(stage.disks[ONE], 0, 5)[: int(5.5 * CHUNK)])


async def a_moved_source_and_a_lost_disk(stage: Stage) -> None:
    await a_point(stage)
    await stage.replica.remove(_LAYOUT.disk(TWO))
    await stage.replica.flush_directory(_LAYOUT.disk("sub"))
    assert isinstance(stage.source, MemoryShare)
    stage.source = stage.source.view("moved")


async def resync(stage: Stage) -> None:
    await stage.sync(resync=True)


async def three_points(stage: Stage) -> None:
    await other_disks(stage)
    await stage.sync()


async def undo_what_is_pending(stage: Stage) -> None:
    async with opened_replica(stage.replica, VM, None, stage.context()) as opened:
        await roll_back(opened.replica, await recover(opened.replica))


async def sync_through_losses(stage: Stage) -> None:
    await stage.sync_with_retries()


SCENARIOS = (
    Scenario("initial", new_machine),
    Scenario("delta", a_delta),
    Scenario("delta without server-side copy", a_delta, share={"server_copy": False}),
    Scenario("growth", grown_disks),
    Scenario("shrink", shrunken_disks),
    Scenario("disks added and removed", other_disks),
    Scenario("disk that comes back", a_disk_that_comes_back),
    Scenario("name in another case", case_of_a_name, share={"case_sensitive": False}),
    Scenario("nothing changed", a_point),
    Scenario("many batches", many_changes, small_batches=True),
    Scenario("through losses", many_changes, act=sync_through_losses, small_batches=True, outlives_losses=True),
    Scenario("resumed", a_torn_write, small_batches=True),
    Scenario("resumed again", two_torn_lives, small_batches=True),
    Scenario("first sending resumed", a_torn_first_sending, small_batches=True),
    Scenario("resumed without a disk", a_torn_write_of_a_disk_that_is_gone, small_batches=True),
    Scenario("resumed after half a rollback", a_rollback_that_was_interrupted, small_batches=True),
    Scenario("sealed", a_sealed_point),
    Scenario("settling", a_point_without_its_names),
    Scenario("settling what was just committed", a_point_just_named),
    Scenario("settling what was just sealed and committed", a_point_just_sealed_and_named),
    Scenario("rollback", a_torn_write, act=undo_what_is_pending, small_batches=True),
    Scenario("resync of a damaged replica", a_damaged_replica_and_changes, act=resync, finish=resync, spoiled=True,
             may_change=False),
    Scenario("resync with a moved source", a_moved_source_and_a_lost_disk, act=resync, finish=resync, spoiled=True,
             may_change=False),
    Scenario("repair", a_damaged_replica_and_text, act=repair, finish=repair_all, spoiled=True, may_change=False),
    Scenario("restore to a share", three_points, act=restore_a_point, finish=restore_again, breaks="target",
             look=look_at_what_was_restored, may_change=False),
    Scenario("restore from a share", a_sealed_point, act=restore_a_point, finish=restore_again,
             look=look_at_what_was_restored, may_change=False),
    *PRUNING,
)  # fmt: skip
