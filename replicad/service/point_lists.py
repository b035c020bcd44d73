"""The recovery points that replicas have, read without their locks and remembered for a while: little changes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from replicad.model.clock import Clock
from replicad.model.errors import ReplicadError, SignInError, TimedOutError
from replicad.model.points import RecoveryPoint
from replicad.workflows.list_points import PointList

from .events import CycleEnded, Event, MachineChanged

READ_WITHIN_S = 20.0
_FRESH_S = 60.0
"""Others may prune, and pin, from elsewhere."""
_FRESH_ERROR_S = 15.0
_FRESH_FOR_WHO_WAITS_S = 1.0
"""Nothing was learned of the replica itself."""
_MOST_REMEMBERED = 64
_READS_AT_ONCE = 4

ReadPoints = Callable[[str], Awaitable[PointList]]


@dataclass(frozen=True, slots=True)
class KnownPoints:
    """`points` ascending, as the replica had them at `read_at`; `pending` is the number of a cycle that was under way
    or interrupted."""

    points: tuple[RecoveryPoint, ...]
    pending: int | None
    read_at: datetime


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What came of a reading, for how long it holds (on the steady clock)."""

    came: KnownPoints | ReplicadError
    until_s: float


class PointLists:
    """What `read` tells, asked for once however many ask. For one event loop."""

    def __init__(self, read: ReadPoints, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._reading: dict[str, asyncio.Lock] = {}
        self._asking: dict[str, int] = {}
        self._changed: set[str] = set()
        """Machines that changed while they were read."""
        self._room = asyncio.Semaphore(_READS_AT_ONCE)

    async def of(self, vm: str) -> KnownPoints:
        """The points of a machine that is kept, at most a minute old, and not from before its last cycle.

        At most four are read at once. Raises what reading its replica raises, once for all who ask within 15 s; a
        sign-in that was refused is not tried again before the machine is changed or has run a cycle, as servers lock
        accounts. TimedOutError after 20 s.
        """
        lock = self._reading.setdefault(vm, asyncio.Lock())
        self._asking[vm] = self._asking.get(vm, 0) + 1
        try:
            async with lock:
                known = self._remembered.get(vm)
                if known is None or self._clock.monotonic_s() >= known.until_s:
                    known = await self._read_anew(vm)
        finally:
            self._asking[vm] -= 1
            if not self._asking[vm]:
                del self._asking[vm], self._reading[vm]
                self._changed.discard(vm)
        if isinstance(known.came, ReplicadError):
            raise known.came.with_traceback(None)  # without the way that it took to others
        return known.came

    def hear(self, event: Event) -> None:
        """What was read before a machine changed is old."""
        if isinstance(event, CycleEnded):
            self._forget(event.run.vm)
        elif isinstance(event, MachineChanged):
            self._forget(event.vm)

    def _forget(self, vm: str) -> None:
        self._remembered.pop(vm, None)
        if vm in self._reading:
            self._changed.add(vm)

    async def _read_anew(self, vm: str) -> _Remembered:
        self._changed.discard(vm)
        came, for_s = await self._came(vm)
        known = _Remembered(came, self._clock.monotonic_s() + for_s)
        # What changed meanwhile may not be in it. A refused sign-in is remembered whatever else happened.
        if vm not in self._changed or isinstance(came, SignInError):
            self._remembered[vm] = known
            self._remembered.move_to_end(vm)
            while len(self._remembered) > _MOST_REMEMBERED:
                self._remembered.popitem(last=False)
        return known

    async def _came(self, vm: str) -> tuple[KnownPoints | ReplicadError, float]:
        """What came of reading, and for how long that holds."""
        began_s: float | None = None
        try:
            async with asyncio.timeout(READ_WITHIN_S), self._room:
                at, began_s = self._clock.now(), self._clock.monotonic_s()
                found = await self._read(vm)
                return KnownPoints(found.points, found.pending, at), _FRESH_S
        except TimeoutError:
            op, subject, hint = "read", f"the recovery points of {vm}", "Try again later."
            if began_s is None:
                answer = f"{_READS_AT_ONCE} others are being read, and their servers give no answer"
                return TimedOutError(op, subject, answer, hint), _FRESH_FOR_WHO_WAITS_S
            answer = f"its server gave no answer within {self._clock.monotonic_s() - began_s:.0f} s"
            return TimedOutError(op, subject, answer, hint), _FRESH_ERROR_S
        except ReplicadError as error:
            return error, float("inf") if isinstance(error, SignInError) else _FRESH_ERROR_S
