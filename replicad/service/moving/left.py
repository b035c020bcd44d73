"""Moves that are written down at their destinations, and that this host does not remember: its catalog was lost, or
another host began them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from replicad.model.errors import NotFoundError
from replicad.model.known_moves import KnownMove
from replicad.model.moves import MovePhase, MoveRecord
from replicad.model.names import folded
from replicad.storage.port import Share
from replicad.workflows.move_files import is_put_away
from replicad.workflows.move_journal import records_at


async def left_move(wanted: KnownMove, known: Sequence[KnownMove], source: Share, place: Share) -> KnownMove:
    """What is left at the first place of a move from the same source to the same places, as `wanted` wants it to go on;
    `wanted` itself if there is nothing. IntegrityError for what is written down there and makes no sense."""
    ids = {move.id for move in known}
    for record in await records_at(place):
        is_it = (record.source, record.places) == (wanted.record.source, wanted.record.places)
        if record.id not in ids and is_it and not record.phase.has_ended and await _is_worth(record, source):
            return replace(wanted, record=replace(record, vm=wanted.vm, options=wanted.record.options))
    return wanted


async def _is_worth(record: MoveRecord, source: Share) -> bool:
    """Not so where a machine has come to the source again since its files were put away."""
    if record.phase is not MovePhase.RETIRED:
        return True
    try:
        entries = await source.list("")
    except NotFoundError:
        return True
    return all(is_put_away(entry.name) or folded(entry.name).startswith(".replicad-") for entry in entries)
