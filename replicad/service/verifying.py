"""Verifying the replicas of all machines, one at a time, when it is due or somebody asks.

A verification needs the replica's lock, may take hours, and cycles come first: it is done in turns, each of which ends
when a cycle of that machine wants to begin, and goes on where it was. What is read is remembered in this process only:
after a restart a verification begins anew.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from replicad.model import verification as plans
from replicad.model.agenda import Agenda
from replicad.model.clock import Clock
from replicad.model.errors import (
    BusyError,
    IntegrityError,
    LockedError,
    NotFoundError,
    ReplicadError,
    StuckError,
)
from replicad.model.progress import PhaseStarted
from replicad.model.schedule import Schedule
from replicad.model.verification import VerificationOutcome, VerificationPlan, VerificationResult
from replicad.workflows.covered import Covered
from replicad.workflows.damage import Verification

from .attempt import to_the_end
from .clock_steps import ClockSteps
from .events import Event, MachineChanged, Trouble, VerificationBegan, VerificationEnded
from .verified import result_of
from .watch import STALLED_AFTER_S, Progress, Watch

SHORTEST_TURN_S = 5.0
"""How long a cycle waits for a verification that has just begun its turn: else those would never get on beside cycles
that follow each other closely."""
_LONGEST_START_S = 60.0
"""How long it waits for one that has got nowhere in its turn yet."""
_TICK_S = 5.0
_LOOK_EVERY_S = 0.05
_STOP_PATIENCE_S = 2.5
_HURRY_EVERY_S = 0.25


class Verifications(Protocol):
    """How a machine's replica is verified."""

    async def verify(self, vm: str, watch: Watch, covered: Covered, *, repair: bool) -> Verification:
        """All that `covered` does not know yet, told to `watch`. It can be cancelled, and gone on with."""

    def give_up(self) -> None:
        """Have those that are being cancelled wait for no server any more."""


class Memory(Protocol):
    """What outlives the daemon; `replicad.catalog` is one."""

    async def save_verification(self, *changed: VerificationPlan) -> None:
        """In place of their machines' last ones."""


@dataclass(frozen=True, slots=True)
class End:
    """How a verification ended: with what was found, or with an error."""

    result: VerificationResult
    found: Verification | None = None
    error: ReplicadError | None = None


@dataclass(slots=True)
class _Machine:
    schedule: Schedule
    plan: VerificationPlan
    covered: Covered | None = None
    """Of the verification that has begun; None: none has."""
    spent_s: float = 0.0
    progress: Progress | None = None
    warnings: list[str] = field(default_factory=list)
    asking: list[asyncio.Future[End]] = field(default_factory=list)

    def give_up_asking(self) -> None:
        asking, self.asking = self.asking, []
        for future in asking:
            future.cancel()

    def forget(self) -> None:
        self.covered, self.progress, self.spent_s = None, None, 0.0


@dataclass(slots=True)
class _Turn:
    """One verification's time at the replica."""

    vm: str
    covered: Covered
    watch: Watch
    began_s: float
    began_at_step: int
    mends: bool
    task: asyncio.Task[None] | None = None
    end: End | None = None
    stalled: bool = False

    def may_end(self, now_s: float) -> bool:
        age_s = now_s - self.began_s
        if self.covered.is_mending:
            return False
        return age_s >= _LONGEST_START_S or (age_s >= SHORTEST_TURN_S and self.covered.steps > self.began_at_step)


