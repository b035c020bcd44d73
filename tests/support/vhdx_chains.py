"""Chains of differencing disks with random sector bitmaps, for tests, and what is to be read from them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from replicad.vhdx import parent_paths
from tests.support.vhdx_builder import FULLY_PRESENT, MIB, PARTIALLY_PRESENT, UNMAPPED, ZERO, Block, Image, Spec, build

SECTOR = 512


@dataclass(frozen=True)
class Layer:
    """One disk of a chain: its file, and what a reader sees of it, by block. Blocks that are left out are zeros."""

    path: Path
    image: Image
    data_write_guid: uuid.UUID
    content: dict[int, bytes]


@dataclass(frozen=True)
class Chain:
    """The disks of a chain, the one without a parent first; `blocks` are those in which any of them has something."""

    layers: tuple[Layer, ...]
    blocks: tuple[int, ...]

    @property
    def top(self) -> Layer:
        """The disk that a machine would use."""
        return self.layers[-1]


def build_chain(
    random: Random,
    paths: Sequence[Path],
    blocks: Sequence[int],
    virtual_size: int,
    *,
    run_sectors: int = 1,
    zeroed: bool = False,
) -> Chain:
    """Write a chain: a dynamic disk at the first path, and at each of the others a child of the one before.

    In each child each block is absent, full, or partly there by runs of whole `run_sectors`; or zeros, if `zeroed`.
    """
    layers: list[Layer] = []
    for number, path in enumerate(paths):
        below = layers[-1] if layers else None
        chosen = {block: _block(random, below is not None, run_sectors, zeroed) for block in blocks}
        spec = Spec(
            virtual_size=virtual_size,
            blocks={block: content for block, content in chosen.items() if content},
            parent=_locator(below, path) if below else None,
            disk_id=uuid.UUID(int=900),
            data_write_guid=uuid.UUID(int=random.getrandbits(128), version=4),
            creator=f"disk {number} of a chain",
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        image = build(spec)
        image.save(path)
        content = {block: _seen(chosen[block], below.content[block] if below else bytes(MIB)) for block in blocks}
        layers.append(Layer(path, image, spec.data_write_guid, content))
    return Chain(tuple(layers), tuple(blocks))


def _locator(parent: Layer, path: Path) -> dict[str, str]:
    """As Hyper-V writes it: all five keys, and the absolute path as of the Windows host that made the disks."""
    relative = parent_paths(str(path.parent), str(parent.path)).relative_path
    assert relative is not None
    return {
        "parent_linkage": "{" + str(parent.data_write_guid) + "}",
        "parent_linkage2": "{" + str(uuid.UUID(int=0)) + "}",
        "relative_path": relative,
        "volume_path": f"\\\\?\\Volume{{{uuid.UUID(int=42)}}}\\vms\\{parent.path.name}",
        "absolute_win32_path": f"C:\\vms\\{parent.path.name}",
    }


def _block(random: Random, is_child: bool, run_sectors: int, zeroed: bool) -> Block | None:
    kinds: list[int | None] = [None, FULLY_PRESENT, *[PARTIALLY_PRESENT] * (5 * is_child), *[ZERO, UNMAPPED] * zeroed]
    kind = random.choice(kinds)
    if kind is None or kind in (ZERO, UNMAPPED):
        return Block(kind) if kind else None
    if kind == FULLY_PRESENT:
        return Block(data=random.randbytes(MIB))
    return Block(PARTIALLY_PRESENT, random.randbytes(MIB), tuple(_sectors(random, run_sectors)))


def _sectors(random: Random, run_sectors: int) -> Iterator[int]:
    """Runs of random lengths, here and not here in turn: from single ones to hundreds."""
    at, here = 0, random.random() < 0.5
    while at < MIB // SECTOR:
        length = run_sectors * random.choice([1, 1, 2, 3, 7, 8, 9, random.randrange(1, 64), random.randrange(1, 400)])
        if here:
            yield from range(at, min(at + length, MIB // SECTOR))
        at, here = at + length, not here


def _seen(block: Block | None, below: bytes) -> bytes:
    """What is read from a block (MS-VHDX §2.5.1.1) over what its parent has there."""
    if block is None:
        return below
    if block.state in (ZERO, UNMAPPED):
        return bytes(MIB)
    if block.state == FULLY_PRESENT:
        return block.data
    seen = bytearray(below)
    for sector in block.sectors:
        seen[sector * SECTOR : (sector + 1) * SECTOR] = block.data[sector * SECTOR : (sector + 1) * SECTOR]
    return bytes(seen)
