"""What a virtual disk says of itself: reads and checks its structures, and never writes.

A file opened in `OpenMode.READ` shares everything with other openers, so a running machine is not disturbed. What is
read while a machine writes is no single instant, though: the machine may make sound structures look damaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from replicad.model.errors import IntegrityError
from replicad.model.progress import Advanced, Observer, PhaseStarted, nobody
from replicad.storage.port import ShareFile
from replicad.vhdx import DamagedVhdxError, NotVhdx, Step, VhdxFacts, parse

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one file was found to be."""

    path: str
    facts: VhdxFacts | NotVhdx


async def inspect(file: ShareFile, observer: Observer = nobody) -> Inspection:
    """Read and check everything in a disk file but its blocks.

    IntegrityError, which says what is damaged and where, if it is a VHDX and damaged; UnsupportedError if its
    log must be replayed and is longer than 64 MiB; and whatever reading from the share raises.
    """
    before = await file.identity()
    observer(PhaseStarted("inspect"))
    try:
        facts = await drive(parse(before.size_bytes), file, observer)
    except DamagedVhdxError as damage:
        hint = ""
        if await file.identity() != before:
            hint = "The file changed while it was read, so it is in use: inspect it when it is not, or a copy of it."
        where = f"its {damage.structure} at byte {damage.offset_bytes}"
        raise IntegrityError("inspect", repr(file.path), f"{where} is damaged: {damage.reason}", hint) from damage
    return Inspection(file.path, facts)


class Readable(Protocol):
    """Whatever has the bytes of a disk."""

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        """As `ShareFile.read_into`."""
        ...


async def drive(step: Step[T], file: Readable, observer: Observer = nobody) -> T:
    """Answer the parser's requests with bytes of `file`, one after the other. Raises what either of them raises."""
    try:
        request = next(step)
        while True:
            buffer = bytearray(request.length_bytes)
            done = await file.read_into(buffer, request.offset_bytes)
            observer(Advanced(done))
            request = step.send(bytes(buffer) if done == len(buffer) else bytes(buffer[:done]))
    except StopIteration as end:
        result: T = end.value
        return result
