"""How it was known what had changed, and how far that was checked, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .points import Change, DiskState, Provenance, RecoveryPoint, Trust


@dataclass(frozen=True, slots=True)
class TrackerMistake:
    """A tracker was found wrong at the time `at` (UTC), in the cycle of this point; `text` says about what, without a
    full stop."""

    point: int
    at: datetime
    text: str


def mistakes_of(points: Iterable[RecoveryPoint]) -> tuple[TrackerMistake, ...]:
    """What the records of these points tell of trackers that were wrong, in the order in which it was found."""
    found = [
        TrackerMistake(point.number, disk.trust.mistake.found, mistake_in_words(disk.path, disk.trust))
        for point in points
        for disk in point.disks
        if disk.trust is not None and disk.trust.mistake is not None
    ]
    return tuple(sorted(found, key=lambda mistake: (mistake.point, mistake.at)))


def mistake_in_words(path: str, trust: Trust) -> str:
    """What a tracker got wrong of one disk, as a sentence without its full stop; empty if it got nothing wrong."""
    mistake = trust.mistake
    if mistake is None:
        return ""
    which = f"chunk {mistake.chunk}" if mistake.chunks == 1 else f"{mistake.chunks} chunks, the first {mistake.chunk},"
    return f"{path}: {mistake.tracker.value} called {which} unchanged, and that was wrong; the whole disk was read"


def trust_facts(trust: Trust) -> dict[str, Any]:
    """What `--json` and the API tell of it."""
    mistake = trust.mistake
    return {
        "checked_chunks": trust.checked_chunks,
        "unchanged_chunks": trust.unchanged_chunks,
        "wrong_chunks": 0 if mistake is None else mistake.chunks,
        "tracker": None if mistake is None else mistake.tracker,
    }


def tracking_in_words(disks: Sequence[DiskState]) -> tuple[str, ...]:
    """One clause for each way in which changes of these disks became known; with several disks it names them."""
    found: dict[str, list[str]] = {}
    for disk in disks:
        found.setdefault(_of_disk(disk), []).append(disk.path)
    if len(found) == 1:
        return tuple(found)
    return tuple(f"{', '.join(paths)}: {words}" for words, paths in found.items())


def _of_disk(disk: DiskState) -> str:
    name, trust = disk.provenance.value, disk.trust
    if disk.change is Change.INITIAL:
        return f"{name} of what is new"
    if trust is not None and trust.mistake is not None:
        return f"{name}: {trust.mistake.tracker.value} called chunks unchanged that had changed"
    if disk.provenance is Provenance.FULL_SCAN or trust is None:
        return f"{name}: {disk.note}" if disk.note else name
    return f"{name}; {_checked(trust)}"


def _checked(trust: Trust) -> str:
    if not trust.unchanged_chunks:
        return "no chunk was called unchanged"
    checked = f"{trust.checked_chunks:,} of {trust.unchanged_chunks:,} unchanged chunks checked"
    return f"{checked}, all as they were"
