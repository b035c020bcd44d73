"""What others read of a chain of differencing disks: libvhdi, and dissect.hypervisor.

dissect.hypervisor 3.21 reads a sector bitmap wrongly from the middle of one of its bytes on, which is what it asks of
a disk in the middle of a chain: it is shown chains of runs of 8 sectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyvhdi
from dissect.hypervisor.disk.vhdx import VHDX

from tests.support.vhdx_builder import MIB
from tests.support.vhdx_chains import SECTOR, Chain


@contextmanager
def libvhdi(paths: Sequence[Path]) -> Iterator[pyvhdi.file]:
    """The last of a chain's files, above all the others."""
    with ExitStack() as stack:
        below = None
        for path in paths:
            disk = pyvhdi.file()
            disk.open(str(path))
            stack.callback(disk.close)
            if below is not None:
                assert disk.get_parent_identifier() == below.get_identifier()
                disk.set_parent(below)
            below = disk
        yield below


@contextmanager
def dissect(path: Path) -> Iterator[VHDX]:
    """A file and what it finds by its own locator, and by theirs."""
    disk = VHDX(path)
    try:
        yield disk
    finally:
        part = disk
        while part is not None:
            part.fh.close()
            part = part.parent


def reads_as(chain: Chain, files: Sequence[Path], *, with_dissect: bool, with_libvhdi: bool = True) -> None:
    """Every sector of the chain's blocks, through each of its disks, is what was put there."""
    for number, layer in enumerate(chain.layers):
        if with_libvhdi:
            with libvhdi(files[: number + 1]) as disk:
                for block in chain.blocks:
                    _same(disk.read_buffer_at_offset(MIB, block * MIB), layer.content[block], block)
        if with_dissect:
            with dissect(files[number]) as disk:
                for block in chain.blocks:
                    disk.seek(block * MIB)
                    _same(disk.read(MIB), layer.content[block], block)
                if number:
                    assert Path(disk.parent.path).resolve() == files[number - 1].resolve()


def _same(seen: bytes, expected: bytes, block: int) -> None:
    if seen == expected:
        return
    wrong = [n for n in range(MIB // SECTOR) if seen[n * SECTOR : (n + 1) * SECTOR] != expected[n * SECTOR :][:SECTOR]]
    assert (block, wrong) == (block, [])
    assert len(seen) == MIB
