"""The directory tree behind the in-memory share: nodes, names, and which of them a crash would leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from replicad.model.names import folded, last_part, parent

from .port import Capabilities, LockHolder, Stat
from .sparse import PAGE_BYTES, Room, SparseBytes

if TYPE_CHECKING:
    from .memory import MemoryFile, MemoryLock

_FIRST_TICK_NS = 1_700_000_000_000_000_000
_TICK_NS = 1_000_000


@dataclass(slots=True, eq=False)
class FileNode:
    """One file, under whatever name."""

    tree: Tree
    number: int
    content: SparseBytes
    write_time_ns: int
    change_time_ns: int
    links: int = 0
    openers: list[MemoryFile] = field(default_factory=list)
    lock: MemoryLock | None = None
    holder: LockHolder | None = None

    def stat(self) -> Stat:
        """Its directory entry, without a name."""
        return Stat("", False, self.content.size, len(self.content.pages) * PAGE_BYTES, self.write_time_ns)


@dataclass(slots=True, eq=False)
class Directory:
    """One directory: what is in it now, and what would be in it after a crash."""

    write_time_ns: int
    entries: dict[str, tuple[str, Node]] = field(default_factory=dict)
    durable: dict[str, tuple[str, Node]] = field(default_factory=dict)

    def stat(self) -> Stat:
        """Its directory entry, without a name."""
        return Stat("", True, 0, 0, self.write_time_ns)


Node = FileNode | Directory


@dataclass(frozen=True, slots=True)
class NameChange:
    """A change of names that is not durable yet: it becomes so as a whole, as in a file system's journal.

    `edits` are the entries that it sets, each by its directory and key, or takes away (None). It builds on every
    change before it that has an entry in common with it.
    """

    edits: tuple[tuple[Directory, str, tuple[str, Node] | None], ...]

    def places(self) -> set[tuple[int, str]]:
        """Which entries it is about."""
        return {(id(directory), key) for directory, key, _ in self.edits}

    def apply(self) -> None:
        """Make it durable."""
        for directory, key, entry in self.edits:
            if entry is None:
                directory.durable.pop(key, None)
            else:
                directory.durable[key] = entry


class Tree:
    """All nodes of one share. Nothing here awaits: each method is one step to whoever looks."""

    def __init__(
        self, *, case_sensitive: bool, most_pages: int | None, capabilities: Capabilities, volatile: bool
    ) -> None:
        self.room = Room(most_pages=most_pages)
        self.capabilities = capabilities
        self.volatile = volatile
        self._case_sensitive = case_sensitive
        self._time_ns = _FIRST_TICK_NS
        self._numbers = 0
        self._files: list[FileNode] = []
        self._pending: list[NameChange] = []
        self.root = self.new_directory()

    def tick(self) -> int:
        """The next moment of this share's clock."""
        self._time_ns += _TICK_NS
        return self._time_ns

    def files(self) -> list[FileNode]:
        """Every file that has a name, or had one when it was opened and is open still."""
        return list(self._files)

    def new_file(self) -> FileNode:
        """An empty file without a name yet."""
        self._numbers += 1
        now = self.tick()
        node = FileNode(self, self._numbers, SparseBytes(self.room, volatile=self.volatile), now, now)
        self._files.append(node)
        return node

    def new_directory(self) -> Directory:
        """An empty directory without a name yet."""
        return Directory(self.tick())

    def find(self, path: str) -> Node | None:
        """What is at `path`."""
        node: Node = self.root
        for part in path.split("/") if path else ():
            if not isinstance(node, Directory) or self._key(part) not in node.entries:
                return None
            node = node.entries[self._key(part)][1]
        return node

    def stored_name(self, path: str) -> str:
        """The last part of an existing path in the case in which it was made; '' for the root."""
        return self._directory_of(path).entries[self._key(last_part(path))][0] if path else ""

    def is_below(self, path: str, directory: Directory) -> bool:
        """Whether `path` lies inside `directory`."""
        while path := parent(path):
            if self.find(path) is directory:
                return True
        return False

    def link(self, path: str, node: Node) -> None:
        """Give a new node its name."""
        directory, key, entry = self._directory_of(path), self._key(last_part(path)), (last_part(path), node)
        directory.entries[key] = entry
        directory.write_time_ns = self.tick()
        if isinstance(node, FileNode):
            node.links += 1
        self._changed((directory, key, entry))

    def remove(self, path: str) -> None:
        """Take a name away."""
        directory, key = self._directory_of(path), self._key(last_part(path))
        _, node = directory.entries.pop(key)
        directory.write_time_ns = self.tick()
        self._changed((directory, key, None))
        self._unlinked(node)

    def rename(self, source: str, target: str) -> None:
        """Move a name, over a file that may be there."""
        old, new = self._directory_of(source), self._directory_of(target)
        old_key, new_key = self._key(last_part(source)), self._key(last_part(target))
        _, node = old.entries.pop(old_key)
        replaced = new.entries.get(new_key)
        entry = (last_part(target), node)
        new.entries[new_key] = entry
        old.write_time_ns = new.write_time_ns = self.tick()
        self._changed((old, old_key, None), (new, new_key, entry))
        if replaced is not None:
            self._unlinked(replaced[1])

    def flush_names(self, directory: Directory) -> None:
        """Make the changes of names in `directory` durable, and with each of them all that it builds on."""
        self._make_durable(lambda change: any(place is directory for place, _, _ in change.edits))

    def _make_durable(self, wanted: Callable[[NameChange], bool]) -> None:
        """Make the `wanted` changes of names durable, and those that they build on."""
        places: set[tuple[int, str]] = set()
        chosen: list[NameChange] = []
        left: list[NameChange] = []
        for change in reversed(self._pending):
            if wanted(change) or not places.isdisjoint(change.places()):
                places |= change.places()
                chosen.append(change)
            else:
                left.append(change)
        for change in reversed(chosen):
            change.apply()
        self._pending = left[::-1]

    def crash(self, luck: Random | None) -> None:
        """Go back to what is durable; with `luck`, some of the pending changes of names survive too: the first few, or
        any of them together with all that they build on."""
        if luck is not None:
            if luck.random() < 0.5:
                self._pending = self._pending[: luck.randint(0, len(self._pending))]
                self._make_durable(lambda change: True)
            else:
                share = luck.random()
                self._make_durable(lambda change: luck.random() < share)
        self._pending.clear()
        self._files = list(_restore(self.root))
        for node in self._files:
            node.links = 1
            node.content.crash(luck)
        self.room.used_pages = sum(len(node.content.pages) for node in self._files)

    def reclaim(self, node: FileNode) -> None:
        """Give the room of a file back that has neither a name nor an opener left."""
        if not node.links and not node.openers and node in self._files:
            self._files.remove(node)
            self.room.give(len(node.content.pages))

    def _unlinked(self, node: Node) -> None:
        if isinstance(node, FileNode):
            node.links -= 1
            self.reclaim(node)

    def _changed(self, *edits: tuple[Directory, str, tuple[str, Node] | None]) -> None:
        if self.volatile:
            self._pending.append(NameChange(edits))

    def _directory_of(self, path: str) -> Directory:
        node = self.find(parent(path))
        if not isinstance(node, Directory):
            raise TypeError(f"{parent(path)!r} is no directory")
        return node

    def _key(self, name: str) -> str:
        return name if self._case_sensitive else folded(name)


def _restore(directory: Directory) -> Iterator[FileNode]:
    """Set a directory and all below it to their durable entries; the files that are left."""
    directory.entries = dict(directory.durable)
    for _, node in directory.entries.values():
        if isinstance(node, Directory):
            yield from _restore(node)
        else:
            yield node
