"""How far a verification has come: one that is broken off for a cycle does not read again what it has read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from replicad.model.extents import Extent, normalise

from .damage import Damage


@dataclass(slots=True)
class FileCover:
    """Of one file: all its pieces (chunks of a disk, entries of an undo log) before `upto` were read, and all of them
    but the `bad` ones were what they must be. `is_counted`: its bytes are among those that were read."""

    upto: int = 0
    bad: set[int] = field(default_factory=set)
    is_counted: bool = False

    def wants(self, first: int, end: int) -> bool:
        """Whether any of the pieces [first, end) is still to be read, or to be looked at once more."""
        return end > self.upto or any(first <= piece < end for piece in self.bad)

    def wanted(self, allocated: Iterable[Extent], piece_bytes: int, size_bytes: int) -> list[Extent]:
        """Where to read a file of equal pieces: the bad ones, and what is allocated of those that were not read yet; as
        a normal sequence."""
        start = self.upto * piece_bytes
        bad = (Extent(p * piece_bytes, min(piece_bytes, size_bytes - p * piece_bytes)) for p in self.bad
               if p * piece_bytes < size_bytes)  # fmt: skip
        rest = (
            Extent(max(e.offset_bytes, start), e.end_bytes - max(e.offset_bytes, start))
            for e in allocated
            if e.end_bytes > start
        )
        return normalise([*bad, *rest])

    def took(self, first: int, end: int, bad: Iterable[int]) -> None:
        """The pieces [first, end) were looked at, as far as they were wanted, and these of them are bad. Calls come in
        the pieces' order."""
        self.bad = {piece for piece in self.bad if not first <= piece < end} if self.bad else self.bad
        self.bad.update(bad)
        self.upto = max(self.upto, end)


@dataclass(slots=True)
class Covered:
    """Of one verification of one replica, through all its turns; in the beginning there is nothing.

    Files are known by what they are, not only by their names: one that another took the place of is read anew. What a
    cycle writes behind the place that was come to is not read again: it was written after the verification began.
    `is_mending` while something is put right, which is not to be broken off; `steps` grows as it gets on.
    """

    files: dict[tuple[str, ...], FileCover] = field(default_factory=dict)
    read_bytes: int = 0
    steps: int = 0
    repaired: list[Damage] = field(default_factory=list)
    is_mending: bool = False

    def of(self, *key: str) -> FileCover:
        """What is known of the file that `key` stands for."""
        return self.files.setdefault(key, FileCover())

    def took(self, cover: FileCover, first: int, end: int, bad: Iterable[int]) -> None:
        """As `FileCover.took`."""
        if end > cover.upto:
            self.steps += 1
        cover.took(first, end, bad)
