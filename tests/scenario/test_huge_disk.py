"""A disk of 1 TiB with little in it: cost follows the data, not the disk."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.installation import VM, Server, install
from tests.support.machine_model import MIB
from tests.support.programs import run
from tests.support.relay import relay_to
from tests.support.samba import ENCRYPTED

pytestmark = pytest.mark.samba

_log = logging.getLogger(__name__)

TIB = 1024**4
MOST_MEMORY_BYTES = 200 * MIB


def make_huge_disk(path: Path, data_bytes: int, seed: int) -> None:
    """A fixed VHDX of 1 TiB whose random data lies in 8 places; a hole everywhere else."""
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "subformat=fixed,block_state_zero=off", str(path), "1T")
    random = Random(seed)
    with path.open("r+b") as file:
        for _ in range(8):
            # Fixed VHDX blocks lie in order, so what is written here is the guest's data.
            file.seek(random.randrange(1024, TIB // MIB - 1024) * MIB)
            for _ in range(data_bytes // 8 // MIB):
                file.write(random.randbytes(MIB))
    run("qemu-io", "-f", "vhdx", "-c", "write -P 7 1000G 1M", str(path))


def content(path: Path) -> tuple[int, dict[int, bytes]]:
    """The size of a file, and the digests of its MiB that are not zeros; reads what is allocated only."""
    found: dict[int, bytes] = {}
    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        position = 0
        while position < size_bytes:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA) // MIB * MIB
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # no data beyond
            data = os.pread(file.fileno(), MIB, position)
            if data.strip(b"\0"):
                found[position // MIB] = hashlib.sha256(data).digest()
            position += MIB
    return size_bytes, found


def allocated_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def check_huge_disk(
    data_bytes: int, room: Path, samba: PrivateSamba, record_property: Callable[[str, object], None]
) -> None:
    source = room / "원본"
    source.mkdir()
    disk = source / "큰 디스크 🗄.vhdx"
    make_huge_disk(disk, data_bytes, seed=1)
    assert disk.stat().st_size > TIB
    taken_bytes = allocated_bytes(disk)
    replica = samba.share_directory(ENCRYPTED) / f"{uuid4().hex} 사본"
    replica.mkdir()
    with relay_to(samba.port) as relay:
        address = rf"\\nas\{ENCRYPTED}\{replica.name}"
        installation = install(room / "설치", str(source), address, {"nas": Server(samba, relay.port)})
        first, peak_bytes = installation.measured("sync", "--json")
        assert first.code == 0, first.stderr
        wire_bytes = relay.traffic.total_bytes
        facts = first.facts
        told = {
            "peak_mib": peak_bytes / MIB, "scanned_mib": facts["scanned_bytes"] / MIB,
            "sent_mib": facts["sent_bytes"] / MIB, "wire_mib": wire_bytes / MIB, "duration_s": facts["duration_s"],
        }  # fmt: skip
        for name, value in told.items():
            record_property(name, value)
        _log.info("1 TiB with %d MiB: %s", data_bytes // MIB, told)
        # Ends of allocated ranges are widened to whole chunks of 256 KiB.
        assert data_bytes < facts["scanned_bytes"] <= taken_bytes + 20 * MIB
        assert data_bytes < facts["sent_bytes"] <= facts["scanned_bytes"]
        assert wire_bytes < 1.1 * taken_bytes
        assert peak_bytes < MOST_MEMORY_BYTES
        copy = replica / VM / "disks" / disk.name
        assert copy.stat().st_size == disk.stat().st_size
        assert allocated_bytes(copy) <= taken_bytes + 20 * MIB
        everything = sum(allocated_bytes(p) for p in (replica / VM).rglob("*") if p.is_file())
        assert everything <= taken_bytes + 32 * MIB
        assert content(copy) == content(disk)

        # The next cycle, and the way back, are as cheap.
        run("qemu-io", "-f", "vhdx", "-c", "write -P 9 500G 1M", str(disk))
        second, peak_bytes = installation.measured("sync", "--json")
        assert second.code == 0, second.stderr
        _log.info("delta of 1 MiB: %.1f s, %.1f MiB held", second.facts["duration_s"], peak_bytes / MIB)
        assert second.facts["changed_bytes"] <= 2 * MIB
        assert peak_bytes < MOST_MEMORY_BYTES
        target = room / "되살린 것"
        target.mkdir()
        third, peak_bytes = installation.measured("restore", "--to", str(target), "--json")
        assert third.code == 0, third.stderr
        _log.info("restore: %.1f MiB held", peak_bytes / MIB)
        assert peak_bytes < MOST_MEMORY_BYTES
        restored = target / disk.name
        assert allocated_bytes(restored) <= taken_bytes + 24 * MIB
        assert content(restored) == content(disk)
        run("qemu-io", "-r", "-f", "vhdx", "-c", "read -P 9 500G 1M", "-c", "read -P 7 1000G 1M", str(restored))


def test_disk_of_1_tib_costs_what_is_in_it(
    room: Path, samba_server: PrivateSamba, record_property: Callable[[str, object], None]
) -> None:
    check_huge_disk(128 * MIB, room, samba_server, record_property)


@pytest.mark.soak
def test_disk_of_1_tib_with_1_gib_of_data_costs_what_is_in_it(
    room: Path, samba_server: PrivateSamba, record_property: Callable[[str, object], None]
) -> None:
    check_huge_disk(1024 * MIB, room, samba_server, record_property)
