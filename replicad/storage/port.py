"""The ports to storage: a `Share` is a directory tree, a `ShareFile` an open file in it.

All paths are relative to the share's root, with '/' between the parts; '' is the root. Adapters refuse
paths that would leave it (InvalidNameError). All methods may raise any `ReplicadError`; what a method
promises beyond that is said beside it. Every call ends: adapters bound each wait by a timeout. A call that is
cancelled may or may not have taken effect, and leaves the object usable or condemned, never half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Protocol, Self, TypeVar

from replicad.model.extent_maps import ExtentMap
from replicad.model.extents import Extent

T = TypeVar("T")

Buffer = bytes | bytearray | memoryview
Piece = tuple[Buffer, int]
"""Bytes, and the offset that they go to."""


class OpenMode(Enum):
    """What an open file is for. Files of all modes but HOLD share everything with other openers."""

    READ = "read"
    """Read an existing file."""
    HOLD = "hold"
    """Read an existing file, and let nobody write it, truncate it or open it for writing meanwhile.
    BusyError if somebody has it open for writing now; UnsupportedError where the share can't tell.
    If the hold is lost later (somebody locally insists), every further `read_into` raises BusyError."""
    WRITE = "write"
    """Read and write an existing file."""
    CREATE = "create"
    """Make a new, empty file to read and write; AlreadyExistsError if there is one."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one file, and one state of it, from another.

    Times are the share's own, in nanoseconds since 1970 UTC, as coarse as the share keeps them. They prove
    nothing while somebody may hold the file open for writing.
    """

    file_id: str
    size_bytes: int
    write_time_ns: int
    change_time_ns: int


@dataclass(frozen=True, slots=True)
class Stat:
    """One directory entry. `size_bytes` and `allocated_bytes` are 0 for directories.

    `is_link` marks symbolic links and other reparse points: adapters never follow one below the root. `is_special`
    marks what is neither a file nor a directory nor a link: a device, a pipe, a socket.
    """

    name: str
    is_dir: bool
    size_bytes: int
    allocated_bytes: int
    write_time_ns: int
    is_link: bool = False
    is_special: bool = False


@dataclass(frozen=True, slots=True)
class CopyRange:
    """`length_bytes` from `source_offset_bytes` of the source to `offset_bytes` of the target."""

    source_offset_bytes: int
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a share was seen to do, not what it claims. `notes` are sentences for people."""

    server_copy: bool
    sparse: bool
    zero: bool
    allocated_extents: bool
    hold: bool
    flush_directory: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a lock, as written in the lock file, so that others can say it and the same host can tell
    whether that process is still alive. `session_id` is the SMB session (0 where there is none)."""

    host: str
    machine_id: str
    boot_id: str
    pid: int
    process_start: str
    since: str
    session_id: int = 0
    extra: dict[str, str] = field(default_factory=dict)


class ShareFile(Protocol):
    """An open file. Offsets and lengths are in bytes. Use as `async with`, or call `close`."""

    @property
    def path(self) -> str:
        """Its path on the share."""

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; the number of bytes read, which is less than asked only at the end of file."""

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        """Fill `buffer` as `read_into` does, and return what `use` makes of the part that was read.

        It is called on the thread that has just read, where there is one, as the bytes are in the processor's cache and
        need no other hop to a thread; else on one of `executor`. After being cancelled it may still look at the buffer.
        """

    async def write(self, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`, growing the file as needed. Not durable before `flush`.

        After an error any part of the range may have been written (a full disk included).
        """

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        """Write all of several buffers, each at its offset, in any order: as `write` for each one, but without waiting
        for one before the next. They must not overlap."""

    async def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, freeing its space where the share can. Never changes the size: what lies
        beyond the end is left out. Falls back to writing zeros where the share can't do better."""

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        """Copy ranges of `source` (an open file of the same server) without a byte travelling through us.

        The ranges may be many and scattered; they must lie within the source and may grow this file; where
        source and target are one file they must not overlap. UnsupportedError, with nothing to be relied on
        in the target ranges, where the server can't do it: read and write instead.
        """

    async def allocated_extents(self) -> list[Extent]:
        """A normal sequence of extents outside of which the file reads as zeros. At worst the whole file."""

    async def flush(self) -> None:
        """On return everything written to this file, and its size, is durable."""

    async def set_size(self, size: int) -> None:
        """Cut the file, or grow it with zeros (without allocating where the share can)."""

    async def identity(self) -> Identity:
        """Asked anew of the share at each call."""

    async def close(self) -> None:
        """Give the file back. Never raises because of a lost connection, and can be called again."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ShareLock(Protocol):
    """A lock that the share itself enforces, against every host; it ends with the process that holds it."""

    async def check(self) -> None:
        """Return if the lock is still held as far as the share can tell; LockedError if it was lost."""

    async def release(self) -> None:
        """Give the lock up. Never raises because of a lost connection, and can be called again."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ChangeHints(Protocol):
    """Hints that something changes in a directory, or below it, whoever changes it. Hints: some may be missing, and
    some may be too many. For one waiter at a time."""

    async def wait(self, within_s: float) -> frozenset[str] | None:
        """The paths that changed since the last call, or during this one; empty: any may have. None: so long nothing
        did. UnsupportedError where nobody tells of changes; after a lost connection (UnreachableError) it can be
        called again, and then anything may have changed."""

    async def close(self) -> None:
        """Hear no more. Never raises because of a lost connection."""


class Share(Protocol):
    """A directory tree on a local file system or an SMB server."""

    @property
    def name(self) -> str:
        r"""How users know it: `\\server\share\directory` or a local path."""

    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        """NotFoundError, AlreadyExistsError, BusyError, AccessDeniedError as the mode says. Never follows a link."""

    async def stat(self, path: str) -> Stat:
        """NotFoundError if there is nothing at `path`."""

    async def list(self, path: str) -> list[Stat]:
        """The entries of a directory, sorted by name. NotFoundError if there is none."""

    async def make_dir(self, path: str) -> None:
        """Make a directory and those above it; fine if it is there already (AlreadyExistsError if a file is)."""

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        """Rename a file or directory, atomically for whoever looks. Durable only after `flush_directory` of both
        parents. AlreadyExistsError if the target is there and `replace` is false (directories never replace)."""

    async def remove(self, path: str) -> None:
        """Remove a file or an empty directory. NotFoundError if it is not there; links are removed, not followed."""

    async def flush_directory(self, path: str) -> None:
        """On return the names made, renamed and removed in the directory `path` are durable, where the share can."""

    async def free_bytes(self) -> int:
        """The room left for us."""

    async def lock(self, path: str, holder: LockHolder) -> ShareLock:
        """Take the lock file `path`, or raise LockedError that says who holds it and since when.

        The lock is given back by the share when the process that holds it dies. If the holder written in the file
        is a dead process of this same host whose session the server still keeps, the lock is taken over.
        """

    async def lock_holder(self, path: str) -> LockHolder | None:
        """Who holds the lock now; None if nobody does."""

    async def capabilities(self) -> Capabilities:
        """Tried out on a temporary file in the root (removed again) where the share lets us write, else told by it."""

    async def close(self) -> None:
        """Give back what the share holds (its connections, if nobody else uses them)."""


@dataclass(frozen=True, slots=True)
class CloneForecast:
    """What a clone of a file will take: its writers wait for `stall_s` seconds, about, as it has so many `extents`."""

    extents: int
    stall_s: float


@dataclass(frozen=True, slots=True)
class RoomOnDisk:
    """The room of the file system that a share lies on: what is left for us, and all there is."""

    free_bytes: int
    total_bytes: int


class Clones(Protocol):
    """Some files of a share, each with an empty one beside it that can become its clone. Use as `async with`: at its
    end, or with this process, what was not given a name is gone."""

    async def forecast(self) -> tuple[CloneForecast, ...]:
        """What each clone will take. What was written to the files until now is then on the disk, so that `take` need
        not wait for it."""

    async def approach(self) -> tuple[CloneForecast, ...]:
        """The same for who is going to have the files' writers stand still while `take` is called: where that would
        take long, all but what is written from now on is cloned already, while writers go on."""

    async def take(self) -> tuple[ShareFile, ...]:
        """Make all clones, one right after the other: each one is all bytes of its file at one instant. Called once.
        After `approach` they are those of the time of this call, in which nobody must write, if they `held`.

        They are open for reading, under their files' paths, and are closed with this. UnsupportedError where the file
        system can't do it, OutOfSpaceError where it has no room for it.
        """

    async def held(self) -> bool:
        """Asked after `take`, when writers go on: False if the file system moved bytes of the clones around that were
        approached, so that nothing is certain of them."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class CloningShare(Share, Protocol):
    """A share whose files can be cloned in an instant: a clone has its file's blocks until either of them is written.

    All methods raise UnsupportedError where the share can't do it.
    """

    async def clones(self, paths: Sequence[str]) -> Clones:
        """Open these files, to be cloned. Raises as `open` for reading does."""

    async def give_name(self, clone: ShareFile, path: str) -> None:
        """Let a clone that was taken stay, as a file of its own that only its owner can read. AlreadyExistsError."""

    async def fingerprint(self, file: ShareFile) -> str:
        """What stays as it is for as long as nobody changes the file, and no other file ever has. It changes when the
        file is given a name."""

    async def extent_map(self, file: ShareFile) -> ExtentMap:
        """Where the bytes of an open file lie, all that was written to it included. ValueError if it changes meanwhile
        in a way that shows; UnsupportedError where places tell nothing certain."""

    async def room(self) -> RoomOnDisk:
        """The room there is now."""
