"""Where source and replica of a virtual machine lie: on this machine, or on one of two SMB servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from replicad.cli.demo.samba import PrivateSamba
from tests.support.installation import VM, Installation, Server, install
from tests.support.relay import Relay, relay_to
from tests.support.samba import PLAIN, running_samba

TOPOLOGIES = ("local to SMB", "SMB to SMB", "SMB to local")


@dataclass(frozen=True, slots=True)
class Stage:
    """`source` and `replica` (the VM's directory) are paths of this machine, wherever replicad sees them.

    `relay` is between replicad and the replica's server, None for a local replica.
    """

    installation: Installation
    source: Path
    replica: Path
    relay: Relay | None


@contextmanager
def staged(topology: str, base: Path, samba: PrivateSamba) -> Iterator[Stage]:
    """One of `TOPOLOGIES`, or "local to local". The source's server is `samba`, the replica's one of its own."""
    name = uuid4().hex[:12]
    with running_samba() as other, relay_to(other.port) as relay:
        servers = {"nas1": Server(samba), "nas2": Server(other, relay.port)}
        source, replica = base / "원본", base / "사본"
        source_address, replica_address = str(source), str(replica)
        if topology.startswith("SMB"):
            source = samba.share_directory(PLAIN) / f"{name} 원본"
            source_address = rf"\\nas1\{PLAIN}\{source.name}"
        if topology.endswith("SMB"):
            replica = other.share_directory(PLAIN) / f"{name} 사본"
            replica_address = rf"\\nas2\{PLAIN}\{replica.name}"
        source.mkdir()
        replica.mkdir()
        installation = install(base / "설치", source_address, replica_address, servers)
        yield Stage(installation, source, replica / VM, relay if topology.endswith("SMB") else None)
