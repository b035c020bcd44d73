"""Carrying out what `replicad.vhdx` plans for a file, whole or cut short anywhere, on an image in memory or a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

from replicad.vhdx import Extend, Stage, Stages, Write
from tests.support.vhdx_builder import Image

SECTOR = 512
"""What a disk writes whole or not at all."""


def carry_out(image: Image, stages: Stages) -> Image:
    """A copy of the image after all of it."""
    image = image.copy()
    for stage in stages:
        for piece in pieces(stage):
            piece(image)
    return image


def pieces(stage: Stage) -> Iterator[Callable[[Image], None]]:
    """What a stage does to an image, sector by sector: a crash may keep any of it."""
    for change in stage:
        if isinstance(change, Extend):
            yield _extending(change.size_bytes)
            continue
        data = change.data if isinstance(change, Write) else bytes(change.length_bytes)
        at = 0
        while at < len(data):
            size = SECTOR - (change.offset_bytes + at) % SECTOR
            yield _putting(change.offset_bytes + at, data[at : at + size])
            at += size


def _extending(size: int) -> Callable[[Image], None]:
    def extend(image: Image) -> None:
        image.size = max(image.size, size)

    return extend


def _putting(offset: int, data: bytes) -> Callable[[Image], None]:
    return lambda image: image.put(offset, data)


def cut_short(image: Image, stages: Stages, done: int, kept: Iterable[bool]) -> Image:
    """A copy of the image after `done` stages and those sectors of the next one that are `kept`."""
    image = carry_out(image, stages[:done])
    if done < len(stages):
        for piece, keep in zip(pieces(stages[done]), kept, strict=False):
            if keep:
                piece(image)
    return image


def all_cuts(image: Image, stages: Stages, random: Random) -> Iterator[tuple[int, Image]]:
    """Every stage cut short after each of its sectors, in order, backwards and at random; and how many are done."""
    for done in range(len(stages) + 1):
        units = len([*pieces(stages[done])]) if done < len(stages) else 0
        for count in range(units + 1):
            yield done, cut_short(image, stages, done, [i < count for i in range(units)])
        for count in range(1, units):
            yield done, cut_short(image, stages, done, [i >= count for i in range(units)])
            yield done, cut_short(image, stages, done, [random.random() < 0.5 for _ in range(units)])


def carry_out_on(path: Path, stages: Stages) -> None:
    """The same on a file, as it is meant: each stage durable before the next."""
    with path.open("r+b") as file:
        for stage in stages:
            for change in stage:
                if isinstance(change, Extend):
                    file.truncate(max(change.size_bytes, os.fstat(file.fileno()).st_size))
                    continue
                file.seek(change.offset_bytes)
                file.write(change.data if isinstance(change, Write) else bytes(change.length_bytes))
            file.flush()
            os.fsync(file.fileno())
