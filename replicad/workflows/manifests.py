"""Manifests by way of this host's cache: the one written last need not travel back."""

from __future__ import annotations

from contextlib import suppress

from replicad.model.errors import IntegrityError, ReplicadError
from replicad.model.manifest import Manifest
from replicad.model.points import DiskState
from replicad.replica.directory import Replica
from replicad.replica.manifest_file import read_manifest, update_manifest, write_manifest
from replicad.storage.port import Share


def _cache_path(replica: Replica, disk_id: str) -> str:
    return f"manifests/{replica.record.replica_id}.{disk_id}.xxh3"


async def load_manifest(replica: Replica, disk: DiskState, cache: Share | None) -> Manifest:
    """The manifest of a disk at the latest point: from the cache if it is there and sound, else from the share."""
    owner = replica.owner(disk.id)
    if cache is not None:
        # The cache proves itself by the digest, or is no use; whatever is wrong with it, the share has the truth.
        with suppress(ReplicadError):
            try:
                return await read_manifest(cache, _cache_path(replica, disk.id), owner, disk.manifest.digest)
            except IntegrityError:  # nothing must be built on it
                await cache.remove(_cache_path(replica, disk.id))
    return await read_manifest(
        replica.share, replica.layout.manifest(disk.path, disk.manifest.point), owner, disk.manifest.digest
    )


async def remember_manifest(
    replica: Replica, disk_id: str, manifest: Manifest, cache: Share | None, base: tuple[str, Manifest] | None = None
) -> None:
    """Keep a manifest in the cache; of one made of the `base` (its digest, and what it holds), which may be there, only
    what differs is written. What goes wrong there costs only the next cycle a read."""
    if cache is not None:
        path, owner = _cache_path(replica, disk_id), replica.owner(disk_id)
        with suppress(ReplicadError):
            if base is None or not await update_manifest(cache, path, manifest, owner, base):
                await cache.make_dir("manifests")
                await write_manifest(cache, path, manifest, owner)
