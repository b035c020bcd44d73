"""Change sets: the extents of a disk that may differ from a point, and how we know. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .extents import Extent
from .points import Provenance


class Outside(Enum):
    """What is certain of the bytes that no extent of a change set covers."""

    ZEROS = "zeros"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """`extents` is a normal sequence."""

    extents: tuple[Extent, ...]
    outside: Outside
    provenance: Provenance
