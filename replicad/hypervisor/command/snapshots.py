"""Views of one moment that the user's own commands make and remove."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from replicad.hypervisor.thawing import FreezeJournal, OpenPage
from replicad.model.address import Address, parse_address
from replicad.model.clock import Clock
from replicad.model.errors import ConfigError, PermanentError
from replicad.model.names import printable
from replicad.model.points import Consistency
from replicad.model.progress import Observer

from .freezing import CommandFreezer
from .printed import MAX_KEPT_BYTES, Printed
from .running import Call, CommandNotStartedError, Phase, consistency_said, run

_MAX_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    """What a `snapshot` command made: where to read it (one directory, or a file for each disk), of which `moment`
    (UTC), and what it promises."""

    places: tuple[Address, ...]
    moment: datetime
    consistency: Consistency


@dataclass(frozen=True, slots=True)
class CommandSnapshots:
    """A `Snapshotter` by commands: `freezer`, if there is one, stands around `snapshot`. `release` is run once whenever
    `snapshot` was started, however that ended; where it fails that is warned of, and it is run again later."""

    vm: str
    snapshot: tuple[str, ...] = field(repr=False)
    release: tuple[str, ...] | None = field(repr=False)
    timeout_s: float
    freezer: CommandFreezer | None
    journal: FreezeJournal
    clock: Clock
    observe: Observer

    @asynccontextmanager
    async def taken(self, disks: Sequence[str], *, application: bool) -> AsyncIterator[TakenSnapshot]:
        wanted = Consistency.APPLICATION if application else Consistency.CRASH
        call = Call(self.vm, Phase.SNAPSHOT, self.snapshot, tuple(disks), wanted, self.timeout_s)
        async with self.journal.of(self.vm) as page, AsyncExitStack() as released:
            reached = Consistency.CRASH
            async with AsyncExitStack() as frozen:
                if self.freezer is not None:
                    freezing = self.freezer.frozen_on(page, disks, application=application)
                    reached = await frozen.enter_async_context(freezing)
                begun = await self._to_be_released(released, page, call)
                moment = self.clock.now()
                said = await begun.run(call, self.observe)
            word = consistency_said(said)
            places = read_places(self.vm, said, len(disks))
            yield TakenSnapshot(places, moment, word or reached)

    async def _to_be_released(self, stack: AsyncExitStack, page: OpenPage, snapshot: Call) -> _Begun:
        """Have it released in the end. Not written down earlier than now: a `release` may fail where nothing is."""
        begun = _Begun()
        if self.release is None:
            return begun
        release = Call(self.vm, Phase.RELEASE, self.release, snapshot.disks, snapshot.wanted, self.timeout_s)

        async def undo() -> None:
            if begun.may_be_there:
                await run(release, self.observe)

        undone = page.undone(Phase.RELEASE, release.as_how(), undo, is_fatal=False, outlasts=True)
        await stack.enter_async_context(undone)
        return begun


class _Begun:
    """Whether a snapshot may have come into being."""

    def __init__(self) -> None:
        self.may_be_there = False

    async def run(self, call: Call, observe: Observer) -> Printed:
        self.may_be_there = True
        try:
            return await run(call, observe)
        except CommandNotStartedError:
            self.may_be_there = False
            raise


def read_places(vm: str, printed: Printed, disk_count: int) -> tuple[Address, ...]:
    """Where `snapshot` says that its view is. PermanentError, in one sentence, if that makes no sense."""
    lines = printed.stdout_lines()
    if consistency_said(printed):
        lines = lines[:-1]

    def wrong(answer: str) -> PermanentError:
        return PermanentError(
            "use the snapshot of", vm, answer,
            "Have 'snapshot' print on stdout the directory to read, or one file for each line of REPLICAD_DISKS in "
            "that order: absolute paths, or \\\\server\\share\\directory; whatever else it says belongs on stderr.",
        )  # fmt: skip

    if printed.is_too_long:
        raise wrong(f"'snapshot' printed more than {MAX_KEPT_BYTES >> 20} MiB")
    if not lines:
        raise wrong("'snapshot' printed no path")
    places: list[Address] = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise wrong(f"line {number} that 'snapshot' printed is not UTF-8") from None
        shown = printable(text)[:_MAX_SHOWN_CHARS]
        if shown != text:
            raise wrong(f"line {number} that 'snapshot' printed is no path ({shown!r})")
        try:
            places.append(parse_address(text))
        except ConfigError as error:
            raise wrong(f"line {number} that 'snapshot' printed is no path ({shown!r}: {error.answer})") from None
    if len(places) not in (1, disk_count):
        disks = f"{disk_count} disk{'s' if disk_count > 1 else ''}"
        raise wrong(f"'snapshot' printed {len(places)} paths, and the machine has {disks}")
    return tuple(places)
