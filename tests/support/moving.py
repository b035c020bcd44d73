"""A move of a machine's disks between two directories of one share in memory, in one life after another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TypeVar

from replicad.model.moves import MovedFile, MoveOptions, MoveRecord, NoConvergence, Proof, Side
from replicad.model.names import join
from replicad.model.points import FileKind
from replicad.model.progress import ProgressEvent
from replicad.storage.memory import MemoryShare
from replicad.storage.port import LockHolder, OpenMode, Share
from replicad.tracking.plain import PlainView
from replicad.tracking.port import ChangeSource, SelectedFile
from replicad.tracking.tracked import TrackedSource
from replicad.workflows.context import Context
from replicad.workflows.move import move
from replicad.workflows.move_journal import MoveJournal
from replicad.workflows.move_parts import MoveParts
from replicad.workflows.move_retiring import take_back
from replicad.workflows.retries import move_with_retries
from tests.support.crash_points import InlineExecutor
from tests.support.faulty import Fault, FaultyShare
from tests.support.moved_machine import MovedMachine
from tests.support.world import CHUNK, SteadyClock

T = TypeVar("T")
SOURCE, DESTINATION = "원본", "옮긴 곳 🚚"
DISKS = (f"{SOURCE}/가 나.vhdx", f"{SOURCE}/데이터/disk 2.vhdx")
CONFIG = f"{SOURCE}/설정.xml"
MOVE_ID = "0123456789abcdef" * 2


def target_of(path: str) -> str:
    """Where a file of the source goes."""
    return DESTINATION + path.removeprefix(SOURCE)


class LivelyShare(FaultyShare):
    """At each call of which the machine writes something."""

    def __init__(self, inner: Share, machine: MovedMachine, faults: dict[int, Fault] | None = None) -> None:
        super().__init__(inner, faults)
        self._machine = machine

    async def change(
        self, what: str, whole: Callable[[], Awaitable[T]], half: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        if not self.crashed:
            await self._machine.live()
        return await super().change(what, whole, half)

    async def look(self, call: Callable[[], Awaitable[T]]) -> T:
        if not self.crashed:
            await self._machine.live()
        return await super().look(call)


@dataclass
class Moving:
    """`memory` has all files; `remembered` is what this host keeps of the move."""

    seed: int = 1
    server_copy: bool = True
    proof: Proof = Proof.ALL
    events: list[ProgressEvent] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.memory = MemoryShare("/", server_copy=self.server_copy)
        self.machine = MovedMachine(self.memory, self.random)
        self.time = SteadyClock()
        files = [
            MovedFile(number, path, kind, 0, target_of(path), CHUNK)
            for number, (path, kind) in enumerate(
                [*((disk, FileKind.DISK) for disk in DISKS), (CONFIG, FileKind.CONFIG)]
            )
        ]
        waits = NoConvergence.FREEZE
        options = MoveOptions(max_rounds=2, max_freeze_s=60, on_no_convergence=waits, proof=self.proof)
        self.remembered = MoveRecord(
            MOVE_ID, "웹 서버", "/", ("/",), datetime(2026, 1, 1, tzinfo=UTC), options,
            files=tuple(files),
        )  # fmt: skip

    async def begin(self) -> None:
        """Make the source's files, and start the machine."""
        for path, size in zip((*DISKS, CONFIG), (3 * CHUNK + 512, 2 * CHUNK, 300), strict=True):
            data = bytearray(size)
            for start in range(0, size, CHUNK):
                if self.random.random() < 0.7:
                    data[start : start + 400] = self.random.randbytes(min(400, size - start))
            self.machine.disks[path] = data
            await self.memory.make_dir(f"{SOURCE}/데이터")
            async with await self.memory.open(path, OpenMode.CREATE) as file:
                await file.write(bytes(data), 0)
        await self.memory.make_dir(DESTINATION)
        await self.machine.start({disk: (Side.SOURCE, disk) for disk in DISKS})

    def life(self, faults: dict[int, Fault] | None = None) -> tuple[FaultyShare, MoveParts, Context]:
        """What another process of ours works with."""
        share = LivelyShare(self.memory.view(), self.machine, faults)
        clock = self.time.clock()

        async def remember(record: MoveRecord) -> None:
            share.alive()
            self.remembered = record

        def changes(files: Sequence[MovedFile]) -> ChangeSource:
            selected = tuple(SelectedFile(file.path, file.kind, True) for file in files)
            view = PlainView(share, selected, clock.now)
            return TrackedSource(view, None, None, clock, self.events.append)

        journal = MoveJournal(share, remember)
        parts = MoveParts(share, (share,), self.machine, changes, journal, lambda path: path.startswith(SOURCE))
        ctx = Context(
            clock=clock, random=Random(self.seed), new_id=lambda: self.random.randbytes(16).hex(),
            holder=lambda: LockHolder("시험-host", "machine", "boot", 1, "1", "2026-01-01T00:00:00Z"),
            hashing=InlineExecutor(), cache=None, observe=self.events.append, version="0",
        )  # fmt: skip
        return share, parts, ctx

    async def move(self, faults: dict[int, Fault] | None = None, *, retries: bool = False) -> MoveRecord:
        """One life of the move."""
        share, parts, ctx = self.life(faults)
        try:
            work = move_with_retries if retries else move
            self.remembered = await work(self.remembered, parts, ctx)
        finally:
            self.log = share.log
            share.crash()  # the process is at its end
        return self.remembered

    async def cancel(self, faults: dict[int, Fault] | None = None) -> MoveRecord:
        """One life of taking it back."""
        share, parts, ctx = self.life(faults)
        try:
            self.remembered = await take_back(self.remembered, parts, ctx)
        finally:
            self.log = share.log
        return self.remembered

    async def start_at_source(self) -> None:
        """Somebody starts the machine as it was always started, and it writes."""
        for disk in DISKS:
            self.machine.disks[disk] = bytearray(await self.read(disk))
        await self.machine.start({disk: (Side.SOURCE, disk) for disk in DISKS})
        for _ in range(5):
            await self.machine.live()

    async def check_untouched(self, side: Side = Side.SOURCE) -> None:
        """That side holds what the machine has there, and the other one is there beside it."""
        names = await self.names()
        for path in DISKS:
            assert await self.read(path if side is Side.SOURCE else target_of(path)) == self.machine.disks[path]
            assert {path, target_of(path)} <= names

    async def names(self) -> set[str]:
        """All files there are."""
        found: set[str] = set()
        todo = [""]
        while todo:
            here = todo.pop()
            for entry in await self.memory.list(here):
                if entry.is_dir:
                    todo.append(join(here, entry.name))
                else:
                    found.add(join(here, entry.name))
        return found

    async def check_used_at(self, side: Side) -> None:
        """There is exactly one copy under its names, complete, and it is the one that the machine uses."""
        name_of = target_of if side is Side.DESTINATION else str
        assert await self.names() == {name_of(path) for path in (*DISKS, CONFIG)}
        for path, expected in self.machine.disks.items():
            assert await self.read(name_of(path)) == expected, f"{path} is not what it must be"
        if self.machine.is_running:
            assert set(self.machine.where().values()) == {side}

    async def read(self, path: str) -> bytes:
        """A whole file."""
        async with await self.memory.open(path, OpenMode.READ) as file:
            size = (await file.identity()).size_bytes
            buffer = bytearray(size)
            await file.read_into(buffer, 0)
            return bytes(buffer)
