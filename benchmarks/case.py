"""What a case is: the same thing done by replicad and by another program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .harness import Measurement
from .lab import Lab


@dataclass(frozen=True, slots=True)
class Case:
    """`prepare` comes before each run of either side and is not measured; `ours` also gives the bytes that were sent.

    Both sides check their result after the clock has stopped.
    """

    name: str
    rival: str
    prepare: Callable[[Lab], None]
    ours: Callable[[Lab], tuple[Measurement, int]]
    theirs: Callable[[Lab], Measurement]
