"""Where machines of the configuration are since they were moved, whatever the configuration says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class MovedSource:
    """A machine's source since it was moved. `former`: all that it had before, the oldest first, as addresses."""

    vm: str
    former: tuple[str, ...]
    source: str
    since: datetime


def moved_again(before: MovedSource | None, vm: str, former: str, source: str, since: datetime) -> MovedSource:
    """The same after one more move."""
    known = () if before is None else (*before.former, before.source)
    return MovedSource(vm, tuple(dict.fromkeys((*known, former))), source, since)
