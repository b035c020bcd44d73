"""Running the cycles of all machines: whose turn it is, at most one a machine and so many at once.

What has to be remembered is written down as it happens: a daemon that dies goes on where it was. Where it can't be
written down the work goes on all the same, as it only saves work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from replicad.model import agenda as agendas
from replicad.model.agenda import Agenda
from replicad.model.clock import Clock
from replicad.model.errors import BusyError, NotFoundError, ReplicadError
from replicad.model.runs import Outcome, Run
from replicad.model.schedule import Schedule

from .attempt import Attempt, Cycles, ended, to_the_end
from .clock_steps import ClockSteps
from .events import CycleBegan, CycleEnded, Event, MachineChanged, Trouble
from .watch import Progress, Watch

T = TypeVar("T")

_TICK_S = 5.0
"""How long at most until clocks that were set, hosts that slept and cycles that stand still are noticed."""
_SLEPT_S = 60.0
_NEVER = timedelta(days=1)
_STOP_PATIENCE_S = 2.5
"""How long cycles that are stopped with the daemon may take to give back, in order, what they hold on shares: a server
that is silent is waited for longer than a service manager, or its user, waits for us."""
_HURRY_EVERY_S = 0.25


class Memory(Protocol):
    """What outlives the daemon; `replicad.catalog` is one. All of a call is written, or nothing."""

    async def save_agenda(self, *changed: Agenda) -> None:
        """In place of their machines' last ones."""

    async def forget(self, *vms: str) -> None:
        """Have no agenda of these machines any more."""

    async def begin_run(self, run: Run) -> Run:
        """The same, with its number. The agenda stays as it is: until the end the cycle is still wanted."""

    async def finish(self, run: Run, agenda: Agenda) -> None:
        """Both, the run in place of what was written when it began."""


@dataclass(frozen=True, slots=True)
class Glance:
    """One machine at one moment; `warnings` are those of the cycle under way, or of the last one. `last` is how the
    last cycle of this daemon's life ended."""

    agenda: Agenda
    run: Run | None
    progress: Progress | None
    warnings: tuple[str, ...]
    last: Outcome | None = None


@dataclass(slots=True)
class _Machine:
    schedule: Schedule
    agenda: Agenda
    wanted: datetime | None
    """`next_wanted` of the agenda: it is looked at far more often than it changes."""
    attempt: Attempt | None = None
    asking: list[asyncio.Future[Run]] = field(default_factory=list)
    """Who waits for the end of the next cycle to begin."""
    warnings: tuple[str, ...] = ()
    last: Outcome | None = None

    def turn_to(self, agenda: Agenda) -> None:
        self.agenda, self.wanted = agenda, agendas.next_wanted(agenda)

    def give_up_asking(self) -> None:
        asking, self.asking = self.asking, []
        for future in asking:
            future.cancel()


