"""Change sets: the extents of a disk that may differ from a point, and how we know. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .extents import Extent
from .points import Provenance, Trust


class Outside(Enum):
    """What is certain of the bytes that no extent of a change set covers."""

    ZEROS = "zeros"
    """They read as zeros."""
    UNCHANGED = "unchanged"
    """They are what they were; where the file was shorter, they read as zeros."""


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """`extents` is a normal sequence. `note` is a clause for people: why it is no narrower, where that needs a word.
    `trust` is there if it is no narrower because a tracker was found wrong."""

    extents: tuple[Extent, ...]
    outside: Outside
    provenance: Provenance
    note: str = ""
    trust: Trust | None = None


@dataclass(frozen=True, slots=True)
class Untold:
    """A tracker can't tell what has changed: why, as a clause."""

    reason: str


@dataclass(frozen=True, slots=True)
class BaseState:
    """A state of one disk that the replica holds, and since which changes can be asked for: `digest` is that of its
    manifest, so that two equal ones are the same bytes."""

    disk_id: str
    digest: str
