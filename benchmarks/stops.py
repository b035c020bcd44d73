"""How long a guest stood still, by QEMU's own clock and by its own, and how such times are told."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.guest import Guest, monitor


class Stops:
    """How long the machine stood still each time that it was stopped (`took_s`), while this is entered."""

    def __init__(self, guest: Guest) -> None:
        self.took_s: list[float] = []
        self._guest = guest

    async def __aenter__(self) -> Stops:
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.wait([self._listening])

    async def _listen(self) -> None:
        stopped_s = 0.0
        async with monitor(self._guest.own_qmp_path) as qmp:
            while True:
                said = await qmp.answer()
                at = said.get("timestamp", {"seconds": 0, "microseconds": 0})
                at_s = at["seconds"] + at["microseconds"] / 1e6
                if said.get("event") == "STOP":
                    stopped_s = at_s
                elif said.get("event") == "RESUME":
                    self.took_s.append(at_s - stopped_s)


@dataclass(slots=True)
class Gaps:
    """The longest time, in each of several spans of time, in which something did not come."""

    beats_s: list[float] = field(default_factory=list)
    records_s: list[float] = field(default_factory=list)

    def add(self, guest: Guest, since_s: float, until_s: float) -> None:
        """What the guest told of one span."""
        self.beats_s.append(guest.longest_gap(since_s, until_s))
        self.records_s.append(guest.longest_write_gap(since_s, until_s))


def spread(times_s: Sequence[float]) -> str:
    """The middle, what one in a hundred exceeds, and the longest of at least two times, in milliseconds."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive")
    return f"p50 {cuts[49] * 1e3:5.0f}, p99 {cuts[98] * 1e3:5.0f}, max {max(times_s) * 1e3:5.0f} ms"
