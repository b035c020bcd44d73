"""The port to a virtual machine's source: a view of its files that stands still, and what changed in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from replicad.model.changes import ChangeSet
from replicad.model.points import Consistency, FileKind
from replicad.storage.port import ShareFile


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All files of the virtual machine as they were at `taken` (UTC), with the promise `consistency`.

    The promise holds as long as reading raises nothing and `confirm` returns, called after the last byte was read.
    """

    files: tuple[SnapshotFile, ...]
    consistency: Consistency
    taken: datetime
    warnings: tuple[str, ...]
    confirm: Callable[[], Awaitable[None]]


class ChangeSource(Protocol):
    """Where the disks of one virtual machine come from."""

    async def select(self) -> tuple[SelectedFile, ...]:
        """Which files there are now, sorted by path.

        NotFoundError if there is no disk or a named one is missing; InvalidNameError for a name that a replica can't
        hold; PermanentError for two that differ only by case.
        """

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A view that stands still until its context ends. BusyError if it can't be had now."""

    async def changes(self, file: SnapshotFile) -> ChangeSet:
        """Where `file` may differ from the latest point."""
