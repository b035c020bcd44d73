"""What is known of the chunks of a replica's disk while a cycle writes it. Pure (but changing as the cycle goes on)."""

from __future__ import annotations

from collections.abc import Iterator

from replicad.model.chunks import chunk_count
from replicad.model.errors import IntegrityError
from replicad.model.manifest import HASH_BYTES, PAGE_HASHES, ZERO_HASH, Manifest, ManifestEdit

from .undo_format import NOT_WRITTEN, EntryKind, UndoEntry

_UNTOUCHED, _KNOWN, _UNKNOWN = 0, 1, 2
_MAX_CHUNKS = 1 << 30


class KnownChunks:
    """Starts from `previous`, the manifest at the point before, for a disk that shall become `size_bytes` long.

    A chunk is *touched* once an entry of this cycle's undo log names it: from then on its old bytes are safe, and what
    the disk holds of it is known (a hash) or unknown.
    """

    def __init__(self, previous: Manifest, size_bytes: int) -> None:
        self.previous = previous
        self.size_bytes = size_bytes
        self.chunk_bytes = previous.chunk_bytes
        self.chunks = chunk_count(size_bytes, previous.chunk_bytes)
        self._limit = max(self.chunks, previous.chunks)
        self._present = ManifestEdit(previous, max(size_bytes, previous.size_bytes))
        self._touched = bytearray(self._limit)
        self._mended: set[int] = set()
        self._distrusted: set[int] = set()

    def replay(self, entry: UndoEntry, durable: bool) -> None:
        """Take in an entry of the log that an interrupted cycle left; `durable`: its write certainly reached the disk.

        Entries must come in the log's order. IntegrityError for a chunk that no disk can have.
        """
        known = durable and entry.new_hash != NOT_WRITTEN
        if entry.kind is EntryKind.AGAIN and self._is_untouched(entry.chunk):
            # The replica's own copy was damaged and is being mended: nothing of the chunk is saved yet.
            self._present.put(entry.chunk, entry.new_hash if known else NOT_WRITTEN)
            self._mended.add(entry.chunk)
            return
        self._mended.discard(entry.chunk)
        self._mark(entry.chunk, _KNOWN if known else _UNKNOWN)
        if known and entry.chunk < self._limit:
            self._present.put(entry.chunk, entry.new_hash)

    def distrust(self, index: int) -> None:
        """Nothing is known of what the disk holds of a chunk, although no entry of the log names it."""
        self._present.put(index, NOT_WRITTEN)
        self._distrusted.add(index)

    def _is_untouched(self, index: int) -> bool:
        return index < self._limit and self._touched[index] == _UNTOUCHED

    @property
    def limit_bytes(self) -> int:
        """Beyond this offset neither the disk before nor the one to come has anything."""
        return max(self.size_bytes, self.previous.size_bytes)

    def believe(self, found: Manifest) -> int:
        """Take the hashes of what was read from the replica's disk itself for true.

        Returns how many chunks that this cycle has not touched yet are not what the manifest says. They count as stale.
        """
        damaged = 0
        for index in self._differing(found):
            hash_found = found.hash_of(index)
            if self._touched[index] == _UNKNOWN:
                self._touched[index] = _KNOWN
            elif self._present.hash_of(index) == hash_found:
                continue
            elif self._touched[index] == _UNTOUCHED:
                # Even if it is what the source has now: without an entry in the undo log no older point could tell
                # what it should have been.
                hash_found, damaged = NOT_WRITTEN, damaged + 1
                self._distrusted.add(index)
            self._present.put(index, hash_found)
        return damaged

    def _differing(self, found: Manifest) -> Iterator[int]:
        """The chunks of all pages that are not as they should be, or that have a chunk in doubt."""
        for first in range(0, self._limit, PAGE_HASHES):
            count = min(PAGE_HASHES, self._limit - first)
            same = self._present.hashes(first, count) == found.hashes(first, count)
            if not same or self._touched.find(_UNKNOWN, first, first + count) >= 0:
                yield from range(first, first + count)

    def in_doubt(self) -> list[int]:
        """The chunks that an entry of the log names and of which it is not known what the disk holds, ascending."""
        found = [index for index in self._mended if self._present.hash_of(index) == NOT_WRITTEN]
        position = self._touched.find(_UNKNOWN)
        while position >= 0:
            found.append(position)
            position = self._touched.find(_UNKNOWN, position + 1)
        return sorted(found)

    def to_compare(self) -> list[int]:
        """The chunks below the new end that must be compared with the source whatever is known to have changed there
        since the point before, ascending: the disk may hold something else of them than it did then, or they have
        another length now."""
        found = {index for index in self._mended | self._distrusted if index < self.chunks}
        position = -1
        for state in (_KNOWN, _UNKNOWN):
            while (position := self._touched.find(state, position + 1, self.chunks)) >= 0:
                found.add(position)
        if self.size_bytes != self.previous.size_bytes and (shorter := min(self.size_bytes, self.previous.size_bytes)):
            found.add((shorter - 1) // self.chunk_bytes)
        return sorted(found)

    def writing(self, first: int, count: int) -> None:
        """The chunks from `first` on are about to be overwritten."""
        self._mark_all(first, count, _UNKNOWN)

    def written(self, first: int, new_hashes: bytes) -> None:
        """The chunks from `first` on were overwritten."""
        self._mark_all(first, len(new_hashes) // HASH_BYTES, _KNOWN)
        self._present.put(first, new_hashes)

    def _mark_all(self, first: int, count: int, state: int) -> None:
        self._mark(first + count - 1, state)
        self._touched[first : first + count] = bytes([state]) * count

    def _mark(self, index: int, state: int) -> None:
        if index >= len(self._touched):
            if index >= _MAX_CHUNKS:
                raise IntegrityError("use", "an undo log", f"it names chunk {index}, which no disk has")
            self._touched.extend(bytes(index + 1 - len(self._touched)))
        self._touched[index] = state

    def stale(self, first: int, hashes: bytes) -> list[int]:
        """Which of the chunks from `first` on, whose new hashes these are, the disk does not certainly hold yet."""
        count = len(hashes) // HASH_BYTES
        unknown = self._touched.find(_UNKNOWN, first, first + count) >= 0
        present = self._present.hashes(first, count)
        if not unknown and present == hashes:
            return []
        return [
            first + i
            for i, start in enumerate(range(0, len(hashes), HASH_BYTES))
            if present[start : start + HASH_BYTES] != hashes[start : start + HASH_BYTES]
            or (unknown and self._touched[first + i] == _UNKNOWN)
        ]

    def stale_zeros(self, first: int, end: int) -> list[int]:
        """Which of the chunks in [first, end), all of them zeros now, the disk does not certainly hold as zeros yet."""
        stale = set(self._present.nonzero_chunks(first, end))
        position = self._touched.find(_UNKNOWN, first, end)
        while position >= 0:
            stale.add(position)
            position = self._touched.find(_UNKNOWN, position + 1, end)
        return sorted(stale)

    def entries(self, first: int, new_hashes: bytes) -> list[UndoEntry]:
        """What the undo log must say before the chunks from `first` on become what `new_hashes` name."""
        count = len(new_hashes) // HASH_BYTES
        news = [new_hashes[start : start + HASH_BYTES] for start in range(0, len(new_hashes), HASH_BYTES)]
        if first >= self.previous.chunks and not any(self._touched[first : first + count]):
            return [UndoEntry(first + i, EntryKind.BEYOND, ZERO_HASH, new) for i, new in enumerate(news)]
        return [self.entry(first + i, new) for i, new in enumerate(news)]

    def entry(self, index: int, new_hash: bytes) -> UndoEntry:
        """What the undo log must say before this chunk becomes what `new_hash` names (or is cut off: NOT_WRITTEN)."""
        old_hash = self.previous.hash_of(index)
        if self._touched[index] != _UNTOUCHED or (old_hash == new_hash and index < self.previous.chunks):
            # Untouched, and yet written with what it should hold: the replica's own copy was damaged, and there is
            # nothing worth saving. Restoring an older point finds the sound bytes on the disk.
            return UndoEntry(index, EntryKind.AGAIN, ZERO_HASH, new_hash)
        if index >= self.previous.chunks:
            return UndoEntry(index, EntryKind.BEYOND, ZERO_HASH, new_hash)
        return UndoEntry(index, EntryKind.ZERO if old_hash == ZERO_HASH else EntryKind.SAVED, old_hash, new_hash)

    def cut_off(self) -> list[int]:
        """The chunks beyond the new end that hold or may hold something, ascending."""
        lost = set(self.previous.nonzero_chunks(self.chunks, self.previous.chunks))
        lost.update(i for i in range(self.chunks, len(self._touched)) if self._touched[i] != _UNTOUCHED)
        return sorted(lost)

    def manifest(self) -> Manifest:
        """The manifest of the disk at its new size; all chunks below it must have been found not stale, or written."""
        return ManifestEdit(self._present.finish(), self.size_bytes).finish()