class Verifier:
    """Verifies while `run` runs. For one event loop. `agenda_of` is a machine's agenda (NotFoundError); `tell` hears
    what happens, and must neither block nor raise."""

    def __init__(
        self, work: Verifications, memory: Memory, clock: Clock, agenda_of: Callable[[str], Agenda],
        tell: Callable[[Event], None],
    ) -> None:  # fmt: skip
        self._work, self._memory, self._clock = work, memory, clock
        self._agenda_of, self._tell = agenda_of, tell
        self._machines: dict[str, _Machine] = {}
        self._in_cycle: Counter[str] = Counter()
        self._turn: _Turn | None = None
        self._changed = asyncio.Event()

    async def keep(
        self,
        schedules: Mapping[str, Schedule],
        remembered: Mapping[str, VerificationPlan],
        changed: frozenset[str] = frozenset(),
    ) -> None:
        """Verify these machines, and no others, from now on. What was read of those that are `changed` is forgotten."""
        now = self._clock.now()
        planned_anew: list[_Machine] = []
        for vm in self._machines.keys() - schedules.keys():
            self._machines.pop(vm).give_up_asking()
        for vm, schedule in schedules.items():
            known = self._machines.get(vm)
            before = known.plan if known else remembered.get(vm)
            plan = plans.planned(before, vm, schedule, now)
            if known is None:
                self._machines[vm] = known = _Machine(schedule, plan)
            known.schedule, known.plan = schedule, plan
            if plan != before:
                planned_anew.append(known)
        for vm in changed & self._machines.keys():
            self._machines[vm].forget()
        if (turn := self._turn) is not None and (turn.vm in changed or turn.vm not in schedules):
            await _stopped(turn)
        self._changed.set()
        if planned_anew:
            await self._remember(*(machine.plan for machine in planned_anew))

    def plan_of(self, vm: str) -> VerificationPlan:
        """What is known and planned of a machine. NotFoundError."""
        return self._machine(vm).plan

    def progress_of(self, vm: str) -> Progress | None:
        """How far the verification is that has begun; None if none has. NotFoundError."""
        machine = self._machine(vm)
        if machine.covered is None:
            return None
        if self._turn is not None and self._turn.vm == vm:
            return self._turn.watch.progress()
        last = machine.progress or Progress("starting", 0, 0, None)
        return Progress("waiting for its turn to go on verifying", last.done_bytes, last.sent_bytes, last.total_bytes)

    def warnings_of(self, vm: str) -> tuple[str, ...]:
        """What the verification under way, or the last one, warned of. NotFoundError."""
        return tuple(self._machine(vm).warnings)

    async def request(self, vm: str, *, repair: bool = False) -> asyncio.Future[End]:
        """Have the machine's replica verified as soon as it is its turn; one that has begun counts.

        The future is how it ended; it is cancelled if that will not come (paused, removed, the daemon's end).
        BusyError while the machine is paused; NotFoundError.
        """
        machine, agenda = self._machine(vm), self._agenda_of(vm)
        if agenda.paused_at is not None:
            since = f"it has been paused since {agenda.paused_at:%Y-%m-%d %H:%M:%S} UTC"
            raise BusyError("verify", f"the replica of {vm}", since, f"Run 'replicad resume {vm}' first.")
        future: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        machine.asking = [*(one for one in machine.asking if not one.done()), future]
        # One that is under way has to go on as one that mends; one that begins while this waits does so by itself.
        under_way = self._turn if repair and not machine.plan.repair_requested else None
        await self._turn_to(machine, plans.requested(machine.plan, self._clock.now(), repair=repair))
        if under_way is not None and under_way.vm == vm and under_way.task is not None:
            under_way.task.cancel()
        self._tell(MachineChanged(vm))
        return future

    def look_again(self) -> None:
        """Machines may have been paused or resumed, or have got their first point."""
        self._changed.set()

    @asynccontextmanager
    async def cycle(self, vm: str, watch: Watch) -> AsyncIterator[None]:
        """While this is entered, a cycle of the machine has its replica for itself. `watch` is told while it waits for
        that: something may be put right for hours, and then nothing stands still."""
        self._in_cycle[vm] += 1
        try:
            while (turn := self._turn) is not None and turn.vm == vm and turn.task is not None:
                if turn.task.done():
                    break
                watch.hear(PhaseStarted("waiting for the verification of its replica"))
                if turn.may_end(self._clock.monotonic_s()):
                    await _stopped(turn)
                else:
                    await asyncio.wait([turn.task], timeout=_LOOK_EVERY_S)
            yield
        finally:
            self._in_cycle[vm] -= 1
            self._changed.set()

    async def run(self) -> None:
        """Verify until cancelled; then stop what is under way, within a few seconds whatever it waits for."""
        steps = ClockSteps(self._clock)
        try:
            while True:
                self._changed.clear()
                self._look_at_the_clock(steps)
                await self._drop_what_was_paused()
                if (vm := self._next()) is not None:
                    await self._take_turn(vm)
                    continue
                await self._until_changed()
        finally:
            for machine in self._machines.values():
                machine.give_up_asking()

    def _look_at_the_clock(self, steps: ClockSteps) -> None:
        """One that was set back must not make machines wait for a time that has been."""
        if not steps.look().was_set:
            return
        now = self._clock.now()
        for vm, machine in self._machines.items():
            machine.plan = plans.planned(machine.plan, vm, machine.schedule, now)

    def _next(self) -> str | None:
        """Whose turn it is: what has begun is brought to its end before another one begins; then who waits longest."""
        now = self._clock.now()
        ready = [
            (machine.plan.requested_at is None, machine.covered is None, wanted, vm)
            for vm, machine in self._machines.items()
            if (wanted := machine.plan.wanted_at) is not None and wanted <= now and self._is_free(vm, machine)
        ]
        return min(ready)[-1] if ready else None

    def _is_free(self, vm: str, machine: _Machine) -> bool:
        if self._in_cycle[vm]:
            return False
        try:
            agenda = self._agenda_of(vm)
        except NotFoundError:
            return False
        has_point = agenda.latest is not None or machine.plan.requested_at is not None
        return has_point and agenda.paused_at is None

    async def _until_changed(self) -> None:
        """Or until the next one is due, or a while has passed, as clocks are set."""
        now = self._clock.now()
        wanted = [m.plan.wanted_at for m in self._machines.values() if m.plan.wanted_at is not None]
        left_s = [left for moment in wanted if (left := (moment - now).total_seconds()) > 0]
        try:
            async with asyncio.timeout(min([_TICK_S, *left_s])):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _drop_what_was_paused(self) -> None:
        for vm, machine in [*self._machines.items()]:  # others may come and go while one is written down
            if machine.plan.requested_at is not None and self._is_paused(vm):
                machine.give_up_asking()
                await self._turn_to(machine, plans.taken_back(machine.plan))

    def _is_paused(self, vm: str) -> bool:
        try:
            return self._agenda_of(vm).paused_at is not None
        except NotFoundError:
            return True

    async def _take_turn(self, vm: str) -> None:
        machine, now_s = self._machines[vm], self._clock.monotonic_s()
        if machine.covered is None:
            machine.covered = Covered()
            machine.warnings = []
            self._tell(VerificationBegan(vm))
        watch, mends = Watch(now_s, warnings=machine.warnings), machine.plan.repair_requested
        turn = _Turn(vm, machine.covered, watch, now_s, machine.covered.steps, mends)
        try:
            async with asyncio.TaskGroup() as group:
                turn.task = group.create_task(self._verify(turn, machine), name=f"verification of {vm}")
                self._turn = turn
                try:
                    await self._watch_over(turn, turn.task)
                finally:
                    asyncio.get_running_loop().call_later(_STOP_PATIENCE_S, self._hurry, turn)
        finally:
            self._turn = None
            machine.spent_s += self._clock.monotonic_s() - now_s
            machine.progress = turn.watch.progress()
        if turn.end is None or self._machines.get(vm) is not machine:
            return
        if machine.plan.repair_requested and not turn.mends and turn.end.found is not None:
            return  # asked for when all was read already: the next turn has only to mend
        await self._finish(vm, machine, turn.end)

    async def _watch_over(self, turn: _Turn, task: asyncio.Task[None]) -> None:
        """Until it has ended: it is stopped where nothing moves, and where the machine was paused or removed."""
        while not task.done():
            await asyncio.wait([task], timeout=_TICK_S)
            if turn.vm not in self._machines or self._is_paused(turn.vm):
                task.cancel()
            if turn.watch.stands_still_s(self._clock.monotonic_s()) > STALLED_AFTER_S and not turn.stalled:
                turn.stalled = True
                task.cancel()

    def _hurry(self, turn: _Turn) -> None:
        """Have one that is still being stopped wait for nobody."""
        if turn.task is not None and not turn.task.done():
            self._work.give_up()
            turn.task.cancel()
            asyncio.get_running_loop().call_later(_HURRY_EVERY_S, self._hurry, turn)

    async def _verify(self, turn: _Turn, machine: _Machine) -> None:
        vm, began_s = turn.vm, machine.spent_s - turn.began_s

        def end(outcome: VerificationOutcome, text: str | None, error: ReplicadError | None = None) -> End:
            spent_s = began_s + self._clock.monotonic_s()
            return End(
                VerificationResult(self._clock.now(), outcome, text, 0, turn.covered.read_bytes, spent_s), None, error
            )

        try:
            found = await self._work.verify(vm, turn.watch, turn.covered, repair=turn.mends)
            spent_s = began_s + self._clock.monotonic_s()
            turn.end = End(result_of(found, self._clock.now(), spent_s), found)
        except asyncio.CancelledError:
            if not turn.stalled:
                raise
            answer = f"nothing has moved for {STALLED_AFTER_S / 60:.0f} min"
            error = StuckError("go on with", f"the verification of {vm}", answer)
            turn.end = end(VerificationOutcome.FAILED, str(error), error)
        except IntegrityError as damage:
            turn.end = end(VerificationOutcome.DAMAGED, str(damage), damage)
        except ReplicadError as failure:
            turn.end = end(VerificationOutcome.FAILED, str(failure), failure)
        except Exception as defect:  # noqa: BLE001  a defect that one machine meets must not end the service for all
            name = type(defect).__name__
            self._tell(
                Trouble(vm, f"the verification of {vm} met a defect of this program ({name})", traceback.format_exc())
            )
            text = f"cannot verify the replica of {vm}: this program has a defect ({name}). The log has the details."
            turn.end = end(VerificationOutcome.FAILED, text, ReplicadError("verify", vm, f"a defect ({name})"))

    async def _finish(self, vm: str, machine: _Machine, end: End) -> None:
        if end.result.outcome is not VerificationOutcome.FAILED:
            machine.forget()  # else the next one goes on where this one was
        asking, machine.asking = [one for one in machine.asking if not one.done()], []
        if isinstance(end.error, LockedError):  # nothing is wrong then, but who waits for an answer gets one
            await self._turn_to(machine, plans.postponed(machine.plan, end.result.at, is_answered=bool(asking)))
        else:
            await self._turn_to(machine, plans.ended(machine.plan, end.result, machine.schedule))
            self._tell(VerificationEnded(vm, end.result))
        for future in asking:
            if not future.done():
                future.set_result(end)

    async def _turn_to(self, machine: _Machine, plan: VerificationPlan) -> None:
        machine.plan = plan
        self._changed.set()
        await self._remember(plan)

    async def _remember(self, *plans_changed: VerificationPlan) -> None:
        try:
            await to_the_end(self._memory.save_verification(*plans_changed))
        except ReplicadError as error:
            text = f"what was verified can't be written down, and is forgotten at a restart: {error}"
            self._tell(Trouble(plans_changed[0].vm if len(plans_changed) == 1 else None, text))

    def _machine(self, vm: str) -> _Machine:
        machine = self._machines.get(vm)
        if machine is None:
            raise NotFoundError("find", f"virtual machine {vm!r}", "the daemon does not keep it")
        return machine


async def _stopped(turn: _Turn) -> None:
    if turn.task is not None and not turn.task.done():
        turn.task.cancel()
        await asyncio.wait([turn.task])
