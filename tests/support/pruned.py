"""What must hold of a replica's directory once a prune has ended well."""

from __future__ import annotations

from replicad.model.names import join
from replicad.replica.directory import list_numbers, require_replica
from replicad.replica.layout import is_point_record
from replicad.replica.lineage import read_lineage
from tests.support.world import VM, World


async def check_nothing_is_left_over(world: World) -> None:
    """The points' directories are those of points, and hold what their records name and nothing else."""
    replica = await require_replica(world.replica, VM)
    layout = replica.layout
    points = await read_lineage(replica, await list_numbers(replica))
    entries = await world.replica.list(layout.points_dir)
    assert sorted(e.name for e in entries) == sorted(str(p.number) for p in points)
    for point in points:
        directory = layout.point_dir(point.number)
        wanted = {join(directory, undo.file) for undo in point.undo_references()}
        for gone in point.removed:
            wanted.add(layout.removed(point.number, gone.path, gone.since))
            wanted.add(layout.removed_manifest(point.number, gone.path, gone.since))
        there = {e.name for e in await world.replica.list(directory)}
        assert {join(directory, name) for name in there if not is_point_record(name)} == wanted
