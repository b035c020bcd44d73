"""How it was known what had changed, and how far that was checked, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .points import Change, DiskState, Provenance, Trust


def mistake_in_words(path: str, trust: Trust) -> str:
    """What a tracker got wrong of one disk, as a sentence without its full stop; empty if it got nothing wrong."""
    mistake = trust.mistake
    if mistake is None:
        return ""
    which = f"chunk {mistake.chunk}" if mistake.chunks == 1 else f"{mistake.chunks} chunks, the first {mistake.chunk},"
    return f"{path}: {mistake.tracker.value} called {which} unchanged, and that was wrong; the whole disk was read"


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
