"""What a move works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from replicad.hypervisor.port import DiskUser, Relocation
from replicad.model.address import parse_address
from replicad.model.moves import MovedFile, MoveRecord
from replicad.storage.port import Share
from replicad.tracking.port import ChangeSource

from .move_journal import MoveJournal


@dataclass(frozen=True, slots=True)
class MoveParts:
    """Made by the composition root for one move. `places` are in the order of the record's.

    `changes` tells what is written at the source, of the files that it is given; what it shows need not stand still.
    `takes`: which files below the source are the machine's; None: all.
    """

    source: Share
    places: tuple[Share, ...]
    user: DiskUser
    changes: Callable[[Sequence[MovedFile]], ChangeSource]
    journal: MoveJournal
    takes: Callable[[str], bool] | None = None

    def place_of(self, file: MovedFile) -> Share:
        """Where a file goes."""
        return self.places[file.place]


def relocations(record: MoveRecord, files: Sequence[MovedFile]) -> tuple[Relocation, ...]:
    """Where files are, and are to be, as whoever uses them is told."""
    source, places = parse_address(record.source), [parse_address(place) for place in record.places]
    return tuple(
        Relocation(
            file.path, source.child(*file.path.split("/")), places[file.place].child(*file.target.split("/")),
            file.place, file.target,
        )
        for file in files
    )  # fmt: skip
