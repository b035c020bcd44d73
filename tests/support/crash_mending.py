"""Work that is disturbed in both parts of the table (tests/support/crash_scenarios.py): repair, and restoring."""

from __future__ import annotations

from replicad.workflows.repair import verify_and_repair
from replicad.workflows.restore import PARTIAL_SUFFIX, restore
from tests.support.crash_points import Stage
from tests.support.world import VM, digests, read_tree

RESTORED_POINT = 1


async def repair(stage: Stage) -> None:
    found = await verify_and_repair(stage.replica, VM, stage.change_source(), stage.context())
    assert found.points


async def repair_all(stage: Stage) -> None:
    found = await verify_and_repair(stage.replica, VM, stage.change_source(), stage.context())
    assert all(damage.repaired for damage in found.damages)


async def restore_a_point(stage: Stage) -> None:
    await restore(stage.replica, VM, RESTORED_POINT, stage.target, stage.context())


async def look_at_what_was_restored(stage: Stage) -> None:
    """What has its own name at the target is what the point held."""
    wanted = stage.history[RESTORED_POINT]
    for path, data in (await read_tree(stage.target)).items():
        if path not in stage.foreign_at_target and not path.endswith(PARTIAL_SUFFIX):
            assert digests({path: data}) == digests({path: wanted[path]})


async def restore_again(stage: Stage) -> None:
    """What is there already is in the way of a restore: it must be moved away."""
    for path in stage.history[RESTORED_POINT].keys() & (await read_tree(stage.target)).keys():
        await stage.target.remove(path)
    await restore_a_point(stage)
    found = await read_tree(stage.target)
    assert digests({p: d for p, d in found.items() if p not in stage.foreign_at_target}) == digests(
        stage.history[RESTORED_POINT]
    )
