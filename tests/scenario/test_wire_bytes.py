"""What a cycle costs on the wire, counted by a relay between us and the replica's server, both directions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.installation import Installation, Server, install
from tests.support.machine_model import CHUNK, MIB
from tests.support.relay import Relay, relay_to
from tests.support.samba import ENCRYPTED

pytestmark = pytest.mark.samba

_log = logging.getLogger(__name__)

DISK_BYTES = 256 * MIB
Record = Callable[[str, object], None]


@dataclass(frozen=True, slots=True)
class Replicated:
    """A disk of random bytes that has been replicated once, to an encrypted share behind the relay."""

    installation: Installation
    disk: Path
    relay: Relay

    def change(self, random: Random, chunks: int) -> int:
        """Overwrite so many scattered chunks; returns their bytes."""
        with self.disk.open("r+b") as file:
            for index in random.sample(range(self.disk.stat().st_size // CHUNK), k=chunks):
                file.seek(index * CHUNK)
                file.write(random.randbytes(CHUNK))
        return chunks * CHUNK

    def sync(self, changed_bytes: int) -> float:
        """The bytes on the wire during a cycle, as a multiple of what changed."""
        self.relay.reset()
        report = self.installation.run("sync", "--json").facts
        wire_bytes = self.relay.traffic.total_bytes
        assert report["changed_bytes"] == report["sent_bytes"] == changed_bytes
        return wire_bytes / changed_bytes


@contextmanager
def replicated(room: Path, samba: PrivateSamba, disk_bytes: int) -> Iterator[Replicated]:
    """Source and first cycle."""
    source = room / "원본"
    source.mkdir()
    disk = source / "디스크.img"
    random = Random(1)
    with disk.open("wb") as file:
        for _ in range(disk_bytes // MIB):
            file.write(random.randbytes(MIB))
    replica = samba.share_directory(ENCRYPTED) / f"{uuid4().hex} 사본"
    replica.mkdir()
    with relay_to(samba.port) as relay:
        address = rf"\\nas\{ENCRYPTED}\{replica.name}"
        installation = install(room / "설치", str(source), address, {"nas": Server(samba, relay.port)})
        installation.run("sync")
        assert relay.traffic.to_server_bytes > disk_bytes, "the relay saw nothing"
        yield Replicated(installation, disk, relay)


def test_delta_of_scattered_chunks_costs_little_more_than_the_chunks(
    room: Path, samba_server: PrivateSamba, record_property: Record
) -> None:
    with replicated(room, samba_server, DISK_BYTES) as it:
        ratio = it.sync(it.change(Random(2), DISK_BYTES // CHUNK // 20))
        told = f"5 % of {DISK_BYTES // MIB} MiB in scattered chunks: {ratio:.4f} bytes on the wire for each changed one"
        record_property("ratio_scattered", ratio)
        _log.info(told)
        assert ratio <= 1.1, told


def test_small_delta_and_cold_cache_are_measured(
    room: Path, samba_server: PrivateSamba, record_property: Record
) -> None:
    with replicated(room, samba_server, DISK_BYTES // 4) as it:
        for name, chunks in (("of 1 chunk", 1), ("of 4 chunks", 4), ("of 32 chunks", 32)):
            it.relay.reset()
            ratio = it.sync(it.change(Random(chunks), chunks))
            overhead_bytes = round((ratio - 1) * chunks * CHUNK)
            record_property(f"ratio {name}", ratio)
            _log.info("delta %s: %.3f, %d bytes beside the chunks", name, ratio, overhead_bytes)
            # Some 160 messages of a few hundred bytes, and for each chunk a manifest page and a place in the log.
            assert overhead_bytes < 128 * 1024 + chunks * 6 * 1024
        for path in (it.installation.state_dir / "cache").rglob("*.xxh3"):
            path.unlink()
        ratio = it.sync(it.change(Random(5), 51))
        record_property("ratio of 51 chunks, cold cache", ratio)
        _log.info("delta of 51 chunks with a cold cache: %.3f", ratio)
