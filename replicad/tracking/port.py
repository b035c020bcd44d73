"""The ports of this room: a virtual machine's source as workflows see it, and the parts that one is made of.

A `ChangeSource` is a `View` (how a moment of all files is had) with a `Tracker` (how changes become known without
reading everything). Both are made for one cycle at a time of one machine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from replicad.model.address import Address
from replicad.model.changes import BaseState, ChangeSet
from replicad.model.changes import Untold as Untold
from replicad.model.points import Consistency, FileKind, Provenance, Trust
from replicad.storage.port import ShareFile

Facts = Mapping[str, str]
"""What a tracker has to remember of one file between two cycles; only the tracker itself understands it."""


@dataclass(frozen=True, slots=True)
class SelectedFile:
    """A file of the virtual machine, by its path below the source. `named`: the configuration names it literally."""

    path: str
    kind: FileKind
    named: bool


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One file as the snapshot shows it, open for reading."""

    path: str
    kind: FileKind
    named: bool
    file: ShareFile
    size_bytes: int
    allocated_bytes: int
    """The room that it takes at the source, as far as that can be told."""
    held: bool = False
    """It is the source's own file, and as long as the view is open nobody can write it: else reading raises."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All files of the virtual machine as they were at `taken` (UTC), with the promise `consistency`.

    The promise holds as long as reading raises nothing and `confirm` returns, called after the last byte was read.
    `changes(file, since)` tells where a file may differ from a state of before; None: nothing is known of it.
    `mistaken(file, since, trust)`: what `changes` told was found wrong. All that is remembered of that file is
    forgotten at once, and the change set that comes back is all of it; it, and those of later cycles that start from
    the same state, bear the `trust`. It never raises for what this host can't remember, and tells of it.
    `keep(states)` has a later cycle ask for changes since this snapshot, whose files are those states on the replica;
    it is called before the point is committed, and leaves in place what was kept until then. It never raises: what
    can't be kept costs a full scan.
    """

    files: tuple[SnapshotFile, ...]
    consistency: Consistency
    taken: datetime
    warnings: tuple[str, ...]
    confirm: Callable[[], Awaitable[None]]
    changes: Callable[[SnapshotFile, BaseState | None], Awaitable[ChangeSet]]
    keep: Callable[[Mapping[str, BaseState]], Awaitable[None]]
    mistaken: Callable[[SnapshotFile, BaseState, Trust], Awaitable[ChangeSet]]


class ChangeSource(Protocol):
    """Where the disks of one virtual machine come from."""

    async def select(self) -> tuple[SelectedFile, ...]:
        """Which files there are now, sorted by path.

        NotFoundError if there is no disk or a named one is missing; InvalidNameError for a name that a replica can't
        hold; PermanentError for two that differ only by case.
        """

    def snapshot(
        self, replica_id: str | None, *, for_cycle: bool, is_last: bool = False
    ) -> AbstractAsyncContextManager[Snapshot]:
        """A view that stands still until its context ends. BusyError if it can't be had now.

        `replica_id`: of the replica that changes are asked for, or None if there is none yet. Unless it is `for_cycle`
        nothing is changed that a later cycle builds on, and `keep` must not be called; nor must it if the view
        `is_last`: the disks stand still already, and nobody will ask what changed since.
        """

    async def settle(self, replica_id: str, states: Mapping[str, BaseState]) -> None:
        """These states are committed: what was kept of older ones is not needed any more. Never raises."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted of a view. `name` is one for this replica's things at the source (16 hexadecimal digits), the same
    in each cycle; `remembered` is what is kept of earlier cycles, of all files: whatever else bears the name was left
    behind by a cycle that died. `application`: the guest is to be quiesced, where it can be."""

    name: str
    remembered: tuple[Facts, ...]
    application: bool
    for_cycle: bool
    is_last: bool = False
    """The disks stand still already, and nothing has to be remembered from now on."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a view shows; the fields are those of `Snapshot`."""

    files: tuple[SnapshotFile, ...]
    consistency: Consistency
    taken: datetime
    warnings: tuple[str, ...]
    confirm: Callable[[], Awaitable[None]]


class Instant(Protocol):
    """Who wants to know when the moment comes that a view shows."""

    async def before(self, files: Sequence[SelectedFile]) -> None:
        """Called once, when the files are known and nothing stands still yet."""

    async def after(self) -> None:
        """Called once, as soon as the view stands and what was frozen for it goes on."""


class View(Protocol):
    """How a moment of all of a virtual machine's files is had."""

    async def select(self) -> tuple[SelectedFile, ...]:
        """As `ChangeSource.select`."""

    def open(self, request: Request, instant: Instant) -> AbstractAsyncContextManager[Seen]:
        """The files of one moment, until the context ends. BusyError if it can't be had now.

        The consistency is what was really reached, whatever was asked for (DESIGN §4, invariant 7).
        """


class Tracker(Protocol):
    """How changes of a view's files become known without reading everything.

    Doubt widens what it tells and never narrows it. What it remembers survives this process or is known to be lost.
    """

    @property
    def provenance(self) -> Provenance:
        """How points name it."""

    async def begin(self, request: Request, files: Sequence[SelectedFile]) -> None:
        """Before the moment of the view: remember from now on what changes, beside what is remembered already."""

    async def passed(self) -> None:
        """The moment is over: whatever was written before it is noted when this returns."""

    async def changes(self, file: SnapshotFile, since: Facts) -> ChangeSet | Untold:
        """Where the view's file may differ from the one that `mark` gave these facts for."""

    async def mark(self, file: SnapshotFile) -> Facts | None:
        """What `changes` needs in a later cycle to tell what changed since this view; it is kept until `forget`. None:
        it will not be able to tell."""

    async def forget(self, path: str, facts: Facts) -> None:
        """Give back what a mark keeps. Fine if it is gone."""

    async def end(self) -> None:
        """Give back what was begun and not marked. Called once, whatever happened."""


class Freezer(Protocol):
    """Whoever uses the disks, and can be made to let them stand still."""

    def frozen(self, *, application: bool) -> AbstractAsyncContextManager[Consistency]:
        """Inside nothing is written to any of the machine's disks, and whatever was is in the files; the value is what
        was reached: `application` if the guest was quiesced, else `crash`.

        That it goes on afterwards is made sure of, also when this process dies inside. BusyError if it can't be done
        now.
        """

    async def is_running(self) -> bool:
        """Whether anything can be writing the disks now. True where that can't be told."""


class TakenSnapshot(Protocol):
    """A view of one moment that somebody else has made."""

    @property
    def places(self) -> tuple[Address, ...]:
        """Where to read it: one directory with the same paths below it as the source, or a file for each disk."""

    @property
    def moment(self) -> datetime:
        """What it shows (UTC): whatever was written before is in it."""

    @property
    def consistency(self) -> Consistency:
        """What was reached."""


class Snapshotter(Protocol):
    """Whoever makes views of one moment elsewhere than beside the disks."""

    def taken(self, disks: Sequence[str], *, application: bool) -> AbstractAsyncContextManager[TakenSnapshot]:
        """A view of these disks (as people write their paths), given back when the context ends. Whatever was frozen
        for it goes on already. BusyError if it can't be had now."""