class Supervisor:
    """Runs cycles while `run` runs. For one event loop. `tell` hears what happens, and must neither block nor raise."""

    def __init__(
        self, cycles: Cycles, memory: Memory, clock: Clock, most_at_once: int, tell: Callable[[Event], None]
    ) -> None:
        self._cycles = cycles
        self._memory = memory
        self._clock = clock
        self._most_at_once = most_at_once
        self._tell = tell
        self._machines: dict[str, _Machine] = {}
        self._under_way: dict[asyncio.Task[None], Attempt] = {}
        self._held: set[str] = set()
        self._changed = asyncio.Event()
        self._steps = ClockSteps(clock)

    async def keep(
        self,
        schedules: Mapping[str, Schedule],
        remembered: Mapping[str, Agenda],
        most_at_once: int,
        changed: frozenset[str] = frozenset(),
    ) -> None:
        """Keep these machines, and no others, from now on; `remembered` is what is known of them from before.

        Cycles of those that are gone are stopped, and waited for; others go on as they began. What was known of those
        that are gone is kept for a while: a pause holds when they come back. The machines that are `changed` get
        another chance: what only a person could mend is taken for mended.
        """
        self._most_at_once = most_at_once
        away = {vm: agenda for vm, agenda in remembered.items() if vm not in schedules}
        # All at once: none of them must begin a cycle in the place of another one.
        gone = {vm: self._machines.pop(vm) for vm in [*self._machines] if vm not in schedules}
        for machine in gone.values():
            machine.give_up_asking()
        await self._stop(*gone.values())
        for vm, machine in gone.items():
            away[vm] = machine.agenda
            self._tell(MachineChanged(vm))
        now = self._clock.now()
        changes = [agendas.left(agenda, now) for agenda in away.values() if agenda.left_at is None]
        for vm, schedule in schedules.items():
            known = self._machines.get(vm)
            before = known.agenda if known else remembered.get(vm)
            agenda = agendas.planned(before, vm, schedule, now)
            if vm in changed and agenda.paused_at is None:
                agenda = agendas.resumed(agenda, now)
            if known is None:
                self._machines[vm] = known = _Machine(schedule, agenda, agendas.next_wanted(agenda))
            known.schedule = schedule
            if agenda != before:
                known.turn_to(agenda)
                changes.append(agenda)
                self._tell(MachineChanged(vm))
        self._changed.set()
        if changes:
            await self._remember(self._memory.save_agenda(*changes))
        if forgotten := [vm for vm, agenda in away.items() if agendas.is_forgotten(agenda, now)]:
            await self._remember(self._memory.forget(*forgotten))

    def machines(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(sorted(self._machines))

    def look(self, vm: str) -> Glance:
        """How a machine stands now. NotFoundError if it is not kept."""
        machine = self._machine(vm)
        if machine.attempt is None:
            return Glance(machine.agenda, None, None, machine.warnings, machine.last)
        watch = machine.attempt.watch
        return Glance(machine.agenda, machine.attempt.run, watch.progress(), tuple(watch.warnings), machine.last)

    async def request(self, vm: str, *, resync: bool = False) -> asyncio.Future[Run]:
        """Have a cycle begin as soon as there is a place for it; one that is under way does not count.

        The future is that cycle as it ended; it is cancelled if none will begin (paused, removed, the daemon's end).
        BusyError while the machine is paused; NotFoundError.
        """
        machine = self._machine(vm)
        if machine.agenda.paused_at is not None:
            since = f"it has been paused since {machine.agenda.paused_at:%Y-%m-%d %H:%M:%S} UTC"
            raise BusyError("begin", f"a cycle of {vm}", since, f"Run 'replicad resume {vm}' first.")
        future: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        machine.asking = [*(one for one in machine.asking if not one.done()), future]
        await self._turn(machine, agendas.requested(machine.agenda, self._clock.now(), resync=resync))
        return future

    async def pause(self, vm: str) -> None:
        """Begin no cycle any more, and stop the one under way, which a later one goes on with. NotFoundError."""
        machine = self._machine(vm)
        await self._turn(machine, agendas.paused(machine.agenda, self._clock.now()))
        machine.give_up_asking()
        await self._stop(machine)

    async def resume(self, vm: str) -> None:
        """Let cycles begin again, after a pause or an error that only a person could mend. NotFoundError."""
        machine = self._machine(vm)
        await self._turn(machine, agendas.resumed(machine.agenda, self._clock.now()))

    @asynccontextmanager
    async def held_back(self, vm: str) -> AsyncIterator[None]:
        """Inside no cycle of this machine begins, and the one that was under way is stopped, for a later one to go on
        with. Fine if there is no such machine. For one at a time."""
        self._held.add(vm)
        try:
            if (machine := self._machines.get(vm)) is not None:
                await self._stop(machine)
            yield
        finally:
            self._held.discard(vm)
            self._changed.set()

    async def acknowledge(self, vm: str) -> None:
        """Somebody has seen that a tracker was found wrong; fine if none was. NotFoundError."""
        machine = self._machine(vm)
        if machine.agenda.mistake is not None:
            await self._turn(machine, agendas.acknowledged(machine.agenda))

    async def run(self) -> None:
        """Run cycles until cancelled; then stop those under way, and return when all of that is written down: after a
        few seconds at most, whatever they wait for."""
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._begin_what_is_wanted(group)
                finally:
                    asyncio.get_running_loop().call_later(_STOP_PATIENCE_S, self._hurry)
        finally:
            for machine in self._machines.values():
                machine.give_up_asking()

    async def _begin_what_is_wanted(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._changed.clear()
            self._look_at_the_clock()
            self._look_for_stalls()
            for machine in self._next_ones():
                self._begin(machine, group)
            await self._until_something_is_wanted()

    def _hurry(self) -> None:
        """Have those that still clean up wait for nobody, again and again: they may come to the next thing to wait
        for."""
        if self._under_way:
            self._cycles.give_up()
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            asyncio.get_running_loop().call_later(_HURRY_EVERY_S, self._hurry)

    def _next_ones(self) -> list[_Machine]:
        """Those whose turn it is, as many as there is room for; who has waited longest comes first.

        To look at all of 1,000 machines takes 70 µs with what follows, ten times a second at most where each has a
        cycle every five minutes: nothing that a sorted structure, to be kept right at every change, would save much of.
        """
        room, now = self._most_at_once - len(self._under_way), self._clock.now()
        if room <= 0:
            return []
        waiting = [
            (machine.wanted, vm)
            for vm, machine in self._machines.items()
            if machine.wanted is not None and machine.wanted <= now and machine.attempt is None and vm not in self._held
        ]
        return [self._machines[vm] for _, vm in sorted(waiting)[:room]]

    async def _until_something_is_wanted(self) -> None:
        now, pause_s = self._clock.now(), _TICK_S
        if len(self._under_way) < self._most_at_once:
            waiting = (
                machine.wanted
                for vm, machine in self._machines.items()
                if machine.wanted is not None and machine.attempt is None and vm not in self._held
            )
            soonest = min(waiting, default=now + _NEVER)
            pause_s = max(0.0, min(_TICK_S, (soonest - now).total_seconds()))
        try:
            async with asyncio.timeout(pause_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _look_at_the_clock(self) -> None:
        """A clock that was set back must not make machines wait for a time that has been, and a host that slept could
        not move anything meanwhile."""
        passed = self._steps.look()
        if passed.passed_s > _SLEPT_S:
            for attempt in self._under_way.values():
                attempt.watch.moved_s += passed.passed_s
        if not passed.was_set:
            return
        now = self._clock.now()
        for vm, machine in self._machines.items():
            machine.turn_to(agendas.planned(machine.agenda, vm, machine.schedule, now))
        self._tell(Trouble(None, f"the time of day jumped by {passed.step_s:+.0f} s: due times were looked at again"))

    def _look_for_stalls(self) -> None:
        now_s = self._clock.monotonic_s()
        for attempt in self._under_way.values():
            if (trouble := attempt.stop_if_stalled(now_s)) is not None:
                self._tell(trouble)

    def _begin(self, machine: _Machine, group: asyncio.TaskGroup) -> None:
        now = self._clock.now()
        before = machine.agenda
        after, trigger, missed = agendas.begun(before, machine.schedule, now)
        run = Run(before.vm, trigger, machine.wanted or now, now, missed)
        machine.turn_to(after)
        attempt = Attempt(
            run, Watch(self._clock.monotonic_s()), before.resync_requested, before.checked_point, waiting=machine.asking
        )
        machine.attempt, machine.asking = attempt, []
        attempt.task = group.create_task(self._cycle(machine, attempt), name=f"cycle of {before.vm}")
        self._under_way[attempt.task] = attempt
        # One that is cancelled before its first step never comes to its own end.
        attempt.task.add_done_callback(lambda _: self._leave(machine, attempt))

    async def _cycle(self, machine: _Machine, attempt: Attempt) -> None:
        attempt.has_begun = True
        try:
            begun = await self._remember(self._memory.begin_run(attempt.run))
            attempt.run = begun or attempt.run
            self._tell(CycleBegan(attempt.run))
            came = await attempt.work(self._cycles, self._clock, self._tell)
            attempt.run, agenda = ended(attempt.run, machine.agenda, came, self._clock.now(), attempt.mistakes)
            machine.turn_to(replace(agenda, latest=attempt.seen or agenda.latest))
            await self._remember(
                self._memory.finish(attempt.run, machine.agenda)
                if attempt.run.number
                else self._memory.save_agenda(machine.agenda)
            )
            self._tell(CycleEnded(attempt.run, machine.agenda))
        finally:
            self._leave(machine, attempt)

    def _leave(self, machine: _Machine, attempt: Attempt) -> None:
        """Let others have the place of a cycle that has ended. Fine if they have it already."""
        if attempt.task is None or self._under_way.pop(attempt.task, None) is None:
            return
        machine.attempt, machine.last, machine.warnings = None, attempt.run.outcome, tuple(attempt.watch.warnings)
        self._changed.set()
        for future in attempt.waiting:
            if attempt.run.outcome is None:
                future.cancel()
            elif not future.done():
                future.set_result(attempt.run)

    async def _turn(self, machine: _Machine, agenda: Agenda) -> None:
        """From now on the machine's agenda is another one."""
        machine.turn_to(agenda)
        self._tell(MachineChanged(agenda.vm))
        self._changed.set()
        await self._remember(self._memory.save_agenda(agenda))

    async def _remember(self, writing: Awaitable[T]) -> T | None:
        """Write to the memory, wholly even if this is cancelled; None if it can't be written."""
        try:
            return await to_the_end(writing)
        except ReplicadError as error:
            self._tell(Trouble(None, f"what happens can't be written down, and is forgotten at a restart: {error}"))
            return None

    async def _stop(self, *machines: _Machine) -> None:
        attempts = [one.attempt for one in machines if one.attempt is not None]
        if not all(attempt.has_begun for attempt in attempts):
            await asyncio.sleep(0)  # else nothing would remember that they were wanted
        tasks = [attempt.task for attempt in attempts if attempt.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _machine(self, vm: str) -> _Machine:
        machine = self._machines.get(vm)
        if machine is None:
            names = ", ".join(self.machines()) or "none"
            hint = "Check the name; a changed configuration is taken at 'systemctl reload replicad' (SIGHUP)."
            raise NotFoundError("find", f"virtual machine {vm!r}", f"the daemon keeps: {names}", hint)
        return machine
