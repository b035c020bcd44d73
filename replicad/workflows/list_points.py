"""Listing a replica's recovery points."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.points import RecoveryPoint
from replicad.model.progress import Observer, nobody, warn_once
from replicad.replica.directory import Replica, open_replica, require_replica
from replicad.replica.lineage import read_settled_lineage
from replicad.storage.port import Share


@dataclass(frozen=True, slots=True)
class PointList:
    """`points` ascending; `pending` is the number of a cycle that is under way or was interrupted."""

    vm: str
    points: tuple[RecoveryPoint, ...]
    pending: int | None


async def list_points(share: Share, vm_dir: str, observe: Observer = nobody) -> PointList:
    """Every committed point of the replica in `vm_dir`. Takes no lock: if points are pruned meanwhile, it looks again.

    NotFoundError if there is no replica; IntegrityError if a record is damaged, and its copy as well.
    """
    return await _listed(await require_replica(share, vm_dir, warn_once(observe)))


async def list_points_if_any(share: Share, vm_dir: str, observe: Observer = nobody) -> PointList:
    """The same; without a replica in `vm_dir` there is no point."""
    replica = await open_replica(share, vm_dir, warn_once(observe))
    return await _listed(replica) if replica is not None else PointList(vm_dir, (), None)


async def _listed(replica: Replica) -> PointList:
    points, numbers = await read_settled_lineage(replica)
    return PointList(replica.record.vm, tuple(points), numbers.pending)
