"""Looking at a replica to tell how its replication stands."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.errors import ReplicadError
from replicad.model.health import Observation
from replicad.model.points import RecoveryPoint
from replicad.model.tracking_words import mistakes_of
from replicad.replica.directory import check_is_replica_of, list_numbers, open_replica, read_point
from replicad.replica.layout import Layout
from replicad.storage.port import Share


@dataclass(frozen=True, slots=True)
class Seen:
    """`latest` is None if there is no point yet, or if it could not be read."""

    observation: Observation
    latest: RecoveryPoint | None = None


async def look_at_replica(share: Share, vm: str) -> Seen:
    """What the replica of `vm` shows now, without taking its lock. What goes wrong is in the observation."""
    said: list[str] = []
    try:
        replica = await open_replica(share, vm, said.append)
        if replica is None:
            return Seen(Observation())
        await check_is_replica_of(share, vm, vm)
        numbers = await list_numbers(replica)
        latest = await read_point(replica, numbers.latest) if numbers.latest else None
        holder = await share.lock_holder(Layout(vm).lock)
    except ReplicadError as error:
        return Seen(Observation(error=str(error)))
    return Seen(
        Observation(
            latest.time if latest else None,
            latest.consistency if latest else None,
            numbers.pending,
            f"{holder.host}, process {holder.pid}" if holder else None,
            damaged=tuple(said),
            mistakes=tuple(mistake.text for mistake in mistakes_of([latest] if latest else [])),
        ),
        latest,
    )
